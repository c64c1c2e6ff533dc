//! The balloon: the host asks for memory by `memory/target`. Xen `docs/misc/xenstore-paths.pandoc`

use crate::calls::Calls;
use crate::hypervisor::Hypervisor;
use crate::store::{Store, StoreError, Watch};
use core::fmt;
use core::task::Waker;
use paravirt_device::{Arm, Balloon, BalloonInfo, BalloonMemory, Fault, HeldPages, Notify, PageRange};
use paravirt_platform::{PageArc, Platform};

/// The unit of the target: kilobytes, 4 in a page.
const KIB_PER_PAGE: u64 = 4;
/// Pages that one call moves, at most.
const MOST: u64 = 1024;
/// Ranges of pages that can be told apart.
const RANGES: usize = 4096;

/// The balloon of a domain. Its pages go back to the hypervisor one by one, and so are taken from anywhere.
pub struct XenBalloon<P: Platform> {
    store: PageArc<P, Store<P>>,
    watch: Watch<P>,
    held: HeldPages<P>,
    /// The target when the balloon was opened, in pages: what the domain had then.
    first: u64,
    target: u64,
    /// Whether the last call left work to do.
    has_more: bool,
}

impl<P: Platform> XenBalloon<P> {
    /// Opens the balloon; `None` if the host has no target for this domain, or takes no pages.
    pub fn open(store: &PageArc<P, Store<P>>) -> Option<Self> {
        let hypervisor = store.hypervisor();
        hypervisor.calls().can_balloon().then_some(())?;
        let first = target(store).ok()??;
        let watch = Watch::new(store, format_args!("memory/target")).ok()?;
        let held = HeldPages::new(hypervisor.platform(), RANGES).ok()?;
        Some(Self { store: store.clone(), watch, held, first, target: first, has_more: false })
    }

    /// The pages that the balloon is to have.
    fn wanted(&self) -> u64 {
        self.first.saturating_sub(self.target)
    }

    fn hypervisor(&self) -> &Hypervisor<P> {
        self.store.hypervisor()
    }

    fn calls(&self) -> &Calls<P> {
        self.hypervisor().calls()
    }

    /// Gives up to `most` pages to the hypervisor; returns how many.
    fn inflate(&mut self, memory: &mut dyn BalloonMemory, most: u64) -> u64 {
        if !self.held.has_room() {
            return 0;
        }
        let Some(range) = memory.take(most) else { return 0 };
        for page in 0..range.count {
            let frame = range.first.saturating_add(page);
            // SAFETY: the page is the balloon's, which the guest does not access until it is released.
            if unsafe { self.calls().decrease_reservation(frame) } == Ok(true) {
                continue;
            }
            // What the hypervisor does not take stays the guest's.
            memory.release(PageRange { first: frame, count: range.count.saturating_sub(page) });
            self.held.insert(PageRange { first: range.first, count: page });
            return page;
        }
        self.held.insert(range);
        range.count
    }

    /// Asks for up to `most` pages; returns how many came.
    fn deflate(&mut self, memory: &mut dyn BalloonMemory, most: u64) -> u64 {
        let mut count = 0u64;
        while count < most {
            let Some(range) = self.held.pop(1) else { return count };
            if self.calls().populate(range.first) != Ok(true) {
                // The host has none now.
                self.held.insert(range);
                return count;
            }
            memory.release(range);
            count = count.saturating_add(1);
        }
        count
    }
}

/// The target in pages; `None` if there is none.
fn target<P: Platform>(store: &Store<P>) -> Result<Option<u64>, StoreError> {
    let kib = store.number(format_args!("memory/target"))?;
    Ok(kib.and_then(|kib| kib.checked_div(KIB_PER_PAGE)))
}

impl<P: Platform> Notify for XenBalloon<P> {
    fn arm(&mut self) -> Arm {
        if self.has_more { Arm::Pending } else { self.store.arm() }
    }

    /// The events of xenstore are those of other devices, too.
    fn disarm(&mut self) {}

    fn register(&mut self, waker: &Waker) {
        self.store.register_balloon(waker);
    }
}

impl<P: Platform> Balloon for XenBalloon<P> {
    fn poll(&mut self, memory: &mut dyn BalloonMemory) -> Result<(), Fault> {
        self.store.poll();
        if self.watch.take() {
            match target(&self.store) {
                Ok(Some(target)) => self.target = target,
                Err(StoreError::Faulted(fault)) => return Err(fault),
                // It stays as it was.
                Ok(None) | Err(_) => {}
            }
        }
        let (wanted, held) = (self.wanted(), self.held.pages());
        let moved = match wanted.checked_sub(held) {
            Some(0) => 0,
            Some(missing) => self.inflate(memory, missing.min(MOST)),
            None => self.deflate(memory, held.saturating_sub(wanted).min(MOST)),
        };
        self.has_more = moved > 0 && self.held.pages() != wanted;
        Ok(())
    }

    fn info(&self) -> BalloonInfo {
        let mut info = BalloonInfo::default();
        info.held = self.held.pages();
        info.target = Some(self.wanted());
        info
    }
}

impl<P: Platform> fmt::Debug for XenBalloon<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XenBalloon")
            .field("held", &self.held)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

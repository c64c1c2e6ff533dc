//! The interrupt half: one handler for each virtual processor. It takes no lock, allocates nothing, and only wakes.

use crate::shared::Core;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use hyperv_bindings::vmbus::VMBUS_SINT;
use paravirt_platform::{Handled, Platform, ProcessorId, RawHandler};

/// What the handler of a processor gets.
pub(crate) struct Context<P: Platform> {
    core: AtomicPtr<Core<P>>,
    processor: ProcessorId,
}

impl<P: Platform> Context<P> {
    pub fn new(processor: ProcessorId) -> Self {
        Self { core: AtomicPtr::new(core::ptr::null_mut()), processor }
    }

    /// The handler of this processor. `core` is the one that this context is a part of.
    pub fn handler(&self, core: NonNull<Core<P>>) -> RawHandler {
        self.core.store(core.as_ptr(), Ordering::Release);
        RawHandler::new(NonNull::from(self), call::<P>)
    }
}

/// # Safety
///
/// `data` points to a `Context` that is alive, and so is the core that it is a part of.
unsafe fn call<P: Platform>(data: NonNull<()>) -> Handled {
    // SAFETY: passed on from the caller.
    let context = unsafe { data.cast::<Context<P>>().as_ref() };
    // SAFETY: `handler` stored the pointer ahead of the binding.
    if let Some(core) = unsafe { context.core.load(Ordering::Acquire).as_ref() } {
        core.interrupt(context.processor);
    }
    Handled::Yes
}

/// Words of 64 bits in the half of the interrupt page that the host writes.
const RECEIVE_WORDS: usize = 256;
/// Bytes from the beginning of the interrupt page to the half that the guest writes.
const SEND_OFFSET: usize = 2048;

impl<P: Platform> Core<P> {
    /// What an interrupt on `processor` is for: event flags, and messages on the one that has them.
    pub(crate) fn interrupt(&self, processor: ProcessorId) {
        self.take_events(processor);
        if processor == self.contact && self.pump() {
            // A channel may be one that is taken back.
            self.wake_all();
            self.wake_bus();
        }
    }

    /// Wakes the channels whose flags are set on `processor`.
    pub(crate) fn take_events(&self, processor: ProcessorId) {
        let has_flags = self.version().has_event_flags();
        let mut scan = false;
        self.synic.take_events(processor, VMBUS_SINT, |flag| {
            if flag == 0 && !has_flags {
                scan = true;
            } else {
                self.wake(flag);
            }
        });
        let page = self.interrupt_page.as_ref().filter(|_| scan);
        if let Some(words) = page.and_then(|page| page.shared().at::<[AtomicU64; RECEIVE_WORDS]>(0)) {
            for (place, word) in (0u32..).zip(words) {
                let mut set = word.swap(0, Ordering::AcqRel);
                while set != 0 {
                    self.wake(place.wrapping_mul(64).wrapping_add(set.trailing_zeros()));
                    set &= set.wrapping_sub(1);
                }
            }
        }
    }

    fn wake(&self, channel: u32) {
        if let Some(cell) = self.cell(channel) {
            cell.wake();
        }
    }

    /// Sets the bit of a channel in the half of the interrupt page that the host reads.
    pub(crate) fn set_send_bit(&self, channel: u32) {
        let offset = SEND_OFFSET.saturating_add(((channel >> 6) << 3) as usize);
        let page = self.interrupt_page.as_ref();
        if let Some(word) = page.and_then(|page| page.shared().at::<AtomicU64>(offset)) {
            word.fetch_or(1 << (channel % 64), Ordering::SeqCst);
        }
    }
}

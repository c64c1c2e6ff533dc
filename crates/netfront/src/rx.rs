//! The receive side: pages that the backend copies frames to, each granted until it has.

use crate::wire::{MAX_FRAME, MAX_SLOTS, RxEntry, RxResponse, write_rx};
use core::fmt;
use core::mem::ManuallyDrop;
use paravirt_device::{Arm, Fault, NetRx, RxFrame, RxMeta, SegmentKind};
use paravirt_platform::{AllocError, DmaRegion, Fifo, PAGE_SIZE, PageArc, PageRing, Platform};
use paravirt_xen::{Access, FrontRing, GrantRange, Hypervisor, Port};

const PAGE: u64 = PAGE_SIZE as u64;
/// Extras of a frame at most.
const MAX_EXTRAS: u16 = 8;

/// A page with a part of a frame.
#[derive(Copy, Clone)]
struct Part {
    page: u16,
    offset: u16,
    len: u16,
    /// In the first page of a frame: the frame, complete once all its parts have been received.
    frame: RxFrame,
}

/// What is known of the frame that is being received.
#[derive(Copy, Clone, Default)]
struct Partial {
    parts: u16,
    len: usize,
    first: RxResponse,
    segmentation: Option<(u16, SegmentKind)>,
    /// Whether an extra follows, and how many there were.
    wants_extra: bool,
    extras: u16,
    /// Whether a page follows.
    wants_more: bool,
    /// Whether the frame is to be dropped when it is complete.
    is_bad: bool,
}

/// The receive side of a queue pair.
pub struct NetFrontRx<P: Platform> {
    ring: FrontRing<P, RxEntry>,
    port: Option<PageArc<P, Port<P>>>,
    /// The pages, the grant of each, and which one a request has, by its number modulo the size of the ring.
    pages: ManuallyDrop<DmaRegion<P>>,
    grants: GrantRange<P>,
    posted: PageRing<P, Option<u16>>,
    /// The pages that neither the backend nor the caller has.
    spare: Fifo<P, u16>,
    ready: Fifo<P, Part>,
    /// The parts of received frames.
    complete: usize,
    partial: Partial,
    strays: u64,
    gate: u32,
    /// Whether requests may be posted.
    is_open: bool,
}

// SAFETY: the pages belong to the queue and are accessed only through it.
unsafe impl<P: Platform> Send for NetFrontRx<P> {}

impl<P: Platform> NetFrontRx<P> {
    #[inline(never)]
    pub(crate) fn new(hypervisor: &PageArc<P, Hypervisor<P>>, domain: u16) -> Result<Self, AllocError> {
        let platform = hypervisor.platform();
        let ring = FrontRing::new(hypervisor, domain, 0)?;
        let count = ring.size() as usize;
        let pages = DmaRegion::alloc(platform, count.saturating_mul(PAGE_SIZE))?;
        let mut spare = Fifo::new(platform, count)?;
        for page in 0..count as u16 {
            // There is room for all of them.
            let _ = spare.push(page);
        }
        Ok(Self {
            pages: ManuallyDrop::new(pages),
            grants: GrantRange::new(hypervisor, domain, count as u32)?,
            posted: PageRing::new(platform, count, |_| None)?,
            ready: Fifo::new(platform, count)?,
            ring,
            port: None,
            spare,
            complete: 0,
            partial: Partial::default(),
            strays: 0,
            gate: 1,
            is_open: false,
        })
    }

    /// The reference of the ring.
    pub(crate) fn reference(&self) -> u32 {
        self.ring.references().next().unwrap_or(0)
    }

    /// Begins anew for a backend in `domain`.
    pub(crate) fn restart(&mut self, domain: u16, port: &PageArc<P, Port<P>>) -> Result<(), Fault> {
        self.ring.restart(domain)?;
        self.grants.set_domain(domain);
        self.port = Some(port.clone());
        // The backend is to find requests when it connects.
        self.is_open = true;
        self.fill();
        let _ = self.ring.publish();
        Ok(())
    }

    pub(crate) fn port(&self) -> Option<&Port<P>> {
        self.port.as_deref()
    }

    pub(crate) fn set_gate(&mut self, gate: u32) {
        self.gate = gate;
    }

    /// Posts spare pages.
    #[inline(always)]
    fn fill(&mut self) {
        while self.is_open && self.ring.room() > 0 {
            let Some(page) = self.spare.pop() else { return };
            self.post(page);
        }
    }

    #[inline(always)]
    fn post(&mut self, page: u16) {
        let address = self.pages.bus().offset(u64::from(page).wrapping_mul(PAGE));
        // SAFETY: the page belongs to the queue, which accesses it again once the grant was revoked.
        unsafe { self.grants.grant(page.into(), address, Access::Write) };
        let number = self.ring.next();
        *self.posted.at_mut(number as usize) = Some(page);
        let id = (number & self.ring.size().wrapping_sub(1)) as u16;
        write_rx(self.ring.request(), id, self.grants.reference(page.into()));
    }

    /// Receives what the backend has copied, and posts spare pages.
    ///
    /// # Errors
    ///
    /// [`Fault`]: the backend has broken the rules, or keeps pages.
    #[inline]
    pub(crate) fn poll(&mut self) -> Result<(), Fault> {
        let mut count = self.ring.responses()?;
        while count > 0 {
            count = count.wrapping_sub(1);
            let (number, entry) = self.ring.response();
            let response = RxResponse::read(entry);
            self.take_in(number, response)?;
        }
        // In batches: `arm` posts the rest.
        if self.ring.unpublished().wrapping_add(self.spare.len() as u32) >= self.ring.size() >> 2 {
            self.refill();
        }
        Ok(())
    }

    #[inline(never)]
    fn refill(&mut self) {
        self.fill();
        if self.ring.publish() {
            self.port.iter().for_each(|port| port.notify());
        }
    }

    #[inline(always)]
    fn take_in(&mut self, number: u32, response: RxResponse) -> Result<(), Fault> {
        let Some(page) = self.posted.at_mut(number as usize).take() else {
            self.count_stray();
            return Ok(());
        };
        if !self.grants.revoke(page.into()) {
            // The page is lost, with whatever the backend does to it.
            self.grants.count_lost(1);
            return Err(Fault::Protocol);
        }
        let is_begin = !self.partial.wants_extra && !self.partial.wants_more;
        if is_begin && !response.has_more() && !response.has_extra() {
            let id = (number & self.ring.size().wrapping_sub(1)) as u16;
            let (offset, len) = (response.offset(), response.len().unwrap_or(0));
            if len == 0 || offset.wrapping_add(len) > PAGE_SIZE || response.id() != id {
                self.drop_page(page);
                return Ok(());
            }
            let meta = response.meta(None, self.head(page, offset, len));
            let frame = RxFrame::new(len, 1, meta);
            // Each page is in one place only, so there is room.
            let _ = self.ready.push(Part { page, offset: offset as u16, len: len as u16, frame });
            self.complete = self.complete.wrapping_add(1);
            return Ok(());
        }
        self.take_in_part(page, response, is_begin);
        Ok(())
    }

    /// Receives a page of a frame in several, or an extra, whose page was not used.
    #[inline(never)]
    fn take_in_part(&mut self, page: u16, response: RxResponse, is_begin: bool) {
        if self.partial.wants_extra {
            let _ = self.spare.push(page);
            self.partial.segmentation = self.partial.segmentation.or(response.extra_segmentation());
            self.partial.extras = self.partial.extras.saturating_add(1);
            self.partial.wants_extra = response.extra_has_more();
            self.partial.is_bad |= self.partial.extras > MAX_EXTRAS;
            return self.end_part();
        }
        if is_begin {
            self.partial =
                Partial { first: response, wants_extra: response.has_extra(), ..Partial::default() };
        }
        let (offset, len) = (response.offset(), response.len().unwrap_or(0));
        let total = self.partial.len.saturating_add(len);
        let is_bad = len == 0
            || offset.wrapping_add(len) > PAGE_SIZE
            || total > MAX_FRAME
            || usize::from(self.partial.parts) > MAX_SLOTS;
        self.partial.wants_more = response.has_more();
        if is_bad || self.partial.is_bad {
            self.partial.is_bad = true;
            let _ = self.spare.push(page);
        } else {
            self.partial.len = total;
            self.partial.parts = self.partial.parts.wrapping_add(1);
            let frame = RxFrame::new(0, 1, RxMeta::default());
            let _ = self.ready.push(Part { page, offset: offset as u16, len: len as u16, frame });
        }
        self.end_part();
    }

    /// Completes a frame, or drops it, if nothing more of it follows.
    fn end_part(&mut self) {
        let partial = self.partial;
        if partial.wants_extra || partial.wants_more {
            return;
        }
        self.partial = Partial { parts: partial.parts, ..Partial::default() };
        if partial.is_bad || partial.parts == 0 {
            self.drop_partial();
            return self.count_stray();
        }
        self.partial.parts = 0;
        let begin = self.ready.get(self.complete).copied();
        if let Some(Part { page, offset, len, .. }) = begin {
            let head = self.head(page, usize::from(offset), usize::from(len));
            let meta = partial.first.meta(partial.segmentation, head);
            let frame = RxFrame::new(partial.len, partial.parts, meta);
            self.ready.get_mut(self.complete).into_iter().for_each(|part| part.frame = frame);
        }
        self.complete = self.complete.saturating_add(usize::from(partial.parts));
    }

    /// Drops the frame that is being received.
    fn drop_partial(&mut self) {
        for _ in 0..core::mem::take(&mut self.partial.parts) {
            if let Some(part) = self.ready.pop_back() {
                let _ = self.spare.push(part.page);
            }
        }
    }

    #[cold]
    fn drop_page(&mut self, page: u16) {
        let _ = self.spare.push(page);
        self.count_stray();
    }

    /// Counts what is odd, and harmless: nothing is taken from it.
    #[cold]
    fn count_stray(&mut self) {
        if self.strays == 0 {
            log::warn!("netfront: odd response of a received frame: dropped, as further ones");
        }
        self.strays = self.strays.saturating_add(1);
    }

    /// The bytes of a page that the backend cannot access.
    #[inline(always)]
    fn head(&self, page: u16, offset: usize, len: usize) -> &[u8] {
        let at = usize::from(page).wrapping_mul(PAGE_SIZE).wrapping_add(offset);
        if offset.wrapping_add(len) > PAGE_SIZE || at.wrapping_add(len) > self.pages.len() {
            return &[];
        }
        // SAFETY: in bounds by the check above. The grant of the page was revoked, and it is posted again only by `pop`, which needs the
        // queue mutably. The pages were allocated zeroed.
        unsafe { core::slice::from_raw_parts(self.pages.cpu().add(at).as_ptr(), len) }
    }

    /// Takes everything back, after the backend has closed.
    pub(crate) fn drain(&mut self) {
        self.is_open = false;
        self.port = None;
        self.drop_partial();
        self.partial = Partial::default();
        for number in 0..self.ring.size() as usize {
            let Some(page) = self.posted.at_mut(number).take() else { continue };
            if self.grants.revoke(page.into()) {
                let _ = self.spare.push(page);
            } else {
                self.grants.count_lost(1);
            }
        }
    }

    pub(crate) fn arm(&mut self) -> Arm {
        self.refill();
        let Some(port) = &self.port else { return Arm::Unsignalled };
        port.arm_unless(|| self.ring.arm())
    }
}

impl<P: Platform> NetRx for NetFrontRx<P> {
    #[inline]
    fn front(&self) -> Option<RxFrame> {
        if self.complete == 0 { None } else { self.ready.get(0).map(|part| part.frame) }
    }

    #[inline]
    fn segment(&mut self, index: u16) -> Option<&mut [u8]> {
        if index >= self.front()?.segments {
            return None;
        }
        let Part { page, offset, len, .. } = *self.ready.get(usize::from(index))?;
        let at = usize::from(page).wrapping_mul(PAGE_SIZE).wrapping_add(usize::from(offset));
        // SAFETY: `take_in` has checked that the part is in its page, whose grant was revoked, and which is posted again only by `pop`. The
        // queue is borrowed mutably. The pages were allocated zeroed.
        Some(unsafe { core::slice::from_raw_parts_mut(self.pages.cpu().add(at).as_ptr(), len.into()) })
    }

    #[inline]
    fn pop(&mut self) {
        let Some(frame) = self.front() else { return };
        for _ in 0..frame.segments {
            let Some(part) = self.ready.pop() else { break };
            self.complete = self.complete.wrapping_sub(1);
            if self.is_open && self.spare.is_empty() && self.ring.room() > 0 {
                self.post(part.page);
            } else {
                let _ = self.spare.push(part.page);
            }
        }
    }
}

impl<P: Platform> Drop for NetFrontRx<P> {
    fn drop(&mut self) {
        self.drain();
        match self.grants.revoke_all() {
            // SAFETY: it is dropped once, here, and not used after. The backend has let go of every page.
            0 => unsafe { ManuallyDrop::drop(&mut self.pages) },
            // Those that are mapped are counted already; the others are lost with them.
            mapped => self.grants.count_lost(self.ring.size().saturating_sub(mapped)),
        }
    }
}

impl<P: Platform> fmt::Debug for NetFrontRx<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetFrontRx").field("ready", &self.complete).finish_non_exhaustive()
    }
}

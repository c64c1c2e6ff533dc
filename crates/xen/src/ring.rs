//! The frontend's side of a ring of requests and responses. Xen `xen/include/public/io/ring.h`

use crate::granted_region::GrantedRegion;
use crate::grants::Access;
use crate::hypervisor::Hypervisor;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering, fence};
use paravirt_device::Fault;
use paravirt_platform::{AllocError, PAGE_SIZE, PageArc, Platform, RingArray, SharedAtom};

/// Bytes ahead of the entries.
const HEADER: usize = 64;
/// The words of the header: requests produced, at which of them the backend wants an event, and the same for responses.
type Header = [AtomicU32; 4];

/// A ring, whose pages are granted to the backend for its life. Requests and responses of type `E` share the entries.
pub struct FrontRing<P: Platform, E> {
    header: RingArray<Header>,
    entries: RingArray<E>,
    size: u32,
    /// Requests written, and those of them that the backend can see; responses read: they run freely.
    produced: u32,
    published: u32,
    consumed: u32,
    memory: GrantedRegion<P>,
}

impl<P: Platform, E: SharedAtom> FrontRing<P, E> {
    /// Allocates a ring of `1 << order` pages for `domain`.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if the platform is out of memory or of grants.
    pub fn new(hypervisor: &PageArc<P, Hypervisor<P>>, domain: u16, order: u32) -> Result<Self, AllocError> {
        let pages = 1u32.checked_shl(order).ok_or(AllocError)?;
        let len = (pages as usize).wrapping_mul(PAGE_SIZE);
        let memory = GrantedRegion::alloc(hypervisor, domain, len, Access::Write)?;
        let room = memory.len().saturating_sub(HEADER).checked_div(size_of::<E>()).unwrap_or(0);
        let size = 1u32.checked_shl(room.checked_ilog2().ok_or(AllocError)?).ok_or(AllocError)?;
        // SAFETY: the arrays are declared ahead of the memory, and used by methods alone.
        let (header, entries) = unsafe {
            let header = memory.shared().ring_array(0, 1).ok_or(AllocError)?;
            (header, memory.shared().ring_array(HEADER, size as usize).ok_or(AllocError)?)
        };
        let ring = Self { header, entries, size, produced: 0, published: 0, consumed: 0, memory };
        ring.begin();
        Ok(ring)
    }

    /// Fills in the header.
    fn begin(&self) {
        let [requests, request_event, responses, response_event] = self.header.at(0);
        requests.store(0, Ordering::Relaxed);
        responses.store(0, Ordering::Relaxed);
        request_event.store(1, Ordering::Relaxed);
        response_event.store(1, Ordering::Relaxed);
    }

    /// Starts anew for a backend in `domain`, after the last one has let go of the ring.
    ///
    /// # Errors
    ///
    /// [`Fault::Timeout`] if it has not.
    pub fn restart(&mut self, domain: u16) -> Result<(), Fault> {
        self.memory.restart(domain)?;
        (self.produced, self.published, self.consumed) = (0, 0, 0);
        self.begin();
        Ok(())
    }

    /// Returns the references of the pages, in their order.
    pub fn references(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.memory.pages()).map(|page| self.memory.reference(page))
    }

    /// Returns the number of entries.
    #[inline(always)]
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Returns the number of requests that can be written.
    #[inline(always)]
    pub fn room(&self) -> u32 {
        self.size.saturating_sub(self.in_flight())
    }

    /// Returns the number of requests without a response.
    #[inline(always)]
    pub fn in_flight(&self) -> u32 {
        self.produced.wrapping_sub(self.consumed)
    }

    /// Returns the number of requests that the backend cannot see yet.
    #[inline(always)]
    pub fn unpublished(&self) -> u32 {
        self.produced.wrapping_sub(self.published)
    }

    /// Returns the number of the next request, modulo 2³².
    #[inline(always)]
    pub fn next(&self) -> u32 {
        self.produced
    }

    /// Returns the entry of the next request, which is counted as written. The caller has checked that there is [`room`](Self::room).
    #[inline(always)]
    pub fn request(&mut self) -> &E {
        let entry = self.entries.at(self.produced as usize);
        self.produced = self.produced.wrapping_add(1);
        entry
    }

    /// Shows the requests to the backend; returns whether it wants an event.
    #[inline(always)]
    #[must_use]
    pub fn publish(&mut self) -> bool {
        let [requests, request_event, ..] = self.header.at(0);
        let (old, new) = (self.published, self.produced);
        if old == new {
            return false;
        }
        self.published = new;
        requests.store(new, Ordering::Release);
        // Between the index and a look at what the backend waits for, as it writes that and then looks at the index.
        fence(Ordering::SeqCst);
        let event = request_event.load(Ordering::Relaxed);
        new.wrapping_sub(event) < new.wrapping_sub(old)
    }

    /// Returns the number of responses that can be read.
    ///
    /// # Errors
    ///
    /// [`Fault::Protocol`] if the backend claims more than there are requests.
    #[inline(always)]
    pub fn responses(&self) -> Result<u32, Fault> {
        let [_, _, responses, _] = self.header.at(0);
        let count = responses.load(Ordering::Acquire).wrapping_sub(self.consumed);
        if count > self.published.wrapping_sub(self.consumed) { Err(Fault::Protocol) } else { Ok(count) }
    }

    /// Returns the number of the next response and its entry, which is counted as read. There is one: see
    /// [`responses`](Self::responses).
    #[inline(always)]
    pub fn response(&mut self) -> (u32, &E) {
        let number = self.consumed;
        self.consumed = number.wrapping_add(1);
        (number, self.entries.at(number as usize))
    }

    /// Asks for an event at the next response; returns whether there is one already.
    #[inline(always)]
    pub fn arm(&self) -> bool {
        let [_, _, responses, response_event] = self.header.at(0);
        response_event.store(self.consumed.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        responses.load(Ordering::Acquire) != self.consumed
    }
}

impl<P: Platform, E> fmt::Debug for FrontRing<P, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrontRing")
            .field("size", &self.size)
            .field("produced", &self.produced)
            .field("consumed", &self.consumed)
            .finish_non_exhaustive()
    }
}

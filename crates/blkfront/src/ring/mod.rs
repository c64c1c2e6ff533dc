//! A ring of requests with their buffers: how a request is written to it. What is granted for one is in `buffers`, how it ends in `complete`
//! and `reconnect`.

mod buffers;
mod complete;
mod reconnect;
mod shape;

use crate::class::Limits;
use crate::wire::{
    DIRECT_SEGMENTS, Entry, Operation, PAGE_SEGMENTS, SECTOR_SHIFT, direct_segment, segment, write_direct,
    write_discard, write_indirect,
};
use core::sync::atomic::{AtomicU64, Ordering};
use paravirt_device::{Arm, Completion, Durability, Op, Rejected};
use paravirt_platform::{
    AllocError, Direction, DmaBuffer, Fifo, Instant, PAGE_SIZE, PageArc, PageTable, Platform,
};
use paravirt_xen::{Access, FrontQueue, FrontRing, GrantRange, GrantedRegion, Hypervisor, InFlight, Port};
pub(crate) use shape::Shape;

const PAGE: u64 = PAGE_SIZE as u64;
const PAGE_SHIFT: u32 = PAGE_SIZE.trailing_zeros();

/// What is done next when a request completes.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Stage {
    /// It is returned.
    Last,
    /// A flush is sent, as the write is to be durable.
    FlushNext,
    /// That flush is in flight: nothing of the request is granted any more.
    Flush,
}

/// The memory of a request.
enum Memory<B> {
    None,
    /// The buffer's pages are granted.
    Granted(B),
    /// It has pages of the queue, which are granted always; for a read they are copied to the buffer.
    Copied(B),
    /// Nothing is granted any more.
    Held(B),
}

/// A request in flight.
struct Pending<B> {
    tag: u64,
    deadline: Instant,
    operation: Operation,
    sector: u64,
    /// For a request to discard.
    sectors: u64,
    stage: Stage,
    memory: Memory<B>,
    span: Span,
}

/// The pages of a request.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
struct Span {
    pages: u16,
    /// The first sector in the first page, and the last one in the last page.
    first: u8,
    last: u8,
}

impl Span {
    /// The pages of `len` bytes that begin `offset` bytes into a page.
    #[inline(always)]
    fn new(offset: u64, len: u64) -> Self {
        let end = offset.wrapping_add(len);
        let last = end.wrapping_sub(1) & (PAGE - 1);
        Self {
            pages: (end.wrapping_add(PAGE - 1) >> PAGE_SHIFT) as u16,
            first: (offset >> SECTOR_SHIFT) as u8,
            last: (last >> SECTOR_SHIFT) as u8,
        }
    }

    /// The segment of page `index`, whose grant has this reference.
    #[inline(always)]
    fn segment(self, index: u16, reference: u32) -> u64 {
        let first = if index == 0 { self.first } else { 0 };
        let last = if index.wrapping_add(1) == self.pages { self.last } else { 7 };
        segment(reference, first, last)
    }
}

/// A queue of a disk, as the device has it while nobody uses it.
pub struct Ring<P: Platform, B: DmaBuffer> {
    ring: FrontRing<P, Entry>,
    port: Option<Port<P>>,
    handle: u16,
    /// Of request `n`, the grants from `n * max_segments` on.
    grants: GrantRange<P>,
    max_segments: u16,
    order: u32,
    /// The pages of segments, one for each request; none if segments are in requests alone.
    indirect: Option<GrantedRegion<P>>,
    pending: PageTable<P, Option<Pending<B>>>,
    free: Fifo<P, u16>,
    /// Pages to copy to, their free ones, and those of each request.
    bounce: GrantedRegion<P>,
    /// Whether every buffer is copied, as the backend may keep pages mapped.
    is_persistent: bool,
    free_bounce: Fifo<P, u16>,
    bounced: PageTable<P, u16>,
    limits: PageArc<P, Limits>,
    /// Ended without the backend's doing, or before it was asked for.
    ended: Fifo<P, Completion<B>>,
    /// Requests that the ring has no room for, in their order.
    waiting: Fifo<P, u16>,
    /// A lower bound of the deadlines of the requests in flight.
    earliest: Instant,
    /// Responses to no request in flight.
    strays: u64,
}

impl<P: Platform, B: DmaBuffer> Ring<P, B> {
    #[inline(never)]
    pub(crate) fn new(
        hypervisor: &PageArc<P, Hypervisor<P>>,
        domain: u16,
        shape: &Shape,
        limits: &PageArc<P, Limits>,
    ) -> Result<Self, AllocError> {
        let platform = hypervisor.platform();
        let ring = FrontRing::new(hypervisor, domain, shape.order)?;
        let requests = usize::from(shape.requests).min(ring.size() as usize).max(1);
        let entries = requests.saturating_mul(usize::from(shape.segments));
        let grants = GrantRange::new(hypervisor, domain, shape.buffer_grants())?;
        let region = |pages: usize, access| {
            GrantedRegion::alloc(hypervisor, domain, pages.saturating_mul(PAGE_SIZE), access)
        };
        // A backend that keeps pages mapped maps them all to be written.
        let access = if shape.is_persistent { Access::Write } else { Access::Read };
        let indirect = if shape.is_indirect() { Some(region(requests, access)?) } else { None };
        let bounce_pages = shape.bounce_pages();
        let mut free = Fifo::new(platform, requests)?;
        for id in 0..requests as u16 {
            // There is room for all of them.
            let _ = free.push(id);
        }
        let mut free_bounce = Fifo::new(platform, bounce_pages)?;
        for page in 0..bounce_pages as u16 {
            // There is room for all of them.
            let _ = free_bounce.push(page);
        }
        Ok(Self {
            ring,
            port: None,
            handle: shape.handle,
            grants,
            max_segments: shape.segments,
            order: shape.order,
            indirect,
            pending: PageTable::new(platform, requests, |_| None)?,
            free,
            bounce: region(bounce_pages, Access::Write)?,
            is_persistent: shape.is_persistent,
            free_bounce,
            bounced: PageTable::new(platform, entries, |_| 0)?,
            limits: limits.clone(),
            ended: Fifo::new(platform, requests)?,
            waiting: Fifo::new(platform, requests)?,
            earliest: Instant::NEVER,
            strays: 0,
        })
    }

    /// The number of requests in flight at most.
    pub(crate) fn depth(&self) -> u16 {
        self.pending.len() as u16
    }

    /// The number of requests whose completion was not returned.
    fn outstanding(&self) -> usize {
        self.pending.len().saturating_sub(self.free.len()).saturating_add(self.ended.len())
    }

    /// Takes a request number; each completion that waits to be returned keeps one from being used.
    #[inline(always)]
    fn reserve(&mut self) -> Result<u16, Rejected> {
        if self.ended.len() >= self.free.len() {
            return Err(Rejected::Full);
        }
        self.free.pop().ok_or(Rejected::Full)
    }

    #[inline(always)]
    fn first_grant(&self, id: u16) -> u32 {
        u32::from(id).wrapping_mul(self.max_segments.into())
    }

    /// Submits a read or write.
    #[inline(always)]
    pub(crate) fn transfer(
        &mut self,
        lba: u64,
        durability: Option<Durability>,
        mut buffer: B,
        tag: u64,
        deadline: Instant,
    ) -> Result<(), (Rejected, B)> {
        let id = match self.reserve() {
            Ok(id) => id,
            Err(reason) => return Err((reason, buffer)),
        };
        let is_read = durability.is_none();
        let (direction, operation) = match is_read {
            true => (Direction::FromDevice, Operation::Read),
            false => (Direction::ToDevice, Operation::Write),
        };
        let is_granted = buffer.owns_pages() && !self.is_persistent;
        let granted = match is_granted {
            true => self.grant(id, lba, direction, &mut buffer),
            false => self.copy(id, lba, direction, &mut buffer),
        };
        let span = match granted {
            Ok(granted) => granted,
            Err(reason) => {
                let _ = self.free.push(id);
                let is_read_only = !is_read && self.limits.writable.load(Ordering::Relaxed) == 0;
                return Err((if is_read_only { Rejected::ReadOnly } else { reason }, buffer));
            }
        };
        let needs_flush =
            durability == Some(Durability::Durable) && self.limits.has_cache.load(Ordering::Relaxed);
        let sector = lba.wrapping_shl(self.limits.sector_shift.load(Ordering::Relaxed));
        let memory = if is_granted { Memory::Granted(buffer) } else { Memory::Copied(buffer) };
        let stage = if needs_flush { Stage::FlushNext } else { Stage::Last };
        self.put(id, Pending { tag, deadline, operation, sector, sectors: 0, stage, memory, span });
        if deadline < self.earliest {
            self.earliest = deadline;
        }
        self.send(id);
        Ok(())
    }

    #[inline(always)]
    fn put(&mut self, id: u16, request: Pending<B>) {
        if let Some(place) = self.pending.get_mut(usize::from(id)) {
            // Nothing is in the place: it is not dropped.
            core::mem::forget(place.replace(request));
        }
    }

    /// Checks that `len` bytes from block `lba` on are on the disk, and can be written if they are to be.
    #[inline(always)]
    fn check(&self, lba: u64, len: u64, direction: Direction) -> Result<(), Rejected> {
        let shift = self.limits.sector_shift.load(Ordering::Relaxed).wrapping_add(SECTOR_SHIFT);
        let blocks = match direction {
            Direction::FromDevice => &self.limits.blocks,
            Direction::ToDevice => &self.limits.writable,
        };
        let count = len >> (shift & 63);
        if count << (shift & 63) != len || len == 0 {
            return Err(Rejected::Invalid);
        }
        match lba.checked_add(count) {
            Some(end) if end <= blocks.load(Ordering::Relaxed) => Ok(()),
            _ => Err(Rejected::Range),
        }
    }

    fn bounce_index(&self, id: u16, index: u16) -> usize {
        usize::from(id).wrapping_mul(usize::from(self.max_segments)).wrapping_add(usize::from(index))
    }

    /// Submits an operation without data.
    pub(crate) fn command(&mut self, op: &Op<B>, tag: u64, deadline: Instant) -> Result<(), Rejected> {
        let limits = &*self.limits;
        let shift = limits.sector_shift.load(Ordering::Relaxed);
        let (operation, sector, sectors) = match *op {
            Op::Flush if !limits.has_cache.load(Ordering::Relaxed) => {
                // Every completed write is durable: nothing is sent.
                if self.outstanding() >= self.pending.len() {
                    return Err(Rejected::Full);
                }
                return self.ended.push(Completion::new(tag, None, Ok(()))).map_err(|_| Rejected::Full);
            }
            Op::Flush => (Operation::Flush, 0, 0),
            Op::Discard { lba, blocks } if limits.can_discard.load(Ordering::Relaxed) => {
                let end = lba.checked_add(u64::from(blocks)).filter(|_| blocks > 0);
                let writable = limits.writable.load(Ordering::Relaxed);
                if writable == 0 {
                    return Err(Rejected::ReadOnly);
                }
                if end.is_none_or(|end| end > writable) {
                    return Err(Rejected::Range);
                }
                (Operation::Discard, lba.wrapping_shl(shift), u64::from(blocks).wrapping_shl(shift))
            }
            _ => return Err(Rejected::Unsupported),
        };
        let id = self.reserve()?;
        let (stage, memory) = (Stage::Last, Memory::None);
        self.put(
            id,
            Pending { tag, deadline, operation, sector, sectors, stage, memory, span: Span::default() },
        );
        self.earliest = self.earliest.min(deadline);
        self.send(id);
        Ok(())
    }

    /// Writes a request to the ring.
    #[inline(always)]
    fn send(&mut self, id: u16) {
        if self.ring.room() == 0 || !self.waiting.is_empty() {
            // There is room for every request.
            let _ = self.waiting.push(id);
            return;
        }
        self.write(id);
    }

    #[inline(always)]
    fn write(&mut self, id: u16) {
        let Some(Some(request)) = self.pending.get(usize::from(id)) else { return };
        let Pending { operation, sector, span, stage, .. } = *request;
        let is_plain = stage != Stage::Flush && span.pages <= DIRECT_SEGMENTS;
        if !is_plain || !matches!(request.memory, Memory::Granted(_)) {
            return self.write_other(id);
        }
        let first = self.grants.reference(self.first_grant(id));
        let entry = self.ring.request();
        write_direct(entry, operation, span.pages, self.handle, id.into(), sector);
        for index in 0..span.pages {
            if let Some(place) = direct_segment(entry, index) {
                place.store(span.segment(index, first.wrapping_add(index.into())), Ordering::Relaxed);
            }
        }
    }

    /// Writes a request without data, one whose segments are in a page of their own, or one with pages of the queue.
    #[inline(never)]
    fn write_other(&mut self, id: u16) {
        let Some(Some(request)) = self.pending.get(usize::from(id)) else { return };
        let Pending { operation, sector, sectors, span, stage, .. } = *request;
        let is_copied = matches!(request.memory, Memory::Copied(_));
        let first = self.bounce_index(id, 0);
        let entry = self.ring.request();
        if stage == Stage::Flush || operation == Operation::Flush {
            return write_direct(entry, Operation::Flush, 0, self.handle, id.into(), 0);
        }
        if operation == Operation::Discard {
            return write_discard(entry, self.handle, id.into(), sector, sectors);
        }
        let segment = |index: u16| {
            let place = first.wrapping_add(index.into());
            let reference = match self.bounced.get(place) {
                Some(page) if is_copied => self.bounce.reference((*page).into()),
                _ => self.grants.reference(place as u32),
            };
            span.segment(index, reference)
        };
        if span.pages <= DIRECT_SEGMENTS {
            write_direct(entry, operation, span.pages, self.handle, id.into(), sector);
            for index in 0..span.pages {
                if let Some(place) = direct_segment(entry, index) {
                    place.store(segment(index), Ordering::Relaxed);
                }
            }
            return;
        }
        let Some(pages) = &self.indirect else { return };
        let at = usize::from(id).wrapping_mul(PAGE_SIZE);
        if let Some(places) = pages.shared().slice_at::<AtomicU64>(at, PAGE_SEGMENTS) {
            for (index, place) in (0..span.pages).zip(places) {
                place.store(segment(index), Ordering::Relaxed);
            }
        }
        let reference = pages.reference(id.into());
        write_indirect(entry, operation, span.pages, self.handle, id.into(), sector, reference);
    }

    /// Sends what waits for room, and shows the backend what was written.
    #[inline(always)]
    pub(crate) fn kick(&mut self) {
        if !self.waiting.is_empty() {
            self.send_waiting();
        }
        if self.ring.publish() {
            if let Some(port) = &self.port {
                port.notify();
            }
        }
    }

    #[cold]
    fn send_waiting(&mut self) {
        while self.ring.room() > 0 {
            let Some(id) = self.waiting.pop() else { return };
            self.write(id);
        }
    }

    /// Enables the interrupt; returns what the caller is to do.
    pub(crate) fn arm(&mut self) -> Arm {
        self.kick();
        let Some(port) = &self.port else { return Arm::Unsignalled };
        port.arm_unless(|| self.ring.arm() || !self.ended.is_empty())
    }

    /// The earliest deadline.
    pub(crate) fn next_deadline(&self) -> Instant {
        self.earliest
    }

    /// Whether a deadline has passed.
    pub(crate) fn has_expired(&mut self, now: Instant) -> bool {
        if now < self.earliest {
            return false;
        }
        let deadlines = self.pending.iter().flatten().map(|request| request.deadline);
        self.earliest = deadlines.min().unwrap_or(Instant::NEVER);
        now >= self.earliest
    }
}

impl<P: Platform, B: DmaBuffer> Drop for Ring<P, B> {
    fn drop(&mut self) {
        self.drain(InFlight::Abort);
    }
}

impl<P: Platform, B: DmaBuffer> core::fmt::Debug for Ring<P, B> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Ring").field("ring", &self.ring).field("strays", &self.strays).finish_non_exhaustive()
    }
}

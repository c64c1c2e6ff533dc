//! A ring of requests with their buffers: what is granted for each, and what becomes of it.

use crate::class::Limits;
use crate::wire::{
    DIRECT_SEGMENTS, Entry, Operation, PAGE_SEGMENTS, Response, SECTOR_SHIFT, Status, direct_segment,
    segment, write_direct, write_discard, write_indirect,
};
use core::sync::atomic::{AtomicU64, Ordering};
use paravirt_device::{Arm, Completion, Durability, Fault, IoError, Op, Rejected};
use paravirt_platform::{
    AllocError, BusAddr, Direction, DmaBuffer, Fifo, Instant, PAGE_SIZE, PageArc, PageTable, Platform,
    Segment,
};
use paravirt_xen::bus::Frontend;
use paravirt_xen::{
    Access, DeviceError, FrontQueue, FrontRing, GrantRange, GrantedRegion, Hypervisor, InFlight, Port,
    QueueNodes,
};

/// Pages of a queue to which buffers are copied that do not own their pages; and with persistent grants, pages for each request, as every
/// buffer is copied then.
const BOUNCE_PAGES: usize = 64;
const PERSISTENT_PAGES: usize = 8;
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

/// What a queue is made of.
#[derive(Copy, Clone)]
pub(crate) struct Shape {
    pub handle: u16,
    pub order: u32,
    pub requests: u16,
    pub segments: u16,
    pub is_persistent: bool,
}

impl Shape {
    /// What the smallest queue takes: four requests, a ring of two pages, and the pages to copy to.
    pub const FEWEST_GRANTS: u32 = 4 * DIRECT_SEGMENTS as u32 + 2 + BOUNCE_PAGES as u32;

    /// The same with fewer requests, and with segments in requests alone, until the queue takes `grants` at most, or is as small as a queue
    /// can be.
    pub fn within(mut self, grants: u32) -> Self {
        const FEW: u16 = 16;
        const FEWEST: u16 = 4;
        while self.grants() > grants {
            if self.requests <= FEW && self.is_indirect() {
                self.segments = DIRECT_SEGMENTS;
            } else if self.requests > FEWEST {
                self.requests = (self.requests >> 1).max(FEWEST);
            } else {
                break;
            }
        }
        self
    }

    fn is_indirect(&self) -> bool {
        self.segments > DIRECT_SEGMENTS
    }

    fn bounce_pages(&self) -> usize {
        let persistent =
            if self.is_persistent { usize::from(self.requests).saturating_mul(PERSISTENT_PAGES) } else { 0 };
        BOUNCE_PAGES.max(persistent)
    }

    /// Grants for the pages of buffers: none, where all are copied, of which a range of grants is one nevertheless.
    fn buffer_grants(&self) -> u32 {
        let all = u32::from(self.requests).saturating_mul(self.segments.into());
        if self.is_persistent { 1 } else { all }
    }

    fn grants(&self) -> u32 {
        let indirect = if self.is_indirect() { self.requests } else { 0 };
        let ring = 1u32.checked_shl(self.order).unwrap_or(1);
        let pages = (self.bounce_pages() as u32).saturating_add(indirect.into()).saturating_add(ring);
        self.buffer_grants().saturating_add(pages)
    }
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

    /// Grants the pages of a buffer.
    #[inline(always)]
    fn grant(&mut self, id: u16, lba: u64, direction: Direction, buffer: &mut B) -> Result<Span, Rejected> {
        let submitted = buffer.submit(direction).map_err(Rejected::Buffer)?;
        let granted = match submitted.as_slice() {
            [one] => self.grant_one(id, lba, direction, *one),
            several => self.grant_several(id, lba, direction, several),
        };
        if granted.is_err() {
            // SAFETY: it was submitted above, and nothing of it is granted.
            unsafe { buffer.reclaim() };
        }
        granted
    }

    /// Grants the pages of a segment.
    #[inline(always)]
    fn grant_one(&self, id: u16, lba: u64, direction: Direction, one: Segment) -> Result<Span, Rejected> {
        let offset = one.addr.0 & (PAGE - 1);
        let len = u64::from(one.len);
        self.check(lba, len, direction)?;
        let pages = offset.wrapping_add(len).wrapping_add(PAGE - 1) >> PAGE_SHIFT;
        if offset & 511 != 0 || pages > u64::from(self.max_segments) {
            return Err(Rejected::Invalid);
        }
        let first = one.addr.0 & !(PAGE - 1);
        for page in 0..pages {
            let address = BusAddr(first.wrapping_add(page << PAGE_SHIFT));
            // SAFETY: the buffer owns its pages, and is in flight until the grant was revoked.
            unsafe { self.grant_page(id, page as u16, address, direction) };
        }
        Ok(Span::new(offset, len))
    }

    /// Grants the pages of several segments, which are joined at the boundaries of pages.
    #[inline(never)]
    fn grant_several(
        &self,
        id: u16,
        lba: u64,
        direction: Direction,
        several: &[Segment],
    ) -> Result<Span, Rejected> {
        let len = several.iter().map(|segment| u64::from(segment.len)).sum::<u64>();
        self.check(lba, len, direction)?;
        let (mut pages, mut offset) = (0u64, 0);
        for (at, segment) in several.iter().enumerate() {
            let start = segment.addr.0 & (PAGE - 1);
            let is_last = at.saturating_add(1) == several.len();
            let end = start.wrapping_add(u64::from(segment.len));
            let is_bounded = (at == 0 || start == 0) && (is_last || end & (PAGE - 1) == 0);
            if !is_bounded || start & 511 != 0 {
                return Err(Rejected::Invalid);
            }
            offset = if at == 0 { start } else { offset };
            pages = pages.saturating_add(end.wrapping_add(PAGE - 1) >> PAGE_SHIFT);
        }
        if pages > u64::from(self.max_segments) {
            return Err(Rejected::Invalid);
        }
        let mut index = 0u16;
        for segment in several {
            let first = segment.addr.0 & !(PAGE - 1);
            let end = segment.addr.0.wrapping_add(u64::from(segment.len));
            let mut page = first;
            while page < end {
                // SAFETY: the buffer owns its pages, and is in flight until the grant was revoked.
                unsafe { self.grant_page(id, index, BusAddr(page), direction) };
                index = index.wrapping_add(1);
                page = page.wrapping_add(PAGE);
            }
        }
        Ok(Span::new(offset, len))
    }

    /// # Safety
    ///
    /// The page is the backend's until the grant is revoked.
    #[inline(always)]
    unsafe fn grant_page(&self, id: u16, index: u16, page: BusAddr, direction: Direction) {
        let access = if direction == Direction::ToDevice { Access::Read } else { Access::Write };
        // SAFETY: by the contract of this function.
        unsafe { self.grants.grant(self.first_grant(id).wrapping_add(index.into()), page, access) };
    }

    /// Takes pages of the queue for a buffer, and for a write copies it to them.
    #[inline(never)]
    fn copy(&mut self, id: u16, lba: u64, direction: Direction, buffer: &mut B) -> Result<Span, Rejected> {
        let shared = Rejected::Buffer(paravirt_platform::SubmitError::SharedPages);
        let bytes = buffer.bytes_to_copy().ok_or(shared)?;
        self.check(lba, bytes.len() as u64, direction)?;
        let count = bytes.len().div_ceil(PAGE_SIZE);
        if count > usize::from(self.max_segments) {
            return Err(Rejected::Invalid);
        }
        if count > self.free_bounce.len() {
            return Err(Rejected::Full);
        }
        for (index, part) in (0u16..).zip(bytes.chunks(PAGE_SIZE)) {
            let Some(page) = self.free_bounce.pop() else { return Err(Rejected::Full) };
            let at = usize::from(page).wrapping_mul(PAGE_SIZE);
            if direction == Direction::ToDevice {
                let _ = self.bounce.shared().copy_in(at, part);
            }
            let place = self.bounce_index(id, index);
            self.bounced.get_mut(place).into_iter().for_each(|place| *place = page);
        }
        Ok(Span::new(0, bytes.len() as u64))
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
        let entry = self.ring.request();
        if stage == Stage::Flush || operation == Operation::Flush {
            return write_direct(entry, Operation::Flush, 0, self.handle, id.into(), 0);
        }
        if operation == Operation::Discard {
            return write_discard(entry, self.handle, id.into(), sector, sectors);
        }
        let (max_segments, bounced) = (usize::from(self.max_segments), &self.bounced);
        let segment = |index: u16| {
            let place = usize::from(id).wrapping_mul(max_segments).wrapping_add(index.into());
            let reference = match bounced.get(place) {
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

    /// Returns the next completion.
    ///
    /// # Errors
    ///
    /// [`Fault`]: the backend has broken the rules, or keeps pages. The device is to be reset.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Result<Option<Completion<B>>, Fault> {
        if let Some(done) = self.ended.pop() {
            return Ok(Some(done));
        }
        while self.ring.responses()? > 0 {
            let (_, entry) = self.ring.response();
            let response = Response::read(entry);
            if let Some(done) = self.take_in(response)? {
                return Ok(Some(done));
            }
        }
        Ok(None)
    }

    /// Takes in a response; returns the completion if there is nothing more to do for the request.
    #[inline(always)]
    fn take_in(&mut self, response: Response) -> Result<Option<Completion<B>>, Fault> {
        let place = usize::try_from(response.id).ok().and_then(|id| self.pending.get_mut(id));
        let Some(request) = place.and_then(Option::take) else {
            self.count_stray();
            return Ok(None);
        };
        let id = response.id as u16;
        let result = match response.status() {
            Status::Done => Ok(()),
            Status::Unsupported => Err(IoError::Unsupported),
            Status::Error => Err(IoError::Device),
        };
        if let (Memory::Granted(_), Stage::Last) = (&request.memory, request.stage) {
            if request.span.pages <= DIRECT_SEGMENTS {
                return self.finish(id, request, result);
            }
        }
        self.take_in_other(id, request, result)
    }

    /// Ends a request whose buffer is granted.
    #[inline(always)]
    fn finish(
        &mut self,
        id: u16,
        request: Pending<B>,
        result: Result<(), IoError>,
    ) -> Result<Option<Completion<B>>, Fault> {
        let Memory::Granted(mut buffer) = request.memory else { return Ok(None) };
        if !self.revoke(id, request.span) {
            return self.lose(request.tag, request.span, buffer);
        }
        // SAFETY: `grant` submitted it, and every grant of it was revoked.
        unsafe { buffer.reclaim() };
        let _ = self.free.push(id);
        Ok(Some(Completion::new(request.tag, Some(buffer), result)))
    }

    /// Ends the backend's access to the pages of a request; returns whether that was possible.
    #[inline(always)]
    fn revoke(&self, id: u16, span: Span) -> bool {
        let first = self.first_grant(id);
        let mut is_free = true;
        for index in 0..span.pages {
            is_free &= self.grants.revoke(first.wrapping_add(index.into()));
        }
        is_free
    }

    /// A backend has answered a request and keeps its pages: the buffer is leaked, and its number not used again.
    #[cold]
    fn lose(&mut self, tag: u64, span: Span, buffer: B) -> Result<Option<Completion<B>>, Fault> {
        self.grants.count_lost(span.pages.into());
        // In flight: its memory is leaked.
        drop(buffer);
        let _ = self.ended.push(Completion::new(tag, None, Err(IoError::Device)));
        Err(Fault::Protocol)
    }

    /// As [`take_in`](Self::take_in), for requests with more than one step, or copied.
    #[inline(never)]
    fn take_in_other(
        &mut self,
        id: u16,
        mut request: Pending<B>,
        result: Result<(), IoError>,
    ) -> Result<Option<Completion<B>>, Fault> {
        let was_read = request.operation == Operation::Read && result.is_ok();
        let memory = core::mem::replace(&mut request.memory, Memory::None);
        let buffer = match self.take_back(id, request.span, memory, was_read) {
            Ok(buffer) => buffer,
            Err(buffer) => return self.lose(request.tag, request.span, buffer),
        };
        if request.stage == Stage::FlushNext && result.is_ok() {
            request.stage = Stage::Flush;
            request.memory = buffer.map_or(Memory::None, Memory::Held);
            self.put(id, request);
            self.send(id);
            // Nobody else kicks it.
            self.kick();
            return Ok(None);
        }
        let _ = self.free.push(id);
        Ok(Some(Completion::new(request.tag, buffer, result)))
    }

    /// Ends the backend's access to the memory of a request, and returns its buffer. If `was_read`, what was read is copied to a buffer whose
    /// own pages were not granted. If the backend keeps a page of the buffer's, the buffer is the error, and is in flight still.
    fn take_back(&mut self, id: u16, span: Span, memory: Memory<B>, was_read: bool) -> Result<Option<B>, B> {
        match memory {
            Memory::None => Ok(None),
            Memory::Held(buffer) => Ok(Some(buffer)),
            Memory::Granted(buffer) if !self.revoke(id, span) => Err(buffer),
            Memory::Granted(mut buffer) => {
                // SAFETY: `grant` submitted it, and every grant of it was revoked.
                unsafe { buffer.reclaim() };
                Ok(Some(buffer))
            }
            Memory::Copied(mut buffer) => {
                self.copy_back(id, span, was_read, &mut buffer);
                Ok(Some(buffer))
            }
        }
    }

    /// Copies what was read to the buffer, if it was, and frees the pages.
    fn copy_back(&mut self, id: u16, span: Span, is_read: bool, buffer: &mut B) {
        let mut bytes = buffer.bytes_to_copy().unwrap_or_default();
        for index in 0..span.pages {
            let Some(page) = self.bounced.get(self.bounce_index(id, index)).copied() else { continue };
            let at = usize::from(page).wrapping_mul(PAGE_SIZE);
            let (part, rest) = bytes.split_at_mut(bytes.len().min(PAGE_SIZE));
            if is_read {
                let _ = self.bounce.shared().copy_out(at, part);
            }
            bytes = rest;
            let _ = self.free_bounce.push(page);
        }
    }

    #[cold]
    fn count_stray(&mut self) {
        if self.strays == 0 {
            log::warn!("blkfront: response to no request in flight: ignored, as further ones");
        }
        self.strays = self.strays.saturating_add(1);
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

impl<P: Platform, B: DmaBuffer> FrontQueue<P> for Ring<P, B> {
    fn drain(&mut self, in_flight: InFlight) {
        self.port = None;
        while self.waiting.pop().is_some() {}
        if in_flight == InFlight::Abort {
            self.earliest = Instant::NEVER;
        }
        for id in 0..self.pending.len() as u16 {
            let Some(request) = self.pending.get_mut(usize::from(id)).and_then(Option::take) else {
                continue;
            };
            match in_flight {
                // In the new domain nothing is granted: `resume` grants it again.
                InFlight::SendAgain => self.put(id, request),
                InFlight::Abort => self.abort(id, request),
            }
        }
    }

    fn restart(
        &mut self,
        frontend: &Frontend<P>,
        open_port: &mut dyn FnMut() -> Result<Port<P>, DeviceError>,
    ) -> Result<QueueNodes, DeviceError> {
        let port = open_port()?;
        self.ring.restart(frontend.domain())?;
        self.bounce.restart(frontend.domain())?;
        if let Some(pages) = &mut self.indirect {
            pages.restart(frontend.domain())?;
        }
        self.grants.set_domain(frontend.domain());
        let mut nodes = QueueNodes::new();
        for (index, reference) in (0u32..).zip(self.ring.references()) {
            match self.order {
                0 => nodes.add("ring-ref", None, reference),
                _ => nodes.add("ring-ref", Some(index), reference),
            }
        }
        nodes.add("event-channel", None, port.number());
        self.port = Some(port);
        Ok(nodes)
    }

    fn resume(&mut self, _gate: u32) {
        for id in 0..self.pending.len() as u16 {
            let Some(mut request) = self.pending.get_mut(usize::from(id)).and_then(Option::take) else {
                continue;
            };
            if self.grant_again(id, &mut request) {
                self.put(id, request);
                self.send(id);
            } else {
                self.abort(id, request);
            }
        }
        self.kick();
    }

    fn forget(&mut self) {
        while self.ended.pop().is_some() {}
    }

    fn for_each_port(&self, work: &mut dyn FnMut(&Port<P>)) {
        self.port.iter().for_each(work);
    }
}

impl<P: Platform, B: DmaBuffer> Ring<P, B> {
    /// Grants the pages of a request to another backend; returns whether that was possible.
    fn grant_again(&mut self, id: u16, request: &mut Pending<B>) -> bool {
        let is_read = request.operation == Operation::Read;
        let direction = if is_read { Direction::FromDevice } else { Direction::ToDevice };
        let lba = request.sector >> (self.limits.sector_shift.load(Ordering::Relaxed) & 63);
        match &mut request.memory {
            Memory::None | Memory::Held(_) | Memory::Copied(_) => true,
            Memory::Granted(buffer) => {
                if !self.revoke(id, request.span) {
                    return false;
                }
                // SAFETY: `grant` submitted it, and every grant of it was revoked.
                unsafe { buffer.reclaim() };
                let granted = self.grant(id, lba, direction, buffer);
                // If it fails, the buffer is not in flight any more.
                let is_granted = granted.is_ok();
                if !is_granted {
                    let memory = core::mem::replace(&mut request.memory, Memory::None);
                    if let Memory::Granted(buffer) = memory {
                        request.memory = Memory::Held(buffer);
                    }
                }
                is_granted
            }
        }
    }

    /// Ends a request that a backend has not answered, which has closed, and keeps no page that can be revoked.
    fn abort(&mut self, id: u16, request: Pending<B>) {
        let buffer = match self.take_back(id, request.span, request.memory, false) {
            Ok(buffer) => {
                let _ = self.free.push(id);
                buffer
            }
            // Its memory is leaked, as it is in flight, and its number not used again.
            Err(_) => {
                self.grants.count_lost(request.span.pages.into());
                None
            }
        };
        let _ = self.ended.push(Completion::new(request.tag, buffer, Err(IoError::Aborted)));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_shrinks_until_it_is_affordable_or_the_smallest() {
        let all = Shape { handle: 0, order: 1, requests: 64, segments: 32, is_persistent: false };
        for (grants, requests, segments) in [
            (4000, 64, 32),
            (2178, 64, 32),
            (2177, 32, 32),
            (700, 16, 32),
            (593, 16, 11),
            (200, 8, 11),
            (Shape::FEWEST_GRANTS, 4, 11),
            (0, 4, 11),
        ] {
            let shape = all.within(grants);
            assert_eq!((shape.requests, shape.segments), (requests, segments), "{grants}");
            assert!(shape.grants() <= grants.max(Shape::FEWEST_GRANTS), "{grants}");
        }
        for requests in 1..=7 {
            let shape = Shape { requests, ..all }.within(0);
            assert_eq!((shape.requests, shape.segments), (requests.min(4), DIRECT_SEGMENTS));
        }
        let persistent = Shape { is_persistent: true, ..all };
        assert_eq!(persistent.grants(), 1 + 512 + 64 + 2);
    }
}

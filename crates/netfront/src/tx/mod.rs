//! The transmit side: frames in pages of the queue, which are granted for its life, and frames in buffers of the caller.

mod complete;
mod limits;

use crate::wire::{MAX_FRAME, MAX_SLOTS, TxEntry, TxOffload, write_tx};
use core::fmt;
use core::time::Duration;
pub(crate) use limits::TxLimits;
use paravirt_device::{Arm, Fault, MacAddr, NetTx, Rejected, SendRefused, Sent, TxMeta, Watchdog};
use paravirt_platform::{
    AllocError, BusAddr, Direction, DmaBuffer, Fifo, PAGE_SIZE, PageArc, PageRing, Platform, SubmitError,
};
use paravirt_xen::{Access, FrontRing, GrantRange, GrantedRegion, Hypervisor, Port, Status};

/// How many frames that the backend segments can be in flight in pages of the queue.
const LARGE_FRAMES: u16 = 4;
const LARGE_PAGES: u16 = MAX_FRAME.div_ceil(PAGE_SIZE) as u16;
/// How long a backend may complete no frame while some are in flight, before the card is connected anew.
const WATCHDOG: Watchdog = Watchdog::new(Duration::from_secs(60));
const PAGE: u64 = PAGE_SIZE as u64;
/// The length of the shortest frame.
const MIN_FRAME: u16 = 60;
/// The entries of a ring of one page, of either direction.
const RING_SIZE: u16 = 256;

/// What a request is part of, by its number.
enum Part<B> {
    /// It is not in flight.
    None,
    /// The whole of a frame in a place of the queue.
    Frame(u16),
    /// A part of the packet with that number.
    Of(u16),
    /// The first request of a packet of several, or in a buffer of the caller.
    First(Packet<B>),
}

/// A packet whose first request has the number by which it is kept.
struct Packet<B> {
    /// Requests without a response.
    left: u16,
    /// Whether the first one has a response.
    is_first_done: bool,
    is_good: bool,
    /// Whether the backend has kept a page of it.
    is_lost: bool,
    memory: Memory<B>,
}

enum Memory<B> {
    /// A place for frames of several pages.
    Frame(u16),
    /// A place for frames that the backend segments.
    Large(u16),
    /// A buffer of the caller, with its tag. The grant of each request has its number.
    Buffer(B, u64),
    /// None: it adds an address to the backend's filter.
    Filter,
}

/// What is reserved for the next frame.
#[derive(Copy, Clone)]
enum Reserved {
    None,
    Frame(u16),
    Large(u16),
}

/// The transmit side of a queue pair.
pub struct NetFrontTx<P: Platform, B: DmaBuffer> {
    ring: FrontRing<P, TxEntry>,
    port: Option<PageArc<P, Port<P>>>,
    parts: PageRing<P, Part<B>>,
    free: Fifo<P, u16>,
    /// Places for frames, granted for the life of the queue: their pages, and the free ones. Those for frames that the backend segments are
    /// behind the others.
    pages: GrantedRegion<P>,
    frames: u16,
    free_frames: Fifo<P, u16>,
    free_large: Fifo<P, u16>,
    frame_len: usize,
    /// The grant of each request with a buffer of the caller.
    grants: GrantRange<P>,
    reserved: Reserved,
    /// Buffers of the caller that are in flight, and those that have been sent.
    in_flight: usize,
    sent: Fifo<P, Sent<B>>,
    limits: TxLimits,
    pub(crate) watchdog: Watchdog,
    strays: u64,
    status: PageArc<P, Status>,
    gate: u32,
}

// SAFETY: the pages belong to the queue and are accessed only through it.
unsafe impl<P: Platform, B: DmaBuffer> Send for NetFrontTx<P, B> {}

impl<P: Platform, B: DmaBuffer> NetFrontTx<P, B> {
    #[inline(never)]
    pub(crate) fn new(
        hypervisor: &PageArc<P, Hypervisor<P>>,
        domain: u16,
        status: &PageArc<P, Status>,
        depth: u16,
        limits: TxLimits,
    ) -> Result<Self, AllocError> {
        let platform = hypervisor.platform();
        let ring = FrontRing::new(hypervisor, domain, 0)?;
        let size = ring.size() as usize;
        let frames = depth.clamp(1, RING_SIZE);
        let frame_len = limits.frame_len();
        let large = limits.large_frames();
        let pages = GrantedRegion::alloc(hypervisor, domain, limits.bytes(frames), Access::Read)?;
        let mut free = Fifo::new(platform, size)?;
        for id in 0..size as u16 {
            // There is room for all of them.
            let _ = free.push(id);
        }
        let mut free_frames = Fifo::new(platform, usize::from(frames))?;
        for frame in 0..frames {
            // There is room for all of them.
            let _ = free_frames.push(frame);
        }
        let mut free_large = Fifo::new(platform, usize::from(large).max(1))?;
        for frame in 0..large {
            // There is room for all of them.
            let _ = free_large.push(frame);
        }
        Ok(Self {
            ring,
            port: None,
            parts: PageRing::new(platform, size, |_| Part::None)?,
            free,
            pages,
            frames,
            free_frames,
            free_large,
            frame_len,
            grants: GrantRange::new(hypervisor, domain, size as u32)?,
            reserved: Reserved::None,
            in_flight: 0,
            sent: Fifo::new(platform, size)?,
            limits,
            watchdog: WATCHDOG,
            strays: 0,
            status: status.clone(),
            gate: 1,
        })
    }

    /// How many frames can be in flight.
    pub(crate) fn depth(&self) -> u16 {
        self.frames
    }

    /// The reference of the ring.
    pub(crate) fn reference(&self) -> u32 {
        self.ring.references().next().unwrap_or(0)
    }

    /// Begins anew for a backend in `domain`.
    pub(crate) fn restart(&mut self, domain: u16, port: &PageArc<P, Port<P>>) -> Result<(), Fault> {
        self.ring.restart(domain)?;
        self.pages.restart(domain)?;
        self.grants.set_domain(domain);
        self.port = Some(port.clone());
        Ok(())
    }

    pub(crate) fn port(&self) -> Option<&Port<P>> {
        self.port.as_deref()
    }

    pub(crate) fn set_gate(&mut self, gate: u32) {
        self.gate = gate;
    }

    #[inline(always)]
    fn is_open(&self) -> bool {
        self.status.gate() == self.gate
    }

    /// Requests in flight.
    pub(crate) fn used(&self) -> u32 {
        self.ring.in_flight()
    }

    /// Where place `frame` is, and the length of it; those for frames that the backend segments are behind the others.
    #[inline(always)]
    fn place(&self, reserved: Reserved) -> Option<(usize, usize)> {
        match reserved {
            Reserved::None => None,
            Reserved::Frame(frame) => {
                Some((usize::from(frame).wrapping_mul(self.frame_len), self.limits.max_frame))
            }
            Reserved::Large(large) => {
                let small = usize::from(self.frames).wrapping_mul(self.frame_len).next_multiple_of(PAGE_SIZE);
                let len = usize::from(LARGE_PAGES).wrapping_mul(PAGE_SIZE);
                Some((small.wrapping_add(usize::from(large).wrapping_mul(len)), MAX_FRAME))
            }
        }
    }

    /// The bytes of a reserved place.
    #[inline(always)]
    fn bytes(&mut self, reserved: Reserved) -> &mut [u8] {
        let Some((offset, len)) = self.place(reserved) else { return &mut [] };
        if offset.wrapping_add(len) > self.pages.len() {
            return &mut [];
        }
        // SAFETY: in bounds by the check above. The place is reserved, so that no request is in flight with it, and the backend may only
        // read its pages; the queue is borrowed mutably. The pages were allocated zeroed, and are alive as long as the queue.
        unsafe { core::slice::from_raw_parts_mut(self.pages.cpu().add(offset).as_ptr(), len) }
    }

    /// The number of requests for `len` bytes from `offset` on.
    fn slots(offset: usize, len: usize) -> usize {
        (offset & (PAGE_SIZE - 1)).wrapping_add(len).div_ceil(PAGE_SIZE)
    }

    /// Sends a frame of one request, without offloads.
    #[inline(always)]
    fn send_frame(&mut self, frame: u16, len: usize) -> bool {
        let offset = usize::from(frame).wrapping_mul(self.frame_len);
        let Some(id) = self.free.pop() else { return false };
        let grant = self.pages.reference((offset / PAGE_SIZE) as u32);
        let entry = self.ring.request();
        let within = (offset & (PAGE_SIZE - 1)) as u16;
        write_tx(entry, grant, within, TxOffload::default(), false, id, len as u16);
        // Nothing is in the place: it is not dropped.
        core::mem::forget(core::mem::replace(self.parts.at_mut(id.into()), Part::Frame(frame)));
        true
    }

    /// Writes the requests of a packet whose pieces are `pieces`: a reference or, for a buffer of the caller, the address of a page to be
    /// granted; the offset and length within the page. There is room for all of them.
    fn push(
        &mut self,
        pieces: impl Iterator<Item = (Result<u32, BusAddr>, u16, u16)>,
        total: usize,
        offload: TxOffload,
        memory: Memory<B>,
    ) {
        let mut pieces = pieces.peekable();
        let mut first = None;
        let mut count = 0u16;
        while let Some((place, offset, len)) = pieces.next() {
            let Some(id) = self.free.pop() else { break };
            let grant = match place {
                Ok(reference) => reference,
                Err(page) => {
                    // SAFETY: the buffer owns its pages, and is in flight until the grant was revoked.
                    unsafe { self.grants.grant(id.into(), page, Access::Read) };
                    self.grants.reference(id.into())
                }
            };
            let has_more = pieces.peek().is_some();
            let entry = self.ring.request();
            match first {
                None => write_tx(entry, grant, offset, offload, has_more, id, total as u16),
                Some(_) => write_tx(entry, grant, offset, TxOffload::default(), has_more, id, len),
            }
            if first.is_none() && offload.has_extra() {
                offload.write_extra(self.ring.request());
            }
            if let Some(first) = first {
                *self.parts.at_mut(id.into()) = Part::Of(first);
            } else {
                first = Some(id);
            }
            count = count.wrapping_add(1);
        }
        if let Some(first) = first {
            let packet = Packet { left: count, is_first_done: false, is_good: true, is_lost: false, memory };
            *self.parts.at_mut(first.into()) = Part::First(packet);
        }
    }

    /// Has the backend deliver frames to these addresses, as far as the ring has room: the ring of a card that was connected just now has it
    /// for all that a backend takes.
    pub(crate) fn add_multicast(&mut self, addresses: &[MacAddr]) {
        for address in addresses {
            if !self.has_room(1) {
                break;
            }
            // The request names a page as each does, of which the backend makes no use.
            let piece = (Ok(self.pages.reference(0)), 0, MIN_FRAME);
            let offload = TxOffload::add_multicast(*address);
            self.push(core::iter::once(piece), usize::from(MIN_FRAME), offload, Memory::Filter);
        }
        self.kick();
    }

    /// Whether there is room for a packet of `slots` requests, and an extra.
    fn has_room(&self, slots: usize) -> bool {
        self.ring.room() as usize > slots && self.free.len() >= slots
    }

    #[inline(never)]
    fn commit_other(&mut self, reserved: Reserved, len: usize, meta: &TxMeta) -> Result<(), Rejected> {
        let committed = match self.status.fault() {
            Some(fault) => Err(fault.into()),
            None if !self.is_open() => Err(Fault::Reset.into()),
            None => self.commit_offloaded(reserved, len, meta),
        };
        match reserved {
            Reserved::Frame(frame) if committed.is_err() => {
                let _ = self.free_frames.push(frame);
            }
            Reserved::Large(large) if committed.is_err() => {
                let _ = self.free_large.push(large);
            }
            _ => {}
        }
        committed
    }

    fn commit_offloaded(&mut self, reserved: Reserved, len: usize, meta: &TxMeta) -> Result<(), Rejected> {
        let (offset, most) = self.place(reserved).ok_or(Rejected::Full)?;
        let is_long = len > self.limits.max_frame && meta.segmentation.is_none();
        if len < 14 || len > most || is_long {
            return Err(Rejected::Invalid);
        }
        let offloads = self.limits.offloads;
        let offload = TxOffload::new(meta, offloads, self.bytes(reserved).get(..len).unwrap_or_default())?;
        if !self.has_room(Self::slots(offset, len)) {
            return Err(Rejected::Full);
        }
        let memory = match reserved {
            Reserved::Large(large) => Memory::Large(large),
            Reserved::Frame(frame) => Memory::Frame(frame),
            Reserved::None => return Err(Rejected::Full),
        };
        let first = (offset / PAGE_SIZE) as u32;
        let within = offset & (PAGE_SIZE - 1);
        let end = within.wrapping_add(len);
        let references = self.pages.reference(first);
        let pieces = (0..Self::slots(offset, len)).map(move |index| {
            let start = if index == 0 { within } else { 0 };
            let stop = end.saturating_sub(index.wrapping_mul(PAGE_SIZE)).min(PAGE_SIZE);
            (Ok(references.wrapping_add(index as u32)), start as u16, stop.saturating_sub(start) as u16)
        });
        self.push(pieces, len, offload, memory);
        Ok(())
    }

    /// Asks for an interrupt only if a caller may wait for a response.
    pub(crate) fn arm(&mut self) -> Arm {
        self.kick();
        if !self.sent.is_empty() {
            return Arm::Pending;
        }
        let has_large = !self.limits.can_segment() || !self.free_large.is_empty();
        if self.has_room(MAX_SLOTS) && !self.free_frames.is_empty() && has_large && self.in_flight == 0 {
            return Arm::Armed;
        }
        let Some(port) = &self.port else { return Arm::Unsignalled };
        port.arm_unless(|| self.ring.arm())
    }
}

impl<P: Platform, B: DmaBuffer> NetTx for NetFrontTx<P, B> {
    type Buffer = B;

    #[inline(always)]
    fn is_ready(&self, len: usize) -> bool {
        if len > self.limits.max_frame {
            let is_free = matches!(self.reserved, Reserved::Large(_)) || !self.free_large.is_empty();
            let is_large = len <= MAX_FRAME && self.limits.can_segment();
            return self.is_open() && is_large && is_free && self.has_room(usize::from(LARGE_PAGES));
        }
        let is_free = !matches!(self.reserved, Reserved::None) || !self.free_frames.is_empty();
        self.is_open() && is_free && self.has_room(self.frame_len.div_ceil(PAGE_SIZE))
    }

    #[inline(always)]
    fn reserve(&mut self, len: usize) -> bool {
        if !self.is_ready(len) {
            return false;
        }
        let is_long = len > self.limits.max_frame;
        match self.reserved {
            Reserved::Frame(_) if !is_long => {}
            Reserved::Large(_) => {}
            kept => {
                self.reserved = match is_long {
                    false => self.free_frames.pop().map_or(Reserved::None, Reserved::Frame),
                    true => {
                        if let Reserved::Frame(frame) = kept {
                            let _ = self.free_frames.push(frame);
                        }
                        self.free_large.pop().map_or(Reserved::None, Reserved::Large)
                    }
                };
            }
        }
        true
    }

    #[inline(always)]
    fn slot(&mut self) -> &mut [u8] {
        self.bytes(self.reserved)
    }

    #[inline(always)]
    fn commit(&mut self, len: usize, meta: TxMeta) -> Result<(), Rejected> {
        let reserved = core::mem::replace(&mut self.reserved, Reserved::None);
        let is_plain = meta.vlan.is_none() && meta.checksum.is_none() && meta.segmentation.is_none();
        if let Reserved::Frame(frame) = reserved {
            let is_short =
                len.wrapping_sub(14) <= self.limits.max_frame.wrapping_sub(14) && self.frame_len <= PAGE_SIZE;
            if is_plain && is_short && self.is_open() && self.ring.room() > 0 && self.send_frame(frame, len) {
                return Ok(());
            }
        }
        self.commit_other(reserved, len, &meta)
    }

    fn send(&mut self, tag: u64, mut frame: B, meta: TxMeta) -> Result<(), SendRefused<B>> {
        let refused = |reason, buffer| Err(SendRefused::new(reason, buffer));
        if !self.is_open() {
            return refused(self.status.fault().unwrap_or(Fault::Reset).into(), frame);
        }
        if self.sent.len().saturating_add(self.in_flight) >= self.sent.capacity() {
            return refused(Rejected::Full, frame);
        }
        if !frame.owns_pages() {
            return refused(Rejected::Buffer(SubmitError::SharedPages), frame);
        }
        if meta.checksum.is_some() || meta.segmentation.is_some() || meta.vlan.is_some() {
            // The headers, by which the backend finds the field, are in memory that the driver does not read.
            return refused(Rejected::Unsupported, frame);
        }
        let memory = match frame.submit(Direction::ToDevice) {
            Ok(memory) => memory,
            Err(error) => return refused(Rejected::Buffer(error), frame),
        };
        let mut pieces = [(BusAddr(0), 0u16, 0u16); MAX_SLOTS];
        let (mut count, mut total) = (0usize, 0usize);
        for segment in memory.as_slice() {
            let (mut at, mut left) = (segment.addr.0, u64::from(segment.len));
            while left > 0 && count <= MAX_SLOTS {
                let within = at & (PAGE - 1);
                let len = left.min(PAGE.wrapping_sub(within));
                if let Some(piece) = pieces.get_mut(count) {
                    *piece = (BusAddr(at.wrapping_sub(within)), within as u16, len as u16);
                }
                count = count.saturating_add(1);
                (at, left) = (at.wrapping_add(len), left.wrapping_sub(len));
            }
            total = total.saturating_add(segment.len as usize);
        }
        let is_possible = count == 1 || self.limits.has_pieces && count <= MAX_SLOTS;
        if !is_possible || total < 14 || total > self.limits.max_frame || !self.has_room(count) {
            let reason =
                if is_possible && !self.has_room(count) { Rejected::Full } else { Rejected::Invalid };
            // SAFETY: it was put in flight above, and nothing of it was granted.
            unsafe { frame.reclaim() };
            return refused(reason, frame);
        }
        self.in_flight = self.in_flight.saturating_add(1);
        let pieces = pieces.into_iter().take(count).map(|(page, offset, len)| (Err(page), offset, len));
        self.push(pieces, total, TxOffload::default(), Memory::Buffer(frame, tag));
        Ok(())
    }

    fn sent(&mut self) -> Option<Sent<B>> {
        self.sent.pop()
    }

    #[inline(always)]
    fn kick(&mut self) {
        if self.is_open() && self.ring.publish() {
            self.port.iter().for_each(|port| port.notify());
        }
    }
}

impl<P: Platform, B: DmaBuffer> Drop for NetFrontTx<P, B> {
    fn drop(&mut self) {
        self.drain();
    }
}

impl<P: Platform, B: DmaBuffer> fmt::Debug for NetFrontTx<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetFrontTx").field("ring", &self.ring).finish_non_exhaustive()
    }
}

//! The transmit side: a ring of descriptors, frames in buffers of the queue, and frames in buffers of the caller.

mod offload;

use crate::area::TxSetup;
use crate::card::{Card, QueueMemory};
use crate::wire::{MAX_PIECE, TxOffload, generation, tx_completion, tx_descriptor};
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use paravirt_device::{Arm, Fault, IoError, NetTx, Offloads, Rejected, SendRefused, Sent, TxMeta, Watchdog};
use paravirt_platform::{
    AllocError, BusAddr, Direction, DmaBuffer, DmaRegion, DmaSlice, Fifo, PageArc, PageRing, PageTable,
    Platform, RingArray, Segment,
};

/// Descriptors of a packet, at most.
const MAX_DESCRIPTORS: usize = 16;
/// The maximum size in bytes of all frame buffers of a queue together, and their minimum number.
const MAX_FRAME_BYTES: usize = 1 << 20;
const MIN_FRAMES: u32 = 32;
/// How many frames that the card segments can be in flight in buffers of the queue.
const LARGE_FRAMES: usize = 4;
/// How long a card may complete no frame while some are in flight, before it is reset: as for a request to a disk.
const WATCHDOG: Watchdog = Watchdog::new(Duration::from_secs(60));
/// Bytes of a descriptor, and of a completion.
const ENTRY_LEN: usize = 16;

/// Descriptors of the longest frame that the card segments.
const LARGE_DESCRIPTORS: u32 = 5;
type Entry = [AtomicU64; 2];

/// Where the bytes of a packet are, by the index of its last descriptor.
enum Packet<B> {
    /// Nowhere: no packet ends at this descriptor.
    None,
    /// In a frame buffer of the queue.
    Frame(u16),
    /// In a buffer of the queue for frames that the card segments.
    Large(u16),
    /// In a buffer of the caller, with its tag.
    Buffer(B, u64),
}

/// What is reserved for the next frame.
#[derive(Copy, Clone)]
enum Reserved {
    None,
    Frame(u16),
    Large(u16),
}

/// What frames are limited to.
#[derive(Copy, Clone, Debug)]
pub(crate) struct TxLimits {
    pub offloads: Offloads,
    pub max_frame: usize,
    pub max_segmented: usize,
}

/// The transmit side of a queue pair.
pub struct Vmxnet3Tx<P: Platform, B: DmaBuffer> {
    ring: RingArray<Entry>,
    completions: RingArray<Entry>,
    /// Descriptors of the ring, a power of two.
    size: u32,
    /// Descriptors written and completed, and completions read: they run freely.
    produced: u32,
    consumed: u32,
    completed: u32,
    /// Frames that were sent and not announced: of those that the card segments, their segments.
    deferred: u32,
    packets: PageRing<P, Packet<B>>,
    /// The frame buffers, their bus address and the length of one of them, and those that are free.
    frames: NonNull<u8>,
    frame_base: BusAddr,
    frame_len: usize,
    free_frames: Fifo<P, u16>,
    large: PageTable<P, DmaSlice<P>>,
    reserved: Reserved,
    /// Buffers of the caller that are in flight, and those that have been sent.
    in_flight: usize,
    sent: Fifo<P, Sent<B>>,
    limits: TxLimits,
    pub(crate) watchdog: Watchdog,
    /// Completions that are of no packet.
    strays: u64,
    card: PageArc<P, Card<P>>,
    gate: u32,
    index: u16,
    vector: u16,
    /// The rings and the frame buffers: dropped last.
    rings: QueueMemory<P>,
    _frames: QueueMemory<P>,
}

// SAFETY: the frame buffers belong to the queue and are accessed only through it.
unsafe impl<P: Platform, B: DmaBuffer> Send for Vmxnet3Tx<P, B> {}
// SAFETY: no method accesses a frame buffer through a shared reference.
unsafe impl<P: Platform, B: DmaBuffer + Sync> Sync for Vmxnet3Tx<P, B> {}

impl<P: Platform, B: DmaBuffer> Vmxnet3Tx<P, B> {
    /// Allocates the rings of queue `index`, of `size` descriptors, a power of two from 32 to 4096.
    pub(crate) fn new(
        platform: &P,
        card: &PageArc<P, Card<P>>,
        (index, vector): (u16, u16),
        size: u32,
        limits: TxLimits,
    ) -> Result<Self, AllocError> {
        let frame_len = limits.max_frame.next_multiple_of(64);
        let most = u32::try_from(MAX_FRAME_BYTES.checked_div(frame_len).unwrap_or(0)).unwrap_or(u32::MAX);
        let count = most.max(MIN_FRAMES).min(size.saturating_sub(1));
        let entries = size as usize;
        let ring_len = entries.wrapping_mul(ENTRY_LEN);
        let rings = DmaRegion::alloc(platform, ring_len.wrapping_mul(2))?;
        let frames = DmaRegion::alloc(platform, frame_len.checked_mul(count as usize).ok_or(AllocError)?)?;
        let mut free_frames = Fifo::new(platform, count as usize)?;
        for frame in 0..count as u16 {
            // There is room for all of them.
            let _ = free_frames.push(frame);
        }
        let can_segment = limits.offloads.intersects(Offloads::TX_TCP4 | Offloads::TX_TCP6);
        let large = PageTable::try_new(platform, if can_segment { LARGE_FRAMES } else { 0 }, |_| {
            DmaSlice::alloc(platform, limits.max_segmented)
        })?;
        // SAFETY: the arrays are declared before the memory, so that they are dropped first.
        let (ring, completions) = unsafe {
            let ring = rings.shared().ring_array(0, entries).ok_or(AllocError)?;
            (ring, rings.shared().ring_array(ring_len, entries).ok_or(AllocError)?)
        };
        Ok(Self {
            ring,
            completions,
            size,
            produced: 0,
            consumed: 0,
            completed: 0,
            deferred: 0,
            packets: PageRing::new(platform, entries, |_| Packet::None)?,
            frames: frames.cpu(),
            frame_base: frames.bus(),
            frame_len,
            free_frames,
            large,
            reserved: Reserved::None,
            in_flight: 0,
            sent: Fifo::new(platform, entries)?,
            limits,
            watchdog: WATCHDOG,
            strays: 0,
            card: card.clone(),
            gate: 1,
            index,
            vector,
            rings: QueueMemory::new(rings, card),
            _frames: QueueMemory::new(frames, card),
        })
    }

    /// What the card is to know of the queue.
    pub(crate) fn setup(&self, vector: u16) -> TxSetup {
        let ring = self.rings.region().bus().0;
        let completions = ring.wrapping_add(u64::from(self.size).wrapping_mul(ENTRY_LEN as u64));
        TxSetup { ring, completions, size: self.size, vector }
    }

    /// How many frames can be in flight.
    pub(crate) fn depth(&self) -> u16 {
        self.free_frames.capacity() as u16
    }

    pub(crate) fn vector(&self) -> u16 {
        self.vector
    }

    pub(crate) fn set_gate(&mut self, gate: u32) {
        self.gate = gate;
    }

    #[inline(always)]
    fn is_open(&self) -> bool {
        self.card.gate() == self.gate
    }

    /// Descriptors in use.
    #[inline(always)]
    pub(crate) fn used(&self) -> u32 {
        self.produced.wrapping_sub(self.consumed)
    }

    /// Descriptors that can be written: one is always left, as in the drivers that the card is made for.
    #[inline(always)]
    fn free(&self) -> u32 {
        self.size.saturating_sub(1).saturating_sub(self.used())
    }

    /// Those of them that are not for the reserved frame.
    fn unreserved(&self) -> u32 {
        self.free().saturating_sub(match self.reserved {
            Reserved::None => 0,
            Reserved::Frame(_) => 1,
            Reserved::Large(_) => LARGE_DESCRIPTORS,
        })
    }

    /// Whether a queue of `card` with number `index` has this half.
    pub(crate) fn is_of(&self, card: &PageArc<P, Card<P>>, index: u16) -> bool {
        self.card.as_ptr() == card.as_ptr() && self.index == index
    }

    /// Whether a send has ended that was not returned yet.
    pub(crate) fn has_sent(&self) -> bool {
        !self.sent.is_empty()
    }

    /// Collects the packets that the card has sent.
    #[inline]
    pub(crate) fn poll(&mut self) {
        for _ in 0..self.size {
            let [first, second] = self.completions.at(self.completed as usize);
            let is_new = generation(self.completed, self.size);
            let read = || first.load(Ordering::Relaxed);
            let Some(last) = tx_completion(second.load(Ordering::Acquire), is_new, read) else { return };
            self.completed = self.completed.wrapping_add(1);
            let distance = u32::from(last).wrapping_sub(self.consumed) & self.size.wrapping_sub(1);
            let is_end = !matches!(self.packets.at(usize::from(last)), Packet::None);
            if u32::from(last) >= self.size || distance >= self.used() || !is_end {
                self.count_stray();
                continue;
            }
            self.watchdog.note_progress();
            // The card sends packets in their order: this one and those before it.
            for _ in 0..=distance {
                let at = self.consumed as usize;
                self.consumed = self.consumed.wrapping_add(1);
                match core::mem::replace(self.packets.at_mut(at), Packet::None) {
                    Packet::None => {}
                    Packet::Frame(frame) => self.free_frame(frame),
                    packet => self.finish(packet, true, Ok(())),
                }
            }
        }
    }

    /// Counts a completion of no packet: nothing depends on it.
    #[cold]
    fn count_stray(&mut self) {
        if self.strays == 0 {
            log::warn!("vmxnet3: completion of no packet that is in flight: ignored, as further ones");
        }
        self.strays = self.strays.saturating_add(1);
    }

    /// Ends a packet; `is_released` if the card no longer reads it.
    #[inline(never)]
    fn finish(&mut self, packet: Packet<B>, is_released: bool, result: Result<(), IoError>) {
        match packet {
            Packet::None => {}
            Packet::Frame(frame) => self.free_frame(frame),
            Packet::Large(index) => {
                if let Some(slice) = self.large.get_mut(usize::from(index)).filter(|_| is_released) {
                    // SAFETY: `send_large` submitted it for this packet, which the card has sent, or the card has stopped.
                    unsafe { slice.reclaim() };
                    slice.set_len(slice.capacity());
                }
            }
            Packet::Buffer(mut buffer, tag) => {
                self.in_flight = self.in_flight.saturating_sub(1);
                let buffer = is_released.then(|| {
                    // SAFETY: `send` submitted it for this packet, which the card has sent, or the card has stopped.
                    unsafe { buffer.reclaim() };
                    buffer
                });
                // `send` keeps room for it.
                let _ = self.sent.push(Sent::new(tag, buffer, result));
            }
        }
    }

    /// Ends what is in flight, after the card was taken out of service, and starts anew if it has stopped.
    pub(crate) fn drain(&mut self) {
        let is_released = self.card.is_quiesced();
        for at in 0..self.size as usize {
            let packet = core::mem::replace(self.packets.at_mut(at), Packet::None);
            self.finish(packet, is_released, Err(IoError::Aborted));
        }
        (self.produced, self.consumed, self.completed) = (0, 0, 0);
        self.deferred = 0;
        self.watchdog = WATCHDOG;
        if is_released {
            for at in 0..self.size as usize {
                for word in self.ring.at(at).iter().chain(self.completions.at(at)) {
                    word.store(0, Ordering::Relaxed);
                }
            }
        }
    }

    /// Writes the descriptors of a packet of `pieces`, of which there is at least one and for all of which there is room. The first one
    /// publishes the packet.
    fn push(&mut self, pieces: impl Iterator<Item = Segment>, offload: TxOffload, packet: Packet<B>) {
        let first = self.produced;
        let mut pieces = pieces.peekable();
        let mut publish = 0;
        while let Some(piece) = pieces.next() {
            let number = self.produced;
            self.produced = number.wrapping_add(1);
            let offload = if number == first { offload } else { TxOffload::default() };
            let is_new = generation(number, self.size);
            let second = tx_descriptor(piece.len, is_new, offload, pieces.peek().is_none());
            let [address, words] = self.ring.at(number as usize);
            address.store(piece.addr.0, Ordering::Relaxed);
            if number == first {
                publish = second;
            } else {
                words.store(second, Ordering::Relaxed);
            }
        }
        self.put_packet(self.produced.wrapping_sub(1), packet);
        let [_, words] = self.ring.at(first as usize);
        words.store(publish, Ordering::Release);
        self.deferred = self.deferred.saturating_add(1);
    }

    /// Records the packet that ends at descriptor `number`.
    #[inline(always)]
    fn put_packet(&mut self, number: u32, packet: Packet<B>) {
        let old = core::mem::replace(self.packets.at_mut(number as usize), packet);
        debug_assert!(matches!(old, Packet::None), "the descriptor is free");
        // Without a drop: there is nothing in it.
        core::mem::forget(old);
    }

    /// Sends the first `len` bytes of a frame buffer.
    #[inline(always)]
    fn send_frame(&mut self, frame: u16, len: usize, offload: TxOffload) {
        let number = self.produced;
        self.produced = number.wrapping_add(1);
        self.put_packet(number, Packet::Frame(frame));
        let [address, words] = self.ring.at(number as usize);
        address.store(self.frame_address(frame).0, Ordering::Relaxed);
        let second = tx_descriptor(len as u32, generation(number, self.size), offload, true);
        words.store(second, Ordering::Release);
        self.deferred = self.deferred.saturating_add(1);
    }

    #[inline(always)]
    fn free_frame(&mut self, frame: u16) {
        // There is room for all of them.
        let _ = self.free_frames.push(frame);
    }

    #[inline(always)]
    fn frame_address(&self, frame: u16) -> BusAddr {
        self.frame_base.offset(usize::from(frame).wrapping_mul(self.frame_len) as u64)
    }

    /// The bytes of a frame buffer that is reserved.
    #[inline(always)]
    fn frame_mut(&mut self, frame: u16) -> &mut [u8] {
        let offset = usize::from(frame).wrapping_mul(self.frame_len);
        // SAFETY: `frame` is below the number of frame buffers, as all in `free_frames` are, and it is reserved, so that it is not given
        // to the card; the queue is borrowed mutably. The buffers were allocated zeroed, and are alive as long as the queue.
        unsafe { core::slice::from_raw_parts_mut(self.frames.add(offset).as_ptr(), self.limits.max_frame) }
    }

    /// Asks for an interrupt only if a caller may wait for the completion of a send.
    pub(crate) fn arm(&mut self) -> Arm {
        self.kick();
        if self.has_sent() {
            return Arm::Pending;
        }
        let has_large = self.large.is_empty() || self.large.iter().any(|slice| !slice.is_in_flight());
        let has_room = self.free() as usize >= MAX_DESCRIPTORS && !self.free_frames.is_empty() && has_large;
        if has_room && self.in_flight == 0 {
            return Arm::Armed;
        }
        let registers = &self.card.registers;
        registers.unmask(self.vector);
        let [_, second] = self.completions.at(self.completed as usize);
        let is_new = generation(self.completed, self.size);
        match () {
            () if crate::wire::is_generation(second.load(Ordering::Acquire), is_new) => Arm::Pending,
            () if registers.has_interrupts() => Arm::Armed,
            () => Arm::Unsignalled,
        }
    }
}

/// The pieces of a segment that a descriptor can have.
fn split(segment: Segment) -> impl Iterator<Item = Segment> {
    (0..segment.len).step_by(MAX_PIECE as usize).map(move |at| Segment {
        addr: segment.addr.offset(u64::from(at)),
        len: segment.len.saturating_sub(at).min(MAX_PIECE),
    })
}

impl<P: Platform, B: DmaBuffer> NetTx for Vmxnet3Tx<P, B> {
    type Buffer = B;

    #[inline(always)]
    fn is_ready(&self, len: usize) -> bool {
        let is_open = self.is_open();
        match self.reserved {
            _ if len > self.limits.max_frame => {
                let is_large = len <= self.limits.max_segmented && !self.large.is_empty();
                let is_free = self.large.iter().any(|slice| !slice.is_in_flight());
                is_open && is_large && is_free && self.free() as usize >= len.div_ceil(MAX_PIECE as usize)
            }
            Reserved::None => is_open && self.free() > 0 && !self.free_frames.is_empty(),
            Reserved::Frame(_) | Reserved::Large(_) => is_open && self.free() > 0,
        }
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
                            self.free_frame(frame);
                        }
                        let free = self.large.iter().position(|slice| !slice.is_in_flight());
                        free.map_or(Reserved::None, |index| Reserved::Large(index as u16))
                    }
                };
            }
        }
        true
    }

    #[inline(always)]
    fn slot(&mut self) -> &mut [u8] {
        match self.reserved {
            Reserved::None => &mut [],
            Reserved::Frame(frame) => self.frame_mut(frame),
            Reserved::Large(index) => {
                self.large.get_mut(usize::from(index)).map_or(&mut [], DmaSlice::capacity_mut)
            }
        }
    }

    #[inline(always)]
    fn commit(&mut self, len: usize, meta: TxMeta) -> Result<(), Rejected> {
        let reserved = core::mem::replace(&mut self.reserved, Reserved::None);
        let is_plain = meta.vlan.is_none() && meta.checksum.is_none() && meta.segmentation.is_none();
        if let Reserved::Frame(frame) = reserved {
            if is_plain && len.wrapping_sub(1) < self.limits.max_frame && self.is_open() && self.free() > 0 {
                self.send_frame(frame, len, TxOffload::default());
                return Ok(());
            }
        }
        self.commit_other(reserved, len, &meta)
    }

    fn send(&mut self, tag: u64, mut frame: B, meta: TxMeta) -> Result<(), SendRefused<B>> {
        let refused = |reason, buffer| Err(SendRefused::new(reason, buffer));
        if !self.is_open() {
            return refused(self.card.fault().unwrap_or(Fault::Reset).into(), frame);
        }
        if self.sent.len().saturating_add(self.in_flight) >= self.sent.capacity() {
            return refused(Rejected::Full, frame);
        }
        if meta.segmentation.is_some() {
            // The sum in the frame's header has to be changed, which the driver may not do in memory of the caller.
            return refused(Rejected::Unsupported, frame);
        }
        let memory = match frame.submit(Direction::ToDevice) {
            Ok(memory) => memory,
            Err(error) => return refused(Rejected::Buffer(error), frame),
        };
        let (mut pieces, mut count, mut len) = ([Segment::default(); MAX_DESCRIPTORS], 0usize, 0usize);
        for piece in memory.as_slice().iter().copied().flat_map(split) {
            if let Some(to) = pieces.get_mut(count) {
                *to = piece;
            }
            count = count.saturating_add(1);
            len = len.saturating_add(piece.len as usize);
        }
        let TxLimits { offloads, max_frame, .. } = self.limits;
        let checked = match TxOffload::new(&meta, len, offloads, max_frame) {
            _ if count == 0 || count > MAX_DESCRIPTORS => Err(Rejected::Invalid),
            Ok(_) if count > self.unreserved() as usize => Err(Rejected::Full),
            checked => checked,
        };
        match checked {
            Ok(offload) => {
                self.in_flight = self.in_flight.saturating_add(1);
                self.push(pieces.into_iter().take(count), offload, Packet::Buffer(frame, tag));
                Ok(())
            }
            Err(reason) => {
                // SAFETY: it was put in flight above, and the card has not been given its addresses.
                unsafe { frame.reclaim() };
                refused(reason, frame)
            }
        }
    }

    fn sent(&mut self) -> Option<Sent<B>> {
        self.sent.pop()
    }

    #[inline(always)]
    fn kick(&mut self) {
        // What the card let wait is looked at again.
        if self.deferred == 0 || !self.is_open() {
            return;
        }
        if self.card.area().defer(self.index, self.deferred) {
            self.deferred = 0;
            self.card.registers.ring_tx(self.index, self.produced & self.size.wrapping_sub(1));
        }
    }
}

const _: () = assert!(LARGE_DESCRIPTORS as usize * MAX_PIECE as usize >= crate::MAX_SEGMENTED);

impl<P: Platform, B: DmaBuffer> Drop for Vmxnet3Tx<P, B> {
    fn drop(&mut self) {
        self.drain();
    }
}

impl<P: Platform, B: DmaBuffer> fmt::Debug for Vmxnet3Tx<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vmxnet3Tx")
            .field("size", &self.size)
            .field("used", &self.used())
            .finish_non_exhaustive()
    }
}

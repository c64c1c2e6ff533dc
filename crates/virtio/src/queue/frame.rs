//! A virtqueue for frames that the driver writes: the queue has a frame buffer for each ring entry. VIRTIO 1.3 §5.1.6.2
//!
//! The driver writes a frame directly to the memory that the device reads: [`reserve`](FrameQueue::reserve) allocates a slot,
//! [`frame_mut`](FrameQueue::frame_mut) returns its bytes, and [`submit_frame`](FrameQueue::submit_frame) stores the length and an
//! entry in the available ring. The descriptor's address is written once. A buffer of the caller is sent by the slot's indirect
//! table, after a header in the slot's frame buffer.

use super::memory::QueueMemory;
use super::split::{self, Split};
use super::types::Sealed;
use super::{
    DESC_F_INDIRECT, DESC_F_NEXT, DescWords, MAX_QUEUE_SIZE, QueueAddresses, Quiesced, Ring, write_desc,
};
use core::fmt;
use core::ptr::NonNull;
use paravirt_device::{Fault, Rejected};
use paravirt_platform::{AllocError, BusAddr, Direction, DmaBuffer, PageRing, Platform, RingArray, Segment};

/// The state of a slot.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum State {
    /// The slot is in the free list.
    Free,
    /// The driver may write the frame.
    Reserved,
    /// The frame is in flight.
    Frame,
    /// A buffer of the caller is in flight.
    Buffer,
}

struct Slot {
    /// The next free slot.
    next: u16,
    state: State,
    /// Whether the ring descriptor does not refer to the slot's frame: it refers to its indirect table, or is not written yet.
    links_table: bool,
}

/// A completed request.
#[derive(Debug)]
pub enum FrameUsed<B> {
    /// A frame in a frame buffer of the queue, whose slot is free now.
    Frame,
    /// A buffer of the caller, reclaimed (`None` if it had to be leaked), and its tag.
    Buffer(Option<B>, u64),
}

/// A split virtqueue with indirect tables, used out of order, for frames in its own frame buffers and in buffers `B` of the caller.
pub struct FrameQueue<P: Platform, B: DmaBuffer> {
    split: Split,
    free_head: u16,
    free: u16,
    size: u16,
    slots: PageRing<P, Slot>,
    /// The frame buffers, their bus address, and the length in bytes of one frame buffer.
    frames: NonNull<u8>,
    frame_base: BusAddr,
    frame_len: usize,
    tables: RingArray<DescWords>,
    table_base: BusAddr,
    /// The number of descriptors of an indirect table.
    capacity: u16,
    base: BusAddr,
    /// The caller's buffers in flight, by slot.
    buffers: PageRing<P, Option<(B, u64)>>,
    memory: QueueMemory<P>,
}

// SAFETY: the frame buffers belong to the queue and are accessed only through it.
unsafe impl<P: Platform, B: DmaBuffer> Send for FrameQueue<P, B> {}
// SAFETY: no method accesses a frame buffer through a shared reference.
unsafe impl<P: Platform, B: DmaBuffer> Sync for FrameQueue<P, B> {}

impl<P: Platform, B: DmaBuffer> FrameQueue<P, B> {
    /// Allocates a queue of `size` entries with a frame buffer of `frame_len` bytes each, for caller's buffers of up to `segments`
    /// segments. No device has its addresses yet.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if the platform has no memory for it, `size` is not a power of two or exceeds [`MAX_QUEUE_SIZE`], or a
    /// length is out of range.
    pub fn new(
        platform: &P,
        size: u16,
        frame_len: usize,
        segments: u16,
        event_idx: bool,
    ) -> Result<Self, AllocError> {
        if !size.is_power_of_two() || size > MAX_QUEUE_SIZE || u32::try_from(frame_len).is_err() {
            return Err(AllocError);
        }
        let entries = usize::from(size);
        let mut memory = QueueMemory::new();
        let region = memory.region(platform, split::layout(size).len)?;
        let split = Split::new(region, size, event_idx).ok_or(AllocError)?;
        let base = region.bus();
        let region = memory.region(platform, frame_len.checked_mul(entries).ok_or(AllocError)?)?;
        let (frames, frame_base) = (region.cpu(), region.bus());
        let capacity = segments.checked_add(1).and_then(u16::checked_next_power_of_two).ok_or(AllocError)?;
        let count = usize::from(capacity).saturating_mul(entries);
        let region = memory.region(platform, count.saturating_mul(size_of::<DescWords>()))?;
        // SAFETY: the queue owns the array and the memory; the array is declared before the memory, so that it is dropped first.
        let tables = unsafe { region.shared().ring_array(0, count) }.ok_or(AllocError)?;
        let table_base = region.bus();
        let slots = PageRing::new(platform, entries, |i| Slot {
            next: (i as u16).wrapping_add(1),
            state: State::Free,
            links_table: true,
        })?;
        let buffers = PageRing::new(platform, entries, |_| None)?;
        Ok(Self {
            split,
            free_head: 0,
            free: size,
            size,
            slots,
            frames,
            frame_base,
            frame_len,
            tables,
            table_base,
            capacity,
            base,
            buffers,
            memory,
        })
    }

    /// Returns the number of free slots.
    #[inline(always)]
    pub fn free(&self) -> u16 {
        self.free
    }

    /// Reserves a slot for a frame; `None` if no slot is free.
    #[inline(always)]
    pub fn reserve(&mut self) -> Option<u16> {
        self.free = self.free.checked_sub(1)?;
        let head = self.free_head;
        let slot = self.slots.at_mut(usize::from(head));
        self.free_head = slot.next;
        slot.state = State::Reserved;
        Some(head)
    }

    /// Returns the frame buffer of `slot`; empty if the slot is not reserved.
    #[inline(always)]
    pub fn frame_mut(&mut self, slot: u16) -> &mut [u8] {
        if slot >= self.size || self.slots.at(usize::from(slot)).state != State::Reserved {
            return &mut [];
        }
        let offset = usize::from(slot).wrapping_mul(self.frame_len);
        // SAFETY: `new` allocated `size` zeroed frame buffers, which `memory` keeps alive; `slot` is below `size`. The slot is
        // reserved, so that no device accesses its frame buffer, and the queue is borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(self.frames.add(offset).as_ptr(), self.frame_len) }
    }

    /// Submits the first `len` bytes of the frame in the reserved slot `slot`.
    ///
    /// # Errors
    ///
    /// [`Rejected::Invalid`] if the slot is not reserved, or `len` is 0 or exceeds the frame buffer. A reserved slot is then freed.
    #[inline(always)]
    pub fn submit_frame(&mut self, slot: u16, len: usize) -> Result<(), Rejected> {
        let entry = self.slots.at_mut(usize::from(slot));
        let is_reserved = slot < self.size && entry.state == State::Reserved;
        if !is_reserved || len.wrapping_sub(1) >= self.frame_len {
            self.release(slot);
            return Err(Rejected::Invalid);
        }
        entry.state = State::Frame;
        if entry.links_table {
            entry.links_table = false;
            self.link_frame(slot);
        }
        self.split.write_len(slot, len as u32);
        self.split.push(slot);
        Ok(())
    }

    /// Makes the ring descriptor of `slot` refer to the slot's frame.
    #[cold]
    #[inline(never)]
    fn link_frame(&self, slot: u16) {
        self.split.write_desc(slot, Segment { addr: self.frame_addr(slot), len: 0 }, 0, 0);
    }

    fn frame_addr(&self, slot: u16) -> BusAddr {
        self.frame_base.offset(usize::from(slot).wrapping_mul(self.frame_len) as u64)
    }

    /// Frees `slot` if it is reserved.
    pub fn release(&mut self, slot: u16) {
        if slot < self.size && self.slots.at(usize::from(slot)).state == State::Reserved {
            self.free_slot(slot);
        }
    }

    #[inline(always)]
    fn free_slot(&mut self, slot: u16) {
        let free_head = self.free_head;
        let entry = self.slots.at_mut(usize::from(slot));
        entry.state = State::Free;
        entry.next = free_head;
        self.free_head = slot;
        self.free = self.free.wrapping_add(1);
    }

    /// Submits `buffer` after a header of `HEADER` bytes, which `header` returns for its segments. `tag` is returned on completion.
    ///
    /// # Errors
    ///
    /// [`Rejected`], with the buffer, which is not in flight.
    pub fn submit_buffer<const HEADER: usize>(
        &mut self,
        mut buffer: B,
        tag: u64,
        header: impl FnOnce(&[Segment]) -> Result<[u8; HEADER], Rejected>,
    ) -> Result<(), (Rejected, B)> {
        let memory = match buffer.submit(Direction::ToDevice) {
            Ok(memory) => memory,
            Err(error) => return Err((Rejected::Buffer(error), buffer)),
        };
        match self.fill_table(memory.as_slice(), header) {
            Ok(slot) => {
                *self.buffers.at_mut(usize::from(slot)) = Some((buffer, tag));
                self.split.push(slot);
                Ok(())
            }
            Err(reason) => {
                // SAFETY: it was put in flight above, and the device has not been given its addresses.
                unsafe { buffer.reclaim() };
                Err((reason, buffer))
            }
        }
    }

    /// Allocates a slot, writes its indirect table, and makes the ring descriptor refer to the table.
    fn fill_table<const HEADER: usize>(
        &mut self,
        body: &[Segment],
        header: impl FnOnce(&[Segment]) -> Result<[u8; HEADER], Rejected>,
    ) -> Result<u16, Rejected> {
        if body.is_empty() || body.len() >= usize::from(self.capacity) {
            return Err(Rejected::Invalid);
        }
        let header = header(body)?;
        let slot = self.reserve().ok_or(Rejected::Full)?;
        match self.frame_mut(slot).first_chunk_mut() {
            Some(to) => *to = header,
            None => {
                self.release(slot);
                return Err(Rejected::Invalid);
            }
        }
        let head = Segment { addr: self.frame_addr(slot), len: HEADER as u32 };
        let start = usize::from(slot).wrapping_mul(usize::from(self.capacity));
        let last = body.len();
        for (at, segment) in core::iter::once(&head).chain(body).enumerate() {
            let (flags, next) = if at == last { (0, 0) } else { (DESC_F_NEXT, (at as u16).wrapping_add(1)) };
            write_desc(self.tables.at(start.wrapping_add(at)), *segment, flags, next);
        }
        let addr = self.table_base.offset((start as u64).wrapping_mul(size_of::<DescWords>() as u64));
        let len = (last as u32).wrapping_add(1).wrapping_mul(size_of::<DescWords>() as u32);
        self.split.write_desc(slot, Segment { addr, len }, DESC_F_INDIRECT, 0);
        let entry = self.slots.at_mut(usize::from(slot));
        (entry.state, entry.links_table) = (State::Buffer, true);
        Ok(slot)
    }

    /// Frees `slot` and returns its caller's buffer, reclaimed if the device no longer uses it (`is_released`); otherwise leaks
    /// the buffer.
    fn take_buffer(&mut self, slot: u16, is_released: bool) -> FrameUsed<B> {
        let taken = self.buffers.at_mut(usize::from(slot)).take();
        self.free_slot(slot);
        match taken {
            Some((mut buffer, tag)) if is_released => {
                // SAFETY: it was put in flight by `submit_buffer`, and the device has completed the request or has stopped.
                unsafe { buffer.reclaim() };
                FrameUsed::Buffer(Some(buffer), tag)
            }
            // A buffer that is dropped in flight leaks.
            taken => FrameUsed::Buffer(None, taken.map_or(0, |(_, tag)| tag)),
        }
    }
}

impl<P: Platform, B: DmaBuffer> Sealed for FrameQueue<P, B> {
    type Platform = P;

    unsafe fn take_memory(&mut self) -> QueueMemory<P> {
        core::mem::replace(&mut self.memory, QueueMemory::new())
    }
}

impl<P: Platform, B: DmaBuffer> Ring for FrameQueue<P, B> {
    type Used = FrameUsed<B>;

    fn addresses(&mut self) -> QueueAddresses {
        let [desc, driver, device] = Split::addresses(self.base, self.size);
        self.memory.set_live(QueueAddresses { size: self.size, desc, driver, device })
    }

    fn quiesce(&mut self, proof: &Quiesced) {
        self.memory.set_quiesced(proof);
        self.split.reinit();
        // Write each descriptor again before its next use: the device could write to them.
        for slot in 0..self.size {
            self.slots.at_mut(usize::from(slot)).links_table = true;
        }
    }

    fn reclaim_next(&mut self, proof: Option<&Quiesced>) -> Option<FrameUsed<B>> {
        let in_flight =
            |slot: &u16| matches!(self.slots.at(usize::from(*slot)).state, State::Frame | State::Buffer);
        let slot = (0..self.size).find(in_flight)?;
        if self.slots.at(usize::from(slot)).state == State::Buffer {
            return Some(self.take_buffer(slot, proof.is_some()));
        }
        match proof {
            Some(_) => self.free_slot(slot),
            // The device may still read the frame: its slot is never used again.
            None => self.slots.at_mut(usize::from(slot)).state = State::Reserved,
        }
        Some(FrameUsed::Frame)
    }

    #[inline(always)]
    fn pop(&mut self) -> Result<Option<FrameUsed<B>>, Fault> {
        let (size, free) = (self.size, self.free);
        let Some((id, len)) = self.split.peek(|| size.wrapping_sub(free))? else { return Ok(None) };
        // The device has nothing to write: its length must be 0.
        if id >= u32::from(size) || len != 0 {
            return Err(Fault::Protocol);
        }
        let slot = id as u16;
        match self.slots.at(usize::from(slot)).state {
            State::Frame => {
                self.split.advance_one();
                self.free_slot(slot);
                Ok(Some(FrameUsed::Frame))
            }
            State::Buffer => {
                self.split.advance_one();
                Ok(Some(self.take_buffer(slot, true)))
            }
            State::Free | State::Reserved => Err(Fault::Protocol),
        }
    }

    #[inline(always)]
    fn publish(&mut self) -> bool {
        self.split.publish()
    }

    #[inline]
    fn arm(&mut self) -> bool {
        self.split.arm()
    }

    fn disarm(&mut self) {
        self.split.disarm();
    }

    #[inline(always)]
    fn in_flight(&self) -> u16 {
        self.size.wrapping_sub(self.free)
    }
}

impl<P: Platform, B: DmaBuffer> fmt::Debug for FrameQueue<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameQueue")
            .field("size", &self.size)
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

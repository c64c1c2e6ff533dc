//! A virtqueue for frames that a driver writes: each ring entry has a frame buffer of the queue's own. VIRTIO 1.3 §5.1.6.2
//!
//! A frame is written where the device reads it: [`reserve`](FrameQueue::reserve) gives a slot, [`frame_mut`](FrameQueue::frame_mut)
//! its bytes, and [`submit_frame`](FrameQueue::submit_frame) stores its length and an entry in the available ring. The
//! descriptor's address is written once. A buffer of the caller's goes by the slot's indirect table, behind a header in the slot's
//! frame buffer.

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

/// What a slot is used for.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum State {
    /// Nothing: it is in the free list.
    Free,
    /// The driver writes its frame.
    Reserved,
    /// Its frame is in flight.
    Frame,
    /// A buffer of the caller's is in flight.
    Buffer,
}

struct Slot {
    /// The next free slot.
    next: u16,
    state: State,
    /// The ring's descriptor names the slot's indirect table, not its frame.
    names_table: bool,
}

/// A completed request.
#[derive(Debug)]
pub enum FrameUsed<B> {
    /// A frame of the queue's own, whose slot is free now.
    Frame,
    /// A buffer of the caller's, reclaimed, and what came with it; `None` where it had to be leaked.
    Buffer(Option<B>, u64),
}

/// A split virtqueue with indirect tables, used out of order, for frames in memory of its own and in buffers `B`.
pub struct FrameQueue<P: Platform, B: DmaBuffer> {
    split: Split,
    free_head: u16,
    free: u16,
    size: u16,
    slots: PageRing<P, Slot>,
    /// Frame buffers: where they are, and bytes of one.
    frames: NonNull<u8>,
    frame_base: BusAddr,
    frame_len: usize,
    tables: RingArray<DescWords>,
    table_base: BusAddr,
    /// Descriptors of an indirect table.
    capacity: u16,
    base: BusAddr,
    /// The caller's buffers in flight, by slot.
    buffers: PageRing<P, Option<(B, u64)>>,
    memory: QueueMemory<P>,
}

// SAFETY: the frames are memory of the queue's own, accessed through it only.
unsafe impl<P: Platform, B: DmaBuffer> Send for FrameQueue<P, B> {}
// SAFETY: shared access reads no frame.
unsafe impl<P: Platform, B: DmaBuffer> Sync for FrameQueue<P, B> {}

impl<P: Platform, B: DmaBuffer> FrameQueue<P, B> {
    /// A queue of `size` entries in memory of its own, which no device knows of yet, with a frame buffer of `frame_len` bytes for
    /// each, and for buffers of up to `segments` segments.
    ///
    /// # Errors
    ///
    /// [`AllocError`] where the platform has no memory for it, `size` is no power of two or above
    /// [`MAX_QUEUE_SIZE`], or a length is out of range.
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
        // SAFETY: the array lies in the queue ahead of the memory, and is dropped with it.
        let tables = unsafe { region.shared().ring_array(0, count) }.ok_or(AllocError)?;
        let table_base = region.bus();
        let slots = PageRing::new(platform, entries, |i| Slot {
            next: (i as u16).wrapping_add(1),
            state: State::Free,
            names_table: true,
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

    /// Slots that are free.
    #[inline(always)]
    pub fn free(&self) -> u16 {
        self.free
    }

    /// Takes a slot to write a frame in; `None` where there is none.
    #[inline(always)]
    pub fn reserve(&mut self) -> Option<u16> {
        self.free = self.free.checked_sub(1)?;
        let head = self.free_head;
        let slot = self.slots.at_mut(usize::from(head));
        self.free_head = slot.next;
        slot.state = State::Reserved;
        Some(head)
    }

    /// The frame buffer of `slot`, where it is reserved; else empty.
    #[inline(always)]
    pub fn frame_mut(&mut self, slot: u16) -> &mut [u8] {
        if slot >= self.size || self.slots.at(usize::from(slot)).state != State::Reserved {
            return &mut [];
        }
        let offset = usize::from(slot).wrapping_mul(self.frame_len);
        // SAFETY: `new` allocated `size` frames, zeroed, which the memory keeps; `slot` is one of them. It is reserved, so that no
        // device accesses its frame, and the queue is borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(self.frames.add(offset).as_ptr(), self.frame_len) }
    }

    /// Puts the first `len` bytes of the frame in `slot`, which is reserved, in flight.
    ///
    /// # Errors
    ///
    /// [`Rejected::Invalid`] where it is not reserved, or `len` is 0 or more than a frame; the slot is then free, if it was reserved.
    #[inline(always)]
    pub fn submit_frame(&mut self, slot: u16, len: usize) -> Result<(), Rejected> {
        let entry = self.slots.at_mut(usize::from(slot));
        let is_reserved = slot < self.size && entry.state == State::Reserved;
        if !is_reserved || len.wrapping_sub(1) >= self.frame_len {
            self.release(slot);
            return Err(Rejected::Invalid);
        }
        entry.state = State::Frame;
        if entry.names_table {
            entry.names_table = false;
            self.name_frame(slot);
        }
        self.split.write_len(slot, len as u32);
        self.split.push(slot);
        Ok(())
    }

    /// Has the ring name the frame of `slot`.
    #[cold]
    #[inline(never)]
    fn name_frame(&self, slot: u16) {
        self.split.write_desc(slot, Segment { addr: self.frame_addr(slot), len: 0 }, 0, 0);
    }

    fn frame_addr(&self, slot: u16) -> BusAddr {
        self.frame_base.offset(usize::from(slot).wrapping_mul(self.frame_len) as u64)
    }

    /// Frees `slot`, where it is reserved.
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

    /// Puts `buffer` in flight behind a header of `HEADER` bytes, which `header` makes from its segments.
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
                // SAFETY: it was put in flight above, and the device was not told of it.
                unsafe { buffer.reclaim() };
                Err((reason, buffer))
            }
        }
    }

    /// Writes the indirect table of a free slot, and has the ring name it.
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
        (entry.state, entry.names_table) = (State::Buffer, true);
        Ok(slot)
    }

    /// Takes the caller's buffer in `slot`, which is no longer in flight; it is reclaimed where `is_released`, else leaked.
    fn take_buffer(&mut self, slot: u16, is_released: bool) -> FrameUsed<B> {
        let taken = self.buffers.at_mut(usize::from(slot)).take();
        self.free_slot(slot);
        match taken {
            Some((mut buffer, tag)) if is_released => {
                // SAFETY: it was put in flight when it was submitted, and the device has returned it or has stopped.
                unsafe { buffer.reclaim() };
                FrameUsed::Buffer(Some(buffer), tag)
            }
            // A buffer that is dropped in flight leaks.
            taken => FrameUsed::Buffer(None, taken.map_or(0, |(_, tag)| tag)),
        }
    }
}

impl<P: Platform, B: DmaBuffer> Sealed for FrameQueue<P, B> {}

impl<P: Platform, B: DmaBuffer> Ring for FrameQueue<P, B> {
    type Used = FrameUsed<B>;

    fn addresses(&mut self) -> QueueAddresses {
        let [desc, driver, device] = Split::addresses(self.base, self.size);
        self.memory.set_live(QueueAddresses { size: self.size, desc, driver, device })
    }

    fn quiesce(&mut self, proof: &Quiesced) {
        self.memory.set_quiesced(proof);
        self.split.reinit();
        // The device could write them all.
        for slot in 0..self.size {
            self.slots.at_mut(usize::from(slot)).names_table = true;
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
            // The device may still read it: it is never used again.
            None => self.slots.at_mut(usize::from(slot)).state = State::Reserved,
        }
        Some(FrameUsed::Frame)
    }

    #[inline(always)]
    fn pop(&mut self) -> Result<Option<FrameUsed<B>>, Fault> {
        let (size, free) = (self.size, self.free);
        let Some((id, len)) = self.split.peek(|| size.wrapping_sub(free))? else { return Ok(None) };
        // The device was given nothing to write.
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

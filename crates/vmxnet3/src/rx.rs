//! The receive side: two rings of buffers, and the frames in those that the card has filled.

use crate::area::RxSetup;
use crate::card::{Card, QueueMemory};
use crate::wire::{RxCompletion, generation, is_generation, rx_descriptor};
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use paravirt_device::{Arm, NetRx, RxFrame, RxMeta};
use paravirt_platform::{
    AllocError, Direction, DmaBuffer, DmaRegion, DmaSlice, Fifo, PageArc, PageRing, Platform, RingArray,
};

/// Bytes of a buffer. A longer frame is in several.
pub(crate) const BUFFER_LEN: usize = 2048;
/// Bytes of a descriptor, and of a completion.
const ENTRY_LEN: usize = 16;

type Entry = [AtomicU64; 2];

/// A ring of buffers: the first one for the beginnings of frames, the second one for the rest of longer ones.
struct BufferRing<P: Platform> {
    ring: RingArray<Entry>,
    buffers: PageRing<P, Option<DmaSlice<P>>>,
    size: u32,
    is_second: bool,
    /// Descriptors written, and passed by the card: they run freely.
    filled: u32,
    passed: u32,
    /// The producer index that the card was told last.
    announced: u32,
}

impl<P: Platform> BufferRing<P> {
    fn new(platform: &P, ring: RingArray<Entry>, size: u32, is_second: bool) -> Result<Self, AllocError> {
        let buffers = PageRing::new(platform, size as usize, |_| None)?;
        Ok(Self { ring, buffers, size, is_second, filled: 0, passed: 0, announced: 0 })
    }

    /// Whether the card lacks a buffer. One descriptor is always left.
    #[inline(always)]
    fn has_room(&self) -> bool {
        self.filled.wrapping_sub(self.passed) < self.size.wrapping_sub(1)
    }

    /// Gives `spare` buffers to the card.
    #[inline(always)]
    fn refill(&mut self, spare: &mut Fifo<P, DmaSlice<P>>) {
        while self.has_room() {
            let Some(buffer) = spare.pop() else { return };
            if let Some(buffer) = self.post(buffer) {
                drop(spare.push(buffer));
                return;
            }
        }
    }

    /// Gives a buffer to the card; returns it if that is not possible.
    #[inline(always)]
    fn post(&mut self, mut buffer: DmaSlice<P>) -> Option<DmaSlice<P>> {
        let segment = match buffer.submit(Direction::FromDevice) {
            Ok(memory) => memory.as_slice().first().copied(),
            Err(_) => None,
        };
        let Some(segment) = segment else { return Some(buffer) };
        let number = self.filled;
        self.filled = number.wrapping_add(1);
        let old = self.buffers.at_mut(number as usize).replace(buffer);
        debug_assert!(old.is_none(), "the descriptor is free");
        // Without a drop: there is nothing in it.
        core::mem::forget(old);
        let [address, words] = self.ring.at(number as usize);
        address.store(segment.addr.0, Ordering::Relaxed);
        let second = rx_descriptor(segment.len, self.is_second, generation(number, self.size));
        words.store(second, Ordering::Release);
        None
    }

    /// Takes the buffer at `index` out, to which the card has written; those before it, which it has skipped, become spare. `None` if the
    /// card does not have that descriptor.
    #[inline(always)]
    fn take(&mut self, index: u16, spare: &mut Fifo<P, DmaSlice<P>>) -> Option<DmaSlice<P>> {
        let distance = u32::from(index).wrapping_sub(self.passed) & self.size.wrapping_sub(1);
        if u32::from(index) >= self.size || distance >= self.filled.wrapping_sub(self.passed) {
            return None;
        }
        for _ in 0..distance {
            let skipped = self.reclaim(self.passed as usize);
            self.passed = self.passed.wrapping_add(1);
            skipped.into_iter().for_each(|buffer| drop(spare.push(buffer)));
        }
        let buffer = self.reclaim(self.passed as usize);
        self.passed = self.passed.wrapping_add(1);
        buffer
    }

    /// The buffer of a descriptor that the card has passed, or of any once the card has stopped.
    #[inline(always)]
    fn reclaim(&mut self, at: usize) -> Option<DmaSlice<P>> {
        let mut buffer = self.buffers.at_mut(at).take()?;
        // SAFETY: `post` submitted it. The card has passed the descriptor, or has stopped, by the contract of this function.
        unsafe { buffer.reclaim() };
        Some(buffer)
    }

    /// Takes all buffers back and starts anew, or leaks them if the card has not stopped.
    fn drain(&mut self, is_released: bool, spare: &mut Fifo<P, DmaSlice<P>>) {
        for at in 0..self.size as usize {
            match is_released {
                true => self.reclaim(at).into_iter().for_each(|buffer| drop(spare.push(buffer))),
                // A buffer that is dropped in flight leaks.
                false => *self.buffers.at_mut(at) = None,
            }
            if is_released {
                self.ring.at(at).iter().for_each(|word| word.store(0, Ordering::Relaxed));
            }
        }
        (self.filled, self.passed, self.announced) = (0, 0, 0);
    }

    /// The index behind the last descriptor that was written.
    fn producer(&self) -> u32 {
        self.filled & self.size.wrapping_sub(1)
    }
}

/// A received buffer.
struct Part<P: Platform> {
    buffer: DmaSlice<P>,
    len: u32,
    /// In the first buffer of a frame: the frame, complete once all its parts have been received.
    frame: RxFrame,
}

/// The receive side of a queue pair.
pub struct Vmxnet3Rx<P: Platform> {
    rings: [BufferRing<P>; 2],
    completions: RingArray<Entry>,
    /// Completions of the ring, and those that were read.
    completion_size: u32,
    completed: u32,
    ready: Fifo<P, Part<P>>,
    /// The buffers that neither the card nor the caller has.
    spare: Fifo<P, DmaSlice<P>>,
    /// The parts of received frames, and of the frame that is being received, with its length.
    complete: usize,
    partial: u16,
    partial_len: usize,
    /// The first completion of that frame.
    first: Option<RxCompletion>,
    max_frame: usize,
    /// Completions that are odd, and frames that were dropped.
    strays: u64,
    card: PageArc<P, Card<P>>,
    gate: u32,
    index: u16,
    vector: u16,
    /// The rings: dropped last.
    memory: QueueMemory<P>,
}

impl<P: Platform> Vmxnet3Rx<P> {
    /// Allocates the rings of queue `index`, of `size` descriptors each, a power of two from 32 to 4096, and buffers for both.
    pub(crate) fn new(
        platform: &P,
        card: &PageArc<P, Card<P>>,
        (index, vector): (u16, u16),
        size: u32,
        max_frame: usize,
    ) -> Result<Self, AllocError> {
        let (entries, completion_size) = (size as usize, size.wrapping_mul(2));
        let ring_len = entries.wrapping_mul(ENTRY_LEN);
        let memory = DmaRegion::alloc(platform, ring_len.wrapping_mul(4))?;
        let array = |at: usize, count: usize| {
            // SAFETY: the arrays are declared before the memory, so that they are dropped first.
            unsafe { memory.shared().ring_array(at.wrapping_mul(ring_len), count) }.ok_or(AllocError)
        };
        let rings = [
            BufferRing::new(platform, array(0, entries)?, size, false)?,
            BufferRing::new(platform, array(1, entries)?, size, true)?,
        ];
        let completions = array(2, completion_size as usize)?;
        // As many as the rings take: none is spare while the caller has none.
        let count = entries.saturating_sub(1).saturating_mul(2);
        let (ready, mut spare) = (Fifo::new(platform, count)?, Fifo::new(platform, count)?);
        DmaSlice::alloc_many(platform, count, BUFFER_LEN, |slice| {
            // There is room for all of them.
            let _ = spare.push(slice);
        })?;
        Ok(Self {
            rings,
            completions,
            completion_size,
            completed: 0,
            ready,
            spare,
            complete: 0,
            partial: 0,
            partial_len: 0,
            first: None,
            max_frame,
            strays: 0,
            card: card.clone(),
            gate: 1,
            index,
            vector,
            memory: QueueMemory::new(memory, card),
        })
    }

    /// What the card is to know of the queue.
    pub(crate) fn setup(&self, vector: u16) -> RxSetup {
        let base = self.memory.region().bus().0;
        let [first, _] = &self.rings;
        let ring_len = u64::from(first.size).wrapping_mul(ENTRY_LEN as u64);
        let at = |index: u64| base.wrapping_add(ring_len.wrapping_mul(index));
        RxSetup { rings: [at(0), at(1)], completions: at(2), size: first.size, vector }
    }

    pub(crate) fn vector(&self) -> u16 {
        self.vector
    }

    /// Whether a queue of `card` with number `index` has this half.
    pub(crate) fn is_of(&self, card: &PageArc<P, Card<P>>, index: u16) -> bool {
        self.card.as_ptr() == card.as_ptr() && self.index == index
    }

    pub(crate) fn set_gate(&mut self, gate: u32) {
        self.gate = gate;
    }

    #[inline(always)]
    fn is_open(&self) -> bool {
        self.card.gate() == self.gate
    }

    /// Receives what the card has filled, and gives it spare buffers.
    #[inline]
    pub(crate) fn poll(&mut self) {
        for _ in 0..self.completion_size {
            let [first, second] = self.completions.at(self.completed as usize);
            let second = second.load(Ordering::Acquire);
            if !is_generation(second, generation(self.completed, self.completion_size)) {
                break;
            }
            let completion = RxCompletion::new(first.load(Ordering::Relaxed), second);
            self.completed = self.completed.wrapping_add(1);
            self.take_in(&completion);
        }
        self.refill();
    }

    #[inline(always)]
    fn take_in(&mut self, completion: &RxCompletion) {
        let Self { rings: [first, second], spare, .. } = self;
        let ring = match completion.queue().wrapping_sub(self.index) {
            0 => first,
            other if other == self.card.pairs => second,
            _ => return self.count_stray(),
        };
        let Some(buffer) = ring.take(completion.index(), spare) else { return self.count_stray() };
        let len = completion.len();
        let is_good = len > 0 && len as usize <= BUFFER_LEN && !completion.is_error();
        if is_good && completion.is_first() && completion.is_last() && self.partial == 0 {
            let head = buffer.bytes().get(..len as usize).unwrap_or_default();
            let meta = completion.meta(None, len as usize, self.max_frame, head);
            let frame = RxFrame::new(len as usize, 1, meta);
            // Each buffer is in one ring or queue only, so there is room.
            let _ = self.ready.push(Part { buffer, len, frame });
            self.complete = self.complete.wrapping_add(1);
            return;
        }
        self.take_in_part(completion, buffer, is_good);
    }

    /// Receives a buffer of a frame in several, or of one to be dropped.
    #[inline(never)]
    fn take_in_part(&mut self, completion: &RxCompletion, buffer: DmaSlice<P>, is_good: bool) {
        if completion.is_first() {
            self.drop_partial();
        }
        if !is_good || (self.partial == 0 && !completion.is_first()) {
            self.drop_partial();
            let _ = self.spare.push(buffer);
            // A buffer that the card has skipped.
            if !completion.is_empty() {
                self.count_stray();
            }
            return;
        }
        if completion.is_first() {
            self.first = Some(*completion);
        }
        let len = completion.len();
        self.partial_len = self.partial_len.saturating_add(len as usize);
        // Each buffer is in one ring or queue only, so there is room.
        let _ = self.ready.push(Part { buffer, len, frame: RxFrame::new(0, 1, RxMeta::default()) });
        self.partial = self.partial.wrapping_add(1);
        if !completion.is_last() {
            return;
        }
        let (segments, total) = (core::mem::take(&mut self.partial), core::mem::take(&mut self.partial_len));
        let max_frame = self.max_frame;
        let begun = self.first.take();
        if let Some(first) = self.ready.get_mut(self.complete) {
            let head = first.buffer.bytes().get(..first.len as usize).unwrap_or_default();
            first.frame =
                RxFrame::new(total, segments, completion.meta(begun.as_ref(), total, max_frame, head));
        }
        self.complete = self.complete.saturating_add(usize::from(segments));
    }

    /// Gives a buffer to the card if that lacks one, or keeps it.
    #[inline(always)]
    fn give_back(&mut self, buffer: DmaSlice<P>) {
        let is_open = self.is_open();
        let Self { rings: [first, _], spare, .. } = self;
        let kept =
            if is_open && spare.is_empty() && first.has_room() { first.post(buffer) } else { Some(buffer) };
        kept.into_iter().for_each(|buffer| drop(spare.push(buffer)));
    }

    /// Drops the frame that is being received.
    fn drop_partial(&mut self) {
        for _ in 0..core::mem::take(&mut self.partial) {
            self.ready.pop_back().into_iter().for_each(|part| drop(self.spare.push(part.buffer)));
        }
        self.partial_len = 0;
    }

    /// Counts what is odd, and harmless: nothing is taken from it.
    #[cold]
    fn count_stray(&mut self) {
        if self.strays == 0 {
            log::warn!("vmxnet3: odd completion of a received frame: dropped, as further ones");
        }
        self.strays = self.strays.saturating_add(1);
    }

    /// Gives spare buffers to the card, and tells it if it wants to hear of them.
    #[inline(always)]
    fn refill(&mut self) {
        if !self.is_open() {
            return;
        }
        if !self.spare.is_empty() {
            self.fill();
        }
        let Self { rings: [first, _], .. } = self;
        // In batches: `arm` tells the card of the rest.
        if first.producer().wrapping_sub(first.announced) & first.size.wrapping_sub(1) >= first.size >> 2 {
            self.announce();
        }
    }

    #[inline(never)]
    fn announce(&mut self) {
        let Self { rings, card, index, .. } = self;
        let is_news = rings.iter().any(|ring| ring.producer() != ring.announced);
        if !is_news || !card.area().wants_rx_producer(card.pairs, *index) {
            return;
        }
        for ring in rings {
            let producer = ring.producer();
            if core::mem::replace(&mut ring.announced, producer) != producer {
                card.registers.ring_rx(*index, ring.is_second, producer);
            }
        }
    }

    fn fill(&mut self) {
        let Self { rings, spare, .. } = self;
        rings.iter_mut().for_each(|ring| ring.refill(spare));
    }

    /// Takes everything back after the card was taken out of service.
    pub(crate) fn drain(&mut self) {
        let is_released = self.card.is_quiesced();
        self.drop_partial();
        let Self { rings, spare, completions, .. } = self;
        rings.iter_mut().for_each(|ring| ring.drain(is_released, spare));
        self.completed = 0;
        if is_released {
            for at in 0..self.completion_size as usize {
                completions.at(at).iter().for_each(|word| word.store(0, Ordering::Relaxed));
            }
        }
    }

    /// Gives buffers to a card that is about to be started, and returns what it is to be told of its rings.
    pub(crate) fn prepare(&mut self) -> [u32; 2] {
        self.fill();
        self.rings.each_mut().map(|ring| {
            ring.announced = ring.producer();
            ring.announced
        })
    }

    pub(crate) fn arm(&mut self) -> Arm {
        self.refill();
        if self.is_open() {
            // The card may have begun to wait since.
            self.announce();
        }
        let registers = &self.card.registers;
        registers.unmask(self.vector);
        let [_, second] = self.completions.at(self.completed as usize);
        let is_new = generation(self.completed, self.completion_size);
        match () {
            () if is_generation(second.load(Ordering::Acquire), is_new) => Arm::Pending,
            () if registers.has_interrupts() => Arm::Armed,
            () => Arm::Unsignalled,
        }
    }
}

impl<P: Platform> NetRx for Vmxnet3Rx<P> {
    #[inline]
    fn front(&self) -> Option<RxFrame> {
        if self.complete == 0 { None } else { self.ready.get(0).map(|part| part.frame) }
    }

    #[inline]
    fn segment(&mut self, index: u16) -> Option<&mut [u8]> {
        if index >= self.front()?.segments {
            return None;
        }
        let part = self.ready.get_mut(usize::from(index))?;
        part.buffer.bytes_mut().get_mut(..part.len as usize)
    }

    #[inline]
    fn pop(&mut self) {
        let Some(frame) = self.front() else { return };
        for _ in 0..frame.segments {
            let Some(part) = self.ready.pop() else { break };
            self.complete = self.complete.wrapping_sub(1);
            self.give_back(part.buffer);
        }
    }
}

impl<P: Platform> Drop for Vmxnet3Rx<P> {
    fn drop(&mut self) {
        self.drain();
    }
}

impl<P: Platform> fmt::Debug for Vmxnet3Rx<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vmxnet3Rx").field("ready", &self.complete).finish_non_exhaustive()
    }
}

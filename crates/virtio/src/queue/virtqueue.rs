//! The general virtqueue: both ring formats, requests of any shape.

use super::in_order::InOrder;
use super::memory::QueueMemory;
use super::packed::{self, Packed};
use super::slots::{Lengths, Owned, Slots};
use super::split::{self, Split};
use super::types::{Sealed, reclaim_or_leak};
use super::{
    AreaRange, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DataPlace, DescWords, MAX_QUEUE_SIZE, Parts,
    QueueAddresses, QueueConfig, Quiesced, Ring, RingFormat, Unsubmitted, Used, write_desc,
};
use core::fmt;
use core::sync::atomic::AtomicU64;
use paravirt_device::{Fault, Rejected};
use paravirt_platform::{
    AllocError, BusAddr, Direction, DmaBuffer, DmaSegments, Platform, RingArray, Segment,
};

/// The unit of a slot's area: a cache line.
type AreaLine = [AtomicU64; 8];
const AREA_LINE: usize = size_of::<AreaLine>();

enum AnyRing {
    Split(Split),
    Packed(Packed),
}

/// A virtqueue whose requests carry a buffer `B` and the driver's state `X`, both returned on completion.
pub struct VirtQueue<P: Platform, B: DmaBuffer, X> {
    ring: AnyRing,
    slots: Slots<P, B, X>,
    tables: Option<Tables>,
    areas: Option<Areas>,
    in_order: Option<InOrder<P>>,
    size: u16,
    /// The number of ring entries that are never used, as [`kept_free`](Self::kept_free) describes.
    reserve: u16,
    base: BusAddr,
    memory: QueueMemory<P>,
}

/// The indirect tables of all slots.
struct Tables {
    desc: RingArray<DescWords>,
    base: BusAddr,
    capacity: u16,
}

/// The areas of all slots.
struct Areas {
    lines: RingArray<AreaLine>,
    base: BusAddr,
    /// The size of one area in bytes, a multiple of a line.
    len: usize,
}

impl Areas {
    /// Returns the bus address of the area of `slot`, and its length in bytes.
    #[inline(always)]
    fn of(&self, slot: u16) -> (BusAddr, usize) {
        (self.base.offset(usize::from(slot).wrapping_mul(self.len) as u64), self.len)
    }
}

impl<P: Platform, B: DmaBuffer, X> VirtQueue<P, B, X> {
    /// Allocates a queue. No device has its addresses yet.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if the platform has no memory for it or `config` is out of range.
    pub fn new(platform: &P, config: QueueConfig) -> Result<Self, AllocError> {
        let QueueConfig { size, format, event_idx, in_order, indirect, area } = config;
        if !size.is_power_of_two() || size > MAX_QUEUE_SIZE || usize::from(area) % AREA_LINE != 0 {
            return Err(AllocError);
        }
        let entries = usize::from(size);
        let mut memory = QueueMemory::new();
        let (ring, base) = match format {
            RingFormat::Packed => {
                let region = memory.region(platform, packed::len(size))?;
                (AnyRing::Packed(Packed::new(region, size, event_idx).ok_or(AllocError)?), region.bus())
            }
            RingFormat::Split => {
                let region = memory.region(platform, split::layout(size).len)?;
                (AnyRing::Split(Split::new(region, size, event_idx).ok_or(AllocError)?), region.bus())
            }
        };
        let capacity =
            if indirect == 0 { 0 } else { indirect.checked_next_power_of_two().ok_or(AllocError)? };
        let tables = match entries.checked_mul(usize::from(capacity)).ok_or(AllocError)? {
            0 => None,
            count => {
                let region = memory.region(platform, count.saturating_mul(size_of::<DescWords>()))?;
                // SAFETY: the queue owns the array and the memory; the array is declared before the memory, so that it is dropped
                // first.
                let desc = unsafe { region.shared().ring_array(0, count) }.ok_or(AllocError)?;
                Some(Tables { desc, base: region.bus(), capacity })
            }
        };
        let areas = match usize::from(area) {
            0 => None,
            len => {
                let lines = (len / AREA_LINE).saturating_mul(entries).next_power_of_two();
                let region = memory.region(platform, lines.saturating_mul(AREA_LINE))?;
                // SAFETY: the queue owns the array and the memory; the array is declared before the memory, so that it is dropped
                // first.
                let lines = unsafe { region.shared().ring_array(0, lines) }.ok_or(AllocError)?;
                Some(Areas { lines, base: region.bus(), len })
            }
        };
        let in_order = if in_order { Some(InOrder::new(platform, entries)?) } else { None };
        let slots = Slots::new(platform, size)?;
        let reserve = Self::kept_free(&config);
        Ok(Self { ring, slots, tables, areas, in_order, size, reserve, base, memory })
    }

    /// Returns the number of entries of a queue that are never used: 1 for a device that uses requests in order, otherwise 0. In
    /// that mode, QEMU up to 10.0 mistakes a full ring for an empty one, and then never completes a request.
    pub const fn kept_free(config: &QueueConfig) -> u16 {
        if config.in_order && config.size > 1 { 1 } else { 0 }
    }

    /// Returns the maximum number of requests of `segments` segments in flight.
    pub fn depth(&self, segments: u16) -> u16 {
        let usable = self.size.saturating_sub(self.reserve);
        let entries = if self.is_indirect(usize::from(segments)) { 1 } else { segments.max(1) };
        usable.checked_div(entries).unwrap_or(0)
    }

    /// Returns the driver's state of each request in flight.
    pub fn extras(&self) -> impl Iterator<Item = &X> {
        self.slots.extras()
    }

    /// Returns whether there is room for a request of `segments` segments, head and tail included.
    #[inline(always)]
    pub fn has_room(&self, segments: u16) -> bool {
        let entries = if self.is_indirect(usize::from(segments)) { 1 } else { segments.max(1) };
        self.slots.free() >= entries.saturating_add(self.reserve)
    }

    #[inline(always)]
    fn is_indirect(&self, segments: usize) -> bool {
        segments > 1 && self.tables.as_ref().is_some_and(|t| segments <= usize::from(t.capacity))
    }

    /// Returns the first line of the area of `slot`; `None` if the queue has no areas.
    ///
    /// An area is memory of a slot that the device can access, for headers and status bytes: a multiple of 64 bytes. [`Parts`]
    /// selects ranges of it for a request.
    #[inline(always)]
    pub fn area(&self, slot: u16) -> Option<&[AtomicU64; 8]> {
        self.area_line(slot, 0)
    }

    /// Returns line `line`, of 64 bytes, of the area of `slot`; `None` if there is no such line.
    #[inline(always)]
    pub fn area_line(&self, slot: u16, line: usize) -> Option<&[AtomicU64; 8]> {
        let areas = self.areas.as_ref()?;
        let lines = areas.len / AREA_LINE;
        (line < lines).then(|| areas.lines.at(usize::from(slot).wrapping_mul(lines).wrapping_add(line)))
    }

    /// Disables the check of the lengths that the device reports, for devices that include the bytes that they read (QEMU's SCSI
    /// host). [`Used::len`] is then meaningless.
    pub fn ignore_lengths(&mut self) {
        self.slots.lengths = Lengths::Ignored;
    }

    /// Adds a request to the ring: its head, which the device reads, `buffer` in `direction`, and its tail, which the device
    /// writes.
    ///
    /// Before that, `prepare` is called with the buffer's segments and the first line of the slot's area; it may write to the area
    /// or refuse the request. On success the buffer is in flight, and the device sees the request after the next
    /// [`publish`](Ring::publish).
    ///
    /// # Errors
    ///
    /// [`Unsubmitted`], with the buffer and `extra`.
    #[inline(always)]
    #[allow(clippy::result_large_err, reason = "the error carries the request back: that is its point")]
    pub fn submit(
        &mut self,
        parts: Parts<'_>,
        mut buffer: Option<B>,
        direction: Direction,
        extra: X,
        prepare: impl FnOnce(&[Segment], Option<&[AtomicU64; 8]>) -> Result<(), Rejected>,
    ) -> Result<(), Unsubmitted<B, X>> {
        let memory = match &mut buffer {
            None => DmaSegments::EMPTY,
            Some(owned) => match owned.submit(direction) {
                Ok(memory) => memory,
                Err(error) => return Err(Unsubmitted { reason: Rejected::Buffer(error), buffer, extra }),
            },
        };
        match self.enqueue(parts, memory, prepare) {
            Ok(Enqueued { tail, entries, writable }) => {
                self.slots.take(tail, entries, writable, buffer, extra);
                Ok(())
            }
            Err(reason) => {
                if let Some(buffer) = &mut buffer {
                    // SAFETY: it was put in flight above, and `enqueue` has not given its addresses to the device.
                    unsafe { buffer.reclaim() }
                }
                Err(Unsubmitted { reason, buffer, extra })
            }
        }
    }

    /// Like [`submit`](Self::submit), with data that the caller keeps in flight, and reclaims after [`pop`](Ring::pop) has
    /// returned the request.
    ///
    /// # Errors
    ///
    /// [`Rejected`]; the device is not given the addresses of the data.
    #[inline(always)]
    pub fn submit_segments(
        &mut self,
        parts: Parts<'_>,
        data: DmaSegments<'_>,
        extra: X,
        prepare: impl FnOnce(&Self, u16) -> Result<(), Rejected>,
    ) -> Result<(), Rejected> {
        if self.slots.free() <= self.reserve {
            return Err(Rejected::Full);
        }
        prepare(self, self.slots.free_head())?;
        let Enqueued { tail, entries, writable } = self.enqueue(parts, data, |_, _| Ok(()))?;
        self.slots.take(tail, entries, writable, None, extra);
        Ok(())
    }

    /// Adds a request to the ring. Data of one segment, the common case, have a separate path, whose loops the compiler unrolls.
    #[inline(always)]
    fn enqueue(
        &mut self,
        parts: Parts<'_>,
        data: DmaSegments<'_>,
        prepare: impl FnOnce(&[Segment], Option<&[AtomicU64; 8]>) -> Result<(), Rejected>,
    ) -> Result<Enqueued, Rejected> {
        match data.as_slice() {
            [one] => self.enqueue_body(parts, &[*one], data.direction(), prepare),
            _ => self.enqueue_segments(parts, data, prepare),
        }
    }

    #[inline(never)]
    fn enqueue_segments(
        &mut self,
        parts: Parts<'_>,
        data: DmaSegments<'_>,
        prepare: impl FnOnce(&[Segment], Option<&[AtomicU64; 8]>) -> Result<(), Rejected>,
    ) -> Result<Enqueued, Rejected> {
        self.enqueue_body(parts, data.as_slice(), data.direction(), prepare)
    }

    #[inline(always)]
    fn enqueue_body(
        &mut self,
        parts: Parts<'_>,
        body: &[Segment],
        direction: Direction,
        prepare: impl FnOnce(&[Segment], Option<&[AtomicU64; 8]>) -> Result<(), Rejected>,
    ) -> Result<Enqueued, Rejected> {
        let Parts { head: reads, tail: writes, place } = parts;
        let count = reads.len().wrapping_add(body.len()).wrapping_add(writes.len());
        let indirect = self.is_indirect(count);
        let entries = if indirect { 1 } else { count };
        let reserve = usize::from(self.reserve);
        if count == 0 || entries.wrapping_add(reserve) > usize::from(self.slots.free()) {
            let never_fits = count == 0 || entries.wrapping_add(reserve) > usize::from(self.size);
            return Err(if never_fits { Rejected::Invalid } else { Rejected::Full });
        }
        let slot = self.slots.free_head();
        prepare(body, self.area(slot))?;
        let (area, area_len) = match &self.areas {
            Some(areas) => areas.of(slot),
            None => (BusAddr(0), 0),
        };
        let mut writable = 0u32;
        for range in reads {
            range.check(area_len)?;
        }
        for range in writes {
            range.check(area_len)?;
            writable = writable.wrapping_add(u32::from(range.len));
        }
        let is_written = direction == Direction::FromDevice;
        if is_written {
            writable = body.iter().fold(writable, |sum, segment| sum.saturating_add(segment.len));
        }
        let body_flags = if is_written { DESC_F_WRITE } else { 0 };
        if let ([], [one], []) = (reads, body, writes) {
            // Fast path for the requests of network queues: one segment, neither head nor tail.
            match &mut self.ring {
                AnyRing::Split(ring) => {
                    ring.write_desc(slot, *one, body_flags, 0);
                    ring.push(slot);
                }
                AnyRing::Packed(ring) => ring.push(*one, body_flags, slot),
            }
            if let Some(order) = &mut self.in_order {
                order.push(slot);
            }
            return Ok(Enqueued { tail: slot, entries: 1, writable });
        }
        let (before, after): (&[Segment], &[Segment]) = match place {
            DataPlace::AfterTail if is_written => (&[], body),
            _ => (body, &[]),
        };
        let chain = Chain { area, head: reads, before, body_flags, tail: writes, after };
        let tail = match (&mut self.ring, &self.tables) {
            (ring, Some(tables)) if indirect => {
                // The descriptors of a table have the format of the ring's descriptors.
                match ring {
                    AnyRing::Split(ring) => {
                        let table = tables.fill(slot, &chain, |flags, next| {
                            if next < count { (flags | DESC_F_NEXT, next as u16) } else { (flags, 0) }
                        });
                        ring.write_desc(slot, table, DESC_F_INDIRECT, 0);
                        ring.push(slot);
                    }
                    AnyRing::Packed(ring) => {
                        let table = tables.fill(slot, &chain, |flags, _| (0, flags));
                        ring.push(table, DESC_F_INDIRECT, slot);
                    }
                }
                slot
            }
            (AnyRing::Split(ring), _) => {
                let (mut at, mut left, mut last) = (slot, count, slot);
                chain.each(|segment, flags| {
                    left = left.wrapping_sub(1);
                    let next = self.slots.after(at);
                    ring.write_desc(at, segment, flags | if left > 0 { DESC_F_NEXT } else { 0 }, next);
                    last = at;
                    at = next;
                });
                ring.push(slot);
                last
            }
            (AnyRing::Packed(ring), _) => {
                let mut left = count;
                chain.each(|segment, flags| {
                    left = left.wrapping_sub(1);
                    ring.push(segment, flags | if left > 0 { DESC_F_NEXT } else { 0 }, slot);
                });
                slot
            }
        };
        if let Some(order) = &mut self.in_order {
            order.push(slot);
        }
        // In a packed ring the slot is a buffer id: descriptors are counted, not chained.
        Ok(Enqueued { tail, entries: entries as u16, writable })
    }
}

/// The ring entries that [`VirtQueue::enqueue`] wrote, to be recorded in the table of slots.
struct Enqueued {
    tail: u16,
    entries: u16,
    writable: u32,
}

impl<P: Platform, B: DmaBuffer, X> Sealed for VirtQueue<P, B, X> {
    type Platform = P;

    unsafe fn take_memory(&mut self) -> QueueMemory<P> {
        core::mem::replace(&mut self.memory, QueueMemory::new())
    }
}

impl<P: Platform, B: DmaBuffer, X> Ring for VirtQueue<P, B, X> {
    type Used = Used<B, X>;

    fn addresses(&mut self) -> QueueAddresses {
        let [desc, driver, device] = match self.ring {
            AnyRing::Split(_) => Split::addresses(self.base, self.size),
            AnyRing::Packed(_) => Packed::addresses(self.base, self.size),
        };
        self.memory.set_live(QueueAddresses { size: self.size, desc, driver, device })
    }

    fn quiesce(&mut self, proof: &Quiesced) {
        self.memory.set_quiesced(proof);
        match &mut self.ring {
            AnyRing::Split(ring) => ring.reinit(),
            AnyRing::Packed(ring) => ring.reinit(),
        }
        if let Some(order) = &mut self.in_order {
            order.clear();
        }
    }

    fn reclaim_next(&mut self, proof: Option<&Quiesced>) -> Option<Used<B, X>> {
        let slot = self.slots.first_in_flight()?;
        let Owned { buffer, extra } = self.slots.release(slot)?;
        // SAFETY: it was put in flight by this queue in `submit`.
        let buffer = buffer.and_then(|buffer| unsafe { reclaim_or_leak(buffer, proof) });
        Some(Used { slot, len: 0, buffer, extra })
    }

    #[inline(always)]
    fn pop(&mut self) -> Result<Option<Used<B, X>>, Fault> {
        let batch = self.in_order.as_ref().and_then(|order| order.batch);
        let used = match (batch, &mut self.ring) {
            (Some((id, len)), _) => Some((u32::from(id), len)),
            (None, AnyRing::Split(ring)) => {
                let slots = &self.slots;
                ring.peek(|| slots.in_flight())?
            }
            (None, AnyRing::Packed(ring)) => ring.peek().map(|(id, len)| (u32::from(id), len)),
        };
        let Some((id, len)) = used else { return Ok(None) };
        let (slot, len) = match &mut self.in_order {
            None => (id, len),
            Some(order) => {
                // The device may report only the last request of a batch: it used the earlier ones completely (§2.7.9).
                self.slots.check(id, 0)?;
                let slot = order.pop().ok_or(Fault::Protocol)?;
                let is_last = u32::from(slot) == id;
                order.batch = if is_last { None } else { Some((id as u16, len)) };
                (u32::from(slot), if is_last { len } else { self.slots.writable(slot) })
            }
        };
        let entries = self.slots.check(slot, len)?;
        match &mut self.ring {
            AnyRing::Split(ring) => ring.advance()?,
            AnyRing::Packed(ring) => ring.advance(entries),
        }
        let slot = slot as u16;
        let Owned { mut buffer, extra } = self.slots.release(slot).ok_or(Fault::Protocol)?;
        if let Some(buffer) = &mut buffer {
            // SAFETY: it was put in flight by `submit`, and the device has completed the request, once: the slot is free now.
            unsafe { buffer.reclaim() }
        }
        Ok(Some(Used { slot, len, buffer, extra }))
    }

    #[inline(always)]
    fn publish(&mut self) -> bool {
        match &mut self.ring {
            AnyRing::Split(ring) => ring.publish(),
            AnyRing::Packed(ring) => ring.publish(),
        }
    }

    #[inline]
    fn arm(&mut self) -> bool {
        if self.in_order.as_ref().is_some_and(|order| order.batch.is_some()) {
            return true;
        }
        match &mut self.ring {
            AnyRing::Split(ring) => ring.arm(),
            AnyRing::Packed(ring) => ring.arm(),
        }
    }

    fn disarm(&mut self) {
        match &mut self.ring {
            AnyRing::Split(ring) => ring.disarm(),
            AnyRing::Packed(ring) => ring.disarm(),
        }
    }

    #[inline(always)]
    fn in_flight(&self) -> u16 {
        self.slots.in_flight()
    }
}

impl<P: Platform, B: DmaBuffer, X> fmt::Debug for VirtQueue<P, B, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtQueue")
            .field("size", &self.size)
            .field("in_flight", &self.slots.in_flight())
            .finish_non_exhaustive()
    }
}

/// The segments of a request in the order of the chain: head, data before the tail, tail, data after the tail.
struct Chain<'a> {
    /// The bus address of the area that contains head and tail.
    area: BusAddr,
    head: &'a [AreaRange],
    before: &'a [Segment],
    body_flags: u16,
    tail: &'a [AreaRange],
    after: &'a [Segment],
}

impl Chain<'_> {
    /// Calls `work` with each segment and its flags. The loops are separate so that the compiler can unroll those of constant
    /// length.
    #[inline(always)]
    fn each(&self, mut work: impl FnMut(Segment, u16)) {
        for range in self.head {
            work(range.segment(self.area), 0);
        }
        for segment in self.before {
            work(*segment, self.body_flags);
        }
        for range in self.tail {
            work(range.segment(self.area), DESC_F_WRITE);
        }
        for segment in self.after {
            work(*segment, self.body_flags);
        }
    }
}

impl Tables {
    /// Writes the chain to the table of `slot` and returns the segment for the ring descriptor. `halves` returns the two upper
    /// 16-bit fields of each descriptor for its flags and the index of the next descriptor.
    #[inline(always)]
    fn fill(&self, slot: u16, chain: &Chain<'_>, halves: impl Fn(u16, usize) -> (u16, u16)) -> Segment {
        let start = usize::from(slot).wrapping_mul(usize::from(self.capacity));
        let mut at = 0usize;
        chain.each(|segment, flags| {
            let next = at.wrapping_add(1);
            let (low, high) = halves(flags, next);
            write_desc(self.desc.at(start.wrapping_add(at)), segment, low, high);
            at = next;
        });
        Segment { addr: self.base.offset((start as u64).wrapping_mul(16)), len: (at as u32).wrapping_mul(16) }
    }
}

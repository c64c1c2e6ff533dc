//! A virtqueue for requests that consist of a header of 16 bytes, data, and a status byte. VIRTIO 1.3 §5.2.6
//!
//! Each slot has a *record*: a cache line with the indirect table of the three parts, and the header. The fields that are the same
//! for every request (the addresses of header and status, the flags) are written once, so that a request of one segment costs four
//! stores and an entry in the available ring. Status bytes are in a separate array. A request that does not fit a record (with
//! several segments, without data, or with a parameter) uses the slot's *table*, a general indirect table. The slot's descriptor
//! then refers to the table until the next request that fits a record.
//!
//! ```text
//! record:  [header][data][status]  header          status bytes: [0][1][2]…
//!           16      16    16       16   bytes
//! ```

use super::memory::QueueMemory;
use super::split::{self, Split};
use super::types::{Sealed, reclaim_or_leak};
use super::{
    DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DescWords, MAX_QUEUE_SIZE, QueueAddresses, Quiesced, Ring,
    Used, desc_word, write_desc,
};
use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use paravirt_device::{Fault, Rejected};
use paravirt_platform::{AllocError, BusAddr, Direction, DmaBuffer, PageRing, Platform, RingArray, Segment};

/// A record: the descriptors of header, data and status, and the header.
type Record = [AtomicU64; 8];
const RECORD_LEN: u64 = 64;
/// The word offsets of the data descriptor and the header in a record, and the lengths in bytes of its table and header.
const DATA: usize = 2;
const HEADER: usize = 6;
const TABLE_LEN: u32 = 48;
const HEADER_LEN: u32 = 16;
/// The parameter of a slot: the body of a request without a buffer.
type Parameter = [AtomicU64; 4];
const PARAMETER_LEN: u64 = 32;
/// The value of a status byte until the device has written it.
pub const STATUS_NONE: u8 = 0xff;

/// The indirect table to which the ring descriptor of a slot refers.
#[derive(Copy, Clone, Eq, PartialEq)]
enum Linked {
    Record,
    Table,
}

/// A request in flight.
struct Pending<B, X> {
    buffer: Option<B>,
    extra: X,
}

/// A slot: one cache line for the usual sizes of `B` and `X`.
#[repr(align(64))]
struct Slot<B, X> {
    /// The next free slot.
    next: u16,
    linked: Linked,
    /// `None` while the slot is free.
    pending: Option<Pending<B, X>>,
}

/// Checks transfers against the limits of a device.
pub trait TransferCheck {
    /// Checks that the device accepts data of one segment of `len` bytes.
    ///
    /// # Errors
    ///
    /// [`Rejected`], the reason with which the request is refused.
    fn one(&self, len: u32) -> Result<(), Rejected>;

    /// Checks that the device accepts data of these segments.
    ///
    /// # Errors
    ///
    /// [`Rejected`], the reason with which the request is refused.
    fn segments(&self, segments: &[Segment]) -> Result<(), Rejected>;
}

/// The body of a request without a buffer, between header and status.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Body {
    /// No body.
    None,
    /// Two words that the device reads.
    Words([u64; 2]),
    /// This number of bytes that the device writes, at most 32.
    Answer(u8),
}

/// A split virtqueue with indirect tables, used out of order, whose requests consist of a header, data in a buffer `B`, and a
/// status byte. The driver keeps an `X` with each request.
pub struct RecordQueue<P: Platform, B: DmaBuffer, X> {
    split: Split,
    /// The first free slot; `size` if there is none.
    free_head: u16,
    size: u16,
    slots: PageRing<P, Slot<B, X>>,
    records: RingArray<Record>,
    statuses: RingArray<AtomicU8>,
    parameters: RingArray<Parameter>,
    tables: RingArray<DescWords>,
    /// The number of descriptors of a table.
    capacity: u16,
    /// The bus addresses of ring, records, status bytes, parameters and tables.
    base: BusAddr,
    record_base: BusAddr,
    status_base: BusAddr,
    parameter_base: BusAddr,
    table_base: BusAddr,
    memory: QueueMemory<P>,
}

/// Returns the bus address of the record of `slot`.
fn record_addr(base: BusAddr, slot: u16) -> BusAddr {
    base.offset(u64::from(slot).wrapping_mul(RECORD_LEN))
}

/// Makes the ring descriptor of `slot` refer to the slot's record, of the records at `base`.
fn link_record(split: &Split, slot: u16, base: BusAddr) {
    let table = Segment { addr: record_addr(base, slot), len: TABLE_LEN };
    split.write_desc(slot, table, DESC_F_INDIRECT, 0);
}

/// Like [`link_record`], for a slot whose descriptor refers to its table. It takes parts of the queue as arguments, so that the
/// compiler knows that the call does not change the other parts.
#[cold]
#[inline(never)]
fn restore_record(split: &Split, slot: u16, base: BusAddr) {
    link_record(split, slot, base);
}

impl<P: Platform, B: DmaBuffer, X> RecordQueue<P, B, X> {
    /// Allocates a queue of `size` entries, for data of up to `segments` segments. No device has its addresses yet.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if the platform has no memory for it, or `size` is not a power of two or exceeds [`MAX_QUEUE_SIZE`].
    pub fn new(platform: &P, size: u16, segments: u16, event_idx: bool) -> Result<Self, AllocError> {
        if !size.is_power_of_two() || size > MAX_QUEUE_SIZE {
            return Err(AllocError);
        }
        let entries = usize::from(size);
        let mut memory = QueueMemory::new();
        let region = memory.region(platform, split::layout(size).len)?;
        let split = Split::new(region, size, event_idx).ok_or(AllocError)?;
        let base = region.bus();

        // Records, parameters and status bytes in one region, each aligned to its size.
        let parameter_start = entries.saturating_mul(RECORD_LEN as usize);
        let status_start = parameter_start.saturating_add(entries.saturating_mul(PARAMETER_LEN as usize));
        let region = memory.region(platform, status_start.saturating_add(entries))?;
        let (record_base, view) = (region.bus(), region.shared());
        let parameter_base = record_base.offset(parameter_start as u64);
        let status_base = record_base.offset(status_start as u64);
        // SAFETY: the queue owns the arrays and the memory; the arrays are declared before the memory, so that they are dropped
        // first.
        let arrays = unsafe {
            view.ring_array(0, entries)
                .zip(view.ring_array(parameter_start, entries))
                .zip(view.ring_array(status_start, entries))
        };
        let ((records, parameters), statuses) = arrays.ok_or(AllocError)?;

        let capacity = segments.checked_add(2).and_then(u16::checked_next_power_of_two).ok_or(AllocError)?;
        let count = usize::from(capacity).saturating_mul(entries);
        let region = memory.region(platform, count.saturating_mul(size_of::<DescWords>()))?;
        // SAFETY: the queue owns the array and the memory; the array is declared before the memory, so that it is dropped first.
        let tables = unsafe { region.shared().ring_array(0, count) }.ok_or(AllocError)?;
        let table_base = region.bus();

        let slots = PageRing::new(platform, entries, |i| Slot {
            next: (i as u16).wrapping_add(1),
            linked: Linked::Record,
            pending: None,
        })?;
        let queue = Self {
            split,
            free_head: 0,
            size,
            slots,
            records,
            statuses,
            parameters,
            tables,
            capacity,
            base,
            record_base,
            status_base,
            parameter_base,
            table_base,
            memory,
        };
        for slot in 0..size {
            queue.write_record(slot);
        }
        Ok(queue)
    }

    /// Writes the constant fields of the record of `slot`, and makes the ring descriptor refer to the record.
    fn write_record(&self, slot: u16) {
        let words = [
            self.header_segment(slot).addr.0,
            desc_word(HEADER_LEN, DESC_F_NEXT, 1),
            0,
            0,
            self.status_segment(slot).addr.0,
            desc_word(1, DESC_F_WRITE, 0),
        ];
        let record = self.records.at(usize::from(slot));
        record.iter().zip(words).for_each(|(to, word)| to.store(word, Ordering::Relaxed));
        link_record(&self.split, slot, self.record_base);
    }

    fn header_segment(&self, slot: u16) -> Segment {
        let record = record_addr(self.record_base, slot);
        Segment { addr: record.offset(u64::from(TABLE_LEN)), len: HEADER_LEN }
    }

    fn status_segment(&self, slot: u16) -> Segment {
        Segment { addr: self.status_base.offset(u64::from(slot)), len: 1 }
    }

    /// Returns the maximum number of requests in flight.
    pub fn depth(&self) -> u16 {
        self.size
    }

    /// Puts `buffer` in flight and adds a request for it to the ring, if `check` accepts its segments. The device sees the request
    /// after the next [`publish`](Ring::publish).
    ///
    /// # Errors
    ///
    /// [`Rejected`], with the buffer, which is not in flight.
    #[inline(always)]
    pub fn submit(
        &mut self,
        header: [u64; 2],
        mut buffer: B,
        direction: Direction,
        extra: X,
        check: impl TransferCheck,
    ) -> Result<(), (Rejected, B)> {
        let segment = match buffer.submit(direction) {
            Ok(memory) => match memory.as_slice() {
                [one] => *one,
                _ => return self.submit_segments(header, buffer, extra, check, direction),
            },
            Err(error) => return Err((Rejected::Buffer(error), buffer)),
        };
        let refused = match check.one(segment.len) {
            Ok(()) if self.free_head < self.size => None,
            Ok(()) => Some(Rejected::Full),
            Err(reason) => Some(reason),
        };
        if let Some(reason) = refused {
            // SAFETY: it was put in flight above, and the device has not been given its addresses.
            unsafe { buffer.reclaim() };
            return Err((reason, buffer));
        }
        let flags = match direction {
            Direction::FromDevice => DESC_F_NEXT | DESC_F_WRITE,
            Direction::ToDevice => DESC_F_NEXT,
        };
        let head = self.free_head;
        self.enter(
            head,
            Some([segment.addr.0, desc_word(segment.len, flags, 2)]),
            header,
            Some(buffer),
            extra,
        );
        Ok(())
    }

    /// Stores a request in `head`, the first free slot, and adds it to the ring. `data` is the data descriptor of a request that
    /// uses the record; `None` if the request uses the slot's table.
    #[inline(always)]
    fn enter(&mut self, head: u16, data: Option<[u64; 2]>, header: [u64; 2], buffer: Option<B>, extra: X) {
        // Compute all addresses first: no store below changes them, but the compiler cannot know that.
        let index = usize::from(head);
        let (record, status) = (self.records.at(index), self.statuses.at(index));
        let slot = self.slots.at_mut(index);
        if let Some(data) = data {
            if slot.linked != Linked::Record {
                slot.linked = Linked::Record;
                restore_record(&self.split, head, self.record_base);
            }
            record[DATA].store(data[0], Ordering::Relaxed);
            record[DATA + 1].store(data[1], Ordering::Relaxed);
        }
        record[HEADER].store(header[0], Ordering::Relaxed);
        record[HEADER + 1].store(header[1], Ordering::Relaxed);
        status.store(STATUS_NONE, Ordering::Relaxed);
        self.free_head = slot.next;
        // A free slot holds `None`: there is nothing to drop.
        core::mem::forget(slot.pending.replace(Pending { buffer, extra }));
        self.split.push(head);
    }

    /// Continues [`submit`](Self::submit) for a buffer in flight whose number of segments is not 1.
    #[inline(never)]
    fn submit_segments(
        &mut self,
        header: [u64; 2],
        mut buffer: B,
        extra: X,
        check: impl TransferCheck,
        direction: Direction,
    ) -> Result<(), (Rejected, B)> {
        // Submit the buffer again to get its segments: the segments of the first call borrow from the buffer and could not be
        // passed here. SAFETY: it was put in flight by `submit`, and the device has not been given its addresses.
        unsafe { buffer.reclaim() };
        let memory = match buffer.submit(direction) {
            Ok(memory) => memory,
            Err(error) => return Err((Rejected::Buffer(error), buffer)),
        };
        let filled = match check.segments(memory.as_slice()) {
            Ok(()) => self.fill_table(memory.as_slice(), direction),
            Err(reason) => Err(reason),
        };
        match filled {
            Ok(()) => {
                self.enter(self.free_head, None, header, Some(buffer), extra);
                Ok(())
            }
            Err(reason) => {
                // SAFETY: it was put in flight above, and the device has not been given its addresses.
                unsafe { buffer.reclaim() };
                Err((reason, buffer))
            }
        }
    }

    /// Adds a request without a buffer to the ring.
    ///
    /// # Errors
    ///
    /// [`Rejected::Full`] if no slot is free.
    pub fn submit_command(&mut self, header: [u64; 2], body: Body, extra: X) -> Result<(), Rejected> {
        let head = self.free_head;
        let addr = self.parameter_base.offset(u64::from(head).wrapping_mul(PARAMETER_LEN));
        let parameter = self.parameters.at(usize::from(head));
        let (segment, direction) = match body {
            Body::None => (None, Direction::ToDevice),
            Body::Words(_) => (Some(Segment { addr, len: 16 }), Direction::ToDevice),
            Body::Answer(len) => {
                let len = u32::from(len).clamp(1, PARAMETER_LEN as u32);
                (Some(Segment { addr, len }), Direction::FromDevice)
            }
        };
        if self.free_head >= self.size {
            return Err(Rejected::Full);
        }
        let words = if let Body::Words([first, second]) = body { [first, second, 0, 0] } else { [0; 4] };
        parameter.iter().zip(words).for_each(|(to, word)| to.store(word, Ordering::Relaxed));
        self.fill_table(segment.as_slice(), direction)?;
        self.enter(head, None, header, None, extra);
        Ok(())
    }

    /// Writes the table of the first free slot, and makes the ring descriptor refer to the table.
    fn fill_table(&mut self, body: &[Segment], direction: Direction) -> Result<(), Rejected> {
        if self.free_head >= self.size {
            return Err(Rejected::Full);
        }
        if body.len().saturating_add(2) > usize::from(self.capacity) {
            return Err(Rejected::Invalid);
        }
        let slot = self.free_head;
        let body_flags = if direction == Direction::FromDevice { DESC_F_WRITE } else { 0 };
        let segments = core::iter::once((self.header_segment(slot), 0))
            .chain(body.iter().map(|segment| (*segment, body_flags)));
        let start = usize::from(slot).wrapping_mul(usize::from(self.capacity));
        let mut at = 0u16;
        for (segment, flags) in segments {
            let next = at.wrapping_add(1);
            let desc = self.tables.at(start.wrapping_add(usize::from(at)));
            write_desc(desc, segment, flags | DESC_F_NEXT, next);
            at = next;
        }
        let desc = self.tables.at(start.wrapping_add(usize::from(at)));
        write_desc(desc, self.status_segment(slot), DESC_F_WRITE, 0);
        let addr = self.table_base.offset((start as u64).wrapping_mul(16));
        let len = u32::from(at).wrapping_add(1).wrapping_mul(16);
        self.split.write_desc(slot, Segment { addr, len }, DESC_F_INDIRECT, 0);
        self.slots.at_mut(usize::from(slot)).linked = Linked::Table;
        Ok(())
    }

    /// Returns the status that the device wrote for the completed request in `slot`.
    #[inline(always)]
    pub fn status(&self, slot: u16) -> u8 {
        self.statuses.at(usize::from(slot)).load(Ordering::Relaxed)
    }

    /// Returns the bytes that the device wrote to the parameter of `slot`, for a request with a [`Body::Answer`].
    pub fn answer(&self, slot: u16) -> [u8; PARAMETER_LEN as usize] {
        let mut bytes = [0; PARAMETER_LEN as usize];
        for (to, word) in bytes.chunks_exact_mut(8).zip(self.parameters.at(usize::from(slot))) {
            to.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        bytes
    }

    /// Returns the driver's state of each request in flight.
    pub fn extras(&self) -> impl Iterator<Item = &X> {
        self.slots.iter().filter_map(|slot| slot.pending.as_ref()).map(|pending| &pending.extra)
    }

    /// Returns the slot of the next request.
    pub fn next_slot(&self) -> u16 {
        self.free_head
    }

    #[inline(always)]
    fn release(&mut self, slot: u16) -> Option<Pending<B, X>> {
        let free_head = self.free_head;
        let entry = self.slots.at_mut(usize::from(slot));
        let pending = entry.pending.take()?;
        entry.next = free_head;
        self.free_head = slot;
        Some(pending)
    }
}

impl<P: Platform, B: DmaBuffer, X> Sealed for RecordQueue<P, B, X> {
    type Platform = P;

    unsafe fn take_memory(&mut self) -> QueueMemory<P> {
        core::mem::replace(&mut self.memory, QueueMemory::new())
    }
}

impl<P: Platform, B: DmaBuffer, X> Ring for RecordQueue<P, B, X> {
    type Used = Used<B, X>;

    fn addresses(&mut self) -> QueueAddresses {
        let [desc, driver, device] = Split::addresses(self.base, self.size);
        self.memory.set_live(QueueAddresses { size: self.size, desc, driver, device })
    }

    fn quiesce(&mut self, proof: &Quiesced) {
        self.memory.set_quiesced(proof);
        self.split.reinit();
        // Rewrite all records: the device could write to them.
        for slot in 0..self.size {
            self.write_record(slot);
            self.slots.at_mut(usize::from(slot)).linked = Linked::Record;
        }
    }

    fn reclaim_next(&mut self, proof: Option<&Quiesced>) -> Option<Used<B, X>> {
        let slot = (0..self.size).find(|slot| self.slots.at(usize::from(*slot)).pending.is_some())?;
        let Pending { buffer, extra } = self.release(slot)?;
        // Count it as completed: its used element will not arrive. The rings are reinitialised before the queue is used again.
        self.split.advance_one();
        // SAFETY: it was put in flight by this queue in `submit`.
        let buffer = buffer.and_then(|buffer| unsafe { reclaim_or_leak(buffer, proof) });
        Some(Used { slot, len: 0, buffer, extra })
    }

    #[inline(always)]
    fn pop(&mut self) -> Result<Option<Used<B, X>>, Fault> {
        let Some((id, _len)) = self.split.peek_outstanding()? else { return Ok(None) };
        if id >= u32::from(self.size) {
            return Err(Fault::Protocol);
        }
        let slot = id as u16;
        let entry = self.slots.at_mut(usize::from(slot));
        let Some(Pending { mut buffer, extra }) = entry.pending.take() else { return Err(Fault::Protocol) };
        self.split.advance_one();
        entry.next = self.free_head;
        self.free_head = slot;
        if let Some(buffer) = &mut buffer {
            // SAFETY: it was put in flight by `submit`, and the device has completed the request, once: the slot is free now.
            unsafe { buffer.reclaim() }
        }
        Ok(Some(Used { slot, len: 0, buffer, extra }))
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
        self.split.outstanding()
    }
}

impl<P: Platform, B: DmaBuffer, X> fmt::Debug for RecordQueue<P, B, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordQueue")
            .field("size", &self.size)
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

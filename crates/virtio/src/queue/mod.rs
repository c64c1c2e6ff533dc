//! The virtqueue, split or packed, with what is in flight on it.
//!
//! A request is moved in with its buffer and comes out with it; in between, the buffer is lent. The memory that the
//! device can write (the rings, and a small area for each slot) is seen as atomics only, and what the device says (an
//! id, a length, an index) is read once, checked against private state and accepted once.
//!
//! ```text
//! submit ─► [prefix | buffer | suffix] ─► ring ─► publish ─► (kick)
//!    pop ◄── slot table ◄── id, length ◄── ring
//! ```

pub mod decide;
mod in_order;
mod packed;
mod slots;
mod split;
mod types;

pub use types::{QueueAddresses, QueueConfig, Quiesced, SlotArea, Unsubmitted, Used};

use core::sync::atomic::{AtomicU64, Ordering};
use in_order::InOrder;
use packed::Packed;
use paravirt_device::{Fault, Rejected};
use paravirt_platform::{AllocError, BusAddr, Direction, DmaBuffer, DmaRegion, Platform, RingArray, Segment};
use slots::{Owned, Slots};
use split::Split;

/// VIRTIO 1.3 §2.7.5, §2.8.1
const DESC_F_NEXT: u16 = 1;
const DESC_F_WRITE: u16 = 2;
const DESC_F_INDIRECT: u16 = 4;

/// The largest queue. VIRTIO 1.3 §2.7
pub const MAX_QUEUE_SIZE: u16 = 1 << 15;

/// A descriptor, of either ring or an indirect table, as two words.
type DescWords = [AtomicU64; 2];

#[inline(always)]
const fn desc_word(len: u32, low: u16, high: u16) -> u64 {
    len as u64 | ((low as u64) << 32) | ((high as u64) << 48)
}

#[inline(always)]
fn write_desc(desc: &DescWords, segment: Segment, low: u16, high: u16) {
    desc[0].store(segment.addr.0, Ordering::Relaxed);
    desc[1].store(desc_word(segment.len, low, high), Ordering::Relaxed);
}

/// The memory of a queue that the device accesses.
struct QueueMemory<P: Platform> {
    ring: DmaRegion<P>,
    tables: Option<DmaRegion<P>>,
    areas: Option<DmaRegion<P>>,
}

struct Areas {
    words: RingArray<SlotArea>,
    base: BusAddr,
}

enum Ring {
    Split(Split),
    Packed(Packed),
}

/// A virtqueue whose requests carry a buffer `B` and whatever else the driver wants to have back, `X`.
pub struct VirtQueue<P: Platform, B: DmaBuffer, X> {
    ring: Ring,
    slots: Slots<P, B, X>,
    tables: Option<Tables>,
    areas: Option<Areas>,
    in_order: Option<InOrder<P>>,
    config: QueueConfig,
    memory: Option<QueueMemory<P>>,
    /// Whether a device may access the memory.
    live: bool,
    /// Ring entries that are never used: see [`kept_free`](Self::kept_free).
    reserve: u16,
}

struct Tables {
    desc: RingArray<DescWords>,
    base: BusAddr,
    capacity: u16,
}

impl<P: Platform, B: DmaBuffer, X> VirtQueue<P, B, X> {
    /// A queue in memory of its own, which no device knows of yet.
    ///
    /// # Errors
    ///
    /// [`AllocError`] where the platform has no memory for it or `config` is out of range.
    pub fn new(platform: &P, config: QueueConfig) -> Result<Self, AllocError> {
        let QueueConfig { size, .. } = config;
        if !size.is_power_of_two() || size > MAX_QUEUE_SIZE {
            return Err(AllocError);
        }
        let entries = usize::from(size);
        let ring_len = if config.packed { packed::len(size) } else { split::layout(size).len };
        let capacity = if config.indirect == 0 { 0 } else { config.indirect.next_power_of_two() };
        let region = |bytes_per_slot: usize| match bytes_per_slot {
            0 => Ok(None),
            n => DmaRegion::alloc(platform, n.saturating_mul(entries)).map(Some),
        };
        let memory = QueueMemory {
            ring: DmaRegion::alloc(platform, ring_len)?,
            tables: region(usize::from(capacity).saturating_mul(16))?,
            areas: region(if config.slot_areas { size_of::<SlotArea>() } else { 0 })?,
        };
        let ring = if config.packed {
            Ring::Packed(Packed::new(&memory, size, config.event_idx).ok_or(AllocError)?)
        } else {
            Ring::Split(Split::new(&memory, size, config.event_idx).ok_or(AllocError)?)
        };
        let tables = match &memory.tables {
            None => None,
            Some(region) => Some(Tables {
                // SAFETY: the array lives in the queue beside the memory and is dropped with it.
                desc: unsafe { region.shared().ring_array(0, entries.saturating_mul(usize::from(capacity))) }
                    .ok_or(AllocError)?,
                base: region.bus(),
                capacity,
            }),
        };
        let areas = match &memory.areas {
            None => None,
            Some(region) => Some(Areas {
                // SAFETY: as above.
                words: unsafe { region.shared().ring_array(0, entries) }.ok_or(AllocError)?,
                base: region.bus(),
            }),
        };
        let in_order = match config.in_order {
            false => None,
            true => Some(InOrder::new(platform, entries)?),
        };
        let slots = Slots::new(platform, size)?;
        let reserve = Self::kept_free(&config);
        Ok(Self { ring, slots, tables, areas, in_order, config, memory: Some(memory), live: false, reserve })
    }

    /// Entries of such a queue that are never used. A device that uses requests in order gets one fewer than the ring has:
    /// QEMU up to 10.0 takes a ring that is full for one that is empty, and then never completes anything.
    pub const fn kept_free(config: &QueueConfig) -> u16 {
        if config.in_order && config.size > 1 { 1 } else { 0 }
    }

    /// Requests of `segments` segments that can be in flight at once.
    pub fn depth(&self, segments: u16) -> u16 {
        let usable = self.config.size.saturating_sub(self.reserve);
        let entries = if self.is_indirect(usize::from(segments)) { 1 } else { segments.max(1) };
        usable.checked_div(entries).unwrap_or(0)
    }

    /// Where its parts are.
    pub fn addresses(&self) -> QueueAddresses {
        let size = self.config.size;
        let base = self.memory.as_ref().map_or(BusAddr(0), |m| m.ring.bus());
        let [desc, driver, device] = match self.ring {
            Ring::Split(_) => Split::addresses(base, size),
            Ring::Packed(_) => Packed::addresses(base, size),
        };
        QueueAddresses { size, desc, driver, device }
    }

    /// Says that a device is about to be told of the queue: from now on its memory is leaked rather than freed, until
    /// [`quiesce`](Self::quiesce).
    pub fn set_live(&mut self) {
        self.live = true;
    }

    /// Says that the device has let go, and makes the rings new. What is in flight stays in the table: see
    /// [`take_back`](Self::take_back).
    pub fn quiesce(&mut self, _proof: &Quiesced) {
        self.live = false;
        match &mut self.ring {
            Ring::Split(ring) => ring.reinit(),
            Ring::Packed(ring) => ring.reinit(),
        }
        if let Some(order) = &mut self.in_order {
            order.clear();
        }
    }

    /// Takes back one request that was in flight, as never used; with `proof`, its buffer too, else that is leaked.
    pub fn take_back(&mut self, proof: Option<&Quiesced>) -> Option<Used<B, X>> {
        let slot = self.slots.next_in_flight(0)?;
        let Owned { mut buffer, extra } = self.slots.release(slot, 0).ok()?;
        match (&mut buffer, proof) {
            (Some(buffer), Some(_)) => {
                // SAFETY: it was lent when it was submitted, and the proof says that the device has stopped.
                unsafe { buffer.reclaim() }
            }
            // A buffer that is dropped while lent leaks.
            _ => buffer = None,
        }
        Some(Used { slot, len: 0, buffer, extra })
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> u16 {
        self.slots.in_flight()
    }

    /// What the driver keeps with each request in flight.
    pub fn extras(&self) -> impl Iterator<Item = &X> {
        self.slots.extras()
    }

    /// The slot that the next request will have.
    #[inline(always)]
    pub fn next_slot(&self) -> u16 {
        self.slots.free_head()
    }

    /// Whether a request of `segments` segments, prefix and suffix included, would find room.
    #[inline(always)]
    pub fn has_room(&self, segments: u16) -> bool {
        let entries = if self.is_indirect(usize::from(segments)) { 1 } else { segments.max(1) };
        self.slots.free() >= entries.saturating_add(self.reserve)
    }

    #[inline(always)]
    fn is_indirect(&self, segments: usize) -> bool {
        segments > 1 && self.tables.as_ref().is_some_and(|t| segments <= usize::from(t.capacity))
    }

    /// The most segments that a request can have.
    pub fn max_segments(&self) -> u16 {
        self.tables.as_ref().map_or(0, |t| t.capacity).max(self.config.size)
    }

    /// The device-visible memory of `slot`, and where the device sees it; `None` where the queue was made without.
    #[inline(always)]
    pub fn area(&self, slot: u16) -> Option<(&SlotArea, BusAddr)> {
        let areas = self.areas.as_ref()?;
        let offset = u64::from(slot).wrapping_mul(size_of::<SlotArea>() as u64);
        Some((areas.words.at(usize::from(slot)), areas.base.offset(offset)))
    }

    /// Lets the device say what it likes of how much it wrote: for devices that count what they read as well, as QEMU's SCSI host
    /// does. [`Used::len`] means nothing then.
    pub(crate) fn ignore_lengths(&mut self) {
        self.slots.ignores_lengths = true;
    }

    /// Lends `buffer` and puts a request in the ring: `prefix`, which the device reads, the buffer in `direction`, and
    /// `suffix`, which the device writes. Before that, `prepare` may look at the buffer's segments and write to the slot's
    /// area, or refuse. The device sees the request at the next [`publish`](Self::publish).
    ///
    /// # Errors
    ///
    /// [`Unsubmitted`], with what was given.
    #[inline(always)]
    #[allow(clippy::result_large_err, reason = "the error carries the request back: that is its point")]
    pub fn submit(
        &mut self,
        prefix: &[Segment],
        mut buffer: Option<B>,
        direction: Direction,
        suffix: &[Segment],
        extra: X,
        prepare: impl FnOnce(&[Segment], Option<&SlotArea>) -> Result<(), Rejected>,
    ) -> Result<(), Unsubmitted<B, X>> {
        let body = match &mut buffer {
            None => &[],
            Some(lent) => match lent.submit(direction).map(|s| s.as_slice()) {
                Ok(segments) => segments,
                Err(error) => return Err(Unsubmitted { reason: Rejected::Buffer(error), buffer, extra }),
            },
        };
        let count = prefix.len().wrapping_add(body.len()).wrapping_add(suffix.len());
        let indirect = self.is_indirect(count);
        let entries = if indirect { 1 } else { count };
        let reserve = usize::from(self.reserve);
        let fits = if count == 0 || entries.wrapping_add(reserve) > usize::from(self.config.size) {
            Err(Rejected::Invalid)
        } else if entries.wrapping_add(reserve) > usize::from(self.slots.free()) {
            Err(Rejected::Full)
        } else {
            let slot = usize::from(self.slots.free_head());
            prepare(body, self.areas.as_ref().map(|areas| areas.words.at(slot)))
        };
        if let Err(reason) = fits {
            if let Some(buffer) = &mut buffer {
                // SAFETY: it was lent above, and no device was told.
                unsafe { buffer.reclaim() }
            }
            return Err(Unsubmitted { reason, buffer, extra });
        }
        let written = if direction == Direction::FromDevice { body } else { &[] };
        let writable =
            written.iter().chain(suffix).fold(0u32, |sum, segment| sum.saturating_add(segment.len));
        let body_flags = if direction == Direction::FromDevice { DESC_F_WRITE } else { 0 };
        let chain = Chain { prefix, body, body_flags, suffix };
        let head = self.slots.free_head();
        let tail = match (&mut self.ring, &self.tables) {
            (ring, Some(tables)) if indirect => {
                // The descriptors of a table have the format of the ring's.
                match ring {
                    Ring::Split(ring) => {
                        let table = tables.fill(head, &chain, |flags, next| {
                            if next < count { (flags | DESC_F_NEXT, next as u16) } else { (flags, 0) }
                        });
                        ring.write_desc(head, table, DESC_F_INDIRECT, 0);
                        ring.push(head);
                    }
                    Ring::Packed(ring) => {
                        let table = tables.fill(head, &chain, |flags, _| (0, flags));
                        ring.push(table, DESC_F_INDIRECT, head);
                    }
                }
                head
            }
            (Ring::Split(ring), _) => {
                let (mut at, mut left, mut last) = (head, count, head);
                chain.each(|segment, flags| {
                    left = left.wrapping_sub(1);
                    let next = self.slots.after(at);
                    ring.write_desc(at, segment, flags | if left > 0 { DESC_F_NEXT } else { 0 }, next);
                    last = at;
                    at = next;
                });
                ring.push(head);
                last
            }
            (Ring::Packed(ring), _) => {
                let mut left = count;
                chain.each(|segment, flags| {
                    left = left.wrapping_sub(1);
                    ring.push(segment, flags | if left > 0 { DESC_F_NEXT } else { 0 }, head);
                });
                head
            }
        };
        // In a packed ring the slot is an id; descriptors are counted, not chained.
        self.slots.take(tail, entries as u16, writable, Owned { buffer, extra });
        if let Some(order) = &mut self.in_order {
            order.push(head);
        }
        Ok(())
    }

    /// Shows the device what was submitted since the last time; whether it has to be kicked.
    #[inline(always)]
    #[must_use]
    pub fn publish(&mut self) -> bool {
        match &mut self.ring {
            Ring::Split(ring) => ring.publish(),
            Ring::Packed(ring) => ring.publish(),
        }
    }

    /// Takes one request that the device has used.
    ///
    /// # Errors
    ///
    /// [`Fault::Protocol`] where the device names a request that is not in flight, claims to have written more than it was
    /// given, or moves an index too far. Nothing is taken then; the device has to be reset.
    #[inline(always)]
    pub fn pop(&mut self) -> Result<Option<Used<B, X>>, Fault> {
        let in_flight = self.slots.in_flight();
        let batch = self.in_order.as_ref().and_then(|order| order.batch);
        let used = match (batch, &mut self.ring) {
            (Some(batch), _) => Some(batch),
            (None, Ring::Split(ring)) => ring.peek(in_flight)?,
            (None, Ring::Packed(ring)) => ring.peek(),
        };
        let Some((id, len)) = used else { return Ok(None) };
        let (slot, len) = match &mut self.in_order {
            None => (id, len),
            Some(order) => {
                // The device may name the last of a batch only: those ahead of it were used in full (§2.7.9).
                self.slots.entries(id)?;
                let slot = order.pop().ok_or(Fault::Protocol)?;
                order.batch = (slot != id).then_some((id, len));
                (slot, if slot == id { len } else { self.slots.writable(slot) })
            }
        };
        let entries = self.slots.entries(slot)?;
        match &mut self.ring {
            Ring::Split(ring) => ring.advance()?,
            Ring::Packed(ring) => ring.advance(entries),
        }
        let Owned { mut buffer, extra } = self.slots.release(slot, len)?;
        if let Some(buffer) = &mut buffer {
            // SAFETY: it was lent when it was submitted, and the device has returned it, once: the slot is free now.
            unsafe { buffer.reclaim() }
        }
        Ok(Some(Used { slot, len, buffer, extra }))
    }

    /// Asks the device for an interrupt at the next used request; whether there already is one, so that no interrupt may
    /// come.
    #[inline]
    #[must_use]
    pub fn arm(&mut self) -> bool {
        if self.in_order.as_ref().is_some_and(|order| order.batch.is_some()) {
            return true;
        }
        match &mut self.ring {
            Ring::Split(ring) => ring.arm(),
            Ring::Packed(ring) => ring.arm(),
        }
    }

    /// Tells the device that no interrupt is wanted.
    pub fn disarm(&mut self) {
        match &mut self.ring {
            Ring::Split(ring) => ring.disarm(),
            Ring::Packed(ring) => ring.disarm(),
        }
    }
}

/// The segments of a request: what the device reads, the buffer, what the device writes.
struct Chain<'a> {
    prefix: &'a [Segment],
    body: &'a [Segment],
    body_flags: u16,
    suffix: &'a [Segment],
}

impl Chain<'_> {
    /// Hands each segment to `work`, with its flags. Three loops, of which those over constant lengths unroll.
    #[inline(always)]
    fn each(&self, mut work: impl FnMut(Segment, u16)) {
        for segment in self.prefix {
            work(*segment, 0);
        }
        for segment in self.body {
            work(*segment, self.body_flags);
        }
        for segment in self.suffix {
            work(*segment, DESC_F_WRITE);
        }
    }
}

impl Tables {
    /// Writes the chain into the table of `slot`, the halves of each descriptor's last word as `halves` makes them from its
    /// flags and the place of the next; the segment that the ring descriptor names.
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

impl<P: Platform, B: DmaBuffer, X> Drop for VirtQueue<P, B, X> {
    fn drop(&mut self) {
        if self.live
            && let Some(QueueMemory { ring, tables, areas }) = self.memory.take()
        {
            ring.leak();
            tables.into_iter().chain(areas).for_each(DmaRegion::leak);
        }
    }
}

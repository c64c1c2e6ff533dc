//! The split virtqueue: descriptor table, available ring, used ring. VIRTIO 1.3 §2.7

use super::DescWords;
use super::decide::{ask_then_look, need_event, publish_then_look};
use core::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use paravirt_device::Fault;
use paravirt_platform::{BusAddr, DmaRegion, Platform, RingArray, Segment};

/// The driver needs no interrupt. VIRTIO 1.3 §2.7.6
const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// The device needs no kick. VIRTIO 1.3 §2.7.8
const USED_F_NO_NOTIFY: u16 = 1;
/// The size of a descriptor in bytes.
const DESC_LEN: usize = 16;
/// The alignment of the used ring in bytes: a cache line, of which driver and device write no other part. A device with the legacy
/// interface is told it and computes the address.
pub(crate) const USED_ALIGN: usize = 64;

pub(super) struct Split {
    desc: RingArray<DescWords>,
    /// `flags`, `idx`, then the ring, then `used_event`; see [`Layout`].
    avail_flags: RingArray<AtomicU16>,
    avail_idx: RingArray<AtomicU16>,
    avail: RingArray<AtomicU16>,
    used_event: RingArray<AtomicU16>,
    used_flags: RingArray<AtomicU16>,
    used_idx: RingArray<AtomicU16>,
    /// The used elements: id and length.
    used: RingArray<[AtomicU32; 2]>,
    avail_event: RingArray<AtomicU16>,
    /// The available index, and its value at the last publish.
    avail_next: u16,
    published: u16,
    /// The index of the next used element to complete, and the device's used index as last read.
    used_next: u16,
    used_read: u16,
    event_idx: bool,
    interrupts_off: bool,
}

/// The offsets of the three parts in one page-aligned region, and its length.
pub(super) struct Layout {
    pub avail: usize,
    pub used: usize,
    pub len: usize,
}

/// Computes the layout from the sizes and alignments of the parts. VIRTIO 1.3 §2.7
pub(super) const fn layout(size: u16) -> Layout {
    let size = size as usize;
    let avail = size.saturating_mul(DESC_LEN);
    // flags, idx, ring, used_event.
    let used = avail.saturating_add(size.saturating_mul(2)).saturating_add(6).next_multiple_of(USED_ALIGN);
    let len = used.saturating_add(size.saturating_mul(8)).saturating_add(6);
    Layout { avail, used, len }
}

impl Split {
    pub fn new<P: Platform>(region: &DmaRegion<P>, size: u16, event_idx: bool) -> Option<Self> {
        let Layout { avail, used, .. } = layout(size);
        let n = usize::from(size);
        let ring = region.shared();
        let (used_event, avail_event) = (
            avail.checked_add(4)?.checked_add(n.checked_mul(2)?)?,
            used.checked_add(4)?.checked_add(n.checked_mul(8)?)?,
        );
        // SAFETY: the queue owns the arrays and the memory; the arrays are declared before the memory, so that they are dropped
        // first.
        unsafe {
            Some(Self {
                desc: ring.ring_array(0, n)?,
                avail_flags: ring.ring_array(avail, 1)?,
                avail_idx: ring.ring_array(avail.checked_add(2)?, 1)?,
                avail: ring.ring_array(avail.checked_add(4)?, n)?,
                used_event: ring.ring_array(used_event, 1)?,
                used_flags: ring.ring_array(used, 1)?,
                used_idx: ring.ring_array(used.checked_add(2)?, 1)?,
                used: ring.ring_array(used.checked_add(4)?, n)?,
                avail_event: ring.ring_array(avail_event, 1)?,
                avail_next: 0,
                published: 0,
                used_next: 0,
                used_read: 0,
                event_idx,
                interrupts_off: false,
            })
        }
    }

    /// Restores the state of a new queue. The device no longer uses the memory.
    pub fn reinit(&mut self) {
        for word in [&self.avail_flags, &self.avail_idx, &self.used_event] {
            word.at(0).store(0, Ordering::Relaxed);
        }
        for word in [&self.used_flags, &self.used_idx, &self.avail_event] {
            word.at(0).store(0, Ordering::Relaxed);
        }
        (self.avail_next, self.published, self.used_next, self.used_read) = (0, 0, 0, 0);
        self.interrupts_off = false;
    }

    #[inline(always)]
    pub fn write_desc(&self, index: u16, segment: Segment, flags: u16, next: u16) {
        super::write_desc(self.desc.at(usize::from(index)), segment, flags, next);
    }

    /// Writes the length of descriptor `index`, which is device-readable and has no flags.
    #[inline(always)]
    pub fn write_len(&self, index: u16, len: u32) {
        self.desc.at(usize::from(index))[1].store(super::desc_word(len, 0, 0), Ordering::Relaxed);
    }

    /// Adds the chain that begins at `head` to the available ring. The device sees it after the next `publish`.
    #[inline(always)]
    pub fn push(&mut self, head: u16) {
        self.avail.at(usize::from(self.avail_next)).store(head, Ordering::Relaxed);
        self.avail_next = self.avail_next.wrapping_add(1);
    }

    /// Makes the pushed chains visible to the device and returns whether the device requests a kick.
    #[inline(always)]
    pub fn publish(&mut self) -> bool {
        let (new, old) = (self.avail_next, self.published);
        if new == old {
            return false;
        }
        self.published = new;
        if self.event_idx {
            need_event(publish_then_look(self.avail_idx.at(0), new, self.avail_event.at(0)), new, old)
        } else {
            publish_then_look(self.avail_idx.at(0), new, self.used_flags.at(0)) & USED_F_NO_NOTIFY == 0
        }
    }

    /// Returns the id and length of the next used element. `in_flight` returns the maximum number of used elements.
    #[inline(always)]
    pub fn peek(&mut self, in_flight: impl FnOnce() -> u16) -> Result<Option<(u32, u32)>, Fault> {
        if self.used_next == self.used_read {
            let read = self.used_idx.at(0).load(Ordering::Acquire);
            let pending = read.wrapping_sub(self.used_next);
            if pending == 0 {
                return Ok(None);
            }
            if pending > in_flight() {
                return Err(Fault::Protocol);
            }
            self.used_read = read;
        }
        let [id, len] = self.used.at(usize::from(self.used_next));
        Ok(Some((u32::from_le(id.load(Ordering::Relaxed)), u32::from_le(len.load(Ordering::Relaxed)))))
    }

    /// Like [`peek`](Self::peek), for a queue that is not used in order: each used element completes one request.
    #[inline(always)]
    pub fn peek_outstanding(&mut self) -> Result<Option<(u32, u32)>, Fault> {
        let outstanding = self.outstanding();
        self.peek(|| outstanding)
    }

    /// Returns the number of requests that were pushed and not yet completed, for a queue that is not used in order.
    #[inline(always)]
    pub fn outstanding(&self) -> u16 {
        self.avail_next.wrapping_sub(self.used_next)
    }

    /// Consumes the used element that `peek` returned, for a queue that is not used in order.
    #[inline(always)]
    pub fn advance_one(&mut self) {
        self.used_next = self.used_next.wrapping_add(1);
    }

    /// Consumes one used element. [`Fault::Protocol`] if the device has not published it.
    #[inline(always)]
    pub fn advance(&mut self) -> Result<(), Fault> {
        if self.used_next == self.used_read {
            // In order, a batch may extend beyond the last read index, but not beyond the published one.
            self.used_read = self.used_idx.at(0).load(Ordering::Acquire);
            if self.used_next == self.used_read {
                return Err(Fault::Protocol);
            }
        }
        self.used_next = self.used_next.wrapping_add(1);
        Ok(())
    }

    /// Requests an interrupt and returns whether a used element raced in.
    #[inline(always)]
    pub fn arm(&mut self) -> bool {
        self.interrupts_off = false;
        if self.event_idx {
            ask_then_look(self.used_event.at(0), self.used_next, self.used_idx.at(0), self.used_next)
        } else {
            ask_then_look(self.avail_flags.at(0), 0, self.used_idx.at(0), self.used_next)
        }
    }

    pub fn disarm(&mut self) {
        if self.interrupts_off {
            return;
        }
        self.interrupts_off = true;
        if self.event_idx {
            // The most distant event index: it is passed once in 65,536 completions.
            self.used_event.at(0).store(self.used_next.wrapping_sub(1), Ordering::Relaxed);
        } else {
            self.avail_flags.at(0).store(AVAIL_F_NO_INTERRUPT, Ordering::Relaxed);
        }
    }

    pub fn addresses(base: BusAddr, size: u16) -> [BusAddr; 3] {
        let Layout { avail, used, .. } = layout(size);
        [base, base.offset(avail as u64), base.offset(used as u64)]
    }
}

//! The split virtqueue: descriptor table, available ring, used ring. VIRTIO 1.3 §2.7

use super::DescWords;
use super::decide::{ask_then_look, need_event, publish_then_look};
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use paravirt_device::Fault;
use paravirt_platform::{BusAddr, DmaRegion, Platform, RingArray, Segment};

/// VIRTIO 1.3 §2.7.6: the driver needs no interrupt.
const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// VIRTIO 1.3 §2.7.8: the device needs no kick.
const USED_F_NO_NOTIFY: u16 = 1;
/// Bytes of a descriptor.
const DESC_LEN: usize = 16;

pub(super) struct Split {
    desc: RingArray<DescWords>,
    /// `flags`, `idx`, then the ring, then `used_event`; see [`Layout`].
    avail_flags: RingArray<AtomicU16>,
    avail_idx: RingArray<AtomicU16>,
    avail: RingArray<AtomicU16>,
    used_event: RingArray<AtomicU16>,
    used_flags: RingArray<AtomicU16>,
    used_idx: RingArray<AtomicU16>,
    /// Used elements, each as one word: the id in its lower half, the length in its upper.
    used: RingArray<AtomicU64>,
    avail_event: RingArray<AtomicU16>,
    /// The available index, of which the device has seen `published`.
    avail_next: u16,
    published: u16,
    /// The used index up to which entries were taken, and as it was read last.
    used_next: u16,
    used_read: u16,
    event_idx: bool,
    interrupts_off: bool,
}

/// Offsets of the three parts in one region, which starts at a page.
pub(super) struct Layout {
    pub avail: usize,
    pub used: usize,
    pub len: usize,
}

/// VIRTIO 1.3 §2.7: sizes and alignment of the parts.
pub(super) const fn layout(size: u16) -> Layout {
    let size = size as usize;
    let avail = size.saturating_mul(DESC_LEN);
    // flags, idx, ring, used_event; the used ring's elements, 4 bytes on, are aligned to 8 so that each is read at once.
    let used =
        avail.saturating_add(size.saturating_mul(2)).saturating_add(6).next_multiple_of(8).saturating_add(4);
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
        // SAFETY: the arrays lie in the queue ahead of the memory, and are dropped with it.
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

    /// Back to the state of a new queue, in memory that the device no longer uses.
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

    /// Writes the length of descriptor `index`, which the device reads and which has no flags.
    #[inline(always)]
    pub fn write_len(&self, index: u16, len: u32) {
        self.desc.at(usize::from(index))[1].store(super::desc_word(len, 0, 0), Ordering::Relaxed);
    }

    /// Puts the chain that begins at `head` in the available ring; the device sees it at the next `publish`.
    #[inline(always)]
    pub fn push(&mut self, head: u16) {
        self.avail.at(usize::from(self.avail_next)).store(head, Ordering::Relaxed);
        self.avail_next = self.avail_next.wrapping_add(1);
    }

    /// Shows the device what was pushed; whether it wants to be kicked.
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

    /// The id and length of the oldest used element that was not taken; `in_flight` is how many there can be.
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
        let element = u64::from_le(self.used.at(usize::from(self.used_next)).load(Ordering::Relaxed));
        Ok(Some((element as u32, (element >> 32) as u32)))
    }

    /// As [`peek`](Self::peek), of a queue that is not used in order: each used element is of one request.
    #[inline(always)]
    pub fn peek_outstanding(&mut self) -> Result<Option<(u32, u32)>, Fault> {
        let outstanding = self.outstanding();
        self.peek(|| outstanding)
    }

    /// Requests that were pushed and whose used elements were not taken, of a queue that is not used in order.
    #[inline(always)]
    pub fn outstanding(&self) -> u16 {
        self.avail_next.wrapping_sub(self.used_next)
    }

    /// Takes the used element that `peek` showed, of a queue that is not used in order.
    #[inline(always)]
    pub fn advance_one(&mut self) {
        self.used_next = self.used_next.wrapping_add(1);
    }

    /// Takes one used element.
    #[inline(always)]
    pub fn advance(&mut self) -> Result<(), Fault> {
        if self.used_next == self.used_read {
            // A batch in order reaches further than the index that the device published.
            self.used_read = self.used_idx.at(0).load(Ordering::Acquire);
            if self.used_next == self.used_read {
                return Err(Fault::Protocol);
            }
        }
        self.used_next = self.used_next.wrapping_add(1);
        Ok(())
    }

    /// Asks for an interrupt; whether something raced in.
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
            // As far ahead as the index goes: it is passed once in 65,536 completions.
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

//! The packed virtqueue: one ring of descriptors that both sides write. VIRTIO 1.3 §2.8

use super::decide::{ask_then_look, need_event, publish_then_look};
use super::{DescWords, desc_word};
use core::sync::atomic::{AtomicU32, Ordering};
use paravirt_platform::{BusAddr, DmaRegion, Platform, RingArray, Segment};

/// The driver sets this flag to its wrap counter when it makes a descriptor available. VIRTIO 1.3 §2.8.1
const DESC_F_AVAIL: u16 = 1 << 7;
/// The device sets this flag to its wrap counter when it has used a descriptor. VIRTIO 1.3 §2.8.1
const DESC_F_USED: u16 = 1 << 15;
/// Event suppression: notify always, never, or at a descriptor. VIRTIO 1.3 §2.8.10
const EVENT_ENABLE: u32 = 0;
const EVENT_DISABLE: u32 = 1;
const EVENT_DESC: u32 = 2;

pub(super) struct Packed {
    desc: RingArray<DescWords>,
    driver_event: RingArray<AtomicU32>,
    device_event: RingArray<AtomicU32>,
    size: u16,
    next: u16,
    wrap: bool,
    used_next: u16,
    used_wrap: bool,
    /// The number of descriptors made available since the last publish.
    added: u16,
    /// The second word of the first descriptor of the batch, which is written last: `(index, word)`.
    held: Option<(u16, u64)>,
    event_idx: bool,
    interrupts_off: bool,
}

/// Returns the offsets of the driver's and the device's event suppression, each in a separate cache line after the ring, and the
/// total length.
const fn events(size: u16) -> (usize, usize, usize) {
    let ring = (size as usize).saturating_mul(16).next_multiple_of(64);
    (ring, ring.saturating_add(64), ring.saturating_add(128))
}

pub(super) const fn len(size: u16) -> usize {
    events(size).2
}

impl Packed {
    pub fn new<P: Platform>(region: &DmaRegion<P>, size: u16, event_idx: bool) -> Option<Self> {
        let (driver, device, _) = events(size);
        let ring = region.shared();
        // SAFETY: the queue owns the arrays and the memory; the arrays are declared before the memory, so that they are dropped
        // first.
        unsafe {
            Some(Self {
                desc: ring.ring_array(0, usize::from(size))?,
                driver_event: ring.ring_array(driver, 1)?,
                device_event: ring.ring_array(device, 1)?,
                size,
                next: 0,
                wrap: true,
                used_next: 0,
                used_wrap: true,
                added: 0,
                held: None,
                event_idx,
                interrupts_off: false,
            })
        }
    }

    pub fn reinit(&mut self) {
        for index in 0..self.size {
            for word in self.desc.at(usize::from(index)) {
                word.store(0, Ordering::Relaxed);
            }
        }
        self.driver_event.at(0).store(0, Ordering::Relaxed);
        self.device_event.at(0).store(0, Ordering::Relaxed);
        (self.next, self.wrap, self.used_next, self.used_wrap) = (0, true, 0, true);
        (self.added, self.held, self.interrupts_off) = (0, None, false);
    }

    /// Writes the next descriptor of the ring, with buffer id `id`. The flags of the first descriptor of a batch are written by
    /// `publish`, so that the device sees the whole batch at once.
    #[inline(always)]
    pub fn push(&mut self, segment: Segment, flags: u16, id: u16) {
        let flags = flags | if self.wrap { DESC_F_AVAIL } else { DESC_F_USED };
        let desc = self.desc.at(usize::from(self.next));
        desc[0].store(segment.addr.0, Ordering::Relaxed);
        let word = desc_word(segment.len, id, flags);
        if self.held.is_none() {
            self.held = Some((self.next, word));
        } else {
            desc[1].store(word, Ordering::Release);
        }
        self.added = self.added.wrapping_add(1);
        self.next = self.next.wrapping_add(1);
        if self.next == self.size {
            self.next = 0;
            self.wrap = !self.wrap;
        }
    }

    #[inline(always)]
    pub fn publish(&mut self) -> bool {
        let Some((first, word)) = self.held.take() else { return false };
        let added = core::mem::take(&mut self.added);
        let event = publish_then_look(&self.desc.at(usize::from(first))[1], word, self.device_event.at(0));
        needs_kick(event, self.next, added, self.wrap, self.size)
    }

    #[inline(always)]
    pub fn peek(&self) -> Option<(u16, u32)> {
        let word = self.desc.at(usize::from(self.used_next))[1].load(Ordering::Acquire);
        self.is_used(word).then_some(((word >> 32) as u16, word as u32))
    }

    #[inline(always)]
    fn is_used(&self, word: u64) -> bool {
        let flags = (word >> 48) as u16;
        let (avail, used) = (flags & DESC_F_AVAIL != 0, flags & DESC_F_USED != 0);
        avail == used && used == self.used_wrap
    }

    /// Advances past the `entries` descriptors of a completed request.
    #[inline(always)]
    pub fn advance(&mut self, entries: u16) {
        self.used_next = self.used_next.wrapping_add(entries);
        if self.used_next >= self.size {
            self.used_next = self.used_next.wrapping_sub(self.size);
            self.used_wrap = !self.used_wrap;
        }
    }

    #[inline(always)]
    pub fn arm(&mut self) -> bool {
        self.interrupts_off = false;
        let wanted = if self.event_idx {
            (EVENT_DESC << 16) | u32::from(self.used_next) | (u32::from(self.used_wrap) << 15)
        } else {
            EVENT_ENABLE
        };
        let word = &self.desc.at(usize::from(self.used_next))[1];
        let seen = word.load(Ordering::Acquire);
        self.is_used(seen) || ask_then_look(self.driver_event.at(0), wanted, word, seen)
    }

    pub fn disarm(&mut self) {
        if !self.interrupts_off {
            self.interrupts_off = true;
            self.driver_event.at(0).store(EVENT_DISABLE << 16, Ordering::Relaxed);
        }
    }

    pub fn addresses(base: BusAddr, size: u16) -> [BusAddr; 3] {
        let (driver, device, _) = events(size);
        [base, base.offset(driver as u64), base.offset(device as u64)]
    }
}

/// Returns whether a device with event suppression `event` requests a kick for the last `added` descriptors before `next`.
///
/// The event's offset refers to the lap with the event's wrap counter. VIRTIO 1.3 §2.8.10
fn needs_kick(event: u32, next: u16, added: u16, wrap: bool, size: u16) -> bool {
    match (event >> 16) & 3 {
        EVENT_ENABLE => true,
        EVENT_DESC => {
            let mut offset = (event & 0x7fff) as u16;
            if (event & 0x8000 != 0) != wrap {
                offset = offset.wrapping_sub(size);
            }
            need_event(offset, next, next.wrapping_sub(added))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kick_is_due_when_the_batch_passes_the_event() {
        let desc = |offset: u32, wrap: u32| (EVENT_DESC << 16) | offset | (wrap << 15);
        assert!(needs_kick(0, 4, 1, true, 8));
        assert!(!needs_kick(EVENT_DISABLE << 16, 4, 1, true, 8));
        // Entries 2 and 3 were added in the first lap.
        assert!(needs_kick(desc(2, 1), 4, 2, true, 8));
        assert!(needs_kick(desc(3, 1), 4, 2, true, 8));
        assert!(!needs_kick(desc(4, 1), 4, 2, true, 8));
        assert!(!needs_kick(desc(1, 1), 4, 2, true, 8));
        // Entries 7 (first lap) and 0 (second lap).
        assert!(needs_kick(desc(7, 1), 1, 2, false, 8));
        assert!(needs_kick(desc(0, 0), 1, 2, false, 8));
        assert!(!needs_kick(desc(1, 0), 1, 2, false, 8));
        assert!(!needs_kick(desc(0, 1), 1, 2, false, 8));
    }
}

//! What is in flight: a table of fixed size in private memory. A device names an entry by number; the number is looked up
//! here and accepted once.

use core::mem::MaybeUninit;
use paravirt_device::Fault;
use paravirt_platform::{AllocError, PageRing, Platform};

/// A completed request: its buffer and the driver's state for it.
pub(super) struct Owned<B, X> {
    pub buffer: Option<B>,
    pub extra: X,
}

/// What is known of a slot, in words: what a device says is checked against it before anything is moved.
struct Slot<B, X> {
    /// The next free slot, or in a direct split chain the next descriptor.
    next: u16,
    /// The last descriptor of a direct split chain; else the slot itself.
    tail: u16,
    /// Ring entries that the request takes; 0 while the slot is free.
    entries: u16,
    /// Bytes that the device may write.
    writable: u32,
    /// Written exactly while `entries` is not 0.
    owned: MaybeUninit<Owned<B, X>>,
}

/// Whether what the device says of the bytes that it wrote is looked at.
#[derive(Copy, Clone, Eq, PartialEq)]
pub(super) enum Lengths {
    /// It is a fault to have written more than was given.
    Checked,
    /// It means nothing.
    Ignored,
}

pub(super) struct Slots<P: Platform, B, X> {
    table: PageRing<P, Slot<B, X>>,
    size: u16,
    free_head: u16,
    free: u16,
    /// Entries of requests in flight beyond the first of each.
    surplus: u16,
    pub lengths: Lengths,
}

impl<P: Platform, B, X> Slots<P, B, X> {
    /// `size` is a power of two.
    pub fn new(platform: &P, size: u16) -> Result<Self, AllocError> {
        let table = PageRing::new(platform, usize::from(size), |i| Slot {
            next: (i as u16).wrapping_add(1),
            tail: 0,
            entries: 0,
            writable: 0,
            owned: MaybeUninit::uninit(),
        })?;
        Ok(Self { table, size, free_head: 0, free: size, surplus: 0, lengths: Lengths::Checked })
    }

    /// Ring entries (descriptors) that are free.
    #[inline(always)]
    pub fn free(&self) -> u16 {
        self.free
    }

    #[inline(always)]
    pub fn in_flight(&self) -> u16 {
        self.size.wrapping_sub(self.free).wrapping_sub(self.surplus)
    }

    #[inline(always)]
    pub fn free_head(&self) -> u16 {
        self.free_head
    }

    /// The one that follows in the free list.
    #[inline(always)]
    pub fn after(&self, slot: u16) -> u16 {
        self.table.at(usize::from(slot)).next
    }

    /// Takes the slot at the head of the free list, and the list up to `tail`, for a request of `entries` ring entries, of which
    /// there are as many.
    #[inline(always)]
    pub fn take(&mut self, tail: u16, entries: u16, writable: u32, buffer: Option<B>, extra: X) {
        let head = self.free_head;
        self.free_head = self.after(tail);
        self.free = self.free.wrapping_sub(entries);
        self.surplus = self.surplus.wrapping_add(entries).wrapping_sub(1);
        let slot = self.table.at_mut(usize::from(head));
        debug_assert!(slot.entries == 0 && entries != 0, "a slot of the free list is free");
        slot.tail = tail;
        slot.entries = entries;
        slot.writable = writable;
        slot.owned.write(Owned { buffer, extra });
    }

    /// Ring entries of the request in `id`, which the device says is done and has `len` bytes written for. An `id` that is not in
    /// flight, or a length that does not fit, is a fault and changes nothing.
    #[inline(always)]
    pub fn check(&self, id: u32, len: u32) -> Result<u16, Fault> {
        if id >= u32::from(self.size) {
            return Err(Fault::Protocol);
        }
        let slot = self.table.at(id as usize);
        let is_too_long = len > slot.writable && self.lengths == Lengths::Checked;
        if slot.entries == 0 || is_too_long {
            return Err(Fault::Protocol);
        }
        Ok(slot.entries)
    }

    /// Bytes that the device may write for the request in `id`.
    #[inline(always)]
    pub fn writable(&self, id: u16) -> u32 {
        self.table.at(usize::from(id)).writable
    }

    /// Frees the slot `id`, where it is in flight.
    #[inline(always)]
    pub fn release(&mut self, id: u16) -> Option<Owned<B, X>> {
        let free_head = self.free_head;
        let slot = self.table.at_mut(usize::from(id));
        let (tail, entries) = (slot.tail, slot.entries);
        if entries == 0 {
            return None;
        }
        slot.entries = 0;
        // SAFETY: `take` wrote it when it set `entries`, which says here that it is free again: it is read once.
        let owned = unsafe { slot.owned.assume_init_read() };
        self.free = self.free.wrapping_add(entries);
        self.surplus = self.surplus.wrapping_sub(entries).wrapping_add(1);
        self.free_head = id;
        self.table.at_mut(usize::from(tail)).next = free_head;
        Some(owned)
    }

    /// The lowest slot in flight.
    pub fn first_in_flight(&self) -> Option<u16> {
        (0..self.size).find(|slot| self.table.at(usize::from(*slot)).entries != 0)
    }

    /// What the driver keeps with each request in flight.
    pub fn extras(&self) -> impl Iterator<Item = &X> {
        let in_flight = self.table.iter().filter(|slot| slot.entries != 0);
        // SAFETY: `take` wrote what is owned when it set `entries`, and `release` clears that when it takes it.
        in_flight.map(|slot| unsafe { &slot.owned.assume_init_ref().extra })
    }
}

impl<P: Platform, B, X> Drop for Slots<P, B, X> {
    fn drop(&mut self) {
        for slot in 0..self.size {
            // A buffer that is dropped in flight leaks.
            drop(self.release(slot));
        }
    }
}

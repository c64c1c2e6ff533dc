//! The table of the requests in flight, of fixed size and in private memory. A device identifies a request by its slot number,
//! which is looked up here and accepted once.

use core::mem::MaybeUninit;
use paravirt_device::Fault;
use paravirt_platform::{AllocError, PageRing, Platform};

/// A completed request: its buffer and the driver's state for it.
pub(super) struct Owned<B, X> {
    pub buffer: Option<B>,
    pub extra: X,
}

/// A slot. The lengths and ids that a device reports are checked against it before the request is moved out.
struct Slot<B, X> {
    /// The next free slot, or the next descriptor in a direct split chain.
    next: u16,
    /// The last descriptor of a direct split chain, otherwise the slot itself.
    tail: u16,
    /// The number of ring entries that the request occupies; 0 while the slot is free.
    entries: u16,
    /// The number of bytes that the device may write.
    writable: u32,
    /// Initialised if and only if `entries` is not 0.
    owned: MaybeUninit<Owned<B, X>>,
}

/// Whether the written lengths that the device reports are checked.
#[derive(Copy, Clone, Eq, PartialEq)]
pub(super) enum Lengths {
    /// A length beyond the writable part of the request is a fault.
    Checked,
    /// The length is ignored.
    Ignored,
}

pub(super) struct Slots<P: Platform, B, X> {
    table: PageRing<P, Slot<B, X>>,
    size: u16,
    free_head: u16,
    free: u16,
    /// The number of ring entries of requests in flight, not counting the first entry of each request.
    surplus: u16,
    pub lengths: Lengths,
}

impl<P: Platform, B, X> Slots<P, B, X> {
    /// Allocates a table of `size` slots, a power of two.
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

    /// Returns the number of free ring entries (descriptors).
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

    /// Returns the slot after `slot` in the free list or chain.
    #[inline(always)]
    pub fn after(&self, slot: u16) -> u16 {
        self.table.at(usize::from(slot)).next
    }

    /// Allocates the slot at the head of the free list to a request of `entries` ring entries, and removes the list from that slot
    /// up to `tail`. At least `entries` entries are free.
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

    /// Checks that request `id`, which the device reports as completed with `len` bytes written, is in flight and allows this
    /// length. Returns its number of ring entries. A fault changes nothing.
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

    /// Returns the number of bytes that the device may write for request `id`.
    #[inline(always)]
    pub fn writable(&self, id: u16) -> u32 {
        self.table.at(usize::from(id)).writable
    }

    /// Frees slot `id` and returns its request; `None` if it is not in flight.
    #[inline(always)]
    pub fn release(&mut self, id: u16) -> Option<Owned<B, X>> {
        let free_head = self.free_head;
        let slot = self.table.at_mut(usize::from(id));
        let (tail, entries) = (slot.tail, slot.entries);
        if entries == 0 {
            return None;
        }
        slot.entries = 0;
        // SAFETY: `take` initialised it when it set `entries`, which was cleared above: it is read once.
        let owned = unsafe { slot.owned.assume_init_read() };
        self.free = self.free.wrapping_add(entries);
        self.surplus = self.surplus.wrapping_sub(entries).wrapping_add(1);
        self.free_head = id;
        self.table.at_mut(usize::from(tail)).next = free_head;
        Some(owned)
    }

    /// Returns the lowest slot in flight.
    pub fn first_in_flight(&self) -> Option<u16> {
        (0..self.size).find(|slot| self.table.at(usize::from(*slot)).entries != 0)
    }

    /// Returns the driver's state of each request in flight.
    pub fn extras(&self) -> impl Iterator<Item = &X> {
        let in_flight = self.table.iter().filter(|slot| slot.entries != 0);
        // SAFETY: `take` initialises `owned` when it sets `entries`, and `release` clears `entries` when it moves `owned` out.
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

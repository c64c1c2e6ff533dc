//! What is in flight: a table of fixed size in private memory. A device names an entry by number; the number is looked up
//! here and accepted once.

use paravirt_device::Fault;
use paravirt_platform::{AllocError, DmaBuffer, PageTable, Platform};

/// What came back with a request: its buffer and what the driver keeps with it.
pub(super) struct Owned<B, X> {
    pub buffer: Option<B>,
    pub extra: X,
}

struct Slot<B, X> {
    /// The next free slot, or in a direct split chain the next descriptor.
    next: u16,
    /// The last descriptor of a direct split chain; else the slot itself.
    tail: u16,
    /// Ring entries that the request takes; 0 while free.
    entries: u16,
    /// Bytes that the device may write.
    writable: u32,
    owned: Option<Owned<B, X>>,
}

pub(super) struct Slots<P: Platform, B, X> {
    table: PageTable<P, Slot<B, X>>,
    free_head: u16,
    free: u16,
    in_flight: u16,
    /// What the device says it wrote is not looked at.
    pub ignores_lengths: bool,
}

impl<P: Platform, B: DmaBuffer, X> Slots<P, B, X> {
    pub fn new(platform: &P, size: u16) -> Result<Self, AllocError> {
        let table = PageTable::new(platform, usize::from(size), |i| Slot {
            next: (i as u16).wrapping_add(1),
            tail: 0,
            entries: 0,
            writable: 0,
            owned: None,
        })?;
        Ok(Self { table, free_head: 0, free: size, in_flight: 0, ignores_lengths: false })
    }

    /// Ring entries (descriptors) that are free.
    #[inline(always)]
    pub fn free(&self) -> u16 {
        self.free
    }

    #[inline(always)]
    pub fn in_flight(&self) -> u16 {
        self.in_flight
    }

    #[inline(always)]
    pub fn free_head(&self) -> u16 {
        self.free_head
    }

    /// The one that follows in the free list.
    #[inline(always)]
    pub fn after(&self, slot: u16) -> u16 {
        self.table.get(usize::from(slot)).map_or(0, |s| s.next)
    }

    /// Takes the slot at the head of the free list, and the list up to `tail`, for a request of `entries` ring entries.
    #[inline(always)]
    pub fn take(&mut self, tail: u16, entries: u16, writable: u32, owned: Owned<B, X>) {
        let head = self.free_head;
        self.free_head = self.after(tail);
        self.free = self.free.wrapping_sub(entries);
        self.in_flight = self.in_flight.wrapping_add(1);
        if let Some(slot) = self.table.get_mut(usize::from(head)) {
            slot.tail = tail;
            slot.entries = entries;
            slot.writable = writable;
            slot.owned = Some(owned);
        }
    }

    /// Ring entries of the request in `id`, which the device says is done.
    #[inline(always)]
    pub fn entries(&self, id: u16) -> Result<u16, Fault> {
        match self.table.get(usize::from(id)) {
            Some(slot) if slot.entries != 0 => Ok(slot.entries),
            _ => Err(Fault::Protocol),
        }
    }

    /// Bytes that the device may write for the request in `id`.
    #[inline(always)]
    pub fn writable(&self, id: u16) -> u32 {
        self.table.get(usize::from(id)).map_or(0, |slot| slot.writable)
    }

    /// Frees the slot `id`, to which the device says it wrote `len` bytes. An `id` that is not in flight, or a length that
    /// does not fit, is a fault and changes nothing.
    #[inline(always)]
    pub fn release(&mut self, id: u16, len: u32) -> Result<Owned<B, X>, Fault> {
        let free_head = self.free_head;
        let slot = self.table.get_mut(usize::from(id)).ok_or(Fault::Protocol)?;
        if slot.entries == 0 || (len > slot.writable && !self.ignores_lengths) {
            return Err(Fault::Protocol);
        }
        let owned = slot.owned.take().ok_or(Fault::Protocol)?;
        let (tail, entries) = (slot.tail, slot.entries);
        slot.entries = 0;
        self.free = self.free.wrapping_add(entries);
        self.in_flight = self.in_flight.wrapping_sub(1);
        self.free_head = id;
        if let Some(last) = self.table.get_mut(usize::from(tail)) {
            last.next = free_head;
        }
        Ok(owned)
    }

    /// The lowest slot in flight from `from` on.
    pub fn next_in_flight(&self, from: u16) -> Option<u16> {
        let rest = self.table.get(usize::from(from)..)?;
        rest.iter().position(|s| s.entries != 0).map(|i| from.wrapping_add(i as u16))
    }

    /// What the driver keeps with each request in flight.
    pub fn extras(&self) -> impl Iterator<Item = &X> {
        self.table.iter().filter_map(|slot| slot.owned.as_ref()).map(|owned| &owned.extra)
    }
}

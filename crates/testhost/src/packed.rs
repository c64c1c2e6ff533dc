//! The device side of a packed queue.

use crate::{Chain, Guest, MAX_READABLE, QueueState};
use std::sync::atomic::{Ordering, fence};
use vm_memory::{Bytes, GuestAddress};

const F_NEXT: u16 = 1;
const F_WRITE: u16 = 2;
const F_INDIRECT: u16 = 4;
const F_AVAIL: u16 = 1 << 7;
const F_USED: u16 = 1 << 15;
/// The most descriptors of an indirect table.
const MAX_INDIRECT: u16 = 1 << 15;

/// The device side of a packed queue. VIRTIO 1.3 §2.8
pub struct PackedDevice {
    guest: Guest,
    state: QueueState,
    event_idx: bool,
    next: u16,
    wrap: bool,
    used: u16,
    used_wrap: bool,
}

struct Desc {
    addr: u64,
    len: u32,
    id: u16,
    flags: u16,
}

impl PackedDevice {
    /// The device side of the queue that the driver set up, at its first entry.
    pub fn new(guest: &Guest, state: &QueueState, event_idx: bool) -> Self {
        let guest = guest.clone();
        Self { guest, state: *state, event_idx, next: 0, wrap: true, used: 0, used_wrap: true }
    }

    /// Reads a descriptor, the word with the flags first: the rest is valid once the flags make it available.
    fn read(&self, at: u64) -> Desc {
        let memory = self.guest.memory();
        let load =
            |at| memory.checked(memory.map().load::<u64>(GuestAddress(at), Ordering::Acquire)).unwrap_or(0);
        let word = load(at.wrapping_add(8));
        Desc { addr: load(at), len: word as u32, id: (word >> 32) as u16, flags: (word >> 48) as u16 }
    }

    /// Whether the descriptor at `next` has been made available.
    fn is_available(&self, desc: &Desc) -> bool {
        let (avail, used) = (desc.flags & F_AVAIL != 0, desc.flags & F_USED != 0);
        avail == self.wrap && used != self.wrap
    }

    fn set_event(&self, event: u32) {
        let at = GuestAddress(self.state.addresses.device.0);
        self.guest.memory().map().store(event, at, Ordering::Relaxed).expect("the event word");
        fence(Ordering::SeqCst);
    }

    /// Disables kicks.
    pub fn disable_notification(&self) {
        self.set_event(1 << 16);
    }

    /// Enables a kick at the next request and returns whether one became available meanwhile.
    pub fn enable_notification(&self) -> bool {
        let at_next = u32::from(self.next) | u32::from(self.wrap) << 15 | 2 << 16;
        self.set_event(if self.event_idx { at_next } else { 0 });
        self.is_available(&self.read(self.at(self.next)))
    }

    /// Whether the driver wants an interrupt for the request of one entry that was used last.
    pub fn needs_notification(&self) -> bool {
        fence(Ordering::SeqCst);
        let at = GuestAddress(self.state.addresses.driver.0);
        let event = self.guest.memory().map().load::<u32>(at, Ordering::Acquire).expect("the event word");
        let size = self.state.addresses.size;
        let (last, wrap) = match self.used.checked_sub(1) {
            Some(last) => (last, self.used_wrap),
            None => (size - 1, !self.used_wrap),
        };
        match event >> 16 & 3 {
            0 => true,
            2 => event & 0xffff == u32::from(last) | u32::from(wrap) << 15,
            _ => false,
        }
    }

    fn at(&self, index: u16) -> u64 {
        self.state.addresses.desc.0 + u64::from(index) * 16
    }

    fn step(index: &mut u16, wrap: &mut bool, by: u16, size: u16) {
        *index += by;
        if *index >= size {
            *index -= size;
            *wrap = !*wrap;
        }
    }

    /// Takes the next available request.
    pub fn pop(&mut self) -> Option<Chain> {
        let size = self.state.addresses.size;
        let first = self.read(self.at(self.next));
        if !self.is_available(&first) {
            return None;
        }
        let mut chain = Chain { id: first.id, entries: 0, readable: vec![], writable: vec![] };
        let mut take = |desc: &Desc| {
            if desc.flags & F_WRITE != 0 {
                chain.writable.push((desc.addr, desc.len));
            } else if chain.readable.len() < MAX_READABLE {
                chain.readable.extend(self.guest.read(desc.addr, desc.len as usize));
            }
        };
        let mut entries = 0;
        loop {
            let desc = self.read(self.at((self.next + entries) % size));
            entries += 1;
            if desc.flags & F_INDIRECT != 0 {
                let count = (desc.len / 16).min(u32::from(MAX_INDIRECT));
                (0..count).for_each(|i| take(&self.read(desc.addr.wrapping_add(u64::from(i) * 16))));
            } else {
                take(&desc);
            }
            chain.id = desc.id;
            // A chain longer than the ring has no end.
            if desc.flags & F_NEXT == 0 || entries == size {
                break;
            }
        }
        chain.entries = entries;
        Self::step(&mut self.next, &mut self.wrap, entries, size);
        if self.event_idx {
            // Enable the kick for the next request.
            self.enable_notification();
        }
        Some(chain)
    }

    /// Marks a request of `entries` ring entries as used, with `len` as the number of bytes written.
    pub fn push(&mut self, id: u16, entries: u16, len: u32) {
        self.forge(id, len);
        let size = self.state.addresses.size;
        Self::step(&mut self.used, &mut self.used_wrap, entries, size);
    }

    /// Writes a used descriptor at the current position without advancing it: fault injection, and part of [`push`](Self::push).
    pub fn forge(&self, id: u16, len: u32) {
        let flags = if self.used_wrap { F_AVAIL | F_USED } else { 0 };
        let at = self.at(self.used);
        let word = u64::from(len) | u64::from(id) << 32 | u64::from(flags) << 48;
        self.guest.memory().map().store(word, GuestAddress(at + 8), Ordering::Release).expect("a descriptor");
    }
}

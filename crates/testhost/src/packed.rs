use crate::{Chain, Guest, QueueState};

const F_NEXT: u16 = 1;
const F_WRITE: u16 = 2;
const F_INDIRECT: u16 = 4;
const F_AVAIL: u16 = 1 << 7;
const F_USED: u16 = 1 << 15;

/// A packed queue from the device's side: our own model.
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
    /// The queue that the driver set up.
    pub fn new(guest: &Guest, state: &QueueState, event_idx: bool) -> Self {
        let guest = guest.clone();
        Self { guest, state: *state, event_idx, next: 0, wrap: true, used: 0, used_wrap: true }
    }

    fn read(&self, at: u64) -> Desc {
        let b = self.guest.read(at, 16);
        Desc {
            addr: u64::from_le_bytes(b[..8].try_into().expect("8 bytes")),
            len: u32::from_le_bytes(b[8..12].try_into().expect("4 bytes")),
            id: u16::from_le_bytes([b[12], b[13]]),
            flags: u16::from_le_bytes([b[14], b[15]]),
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

    /// The next request.
    pub fn pop(&mut self) -> Option<Chain> {
        let size = self.state.addresses.size;
        let first = self.read(self.at(self.next));
        let (avail, used) = (first.flags & F_AVAIL != 0, first.flags & F_USED != 0);
        if avail != self.wrap || used == self.wrap {
            return None;
        }
        let mut chain = Chain { id: first.id, entries: 0, readable: vec![], writable: vec![] };
        let mut take = |desc: &Desc| {
            if desc.flags & F_WRITE != 0 {
                chain.writable.push((desc.addr, desc.len));
            } else {
                chain.readable.extend(self.guest.read(desc.addr, desc.len as usize));
            }
        };
        let mut entries = 0;
        loop {
            let desc = self.read(self.at((self.next + entries) % size));
            entries += 1;
            if desc.flags & F_INDIRECT != 0 {
                (0..desc.len / 16).for_each(|i| take(&self.read(desc.addr + u64::from(i) * 16)));
            } else {
                take(&desc);
            }
            chain.id = desc.id;
            if desc.flags & F_NEXT == 0 {
                break;
            }
        }
        chain.entries = entries;
        Self::step(&mut self.next, &mut self.wrap, entries, size);
        if self.event_idx {
            // A kick is wanted for the next one.
            let event = u32::from(self.next) | u32::from(self.wrap) << 15 | 2 << 16;
            self.guest.write(self.state.addresses.device.0, &event.to_le_bytes());
        }
        Some(chain)
    }

    /// Returns a request.
    pub fn push(&mut self, id: u16, entries: u16, len: u32) {
        self.forge(id, len);
        let size = self.state.addresses.size;
        Self::step(&mut self.used, &mut self.used_wrap, entries, size);
    }

    /// Writes a used descriptor where the next one goes.
    pub fn forge(&self, id: u16, len: u32) {
        let flags = if self.used_wrap { F_AVAIL | F_USED } else { 0 };
        let at = self.at(self.used);
        self.guest.write(at + 8, &len.to_le_bytes());
        self.guest.write(at + 12, &id.to_le_bytes());
        self.guest.write(at + 14, &flags.to_le_bytes());
    }
}

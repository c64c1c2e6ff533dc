//! The queue from interrupts to the message handler: one producer, one consumer, no lock.
//!
//! `tests/loom.rs` compiles the files of its modules over loom's atomics.

mod cursors;
mod pump;
mod sync;

pub(crate) use pump::{Pump, Source};

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use cursors::Cursors;
use hyperv_bindings::tlfs::HV_MESSAGE_PAYLOAD;
use paravirt_hyperv::Message;
use paravirt_platform::{AllocError, PageTable, Platform};

/// Messages in the queue; a power of two. A message without room stays in its slot.
const CAPACITY: u32 = 64;
const PAYLOAD: usize = HV_MESSAGE_PAYLOAD as usize;

struct Entry {
    len: AtomicU32,
    payload: [AtomicU64; PAYLOAD / 8],
}

pub(crate) struct Inbox<P: Platform> {
    entries: PageTable<P, Entry>,
    cursors: Cursors,
}

impl<P: Platform> Inbox<P> {
    pub fn new(platform: &P) -> Result<Self, AllocError> {
        let entries = PageTable::new(platform, CAPACITY as usize, |_| Entry {
            len: AtomicU32::new(0),
            payload: [const { AtomicU64::new(0) }; PAYLOAD / 8],
        })?;
        Ok(Self { entries, cursors: Cursors::new(CAPACITY) })
    }

    pub fn is_empty(&self) -> bool {
        self.cursors.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.cursors.is_full()
    }

    /// Adds a message, where there is room. One caller at a time.
    pub fn put(&self, message: &Message) {
        self.cursors.put(|index| {
            let Some(entry) = self.entries.get(index) else { return };
            entry.len.store(message.len as u32, Ordering::Relaxed);
            for (to, from) in entry.payload.iter().zip(message.payload.chunks_exact(8)) {
                let word = from.first_chunk().copied().map_or(0, u64::from_le_bytes);
                to.store(word, Ordering::Relaxed);
            }
        });
    }

    /// Takes the oldest message: its bytes and how many of them it has. One caller at a time.
    pub fn take(&self) -> Option<([u8; PAYLOAD], usize)> {
        let taken = self.cursors.take(|index| {
            let entry = self.entries.get(index)?;
            let mut payload = [0; PAYLOAD];
            for (from, to) in entry.payload.iter().zip(payload.chunks_exact_mut(8)) {
                to.copy_from_slice(&from.load(Ordering::Relaxed).to_le_bytes());
            }
            Some((payload, (entry.len.load(Ordering::Relaxed) as usize).min(PAYLOAD)))
        });
        taken.flatten()
    }
}

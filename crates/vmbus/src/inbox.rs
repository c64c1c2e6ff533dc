//! The queue from interrupts to whoever handles messages: one producer, one consumer, no lock.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
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
    /// How many were put in and taken out.
    put: AtomicU32,
    taken: AtomicU32,
}

impl<P: Platform> Inbox<P> {
    pub fn new(platform: &P) -> Result<Self, AllocError> {
        let entries = PageTable::new(platform, CAPACITY as usize, |_| Entry {
            len: AtomicU32::new(0),
            payload: [const { AtomicU64::new(0) }; PAYLOAD / 8],
        })?;
        Ok(Self { entries, put: AtomicU32::new(0), taken: AtomicU32::new(0) })
    }

    pub fn is_empty(&self) -> bool {
        self.put.load(Ordering::Acquire) == self.taken.load(Ordering::Relaxed)
    }

    pub fn is_full(&self) -> bool {
        self.put.load(Ordering::Relaxed).wrapping_sub(self.taken.load(Ordering::Acquire)) >= CAPACITY
    }

    /// Adds a message, where there is room. One caller at a time.
    pub fn put(&self, message: &Message) {
        let put = self.put.load(Ordering::Relaxed);
        let Some(entry) = self.entries.get((put % CAPACITY) as usize).filter(|_| !self.is_full()) else {
            return;
        };
        entry.len.store(message.len as u32, Ordering::Relaxed);
        for (to, from) in entry.payload.iter().zip(message.payload.as_chunks::<8>().0) {
            to.store(u64::from_le_bytes(*from), Ordering::Relaxed);
        }
        self.put.store(put.wrapping_add(1), Ordering::Release);
    }

    /// Takes the oldest message: its bytes and how many of them it has. One caller at a time.
    pub fn take(&self) -> Option<([u8; PAYLOAD], usize)> {
        let taken = self.taken.load(Ordering::Relaxed);
        if taken == self.put.load(Ordering::Acquire) {
            return None;
        }
        let entry = self.entries.get((taken % CAPACITY) as usize)?;
        let mut payload = [0; PAYLOAD];
        for (from, to) in entry.payload.iter().zip(payload.as_chunks_mut::<8>().0) {
            *to = from.load(Ordering::Relaxed).to_le_bytes();
        }
        let len = entry.len.load(Ordering::Relaxed) as usize;
        self.taken.store(taken.wrapping_add(1), Ordering::Release);
        Some((payload, len.min(PAYLOAD)))
    }
}

use super::sync::AtomicU32;
use core::sync::atomic::Ordering;

/// Which entries of a queue with one producer and one consumer are whose.
pub struct Cursors {
    /// How many were put in and taken out.
    put: AtomicU32,
    taken: AtomicU32,
    /// Entries; a power of two.
    capacity: u32,
}

impl Cursors {
    pub fn new(capacity: u32) -> Self {
        Self { put: AtomicU32::new(0), taken: AtomicU32::new(0), capacity }
    }

    pub fn is_empty(&self) -> bool {
        self.put.load(Ordering::Acquire) == self.taken.load(Ordering::Relaxed)
    }

    pub fn is_full(&self) -> bool {
        self.put.load(Ordering::Relaxed).wrapping_sub(self.taken.load(Ordering::Acquire)) >= self.capacity
    }

    fn index(&self, count: u32) -> usize {
        (count & self.capacity.wrapping_sub(1)) as usize
    }

    /// Lets `write` write the next free entry, where there is one, and shows it to the consumer. One caller at a time.
    pub fn put(&self, write: impl FnOnce(usize)) {
        if self.is_full() {
            return;
        }
        let put = self.put.load(Ordering::Relaxed);
        write(self.index(put));
        self.put.store(put.wrapping_add(1), Ordering::Release);
    }

    /// Lets `read` read the oldest entry, where there is one, and frees it. One caller at a time.
    pub fn take<R>(&self, read: impl FnOnce(usize) -> R) -> Option<R> {
        let taken = self.taken.load(Ordering::Relaxed);
        if taken == self.put.load(Ordering::Acquire) {
            return None;
        }
        let value = read(self.index(taken));
        self.taken.store(taken.wrapping_add(1), Ordering::Release);
        Some(value)
    }
}

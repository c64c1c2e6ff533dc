use crate::{AllocError, PageRing, Platform};
use core::{fmt, mem::MaybeUninit};

/// A queue of fixed capacity in private pages of the platform ([`Platform::state_alloc`]).
///
/// Pushing and popping neither allocate nor lock. Dropping the queue drops the values in it.
pub struct Fifo<P: Platform, T> {
    /// Values are in the `len` entries starting at `head`, modulo the length of the table.
    entries: PageRing<P, MaybeUninit<T>>,
    head: usize,
    len: usize,
    capacity: usize,
}

impl<P: Platform, T> Fifo<P, T> {
    /// Creates an empty queue for `capacity` values, at least one.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if the platform is out of memory.
    pub fn new(platform: &P, capacity: usize) -> Result<Self, AllocError> {
        let capacity = capacity.max(1);
        let entries = capacity.checked_next_power_of_two().ok_or(AllocError)?;
        Ok(Self {
            entries: PageRing::new(platform, entries, |_| MaybeUninit::uninit())?,
            head: 0,
            len: 0,
            capacity,
        })
    }

    /// Returns the number of values.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are no values.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the maximum number of values.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Appends `value`.
    ///
    /// # Errors
    ///
    /// The value, if the queue is full.
    #[inline(always)]
    pub fn push(&mut self, value: T) -> Result<(), T> {
        if self.len >= self.capacity {
            return Err(value);
        }
        self.entries.at_mut(self.head.wrapping_add(self.len)).write(value);
        self.len = self.len.wrapping_add(1);
        Ok(())
    }

    /// Removes the oldest value.
    #[inline(always)]
    pub fn pop(&mut self) -> Option<T> {
        self.len = self.len.checked_sub(1)?;
        let entry = self.entries.at(self.head);
        self.head = self.head.wrapping_add(1);
        // SAFETY: `push` wrote the entry at `head`, as the queue was not empty, and the entry no longer belongs to the queue.
        Some(unsafe { entry.assume_init_read() })
    }

    /// Removes the newest value.
    #[inline(always)]
    pub fn pop_back(&mut self) -> Option<T> {
        self.len = self.len.checked_sub(1)?;
        let entry = self.entries.at(self.head.wrapping_add(self.len));
        // SAFETY: `push` wrote the last entry, as the queue was not empty, and the entry no longer belongs to the queue.
        Some(unsafe { entry.assume_init_read() })
    }

    /// Returns the value at index `at`, where 0 is the oldest; `None` if `at` is out of range.
    #[inline(always)]
    pub fn get(&self, at: usize) -> Option<&T> {
        if at >= self.len {
            return None;
        }
        // SAFETY: `push` wrote the `len` entries starting at `head`, and they were not removed since.
        Some(unsafe { self.entries.at(self.head.wrapping_add(at)).assume_init_ref() })
    }

    /// Returns the value at index `at` mutably, where 0 is the oldest; `None` if `at` is out of range.
    #[inline(always)]
    pub fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        if at >= self.len {
            return None;
        }
        // SAFETY: `push` wrote the `len` entries starting at `head`, and they were not removed since.
        Some(unsafe { self.entries.at_mut(self.head.wrapping_add(at)).assume_init_mut() })
    }
}

impl<P: Platform, T> Drop for Fifo<P, T> {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

impl<P: Platform, T> fmt::Debug for Fifo<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fifo").field("len", &self.len).field("capacity", &self.capacity).finish()
    }
}

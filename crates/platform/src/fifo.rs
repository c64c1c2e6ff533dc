use crate::{AllocError, PageRing, Platform};
use core::{fmt, mem::MaybeUninit};

/// A queue of fixed capacity in private pages of the platform ([`Platform::state_alloc`]).
///
/// Pushing and popping neither allocates nor locks. Values that are left when the queue is dropped are dropped with it.
pub struct Fifo<P: Platform, T> {
    /// Values are in the `len` entries from `head` on, modulo the length of the table.
    entries: PageRing<P, MaybeUninit<T>>,
    head: usize,
    len: usize,
    capacity: usize,
}

impl<P: Platform, T> Fifo<P, T> {
    /// An empty queue for `capacity` values, at least one.
    ///
    /// # Errors
    ///
    /// [`AllocError`] where the platform has no room for it.
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

    /// How many values there are.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many values there can be.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Puts `value` at the end.
    ///
    /// # Errors
    ///
    /// Hands it back where there is no room.
    #[inline(always)]
    pub fn push(&mut self, value: T) -> Result<(), T> {
        if self.len >= self.capacity {
            return Err(value);
        }
        self.entries.at_mut(self.head.wrapping_add(self.len)).write(value);
        self.len = self.len.wrapping_add(1);
        Ok(())
    }

    /// Takes the oldest value.
    #[inline(always)]
    pub fn pop(&mut self) -> Option<T> {
        self.len = self.len.checked_sub(1)?;
        let entry = self.entries.at(self.head);
        self.head = self.head.wrapping_add(1);
        // SAFETY: the entry at `head` was written by `push`, as there was a value, and is no longer among them.
        Some(unsafe { entry.assume_init_read() })
    }

    /// Takes the youngest value.
    #[inline(always)]
    pub fn pop_back(&mut self) -> Option<T> {
        self.len = self.len.checked_sub(1)?;
        let entry = self.entries.at(self.head.wrapping_add(self.len));
        // SAFETY: the last entry was written by `push`, as there was a value, and is no longer among them.
        Some(unsafe { entry.assume_init_read() })
    }

    /// The value that is `at` behind the oldest; `None` where there are not as many.
    #[inline(always)]
    pub fn get(&self, at: usize) -> Option<&T> {
        if at >= self.len {
            return None;
        }
        // SAFETY: the `len` entries from `head` on were written by `push` and not taken since.
        Some(unsafe { self.entries.at(self.head.wrapping_add(at)).assume_init_ref() })
    }

    /// The value that is `at` behind the oldest, to change it; `None` where there are not as many.
    #[inline(always)]
    pub fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        if at >= self.len {
            return None;
        }
        // SAFETY: the `len` entries from `head` on were written by `push` and not taken since.
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

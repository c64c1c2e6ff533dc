use crate::{AllocError, PageTable, Platform};

/// A queue of fixed length in private pages of the platform.
pub struct Fifo<P: Platform, T> {
    entries: PageTable<P, Option<T>>,
    head: usize,
    count: usize,
}

impl<P: Platform, T> Fifo<P, T> {
    /// An empty queue for `len` values, at least one.
    ///
    /// # Errors
    ///
    /// [`AllocError`] where the platform has no room for it.
    pub fn new(platform: &P, len: usize) -> Result<Self, AllocError> {
        Ok(Self { entries: PageTable::new(platform, len.max(1), |_| None)?, head: 0, count: 0 })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many there can be.
    pub fn capacity(&self) -> usize {
        self.entries.len()
    }

    #[inline]
    fn index(&self, at: usize) -> usize {
        let index = self.head.wrapping_add(at);
        if index >= self.entries.len() { index.wrapping_sub(self.entries.len()) } else { index }
    }

    /// Puts `value` at the end.
    ///
    /// # Errors
    ///
    /// Hands it back where there is no room.
    #[inline]
    pub fn push(&mut self, value: T) -> Result<(), T> {
        let at = self.index(self.count);
        match self.entries.get_mut(at) {
            Some(entry @ None) => {
                *entry = Some(value);
                self.count = self.count.wrapping_add(1);
                Ok(())
            }
            _ => Err(value),
        }
    }

    /// Takes the oldest.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.count == 0 {
            return None;
        }
        let value = self.entries.get_mut(self.head)?.take()?;
        self.head = self.index(1);
        self.count = self.count.wrapping_sub(1);
        Some(value)
    }

    /// Takes the youngest.
    #[inline]
    pub fn pop_back(&mut self) -> Option<T> {
        let at = self.index(self.count.checked_sub(1)?);
        let value = self.entries.get_mut(at)?.take()?;
        self.count = self.count.wrapping_sub(1);
        Some(value)
    }

    /// The one that is `at` behind the oldest.
    #[inline]
    pub fn get(&self, at: usize) -> Option<&T> {
        if at < self.count { self.entries.get(self.index(at))?.as_ref() } else { None }
    }

    /// The same, to change it.
    #[inline]
    pub fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        let index = self.index(at);
        if at < self.count { self.entries.get_mut(index)?.as_mut() } else { None }
    }
}

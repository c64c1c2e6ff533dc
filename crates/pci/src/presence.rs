//! Whether the functions that drivers use are still there.

use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};
use paravirt_platform::{AllocError, PageArc, PageTable, Platform};

/// Maximum number of functions in a table: with it their table fills most of a page.
const MAX_FUNCTIONS: usize = 480;
/// Set in an entry when the function is gone; the rest is the number of values that refer to it.
const GONE: usize = 1 << (usize::BITS - 1);
/// The count from which on an entry is never freed: clones that were leaked do not make it wrap.
const SATURATED: usize = GONE / 2;

/// The functions that drivers use: a driver is cut off from a function that is removed, and does not act on the one that is added in its
/// place.
pub struct PresenceTable<P: Platform>(PageArc<P, PageTable<P, AtomicUsize>>);

impl<P: Platform> PresenceTable<P> {
    /// Creates an empty table.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if the platform is out of memory.
    pub fn new(platform: &P) -> Result<Self, AllocError> {
        PageArc::new(platform, PageTable::new(platform, MAX_FUNCTIONS, |_| AtomicUsize::new(0))?).map(Self)
    }

    /// Adds a function, which is there; `None` if the table is full with 480 functions.
    pub fn insert(&self) -> Option<Presence<P>> {
        let is_free =
            |entry: &AtomicUsize| entry.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let index = self.0.iter().position(is_free)?;
        Some(Presence { table: self.0.clone(), index })
    }
}

impl<P: Platform> fmt::Debug for PresenceTable<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresenceTable")
    }
}

/// Whether a function is still there. Clones are about the same function. Lock-free.
pub struct Presence<P: Platform> {
    table: PageArc<P, PageTable<P, AtomicUsize>>,
    index: usize,
}

impl<P: Platform> Presence<P> {
    fn entry(&self) -> &AtomicUsize {
        static NEVER: AtomicUsize = AtomicUsize::new(GONE);
        self.table.get(self.index).unwrap_or(&NEVER)
    }

    /// Returns whether the function is gone.
    pub fn is_gone(&self) -> bool {
        self.entry().load(Ordering::Acquire) & GONE != 0
    }

    /// Cuts drivers off from the function: its registers read as all ones from now on, and are not written. The function no longer
    /// accesses memory.
    ///
    /// # Safety
    ///
    /// Every function that was given this value was removed, or is not a bus master any more: its driver takes memory back that the
    /// function was given.
    pub unsafe fn set_gone(&self) {
        self.entry().fetch_or(GONE, Ordering::AcqRel);
    }

    /// Returns whether there are other values about the function: its driver has not been dropped.
    pub fn is_shared(&self) -> bool {
        self.entry().load(Ordering::Acquire) & !GONE > 1
    }
}

impl<P: Platform> Clone for Presence<P> {
    fn clone(&self) -> Self {
        if self.entry().fetch_add(1, Ordering::Relaxed) & !GONE >= SATURATED {
            self.entry().fetch_sub(1, Ordering::Relaxed);
        }
        Self { table: self.table.clone(), index: self.index }
    }
}

impl<P: Platform> Drop for Presence<P> {
    fn drop(&mut self) {
        let entry = self.entry();
        if entry.load(Ordering::Relaxed) & !GONE >= SATURATED {
            return;
        }
        // The entry is free when it is 0, so that of a function that is gone is freed here: nothing else refers to it.
        if entry.fetch_sub(1, Ordering::AcqRel) == GONE | 1 {
            entry.store(0, Ordering::Release);
        }
    }
}

impl<P: Platform> fmt::Debug for Presence<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presence").field("is_gone", &self.is_gone()).finish()
    }
}

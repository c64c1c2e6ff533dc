//! A task that only counts, for tests of what is woken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

/// Counts how often its waker was called.
#[derive(Debug, Default)]
pub struct Wakes(AtomicUsize);

impl Wakes {
    /// Creates a count, and the waker whose calls it counts.
    pub fn new() -> (Arc<Self>, Waker) {
        let this = Arc::new(Self::default());
        (this.clone(), this.into())
    }

    /// How often the waker was called since the last [`take`](Self::take).
    pub fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// As [`get`](Self::get), and begins anew.
    pub fn take(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

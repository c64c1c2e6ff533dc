//! An allocator that counts, for tests that an operation does not allocate.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// The system allocator, which counts the allocations of threads inside [`counted`].
pub struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Whether allocations of this thread count: those of other threads, such as the test harness, do not.
    static IS_COUNTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` and counts the allocations of this thread meanwhile.
pub fn counted<R>(work: impl FnOnce() -> R) -> R {
    IS_COUNTED.set(true);
    let result = work();
    IS_COUNTED.set(false);
    result
}

/// Runs `work` without counting its allocations.
pub fn uncounted<R>(work: impl FnOnce() -> R) -> R {
    let was_counted = IS_COUNTED.replace(false);
    let result = work();
    IS_COUNTED.set(was_counted);
    result
}

/// The number of allocations counted so far, by all threads.
pub fn allocations() -> u64 {
    ALLOCATIONS.load(Ordering::Relaxed)
}

// SAFETY: forwards to the system allocator, which upholds the contract of `GlobalAlloc`.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(u64::from(IS_COUNTED.get()), Ordering::Relaxed);
        // SAFETY: the caller upholds the same contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the same contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

//! An allocator that counts: for programs that show that something does not allocate.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// The system's allocator, counting for a thread in which [`counted`] runs.
pub struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Of this thread: what the others do meanwhile, such as a test's harness, does not count.
    static IS_COUNTED: Cell<bool> = const { Cell::new(false) };
}

/// Does `work`, in which the allocations of this thread count.
pub fn counted<R>(work: impl FnOnce() -> R) -> R {
    IS_COUNTED.set(true);
    let result = work();
    IS_COUNTED.set(false);
    result
}

/// Does `work`, in which allocations do not count.
pub fn uncounted<R>(work: impl FnOnce() -> R) -> R {
    let was_counted = IS_COUNTED.replace(false);
    let result = work();
    IS_COUNTED.set(was_counted);
    result
}

/// How many there were.
pub fn allocations() -> u64 {
    ALLOCATIONS.load(Ordering::Relaxed)
}

// SAFETY: forwards to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(u64::from(IS_COUNTED.get()), Ordering::Relaxed);
        // SAFETY: passed on from the caller.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: passed on from the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

//! An allocator that counts: for programs that show that something does not allocate.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The system's allocator, counting while [`counted`] runs.
pub struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static IS_COUNTED: AtomicBool = AtomicBool::new(false);

/// Does `work`, in which allocations count.
pub fn counted<R>(work: impl FnOnce() -> R) -> R {
    IS_COUNTED.store(true, Ordering::Relaxed);
    let result = work();
    IS_COUNTED.store(false, Ordering::Relaxed);
    result
}

/// Does `work`, in which allocations do not count.
pub fn uncounted<R>(work: impl FnOnce() -> R) -> R {
    let was_counted = IS_COUNTED.swap(false, Ordering::Relaxed);
    let result = work();
    IS_COUNTED.store(was_counted, Ordering::Relaxed);
    result
}

/// How many there were.
pub fn allocations() -> u64 {
    ALLOCATIONS.load(Ordering::Relaxed)
}

// SAFETY: forwards to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(u64::from(IS_COUNTED.load(Ordering::Relaxed)), Ordering::Relaxed);
        // SAFETY: passed on from the caller.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: passed on from the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

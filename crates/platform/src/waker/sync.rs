//! The primitives of the waker cell. The loom model compiles the cell with loom's items of the same names.

pub use core::{
    hint::spin_loop,
    sync::atomic::{AtomicU8, AtomicUsize},
};

/// `core`'s `UnsafeCell` with the methods of loom's.
pub struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub const fn new(value: T) -> Self {
        Self(core::cell::UnsafeCell::new(value))
    }
    #[inline(always)]
    pub fn with<R>(&self, work: impl FnOnce(*const T) -> R) -> R {
        work(self.0.get())
    }
    #[inline(always)]
    pub fn with_mut<R>(&self, work: impl FnOnce(*mut T) -> R) -> R {
        work(self.0.get())
    }
}

/// Defines a function that is `const`, except with loom's atomics.
macro_rules! const_fn {
    ($(#[$doc:meta])* pub fn $($rest:tt)*) => { $(#[$doc])* pub const fn $($rest)* };
}
pub(super) use const_fn;

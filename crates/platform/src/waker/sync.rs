//! What the waker cell is made of. The model under loom compiles the cell over loom's items of these names instead.

pub use core::{
    hint::spin_loop,
    sync::atomic::{AtomicU8, AtomicUsize},
};

/// `core`'s cell with the methods of loom's.
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

/// A function that is `const`, which it cannot be over loom's atomics.
macro_rules! const_fn {
    ($(#[$doc:meta])* pub fn $($rest:tt)*) => { $(#[$doc])* pub const fn $($rest)* };
}
pub(super) use const_fn;

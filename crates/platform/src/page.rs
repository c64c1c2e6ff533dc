use crate::{AllocError, Platform, RawDma, dma::PAGE_SIZE};
use core::{
    mem::{align_of, size_of},
    num::NonZeroUsize,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    sync::atomic::{AtomicUsize, Ordering},
};

struct ArcInner<P, T> {
    count: AtomicUsize,
    raw: RawDma,
    platform: P,
    value: T,
}

/// A reference-counted value in pages of the platform: `Arc` for code that may not allocate from a heap.
///
/// It is one pointer: cheap to move about in requests.
pub struct PageArc<P: Platform, T> {
    inner: NonNull<ArcInner<P, T>>,
}

// SAFETY: as `Arc`: shared access from several threads needs `T: Sync`, dropping on another one `T: Send`.
unsafe impl<P: Platform, T: Send + Sync> Send for PageArc<P, T> {}
// SAFETY: as above.
unsafe impl<P: Platform, T: Send + Sync> Sync for PageArc<P, T> {}

impl<P: Platform, T> PageArc<P, T> {
    /// Moves `value` into pages of its own.
    ///
    /// # Errors
    ///
    /// [`AllocError`] where the platform has none; the value is dropped.
    pub fn new(platform: &P, value: T) -> Result<Self, AllocError> {
        let raw = alloc_for::<P, ArcInner<P, T>>(platform, 1)?;
        let inner = raw.cpu.cast::<ArcInner<P, T>>();
        let platform = platform.clone();
        // SAFETY: `alloc_for` checked size and alignment; the memory is ours alone.
        unsafe { inner.write(ArcInner { count: AtomicUsize::new(1), raw, platform, value }) };
        Ok(Self { inner })
    }

    /// Where the value is; it does not move while a clone of this exists.
    pub fn as_ptr(&self) -> NonNull<T> {
        NonNull::from(&**self)
    }

    /// Makes it a pointer, which keeps the value until [`from_raw`](Self::from_raw) takes it back.
    pub fn into_raw(self) -> NonNull<()> {
        let inner = self.inner.cast();
        core::mem::forget(self);
        inner
    }

    /// Takes back what [`into_raw`](Self::into_raw) gave.
    ///
    /// # Safety
    ///
    /// `raw` came from there, of a value of this type, and is taken back once.
    pub unsafe fn from_raw(raw: NonNull<()>) -> Self {
        Self { inner: raw.cast() }
    }

    fn inner(&self) -> &ArcInner<P, T> {
        // SAFETY: written by `new` and alive while the count is above zero, to which this value contributes.
        unsafe { self.inner.as_ref() }
    }
}

fn alloc_for<P: Platform, T>(platform: &P, count: usize) -> Result<RawDma, AllocError> {
    if align_of::<T>() > PAGE_SIZE {
        return Err(AllocError);
    }
    let len = size_of::<T>().checked_mul(count).ok_or(AllocError)?;
    platform.dma_alloc(NonZeroUsize::new(len.div_ceil(PAGE_SIZE)).unwrap_or(NonZeroUsize::MIN))
}

impl<P: Platform, T> Deref for PageArc<P, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner().value
    }
}

impl<P: Platform, T> Clone for PageArc<P, T> {
    fn clone(&self) -> Self {
        self.inner().count.fetch_add(1, Ordering::Relaxed);
        Self { inner: self.inner }
    }
}

impl<P: Platform, T> Drop for PageArc<P, T> {
    fn drop(&mut self) {
        if self.inner().count.fetch_sub(1, Ordering::Release) == 1 {
            core::sync::atomic::fence(Ordering::Acquire);
            // SAFETY: this was the last reference; the value was written by `new`, and the pages came from the platform.
            unsafe {
                let inner = self.inner.as_ptr();
                // Where it is: others may know its address until it has been dropped.
                core::ptr::drop_in_place(&raw mut (*inner).value);
                let platform = core::ptr::read(&raw const (*inner).platform);
                platform.dma_free((*inner).raw);
            }
        }
    }
}

/// A slice of fixed length in pages of the platform: the table of what is in flight.
pub struct PageTable<P: Platform, T> {
    base: NonNull<T>,
    len: usize,
    raw: RawDma,
    platform: P,
}

// SAFETY: it owns its elements as a `Box<[T]>` does.
unsafe impl<P: Platform, T: Send> Send for PageTable<P, T> {}
// SAFETY: as above.
unsafe impl<P: Platform, T: Sync> Sync for PageTable<P, T> {}

impl<P: Platform, T> PageTable<P, T> {
    /// A table of `len` elements, each made by `make` from its index.
    ///
    /// # Errors
    ///
    /// [`AllocError`] where the platform has no room for it.
    pub fn new(platform: &P, len: usize, mut make: impl FnMut(usize) -> T) -> Result<Self, AllocError> {
        Self::try_new(platform, len, |at| Ok(make(at)))
    }

    /// As [`new`](Self::new), with elements that may fail to be made.
    ///
    /// # Errors
    ///
    /// The first error of `make`, after which what was made is dropped; and that of the platform.
    pub fn try_new<E: From<AllocError>>(
        platform: &P,
        len: usize,
        mut make: impl FnMut(usize) -> Result<T, E>,
    ) -> Result<Self, E> {
        let raw = alloc_for::<P, T>(platform, len)?;
        let mut table = Self { base: raw.cpu.cast(), len: 0, raw, platform: platform.clone() };
        for i in 0..len {
            let value = make(i)?;
            // SAFETY: `alloc_for` made room for `len` elements, aligned; `len` counts those that are written, so that
            // just these are dropped where `make` fails or panics.
            unsafe { table.base.add(i).write(value) };
            table.len = i.wrapping_add(1);
        }
        Ok(table)
    }
}

impl<P: Platform, T> Deref for PageTable<P, T> {
    type Target = [T];
    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: `new` wrote `len` elements; they are this value's own.
        unsafe { core::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl<P: Platform, T> DerefMut for PageTable<P, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

impl<P: Platform, T> Drop for PageTable<P, T> {
    fn drop(&mut self) {
        // SAFETY: the elements are dropped once, then their pages are freed once.
        unsafe {
            core::ptr::drop_in_place(&mut **self);
            self.platform.dma_free(self.raw);
        }
    }
}

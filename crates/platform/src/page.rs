use crate::{AllocError, Platform, RawDma, dma::PAGE_SIZE};
use core::{
    fmt,
    mem::{align_of, size_of},
    num::NonZeroUsize,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    sync::atomic::{AtomicUsize, Ordering},
};

/// The count of references at which a value is kept for ever.
const SATURATED: usize = usize::MAX / 2;

struct ArcInner<P, T> {
    count: AtomicUsize,
    raw: RawDma,
    platform: P,
    value: T,
}

/// A reference-counted value in private pages of the platform ([`Platform::state_alloc`]): `Arc` for code that may not allocate
/// from a heap.
///
/// It is one pointer: cheap to move about in requests.
pub struct PageArc<P: Platform, T> {
    inner: NonNull<ArcInner<P, T>>,
}

// SAFETY: as `Arc`: shared access from several threads needs `T: Sync`, dropping on another one `T: Send`.
unsafe impl<P: Platform, T: Send + Sync> Send for PageArc<P, T> {}
// SAFETY: as `Arc`: a shared reference can be cloned into another thread and dropped there.
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
    /// `raw` came from there, of a value of this type, and is reclaimed once.
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
    platform.state_alloc(NonZeroUsize::new(len.div_ceil(PAGE_SIZE)).unwrap_or(NonZeroUsize::MIN))
}

impl<P: Platform, T> Deref for PageArc<P, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner().value
    }
}

impl<P: Platform, T> Clone for PageArc<P, T> {
    fn clone(&self) -> Self {
        // A count that could wrap would free a value in use. It is stopped half-way instead, and the value is never freed:
        // `drop` sees the mark. Between the two lie more clones than there can be processors to make them at once.
        if self.inner().count.fetch_add(1, Ordering::Relaxed) >= SATURATED {
            self.inner().count.store(SATURATED, Ordering::Relaxed);
        }
        Self { inner: self.inner }
    }
}

impl<P: Platform, T> Drop for PageArc<P, T> {
    fn drop(&mut self) {
        let count = self.inner().count.fetch_sub(1, Ordering::Release);
        if count >= SATURATED / 2 {
            self.inner().count.store(SATURATED, Ordering::Relaxed);
        }
        if count == 1 {
            core::sync::atomic::fence(Ordering::Acquire);
            // SAFETY: this was the last reference; the value was written by `new`, and the pages came from the platform.
            unsafe {
                let inner = self.inner.as_ptr();
                // Where it is: others may know its address until it has been dropped.
                core::ptr::drop_in_place(&raw mut (*inner).value);
                let platform = core::ptr::read(&raw const (*inner).platform);
                platform.state_free((*inner).raw);
            }
        }
    }
}

/// A value in private pages of the platform ([`Platform::state_alloc`]): `Box` for code that may not allocate from a heap.
///
/// The value does not move while the box exists.
pub struct PageBox<P: Platform, T: ?Sized> {
    value: NonNull<T>,
    raw: RawDma,
    platform: P,
}

// SAFETY: it owns its value as a `Box` does.
unsafe impl<P: Platform, T: Send + ?Sized> Send for PageBox<P, T> {}
// SAFETY: shared access to it is shared access to its value, as of a `Box`.
unsafe impl<P: Platform, T: Sync + ?Sized> Sync for PageBox<P, T> {}

impl<P: Platform, T> PageBox<P, T> {
    /// Moves `value` into pages of its own.
    ///
    /// # Errors
    ///
    /// [`AllocError`] where the platform has none; the value is dropped.
    pub fn new(platform: &P, value: T) -> Result<Self, AllocError> {
        let raw = alloc_for::<P, T>(platform, 1)?;
        let place = raw.cpu.cast::<T>();
        // SAFETY: `alloc_for` checked size and alignment, and the pages belong to nobody else.
        unsafe { place.write(value) };
        Ok(Self { value: place, raw, platform: platform.clone() })
    }

    /// Makes the box one of an unsized type, such as a trait object.
    ///
    /// # Safety
    ///
    /// `coerce` is an unsizing coercion of its argument: the pointer that it returns is to the same value.
    pub unsafe fn unsize<U: ?Sized>(self, coerce: fn(*mut T) -> *mut U) -> PageBox<P, U> {
        let this = core::mem::ManuallyDrop::new(self);
        let value = coerce(this.value.as_ptr());
        // SAFETY: by the contract of this function the pointer is to the same value, which is not null; the box that is left
        // behind is not dropped, so that the platform's handle is moved and not copied.
        unsafe {
            PageBox {
                value: NonNull::new_unchecked(value),
                raw: this.raw,
                platform: core::ptr::read(&this.platform),
            }
        }
    }
}

impl<P: Platform, T: ?Sized> PageBox<P, T> {
    /// Where the value is; it does not move while this box exists.
    pub fn as_ptr(&self) -> NonNull<T> {
        self.value
    }
}

impl<P: Platform, T: ?Sized> Deref for PageBox<P, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: `new` wrote the value; it is this box's own.
        unsafe { self.value.as_ref() }
    }
}

impl<P: Platform, T: ?Sized> DerefMut for PageBox<P, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: `new` wrote the value; it is this box's own, and the box is borrowed mutably.
        unsafe { self.value.as_mut() }
    }
}

impl<P: Platform, T: ?Sized> Drop for PageBox<P, T> {
    fn drop(&mut self) {
        // SAFETY: the value is dropped once, then its pages, which `state_alloc` gave, are freed once.
        unsafe {
            core::ptr::drop_in_place(self.value.as_ptr());
            self.platform.state_free(self.raw);
        }
    }
}

/// A slice of fixed length in private pages of the platform ([`Platform::state_alloc`]): the table of what is in flight.
pub struct PageTable<P: Platform, T> {
    base: NonNull<T>,
    len: usize,
    raw: RawDma,
    platform: P,
}

// SAFETY: it owns its elements as a `Box<[T]>` does.
unsafe impl<P: Platform, T: Send> Send for PageTable<P, T> {}
// SAFETY: shared access to it is shared access to its elements, as of a `Box<[T]>`.
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
            self.platform.state_free(self.raw);
        }
    }
}

/// A table in private pages of the platform whose length is a power of two; every index is taken modulo it, so that an access is
/// one mask and cannot be out of bounds.
pub struct PageRing<P: Platform, T> {
    table: PageTable<P, T>,
    mask: usize,
}

impl<P: Platform, T> PageRing<P, T> {
    /// A table of `len` elements, each made by `make` from its index.
    ///
    /// # Errors
    ///
    /// [`AllocError`] where the platform has no room for it or `len` is not a power of two.
    pub fn new(platform: &P, len: usize, make: impl FnMut(usize) -> T) -> Result<Self, AllocError> {
        if !len.is_power_of_two() {
            return Err(AllocError);
        }
        Ok(Self { table: PageTable::new(platform, len, make)?, mask: len.wrapping_sub(1) })
    }

    /// The element at `index` modulo the length.
    #[inline(always)]
    pub fn at(&self, index: usize) -> &T {
        // SAFETY: `new` made `mask + 1` elements, a power of two, and the mask keeps the index below that.
        unsafe { self.table.base.add(index & self.mask).as_ref() }
    }

    /// The element at `index` modulo the length, to change it.
    #[inline(always)]
    pub fn at_mut(&mut self, index: usize) -> &mut T {
        // SAFETY: `new` made `mask + 1` elements, a power of two, and the mask keeps the index below that; the table is borrowed
        // mutably.
        unsafe { self.table.base.add(index & self.mask).as_mut() }
    }

    /// All of them, in order.
    pub fn iter(&self) -> core::slice::Iter<'_, T> {
        self.table.iter()
    }
}

impl<P: Platform, T: fmt::Debug> fmt::Debug for PageArc<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<P: Platform, T: fmt::Debug + ?Sized> fmt::Debug for PageBox<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<P: Platform, T> fmt::Debug for PageTable<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageTable").field("len", &self.len).finish_non_exhaustive()
    }
}

impl<P: Platform, T> fmt::Debug for PageRing<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageRing").field("len", &self.table.len).finish_non_exhaustive()
    }
}

use crate::{AllocError, Platform, RawDma, dma::PAGE_SIZE};
use core::{
    fmt,
    mem::{align_of, size_of},
    num::NonZeroUsize,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    sync::atomic::{AtomicUsize, Ordering},
};

/// The reference count at which a value is leaked.
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
/// It is one pointer, so that it is cheap to move.
pub struct PageArc<P: Platform, T> {
    inner: NonNull<ArcInner<P, T>>,
}

// SAFETY: as `Arc`: shared access from several threads needs `T: Sync`, dropping on another one `T: Send`.
unsafe impl<P: Platform, T: Send + Sync> Send for PageArc<P, T> {}
// SAFETY: as `Arc`: a shared reference can be cloned into another thread and dropped there.
unsafe impl<P: Platform, T: Send + Sync> Sync for PageArc<P, T> {}

impl<P: Platform, T> PageArc<P, T> {
    /// Moves `value` into newly allocated pages.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if the platform is out of memory; the value is dropped.
    pub fn new(platform: &P, value: T) -> Result<Self, AllocError> {
        let raw = alloc_for::<P, ArcInner<P, T>>(platform, 1)?;
        let inner = raw.cpu.cast::<ArcInner<P, T>>();
        let platform = platform.clone();
        // Field by field: the value is not copied on the stack once more.
        let fields = inner.as_ptr();
        // SAFETY: `alloc_for` checked size and alignment; nothing else uses the memory. All fields are written.
        unsafe {
            (&raw mut (*fields).count).write(AtomicUsize::new(1));
            (&raw mut (*fields).raw).write(raw);
            (&raw mut (*fields).platform).write(platform);
            (&raw mut (*fields).value).write(value);
        }
        Ok(Self { inner })
    }

    /// Returns the value to be changed, if this is the only reference to it.
    pub fn get_mut(&mut self) -> Option<&mut T> {
        // Nobody can clone what only this value, which is borrowed, refers to.
        if self.inner().count.load(Ordering::Acquire) != 1 {
            return None;
        }
        // SAFETY: no other reference exists, and none is made as long as the returned one lives.
        Some(unsafe { &mut (*self.inner.as_ptr()).value })
    }

    /// Returns a pointer to the value, which does not move while a clone of this exists.
    pub fn as_ptr(&self) -> NonNull<T> {
        NonNull::from(&**self)
    }

    /// Converts this reference to a pointer, which keeps the value alive until it is passed to [`from_raw`](Self::from_raw).
    pub fn into_raw(self) -> NonNull<()> {
        let inner = self.inner.cast();
        core::mem::forget(self);
        inner
    }

    /// Converts a pointer from [`into_raw`](Self::into_raw) back to a reference.
    ///
    /// # Safety
    ///
    /// `raw` came from `into_raw` of a value of this type, and is converted back once.
    pub unsafe fn from_raw(raw: NonNull<()>) -> Self {
        Self { inner: raw.cast() }
    }

    fn inner(&self) -> &ArcInner<P, T> {
        // SAFETY: `new` wrote it, and it is alive while the count, which includes this reference, is above zero.
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
        // A count that wraps would free a value in use. It saturates at half of the range instead, and the value is never freed:
        // `drop` checks for the mark. The rest of the range is more than the number of processors that can clone at once.
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
                // Dropped in place: its address may be in use until it has been dropped.
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

// SAFETY: the box owns its value as a `Box` does.
unsafe impl<P: Platform, T: Send + ?Sized> Send for PageBox<P, T> {}
// SAFETY: shared access to it is shared access to its value, as of a `Box`.
unsafe impl<P: Platform, T: Sync + ?Sized> Sync for PageBox<P, T> {}

impl<P: Platform, T> PageBox<P, T> {
    /// Moves `value` into newly allocated pages.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if the platform is out of memory; the value is dropped.
    pub fn new(platform: &P, value: T) -> Result<Self, AllocError> {
        let raw = alloc_for::<P, T>(platform, 1)?;
        let place = raw.cpu.cast::<T>();
        // SAFETY: `alloc_for` checked size and alignment, and nothing else uses the pages.
        unsafe { place.write(value) };
        Ok(Self { value: place, raw, platform: platform.clone() })
    }

    /// Moves the value out, and frees the pages.
    #[inline]
    pub fn into_inner(self) -> T {
        let this = core::mem::ManuallyDrop::new(self);
        // SAFETY: the box owns the value, and is not dropped: the value is moved out once, and its pages, which came from `state_alloc`,
        // are freed once.
        unsafe {
            let value = this.value.read();
            let platform = core::ptr::read(&raw const this.platform);
            platform.state_free(this.raw);
            value
        }
    }

    /// Converts the box to one of an unsized type, such as a trait object.
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
    /// Returns a pointer to the value, which does not move while this box exists.
    pub fn as_ptr(&self) -> NonNull<T> {
        self.value
    }
}

impl<P: Platform, T: ?Sized> Deref for PageBox<P, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: `new` wrote the value, and this box owns it.
        unsafe { self.value.as_ref() }
    }
}

impl<P: Platform, T: ?Sized> DerefMut for PageBox<P, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: `new` wrote the value, this box owns it, and the box is borrowed mutably.
        unsafe { self.value.as_mut() }
    }
}

impl<P: Platform, T: ?Sized> Drop for PageBox<P, T> {
    fn drop(&mut self) {
        // SAFETY: the value is dropped once, then its pages, which came from `state_alloc`, are freed once.
        unsafe {
            core::ptr::drop_in_place(self.value.as_ptr());
            self.platform.state_free(self.raw);
        }
    }
}

/// A slice of fixed length in private pages of the platform ([`Platform::state_alloc`]), for tables of requests in flight.
pub struct PageTable<P: Platform, T> {
    base: NonNull<T>,
    len: usize,
    raw: RawDma,
    platform: P,
}

// SAFETY: the table owns its elements as a `Box<[T]>` does.
unsafe impl<P: Platform, T: Send> Send for PageTable<P, T> {}
// SAFETY: shared access to it is shared access to its elements, as of a `Box<[T]>`.
unsafe impl<P: Platform, T: Sync> Sync for PageTable<P, T> {}

impl<P: Platform, T> PageTable<P, T> {
    /// Creates a table of `len` elements; `make` returns the element for an index.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if the platform is out of memory.
    pub fn new(platform: &P, len: usize, mut make: impl FnMut(usize) -> T) -> Result<Self, AllocError> {
        Self::try_new(platform, len, |at| Ok(make(at)))
    }

    /// As [`new`](Self::new), but `make` may fail.
    ///
    /// # Errors
    ///
    /// The first error of `make`, after which the existing elements are dropped; or an [`AllocError`].
    pub fn try_new<E: From<AllocError>>(
        platform: &P,
        len: usize,
        mut make: impl FnMut(usize) -> Result<T, E>,
    ) -> Result<Self, E> {
        let raw = alloc_for::<P, T>(platform, len)?;
        let mut table = Self { base: raw.cpu.cast(), len: 0, raw, platform: platform.clone() };
        for i in 0..len {
            let value = make(i)?;
            // SAFETY: `alloc_for` allocated aligned memory for `len` elements; `table.len` counts those that are written, so that exactly
            // these are dropped if `make` fails or panics.
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
        // SAFETY: `new` wrote `len` elements, and this table owns them.
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

/// A table in private pages of the platform whose length is a power of two. An index is taken modulo the length by a mask, so that it
/// cannot be out of bounds.
pub struct PageRing<P: Platform, T> {
    table: PageTable<P, T>,
    mask: usize,
}

impl<P: Platform, T> PageRing<P, T> {
    /// Creates a table of `len` elements; `make` returns the element for an index.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if the platform is out of memory, or `len` is not a power of two.
    pub fn new(platform: &P, len: usize, make: impl FnMut(usize) -> T) -> Result<Self, AllocError> {
        if !len.is_power_of_two() {
            return Err(AllocError);
        }
        Ok(Self { table: PageTable::new(platform, len, make)?, mask: len.wrapping_sub(1) })
    }

    /// Returns the element at `index` modulo the length.
    #[inline(always)]
    pub fn at(&self, index: usize) -> &T {
        // SAFETY: `new` made `mask + 1` elements, a power of two, and the mask keeps the index below that.
        unsafe { self.table.base.add(index & self.mask).as_ref() }
    }

    /// Returns the element at `index` modulo the length mutably.
    #[inline(always)]
    pub fn at_mut(&mut self, index: usize) -> &mut T {
        // SAFETY: `new` made `mask + 1` elements, a power of two, and the mask keeps the index below that; the table is borrowed
        // mutably.
        unsafe { self.table.base.add(index & self.mask).as_mut() }
    }

    /// Iterates over the elements in order.
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

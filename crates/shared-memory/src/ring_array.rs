use crate::SharedAtom;
use core::{marker::PhantomData, ptr::NonNull};

/// An array of atoms in shared memory whose length is a power of two. Every index is taken modulo the length, so that an access
/// costs one mask operation and cannot be out of bounds. Created by [`SharedMemory::ring_array`](crate::SharedMemory::ring_array).
#[derive(Debug)]
pub struct RingArray<T> {
    base: NonNull<T>,
    mask: usize,
    _atoms: PhantomData<T>,
}

// SAFETY: every access goes through atomics.
unsafe impl<T: SharedAtom> Send for RingArray<T> {}
// SAFETY: every access goes through atomics.
unsafe impl<T: SharedAtom> Sync for RingArray<T> {}

impl<T: SharedAtom> RingArray<T> {
    /// Creates an array of `mask + 1` atoms at `base`.
    ///
    /// # Safety
    ///
    /// `base` is aligned and points to `mask + 1` atoms, a power of two, that are valid while this value exists and are
    /// accessed as atomics only.
    pub(crate) const unsafe fn new(base: NonNull<T>, mask: usize) -> Self {
        Self { base, mask, _atoms: PhantomData }
    }

    /// Returns the atom at `index` modulo the length.
    #[inline(always)]
    pub fn at(&self, index: usize) -> &T {
        // SAFETY: the mask keeps the index within the atoms that the contract of `new` covers.
        unsafe { self.base.add(index & self.mask).as_ref() }
    }

    /// Returns the number of atoms.
    #[allow(clippy::len_without_is_empty, reason = "never empty: the length is a power of two")]
    pub fn len(&self) -> usize {
        self.mask.wrapping_add(1)
    }
}

use crate::{RingArray, copy::copy_bytes};
use core::{
    mem::{align_of, size_of},
    ptr::NonNull,
    sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64},
};

mod sealed {
    pub trait Sealed {}
}

/// The types as which host-writable memory is accessed: atomics, and arrays of them.
///
/// Sealed: a reference of any other type would be to memory that can change while the reference exists.
pub trait SharedAtom: sealed::Sealed + Sync + 'static {}

macro_rules! atoms {
    ($($t:ty),*) => { $(impl sealed::Sealed for $t {} impl SharedAtom for $t {})* };
}
atoms!(AtomicU8, AtomicU16, AtomicU32, AtomicU64);
impl<T: SharedAtom, const N: usize> sealed::Sealed for [T; N] {}
impl<T: SharedAtom, const N: usize> SharedAtom for [T; N] {}

/// Memory that a host may write at any time.
///
/// It never returns a `&[u8]`: bytes are copied out once and then checked.
#[derive(Debug)]
pub struct SharedMemory {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: every access goes through atomics.
unsafe impl Send for SharedMemory {}
// SAFETY: every access goes through atomics.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Creates a view of `len` bytes at `base`.
    ///
    /// # Safety
    ///
    /// The memory is valid for reads and writes while this value and references from it exist, `base` is aligned to
    /// 8, and the guest accesses it in no other way than through such views (or raw pointers once the host has
    /// quiesced).
    pub const unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        Self { base, len }
    }

    /// Returns the length in bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns whether the length is 0.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the atom at byte `offset`; `None` if it is out of bounds or misaligned.
    pub fn at<T: SharedAtom>(&self, offset: usize) -> Option<&T> {
        let end = offset.checked_add(size_of::<T>())?;
        let address = (self.base.as_ptr() as usize).checked_add(offset)?;
        if end > self.len || address & align_of::<T>().wrapping_sub(1) != 0 {
            return None;
        }
        // SAFETY: in bounds and aligned by the checks above; valid and accessed only as atomics by the contract of `new`.
        Some(unsafe { self.base.add(offset).cast::<T>().as_ref() })
    }

    /// Returns the `count` atoms from byte `offset` on; `None` if they are out of bounds or misaligned.
    pub fn slice_at<T: SharedAtom>(&self, offset: usize, count: usize) -> Option<&[T]> {
        let end = offset.checked_add(count.checked_mul(size_of::<T>())?)?;
        let address = (self.base.as_ptr() as usize).checked_add(offset)?;
        if end > self.len || address & align_of::<T>().wrapping_sub(1) != 0 {
            return None;
        }
        // SAFETY: in bounds and aligned by the checks above; valid and accessed only as atomics by the contract of `new`.
        Some(unsafe { core::slice::from_raw_parts(self.base.add(offset).cast::<T>().as_ptr(), count) })
    }

    /// Returns an array of `count` atoms at byte `offset`, indexed modulo `count`; `None` if it is out of bounds or misaligned, or
    /// `count` is not a power of two.
    ///
    /// # Safety
    ///
    /// The caller drops the array before the memory becomes invalid.
    pub unsafe fn ring_array<T: SharedAtom>(&self, offset: usize, count: usize) -> Option<RingArray<T>> {
        let len = count.checked_mul(size_of::<T>())?;
        let end = offset.checked_add(len)?;
        let address = (self.base.as_ptr() as usize).checked_add(offset)?;
        if end > self.len || !count.is_power_of_two() || address & align_of::<T>().wrapping_sub(1) != 0 {
            return None;
        }
        // SAFETY: in bounds by the checks above.
        let base = unsafe { self.base.add(offset).cast() };
        // SAFETY: `count` atoms are in bounds and aligned by the checks above, and valid and accessed only as atomics by the
        // contract of `new`; the caller drops the array before the memory becomes invalid.
        Some(unsafe { RingArray::new(base, count.wrapping_sub(1)) })
    }

    /// Copies `into.len()` bytes from byte `offset` of the memory to `into`, reading each byte once.
    ///
    /// Returns `None`, without copying, if they are out of bounds.
    #[inline]
    pub fn copy_out(&self, offset: usize, into: &mut [u8]) -> Option<()> {
        self.check_bounds(offset, into.len())?;
        // SAFETY: in bounds by the check above and valid by the contract of `new`; private memory does not overlap shared memory.
        unsafe { copy_bytes(self.base.add(offset).as_ptr(), into.as_mut_ptr(), into.len()) };
        Some(())
    }

    /// Copies `from` into the memory at byte `offset`.
    ///
    /// Returns `None`, without copying, if it is out of bounds.
    #[inline]
    pub fn copy_in(&self, offset: usize, from: &[u8]) -> Option<()> {
        self.check_bounds(offset, from.len())?;
        // SAFETY: in bounds by the check above and valid by the contract of `new`; private memory does not overlap shared memory.
        unsafe { copy_bytes(from.as_ptr(), self.base.add(offset).as_ptr(), from.len()) };
        Some(())
    }

    #[inline(always)]
    fn check_bounds(&self, offset: usize, len: usize) -> Option<()> {
        (offset.checked_add(len)? <= self.len).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::Ordering;

    #[test]
    fn views_are_bounded_and_aligned() {
        let mut words = [0u64; 4];
        // SAFETY: `words` outlives the view and is accessed only through it.
        let view = unsafe { SharedMemory::new(NonNull::from(&mut words).cast(), 32) };
        assert!(view.at::<AtomicU16>(30).is_some());
        assert!(view.at::<AtomicU16>(31).is_none());
        assert!(view.at::<AtomicU32>(2).is_none());
        assert!(view.at::<AtomicU8>(usize::MAX).is_none());
        assert_eq!(view.slice_at::<AtomicU64>(8, 3).map(<[_]>::len), Some(3));
        assert!(view.slice_at::<AtomicU64>(8, 4).is_none());
        assert!(view.slice_at::<AtomicU64>(4, 1).is_none());
        assert!(view.slice_at::<AtomicU64>(8, usize::MAX).is_none());
        view.copy_in(1, &[1, 2, 3]).unwrap();
        assert!(view.copy_in(30, &[1, 2, 3]).is_none());
        let mut out = [0; 5];
        view.copy_out(0, &mut out).unwrap();
        assert_eq!(out, [0, 1, 2, 3, 0]);
        assert!(view.copy_out(28, &mut out).is_none());
    }

    #[test]
    fn ring_arrays_wrap_and_refuse_what_does_not_fit() {
        let mut words = [0u64; 4];
        // SAFETY: `words` outlives the view and the array and is accessed only through them.
        let view = unsafe { SharedMemory::new(NonNull::from(&mut words).cast(), 32) };
        // SAFETY: the array is dropped before `words`.
        let ring = unsafe { view.ring_array::<AtomicU32>(8, 4) }.unwrap();
        ring.at(6).store(9, Ordering::Relaxed);
        assert_eq!(view.at::<AtomicU32>(16).unwrap().load(Ordering::Relaxed), 9);
        // SAFETY: every call returns `None`: no array is created.
        unsafe {
            assert!(view.ring_array::<AtomicU32>(8, 3).is_none());
            assert!(view.ring_array::<AtomicU32>(24, 4).is_none());
            assert!(view.ring_array::<AtomicU32>(9, 1).is_none());
            assert!(view.ring_array::<AtomicU64>(0, usize::MAX / 2 + 1).is_none());
        }
    }
}

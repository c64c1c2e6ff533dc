use crate::{AllocError, BusAddr, Direction, DmaBuffer, DmaRegion, LendError, PageArc, Platform, Segment};
use core::{fmt, mem::ManuallyDrop, ptr::NonNull};

/// A piece of DMA memory with one owner: the [`DmaBuffer`] that comes with this crate.
///
/// While it is not lent its bytes are plain memory; while it is lent they cannot be reached. Several slices can
/// share one allocation ([`alloc_many`](Self::alloc_many)), which is freed with the last of them. Dropping a slice
/// that is lent leaks the allocation.
pub struct DmaSlice<P: Platform> {
    region: ManuallyDrop<PageArc<P, DmaRegion<P>>>,
    base: NonNull<u8>,
    segment: Segment,
    capacity: u32,
    lent: bool,
}

// SAFETY: it owns its bytes; the region behind it is `Send` and `Sync`.
unsafe impl<P: Platform> Send for DmaSlice<P> {}
// SAFETY: shared access gives `&[u8]` only.
unsafe impl<P: Platform> Sync for DmaSlice<P> {}

impl<P: Platform> DmaSlice<P> {
    /// Allocates a slice of `len` zeroed bytes, page-aligned.
    ///
    /// # Errors
    ///
    /// [`AllocError`] where the platform has none, or `len` is 0 or over 32 bits.
    pub fn alloc(platform: &P, len: usize) -> Result<Self, AllocError> {
        let mut one = None;
        Self::alloc_many(platform, 1, len, |slice| one = Some(slice))?;
        one.ok_or(AllocError)
    }

    /// Allocates `count` slices of `len` zeroed bytes each in one region, one behind the other, and hands each
    /// to `each`. Slices begin at multiples of `len`.
    ///
    /// # Errors
    ///
    /// [`AllocError`] as for [`alloc`](Self::alloc); `each` has then not been called.
    pub fn alloc_many(
        platform: &P,
        count: usize,
        len: usize,
        mut each: impl FnMut(Self),
    ) -> Result<(), AllocError> {
        let short = u32::try_from(len).ok().filter(|len| *len > 0).ok_or(AllocError)?;
        let total = len.checked_mul(count).ok_or(AllocError)?;
        let region = PageArc::new(platform, DmaRegion::alloc(platform, total)?)?;
        for i in 0..count {
            let offset = i.wrapping_mul(len);
            each(Self {
                // SAFETY: `total` bytes were allocated and `offset + len <= total`.
                base: unsafe { region.cpu().add(offset) },
                segment: Segment { addr: region.bus().offset(offset as u64), len: short },
                capacity: short,
                region: ManuallyDrop::new(region.clone()),
                lent: false,
            });
        }
        Ok(())
    }

    /// The bytes; empty while lent.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        let len = if self.lent { 0 } else { self.segment.len as usize };
        // SAFETY: the bytes are this value's alone, initialised (zeroed), and not lent.
        unsafe { core::slice::from_raw_parts(self.base.as_ptr(), len) }
    }

    /// The bytes, to write; empty while lent.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let len = if self.lent { 0 } else { self.segment.len as usize };
        // SAFETY: as in `bytes`, and borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(self.base.as_ptr(), len) }
    }

    /// Sets how much of the memory this is: [`bytes`](Self::bytes) and what a request transfers. At most
    /// [`capacity`](Self::capacity), at least 1; a length out of that range is taken as the nearest in it. Nothing
    /// happens while lent.
    pub fn set_len(&mut self, len: usize) {
        if !self.lent {
            self.segment.len = u32::try_from(len).unwrap_or(u32::MAX).clamp(1, self.capacity);
        }
    }

    /// The length that was allocated, in bytes.
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// The length in bytes, lent or not.
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.segment.len as usize
    }

    /// Where a device sees the first byte.
    pub fn bus(&self) -> BusAddr {
        self.segment.addr
    }

    /// Whether a device has it.
    pub fn is_lent(&self) -> bool {
        self.lent
    }
}

// SAFETY: the region does not move and is freed only when no slice of it is lent; `bytes` and `bytes_mut` are empty
// meanwhile.
unsafe impl<P: Platform> DmaBuffer for DmaSlice<P> {
    #[inline]
    fn lend(&mut self, _direction: Direction) -> Result<&[Segment], LendError> {
        if self.lent {
            return Err(LendError::Lent);
        }
        self.lent = true;
        Ok(core::slice::from_ref(&self.segment))
    }

    #[inline]
    unsafe fn reclaim(&mut self) {
        self.lent = false;
    }
}

impl<P: Platform> Drop for DmaSlice<P> {
    fn drop(&mut self) {
        if !self.lent {
            // SAFETY: dropped once, and not used after.
            unsafe { ManuallyDrop::drop(&mut self.region) }
        }
    }
}

impl<P: Platform> fmt::Debug for DmaSlice<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaSlice").field("segment", &self.segment).field("lent", &self.lent).finish()
    }
}

use crate::{
    AllocError, BusAddr, Direction, DmaBuffer, DmaRegion, DmaSegments, PAGE_SIZE, PageArc, PageTable,
    Platform, Segment, SubmitError,
};
use core::{cell::UnsafeCell, fmt, mem::MaybeUninit, ptr::NonNull};

/// The state of a slice. It is in private pages of the platform, so that a slice is one pointer.
struct Header<P: Platform> {
    /// Keeps the memory and this header alive. Written when the slice is created, taken when it is dropped.
    slab: MaybeUninit<PageArc<P, Slab<P>>>,
    base: NonNull<u8>,
    segment: Segment,
    capacity: u32,
    in_flight: bool,
    /// Whether no other slice is in the same pages.
    owns_pages: bool,
}

/// The memory of several slices, and their headers. Each slice holds one reference.
struct Slab<P: Platform> {
    _region: DmaRegion<P>,
    headers: PageTable<P, UnsafeCell<Header<P>>>,
}

// SAFETY: each header belongs to one slice, which moves between threads as a whole.
unsafe impl<P: Platform> Send for Slab<P> {}
// SAFETY: a header is accessed only through its slice.
unsafe impl<P: Platform> Sync for Slab<P> {}

/// A piece of DMA memory with one owner: this crate's [`DmaBuffer`].
///
/// The bytes are plain memory while the slice is not in flight, and cannot be accessed while it is. Several slices can share an
/// allocation ([`alloc_many`](Self::alloc_many)), which is freed with the last of them. Dropping a slice in flight leaks the
/// allocation. A slice is one pointer, so that it is cheap to move.
pub struct DmaSlice<P: Platform> {
    header: NonNull<Header<P>>,
}

// SAFETY: the slice owns its header and its bytes; the slab is `Send` and `Sync`.
unsafe impl<P: Platform> Send for DmaSlice<P> {}
// SAFETY: shared access reads only.
unsafe impl<P: Platform> Sync for DmaSlice<P> {}

impl<P: Platform> DmaSlice<P> {
    /// Allocates a slice of `len` zeroed bytes, page-aligned.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if the platform is out of memory, or `len` is 0 or does not fit in 32 bits.
    pub fn alloc(platform: &P, len: usize) -> Result<Self, AllocError> {
        let mut one = None;
        Self::alloc_many(platform, 1, len, |slice| one = Some(slice))?;
        one.ok_or(AllocError)
    }

    /// Allocates `count` contiguous slices of `len` zeroed bytes in one region, and passes each to `each`. Slices begin at multiples of
    /// `len`.
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
        let capacity = u32::try_from(len).ok().filter(|len| *len > 0).ok_or(AllocError)?;
        let region = DmaRegion::alloc(platform, len.checked_mul(count).ok_or(AllocError)?)?;
        let headers = PageTable::new(platform, count, |i| {
            let offset = i.wrapping_mul(len);
            UnsafeCell::new(Header {
                slab: MaybeUninit::uninit(),
                // SAFETY: `count * len` bytes were allocated, and `i < count`.
                base: unsafe { region.cpu().add(offset) },
                segment: Segment { addr: region.bus().offset(offset as u64), len: capacity },
                capacity,
                in_flight: false,
                owns_pages: count == 1 || len & (PAGE_SIZE - 1) == 0,
            })
        })?;
        let slab = PageArc::new(platform, Slab { _region: region, headers })?;
        for cell in slab.headers.iter() {
            let Some(mut header) = NonNull::new(cell.get()) else { continue };
            // SAFETY: nothing else uses the header yet; it does not move while the slab lives.
            unsafe { header.as_mut() }.slab = MaybeUninit::new(slab.clone());
            each(Self { header });
        }
        Ok(())
    }

    #[inline(always)]
    fn header(&self) -> &Header<P> {
        // SAFETY: the header belongs to this slice, and its slab lives while the slice does.
        unsafe { self.header.as_ref() }
    }

    #[inline(always)]
    fn header_mut(&mut self) -> &mut Header<P> {
        // SAFETY: as in `header`, and borrowed mutably.
        unsafe { self.header.as_mut() }
    }

    /// Returns the bytes; empty while in flight.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        let header = self.header();
        let len = if header.in_flight { 0 } else { header.segment.len as usize };
        // SAFETY: the bytes belong to this slice, are initialised (zeroed), and not in flight.
        unsafe { core::slice::from_raw_parts(header.base.as_ptr(), len) }
    }

    /// Returns the bytes mutably; empty while in flight.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let header = self.header();
        let len = if header.in_flight { 0 } else { header.segment.len as usize };
        // SAFETY: as in `bytes`, and borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(header.base.as_ptr(), len) }
    }

    /// Returns all allocated bytes, regardless of the [length](Self::set_len); empty while in flight.
    #[inline(always)]
    pub fn capacity_mut(&mut self) -> &mut [u8] {
        let header = self.header();
        let len = if header.in_flight { 0 } else { header.capacity as usize };
        // SAFETY: `capacity` bytes belong to this slice, are initialised (zeroed), not in flight, and borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(header.base.as_ptr(), len) }
    }

    /// Sets the length of [`bytes`](Self::bytes) and of a request's transfer, clamped to 1 to [`capacity`](Self::capacity). Does nothing
    /// while in flight.
    #[inline(always)]
    pub fn set_len(&mut self, len: usize) {
        let header = self.header_mut();
        if !header.in_flight {
            header.segment.len = u32::try_from(len).unwrap_or(u32::MAX).min(header.capacity).max(1);
        }
    }

    /// Returns the allocated length in bytes.
    pub fn capacity(&self) -> usize {
        self.header().capacity as usize
    }

    /// Returns the length in bytes, in flight or not.
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.header().segment.len as usize
    }

    /// Returns the bus address of the first byte.
    pub fn bus(&self) -> BusAddr {
        self.header().segment.addr
    }

    /// Returns whether a device may access it.
    pub fn is_in_flight(&self) -> bool {
        self.header().in_flight
    }
}

// SAFETY: the region does not move and is freed only when no slice of it is in flight; while in flight, the accessors of bytes
// return empty slices.
unsafe impl<P: Platform> DmaBuffer for DmaSlice<P> {
    #[inline(always)]
    fn submit(&mut self, direction: Direction) -> Result<DmaSegments<'_>, SubmitError> {
        let header = self.header_mut();
        if header.in_flight {
            return Err(SubmitError::InFlight);
        }
        header.in_flight = true;
        // SAFETY: the slice owns these bytes, and neither accesses nor frees them while `in_flight` is set, which only the unsafe
        // `reclaim` ends.
        Ok(unsafe { DmaSegments::new(core::slice::from_ref(&header.segment), direction) })
    }

    #[inline(always)]
    unsafe fn reclaim(&mut self) {
        self.header_mut().in_flight = false;
    }

    #[inline(always)]
    fn owns_pages(&self) -> bool {
        self.header().owns_pages
    }

    fn bytes_to_copy(&mut self) -> Option<&mut [u8]> {
        if self.is_in_flight() { None } else { Some(self.bytes_mut()) }
    }
}

impl<P: Platform> Drop for DmaSlice<P> {
    fn drop(&mut self) {
        if !self.header().in_flight {
            // SAFETY: written when the slice was created, and taken once. Dropping it may free the header, which is not used afterwards.
            drop(unsafe { self.header().slab.assume_init_read() });
        }
    }
}

impl<P: Platform> fmt::Debug for DmaSlice<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Header { segment, in_flight, .. } = self.header();
        f.debug_struct("DmaSlice").field("segment", segment).field("in_flight", in_flight).finish()
    }
}

use crate::{Instant, SharedMemory};
use core::{fmt, mem::ManuallyDrop, num::NonZeroUsize, ptr::NonNull};

/// The unit of DMA allocation, in bytes. Hosts count pages of this size whatever the guest's own page size is.
pub const PAGE_SIZE: usize = 4096;

/// An address as a device sees it: a guest physical address, or what an IOMMU maps to one.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Ord, PartialOrd, Hash)]
#[repr(transparent)]
pub struct BusAddr(pub u64);

impl BusAddr {
    /// The address `bytes` further on, wrapping at the end of the address space.
    pub const fn offset(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}

/// There was no DMA memory to be had.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct AllocError;

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of DMA memory")
    }
}

impl core::error::Error for AllocError {}

/// Pages that [`Platform::dma_alloc`] gave out.
#[derive(Copy, Clone, Debug)]
pub struct RawDma {
    /// Where the guest sees them; aligned to [`PAGE_SIZE`].
    pub cpu: NonNull<u8>,
    /// Where devices see them; aligned to [`PAGE_SIZE`], contiguous.
    pub bus: BusAddr,
    /// How many pages of [`PAGE_SIZE`] bytes.
    pub pages: NonZeroUsize,
}

impl RawDma {
    /// The length in bytes.
    pub const fn len(&self) -> usize {
        self.pages.get().saturating_mul(PAGE_SIZE)
    }

    /// Never true: a region has at least one page.
    pub const fn is_empty(&self) -> bool {
        false
    }
}

/// The services that every driver needs: DMA memory and the time.
///
/// A value is a handle: cheap to clone, usable from any processor. The data path of the drivers calls only
/// [`now`](Self::now), and that only where a caller asks to wait; memory is allocated when a device is opened.
///
/// # Safety
///
/// An implementation upholds what each method promises; drivers build references on it.
pub unsafe trait Platform: Clone + Send + Sync + 'static {
    /// Allocates `pages` contiguous, zeroed pages.
    ///
    /// # Implementation safety
    ///
    /// The memory is valid for reads and writes at `cpu` and, for devices, at `bus`, belongs to nobody else, is
    /// aligned to [`PAGE_SIZE`], stays where it is and is coherent between processors and devices, until it is
    /// freed. It can be freed from any processor.
    ///
    /// # Errors
    ///
    /// [`AllocError`] where there is none; the driver then refuses to open its device.
    fn dma_alloc(&self, pages: NonZeroUsize) -> Result<RawDma, AllocError>;

    /// Frees what [`dma_alloc`](Self::dma_alloc) gave out.
    ///
    /// # Safety
    ///
    /// `region` came from `dma_alloc` of this platform, is freed once, and no device and no reference uses it.
    unsafe fn dma_free(&self, region: RawDma);

    /// The time, on a clock that never goes back and that all processors share.
    ///
    /// A resolution of a millisecond is enough; it is what deadlines are compared with.
    fn now(&self) -> Instant;

    /// What to do between two looks at something that a host is about to change. Called in bounded waits only.
    fn relax(&self) {
        core::hint::spin_loop();
    }
}

/// DMA memory with an owner: freed when dropped.
///
/// Its bytes are seen through [`SharedMemory`], that is as atomics, because a host may write them at any time.
pub struct DmaRegion<P: Platform> {
    raw: RawDma,
    shared: SharedMemory,
    platform: P,
}

// SAFETY: the region is memory; the view hands out atomics only, and the platform is `Send` and `Sync`.
unsafe impl<P: Platform> Send for DmaRegion<P> {}
// SAFETY: as above.
unsafe impl<P: Platform> Sync for DmaRegion<P> {}

impl<P: Platform> DmaRegion<P> {
    /// Allocates at least `len` bytes (rounded up to whole pages, at least one), zeroed.
    ///
    /// # Errors
    ///
    /// [`AllocError`] where the platform has no contiguous run of that length.
    pub fn alloc(platform: &P, len: usize) -> Result<Self, AllocError> {
        let pages = NonZeroUsize::new(len.div_ceil(PAGE_SIZE)).unwrap_or(NonZeroUsize::MIN);
        let raw = platform.dma_alloc(pages)?;
        // SAFETY: `dma_alloc` promises that the memory is valid until it is freed, which happens in `drop`; the
        // view is only lent out for the life of this value.
        let shared = unsafe { SharedMemory::new(raw.cpu, raw.len()) };
        Ok(Self { raw, shared, platform: platform.clone() })
    }

    /// The view of the bytes while a host may write them.
    pub fn shared(&self) -> &SharedMemory {
        &self.shared
    }

    /// Where devices see the first byte.
    pub fn bus(&self) -> BusAddr {
        self.raw.bus
    }

    /// Where the guest sees the first byte.
    pub fn cpu(&self) -> NonNull<u8> {
        self.raw.cpu
    }

    /// The length in bytes, a multiple of [`PAGE_SIZE`].
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// Never true: a region has at least one page.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Gives the memory up for good: what a host may still write to is never used again.
    pub fn leak(self) {
        let _ = ManuallyDrop::new(self);
    }
}

impl<P: Platform> Drop for DmaRegion<P> {
    fn drop(&mut self) {
        // SAFETY: the region came from `dma_alloc` of this platform and is dropped once; an owner that lent it to
        // a device drops it only after the device let go, or leaks it.
        unsafe { self.platform.dma_free(self.raw) }
    }
}

impl<P: Platform> fmt::Debug for DmaRegion<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaRegion").field("bus", &self.raw.bus).field("len", &self.raw.len()).finish()
    }
}

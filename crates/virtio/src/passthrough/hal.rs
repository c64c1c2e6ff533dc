//! A [`virtio_drivers::Hal`] over a platform, for passthrough devices.
//!
//! Buffers that the drivers share with a device are bounced through a pool of pages: the drivers work on a platform whose devices
//! cannot access ordinary memory, and no device accesses the kernel's stack or heap.

use core::fmt;
use core::marker::PhantomData;
use core::num::NonZeroUsize;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use paravirt_platform::{AllocError, BusAddr, DmaRegion, PAGE_SIZE, Platform, RawDma};
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

/// A bus address at which no machine has memory.
const UNMAPPED_ADDR: PhysAddr = !0xffff_ffff;
/// Pages of a pool.
pub const POOL_PAGES: usize = 64;

/// A pool of 64 contiguous pages through which buffers are bounced: a request is limited to 256 KiB.
pub struct BouncePool<P: Platform> {
    region: DmaRegion<P>,
    /// One bit for each page, set while it is in use.
    used: AtomicU64,
    platform: P,
}

impl<P: Platform> BouncePool<P> {
    /// Allocates the pool.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if the platform has no 64 contiguous pages.
    pub fn new(platform: &P) -> Result<Self, AllocError> {
        let region = DmaRegion::alloc(platform, POOL_PAGES.saturating_mul(PAGE_SIZE))?;
        Ok(Self { region, used: AtomicU64::new(0), platform: platform.clone() })
    }

    /// The mask of `pages` pages from index `first`.
    fn bits(first: usize, pages: usize) -> u64 {
        let run = if pages >= 64 { u64::MAX } else { (1u64 << pages).wrapping_sub(1) };
        run << (first & 63)
    }

    /// Allocates `pages` contiguous pages and returns the index of the first; `None` if the pool has no such run.
    fn alloc(&self, pages: usize) -> Option<usize> {
        let last = POOL_PAGES.checked_sub(pages)?;
        let mut used = self.used.load(Ordering::Relaxed);
        loop {
            let first = (0..=last).find(|first| used & Self::bits(*first, pages) == 0)?;
            let with = used | Self::bits(first, pages);
            match self.used.compare_exchange_weak(used, with, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(first),
                Err(now) => used = now,
            }
        }
    }

    /// Frees `pages` pages from index `first`.
    fn free(&self, first: usize, pages: usize) {
        self.used.fetch_and(!Self::bits(first, pages), Ordering::Release);
    }

    /// The index of the page at bus address `addr`; `None` if it is not in the pool.
    fn index(&self, addr: u64) -> Option<usize> {
        let offset = usize::try_from(addr.checked_sub(self.region.bus().0)?).ok()?;
        (offset < self.region.len()).then_some(offset >> PAGE_SIZE.trailing_zeros())
    }
}

/// Selects the pool of a [`BounceHal`]: the kernel implements it for a type that it defines, since the methods of `Hal` have no
/// `self`.
///
/// ```
/// use paravirt_virtio::passthrough::hal::{BouncePool, PoolSource};
/// # use paravirt_platform::Platform;
/// # fn example<MyPlatform: Platform>(pool: &'static BouncePool<MyPlatform>) {
/// # struct MyPool<P>(core::marker::PhantomData<P>);
/// # trait Static { fn get() -> &'static BouncePool<Self> where Self: Platform; }
/// // In a kernel: `static POOL: Once<BouncePool<MyPlatform>>`, and here `POOL.get()`.
/// impl<P: Platform + Static> PoolSource for MyPool<P> {
///     type Platform = P;
///     fn pool() -> &'static BouncePool<P> { P::get() }
/// }
/// # }
/// ```
pub trait PoolSource: 'static {
    /// The platform that the pool allocates from.
    type Platform: Platform;
    /// Returns the pool.
    fn pool() -> &'static BouncePool<Self::Platform>;
}

/// A `Hal` that bounces buffers through the pool of `S`.
pub struct BounceHal<S>(PhantomData<S>);

// SAFETY: memory comes from `Platform::dma_alloc`, zeroed and exclusive until `dma_dealloc`, or from pages of the pool whose bits
// `alloc` has set and that no other request uses until `free`.
unsafe impl<S: PoolSource> Hal for BounceHal<S> {
    /// Allocates pages; address 0, which `virtio-drivers` treats as an error, if there is no memory.
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let pages = NonZeroUsize::new(pages).ok_or(AllocError);
        match pages.and_then(|pages| S::pool().platform.dma_alloc(pages)) {
            Ok(raw) => (raw.bus.0, raw.cpu),
            Err(AllocError) => (0, NonNull::dangling()),
        }
    }

    unsafe fn dma_dealloc(paddr: PhysAddr, vaddr: NonNull<u8>, pages: usize) -> i32 {
        let Some(pages) = NonZeroUsize::new(pages) else { return 0 };
        // SAFETY: the caller passes what `dma_alloc` returned.
        unsafe { S::pool().platform.dma_free(RawDma { cpu: vaddr, bus: BusAddr(paddr), pages }) }
        0
    }

    #[expect(clippy::panic, reason = "the trait has no error, and there is no pointer to answer with")]
    unsafe fn mmio_phys_to_virt(paddr: PhysAddr, size: usize) -> NonNull<u8> {
        // Only the transports of `virtio-drivers` call it; `PassthroughTransport` maps its registers itself.
        // SAFETY: the caller promises that the range is a device's registers.
        match unsafe { S::pool().platform.map(paddr, size) } {
            Ok(base) => base,
            // The trait has no error, and its caller writes through whatever pointer it gets.
            Err(error) => panic!("virtio: {paddr:#x}: {error}"),
        }
    }

    /// Copies the buffer to the pool and returns its bus address. If the pool is exhausted, the address is one without memory, and
    /// the device fails the request.
    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
        let pool = S::pool();
        let Some(first) = pool.alloc(buffer.len().div_ceil(PAGE_SIZE)) else {
            log::warn!("virtio: bounce pool exhausted, request of {} bytes fails", buffer.len());
            return UNMAPPED_ADDR;
        };
        let offset = first << PAGE_SIZE.trailing_zeros();
        if direction != BufferDirection::DeviceToDriver {
            // SAFETY: the caller promises a valid buffer that is not accessed meanwhile; `alloc` reserved that many pages.
            unsafe { pool.region.cpu().add(offset).copy_from_nonoverlapping(buffer.cast(), buffer.len()) }
        }
        pool.region.bus().offset(offset as u64).0
    }

    unsafe fn unshare(paddr: PhysAddr, buffer: NonNull<[u8]>, direction: BufferDirection) {
        let pool = S::pool();
        let Some(first) = pool.index(paddr) else { return };
        let offset = first << PAGE_SIZE.trailing_zeros();
        if direction != BufferDirection::DriverToDevice {
            // SAFETY: the caller passes what `share` returned for this buffer, which reserved that many pages.
            unsafe { pool.region.cpu().add(offset).copy_to_nonoverlapping(buffer.cast(), buffer.len()) }
        }
        pool.free(first, buffer.len().div_ceil(PAGE_SIZE));
    }
}

impl<P: Platform> fmt::Debug for BouncePool<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BouncePool")
            .field("used_pages", &self.used.load(Ordering::Relaxed).count_ones())
            .finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for BounceHal<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BounceHal")
    }
}

//! A [`virtio_drivers::Hal`] over a platform, for the devices of that crate that are passed through.
//!
//! What its drivers share with a device is copied through a pool of pages (bounced), so that they work on a platform whose
//! devices do not reach ordinary memory, and no device ever sees the kernel's stack or heap.

use core::marker::PhantomData;
use core::num::NonZeroUsize;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use paravirt_platform::{AllocError, BusAddr, DmaRegion, PAGE_SIZE, Platform, RawDma};
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

/// The end of the address space, which no machine has memory at.
const NOWHERE: PhysAddr = !0xffff_ffff;
/// Pages of a pool.
pub const POOL_PAGES: usize = 64;

/// Pages that buffers are bounced through: 64 of them, so that a request of these drivers is at most 256 KiB.
pub struct BouncePool<P: Platform> {
    region: DmaRegion<P>,
    /// A bit for each page that is in use.
    used: AtomicU64,
    platform: P,
}

impl<P: Platform> BouncePool<P> {
    /// Allocates the pool.
    ///
    /// # Errors
    ///
    /// [`AllocError`] where the platform has not that many contiguous pages.
    pub fn new(platform: &P) -> Result<Self, AllocError> {
        let region = DmaRegion::alloc(platform, POOL_PAGES.saturating_mul(PAGE_SIZE))?;
        Ok(Self { region, used: AtomicU64::new(0), platform: platform.clone() })
    }

    /// The bits of `pages` pages from `first` on.
    fn bits(first: usize, pages: usize) -> u64 {
        let run = if pages >= 64 { u64::MAX } else { (1u64 << pages).wrapping_sub(1) };
        run << (first & 63)
    }

    /// Takes `pages` contiguous pages; the first one's index.
    fn take(&self, pages: usize) -> Option<usize> {
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

    fn give(&self, first: usize, pages: usize) {
        self.used.fetch_and(!Self::bits(first, pages), Ordering::Release);
    }

    /// Where the page at bus address `addr` is, if it is one of the pool's.
    fn index(&self, addr: u64) -> Option<usize> {
        let offset = usize::try_from(addr.checked_sub(self.region.bus().0)?).ok()?;
        (offset < self.region.len()).then_some(offset >> PAGE_SIZE.trailing_zeros())
    }
}

/// Which pool a [`BounceHal`] uses: a type of the kernel's own, since the `Hal` trait has no `self`.
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
    /// The platform of the pool.
    type Platform: Platform;
    /// The pool.
    fn pool() -> &'static BouncePool<Self::Platform>;
}

/// The `Hal` over the pool of `S`.
pub struct BounceHal<S>(PhantomData<S>);

// SAFETY: memory comes from the platform or the pool, zeroed where that is asked, and belongs to nobody else meanwhile.
unsafe impl<S: PoolSource> Hal for BounceHal<S> {
    /// Address 0 where there is no memory, which that crate takes as an error.
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let pages = NonZeroUsize::new(pages).ok_or(AllocError);
        match pages.and_then(|pages| S::pool().platform.dma_alloc(pages)) {
            Ok(raw) => (raw.bus.0, raw.cpu),
            Err(AllocError) => (0, NonNull::dangling()),
        }
    }

    unsafe fn dma_dealloc(paddr: PhysAddr, vaddr: NonNull<u8>, pages: usize) -> i32 {
        let Some(pages) = NonZeroUsize::new(pages) else { return 0 };
        // SAFETY: the caller hands back what `dma_alloc` returned.
        unsafe { S::pool().platform.dma_free(RawDma { cpu: vaddr, bus: BusAddr(paddr), pages }) }
        0
    }

    #[expect(clippy::panic, reason = "the trait has no error, and there is no pointer to answer with")]
    unsafe fn mmio_phys_to_virt(paddr: PhysAddr, size: usize) -> NonNull<u8> {
        // Used by that crate's own transports only; ours map for themselves.
        // SAFETY: the caller promises that the range is a device's registers.
        match unsafe { S::pool().platform.map(paddr, size) } {
            Ok(base) => base,
            // The trait has no way to refuse, and any pointer would be written through.
            Err(error) => panic!("virtio: {paddr:#x}: {error}"),
        }
    }

    /// An address where no machine has memory, where the pool is exhausted: the device cannot use it, and the request fails.
    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
        let pool = S::pool();
        let Some(first) = pool.take(buffer.len().div_ceil(PAGE_SIZE)) else {
            log::warn!("virtio: no room in the bounce pool for {} bytes", buffer.len());
            return NOWHERE;
        };
        let offset = first << PAGE_SIZE.trailing_zeros();
        if direction != BufferDirection::DeviceToDriver {
            // SAFETY: the caller says that the buffer is valid and used by nobody else; the pages are ours.
            unsafe { pool.region.cpu().add(offset).copy_from_nonoverlapping(buffer.cast(), buffer.len()) }
        }
        pool.region.bus().offset(offset as u64).0
    }

    unsafe fn unshare(paddr: PhysAddr, buffer: NonNull<[u8]>, direction: BufferDirection) {
        let pool = S::pool();
        let Some(first) = pool.index(paddr) else { return };
        let offset = first << PAGE_SIZE.trailing_zeros();
        if direction != BufferDirection::DriverToDevice {
            // SAFETY: as in `share`; the pages were taken for this buffer.
            unsafe { pool.region.cpu().add(offset).copy_to_nonoverlapping(buffer.cast(), buffer.len()) }
        }
        pool.give(first, buffer.len().div_ceil(PAGE_SIZE));
    }
}

use crate::absent::Absent;
use crate::{HyperV, Instant, Interrupts, MapError, PortIo, Processors, Registers, SharedMemory, Xen};
use core::{fmt, mem::ManuallyDrop, num::NonZeroUsize, ptr::NonNull};

/// The unit of DMA allocation, in bytes. Hosts count pages of this size whatever the guest's own page size is.
pub const PAGE_SIZE: usize = 4096;

/// An address on the device's side: a guest physical address, or an I/O virtual address that an IOMMU maps to one.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Ord, PartialOrd, Hash)]
#[repr(transparent)]
pub struct BusAddr(pub u64);

impl BusAddr {
    /// Returns the address plus `bytes`, wrapping at the end of the address space.
    pub const fn offset(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}

/// The platform is out of memory.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct AllocError;

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of DMA memory")
    }
}

impl core::error::Error for AllocError {}

/// Pages allocated by [`Platform::dma_alloc`].
#[derive(Copy, Clone, Debug)]
pub struct RawDma {
    /// The virtual address in the guest, aligned to [`PAGE_SIZE`].
    pub cpu: NonNull<u8>,
    /// The bus address, aligned to [`PAGE_SIZE`]; the pages are contiguous.
    pub bus: BusAddr,
    /// The number of pages of [`PAGE_SIZE`] bytes.
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

/// The services of a kernel for its drivers: memory, mappings, the time, and handles to optional services.
///
/// A value is a handle: cheap to clone, usable from any processor, and usually zero-sized. Only [`dma_alloc`](Self::dma_alloc),
/// [`dma_free`](Self::dma_free) and [`now`](Self::now) are required. A kernel with PCI or MMIO devices also implements
/// [`map`](Self::map) and [`unmap`](Self::unmap). Everything else has a default that means "absent": a driver that needs an absent
/// service finds no device, or polls.
///
/// # Contexts
///
/// The drivers call every method in task context, from any processor, possibly while they hold a spin lock of theirs that others
/// then wait for: an implementation does not call back into a driver. Only [`registers`](Self::registers) is called in interrupt
/// context too, by the handlers of VMBus; a kernel that reads a driver's clock in its handlers calls it from there as well. The
/// accessors of services return at once.
///
/// Memory is allocated and mapped when a device is opened, and freed when it is dropped. The data path calls `now` to retry a
/// request and where a caller asks to wait, and on Hyper-V [`hyperv`](Self::hyperv) to signal the host; a buffer type of the
/// kernel's may call more.
///
/// # Safety
///
/// An implementation upholds what each method requires under "Implementation safety"; drivers create references that depend on it.
pub unsafe trait Platform: Clone + Send + Sync + 'static {
    /// Allocates `pages` contiguous, zeroed pages for devices to access. May block, but not on a driver.
    ///
    /// # Implementation safety
    ///
    /// Until it is freed, the memory is valid for reads and writes at `cpu` and, for devices, at `bus`, is used by nothing else, is
    /// aligned to [`PAGE_SIZE`], does not move, and is coherent between processors and devices. It can be freed from any processor.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if there is none; the driver then does not open its device.
    fn dma_alloc(&self, pages: NonZeroUsize) -> Result<RawDma, AllocError>;

    /// Frees pages allocated by [`dma_alloc`](Self::dma_alloc). May block, but not on a driver; it cannot fail.
    ///
    /// # Safety
    ///
    /// `region` came from `dma_alloc` of this platform, is freed once, and no device and no reference uses it.
    unsafe fn dma_free(&self, region: RawDma);

    /// Allocates `pages` zeroed pages for the drivers' private state: tables of requests in flight, reference counts, queues of buffers.
    /// They are not shared with a device.
    ///
    /// The default is [`dma_alloc`](Self::dma_alloc). If a device or the host can write the kernel's DMA memory at any time, as in a
    /// confidential VM or with IOMMU windows, the kernel allocates private memory here: a modified word in a driver's state would make
    /// safe code access any memory. [`RawDma::bus`] of the result is not used; it is passed to [`state_free`](Self::state_free)
    /// unchanged.
    ///
    /// # Implementation safety
    ///
    /// Until it is freed, the memory is valid for reads and writes at `cpu`, is used by nothing else, is aligned to [`PAGE_SIZE`] and
    /// does not move. It is zeroed, and can be freed from any processor.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if there is none; the driver then does not open its device.
    fn state_alloc(&self, pages: NonZeroUsize) -> Result<RawDma, AllocError> {
        self.dma_alloc(pages)
    }

    /// Frees pages allocated by [`state_alloc`](Self::state_alloc), as [`dma_free`](Self::dma_free) does.
    ///
    /// # Safety
    ///
    /// `region` came from `state_alloc` of this platform, is freed once, and no reference uses it.
    unsafe fn state_free(&self, region: RawDma) {
        // SAFETY: the default of `state_alloc` is `dma_alloc`, and an implementation that replaces one replaces both.
        unsafe { self.dma_free(region) }
    }

    /// Returns the time of a monotonic clock that all processors share.
    ///
    /// Deadlines are compared with it; a resolution of a millisecond is enough. Does not block, and takes no lock that a
    /// driver's caller may hold.
    fn now(&self) -> Instant;

    /// Called between two polls of something that the host is about to change, in bounded waits only, in task context, and
    /// possibly while the driver holds a spin lock: it may halt until the next interrupt or for a moment, but does not run another
    /// task that calls drivers.
    fn relax(&self) {
        core::hint::spin_loop();
    }

    /// Maps `len` bytes of device registers at the physical address `phys`, uncached. Neither need be aligned; the pointer is to the byte
    /// at `phys`. Ranges may be mapped several times and overlap. May block, but not on a driver.
    ///
    /// # Implementation safety
    ///
    /// The pointer is valid for reads and writes of the whole range until it is unmapped. The address comes from a device (a BAR), from
    /// firmware or from the command line, and a host may choose it: a range that overlaps RAM is refused, as writes to it would change
    /// the kernel's memory.
    ///
    /// # Errors
    ///
    /// [`MapError`] if the range is empty, wraps, overlaps RAM, or cannot be mapped; by default always.
    ///
    /// # Safety
    ///
    /// If it is not RAM, reading and writing the range as the caller does has no effect on memory safety: it is device registers.
    unsafe fn map(&self, phys: u64, len: usize) -> Result<NonNull<u8>, MapError> {
        let _ = (phys, len);
        Err(MapError)
    }

    /// Maps `len` bytes of a firmware table at the physical address `phys`, for reading. Otherwise as [`map`](Self::map), which the
    /// default calls: tables may be in RAM that firmware has reserved or filled in, so a kernel whose `map` refuses RAM overrides it.
    ///
    /// # Implementation safety
    ///
    /// The pointer is valid for reads of the whole range until it is unmapped.
    ///
    /// # Errors
    ///
    /// [`MapError`] if the range is empty, wraps, or cannot be mapped.
    ///
    /// # Safety
    ///
    /// Reading the range has no side effects, and the caller writes nothing to it.
    unsafe fn map_firmware(&self, phys: u64, len: usize) -> Result<NonNull<u8>, MapError> {
        // SAFETY: the caller only reads, which by its contract has no side effects.
        unsafe { self.map(phys, len) }
    }

    /// Ends a mapping. May block, but not on a driver; it cannot fail.
    ///
    /// # Safety
    ///
    /// `base` and `len` are those of one call of [`map`](Self::map) or [`map_firmware`](Self::map_firmware), which is unmapped once and
    /// not used afterwards.
    unsafe fn unmap(&self, base: NonNull<u8>, len: usize) {
        let _ = (base, len);
    }

    /// Returns the interrupt service; by default absent: drivers poll.
    fn interrupts(&self) -> &dyn Interrupts {
        &Absent
    }

    /// Returns the processor service; by default one processor.
    fn processors(&self) -> &dyn Processors {
        &Absent
    }

    /// Returns port I/O, with which PCI configuration space is accessed if there is no ECAM; by default absent.
    fn port_io(&self) -> &dyn PortIo {
        &Absent
    }

    /// Returns access to CPUID, model-specific registers and the cycle counter, which KVM's clock and all drivers for Hyper-V and Xen need; by
    /// default a processor without a hypervisor.
    fn registers(&self) -> &dyn Registers {
        &Absent
    }

    /// Returns what Hyper-V needs in addition to the registers; by default absent, so that no Hyper-V device is found.
    fn hyperv(&self) -> &dyn HyperV {
        &Absent
    }

    /// Returns what Xen needs in addition to the registers; by default absent, so that no device of Xen is found.
    fn xen(&self) -> &dyn Xen {
        &Absent
    }
}

/// DMA memory with an owner: freed when dropped.
///
/// Its bytes are accessed through [`SharedMemory`], that is as atomics, because a host may write them at any time. Code that gives
/// the region's address to a device keeps the region until the device has stopped, or [leaks](Self::leak) it. That is either a driver
/// that owns the region, or the caller of an `unsafe` function that takes the address.
pub struct DmaRegion<P: Platform> {
    raw: RawDma,
    shared: SharedMemory,
    platform: P,
}

// SAFETY: the region is plain memory; the view gives access to atomics only, and the platform is `Send` and `Sync`.
unsafe impl<P: Platform> Send for DmaRegion<P> {}
// SAFETY: the view gives access to atomics only, and the platform is `Sync`.
unsafe impl<P: Platform> Sync for DmaRegion<P> {}

impl<P: Platform> DmaRegion<P> {
    /// Allocates at least `len` bytes (rounded up to whole pages, at least one), zeroed.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if the platform has no contiguous memory of that length.
    pub fn alloc(platform: &P, len: usize) -> Result<Self, AllocError> {
        let pages = NonZeroUsize::new(len.div_ceil(PAGE_SIZE)).unwrap_or(NonZeroUsize::MIN);
        let raw = platform.dma_alloc(pages)?;
        // SAFETY: `dma_alloc` promises that the memory is valid until it is freed, which happens in `drop`; the
        // view is borrowed from this value.
        let shared = unsafe { SharedMemory::new(raw.cpu, raw.len()) };
        Ok(Self { raw, shared, platform: platform.clone() })
    }

    /// Returns the bytes as memory that a host may write.
    pub fn shared(&self) -> &SharedMemory {
        &self.shared
    }

    /// Returns the bus address of the first byte.
    pub fn bus(&self) -> BusAddr {
        self.raw.bus
    }

    /// Returns the virtual address of the first byte.
    pub fn cpu(&self) -> NonNull<u8> {
        self.raw.cpu
    }

    /// Returns the length in bytes, a multiple of [`PAGE_SIZE`].
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// Never true: a region has at least one page.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Leaks the memory: for a region that a device may still write.
    pub fn leak(self) {
        let _ = ManuallyDrop::new(self);
    }
}

impl<P: Platform> Drop for DmaRegion<P> {
    fn drop(&mut self) {
        // SAFETY: the region came from `dma_alloc` of this platform and is dropped once; code that gave it to a device drops it only
        // after the device has stopped, or leaks it, as the type's documentation requires.
        unsafe { self.platform.dma_free(self.raw) }
    }
}

impl<P: Platform> fmt::Debug for DmaRegion<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaRegion").field("bus", &self.raw.bus).field("len", &self.raw.len()).finish()
    }
}

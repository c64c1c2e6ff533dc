use crate::absent::Absent;
use crate::{HyperV, Instant, Interrupts, MapError, PortIo, Processors, Registers, SharedMemory};
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

/// What a kernel gives its drivers: memory, mappings, the time, and handles to the services that it has.
///
/// A value is a handle: cheap to clone, usable from any processor, and usually zero-sized. Only [`dma_alloc`](Self::dma_alloc),
/// [`dma_free`](Self::dma_free) and [`now`](Self::now) are required. A kernel that has devices behind registers (PCI, MMIO) also
/// gives [`map`](Self::map) and [`unmap`](Self::unmap). Everything else has a default that means "not here": a driver that
/// needs a service which is not given finds nothing, or polls.
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
/// An implementation upholds what each method promises under "Implementation safety"; drivers build references on it.
pub unsafe trait Platform: Clone + Send + Sync + 'static {
    /// Allocates `pages` contiguous, zeroed pages for devices to access. May block, but not on a driver.
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

    /// Frees what [`dma_alloc`](Self::dma_alloc) gave out. May block, but not on a driver; it cannot fail.
    ///
    /// # Safety
    ///
    /// `region` came from `dma_alloc` of this platform, is freed once, and no device and no reference uses it.
    unsafe fn dma_free(&self, region: RawDma);

    /// Allocates `pages` zeroed pages for the drivers' own state: the tables of what is in flight, reference counts, queues of
    /// buffers. No device is told of them.
    ///
    /// The default is [`dma_alloc`](Self::dma_alloc). A kernel whose DMA memory a device or the host can write at any time, a
    /// confidential VM or one that gives its devices windows through an IOMMU, allocates private memory here: a word that is
    /// changed in a driver's state makes safe code access any memory. [`RawDma::bus`] of the answer is not looked at; it is
    /// handed back to [`state_free`](Self::state_free) as it is.
    ///
    /// # Implementation safety
    ///
    /// The memory is valid for reads and writes at `cpu`, belongs to nobody else, is zeroed, aligned to [`PAGE_SIZE`] and stays
    /// where it is until it is freed. It can be freed from any processor.
    ///
    /// # Errors
    ///
    /// [`AllocError`] where there is none; the driver then refuses to open its device.
    fn state_alloc(&self, pages: NonZeroUsize) -> Result<RawDma, AllocError> {
        self.dma_alloc(pages)
    }

    /// Frees what [`state_alloc`](Self::state_alloc) gave out, as [`dma_free`](Self::dma_free) does.
    ///
    /// # Safety
    ///
    /// `region` came from `state_alloc` of this platform, is freed once, and no reference uses it.
    unsafe fn state_free(&self, region: RawDma) {
        // SAFETY: by default `state_alloc` is `dma_alloc`, and an implementation that gives another one gives this too.
        unsafe { self.dma_free(region) }
    }

    /// The time, on a clock that never goes back and that all processors share.
    ///
    /// A resolution of a millisecond is enough; it is what deadlines are compared with. Does not block, and takes no lock that a
    /// driver's caller may hold.
    fn now(&self) -> Instant;

    /// What to do between two looks at something that a host is about to change. Called in bounded waits only, in task context, and
    /// possibly while the driver holds a spin lock: it may halt until the next interrupt or for a moment, but does not run another
    /// task that calls drivers.
    fn relax(&self) {
        core::hint::spin_loop();
    }

    /// Maps `len` bytes at the physical address `phys`, uncached where they are device registers. Neither need be
    /// aligned; the pointer is to the byte at `phys`. Ranges may be mapped several times and overlap. May block, but not on a
    /// driver.
    ///
    /// # Implementation safety
    ///
    /// What is returned is valid for reads and writes of the whole range until it is unmapped.
    ///
    /// # Errors
    ///
    /// [`MapError`] where the range is empty, wraps, is memory of the kernel's own, or cannot be mapped; by default always.
    ///
    /// # Safety
    ///
    /// Reading and writing the range as the caller does has no effect on memory safety: it is a device's registers
    /// or a firmware table.
    unsafe fn map(&self, phys: u64, len: usize) -> Result<NonNull<u8>, MapError> {
        let _ = (phys, len);
        Err(MapError)
    }

    /// Ends a mapping. May block, but not on a driver; it cannot fail.
    ///
    /// # Safety
    ///
    /// `base` and `len` are those of one [`map`](Self::map), ended once and not used after.
    unsafe fn unmap(&self, base: NonNull<u8>, len: usize) {
        let _ = (base, len);
    }

    /// Binding of interrupt handlers; by default of a kernel that polls.
    fn interrupts(&self) -> &dyn Interrupts {
        &Absent
    }

    /// The processors of the machine; by default one.
    fn processors(&self) -> &dyn Processors {
        &Absent
    }

    /// Port I/O, by which PCI configuration is reached where there is no ECAM; by default of a machine that has none.
    fn port_io(&self) -> &dyn PortIo {
        &Absent
    }

    /// CPUID, model-specific registers and the cycle counter, which KVM's clock and everything of Hyper-V need; by default of a
    /// processor without a hypervisor.
    fn registers(&self) -> &dyn Registers {
        &Absent
    }

    /// What Hyper-V needs beside the registers; by default nothing, and no device of Hyper-V is found.
    fn hyperv(&self) -> &dyn HyperV {
        &Absent
    }
}

/// DMA memory with an owner: freed when dropped.
///
/// Its bytes are seen through [`SharedMemory`], that is as atomics, because a host may write them at any time. Whoever tells a
/// device where the region is keeps it until the device has stopped, or [leaks](Self::leak) it: a driver that owns the region, or
/// an `unsafe` call that names its address.
pub struct DmaRegion<P: Platform> {
    raw: RawDma,
    shared: SharedMemory,
    platform: P,
}

// SAFETY: the region is memory; the view hands out atomics only, and the platform is `Send` and `Sync`.
unsafe impl<P: Platform> Send for DmaRegion<P> {}
// SAFETY: the view hands out atomics only, and the platform is `Sync`.
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
        // view is borrowed from this value.
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

    /// Never frees the memory: for what a device may still write to.
    pub fn leak(self) {
        let _ = ManuallyDrop::new(self);
    }
}

impl<P: Platform> Drop for DmaRegion<P> {
    fn drop(&mut self) {
        // SAFETY: the region came from `dma_alloc` of this platform and is dropped once; whoever told a device of it drops it
        // only after the device has stopped, or leaks it, as the type's documentation demands.
        unsafe { self.platform.dma_free(self.raw) }
    }
}

impl<P: Platform> fmt::Debug for DmaRegion<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaRegion").field("bus", &self.raw.bus).field("len", &self.raw.len()).finish()
    }
}

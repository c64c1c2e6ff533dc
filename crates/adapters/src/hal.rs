//! A paravirt platform over an existing `virtio_drivers::Hal`, for a kernel that already uses the drivers of that crate.

use core::fmt;
use core::marker::PhantomData;
use core::num::NonZeroUsize;
use core::ptr::NonNull;
use paravirt_device::Clock;
use paravirt_platform::{
    AllocError, BusAddr, Direction, DmaBuffer, DmaSegments, Instant, MapError, Platform, RawDma, Segment,
    SubmitError,
};
use virtio_drivers::{BufferDirection, Hal};

/// A platform over `H`, with the time of clock `C`. Drivers poll, as a `Hal` has no interrupts.
///
/// The state of drivers is in memory of [`Hal::dma_alloc`], as a `Hal` has no other: behind an IOMMU, and in a confidential virtual
/// machine, the device can write there. A kernel for such a machine implements [`Platform`] itself, with
/// [`state_alloc`](Platform::state_alloc).
pub struct HalPlatform<H, C: 'static> {
    clock: &'static C,
    _hal: PhantomData<fn() -> H>,
}

impl<H, C> HalPlatform<H, C> {
    /// Creates a platform with the time of `clock`.
    pub const fn new(clock: &'static C) -> Self {
        Self { clock, _hal: PhantomData }
    }
}

impl<H, C> Clone for HalPlatform<H, C> {
    fn clone(&self) -> Self {
        Self { clock: self.clock, _hal: PhantomData }
    }
}

// SAFETY: forwards to an unsafe `Hal`, whose memory is zeroed, page-aligned, contiguous and unaliased until freed.
unsafe impl<H: Hal + 'static, C: Clock + 'static> Platform for HalPlatform<H, C> {
    fn dma_alloc(&self, pages: NonZeroUsize) -> Result<RawDma, AllocError> {
        let (bus, cpu) = H::dma_alloc(pages.get(), BufferDirection::Both);
        if bus == 0 {
            return Err(AllocError);
        }
        Ok(RawDma { cpu, bus: BusAddr(bus), pages })
    }

    unsafe fn dma_free(&self, region: RawDma) {
        // SAFETY: the caller passes what `dma_alloc` returned. If the `Hal` fails to free it, it is leaked.
        unsafe { H::dma_dealloc(region.bus.0, region.cpu, region.pages.get()) };
    }

    fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Mappings of a `Hal` are permanent.
    unsafe fn map(&self, phys: u64, len: usize) -> Result<NonNull<u8>, MapError> {
        if len == 0 || phys.checked_add(len as u64).is_none() {
            return Err(MapError);
        }
        // SAFETY: the caller guarantees that the range is device registers or a firmware table.
        Ok(unsafe { H::mmio_phys_to_virt(phys, len) })
    }
}

/// Memory of the kernel as a [`DmaBuffer`], shared with the device through `H` while it is in flight.
///
/// The memory is `'static`, so that it outlives a request even if this value is dropped; it cannot be accessed while in flight.
pub struct HalBuffer<H: Hal> {
    bytes: NonNull<[u8]>,
    in_flight: Option<(Segment, BufferDirection)>,
    _hal: PhantomData<fn() -> H>,
}

// SAFETY: the buffer owns its bytes.
unsafe impl<H: Hal> Send for HalBuffer<H> {}

impl<H: Hal> HalBuffer<H> {
    /// Wraps `bytes`.
    pub fn new(bytes: &'static mut [u8]) -> Self {
        Self { bytes: NonNull::from(bytes), in_flight: None, _hal: PhantomData }
    }

    /// Returns the bytes; `None` while in flight.
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        if self.in_flight.is_some() {
            return None;
        }
        // SAFETY: this value owns the bytes, and they are not in flight.
        Some(unsafe { self.bytes.as_mut() })
    }

    /// Returns the memory; `None` while in flight, and the memory is leaked.
    pub fn into_bytes(mut self) -> Option<&'static mut [u8]> {
        if self.in_flight.is_some() {
            return None;
        }
        // SAFETY: as in `bytes_mut`; this value is consumed.
        Some(unsafe { self.bytes.as_mut() })
    }
}

// SAFETY: the memory is `'static` and not reachable while in flight.
unsafe impl<H: Hal + 'static> DmaBuffer for HalBuffer<H> {
    fn submit(&mut self, direction: Direction) -> Result<DmaSegments<'_>, SubmitError> {
        if self.in_flight.is_some() {
            return Err(SubmitError::InFlight);
        }
        let len = u32::try_from(self.bytes.len()).ok().filter(|len| *len > 0).ok_or(SubmitError::Length)?;
        let share = match direction {
            Direction::ToDevice => BufferDirection::DriverToDevice,
            Direction::FromDevice => BufferDirection::DeviceToDriver,
        };
        // SAFETY: the memory is valid, not empty, and owned by this value.
        let addr = unsafe { H::share(self.bytes, share) };
        let (segment, _) = self.in_flight.insert((Segment { addr: BusAddr(addr), len }, share));
        // SAFETY: the memory is shared with the device and not reachable through this value until `reclaim`.
        Ok(unsafe { DmaSegments::new(core::slice::from_ref(segment), direction) })
    }

    unsafe fn reclaim(&mut self) {
        if let Some((segment, direction)) = self.in_flight.take() {
            // SAFETY: the address, the memory and the direction of the `share` in `submit`.
            unsafe { H::unshare(segment.addr.0, self.bytes, direction) }
        }
    }
}

impl<H, C> fmt::Debug for HalPlatform<H, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HalPlatform").finish_non_exhaustive()
    }
}

impl<H: Hal> fmt::Debug for HalBuffer<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HalBuffer")
            .field("len", &self.bytes.len())
            .field("in_flight", &self.in_flight.is_some())
            .finish_non_exhaustive()
    }
}

use crate::Platform;
use core::{fmt, ptr::NonNull};

/// A physical range could not be mapped.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct MapError;

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the physical range cannot be mapped")
    }
}

impl core::error::Error for MapError {}

/// Mapping of physical addresses.
///
/// # Safety
///
/// What [`map`](Self::map) returns is valid for reads and writes of the whole range until it is unmapped.
pub unsafe trait Mmio: Platform {
    /// Maps `len` bytes at the physical address `phys`, uncached where they are device registers. Neither need be
    /// aligned; the pointer is to the byte at `phys`. Ranges may be mapped several times and overlap.
    ///
    /// # Errors
    ///
    /// [`MapError`] where the range is empty, wraps, is memory of the kernel's own, or cannot be mapped.
    ///
    /// # Safety
    ///
    /// Reading and writing the range as the caller does has no effect on memory safety: it is a device's registers
    /// or a firmware table.
    unsafe fn map(&self, phys: u64, len: usize) -> Result<NonNull<u8>, MapError>;

    /// Ends a mapping.
    ///
    /// # Safety
    ///
    /// `base` and `len` are those of one [`map`](Self::map), ended once and not used after.
    unsafe fn unmap(&self, base: NonNull<u8>, len: usize) {
        let _ = (base, len);
    }
}

/// Port I/O, as x86 has it.
///
/// The defaults are those of a machine without: reads give all ones, writes go nowhere.
///
/// # Safety
///
/// The accesses are of the width given and in program order.
pub unsafe trait PortIo: Platform {
    /// Reads a 32-bit port.
    ///
    /// # Safety
    ///
    /// Reading the port has no effect on memory safety.
    unsafe fn in32(&self, port: u16) -> u32 {
        let _ = port;
        u32::MAX
    }

    /// Writes a 32-bit port.
    ///
    /// # Safety
    ///
    /// Writing the port has no effect on memory safety.
    unsafe fn out32(&self, port: u16, value: u32) {
        let _ = (port, value);
    }
}

/// A window of device registers with bounds: what is read outside reads as all ones, what is written there is
/// dropped, as on a bus where nobody answers.
pub struct MmioRegion<P: Mmio> {
    base: NonNull<u8>,
    len: usize,
    platform: P,
}

// SAFETY: accesses are volatile; a device's registers may be used from any processor.
unsafe impl<P: Mmio> Send for MmioRegion<P> {}
// SAFETY: as above.
unsafe impl<P: Mmio> Sync for MmioRegion<P> {}

macro_rules! access {
    ($read:ident, $write:ident, $t:ty, $bits:literal) => {
        #[doc = concat!("Reads ", $bits, " bits at byte `offset`; all ones out of bounds or misaligned.")]
        #[inline]
        pub fn $read(&self, offset: usize) -> $t {
            match self.pointer::<$t>(offset) {
                // SAFETY: in bounds of a mapping that lives as long as this value.
                Some(pointer) => unsafe { pointer.read_volatile() },
                None => <$t>::MAX,
            }
        }

        #[doc = concat!("Writes ", $bits, " bits at byte `offset`; nothing out of bounds or misaligned.")]
        #[inline]
        pub fn $write(&self, offset: usize, value: $t) {
            if let Some(pointer) = self.pointer::<$t>(offset) {
                // SAFETY: in bounds of a mapping that lives as long as this value.
                unsafe { pointer.write_volatile(value) }
            }
        }
    };
}

impl<P: Mmio> MmioRegion<P> {
    /// Maps `len` bytes at `phys`.
    ///
    /// # Errors
    ///
    /// [`MapError`] as [`Mmio::map`] says.
    ///
    /// # Safety
    ///
    /// As for [`Mmio::map`].
    pub unsafe fn map(platform: &P, phys: u64, len: usize) -> Result<Self, MapError> {
        // SAFETY: passed on from the caller.
        let base = unsafe { platform.map(phys, len) }?;
        Ok(Self { base, len, platform: platform.clone() })
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing here.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where byte `offset` is, for an access of `T` there; `None` out of bounds or misaligned. Valid while this value
    /// lives.
    pub fn pointer<T>(&self, offset: usize) -> Option<NonNull<T>> {
        let end = offset.checked_add(size_of::<T>())?;
        let address = (self.base.as_ptr() as usize).checked_add(offset)?;
        if end > self.len || !address.is_multiple_of(align_of::<T>()) {
            return None;
        }
        // SAFETY: in bounds of the mapping.
        Some(unsafe { self.base.add(offset) }.cast())
    }

    access!(read8, write8, u8, "8");
    access!(read16, write16, u16, "16");
    access!(read32, write32, u32, "32");
    access!(read64, write64, u64, "64");
}

impl<P: Mmio> Drop for MmioRegion<P> {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own and ends once.
        unsafe { self.platform.unmap(self.base, self.len) }
    }
}

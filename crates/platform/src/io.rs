use crate::Platform;
#[cfg(not(any(target_arch = "aarch64", target_arch = "riscv64")))]
use core::sync::atomic::{Ordering, compiler_fence};
use core::{fmt, ptr::NonNull};
use safe_mmio::{UniqueMmioPointer, fields::ReadPureWrite};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A physical range could not be mapped.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct MapError;

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the physical range cannot be mapped")
    }
}

impl core::error::Error for MapError {}

/// x86 port I/O; [`Platform::port_io`](crate::Platform::port_io) returns it.
///
/// The methods are called in task context, under a spin lock that covers the two accesses of PCI configuration, and those of 16 bits in
/// interrupt context too; they take no lock and do not block.
///
/// # Safety
///
/// The accesses have the width in the name of the method, and are in program order.
pub unsafe trait PortIo: Send + Sync {
    /// Reads a 32-bit port.
    ///
    /// # Safety
    ///
    /// Reading the port has no effect on memory safety.
    unsafe fn in32(&self, port: u16) -> u32;

    /// Writes a 32-bit port.
    ///
    /// # Safety
    ///
    /// Writing the port has no effect on memory safety.
    unsafe fn out32(&self, port: u16, value: u32);

    /// Reads a 16-bit port. The default returns all ones, as on a machine without the port: events of ACPI are then not used.
    ///
    /// # Safety
    ///
    /// Reading the port has no effect on memory safety.
    unsafe fn in16(&self, port: u16) -> u16 {
        let _ = port;
        u16::MAX
    }

    /// Calls VMware's hypervisor by its port: command number and parameter in, EAX, EBX, ECX and EDX out. `None`, as by default, if the
    /// platform does not offer that; one that does calls `vmware_port_call`. A kernel in a confidential virtual machine returns `None`,
    /// whatever CPUID says: reading a port may fault there.
    ///
    /// # Safety
    ///
    /// The command does not write memory that the guest uses.
    unsafe fn vmware_call(&self, command: u32, parameter: u32) -> Option<[u32; 4]> {
        let _ = (command, parameter);
        None
    }

    /// Writes a 16-bit port.
    ///
    /// # Safety
    ///
    /// Writing the port has no effect on memory safety.
    unsafe fn out16(&self, port: u16, value: u16);
}

/// Executes a call of VMware's hypervisor by its port, on x86-64: command number and parameter in, EAX, EBX, ECX and EDX out. On a machine
/// without such a port EAX reads as all ones.
///
/// # Safety
///
/// The processor runs in a mode in which the port may be read, and not in a confidential virtual machine. The command does not write
/// memory that the guest uses.
#[cfg(target_arch = "x86_64")]
pub unsafe fn vmware_port_call(command: u32, parameter: u32) -> [u32; 4] {
    const MAGIC: u32 = 0x564d_5868;
    const PORT: u32 = 0x5658;
    let (eax, ecx, edx): (u32, u32, u32);
    let mut parameter = u64::from(parameter);
    // SAFETY: by the contract of this function. The compiler uses RBX itself: it is exchanged, and restored.
    unsafe {
        core::arch::asm!(
            "xchg {rbx}, rbx",
            "in eax, dx",
            "xchg {rbx}, rbx",
            rbx = inout(reg) parameter,
            inlateout("eax") MAGIC => eax,
            inlateout("ecx") command => ecx,
            inlateout("edx") PORT => edx,
            // Results of some commands.
            lateout("rsi") _,
            lateout("rdi") _,
            options(nostack),
        );
    }
    [eax, parameter as u32, ecx, edx]
}

/// A mapped range of device registers with bounds checks: a read out of bounds returns all ones, and a write is ignored, as on a bus
/// without a device.
pub struct MmioRegion<P: Platform> {
    base: NonNull<u8>,
    len: usize,
    platform: P,
}

// SAFETY: accesses are volatile; a device's registers may be used from any processor.
unsafe impl<P: Platform> Send for MmioRegion<P> {}
// SAFETY: accesses are volatile, and a device's registers may be accessed by several processors at once.
unsafe impl<P: Platform> Sync for MmioRegion<P> {}

macro_rules! access {
    ($read:ident, $write:ident, $t:ty, $bits:literal) => {
        #[doc = concat!("Reads ", $bits, " bits at byte `offset`; returns all ones if it is out of bounds or misaligned.")]
        #[inline]
        pub fn $read(&self, offset: usize) -> $t {
            match self.pointer::<$t>(offset) {
                // SAFETY: `pointer` checked bounds and alignment of a mapping that lives as long as this value, and the caller of `map`
                // guarantees that reading has no effect on memory safety.
                Some(pointer) => unsafe { read_register(pointer) },
                None => <$t>::MAX,
            }
        }

        #[doc = concat!("Writes ", $bits, " bits at byte `offset`; does nothing if it is out of bounds or misaligned.")]
        #[inline]
        pub fn $write(&self, offset: usize, value: $t) {
            if let Some(pointer) = self.pointer::<$t>(offset) {
                // SAFETY: `pointer` checked bounds and alignment of a mapping that lives as long as this value, and the caller of `map`
                // guarantees that writing has no effect on memory safety.
                unsafe { write_register(pointer, value) }
            }
        }
    };
}

impl<P: Platform> MmioRegion<P> {
    /// Maps `len` bytes at `phys`.
    ///
    /// # Errors
    ///
    /// [`MapError`] as for [`Platform::map`].
    ///
    /// # Safety
    ///
    /// As for [`Platform::map`].
    pub unsafe fn map(platform: &P, phys: u64, len: usize) -> Result<Self, MapError> {
        // SAFETY: the caller upholds the contract of `Platform::map`.
        let base = unsafe { platform.map(phys, len) }?;
        Ok(Self { base, len, platform: platform.clone() })
    }

    /// Returns the length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether the range is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns a pointer to a `T` at byte `offset`, valid while this value lives; `None` if it is out of bounds or misaligned.
    pub fn pointer<T>(&self, offset: usize) -> Option<NonNull<T>> {
        let end = offset.checked_add(size_of::<T>())?;
        let address = (self.base.as_ptr() as usize).checked_add(offset)?;
        if end > self.len || address & align_of::<T>().wrapping_sub(1) != 0 {
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

impl<P: Platform> Drop for MmioRegion<P> {
    fn drop(&mut self) {
        // SAFETY: this value owns the mapping, and unmaps it once.
        unsafe { self.platform.unmap(self.base, self.len) }
    }
}

/// The integer types of device registers.
pub trait RegisterWord: FromBytes + IntoBytes + Immutable {}
impl RegisterWord for u8 {}
impl RegisterWord for u16 {}
impl RegisterWord for u32 {}
impl RegisterWord for u64 {}

/// Reads a device register. Memory that is read afterwards is read after it, on every processor.
///
/// # Safety
///
/// `register` is mapped and aligned, and reading it has no effect on memory safety.
#[inline(always)]
pub unsafe fn read_register<T: RegisterWord>(register: NonNull<T>) -> T {
    // SAFETY: the caller upholds the contract of the pointer's constructor; the pointer lives for one access.
    let value = unsafe { UniqueMmioPointer::new(register.cast::<ReadPureWrite<T>>()).read_unsafe().0 };
    order_after_read();
    value
}

/// Writes a device register. Memory that was written before is written before it, on every processor.
///
/// # Safety
///
/// `register` is mapped and aligned, and writing `value` to it has no effect on memory safety.
#[inline(always)]
pub unsafe fn write_register<T: RegisterWord>(register: NonNull<T>, value: T) {
    order_before_write();
    // SAFETY: the caller upholds the contract of the pointer's constructor; the pointer lives for one access.
    unsafe { UniqueMmioPointer::new(register.cast::<ReadPureWrite<T>>()).write_unsafe(ReadPureWrite(value)) }
}

/// Orders accesses to memory after a read of a device: fences of atomics order memory alone. Arm ARM B2.3.12; RISC-V ISA §2.7
#[inline(always)]
fn order_after_read() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: orders accesses.
    unsafe {
        core::arch::asm!("dmb oshld", options(nostack, preserves_flags));
    }
    #[cfg(target_arch = "riscv64")]
    // SAFETY: orders accesses.
    unsafe {
        core::arch::asm!("fence i, rw", options(nostack, preserves_flags));
    }
    // The processor keeps the order; the compiler is to.
    #[cfg(not(any(target_arch = "aarch64", target_arch = "riscv64")))]
    compiler_fence(Ordering::SeqCst);
}

/// Orders a write of a device after writes of memory, as [`order_after_read`].
#[inline(always)]
fn order_before_write() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: orders accesses.
    unsafe {
        core::arch::asm!("dmb oshst", options(nostack, preserves_flags));
    }
    #[cfg(target_arch = "riscv64")]
    // SAFETY: orders accesses.
    unsafe {
        core::arch::asm!("fence w, o", options(nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "aarch64", target_arch = "riscv64")))]
    compiler_fence(Ordering::SeqCst);
}

impl<P: Platform> fmt::Debug for MmioRegion<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MmioRegion").field("base", &self.base).field("len", &self.len).finish_non_exhaustive()
    }
}

//! Access to PCI configuration space.

use crate::Address;
use core::fmt;
use paravirt_platform::{AllocError, MapError, MmioRegion, PageArc, Platform};
use spin::Mutex;

/// Serialises access through ports, which takes two steps: address and data.
static PORTS: Mutex<()> = Mutex::new(());
const PORT_ADDRESS: u16 = 0xcf8;
const PORT_DATA: u16 = 0xcfc;
const PORT_ENABLE: u32 = 1 << 31;

/// Configuration space as the kernel accesses it: for a kernel with a PCI bus of its own.
///
/// All methods are called in task context, some under a spin lock of the driver, and do not block.
///
/// # Safety
///
/// A read has no effect on memory safety, and the accesses have the width in the name of the method.
pub unsafe trait ConfigSpace: Send + Sync {
    /// Reads the aligned 32-bit word at `offset` of the function at `at`; all ones if there is no function.
    fn read(&self, at: Address, offset: u8) -> u32;

    /// Writes the aligned 32-bit word at `offset` of the function at `at`.
    ///
    /// # Safety
    ///
    /// The effect of the write does not violate memory safety.
    unsafe fn write(&self, at: Address, offset: u8, value: u32);

    /// Writes the aligned 16-bit word at `offset` of the function at `at`, and nothing beside it.
    ///
    /// # Safety
    ///
    /// As for [`write`](Self::write).
    unsafe fn write16(&self, at: Address, offset: u8, value: u16);
}

/// Access to the configuration space of a PCI segment.
pub struct ConfigAccess<P: Platform>(Mechanism<P>);

enum Mechanism<P: Platform> {
    Ecam { registers: PageArc<P, MmioRegion<P>>, segment: u16, first: u8, last: u8 },
    Ports { platform: P },
    Kernel { space: &'static dyn ConfigSpace, segment: u16, first: u8, last: u8 },
}

impl<P: Platform> ConfigAccess<P> {
    /// Accesses buses `first` to `last` of `segment` through ECAM. `phys` is the physical address of bus 0, even if it is not included, as
    /// in an entry of ACPI's MCFG. PCI Firmware 3.3 §4.1.2
    ///
    /// # Errors
    ///
    /// [`MapError`] if it cannot be mapped.
    ///
    /// # Safety
    ///
    /// Firmware reports PCI configuration space there, and nothing else writes it.
    pub unsafe fn ecam(platform: &P, phys: u64, segment: u16, first: u8, last: u8) -> Result<Self, MapError> {
        let buses = usize::from(last).checked_sub(usize::from(first)).ok_or(MapError)?.wrapping_add(1);
        let start = phys.checked_add(u64::from(first) << 20).ok_or(MapError)?;
        // SAFETY: by the contract of this function, this is configuration space.
        let registers = unsafe { MmioRegion::map(platform, start, buses << 20) }?;
        let registers = PageArc::new(platform, registers).map_err(|AllocError| MapError)?;
        Ok(Self(Mechanism::Ecam { registers, segment, first, last }))
    }

    /// Accesses all buses through ports 0xCF8 and 0xCFC. PCI 3.0 §3.2.2.3.2
    ///
    /// # Safety
    ///
    /// The machine has no ECAM, or it is not used at the same time, and the ports belong to PCI or to no device.
    pub unsafe fn ports(platform: &P) -> Self {
        Self(Mechanism::Ports { platform: platform.clone() })
    }

    /// Accesses buses `first` to `last` of `segment` through the kernel.
    pub const fn kernel(space: &'static dyn ConfigSpace, segment: u16, first: u8, last: u8) -> Self {
        Self(Mechanism::Kernel { space, segment, first, last })
    }

    /// Returns the PCI segment group.
    pub fn segment(&self) -> u16 {
        match self.0 {
            Mechanism::Ecam { segment, .. } | Mechanism::Kernel { segment, .. } => segment,
            Mechanism::Ports { .. } => 0,
        }
    }

    /// Returns the first and the last bus number.
    pub fn buses(&self) -> (u8, u8) {
        match self.0 {
            Mechanism::Ecam { first, last, .. } | Mechanism::Kernel { first, last, .. } => (first, last),
            Mechanism::Ports { .. } => (0, u8::MAX),
        }
    }

    /// Reads the aligned 32-bit word at `offset` of the function at `at`; all ones if there is no function.
    pub fn read(&self, at: Address, offset: u8) -> u32 {
        match &self.0 {
            Mechanism::Ecam { registers, first, .. } => {
                ecam_offset(at, *first, offset).map_or(u32::MAX, |at| registers.read32(at))
            }
            Mechanism::Ports { platform } => {
                let _one = PORTS.lock();
                // SAFETY: by the contract of `ports` they belong to PCI; reading configuration space has no effect on memory.
                unsafe {
                    platform.port_io().out32(PORT_ADDRESS, port_address(at, offset));
                    platform.port_io().in32(PORT_DATA)
                }
            }
            Mechanism::Kernel { space, .. } => space.read(at, offset & 0xfc),
        }
    }

    /// Writes the aligned 32-bit word at `offset` of the function at `at`.
    ///
    /// # Safety
    ///
    /// The effect of the write does not violate memory safety: see [`PciFunction::write`](crate::PciFunction::write).
    pub unsafe fn write(&self, at: Address, offset: u8, value: u32) {
        match &self.0 {
            Mechanism::Ecam { registers, first, .. } => {
                if let Some(at) = ecam_offset(at, *first, offset) {
                    registers.write32(at, value);
                }
            }
            Mechanism::Ports { platform } => {
                let _one = PORTS.lock();
                // SAFETY: by the contract of `ports` they belong to PCI; the caller guarantees that the effect is safe.
                unsafe {
                    platform.port_io().out32(PORT_ADDRESS, port_address(at, offset));
                    platform.port_io().out32(PORT_DATA, value);
                }
            }
            // SAFETY: the caller guarantees that the effect is safe.
            Mechanism::Kernel { space, .. } => unsafe { space.write(at, offset & 0xfc, value) },
        }
    }

    /// Writes the aligned 16-bit word at `offset` of the function at `at`, and nothing beside it: some monitors take registers of 16
    /// bits in their own width only.
    ///
    /// # Safety
    ///
    /// As for [`write`](Self::write).
    pub unsafe fn write16(&self, at: Address, offset: u8, value: u16) {
        let within = u16::from(offset & 2);
        match &self.0 {
            Mechanism::Ecam { registers, first, .. } => {
                if let Some(at) = ecam_offset(at, *first, offset) {
                    registers.write16(at.wrapping_add(usize::from(within)), value);
                }
            }
            Mechanism::Ports { platform } => {
                let _one = PORTS.lock();
                // SAFETY: `ports` was told that these ports are PCI's; what the write does is the caller's promise.
                unsafe {
                    platform.port_io().out32(PORT_ADDRESS, port_address(at, offset));
                    platform.port_io().out16(PORT_DATA.wrapping_add(within), value);
                }
            }
            // SAFETY: what the write does is the caller's promise.
            Mechanism::Kernel { space, .. } => unsafe { space.write16(at, offset & 0xfe, value) },
        }
    }
}

/// Packs device and function number within a bus, as both mechanisms do.
fn within_bus(at: Address) -> u32 {
    (u32::from(at.device & 31) << 3) | u32::from(at.function & 7)
}

fn ecam_offset(at: Address, first: u8, offset: u8) -> Option<usize> {
    let bus = usize::from(at.bus.checked_sub(first)?);
    Some((bus << 20) | ((within_bus(at) as usize) << 12) | usize::from(offset & 0xfc))
}

fn port_address(at: Address, offset: u8) -> u32 {
    PORT_ENABLE | (u32::from(at.bus) << 16) | (within_bus(at) << 8) | u32::from(offset & 0xfc)
}

impl<P: Platform> Clone for ConfigAccess<P> {
    fn clone(&self) -> Self {
        Self(match &self.0 {
            Mechanism::Ecam { registers, segment, first, last } => Mechanism::Ecam {
                registers: registers.clone(),
                segment: *segment,
                first: *first,
                last: *last,
            },
            Mechanism::Ports { platform } => Mechanism::Ports { platform: platform.clone() },
            Mechanism::Kernel { space, segment, first, last } => {
                Mechanism::Kernel { space: *space, segment: *segment, first: *first, last: *last }
            }
        })
    }
}

impl<P: Platform> fmt::Debug for ConfigAccess<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = self.buses();
        f.debug_struct("ConfigAccess")
            .field("segment", &self.segment())
            .field("buses", &(first..=last))
            .finish()
    }
}

//! PCI: configuration access through ECAM or ports, and the walk over the buses.
//!
//! Addresses, capabilities and BAR decoding are the `virtio-drivers` crate's; what is added here is what a kernel without
//! firmware needs: buses behind bridges, and addresses for BARs that have none.

mod assign;
mod enumerate;

pub use assign::{Wide, Window, Windows};
pub use enumerate::enumerate;

use core::fmt;
use paravirt_platform::{
    AllocError, InterruptLine, MapError, MmioRegion, PageArc, Platform, Polarity, Trigger,
};
use spin::Mutex;
use virtio_drivers::transport::pci::bus::{BarInfo, ConfigurationAccess, DeviceFunction, DeviceFunctionInfo};

/// Configuration through ports is in two steps, address and data: one processor at a time.
static PORTS: Mutex<()> = Mutex::new(());
const PORT_ADDRESS: u16 = 0xcf8;
const PORT_DATA: u16 = 0xcfc;
const PORT_ENABLE: u32 = 1 << 31;

/// How the configuration space of one PCI segment is reached.
pub struct ConfigAccess<P: Platform>(Way<P>);

enum Way<P: Platform> {
    Ecam { registers: PageArc<P, MmioRegion<P>>, segment: u16, first: u8, last: u8 },
    Ports { read: fn(&P, u32) -> u32, write: fn(&P, u32, u32), platform: P },
}

impl<P: Platform> ConfigAccess<P> {
    /// The buses `first` to `last` of `segment` in the memory at `phys`, where bus 0 is or would be: what a line of ACPI's
    /// MCFG says. PCI Firmware 3.3 §4.1.2
    ///
    /// # Errors
    ///
    /// [`MapError`] where it cannot be mapped.
    ///
    /// # Safety
    ///
    /// Firmware says that PCI configuration space is there.
    pub unsafe fn ecam(platform: &P, phys: u64, segment: u16, first: u8, last: u8) -> Result<Self, MapError> {
        let buses = usize::from(last).checked_sub(usize::from(first)).ok_or(MapError)?.wrapping_add(1);
        let start = phys.checked_add(u64::from(first) << 20).ok_or(MapError)?;
        // SAFETY: passed on from the caller.
        let registers = unsafe { MmioRegion::map(platform, start, buses << 20) }?;
        let registers = PageArc::new(platform, registers).map_err(|AllocError| MapError)?;
        Ok(Self(Way::Ecam { registers, segment, first, last }))
    }

    /// All buses, through ports 0xCF8 and 0xCFC. PCI 3.0 §3.2.2.3.2
    ///
    /// # Safety
    ///
    /// The machine has no ECAM, or nobody uses it at the same time, and those ports are PCI's or nobody's.
    pub unsafe fn ports(platform: &P) -> Self
    where
        P: Platform,
    {
        fn read<P: Platform>(platform: &P, address: u32) -> u32 {
            let _one = PORTS.lock();
            // SAFETY: `ports` was told that these are PCI's.
            unsafe {
                platform.port_io().out32(PORT_ADDRESS, address);
                platform.port_io().in32(PORT_DATA)
            }
        }
        fn write<P: Platform>(platform: &P, address: u32, value: u32) {
            let _one = PORTS.lock();
            // SAFETY: as above.
            unsafe {
                platform.port_io().out32(PORT_ADDRESS, address);
                platform.port_io().out32(PORT_DATA, value);
            }
        }
        Self(Way::Ports { read, write, platform: platform.clone() })
    }

    /// The PCI segment group.
    pub fn segment(&self) -> u16 {
        match self.0 {
            Way::Ecam { segment, .. } => segment,
            Way::Ports { .. } => 0,
        }
    }

    /// The first and the last bus number.
    pub fn buses(&self) -> (u8, u8) {
        match self.0 {
            Way::Ecam { first, last, .. } => (first, last),
            Way::Ports { .. } => (0, u8::MAX),
        }
    }

    fn read(&self, at: DeviceFunction, offset: u8) -> u32 {
        match &self.0 {
            Way::Ecam { registers, first, .. } => {
                ecam_offset(at, *first, offset).map_or(u32::MAX, |at| registers.read32(at))
            }
            Way::Ports { read, platform, .. } => read(platform, port_address(at, offset)),
        }
    }

    fn write(&self, at: DeviceFunction, offset: u8, value: u32) {
        match &self.0 {
            Way::Ecam { registers, first, .. } => {
                if let Some(at) = ecam_offset(at, *first, offset) {
                    registers.write32(at, value);
                }
            }
            Way::Ports { write, platform, .. } => write(platform, port_address(at, offset), value),
        }
    }
}

/// Function number within a bus and register, as both mechanisms pack them.
fn within_bus(at: DeviceFunction) -> u32 {
    (u32::from(at.device & 31) << 3) | u32::from(at.function & 7)
}

fn ecam_offset(at: DeviceFunction, first: u8, offset: u8) -> Option<usize> {
    let bus = usize::from(at.bus.checked_sub(first)?);
    Some((bus << 20) | ((within_bus(at) as usize) << 12) | usize::from(offset & 0xfc))
}

fn port_address(at: DeviceFunction, offset: u8) -> u32 {
    PORT_ENABLE | (u32::from(at.bus) << 16) | (within_bus(at) << 8) | u32::from(offset & 0xfc)
}

impl<P: Platform> Clone for ConfigAccess<P> {
    fn clone(&self) -> Self {
        Self(match &self.0 {
            Way::Ecam { registers, segment, first, last } => {
                Way::Ecam { registers: registers.clone(), segment: *segment, first: *first, last: *last }
            }
            Way::Ports { read, write, platform } => {
                Way::Ports { read: *read, write: *write, platform: platform.clone() }
            }
        })
    }
}

impl<P: Platform> ConfigurationAccess for ConfigAccess<P> {
    fn read_word(&self, device_function: DeviceFunction, register_offset: u8) -> u32 {
        self.read(device_function, register_offset)
    }

    fn write_word(&mut self, device_function: DeviceFunction, register_offset: u8, data: u32) {
        self.write(device_function, register_offset, data);
    }

    unsafe fn unsafe_clone(&self) -> Self {
        self.clone()
    }
}

/// The configuration space of one PCI function.
pub struct PciFunction<P: Platform> {
    access: ConfigAccess<P>,
    address: DeviceFunction,
}

impl<P: Platform> Clone for PciFunction<P> {
    fn clone(&self) -> Self {
        Self { access: self.access.clone(), address: self.address }
    }
}

impl<P: Platform> PciFunction<P> {
    /// The function at `address`.
    pub fn new(access: &ConfigAccess<P>, address: DeviceFunction) -> Self {
        Self { access: access.clone(), address }
    }

    /// Where it is.
    pub fn address(&self) -> DeviceFunction {
        self.address
    }

    /// How its segment is reached.
    pub fn access(&self) -> ConfigAccess<P> {
        self.access.clone()
    }

    /// Reads the aligned word at `offset`; all ones where there is nothing.
    pub fn read(&self, offset: u8) -> u32 {
        self.access.read(self.address, offset)
    }

    /// Writes the aligned word at `offset`.
    pub fn write(&self, offset: u8, value: u32) {
        self.access.write(self.address, offset, value);
    }

    /// The interrupt line that firmware led the function's pin to, as an ISA interrupt; `None` where it has no pin or
    /// firmware did not say. PCI 3.0 §6.2.4
    pub fn line(&self) -> Option<InterruptLine> {
        let [line, pin, ..] = self.read(0x3c).to_le_bytes();
        (pin != 0 && line != 0 && line < 0xff).then_some(InterruptLine {
            number: u32::from(line),
            trigger: Trigger::Level,
            polarity: Polarity::Low,
        })
    }
}

/// The base address registers of a function.
#[derive(Clone, Debug, Default)]
pub struct Bars([Option<BarInfo>; 6]);

impl Bars {
    /// Address and size of BAR `index`, where it is memory.
    pub fn memory(&self, index: u8) -> Option<(u64, u64)> {
        self.0.get(usize::from(index))?.as_ref()?.memory_address_size()
    }
}

/// A function that the walk found.
pub struct PciSlot<P: Platform> {
    function: PciFunction<P>,
    info: DeviceFunctionInfo,
    bars: Bars,
}

impl<P: Platform> PciSlot<P> {
    /// Its configuration space.
    pub fn function(&self) -> &PciFunction<P> {
        &self.function
    }

    /// What it says it is.
    pub fn info(&self) -> &DeviceFunctionInfo {
        &self.info
    }

    /// Its base address registers, with the addresses that they have now. Read for virtio functions only.
    pub fn bars(&self) -> &Bars {
        &self.bars
    }

    /// Where it is.
    pub fn address(&self) -> PciAddress {
        PciAddress { segment: self.function.access.segment(), function: self.function.address }
    }
}

/// The place of a PCI function in the machine.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct PciAddress {
    /// The segment group.
    pub segment: u16,
    /// Bus, device and function.
    pub function: DeviceFunction,
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{}", self.segment, self.function)
    }
}

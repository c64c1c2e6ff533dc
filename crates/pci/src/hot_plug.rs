//! Hot plug: the registers by which a host says that devices come and go, and by which the guest gives one back.

use crate::PciFunction;
use core::fmt;
use core::time::Duration;
use paravirt_platform::{MapError, MmioRegion, Platform};

/// What has changed on a bus: a bit for each device number.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct SlotChanges {
    /// Devices that were added.
    pub added: u32,
    /// Devices that the host asks for: see [`AcpiHotPlug::eject`].
    pub requested: u32,
}

/// The hot-plug registers of QEMU and Cloud Hypervisor, of which their ACPI code is the only documented user. A selector chooses the bus:
/// the number `BSEL` that ACPI declares for it (QEMU), or its PCI segment (Cloud Hypervisor).
///
/// QEMU, docs/specs/acpi_pci_hotplug; ACPI 6.5 §6.3
pub struct AcpiHotPlug<P: Platform> {
    registers: Registers<P>,
    /// The offset of the selector.
    select: u16,
}

enum Registers<P: Platform> {
    Ports { platform: P, base: u16 },
    Memory(MmioRegion<P>),
}

/// Offsets of the registers.
const ADDED: u16 = 0;
const REQUESTED: u16 = 4;
const EJECT: u16 = 8;
/// The length of the registers in bytes.
const REGISTERS_LEN: usize = 0x18;

impl<P: Platform> AcpiHotPlug<P> {
    /// The registers at I/O port `base`, with the selector at offset `select`.
    ///
    /// # Safety
    ///
    /// ACPI declares hot-plug registers there, and nothing else uses them.
    pub unsafe fn ports(platform: &P, base: u16, select: u16) -> Self {
        Self { registers: Registers::Ports { platform: platform.clone(), base }, select }
    }

    /// The registers at physical address `base`, with the selector at offset `select`.
    ///
    /// # Errors
    ///
    /// [`MapError`] if the platform cannot map them.
    ///
    /// # Safety
    ///
    /// ACPI declares hot-plug registers there, and nothing else uses them.
    pub unsafe fn memory(platform: &P, base: u64, select: u16) -> Result<Self, MapError> {
        // SAFETY: by the contract of this function, these are registers.
        let registers = unsafe { MmioRegion::map(platform, base, REGISTERS_LEN) }?;
        Ok(Self { registers: Registers::Memory(registers), select })
    }

    fn read(&self, offset: u16) -> u32 {
        match &self.registers {
            // SAFETY: by the contract of `ports`; reading the registers affects no memory.
            Registers::Ports { platform, base } => unsafe {
                platform.port_io().in32(base.wrapping_add(offset))
            },
            Registers::Memory(registers) => registers.read32(usize::from(offset)),
        }
    }

    fn write(&self, offset: u16, value: u32) {
        match &self.registers {
            // SAFETY: by the contract of `ports`; a device that is removed stops accessing memory.
            Registers::Ports { platform, base } => unsafe {
                platform.port_io().out32(base.wrapping_add(offset), value);
            },
            Registers::Memory(registers) => registers.write32(usize::from(offset), value),
        }
    }

    /// Returns what has changed on the bus of `selector` since the last call. A request stays until its device is ejected.
    pub fn take(&mut self, selector: u32) -> SlotChanges {
        self.write(self.select, selector);
        let (added, requested) = (self.read(ADDED), self.read(REQUESTED));
        // A bus without hot plug reads as all ones, or as 0.
        let is_absent = added == u32::MAX && requested == u32::MAX;
        if is_absent { SlotChanges::default() } else { SlotChanges { added, requested } }
    }

    /// Removes a device from the bus of `selector`: its registers read as all ones from now on, and it accesses no memory.
    pub fn eject(&mut self, selector: u32, device: u8) {
        self.write(self.select, selector);
        self.write(EJECT, 1u32.checked_shl(u32::from(device)).unwrap_or(0));
    }
}

impl<P: Platform> fmt::Debug for AcpiHotPlug<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("AcpiHotPlug");
        match &self.registers {
            Registers::Ports { base, .. } => text.field("port", base),
            Registers::Memory(_) => &mut text,
        };
        text.finish_non_exhaustive()
    }
}

/// What happened at a hot-plug port.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum PortEvent {
    /// A device was added; it is powered on.
    Added,
    /// The host asks for the device: see [`HotPlugPort::power_off`].
    Requested,
    /// The device is gone.
    Removed,
}

/// A PCI Express port whose slot takes a device while the machine runs. PCI Express 6.0 §6.7, §7.5.3
pub struct HotPlugPort<P: Platform> {
    function: PciFunction<P>,
    capability: u8,
    is_occupied: bool,
}

/// The PCI Express capability. PCI Express 6.0 §7.5.3
const PCI_EXPRESS: u8 = 0x10;
const CAPABILITIES: u8 = 0x34;
/// Port types with a slot: root port and downstream port of a switch.
const SLOT_PORTS: [u32; 2] = [4, 6];
const SLOT_IMPLEMENTED: u32 = 1 << 8;
const SLOT_CAPABILITIES: u8 = 0x14;
const HOT_PLUG_CAPABLE: u32 = 1 << 6;
const SLOT_CONTROL: u8 = 0x18;
const SLOT_STATUS: u8 = 0x1a;
const INDICATOR_MASK: u16 = 3 << 8;
const INDICATOR_ON: u16 = 1 << 8;
const INDICATOR_OFF: u16 = 3 << 8;
const POWER_OFF: u16 = 1 << 10;
/// Status bits that are cleared by writing ones.
const BUTTON: u16 = 1 << 0;
const PRESENCE_CHANGED: u16 = 1 << 3;
const COMMAND_COMPLETED: u16 = 1 << 4;
const LINK_CHANGED: u16 = 1 << 8;
const IS_PRESENT: u16 = 1 << 6;
/// How long a device may take to appear after its slot was powered on. PCI Express 6.0 §6.6.1
const POWER_ON: Duration = Duration::from_secs(1);

impl<P: Platform> HotPlugPort<P> {
    /// Returns the slot of `function`; `None` if it is not a port with a slot that takes devices while the machine runs.
    pub fn find(function: &PciFunction<P>) -> Option<Self> {
        let mut capability = function.read(CAPABILITIES) as u8 & 0xfc;
        // A list of capabilities has at most 48 entries.
        for _ in 0..48 {
            if capability < 0x40 {
                return None;
            }
            let word = function.read(capability);
            if word as u8 == PCI_EXPRESS {
                let (port, has_slot) = (word >> 20 & 0xf, word >> 16 & SLOT_IMPLEMENTED != 0);
                let slot = function.read(capability.checked_add(SLOT_CAPABILITIES)?);
                let is_hot = SLOT_PORTS.contains(&port) && has_slot && slot & HOT_PLUG_CAPABLE != 0;
                let port = Self { function: function.clone(), capability, is_occupied: false };
                return is_hot.then_some(port);
            }
            capability = (word >> 8) as u8 & 0xfc;
        }
        None
    }

    /// Sets whether the slot has a device that is in use.
    pub fn set_occupied(&mut self, is_occupied: bool) {
        self.is_occupied = is_occupied;
    }

    fn at(&self, register: u8) -> u8 {
        self.capability.saturating_add(register)
    }

    fn control(&self) -> (u16, u16) {
        let word = self.function.read(self.at(SLOT_CONTROL));
        (word as u16, (word >> 16) as u16)
    }

    /// Writes a register of the slot.
    fn write(&self, register: u8, value: u16) {
        // SAFETY: the slot affects the device in it alone, which its driver has let go of or is told of; no memory is accessed.
        unsafe { self.function.write16(self.at(register), value) }
    }

    /// Returns what happened since the last call. An added device is powered on first, which takes a second at most. `is_present` returns
    /// whether its configuration space can be read.
    pub fn take(&mut self, platform: &P, is_present: impl Fn() -> bool) -> Option<PortEvent> {
        let (control, status) = self.control();
        if status == u16::MAX {
            // The port itself is gone.
            return core::mem::take(&mut self.is_occupied).then_some(PortEvent::Removed);
        }
        let seen = status & (BUTTON | PRESENCE_CHANGED | LINK_CHANGED | COMMAND_COMPLETED);
        if seen != 0 {
            self.write(SLOT_STATUS, seen);
        }
        match (status & IS_PRESENT != 0, self.is_occupied) {
            // A slot without news whose device did not appear is not waited for again.
            (true, false) if seen == 0 && control & POWER_OFF == 0 => None,
            (true, false) => {
                self.write(SLOT_CONTROL, control & !(INDICATOR_MASK | POWER_OFF) | INDICATOR_ON);
                let end = platform.now().saturating_add(POWER_ON);
                while !is_present() {
                    if platform.now() >= end {
                        return None;
                    }
                    platform.relax();
                }
                self.is_occupied = true;
                Some(PortEvent::Added)
            }
            (true, true) => (status & BUTTON != 0).then_some(PortEvent::Requested),
            (false, true) => {
                self.is_occupied = false;
                Some(PortEvent::Removed)
            }
            (false, false) => None,
        }
    }

    /// Powers the slot off: the host takes the device away.
    pub fn power_off(&mut self) {
        let (control, _) = self.control();
        self.write(SLOT_CONTROL, control & !INDICATOR_MASK | INDICATOR_OFF | POWER_OFF);
        self.is_occupied = false;
    }
}

impl<P: Platform> fmt::Debug for HotPlugPort<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HotPlugPort")
            .field("address", &self.function.address())
            .field("is_occupied", &self.is_occupied)
            .finish()
    }
}

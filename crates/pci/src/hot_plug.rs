//! Hot plug: the registers by which a host says that devices come and go, and by which the guest gives one back.

use crate::PciFunction;
use crate::bridge::express_capability;
use core::fmt;
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

    /// Returns what has changed on the bus of `selector` since the last call. What it returns is not reported again: QEMU repeats a request
    /// until its device is ejected, Cloud Hypervisor does not.
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
    /// A device was added, and is there.
    Added,
    /// The host asks for the device: see [`HotPlugPort::power_off`].
    Requested,
    /// The device is gone. There may be another one already, which is reported after it.
    Removed,
}

/// The slot of a port, as far as this side knows.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Slot {
    Empty,
    /// Powered on, with a device that has not answered yet.
    Starting,
    /// With a device that is in use.
    Occupied,
    /// Powered off; the device that was in it may still be there.
    Released,
}

/// A PCI Express port whose slot takes a device while the machine runs. PCI Express 6.0 §6.7, §7.5.3
pub struct HotPlugPort<P: Platform> {
    function: PciFunction<P>,
    capability: u8,
    slot: Slot,
    /// The host has asked for the device.
    is_requested: bool,
}

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

/// Whether the status says that the host asks for the device: QEMU presses the button for a new device too, with its presence.
fn is_request(status: u16) -> bool {
    status & (BUTTON | PRESENCE_CHANGED) == BUTTON
}

impl<P: Platform> HotPlugPort<P> {
    /// Returns the slot of `function`; `None` if it is not a port with a slot that takes devices while the machine runs. `is_occupied`
    /// tells whether the slot has a device that is in use.
    pub fn find(function: &PciFunction<P>, is_occupied: bool) -> Option<Self> {
        let (capability, word) = express_capability(function)?;
        let (kind, has_slot) = (word >> 20 & 0xf, word >> 16 & SLOT_IMPLEMENTED != 0);
        let slot = function.read(capability.checked_add(SLOT_CAPABILITIES)?);
        if !SLOT_PORTS.contains(&kind) || !has_slot || slot & HOT_PLUG_CAPABLE == 0 {
            return None;
        }
        let slot = if is_occupied { Slot::Occupied } else { Slot::Empty };
        let mut port = Self { function: function.clone(), capability, slot, is_requested: false };
        if is_occupied {
            // That the device came before it was found is not news; that the host has asked for it since is.
            let (_, status) = port.control();
            port.is_requested = is_request(status);
            port.write(SLOT_STATUS, status & (BUTTON | PRESENCE_CHANGED | LINK_CHANGED));
        }
        Some(port)
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

    /// Returns what happened since the last call; call it until it returns `None`. A device that was added is powered on, and reported
    /// once `is_present` returns that its configuration space can be read, however long that takes. Does not block.
    pub fn take(&mut self, is_present: impl Fn() -> bool) -> Option<PortEvent> {
        let (control, status) = self.control();
        let was_occupied = self.slot == Slot::Occupied;
        if status == u16::MAX {
            // The port itself is gone.
            self.slot = Slot::Empty;
            return was_occupied.then_some(PortEvent::Removed);
        }
        let seen = status & (BUTTON | PRESENCE_CHANGED | LINK_CHANGED | COMMAND_COMPLETED);
        if seen != 0 {
            self.write(SLOT_STATUS, seen);
        }
        if status & IS_PRESENT == 0 || seen & PRESENCE_CHANGED != 0 && self.slot != Slot::Starting {
            (self.slot, self.is_requested) = (Slot::Empty, false);
            if was_occupied {
                return Some(PortEvent::Removed);
            }
        }
        self.is_requested |= self.slot != Slot::Empty && is_request(seen);
        match self.slot {
            Slot::Occupied => {
                return core::mem::take(&mut self.is_requested).then_some(PortEvent::Requested);
            }
            Slot::Empty if status & IS_PRESENT != 0 => {
                self.write(SLOT_CONTROL, control & !(INDICATOR_MASK | POWER_OFF) | INDICATOR_ON);
                self.slot = Slot::Starting;
            }
            _ => {}
        }
        if self.slot != Slot::Starting || !is_present() {
            return None;
        }
        self.slot = Slot::Occupied;
        Some(PortEvent::Added)
    }

    /// Powers the slot off: the host takes the device away.
    pub fn power_off(&mut self) {
        let (control, _) = self.control();
        self.write(SLOT_CONTROL, control & !INDICATOR_MASK | INDICATOR_OFF | POWER_OFF);
        (self.slot, self.is_requested) = (Slot::Released, false);
    }
}

impl<P: Platform> fmt::Debug for HotPlugPort<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HotPlugPort")
            .field("address", &self.function.address())
            .field("slot", &self.slot)
            .finish()
    }
}

//! What monitors declare for hot plug and for events: operation regions, buses with hot plug, the generic event device.

use super::{Devices, Resource, STRING_PREFIX, integer, resources};
use paravirt_platform::InterruptLine;

const OP_REGION_OP: [u8; 2] = [0x5b, 0x80];
/// The hardware id of a generic event device.
const EVENT_DEVICE_HID: &[u8] = b"ACPI0013\0";

/// The address space of an operation region. ACPI 6.5 §5.5.2.4
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Space {
    /// Physical addresses.
    Memory,
    /// I/O ports.
    Io,
}

/// An operation region: registers that the code accesses.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Region {
    /// The address space of `base`.
    pub space: Space,
    /// The address of the first register.
    pub base: u64,
    /// The length in bytes.
    pub len: u64,
}

/// Returns the first operation region of this name in memory or I/O space whose address is a constant.
pub fn region(aml: &[u8], name: &[u8; 4]) -> Option<Region> {
    let found = aml
        .windows(6)
        .enumerate()
        .filter(|(_, window)| window.strip_prefix(&OP_REGION_OP).is_some_and(|declared| declared == name));
    found.filter_map(|(at, window)| region_body(aml.get(at.wrapping_add(window.len())..)?)).next()
}

fn region_body(bytes: &[u8]) -> Option<Region> {
    let (&space, rest) = bytes.split_first()?;
    let (base, rest) = integer(rest)?;
    let (len, _) = integer(rest)?;
    let space = match space {
        0 => Space::Memory,
        1 => Space::Io,
        _ => return None,
    };
    Some(Region { space, base, len })
}

/// The name that QEMU and Cloud Hypervisor give to the registers for hot plug of PCI devices.
pub const HOT_PLUG_REGION: &[u8; 4] = b"PCST";

/// Maximum number of bridges between a host bridge and a bus with hot plug; buses further down are skipped.
pub const MAX_BRIDGES: usize = 8;

/// A bus whose devices QEMU adds and removes through its ACPI hot-plug registers.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct HotPlugBus {
    /// The selector of the bus in the registers.
    pub selector: u32,
    bridges: [Option<(u8, u8)>; MAX_BRIDGES],
}

impl HotPlugBus {
    /// Iterates over the bridges from the host bridge to the bus: the device and the function of each. The bus of the host bridge itself
    /// has none.
    pub fn bridges(&self) -> impl Iterator<Item = (u8, u8)> + '_ {
        self.bridges.iter().flatten().copied()
    }
}

/// Returns the buses with hot plug that the code declares, as QEMU does: a `BSEL` in the device of the bridge.
pub fn hot_plug_buses(aml: &[u8]) -> impl Iterator<Item = HotPlugBus> {
    let mut devices = Devices::new(aml);
    core::iter::from_fn(move || {
        loop {
            let found = devices.next()?;
            let Some(selector) = found.selector.and_then(|selector| u32::try_from(selector).ok()) else {
                continue;
            };
            // The devices around it are open still, and have declared their addresses.
            let around = devices.open.get(..devices.depth).unwrap_or_default().iter();
            let path = around.map(|open| open.declarations).chain([found]);
            let mut bus = HotPlugBus { selector, bridges: [None; MAX_BRIDGES] };
            let mut free = bus.bridges.iter_mut();
            // A host bridge has a hardware id; a device on PCI has none.
            let bridges =
                path.filter(|device| device.hardware_id.is_none()).filter_map(|device| device.address);
            let is_whole =
                bridges.into_iter().all(|address| match (free.next(), address >> 16, address & 0xffff) {
                    (Some(free), device @ 0..32, function @ 0..8) => {
                        *free = Some((device as u8, function as u8));
                        true
                    }
                    _ => false,
                });
            if is_whole {
                return Some(bus);
            }
        }
    })
}

/// Whose event register a generic event device reads.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum EventRegister {
    /// QEMU's, at this physical address: 32 bits. QEMU, docs/specs/acpi_hw_reduced_hotplug
    Qemu(u64),
    /// Cloud Hypervisor's, at this physical address: 8 bits.
    CloudHypervisor(u64),
}

/// A generic event device: it raises an interrupt for hot plug and for the power button. ACPI 6.5 §5.6.9
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct EventDevice {
    /// Its interrupt.
    pub line: InterruptLine,
    /// The register that says what happened, and is cleared by reading it.
    pub register: EventRegister,
}

/// Returns the generic event device, if it is one whose register is known: that of QEMU or of Cloud Hypervisor.
pub fn event_device(aml: &[u8]) -> Option<EventDevice> {
    let address =
        |name| region(aml, name).filter(|region| region.space == Space::Memory).map(|region| region.base);
    let register = address(b"EREG")
        .map(EventRegister::Qemu)
        .or_else(|| address(b"GDST").map(EventRegister::CloudHypervisor))?;
    let line = Devices::new(aml).find_map(|device| {
        let (&STRING_PREFIX, id) = device.hardware_id?.split_first()? else { return None };
        id.starts_with(EVENT_DEVICE_HID).then_some(())?;
        resources(device.template?).find_map(|resource| match resource {
            Resource::Interrupt(line) => Some(line),
            _ => None,
        })
    })?;
    Some(EventDevice { line, register })
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::super::tests::{crs, device};
    use super::*;
    use paravirt_platform::{Polarity, Trigger};
    use std::vec::Vec;

    #[test]
    fn finds_regions_with_constant_addresses() {
        let aml = b"\x5b\x80PCST\x01\x0b\xc0\x0c\x0a\x08\x5b\x80EREG\x00\x0c\x00\x00\xa0\xfe\x0a\x04\x5b\x80P40C\x02\x0a\x60\x0a\x04";
        assert_eq!(region(aml, b"PCST"), Some(Region { space: Space::Io, base: 0xcc0, len: 8 }));
        assert_eq!(region(aml, b"EREG"), Some(Region { space: Space::Memory, base: 0xfea0_0000, len: 4 }));
        assert_eq!((region(aml, b"P40C"), region(aml, b"NONE")), (None, None));
        for end in 0..aml.len() {
            let _ = region(&aml[..end], b"P40C");
        }
        assert_eq!(region(b"\x5b\x80PCST\x01PEST\x0a\x08", b"PCST"), None);
    }

    #[test]
    fn finds_the_buses_with_hot_plug_and_the_bridges_before_them() {
        // A host bridge with an address of its own, a port, and a bus behind a bridge behind that.
        let inner = device(b"S08_\x08_ADR\x0c\x01\x00\x01\x00\x08BSEL\x0a\x02");
        let port = device(&[&b"S18_\x08_ADR\x0c\x00\x00\x03\x00\x08BSEL\x01"[..], &inner].concat());
        let mut bridge = b"PCI0\x08_HID\x0c\x41\xd0\x0a\x03\x08_ADR\x00\x08BSEL\x00".to_vec();
        bridge.extend(&port);
        let found: Vec<_> = hot_plug_buses(&device(&bridge))
            .map(|bus| (bus.selector, bus.bridges().collect::<Vec<_>>()))
            .collect();
        assert_eq!(found, [(2, Vec::from([(3, 0), (1, 1)])), (1, Vec::from([(3, 0)])), (0, Vec::new())]);
        // An address that is none of PCI.
        let odd = device(b"S18_\x08_ADR\x0c\x00\x00\x20\x00\x08BSEL\x01");
        assert_eq!(hot_plug_buses(&odd).count(), 0);
    }

    #[test]
    fn finds_the_event_devices_of_two_monitors() {
        let template = [0x89, 6, 0, 3, 1, 9, 0, 0, 0, 0x79, 0];
        let event = |region: &[u8]| {
            let device = device(&[&b"GED_\x08_HID\x0dACPI0013\0"[..], &crs(&template)].concat());
            event_device(&[region, &device].concat())
        };
        let line = InterruptLine { number: 9, trigger: Trigger::Edge, polarity: Polarity::High };
        let qemu = EventDevice { line, register: EventRegister::Qemu(0xfea0_0000) };
        assert_eq!(event(b"\x5b\x80EREG\x00\x0c\x00\x00\xa0\xfe\x0a\x04"), Some(qemu));
        let other = EventDevice { line, register: EventRegister::CloudHypervisor(0x1_0000) };
        assert_eq!(event(b"\x5b\x80GDST\x00\x0c\x00\x00\x01\x00\x01"), Some(other));
        assert_eq!(event(b""), None);
    }
}

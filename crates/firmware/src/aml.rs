//! A bounded scan of AML, the code in DSDT and SSDTs, for declarations. ACPI 6.5 §20.2
//!
//! Nothing is executed. Declarations are recognised by their encoding at any position; one that a method constructs is not found.

mod events;

pub use events::{
    EventDevice, EventRegister, HOT_PLUG_REGION, HotPlugBus, MAX_BRIDGES, Region, Space, event_device,
    hot_plug_buses, region,
};

use crate::{field, u32_at, u64_at};
use core::ops::Range;
use paravirt_platform::{InterruptLine, Polarity, Trigger};

const DEVICE_OP: [u8; 2] = [0x5b, 0x82];
const NAME_OP: u8 = 0x08;
const BUFFER_OP: u8 = 0x11;
const PACKAGE_OP: u8 = 0x12;
const STRING_PREFIX: u8 = 0x0d;
const ZERO_OP: u8 = 0x00;
const ONE_OP: u8 = 0x01;
const ONES_OP: u8 = 0xff;
const BYTE_PREFIX: u8 = 0x0a;
const WORD_PREFIX: u8 = 0x0b;
const DWORD_PREFIX: u8 = 0x0c;
const QWORD_PREFIX: u8 = 0x0e;
const RETURN_OP: u8 = 0xa4;

/// The hardware id of a virtio MMIO device.
const VIRTIO_MMIO_HID: &[u8] = b"LNRO0005\0";

/// Returns the position of the body of a package: the bytes after its length. ACPI 6.5 §20.2.4
fn package_range(bytes: &[u8]) -> Option<Range<usize>> {
    let lead = *bytes.first()?;
    let follow = usize::from(lead >> 6);
    let mut len = if follow == 0 { usize::from(lead & 0x3f) } else { usize::from(lead & 0x0f) };
    for (i, byte) in bytes.get(1..follow.checked_add(1)?)?.iter().enumerate() {
        len |= usize::from(*byte) << (i.wrapping_mul(8).wrapping_add(4));
    }
    let range = follow.checked_add(1)?..len;
    bytes.get(range.clone()).map(|_| range)
}

/// Returns the body of a package.
fn package(bytes: &[u8]) -> Option<&[u8]> {
    bytes.get(package_range(bytes)?)
}

/// Parses an integer constant; returns it and the bytes after it.
fn integer(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (&prefix, rest) = bytes.split_first()?;
    match prefix {
        ZERO_OP => Some((0, rest)),
        ONE_OP => Some((1, rest)),
        ONES_OP => Some((u64::MAX, rest)),
        BYTE_PREFIX => rest.split_first().map(|(value, rest)| (u64::from(*value), rest)),
        WORD_PREFIX => Some((u64::from(u16::from_le_bytes(field(rest, 0)?)), rest.get(2..)?)),
        DWORD_PREFIX => Some((u64::from(u32_at(rest, 0)?), rest.get(4..)?)),
        QWORD_PREFIX => Some((u64_at(rest, 0)?, rest.get(8..)?)),
        _ => None,
    }
}

/// Returns the bytes after the name in each `Name(name, …)` in `bytes`.
fn declarations<'a>(bytes: &'a [u8], name: &'static [u8; 4]) -> impl Iterator<Item = &'a [u8]> {
    bytes.windows(4).enumerate().filter(move |(_, window)| *window == name).filter_map(move |(at, _)| {
        // The name may be anchored at the root.
        let before = bytes.get(..at)?;
        let is_declared = matches!(before, [.., NAME_OP] | [.., NAME_OP, b'\\']);
        is_declared.then(|| bytes.get(at.wrapping_add(4)..)).flatten()
    })
}

/// Returns the bytes of a buffer constant.
fn buffer(bytes: &[u8]) -> Option<&[u8]> {
    let (&BUFFER_OP, rest) = bytes.split_first()? else { return None };
    let (len, data) = integer(package(rest)?)?;
    data.get(..usize::try_from(len).ok()?)
}

/// Returns the sleep types of state S5 for the PM1a and PM1b control registers, each 0 to 7. ACPI 6.5 §7.4.2
pub fn sleep_type_s5(aml: &[u8]) -> Option<(u8, u8)> {
    declarations(aml, b"_S5_").find_map(|value| {
        let (&PACKAGE_OP, rest) = value.split_first()? else { return None };
        let (_count, elements) = package(rest)?.split_first()?;
        let (a, rest) = integer(elements)?;
        let b = integer(rest).map_or(a, |(b, _)| b);
        Some(((a & 7) as u8, (b & 7) as u8))
    })
}

/// A resource of a device. ACPI 6.5 §6.4
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Resource {
    /// Memory of the device.
    Memory {
        /// Its physical address.
        base: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// A range of memory that a bridge forwards.
    Window {
        /// The first address.
        start: u64,
        /// The last address, not below the first.
        last: u64,
    },
    /// The bus numbers of a bridge.
    Buses {
        /// The first.
        first: u8,
        /// The last, not below the first.
        last: u8,
    },
    /// An interrupt line.
    Interrupt(InterruptLine),
}

/// Returns the resources in a resource template; kinds that are not [`Resource`]s are skipped. The iterator ends at the end tag or at
/// the first malformed descriptor.
pub fn resources(template: &[u8]) -> impl Iterator<Item = Resource> + '_ {
    let mut rest = template;
    core::iter::from_fn(move || {
        loop {
            let tag = *rest.first()?;
            let (head, len) = if tag & 0x80 == 0 {
                (1usize, usize::from(tag & 7))
            } else {
                (3, usize::from(u16::from_le_bytes(field(rest, 1)?)))
            };
            let end = head.checked_add(len)?;
            let body = rest.get(head..end)?;
            rest = rest.get(end..)?;
            if tag & 0xf8 == 0x78 {
                return None;
            }
            if let Some(resource) = resource(tag, body) {
                return Some(resource);
            }
        }
    })
}

fn resource(tag: u8, body: &[u8]) -> Option<Resource> {
    match tag {
        // IRQ: a mask of 16 lines, with or without flags.
        0x22 | 0x23 => {
            let mask = u16::from_le_bytes(field(body, 0)?);
            let flags = body.get(2).copied().unwrap_or(1);
            (mask != 0).then(|| interrupt(mask.trailing_zeros(), flags & 1 != 0, flags & 8 != 0))
        }
        // 32-bit fixed memory.
        0x86 => {
            Some(Resource::Memory { base: u64::from(u32_at(body, 1)?), len: u64::from(u32_at(body, 5)?) })
        }
        // Address spaces of 32, 16 and 64 bits: type, flags, type flags, granularity, first, last, ...
        0x87 => space(body, u64::from(u32_at(body, 7)?), u64::from(u32_at(body, 11)?)),
        0x88 => {
            let value = |at| field(body, at).map(u16::from_le_bytes).map(u64::from);
            space(body, value(5)?, value(7)?)
        }
        0x8a => space(body, u64_at(body, 11)?, u64_at(body, 19)?),
        // Extended interrupt: flags, count, the first line.
        0x89 => {
            let flags = *body.first()?;
            Some(interrupt(u32_at(body, 2)?, flags & 2 != 0, flags & 4 != 0))
        }
        _ => None,
    }
}

fn interrupt(number: u32, is_edge: bool, is_low: bool) -> Resource {
    Resource::Interrupt(InterruptLine {
        number,
        trigger: if is_edge { Trigger::Edge } else { Trigger::Level },
        polarity: if is_low { Polarity::Low } else { Polarity::High },
    })
}

fn space(body: &[u8], start: u64, last: u64) -> Option<Resource> {
    match *body.first()? {
        0 if start <= last => Some(Resource::Window { start, last }),
        2 => {
            let (first, last) = (u8::try_from(start).ok()?, u8::try_from(last).ok()?);
            (first <= last).then_some(Resource::Buses { first, last })
        }
        _ => None,
    }
}

/// A virtio MMIO device, as its `_CRS` describes it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct VirtioMmio {
    /// The physical address of its registers.
    pub base: u64,
    /// Their length in bytes.
    pub len: u64,
    /// Its interrupt line, if it has one.
    pub line: Option<InterruptLine>,
}

impl VirtioMmio {
    /// A device with `len` bytes of registers at `base`.
    pub const fn new(base: u64, len: u64, line: Option<InterruptLine>) -> Self {
        Self { base, len, line }
    }
}

/// What the code declares in one device, or outside of all devices.
#[derive(Copy, Clone, Debug, Default)]
struct Declarations<'a> {
    /// The bytes after the name `_HID`.
    hardware_id: Option<&'a [u8]>,
    /// The resource template `_CRS`.
    template: Option<&'a [u8]>,
    /// `_SEG`, the PCI segment of a host bridge.
    segment: Option<u64>,
    /// `_CBA`, the address of a host bridge's configuration space.
    ecam: Option<u64>,
    /// `_ADR`, the device and the function on the bus of the device around it.
    address: Option<u64>,
    /// `BSEL`, the selector of the device's secondary bus in QEMU's hot-plug registers.
    selector: Option<u64>,
}

/// The maximum depth of nested devices; deeper ones are skipped.
const MAX_DEPTH: usize = 16;

/// A device whose end the scan has not reached.
#[derive(Copy, Clone, Default)]
struct Open<'a> {
    end: usize,
    declarations: Declarations<'a>,
}

/// A scan of the code for devices, in one pass: each position is looked at once, whatever the code claims to be nested.
struct Devices<'a> {
    aml: &'a [u8],
    at: usize,
    /// The devices around `at`, the outermost first. The first stands for the whole code.
    open: [Open<'a>; MAX_DEPTH],
    depth: usize,
}

impl<'a> Devices<'a> {
    fn new(aml: &'a [u8]) -> Self {
        let mut open = [Open::default(); MAX_DEPTH];
        if let Some(whole) = open.first_mut() {
            whole.end = aml.len();
        }
        Self { aml, at: 0, open, depth: 1 }
    }

    fn innermost(&mut self) -> Option<&mut Open<'a>> {
        self.open.get_mut(self.depth.checked_sub(1)?)
    }

    /// Looks at the current position and advances.
    fn step(&mut self) -> Option<()> {
        let rest = self.aml.get(self.at..)?;
        let mut next = self.at.wrapping_add(1);
        if let Some(body) = device_body(rest) {
            let (start, end) = (self.at.wrapping_add(body.start), self.at.wrapping_add(body.end));
            // A device is inside the one around it; otherwise these bytes are data.
            if end <= self.innermost()?.end {
                next = match self.open.get_mut(self.depth) {
                    Some(free) => {
                        *free = Open { end, declarations: Declarations::default() };
                        self.depth = self.depth.wrapping_add(1);
                        start
                    }
                    None => end,
                };
            }
        } else if let Some((name, value)) = rest.split_first_chunk::<4>() {
            let is_declared = matches!(self.aml.get(..self.at)?, [.., NAME_OP] | [.., NAME_OP, b'\\']);
            let is_nested = self.depth > 1;
            let found = &mut self.innermost()?.declarations;
            match (name, is_declared) {
                (b"_HID", true) => found.hardware_id = found.hardware_id.or(Some(value)),
                (b"_SEG", true) => found.segment = found.segment.or(constant(value)),
                (b"_ADR", true) if is_nested => found.address = found.address.or(constant(value)),
                (b"BSEL", true) => found.selector = found.selector.or(constant(value)),
                (b"_CBA", true) => found.ecam = found.ecam.or(constant(value)),
                // A method that only returns a constant: its flags come first.
                (b"_CBA", false) => {
                    if let [_flags, RETURN_OP, value @ ..] = value {
                        found.ecam = found.ecam.or(constant(value));
                    }
                }
                (b"_CRS", true) => {
                    if let Some(template) = buffer(value) {
                        found.template = found.template.or(Some(template));
                        // What is in the template is no code.
                        next = next.wrapping_add(template.len());
                    }
                }
                _ => {}
            }
        }
        self.at = next;
        Some(())
    }
}

impl<'a> Iterator for Devices<'a> {
    type Item = Declarations<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let at = self.at;
            let innermost = *self.innermost()?;
            if at >= innermost.end {
                self.depth = self.depth.wrapping_sub(1);
                return Some(innermost.declarations);
            }
            self.step()?;
        }
    }
}

fn constant(bytes: &[u8]) -> Option<u64> {
    integer(bytes).map(|(value, _)| value)
}

/// Returns the position of the body of the device that `bytes` begin with: what follows its length, first its name. ACPI 6.5 §20.2.5.2
fn device_body(bytes: &[u8]) -> Option<Range<usize>> {
    let rest = bytes.strip_prefix(&DEVICE_OP)?;
    let range = package_range(rest)?;
    let is_name = matches!(rest.get(range.start)?, b'A'..=b'Z' | b'_' | b'\\' | b'^' | 0x2e | 0x2f);
    let skipped = DEVICE_OP.len();
    is_name.then(|| range.start.wrapping_add(skipped)..range.end.wrapping_add(skipped))
}

/// Returns the virtio MMIO devices that the code declares: devices with the hardware id `LNRO0005`. The time is linear in the length of
/// the code.
pub fn virtio_mmio_devices(aml: &[u8]) -> impl Iterator<Item = VirtioMmio> + '_ {
    Devices::new(aml).filter_map(|device| {
        let (&STRING_PREFIX, id) = device.hardware_id?.split_first()? else { return None };
        if !id.starts_with(VIRTIO_MMIO_HID) {
            return None;
        }
        let template = device.template?;
        let memory = resources(template).find_map(|resource| match resource {
            Resource::Memory { base, len } => Some((base, len)),
            Resource::Window { start, last } => Some((start, last.wrapping_sub(start).checked_add(1)?)),
            _ => None,
        });
        let line = resources(template).find_map(|resource| match resource {
            Resource::Interrupt(line) => Some(line),
            _ => None,
        });
        let (base, len) = memory.filter(|(_, len)| *len > 0)?;
        Some(VirtioMmio { base, len, line })
    })
}

/// A PCI host bridge, as the code declares it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct HostBridge<'a> {
    /// Its PCI segment group: `_SEG`, 0 if that is not declared. ACPI 6.5 §6.5.6
    pub segment: u16,
    /// The physical address of its configuration space (ECAM), of bus 0, for a machine without MCFG: from a `_CBA` that is declared, or
    /// from a method that only returns a constant. PCI Firmware 3.3 §4.1.3
    pub ecam: Option<u64>,
    /// Its resource template, for [`resources`].
    pub template: &'a [u8],
}

/// Returns the PCI host bridges that the code declares: devices whose resources have bus numbers. The time is linear in the length of the
/// code.
pub fn host_bridges(aml: &[u8]) -> impl Iterator<Item = HostBridge<'_>> {
    Devices::new(aml).filter_map(|device| {
        let template = device.template?;
        let has_buses = resources(template).any(|resource| matches!(resource, Resource::Buses { .. }));
        let segment = device.segment.unwrap_or(0) as u16;
        let ecam = device.ecam.filter(|base| *base != 0);
        has_buses.then_some(HostBridge { segment, ecam, template })
    })
}

#[cfg(test)]
pub(crate) mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    pub fn device(body: &[u8]) -> Vec<u8> {
        let mut aml = Vec::from(DEVICE_OP);
        // Two bytes of length.
        let len = body.len() + 2;
        aml.extend([0x40 | (len & 0xf) as u8, (len >> 4) as u8]);
        aml.extend(body);
        aml
    }

    pub fn crs(template: &[u8]) -> Vec<u8> {
        let mut aml = Vec::from(*b"\x08_CRS\x11");
        aml.extend([(template.len() + 3) as u8, BYTE_PREFIX, template.len() as u8]);
        aml.extend(template);
        aml
    }

    /// The declaration of QEMU's microvm: memory, and an edge-triggered, active-high interrupt.
    fn virtio_device() -> Vec<u8> {
        let mut body = Vec::from(*b"VR06\x08_HID\x0dLNRO0005\0\x08_UID\x0a\x06");
        let mut template = Vec::from([0x86, 9, 0, 1]);
        template.extend(0xfeb0_0c00u32.to_le_bytes());
        template.extend(512u32.to_le_bytes());
        template.extend([0x89, 6, 0, 3, 1, 22, 0, 0, 0, 0x79, 0]);
        body.extend(crs(&template));
        device(&body)
    }

    #[test]
    fn finds_virtio_devices_and_nested_ones() {
        let line = InterruptLine { number: 22, trigger: Trigger::Edge, polarity: Polarity::High };
        let expected = VirtioMmio { base: 0xfeb0_0c00, len: 512, line: Some(line) };
        assert_eq!(virtio_mmio_devices(&virtio_device()).collect::<Vec<_>>(), [expected]);
        let mut outer = Vec::from(*b"PCI0\x08_HID\x0c\x41\xd0\x0a\x08");
        outer.extend(virtio_device());
        assert_eq!(virtio_mmio_devices(&device(&outer)).collect::<Vec<_>>(), [expected]);
    }

    #[test]
    fn every_truncation_is_survived() {
        let whole = virtio_device();
        for end in 0..whole.len() {
            assert_eq!(virtio_mmio_devices(&whole[..end]).count(), 0);
        }
    }

    #[test]
    fn finds_the_windows_of_a_host_bridge() {
        let mut template = Vec::from([0x88, 13, 0, 2, 0xc, 0, 0, 0, 0, 0, 0xff, 0, 0, 0, 0, 1]);
        template.extend([0x87, 23, 0, 0, 0xc, 3, 0, 0, 0, 0]);
        template.extend(0xc000_0000u32.to_le_bytes());
        template.extend(0xfebf_ffffu32.to_le_bytes());
        template.extend([0; 8]);
        template.extend([0x79, 0]);
        let aml = crs(&template);
        let bridge = host_bridges(&aml).next().unwrap();
        assert_eq!((bridge.segment, bridge.ecam), (0, None));
        let found: Vec<_> = resources(bridge.template).collect();
        let window = Resource::Window { start: 0xc000_0000, last: 0xfebf_ffff };
        assert_eq!(found, [Resource::Buses { first: 0, last: 255 }, window]);
    }

    /// A host bridge with bus numbers 0 to 255 and `more` declarations.
    fn bridge(more: &[u8]) -> Vec<u8> {
        let template = [0x88, 13, 0, 2, 0xc, 0, 0, 0, 0, 0, 0xff, 0, 0, 0, 0, 1, 0x79, 0];
        device(&[b"PC00", &crs(&template)[..], more].concat())
    }

    #[test]
    fn finds_configuration_space() {
        let ecam = |more: &[u8]| host_bridges(&bridge(more)).next().unwrap().ecam;
        assert_eq!(ecam(b"\x14\x0c_CBA\x00\xa4\x0c\x00\x00\x00\xe0"), Some(0xe000_0000));
        assert_eq!(ecam(b"\x08_CBA\x0e\x00\x00\x00\x00\x01\x00\x00\x00"), Some(1 << 32));
        assert_eq!(ecam(b"\x14\x0c_CBA\x00\x70\x0c\x00\x00\x00\xe0"), None);
        assert_eq!(ecam(b"\x08_CBA\x00"), None);
    }

    #[test]
    fn a_host_bridge_has_the_segment_of_its_own_device() {
        let mut aml = bridge(b"\x08_SEG\x00");
        // Devices in a bridge may declare what they like.
        aml.extend(bridge(&[&b"\x08_SEG\x0a\x01"[..], &device(b"DEV0\x08_SEG\x0a\x07")].concat()));
        aml.extend(bridge(b""));
        let segments: Vec<_> = host_bridges(&aml).map(|bridge| bridge.segment).collect();
        assert_eq!(segments, [0, 1, 0]);
    }

    #[test]
    fn devices_that_claim_to_be_nested_a_thousand_deep_are_passed_once() {
        // Each claims the rest of the code, which took time in the square of its length.
        let mut aml = Vec::new();
        for _ in 0..20_000 {
            aml.extend(*b"\x5b\x82\xcf\xff\xff\x00DEV0\x08_HID\x00");
        }
        aml.resize(1 << 20, 0);
        aml.extend(virtio_device());
        let mut scan = Devices::new(&aml);
        let (mut steps, mut at) = (0, 0);
        while scan.step().is_some() && scan.at < aml.len() {
            assert!(scan.at > at);
            (steps, at) = (steps + 1, scan.at);
        }
        assert!(steps <= aml.len());
    }

    #[test]
    fn finds_the_sleep_type() {
        assert_eq!(sleep_type_s5(b"xx\x08_S5_\x12\x06\x04\x05\x00\x00\x00"), None);
        assert_eq!(sleep_type_s5(b"xx\x08_S5_\x12\x06\x04\x00\x00\x00\x00"), Some((0, 0)));
        assert_eq!(sleep_type_s5(b"xx\x08\\_S5_\x12\x07\x04\x0a\x05\x0a\x07\x00"), Some((5, 7)));
        assert_eq!(sleep_type_s5(b"_S5_\x12\x06\x04\x01"), None);
    }
}

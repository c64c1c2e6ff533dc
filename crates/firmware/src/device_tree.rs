//! A flattened device tree: what it declares of PCI host bridges and of virtio MMIO devices. Devicetree Specification 0.4
//!
//! The parser is total: whatever the bytes are, it ends and reads nothing beyond them. A node that is malformed declares nothing.

use crate::aml::VirtioMmio;
use paravirt_platform::{InterruptLine, Polarity, Trigger};

/// The header. §5.2
const MAGIC: u32 = 0xd00d_feed;
const HEADER_LEN: usize = 40;
const TOTAL_SIZE: usize = 4;
const STRUCTURE: usize = 8;
const STRINGS: usize = 12;
const RESERVATIONS: usize = 16;
const VERSION: usize = 20;
const LAST_COMPATIBLE_VERSION: usize = 24;
const STRINGS_LEN: usize = 32;
const STRUCTURE_LEN: usize = 36;
/// The version of the format that is read.
const SUPPORTED: u32 = 17;
/// Tokens of the structure block. §5.4.1
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const NOP: u32 = 4;
/// Maximum depth of nested nodes; deeper ones are skipped.
const MAX_DEPTH: usize = 16;

/// A device tree.
#[derive(Copy, Clone, Debug)]
pub struct DeviceTree<'a> {
    structure: &'a [u8],
    strings: &'a [u8],
    reservations: &'a [u8],
}

/// A node.
#[derive(Copy, Clone, Debug)]
pub struct Node<'a> {
    tree: DeviceTree<'a>,
    name: &'a [u8],
    /// The structure block from the node's first property on.
    body: &'a [u8],
    /// What the parents declare for it.
    scope: Scope,
}

/// What a node declares for those below it.
#[derive(Copy, Clone, Debug)]
struct Scope {
    address_cells: u32,
    size_cells: u32,
    /// The phandle of the interrupt parent.
    interrupt_parent: Option<u32>,
    /// Whether addresses below it are those of processors: all buses above pass them on as they are.
    is_identity: bool,
    /// Whether the registers of nodes below it are memory that is reserved.
    is_reserved: bool,
}

/// The values of §2.3.5 for a parent that declares none.
const DEFAULT_SCOPE: Scope =
    Scope { address_cells: 2, size_cells: 1, interrupt_parent: None, is_identity: true, is_reserved: false };

/// Reads the big-endian word at `at`.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// Splits off `count` cells, one or two, as a number; none is 0.
fn cells(bytes: &[u8], count: u32) -> Option<(u64, &[u8])> {
    let (value, rest) = bytes.split_at_checked(usize::try_from(count).ok()?.checked_mul(4)?)?;
    match count {
        0 => Some((0, rest)),
        1 => Some((u64::from(word(value, 0)?), rest)),
        2 => Some((u64::from(word(value, 0)?) << 32 | u64::from(word(value, 4)?), rest)),
        _ => None,
    }
}

/// The bytes before the first zero, and how many bytes they take with it.
fn text(bytes: &[u8]) -> Option<&[u8]> {
    bytes.split(|byte| *byte == 0).next().filter(|text| text.len() < bytes.len())
}

impl<'a> DeviceTree<'a> {
    /// Returns the length of the tree whose first 8 bytes are `start`; `None` if there is no tree.
    pub fn len_of(start: &[u8]) -> Option<usize> {
        let is_tree = word(start, 0)? == MAGIC;
        let len = usize::try_from(word(start, TOTAL_SIZE)?).ok()?;
        (is_tree && len >= HEADER_LEN).then_some(len)
    }

    /// Parses the header of the tree in `bytes`, which may be longer; `None` if it is malformed, or of another version.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let bytes = bytes.get(..Self::len_of(bytes)?)?;
        if word(bytes, VERSION)? < SUPPORTED || word(bytes, LAST_COMPATIBLE_VERSION)? > SUPPORTED {
            return None;
        }
        let block = |at: usize, len: usize| {
            let (start, len) = (word(bytes, at)? as usize, word(bytes, len)? as usize);
            bytes.get(start..start.checked_add(len)?)
        };
        let reservations = bytes.get(word(bytes, RESERVATIONS)? as usize..)?;
        Some(Self {
            structure: block(STRUCTURE, STRUCTURE_LEN)?,
            strings: block(STRINGS, STRINGS_LEN)?,
            reservations,
        })
    }

    /// Iterates over the ranges of memory that firmware or the loader keeps for itself: address and length in bytes. They may be in
    /// the ranges of RAM, in any order, and overlap. §3.5, §5.3
    pub fn reserved(self) -> impl Iterator<Item = (u64, u64)> + Clone + use<'a> {
        let mut rest = self.reservations;
        let listed = core::iter::from_fn(move || {
            let (address, after) = cells(rest, 2)?;
            let (len, after) = cells(after, 2)?;
            rest = after;
            // The list ends with an entry of zeroes.
            (address != 0 || len != 0).then_some((address, len))
        });
        let is_one = |node: &Node<'_>| node.scope.is_reserved && node.is_enabled();
        listed.chain(self.nodes().filter(is_one).flat_map(|node| node.registers()))
    }

    /// Iterates over the nodes in their order, the root first.
    pub fn nodes(self) -> impl Iterator<Item = Node<'a>> + Clone + use<'a> {
        let (mut rest, mut depth) = (self.structure, 0usize);
        // What each open node declares for those below it.
        let mut scopes = [DEFAULT_SCOPE; MAX_DEPTH];
        core::iter::from_fn(move || {
            loop {
                let (token, after) = (word(rest, 0)?, rest.get(4..)?);
                match token {
                    BEGIN_NODE => {
                        let name = text(after)?;
                        let body = after.get(name.len().checked_add(1)?.next_multiple_of(4)..)?;
                        rest = body;
                        let above = depth.checked_sub(1).and_then(|above| scopes.get(above));
                        let scope = above.copied().unwrap_or(DEFAULT_SCOPE);
                        let node = Node { tree: self, name, body, scope };
                        let is_known = match scopes.get_mut(depth) {
                            Some(below) => {
                                *below = node.declared();
                                true
                            }
                            None => false,
                        };
                        depth = depth.checked_add(1)?;
                        if is_known {
                            return Some(node);
                        }
                    }
                    END_NODE => {
                        depth = depth.checked_sub(1)?;
                        rest = after;
                    }
                    PROPERTY => rest = skip_property(after)?,
                    NOP => rest = after,
                    _ => return None,
                }
            }
        })
    }

    /// Returns the first node with this name, without the unit address.
    pub fn find(self, name: &str) -> Option<Node<'a>> {
        self.nodes().find(|node| node.name() == name.as_bytes())
    }

    fn by_phandle(self, phandle: u32) -> Option<Node<'a>> {
        self.nodes().find(|node| node.number("phandle") == Some(phandle))
    }
}

/// Skips a property behind its token.
fn skip_property(bytes: &[u8]) -> Option<&[u8]> {
    let len = usize::try_from(word(bytes, 0)?).ok()?;
    bytes.get(8usize.checked_add(len)?.checked_next_multiple_of(4)?..)
}

impl<'a> Node<'a> {
    /// Returns its name without the unit address.
    pub fn name(&self) -> &'a [u8] {
        self.name.split(|byte| *byte == b'@').next().unwrap_or_default()
    }

    /// Returns the value of a property.
    pub fn property(&self, name: &str) -> Option<&'a [u8]> {
        let mut rest = self.body;
        loop {
            let (token, after) = (word(rest, 0)?, rest.get(4..)?);
            match token {
                PROPERTY => {
                    let (len, at) = (word(after, 0)? as usize, word(after, 4)? as usize);
                    let declared = self.tree.strings.get(at..)?;
                    if declared.starts_with(name.as_bytes()) && declared.get(name.len()) == Some(&0) {
                        return after.get(8..8usize.checked_add(len)?);
                    }
                    rest = skip_property(after)?;
                }
                NOP => rest = after,
                // Properties come before the nodes below.
                _ => return None,
            }
        }
    }

    /// Returns the value of a property of one cell.
    pub fn number(&self, name: &str) -> Option<u32> {
        word(self.property(name)?, 0)
    }

    /// Returns whether the node is for such a device.
    pub fn is_compatible(&self, with: &str) -> bool {
        let listed = self.property("compatible").unwrap_or_default();
        listed.split(|byte| *byte == 0).any(|entry| entry == with.as_bytes())
    }

    /// Returns whether the device can be used.
    pub fn is_enabled(&self) -> bool {
        self.property("status").is_none_or(|status| matches!(text(status), Some(b"okay" | b"ok")))
    }

    /// Whether it is enabled, and its registers are at the addresses that it declares.
    fn is_usable(&self) -> bool {
        self.scope.is_identity && self.is_enabled()
    }

    /// Iterates over the ranges of its registers, as its bus has them: address and length.
    pub fn registers(&self) -> impl Iterator<Item = (u64, u64)> + Clone + use<'a> {
        let (mut rest, scope) = (self.property("reg").unwrap_or_default(), self.scope);
        core::iter::from_fn(move || {
            let (address, after) = cells(rest, scope.address_cells)?;
            let (len, after) = cells(after, scope.size_cells)?;
            if rest.len() == after.len() {
                return None;
            }
            rest = after;
            Some((address, len))
        })
    }

    /// Returns its first interrupt.
    pub fn interrupt(&self) -> Option<InterruptLine> {
        let parent = self.number("interrupt-parent").or(self.scope.interrupt_parent)?;
        let controller = self.tree.by_phandle(parent)?;
        interrupt(&controller, self.property("interrupts")?)
    }

    /// What it declares for the nodes below it.
    fn declared(&self) -> Scope {
        Scope {
            address_cells: self.number("#address-cells").unwrap_or(DEFAULT_SCOPE.address_cells),
            size_cells: self.number("#size-cells").unwrap_or(DEFAULT_SCOPE.size_cells),
            interrupt_parent: self.number("interrupt-parent").or(self.scope.interrupt_parent),
            // The root has no such property; a bus without it passes nothing on, and one with a value translates.
            is_identity: self.is_usable()
                && (self.name.is_empty() || self.property("ranges").is_some_and(<[u8]>::is_empty)),
            is_reserved: self.name == b"reserved-memory",
        }
    }
}

/// Returns the interrupt that `specifier` names at `controller`: of a GIC by its INTID, of others by its number.
fn interrupt(controller: &Node<'_>, specifier: &[u8]) -> Option<InterruptLine> {
    let (number, flags) = match controller.number("#interrupt-cells")? {
        1 => (word(specifier, 0)?, 0),
        2 => (word(specifier, 0)?, word(specifier, 4)?),
        // A GIC: shared or of the processor, number, flags. Linux, bindings/interrupt-controller/arm,gic.yaml
        _ => {
            let base = match word(specifier, 0)? {
                0 => 32,
                1 => 16,
                _ => return None,
            };
            (word(specifier, 4)?.checked_add(base)?, word(specifier, 8)?)
        }
    };
    Some(InterruptLine {
        number,
        trigger: if flags & 3 != 0 { Trigger::Edge } else { Trigger::Level },
        polarity: if flags & 0xa != 0 { Polarity::Low } else { Polarity::High },
    })
}

/// Returns the virtio MMIO devices that the tree declares. One on a bus that translates addresses is left out.
pub fn virtio_mmio_devices(tree: DeviceTree<'_>) -> impl Iterator<Item = VirtioMmio> {
    let is_one = |node: &Node<'_>| node.is_usable() && node.is_compatible("virtio,mmio");
    tree.nodes().filter(is_one).filter_map(|node| {
        let (base, len) = node.registers().next().filter(|(_, len)| *len > 0)?;
        Some(VirtioMmio::new(base, len, node.interrupt()))
    })
}

/// A PCI host bridge with ECAM. Linux, bindings/pci/host-generic-pci.yaml
#[derive(Copy, Clone, Debug)]
pub struct HostBridge<'a> {
    node: Node<'a>,
    /// The segment.
    pub segment: u16,
    /// The address of the configuration space of bus 0, even if the bridge does not have that bus.
    pub ecam: u64,
    /// The first bus.
    pub first: u8,
    /// The last bus.
    pub last: u8,
}

/// Returns the PCI host bridges that the tree declares. One on a bus that translates addresses is left out.
pub fn host_bridges(tree: DeviceTree<'_>) -> impl Iterator<Item = HostBridge<'_>> {
    let is_one = |node: &Node<'_>| node.is_usable() && node.is_compatible("pci-host-ecam-generic");
    tree.nodes().filter(is_one).filter_map(|node| {
        let (base, len) = node.registers().next()?;
        let buses = node.property("bus-range").unwrap_or_default();
        let first = u8::try_from(word(buses, 0).unwrap_or(0)).ok()?;
        // The last bus of which there is configuration space.
        let reached = u64::from(first).saturating_add((len >> 20).saturating_sub(1)).min(255);
        let last = u64::from(word(buses, 4).unwrap_or(255)).min(reached);
        let segment = u16::try_from(node.number("linux,pci-domain").unwrap_or(0)).ok()?;
        let ecam = base.checked_sub(u64::from(first) << 20)?;
        let last = u8::try_from(last).ok().filter(|last| first <= *last)?;
        Some(HostBridge { node, segment, ecam, first, last })
    })
}

/// The cells of an address on PCI, and those of an interrupt on PCI: the pin.
const PCI_ADDRESS_CELLS: usize = 3;
/// Maximum number of entries of an interrupt map: four pins of 32 devices.
const MAX_MAPPED: usize = 128;
/// The kinds of an address on PCI, in its first cell: memory of 32 and of 64 bits.
const PCI_MEMORY: [u32; 2] = [2, 3];

impl<'a> HostBridge<'a> {
    /// Iterates over the memory windows that the bridge forwards: address and length. One whose addresses on PCI differ is left out.
    pub fn windows(&self) -> impl Iterator<Item = (u64, u64)> + use<'a> {
        let mut rest = self.node.property("ranges").unwrap_or_default();
        let (address_cells, size_cells) = (self.node.scope.address_cells, 2);
        core::iter::from_fn(move || {
            loop {
                let (kind, after) = cells(rest, 1)?;
                let (on_pci, after) = cells(after, 2)?;
                let (address, after) = cells(after, address_cells)?;
                let (len, after) = cells(after, size_cells)?;
                rest = after;
                let is_memory = PCI_MEMORY.contains(&(kind as u32 >> 24 & 3));
                if is_memory && on_pci == address {
                    return Some((address, len));
                }
            }
        })
    }

    /// Returns the interrupt line of a device on the first bus, by its pin, 1 to 4. §2.4.3
    pub fn line(&self, device: u8, function: u8, pin: u8) -> Option<InterruptLine> {
        let mask = self.node.property("interrupt-map-mask")?;
        let place = u32::from(device) << 11 | u32::from(function) << 8;
        let (place, pin) = (place & word(mask, 0)?, u32::from(pin) & word(mask, PCI_ADDRESS_CELLS * 4)?);
        let mut rest = self.node.property("interrupt-map")?;
        for _ in 0..MAX_MAPPED {
            let (at, for_pin) = (word(rest, 0)?, word(rest, PCI_ADDRESS_CELLS * 4)?);
            let controller = self.node.tree.by_phandle(word(rest, PCI_ADDRESS_CELLS * 4 + 4)?)?;
            let specifier = rest.get(PCI_ADDRESS_CELLS * 4 + 8..)?;
            let parent_cells = controller.number("#address-cells").unwrap_or(0) as usize;
            let specifier = specifier.get(parent_cells.checked_mul(4)?..)?;
            if (at & word(mask, 0)?, for_pin) == (place, pin) {
                return interrupt(&controller, specifier);
            }
            let len = (controller.number("#interrupt-cells")? as usize).checked_mul(4)?;
            rest = specifier.get(len..)?;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec;
    use std::vec::Vec;

    /// Writes a tree as a device tree compiler does.
    #[derive(Default)]
    struct Writer {
        structure: Vec<u8>,
        strings: Vec<u8>,
        reserved: Vec<(u64, u64)>,
    }

    impl Writer {
        fn word(&mut self, value: u32) {
            self.structure.extend(value.to_be_bytes());
        }

        fn bytes(&mut self, bytes: &[u8]) {
            self.structure.extend(bytes);
            self.structure.resize(self.structure.len().next_multiple_of(4), 0);
        }

        fn node(&mut self, name: &str, inside: impl FnOnce(&mut Self)) {
            self.word(BEGIN_NODE);
            self.bytes(&[name.as_bytes(), &[0]].concat());
            inside(self);
            self.word(END_NODE);
        }

        fn text(&mut self, name: &str, value: &str) {
            self.property(name, &[value.as_bytes(), &[0]].concat());
        }

        fn cells(&mut self, name: &str, value: &[u32]) {
            self.property(name, &value.iter().flat_map(|cell| cell.to_be_bytes()).collect::<Vec<_>>());
        }

        fn property(&mut self, name: &str, value: &[u8]) {
            self.word(PROPERTY);
            self.word(value.len() as u32);
            self.word(self.strings.len() as u32);
            self.strings.extend([name.as_bytes(), &[0]].concat());
            self.bytes(value);
        }

        fn finish(mut self) -> Vec<u8> {
            self.word(9);
            let strings_at = HEADER_LEN + self.structure.len();
            let reserved_at = strings_at + self.strings.len();
            let end = reserved_at + (self.reserved.len() + 1) * 16;
            let header = [
                MAGIC,
                end as u32,
                HEADER_LEN as u32,
                strings_at as u32,
                reserved_at as u32,
                17,
                16,
                0,
                self.strings.len() as u32,
                self.structure.len() as u32,
            ];
            let mut bytes: Vec<u8> = header.iter().flat_map(|word| word.to_be_bytes()).collect();
            bytes.extend(self.structure);
            bytes.extend(self.strings);
            for (address, len) in self.reserved.into_iter().chain([(0, 0)]) {
                bytes.extend([address, len].map(u64::to_be_bytes).concat());
            }
            bytes
        }
    }

    /// What QEMU's machine `virt` declares, in short.
    fn virt() -> Vec<u8> {
        let mut tree = Writer::default();
        tree.node("", |root| {
            root.cells("#address-cells", &[2]);
            root.cells("#size-cells", &[2]);
            root.cells("interrupt-parent", &[0x8002]);
            root.node("chosen", |chosen| chosen.text("bootargs", "list"));
            root.node("intc@8000000", |gic| {
                gic.cells("phandle", &[0x8002]);
                gic.cells("#interrupt-cells", &[3]);
                gic.cells("#address-cells", &[2]);
                gic.node("v2m@8020000", |_| ());
            });
            for (number, address) in [(1u32, 0xa00_0200u32), (0, 0xa00_0000)] {
                root.node("virtio_mmio@a000000", |device| {
                    device.cells("interrupts", &[0, 0x10 + number, 1]);
                    device.cells("reg", &[0, address, 0, 0x200]);
                    device.text("compatible", "virtio,mmio");
                });
            }
            root.node("virtio_mmio@b000000", |device| {
                device.cells("reg", &[0, 0xb00_0000, 0, 0x200]);
                device.text("compatible", "virtio,mmio");
                device.text("status", "disabled");
            });
            root.node("pcie@10000000", |pci| {
                let pin = |device: u32, pin: u32, line| [device << 11, 0, 0, pin, 0x8002, 0, 0, 0, line, 4];
                pci.cells("interrupt-map-mask", &[0x1800, 0, 0, 7]);
                pci.cells("interrupt-map", &[pin(0, 1, 3), pin(0, 2, 4), pin(1, 1, 4)].concat());
                pci.property("compatible", b"pci-host-ecam-generic\0pci\0");
                pci.cells("reg", &[0x40, 0x1000_0000, 0, 0x1000_0000]);
                pci.cells("bus-range", &[0, 255]);
                let io = [0x0100_0000, 0, 0, 0, 0x3eff_0000, 0, 0x1_0000];
                let low = [0x0200_0000, 0, 0x1000_0000, 0, 0x1000_0000, 0, 0x2eff_0000];
                let high = [0x0300_0000, 0x80, 0, 0x80, 0, 0x80, 0];
                let other = [0x0200_0000, 0, 0, 0x90, 0, 0, 0x1000];
                pci.cells("ranges", &[io, low, other, high].concat());
            });
        });
        tree.finish()
    }

    fn line(number: u32, trigger: Trigger) -> Option<InterruptLine> {
        Some(InterruptLine { number, trigger, polarity: Polarity::High })
    }

    #[test]
    fn finds_what_a_virtual_machine_declares() {
        let bytes = virt();
        assert_eq!(DeviceTree::len_of(&bytes), Some(bytes.len()));
        let tree = DeviceTree::parse(&bytes).unwrap();
        let devices: Vec<_> = virtio_mmio_devices(tree).collect();
        let device = |base, number| VirtioMmio::new(base, 0x200, line(number, Trigger::Edge));
        assert_eq!(devices, [device(0xa00_0200, 0x31), device(0xa00_0000, 0x30)]);
        assert_eq!(tree.find("chosen").unwrap().property("bootargs"), Some(&b"list\0"[..]));

        let bridges: Vec<_> = host_bridges(tree).collect();
        let bridge = bridges[0];
        assert_eq!((bridges.len(), bridge.segment, bridge.first, bridge.last), (1, 0, 0, 255));
        assert_eq!(bridge.ecam, 0x40_1000_0000);
        let windows: Vec<_> = bridge.windows().collect();
        assert_eq!(windows, [(0x1000_0000, 0x2eff_0000), (0x80_0000_0000, 0x80_0000_0000)]);
        assert_eq!(bridge.line(0, 0, 2), line(36, Trigger::Level));
        // Four devices on share a row of the map.
        assert_eq!(bridge.line(5, 3, 1), line(36, Trigger::Level));
        assert_eq!((bridge.line(2, 0, 1), bridge.line(0, 0, 4)), (None, None));
    }

    #[test]
    fn configuration_space_that_begins_above_bus_0_is_counted_from_bus_0() {
        let mut tree = Writer::default();
        tree.node("", |root| {
            root.node("pcie@40000000", |pci| {
                pci.text("compatible", "pci-host-ecam-generic");
                pci.cells("reg", &[0, 0x4000_0000, 0x20_0000]);
                pci.cells("bus-range", &[0x10, 0xff]);
                pci.cells("linux,pci-domain", &[3]);
            });
        });
        let bytes = tree.finish();
        let bridge = host_bridges(DeviceTree::parse(&bytes).unwrap()).next().unwrap();
        assert_eq!((bridge.segment, bridge.first, bridge.last, bridge.ecam), (3, 0x10, 0x11, 0x3f00_0000));
    }

    #[test]
    fn devices_on_a_bus_that_translates_addresses_are_left_out() {
        let found = |ranges: Option<&[u32]>, status: &str| {
            let mut tree = Writer::default();
            tree.node("", |root| {
                root.node("bus@1c000000", |bus| {
                    bus.cells("#address-cells", &[2]);
                    bus.cells("#size-cells", &[1]);
                    ranges.into_iter().for_each(|ranges| bus.cells("ranges", ranges));
                    bus.text("status", status);
                    bus.node("virtio@130000", |device| {
                        device.cells("reg", &[0, 0x13_0000, 0x200]);
                        device.text("compatible", "virtio,mmio");
                    });
                });
            });
            virtio_mmio_devices(DeviceTree::parse(&tree.finish()).unwrap()).count()
        };
        assert_eq!((found(Some(&[]), "okay"), found(Some(&[]), "disabled"), found(None, "okay")), (1, 0, 0));
        assert_eq!(found(Some(&[0, 0, 0, 0x1c00_0000, 0x20_0000]), "okay"), 0);
    }

    #[test]
    fn reserved_memory_is_that_of_the_list_and_of_the_nodes() {
        let mut tree =
            Writer { reserved: vec![(0x8000_0000, 0x20_0000), (0x9000_0000, 0)], ..Writer::default() };
        tree.node("", |root| {
            root.node("memory@80000000", |memory| memory.cells("reg", &[0, 0x8000_0000, 0x1000_0000]));
            root.node("reserved-memory", |reserved| {
                reserved.cells("#address-cells", &[1]);
                reserved.cells("#size-cells", &[1]);
                reserved.cells("ranges", &[]);
                reserved.node("firmware@8004000", |one| {
                    one.cells("reg", &[0x8004_0000, 0x2000, 0x8006_0000, 0x1000])
                });
                reserved.node("unused@8008000", |one| {
                    one.cells("reg", &[0x8008_0000, 0x2000]);
                    one.text("status", "disabled");
                });
                reserved.node("pool", |one| one.cells("size", &[0x1000]));
            });
            root.node("device", |device| device.cells("reg", &[0, 0xa000_0000, 0x1000]));
        });
        let bytes = tree.finish();
        let found: Vec<_> = DeviceTree::parse(&bytes).unwrap().reserved().collect();
        let list = [(0x8000_0000, 0x20_0000), (0x9000_0000, 0)];
        assert_eq!(found, [&list[..], &[(0x8004_0000, 0x2000), (0x8006_0000, 0x1000)]].concat());
    }

    #[test]
    fn malformed_trees_declare_nothing_and_end() {
        let whole = virt();
        for end in 0..whole.len() {
            assert!(DeviceTree::parse(&whole[..end]).is_none());
        }
        // Every byte of the structure in turn, and a tree cut off inside with a header that fits.
        for at in HEADER_LEN..whole.len() {
            for value in [0, 1, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                let tree = DeviceTree::parse(&bytes).unwrap();
                let count = virtio_mmio_devices(tree).count() + tree.nodes().count();
                let lines = host_bridges(tree).filter_map(|bridge| bridge.line(31, 7, 4)).count();
                assert!(tree.reserved().count() <= whole.len() / 16);
                let windows: usize = host_bridges(tree).map(|bridge| bridge.windows().count()).sum();
                assert!(count < 20 && lines < 3 && windows < 10);
            }
        }
        let no_cells = |names: &[&str]| {
            let mut tree = Writer::default();
            tree.node("", |root| {
                names.iter().for_each(|name| root.cells(name, &[0]));
                root.node("device", |device| device.cells("reg", &[1, 2, 3]));
            });
            let bytes = tree.finish();
            DeviceTree::parse(&bytes).unwrap().find("device").unwrap().registers().count()
        };
        assert_eq!((no_cells(&["#address-cells", "#size-cells"]), no_cells(&["#size-cells"])), (0, 1));
        let mut deep = Writer::default();
        for _ in 0..40 {
            deep.word(BEGIN_NODE);
            deep.bytes(b"n\0");
        }
        assert_eq!(DeviceTree::parse(&deep.finish()).unwrap().nodes().count(), MAX_DEPTH);
    }
}

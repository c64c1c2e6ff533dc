//! PCI buses: configuration space behind ports 0xCF8 and 0xCFC, as strict as the strictest monitors.

use crate::Guest;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;
/// Registers. PCI 3.0 §6.1
const COMMAND: usize = 0x04;
const HEADER_TYPE: usize = 0x0e;
const BAR0: usize = 0x10;
const BARS: usize = 6;
/// In the command register: the function answers to its memory BARs.
const MEMORY_SPACE: u8 = 2;
/// In the header type: a bridge.
const BRIDGE: u8 = 1;
/// Registers of a bridge. PCI-to-PCI Bridge 1.2 §3.2
const BUS_NUMBERS: usize = 0x18;
const MEMORY_WINDOW: usize = 0x20;
/// The register behind those of what a bridge forwards.
const IO_HIGH: usize = 0x30;
/// The capabilities: where their list begins, and where the models put theirs. PCI 3.0 §6.7
const STATUS_CAPABILITIES: (usize, u8) = (0x06, 0x10);
const CAPABILITIES: usize = 0x34;
const FIRST_CAPABILITY: u8 = 0x40;
/// Registers of a PCI Express slot. PCI Express 6.0 §7.5.3
const SLOT_CONTROL: usize = FIRST_CAPABILITY as usize + 0x18;
const SLOT_STATUS: usize = FIRST_CAPABILITY as usize + 0x1a;
/// In a BAR: it takes addresses of 64 bits, and the next register is its upper half.
const WIDE: u8 = 4;

/// A memory BAR of a function.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum PciBar {
    /// With an address below 4 GiB, and this size in bytes, a power of two from 16 up.
    Narrow(u32),
    /// With any address, and this size.
    Wide(u64),
}

/// A function as it is put on a bus.
#[derive(Clone)]
pub struct PciDevice {
    registers: [u8; 256],
    /// Sizes by register: 0 for the upper half of the one before, and for what is no BAR.
    sizes: [u64; BARS],
    wide: [bool; BARS],
    /// What BAR 0 held whenever a register was written while the function answered to its BARs.
    decoded: Vec<u64>,
}

impl PciDevice {
    /// A function with vendor and device id, base class, and BARs without addresses.
    pub fn new((vendor, device): (u16, u16), class: u8, bars: &[PciBar]) -> Self {
        let mut function =
            Self { registers: [0; 256], sizes: [0; BARS], wide: [false; BARS], decoded: vec![] };
        function.registers[..2].copy_from_slice(&vendor.to_le_bytes());
        function.registers[2..4].copy_from_slice(&device.to_le_bytes());
        function.registers[0xb] = class;
        bars.iter().fold(0, |index, bar| function.put_bar(index, *bar));
        function
    }

    /// Puts a BAR at `index`; returns the index of the next one.
    fn put_bar(&mut self, index: usize, bar: PciBar) -> usize {
        match bar {
            PciBar::Narrow(size) => {
                self.sizes[index] = u64::from(size);
                index + 1
            }
            PciBar::Wide(size) => {
                self.sizes[index] = size;
                self.registers[BAR0 + 4 * index] = WIDE;
                self.wide[index + 1] = true;
                index + 2
            }
        }
    }

    /// The same, with a first BAR.
    pub fn with_bar(mut self, bar: PciBar) -> Self {
        self.put_bar(0, bar);
        self
    }

    /// The same, of a device that has several functions.
    pub fn with_functions(mut self) -> Self {
        self.registers[HEADER_TYPE] = 0x80;
        self
    }

    /// The same, with this address in BAR 0, to which it answers.
    pub fn at(mut self, address: u64) -> Self {
        let low = address as u32 | self.word(BAR0);
        self.registers[BAR0..BAR0 + 4].copy_from_slice(&low.to_le_bytes());
        if self.wide[1] {
            self.registers[BAR0 + 4..BAR0 + 8].copy_from_slice(&((address >> 32) as u32).to_le_bytes());
        }
        self.registers[COMMAND] = MEMORY_SPACE;
        self
    }

    /// A modern virtio device of type `device_type`, whose registers are in BAR 0: the common configuration at its start, then a page each
    /// for doorbells, interrupt status and configuration.
    pub fn virtio(device_type: u16) -> Self {
        let mut device = Self::new((0x1af4, 0x1040 + device_type), 0xff, &[PciBar::Wide(0x4000)]);
        let structure = |kind: u8, page: u32, len: u32| {
            let mut bytes = vec![0x09, 0, 20, kind, 0, 0, 0, 0];
            bytes.extend([page << 12, len, 0].map(u32::to_le_bytes).concat());
            bytes
        };
        device.put_capabilities(&[
            structure(1, 0, 64),
            structure(2, 1, 4),
            structure(3, 2, 1),
            structure(4, 3, 256),
        ]);
        device
    }

    /// A bridge to the buses `secondary` to `subordinate`, which forwards the addresses in `window`, of whole MiB below 4 GiB; an
    /// empty one at 0, and buses 0, where firmware has left that out.
    pub fn bridge(secondary: u8, subordinate: u8, window: core::ops::Range<u64>) -> Self {
        let mut bridge = Self::new((0x1b36, 0x000c), 0x06, &[]);
        bridge.registers[HEADER_TYPE] = BRIDGE;
        bridge.registers[BUS_NUMBERS + 1..BUS_NUMBERS + 3].copy_from_slice(&[secondary, subordinate]);
        let half = |address: u64| ((address >> 16) as u16 & 0xfff0).to_le_bytes();
        bridge.registers[MEMORY_WINDOW..MEMORY_WINDOW + 2].copy_from_slice(&half(window.start));
        bridge.registers[MEMORY_WINDOW + 2..MEMORY_WINDOW + 4]
            .copy_from_slice(&half(window.end.saturating_sub(1)));
        bridge
    }

    /// The same, of a root port with a slot that takes devices while the machine runs.
    pub fn with_slot(mut self) -> Self {
        let mut capability = vec![0; 0x3c];
        // Root port, with a slot.
        (capability[0], capability[2], capability[3]) = (0x10, 0x42, 0x01);
        capability[0x14] = 1 << 6;
        self.put_capabilities(&[capability]);
        self
    }

    /// Sets bits of the slot's status register, and clears others.
    pub fn set_slot(&mut self, set: u16, clear: u16) {
        let status = self.half(SLOT_STATUS) & !clear | set;
        self.registers[SLOT_STATUS..SLOT_STATUS + 2].copy_from_slice(&status.to_le_bytes());
    }

    /// The slot's control register.
    pub fn slot_control(&self) -> u16 {
        self.half(SLOT_CONTROL)
    }

    fn put_capabilities(&mut self, capabilities: &[Vec<u8>]) {
        self.registers[STATUS_CAPABILITIES.0] |= STATUS_CAPABILITIES.1;
        self.registers[CAPABILITIES] = FIRST_CAPABILITY;
        let mut at = usize::from(FIRST_CAPABILITY);
        for (index, capability) in capabilities.iter().enumerate() {
            let next = at + capability.len();
            self.registers[at..next].copy_from_slice(capability);
            self.registers[at + 1] = if index + 1 < capabilities.len() { next as u8 } else { 0 };
            at = next;
        }
    }

    /// The command register.
    pub fn command(&self) -> u16 {
        self.half(COMMAND)
    }

    fn half(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.registers[at], self.registers[at + 1]])
    }

    /// The address in BAR 0.
    pub fn address(&self) -> u64 {
        let high = if self.wide[1] { self.word(BAR0 + 4) } else { 0 };
        u64::from(self.word(BAR0) & !0xf) | u64::from(high) << 32
    }

    /// What BAR 0 held whenever a register was written while the function answered to its BARs.
    pub fn decoded(&self) -> &[u64] {
        &self.decoded
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.registers[at..at + 4].try_into().expect("4 bytes"))
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        let bar = at.checked_sub(BAR0).map(|at| at / 4).filter(|bar| *bar < BARS);
        let is_forwarding =
            self.registers[HEADER_TYPE] & 0x7f == BRIDGE && (BUS_NUMBERS..IO_HIGH).contains(&at);
        match (bar, bytes) {
            (_, &[_, _, _, _]) if is_forwarding => self.registers[at..at + 4].copy_from_slice(bytes),
            (Some(index), &[a, b, c, d]) => {
                let mask = match index.checked_sub(1).filter(|_| self.wide[index]) {
                    Some(low) => (self.sizes[low].wrapping_neg() >> 32) as u32,
                    None if self.sizes[index] == 0 => 0,
                    None => self.sizes[index].wrapping_neg() as u32,
                };
                let fixed = if self.wide[index] { 0 } else { self.word(at) & 0xf };
                let kept = u32::from_le_bytes([a, b, c, d]) & mask | fixed;
                self.registers[at..at + 4].copy_from_slice(&kept.to_le_bytes());
            }
            // Some monitors take the command register in its own width only.
            (_, &[low, high]) if at == COMMAND || at == SLOT_CONTROL => {
                self.registers[at..at + 2].copy_from_slice(&[low, high])
            }
            (_, &[low, high]) if at == SLOT_STATUS => self.set_slot(0, u16::from_le_bytes([low, high])),
            _ => {}
        }
        if self.registers[COMMAND] & MEMORY_SPACE != 0 {
            self.decoded.push(self.address());
        }
    }
}

#[derive(Default)]
struct State {
    /// What was written to the address port last.
    selected: u32,
    /// Reads of configuration space.
    reads: usize,
    /// Functions by bus, device and function number.
    functions: BTreeMap<(u8, u8, u8), PciDevice>,
}

/// The buses of a PCI segment. A handle: clones are the same buses.
#[derive(Clone)]
pub struct PciHost(Arc<Mutex<State>>);

impl PciHost {
    /// Gives `guest` buses without devices.
    pub fn new(guest: &Guest) -> Self {
        let host = Self(Arc::default());
        guest.set_pci(host.clone());
        host
    }

    /// Puts function 0 of device `device`, below 32, on bus 0.
    pub fn add(&self, device: u8, function: PciDevice) {
        self.add_at((0, device, 0), function);
    }

    /// Puts a function at bus, device (below 32) and function (below 8).
    pub fn add_at(&self, at: (u8, u8, u8), function: PciDevice) {
        assert!(at.1 < 32 && at.2 < 8);
        self.0.lock().expect("the buses").functions.insert(at, function);
    }

    /// Takes the functions of a device away.
    pub fn remove(&self, bus: u8, device: u8) {
        let is_other = |at: &(u8, u8, u8), _: &mut PciDevice| (at.0, at.1) != (bus, device);
        self.0.lock().expect("the buses").functions.retain(is_other);
    }

    /// Changes the function at bus, device and function.
    pub fn change(&self, at: (u8, u8, u8), change: impl FnOnce(&mut PciDevice)) {
        change(self.0.lock().expect("the buses").functions.get_mut(&at).expect("the function"));
    }

    /// The function at bus, device and function, as it is now.
    pub fn function(&self, at: (u8, u8, u8)) -> Option<PciDevice> {
        self.0.lock().expect("the buses").functions.get(&at).cloned()
    }

    /// Function 0 of device `device` on bus 0, as it is now.
    pub fn device(&self, device: u8) -> Option<PciDevice> {
        self.function((0, device, 0))
    }

    /// Reads of configuration space so far.
    pub fn reads(&self) -> usize {
        self.0.lock().expect("the buses").reads
    }

    pub(crate) fn read(&self, port: u16) -> u32 {
        let state = &mut *self.0.lock().expect("the buses");
        match port {
            ADDRESS_PORT => state.selected,
            DATA_PORT => {
                state.reads += 1;
                let (place, at) = selected(state.selected);
                let function = place.and_then(|place| state.functions.get(&place));
                function.map_or(u32::MAX, |function| function.word(at))
            }
            _ => u32::MAX,
        }
    }

    pub(crate) fn write(&self, port: u16, bytes: &[u8]) {
        let state = &mut *self.0.lock().expect("the buses");
        match (port, bytes) {
            (ADDRESS_PORT, &[a, b, c, d]) => state.selected = u32::from_le_bytes([a, b, c, d]),
            (DATA_PORT..=0xcff, _) => {
                let (place, at) = selected(state.selected);
                if let Some(function) = place.and_then(|place| state.functions.get_mut(&place)) {
                    function.write(at + usize::from(port - DATA_PORT), bytes);
                }
            }
            _ => {}
        }
    }
}

/// The bus, device and function that an address selects, and the register.
fn selected(address: u32) -> (Option<(u8, u8, u8)>, usize) {
    let [offset, within, bus, enable] = address.to_le_bytes();
    ((enable == 0x80).then_some((bus, within >> 3, within & 7)), usize::from(offset & 0xfc))
}

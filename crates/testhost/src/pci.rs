//! A PCI bus: configuration space behind ports 0xCF8 and 0xCFC, as strict as the strictest monitors.

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
        let mut index = 0;
        for bar in bars {
            match *bar {
                PciBar::Narrow(size) => function.sizes[index] = u64::from(size),
                PciBar::Wide(size) => {
                    function.sizes[index] = size;
                    function.registers[BAR0 + 4 * index] = WIDE;
                    index += 1;
                    function.wide[index] = true;
                }
            }
            index += 1;
        }
        function
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

    /// The command register.
    pub fn command(&self) -> u16 {
        u16::from_le_bytes([self.registers[COMMAND], self.registers[COMMAND + 1]])
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
        match (bar, bytes) {
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
            (_, &[low, high]) if at == COMMAND => self.registers[at..at + 2].copy_from_slice(&[low, high]),
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
    /// Functions by device and function number.
    functions: BTreeMap<(u8, u8), PciDevice>,
}

/// Bus 0 of a PCI segment. A handle: clones are the same bus.
#[derive(Clone)]
pub struct PciHost(Arc<Mutex<State>>);

impl PciHost {
    /// Gives `guest` a bus without devices.
    pub fn new(guest: &Guest) -> Self {
        let host = Self(Arc::default());
        guest.set_pci(host.clone());
        host
    }

    /// Puts function 0 of device `device`, below 32, on the bus.
    pub fn add(&self, device: u8, function: PciDevice) {
        self.add_function(device, 0, function);
    }

    /// Puts function `number`, below 8, of device `device`, below 32, on the bus.
    pub fn add_function(&self, device: u8, number: u8, function: PciDevice) {
        assert!(device < 32 && number < 8);
        self.0.lock().expect("the bus").functions.insert((device, number), function);
    }

    /// Function 0 of device `device`, as it is now.
    pub fn device(&self, device: u8) -> Option<PciDevice> {
        self.0.lock().expect("the bus").functions.get(&(device, 0)).cloned()
    }

    /// Reads of configuration space so far.
    pub fn reads(&self) -> usize {
        self.0.lock().expect("the bus").reads
    }

    pub(crate) fn read(&self, port: u16) -> u32 {
        let state = &mut *self.0.lock().expect("the bus");
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
        let state = &mut *self.0.lock().expect("the bus");
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

/// The device and function that an address selects, and the register; `None` for another bus.
fn selected(address: u32) -> (Option<(u8, u8)>, usize) {
    let [offset, within, bus, enable] = address.to_le_bytes();
    ((enable == 0x80 && bus == 0).then_some((within >> 3, within & 7)), usize::from(offset & 0xfc))
}

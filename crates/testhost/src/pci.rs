//! A PCI bus: configuration space behind ports 0xCF8 and 0xCFC.

use crate::Guest;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;
/// Registers, as indices of words. PCI 3.0 §6.1
const COMMAND: usize = 1;
const BAR0: usize = 4;

struct Function {
    words: [u32; 64],
    /// Size of BAR 0 in bytes, a power of two.
    bar_size: u32,
}

#[derive(Default)]
struct State {
    /// What was written to the address port last.
    address: u32,
    /// Functions by device number.
    functions: BTreeMap<u8, Function>,
}

/// Bus 0 of a PCI segment, with devices of one function and one 32-bit memory BAR. A handle: clones are the same bus.
#[derive(Clone)]
pub struct PciHost(Arc<Mutex<State>>);

impl PciHost {
    /// Gives `guest` a bus without devices.
    pub fn new(guest: &Guest) -> Self {
        let host = Self(Arc::default());
        guest.set_pci(host.clone());
        host
    }

    /// Puts a device on the bus, at number `device`, below 32: its vendor and device id, its base class, and the size of its BAR 0
    /// in bytes, a power of two from 16 up. The BAR has no address.
    pub fn add(&self, device: u8, ids: (u16, u16), class: u8, bar_size: u32) {
        assert!(device < 32 && bar_size >= 16 && bar_size.is_power_of_two());
        let mut words = [0; 64];
        words[0] = u32::from(ids.1) << 16 | u32::from(ids.0);
        words[2] = u32::from(class) << 24;
        self.0.lock().expect("the bus").functions.insert(device, Function { words, bar_size });
    }

    pub(crate) fn read(&self, port: u16) -> u32 {
        let state = self.0.lock().expect("the bus");
        match port {
            ADDRESS_PORT => state.address,
            DATA_PORT => {
                let (device, register) = selected(state.address);
                let function = device.and_then(|device| state.functions.get(&device));
                function.map_or(u32::MAX, |function| function.words[register])
            }
            _ => u32::MAX,
        }
    }

    pub(crate) fn write(&self, port: u16, value: u32) {
        let state = &mut *self.0.lock().expect("the bus");
        match port {
            ADDRESS_PORT => state.address = value,
            DATA_PORT => {
                let (device, register) = selected(state.address);
                let Some(function) = device.and_then(|device| state.functions.get_mut(&device)) else {
                    return;
                };
                match register {
                    COMMAND => function.words[COMMAND] = value & 0xffff,
                    // The address bits below the size are read-only zeroes.
                    BAR0 => function.words[BAR0] = value & !(function.bar_size - 1),
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

/// The device and the register that an address selects; no device where there is none: another bus or function.
fn selected(address: u32) -> (Option<u8>, usize) {
    let is_ours = address >> 31 == 1 && (address >> 8) & 0xff07 == 0;
    (is_ours.then_some((address >> 11) as u8 & 31), (address >> 2) as usize & 63)
}

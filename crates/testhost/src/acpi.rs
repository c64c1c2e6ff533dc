//! ACPI's registers of a PC as QEMU has them: the power button, and hot plug of PCI devices.

use crate::{Guest, PciDevice, PciHost, WeakGuest};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// The system control interrupt.
const SCI: u32 = 9;
/// I/O ports: status and enable registers of PM1 and of the general-purpose events, and the registers of hot plug.
const PM1: u16 = 0x600;
const GPE0: u16 = 0xafe0;
const HOT_PLUG: u16 = 0xae00;
const HOT_PLUG_LEN: u16 = 0x18;
/// Events.
const POWER_BUTTON: u16 = 1 << 8;
const PLUGGED: u16 = 1 << 1;
/// Where the tables are.
const TABLES: u64 = 0xf_0000;
const XSDT: u64 = TABLES + 0x40;
const FADT: u64 = TABLES + 0x100;
const DSDT: u64 = TABLES + 0x200;

/// A pair of status and enable registers, of 16 bits each.
#[derive(Default)]
struct Events {
    status: u16,
    enable: u16,
}

#[derive(Default)]
struct State {
    pm1: Events,
    gpe0: Events,
    /// The selected bus.
    selector: u32,
    /// Devices that were added, and that the host asks for, by selector.
    added: BTreeMap<u32, u32>,
    requested: BTreeMap<u32, u32>,
    /// What each device was like when it was ejected.
    ejected: Vec<PciDevice>,
}

/// ACPI's registers of a PC, with tables that declare them: hot plug on bus 0, and on other buses. A handle.
#[derive(Clone)]
pub struct AcpiHost {
    guest: WeakGuest,
    pci: PciHost,
    /// Numbers of the buses by selector.
    buses: Arc<Vec<u8>>,
    state: Arc<Mutex<State>>,
}

impl AcpiHost {
    /// The physical address of the RSDP.
    pub const RSDP: u64 = TABLES;

    /// Gives `guest` the registers and the tables. Devices come and go on bus 0, and on the buses behind `bridges`, which are devices on
    /// bus 0, with the number of the bus behind each. The host bridge forwards the addresses in `window`, below 4 GiB.
    pub fn new(guest: &Guest, pci: &PciHost, bridges: &[(u8, u8)], window: core::ops::Range<u32>) -> Self {
        let buses = core::iter::once(0).chain(bridges.iter().map(|(_, bus)| *bus)).collect();
        let (guest_side, state) = (guest.downgrade(), Arc::default());
        let host = Self { guest: guest_side, pci: pci.clone(), buses: Arc::new(buses), state };
        guest.set_acpi(host.clone());
        guest.add_registers(TABLES, &tables(&aml(bridges, &window)));
        host
    }

    /// Gives `guest` the tables of a machine without those registers, whose generic event device has its event register at `register`.
    pub fn event_device(guest: &Guest, register: u32) {
        let [a, b, c, d] = register.to_le_bytes();
        let region = [b"\x5b\x80EREG\x00\x0c".as_slice(), &[a, b, c, d, 0x0a, 4]].concat();
        // An edge-triggered interrupt.
        let interrupt = [0x89, 6, 0, 3, 1, SCI as u8, 0, 0, 0, 0x79, 0];
        let body = [b"GED_\x08_HID\x0dACPI0013\0".as_slice(), &template(&interrupt)].concat();
        guest.add_registers(TABLES, &tables(&[region, device(&body)].concat()));
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("ACPI")
    }

    /// Adds a device to the bus of `selector`, and reports it.
    pub fn plug(&self, selector: u32, device: u8, function: PciDevice) {
        self.pci.add_at((self.bus(selector), device, 0), function);
        *self.state().added.entry(selector).or_default() |= 1 << device;
        self.report(|state| state.gpe0.status |= PLUGGED);
    }

    /// Asks for a device on the bus of `selector`.
    pub fn request(&self, selector: u32, device: u8) {
        *self.state().requested.entry(selector).or_default() |= 1 << device;
        self.report(|state| state.gpe0.status |= PLUGGED);
    }

    /// Presses the power button.
    pub fn press(&self) {
        self.report(|state| state.pm1.status |= POWER_BUTTON);
    }

    /// What each device was like when it was ejected.
    pub fn ejected(&self) -> Vec<PciDevice> {
        self.state().ejected.clone()
    }

    /// Sets which events raise the interrupt, of PM1 and of the general-purpose ones, as firmware may have left them.
    pub fn enable(&self, pm1: u16, gpe0: u16) {
        let mut state = self.state();
        (state.pm1.enable, state.gpe0.enable) = (pm1, gpe0);
    }

    /// Which events raise the interrupt: of PM1 and the general-purpose ones.
    pub fn enabled(&self) -> (u16, u16) {
        let state = self.state();
        (state.pm1.enable, state.gpe0.enable)
    }

    fn bus(&self, selector: u32) -> u8 {
        self.buses[selector as usize]
    }

    /// Sets an event, and raises the interrupt if it is on.
    fn report(&self, set: impl FnOnce(&mut State)) {
        let is_raised = {
            let mut state = self.state();
            set(&mut state);
            state.pm1.status & state.pm1.enable != 0 || state.gpe0.status & state.gpe0.enable != 0
        };
        if is_raised {
            self.guest.with(|guest| guest.raise_line(SCI));
        }
    }

    pub(crate) fn read16(&self, port: u16) -> Option<u16> {
        let state = self.state();
        Some(match port {
            PM1 => state.pm1.status,
            GPE0 => state.gpe0.status,
            _ if port == PM1 + 2 => state.pm1.enable,
            _ if port == GPE0 + 2 => state.gpe0.enable,
            _ => return None,
        })
    }

    pub(crate) fn write16(&self, port: u16, value: u16) {
        let mut state = self.state();
        match port {
            PM1 => state.pm1.status &= !value,
            GPE0 => state.gpe0.status &= !value,
            _ if port == PM1 + 2 => state.pm1.enable = value,
            _ if port == GPE0 + 2 => state.gpe0.enable = value,
            _ => {}
        }
    }

    pub(crate) fn read32(&self, port: u16) -> Option<u32> {
        let offset = port.checked_sub(HOT_PLUG).filter(|offset| *offset < HOT_PLUG_LEN)?;
        let mut state = self.state();
        let selector = state.selector;
        Some(match offset {
            // Cleared by reading it.
            0 => state.added.remove(&selector).unwrap_or(0),
            4 => state.requested.get(&selector).copied().unwrap_or(0),
            _ => 0,
        })
    }

    pub(crate) fn write32(&self, port: u16, value: u32) {
        let Some(offset) = port.checked_sub(HOT_PLUG) else { return };
        let mut state = self.state();
        match offset {
            8 => {
                let (selector, device) = (state.selector, value.trailing_zeros() as u8);
                *state.requested.entry(selector).or_default() &= !value;
                let bus = self.bus(selector);
                state.ejected.extend(self.pci.function((bus, device, 0)));
                self.pci.remove(bus, device);
            }
            0x10 => state.selector = value,
            _ => {}
        }
    }
}

fn device(body: &[u8]) -> Vec<u8> {
    let len = body.len() + 3;
    let mut bytes = vec![0x5b, 0x82, 0x80 | (len & 0xf) as u8, (len >> 4) as u8, (len >> 12) as u8];
    bytes.extend(body);
    bytes
}

fn template(resources: &[u8]) -> Vec<u8> {
    let len = resources.len() as u8;
    [b"\x08_CRS\x11".as_slice(), &[len + 3, 0x0a, len], resources].concat()
}

/// The code of the DSDT: a host bridge whose buses have selectors, and the region of the registers.
fn aml(bridges: &[(u8, u8)], window: &core::ops::Range<u32>) -> Vec<u8> {
    let selector = |number: u8| [b"\x08BSEL\x0a".as_slice(), &[number]].concat();
    // Buses 0 to 255, and a window of 32 bits.
    let mut resources = vec![0x88, 0x0d, 0, 2, 0xc, 0, 0, 0, 0, 0, 0xff, 0, 0, 0, 0, 1];
    resources.extend([0x87, 0x17, 0, 0, 0xc, 1]);
    resources.extend(
        [0, window.start, window.end - 1, 0, window.end - window.start].map(u32::to_le_bytes).concat(),
    );
    resources.extend([0x79, 0]);
    let mut root = b"PCI0\x08_HID\x0c\x41\xd0\x0a\x03".to_vec();
    root.extend(template(&resources));
    root.extend(selector(0));
    for (number, (slot, _)) in (1..).zip(bridges) {
        let name = [b"S%02_\x08_ADR\x0c\x00\x00".as_slice(), &[*slot, 0], &selector(number)].concat();
        root.extend(device(&name));
    }
    let region = |name: &[u8], base: u16, len: u8| {
        let [low, high] = base.to_le_bytes();
        [b"\x5b\x80", name, &[1, 0x0b, low, high, 0x0a, len]].concat()
    };
    [region(b"PCST", HOT_PLUG, 8), region(b"BNMR", HOT_PLUG + 0x10, 4), device(&root)].concat()
}

/// The tables, from [`TABLES`] on.
fn tables(aml: &[u8]) -> Vec<u8> {
    let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    let table = |signature: &[u8; 4], body: &[u8]| {
        let mut bytes = vec![0; 36];
        bytes[..4].copy_from_slice(signature);
        bytes[4..8].copy_from_slice(&(36 + body.len() as u32).to_le_bytes());
        bytes.extend(body);
        bytes[9] = sum(&bytes);
        bytes
    };
    let mut fadt = vec![0; 116 - 36];
    let mut put = |at: usize, value: &[u8]| fadt[at - 36..at - 36 + value.len()].copy_from_slice(value);
    put(40, &(DSDT as u32).to_le_bytes());
    put(46, &(SCI as u16).to_le_bytes());
    put(56, &u32::from(PM1).to_le_bytes());
    put(80, &u32::from(GPE0).to_le_bytes());
    put(88, &[4]);
    put(92, &[4]);
    let mut rsdp = vec![0; 36];
    rsdp[..8].copy_from_slice(b"RSD PTR ");
    rsdp[15] = 2;
    rsdp[20] = 36;
    rsdp[24..32].copy_from_slice(&XSDT.to_le_bytes());
    rsdp[8] = sum(&rsdp[..20]);
    rsdp[32] = sum(&rsdp);
    let mut bytes = vec![0; (DSDT - TABLES) as usize];
    let mut put =
        |at: u64, table: &[u8]| bytes[(at - TABLES) as usize..][..table.len()].copy_from_slice(table);
    put(TABLES, &rsdp);
    put(XSDT, &table(b"XSDT", &FADT.to_le_bytes()));
    put(FADT, &table(b"FACP", &fadt));
    bytes.extend(table(b"DSDT", aml));
    bytes.resize(bytes.len().next_multiple_of(0x1000), 0);
    bytes
}

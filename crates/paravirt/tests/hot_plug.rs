//! PCI devices that come and go, over models of ACPI's registers and of hot-plug ports.
#![cfg(feature = "virtio")]

use paravirt::{Address, Device, Event, Firmware, Found, Options, Place, Services, pci, probe};
use paravirt_device::{Agent, Arm, PowerRequest};
use paravirt_platform::{DmaSlice, Instant, Platform};
use paravirt_testhost::{AcpiHost, Guest, PciBar, PciDevice, PciHost};
use std::time::Duration;

/// The addresses that the host bridge forwards: room for four devices.
const WINDOW: core::ops::Range<u64> = 0xc000_0000..0xc001_0000;
/// The length of a device's BAR.
const BAR: u64 = 0x4000;
/// In the common configuration: the device status, of which a device in use has this bit. VIRTIO 1.3 §4.1.4.3
const STATUS: u64 = 20;
const DRIVER_OK: u8 = 4;
const ENTROPY: u16 = 4;
const BUS_MASTER: u16 = 4;
/// In the status register of a slot.
const BUTTON: u16 = 1 << 0;
const PRESENCE_CHANGED: u16 = 1 << 3;
const IS_PRESENT: u16 = 1 << 6;

type Buffer = DmaSlice<Guest>;
type Opened = Device<Guest, Buffer>;

/// Puts registers of virtio devices at `at`: they read as what was written, after a reset as those of a device that is ready.
fn devices_at(guest: &Guest, at: core::ops::Range<u64>) {
    let mut bytes = vec![0; (at.end - at.start) as usize];
    for device in bytes.chunks_exact_mut(BAR as usize) {
        // VERSION_1, and queues of eight entries.
        (device[4], device[24]) = (1, 8);
    }
    guest.add_registers(at.start, &bytes);
}

/// A guest with PCI, and ACPI's registers for the bus and for those behind `bridges`.
fn machine(bridges: &[(u8, u8)], window: core::ops::Range<u64>) -> (Guest, PciHost, AcpiHost) {
    let guest = Guest::with(1, true);
    let pci = PciHost::new(&guest);
    let acpi = AcpiHost::new(&guest, &pci, bridges, window.start as u32..window.end as u32);
    (guest, pci, acpi)
}

/// The kernel: what it found, by address.
struct Kernel {
    services: Services<Guest, Buffer>,
    devices: Vec<(Address, Opened)>,
}

impl Kernel {
    fn boot(guest: &Guest, rsdp: Option<u64>) -> Self {
        let mut devices = vec![];
        let mut found = |found: Found<_, _>| devices.push((found.address, found.device));
        // SAFETY: the tables describe the models, which nothing else uses.
        let services = unsafe { probe(guest, &Firmware::new(rsdp), &Options::default(), &mut found) };
        Self { services, devices }
    }

    /// Polls; what was found is kept, and `removed` gets what is gone.
    fn poll_with(&mut self, mut removed: impl FnMut(Address, &mut Vec<(Address, Opened)>)) -> Vec<Address> {
        let (mut gone, devices) = (vec![], &mut self.devices);
        self.services.poll(&mut |event| match event {
            Event::Found(found) => devices.push((found.address, found.device)),
            Event::Removed(address) => {
                gone.push(address);
                removed(address, devices);
            }
            _ => {}
        });
        gone
    }

    /// Polls, and drops what is gone at once.
    fn poll(&mut self) -> Vec<Address> {
        self.poll_with(|address, devices| devices.retain(|(at, _)| *at != address))
    }

    fn entropy(&self) -> Vec<Address> {
        let is_open = |device: &Opened| matches!(device, Device::Entropy(_));
        self.devices.iter().filter(|(_, device)| is_open(device)).map(|(at, _)| *at).collect()
    }
}

fn at(bus: u8, device: u8, function: u8) -> Address {
    Place::Pci(pci::Address { segment: 0, bus, device, function }).into()
}

/// The address of a device's registers.
fn address(pci: &PciHost, at: (u8, u8, u8)) -> u64 {
    pci.function(at).expect("the device").address()
}

#[test]
fn a_device_that_is_kept_after_its_removal_does_not_act_on_the_next_one() {
    let (guest, pci, acpi) = machine(&[], WINDOW);
    devices_at(&guest, WINDOW);
    pci.add(3, PciDevice::virtio(ENTROPY));
    let mut kernel = Kernel::boot(&guest, Some(AcpiHost::RSDP));
    assert_eq!(kernel.entropy(), [at(0, 3, 0)]);
    let old = address(&pci, (0, 3, 0));

    acpi.request(0, 3);
    assert_eq!(kernel.poll_with(|_, _| ()), [at(0, 3, 0)]);
    assert!(pci.device(3).is_none());
    assert_eq!(acpi.ejected()[0].command() & BUS_MASTER, 0, "its memory may be freed once it was ejected");
    let kept = kernel.devices.remove(0);

    // The host puts the next one where the first was.
    acpi.plug(0, 3, PciDevice::virtio(ENTROPY).at(old));
    kernel.poll();
    assert_eq!(kernel.entropy(), [at(0, 3, 0)]);
    let before = (guest.register(old + STATUS), pci.device(3).expect("the device").command());
    assert!(before.0 & DRIVER_OK != 0 && before.1 & BUS_MASTER != 0);
    drop(kept);
    assert_eq!((guest.register(old + STATUS), pci.device(3).expect("the device").command()), before);
    // The address of the first is that of the second.
    acpi.plug(0, 4, PciDevice::virtio(ENTROPY));
    kernel.poll();
    assert_eq!(kernel.entropy(), [at(0, 3, 0), at(0, 4, 0)]);
    assert_ne!(address(&pci, (0, 4, 0)), old);
    drop(kernel);
    assert_eq!((guest.register(old + STATUS), guest.pages()), (0, 0));
}

#[test]
fn an_address_is_not_given_to_another_device_until_its_owner_has_dropped_the_first() {
    let (guest, pci, acpi) = machine(&[], WINDOW);
    devices_at(&guest, WINDOW);
    let mut kernel = Kernel::boot(&guest, Some(AcpiHost::RSDP));
    acpi.plug(0, 3, PciDevice::virtio(ENTROPY));
    kernel.poll();
    let first = address(&pci, (0, 3, 0));
    acpi.request(0, 3);
    kernel.poll_with(|_, _| ());
    acpi.plug(0, 3, PciDevice::virtio(ENTROPY));
    kernel.poll();
    assert_eq!(kernel.entropy().len(), 2);
    assert_ne!(address(&pci, (0, 3, 0)), first);

    // More devices come and go than there are addresses, some with an address that the host has chosen.
    kernel.devices.clear();
    for turn in 0..40 {
        acpi.request(0, 3);
        kernel.poll();
        let device = PciDevice::virtio(ENTROPY);
        let device = if turn % 3 == 0 { device.at(WINDOW.start + BAR) } else { device };
        acpi.plug(0, 3, device);
        acpi.plug(0, 4, PciDevice::virtio(ENTROPY));
        kernel.poll();
        assert_eq!(kernel.entropy(), [at(0, 3, 0), at(0, 4, 0)], "in turn {turn}");
        assert_ne!(address(&pci, (0, 3, 0)), address(&pci, (0, 4, 0)), "in turn {turn}");
        acpi.request(0, 4);
        kernel.poll();
    }
}

/// A device that answers for all its functions gave its addresses back eight times.
#[test]
fn a_removed_device_gives_its_addresses_back_once() {
    let (guest, pci, acpi) = machine(&[], WINDOW);
    devices_at(&guest, WINDOW);
    let mut kernel = Kernel::boot(&guest, Some(AcpiHost::RSDP));
    acpi.plug(0, 3, PciDevice::virtio(ENTROPY));
    kernel.poll();
    for function in 1..8 {
        pci.add_at((0, 3, function), pci.device(3).expect("the device"));
    }
    acpi.request(0, 3);
    assert_eq!(kernel.poll(), [at(0, 3, 0)], "the device has one function");
    for device in 4..8 {
        acpi.plug(0, device, PciDevice::virtio(ENTROPY));
    }
    kernel.poll();
    let mut all: Vec<u64> = (4..8).map(|device| address(&pci, (0, device, 0))).collect();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3].map(|index| WINDOW.start + index * BAR));
}

#[test]
fn behind_a_bridge_only_addresses_count_that_firmware_declares() {
    let window = 0xc000_0000..0xc020_0000;
    let (guest, pci, acpi) = machine(&[(1, 1), (2, 2)], window.clone());
    devices_at(&guest, window);
    // The kernel's memory, which the platform of this test would map.
    devices_at(&guest, 0x4000_0000..0x4000_4000);
    // One that forwards what is declared, and one whose registers the host has set to what is not.
    pci.add(1, PciDevice::bridge(1, 1, 0xc010_0000..0xc020_0000));
    pci.add(2, PciDevice::bridge(2, 2, 0x4000_0000..0x4010_0000));
    let mut kernel = Kernel::boot(&guest, Some(AcpiHost::RSDP));
    acpi.plug(1, 3, PciDevice::virtio(ENTROPY));
    acpi.plug(2, 3, PciDevice::virtio(ENTROPY));
    acpi.plug(2, 4, PciDevice::virtio(ENTROPY).at(0x4000_0000));
    kernel.poll();
    assert_eq!(kernel.entropy(), [at(1, 3, 0)]);
    assert_eq!(address(&pci, (1, 3, 0)), 0xc010_0000);
    assert_eq!(address(&pci, (2, 3, 0)), 0);
}

/// Where devices were at boot, those added next to them have addresses too, and not theirs.
#[test]
fn a_bus_that_was_not_empty_has_room_for_more() {
    let window = 0xc000_0000..0xc020_0000;
    let (guest, pci, acpi) = machine(&[(1, 1)], window.clone());
    devices_at(&guest, window);
    pci.add(1, PciDevice::bridge(1, 1, 0xc010_0000..0xc020_0000));
    pci.add_at((1, 0, 0), PciDevice::virtio(ENTROPY).at(0xc010_0000));
    let mut kernel = Kernel::boot(&guest, Some(AcpiHost::RSDP));
    acpi.plug(1, 3, PciDevice::virtio(ENTROPY));
    kernel.poll();
    assert_eq!(kernel.entropy(), [at(1, 0, 0), at(1, 3, 0)]);
    assert_eq!(address(&pci, (1, 3, 0)), 0xc010_4000);
    // What was there from the start gives its address back too.
    acpi.request(1, 0);
    assert_eq!(kernel.poll(), [at(1, 0, 0)]);
    acpi.plug(1, 4, PciDevice::virtio(ENTROPY).at(0xc010_0000));
    kernel.poll();
    assert_eq!(kernel.entropy(), [at(1, 3, 0), at(1, 4, 0)]);
}

#[test]
fn every_function_and_what_is_behind_a_bridge_is_reported_as_removed() {
    let window = 0xc000_0000..0xc020_0000;
    let (guest, pci, acpi) = machine(&[(1, 1)], window.clone());
    devices_at(&guest, window);
    pci.add(1, PciDevice::bridge(1, 2, 0xc010_0000..0xc020_0000));
    pci.add_at((1, 0, 0), PciDevice::virtio(ENTROPY).at(0xc010_0000).with_functions());
    pci.add_at((1, 0, 1), PciDevice::virtio(ENTROPY).at(0xc010_4000));
    pci.add_at((1, 5, 0), PciDevice::bridge(2, 2, 0xc018_0000..0xc020_0000));
    pci.add_at((2, 0, 0), PciDevice::virtio(ENTROPY).at(0xc018_0000));
    let mut kernel = Kernel::boot(&guest, Some(AcpiHost::RSDP));
    assert_eq!(kernel.entropy(), [at(1, 0, 0), at(1, 0, 1), at(2, 0, 0)]);
    acpi.request(0, 1);
    let removed = kernel.poll();
    assert_eq!(removed, [at(2, 0, 0), at(1, 0, 0), at(1, 0, 1), at(1, 5, 0), at(0, 1, 0)]);
    assert!(kernel.devices.is_empty() && pci.device(1).is_none());
}

#[test]
fn a_bridge_has_addresses_of_its_own_and_gives_back_those_that_it_forwards() {
    let window = 0xc000_0000..0xc040_0000;
    let (guest, pci, acpi) = machine(&[(1, 1)], window.clone());
    devices_at(&guest, window);
    pci.add(1, PciDevice::bridge(1, 2, 0xc010_0000..0xc030_0000));
    // It forwards the first half of what the bridge above forwards, and has its own registers right after.
    let inner =
        || PciDevice::bridge(2, 2, 0xc010_0000..0xc020_0000).with_bar(PciBar::Wide(0x1000)).at(0xc020_0000);
    pci.add_at((1, 0, 0), inner());
    let mut kernel = Kernel::boot(&guest, Some(AcpiHost::RSDP));
    acpi.plug(1, 3, PciDevice::virtio(ENTROPY));
    kernel.poll();
    assert_eq!(address(&pci, (1, 3, 0)), 0xc020_4000);
    acpi.request(1, 0);
    kernel.poll();
    acpi.plug(1, 4, PciDevice::virtio(ENTROPY));
    kernel.poll();
    assert_eq!(kernel.entropy(), [at(1, 3, 0), at(1, 4, 0)]);
}

/// Of more functions than are recorded, some may be behind the bridge that the host asks for.
#[test]
fn nothing_is_given_back_while_there_are_drivers_that_are_not_known() {
    let window = 0xc000_0000..0xc040_0000;
    let (guest, pci, acpi) = machine(&[(1, 1)], window.clone());
    devices_at(&guest, window);
    pci.add(1, PciDevice::bridge(1, 1, 0xc010_0000..0xc020_0000));
    for place in 16..255u8 {
        pci.add_at((0, place >> 3, place & 7), PciDevice::new((0x8086, 1), 6, &[]).with_functions());
    }
    for device in 0..30 {
        let registers = 0xc010_0000 + u64::from(device) * BAR;
        pci.add_at((1, device, 0), PciDevice::virtio(ENTROPY).at(registers));
    }
    let mut kernel = Kernel::boot(&guest, Some(AcpiHost::RSDP));
    assert_eq!(kernel.entropy().len(), 30);
    acpi.request(0, 1);
    assert_eq!((kernel.poll(), acpi.ejected().len()), (vec![], 0));
}

/// A machine with a port on which a device of `functions` is at boot.
fn port(functions: u8) -> (Guest, PciHost, Kernel) {
    let guest = Guest::with(1, true);
    let pci = PciHost::new(&guest);
    devices_at(&guest, 0xc010_0000..0xc014_0000);
    let mut port = PciDevice::bridge(1, 1, 0xc010_0000..0xc020_0000).with_slot();
    port.set_slot(if functions > 0 { IS_PRESENT | PRESENCE_CHANGED } else { 0 }, 0);
    pci.add(1, port);
    (0..functions).for_each(|number| pci.add_at((1, 0, number), port_device(number)));
    let kernel = Kernel::boot(&guest, None);
    assert_eq!(kernel.entropy().len(), usize::from(functions));
    (guest, pci, kernel)
}

#[test]
fn a_request_from_before_the_boot_is_kept() {
    let guest = Guest::with(1, true);
    let pci = PciHost::new(&guest);
    devices_at(&guest, 0xc010_0000..0xc014_0000);
    let mut port = PciDevice::bridge(1, 1, 0xc010_0000..0xc020_0000).with_slot();
    port.set_slot(IS_PRESENT | BUTTON, 0);
    pci.add(1, port);
    pci.add_at((1, 0, 0), port_device(0));
    let mut kernel = Kernel::boot(&guest, None);
    assert_eq!(look(&guest, &mut kernel), [at(1, 0, 0)]);
}

fn port_device(number: u8) -> PciDevice {
    PciDevice::virtio(ENTROPY).at(0xc010_0000 + u64::from(number) * BAR).with_functions()
}

fn look(guest: &Guest, kernel: &mut Kernel) -> Vec<Address> {
    assert!(kernel.services.next_deadline() <= guest.now().saturating_add(Duration::from_secs(1)));
    guest.turn(Duration::from_secs(1));
    kernel.poll()
}

#[test]
fn a_device_that_goes_from_a_port_without_a_word_is_reported_with_all_its_functions() {
    let (guest, pci, mut kernel) = port(3);
    assert_eq!(look(&guest, &mut kernel), []);
    pci.remove(1, 0);
    pci.change((0, 1, 0), |port| port.set_slot(PRESENCE_CHANGED, IS_PRESENT));
    assert_eq!(look(&guest, &mut kernel), [at(1, 0, 0), at(1, 0, 1), at(1, 0, 2)]);
}

#[test]
fn a_device_may_take_its_time_at_a_port_and_be_replaced_between_two_looks() {
    let (guest, pci, mut kernel) = port(0);
    pci.change((0, 1, 0), |port| port.set_slot(IS_PRESENT | PRESENCE_CHANGED, 0));
    for _ in 0..5 {
        assert_eq!(look(&guest, &mut kernel), []);
        assert_eq!(kernel.entropy(), []);
    }
    pci.add_at((1, 0, 0), port_device(0));
    look(&guest, &mut kernel);
    assert_eq!(kernel.entropy(), [at(1, 0, 0)]);

    pci.add_at((1, 0, 0), port_device(1));
    pci.change((0, 1, 0), |port| port.set_slot(PRESENCE_CHANGED, 0));
    assert_eq!(look(&guest, &mut kernel), [at(1, 0, 0)]);
    assert_eq!(kernel.entropy(), [at(1, 0, 0)]);

    // A device that the host asked for, and leaves in the slot, is not started again.
    pci.change((0, 1, 0), |port| port.set_slot(BUTTON, 0));
    assert_eq!(look(&guest, &mut kernel), [at(1, 0, 0)]);
    assert!(pci.device(1).expect("the port").slot_control() & 1 << 10 != 0, "the slot is powered off");
    for _ in 0..3 {
        look(&guest, &mut kernel);
        assert_eq!(kernel.entropy(), []);
    }
}

struct Requests(usize);

impl Agent for Requests {
    fn power(&mut self, _request: PowerRequest, _is_forced: bool) -> bool {
        self.0 += 1;
        true
    }
}

#[test]
fn the_power_button_is_work_for_a_kernel_that_asks_for_requests() {
    let (guest, _pci, acpi) = machine(&[], WINDOW);
    // As firmware or an earlier kernel left them: nothing would clear those that have no handler.
    acpi.enable(0xffff, 0xffff);
    // What was pressed before this boot is no request.
    acpi.press();
    let mut kernel = Kernel::boot(&guest, Some(AcpiHost::RSDP));
    assert_eq!(acpi.enabled(), (1 << 8, 1 << 1));
    acpi.press();
    assert_eq!(kernel.services.arm(), Arm::Armed, "nobody asks for requests");
    let mut requests = Requests(0);
    kernel.services.serve(&mut requests);
    assert_eq!((requests.0, kernel.services.arm()), (1, Arm::Armed));
    acpi.press();
    assert_eq!(kernel.services.arm(), Arm::Pending);
    kernel.services.serve(&mut requests);
    assert_eq!((requests.0, kernel.services.arm()), (2, Arm::Armed));
    drop(kernel);
    assert_eq!(acpi.enabled(), (0, 0));
}

/// The interrupt of an event device is an edge: one that came before it was bound does not come again.
#[test]
fn an_event_that_an_event_device_reported_before_the_boot_is_not_lost() {
    let guest = Guest::with(1, true);
    guest.add_registers(0xfea0_0000, &[2, 0, 0, 0, 0, 0, 0, 0]);
    AcpiHost::event_device(&guest, 0xfea0_0000);
    let mut kernel = Kernel::boot(&guest, Some(AcpiHost::RSDP));
    let mut requests = Requests(0);
    kernel.services.serve(&mut requests);
    assert_eq!(requests.0, 1);
}

/// Ports of which ACPI's registers report the changes are not looked at besides.
#[test]
fn a_machine_whose_changes_are_all_signalled_is_not_looked_at_every_second() {
    let (guest, pci, _acpi) = machine(&[(1, 1)], 0xc000_0000..0xc020_0000);
    pci.add(1, PciDevice::bridge(1, 1, 0xc010_0000..0xc020_0000).with_slot());
    let kernel = Kernel::boot(&guest, Some(AcpiHost::RSDP));
    assert_eq!(kernel.services.next_deadline(), Instant::NEVER);
}

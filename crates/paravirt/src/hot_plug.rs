//! PCI devices that are added and removed while the machine runs, by ACPI's registers or by hot-plug ports.

use crate::acpi_events::{AcpiEvents, HOT_PLUG};
use crate::controllers::Controllers;
use crate::firmware::Root;
use crate::virtio::Opener;
use crate::{Event, Firmware, Physical, Place, acpi_tables, with_table};
use core::ops::ControlFlow;
use core::task::Waker;
use core::time::Duration;
use paravirt_device::Arm;
use paravirt_firmware::aml::{self, HotPlugBus, Space};
use paravirt_pci::{
    AcpiHotPlug, Address, Bar, Bars, ConfigAccess, HotPlugPort, PciFunction, PciSlot, PortEvent, SlotChanges,
    Windows, enumerate_device, forwarded, secondary_bus,
};
use paravirt_platform::{DmaBuffer, Instant, PageTable, Platform};

/// Maximum number of buses with hot plug; the devices of others are found by another probe.
const MAX_BUSES: usize = 64;
/// How often ports, and events without an interrupt, are looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// Offsets of the selector in the registers of QEMU and of Cloud Hypervisor.
const QEMU_SELECT: u16 = 0x10;
const CLOUD_HYPERVISOR_SELECT: u16 = 0xc;

/// How the host reports changes of a bus.
enum Control<P: Platform> {
    /// By ACPI's registers, with this selector.
    Acpi(u32),
    /// By the port above the bus, which has one device.
    Port(HotPlugPort<P>),
}

/// A bus with hot plug.
struct Bus<P: Platform> {
    access: ConfigAccess<P>,
    number: u8,
    control: Control<P>,
    /// The devices that were opened, a bit each.
    devices: u32,
    /// The addresses that the bridge above forwards.
    declared: Windows,
    /// Those that no device has.
    unused: Windows,
}

impl<P: Platform> Bus<P> {
    fn function(&self, device: u8, function: u8) -> PciFunction<P> {
        let (segment, bus) = (self.access.segment(), self.number);
        PciFunction::new(&self.access, Address { segment, bus, device, function })
    }

    /// Returns what has changed since the last call.
    fn take(&mut self, platform: &P, registers: Option<&mut AcpiHotPlug<P>>) -> SlotChanges {
        let mut changes = SlotChanges::default();
        let first = self.function(0, 0);
        match &mut self.control {
            Control::Acpi(selector) => registers.map_or(changes, |registers| registers.take(*selector)),
            Control::Port(port) => {
                match port.take(platform, || first.is_present()) {
                    Some(PortEvent::Added) => changes.added = 1,
                    Some(PortEvent::Requested | PortEvent::Removed) => changes.requested = 1,
                    _ => {}
                }
                changes
            }
        }
    }
}

/// Buses that devices are added to and removed from.
pub(crate) struct HotPlug<P: Platform> {
    platform: P,
    pub opener: Opener,
    events: Option<AcpiEvents<P>>,
    registers: Option<AcpiHotPlug<P>>,
    /// `None` if there was no memory for it.
    buses: Option<PageTable<P, Option<Bus<P>>>>,
    has_ports: bool,
    next_look: Instant,
}

impl<P: Platform> HotPlug<P> {
    /// Switches the host's events on, before the buses are enumerated, so that no change is missed.
    pub fn open(platform: &P, memory: &Physical<'_, P>, firmware: &Firmware<'_>, opener: Opener) -> Self {
        let buses = PageTable::new(platform, MAX_BUSES, |_| None).ok();
        let mut this = Self {
            platform: platform.clone(),
            opener,
            events: None,
            registers: None,
            buses,
            has_ports: false,
            next_look: Instant::ZERO,
        };
        if opener.options.host_events {
            this.events = AcpiEvents::open(platform, memory, firmware);
        }
        this
    }

    /// Adds the buses with hot plug among those behind `roots`, whose devices were enumerated. `is_open` returns whether the device at an
    /// address was found then.
    pub fn add_buses(
        &mut self,
        memory: &Physical<'_, P>,
        firmware: &Firmware<'_>,
        roots: &mut dyn Iterator<Item = Root<P>>,
        is_open: &dyn Fn(Address) -> bool,
    ) {
        if !self.opener.options.host_events {
            return;
        }
        for root in roots {
            acpi_tables(memory, firmware.rsdp, |table| {
                if matches!(&table.signature, b"DSDT" | b"SSDT") {
                    // What cannot be read declares nothing.
                    let _ = with_table(memory, &table, |bytes| self.add_acpi(bytes, &root, is_open));
                }
                ControlFlow::Continue(())
            });
            self.add_ports(&root, is_open);
        }
    }

    /// Adds the buses behind `root` that this AML declares.
    fn add_acpi(&mut self, bytes: &[u8], root: &Root<P>, is_open: &dyn Fn(Address) -> bool) {
        let Some(region) = aml::region(bytes, b"PCST") else { return };
        let is_qemu = aml::region(bytes, b"BNMR").is_some();
        let select = if is_qemu { QEMU_SELECT } else { CLOUD_HYPERVISOR_SELECT };
        if self.registers.is_none() {
            self.registers = match (region.space, u16::try_from(region.base)) {
                // SAFETY: AML declares the registers there, and only its own code, which nothing runs, uses them.
                (Space::Io, Ok(port)) => Some(unsafe { AcpiHotPlug::ports(&self.platform, port, select) }),
                (Space::Io, Err(_)) => None,
                // SAFETY: as above.
                _ => unsafe { AcpiHotPlug::memory(&self.platform, region.base, select) }.ok(),
            };
        }
        if !is_qemu {
            let selector = u32::from(root.access.segment());
            return self.add(root, root.first, Control::Acpi(selector), None, is_open);
        }
        for bus in aml::hot_plug_buses(bytes) {
            if root.access.segment() == 0 && root.first == 0 {
                self.add_selected(&bus, root, is_open);
            }
        }
    }

    fn add_selected(&mut self, bus: &HotPlugBus, root: &Root<P>, is_open: &dyn Fn(Address) -> bool) {
        let (mut number, mut bridge) = (root.first, None);
        for (device, function) in bus.bridges() {
            let at = Address { segment: root.access.segment(), bus: number, device, function };
            let Some(secondary) = secondary_bus(&root.access, at) else { return };
            (number, bridge) = (secondary, Some(at));
        }
        self.add(root, number, Control::Acpi(bus.selector), bridge, is_open);
    }

    /// Adds the buses of the hot-plug ports on the root bus.
    fn add_ports(&mut self, root: &Root<P>, is_open: &dyn Fn(Address) -> bool) {
        let segment = root.access.segment();
        for place in 0..=u8::MAX {
            let at = Address { segment, bus: root.first, device: place >> 3, function: place & 7 };
            if !is_open(at) {
                continue;
            }
            let Some(secondary) = secondary_bus(&root.access, at) else { continue };
            let Some(port) = HotPlugPort::find(&PciFunction::new(&root.access, at)) else { continue };
            self.has_ports = true;
            self.add(root, secondary, Control::Port(port), Some(at), is_open);
        }
    }

    /// Adds a bus, unless it was added. `bridge` is the bridge above it; `None` for the bus of the host bridge.
    fn add(
        &mut self,
        root: &Root<P>,
        number: u8,
        mut control: Control<P>,
        bridge: Option<Address>,
        is_open: &dyn Fn(Address) -> bool,
    ) {
        let segment = root.access.segment();
        let Some(buses) = &mut self.buses else { return };
        let is_known = |bus: &Bus<P>| (bus.access.segment(), bus.number) == (segment, number);
        if buses.iter().flatten().any(is_known) {
            return;
        }
        let Some(free) = buses.iter_mut().find(|bus| bus.is_none()) else {
            return log::warn!(
                "pci: more than {MAX_BUSES} buses with hot plug: bus {number:02x} is not watched"
            );
        };
        let is_found = |device: &u8| is_open(Address { segment, bus: number, device: *device, function: 0 });
        let devices = (0..32u8).filter(is_found).fold(0, |devices, device| devices | 1u32 << device);
        let (declared, unused) = match bridge {
            None => (root.declared.clone(), root.unused.clone()),
            Some(at) => {
                let forwarded = forwarded(&root.access, at);
                // What devices behind a bridge use is not known: only an empty bus has room.
                let unused = if devices == 0 { forwarded.clone() } else { Windows::new() };
                (forwarded, unused)
            }
        };
        if let Control::Port(port) = &mut control {
            port.set_occupied(devices != 0);
        }
        *free = Some(Bus { access: root.access.clone(), number, control, devices, declared, unused });
    }

    /// Returns whether the power button was pressed since the last call.
    pub fn take_power_button(&mut self) -> bool {
        self.events.as_ref().is_some_and(|events| events.take(crate::acpi_events::POWER_BUTTON))
    }

    /// Opens devices that were added, and passes each to `each`; reports removed ones, and gives back those that the host asks for.
    pub fn poll<B: DmaBuffer>(
        &mut self,
        controllers: &mut Controllers<P, B>,
        each: &mut dyn FnMut(Event<P, B>),
    ) {
        let now = self.platform.now();
        let is_due = self.has_to_look() && now >= self.next_look;
        let has_event = self.events.as_ref().is_some_and(|events| events.take(HOT_PLUG));
        if !has_event && !is_due {
            return;
        }
        self.next_look = now.saturating_add(INTERVAL);
        let Self { platform, opener, registers, buses, .. } = self;
        // A device that the host asks for and one that it adds may have the same number: removals first.
        for bus in buses.iter_mut().flat_map(|buses| buses.iter_mut()).flatten() {
            let SlotChanges { added, requested, .. } = bus.take(platform, registers.as_mut());
            for device in (0..32u8).filter(|device| requested & 1 << device != 0) {
                remove(bus, device, registers.as_mut(), controllers, each);
            }
            let added = added & !bus.devices;
            for device in (0..32u8).filter(|device| added & 1 << device != 0) {
                add(platform, opener, bus, device, controllers, each);
            }
        }
    }

    /// Whether the registers have to be looked at though no interrupt came.
    fn has_to_look(&self) -> bool {
        let is_signalled = self.events.as_ref().is_none_or(AcpiEvents::is_signalled);
        self.has_ports || !is_signalled
    }

    /// Returns by when [`poll`](Self::poll) is to be called though no interrupt came.
    pub fn next_deadline(&self) -> Instant {
        if self.has_to_look() { self.next_look } else { Instant::NEVER }
    }

    pub fn register(&mut self, waker: &Waker) {
        self.events.iter().for_each(|events| events.register(waker));
    }

    pub fn arm(&self) -> Arm {
        if self.events.as_ref().is_some_and(AcpiEvents::is_pending) { Arm::Pending } else { Arm::Armed }
    }
}

/// Opens the functions of a device that was added.
fn add<P: Platform, B: DmaBuffer>(
    platform: &P,
    opener: &Opener,
    bus: &mut Bus<P>,
    device: u8,
    controllers: &mut Controllers<P, B>,
    each: &mut dyn FnMut(Event<P, B>),
) {
    if !bus.function(device, 0).is_present() {
        return;
    }
    bus.devices |= 1 << device;
    let visit = |slot: PciSlot<P>| {
        // SAFETY: by the contract of `probe`, no other driver uses the devices; the device was not open.
        unsafe { opener.open_slot(platform, &slot, controllers, &mut |found| each(Event::Found(found))) };
    };
    let Bus { access, number, declared, unused, .. } = bus;
    // SAFETY: the bridge forwards the addresses, and `unused` has those that no device has; the device was added and has no driver.
    unsafe { enumerate_device(access, *number, device, declared, unused, Opener::is_driven, visit) };
}

/// Reports the functions of a device as removed, and gives it back to the host.
fn remove<P: Platform, B: DmaBuffer>(
    bus: &mut Bus<P>,
    device: u8,
    registers: Option<&mut AcpiHotPlug<P>>,
    controllers: &mut Controllers<P, B>,
    each: &mut dyn FnMut(Event<P, B>),
) {
    if bus.devices & 1 << device != 0 {
        for function in 0..8 {
            let function = bus.function(device, function);
            // A device that is gone without a request is not there to ask.
            if function.is_present() || function.address().function == 0 {
                let place = Place::Pci(function.address());
                controllers.remove(place);
                each(Event::Removed(place.into()));
                release(&function, &mut bus.unused);
            }
        }
        bus.devices &= !(1 << device);
    }
    match (&mut bus.control, registers) {
        (Control::Acpi(selector), Some(registers)) => registers.eject(*selector, device),
        (Control::Port(port), _) => port.power_off(),
        _ => {}
    }
}

/// Takes the addresses of a function that is about to go.
fn release<P: Platform>(function: &PciFunction<P>, unused: &mut Windows) {
    if !function.is_present() {
        return;
    }
    // SAFETY: its driver was told to let go of it, and reads all ones from now on.
    let bars = unsafe { Bars::read(function) };
    for (_, bar) in bars.iter() {
        if let Bar::Memory { address, size, .. } = bar {
            if address != 0 {
                unused.release(address, size);
            }
        }
    }
}

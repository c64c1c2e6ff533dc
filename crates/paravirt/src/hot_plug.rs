//! PCI devices that are added and removed while the machine runs, by ACPI's registers or by hot-plug ports.

use crate::acpi_events::{AcpiEvents, HOT_PLUG, POWER_BUTTON};
use crate::controllers::Controllers;
use crate::firmware::{List, Root};
use crate::functions::Functions;
use crate::opener::Opener;
use crate::{Event, Firmware, Physical, Place, with_table};
use core::ops::ControlFlow;
use core::task::Waker;
use core::time::Duration;
use paravirt_device::Arm;
use paravirt_firmware::aml::{self, HotPlugBus, Space};
use paravirt_pci::{
    AcpiHotPlug, Address, ConfigAccess, HotPlugPort, PciFunction, PciSlot, PortEvent, Windows, buses_behind,
    enumerate_device, forwarded,
};
use paravirt_platform::{AllocError, DmaBuffer, Instant, PageBox, PageTable, Platform};

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

/// What has changed on a bus: a bit for each device.
#[derive(Copy, Clone, Default)]
struct Changes {
    added: u32,
    /// The host asks for them.
    requested: u32,
    /// They are gone.
    removed: u32,
}

/// A bus with hot plug.
struct Bus<P: Platform> {
    access: ConfigAccess<P>,
    number: u8,
    control: Control<P>,
    /// The addresses that the host bridge forwards.
    declared: Windows,
    /// Those that the bridges above forward to this bus, and no device has.
    unused: Windows,
}

impl<P: Platform> Bus<P> {
    fn at(&self, device: u8) -> Address {
        Address { segment: self.access.segment(), bus: self.number, device, function: 0 }
    }

    fn is_at(&self, segment: u16, number: u8) -> bool {
        (self.access.segment(), self.number) == (segment, number)
    }

    /// Returns what has changed since the last call.
    fn take(&mut self, registers: Option<&mut AcpiHotPlug<P>>) -> Changes {
        let first = PciFunction::new(&self.access, self.at(0));
        let mut changes = Changes::default();
        match &mut self.control {
            Control::Acpi(selector) => {
                if let Some(registers) = registers {
                    let taken = registers.take(*selector);
                    (changes.added, changes.requested) = (taken.added, taken.requested);
                }
            }
            Control::Port(port) => {
                // A device that was replaced is two events.
                for event in (0..2).map_while(|_| port.take(|| first.is_present())) {
                    match event {
                        PortEvent::Added => changes.added = 1,
                        PortEvent::Requested => changes.requested = 1,
                        PortEvent::Removed => changes.removed = 1,
                        _ => {}
                    }
                }
            }
        }
        changes
    }
}

/// Iterates over the devices whose bits are set.
fn devices(bits: u32) -> impl Iterator<Item = u8> {
    (0..32).filter(move |device| bits & 1 << device != 0)
}

/// Buses that devices are added to and removed from.
struct Watched<P: Platform> {
    functions: Functions<P>,
    buses: PageTable<P, Option<Bus<P>>>,
}

/// Adds and removes PCI devices.
pub(crate) struct HotPlug<P: Platform> {
    platform: P,
    pub opener: Opener,
    events: Option<AcpiEvents<P>>,
    registers: Option<AcpiHotPlug<P>>,
    /// `None` if the kernel handles the events or the buses itself, or there was no memory.
    watched: Option<PageBox<P, Watched<P>>>,
    has_ports: bool,
    /// Whether the kernel takes requests of the power button.
    serves: bool,
    next_look: Instant,
}

impl<P: Platform> HotPlug<P> {
    pub fn new(platform: &P, opener: Opener) -> Self {
        Self {
            platform: platform.clone(),
            opener,
            events: None,
            registers: None,
            watched: None,
            has_ports: false,
            serves: false,
            next_look: Instant::ZERO,
        }
    }

    /// Switches the host's events on, before the buses are enumerated, so that no change is missed.
    #[inline(never)]
    pub fn switch_on(&mut self, memory: &Physical<'_, P>, firmware: &Firmware<'_>) {
        let (is_ours, walks) = (self.opener.options.host_events, self.opener.options.walks_buses);
        if is_ours {
            self.events = AcpiEvents::open(&self.platform, memory, firmware);
        }
        if is_ours && walks {
            self.watched = Watched::new(&self.platform).ok();
        }
    }

    /// Records a function that the enumeration has found: when it is removed, its driver is cut off from it. `declared` are the windows of
    /// its host bridge.
    pub fn record(&mut self, slot: PciSlot<P>, declared: &Windows) -> PciSlot<P> {
        match &mut self.watched {
            Some(watched) => {
                let (slot, is_recorded) = watched.functions.add(slot, declared);
                if !is_recorded && !core::mem::replace(&mut watched.functions.is_partial, true) {
                    log::warn!("pci: there are too many functions: none is given back to the host");
                }
                slot
            }
            None => slot,
        }
    }

    /// Adds the buses with hot plug among those behind `roots`, whose devices were enumerated and [recorded](Self::record).
    #[inline(never)]
    pub fn add_buses(&mut self, memory: &Physical<'_, P>, firmware: &Firmware<'_>, roots: &List<P, Root<P>>) {
        if self.watched.is_none() {
            return;
        }
        firmware.acpi_tables(memory, |table| {
            if matches!(&table.signature, b"DSDT" | b"SSDT") {
                // What cannot be read declares nothing.
                let _ = with_table(memory, &table, |bytes| self.add_acpi(bytes, roots));
            }
            ControlFlow::Continue(())
        });
        self.add_ports(roots);
    }

    /// Adds the buses that this AML declares.
    #[inline(never)]
    fn add_acpi(&mut self, bytes: &[u8], roots: &List<P, Root<P>>) {
        let Some(region) = aml::region(bytes, aml::HOT_PLUG_REGION) else { return };
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
        for root in roots.iter() {
            match (is_qemu, root.access.segment(), root.first) {
                (false, segment, first) => self.add(root, first, Control::Acpi(segment.into()), None),
                (true, 0, 0) => aml::hot_plug_buses(bytes).for_each(|bus| self.add_selected(&bus, root)),
                _ => {}
            }
        }
    }

    fn add_selected(&mut self, bus: &HotPlugBus, root: &Root<P>) {
        let (mut number, mut bridge) = (root.first, None);
        for (device, function) in bus.bridges() {
            let at = Address { segment: root.access.segment(), bus: number, device, function };
            let Some((secondary, _)) = buses_behind(&PciFunction::new(&root.access, at)) else { return };
            (number, bridge) = (secondary, Some(at));
        }
        self.add(root, number, Control::Acpi(bus.selector), bridge);
    }

    /// Adds the buses of the hot-plug ports that ACPI's registers do not control.
    #[inline(never)]
    fn add_ports(&mut self, roots: &List<P, Root<P>>) {
        let mut last = None;
        // In the order of addresses: a port is above the ports of a switch behind it.
        while let Some((at, (secondary, _))) = self.watched.as_ref().and_then(|watched| {
            let bridges = watched.functions.iter().filter_map(|f| Some((f.address, f.behind?)));
            bridges.filter(|(at, _)| last < Some(*at)).min()
        }) {
            last = Some(at);
            let is_its = |root: &&Root<P>| root.access.segment() == at.segment && root.first <= at.bus;
            let Some(root) = roots.iter().filter(is_its).max_by_key(|root| root.first) else {
                continue;
            };
            // A port that ACPI's registers control is left alone.
            if self.is_watched(at.segment, secondary) {
                continue;
            }
            let first = Address { bus: secondary, device: 0, function: 0, ..at };
            let is_occupied =
                self.watched.as_ref().is_some_and(|watched| watched.functions.has_device(first));
            let port = HotPlugPort::find(&PciFunction::new(&root.access, at), is_occupied);
            port.into_iter().for_each(|port| self.add(root, secondary, Control::Port(port), Some(at)));
        }
    }

    fn is_watched(&self, segment: u16, number: u8) -> bool {
        let mut buses = self.watched.iter().flat_map(|watched| watched.buses.iter()).flatten();
        buses.any(|bus| bus.is_at(segment, number))
    }

    /// Adds a bus, unless it was added. `bridge` is the bridge above it; `None` for the bus of the host bridge.
    fn add(&mut self, root: &Root<P>, number: u8, control: Control<P>, bridge: Option<Address>) {
        let Root { access, declared, .. } = root;
        let segment = access.segment();
        if self.is_watched(segment, number) {
            return;
        }
        let Some(watched) = &mut self.watched else { return };
        let Watched { functions, buses } = &mut **watched;
        let Some(free) = buses.iter_mut().find(|bus| bus.is_none()) else {
            return log::warn!(
                "pci: more than {MAX_BUSES} buses with hot plug: bus {number:02x} is not watched"
            );
        };
        let unused = match bridge {
            None => root.unused.clone(),
            // What a function that was not recorded uses is not known.
            Some(_) if functions.is_partial => Windows::new(),
            Some(at) => {
                let mut unused = forwarded(&PciFunction::new(access, at), declared);
                let used = functions.on(segment, number).flat_map(|function| function.ranges());
                used.for_each(|(address, len)| unused.exclude(address, len));
                unused
            }
        };
        self.has_ports |= matches!(control, Control::Port(_));
        *free = Some(Bus { access: access.clone(), number, control, declared: declared.clone(), unused });
    }

    /// Returns whether the power button was pressed since the last call.
    pub fn take_power_button(&mut self) -> bool {
        self.serves = true;
        self.events.as_ref().is_some_and(|events| events.take(POWER_BUTTON))
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
        let Self { platform, opener, registers, watched: Some(watched), .. } = self else { return };
        for index in 0..MAX_BUSES {
            let Some(bus) = watched.bus(index) else { continue };
            let Changes { added, requested, removed } = bus.take(registers.as_mut());
            // A device that the host asks for and one that it adds may have the same number: removals first.
            for device in devices(requested | removed) {
                let is_asked_for = requested & 1 << device != 0;
                watched.remove(index, device, is_asked_for, registers.as_mut(), controllers, each);
            }
            for device in devices(added) {
                watched.add(platform, opener, index, device, controllers, each);
            }
        }
    }

    /// Whether the registers have to be looked at though no interrupt came.
    fn has_to_look(&self) -> bool {
        let is_signalled = self.events.as_ref().is_some_and(AcpiEvents::is_signalled);
        let has_registers = self.events.is_some() || self.registers.is_some();
        self.has_ports || has_registers && !is_signalled
    }

    /// Returns by when [`poll`](Self::poll) is to be called though no interrupt came.
    pub fn next_deadline(&self) -> Instant {
        if self.has_to_look() { self.next_look } else { Instant::NEVER }
    }

    pub fn register(&mut self, waker: &Waker) {
        self.events.iter().for_each(|events| events.register(waker));
    }

    /// Arms the wake-up. A power button that the kernel does not ask for is no work.
    pub fn arm(&self) -> Arm {
        let which = HOT_PLUG | if self.serves { POWER_BUTTON } else { 0 };
        if self.events.as_ref().is_some_and(|events| events.is_pending(which)) {
            Arm::Pending
        } else {
            Arm::Armed
        }
    }
}

impl<P: Platform> Watched<P> {
    fn new(platform: &P) -> Result<PageBox<P, Self>, AllocError> {
        let (functions, buses) = (Functions::new(platform)?, PageTable::new(platform, MAX_BUSES, |_| None)?);
        PageBox::new(platform, Self { functions, buses })
    }

    fn bus(&mut self, index: usize) -> Option<&mut Bus<P>> {
        self.buses.get_mut(index)?.as_mut()
    }

    /// Takes back the addresses of removed functions whose drivers have let go of them.
    fn release(&mut self) {
        let Self { functions, buses } = self;
        functions.release(|Address { segment, bus, .. }, (address, len)| {
            let mut buses = buses.iter_mut().flatten();
            let Some(bus) = buses.find(|watched| watched.is_at(segment, bus)) else { return };
            if bus.declared.contains(address, len) {
                bus.unused.release(address, len);
            }
        });
    }

    /// Opens the functions of a device that was added.
    fn add<B: DmaBuffer>(
        &mut self,
        platform: &P,
        opener: &Opener,
        index: usize,
        device: u8,
        controllers: &mut Controllers<P, B>,
        each: &mut dyn FnMut(Event<P, B>),
    ) {
        self.release();
        let Self { functions, buses } = self;
        let Some(bus) = buses.get_mut(index).and_then(Option::as_mut) else { return };
        let at = bus.at(device);
        if functions.has_device(at) || !PciFunction::new(&bus.access, at).is_present() {
            return;
        }
        if !functions.has_room() {
            return log::warn!("pci {at}: there are too many functions: it is not used");
        }
        let Bus { access, number, declared, unused, .. } = bus;
        let declared: &Windows = declared;
        let visit = |slot: PciSlot<P>| {
            let (slot, _) = functions.add(slot, declared);
            // SAFETY: by the contract of `probe`, no other driver uses the devices; the device was not open.
            unsafe { opener.open_slot(platform, &slot, controllers, &mut |found| each(Event::Found(found))) };
        };
        // SAFETY: the bridges forward the addresses, and `unused` has those that no device has; the device was added and has no driver.
        unsafe { enumerate_device(access, *number, device, declared, unused, Opener::is_driven, visit) };
    }

    /// Reports the functions of a device as removed, with those behind its bridges, cuts their drivers off, and gives the device back to
    /// the host if that has asked for it.
    fn remove<B: DmaBuffer>(
        &mut self,
        index: usize,
        device: u8,
        is_asked_for: bool,
        registers: Option<&mut AcpiHotPlug<P>>,
        controllers: &mut Controllers<P, B>,
        each: &mut dyn FnMut(Event<P, B>),
    ) {
        let Self { functions, buses } = self;
        let Some(bus) = buses.get_mut(index).and_then(Option::as_mut) else { return };
        let (at, access) = (bus.at(device), bus.access.clone());
        if is_asked_for && functions.is_partial {
            // A function behind it may be in use that is not known.
            return;
        }
        while let Some((function, behind)) = functions.next_to_remove(at) {
            let place = Place::Pci(function);
            // One that is gone may have another one in its place already; one that the host asks for works until it was reported.
            if !is_asked_for {
                functions.cut_off(&access, function);
            }
            each(Event::Removed(place.into()));
            controllers.remove(place);
            if is_asked_for {
                functions.cut_off(&access, function);
            }
            let Some((first, last)) = behind else { continue };
            let is_behind =
                |bus: &mut Bus<P>| bus.at(0).segment == at.segment && (first..=last).contains(&bus.number);
            for slot in buses.iter_mut() {
                let _ = slot.take_if(is_behind);
            }
        }
        let Some(bus) = self.bus(index).filter(|_| is_asked_for) else { return };
        match (&mut bus.control, registers) {
            (Control::Acpi(selector), Some(registers)) => registers.eject(*selector, device),
            (Control::Port(port), _) => port.power_off(),
            _ => {}
        }
    }
}

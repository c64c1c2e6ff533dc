use crate::controllers::Controllers;
use crate::{
    AnyBalloon, AnyConsole, AnyEntropy, AnyInput, AnySockets, Block, Device, Event, Found, Net, Passed,
    Physical, Place, Reason, Services, Undriven, What, acpi_tables, with_table,
};
use core::ops::ControlFlow;
use paravirt_firmware::aml::{self, Resource, VirtioMmio};
use paravirt_firmware::command_line::{MmioDevice, mmio_devices};
use paravirt_firmware::mcfg::{self, Ecam};
use paravirt_platform::{DmaBuffer, InterruptLine, Platform, Polarity, Trigger};
use paravirt_virtio::OpenOptions;
use paravirt_virtio::balloon::VirtioBalloon;
use paravirt_virtio::blk::VirtioBlk;
use paravirt_virtio::console::VirtioConsole;
use paravirt_virtio::input::VirtioInput;
use paravirt_virtio::net::VirtioNet;
use paravirt_virtio::pci::{ConfigAccess, PciSlot, Window, Windows, enumerate};
use paravirt_virtio::rng::VirtioRng;
use paravirt_virtio::scsi::ScsiAdapter;
use paravirt_virtio::socket::VirtioSockets;
use paravirt_virtio::transport::{AnyTransport, MmioError, MmioTransport, OpenError, PciTransport};
use paravirt_vmbus::Version;
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::{VIRTIO_VENDOR_ID, virtio_device_type};

/// What the boot loader passed on.
#[derive(Copy, Clone, Debug, Default)]
pub struct Firmware<'a> {
    /// The physical address of ACPI's RSDP. Without, the BIOS area is searched.
    pub rsdp: Option<u64>,
    /// The command line, for `virtio_mmio.device=`.
    pub command_line: &'a str,
}

/// How devices are taken into service.
#[derive(Copy, Clone, Debug)]
pub struct Options {
    /// Queues of a device at most; `None` for as many as there are processors.
    pub queues: Option<u16>,
    /// Entries of a queue at most.
    pub queue_size: u16,
    /// Segments of a buffer at most.
    pub segments: u16,
    /// Virtio disks are passed through to the `virtio-drivers` crate's driver, outside the trust rule: to compare with.
    pub pass_disks: bool,
    /// The newest version of VMBus to speak.
    pub vmbus: Version,
}

impl Default for Options {
    fn default() -> Self {
        let OpenOptions { queue_size, segments, .. } = OpenOptions::default();
        Self { queues: None, queue_size, segments, pass_disks: false, vmbus: Version::NEWEST }
    }
}

/// The most ECAM ranges, host bridges and MMIO devices that are taken note of.
const MOST: usize = 32;

/// What firmware says of buses, collected before anything is touched.
struct Map {
    ecam: List<Ecam, MOST>,
    bridges: List<Bridge, MOST>,
    mmio: List<VirtioMmio, MOST>,
    /// Where configuration space is, for a machine without MCFG.
    cba: Option<u64>,
}

/// A host bridge: its buses, and what it forwards.
#[derive(Clone)]
struct Bridge {
    first: u8,
    last: u8,
    windows: Windows,
}

/// A list of fixed capacity. What does not fit is counted, and named in the log.
struct List<T, const N: usize> {
    entries: [Option<T>; N],
    dropped: usize,
}

impl<T, const N: usize> List<T, N> {
    const fn new() -> Self {
        Self { entries: [const { None }; N], dropped: 0 }
    }

    fn push(&mut self, value: T) {
        match self.entries.iter_mut().find(|entry| entry.is_none()) {
            Some(free) => *free = Some(value),
            None => self.dropped = self.dropped.saturating_add(1),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().flatten()
    }
}

/// Finds every device of the machine, takes into service what there is a driver for, and hands each to `found`: PCI by
/// address, then MMIO by address, then VMBus by channel. Returns what the host offers to the machine as a whole.
///
/// # Safety
///
/// * Firmware and command line describe this machine: where they say that there are registers, there are.
/// * Nobody else drives the devices, and firmware's drivers have stopped.
/// * Reading the firmware's tables, wherever they lead, has no side effects.
pub unsafe fn probe<P, B>(
    platform: &P,
    firmware: &Firmware<'_>,
    options: &Options,
    found: &mut dyn FnMut(Found<P, B>),
) -> Services<P, B>
where
    P: Platform,
    B: DmaBuffer,
{
    // SAFETY: passed on from the caller.
    let memory = unsafe { Physical::new(platform) };
    let map = Map::collect(&memory, firmware);
    let processors = platform.processors().count().max(1);
    let open = OpenOptions {
        queues: options.queues.unwrap_or(u16::try_from(processors).unwrap_or(u16::MAX)),
        queue_size: options.queue_size,
        processors,
        segments: options.segments,
    };
    let mut controllers = Controllers::new(platform);
    let mut hand_over = |place: Place, device: Device<P, B>| {
        let Device::Passed(passed) = device else { return found(Found { address: place.into(), device }) };
        match scsi_host(platform, place, passed, &open, &mut controllers) {
            Some(device) => found(Found { address: place.into(), device }),
            None => controllers.poll(Some(place), &mut |event| {
                if let Event::Found(disk) = event {
                    found(disk);
                }
            }),
        }
    };
    let mut visit = |slot: PciSlot<P>| {
        hand_over(Place::Pci(slot.address()), pci_device(platform, &slot, &open, options));
    };
    let mut is_reached = false;
    for range in map.ecam.iter() {
        // SAFETY: passed on from the caller: the MCFG says so.
        match unsafe { ConfigAccess::ecam(platform, range.base, range.segment, range.first, range.last) } {
            Ok(access) => {
                is_reached = true;
                map.enumerate(&access, &mut visit);
            }
            Err(error) => log::warn!("pci: ECAM at {:#x}: {error}", range.base),
        }
    }
    if !is_reached {
        // SAFETY: passed on from the caller; there is no ECAM in use.
        map.enumerate(&unsafe { ConfigAccess::ports(platform) }, &mut visit);
    }

    let mut floor = None;
    while let Some(next) = map.mmio.iter().filter(|d| Some(d.base) > floor).min_by_key(|d| d.base) {
        floor = Some(next.base);
        let len = usize::try_from(next.len).unwrap_or(usize::MAX);
        // SAFETY: passed on from the caller: the DSDT or the command line says so.
        let device = match unsafe { MmioTransport::new(platform, next.base, len, next.line) } {
            Err(MmioError::Empty) => continue,
            Err(error) => {
                let what = match error {
                    MmioError::Version { device_id, .. } | MmioError::UnknownType(device_id) => {
                        DeviceType::try_from(device_id).map_or(What::VirtioId(device_id), What::Virtio)
                    }
                    _ => What::VirtioId(0),
                };
                Device::Undriven(Undriven { what, reason: Reason::Mmio(error) })
            }
            Ok(transport) => virtio_device(platform, AnyTransport::Mmio(transport), &open, options),
        };
        hand_over(Place::Mmio(next.base), device);
    }
    let mut services = Services::open(platform, &open, controllers, options.vmbus);
    services.offers(found);
    services
}

impl Map {
    fn collect<P: Platform>(memory: &Physical<'_, P>, firmware: &Firmware<'_>) -> Self {
        let mut map = Self { ecam: List::new(), bridges: List::new(), mmio: List::new(), cba: None };
        acpi_tables(memory, firmware.rsdp, |table| {
            let read = match &table.signature {
                b"MCFG" => {
                    with_table(memory, &table, |bytes| mcfg::entries(bytes).for_each(|e| map.ecam.push(e)))
                }
                b"DSDT" | b"SSDT" => with_table(memory, &table, |bytes| map.add_aml(bytes)),
                _ => Ok(()),
            };
            if let Err(error) = read {
                log::warn!("acpi: table at {:#x}: {error}", table.address);
            }
            ControlFlow::Continue(())
        });
        if let (0, Some(base)) = (map.ecam.iter().count(), map.cba) {
            for Bridge { first, last, .. } in map.bridges.iter() {
                map.ecam.push(Ecam { base, segment: 0, first: *first, last: *last });
            }
        }
        for device in mmio_devices(firmware.command_line) {
            match device {
                Ok(MmioDevice { base, len, irq }) => {
                    // As Firecracker and Linux have it: edge-triggered.
                    let line =
                        InterruptLine { number: irq, trigger: Trigger::Edge, polarity: Polarity::High };
                    map.mmio.push(VirtioMmio { base, len, line: Some(line) });
                }
                Err(malformed) => log::warn!("{malformed}"),
            }
        }
        let dropped = [map.ecam.dropped, map.bridges.dropped, map.mmio.dropped];
        if dropped != [0; 3] {
            let [ecam, bridges, mmio] = dropped;
            log::warn!(
                "more than {MOST} of a kind: {ecam} ECAM ranges, {bridges} bridges, {mmio} MMIO devices left out"
            );
        }
        map
    }

    fn add_aml(&mut self, aml: &[u8]) {
        aml::virtio_mmio_devices(aml).for_each(|device| self.mmio.push(device));
        self.cba = self.cba.or_else(|| aml::ecam_base(aml));
        for template in aml::host_bridges(aml) {
            let mut bridge = Bridge { first: 0, last: 0, windows: Windows::new() };
            for resource in aml::resources(template) {
                match resource {
                    Resource::Buses { first, last } => (bridge.first, bridge.last) = (first, last),
                    // Below 1 MiB is what VGA had.
                    Resource::Window { start, last } if start >= 1 << 20 => {
                        bridge.windows.add(Window { start, end: last.saturating_add(1) });
                    }
                    _ => {}
                }
            }
            self.bridges.push(bridge);
        }
    }

    /// Walks the host bridges whose buses `access` reaches; from its first bus where firmware names no bridge.
    fn enumerate<P: Platform>(&self, access: &ConfigAccess<P>, visit: &mut dyn FnMut(PciSlot<P>)) {
        let (first, last) = access.buses();
        let mut is_walked = false;
        for bridge in self.bridges.iter().filter(|bridge| (first..=last).contains(&bridge.first)) {
            is_walked = true;
            enumerate(access, bridge.first, &mut bridge.windows.clone(), &mut *visit);
        }
        if !is_walked {
            enumerate(access, first, &mut Windows::new(), visit);
        }
    }
}

fn pci_device<P: Platform, B: DmaBuffer>(
    platform: &P,
    slot: &PciSlot<P>,
    open: &OpenOptions,
    options: &Options,
) -> Device<P, B> {
    let info = slot.info();
    let undriven = |what, reason| Device::Undriven(Undriven { what, reason });
    match virtio_device_type(info) {
        Some(device_type) => match PciTransport::new(platform, slot, device_type) {
            Ok(transport) => virtio_device(platform, AnyTransport::Pci(transport), open, options),
            Err(error) => undriven(What::Virtio(device_type), Reason::Pci(error)),
        },
        None if info.vendor_id == VIRTIO_VENDOR_ID => {
            let id = info.device_id.checked_sub(0x1040).map_or(0, u32::from);
            undriven(What::VirtioId(id), Reason::NoDriver)
        }
        None => {
            let (vendor, device) = (info.vendor_id, info.device_id);
            undriven(
                What::Pci { vendor, device, class: info.class, subclass: info.subclass },
                Reason::NoDriver,
            )
        }
    }
}

/// Makes a controller of a SCSI host device, whose disks are then to be asked for; the device itself where it is another one,
/// or is not taken into service.
fn scsi_host<P: Platform, B: DmaBuffer>(
    platform: &P,
    place: Place,
    passed: Passed<P>,
    open: &OpenOptions,
    controllers: &mut Controllers<P, B>,
) -> Option<Device<P, B>> {
    if passed.device_type != DeviceType::ScsiHost {
        return Some(Device::Passed(passed));
    }
    let opened = ScsiAdapter::open(platform, passed.transport, open).map_err(Reason::Open);
    let added = opened.and_then(|adapter| controllers.open_virtio(platform, place, adapter, open.queues));
    let undriven = |reason| Device::Undriven(Undriven { what: What::Virtio(DeviceType::ScsiHost), reason });
    added.err().map(undriven)
}

fn virtio_device<P: Platform, B: DmaBuffer>(
    platform: &P,
    transport: AnyTransport<P>,
    open: &OpenOptions,
    options: &Options,
) -> Device<P, B> {
    use virtio_drivers::transport::Transport;
    let device_type = transport.device_type();
    let opened: Result<Device<P, B>, OpenError> = match device_type {
        DeviceType::Block if options.pass_disks => Ok(Device::Passed(Passed { device_type, transport })),
        DeviceType::Block => {
            VirtioBlk::open(platform, transport, open).map(|d| Device::Block(Block::Virtio(d)))
        }
        DeviceType::Network => {
            VirtioNet::open(platform, transport, open).map(|d| Device::Net(Net::Virtio(d)))
        }
        DeviceType::Console => {
            VirtioConsole::open(platform, transport, open).map(|d| Device::Console(AnyConsole::Virtio(d)))
        }
        DeviceType::EntropySource => {
            VirtioRng::open(platform, transport, open).map(|d| Device::Entropy(AnyEntropy::Virtio(d)))
        }
        DeviceType::MemoryBalloon => {
            VirtioBalloon::open(platform, transport, open).map(|d| Device::Balloon(AnyBalloon::Virtio(d)))
        }
        DeviceType::Input => {
            VirtioInput::open(platform, transport, open).map(|d| Device::Input(AnyInput::Virtio(d)))
        }
        DeviceType::Socket => {
            VirtioSockets::open(platform, transport, open).map(|d| Device::Sockets(AnySockets::Virtio(d)))
        }
        // The caller makes a controller of it.
        DeviceType::ScsiHost => Ok(Device::Passed(Passed { device_type, transport })),
        DeviceType::GPU | DeviceType::Sound | DeviceType::_9P => {
            Ok(Device::Passed(Passed { device_type, transport }))
        }
        _ => {
            return Device::Undriven(Undriven { what: What::Virtio(device_type), reason: Reason::NoDriver });
        }
    };
    opened.unwrap_or_else(|error| {
        Device::Undriven(Undriven { what: What::Virtio(device_type), reason: Reason::Open(error) })
    })
}

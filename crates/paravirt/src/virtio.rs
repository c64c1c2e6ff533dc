//! virtio devices on PCI and MMIO.

use crate::any::{boxed, pass, separately};
use crate::buses::Buses;
use crate::controllers::Controllers;
use crate::firmware::Map;
use crate::hot_plug::HotPlug;
use crate::{
    AnyBalloon, AnyConsole, AnyEntropy, AnyInput, AnySockets, Block, Device, Event, Firmware, Found, Net,
    Options, Passthrough, Physical, Place, Reason, Unclaimed, What,
};
use paravirt_pci::{FunctionInfo, PciSlot};
use paravirt_platform::{DmaBuffer, InterruptLine, Platform};
use paravirt_virtio::OpenOptions;
#[cfg(feature = "balloon")]
use paravirt_virtio::balloon::VirtioBalloon;
use paravirt_virtio::blk::VirtioBlk;
#[cfg(feature = "console")]
use paravirt_virtio::console::VirtioConsole;
#[cfg(feature = "input")]
use paravirt_virtio::input::VirtioInput;
#[cfg(feature = "net")]
use paravirt_virtio::net::VirtioNet;
#[cfg(feature = "entropy")]
use paravirt_virtio::rng::VirtioRng;
#[cfg(feature = "sockets")]
use paravirt_virtio::socket::VirtioSockets;
use paravirt_virtio::transport::{self, DeviceType, MmioError, OpenError, Transport};

/// How devices are opened.
#[derive(Copy, Clone)]
pub(crate) struct Opener {
    pub open: OpenOptions,
    pub options: Options,
}

/// Finds every virtio device, and passes each to `found`: PCI by address, then MMIO by address. Those on PCI can be added and removed
/// from then on by `hot_plug`.
///
/// # Safety
///
/// As for [`probe`](crate::probe).
#[inline(never)]
pub(crate) unsafe fn find<P: Platform, B: DmaBuffer>(
    platform: &P,
    firmware: &Firmware<'_>,
    hot_plug: &mut HotPlug<P>,
    controllers: &mut Controllers<P, B>,
    found: &mut dyn FnMut(Found<P, B>),
) {
    // SAFETY: by the contract of this function, reading the firmware's tables has no side effects.
    let memory = unsafe { Physical::new(platform) };
    hot_plug.switch_on(&memory, firmware);
    if !hot_plug.opener.options.walks_buses {
        return;
    }
    let map = match Map::collect(platform, &memory, firmware) {
        Ok(map) => map,
        Err(error) => return log::warn!("pci: {error}: no device is looked for"),
    };
    // SAFETY: the caller upholds the same contract.
    match unsafe { Buses::new(platform, firmware, &map, Opener::is_driven) } {
        Ok(mut buses) => {
            while let Some(slot) = buses.next(hot_plug) {
                // SAFETY: the caller upholds the same contract, and each function is returned once.
                unsafe { hot_plug.opener.open_slot(platform, &slot, controllers, found) };
            }
            hot_plug.add_buses(&memory, firmware, &buses.roots);
        }
        Err(error) => log::warn!("pci: {error}: no function is looked for"),
    }
    // Firmware and the command line may both describe a device: registers that begin in those of an earlier one are the earlier one's.
    let mut floor = 0;
    while let Some(next) = map.mmio.iter().filter(|d| d.base >= floor).min_by_key(|d| d.base) {
        floor = next.base.saturating_add(next.len.max(1));
        let len = usize::try_from(next.len).unwrap_or(usize::MAX);
        // SAFETY: the DSDT or the command line reports registers there, and by the contract of `probe` that is true.
        unsafe { hot_plug.opener.open_mmio(platform, next.base, len, next.line, controllers, found) };
    }
}

impl Opener {
    pub fn new(options: &Options, queues: u16, processors: u32) -> Self {
        let open = OpenOptions::new()
            .with_queues(queues)
            .with_queue_size(options.queue_size)
            .with_processors(processors)
            .with_segments(options.segments);
        Self { open, options: *options }
    }

    /// Returns whether there is a driver for the function, so that it is to have addresses.
    pub fn is_driven(info: &FunctionInfo) -> bool {
        transport::is_virtio(info).is_some()
    }

    /// Opens a PCI function, and passes what is found to `found`.
    ///
    /// # Safety
    ///
    /// No other driver uses the function.
    #[inline(never)]
    pub unsafe fn open_slot<P: Platform, B: DmaBuffer>(
        &self,
        platform: &P,
        slot: &PciSlot<P>,
        controllers: &mut Controllers<P, B>,
        found: &mut dyn FnMut(Found<P, B>),
    ) {
        // A controller that is open there still is no longer used, by the contract of this function.
        controllers.remove(Place::Pci(slot.address()));
        // SAFETY: the caller upholds the same contract.
        let device = unsafe { self.open_function(platform, slot) };
        self.hand_over(platform, Place::Pci(slot.address()), device, controllers, found);
    }

    /// Opens the device whose registers are at `base`, if there is one, and passes what is found to `found`.
    ///
    /// # Safety
    ///
    /// There are registers of a virtio device, which no other driver uses.
    pub unsafe fn open_mmio<P: Platform, B: DmaBuffer>(
        &self,
        platform: &P,
        base: u64,
        len: usize,
        line: Option<InterruptLine>,
        controllers: &mut Controllers<P, B>,
        found: &mut dyn FnMut(Found<P, B>),
    ) {
        controllers.remove(Place::Mmio(base));
        // SAFETY: the caller upholds the same contract.
        let device = match unsafe { transport::mmio(platform, base, len, line) } {
            Err(MmioError::Empty) => return,
            Err(error) => {
                let device_type = match error {
                    MmioError::Version { device_id, .. } => DeviceType(device_id),
                    _ => DeviceType(0),
                };
                let what = What::Virtio(device_type);
                Device::Unclaimed(Unclaimed { what, reason: Reason::Mmio(error) })
            }
            Ok(transport) => self.open_transport(platform, transport),
        };
        self.hand_over(platform, Place::Mmio(base), device, controllers, found);
    }

    /// Passes an opened device to `found`; the disks of a SCSI host instead of itself.
    fn hand_over<P: Platform, B: DmaBuffer>(
        &self,
        platform: &P,
        place: Place,
        device: Device<P, B>,
        controllers: &mut Controllers<P, B>,
        found: &mut dyn FnMut(Found<P, B>),
    ) {
        match device {
            #[cfg(feature = "scsi")]
            Device::Passthrough(host) if host.device_type == DeviceType::SCSI => {
                self.open_scsi(platform, place, host.transport, controllers, found);
            }
            device => pass(place, device, found),
        }
    }

    #[cfg(feature = "scsi")]
    /// Opens a SCSI host as a controller, and passes its disks to `found`; or why it could not be opened.
    #[inline(never)]
    fn open_scsi<P: Platform, B: DmaBuffer>(
        &self,
        platform: &P,
        place: Place,
        transport: Transport<P>,
        controllers: &mut Controllers<P, B>,
        found: &mut dyn FnMut(Found<P, B>),
    ) {
        match controllers.open_virtio(platform, place, transport, &self.open) {
            Ok(()) => controllers.poll(Some(place), &mut |event| {
                if let Event::Found(disk) = event {
                    found(disk);
                }
            }),
            Err(reason) => {
                let unclaimed = Unclaimed { what: What::Virtio(DeviceType::SCSI), reason };
                pass(place, Device::Unclaimed(unclaimed), found);
            }
        }
    }

    /// # Safety
    ///
    /// No other driver uses the function.
    #[inline(never)]
    unsafe fn open_function<P: Platform, B: DmaBuffer>(
        &self,
        platform: &P,
        slot: &PciSlot<P>,
    ) -> Device<P, B> {
        let info = slot.info();
        let unclaimed = |what, reason| Device::Unclaimed(Unclaimed { what, reason });
        match transport::is_virtio(info) {
            // SAFETY: the caller upholds the same contract.
            Some(device_type) => match unsafe { transport::pci(platform, slot, device_type) } {
                Ok(transport) => self.open_transport(platform, transport),
                Err(error) => unclaimed(What::Virtio(device_type), Reason::Pci(error)),
            },
            None => {
                let (vendor, device) = (info.vendor, info.device);
                unclaimed(
                    What::Pci { vendor, device, class: info.class, subclass: info.subclass },
                    Reason::NoDriver,
                )
            }
        }
    }

    fn open_transport<P: Platform, B: DmaBuffer>(
        &self,
        platform: &P,
        transport: Transport<P>,
    ) -> Device<P, B> {
        virtio_device(platform, transport, &self.open, &self.options)
    }
}

#[inline(never)]
fn virtio_device<P: Platform, B: DmaBuffer>(
    platform: &P,
    transport: Transport<P>,
    open: &OpenOptions,
    options: &Options,
) -> Device<P, B> {
    let device_type = transport.device_type();
    let opened: Result<Device<P, B>, OpenError> = match device_type {
        DeviceType::BLOCK if options.passthrough_disks => {
            Ok(Device::Passthrough(Passthrough { device_type, transport }))
        }
        DeviceType::BLOCK => {
            separately(|| VirtioBlk::open(platform, transport, open)).map(|d| Device::Block(Block::Virtio(d)))
        }
        #[cfg(feature = "net")]
        DeviceType::NET => boxed(platform, || VirtioNet::open(platform, transport, open))
            .map(|d| Device::Net(Net::Virtio(d))),
        #[cfg(feature = "console")]
        DeviceType::CONSOLE => boxed(platform, || VirtioConsole::open(platform, transport, open))
            .map(|d| Device::Console(AnyConsole::Virtio(d))),
        #[cfg(feature = "entropy")]
        DeviceType::ENTROPY => boxed(platform, || VirtioRng::open(platform, transport, open))
            .map(|d| Device::Entropy(AnyEntropy::Virtio(d))),
        #[cfg(feature = "balloon")]
        DeviceType::BALLOON => boxed(platform, || VirtioBalloon::open(platform, transport, open))
            .map(|d| Device::Balloon(AnyBalloon::Virtio(d))),
        #[cfg(feature = "input")]
        DeviceType::INPUT => boxed(platform, || VirtioInput::open(platform, transport, open))
            .map(|d| Device::Input(AnyInput::Virtio(d))),
        #[cfg(feature = "sockets")]
        DeviceType::SOCKET => boxed(platform, || VirtioSockets::open(platform, transport, open))
            .map(|d| Device::Sockets(AnySockets::Virtio(d))),
        // The caller opens it as a controller.
        #[cfg(feature = "scsi")]
        DeviceType::SCSI => Ok(Device::Passthrough(Passthrough { device_type, transport })),
        DeviceType::GPU | DeviceType::SOUND | DeviceType::P9 => {
            Ok(Device::Passthrough(Passthrough { device_type, transport }))
        }
        _ => {
            return Device::Unclaimed(Unclaimed {
                what: What::Virtio(device_type),
                reason: Reason::NoDriver,
            });
        }
    };
    opened.unwrap_or_else(|error| {
        Device::Unclaimed(Unclaimed { what: What::Virtio(device_type), reason: Reason::Open(error) })
    })
}

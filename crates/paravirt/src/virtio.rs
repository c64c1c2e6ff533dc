//! virtio devices on PCI and MMIO.

use crate::any::{boxed, separately};
use crate::controllers::Controllers;
use crate::firmware::Map;
use crate::opener::{Opened, Opener, hand_over};
use crate::{
    AnyBalloon, AnyConsole, AnyEntropy, AnyInput, AnySockets, Block, Device, Found, Net, Options,
    Passthrough, Place, Reason, Unclaimed, What,
};
use paravirt_pci::PciSlot;
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

impl Opener {
    fn virtio_options(&self) -> OpenOptions {
        OpenOptions::new()
            .with_queues(self.queues)
            .with_queue_size(self.options.queue_size)
            .with_processors(self.processors)
            .with_segments(self.options.segments)
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
        let place = Place::Mmio(base);
        controllers.remove(place);
        // SAFETY: the caller upholds the same contract.
        let opened = match unsafe { transport::mmio(platform, base, len, line) } {
            Err(MmioError::Empty) => return,
            Err(error) => {
                let device_type = match error {
                    MmioError::Version { device_id, .. } => DeviceType(device_id),
                    _ => DeviceType(0),
                };
                Opened::unclaimed(What::Virtio(device_type), Reason::Mmio(error))
            }
            Ok(transport) => open_transport(self, platform, place, transport, controllers),
        };
        hand_over(place, opened, controllers, found);
    }
}

/// Opens the virtio MMIO devices of the machine by address, and passes what is found to `found`.
///
/// # Safety
///
/// There are registers of a virtio device where `map` has them, which no other driver uses.
pub(crate) unsafe fn find_mmio<P: Platform, B: DmaBuffer>(
    platform: &P,
    opener: &Opener,
    map: &Map<P>,
    controllers: &mut Controllers<P, B>,
    found: &mut dyn FnMut(Found<P, B>),
) {
    // Firmware and the command line may both describe a device: registers that begin in those of an earlier one are the earlier one's.
    let mut floor = 0;
    while let Some(next) = map.mmio.iter().filter(|d| d.base >= floor).min_by_key(|d| d.base) {
        floor = next.base.saturating_add(next.len.max(1));
        let len = usize::try_from(next.len).unwrap_or(usize::MAX);
        // SAFETY: the caller upholds the same contract.
        unsafe { opener.open_mmio(platform, next.base, len, next.line, controllers, found) };
    }
}

/// Opens the virtio device of a PCI function.
///
/// # Safety
///
/// No other driver uses the function.
#[inline(never)]
pub(crate) unsafe fn open_pci<P: Platform, B: DmaBuffer>(
    opener: &Opener,
    platform: &P,
    place: Place,
    slot: &PciSlot<P>,
    device_type: DeviceType,
    controllers: &mut Controllers<P, B>,
) -> Opened<P, B> {
    // SAFETY: the caller upholds the same contract.
    match unsafe { transport::pci(platform, slot, device_type) } {
        Ok(transport) => open_transport(opener, platform, place, transport, controllers),
        Err(error) => Opened::unclaimed(What::Virtio(device_type), Reason::Pci(error)),
    }
}

#[inline(never)]
fn open_transport<P: Platform, B: DmaBuffer>(
    opener: &Opener,
    platform: &P,
    place: Place,
    transport: Transport<P>,
    controllers: &mut Controllers<P, B>,
) -> Opened<P, B> {
    let open = opener.virtio_options();
    #[cfg(feature = "scsi")]
    if transport.device_type() == DeviceType::SCSI {
        return match controllers.open_virtio(platform, place, transport, &open) {
            Ok(()) => Opened::Controller,
            Err(reason) => Opened::unclaimed(What::Virtio(DeviceType::SCSI), reason),
        };
    }
    Opened::Device(virtio_device(platform, transport, &open, &opener.options))
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

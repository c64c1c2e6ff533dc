use crate::{AnyBalloon, AnyConsole, AnyEntropy, AnyInput, AnySockets, Block, Net};
use core::fmt;
use paravirt_platform::{DmaBuffer, Platform};
use paravirt_scsi::Address as UnitAddress;
use paravirt_virtio::pci::PciAddress;
use paravirt_virtio::transport::{AnyTransport, MmioError, OpenError, PciError};
use paravirt_vmbus::{Guid, Offer};
use virtio_drivers::transport::DeviceType;

/// Where in the machine a device is. The order is that in which devices are numbered.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct Address {
    /// The device, or the controller that it is on.
    pub place: Place,
    /// Which unit of that controller.
    pub unit: Option<UnitAddress>,
}

/// A place on a bus.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
#[non_exhaustive]
pub enum Place {
    /// A PCI function.
    Pci(PciAddress),
    /// The physical address of a register block.
    Mmio(u64),
    /// A channel of VMBus.
    Vmbus {
        /// The host's number for it.
        channel: u32,
        /// Which device it is of. Stays the same over restarts.
        instance: Guid,
    },
    /// VMBus itself, which makes sockets.
    VmbusSockets,
}

impl Address {
    /// Whether `other` is here, or is a unit of the controller that is here.
    pub fn covers(&self, other: &Self) -> bool {
        self.place == other.place && (self.unit.is_none() || self.unit == other.unit)
    }
}

impl From<Place> for Address {
    fn from(place: Place) -> Self {
        Self { place, unit: None }
    }
}

impl From<&Offer> for Place {
    fn from(offer: &Offer) -> Self {
        Self::Vmbus { channel: offer.channel, instance: offer.instance }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(address) => write!(f, "pci:{address}"),
            Self::Mmio(base) => write!(f, "mmio:{base:#x}"),
            Self::Vmbus { instance, .. } => write!(f, "vmbus:{instance}"),
            Self::VmbusSockets => f.write_str("vmbus:sockets"),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.unit {
            Some(unit) => write!(f, "{}/{unit}", self.place),
            None => self.place.fmt(f),
        }
    }
}

/// A device of the machine.
pub struct Found<P: Platform, B: DmaBuffer> {
    /// Where it is.
    pub address: Address,
    /// What it is.
    pub device: Device<P, B>,
}

/// A device in service, or why it is not.
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "handed over once")]
pub enum Device<P: Platform, B: DmaBuffer> {
    /// A disk.
    Block(Block<P, B>),
    /// A network card.
    Net(Net<P, B>),
    /// A console.
    Console(AnyConsole<P>),
    /// A source of random bytes.
    Entropy(AnyEntropy<P>),
    /// A keyboard, a mouse, a tablet.
    Input(AnyInput<P>),
    /// Stream sockets to the host.
    Sockets(AnySockets<P>),
    /// A balloon, by which the host takes memory and gives it back.
    Balloon(AnyBalloon<P>),
    /// A device for a driver of the `virtio-drivers` crate, **outside the trust rule**.
    Passed(Passed<P>),
    /// A device that is there and not driven.
    Undriven(Undriven),
}

/// A device that is passed through to a driver of the `virtio-drivers` crate. That driver and its queue trust the device:
/// it can make them panic or spin.
pub struct Passed<P: Platform> {
    pub(crate) device_type: DeviceType,
    pub(crate) transport: AnyTransport<P>,
}

impl<P: Platform> Passed<P> {
    /// What it is.
    pub fn device_type(&self) -> DeviceType {
        self.device_type
    }

    /// Its transport, for the constructor of a driver.
    pub fn into_transport(self) -> AnyTransport<P> {
        self.transport
    }
}

/// What a device is that is not driven.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum What {
    /// A virtio device.
    Virtio(DeviceType),
    /// A virtio device of a type that has no name here: its device id (VIRTIO 1.3 §5), or 0 where it has none.
    VirtioId(u32),
    /// A PCI function: vendor, device, class and subclass.
    Pci {
        /// The vendor.
        vendor: u16,
        /// The device.
        device: u16,
        /// The class.
        class: u8,
        /// The subclass.
        subclass: u8,
    },
    /// A device on VMBus: its class.
    Vmbus(Guid),
}

/// Why a device is not driven.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Reason {
    /// There is no driver for it.
    NoDriver,
    /// Its PCI transport cannot be used.
    Pci(PciError),
    /// Its register block cannot be used.
    Mmio(MmioError),
    /// It was not taken into service.
    Open(OpenError),
    /// Hyper-V's balloon was not taken into service.
    HvBalloon(paravirt_hv_balloon::OpenError),
    /// Hyper-V's keyboard or mouse was not taken into service.
    HvInput(paravirt_hv_input::OpenError),
    /// Hyper-V's network card was not taken into service.
    NetVsc(paravirt_netvsc::OpenError),
    /// A controller of disks was not taken into service.
    Scsi(paravirt_scsi::OpenError),
    /// There are more of its kind than this library keeps.
    TooMany,
}

/// A device that is there and not driven.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Undriven {
    /// What it is.
    pub what: What,
    /// Why.
    pub reason: Reason,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Virtio(device) => write!(f, "virtio {device:?}"),
            Self::VirtioId(id) => write!(f, "virtio device {id}"),
            Self::Pci { vendor, device, class, subclass } => {
                write!(f, "pci {vendor:04x}:{device:04x} class {class:02x}.{subclass:02x}")
            }
            Self::Vmbus(interface) => match paravirt_vmbus::class(interface) {
                Some(class) => write!(f, "vmbus {class}"),
                None => write!(f, "vmbus {interface}"),
            },
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDriver => f.write_str("there is no driver for it"),
            Self::Pci(error) => error.fmt(f),
            Self::Mmio(error) => error.fmt(f),
            Self::Open(error) => error.fmt(f),
            Self::HvBalloon(error) => error.fmt(f),
            Self::HvInput(error) => error.fmt(f),
            Self::NetVsc(error) => error.fmt(f),
            Self::Scsi(error) => error.fmt(f),
            Self::TooMany => f.write_str("there are too many of its kind"),
        }
    }
}

impl fmt::Display for Undriven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.reason)
    }
}

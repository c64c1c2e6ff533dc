use crate::{AnyBalloon, AnyConsole, AnyEntropy, AnyInput, AnySockets, Block, Net};
use core::fmt;
#[cfg(feature = "virtio")]
use paravirt_pci::Address as PciAddress;
use paravirt_platform::{DmaBuffer, Platform};
use paravirt_scsi::Address as UnitAddress;
#[cfg(feature = "virtio")]
use paravirt_virtio::transport::{DeviceType, MmioError, OpenError, PciError, Transport};
#[cfg(feature = "hyperv")]
use paravirt_vmbus::{Guid, Offer};

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
    #[cfg(feature = "virtio")]
    Pci(PciAddress),
    /// The physical address of a register block.
    #[cfg(feature = "virtio")]
    Mmio(u64),
    /// A channel of VMBus.
    #[cfg(feature = "hyperv")]
    Vmbus {
        /// The host's number for it.
        channel: u32,
        /// Which device it is of. Stays the same over restarts.
        instance: Guid,
    },
    /// VMBus itself, which makes sockets.
    #[cfg(feature = "hyperv")]
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

#[cfg(feature = "hyperv")]
impl From<&Offer> for Place {
    fn from(offer: &Offer) -> Self {
        Self::Vmbus { channel: offer.channel, instance: offer.instance }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(feature = "virtio")]
            Self::Pci(address) => write!(f, "pci:{address}"),
            #[cfg(feature = "virtio")]
            Self::Mmio(base) => write!(f, "mmio:{base:#x}"),
            #[cfg(feature = "hyperv")]
            Self::Vmbus { instance, .. } => write!(f, "vmbus:{instance}"),
            #[cfg(feature = "hyperv")]
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
    /// A virtio device for another driver, such as one of the `virtio-drivers` crate, **outside the trust rule**.
    #[cfg(feature = "virtio")]
    Passthrough(Passthrough<P>),
    /// A device that no driver here claims.
    Unclaimed(Unclaimed),
}

/// A virtio device that is passed through to a driver of the `virtio-drivers` crate. That driver and its queue trust the device:
/// it can make them panic or spin.
#[cfg(feature = "virtio")]
pub struct Passthrough<P: Platform> {
    pub(crate) device_type: DeviceType,
    pub(crate) transport: Transport<P>,
}

#[cfg(feature = "virtio")]
impl<P: Platform> Passthrough<P> {
    /// What it is.
    pub fn device_type(&self) -> DeviceType {
        self.device_type
    }

    /// Its transport, for the constructor of a driver.
    pub fn into_transport(self) -> Transport<P> {
        self.transport
    }
}

/// What a device is that is not driven.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum What {
    /// A virtio device.
    #[cfg(feature = "virtio")]
    Virtio(DeviceType),
    /// A PCI function: vendor, device, class and subclass.
    #[cfg(feature = "virtio")]
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
    #[cfg(feature = "hyperv")]
    Vmbus(Guid),
}

/// Why a device is not driven.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Reason {
    /// There is no driver for it.
    NoDriver,
    /// Its PCI transport cannot be used.
    #[cfg(feature = "virtio")]
    Pci(PciError),
    /// Its register block cannot be used.
    #[cfg(feature = "virtio")]
    Mmio(MmioError),
    /// It was not taken into service.
    #[cfg(feature = "virtio")]
    Open(OpenError),
    /// Hyper-V's balloon was not taken into service.
    #[cfg(feature = "hyperv")]
    HvBalloon(paravirt_hv_balloon::OpenError),
    /// Hyper-V's keyboard or mouse was not taken into service.
    #[cfg(feature = "hyperv")]
    HvInput(paravirt_hv_input::OpenError),
    /// Hyper-V's network card was not taken into service.
    #[cfg(feature = "hyperv")]
    NetVsc(paravirt_netvsc::OpenError),
    /// A controller of disks was not taken into service.
    Scsi(paravirt_scsi::OpenError),
    /// There are more of its kind than this library keeps.
    TooMany,
}

/// A device that is there and not driven.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Unclaimed {
    /// What it is.
    pub what: What,
    /// Why.
    pub reason: Reason,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(feature = "virtio")]
            Self::Virtio(device) => write!(f, "virtio {device}"),
            #[cfg(feature = "virtio")]
            Self::Pci { vendor, device, class, subclass } => {
                write!(f, "pci {vendor:04x}:{device:04x} class {class:02x}.{subclass:02x}")
            }
            #[cfg(feature = "hyperv")]
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
            #[cfg(feature = "virtio")]
            Self::Pci(error) => error.fmt(f),
            #[cfg(feature = "virtio")]
            Self::Mmio(error) => error.fmt(f),
            #[cfg(feature = "virtio")]
            Self::Open(error) => error.fmt(f),
            #[cfg(feature = "hyperv")]
            Self::HvBalloon(error) => error.fmt(f),
            #[cfg(feature = "hyperv")]
            Self::HvInput(error) => error.fmt(f),
            #[cfg(feature = "hyperv")]
            Self::NetVsc(error) => error.fmt(f),
            Self::Scsi(error) => error.fmt(f),
            Self::TooMany => f.write_str("there are too many of its kind"),
        }
    }
}

impl fmt::Display for Unclaimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.reason)
    }
}

//! The results of [`probe`](crate::probe): devices, their addresses, and why a device is unclaimed.

use crate::{AnyBalloon, AnyConsole, AnyEntropy, AnyInput, AnySockets, Block, Net};
use core::fmt;
#[cfg(feature = "pci")]
use paravirt_pci::Address as PciAddress;
use paravirt_platform::{DmaBuffer, Platform};
use paravirt_scsi::Address as UnitAddress;
#[cfg(feature = "virtio")]
use paravirt_virtio::transport::{DeviceType, MmioError, OpenError, PciError, Transport};
#[cfg(feature = "hyperv")]
use paravirt_vmbus::{Guid, Offer};

/// The address of a device in the machine. Sorting by it gives the order in which devices are numbered.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
#[non_exhaustive]
pub struct Address {
    /// The location of the device, or of its controller.
    pub place: Place,
    /// The SCSI unit on that controller; `None` for a device that is not on one.
    pub unit: Option<UnitAddress>,
}

/// The location of a device on its bus.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
#[non_exhaustive]
pub enum Place {
    /// A PCI function.
    #[cfg(feature = "pci")]
    Pci(PciAddress),
    /// The physical address of a register block.
    #[cfg(feature = "virtio")]
    Mmio(u64),
    /// A VMBus channel offer.
    #[cfg(feature = "hyperv")]
    Vmbus {
        /// The channel id that the host assigned. It can change when the machine restarts.
        channel: u32,
        /// The instance GUID of the device, which is the same after a restart.
        instance: Guid,
    },
    /// VMBus itself, which carries Hyper-V sockets.
    #[cfg(feature = "hyperv")]
    VmbusSockets,
    /// A device in Xen's xenstore.
    #[cfg(feature = "xen")]
    Xen(paravirt_xen::bus::Address),
    /// The console of a domain of Xen.
    #[cfg(feature = "xen")]
    XenConsole,
    /// The balloon of a domain of Xen.
    #[cfg(feature = "xen")]
    XenBalloon,
}

impl Address {
    /// Returns whether `other` is this device, or a unit of this controller.
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
            #[cfg(feature = "pci")]
            Self::Pci(address) => write!(f, "pci:{address}"),
            #[cfg(feature = "virtio")]
            Self::Mmio(base) => write!(f, "mmio:{base:#x}"),
            #[cfg(feature = "hyperv")]
            Self::Vmbus { instance, .. } => write!(f, "vmbus:{instance}"),
            #[cfg(feature = "hyperv")]
            Self::VmbusSockets => f.write_str("vmbus:sockets"),
            #[cfg(feature = "xen")]
            Self::Xen(address) => address.fmt(f),
            #[cfg(feature = "xen")]
            Self::XenConsole => f.write_str("xen:console"),
            #[cfg(feature = "xen")]
            Self::XenBalloon => f.write_str("xen:balloon"),
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

/// A device that [`probe`](crate::probe) or [`Services::poll`](crate::Services::poll) found, with its address.
#[non_exhaustive]
pub struct Found<P: Platform, B: DmaBuffer> {
    /// The address of the device.
    pub address: Address,
    /// The opened device, or why it is unclaimed.
    pub device: Device<P, B>,
}

impl<P: Platform, B: DmaBuffer> fmt::Debug for Found<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Found")
            .field("address", &format_args!("{}", self.address))
            .field("device", &self.device)
            .finish()
    }
}

impl<P: Platform, B: DmaBuffer> fmt::Debug for Device<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block(device) => device.fmt(f),
            Self::Net(device) => device.fmt(f),
            Self::Console(device) => device.fmt(f),
            Self::Entropy(device) => device.fmt(f),
            Self::Input(device) => device.fmt(f),
            Self::Sockets(device) => device.fmt(f),
            Self::Balloon(device) => device.fmt(f),
            #[cfg(feature = "virtio")]
            Self::Passthrough(device) => device.fmt(f),
            Self::Unclaimed(device) => fmt::Debug::fmt(device, f),
        }
    }
}

#[cfg(feature = "virtio")]
impl<P: Platform> fmt::Debug for Passthrough<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Passthrough").field(&format_args!("{}", self.device_type)).finish()
    }
}

/// A device in service, or a device that is passed through or unclaimed.
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "moved once")]
pub enum Device<P: Platform, B: DmaBuffer> {
    /// A disk.
    Block(Block<P, B>),
    /// A network card.
    Net(Net<P, B>),
    /// A console.
    Console(AnyConsole<P>),
    /// A source of random bytes.
    Entropy(AnyEntropy<P>),
    /// A keyboard, mouse or tablet.
    Input(AnyInput<P>),
    /// Stream sockets to the host.
    Sockets(AnySockets<P>),
    /// A memory balloon: the host asks the guest for pages and returns them.
    Balloon(AnyBalloon<P>),
    /// A virtio device passed through to a driver outside this library, which the **trust rule does not cover**.
    #[cfg(feature = "virtio")]
    Passthrough(Passthrough<P>),
    /// A device that no driver of this library claimed.
    Unclaimed(Unclaimed),
}

/// A virtio device to pass through to a driver outside this library, such as one of the `virtio-drivers` crate. Those drivers
/// trust the device: a malicious host can make them panic or loop forever.
#[cfg(feature = "virtio")]
pub struct Passthrough<P: Platform> {
    pub(crate) device_type: DeviceType,
    pub(crate) transport: Transport<P>,
}

#[cfg(feature = "virtio")]
impl<P: Platform> Passthrough<P> {
    /// Returns the virtio device type.
    pub fn device_type(&self) -> DeviceType {
        self.device_type
    }

    /// Returns the transport, which has not been reset or negotiated yet, for the constructor of a driver.
    pub fn into_transport(self) -> Transport<P> {
        self.transport
    }
}

/// Identifies an unclaimed device on its bus.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum What {
    /// A virtio device.
    #[cfg(feature = "virtio")]
    Virtio(DeviceType),
    /// A PCI function: vendor, device, class and subclass.
    #[cfg(feature = "pci")]
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
    /// A unit of a SCSI controller.
    ScsiUnit,
    /// A device in Xen's xenstore: its class.
    #[cfg(feature = "xen")]
    Xen(paravirt_xen::bus::Class),
}

/// Why no driver claimed a device.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Reason {
    /// This library has no driver for it.
    NoDriver,
    /// The host passes a PCI device through VMBus, as NVMe disks and MANA network cards on Azure.
    #[cfg(feature = "hyperv")]
    PciPassThrough,
    /// Its PCI transport cannot be used.
    #[cfg(feature = "virtio")]
    Pci(PciError),
    /// The registers of VMware's SCSI adapter cannot be used.
    #[cfg(feature = "vmware")]
    PciDevice(paravirt_pci::OpenError),
    /// The driver of VMware's network card could not open it.
    #[cfg(all(feature = "vmware", feature = "net"))]
    Vmxnet3(paravirt_vmxnet3::OpenError),
    /// The driver of a device of Xen could not open it.
    #[cfg(feature = "xen")]
    XenDevice(paravirt_xen::DeviceError),
    /// Its register block cannot be used.
    #[cfg(feature = "virtio")]
    Mmio(MmioError),
    /// The virtio driver could not open it.
    #[cfg(feature = "virtio")]
    Open(OpenError),
    /// The Dynamic Memory driver could not open it.
    #[cfg(feature = "hyperv")]
    HvBalloon(paravirt_hv_balloon::OpenError),
    /// The driver of the synthetic keyboard or mouse could not open it.
    #[cfg(feature = "hyperv")]
    HvInput(paravirt_hv_input::OpenError),
    /// The NetVSC driver could not open it.
    #[cfg(feature = "hyperv")]
    NetVsc(paravirt_netvsc::OpenError),
    /// The SCSI controller could not be opened.
    Scsi(paravirt_scsi::OpenError),
    /// The SCSI layer has no disk for it.
    Unit(paravirt_scsi::Ignored),
    /// The fixed table for devices of its kind is full (16 SCSI controllers).
    TooMany,
}

/// A device that is present but not in service: there is no driver for it, or its driver failed to open it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Unclaimed {
    /// What the device is.
    pub what: What,
    /// Why it is not in service.
    pub reason: Reason,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(feature = "virtio")]
            Self::Virtio(device) => write!(f, "virtio {device}"),
            #[cfg(feature = "pci")]
            Self::Pci { vendor, device, class, subclass } => {
                // Shared memory of QEMU, whose id is next to those of virtio devices.
                let name = if (*vendor, *device) == (0x1af4, 0x1110) { " (ivshmem)" } else { "" };
                write!(f, "pci {vendor:04x}:{device:04x}{name} class {class:02x}.{subclass:02x}")
            }
            #[cfg(feature = "hyperv")]
            Self::Vmbus(interface) => match paravirt_vmbus::class(interface) {
                Some(class) => write!(f, "vmbus {class}"),
                None => write!(f, "vmbus {interface}"),
            },
            Self::ScsiUnit => f.write_str("scsi unit"),
            #[cfg(feature = "xen")]
            Self::Xen(class) => write!(f, "xen {class}"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDriver => f.write_str("no driver"),
            #[cfg(feature = "hyperv")]
            Self::PciPassThrough => f.write_str(
                "PCI pass-through (NVMe, MANA) is not supported: give the machine a synthetic disk or network card",
            ),
            #[cfg(feature = "virtio")]
            Self::Pci(error) => error.fmt(f),
            #[cfg(feature = "vmware")]
            Self::PciDevice(error) => error.fmt(f),
            #[cfg(all(feature = "vmware", feature = "net"))]
            Self::Vmxnet3(error) => error.fmt(f),
            #[cfg(feature = "xen")]
            Self::XenDevice(error) => error.fmt(f),
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
            Self::Unit(reason) => reason.fmt(f),
            Self::TooMany => f.write_str("too many devices of its kind"),
        }
    }
}

impl fmt::Display for Unclaimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.reason)
    }
}

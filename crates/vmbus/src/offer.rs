use core::fmt;
use hyperv_bindings::{Guid, vmbus};
use zerocopy::FromBytes;

/// A channel that the host offers.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Offer {
    /// The device class.
    pub interface: Guid,
    /// The device. Stays the same over restarts.
    pub instance: Guid,
    /// The host's number for it (relid).
    pub channel: u32,
    /// The connection id that the guest signals.
    pub connection_id: u32,
    /// 0 for the primary channel of a device.
    pub subchannel: u16,
    /// Whether the connection id is the channel's alone.
    pub is_dedicated: bool,
    /// [`VmbusOfferFlags`](vmbus::VmbusOfferFlags).
    pub flags: u16,
    /// MiB of address space that the device needs.
    pub mmio_megabytes: u16,
    /// Data of the device class.
    pub user_defined: [u8; 120],
}

impl Offer {
    /// Whether its packets carry pipe headers.
    pub fn is_pipe(&self) -> bool {
        self.flags & vmbus::VmbusOfferFlags::NAMED_PIPE.bits() != 0
    }

    /// Whether it is one end of a socket: [`Vmbus::poll_socket`](crate::Vmbus::poll_socket) reports it.
    pub fn is_socket(&self) -> bool {
        self.flags & vmbus::VmbusOfferFlags::HVSOCK.bits() != 0
    }

    /// Whether it is a socket that the host has connected to the guest, rather than the guest to the host.
    pub fn is_for_guest(&self) -> bool {
        let user = vmbus::VmbusHvsockUserData::read_from_prefix(&self.user_defined);
        user.is_ok_and(|(user, _)| user.is_for_guest_accept != 0)
    }

    /// The class in a word; `None` where it is not known.
    pub fn class(&self) -> Option<&'static str> {
        class(&self.interface)
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.class() {
            Some(class) => write!(f, "{class} {}", self.instance),
            None => write!(f, "{} {}", self.interface, self.instance),
        }
    }
}

/// The interface of a PCI device that the host passes through (vPCI).
pub const PCI_INTERFACE: Guid = vmbus::PCI;

/// A device class in a word, as [`Offer::class`].
pub fn class(interface: &Guid) -> Option<&'static str> {
    let known: [(&Guid, &str); 16] = [
        (&vmbus::SCSI, "SCSI"),
        (&vmbus::IDE, "IDE"),
        (&vmbus::FIBRE_CHANNEL, "FibreChannel"),
        (&vmbus::NETWORK, "Network"),
        (&vmbus::KEYBOARD, "Keyboard"),
        (&vmbus::MOUSE, "Mouse"),
        (&vmbus::VIDEO, "Video"),
        (&vmbus::SHUTDOWN, "Shutdown"),
        (&vmbus::HEARTBEAT, "Heartbeat"),
        (&vmbus::TIME_SYNC, "TimeSync"),
        (&vmbus::KVP, "KVP"),
        (&vmbus::VSS, "VSS"),
        (&vmbus::FILE_COPY, "FileCopy"),
        (&vmbus::DYNAMIC_MEMORY, "DynamicMemory"),
        (&vmbus::PCI, "PCI"),
        (&vmbus::REMOTE_DESKTOP, "RemoteDesktop"),
    ];
    known.iter().find(|(guid, _)| *guid == interface).map(|(_, name)| *name)
}

//! Versions of the protocol, and what differs between them.

use core::fmt;
use hyperv_bindings::vmbus::VmbusVersion;

/// A version of the protocol.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct Version(pub u32);

impl Version {
    /// The supported versions, the newest first: 6.0 down to 1.1.
    pub const ALL: [Self; 10] = [
        Self(VmbusVersion::COPPER.0),
        Self(VmbusVersion::IRON.0),
        Self(VmbusVersion::WIN10_RS5.0),
        Self(VmbusVersion::WIN10_RS4.0),
        Self(VmbusVersion::WIN10_RS3_1.0),
        Self(VmbusVersion::WIN10_RS3_0.0),
        Self(VmbusVersion::WIN10.0),
        Self(VmbusVersion::WIN8_1.0),
        Self(VmbusVersion::WIN8.0),
        Self(VmbusVersion::WIN7.0),
    ];

    /// The newest of them.
    pub const NEWEST: Self = Self(VmbusVersion::COPPER.0);

    /// Version `major`.`minor`.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self((major as u32) << 16 | minor as u32)
    }

    /// Whether the first contact goes to a port of its own, names source and trust level, and is answered with the port for
    /// all further messages (5.0).
    pub const fn has_message_port(self) -> bool {
        self.0 >= VmbusVersion::WIN10_RS3_1.0
    }

    /// Whether the host answers when a channel's processor is changed (5.3).
    pub const fn answers_modify(self) -> bool {
        self.0 >= VmbusVersion::IRON.0
    }

    /// Whether a channel's processor can be changed (4.1).
    pub const fn has_modify(self) -> bool {
        self.0 >= VmbusVersion::WIN10_RS3_0.0
    }

    /// Whether the connection can be ended by a message (3.0). Below, the host waits for UNLOAD in vain, and answers nothing.
    pub const fn has_unload(self) -> bool {
        self.0 >= VmbusVersion::WIN8_1.0
    }

    /// Whether a channel's events come to the processor that it was opened for, as flags of their own (2.4). Below, they
    /// come to processor 0, through the interrupt page.
    pub const fn has_event_flags(self) -> bool {
        self.0 >= VmbusVersion::WIN8.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> 16, self.0 & 0xffff)
    }
}

//! Hyper-V sockets (hvsock): byte streams between guest and host, each on a VMBus channel of its own.
//!
//! [`HvSockets`] implements [`Sockets`](paravirt_device::Sockets) on a VMBus connection of version 4.0 or later. A port is a service
//! id ([`service`]), the interface type of the channel; Windows hosts accept only service ids that their registry lists.
//!
//! # Lifecycle
//!
//! ```text
//!   connect ─ TL_CONNECT_REQUEST ─► an offer of that instance ─► channel opened ─► open
//!                                └► TL_CONNECT_RESULT, or nothing in time ─► closed
//!   listen ◄─ an offer for the guest, with that id ─► channel opened ─► accept
//!   finish ─ a packet without data ─►      close ─► channel closed ─► rescinded
//! ```
//!
//! # Trust
//!
//! A packet is copied out of the ring once, and handed out from that copy. A malformed one ends its socket, and no other.
//!
//! Sources: the protocol has no published specification; OpenVMM (MIT) and Linux' hv_sock show it.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod sockets;
mod stream;

pub use sockets::HvSockets;

use hyperv_bindings::vmbus;
use paravirt_vmbus::Guid;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A service id: a port and, in the rest of the GUID, the template that all ports share.
#[repr(C)]
#[derive(Copy, Clone, FromBytes, IntoBytes, Immutable)]
struct ServiceId {
    port: U32,
    template: [u8; 12],
}

/// The service id of `port`: the interface type of its channels.
pub fn service(port: u32) -> Guid {
    let ServiceId { template, .. } = zerocopy::transmute!(vmbus::SOCKET.0);
    Guid(zerocopy::transmute!(ServiceId { port: U32::new(port), template }))
}

/// The port of a service id; `None` where the id does not follow the template.
pub fn port(service: &Guid) -> Option<u32> {
    let known: ServiceId = zerocopy::transmute!(vmbus::SOCKET.0);
    let ServiceId { port, template } = zerocopy::transmute!(service.0);
    (template == known.template).then(|| port.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_round_trips_through_its_service_id() {
        let service = service(0x1234);
        assert_eq!(port(&service), Some(0x1234));
        assert_eq!(port(&vmbus::SCSI), None);
    }
}

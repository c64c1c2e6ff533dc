//! Hyper-V's sockets: streams between guest and host, each on a channel of its own.
//!
//! [`HvSockets`] implements [`Sockets`](paravirt_device::Sockets) on a connection of VMBus of version 4.0 or later. A port is the class
//! of the channel ([`service`]); the host has to have granted the class to its guests (on Windows, in the registry).
//!
//! # Lifecycle
//!
//! ```text
//!   connect ─ TL_CONNECT_REQUEST ─► an offer of that instance ─► channel opened ─► open
//!                                └► TL_CONNECT_RESULT, or nothing in time ─► closed
//!   listen ◄─ an offer for the guest, of that class ─► channel opened ─► accept
//!   finish ─ a packet without data ─►      close ─► channel closed ─► the host takes it back
//! ```
//!
//! # Trust
//!
//! A packet is copied out of the ring once, and handed out from that copy. One that is none ends its socket, and no other.
//!
//! Source: the protocol as OpenVMM (MIT) and Linux show it.
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

/// The class of what listens at `port`.
pub fn service(port: u32) -> Guid {
    let Guid([_, _, _, _, rest @ ..]) = vmbus::SOCKET;
    let [a, b, c, d] = port.to_le_bytes();
    let [e, f, g, h, i, j, k, l, m, n, o, p] = rest;
    Guid([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
}

/// The port of a class; `None` where it is no port's.
pub fn port(service: &Guid) -> Option<u32> {
    let Guid([a, b, c, d, rest @ ..]) = *service;
    let Guid([_, _, _, _, known @ ..]) = vmbus::SOCKET;
    (rest == known).then(|| u32::from_le_bytes([a, b, c, d]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_class_and_comes_back() {
        let service = service(0x1234);
        assert_eq!(port(&service), Some(0x1234));
        assert_eq!(port(&vmbus::SCSI), None);
    }
}

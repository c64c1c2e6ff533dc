//! Hyper-V's network: the guest's side of NetVSP, a network device on VMBus.
//!
//! [`NetVsc`] implements [`NetDevice`](paravirt_device::NetDevice); each of its queues is a channel.
//!
//! # Lifecycle
//!
//! ```text
//!   open ─ NVSP 6.1, 6, 5, 4, 2, 1 ─ MTU ─ receive and send buffers ─ RNDIS ─ offloads ─ further channels ─ filter ─► in service
//!                                                                                                                      │
//!          filter 0, HALT ─ channels closed, the primary one last ─ buffers taken down ◄── dropped, faulted, rescinded ─┘
//! ```
//!
//! # The way of a frame
//!
//! * **Out, from a slot**: a slot is a part of a section of the send buffer, which host and guest share. Frames that are
//!   committed between two kicks go to one section, as long as it has room, and leave as one packet of 40 bytes: nothing is
//!   copied, and the host is told once. A frame that no section holds (one that is to be cut up) has a slot of its own.
//! * **Out, from the caller's memory**: a packet names the header, in memory of the driver, and the caller's pages.
//! * **In**: the host writes frames to the receive buffer; a packet names where, several to a packet. Each is copied out once,
//!   when it is looked at, and the packet is completed when the last of its frames is popped.
//!
//! Frames that are sent from the caller's memory cannot be cut up, since what NDIS wants to stand in their headers cannot be
//! written there; and of one whose checksum is to be filled in only its position tells whether it is IPv4 (34) or IPv6 (54).
//!
//! # Trust
//!
//! Packets are copied out of the ring once; headers of frames are copied out of the receive buffer once, and parsed by total
//! functions ([`message`], [`rndis`]). What the host names is inside the receive buffer, or the device is out of service. A
//! completion names what was sent, and is accepted once.
//!
//! ```
//! use paravirt_device::{NetDevice, NetQueue, NetRx, NetTx, TxMeta};
//! use paravirt_hyperv::Hypervisor;
//! use paravirt_netvsc::{INTERFACE, NetOptions, NetVsc};
//! use paravirt_platform::DmaSlice;
//! use paravirt_testhost::{Guest, HvHost, HvOffer, NetVspHost, OfferSettings};
//! use paravirt_vmbus::{Version, Vmbus};
//!
//! let guest = Guest::with(1, true);
//! let host = HvHost::new(&guest, HvOffer::least());
//! let wire = NetVspHost::new();
//! let settings = OfferSettings { interface: INTERFACE, ..OfferSettings::default() };
//! let channel = host.add(&guest, settings, wire.clone());
//!
//! let hypervisor = Hypervisor::open(&guest)?;
//! let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST)?;
//! let offer = vmbus.find(&Default::default(), 0).ok_or("no offer")?;
//! let mut card = NetVsc::<_, DmaSlice<Guest>>::open(&guest, &vmbus, &offer, &NetOptions::default())?;
//! let mut queue = card.take_queue(0).ok_or("no queue")?;
//!
//! let (rx, tx) = queue.split();
//! assert!(tx.reserve(60));
//! tx.slot()[..60].fill(7);
//! tx.commit(60, TxMeta::default())?;
//! tx.kick();
//! assert_eq!(wire.take_sent(), [vec![7; 60]]);
//!
//! wire.receive(&[9; 60]);
//! host.work(&guest, channel);
//! queue.poll()?;
//! let (rx, _) = queue.split();
//! assert_eq!(rx.segment(0).ok_or("no frame")?, [9; 60]);
//! rx.pop();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Source: the protocol as OpenVMM's netvsp (MIT), FreeBSD (BSD) and DPDK (BSD) show it.
#![no_std]
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

#[cfg(test)]
extern crate std;

mod backlog;
mod channel;
mod completions;
mod control;
mod device;
mod encode;
mod error;
mod host_state;
mod in_flight;
mod lso;
pub mod message;
mod offloads;
mod open;
mod pump;
mod queue;
mod receive;
pub mod rndis;
mod send;
mod shared;
mod transaction;
mod transmit_limits;

pub use device::NetVsc;
pub use error::OpenError;
pub use hyperv_bindings::netvsp::NvspVersion;
pub use open::NetOptions;
pub use queue::{NetVscQueue, NetVscRx, NetVscTx};

/// The class of network devices among the devices of VMBus.
pub const INTERFACE: paravirt_vmbus::Guid = hyperv_bindings::vmbus::NETWORK;

//! The guest's side of VMBus, the bus on which every device of a Hyper-V host hangs.
//!
//! [`Vmbus::connect`] makes the connection and collects the offers; [`Vmbus::open`] makes a [`Channel`] of an offer, two rings
//! of packets by which a driver talks to its device. Kernels do not usually use this crate directly: `paravirt` finds the
//! devices and hands them over as the traits of `paravirt-device`.
//!
//! # Lifecycle
//!
//! ```text
//!   connect ─ INITIATE_CONTACT, from 6.0 down ─► connected ─ REQUEST_OFFERS ─► offers
//!      ▲                                            │                           │
//!      │ connect_again                              │ unload               open │        (each channel)
//!      └───────────────── unloaded ◄────────────────┘                           ▼
//!                                                         GPADL ─ OPEN ─► open ─ drop ─► CLOSE, GPADL torn down
//!                                                                          │                │
//!                                                              RESCIND ────┴──► removed ────┴─► RELID_RELEASED
//! ```
//!
//! # Who does what where
//!
//! One handler for each virtual processor, lock-free, wakes the channels whose event flags are set and moves messages from
//! their slot to a queue; it sends nothing. Messages are acted on by whoever calls: a wait for an answer, [`Vmbus::poll`],
//! a channel that finds its ring empty. A kernel that wants to hear of devices that come and go calls `poll` when the waker
//! of [`Vmbus::register`] is woken.
//!
//! # Trust
//!
//! Host messages are copied once and parsed by total functions ([`HostMessage`]); ids in them are looked up in tables of what
//! is awaited, and accepted once. A message that is none puts the connection out of service, a packet that is none its
//! channel. Memory that the host was told of is freed after the host let go of it, else leaked. Every wait has a deadline.
//!
//! ```
//! use core::time::Duration;
//! use paravirt_hyperv::Hypervisor;
//! use paravirt_testhost::{Echo, Guest, HvHost, HvOffer, OfferSettings};
//! use paravirt_vmbus::{ChannelOptions, Version, Vmbus};
//!
//! let guest = Guest::with(1, true);
//! let host = HvHost::new(&guest, HvOffer::least());
//! host.add(&guest, OfferSettings::default(), Echo);
//!
//! let hypervisor = Hypervisor::open(&guest)?;
//! let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST)?;
//! let mut offers = vec![];
//! vmbus.offers(&mut |offer| offers.push(*offer));
//! let mut channel = vmbus.open(&offers[0], &ChannelOptions::default())?;
//! channel.send_in_band(7, true, &[b"hello"])?;
//! channel.kick();
//! let mut buffer = [0; 64];
//! let answer = channel.wait(&mut buffer, Duration::from_secs(1))?;
//! assert_eq!((answer.transaction, answer.payload), (7, &b"hello\0\0\0"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Source: the protocol as OpenVMM (MIT) and FreeBSD (BSD) show it.
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

mod bus;
mod channel;
mod connect;
mod gpadl;
mod inbox;
mod interrupt;
mod message;
mod offer;
pub mod pipe;
mod rings;
mod shared;
mod state;
mod version;

pub use bus::{BusEvent, Vmbus};
pub use channel::{Channel, ChannelOptions, SendError};
pub use connect::ConnectError;
pub use gpadl::Gpadl;
pub use hyperv_bindings::Guid;
pub use message::{HostMessage, Malformed};
pub use offer::{Offer, class};
pub use paravirt_vmbus_ring::{FrameRun, GpaRange, Kind, Packet, Payload, TransferRange, TransferRanges};
pub use state::ChannelError;
pub use version::Version;

//! The guest's side of VMBus, the bus of all synthetic devices of a Hyper-V host.
//!
//! [`Vmbus::connect`] connects to the host and waits for its offers; [`Vmbus::open`] opens a [`Channel`] of an offer, two rings
//! of packets between a driver and its device. Kernels do not usually use this crate directly: `paravirt` finds the
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
//! # Contexts
//!
//! One handler for each virtual processor, without locks, wakes the channels whose event flags are set and moves messages from
//! their slot to an inbox; it sends nothing. It accesses an allocation of its own, which is released after the handlers were
//! unbound. Messages are handled in the context of a caller: a wait for an answer, [`Vmbus::poll`], a channel that finds its ring
//! empty. One caller handles messages at a time; the others go on. The lock of the bus is held for a look at its tables, never
//! while a message is sent or awaited. A kernel that wants the events of devices calls `poll` when the waker of
//! [`Vmbus::register`] is woken. No function of this crate may be called in interrupt context.
//!
//! # Trust
//!
//! Host messages are copied once and parsed by total functions ([`HostMessage`]); ids in them are looked up in tables of what
//! is awaited, and accepted once. A malformed message puts the connection out of service, a malformed packet its
//! channel. Memory that the host was told of is freed after the host has released it, else leaked. Every wait has a deadline.
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
//! Source: TLFS §11 for messages and events; the VMBus protocol as OpenVMM (`vmbus_core`, `vmbus_ring`, MIT) and FreeBSD
//! (`sys/dev/hyperv/vmbus`, BSD) show it.
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
mod timeouts;
mod version;

pub use bus::{BusEvent, Vmbus};
pub use channel::{Channel, ChannelOptions, SendError};
pub use connect::ConnectError;
pub use gpadl::Gpadl;
pub use hyperv_bindings::Guid;
pub use message::{HostMessage, Malformed};
pub use offer::{Offer, PCI_INTERFACE, class};
pub use paravirt_vmbus_ring::{FrameRun, GpaRange, Kind, Packet, Payload, TransferRange, TransferRanges};
pub use state::ChannelError;
pub use timeouts::Timeouts;
pub use version::Version;

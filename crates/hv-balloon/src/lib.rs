//! Hyper-V's dynamic memory: the host takes pages by a balloon, adds memory, and receives a pressure report every second.
//!
//! [`HvBalloon`] implements [`Balloon`](paravirt_device::Balloon) on a VMBus channel.
//!
//! # Lifecycle
//!
//! ```text
//!   open ─ VERSION_REQUEST 2.0, 1.0, 0.3 ─► CAPABILITIES ─► in service
//!                                                             │ poll
//!            BALLOON n ──► pages of the kernel ──► BALLOON_RESPONSE (ranges, several)
//!            UNBALLOON ranges ──► looked up, returned ──►   UNBALLOON_RESPONSE
//!            HOT_ADD range ──► HOT_ADD_RESPONSE                 every second: STATUS
//! ```
//!
//! # Trust
//!
//! The host may return only pages that it was given: anything else is a fault of the device. Memory that it adds is checked for
//! range and overlap; the kernel checks the rest ([`BalloonMemory::add`](paravirt_device::BalloonMemory::add)).
//!
//! ```
//! use hyperv_bindings::{Guid, dynmem::DmVersion};
//! use paravirt_device::Balloon;
//! use paravirt_hv_balloon::{HvBalloon, INTERFACE};
//! use paravirt_hyperv::Hypervisor;
//! use paravirt_testhost::{BalloonHost, Guest, HvHost};
//! use paravirt_vmbus::{ChannelOptions, Version, Vmbus};
//!
//! let guest = Guest::with(1, true);
//! HvHost::with_device(&guest, INTERFACE, BalloonHost::new(DmVersion::WIN10));
//! let hypervisor = Hypervisor::open(&guest)?;
//! let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST)?;
//! let offer = vmbus.find(&Guid::default(), 0).ok_or("no offer")?;
//! let balloon = HvBalloon::open(&guest, &vmbus, &offer, &ChannelOptions::default())?;
//! assert_eq!((balloon.version(), balloon.info().held), ((2, 0), 0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Sources: the protocol has no published specification; QEMU's hv-balloon and Linux' hv_balloon show it.
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

mod balloon;
mod message;

pub use balloon::{HvBalloon, OpenError};
pub use message::{HostMessage, Malformed, Ranges};

/// The VMBus interface type of dynamic memory.
pub const INTERFACE: paravirt_vmbus::Guid = hyperv_bindings::vmbus::DYNAMIC_MEMORY;

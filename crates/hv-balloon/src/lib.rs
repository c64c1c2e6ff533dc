//! Hyper-V's dynamic memory: the host takes pages by a balloon, adds memory, and hears every second how the guest is off.
//!
//! [`HvBalloon`] implements [`Balloon`](paravirt_device::Balloon) on a VMBus channel.
//!
//! # Lifecycle
//!
//! ```text
//!   open ─ VERSION_REQUEST 2.0, 1.0, 0.3 ─► CAPABILITIES ─► in service
//!                                                             │ poll
//!            BALLOON n ──► pages of the kernel ──► BALLOON_RESPONSE (ranges, several)
//!            UNBALLOON ranges ──► looked up, given back ──► UNBALLOON_RESPONSE
//!            HOT_ADD range ──► HOT_ADD_RESPONSE                 every second: STATUS
//! ```
//!
//! # Trust
//!
//! What the host gives back must be pages that it was given: anything else is a fault of the device. What it adds is checked as
//! far as the driver can: the rest is the kernel's to check ([`BalloonMemory::add`](paravirt_device::BalloonMemory::add)).
//!
//! Source: the protocol as QEMU's hv-balloon and Linux' hv_balloon show it.
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

/// The class of dynamic memory among the devices of VMBus.
pub const INTERFACE: paravirt_vmbus::Guid = hyperv_bindings::vmbus::DYNAMIC_MEMORY;

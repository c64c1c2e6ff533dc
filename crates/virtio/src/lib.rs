//! virtio guest drivers that do not trust the device.
//!
//! The queue ([`queue`]), the transports ([`transport`]) and the drivers of block, network, console, entropy, input, socket and
//! balloon devices belong to this crate and follow the trust rule: a device can corrupt neither memory nor control flow. A value
//! that a device writes is read once, checked, and accepted once. A protocol violation results in a
//! [`Fault`](paravirt_device::Fault) that takes only that device out of service, and every buffer in flight is reclaimed.
//!
//! Most kernels do not use this crate directly: `paravirt` finds the devices and returns them as implementations of the traits of
//! `paravirt-device`.
//!
//! # Devices of the `virtio-drivers` crate
//!
//! GPU, sound and 9P devices are driven by that crate, over the transport and the `Hal` of the module `passthrough`, with the
//! feature of that name. These drivers use the queue of `virtio-drivers` and do **not follow the trust rule**: a device can make
//! them panic, spin or lose a wake-up.
//!
//! # References
//!
//! "VIRTIO 1.3 §n" is a section of *Virtual I/O Device (VIRTIO) Version 1.3*, OASIS.
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

pub mod balloon;
pub mod blk;
pub mod console;
mod device;
pub mod features;
pub mod input;
pub mod net;
#[cfg(feature = "passthrough")]
pub mod passthrough;
pub mod queue;
mod request_queue;
pub mod rng;
pub mod scsi;
pub mod socket;
pub mod transport;

pub use device::OpenOptions;

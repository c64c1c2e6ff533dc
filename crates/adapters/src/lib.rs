//! Between paravirt and other crates' traits; each adapter behind a feature of its name.
//!
//! | feature | module | what it makes of what |
//! |---|---|---|
//! | `smoltcp` | [`smoltcp`](mod@smoltcp) | a `phy::Device` of network queues |
//! | `embassy` | [`embassy`] | an `embassy_net_driver::Driver` of a device and a queue |
//! | `embedded-io` | [`console`] | `embedded_io` streams of a console |
//! | `virtio-drivers-hal` | [`hal`] | a paravirt platform of an existing `virtio_drivers::Hal` and a clock |
//!
//! ```
//! # #[cfg(feature = "smoltcp")]
//! # mod example {
//! use paravirt_adapters::smoltcp::Device;
//! use paravirt_device::{NetInfo, NetQueue};
//!
//! // What a smoltcp interface is made of, over whichever card the machine has.
//! fn stack<Q: NetQueue>(queue: Q, info: &NetInfo, scratch: &'static mut [u8]) -> impl smoltcp::phy::Device {
//!     Device::new([queue], info, scratch)
//! }
//! # }
//! ```
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

mod checksum;
#[cfg(feature = "embedded-io")]
pub mod console;
#[cfg(feature = "embassy")]
pub mod embassy;
#[cfg(feature = "virtio-drivers-hal")]
pub mod hal;
#[cfg(feature = "smoltcp")]
pub mod smoltcp;

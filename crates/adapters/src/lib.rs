//! Adapters between paravirt and the traits of other crates, each behind a separate feature.
//!
//! A kernel gets a device from `paravirt`, wraps it, and passes the adapter to its network stack; the adapter owns what it wraps.
//! Adapters run in task context.
//!
//! | feature | module | adapter |
//! |---|---|---|
//! | `smoltcp` | `smoltcp` | `phy::Device` over network queues |
//! | `embassy` | `embassy` | `embassy_net_driver::Driver` over a device and a queue |
//! | `embedded-io` | `console` | `embedded_io` streams over a console |
//! | `virtio-drivers-hal` | `hal` | `Platform` over an existing `virtio_drivers::Hal` and a clock |
//!
//! ```
//! # #[cfg(feature = "smoltcp")]
//! # mod example {
//! use paravirt_adapters::smoltcp::Device;
//! use paravirt_device::{NetInfo, NetQueue};
//!
//! // The device of a smoltcp interface, for any network device.
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

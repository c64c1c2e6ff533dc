//! Hyper-V's integration services: the host asks the guest to end, looks whether it lives, tells the time, and exchanges names
//! and values with it; backups and files are declined.
//!
//! A [`Connection`] is one service on its channel. What it asks goes to the kernel's [`Agent`]; what needs no kernel, as the
//! heartbeat, is answered here. Every message is answered, and a request to end is answered ahead of the end.
//!
//! # Trust
//!
//! A message is copied out of the ring once, and answered in that copy by total functions ([`answer`]). One that is malformed is
//! not answered, and nothing of it is believed.
//!
//! ```
//! use paravirt_device::{Agent, Fault, PowerRequest};
//! use paravirt_hv_ic::Connection;
//! use paravirt_platform::Platform;
//!
//! #[derive(Default)]
//! struct Kernel {
//!     must_end: bool,
//! }
//!
//! impl Agent for Kernel {
//!     fn power(&mut self, request: PowerRequest, _is_forced: bool) -> bool {
//!         self.must_end = request == PowerRequest::PowerOff;
//!         self.must_end
//!     }
//! }
//!
//! /// Serves a service; whether the kernel is to end.
//! fn serve<P: Platform>(shutdown: &mut Connection<P>) -> Result<bool, Fault> {
//!     let mut kernel = Kernel::default();
//!     shutdown.serve(None, &mut kernel)?;
//!     Ok(kernel.must_end)
//! }
//! ```
//!
//! Source: the protocol as OpenVMM (MIT) and FreeBSD (BSD) show it.
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

#[cfg(test)]
extern crate std;

mod connection;
mod kvp;
mod message;
mod text;

pub use connection::Connection;
pub use message::{Malformed, Service, answer};

use hyperv_bindings::vmbus;
use paravirt_device::Agent;
use paravirt_vmbus::Guid;

/// The service that a class of devices is.
pub fn service(interface: &Guid) -> Option<Service> {
    Some(match *interface {
        vmbus::SHUTDOWN => Service::Shutdown,
        vmbus::HEARTBEAT => Service::Heartbeat,
        vmbus::TIME_SYNC => Service::TimeSync,
        vmbus::KVP => Service::KeyValue,
        vmbus::VSS => Service::Backup,
        vmbus::FILE_COPY => Service::FileCopy,
        _ => return None,
    })
}

/// An agent that declines everything.
#[derive(Copy, Clone, Debug, Default)]
pub struct Nobody;

impl Agent for Nobody {}

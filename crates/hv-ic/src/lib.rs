//! Hyper-V's integration services: shutdown, heartbeat, time synchronisation and key-value pairs. Backups and file copies are
//! declined.
//!
//! A [`Connection`] is one service on its VMBus channel. What the host asks is passed to the kernel's [`Agent`]; what needs no
//! kernel, such as the heartbeat, is answered here. Every well-formed message is answered, a request to shut down as well: the
//! kernel sends the answer before it acts ([`Connection::is_flushed`]).
//!
//! # Trust
//!
//! A message is copied out of the ring once, and answered in that copy by total functions ([`answer`]). A malformed one is
//! logged and not answered, and nothing of it is used.
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
//! /// Serves the shutdown service; returns whether the kernel is to power off.
//! fn serve<P: Platform>(shutdown: &mut Connection<P>) -> Result<bool, Fault> {
//!     let mut kernel = Kernel::default();
//!     shutdown.serve(None, &mut kernel)?;
//!     Ok(kernel.must_end)
//! }
//! ```
//!
//! Sources: the protocol has no published specification; OpenVMM's hyperv_ic (MIT) and FreeBSD's hv_utils (BSD) show it.
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
mod malformed;
mod message;
mod service;
mod text;

pub use connection::Connection;
pub use malformed::Malformed;
pub use message::answer;
pub use service::{Service, service};

use paravirt_device::Agent;

/// An agent that declines every request and knows no fact.
#[derive(Copy, Clone, Debug, Default)]
pub struct Nobody;

impl Agent for Nobody {}

//! SCSI for guest drivers: disks as common block devices, over any transport that carries commands.
//!
//! A transport implements [`ScsiTransport`] and [`ScsiPort`]; a [`Controller`] over it finds the units that are there, and hands
//! them out as [`Disk`]s. `paravirt-storvsc` (Hyper-V) and virtio-scsi are such transports. Kernels do not usually use this crate
//! directly.
//!
//! # Queues and ports
//!
//! All disks of a controller share its ports, and queue `n` of each disk uses port `n`. The commands of a queue are in a table of
//! its own. A port is behind a spin lock, which a queue takes once to send a batch ([`BlockQueue::kick`]) and once to receive
//! what there is ([`BlockQueue::complete`]); a reply to another queue is filed in that queue's inbox, and its owner woken.
//!
//! # The states of a command
//!
//! ```text
//!   submit ─► staged ─ kick ─► sent ─ good ──────────────► done ─► complete
//!                               ▲ │ ─ unit attention ─► sent again, and an event (capacity, units, protection)
//!                               │ │ ─ busy ───────────► sent again after 20 ms, as next_deadline says
//!                               └─┘ ─ a durable write on a unit without FUA ─► a flush behind it, in the same slot
//! ```
//!
//! # Recovery
//!
//! ```text
//!   running ─ a deadline passes ─► the command is aborted, where the transport can ─ it ends in time ─► running
//!      │                                │ it does not, or the transport cannot
//!      └────────────────────────────────▼
//!                                     RESET_BUS ─ all completed in time ─► running
//!                                      │ they did not
//!                                      ▼
//!             ports closed ─ the host confirms ─► everything aborted ─► opened again, scanned again ─► running
//!                    └────── it does not ───────► buffers leaked ─► out of service (Timeout)
//! ```
//!
//! A port that fails (protocol, removed) goes the same way from "ports closed" on, and stays out of service.
//!
//! # Contexts
//!
//! No function of this crate may be called from an interrupt: each takes spin locks that others hold. [`Controller::open`],
//! [`Controller::poll`], [`Disk`]'s `poll_event` and a recovery, which `complete`, `expire` and `reset` of a queue may start, block
//! until the host answers or a deadline of seconds passes; the other calls of a queue do not.
//!
//! # Trust
//!
//! What a unit says is parsed by pure functions ([`Sense`], [`data`]). A reply names a slot and its generation, and is accepted
//! once. No buffer is reclaimed before its command has completed or the port was closed with the host's confirmation, and both are
//! for the transport to say. So the transport traits are unsafe to implement, and safe code cannot make the crate return a
//! buffer that a device still writes:
//!
//! ```compile_fail,E0200
//! use core::task::Waker;
//! use paravirt_device::{Arm, Fault, Rejected};
//! use paravirt_scsi::{Command, Event, ScsiPort};
//!
//! struct Liar;
//! impl ScsiPort for Liar {
//!     fn send(&mut self, _: u64, _: &Command<'_>) -> Result<(), Rejected> { Ok(()) }
//!     fn reset_bus(&mut self, _: u64) -> Result<(), Rejected> { Ok(()) }
//!     fn kick(&mut self) {}
//!     fn receive(&mut self) -> Result<Option<Event>, Fault> { Ok(None) }
//!     fn arm(&mut self) -> Arm { Arm::Armed }
//!     fn disarm(&mut self) {}
//!     fn register(&mut self, _: &Waker) {}
//! }
//! ```
//!
//! ```compile_fail,E0200
//! use paravirt_device::Fault;
//! use paravirt_scsi::{Limits, Scan, ScsiPort, ScsiTransport};
//!
//! struct Liar<P>(P);
//! impl<P: ScsiPort> ScsiTransport for Liar<P> {
//!     type Port = P;
//!     fn open(&mut self, _: usize, _: usize, _: &mut Option<P>) -> Result<(), Fault> { Ok(()) }
//!     fn close(&mut self, _: P) -> Result<(), Fault> { Ok(()) }
//!     fn limits(&self) -> Limits { Limits::new(4096, 1) }
//!     fn scan(&self) -> Scan { Scan::Targets(1) }
//! }
//! ```
//!
//! The same with `unsafe impl` compiles: it is the word `unsafe` alone that is missing.
//!
//! ```
//! use paravirt_device::Fault;
//! use paravirt_scsi::{Limits, Scan, ScsiPort, ScsiTransport};
//!
//! struct Absent<P>(P);
//! // SAFETY: it opens no port, so that no command is ever sent.
//! unsafe impl<P: ScsiPort> ScsiTransport for Absent<P> {
//!     type Port = P;
//!     fn open(&mut self, _: usize, _: usize, _: &mut Option<P>) -> Result<(), Fault> { Ok(()) }
//!     fn close(&mut self, _: P) -> Result<(), Fault> { Ok(()) }
//!     fn limits(&self) -> Limits { Limits::new(4096, 1) }
//!     fn scan(&self) -> Scan { Scan::Targets(1) }
//! }
//! ```
//!
//! [`BlockQueue::kick`]: paravirt_device::BlockQueue::kick
//! [`BlockQueue::complete`]: paravirt_device::BlockQueue::complete
//!
//! Source: SAM-5, SPC-4, SBC-3.
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

mod cdb;
mod command;
mod command_table;
mod controller;
mod controller_shared;
pub mod data;
mod disk;
mod error;
mod identify;
mod inbox;
mod limits;
mod outcome;
mod owner;
mod port_state;
mod queue;
mod sense;
mod slot;
mod state;
mod transfer;
mod transport;
mod unit;

pub use cdb::{CDB_LEN, Cdb};
pub use controller::{Controller, ControllerEvent, Options};
pub use disk::Disk;
pub use error::OpenError;
pub use identify::Ignored;
pub use queue::DiskQueue;
pub use sense::{Attention, Disposition, Sense, key};
pub use transport::{Address, Command, Event, Limits, Scan, ScsiPort, ScsiTransport, Status};

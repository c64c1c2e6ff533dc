//! SCSI for guest drivers: disks as common block devices, over any transport that carries commands.
//!
//! A transport implements [`Adapter`] and [`Port`]; a [`Controller`] over it finds the units that are there, and hands them out
//! as [`Disk`]s. `paravirt-storvsc` (Hyper-V) and virtio-scsi are such transports. Kernels do not usually use this crate
//! directly.
//!
//! # Who does what where
//!
//! All disks of a controller share its ports, and queue `n` of each disk uses port `n`. Whoever looks for a completion takes in
//! all that came on that port, files it under the queue that it belongs to, and wakes who waits for it. A port is behind a spin
//! lock, which is held for the time of one request or of one look; queues that are used on one processor each do not meet.
//!
//! # What happens to a command
//!
//! ```text
//!   submit ─► sent ─ good ──────────────► done ─► complete
//!              ▲ │ ─ unit attention ─► sent again, and an event (capacity, units, protection)
//!              │ │ ─ busy ───────────► sent again after 20 ms, as next_deadline says
//!              └─┘ ─ a durable write on a unit without FUA ─► a flush behind it, in the same slot
//! ```
//!
//! A command past its deadline resets the bus; see [`DiskQueue`] and the crate's README for what follows.
//!
//! # Trust
//!
//! What a unit says is parsed by pure functions ([`Sense`], [`data`]); a reply names a slot and its generation, and is accepted
//! once. No buffer is given back before its command was answered or the port was closed with the host's confirmation.
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
mod limits;
mod port_state;
mod queue;
mod sense;
mod state;
mod transport;
mod unit;

pub use cdb::{CDB_LEN, Cdb};
pub use controller::{Controller, ControllerEvent, Options};
pub use disk::Disk;
pub use error::OpenError;
pub use queue::DiskQueue;
pub use sense::{Attention, Disposition, Sense, key};
pub use transport::{Address, Command, Event, Limits, Scan, ScsiPort, ScsiTransport, Status};

//! The front door of paravirt: one call finds every device of the machine, on every bus, and hands it over as the common
//! traits of [`paravirt_device`].
//!
//! [`probe`] walks PCI (through ECAM that ACPI's MCFG names, else through ports 0xCF8 and 0xCFC) and the virtio devices
//! behind MMIO registers (declared in the DSDT or named on the command line), then the channels of VMBus where there is a
//! Hyper-V, takes what it can drive into service, and names the rest. What the host offers to the machine as a whole comes
//! back as [`Services`]. [`hypervisor::detect`] says on which host this runs; nothing depends on that.
//!
//! # A port
//!
//! A kernel implements the traits of [`paravirt_platform`] for a handle to its own services, and then:
//!
//! ```
//! use paravirt::{Device, Firmware, Options, probe};
//! use paravirt_device::{BlockDevice, BlockQueue, NetDevice};
//! use paravirt_platform::{DmaSlice, Platform};
//!
//! fn start<P: Platform>(kernel: &P, rsdp: Option<u64>, command_line: &str) {
//!     let firmware = Firmware { rsdp, command_line };
//!     // SAFETY: this is a virtual machine, its firmware describes it, and nobody else drives its devices.
//!     let services = unsafe {
//!         probe::<P, DmaSlice<P>>(kernel, &firmware, &Options::default(), &mut |found| match found.device {
//!             Device::Block(mut disk) => {
//!                 let queue = disk.take_queue(0);
//!                 // hand disk and queue to the file system
//!             }
//!             Device::Net(mut card) => {
//!                 let queue = card.take_queue(0);
//!                 // hand card and queue to the network stack
//!             }
//!             Device::Undriven(what) => log::info!("{}: {what}", found.address),
//!             _ => {}
//!         })
//!     };
//!     // Keep what it returns: hot plug, the clock, crash reports, and the goodbye at the end.
//! }
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

mod any;
mod controllers;
mod found;
pub mod hypervisor;
mod integration;
#[cfg(feature = "passthrough")]
mod passed;
mod physical;
mod probe;
mod services;
mod timer;

pub use any::{AnyBalloon, AnyClock, AnyConsole, AnyEntropy, AnyInput, AnySockets, Block, BlockQ, Net, NetQ};
pub use found::{Address, Device, Found, Passed, Place, Reason, Undriven, What};
pub use paravirt_scsi::Address as UnitAddress;
pub use paravirt_virtio::transport::AnyTransport;
pub use paravirt_vmbus as vmbus;
pub use paravirt_vmbus::Version as VmbusVersion;
#[cfg(feature = "passthrough")]
pub use passed::PassedDevice;
pub use physical::{Physical, acpi_tables, with_table};
pub use probe::{Firmware, Options, probe};
pub use services::{CrashReporter, Event, Services};
pub use timer::HostTimer;

/// The README's example, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

//! Finds every paravirtual device of a machine, on every bus, and opens it behind the common traits of [`paravirt_device`].
//!
//! [`probe`] enumerates PCI (through ECAM if ACPI has an MCFG, otherwise through ports 0xCF8 and 0xCFC), virtio MMIO devices
//! (declared in the DSDT or on the command line), the channels of VMBus on Hyper-V, and the devices in Xen's xenstore. It opens the devices that have a driver, and
//! reports the others as unclaimed. [`Services`] has the host services that belong to no single device. [`hypervisor::detect`]
//! reports the hypervisor, for information only.
//!
//! # A port
//!
//! A kernel implements the traits of [`paravirt_platform`] for a handle to its services, and then:
//!
//! ```
//! use paravirt::{Device, Firmware, Options, probe};
//! use paravirt_device::{BlockDevice, BlockQueue, NetDevice};
//! use paravirt_platform::{DmaSlice, Platform};
//!
//! fn start<P: Platform>(kernel: &P, rsdp: Option<u64>, command_line: &str) {
//!     let firmware = Firmware::new(rsdp).with_command_line(command_line);
//!     // SAFETY: this is a virtual machine that its firmware describes, and no other driver uses its devices.
//!     let services = unsafe {
//!         probe::<P, DmaSlice<P>>(kernel, &firmware, &Options::default(), &mut |found| match found.device {
//!             Device::Block(mut disk) => {
//!                 let queue = disk.take_queue(0);
//!                 // pass disk and queue to the file system
//!             }
//!             Device::Net(mut card) => {
//!                 let queue = card.take_queue(0);
//!                 // pass card and queue to the network stack
//!             }
//!             Device::Unclaimed(what) => log::info!("{}: {what}", found.address),
//!             _ => {}
//!         })
//!     };
//!     // Keep `services`: hot plug, the clock, crash reports, and the unload at the end.
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
// Without the features of its families or its kind, an enumeration is uninhabited, and its methods use no arguments.
#![cfg_attr(
    not(all(
        feature = "virtio",
        feature = "hyperv",
        feature = "vmware",
        feature = "xen",
        feature = "net",
        feature = "console",
        feature = "entropy",
        feature = "input",
        feature = "sockets",
        feature = "balloon",
        feature = "scsi"
    )),
    allow(unused_variables, unused_mut, unused_imports, unused_macros, dead_code, unreachable_code)
)]

#[cfg(not(any(feature = "virtio", feature = "hyperv", feature = "vmware", feature = "xen")))]
compile_error!(
    "paravirt has no drivers without a family: enable feature `virtio`, `hyperv`, `vmware` or `xen`"
);

#[cfg(feature = "pci")]
mod acpi_events;
mod any;
#[cfg(feature = "pci")]
mod buses;
mod controllers;
#[cfg(feature = "pci")]
mod firmware;
mod found;
#[cfg(feature = "pci")]
mod functions;
#[cfg(feature = "pci")]
mod hot_plug;
#[cfg(feature = "hyperv")]
mod hyperv;
pub mod hypervisor;
#[cfg(feature = "hyperv")]
mod integration;
#[cfg(feature = "pci")]
mod opener;
#[cfg(feature = "passthrough")]
mod passthrough;
#[cfg(feature = "pci")]
mod physical;
mod probe;
mod services;
mod timer;
#[cfg(feature = "virtio")]
mod virtio;
#[cfg(feature = "vmware")]
mod vmware;
#[cfg(feature = "xen")]
mod xen;

pub use any::{
    AnyBalloon, AnyClock, AnyConsole, AnyEntropy, AnyInput, AnySockets, Block, BlockQ, Net, NetQ, Never,
};
#[cfg(feature = "virtio")]
pub use found::Passthrough;
pub use found::{Address, Device, Found, Place, Reason, Unclaimed, What};
#[cfg(feature = "pci")]
pub use paravirt_pci as pci;
pub use paravirt_scsi::Address as UnitAddress;
#[cfg(feature = "hyperv")]
pub use paravirt_vmbus as vmbus;
#[cfg(feature = "hyperv")]
pub use paravirt_vmbus::{Timeouts as VmbusTimeouts, Version as VmbusVersion};
#[cfg(feature = "xen")]
pub use paravirt_xen::bus::{Address as XenAddress, Class as XenClass};
#[cfg(feature = "passthrough")]
pub use passthrough::PassthroughDevice;
#[cfg(feature = "pci")]
pub use physical::{Physical, acpi_tables, with_table};
pub use probe::{Firmware, Options, probe};
pub use services::{CrashReporter, Event, Services};
pub use timer::{HostTimer, TimerError};

/// The examples of the README and of the porting guide, compiled.
#[cfg(all(doctest, feature = "virtio", feature = "hyperv"))]
#[doc = include_str!("../../../README.md")]
#[doc = include_str!("../../../docs/porting.md")]
struct Documents;

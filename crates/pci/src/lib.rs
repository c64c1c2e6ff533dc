//! PCI for guest drivers: configuration space through ECAM or ports, and the walk over the buses.
//!
//! [`ConfigAccess`] reaches the configuration space of one segment, [`enumerate`] walks its buses, gives bus numbers and BAR
//! addresses where firmware left them open, and hands each function over as a [`PciSlot`]: what it is ([`FunctionInfo`]), its
//! BARs, and its configuration space as a [`PciFunction`].
//!
//! Nothing here trusts a device: every walk is bounded, an address that a register names is used by a driver only after the bounds
//! of its BAR were checked. Nothing is called in interrupt context; port access takes a lock for two instructions.
//!
//! # References
//!
//! "PCI 3.0 §n" is a section of *PCI Local Bus Specification, Revision 3.0*, PCI-SIG.
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

mod bar;
mod config;
mod enumerate;
mod function;
mod window;

pub use bar::{Bar, Bars};
pub use config::ConfigAccess;
pub use enumerate::{PciSlot, enumerate};
pub use function::{Address, Command, FunctionInfo, HeaderType, PciFunction};
pub use window::{AddressWidth, Window, Windows};

//! PCI for guest drivers: configuration space through ECAM or ports, and bus enumeration.
//!
//! [`ConfigAccess`] accesses the configuration space of a segment. [`enumerate`] assigns bus numbers and BAR addresses
//! that firmware left unassigned, and returns each function as a [`PciSlot`]: its identity ([`FunctionInfo`]), its BARs,
//! and its configuration space as a [`PciFunction`]. [`device::open`] opens one for a driver: registers, bus mastering and messages, whose
//! handlers an [`InterruptBinding`] binds.
//!
//! Devices are not trusted: every loop is bounded, and drivers check an address from a register against the bounds of its BAR.
//! Do not call this crate in interrupt context: port access takes a lock for two instructions. The transports of
//! `paravirt-virtio` are built on a [`PciSlot`]; `paravirt` calls [`enumerate`] at boot.
//!
//! ```
//! use paravirt_pci::{AddressWidth, Window, Windows};
//!
//! // `Windows` allocates addresses for BARs that firmware left unassigned.
//! let mut windows = Windows::new();
//! assert!(windows.add(Window { start: 0xc000_0000, end: 0xc001_0000 }));
//! assert_eq!(windows.take(0x1000, AddressWidth::Bits32), Some(0xc000_0000));
//! assert_eq!(windows.take(0x2_0000, AddressWidth::Bits32), None);
//! ```
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
mod bridge;
mod capability;
mod config;
pub mod device;
mod enumerate;
mod function;
mod functions;
mod hot_plug;
mod interrupts;
mod messages;
mod presence;
mod slot;
mod walk;
mod window;

pub use bar::{Bar, Bars};
pub use bridge::{buses_behind, forwarded};
pub use capability::{BarRange, Capability, MsiCapability, MsixCapability, capabilities};
pub use config::{ConfigAccess, ConfigSpace};
pub use device::{DeviceBox, OpenError, PciDevice};
pub use enumerate::{Enumeration, enumerate, enumerate_device};
pub use function::{Address, Command, FunctionInfo, HeaderType, PciFunction};
pub use hot_plug::{AcpiHotPlug, HotPlugPort, PortEvent, SlotChanges};
pub use interrupts::{Bound, Handlers, InterruptBinding};
pub use messages::Messages;
pub use presence::{Presence, PresenceTable};
pub use slot::PciSlot;
pub use window::{AddressWidth, Window, Windows};

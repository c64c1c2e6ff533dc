//! Xen, for guests of the kinds HVM and PVH.
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

mod balloon;
pub mod bus;
mod calls;
mod clock;
mod console;
mod control;
mod detect;
mod device;
mod early;
mod events;
mod grants;
mod hypervisor;
mod ring;
mod store;
mod text;
mod timer;
mod unplug;

pub use balloon::XenBalloon;
pub use calls::{CallError, Shutdown};
pub use clock::XenClock;
pub use console::XenConsole;
pub use control::Control;
pub use detect::Detected;
pub use device::{Device, DeviceClass, DeviceError, FrontQueue, InFlight, QueueNodes, Slot, SlotBox, Status};
pub use early::{Early, EarlyConsole, TimeArea};
pub use events::Port;
pub use grants::{Access, GrantRange};
pub use hypervisor::{Hypervisor, OpenError};
pub use ring::FrontRing;
pub use store::{Store, StoreError, Transaction, Watch};
pub use text::Text;
pub use timer::XenTimer;
pub use unplug::unplug;

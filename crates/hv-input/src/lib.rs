//! Hyper-V's keyboard and mouse.
//!
//! [`HvInput`] implements [`Input`](paravirt_device::Input) on a VMBus channel of either class. A keyboard says scan codes, a mouse
//! sends reports of a HID device, which says ahead what they hold; both come out as events that name no vendor.
//!
//! # Trust
//!
//! A message is copied out of the ring once and parsed by total functions ([`HostMessage`], [`Layout`]). One that is shorter than it
//! says is a fault of the device; a descriptor that makes no sense is a mouse without buttons and axes.
//!
//! ```
//! use paravirt_device::{Input, InputEvent, Key};
//! use paravirt_hv_input::HvInput;
//! use paravirt_platform::Platform;
//!
//! /// Whether somebody has pressed Escape.
//! fn is_escaped<P: Platform>(keyboard: &mut HvInput<P>) -> bool {
//!     let mut is_escaped = false;
//!     while let Ok(Some(event)) = keyboard.poll() {
//!         is_escaped |= event == InputEvent::Key { key: Key::ESCAPE, is_pressed: true };
//!     }
//!     is_escaped
//! }
//! ```
//!
//! Source: the protocols as OpenVMM (MIT) shows them; *Device Class Definition for HID* 1.11.
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

mod device;
mod hid;
mod message;

pub use device::{HvInput, OpenError};
pub use hid::{Layout, Pointer};
use hyperv_bindings::vmbus;
use paravirt_vmbus::Guid;

/// Whether a class of devices is one of these.
pub fn is_input(interface: &Guid) -> bool {
    matches!(*interface, vmbus::KEYBOARD | vmbus::MOUSE)
}

pub use message::{HostMessage, Keyboard, Keystroke, Malformed};

//! Hyper-V's keyboard and mouse.
//!
//! [`HvInput`] implements [`Input`](paravirt_device::Input) on a VMBus channel of either class. A keyboard sends scan codes; a mouse
//! sends a HID report descriptor, then reports. Both are translated to the events of `paravirt-device`.
//!
//! # Trust
//!
//! A message is copied out of the ring once and parsed by total functions ([`HostMessage`], [`Layout`]). A malformed one
//! is counted and ignored; a mouse with an unusable descriptor has no buttons and no axes.
//!
//! ```
//! use paravirt_device::{Input, InputEvent, Key};
//! use paravirt_hv_input::HvInput;
//! use paravirt_platform::Platform;
//!
//! /// Whether Escape was pressed.
//! fn is_escaped<P: Platform>(keyboard: &mut HvInput<P>) -> bool {
//!     let mut is_escaped = false;
//!     while let Ok(Some(event)) = keyboard.poll() {
//!         is_escaped |= event == InputEvent::Key { key: Key::ESCAPE, is_pressed: true };
//!     }
//!     is_escaped
//! }
//! ```
//!
//! Sources: *Device Class Definition for HID* 1.11; the VMBus protocols have no published specification, OpenVMM (MIT) shows them.
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

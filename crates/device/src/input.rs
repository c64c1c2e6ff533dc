//! Keyboards, mice and tablets.

use crate::{Fault, Notify};
use core::ops::BitOr;

/// A key or button, identified by its Linux event code, which virtio uses too (VIRTIO 1.3 §5.8): 1 is Escape, 30 the key that is A
/// on an American keyboard, 0x110 the left mouse button. The kernel applies the keyboard layout.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct Key(pub u16);

impl Key {
    /// Escape.
    pub const ESCAPE: Self = Self(1);
    /// Backspace.
    pub const BACKSPACE: Self = Self(14);
    /// Tabulator.
    pub const TAB: Self = Self(15);
    /// Enter.
    pub const ENTER: Self = Self(28);
    /// The left control key.
    pub const LEFT_CONTROL: Self = Self(29);
    /// The left shift key.
    pub const LEFT_SHIFT: Self = Self(42);
    /// The right shift key.
    pub const RIGHT_SHIFT: Self = Self(54);
    /// The left alternate key.
    pub const LEFT_ALT: Self = Self(56);
    /// The space bar.
    pub const SPACE: Self = Self(57);
    /// The right control key.
    pub const RIGHT_CONTROL: Self = Self(97);
    /// The right alternate key.
    pub const RIGHT_ALT: Self = Self(100);
    /// The up arrow key.
    pub const UP: Self = Self(103);
    /// The left arrow key.
    pub const LEFT: Self = Self(105);
    /// The right arrow key.
    pub const RIGHT: Self = Self(106);
    /// The down arrow key.
    pub const DOWN: Self = Self(108);
    /// The left button of a mouse.
    pub const BUTTON_LEFT: Self = Self(0x110);
    /// The right button of a mouse.
    pub const BUTTON_RIGHT: Self = Self(0x111);
    /// The middle button of a mouse.
    pub const BUTTON_MIDDLE: Self = Self(0x112);
    /// The fourth button of a mouse.
    pub const BUTTON_SIDE: Self = Self(0x113);
    /// The fifth button of a mouse.
    pub const BUTTON_EXTRA: Self = Self(0x114);

    /// Returns the key of a scan code of set 1, which PC keyboards and Hyper-V's keyboard send; `is_extended` for a code with the
    /// prefix E0. `None` for a code without a key.
    pub fn from_scan_code(code: u8, is_extended: bool) -> Option<Self> {
        if !is_extended {
            // The event codes of these keys equal their scan codes.
            return matches!(code, 1..=0x53 | 0x56..=0x58).then_some(Self(code.into()));
        }
        Some(Self(match code {
            0x10 => 165,
            0x19 => 163,
            0x1c => 96,
            0x1d => 97,
            0x20 => 113,
            0x21 => 140,
            0x22 => 164,
            0x24 => 166,
            0x2e => 114,
            0x30 => 115,
            0x32 => 172,
            0x35 => 98,
            0x37 => 99,
            0x38 => 100,
            0x46 => 119,
            0x47 => 102,
            0x48 => 103,
            0x49 => 104,
            0x4b => 105,
            0x4d => 106,
            0x4f => 107,
            0x50 => 108,
            0x51 => 109,
            0x52 => 110,
            0x53 => 111,
            0x5b => 125,
            0x5c => 126,
            0x5d => 127,
            0x5e => 116,
            0x5f => 142,
            0x63 => 143,
            0x65 => 217,
            0x66 => 156,
            0x67 => 173,
            0x68 => 128,
            0x69 => 159,
            0x6a => 158,
            0x6b => 157,
            0x6c => 155,
            0x6d => 226,
            _ => return None,
        }))
    }
}

/// The axis of a motion event.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
#[non_exhaustive]
pub enum Axis {
    /// To the right.
    X,
    /// Downwards.
    Y,
    /// The wheel: away from the user is positive, in steps.
    Wheel,
    /// The wheel to the side: to the right is positive, in steps.
    HorizontalWheel,
}

/// An input event. Events up to a [`Sync`](Self::Sync) belong together.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum InputEvent {
    /// A key or button was pressed or released. A held key may be reported as pressed repeatedly.
    Key {
        /// The key or button.
        key: Key,
        /// Whether it is pressed or released.
        is_pressed: bool,
    },
    /// Relative motion.
    Relative {
        /// The axis.
        axis: Axis,
        /// The distance in units of the device.
        by: i32,
    },
    /// An absolute position.
    Absolute {
        /// The axis: [`Axis::X`] or [`Axis::Y`].
        axis: Axis,
        /// The position, from 0 at the left or upper border to [`InputEvent::END`] at the opposite one, whatever the device's
        /// resolution.
        at: u16,
    },
    /// A UTF-16 code unit was typed or released, when the host pastes text.
    Text {
        /// The code unit.
        unit: u16,
        /// Whether it is pressed or released.
        is_pressed: bool,
    },
    /// Another event: its Linux type, code and value, as in VIRTIO 1.3 §5.8.
    Other {
        /// The event type.
        kind: u16,
        /// The event code.
        code: u16,
        /// The event value.
        value: i32,
    },
    /// Ends a group of simultaneous events.
    Sync,
}

impl InputEvent {
    /// The maximum position on an axis.
    pub const END: u16 = 32767;

    /// Scales `value` on an axis that begins at `least` and has `span` steps to the range 0 to [`END`](Self::END), for drivers.
    /// Values out of range are clamped.
    pub fn place(value: i32, least: i32, span: i64) -> u16 {
        let from_least = i64::from(value).saturating_sub(least.into()).max(0);
        let scaled = from_least.saturating_mul(Self::END.into()).checked_div(span).unwrap_or(0);
        u16::try_from(scaled).unwrap_or(u16::MAX).min(Self::END)
    }
}

/// The LEDs of a keyboard that are lit.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Leds(u8);

impl Leds {
    /// No LED.
    pub const NONE: Self = Self(0);
    /// Num lock.
    pub const NUM_LOCK: Self = Self(1);
    /// Caps lock.
    pub const CAPS_LOCK: Self = Self(2);
    /// Scroll lock.
    pub const SCROLL_LOCK: Self = Self(4);

    /// Whether all of `leds` are on.
    pub const fn contains(self, leds: Self) -> bool {
        self.0 & leds.0 == leds.0
    }
}

impl BitOr for Leds {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The capabilities of an input device. `Default` has none; assign the fields.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct InputInfo {
    /// It has the keys of a keyboard.
    pub has_keys: bool,
    /// It has the buttons of a mouse.
    pub has_buttons: bool,
    /// It reports relative motion: [`InputEvent::Relative`].
    pub is_relative: bool,
    /// It reports absolute positions: [`InputEvent::Absolute`].
    pub is_absolute: bool,
}

/// An input device: a keyboard, a mouse or a tablet.
///
/// All methods are for task context. None waits for the host while the device is in service (see the [crate
/// documentation](crate#contexts-waits-and-locks)) or allocates. [`poll`](Self::poll) may take the lock of the device or of its
/// bus for a moment.
pub trait Input: Notify + Send {
    /// The capabilities of the device.
    fn info(&self) -> InputInfo;

    /// Returns the next event; `None` when there is none yet.
    ///
    /// # Errors
    ///
    /// The [`Fault`] when the device is out of service and every event received before has been returned.
    fn poll(&mut self) -> Result<Option<InputEvent>, Fault>;

    /// Sets the LEDs; `false` when the device has none or its queue is full.
    ///
    /// # Errors
    ///
    /// The [`Fault`] when the device is out of service.
    fn set_leds(&mut self, leds: Leds) -> Result<bool, Fault>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scan_codes_map_to_linux_event_codes() {
        assert_eq!(Key::from_scan_code(0x1c, false), Some(Key::ENTER));
        assert_eq!(Key::from_scan_code(0x39, false), Some(Key::SPACE));
        assert_eq!(Key::from_scan_code(0x48, true), Some(Key::UP));
        assert_eq!(Key::from_scan_code(0x48, false), Some(Key(72)));
        assert_eq!([Key::from_scan_code(0, false), Key::from_scan_code(0x7f, true)], [None; 2]);
        assert!(
            (Leds::NUM_LOCK | Leds::CAPS_LOCK).contains(Leds::CAPS_LOCK)
                && !Leds::NONE.contains(Leds::NUM_LOCK)
        );
    }
}

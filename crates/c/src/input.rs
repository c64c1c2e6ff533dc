//! Keyboards, mice and tablets.

use crate::handle::{Handle, Waited, handle};
use crate::platform::Kernel;
use crate::{paravirt_notify, paravirt_status, put};
use paravirt::AnyInput;
use paravirt_device::{Axis, Input as _, InputEvent, Leds};

/// A keyboard, mouse or tablet.
#[derive(Debug)]
pub struct paravirt_input {
    _private: (),
}
handle!(paravirt_input: Waited<AnyInput<Kernel>>);

/// What an input device has.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub struct paravirt_input_info {
    /// Keys of a keyboard.
    pub has_keys: bool,
    /// Buttons of a mouse.
    pub has_buttons: bool,
    /// Relative motion.
    pub is_relative: bool,
    /// Absolute positions.
    pub is_absolute: bool,
}

/// The kind of an input event.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub enum paravirt_input_kind {
    /// Ends a group of simultaneous events.
    Sync,
    /// A key or button: `code` is its Linux event code, `value` whether it is pressed.
    Key,
    /// Relative motion: `code` is an axis, `value` the distance.
    Relative,
    /// An absolute position: `code` is an axis, `value` from 0 to 32767.
    Absolute,
    /// Typed text: `code` is a UTF-16 code unit, `value` whether it is pressed.
    Text,
    /// Another Linux event: type in `other`, `code` and `value`.
    Other,
}

/// Axes, for `paravirt_input_event.code`.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub enum paravirt_axis {
    /// To the right.
    X,
    /// Downwards.
    Y,
    /// The wheel.
    Wheel,
    /// The wheel to the side.
    HorizontalWheel,
}

/// An input event.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub struct paravirt_input_event {
    /// The kind.
    pub kind: paravirt_input_kind,
    /// See the kind.
    pub other: u16,
    /// See the kind.
    pub code: u16,
    /// See the kind.
    pub value: i32,
}

/// The LEDs of a keyboard: num lock.
pub const PARAVIRT_LED_NUM_LOCK: u32 = 1;
/// Caps lock.
pub const PARAVIRT_LED_CAPS_LOCK: u32 = 2;
/// Scroll lock.
pub const PARAVIRT_LED_SCROLL_LOCK: u32 = 4;

/// Writes what the device has.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_input_get_info(device: *mut paravirt_input, out: *mut paravirt_input_info) {
    // SAFETY: the contract of the crate.
    let info = unsafe { paravirt_input::get(device) }.value.info();
    let value = paravirt_input_info {
        has_keys: info.has_keys,
        has_buttons: info.has_buttons,
        is_relative: info.is_relative,
        is_absolute: info.is_absolute,
    };
    // SAFETY: the contract of the crate.
    unsafe { out.write(value) }
}

fn code(axis: Axis) -> u16 {
    (match axis {
        Axis::X => paravirt_axis::X,
        Axis::Y => paravirt_axis::Y,
        Axis::HorizontalWheel => paravirt_axis::HorizontalWheel,
        _ => paravirt_axis::Wheel,
    }) as u16
}

/// Writes the next event; `PARAVIRT_STATUS_EMPTY` if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_input_poll(
    device: *mut paravirt_input,
    out: *mut paravirt_input_event,
) -> paravirt_status {
    use paravirt_input_kind as Kind;
    let event = |kind, code, value| paravirt_input_event { kind, other: 0, code, value };
    // SAFETY: the contract of the crate.
    let polled = unsafe { paravirt_input::get(device) }.value.poll().map(|polled| {
        polled.map(|polled| match polled {
            InputEvent::Key { key, is_pressed } => event(Kind::Key, key.0, is_pressed.into()),
            InputEvent::Relative { axis, by } => event(Kind::Relative, code(axis), by),
            InputEvent::Absolute { axis, at } => event(Kind::Absolute, code(axis), at.into()),
            InputEvent::Text { unit, is_pressed } => event(Kind::Text, unit, is_pressed.into()),
            InputEvent::Other { kind, code, value } => {
                paravirt_input_event { other: kind, ..event(Kind::Other, code, value) }
            }
            _ => event(Kind::Sync, 0, 0),
        })
    });
    // SAFETY: the contract of the crate.
    unsafe { put(polled, out) }
}

/// Lights LEDs: `PARAVIRT_LED_` bits. `PARAVIRT_STATUS_FULL` if the last change is still on its way.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_input_set_leds(device: *mut paravirt_input, leds: u32) -> paravirt_status {
    let all = [
        (PARAVIRT_LED_NUM_LOCK, Leds::NUM_LOCK),
        (PARAVIRT_LED_CAPS_LOCK, Leds::CAPS_LOCK),
        (PARAVIRT_LED_SCROLL_LOCK, Leds::SCROLL_LOCK),
    ];
    let lit = all.into_iter().filter(|(bit, _)| leds & bit != 0).fold(Leds::NONE, |sum, (_, led)| sum | led);
    // SAFETY: the contract of the crate.
    match unsafe { paravirt_input::get(device) }.value.set_leds(lit) {
        Ok(true) => paravirt_status::Ok,
        Ok(false) => paravirt_status::Full,
        Err(fault) => fault.into(),
    }
}

/// Returns what a task waits for events by.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_input_notify(device: *mut paravirt_input) -> *mut paravirt_notify {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_input::notify(device) }
}

/// Closes the device; null is permitted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_input_close(device: *mut paravirt_input) {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_input::close(device) }
}

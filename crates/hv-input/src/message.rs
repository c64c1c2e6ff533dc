//! Messages of the host's keyboard and mouse, parsed by total functions.

use hyperv_bindings::ic::{
    KeyboardEvent, KeyboardEventFlags, KeyboardMessageType, KeyboardProtocolResponse, MouseDeviceInfo,
    MouseHeader, MouseMessageType, MouseProtocolRequest,
};
use paravirt_device::{InputEvent, Key};
use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// The HID descriptor of a device with one report descriptor. HID 1.11 §6.2.1
#[repr(C)]
#[derive(Copy, Clone, FromBytes, Immutable, KnownLayout, Unaligned)]
struct HidDescriptor {
    /// Bytes of this descriptor.
    length: u8,
    descriptor_type: u8,
    version: U16,
    country: u8,
    descriptors: u8,
    report_type: u8,
    /// Bytes of the report descriptor.
    report_length: U16,
}

const _: () = assert!(size_of::<HidDescriptor>() == 9);

/// A message of the host that is shorter than its type or its own lengths say.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Malformed;

/// A message of a keyboard or a mouse.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum HostMessage<'a> {
    /// The answer to the protocol version.
    Version {
        /// Whether the host speaks it.
        is_accepted: bool,
    },
    /// A key went down or up.
    Keystroke(Keystroke),
    /// The report descriptor of a mouse.
    Descriptor(&'a [u8]),
    /// A report of a mouse.
    Report(&'a [u8]),
    /// An unknown message type, to be ignored.
    Other(u32),
}

impl<'a> HostMessage<'a> {
    /// Parses a message of a keyboard.
    ///
    /// # Errors
    ///
    /// [`Malformed`] where it is too short.
    pub fn of_keyboard(message: &'a [u8]) -> Result<Self, Malformed> {
        let (kind, _) = KeyboardMessageType::read_from_prefix(message).map_err(|_| Malformed)?;
        Ok(match kind {
            KeyboardMessageType::PROTOCOL_RESPONSE => {
                let (answer, _) =
                    KeyboardProtocolResponse::read_from_prefix(message).map_err(|_| Malformed)?;
                Self::Version { is_accepted: answer.is_accepted & 1 != 0 }
            }
            KeyboardMessageType::EVENT => {
                let (event, _) = KeyboardEvent::read_from_prefix(message).map_err(|_| Malformed)?;
                let flags = KeyboardEventFlags::from_bits_truncate(event.flags);
                Self::Keystroke(Keystroke { code: event.make_code, flags })
            }
            KeyboardMessageType(other) => Self::Other(other),
        })
    }

    /// Parses a message of a mouse.
    ///
    /// # Errors
    ///
    /// [`Malformed`] where it is shorter than what it says that it holds.
    pub fn of_mouse(message: &'a [u8]) -> Result<Self, Malformed> {
        let (header, body) = MouseHeader::read_from_prefix(message).map_err(|_| Malformed)?;
        match header.message_type {
            MouseMessageType::PROTOCOL_RESPONSE => {
                let (_, behind) = MouseProtocolRequest::read_from_prefix(message).map_err(|_| Malformed)?;
                let is_accepted = behind.first().ok_or(Malformed)? & 1 != 0;
                Ok(Self::Version { is_accepted })
            }
            MouseMessageType::INITIAL_DEVICE_INFO => {
                let hid = message.get(size_of::<MouseDeviceInfo>()..).ok_or(Malformed)?;
                let (descriptor, _) = HidDescriptor::read_from_prefix(hid).map_err(|_| Malformed)?;
                // The report descriptor follows the whole HID descriptor.
                let start = usize::from(descriptor.length);
                let end = start.saturating_add(descriptor.report_length.get().into());
                let is_whole = start >= size_of::<HidDescriptor>();
                hid.get(start..end).filter(|_| is_whole).map(Self::Descriptor).ok_or(Malformed)
            }
            MouseMessageType::INPUT_REPORT => {
                let len = usize::try_from(header.size).map_err(|_| Malformed)?;
                body.get(..len).map(Self::Report).ok_or(Malformed)
            }
            MouseMessageType(other) => Ok(Self::Other(other)),
        }
    }
}

/// A keystroke: a key that went down or up.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Keystroke {
    /// The scan code of set 1, or a unit of UTF-16.
    pub code: u16,
    /// Which of the two `code` is, its prefix, and whether the key went up.
    pub flags: KeyboardEventFlags,
}

/// Translates keystrokes to events. The pause key sends two codes, of which the second is that of Num Lock.
#[derive(Copy, Clone, Debug, Default)]
pub struct Keyboard {
    is_in_pause: bool,
}

/// The two codes of the pause key: Control behind the prefix E1, then Num Lock.
const PAUSE: u16 = 0x1d;
const PAUSE_END: u16 = 0x45;
const PAUSE_KEY: Key = Key(119);
/// The event type of a scan code without a key: Linux' `EV_MSC`.
const SCAN_KIND: u16 = 4;

impl Keyboard {
    /// The event of a keystroke; `None` where it is only a part of a key's sequence.
    pub fn event(&mut self, stroke: Keystroke) -> Option<InputEvent> {
        let Keystroke { code, flags } = stroke;
        let is_pressed = !flags.contains(KeyboardEventFlags::BREAK);
        let is_in_pause = core::mem::take(&mut self.is_in_pause);
        if flags.contains(KeyboardEventFlags::UNICODE) {
            return Some(InputEvent::Text { unit: code, is_pressed });
        }
        let is_extended = flags.contains(KeyboardEventFlags::E0);
        if flags.contains(KeyboardEventFlags::E1) && code == PAUSE {
            self.is_in_pause = true;
            return Some(InputEvent::Key { key: PAUSE_KEY, is_pressed });
        }
        if is_in_pause && code == PAUSE_END && !is_extended {
            return None;
        }
        // Shift that a keyboard makes up around keys with a second meaning.
        if is_extended && matches!(code, 0x2a | 0x36) {
            return None;
        }
        let key = u8::try_from(code).ok().and_then(|code| Key::from_scan_code(code, is_extended));
        Some(match key {
            Some(key) => InputEvent::Key { key, is_pressed },
            None => InputEvent::Other { kind: SCAN_KIND, code: SCAN_KIND, value: code.into() },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn keys_and_pause_and_text() {
        let mut keyboard = Keyboard::default();
        let mut event = |code, flags| keyboard.event(Keystroke { code, flags });
        let key = |number, is_pressed| Some(InputEvent::Key { key: Key(number), is_pressed });
        let none = KeyboardEventFlags::empty();
        let (up, e0, e1) = (KeyboardEventFlags::BREAK, KeyboardEventFlags::E0, KeyboardEventFlags::E1);
        assert_eq!([event(0x1e, none), event(0x1e, up)], [key(30, true), key(30, false)]);
        assert_eq!([event(0x48, e0), event(0x2a, e0)], [key(103, true), None]);
        assert_eq!(
            [event(0x1d, e1), event(0x45, none), event(0x45, none)],
            [key(119, true), None, key(69, true)]
        );
        assert_eq!(
            event(0x20ac, KeyboardEventFlags::UNICODE | up),
            Some(InputEvent::Text { unit: 0x20ac, is_pressed: false })
        );
        assert_eq!(event(0x123, none), Some(InputEvent::Other { kind: 4, code: 4, value: 0x123 }));
    }

    #[test]
    fn messages_are_as_long_as_they_say() {
        assert_eq!(HostMessage::of_keyboard(&[3, 0, 0, 0, 1, 0]), Err(Malformed));
        assert_eq!(HostMessage::of_keyboard(&[9, 0, 0, 0]), Ok(HostMessage::Other(9)));
        let report = [4, 0, 0, 0, 3, 0, 0, 0, 1, 2, 3, 4];
        assert_eq!(HostMessage::of_mouse(&report), Ok(HostMessage::Report(&[1, 2, 3])));
        assert_eq!(HostMessage::of_mouse(&report[..10]), Err(Malformed));
        let mut info: Vec<u8> = [&[2u8, 0, 0, 0, 45, 0, 0, 0][..], &[0; 32]].concat();
        info.extend([9, 0x21, 1, 1, 0, 1, 0x22, 4, 0, 5, 6, 7, 8, 0]);
        assert_eq!(HostMessage::of_mouse(&info), Ok(HostMessage::Descriptor(&[5, 6, 7, 8])));
        info[40] = 8;
        assert_eq!(HostMessage::of_mouse(&info), Err(Malformed));
        info[40] = 20;
        assert_eq!(HostMessage::of_mouse(&info), Err(Malformed));
    }
}

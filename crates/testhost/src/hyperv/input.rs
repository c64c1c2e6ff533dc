//! Models of the host's side of the synthetic keyboard and mouse.

use super::devices::{Packets, VmbusDevice};
use super::ic::{framed, unframed};
use super::ring::HostPacket;
use super::violations::Violations;
use crate::Memory;
use hyperv_bindings::ic::{
    KEYBOARD_VERSION, KeyboardEvent, KeyboardMessageType, KeyboardProtocolRequest, KeyboardProtocolResponse,
    KeyboardSetLedIndicators, MOUSE_VERSION, MouseDeviceInfo, MouseHeader, MouseMessageType,
    MouseProtocolRequest,
};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use zerocopy::{FromBytes, IntoBytes};

/// The HID report descriptor of the mouse: five buttons, absolute X and Y from 0 to 32767, a relative wheel. HID 1.11 §6.2.2
const REPORTS: &[u8] = &[
    0x05, 0x01, 0x09, 0x02, 0xa1, 0x01, 0x09, 0x01, 0xa1, 0x00, 0x05, 0x09, 0x19, 0x01, 0x29, 0x05, 0x15,
    0x00, 0x25, 0x01, 0x95, 0x05, 0x75, 0x01, 0x81, 0x02, 0x95, 0x01, 0x75, 0x03, 0x81, 0x03, 0x05, 0x01,
    0x09, 0x30, 0x09, 0x31, 0x15, 0x00, 0x26, 0xff, 0x7f, 0x75, 0x10, 0x95, 0x02, 0x81, 0x02, 0x09, 0x38,
    0x16, 0x01, 0x80, 0x26, 0xff, 0x7f, 0x95, 0x01, 0x81, 0x06, 0xc0, 0xc0,
];

#[derive(Default)]
struct Device {
    is_mouse: bool,
    refuses: bool,
    /// Whether the version is negotiated and, for a mouse, the guest has acknowledged the device information.
    is_ready: bool,
    send: VecDeque<Vec<u8>>,
    leds: Option<u16>,
    violations: Violations,
}

/// A model of a keyboard or a mouse. A handle: clones are the same device.
#[derive(Clone)]
pub struct InputHost(Arc<Mutex<Device>>);

impl InputHost {
    /// Creates a keyboard.
    pub fn keyboard() -> Self {
        Self(Arc::default())
    }

    /// Creates a mouse with absolute coordinates.
    pub fn mouse() -> Self {
        Self(Arc::new(Mutex::new(Device { is_mouse: true, ..Device::default() })))
    }

    fn with<R>(&self, work: impl FnOnce(&mut Device) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Refuses every version.
    pub fn refuse(&self) {
        self.with(|device| device.refuses = true);
    }

    /// Returns whether the guest is ready for events.
    pub fn is_ready(&self) -> bool {
        self.with(|device| device.is_ready)
    }

    /// Queues a keystroke with its scan code and flags.
    pub fn keystroke(&self, code: u16, flags: u32) {
        let message_type = KeyboardMessageType::EVENT;
        self.send(KeyboardEvent { message_type, make_code: code, reserved: 0, flags }.as_bytes());
    }

    /// Queues a mouse report: buttons, position, and steps of the wheel.
    pub fn report(&self, buttons: u8, x: u16, y: u16, wheel: i16) {
        let report = [&[buttons][..], &x.to_le_bytes(), &y.to_le_bytes(), &wheel.to_le_bytes()].concat();
        let header = MouseHeader { message_type: MouseMessageType::INPUT_REPORT, size: report.len() as u32 };
        self.send(&[header.as_bytes(), &report].concat());
    }

    /// Queues a message that is sent unchanged.
    pub fn send(&self, message: &[u8]) {
        self.with(|device| {
            // Only a mouse is a pipe.
            let packet = if device.is_mouse { framed(message) } else { message.to_vec() };
            device.send.push_back(packet);
        });
    }

    /// Returns the LED state that the guest has set, as on the wire.
    pub fn leds(&self) -> Option<u16> {
        self.with(|device| device.leds)
    }

    /// Returns the protocol violations of the guest so far.
    pub fn violations(&self) -> Vec<String> {
        self.with(|device| device.violations.list().to_vec())
    }
}

impl Device {
    fn keyboard(&mut self, message: &[u8], out: &mut dyn Packets) -> Option<()> {
        match KeyboardMessageType::read_from_prefix(message).ok()?.0 {
            KeyboardMessageType::PROTOCOL_REQUEST => {
                let (request, _) = KeyboardProtocolRequest::read_from_prefix(message).ok()?;
                self.is_ready = request.version == KEYBOARD_VERSION && !self.refuses;
                let message_type = KeyboardMessageType::PROTOCOL_RESPONSE;
                let is_accepted = self.is_ready.into();
                out.in_band(KeyboardProtocolResponse { message_type, is_accepted }.as_bytes());
            }
            KeyboardMessageType::SET_LED_INDICATORS => {
                self.leds = Some(KeyboardSetLedIndicators::read_from_prefix(message).ok()?.0.leds);
            }
            _ => return None,
        }
        Some(())
    }

    fn mouse(&mut self, message: &[u8], out: &mut dyn Packets) -> Option<()> {
        let (header, body) = MouseHeader::read_from_prefix(message).ok()?;
        if body.len() != header.size as usize {
            return None;
        }
        match header.message_type {
            MouseMessageType::PROTOCOL_REQUEST => {
                let (request, _) = MouseProtocolRequest::read_from_prefix(message).ok()?;
                let is_accepted = request.version == MOUSE_VERSION && !self.refuses;
                let header = MouseHeader { message_type: MouseMessageType::PROTOCOL_RESPONSE, size: 5 };
                let version = request.version.to_le_bytes();
                out.in_band(&framed(&[header.as_bytes(), &version, &[is_accepted.into()]].concat()));
                if is_accepted {
                    out.in_band(&framed(&description()));
                }
            }
            MouseMessageType::DEVICE_INFO_ACK => self.is_ready = true,
            _ => return None,
        }
        Some(())
    }
}

/// Returns the device information message of the mouse.
fn description() -> Vec<u8> {
    let usb = [9, 0x21, 1, 1, 0, 1, 0x22, REPORTS.len() as u8, 0];
    let attributes = size_of::<MouseDeviceInfo>() - size_of::<MouseHeader>();
    let size = (attributes + usb.len() + REPORTS.len()) as u32;
    let header = MouseHeader { message_type: MouseMessageType::INITIAL_DEVICE_INFO, size };
    let (vendor, product) = (0x045e, 0x0621);
    let attributes_size = attributes as u32;
    let info = MouseDeviceInfo { header, attributes_size, vendor, product, version: 2, reserved: [0; 11] };
    [info.as_bytes(), &usb, REPORTS].concat()
}

impl VmbusDevice for InputHost {
    fn open(&mut self) {
        self.with(|device| device.is_ready = false);
    }

    fn packet(&mut self, _memory: &Memory, packet: &HostPacket<'_>, out: &mut dyn Packets) {
        self.with(|device| {
            let taken = if device.is_mouse {
                unframed(packet.payload).and_then(|message| device.mouse(message, out))
            } else {
                device.keyboard(packet.payload, out)
            };
            if taken.is_none() {
                device.violations.note("a malformed message");
            }
        });
    }

    fn poll(&mut self, _memory: &Memory, out: &mut dyn Packets) {
        self.with(|device| {
            if device.is_ready {
                device.send.drain(..).for_each(|bytes| out.in_band(&bytes));
            }
        });
    }
}

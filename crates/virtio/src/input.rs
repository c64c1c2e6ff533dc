//! Keyboards, mice and tablets. VIRTIO 1.3 §5.8

use crate::device::{OpenOptions, VirtioDevice};
use crate::features::Features;
use crate::request_queue::{BufferQueue, Outcome, QueueBuilder, QueueParams};
use crate::transport::{OpenError, Transport, VirtioTransport, read_config};
use core::task::Waker;
use paravirt_device::{Arm, Axis, Fault, Input, InputEvent, InputInfo, Key, Leds, Notify};
use paravirt_platform::{Direction, DmaSlice, Fifo, Platform, ProcessorId};

const EVENTS: u16 = 0;
const STATUS: u16 = 1;
/// Buffers for events, and for what is said to the device.
const EVENT_BUFFERS: u16 = 64;
const STATUS_BUFFERS: u16 = 8;
/// Bytes of an event: type, code, value. §5.8.5
const EVENT_LEN: usize = 8;
/// What configuration answers, from its beginning: 8 bytes of head, and of the answer as many as are looked at. §5.8.4
const ANSWER: usize = 8;
const CONFIG_LEN: usize = ANSWER + 36;

/// Questions to configuration.
mod question {
    pub const BITS: u8 = 0x11;
    pub const AXIS: u8 = 0x12;
}

/// Types of events, as Linux numbers them.
mod kind {
    pub const SYNC: u16 = 0;
    pub const KEY: u16 = 1;
    pub const RELATIVE: u16 = 2;
    pub const ABSOLUTE: u16 = 3;
    pub const LED: u16 = 0x11;
}

/// What an axis counts: the least, and how many steps there are from it to the largest.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Range {
    /// The value at the left or upper border.
    pub least: i32,
    /// Steps to the other one.
    pub span: u32,
}

impl Range {
    /// Where `value` is between the borders.
    fn place(self, value: i32) -> u16 {
        InputEvent::place(value, self.least, self.span.into())
    }
}

/// Says what an event of the device means; `x` and `y` are what its axes count. Total.
pub fn event(bytes: [u8; EVENT_LEN], x: Range, y: Range) -> InputEvent {
    let [k0, k1, c0, c1, value @ ..] = bytes;
    let (kind, code) = (u16::from_le_bytes([k0, k1]), u16::from_le_bytes([c0, c1]));
    let value = i32::from_le_bytes(value);
    let relative = |axis| InputEvent::Relative { axis, by: value };
    match (kind, code) {
        (kind::SYNC, 0) => InputEvent::Sync,
        (kind::KEY, code) => InputEvent::Key { key: Key(code), is_pressed: value != 0 },
        (kind::RELATIVE, 0) => relative(Axis::X),
        (kind::RELATIVE, 1) => relative(Axis::Y),
        (kind::RELATIVE, 6) => relative(Axis::HorizontalWheel),
        (kind::RELATIVE, 8) => relative(Axis::Wheel),
        (kind::ABSOLUTE, 0) => InputEvent::Absolute { axis: Axis::X, at: x.place(value) },
        (kind::ABSOLUTE, 1) => InputEvent::Absolute { axis: Axis::Y, at: y.place(value) },
        _ => InputEvent::Other { kind, code, value },
    }
}

/// A virtio input device.
pub struct VirtioInput<P: Platform> {
    events: BufferQueue<P, DmaSlice<P>>,
    status: BufferQueue<P, DmaSlice<P>>,
    event_spare: Fifo<P, DmaSlice<P>>,
    status_spare: Fifo<P, DmaSlice<P>>,
    info: InputInfo,
    has_leds: bool,
    x: Range,
    y: Range,
}

/// Asks configuration; how many bytes it answers, and the beginning of the answer.
fn ask(transport: &mut dyn VirtioTransport, select: u8, of: u16) -> (usize, [u8; CONFIG_LEN]) {
    const FIELDS: &[(u8, u8)] =
        &[(2, 1), (8, 4), (12, 4), (16, 4), (20, 4), (24, 4), (28, 4), (32, 4), (36, 4), (40, 4)];
    if !transport.write_config(0, &[select]) || !transport.write_config(1, &[of as u8]) {
        return (0, [0; CONFIG_LEN]);
    }
    let answer: [u8; CONFIG_LEN] = read_config(transport, FIELDS);
    let len = usize::from(answer.get(2).copied().unwrap_or(0));
    (len, answer)
}

/// Whether there is any of `codes` among the events of type `of`.
fn has(transport: &mut dyn VirtioTransport, of: u16, mut codes: core::ops::Range<usize>) -> bool {
    let (len, answer) = ask(transport, question::BITS, of);
    let bitmap = answer.get(ANSWER..).unwrap_or_default();
    let bitmap = bitmap.get(..len).unwrap_or(bitmap);
    codes.any(|code| bitmap.get(code >> 3).is_some_and(|byte| byte >> (code & 7) & 1 != 0))
}

fn range(transport: &mut dyn VirtioTransport, axis: u16) -> Range {
    let (len, answer) = ask(transport, question::AXIS, axis);
    match answer.get(ANSWER..).and_then(<[u8]>::first_chunk) {
        Some([a, b, c, d, e, f, g, h]) if len >= 8 => {
            let (least, most) = (i32::from_le_bytes([*a, *b, *c, *d]), i32::from_le_bytes([*e, *f, *g, *h]));
            let span = i64::from(most).saturating_sub(least.into());
            Range { least, span: u32::try_from(span).unwrap_or(0) }
        }
        _ => Range::default(),
    }
}

impl<P: Platform> VirtioInput<P> {
    /// Takes the device into service.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the device has then been reset.
    pub fn open(platform: &P, transport: Transport<P>, options: &OpenOptions) -> Result<Self, OpenError> {
        let device = VirtioDevice::open(platform, transport, |_| Features::SUPPORTED.bits())?;
        let params = |index, most| QueueParams::new(index, options.queue_size.min(most));
        let events = QueueBuilder::new(&device, &params(EVENTS, EVENT_BUFFERS))?;
        let status = QueueBuilder::new(&device, &params(STATUS, STATUS_BUFFERS))?;
        let (info, has_leds, x, y) = device.with_transport(|transport| {
            let mut info = InputInfo::default();
            info.has_keys = has(transport, kind::KEY, 0..0x100);
            info.has_buttons = has(transport, kind::KEY, 0x110..0x118);
            info.is_relative = has(transport, kind::RELATIVE, 0..2);
            info.is_absolute = has(transport, kind::ABSOLUTE, 0..2);
            let has_leds = has(transport, kind::LED, 0..8);
            (info, has_leds, range(transport, 0), range(transport, 1))
        });
        device.start(|_| ProcessorId(0))?;
        let event_spare = BufferQueue::<P, DmaSlice<P>>::pool(platform, EVENT_BUFFERS, EVENT_LEN)?;
        let status_spare = BufferQueue::<P, DmaSlice<P>>::pool(platform, STATUS_BUFFERS, EVENT_LEN)?;
        let (events, mut status) = (events.build()?, status.build()?);
        // QEMU up to 10.0 says how much it has read.
        status.queue_mut().ignore_lengths();
        let mut input = Self { events, status, event_spare, status_spare, info, has_leds, x, y };
        input.events.refill(&mut input.event_spare);
        Ok(input)
    }
}

impl<P: Platform> Notify for VirtioInput<P> {
    fn arm(&mut self) -> Arm {
        self.events.refill(&mut self.event_spare);
        let status = if self.status.fault().is_some() { self.status.arm() } else { Arm::Armed };
        if status == Arm::Pending { Arm::Pending } else { self.events.arm() }
    }

    fn disarm(&mut self) {
        self.events.disarm();
    }

    fn register(&mut self, waker: &Waker) {
        self.events.register(waker);
        self.status.register(waker);
        self.events.device().config_cell().register(waker);
    }
}

impl<P: Platform> Input for VirtioInput<P> {
    fn info(&self) -> InputInfo {
        self.info
    }

    fn poll(&mut self) -> Result<Option<InputEvent>, Fault> {
        loop {
            let (came, used) = match self.events.next() {
                Ok(Some(Outcome::Used(used))) => (true, used),
                Ok(Some(Outcome::Aborted(used))) => (false, used),
                // A device that is reset starts again once both queues have been looked at.
                idle => {
                    // Also notices that the device is gone, or wants to be reset.
                    let _ = self.events.device().take_config_change();
                    let status = self.status.take_back(&mut self.status_spare).map(|_| ());
                    for result in [idle.map(|_| ()), status] {
                        match result {
                            Ok(()) | Err(Fault::Reset) => {}
                            Err(fault) => return Err(fault),
                        }
                    }
                    self.events.refill(&mut self.event_spare);
                    return Ok(None);
                }
            };
            let Some(buffer) = used.buffer else { continue };
            let bytes = buffer.bytes().first_chunk().copied();
            let _ = self.event_spare.push(buffer);
            if let Some(bytes) = bytes.filter(|_| came && used.len as usize == EVENT_LEN) {
                return Ok(Some(event(bytes, self.x, self.y)));
            }
        }
    }

    fn set_leds(&mut self, leds: Leds) -> Result<bool, Fault> {
        match self.status.take_back(&mut self.status_spare) {
            Ok(_) | Err(Fault::Reset) => {}
            Err(fault) => return Err(fault),
        }
        // In the order of their codes. The end of what belongs together is not told: QEMU does not know it in this direction.
        let lights = [Leds::NUM_LOCK, Leds::CAPS_LOCK, Leds::SCROLL_LOCK];
        let is_ready = self.status.fault().is_none()
            && self.status_spare.len() >= lights.len()
            && self.status.queue().has_room(lights.len() as u16);
        if !self.has_leds || !is_ready {
            return Ok(false);
        }
        for (code, led) in (0u64..).zip(lights) {
            let Some(mut buffer) = self.status_spare.pop() else { break };
            let value = u64::from(leds.contains(led));
            let bytes = u64::from(kind::LED) | code << 16 | value << 32;
            buffer.bytes_mut().copy_from_slice(&bytes.to_le_bytes());
            if !self.status.submit_from(buffer, Direction::ToDevice, &mut self.status_spare) {
                break;
            }
        }
        self.status.kick();
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: u16, code: u16, value: i32, range: Range) -> InputEvent {
        let [a, b] = kind.to_le_bytes();
        let [c, d] = code.to_le_bytes();
        let [e, f, g, h] = value.to_le_bytes();
        event([a, b, c, d, e, f, g, h], range, Range::default())
    }

    #[test]
    fn places_are_between_the_borders_whatever_the_device_says() {
        let wide = Range { least: i32::MIN, span: u32::MAX };
        let x = |at| InputEvent::Absolute { axis: Axis::X, at };
        assert_eq!(of(3, 0, i32::MAX, wide), x(InputEvent::END));
        assert_eq!(of(3, 0, i32::MIN, wide), x(0));
        let small = Range { least: 10, span: 2 };
        assert_eq!([9, 11, 12, 13].map(|value| of(3, 0, value, small)), [x(0), x(16383), x(32767), x(32767)]);
        assert_eq!(of(3, 0, 7, Range::default()), x(0));
    }

    #[test]
    fn events_mean_what_linux_means() {
        let none = Range::default();
        assert_eq!(of(1, 30, 1, none), InputEvent::Key { key: Key(30), is_pressed: true });
        assert_eq!(of(2, 8, -1, none), InputEvent::Relative { axis: Axis::Wheel, by: -1 });
        assert_eq!(of(4, 4, 5, none), InputEvent::Other { kind: 4, code: 4, value: 5 });
        assert_eq!(of(0, 0, 0, none), InputEvent::Sync);
    }
}

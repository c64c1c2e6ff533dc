//! Keyboards, mice and tablets. VIRTIO 1.3 §5.8

use crate::device::{OpenOptions, VirtioDevice};
use crate::features::Features;
use crate::request_queue::{BoxedQueue, BufferQueue, Outcome, QueueBuilder, QueueParams};
use crate::transport::{OpenError, Transport, VirtioTransport, config_fields, read_config};
use core::fmt;
use core::task::Waker;
use paravirt_device::{Arm, Axis, Fault, Input, InputEvent, InputInfo, Key, Leds, Notify};
use paravirt_platform::{Direction, DmaSlice, Fifo, Platform, ProcessorId};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const EVENTS: u16 = 0;
const STATUS: u16 = 1;
/// Buffers of the event and the status queue.
const EVENT_BUFFERS: u16 = 64;
const STATUS_BUFFERS: u16 = 8;

/// `struct virtio_input_event`: types and codes are those of Linux's evdev interface. VIRTIO 1.3 §5.8.6
#[derive(Copy, Clone, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct WireEvent {
    /// Type: `EV_*`.
    pub kind: U16,
    /// Code: what the type's values belong to.
    pub code: U16,
    /// Value, in two's complement.
    pub value: U32,
}

const EVENT_LEN: usize = size_of::<WireEvent>();
const _: () = assert!(EVENT_LEN == 8);

/// The largest value of a configuration query that is read, in bytes: the bitmap of 288 codes. Longer values are truncated.
const VALUE_LEN: usize = 36;

/// `struct virtio_input_config`, with a shorter value. VIRTIO 1.3 §5.8.4
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct WireConfig {
    _select: u8,
    _subsel: u8,
    /// Bytes of the value that are valid; 0 if the device does not know the query.
    size: u8,
    _reserved: [u8; 5],
    value: [u8; VALUE_LEN],
}

const CONFIG_LEN: usize = size_of::<WireConfig>();
const _: () = assert!(CONFIG_LEN == 44 && core::mem::offset_of!(WireConfig, value) == 8);

/// The start of `struct virtio_input_absinfo`. VIRTIO 1.3 §5.8.4
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct WireAxis {
    min: U32,
    max: U32,
}

const _: () = assert!(size_of::<WireAxis>() == 8);

/// Values of `select`: configuration queries. VIRTIO 1.3 §5.8.4
mod select {
    /// VIRTIO_INPUT_CFG_EV_BITS: the codes of an event type, as a bitmap.
    pub const EVENT_BITS: u8 = 0x11;
    /// VIRTIO_INPUT_CFG_ABS_INFO: the range of an absolute axis.
    pub const AXIS_INFO: u8 = 0x12;
}

/// Event types, with Linux's numbers: `EV_*`.
mod kind {
    pub const SYNC: u16 = 0;
    pub const KEY: u16 = 1;
    pub const RELATIVE: u16 = 2;
    pub const ABSOLUTE: u16 = 3;
    pub const LED: u16 = 0x11;
}

/// The range of values of an absolute axis, as the device reports it.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Range {
    /// The smallest value, at the left or upper border.
    pub min: i32,
    /// The distance from the smallest to the largest value; 0 if the device reports no valid range.
    pub span: u32,
}

impl Range {
    /// Scales `value` to the range 0 to [`InputEvent::END`]; values out of range are clamped.
    fn scale(self, value: i32) -> u16 {
        InputEvent::place(value, self.min, self.span.into())
    }
}

/// Decodes an event of a device whose absolute axes have the ranges `x` and `y`. Total: an unknown event is
/// [`InputEvent::Other`].
pub fn decode(event: WireEvent, x: Range, y: Range) -> InputEvent {
    let (kind, code, value) = (event.kind.get(), event.code.get(), event.value.get() as i32);
    let relative = |axis| InputEvent::Relative { axis, by: value };
    match (kind, code) {
        (kind::SYNC, 0) => InputEvent::Sync,
        (kind::KEY, code) => InputEvent::Key { key: Key(code), is_pressed: value != 0 },
        (kind::RELATIVE, 0) => relative(Axis::X),
        (kind::RELATIVE, 1) => relative(Axis::Y),
        (kind::RELATIVE, 6) => relative(Axis::HorizontalWheel),
        (kind::RELATIVE, 8) => relative(Axis::Wheel),
        (kind::ABSOLUTE, 0) => InputEvent::Absolute { axis: Axis::X, at: x.scale(value) },
        (kind::ABSOLUTE, 1) => InputEvent::Absolute { axis: Axis::Y, at: y.scale(value) },
        _ => InputEvent::Other { kind, code, value },
    }
}

/// A virtio input device: keyboard, mouse or tablet.
pub struct VirtioInput<P: Platform> {
    events: BoxedQueue<P, DmaSlice<P>>,
    status: BoxedQueue<P, DmaSlice<P>>,
    event_spare: Fifo<P, DmaSlice<P>>,
    status_spare: Fifo<P, DmaSlice<P>>,
    info: InputInfo,
    has_leds: bool,
    /// Ranges of the absolute axes.
    x: Range,
    y: Range,
}

/// Queries the configuration; `None` if the device rejects the writes that select the query.
fn query(transport: &mut dyn VirtioTransport, select: u8, subsel: u16) -> Option<WireConfig> {
    if !transport.write_config(0, &[select]) || !transport.write_config(1, &[subsel as u8]) {
        return None;
    }
    let config: [u8; CONFIG_LEN] = read_config(transport, config_fields!(WireConfig: size, value));
    Some(zerocopy::transmute!(config))
}

/// Whether the device reports any of `codes` for the event type `kind`.
fn has(transport: &mut dyn VirtioTransport, kind: u16, mut codes: core::ops::Range<usize>) -> bool {
    let Some(config) = query(transport, select::EVENT_BITS, kind) else { return false };
    let bitmap = config.value.get(..usize::from(config.size)).unwrap_or(&config.value);
    codes.any(|code| bitmap.get(code >> 3).is_some_and(|byte| byte >> (code & 7) & 1 != 0))
}

/// The range of an absolute axis; the default if the device reports none, or its largest value is below its smallest.
fn range(transport: &mut dyn VirtioTransport, axis: u16) -> Range {
    let config = query(transport, select::AXIS_INFO, axis);
    let config = config.filter(|config| usize::from(config.size) >= size_of::<WireAxis>());
    let Some(config) = config else { return Range::default() };
    let Ok((axis, _)) = WireAxis::read_from_prefix(&config.value) else { return Range::default() };
    let (min, max) = (axis.min.get() as i32, axis.max.get() as i32);
    let span = i64::from(max).saturating_sub(min.into());
    Range { min, span: u32::try_from(span).unwrap_or(0) }
}

impl<P: Platform> fmt::Debug for VirtioInput<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioInput").field("info", &self.info).finish_non_exhaustive()
    }
}

impl<P: Platform> VirtioInput<P> {
    /// Initialises the device and puts its queues in service.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the device has then been reset.
    pub fn open(platform: &P, transport: Transport<P>, options: &OpenOptions) -> Result<Self, OpenError> {
        let device = VirtioDevice::open(platform, transport, |_| Features::SUPPORTED.bits())?;
        let params = |index, max| QueueParams::new(index, options.queue_size.min(max));
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
        let (events, mut status) = (events.build_boxed()?, status.build_boxed()?);
        // QEMU up to 10.0 reports the bytes that it has read as written.
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
        status.and(self.events.arm())
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
            let (is_used, used) = match self.events.next() {
                Ok(Some(Outcome::Used(used))) => (true, used),
                Ok(Some(Outcome::Aborted(used))) => (false, used),
                // A device that was reset restarts once both queues have been polled.
                idle => {
                    // Detects removal of the device and its request for a reset.
                    let _ = self.events.device().take_config_change();
                    let status = self.status.reclaim_all(&mut self.status_spare).map(|_| ());
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
            let event = WireEvent::read_from_prefix(buffer.bytes()).map(|(event, _)| event).ok();
            let _ = self.event_spare.push(buffer);
            if let Some(event) = event.filter(|_| is_used && used.len as usize == EVENT_LEN) {
                return Ok(Some(decode(event, self.x, self.y)));
            }
        }
    }

    fn set_leds(&mut self, leds: Leds) -> Result<bool, Fault> {
        match self.status.reclaim_all(&mut self.status_spare) {
            Ok(_) | Err(Fault::Reset) => {}
            Err(fault) => return Err(fault),
        }
        // In the order of their codes. No SYN_REPORT follows: QEMU does not handle it in this direction.
        let lights = [Leds::NUM_LOCK, Leds::CAPS_LOCK, Leds::SCROLL_LOCK];
        let is_ready = self.status.fault().is_none()
            && self.status_spare.len() >= lights.len()
            && self.status.queue().has_room(lights.len() as u16);
        if !self.has_leds || !is_ready {
            return Ok(false);
        }
        for (code, led) in (0u16..).zip(lights) {
            let Some(mut buffer) = self.status_spare.pop() else { break };
            let value = u32::from(leds.contains(led));
            let event = WireEvent { kind: kind::LED.into(), code: code.into(), value: value.into() };
            buffer.bytes_mut().iter_mut().zip(event.as_bytes()).for_each(|(to, from)| *to = *from);
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
        let value = value as u32;
        decode(
            WireEvent { kind: kind.into(), code: code.into(), value: value.into() },
            range,
            Range::default(),
        )
    }

    #[test]
    fn an_event_is_little_endian() {
        let event = WireEvent::read_from_bytes(&[1, 0, 0x10, 1, 0xff, 0xff, 0xff, 0xff]).unwrap();
        assert_eq!((event.kind.get(), event.code.get(), event.value.get()), (1, 0x110, u32::MAX));
        assert_eq!(event.as_bytes(), [1, 0, 0x10, 1, 0xff, 0xff, 0xff, 0xff]);
    }

    #[test]
    fn absolute_positions_are_clamped_to_the_range() {
        let wide = Range { min: i32::MIN, span: u32::MAX };
        let x = |at| InputEvent::Absolute { axis: Axis::X, at };
        assert_eq!(of(3, 0, i32::MAX, wide), x(InputEvent::END));
        assert_eq!(of(3, 0, i32::MIN, wide), x(0));
        let small = Range { min: 10, span: 2 };
        assert_eq!([9, 11, 12, 13].map(|value| of(3, 0, value, small)), [x(0), x(16383), x(32767), x(32767)]);
        assert_eq!(of(3, 0, 7, Range::default()), x(0));
    }

    #[test]
    fn events_are_decoded_by_linux_event_codes() {
        let none = Range::default();
        assert_eq!(of(1, 30, 1, none), InputEvent::Key { key: Key(30), is_pressed: true });
        assert_eq!(of(2, 8, -1, none), InputEvent::Relative { axis: Axis::Wheel, by: -1 });
        assert_eq!(of(4, 4, 5, none), InputEvent::Other { kind: 4, code: 4, value: 5 });
        assert_eq!(of(0, 0, 0, none), InputEvent::Sync);
    }
}

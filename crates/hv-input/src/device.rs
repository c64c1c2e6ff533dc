//! A keyboard or a mouse on its VMBus channel.

use crate::hid::{Layout, MAX_EVENTS, Pointer};
use crate::message::{HostMessage, Keyboard};
use core::fmt;
use core::task::Waker;
use hyperv_bindings::ic::{
    KEYBOARD_VERSION, KeyboardLedFlags, KeyboardMessageType, KeyboardProtocolRequest,
    KeyboardSetLedIndicators, MOUSE_VERSION, MouseHeader, MouseMessageType, MouseProtocolRequest,
};
use hyperv_bindings::vmbus;
use paravirt_device::{Arm, Fault, Input, InputEvent, InputInfo, Leds, Notify};
use paravirt_platform::{AllocError, Instant, PageTable, Platform};
use paravirt_vmbus::{Channel, ChannelError, ChannelOptions, Kind, Offer, SendError, Vmbus, pipe};
use zerocopy::IntoBytes;

/// Pages of each ring, its control page included.
const RING_PAGES: usize = 10;
/// Bytes of a packet, at most: the data of a ring.
const MAX_PACKET: usize = (RING_PAGES - 1) * 4096;
/// Messages that one call of `poll` reads, at most.
const MAX_MESSAGES: usize = 64;

/// Why the device could not be opened.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum OpenError {
    /// Its channel could not be opened.
    Channel(ChannelError),
    /// The offer is of neither a keyboard nor a mouse.
    Class,
    /// The host refused the protocol version of this driver.
    Version,
    /// The host broke the protocol, or does not answer.
    Faulted(Fault),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel(error) => error.fmt(f),
            Self::Class => f.write_str("this is neither a keyboard nor a mouse"),
            Self::Version => f.write_str("the host refused the protocol version"),
            Self::Faulted(fault) => fault.fmt(f),
        }
    }
}

impl core::error::Error for OpenError {}

impl From<ChannelError> for OpenError {
    fn from(error: ChannelError) -> Self {
        Self::Channel(error)
    }
}

impl From<AllocError> for OpenError {
    fn from(_: AllocError) -> Self {
        Self::Channel(ChannelError::Memory)
    }
}

impl From<Fault> for OpenError {
    fn from(fault: Fault) -> Self {
        Self::Faulted(fault)
    }
}

impl From<SendError> for OpenError {
    fn from(error: SendError) -> Self {
        Self::Faulted(error.into())
    }
}

#[allow(clippy::large_enum_variant, reason = "one device is one value")]
enum Model {
    Keyboard(Keyboard),
    Mouse(Layout, Pointer),
}

/// Events of the last message that have not been handed out, the oldest first.
#[derive(Default)]
struct PendingEvents {
    events: [Option<InputEvent>; MAX_EVENTS],
    next: usize,
    end: usize,
}

impl PendingEvents {
    /// Drops all events.
    fn clear(&mut self) {
        (self.next, self.end) = (0, 0);
    }

    fn push(&mut self, event: InputEvent) {
        if let Some(free) = self.events.get_mut(self.end) {
            *free = Some(event);
            self.end = self.end.saturating_add(1);
        }
    }

    fn pop(&mut self) -> Option<InputEvent> {
        let event = self.events.get(self.next..self.end)?.first().copied().flatten()?;
        self.next = self.next.saturating_add(1);
        Some(event)
    }
}

/// What a message contained.
enum Received {
    Version { is_accepted: bool },
    Described,
    Events,
}

/// A keyboard or a mouse on a VMBus channel.
pub struct HvInput<P: Platform> {
    channel: Channel<P>,
    buffer: PageTable<P, u8>,
    model: Model,
    pending: PendingEvents,
    /// Messages that were ignored.
    malformed: u64,
}

impl<P: Platform> HvInput<P> {
    /// Opens the channel of `offer`, negotiates the version, and waits for the report descriptor of a mouse.
    ///
    /// The ring sizes in `options` are ignored. Allocates, and waits for the host by the bus's timeouts. Not for interrupt context.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the channel is closed then.
    pub fn open(
        platform: &P,
        vmbus: &Vmbus<P>,
        offer: &Offer,
        options: &ChannelOptions,
    ) -> Result<Self, OpenError> {
        let model = match offer.interface {
            vmbus::KEYBOARD => Model::Keyboard(Keyboard::default()),
            vmbus::MOUSE => Model::Mouse(Layout::default(), Pointer::default()),
            _ => return Err(OpenError::Class),
        };
        let options = options.with_rings(RING_PAGES, RING_PAGES);
        let buffer = PageTable::new(platform, MAX_PACKET, |_| 0)?;
        let (channel, pending) = (vmbus.open(offer, &options)?, PendingEvents::default());
        let mut this = Self { channel, buffer, model, pending, malformed: 0 };
        this.propose_version()?;
        let end = platform.now().saturating_add(vmbus.timeouts().answer);
        loop {
            match this.wait(platform, end)? {
                Received::Version { is_accepted: false } => return Err(OpenError::Version),
                Received::Version { is_accepted: true } if matches!(this.model, Model::Keyboard(_)) => break,
                Received::Described => break,
                // A mouse sends its descriptor next. Events before the device is open are dropped.
                Received::Version { .. } | Received::Events => this.pending.clear(),
            }
        }
        Ok(this)
    }

    /// The number of malformed messages of the host, which were ignored.
    pub fn malformed_messages(&self) -> u64 {
        self.malformed
    }

    /// Proposes the protocol version of this driver.
    fn propose_version(&mut self) -> Result<(), SendError> {
        match self.model {
            Model::Keyboard(_) => {
                let message_type = KeyboardMessageType::PROTOCOL_REQUEST;
                self.send(KeyboardProtocolRequest { message_type, version: KEYBOARD_VERSION }.as_bytes())
            }
            Model::Mouse(..) => {
                let header = MouseHeader { message_type: MouseMessageType::PROTOCOL_REQUEST, size: 4 };
                self.send(MouseProtocolRequest { header, version: MOUSE_VERSION }.as_bytes())
            }
        }
    }

    fn send(&mut self, message: &[u8]) -> Result<(), SendError> {
        match self.model {
            // Messages of a mouse have a pipe header, those of a keyboard do not.
            Model::Keyboard(_) => self.channel.send_in_band(0, false, &[message])?,
            Model::Mouse(..) => pipe::send(&mut self.channel, 0, message)?,
        }
        self.channel.kick();
        Ok(())
    }

    /// Waits for the next message until `end`.
    fn wait(&mut self, platform: &P, end: Instant) -> Result<Received, OpenError> {
        loop {
            if let Some(received) = self.next()? {
                return Ok(received);
            }
            if platform.now() >= end {
                return Err(Fault::Timeout.into());
            }
            platform.relax();
        }
    }

    /// Receives and handles the next message; `None` where there is none.
    fn next(&mut self) -> Result<Option<Received>, Fault> {
        let Self { channel, buffer, model, pending, malformed } = self;
        let Some(packet) = channel.receive(buffer)? else { return Ok(None) };
        let is_plain = packet.kind == Kind::IN_BAND && packet.header.is_empty();
        let parsed = match model {
            Model::Keyboard(_) => Some(HostMessage::of_keyboard(packet.payload)),
            Model::Mouse(..) => pipe::parse(packet.payload).map(HostMessage::of_mouse),
        };
        let Some(Ok(message)) = parsed.filter(|_| is_plain) else {
            *malformed = malformed.saturating_add(1);
            if *malformed == 1 {
                log::warn!(
                    "hv-input: {}: malformed message, ignored; later ones are counted",
                    channel.offer()
                );
            }
            return Ok(Some(Received::Events));
        };
        pending.clear();
        match (model, message) {
            (_, HostMessage::Version { is_accepted }) => return Ok(Some(Received::Version { is_accepted })),
            (Model::Keyboard(keyboard), HostMessage::Keystroke(stroke)) => {
                if let Some(event) = keyboard.event(stroke) {
                    pending.push(event);
                    pending.push(InputEvent::Sync);
                }
            }
            (Model::Mouse(layout, pointer), HostMessage::Report(report)) => {
                pointer.report(layout, report, &mut |event| pending.push(event));
            }
            (Model::Mouse(layout, pointer), HostMessage::Descriptor(descriptor)) => {
                (*layout, *pointer) = (Layout::parse(descriptor), Pointer::default());
                let header = MouseHeader { message_type: MouseMessageType::DEVICE_INFO_ACK, size: 1 };
                let mut message = [0; size_of::<MouseHeader>() + 1];
                message.iter_mut().zip(header.as_bytes()).for_each(|(to, from)| *to = *from);
                return match self.send(&message) {
                    // The ring is full only for a host that has not read any of the acknowledgements before.
                    Ok(()) | Err(SendError::Full) => Ok(Some(Received::Described)),
                    Err(SendError::Faulted(fault)) => Err(fault),
                    Err(_) => {
                        self.channel.fail(Fault::Protocol);
                        Err(Fault::Protocol)
                    }
                };
            }
            (_, HostMessage::Other(kind)) => {
                log::debug!("hv-input: {}: unknown message type {kind}, ignored", channel.offer());
            }
            _ => {}
        }
        Ok(Some(Received::Events))
    }
}

impl<P: Platform> Notify for HvInput<P> {
    fn arm(&mut self) -> Arm {
        if self.pending.next < self.pending.end { Arm::Pending } else { self.channel.arm() }
    }

    fn disarm(&mut self) {
        self.channel.disarm();
    }

    fn register(&mut self, waker: &Waker) {
        self.channel.register(waker);
    }
}

impl<P: Platform> Input for HvInput<P> {
    fn info(&self) -> InputInfo {
        let mut info = InputInfo::default();
        match &self.model {
            Model::Keyboard(_) => info.has_keys = true,
            Model::Mouse(layout, _) => {
                (info.has_buttons, info.is_relative, info.is_absolute) = layout.kinds();
            }
        }
        info
    }

    fn poll(&mut self) -> Result<Option<InputEvent>, Fault> {
        for _ in 0..MAX_MESSAGES {
            if let Some(event) = self.pending.pop() {
                return Ok(Some(event));
            }
            if self.next()?.is_none() {
                return Ok(None);
            }
        }
        // Messages without events: what is left of them shows when the device is armed.
        Ok(self.pending.pop())
    }

    fn set_leds(&mut self, leds: Leds) -> Result<bool, Fault> {
        if !matches!(self.model, Model::Keyboard(_)) {
            return Ok(false);
        }
        let flags = [
            (Leds::SCROLL_LOCK, KeyboardLedFlags::SCROLL_LOCK),
            (Leds::NUM_LOCK, KeyboardLedFlags::NUM_LOCK),
            (Leds::CAPS_LOCK, KeyboardLedFlags::CAPS_LOCK),
        ];
        let lit = flags.into_iter().filter(|(led, _)| leds.contains(*led)).map(|(_, flag)| flag);
        let message_type = KeyboardMessageType::SET_LED_INDICATORS;
        let leds = lit.collect::<KeyboardLedFlags>().bits();
        match self.send(KeyboardSetLedIndicators { message_type, leds, reserved: 0 }.as_bytes()) {
            Ok(()) => Ok(true),
            Err(SendError::Full) => Ok(false),
            Err(SendError::Faulted(fault)) => Err(fault),
            Err(_) => Err(Fault::Protocol),
        }
    }
}

impl<P: Platform> fmt::Debug for HvInput<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HvInput")
            .field("offer", self.channel.offer())
            .field("info", &self.info())
            .finish_non_exhaustive()
    }
}

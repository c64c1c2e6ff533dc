//! A socket on its VMBus channel.

use core::task::Waker;
use core::time::Duration;
use hyperv_bindings::ring::{RING_PIPE_MAXIMUM, RingPipeHeader};
use paravirt_device::{Arm, CloseReason, Fault, SocketState};
use paravirt_platform::{AllocError, Instant, PAGE_SIZE, PageTable, Platform};
use paravirt_vmbus::{
    Channel, ChannelError, ChannelOptions, Guid, Kind, Offer, SendError, Version, Vmbus, pipe,
};

/// How long the host may take to accept a connection, or to read what was sent before a socket is closed.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
/// Interval between checks of what the host has read.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Pages of each ring, its control page included.
const RING_PAGES: usize = 9;
/// The same for hosts before VMBus 5.0, which accept no other number.
const RING_PAGES_V4: usize = 6;
/// Bytes of a packet of the host, at most, its pipe header included.
const MAX_PACKET: usize = RING_PIPE_MAXIMUM as usize + 64;
const PIPE: usize = size_of::<RingPipeHeader>();
/// Bytes of data in a packet of the guest, at most.
const MAX_DATA: usize = 4096;
/// Bytes of the ring that data leaves free, so that the end of the stream finds room.
const END_RESERVE: usize = 64;

#[allow(clippy::large_enum_variant, reason = "one socket is one value; nothing is moved about")]
pub(crate) enum Phase<P: Platform> {
    Connecting { endpoint: Guid, until: Instant },
    Open(Channel<P>),
    Closed(CloseReason),
}

/// The state of a socket.
pub(crate) struct Stream<P: Platform> {
    pub generation: u32,
    pub port: u32,
    /// The host connected it, and it was not accepted yet.
    pub is_waiting: bool,
    pub phase: Phase<P>,
    /// The last packet, and the range of its bytes that have not been read.
    packet: PageTable<P, u8>,
    next: usize,
    end: usize,
    is_ended: bool,
    is_finished: bool,
    /// The end of the stream waits for room in the ring.
    is_end_pending: bool,
    /// Bytes of a packet that waits for room in the ring.
    awaited_room: Option<usize>,
    /// The caller waits until the host has read what was sent.
    awaits_flush: bool,
    /// The deadline for the host to read what was sent, once the socket was closed.
    lingers_until: Option<Instant>,
}

impl<P: Platform> Stream<P> {
    pub fn new(platform: &P, generation: u32, port: u32, phase: Phase<P>) -> Result<Self, AllocError> {
        Ok(Self {
            generation,
            port,
            is_waiting: false,
            phase,
            packet: PageTable::new(platform, MAX_PACKET, |_| 0)?,
            next: 0,
            end: 0,
            is_ended: false,
            is_finished: false,
            is_end_pending: false,
            awaited_room: None,
            awaits_flush: false,
            lingers_until: None,
        })
    }

    /// Opens the channel that the host has offered for the socket.
    pub fn open(&mut self, vmbus: &Vmbus<P>, offer: &Offer, waker: Option<&Waker>) {
        let pages = if vmbus.version() < Version::new(5, 0) { RING_PAGES_V4 } else { RING_PAGES };
        let options = ChannelOptions::default().with_rings(pages, pages);
        self.phase = match vmbus.open(offer, &options) {
            Ok(channel) => {
                waker.into_iter().for_each(|waker| channel.register(waker));
                Phase::Open(channel)
            }
            // Some hosts offer the channel before they check whether anybody listens.
            Err(ChannelError::Gone | ChannelError::Refused(_)) => Phase::Closed(CloseReason::Refused),
            Err(error) => {
                log::warn!("hv-socket: {offer}: not opened: {error}");
                Phase::Closed(CloseReason::Reset)
            }
        };
    }

    pub fn state(&self) -> SocketState {
        match self.phase {
            Phase::Connecting { .. } => SocketState::Connecting,
            Phase::Open(_) => SocketState::Open { is_ended: self.is_ended && self.next == self.end },
            Phase::Closed(reason) => SocketState::Closed(reason),
        }
    }

    /// Receives the next packet once the last was read; returns whether there are bytes to read.
    fn fetch(&mut self) -> bool {
        while self.next == self.end && !self.is_ended {
            let Phase::Open(channel) = &mut self.phase else { return false };
            // What the host sent before it closed the channel is still read.
            let is_gone = channel.fault() == Some(Fault::Removed);
            let buffer = &mut self.packet;
            let taken = if is_gone { channel.receive_rest(buffer) } else { channel.receive(buffer) };
            let message = match taken {
                Ok(None) if !is_gone => return false,
                Err(Fault::Removed) => continue,
                Ok(Some(packet)) if packet.kind == Kind::IN_BAND && packet.header.is_empty() => {
                    pipe::parse(packet.payload).map(<[u8]>::len)
                }
                _ => None,
            };
            match message {
                Some(0) => self.is_ended = true,
                Some(len) => (self.next, self.end) = (PIPE, PIPE.saturating_add(len)),
                None => {
                    // The channel is gone, or a packet is malformed.
                    self.phase = Phase::Closed(CloseReason::Reset);
                    return false;
                }
            }
        }
        self.next < self.end
    }

    /// Receives what has come, and sends the end of the stream where it waits.
    pub fn work(&mut self, now: Instant) {
        if let Phase::Connecting { until, .. } = self.phase {
            if now >= until {
                self.phase = Phase::Closed(CloseReason::TimedOut);
            }
        }
        if self.is_end_pending {
            self.end();
        }
        self.fetch();
    }

    /// Reads up to `bytes.len()` bytes; returns how many.
    pub fn read(&mut self, bytes: &mut [u8]) -> usize {
        let mut read = 0usize;
        while read < bytes.len() && self.fetch() {
            let from = self.packet.get(self.next..self.end).unwrap_or_default();
            let to = bytes.get_mut(read..).unwrap_or_default();
            let count = from.len().min(to.len());
            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            self.next = self.next.saturating_add(count);
            read = read.saturating_add(count);
        }
        read
    }

    /// Handles the host's refusal of the connection with `endpoint`.
    pub fn refuse(&mut self, endpoint: &Guid) {
        if matches!(&self.phase, Phase::Connecting { endpoint: own, .. } if own == endpoint) {
            self.phase = Phase::Closed(CloseReason::Refused);
        }
    }

    /// Sends as many of `bytes` as the ring has room for; returns how many. `None` after [`finish`](Self::finish).
    pub fn write(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        self.awaited_room = None;
        let Phase::Open(channel) = &mut self.phase else { return Ok(None) };
        if self.is_finished {
            return Ok(None);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let (now, later) = rest.split_at_checked(MAX_DATA).unwrap_or((rest, &[]));
            // The end of the stream keeps its room.
            let needs = now.len().saturating_add(PIPE).saturating_add(END_RESERVE);
            if !channel.has_room(needs)? {
                // Where there is room by now, the next call finds it.
                if channel.await_room(needs)? {
                    continue;
                }
                self.awaited_room = Some(needs);
                break;
            }
            match pipe::send(channel, 0, now) {
                Ok(()) => rest = later,
                Err(SendError::Faulted(fault)) => return Err(fault),
                Err(_) => return Err(Fault::Protocol),
            }
        }
        channel.kick();
        Ok(Some(bytes.len().saturating_sub(rest.len())))
    }

    /// Sends the end of the stream.
    pub fn finish(&mut self) {
        if matches!(self.phase, Phase::Open(_)) && !core::mem::replace(&mut self.is_finished, true) {
            self.end();
        }
    }

    fn end(&mut self) {
        let Phase::Open(channel) = &mut self.phase else { return };
        self.is_end_pending = matches!(pipe::send(channel, 0, &[]), Err(SendError::Full));
        channel.kick();
    }

    /// Closes the socket for the caller; it lingers until the host has read what was sent.
    pub fn close(&mut self, now: Instant) {
        self.finish();
        (self.generation, self.is_waiting) = (0, false);
        self.lingers_until = Some(now.saturating_add(TIMEOUT));
    }

    /// Whether a lingering socket can be dropped: the host has read what was sent and has finished too, or its time is up.
    pub fn is_over(&mut self, now: Instant) -> bool {
        let Some(until) = self.lingers_until else { return false };
        // Bytes that still come are dropped, a ring of them at a time.
        let mut dropped = 0usize;
        while dropped < RING_PAGES * PAGE_SIZE && self.fetch() {
            dropped = dropped.saturating_add(self.end);
            self.next = self.end;
        }
        match &mut self.phase {
            Phase::Open(channel) => now >= until || self.is_ended && channel.is_drained() != Ok(false),
            _ => true,
        }
    }

    /// Whether the host has read what was sent.
    pub fn is_flushed(&mut self) -> bool {
        let is_flushed = match &mut self.phase {
            Phase::Open(channel) => !self.is_end_pending && channel.is_drained() != Ok(false),
            _ => true,
        };
        self.awaits_flush = !is_flushed;
        is_flushed
    }

    pub fn arm(&mut self) -> Arm {
        let Phase::Open(channel) = &mut self.phase else { return Arm::Armed };
        // There is room now, or a fault to be reported.
        if self.awaited_room.is_some_and(|needs| channel.await_room(needs) != Ok(false)) {
            return Arm::Pending;
        }
        // Nothing is awaited while bytes wait to be read, nor after the end of the stream.
        if self.next == self.end && !self.is_ended { channel.arm() } else { Arm::Armed }
    }

    pub fn disarm(&mut self) {
        if let Phase::Open(channel) = &mut self.phase {
            channel.disarm();
        }
    }

    pub fn register(&self, waker: &Waker) {
        if let Phase::Open(channel) = &self.phase {
            channel.register(waker);
        }
    }

    fn has_to_look(&self) -> bool {
        self.lingers_until.is_some()
            || self.awaited_room.is_some()
            || self.is_end_pending
            || self.awaits_flush
    }

    pub fn deadline(&self, now: Instant) -> Instant {
        match self.phase {
            // No interrupt tells what the host has read, and not every host signals room.
            Phase::Open(_) if self.has_to_look() => now.saturating_add(POLL_INTERVAL),
            Phase::Open(_) => Instant::NEVER,
            // It was closed, and gives its place up in the next call.
            _ if self.lingers_until.is_some() => now,
            Phase::Connecting { until, .. } => until,
            Phase::Closed(_) => Instant::NEVER,
        }
    }

    /// Whether dropping it closes a channel, which waits for the host.
    pub fn has_channel(&self) -> bool {
        matches!(self.phase, Phase::Open(_))
    }
}

/// Starts to connect.
pub(crate) fn connecting<P: Platform>(platform: &P, endpoint: Guid) -> Phase<P> {
    Phase::Connecting { endpoint, until: Platform::now(platform).saturating_add(TIMEOUT) }
}

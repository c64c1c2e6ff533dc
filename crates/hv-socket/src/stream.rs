//! A socket on its channel.

use core::task::Waker;
use core::time::Duration;
use hyperv_bindings::ring::{RING_PIPE_MAXIMUM, RingPipeHeader};
use paravirt_device::{Arm, CloseReason, Fault, SocketState};
use paravirt_platform::{AllocError, Instant, PageTable, Platform};
use paravirt_vmbus::{
    Channel, ChannelError, ChannelOptions, Guid, Kind, Offer, SendError, Version, Vmbus, pipe,
};

/// How long the host may take to answer.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked what the host has taken.
const LOOK: Duration = Duration::from_millis(10);
/// Pages of each ring, its control page included; of hosts before version 5.0, which take no others.
const RING_PAGES: usize = 9;
const OLD_RING_PAGES: usize = 6;
/// Bytes of a packet from the ring, with the header of a pipe.
const PACKET: usize = RING_PIPE_MAXIMUM as usize + 64;
const PIPE: usize = size_of::<RingPipeHeader>();
/// Bytes of one packet of ours, at most; and what is left free, so that the end always finds room.
const MOST: usize = 4096;
const END: usize = 64;

#[allow(clippy::large_enum_variant, reason = "one socket is one value; nothing is moved about")]
pub(crate) enum Phase<P: Platform> {
    Connecting { endpoint: Guid, until: Instant },
    Open(Channel<P>),
    Closed(CloseReason),
}

/// A socket.
pub(crate) struct Stream<P: Platform> {
    pub generation: u32,
    pub port: u32,
    /// The host made it, and nobody has accepted it.
    pub is_waiting: bool,
    pub phase: Phase<P>,
    /// The packet that came in last, and which of its bytes have not been read.
    packet: PageTable<P, u8>,
    next: usize,
    end: usize,
    is_ended: bool,
    is_finished: bool,
    /// The end is to be told, and has found no room.
    owes_end: bool,
    /// The bytes for which the ring had no room.
    wants: Option<usize>,
    /// Somebody waits until the host has taken what was sent.
    awaits_flush: bool,
    /// Nobody here has it any more; until then the host is to have taken what was sent.
    leaves: Option<Instant>,
}

impl<P: Platform> Stream<P> {
    pub fn new(platform: &P, generation: u32, port: u32, phase: Phase<P>) -> Result<Self, AllocError> {
        Ok(Self {
            generation,
            port,
            is_waiting: false,
            phase,
            packet: PageTable::new(platform, PACKET, |_| 0)?,
            next: 0,
            end: 0,
            is_ended: false,
            is_finished: false,
            owes_end: false,
            wants: None,
            awaits_flush: false,
            leaves: None,
        })
    }

    /// Opens the channel that the host has offered for it.
    pub fn open(&mut self, vmbus: &Vmbus<P>, offer: &Offer, waker: Option<&Waker>) {
        let pages = if vmbus.version() < Version::new(5, 0) { OLD_RING_PAGES } else { RING_PAGES };
        let options =
            ChannelOptions { outgoing_pages: pages, incoming_pages: pages, ..ChannelOptions::default() };
        self.phase = match vmbus.open(offer, &options) {
            Ok(channel) => {
                waker.into_iter().for_each(|waker| channel.register(waker));
                Phase::Open(channel)
            }
            // Some hosts offer first, and look then whether anybody listens.
            Err(ChannelError::Gone | ChannelError::Refused(_)) => Phase::Closed(CloseReason::Refused),
            Err(error) => {
                log::warn!("hv-socket: {offer}: {error}");
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

    /// Takes the next packet, if all of the last was read; whether there is something to be read.
    fn fetch(&mut self) -> bool {
        while self.next == self.end && !self.is_ended {
            let Phase::Open(channel) = &mut self.phase else { return false };
            // The host may be through with it ahead of us: what it sent is read all the same.
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
                    // It is over, or a packet is none.
                    self.phase = Phase::Closed(CloseReason::Reset);
                    return false;
                }
            }
        }
        self.next < self.end
    }

    /// Takes in what has come, and tells what is owed.
    pub fn work(&mut self, now: Instant) {
        if let Phase::Connecting { until, .. } = self.phase
            && now >= until
        {
            self.phase = Phase::Closed(CloseReason::TimedOut);
        }
        if self.owes_end {
            self.end();
        }
        self.fetch();
    }

    /// Copies what has come in to `bytes`; how much.
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

    /// The host has refused a socket to `endpoint`.
    pub fn refuse(&mut self, endpoint: &Guid) {
        if matches!(&self.phase, Phase::Connecting { endpoint: own, .. } if own == endpoint) {
            self.phase = Phase::Closed(CloseReason::Refused);
        }
    }

    /// Sends the beginning of `bytes`; how much. `None` where it was said that nothing more comes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        self.wants = None;
        let Phase::Open(channel) = &mut self.phase else { return Ok(None) };
        if self.is_finished {
            return Ok(None);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let (now, later) = rest.split_at_checked(MOST).unwrap_or((rest, &[]));
            // Room for the end is kept.
            let needs = now.len().saturating_add(PIPE).saturating_add(END);
            if !channel.has_room(needs)? {
                // A host that takes it all the same just now is seen at the next call.
                if channel.await_room(needs)? {
                    continue;
                }
                self.wants = Some(needs);
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

    /// Tells the host that nothing more comes.
    pub fn finish(&mut self) {
        if matches!(self.phase, Phase::Open(_)) && !core::mem::replace(&mut self.is_finished, true) {
            self.end();
        }
    }

    fn end(&mut self) {
        let Phase::Open(channel) = &mut self.phase else { return };
        self.owes_end = matches!(pipe::send(channel, 0, &[]), Err(SendError::Full));
        channel.kick();
    }

    /// Nobody here has it any more.
    pub fn leave(&mut self, now: Instant) {
        self.finish();
        (self.generation, self.is_waiting) = (0, false);
        self.leaves = Some(now.saturating_add(TIMEOUT));
    }

    /// Whether nobody has it, and the host has taken what was sent and has ended it too, or takes too long.
    pub fn is_over(&mut self, now: Instant) -> bool {
        let Some(until) = self.leaves else { return false };
        // What still comes is thrown away.
        while self.fetch() {
            self.next = self.end;
        }
        match &mut self.phase {
            Phase::Open(channel) => now >= until || self.is_ended && channel.is_drained() != Ok(false),
            _ => true,
        }
    }

    /// Whether the host has taken what was sent.
    pub fn is_flushed(&mut self) -> bool {
        let is_flushed = match &mut self.phase {
            Phase::Open(channel) => !self.owes_end && channel.is_drained() != Ok(false),
            _ => true,
        };
        self.awaits_flush = !is_flushed;
        is_flushed
    }

    pub fn arm(&mut self) -> Arm {
        let Phase::Open(channel) = &mut self.phase else { return Arm::Armed };
        // There is room now, or something is to be found out.
        if self.wants.is_some_and(|needs| channel.await_room(needs) != Ok(false)) {
            return Arm::Pending;
        }
        // Where something waits to be read, or the end was seen, nothing more is looked for.
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
        self.leaves.is_some() || self.wants.is_some() || self.owes_end || self.awaits_flush
    }

    pub fn deadline(&self, now: Instant) -> Instant {
        match self.phase {
            Phase::Connecting { until, .. } => until,
            // No interrupt tells what the host has taken, and not every host tells of room.
            Phase::Open(_) if self.has_to_look() => now.saturating_add(LOOK),
            Phase::Open(_) => Instant::NEVER,
            Phase::Closed(_) => Instant::NEVER,
        }
    }
}

/// Where connecting begins.
pub(crate) fn connecting<P: Platform>(platform: &P, endpoint: Guid) -> Phase<P> {
    Phase::Connecting { endpoint, until: Platform::now(platform).saturating_add(TIMEOUT) }
}

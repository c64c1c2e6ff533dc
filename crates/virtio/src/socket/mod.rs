//! The socket device: streams between guest and host. VIRTIO 1.3 §5.10
//!
//! Streams share one queue in each direction. What comes in is copied to the stream's own room, of which the host is told, so that
//! one that nobody reads does not hold up the others.

pub mod packet;
mod stream;

use crate::device::{OpenOptions, VirtioDevice};
use crate::features::Features;
use crate::request_queue::{BufferQueue, Outcome, QueueBuilder, QueueParams};
use crate::transport::{OpenError, Transport, VirtioTransport, read_config};
use core::task::Waker;
use packet::{HEADER, Op, Packet, STREAM};
use paravirt_device::{
    Arm, CloseReason, Fault, Listeners, Notify, SocketError, SocketId, SocketState, Sockets,
};
use paravirt_platform::{Direction, DmaSlice, Fifo, Instant, PageTable, Platform, ProcessorId};
use stream::{Phase, ROOM, Stream, TIMEOUT};

/// Streams are spoken; where no feature is offered, too. §5.10.3
const F_STREAM: u64 = 1 << 0;
const RX: u16 = 0;
const TX: u16 = 1;
const EVENTS: u16 = 2;
/// Buffers: for what comes in, what goes out, and what happens; and their bytes.
const RX_BUFFERS: u16 = 64;
const TX_BUFFERS: u16 = 32;
const EVENT_BUFFERS: u16 = 4;
const BUFFER_LEN: usize = 4096;
const EVENT_LEN: usize = 4;
/// The host's number. §5.10.4
const HOST: u64 = 2;
/// Streams.
const MOST: usize = 16;
/// Where ports begin that nobody asked for.
const FIRST_PORT: u32 = 49152;

/// What goes out.
struct Sender<P: Platform> {
    queue: BufferQueue<P, DmaSlice<P>>,
    spare: Fifo<P, DmaSlice<P>>,
}

impl<P: Platform> Sender<P> {
    /// Sends a packet; `false` where there is no buffer for it.
    fn say(&mut self, packet: &Packet, data: &[u8]) -> bool {
        if self.queue.fault().is_some() || !self.queue.queue().has_room(1) {
            return false;
        }
        let Some(mut buffer) = self.spare.pop() else { return false };
        buffer.set_len(HEADER.saturating_add(data.len()));
        let bytes = packet.bytes();
        buffer.bytes_mut().iter_mut().zip(bytes.iter().chain(data)).for_each(|(to, from)| *to = *from);
        self.queue.submit_from(buffer, Direction::ToDevice, &mut self.spare)
    }
}

/// A virtio socket device.
pub struct VirtioSockets<P: Platform> {
    platform: P,
    rx: BufferQueue<P, DmaSlice<P>>,
    tx: Sender<P>,
    events: BufferQueue<P, DmaSlice<P>>,
    rx_spare: Fifo<P, DmaSlice<P>>,
    event_spare: Fifo<P, DmaSlice<P>>,
    streams: PageTable<P, Option<Stream<P>>>,
    listeners: Listeners,
    cid: u64,
    next_port: u32,
    generation: u32,
    /// Somebody waits for a buffer to send with.
    wants_room: bool,
}

fn read_cid(transport: &dyn VirtioTransport) -> u64 {
    u64::from_le_bytes(read_config(transport, &[(0, 4), (4, 4)]))
}

impl<P: Platform> VirtioSockets<P> {
    /// Takes the device into service.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the device has then been reset.
    pub fn open(platform: &P, transport: Transport<P>, options: &OpenOptions) -> Result<Self, OpenError> {
        let device = VirtioDevice::open(platform, transport, |_| F_STREAM | Features::SUPPORTED.bits())?;
        let builder = |index, most| {
            let size = options.queue_size.min(most);
            QueueBuilder::new(&device, &QueueParams::new(index, size))
        };
        let (rx, tx) = (builder(RX, RX_BUFFERS)?, builder(TX, TX_BUFFERS)?);
        let events = builder(EVENTS, EVENT_BUFFERS)?;
        let cid = device.with_transport(|transport| read_cid(transport));
        device.start(|_| ProcessorId(0))?;
        let pool = |count, len| BufferQueue::<P, DmaSlice<P>>::pool(platform, count, len);
        let mut this = Self {
            platform: platform.clone(),
            rx: rx.build()?,
            tx: Sender { queue: tx.build()?, spare: pool(TX_BUFFERS, BUFFER_LEN)? },
            events: events.build()?,
            rx_spare: pool(RX_BUFFERS, BUFFER_LEN)?,
            event_spare: pool(EVENT_BUFFERS, EVENT_LEN)?,
            streams: PageTable::new(platform, MOST, |_| None)?,
            listeners: Listeners::default(),
            cid,
            next_port: FIRST_PORT,
            generation: 0,
            wants_room: false,
        };
        this.refill();
        Ok(this)
    }

    /// The number by which the host knows this guest.
    pub fn cid(&self) -> u64 {
        self.cid
    }

    /// Gives the device what is spare.
    fn refill(&mut self) {
        self.rx.refill(&mut self.rx_spare);
        self.events.refill(&mut self.event_spare);
    }

    /// Says what streams owe, as far as there is room.
    fn pay(&mut self) {
        let Self { tx, streams, cid, .. } = self;
        let mut is_paid = true;
        for slot in streams.iter_mut() {
            let Some(stream) = slot else { continue };
            let mut say = |stream: &mut Stream<P>, op, flags| {
                let was_said = tx.say(&stream.packet(*cid, HOST, op, flags, 0), &[]);
                if was_said {
                    stream.has_told();
                }
                was_said
            };
            let owed = stream.owed;
            if owed.reset && say(stream, Op::RESET, 0) {
                stream.owed = stream::Owed::default();
            } else if !owed.reset {
                if owed.response && say(stream, Op::RESPONSE, 0) {
                    stream.owed.response = false;
                }
                if owed.credit_request && say(stream, Op::CREDIT_REQUEST, 0) {
                    stream.owed.credit_request = false;
                }
                if stream.owed.credit {
                    let _ = say(stream, Op::CREDIT_UPDATE, 0);
                }
                if owed.shutdown != 0 && say(stream, Op::SHUTDOWN, owed.shutdown) {
                    stream.owed.shutdown = 0;
                }
            }
            is_paid &= stream.owed.is_nothing();
        }
        self.wants_room |= !is_paid;
        self.tx.queue.kick();
    }

    /// Takes in what came for the streams. It stops where there is no buffer for an answer.
    fn take_in(&mut self) -> Result<(), Fault> {
        while !self.tx.spare.is_empty() {
            let used = match self.rx.next()? {
                Some(Outcome::Used(used)) => used,
                Some(Outcome::Aborted(used)) => {
                    used.buffer.into_iter().for_each(|buffer| drop(self.rx_spare.push(buffer)));
                    continue;
                }
                None => return Ok(()),
            };
            let Some(buffer) = used.buffer else { continue };
            let bytes = buffer.bytes().get(..used.len as usize).unwrap_or_default();
            match Packet::parse(bytes) {
                Some((packet, data)) => self.deliver(&packet, data),
                None => self.rx.fail(Fault::Protocol),
            }
            let _ = self.rx_spare.push(buffer);
        }
        self.wants_room = true;
        Ok(())
    }

    /// Hands a packet to its stream; makes one where somebody listens, and refuses it where not.
    fn deliver(&mut self, packet: &Packet, data: &[u8]) {
        let is_for_us = packet.from == HOST && packet.to == self.cid && packet.kind == STREAM;
        if packet.to != self.cid {
            // Not ours to answer.
            return;
        }
        // One that is over hears no more, and its ports may be another one's.
        let is_its = |stream: &&mut Stream<P>| {
            is_for_us && stream.port == packet.to_port && stream.peer == packet.from_port && !stream.is_over()
        };
        if let Some(stream) = self.streams.iter_mut().flatten().find(is_its) {
            return stream.take(packet, data);
        }
        let is_wanted = is_for_us && packet.op == Op::REQUEST && self.listeners.contain(packet.to_port);
        let place = self.streams.iter().position(Option::is_none).filter(|_| is_wanted);
        if let Some(place) = place {
            let generation = self.next_generation();
            let (port, peer) = (packet.to_port, packet.from_port);
            if let Ok(mut stream) = Stream::new(&self.platform, generation, port, peer, Phase::Open) {
                stream.take(&Packet { op: Op::CREDIT_UPDATE, ..*packet }, &[]);
                (stream.is_waiting, stream.owed.response) = (true, true);
                if let Some(free) = self.streams.get_mut(place) {
                    *free = Some(stream);
                }
                return;
            }
        }
        if packet.op != Op::RESET {
            let answer = Packet {
                from: packet.to,
                to: packet.from,
                from_port: packet.to_port,
                to_port: packet.from_port,
                len: 0,
                op: Op::RESET,
                flags: 0,
                room: 0,
                consumed: 0,
                ..*packet
            };
            // There is a buffer; where the device is out of service, nobody waits.
            let _ = self.tx.say(&answer, &[]);
        }
    }

    /// All streams are gone: the guest was moved to another host, or the device was reset. §5.10.6.7
    fn end_all(&mut self) {
        for stream in self.streams.iter_mut().flatten() {
            if !matches!(stream.phase, Phase::Closed(_)) {
                stream.phase = Phase::Closed(CloseReason::Reset);
            }
            stream.owed = stream::Owed::default();
        }
    }

    fn take_events(&mut self) -> Result<(), Fault> {
        while let Some(outcome) = self.events.next()? {
            let (came, used) = match outcome {
                Outcome::Used(used) => (true, used),
                Outcome::Aborted(used) => (false, used),
            };
            used.buffer.into_iter().for_each(|buffer| drop(self.event_spare.push(buffer)));
            // There is one event only: the transport was reset.
            if came {
                self.end_all();
                self.cid = self.events.device().with_transport(|transport| read_cid(transport));
            }
        }
        Ok(())
    }

    fn work(&mut self) -> Result<(), Fault> {
        // Also notices that the device is gone, or wants to be reset.
        let _ = self.events.device().take_config_change();
        let drained = [
            self.take_events(),
            self.tx.queue.take_back(&mut self.tx.spare).map(|has_room| self.wants_room &= !has_room),
            self.take_in(),
        ];
        // A device that is reset starts again once every queue has been looked at; the streams are gone all the same.
        for result in drained {
            if let Err(fault) = result {
                self.end_all();
                if fault != Fault::Reset {
                    return Err(fault);
                }
            }
        }
        let now = self.platform.now();
        self.streams.iter_mut().flatten().for_each(|stream| stream.expire(now));
        self.pay();
        for slot in self.streams.iter_mut() {
            // Those that nobody has are kept until the host has heard.
            if slot.as_ref().is_some_and(|stream| stream.generation == 0 && stream.is_over()) {
                *slot = None;
            }
        }
        self.refill();
        Ok(())
    }

    fn stream(&mut self, socket: SocketId) -> Result<&mut Stream<P>, SocketError> {
        let stream = self.streams.get_mut(usize::from(socket.place())).and_then(Option::as_mut);
        stream.filter(|stream| stream.generation == socket.generation()).ok_or(SocketError::Unknown)
    }

    /// A port that no stream and no listener has.
    fn free_port(&mut self) -> u32 {
        loop {
            let port = self.next_port;
            self.next_port = port.checked_add(1).filter(|port| *port < u32::MAX).unwrap_or(FIRST_PORT);
            let is_used = self.streams.iter().flatten().any(|stream| stream.port == port);
            if !is_used && !self.listeners.contain(port) {
                return port;
            }
        }
    }

    fn next_generation(&mut self) -> u32 {
        // 0 is of streams that nobody has.
        self.generation = self.generation.wrapping_add(1).max(1);
        self.generation
    }
}

impl<P: Platform> Notify for VirtioSockets<P> {
    fn arm(&mut self) -> Arm {
        self.refill();
        let is_faulted = self.tx.queue.fault().is_some();
        let tx = if self.wants_room || is_faulted { self.tx.queue.arm() } else { Arm::Armed };
        // What comes in waits until there is a buffer for an answer.
        let rx = if self.tx.spare.is_empty() && !is_faulted { Arm::Armed } else { self.rx.arm() };
        match (rx, self.events.arm(), tx) {
            (Arm::Armed, Arm::Armed, Arm::Armed) => Arm::Armed,
            _ => Arm::Pending,
        }
    }

    fn disarm(&mut self) {
        self.rx.disarm();
        self.tx.queue.disarm();
        self.events.disarm();
    }

    fn register(&mut self, waker: &Waker) {
        self.rx.register(waker);
        self.tx.queue.register(waker);
        self.events.register(waker);
        self.events.device().config_cell().register(waker);
    }

    fn next_deadline(&self) -> Instant {
        self.streams.iter().flatten().map(Stream::deadline).min().unwrap_or(Instant::NEVER)
    }

    fn expire(&mut self, _now: Instant) -> Result<(), Fault> {
        self.poll()
    }
}

impl<P: Platform> Sockets for VirtioSockets<P> {
    fn is_flushed(&mut self) -> Result<bool, Fault> {
        self.poll()?;
        // Who waits for it is to be woken.
        let is_sending = self.tx.queue.in_flight() > 0;
        self.wants_room |= is_sending;
        let is_said = |stream: &Stream<P>| stream.owed.is_nothing();
        Ok(!is_sending && self.streams.iter().flatten().all(is_said))
    }

    fn capacity(&self) -> u16 {
        MOST as u16
    }

    fn poll(&mut self) -> Result<(), Fault> {
        self.work().inspect_err(|_| self.end_all())
    }

    fn connect(&mut self, port: u32) -> Result<SocketId, SocketError> {
        if let Some(fault) = self.tx.queue.fault() {
            return Err(fault.into());
        }
        let place = self.streams.iter().position(Option::is_none).ok_or(SocketError::Full)?;
        let (own, generation) = (self.free_port(), self.next_generation());
        let end = self.platform.now().saturating_add(TIMEOUT);
        let stream = Stream::new(&self.platform, generation, own, port, Phase::Connecting(end));
        let stream = stream.map_err(|_| SocketError::Full)?;
        let packet = stream.packet(self.cid, HOST, Op::REQUEST, 0, 0);
        self.tx.queue.take_back(&mut self.tx.spare)?;
        if !self.tx.say(&packet, &[]) {
            return Err(SocketError::Full);
        }
        self.tx.queue.kick();
        if let Some(slot) = self.streams.get_mut(place) {
            *slot = Some(stream);
        }
        Ok(SocketId::new(place as u16, generation))
    }

    fn listen(&mut self, port: u32) -> Result<(), SocketError> {
        self.listeners.add(port)
    }

    fn accept(&mut self, port: u32) -> Option<SocketId> {
        let mut streams = self.streams.iter_mut().enumerate();
        let (place, stream) = streams.find_map(|(place, slot)| {
            Some((place, slot.as_mut().filter(|stream| stream.is_waiting && stream.port == port)?))
        })?;
        stream.is_waiting = false;
        Some(SocketId::new(u16::try_from(place).ok()?, stream.generation))
    }

    fn state(&self, socket: SocketId) -> Option<SocketState> {
        let stream = self.streams.get(usize::from(socket.place()))?.as_ref()?;
        if stream.generation == socket.generation() { stream.state() } else { None }
    }

    fn send(&mut self, socket: SocketId, bytes: &[u8]) -> Result<usize, SocketError> {
        self.tx.queue.take_back(&mut self.tx.spare)?;
        let place = usize::from(socket.place());
        if !self.stream(socket)?.is_writable() {
            return Err(SocketError::NotOpen);
        }
        let Self { tx, streams, cid, .. } = self;
        let Some(Some(stream)) = streams.get_mut(place) else { return Err(SocketError::Unknown) };
        let mut rest = bytes;
        while !rest.is_empty() {
            let most = (stream.may_send() as usize).min(BUFFER_LEN.saturating_sub(HEADER));
            let (now, later) = rest.split_at_checked(most).unwrap_or((rest, &[]));
            if now.is_empty() {
                break;
            }
            let packet = stream.packet(*cid, HOST, Op::DATA, 0, now.len() as u32);
            if !tx.say(&packet, now) {
                self.wants_room = true;
                break;
            }
            stream.has_told();
            stream.has_sent(now.len() as u32);
            rest = later;
        }
        self.tx.queue.kick();
        self.pay();
        Ok(bytes.len().saturating_sub(rest.len()))
    }

    fn receive(&mut self, socket: SocketId, bytes: &mut [u8]) -> Result<usize, SocketError> {
        let stream = self.stream(socket)?;
        let count = stream.read(bytes);
        if !stream.owed.is_nothing() {
            self.pay();
        }
        Ok(count)
    }

    fn finish(&mut self, socket: SocketId) -> Result<(), SocketError> {
        self.stream(socket)?.finish();
        self.pay();
        Ok(())
    }

    fn close(&mut self, socket: SocketId) {
        let now = self.platform.now();
        let Ok(stream) = self.stream(socket) else { return };
        if stream.leave(now) {
            stream.generation = 0;
        } else if let Some(slot) = self.streams.get_mut(usize::from(socket.place())) {
            *slot = None;
        }
        self.pay();
    }
}

const _: () = assert!(ROOM as usize > BUFFER_LEN, "a packet fits a stream");

//! The socket device: stream connections between guest and host. VIRTIO 1.3 §5.10
//!
//! All streams share one queue in each direction. Received data are copied to the receive buffer of their stream, whose size is the
//! credit that the host gets, so that a stream that is not read does not block the others.

pub mod packet;
mod stream;

use crate::device::{OpenOptions, VirtioDevice};
use crate::features::Features;
use crate::request_queue::{BoxedQueue, BufferQueue, Outcome, QueueBuilder, QueueParams};
use crate::transport::{OpenError, Transport, VirtioTransport, config_fields, read_config};
use core::fmt;
use core::task::Waker;
use packet::{HEADER_LEN, Op, Packet, TYPE_STREAM};
use paravirt_device::{
    Arm, CloseReason, Fault, Listeners, Notify, SocketError, SocketId, SocketState, Sockets,
};
use paravirt_platform::{Direction, DmaSlice, Fifo, Instant, PageTable, Platform, ProcessorId};
use stream::{PendingPackets, Phase, RECEIVE_BUFFER_LEN, Stream, TIMEOUT};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// VIRTIO_VSOCK_F_STREAM. A device that offers no feature bit supports streams, too. VIRTIO 1.3 §5.10.3
const F_STREAM: u64 = 1 << 0;
const RX: u16 = 0;
const TX: u16 = 1;
const EVENTS: u16 = 2;
/// Buffers of the receive, transmit and event queue, and bytes of one.
const RX_BUFFERS: u16 = 64;
const TX_BUFFERS: u16 = 32;
const EVENT_BUFFERS: u16 = 4;
const BUFFER_LEN: usize = 4096;
const EVENT_LEN: usize = 4;
/// CID of the host. VIRTIO 1.3 §5.10.4
const HOST_CID: u64 = 2;
/// Streams that can exist at once.
const MAX_STREAMS: usize = 16;
/// The first port that is assigned to outgoing connections.
const FIRST_EPHEMERAL_PORT: u32 = 49152;

/// The transmit queue and its unused buffers.
struct Sender<P: Platform> {
    queue: BoxedQueue<P, DmaSlice<P>>,
    spare: Fifo<P, DmaSlice<P>>,
}

impl<P: Platform> Sender<P> {
    /// Submits a packet without a kick; `false` if there is no buffer for it or the queue has failed.
    fn submit(&mut self, packet: &Packet, data: &[u8]) -> bool {
        if self.queue.fault().is_some() || !self.queue.queue().has_room(1) {
            return false;
        }
        let Some(mut buffer) = self.spare.pop() else { return false };
        buffer.set_len(HEADER_LEN.saturating_add(data.len()));
        let bytes = packet.bytes();
        buffer.bytes_mut().iter_mut().zip(bytes.iter().chain(data)).for_each(|(to, from)| *to = *from);
        self.queue.submit_from(buffer, Direction::ToDevice, &mut self.spare)
    }
}

/// A virtio socket device: up to 16 streams.
pub struct VirtioSockets<P: Platform> {
    platform: P,
    rx: BoxedQueue<P, DmaSlice<P>>,
    tx: Sender<P>,
    events: BoxedQueue<P, DmaSlice<P>>,
    rx_spare: Fifo<P, DmaSlice<P>>,
    event_spare: Fifo<P, DmaSlice<P>>,
    streams: PageTable<P, Option<Stream<P>>>,
    listeners: Listeners,
    cid: u64,
    next_port: u32,
    generation: u32,
    /// The caller or a pending packet waits for a transmit buffer.
    wants_buffer: bool,
}

/// `struct virtio_vsock_config`. VIRTIO 1.3 §5.10.4
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct WireConfig {
    guest_cid: U64,
}

fn read_cid(transport: &dyn VirtioTransport) -> u64 {
    let bytes: [u8; size_of::<WireConfig>()] = read_config(transport, config_fields!(WireConfig: guest_cid));
    let config: WireConfig = zerocopy::transmute!(bytes);
    config.guest_cid.get()
}

impl<P: Platform> VirtioSockets<P> {
    /// Initialises the device and puts its queues in service.
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
            rx: rx.build_boxed()?,
            tx: Sender { queue: tx.build_boxed()?, spare: pool(TX_BUFFERS, BUFFER_LEN)? },
            events: events.build_boxed()?,
            rx_spare: pool(RX_BUFFERS, BUFFER_LEN)?,
            event_spare: pool(EVENT_BUFFERS, EVENT_LEN)?,
            streams: PageTable::new(platform, MAX_STREAMS, |_| None)?,
            listeners: Listeners::default(),
            cid,
            next_port: FIRST_EPHEMERAL_PORT,
            generation: 0,
            wants_buffer: false,
        };
        this.refill();
        Ok(this)
    }

    /// The CID of this guest. It changes when the guest migrates.
    pub fn cid(&self) -> u64 {
        self.cid
    }

    /// Submits the unused buffers of the receive and the event queue.
    fn refill(&mut self) {
        self.rx.refill(&mut self.rx_spare);
        self.events.refill(&mut self.event_spare);
    }

    /// Sends the pending packets of all streams, as far as there are buffers.
    fn send_pending(&mut self) {
        let Self { tx, streams, cid, .. } = self;
        let mut is_done = true;
        for slot in streams.iter_mut() {
            let Some(stream) = slot else { continue };
            let mut send = |stream: &mut Stream<P>, op, flags| {
                let is_sent = tx.submit(&stream.packet(*cid, HOST_CID, op, flags, 0), &[]);
                if is_sent {
                    stream.on_sent_header();
                }
                is_sent
            };
            let pending = stream.pending;
            if pending.reset && send(stream, Op::RESET, 0) {
                stream.pending = PendingPackets::default();
            } else if !pending.reset {
                if pending.response && send(stream, Op::RESPONSE, 0) {
                    stream.pending.response = false;
                }
                if pending.credit_request && send(stream, Op::CREDIT_REQUEST, 0) {
                    stream.pending.credit_request = false;
                }
                if stream.pending.credit_update {
                    let _ = send(stream, Op::CREDIT_UPDATE, 0);
                }
                if pending.shutdown != 0 && send(stream, Op::SHUTDOWN, pending.shutdown) {
                    stream.pending.shutdown = 0;
                }
            }
            is_done &= stream.pending.is_empty();
        }
        self.wants_buffer |= !is_done;
        self.tx.queue.kick();
    }

    /// Handles received packets, as long as there is a transmit buffer for a reply.
    fn poll_rx(&mut self) -> Result<(), Fault> {
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
                Some((packet, data)) => self.on_rx_packet(&packet, data),
                None => self.rx.fail(Fault::Protocol),
            }
            let _ = self.rx_spare.push(buffer);
        }
        self.wants_buffer = true;
        Ok(())
    }

    /// Handles one packet: passes it to its stream, creates a stream for a request to a listening port, or replies with a reset.
    fn on_rx_packet(&mut self, packet: &Packet, data: &[u8]) {
        let is_for_us =
            packet.src_cid == HOST_CID && packet.dst_cid == self.cid && packet.kind == TYPE_STREAM;
        if packet.dst_cid != self.cid {
            // Addressed to another guest: no reply.
            return;
        }
        // The ports of a closed stream may already belong to another one.
        let is_addressee = |stream: &&mut Stream<P>| {
            is_for_us
                && stream.port == packet.dst_port
                && stream.peer_port == packet.src_port
                && !stream.is_done()
        };
        if let Some(stream) = self.streams.iter_mut().flatten().find(is_addressee) {
            return stream.on_packet(packet, data);
        }
        let is_wanted = is_for_us && packet.op == Op::REQUEST && self.listeners.contain(packet.dst_port);
        let place = self.streams.iter().position(Option::is_none).filter(|_| is_wanted);
        if let Some(place) = place {
            let generation = self.next_generation();
            let (port, peer) = (packet.dst_port, packet.src_port);
            if let Ok(mut stream) = Stream::new(&self.platform, generation, port, peer, Phase::Open) {
                stream.on_packet(&Packet { op: Op::CREDIT_UPDATE, ..*packet }, &[]);
                (stream.is_waiting, stream.pending.response) = (true, true);
                if let Some(free) = self.streams.get_mut(place) {
                    *free = Some(stream);
                }
                return;
            }
        }
        if packet.op != Op::RESET {
            let answer = Packet {
                src_cid: packet.dst_cid,
                dst_cid: packet.src_cid,
                src_port: packet.dst_port,
                dst_port: packet.src_port,
                len: 0,
                op: Op::RESET,
                flags: 0,
                buf_alloc: 0,
                fwd_cnt: 0,
                ..*packet
            };
            // The caller checked that there is a buffer. A failed queue is reported by the next poll.
            let _ = self.tx.submit(&answer, &[]);
        }
    }

    /// Closes all streams: the guest migrated or the device was reset. VIRTIO 1.3 §5.10.6.7
    fn reset_streams(&mut self) {
        for stream in self.streams.iter_mut().flatten() {
            if !matches!(stream.phase, Phase::Closed(_)) {
                stream.phase = Phase::Closed(CloseReason::Reset);
            }
            stream.pending = PendingPackets::default();
        }
    }

    /// Handles events of the device.
    fn poll_events(&mut self) -> Result<(), Fault> {
        while let Some(outcome) = self.events.next()? {
            let (is_used, used) = match outcome {
                Outcome::Used(used) => (true, used),
                Outcome::Aborted(used) => (false, used),
            };
            used.buffer.into_iter().for_each(|buffer| drop(self.event_spare.push(buffer)));
            // VIRTIO_VSOCK_EVENT_TRANSPORT_RESET is the only event there is.
            if is_used {
                self.reset_streams();
                self.cid = self.events.device().with_transport(|transport| read_cid(transport));
            }
        }
        Ok(())
    }

    /// Handles everything that the device has completed, and sends what is pending.
    fn process(&mut self) -> Result<(), Fault> {
        // Detects removal of the device and its request for a reset.
        let _ = self.events.device().take_config_change();
        let drained = [
            self.poll_events(),
            self.tx.queue.reclaim_all(&mut self.tx.spare).map(|has_room| self.wants_buffer &= !has_room),
            self.poll_rx(),
        ];
        // A device that was reset restarts once every queue has been polled; its streams are lost nevertheless.
        for result in drained {
            if let Err(fault) = result {
                self.reset_streams();
                if fault != Fault::Reset {
                    return Err(fault);
                }
            }
        }
        let now = self.platform.now();
        self.streams.iter_mut().flatten().for_each(|stream| stream.expire(now));
        self.send_pending();
        for slot in self.streams.iter_mut() {
            // A stream that the caller has closed is kept until its last packet was sent.
            if slot.as_ref().is_some_and(|stream| stream.generation == 0 && stream.is_done()) {
                *slot = None;
            }
        }
        self.refill();
        Ok(())
    }

    /// The stream of `socket`.
    fn stream(&mut self, socket: SocketId) -> Result<&mut Stream<P>, SocketError> {
        let stream = self.streams.get_mut(usize::from(socket.place())).and_then(Option::as_mut);
        stream.filter(|stream| stream.generation == socket.generation()).ok_or(SocketError::Unknown)
    }

    /// A port that neither a stream nor a listener uses.
    fn free_port(&mut self) -> u32 {
        loop {
            let port = self.next_port;
            self.next_port =
                port.checked_add(1).filter(|port| *port < u32::MAX).unwrap_or(FIRST_EPHEMERAL_PORT);
            let is_used = self.streams.iter().flatten().any(|stream| stream.port == port);
            if !is_used && !self.listeners.contain(port) {
                return port;
            }
        }
    }

    fn next_generation(&mut self) -> u32 {
        // Generation 0 marks a stream that the caller has closed.
        self.generation = self.generation.wrapping_add(1).max(1);
        self.generation
    }
}

impl<P: Platform> fmt::Debug for VirtioSockets<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let streams = self.streams.iter().flatten().count();
        f.debug_struct("VirtioSockets")
            .field("cid", &self.cid)
            .field("streams", &streams)
            .finish_non_exhaustive()
    }
}

impl<P: Platform> Notify for VirtioSockets<P> {
    fn arm(&mut self) -> Arm {
        self.refill();
        let is_faulted = self.tx.queue.fault().is_some();
        let tx = if self.wants_buffer || is_faulted { self.tx.queue.arm() } else { Arm::Armed };
        // Reception waits until there is a transmit buffer for replies.
        let rx = if self.tx.spare.is_empty() && !is_faulted { Arm::Armed } else { self.rx.arm() };
        rx.and(self.events.arm()).and(tx)
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
        // A completion has to wake a caller that waits for the flush.
        let is_sending = self.tx.queue.in_flight() > 0;
        self.wants_buffer |= is_sending;
        let is_announced = |stream: &Stream<P>| stream.pending.is_empty();
        Ok(!is_sending && self.streams.iter().flatten().all(is_announced))
    }

    fn capacity(&self) -> u16 {
        MAX_STREAMS as u16
    }

    fn poll(&mut self) -> Result<(), Fault> {
        self.process().inspect_err(|_| self.reset_streams())
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
        let packet = stream.packet(self.cid, HOST_CID, Op::REQUEST, 0, 0);
        self.tx.queue.reclaim_all(&mut self.tx.spare)?;
        if !self.tx.submit(&packet, &[]) {
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
        self.tx.queue.reclaim_all(&mut self.tx.spare)?;
        let place = usize::from(socket.place());
        if !self.stream(socket)?.is_writable() {
            return Err(SocketError::NotOpen);
        }
        let Self { tx, streams, cid, .. } = self;
        let Some(Some(stream)) = streams.get_mut(place) else { return Err(SocketError::Unknown) };
        let mut rest = bytes;
        while !rest.is_empty() {
            let most = (stream.send_credit() as usize).min(BUFFER_LEN.saturating_sub(HEADER_LEN));
            let (now, later) = rest.split_at_checked(most).unwrap_or((rest, &[]));
            if now.is_empty() {
                break;
            }
            let packet = stream.packet(*cid, HOST_CID, Op::DATA, 0, now.len() as u32);
            if !tx.submit(&packet, now) {
                self.wants_buffer = true;
                break;
            }
            stream.on_sent_header();
            stream.on_sent_data(now.len() as u32);
            rest = later;
        }
        self.tx.queue.kick();
        self.send_pending();
        Ok(bytes.len().saturating_sub(rest.len()))
    }

    fn receive(&mut self, socket: SocketId, bytes: &mut [u8]) -> Result<usize, SocketError> {
        let stream = self.stream(socket)?;
        let count = stream.read(bytes);
        if !stream.pending.is_empty() {
            self.send_pending();
        }
        Ok(count)
    }

    fn finish(&mut self, socket: SocketId) -> Result<(), SocketError> {
        self.stream(socket)?.finish();
        self.send_pending();
        Ok(())
    }

    fn close(&mut self, socket: SocketId) {
        let now = self.platform.now();
        let Ok(stream) = self.stream(socket) else { return };
        if stream.close(now) {
            stream.generation = 0;
        } else if let Some(slot) = self.streams.get_mut(usize::from(socket.place())) {
            *slot = None;
        }
        self.send_pending();
    }
}

const _: () =
    assert!(RECEIVE_BUFFER_LEN as usize > BUFFER_LEN, "a packet fits the receive buffer of a stream");

//! The sockets of a VMBus connection.

use crate::stream::{Phase, Stream, connecting};
use crate::{port, service};
use core::fmt;
use core::task::Waker;
use paravirt_device::{
    Arm, CloseReason, Fault, Listeners, Notify, SocketError, SocketId, SocketState, Sockets,
};
use paravirt_platform::{AllocError, Instant, PageTable, Platform};
use paravirt_vmbus::{Offer, Version, Vmbus};

/// Sockets of a connection, at most.
const MAX_SOCKETS: usize = 16;
/// The first port that connecting sockets of the guest get.
const FIRST_PORT: u32 = 49152;

/// Hyper-V sockets: all sockets of a VMBus connection.
pub struct HvSockets<P: Platform> {
    platform: P,
    vmbus: Vmbus<P>,
    streams: PageTable<P, Option<Stream<P>>>,
    listeners: Listeners,
    next_port: u32,
    generation: u32,
    /// The waker that is registered with each channel.
    waker: Option<Waker>,
}

impl<P: Platform> HvSockets<P> {
    /// Makes the sockets of a connection; `None` with hosts before VMBus 4.0, which have none. A connection has one value of this
    /// type: two would take each other's channels.
    ///
    /// # Errors
    ///
    /// [`AllocError`] where the platform has no memory for the table of sockets.
    pub fn new(platform: &P, vmbus: &Vmbus<P>) -> Result<Option<Self>, AllocError> {
        if vmbus.version() < Version::new(4, 0) {
            return Ok(None);
        }
        Ok(Some(Self {
            platform: platform.clone(),
            vmbus: vmbus.clone(),
            streams: PageTable::new(platform, MAX_SOCKETS, |_| None)?,
            listeners: Listeners::default(),
            next_port: FIRST_PORT,
            generation: 0,
            waker: None,
        }))
    }

    fn stream(&mut self, socket: SocketId) -> Result<&mut Stream<P>, SocketError> {
        let stream = self.streams.get_mut(usize::from(socket.place())).and_then(Option::as_mut);
        stream.filter(|stream| stream.generation == socket.generation()).ok_or(SocketError::Unknown)
    }

    fn next_generation(&mut self) -> u32 {
        // 0 is the generation of entries without a socket.
        self.generation = self.generation.wrapping_add(1).max(1);
        self.generation
    }

    /// Takes an offered channel, for a connecting or a listening socket.
    fn offered(&mut self, offer: &Offer) {
        let waker = self.waker.clone();
        if !offer.is_for_guest() {
            let is_its = |stream: &&mut Stream<P>| matches!(stream.phase, Phase::Connecting { endpoint, .. } if endpoint == offer.instance);
            if let Some(stream) = self.streams.iter_mut().flatten().find(is_its) {
                return stream.open(&self.vmbus, offer, waker.as_ref());
            }
        } else if let Some(port) = port(&offer.interface).filter(|port| self.listeners.contain(*port)) {
            let (generation, end) = (self.next_generation(), Phase::Closed(CloseReason::Reset));
            if let Some(free) = self.streams.iter_mut().find(|slot| slot.is_none()) {
                if let Ok(mut stream) = Stream::new(&self.platform, generation, port, end) {
                    stream.open(&self.vmbus, offer, waker.as_ref());
                    stream.is_waiting = true;
                    *free = matches!(stream.phase, Phase::Open(_)).then_some(stream);
                    return;
                }
            }
        }
        // The host rescinds a channel that is not opened.
        log::debug!("hv-socket: {offer}: no socket waits for it, ignored");
    }
}

impl<P: Platform> Notify for HvSockets<P> {
    fn arm(&mut self) -> Arm {
        let mut all = Arm::Armed;
        for stream in self.streams.iter_mut().flatten() {
            all = all.and(stream.arm());
        }
        // Last, since each of the calls above may have received messages.
        all.and(self.vmbus.arm_sockets())
    }

    fn disarm(&mut self) {
        self.streams.iter_mut().flatten().for_each(Stream::disarm);
    }

    fn register(&mut self, waker: &Waker) {
        self.waker = Some(waker.clone());
        self.vmbus.register_sockets(waker);
        self.streams.iter().flatten().for_each(|stream| stream.register(waker));
    }

    fn next_deadline(&self) -> Instant {
        let now = self.platform.now();
        self.streams.iter().flatten().map(|stream| stream.deadline(now)).min().unwrap_or(Instant::NEVER)
    }

    fn expire(&mut self, _now: Instant) -> Result<(), Fault> {
        self.poll()
    }
}

impl<P: Platform> Sockets for HvSockets<P> {
    fn capacity(&self) -> u16 {
        MAX_SOCKETS as u16
    }

    fn poll(&mut self) -> Result<(), Fault> {
        // One in each call, since closing waits for the host.
        if let Some(offer) = self.vmbus.poll_socket() {
            self.offered(&offer);
        }
        for _ in 0..MAX_SOCKETS {
            let Some(refused) = self.vmbus.poll_refusal() else { break };
            self.streams.iter_mut().flatten().for_each(|stream| stream.refuse(&refused));
        }
        let now = self.platform.now();
        let mut has_closed = false;
        for slot in self.streams.iter_mut() {
            let Some(stream) = slot else { continue };
            stream.work(now);
            // One channel in each call too, since closing it waits for the host.
            let has_channel = stream.has_channel();
            if !(has_closed && has_channel) && stream.is_over(now) {
                *slot = None;
                has_closed |= has_channel;
            }
        }
        self.vmbus.fault().map_or(Ok(()), Err)
    }

    fn connect(&mut self, port: u32) -> Result<SocketId, SocketError> {
        let place = self.streams.iter().position(Option::is_none).ok_or(SocketError::Full)?;
        let own = self.next_port;
        self.next_port = own.checked_add(1).unwrap_or(FIRST_PORT);
        let (generation, endpoint) = (self.next_generation(), service(own));
        let phase = connecting(&self.platform, endpoint);
        let stream = Stream::new(&self.platform, generation, own, phase).map_err(|_| SocketError::Full)?;
        self.vmbus.connect_socket(&endpoint, &service(port)).map_err(|fault| match fault {
            Fault::Refused => SocketError::Unsupported,
            fault => fault.into(),
        })?;
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
        (stream.generation == socket.generation()).then(|| stream.state())
    }

    fn send(&mut self, socket: SocketId, bytes: &[u8]) -> Result<usize, SocketError> {
        let stream = self.stream(socket)?;
        match stream.phase {
            Phase::Open(_) => match stream.write(bytes) {
                // A fault ends this socket only.
                Err(Fault::Removed | Fault::Protocol) => Err(SocketError::NotOpen),
                sent => sent?.ok_or(SocketError::NotOpen),
            },
            _ => Err(SocketError::NotOpen),
        }
    }

    fn receive(&mut self, socket: SocketId, bytes: &mut [u8]) -> Result<usize, SocketError> {
        Ok(self.stream(socket)?.read(bytes))
    }

    fn finish(&mut self, socket: SocketId) -> Result<(), SocketError> {
        self.stream(socket)?.finish();
        Ok(())
    }

    fn close(&mut self, socket: SocketId) {
        let now = self.platform.now();
        self.stream(socket).into_iter().for_each(|stream| stream.close(now));
    }

    fn is_flushed(&mut self) -> Result<bool, Fault> {
        self.poll()?;
        // All channels are armed, also behind one that is pending.
        Ok(self.streams.iter_mut().flatten().map(Stream::is_flushed).fold(true, |all, one| all & one))
    }
}

impl<P: Platform> fmt::Debug for HvSockets<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HvSockets").field("sockets", &MAX_SOCKETS).finish_non_exhaustive()
    }
}

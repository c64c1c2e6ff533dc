//! An integration service on its channel.

use crate::Service;
use crate::message::{HEADER, answer};
use core::{fmt, task::Waker};
use hyperv_bindings::ic::IC_MESSAGE_MAXIMUM;
use paravirt_device::{Agent, Arm, Fault};
use paravirt_platform::{PageTable, Platform};
use paravirt_vmbus::{Channel, ChannelError, ChannelOptions, Kind, Offer, SendError, Vmbus, pipe};

/// Bytes of a packet, at most: a message behind a pipe header.
const MAX_PACKET: usize = IC_MESSAGE_MAXIMUM as usize + 64;
/// Pages of a ring, its control page included.
const RING_PAGES: usize = 5;
/// Bytes of a pipe header.
const PIPE_HEADER: usize = 8;

/// An integration service in service: a channel by which the host sends requests.
///
/// Dropped, it is closed.
pub struct Connection<P: Platform> {
    channel: Channel<P>,
    service: Service,
    buffer: PageTable<P, u8>,
    /// An answer that waits for room in the ring: its length in `buffer`, and its transaction.
    pending_answer: Option<(usize, u64)>,
    /// Room appeared while the channel asked for it: the answer can be sent now.
    has_room: bool,
}

impl<P: Platform> Connection<P> {
    /// Opens the channel of `offer` for `service`, which [`service`](crate::service()) tells from its interface type.
    ///
    /// Allocates, and blocks until the host has opened the channel. Not for interrupt context.
    ///
    /// # Errors
    ///
    /// [`ChannelError`].
    pub fn open(
        platform: &P,
        vmbus: &Vmbus<P>,
        offer: &Offer,
        service: Service,
    ) -> Result<Self, ChannelError> {
        let buffer = PageTable::new(platform, MAX_PACKET, |_| 0)?;
        let options = ChannelOptions::default().with_rings(RING_PAGES, RING_PAGES);
        Ok(Self {
            channel: vmbus.open(offer, &options)?,
            service,
            buffer,
            pending_answer: None,
            has_room: false,
        })
    }

    /// The service of this connection.
    pub fn service(&self) -> Service {
        self.service
    }

    /// Answers all requests in the ring; returns early where it has no room for an answer, which the next call sends.
    ///
    /// `reference` is the reference time of the hypervisor in units of 100 ns, where there is one; `agent` is called for what
    /// concerns the kernel. Does not block. Not for interrupt context.
    ///
    /// # Errors
    ///
    /// The [`Fault`] that ended the service.
    pub fn serve(&mut self, reference: Option<u64>, agent: &mut dyn Agent) -> Result<(), Fault> {
        loop {
            if let Some((len, transaction)) = self.pending_answer {
                self.has_room = false;
                if !self.send(len, transaction)? {
                    return Ok(());
                }
                self.pending_answer = None;
            }
            let Some(packet) = self.channel.receive(&mut self.buffer)? else { return Ok(()) };
            let transaction = packet.transaction;
            let is_plain = packet.kind == Kind::IN_BAND && packet.header.is_empty();
            let message = if is_plain { pipe::parse(packet.payload) } else { None };
            let Some(len) = message.map(<[u8]>::len).filter(|len| *len >= HEADER) else {
                log::warn!("hv-ic: {}: packet without a message, dropped", self.channel.offer());
                continue;
            };
            let end = len.saturating_add(PIPE_HEADER);
            let message = self.buffer.get_mut(PIPE_HEADER..end).unwrap_or_default();
            match answer(self.service, message, reference, agent) {
                Ok(()) => self.pending_answer = Some((len, transaction)),
                Err(_) => log::warn!(
                    "hv-ic: {}: malformed message of {len} bytes, not answered",
                    self.channel.offer()
                ),
            }
        }
    }

    /// Sends the answer in the buffer; returns whether there was room.
    fn send(&mut self, len: usize, transaction: u64) -> Result<bool, Fault> {
        let message = self.buffer.get(PIPE_HEADER..len.saturating_add(PIPE_HEADER)).unwrap_or_default();
        match pipe::send(&mut self.channel, transaction, message) {
            Ok(()) => {
                self.channel.kick();
                Ok(true)
            }
            Err(SendError::Full) => {
                self.has_room = self.channel.await_room(len.saturating_add(PIPE_HEADER))?;
                Ok(false)
            }
            Err(SendError::Faulted(fault)) => Err(fault),
            Err(_) => Err(Fault::Protocol),
        }
    }

    /// Whether the host has read all answers: what a kernel waits for before it powers off.
    pub fn is_flushed(&mut self) -> bool {
        self.pending_answer.is_none() && self.channel.is_drained() != Ok(false)
    }

    /// Registers the task to wake at the next request.
    pub fn register(&self, waker: &Waker) {
        self.channel.register(waker);
    }

    /// Asks for an interrupt at the next request; [`Arm::Pending`] where there is one already.
    #[must_use]
    pub fn arm(&mut self) -> Arm {
        if self.has_room { Arm::Pending } else { self.channel.arm() }
    }
}

impl<P: Platform> fmt::Debug for Connection<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("service", &self.service)
            .field("offer", self.channel.offer())
            .field("pending_answer", &self.pending_answer)
            .finish_non_exhaustive()
    }
}

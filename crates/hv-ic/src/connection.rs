//! A service on its channel.

use crate::message::{HEADER, Service, answer};
use core::task::Waker;
use hyperv_bindings::ic::IC_MESSAGE_MAXIMUM;
use paravirt_device::{Agent, Arm, Fault};
use paravirt_platform::{PageTable, Platform};
use paravirt_vmbus::{Channel, ChannelError, ChannelOptions, Kind, Offer, SendError, Vmbus, pipe};

/// Bytes of a packet: a message behind the header of a pipe.
const PACKET: usize = IC_MESSAGE_MAXIMUM as usize + 64;
/// Pages of a ring, its control page included.
const RING_PAGES: usize = 5;
/// Bytes of the header of a pipe.
const PIPE: usize = 8;

/// A service of the host's.
pub struct Connection<P: Platform> {
    channel: Channel<P>,
    service: Service,
    buffer: PageTable<P, u8>,
    /// An answer that waits for room: its length, and the transaction.
    late: Option<(usize, u64)>,
    /// There was room for it, right after there was none.
    has_room: bool,
}

impl<P: Platform> Connection<P> {
    /// Opens the channel that `offer` offers, of `service`.
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
        let buffer = PageTable::new(platform, PACKET, |_| 0)?;
        let options = ChannelOptions {
            outgoing_pages: RING_PAGES,
            incoming_pages: RING_PAGES,
            ..ChannelOptions::default()
        };
        Ok(Self { channel: vmbus.open(offer, &options)?, service, buffer, late: None, has_room: false })
    }

    /// What it is.
    pub fn service(&self) -> Service {
        self.service
    }

    /// Answers what the host has asked. `reference` is the hypervisor's reference time, in units of 100 ns, where there is one.
    ///
    /// # Errors
    ///
    /// The [`Fault`] that ends the service.
    pub fn serve(&mut self, reference: Option<u64>, agent: &mut dyn Agent) -> Result<(), Fault> {
        loop {
            if let Some((len, transaction)) = self.late {
                self.has_room = false;
                if !self.send(len, transaction)? {
                    return Ok(());
                }
                self.late = None;
            }
            let Some(packet) = self.channel.receive(&mut self.buffer)? else { return Ok(()) };
            let transaction = packet.transaction;
            let is_plain = packet.kind == Kind::IN_BAND && packet.header.is_empty();
            let message = if is_plain { pipe::parse(packet.payload) } else { None };
            let Some(len) = message.map(<[u8]>::len).filter(|len| *len >= HEADER) else {
                log::warn!("hv-ic: {}: a packet that is no message", self.channel.offer());
                continue;
            };
            let end = len.saturating_add(PIPE);
            let message = self.buffer.get_mut(PIPE..end).unwrap_or_default();
            match answer(self.service, message, reference, agent) {
                Ok(()) => self.late = Some((len, transaction)),
                Err(_) => log::warn!("hv-ic: {}: a malformed message", self.channel.offer()),
            }
        }
    }

    /// Sends the answer in the buffer; whether there was room.
    fn send(&mut self, len: usize, transaction: u64) -> Result<bool, Fault> {
        let message = self.buffer.get(PIPE..len.saturating_add(PIPE)).unwrap_or_default();
        match pipe::send(&mut self.channel, transaction, message) {
            Ok(()) => {
                self.channel.kick();
                Ok(true)
            }
            Err(SendError::Full) => {
                // Where there is room just now, the next round sends it.
                self.has_room = self.channel.await_room(len.saturating_add(PIPE))?;
                Ok(false)
            }
            Err(SendError::Faulted(fault)) => Err(fault),
            Err(_) => Err(Fault::Protocol),
        }
    }

    /// Whether the host has read all answers.
    pub fn is_flushed(&mut self) -> bool {
        self.late.is_none() && self.channel.is_drained() != Ok(false)
    }

    /// Registers the task to wake when the host asks.
    pub fn register(&self, waker: &Waker) {
        self.channel.register(waker);
    }

    /// Whether the next question wakes, or there is one.
    #[must_use]
    pub fn arm(&mut self) -> Arm {
        if self.has_room { Arm::Pending } else { self.channel.arm() }
    }
}

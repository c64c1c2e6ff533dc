//! A channel: two rings, and the operations of a driver on them.

mod gpa;
mod open;

use crate::connect::header;
use crate::gpadl::Gpadl;
use crate::rings::RingSlice;
use crate::shared::VmbusShared;
use crate::state::Awaited;
use crate::{ChannelError, GpaRange, Offer, Packet, Timeouts};
use core::fmt;
use core::task::Waker;
use core::time::Duration;
use hyperv_bindings::vmbus::{VMBUS_EVENT_CONNECTION, VmbusMessageType, VmbusModifyChannel};
use paravirt_device::{Arm, Fault, Rejected};
use paravirt_hyperv::HvStatus;
use paravirt_platform::{DmaRegion, PageArc, Platform, ProcessorId};
use paravirt_vmbus_ring::{Incoming, Kind, Outgoing, RingError};
use zerocopy::IntoBytes;

/// How a channel is opened.
#[derive(Copy, Clone, Debug)]
#[non_exhaustive]
pub struct ChannelOptions {
    /// Pages of the ring to the host, its control page included: 2 at least.
    pub outgoing_pages: usize,
    /// Pages of the ring from the host, its control page included: 2 at least.
    pub incoming_pages: usize,
    /// The processor that the channel's interrupts go to.
    pub processor: ProcessorId,
    /// Data of the device class for OPEN_CHANNEL.
    pub user_defined: [u8; 120],
}

impl ChannelOptions {
    /// These options, with the pages of the two rings, their control pages included: 2 at least for each.
    pub fn with_rings(self, outgoing_pages: usize, incoming_pages: usize) -> Self {
        Self { outgoing_pages, incoming_pages, ..self }
    }

    /// These options, with interrupts on `processor`.
    pub fn with_processor(self, processor: ProcessorId) -> Self {
        Self { processor, ..self }
    }

    /// These options, with data of the device class for OPEN_CHANNEL.
    pub fn with_user_defined(self, user_defined: [u8; 120]) -> Self {
        Self { user_defined, ..self }
    }
}

impl Default for ChannelOptions {
    fn default() -> Self {
        Self { outgoing_pages: 4, incoming_pages: 4, processor: ProcessorId(0), user_defined: [0; 120] }
    }
}

/// Why a packet was not sent. Nothing of it was written.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum SendError {
    /// The ring is full: [`await_room`](Channel::await_room), or look again later.
    Full,
    /// The packet does not fit the ring, or cannot be expressed in the protocol.
    Invalid,
    /// The channel is out of service.
    Faulted(Fault),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the ring is full"),
            Self::Invalid => f.write_str("the packet does not fit the ring"),
            Self::Faulted(fault) => fault.fmt(f),
        }
    }
}

impl core::error::Error for SendError {}

impl From<Fault> for SendError {
    fn from(fault: Fault) -> Self {
        Self::Faulted(fault)
    }
}

/// The fault of a driver whose control message was not sent: a message that the ring has no room for is one that the host does not
/// take in, which counts as [`Fault::Protocol`].
impl From<SendError> for Fault {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Faulted(fault) => fault,
            SendError::Full | SendError::Invalid => Self::Protocol,
        }
    }
}

/// Why a driver refuses a request whose packet was not sent.
impl From<SendError> for Rejected {
    #[cold]
    fn from(error: SendError) -> Self {
        match error {
            SendError::Full => Self::Full,
            SendError::Invalid => Self::Invalid,
            SendError::Faulted(fault) => fault.into(),
        }
    }
}

/// An open channel. Its drop closes it, which waits for the host: [`Timeouts::post`] at most until it accepts the message, and
/// [`Timeouts::answer`] until it has released the rings.
///
/// None of the methods may be called in interrupt context. Methods other than those that say so do not wait for an answer of the
/// host. [`receive`](Self::receive) of an empty ring, [`arm`](Self::arm) and the waits handle the messages of the bus that have
/// come, which takes the lock of the bus for each; one that ends a removed device sends a message, which the host accepts at once
/// or within [`Timeouts::post`]. The others take no lock. A packet that was not sent was not written either: memory that it names is not
/// known to the host.
pub struct Channel<P: Platform> {
    outgoing: Outgoing<RingSlice>,
    incoming: Incoming<RingSlice>,
    fault: Option<Fault>,
    /// The host signals what comes in.
    is_armed: bool,
    has_own_connection: bool,
    connection_id: u32,
    channel: u32,
    place: usize,
    epoch: u32,
    shared: PageArc<P, VmbusShared<P>>,
    /// The memory of the rings. `None` once it was torn down.
    memory: Option<Gpadl<P>>,
    offer: Offer,
}

impl<P: Platform> fmt::Debug for Channel<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("offer", &self.offer)
            .field("fault", &self.fault())
            .field("is_armed", &self.is_armed)
            .finish_non_exhaustive()
    }
}

impl<P: Platform> Channel<P> {
    /// The offer that was opened.
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// The longest payload of a packet in band.
    pub fn max_payload(&self) -> usize {
        self.outgoing.max_payload()
    }

    fn is_current(&self) -> bool {
        self.shared.is_current(self.place, self.epoch)
    }

    /// The fault that keeps the channel out of service: it was rescinded ([`Fault::Removed`]), or the host violated the protocol.
    #[inline(always)]
    pub fn fault(&self) -> Option<Fault> {
        if self.fault.is_none() && self.is_current() && self.shared.fault().is_none() {
            None
        } else {
            self.slow_fault()
        }
    }

    #[cold]
    fn slow_fault(&self) -> Option<Fault> {
        if !self.is_current() { Some(Fault::Removed) } else { self.fault.or(self.shared.fault()) }
    }

    /// Puts the channel out of service: for a driver that finds a malformed packet.
    pub fn fail(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    #[cold]
    fn refused(&mut self, error: RingError) -> SendError {
        match error {
            RingError::Full => SendError::Full,
            RingError::Large | RingError::Shape => SendError::Invalid,
            error => self.broken(error).into(),
        }
    }

    /// Writes a packet in band: the parts one after the other, each but the last a multiple of 8 bytes long. The host sees it
    /// at the next [`kick`](Self::kick).
    ///
    /// # Errors
    ///
    /// [`SendError`].
    #[inline]
    pub fn send_in_band(
        &mut self,
        transaction: u64,
        wants_completion: bool,
        payload: &[&[u8]],
    ) -> Result<(), SendError> {
        if let Some(fault) = self.fault() {
            return Err(fault.into());
        }
        let sent = self.outgoing.in_band(transaction, wants_completion, payload);
        sent.map_err(|error| self.refused(error))
    }

    /// Writes a packet that names ranges of guest memory by address.
    ///
    /// # Errors
    ///
    /// [`SendError`].
    ///
    /// # Safety
    ///
    /// The host may read and write the ranges until the completion with `transaction` has come or the channel has been closed:
    /// until then the guest accesses them as atomics only, and does not free them.
    #[inline]
    pub unsafe fn send_gpa_ranges<R, I>(
        &mut self,
        transaction: u64,
        ranges: R,
        payload: &[&[u8]],
    ) -> Result<(), SendError>
    where
        R: Iterator<Item = GpaRange<I>> + Clone,
        I: ExactSizeIterator<Item = u64>,
    {
        if let Some(fault) = self.fault() {
            return Err(fault.into());
        }
        let sent = self.outgoing.gpa_direct(transaction, ranges, payload);
        sent.map_err(|error| self.refused(error))
    }

    /// Writes the completion of a packet from the host.
    ///
    /// # Errors
    ///
    /// [`SendError`].
    #[inline]
    pub fn send_completion(&mut self, transaction: u64, payload: &[&[u8]]) -> Result<(), SendError> {
        if let Some(fault) = self.fault() {
            return Err(fault.into());
        }
        let sent = self.outgoing.completion(transaction, payload);
        sent.map_err(|error| self.refused(error))
    }

    /// Publishes what was written, and signals the host unless it has masked signals: once for a batch, and not at all while the
    /// host is draining the ring.
    #[inline]
    pub fn kick(&mut self) {
        if self.outgoing.publish() {
            self.signal();
        }
    }

    #[inline]
    fn signal(&mut self) {
        if self.fault().is_some() {
            return;
        }
        let connection = if self.has_own_connection {
            self.connection_id
        } else {
            self.shared.interrupts.set_send_bit(self.channel);
            VMBUS_EVENT_CONNECTION
        };
        if let Err(status) = self.shared.hypervisor().signal_event(connection) {
            self.signal_refused(status);
        }
    }

    /// A host that has rescinded the channel does not know its port any more, also before its message about that is handled.
    #[cold]
    fn signal_refused(&mut self, status: HvStatus) {
        self.shared.collect();
        if !self.is_current() {
            return;
        }
        log::error!("vmbus: {}: signal refused with status {:#x}: out of service", self.offer, status.0);
        let is_unknown = matches!(status, HvStatus::INVALID_CONNECTION_ID | HvStatus::INVALID_PORT_ID);
        self.fail(if is_unknown { Fault::Removed } else { Fault::Protocol });
    }

    /// How long the drivers of the connection wait for the host.
    pub fn timeouts(&self) -> &Timeouts {
        &self.shared.timeouts
    }

    /// Whether there is room now for a packet with `payload` bytes, its headers included.
    ///
    /// # Errors
    ///
    /// The fault of the channel.
    pub fn has_room(&mut self, payload: usize) -> Result<bool, Fault> {
        if let Some(fault) = self.fault() {
            return Err(fault);
        }
        self.outgoing.fits(payload).map_err(|error| self.broken(error))
    }

    /// Whether the host has read all that was sent.
    ///
    /// # Errors
    ///
    /// The fault of the channel.
    pub fn is_drained(&mut self) -> Result<bool, Fault> {
        if let Some(fault) = self.fault() {
            return Err(fault);
        }
        self.outgoing.is_drained().map_err(|error| self.broken(error))
    }

    /// Puts the channel out of service after a protocol violation in its rings.
    #[cold]
    fn broken(&mut self, error: RingError) -> Fault {
        log::error!("vmbus: {}: {error}: channel out of service", self.offer);
        self.fail(Fault::Protocol);
        Fault::Protocol
    }

    /// After [`SendError::Full`]: asks for an interrupt once there is room for a packet with `payload` bytes, its headers included;
    /// `true` where there is already. Not every host sends it: look again from time to time.
    ///
    /// # Errors
    ///
    /// The fault of the channel.
    pub fn await_room(&mut self, payload: usize) -> Result<bool, Fault> {
        self.kick();
        if let Some(fault) = self.fault() {
            return Err(fault);
        }
        self.outgoing.await_room(payload).map_err(|error| self.broken(error))
    }

    /// Blocks until there is room for a packet with `payload` bytes, its headers included, `at_most` so long.
    ///
    /// # Errors
    ///
    /// The fault of the channel; [`Fault::Timeout`].
    pub fn wait_for_room(&mut self, payload: usize, at_most: Duration) -> Result<(), Fault> {
        let end = self.shared.platform().now().saturating_add(at_most);
        while !self.await_room(payload)? {
            if self.shared.platform().now() >= end {
                return Err(Fault::Timeout);
            }
            self.shared.collect();
            self.shared.platform().relax();
        }
        Ok(())
    }

    /// Takes the next packet, copied to `buffer` once. `None` where there is none; the room is then released to the host.
    ///
    /// # Errors
    ///
    /// The fault of the channel, also where the packet is longer than `buffer`.
    #[inline(always)]
    pub fn receive<'b>(&mut self, buffer: &'b mut [u8]) -> Result<Option<Packet<'b>>, Fault> {
        // Checked at every look at the ring, rather than for every packet that a look has shown.
        if self.fault.is_some() || !self.incoming.is_next_known() {
            if let Some(fault) = self.fault() {
                return Err(fault);
            }
        }
        match self.incoming.next(buffer) {
            Ok(Some(packet)) => {
                if self.is_armed {
                    self.disarm();
                }
                Ok(Some(packet))
            }
            Ok(None) => {
                self.release();
                if self.shared.has_news() {
                    self.shared.collect();
                }
                Ok(None)
            }
            Err(error) => Err(self.broken(error)),
        }
    }

    /// Takes the next packet where `accept` answers to it: see [`Incoming::next_if`]. `None` is for [`receive`](Self::receive).
    #[inline(always)]
    pub fn receive_if<const WORDS: usize, R>(
        &mut self,
        kind: Kind,
        min_words: u16,
        accept: impl FnOnce(u64, [u64; WORDS]) -> Option<R>,
    ) -> Option<R> {
        if self.fault.is_some() || (!self.incoming.is_next_known() && self.fault().is_some()) {
            return None;
        }
        let accepted = self.incoming.next_if(kind, min_words, accept)?;
        if self.is_armed {
            self.disarm();
        }
        Some(accepted)
    }

    /// Takes the next packet of those that came in before the host rescinded the channel.
    ///
    /// # Errors
    ///
    /// [`Fault::Protocol`] where the ring is malformed.
    pub fn receive_rest<'b>(&mut self, buffer: &'b mut [u8]) -> Result<Option<Packet<'b>>, Fault> {
        self.incoming.next(buffer).map_err(|error| self.broken(error))
    }

    /// Blocks until the next packet, `at_most` so long.
    ///
    /// # Errors
    ///
    /// The fault of the channel; [`Fault::Timeout`].
    pub fn wait<'b>(&mut self, buffer: &'b mut [u8], at_most: Duration) -> Result<Packet<'b>, Fault> {
        self.release();
        let end = self.shared.platform().now().saturating_add(at_most);
        while !self.incoming.has_more() {
            self.shared.collect();
            if let Some(fault) = self.fault() {
                return Err(fault);
            }
            if self.shared.platform().now() >= end {
                return Err(Fault::Timeout);
            }
            self.shared.platform().relax();
        }
        self.receive(buffer)?.ok_or(Fault::Protocol)
    }

    /// [Releases](Self::release) what was taken where that is a quarter of the ring: for a driver that stops before the last
    /// packet.
    #[inline(always)]
    pub fn release_if_due(&mut self) {
        if self.incoming.is_release_due() {
            self.release();
        }
    }

    /// Releases the room of what was taken to the host, and signals the host where it waits for that.
    #[inline]
    pub fn release(&mut self) {
        if self.incoming.release() {
            self.signal();
        }
    }

    /// Unmasks the interrupt for the next packet: see [`Notify::arm`](paravirt_device::Notify::arm).
    #[must_use]
    pub fn arm(&mut self) -> Arm {
        self.release();
        self.shared.collect();
        if self.fault().is_some() || self.shared.has_news() {
            return Arm::Pending;
        }
        self.is_armed = !self.incoming.unmask();
        if self.is_armed { self.shared.interrupts.armed() } else { Arm::Pending }
    }

    /// Masks interrupts.
    pub fn disarm(&mut self) {
        self.is_armed = false;
        self.incoming.mask();
    }

    /// Registers the task to wake at the next packet, and when the channel is rescinded.
    pub fn register(&self, waker: &Waker) {
        if let Some(cell) = self.shared.cell(self.channel) {
            cell.register(waker);
        }
    }

    /// Creates a GPADL of `region` for this channel: a buffer that both sides access. Blocks for the host's answer,
    /// [`Timeouts::answer`] at most. Drop the channel before it: a host need not release it while the channel is open, and the drop
    /// then waits as long and leaks the memory.
    ///
    /// # Errors
    ///
    /// [`ChannelError`]; [`ChannelError::Size`] for more than 8190 pages.
    pub fn add_memory(&self, region: DmaRegion<P>) -> Result<Gpadl<P>, ChannelError> {
        Gpadl::new(&self.shared, self.place, self.epoch, region)
    }

    /// Moves the channel's interrupts to `processor`. Blocks for the host's answer, [`Timeouts::answer`] at most; hosts before
    /// VMBus 5.3 do not answer, and may raise a few more on the processor before.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Size`] where the host's version has no such message or there is no such processor.
    pub fn set_processor(&self, processor: ProcessorId) -> Result<(), ChannelError> {
        let version = self.shared.version();
        let vp = self
            .shared
            .synic()
            .vp_index(processor)
            .filter(|_| version.has_modify())
            .ok_or(ChannelError::Size)?;
        let message = VmbusModifyChannel {
            header: header(VmbusMessageType::MODIFY_CHANNEL),
            channel_id: self.channel,
            target_vp: vp,
        };
        self.set_modify(|modify| {
            if *modify == Awaited::Yes {
                return Err(ChannelError::Busy);
            }
            *modify = if version.answers_modify() { Awaited::Yes } else { Awaited::No };
            Ok(())
        })??;
        let sent = self.shared.post(message.as_bytes());
        let answer = match (&sent, version.answers_modify()) {
            (Ok(()), true) => self.shared.wait(self.shared.timeouts.answer, |state| {
                if !self.is_current() {
                    return Some(Err(ChannelError::Gone));
                }
                match state.entry(self.place)?.modify {
                    Awaited::Came(0) => Some(Ok(())),
                    Awaited::Came(status) => Some(Err(ChannelError::Refused(status))),
                    _ => None,
                }
            }),
            _ => Some(sent.map_err(ChannelError::from)),
        };
        let _ = self.set_modify(|modify| *modify = Awaited::No);
        answer.unwrap_or(Err(Fault::Timeout.into()))
    }

    /// Does `work` with the awaited answer to MODIFY_CHANNEL, unless the channel was rescinded.
    fn set_modify<R>(&self, work: impl FnOnce(&mut Awaited) -> R) -> Result<R, ChannelError> {
        let mut state = self.shared.state.lock();
        if !self.is_current() {
            return Err(ChannelError::Gone);
        }
        state.entry(self.place).map(|entry| work(&mut entry.modify)).ok_or(ChannelError::Gone)
    }
}

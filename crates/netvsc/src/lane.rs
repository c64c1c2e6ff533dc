//! A channel in service: what came in by it, and what is on its way out. A queue owns it, but for the primary one, by which
//! requests of the device go as well.

use crate::message::HostMessage;
use crate::receive::{Completion, Frame, Received};
use crate::send::{Sending, id};
use crate::shared::Shared;
use hyperv_bindings::netvsp::{
    NVSP_NO_SECTION, NvspChannelType, NvspMessageType, NvspSendRndisPacket, NvspStatus,
};
use paravirt_device::{Fault, Rejected};
use paravirt_platform::{AllocError, DmaBuffer, Fifo, PageTable, Platform, SharedMemory, WakerGroup};
use paravirt_vmbus::{Channel, GpaRange, Kind, SendError};
use zerocopy::IntoBytes;

/// Bytes of any packet of the host's: 562 ranges, and a message.
const PACKET: usize = 8192;
/// Tasks that a channel wakes: a queue's, and the device's.
pub(crate) const QUEUE: usize = 0;
pub(crate) const DEVICE: usize = 1;

pub(crate) struct Lane<P: Platform, B: DmaBuffer> {
    pub channel: Option<Channel<P>>,
    buffer: PageTable<P, u8>,
    pub received: Received<P>,
    pub sending: Sending<P, B>,
    pub wakers: WakerGroup<P>,
    /// A queue owns it.
    pub is_taken: bool,
}

/// The message that says that an RNDIS message is with this packet.
pub(crate) fn rndis(channel_type: NvspChannelType, section: u32, len: u32) -> NvspSendRndisPacket {
    NvspSendRndisPacket {
        message_type: NvspMessageType::SEND_RNDIS_PACKET,
        channel_type,
        section_index: section,
        section_size: len,
        padding: [0; 24],
    }
}

pub(crate) fn refused(error: SendError) -> Rejected {
    match error {
        SendError::Full => Rejected::Full,
        SendError::Faulted(fault) => fault.into(),
        _ => Rejected::Invalid,
    }
}

impl<P: Platform, B: DmaBuffer> Lane<P, B> {
    pub fn new(platform: &P, frames: usize, sending: Sending<P, B>) -> Result<Self, AllocError> {
        Ok(Self {
            channel: None,
            buffer: PageTable::new(platform, PACKET, |_| 0)?,
            received: Received::new(platform, frames)?,
            sending,
            wakers: WakerGroup::new(platform, 2)?,
            is_taken: false,
        })
    }

    /// Takes everything that came in.
    #[inline]
    pub fn pump(&mut self, shared: &Shared<P>, memory: &SharedMemory) -> Result<(), Fault> {
        let Self { channel, buffer, received, sending, wakers, .. } = self;
        let channel = channel.as_mut().ok_or(Fault::Removed)?;
        let mut is_idle = true;
        while let Some(packet) = channel.receive(buffer)? {
            is_idle = false;
            let handled = match packet.kind {
                Kind::COMPLETION if packet.transaction & id::CONTROL != 0 => {
                    shared.control_sent(packet.transaction, packet.payload)
                }
                Kind::COMPLETION => {
                    let is_taken = matches!(
                        HostMessage::parse(packet.payload, shared.version()),
                        Ok(HostMessage::RndisComplete(NvspStatus::SUCCESS))
                    );
                    sending.completed(packet.transaction, is_taken)
                }
                Kind::TRANSFER_PAGES => {
                    let taken = received.take_in(&packet, shared, memory);
                    taken.map(|completion| {
                        if let Completion::Now(transaction) = completion {
                            received.complete(transaction);
                        }
                    })
                }
                Kind::IN_BAND => {
                    let (transaction, wants_completion) = (packet.transaction, packet.wants_completion);
                    shared.notice(packet.payload);
                    if wants_completion {
                        received.complete(transaction);
                    }
                    wakers.wake(DEVICE);
                    Ok(())
                }
                _ => Err(Fault::Protocol),
            };
            if let Err(fault) = handled {
                log::error!("netvsc: {}: a packet that cannot be", channel.offer());
                channel.fail(fault);
                return Err(fault);
            }
        }
        received.settle(channel)?;
        let is_late = sending.is_late();
        if is_late {
            sending.flush(channel)?;
        }
        if received.must_tell(is_idle) || is_late {
            channel.kick();
        }
        if shared.take_news() {
            wakers.wake(DEVICE);
        }
        Ok(())
    }

    /// Sends what has been committed, as far as there is room, and tells the host where it has to be told.
    #[inline]
    pub fn kick(&mut self) -> Result<(), Fault> {
        let Self { channel: Some(channel), received, sending, .. } = self else { return Ok(()) };
        sending.flush(channel)?;
        received.settle(channel)?;
        received.must_tell(true);
        channel.kick();
        Ok(())
    }

    /// Where something waits for room in the ring: asks for an interrupt when there is; whether there is already, or a fault.
    pub fn has_found_room(&mut self) -> bool {
        /// What waits is not larger: a completion, or a message.
        const PACKET: usize = 40;
        if self.received.is_settled() && !self.sending.is_late() {
            return false;
        }
        let Some(channel) = &mut self.channel else { return false };
        !matches!(channel.await_room(PACKET), Ok(false))
    }

    /// Wakes the queue where the device has taken in what is its.
    pub fn tell_queue(&self) {
        if self.is_taken && (self.received.front().is_some() || self.sending.has_sent()) {
            self.wakers.wake(QUEUE);
        }
    }

    /// Sends a message of the device's own from `address`.
    pub fn send_control(&mut self, transaction: u64, address: u64, len: u32) -> Result<(), Rejected> {
        let channel = self.channel.as_mut().ok_or(Fault::Removed)?;
        let message = rndis(NvspChannelType::CONTROL, NVSP_NO_SECTION, 0);
        let range = GpaRange::contiguous(address, len);
        let transaction = transaction | id::CONTROL;
        // SAFETY: the range is in the page of requests, which the driver keeps until the channels have been closed, and which only
        // atomics access.
        unsafe { channel.send_gpa_ranges(transaction, core::iter::once(range), &[message.as_bytes()]) }
            .map_err(refused)?;
        channel.kick();
        Ok(())
    }

    /// Ends what is under way, after the channel is gone.
    pub fn end(&mut self, has_let_go: bool) {
        self.sending.end(has_let_go);
        self.wakers.wake_all();
    }

    pub fn frames(&self) -> &Fifo<P, Frame> {
        self.received.frames()
    }
}

//! What the queues of a device share: its channels, its buffers, and the requests of the device itself.

use crate::lane::{Lane, refused};
use crate::send::id;
use crate::shared::{ANSWER, ANSWERED, REQUEST, Shared};
use core::fmt;
use core::sync::atomic::Ordering;
use core::task::Waker;
use core::time::Duration;
use hyperv_bindings::rndis::{
    RndisComplete, RndisHeader, RndisInitialize, RndisMessageType, RndisOid, RndisQuery, RndisRequest,
    RndisStatus,
};
use paravirt_device::{ControlError, Fault, Rejected};
use paravirt_platform::{AllocError, DmaBuffer, DmaRegion, PageTable, Platform, SharedMemory};
use paravirt_vmbus::{ChannelError, Gpadl, SendError};
use spin::Mutex;
use zerocopy::IntoBytes;

/// How long the host may take for a step of the set-up, or for a request.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that a request can have.
const MOST_REQUEST: usize = 1024;
/// Where in the page of requests the answers to the host's own are.
const KEEP_ALIVE: usize = 2048;

/// Why a device could not be opened.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum OpenError {
    /// Its channel could not be opened, or its buffers not be shared.
    Channel(ChannelError),
    /// The host speaks no version that this driver does.
    Version,
    /// The host does not take the buffers.
    Buffers,
    /// The host refused a step of the set-up.
    Refused(u32),
    /// The host broke the protocol, or does not answer.
    Faulted(Fault),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel(error) => error.fmt(f),
            Self::Version => f.write_str("the host speaks no version that is known here"),
            Self::Buffers => f.write_str("the host does not take the buffers"),
            Self::Refused(status) => {
                write!(f, "the host refused a step of the set-up with status {status:#x}")
            }
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
        Self::Faulted(match error {
            SendError::Faulted(fault) => fault,
            _ => Fault::Protocol,
        })
    }
}

impl From<ControlError> for OpenError {
    fn from(error: ControlError) -> Self {
        Self::Faulted(match error {
            ControlError::Faulted(fault) => fault,
            _ => Fault::Refused,
        })
    }
}

/// What one at a time may do: requests.
pub(crate) struct Control<P: Platform> {
    /// Where requests are sent from. `None` once it was leaked.
    page: Option<DmaRegion<P>>,
    last: u32,
}

/// The answer to a query.
pub(crate) struct Reply {
    bytes: [u8; ANSWER],
    len: usize,
}

impl Reply {
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Its first word.
    pub fn word(&self) -> Option<u32> {
        self.bytes().first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
    }
}

pub(crate) struct Core<P: Platform, B: DmaBuffer> {
    pub lanes: PageTable<P, Mutex<Lane<P, B>>>,
    pub control: Mutex<Control<P>>,
    pub shared: Shared<P>,
    /// The buffers that both sides know. Behind the channels, which have to be closed before they go.
    pub receive: Gpadl<P>,
    pub send: Option<Gpadl<P>>,
}

impl<P: Platform, B: DmaBuffer> Core<P, B> {
    pub fn control(platform: &P) -> Result<Mutex<Control<P>>, AllocError> {
        let page = Some(DmaRegion::alloc(platform, paravirt_platform::PAGE_SIZE)?);
        Ok(Mutex::new(Control { page, last: 0 }))
    }

    #[inline(always)]
    pub fn lane(&self, index: usize) -> Option<&Mutex<Lane<P, B>>> {
        self.lanes.get(index)
    }

    pub fn received(&self) -> Option<&SharedMemory> {
        self.receive.shared()
    }

    /// Takes in what came by channel `index`; a fault puts the device out of service.
    #[inline]
    pub fn pump(&self, index: usize) -> Result<(), Fault> {
        if let Some(fault) = self.shared.fault() {
            return Err(fault);
        }
        let (Some(lane), Some(memory)) = (self.lane(index), self.received()) else {
            return Err(Fault::Refused);
        };
        let pumped = lane.lock().pump(&self.shared, memory);
        pumped.map_err(|fault| self.fail(fault))
    }

    /// Puts the device out of service: closes its channels, and gives back what was lent. The fault in force.
    #[cold]
    pub fn fail(&self, fault: Fault) -> Fault {
        if self.shared.fail(fault) {
            log::error!("netvsc: device out of service: {fault}");
            if self.close().is_err() {
                self.shared.worsen();
            }
        }
        self.shared.fault().unwrap_or(fault)
    }

    /// Closes all channels, the primary one last, and ends what is under way.
    fn close(&self) -> Result<(), Fault> {
        let mut closed = Ok(());
        for lane in self.lanes.iter().rev() {
            // Out of the lock, as it takes its time.
            let channel = lane.lock().channel.take();
            if let Some(channel) = channel {
                channel.register(Waker::noop());
                closed = closed.and(channel.close());
            }
        }
        self.lanes.iter().for_each(|lane| lane.lock().end(closed.is_ok()));
        if closed.is_err() {
            self.control.lock().page.take().into_iter().for_each(DmaRegion::leak);
        }
        closed
    }

    /// Sends the message that `make` makes, given a number for the request, and waits until the host has taken it and, where
    /// that is awaited, answered it.
    fn request(
        &self,
        is_answered: bool,
        make: impl FnOnce(u32, &mut dyn FnMut(&[u8])),
    ) -> Result<(RndisStatus, Reply), Fault> {
        let control = &mut *self.control.lock();
        let Some(page) = &control.page else { return Err(Fault::Timeout) };
        control.last = control.last.wrapping_add(1).max(1);
        let request = control.last;
        let mut message = [0; MOST_REQUEST];
        let mut len = 0usize;
        make(request, &mut |bytes| {
            let room = message.get_mut(len..).unwrap_or_default();
            room.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            len = len.saturating_add(bytes.len()).min(MOST_REQUEST);
        });
        page.shared().copy_in(0, message.get(..len).unwrap_or_default()).ok_or(Fault::Refused)?;
        {
            let mut answer = self.shared.answer.lock();
            (answer.awaited, answer.status, answer.len) = (if is_answered { request } else { 0 }, None, 0);
        }
        let address = page.bus().0;
        self.exchange(|lane| lane.send_control(REQUEST, address, len as u32))?;
        let mut answer = self.shared.answer.lock();
        answer.awaited = 0;
        let status = answer.status.unwrap_or(RndisStatus::SUCCESS);
        Ok((status, Reply { bytes: answer.bytes, len: answer.len }))
    }

    /// Sends what `send` sends by the primary channel, and waits until the host has taken it and has given the answer that is
    /// awaited.
    fn exchange(&self, mut send: impl FnMut(&mut Lane<P, B>) -> Result<(), Rejected>) -> Result<(), Fault> {
        self.shared.answer.lock().is_sent = false;
        let platform = &self.shared.platform;
        let end = platform.now().saturating_add(TIMEOUT);
        let mut is_sent = false;
        let (Some(lane), Some(memory)) = (self.lane(0), self.received()) else { return Err(Fault::Refused) };
        loop {
            if let Some(fault) = self.shared.fault() {
                return Err(fault);
            }
            if !is_sent {
                match send(&mut lane.lock()) {
                    Ok(()) => is_sent = true,
                    // What is in the ring has to get out of it.
                    Err(Rejected::Full) => lane.lock().kick()?,
                    Err(Rejected::Faulted(fault)) => return Err(fault),
                    Err(_) => return Err(Fault::Refused),
                }
            }
            // Not by `pump`: a fault is dealt with when the lock of requests is free.
            {
                let mut lane = lane.lock();
                lane.pump(&self.shared, memory)?;
                lane.tell_queue();
            }
            let answer = self.shared.answer.lock();
            if answer.is_sent && (answer.awaited == 0 || answer.status.is_some()) {
                return Ok(());
            }
            drop(answer);
            if platform.now() >= end {
                return Err(Fault::Timeout);
            }
            platform.relax();
        }
    }

    /// A request; a fault puts the device out of service.
    fn ask(
        &self,
        is_answered: bool,
        make: impl FnOnce(u32, &mut dyn FnMut(&[u8])),
    ) -> Result<Reply, ControlError> {
        if let Some(fault) = self.shared.fault() {
            return Err(fault.into());
        }
        match self.request(is_answered, make) {
            Ok((RndisStatus::SUCCESS | RndisStatus::PENDING, reply)) => Ok(reply),
            Ok((RndisStatus::NOT_SUPPORTED | RndisStatus::INVALID_OID, _)) => Err(ControlError::Unsupported),
            Ok((status, _)) => {
                log::debug!("netvsc: a request was refused with status {:#x}", status.0);
                Err(ControlError::Refused)
            }
            Err(fault) => Err(self.fail(fault).into()),
        }
    }

    /// Begins RNDIS.
    pub fn initialize(&self) -> Result<(), ControlError> {
        self.ask(true, |request_id, put| {
            let header = header(RndisMessageType::INITIALIZE, size_of::<RndisInitialize>());
            let message =
                RndisInitialize { header, request_id, major: 1, minor: 0, maximum_transfer: 0x4000 };
            put(message.as_bytes());
        })
        .map(drop)
    }

    /// Ends RNDIS. There is no answer.
    pub fn halt(&self) {
        let _ = self.ask(false, |request_id, put| {
            let header = header(RndisMessageType::HALT, size_of::<RndisRequest>());
            put(RndisRequest { header, request_id }.as_bytes());
        });
    }

    /// Asks for `oid`, with `input` where the host wants one.
    pub fn query(&self, oid: RndisOid, input: &[u8]) -> Result<Reply, ControlError> {
        self.ask(true, |request_id, put| put_request(RndisMessageType::QUERY, request_id, oid, &[input], put))
    }

    /// Sets `oid`.
    pub fn set(&self, oid: RndisOid, value: &[u8]) -> Result<(), ControlError> {
        self.set_parts(oid, &[value])
    }

    /// Sets `oid` to the parts one after the other.
    pub fn set_parts(&self, oid: RndisOid, value: &[&[u8]]) -> Result<(), ControlError> {
        self.ask(true, |request_id, put| put_request(RndisMessageType::SET, request_id, oid, value, put))
            .map(drop)
    }

    /// Sends a message of NVSP by the primary channel, and waits until the host has confirmed it.
    pub fn tell(&self, message: &[u8]) -> Result<(), ControlError> {
        let result = self.exchange(|lane| {
            let channel = lane.channel.as_mut().ok_or(Fault::Removed)?;
            channel.send_in_band(REQUEST | id::CONTROL, true, &[message]).map_err(refused)?;
            channel.kick();
            Ok(())
        });
        result.map_err(|fault| self.fail(fault).into())
    }

    /// Answers the host where it wants to know whether the guest is there.
    pub fn keep_alive(&self) {
        if self.shared.is_answering.load(Ordering::Acquire) {
            return;
        }
        let Some(request_id) = self.shared.take_keep_alive() else { return };
        let control = self.control.lock();
        let Some(page) = &control.page else { return };
        let size = size_of::<RndisComplete>();
        let header = header(RndisMessageType::KEEPALIVE_COMPLETE, size);
        let message = RndisComplete { header, request_id, status: RndisStatus::SUCCESS };
        if page.shared().copy_in(KEEP_ALIVE, message.as_bytes()).is_some()
            && let Some(lane) = self.lane(0)
        {
            let address = page.bus().0.wrapping_add(KEEP_ALIVE as u64);
            let mut lane = lane.lock();
            self.shared.is_answering.store(true, Ordering::Release);
            if lane.send_control(ANSWERED, address, size as u32).is_err() {
                self.shared.is_answering.store(false, Ordering::Release);
            }
        }
    }
}

fn header(message_type: RndisMessageType, len: usize) -> RndisHeader {
    RndisHeader { message_type, message_length: u32::try_from(len).unwrap_or(0) }
}

fn put_request(
    kind: RndisMessageType,
    request_id: u32,
    oid: RndisOid,
    value: &[&[u8]],
    put: &mut dyn FnMut(&[u8]),
) {
    let len = value.iter().fold(0usize, |sum, part| sum.saturating_add(part.len()));
    let header = header(kind, size_of::<RndisQuery>().saturating_add(len));
    let info_length = u32::try_from(len).unwrap_or(0);
    let info_offset = if len == 0 { 0 } else { INFO_OFFSET };
    put(RndisQuery { header, request_id, oid, info_length, info_offset, vc_handle: 0 }.as_bytes());
    value.iter().for_each(|part| put(part));
}

/// Where the value of a request begins, from behind the header.
const INFO_OFFSET: u32 = (size_of::<RndisQuery>() - size_of::<RndisHeader>()) as u32;

impl<P: Platform, B: DmaBuffer> Drop for Core<P, B> {
    fn drop(&mut self) {
        if self.shared.fault().is_none() {
            let _ = self.close();
        }
    }
}

//! Requests of the device: RNDIS messages by the primary channel, one at a time.
//!
//! The primary channel belongs to queue 0 as well. The device locks it for each step, sends its message, and takes in what
//! comes until the answer is there: the frames among it wait in the [backlog](crate::backlog) until the queue polls.

use crate::channel::ChannelState;
use crate::host_state::MAX_ANSWER;
use crate::shared::NetShared;
use crate::transaction::{KEEP_ALIVE, REQUEST};
use core::sync::atomic::Ordering;
use hyperv_bindings::rndis::{
    RndisComplete, RndisHeader, RndisInitialize, RndisMessageType, RndisOid, RndisQuery, RndisRequest,
    RndisStatus,
};
use paravirt_device::{ControlError, Fault, Rejected};
use paravirt_platform::{AllocError, DmaBuffer, DmaRegion, PAGE_SIZE, Platform};
use zerocopy::{FromBytes, IntoBytes};

/// Bytes of a request.
const MAX_REQUEST: usize = 1024;
/// Where in the page of requests the answer to a keep-alive is written.
const KEEP_ALIVE_OFFSET: usize = 2048;
/// Messages that INITIALIZE says the guest can take in one transfer, in bytes.
const MAX_TRANSFER: u32 = 0x4000;

/// Where requests are sent from.
pub(crate) struct Requests<P: Platform> {
    /// `None` once it was leaked.
    page: Option<DmaRegion<P>>,
    last: u32,
}

impl<P: Platform> Requests<P> {
    pub fn new(platform: &P) -> Result<Self, AllocError> {
        Ok(Self { page: Some(DmaRegion::alloc(platform, PAGE_SIZE)?), last: 0 })
    }

    /// Leaks the page: the host did not confirm that the channels are closed.
    pub fn leak(&mut self) {
        self.page.take().into_iter().for_each(DmaRegion::leak);
    }
}

/// The answer to a query.
pub(crate) struct Reply {
    bytes: [u8; MAX_ANSWER],
    len: usize,
}

impl Reply {
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// The value at the beginning; `None` where the answer is shorter.
    pub fn read<T: FromBytes>(&self) -> Option<T> {
        T::read_from_prefix(self.bytes()).ok().map(|(value, _)| value)
    }
}

/// A request that is being built.
struct Request {
    bytes: [u8; MAX_REQUEST],
    len: usize,
}

impl Request {
    fn push(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let room = self.bytes.get_mut(self.len..).unwrap_or_default();
        let (to, _) = room.split_at_mut_checked(bytes.len()).ok_or(Fault::Refused)?;
        to.copy_from_slice(bytes);
        self.len = self.len.saturating_add(bytes.len());
        Ok(())
    }
}

impl<P: Platform, B: DmaBuffer> NetShared<P, B> {
    /// Sends the message that `make` makes, given an id for the request. Waits until the host has completed its packet and,
    /// where it `is_answered`, has answered it.
    fn request(
        &self,
        is_answered: bool,
        make: impl FnOnce(u32, &mut Request) -> Result<(), Fault>,
    ) -> Result<(RndisStatus, Reply), Fault> {
        let requests = &mut *self.requests.lock();
        let Some(page) = &requests.page else { return Err(Fault::Timeout) };
        requests.last = requests.last.wrapping_add(1).max(1);
        let id = requests.last;
        let mut message = Request { bytes: [0; MAX_REQUEST], len: 0 };
        make(id, &mut message)?;
        let bytes = message.bytes.get(..message.len).unwrap_or_default();
        page.shared().copy_in(0, bytes).ok_or(Fault::Refused)?;
        {
            let mut answer = self.host.answer.lock();
            (answer.request, answer.status, answer.len) = (if is_answered { id } else { 0 }, None, 0);
        }
        let (address, len) = (page.bus().0, message.len as u32);
        // SAFETY: the page is accessed as atomics only, and `NetShared` keeps it until the channels have been closed.
        self.exchange(|channel| unsafe { channel.send_control(REQUEST, address, len) })?;
        let mut answer = self.host.answer.lock();
        answer.request = 0;
        let status = answer.status.unwrap_or(RndisStatus::SUCCESS);
        Ok((status, Reply { bytes: answer.bytes, len: answer.len }))
    }

    /// Sends what `send` sends by the primary channel, and waits until the host has completed it and has given the answer that
    /// is awaited.
    fn exchange(
        &self,
        mut send: impl FnMut(&mut ChannelState<P, B>) -> Result<(), Rejected>,
    ) -> Result<(), Fault> {
        self.host.answer.lock().is_sent = false;
        let platform = &self.host.platform;
        let end = platform.now().saturating_add(self.host.timeout);
        let mut is_sent = false;
        let (Some(channel), Some(memory)) = (self.channel(0), self.received()) else {
            return Err(Fault::Refused);
        };
        loop {
            if let Some(fault) = self.host.fault() {
                return Err(fault);
            }
            {
                let mut channel = channel.lock();
                if !is_sent {
                    match send(&mut channel) {
                        Ok(()) => is_sent = true,
                        Err(Rejected::Full) => channel.publish(),
                        Err(Rejected::Faulted(fault)) => return Err(fault),
                        Err(_) => return Err(Fault::Refused),
                    }
                }
                // The caller puts the device out of service where this fails, without the locks that are held here.
                channel.pump_device(&self.host, memory)?;
            }
            let answer = self.host.answer.lock();
            if answer.is_sent && (answer.request == 0 || answer.status.is_some()) {
                return Ok(());
            }
            drop(answer);
            if platform.now() >= end {
                return Err(Fault::Timeout);
            }
            platform.relax();
        }
    }

    /// As [`request`](Self::request), for callers outside: a fault puts the device out of service.
    fn ask(
        &self,
        is_answered: bool,
        make: impl FnOnce(u32, &mut Request) -> Result<(), Fault>,
    ) -> Result<Reply, ControlError> {
        if let Some(fault) = self.host.fault() {
            return Err(fault.into());
        }
        match self.request(is_answered, make) {
            Ok((RndisStatus::SUCCESS | RndisStatus::PENDING, reply)) => Ok(reply),
            Ok((RndisStatus::NOT_SUPPORTED | RndisStatus::INVALID_OID, _)) => Err(ControlError::Unsupported),
            Ok((status, _)) => {
                log::debug!("netvsc: the host refused a request with status {:#x}", status.0);
                Err(ControlError::Refused)
            }
            Err(fault) => Err(self.fail(fault).into()),
        }
    }

    /// Starts RNDIS. [MS-RNDIS] 2.2.2
    pub fn initialize(&self) -> Result<(), ControlError> {
        self.ask(true, |request_id, message| {
            let header = header(RndisMessageType::INITIALIZE, size_of::<RndisInitialize>())?;
            let initialize =
                RndisInitialize { header, request_id, major: 1, minor: 0, maximum_transfer: MAX_TRANSFER };
            message.push(initialize.as_bytes())
        })
        .map(drop)
    }

    /// Stops RNDIS; there is no answer. [MS-RNDIS] 2.2.3
    pub fn halt(&self) {
        let halted = self.ask(false, |request_id, message| {
            let header = header(RndisMessageType::HALT, size_of::<RndisRequest>())?;
            message.push(RndisRequest { header, request_id }.as_bytes())
        });
        if let Err(error) = halted {
            log::warn!("netvsc: HALT failed: {error}; the channels are closed without it");
        }
    }

    /// Queries `oid`, with `input` where the host expects one. [MS-RNDIS] 2.2.4
    pub fn query(&self, oid: RndisOid, input: &[u8]) -> Result<Reply, ControlError> {
        self.ask(true, |id, message| push_request(RndisMessageType::QUERY, id, oid, &[input], message))
    }

    /// Sets `oid`. [MS-RNDIS] 2.2.6
    pub fn set(&self, oid: RndisOid, value: &[u8]) -> Result<(), ControlError> {
        self.set_parts(oid, &[value])
    }

    /// Sets `oid` to the concatenation of `parts`.
    pub fn set_parts(&self, oid: RndisOid, parts: &[&[u8]]) -> Result<(), ControlError> {
        self.ask(true, |id, message| push_request(RndisMessageType::SET, id, oid, parts, message)).map(drop)
    }

    /// Sends an NVSP message by the primary channel, and waits until the host has confirmed it.
    pub fn send_nvsp(&self, message: &[u8]) -> Result<(), ControlError> {
        // One request at a time.
        let sent = {
            let _requests = self.requests.lock();
            self.host.answer.lock().request = 0;
            self.exchange(|channel| channel.send_nvsp(REQUEST, message))
        };
        sent.map_err(|fault| self.fail(fault).into())
    }

    /// Answers a keep-alive of the host, where one came. [MS-RNDIS] 2.2.13
    pub fn answer_keep_alive(&self) {
        if self.host.is_keep_alive_in_flight.load(Ordering::Acquire) {
            return;
        }
        let Some(request_id) = self.host.take_keep_alive() else { return };
        let requests = self.requests.lock();
        let Some(page) = &requests.page else { return };
        let size = size_of::<RndisComplete>();
        let Ok(header) = header(RndisMessageType::KEEPALIVE_COMPLETE, size) else { return };
        let message = RndisComplete { header, request_id, status: RndisStatus::SUCCESS };
        let copied = page.shared().copy_in(KEEP_ALIVE_OFFSET, message.as_bytes());
        debug_assert!(copied.is_some(), "the answer is inside the page");
        if let Some(channel) = self.channel(0) {
            let address = page.bus().0.wrapping_add(KEEP_ALIVE_OFFSET as u64);
            let mut channel = channel.lock();
            self.host.is_keep_alive_in_flight.store(true, Ordering::Release);
            // SAFETY: the page is accessed as atomics only, and `NetShared` keeps it until the channels have been closed.
            if let Err(error) = unsafe { channel.send_control(KEEP_ALIVE, address, size as u32) } {
                self.host.is_keep_alive_in_flight.store(false, Ordering::Release);
                log::warn!("netvsc: keep-alive {request_id:#x} is not answered: {error}");
            }
        }
    }
}

fn header(message_type: RndisMessageType, len: usize) -> Result<RndisHeader, Fault> {
    let message_length = u32::try_from(len).map_err(|_| Fault::Refused)?;
    Ok(RndisHeader { message_type, message_length })
}

fn push_request(
    kind: RndisMessageType,
    request_id: u32,
    oid: RndisOid,
    value: &[&[u8]],
    message: &mut Request,
) -> Result<(), Fault> {
    let len = value.iter().fold(0usize, |sum, part| sum.saturating_add(part.len()));
    let header = header(kind, size_of::<RndisQuery>().saturating_add(len))?;
    let info_length = u32::try_from(len).map_err(|_| Fault::Refused)?;
    let info_offset = if len == 0 { 0 } else { INFO_OFFSET };
    message
        .push(RndisQuery { header, request_id, oid, info_length, info_offset, vc_handle: 0 }.as_bytes())?;
    value.iter().try_for_each(|part| message.push(part))
}

/// Where the value of a request begins, counted from behind the header.
const INFO_OFFSET: u32 = (size_of::<RndisQuery>() - size_of::<RndisHeader>()) as u32;

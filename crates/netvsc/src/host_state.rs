//! What the host has said: answers to requests of the device, and events. Shared by all channels and the device.

use crate::message::HostMessage;
use crate::rndis::Control;
use crate::transaction::{CONTROL, KEEP_ALIVE, REQUEST};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
use hyperv_bindings::netvsp::{NvspStatus, NvspVersion};
use hyperv_bindings::rndis::RndisStatus;
use paravirt_device::Fault;
use paravirt_platform::Platform;
use spin::Mutex;

/// Bytes of an answer that are kept.
pub(crate) const MAX_ANSWER: usize = 256;
/// The value of `virtual_function` while no VF is attached.
const DETACHED: u64 = u64::MAX;

/// The answer to a request of the device.
pub(crate) struct Answer {
    /// The id of the request that waits for an answer; 0 for none.
    pub request: u32,
    pub status: Option<RndisStatus>,
    pub bytes: [u8; MAX_ANSWER],
    pub len: usize,
    /// Whether the host has completed the packet with the request, so that its memory can be written again.
    pub is_sent: bool,
    /// Of the answer to INITIALIZE: messages in a packet, at most.
    pub max_packets: u32,
    /// The answer to a request for subchannels: how many the host offers.
    pub subchannels: Option<u32>,
}

/// Bits of `events`.
mod event {
    pub const LINK: u8 = 1;
    pub const NETWORK: u8 = 2;
    pub const VIRTUAL_FUNCTION: u8 = 4;
    /// The device has not been woken for an event.
    pub const UNANNOUNCED: u8 = 128;
}

/// Whether the channels are closed, and what is known then of the host.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Closed {
    No,
    /// The host has confirmed it: it accesses no memory of the device any more.
    Quiesced,
    /// The host has not confirmed it in time: memory in flight is never used again.
    Unconfirmed,
}

pub(crate) struct HostState<P: Platform> {
    pub platform: P,
    /// How long the host may take to answer.
    pub timeout: Duration,
    version: AtomicU32,
    fault: AtomicU8,
    closed: AtomicU8,
    pub answer: Mutex<Answer>,
    events: AtomicU8,
    is_link_up: AtomicBool,
    /// The serial number of the attached VF.
    virtual_function: AtomicU64,
    /// The id of a keep-alive request of the host, plus one; 0 for none.
    keep_alive: AtomicU64,
    /// Packets and messages of the host that were dropped.
    malformed: AtomicU64,
    /// An answer to a keep-alive is in flight.
    pub is_keep_alive_in_flight: AtomicBool,
}

impl<P: Platform> HostState<P> {
    pub fn new(platform: &P, version: NvspVersion, timeout: Duration) -> Self {
        let answer = Answer {
            request: 0,
            status: None,
            bytes: [0; MAX_ANSWER],
            len: 0,
            is_sent: true,
            max_packets: 1,
            subchannels: None,
        };
        Self {
            platform: platform.clone(),
            timeout,
            version: AtomicU32::new(version.0),
            fault: AtomicU8::new(0),
            closed: AtomicU8::new(0),
            answer: Mutex::new(answer),
            events: AtomicU8::new(0),
            is_link_up: AtomicBool::new(true),
            virtual_function: AtomicU64::new(DETACHED),
            keep_alive: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
            is_keep_alive_in_flight: AtomicBool::new(false),
        }
    }

    #[inline(always)]
    pub fn version(&self) -> NvspVersion {
        NvspVersion(self.version.load(Ordering::Relaxed))
    }

    #[inline(always)]
    pub fn fault(&self) -> Option<Fault> {
        match self.fault.load(Ordering::Acquire) {
            0 => None,
            1 => Some(Fault::Protocol),
            2 => Some(Fault::Timeout),
            3 => Some(Fault::Removed),
            _ => Some(Fault::Refused),
        }
    }

    /// Puts the device out of service; whether it was in service until now.
    pub fn fail(&self, fault: Fault) -> bool {
        let code = match fault {
            Fault::Protocol => 1,
            Fault::Timeout => 2,
            Fault::Removed => 3,
            _ => 4,
        };
        self.fault.compare_exchange(0, code, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Replaces the fault by [`Fault::Timeout`]: the host did not confirm that the channels are closed.
    pub fn escalate(&self) {
        self.fault.store(2, Ordering::Release);
    }

    /// Records that the channels have been closed.
    pub fn set_closed(&self, is_quiesced: bool) {
        self.closed.store(if is_quiesced { 1 } else { 2 }, Ordering::Release);
    }

    pub fn closed(&self) -> Closed {
        match self.closed.load(Ordering::Acquire) {
            0 => Closed::No,
            1 => Closed::Quiesced,
            _ => Closed::Unconfirmed,
        }
    }

    /// Counts something of the host that was dropped; the first is logged.
    #[cold]
    pub fn count_malformed(&self, what: &str) {
        if self.malformed.fetch_add(1, Ordering::Relaxed) == 0 {
            log::warn!("netvsc: {what}: dropped, as further ones");
        }
    }

    pub fn malformed(&self) -> u64 {
        self.malformed.load(Ordering::Relaxed)
    }

    /// The host has completed a packet that the device sent for itself: once for each.
    pub fn on_control_sent(&self, transaction: u64, payload: &[u8]) -> Result<(), Fault> {
        let was_in_flight = match transaction & !CONTROL {
            REQUEST => {
                let mut answer = self.answer.lock();
                if let Ok(HostMessage::Subchannels(NvspStatus::SUCCESS, count)) =
                    HostMessage::parse(payload, self.version())
                {
                    answer.subchannels = Some(count);
                }
                !core::mem::replace(&mut answer.is_sent, true)
            }
            KEEP_ALIVE => self.is_keep_alive_in_flight.swap(false, Ordering::AcqRel),
            _ => false,
        };
        if was_in_flight { Ok(()) } else { Err(Fault::Protocol) }
    }

    /// Handles an RNDIS control message.
    pub fn on_rndis(&self, bytes: &[u8]) -> Result<(), Fault> {
        match Control::parse(bytes).map_err(|_| Fault::Protocol)? {
            Control::Initialized(complete) => {
                let mut answer = self.answer.lock();
                if answer.request == complete.request_id && answer.request != 0 {
                    answer.status = Some(complete.status);
                    answer.max_packets = complete.maximum_packets;
                }
            }
            Control::Completed { request, status, info: (offset, len) } => {
                let mut answer = self.answer.lock();
                if answer.request == request && request != 0 {
                    answer.status = Some(status);
                    let from = bytes.get(offset as usize..).unwrap_or_default();
                    let len = (len as usize).min(MAX_ANSWER).min(from.len());
                    answer.bytes.iter_mut().zip(from).take(len).for_each(|(to, from)| *to = *from);
                    answer.len = len;
                } else {
                    log::debug!("netvsc: answer to request {request:#x}, which nobody waits for, dropped");
                }
            }
            Control::Indicated(status) => match status {
                RndisStatus::MEDIA_CONNECT => self.set_link(true),
                RndisStatus::MEDIA_DISCONNECT => self.set_link(false),
                RndisStatus::NETWORK_CHANGE => self.announce(event::NETWORK),
                RndisStatus(other) => log::debug!("netvsc: status indication {other:#x}, ignored"),
            },
            Control::KeepAlive(request) => {
                self.keep_alive.store(u64::from(request).wrapping_add(1), Ordering::Release);
                self.announce(0);
            }
            Control::Other(kind) => log::debug!("netvsc: unknown RNDIS message type {kind:#x}, ignored"),
        }
        Ok(())
    }

    /// Handles an NVSP message that answers nothing.
    pub fn on_nvsp(&self, payload: &[u8]) {
        match HostMessage::parse(payload, self.version()) {
            Ok(HostMessage::VfAssociation { is_attached, serial }) => {
                let function = if is_attached { u64::from(serial) } else { DETACHED };
                self.virtual_function.store(function, Ordering::Release);
                self.announce(event::VIRTUAL_FUNCTION);
            }
            // A queue sends by its own channel, whatever the table advises.
            Ok(HostMessage::SendTable(_)) => {}
            Ok(_) => {
                let kind = payload.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
                log::debug!("netvsc: unexpected NVSP message of type {kind}, ignored");
            }
            Err(_) => log::warn!("netvsc: malformed NVSP message of {} bytes, ignored", payload.len()),
        }
    }

    fn announce(&self, event: u8) {
        self.events.fetch_or(event | event::UNANNOUNCED, Ordering::AcqRel);
    }

    /// Whether the device is to be woken for an event; told once.
    #[inline(always)]
    pub fn take_unannounced(&self) -> bool {
        self.events.load(Ordering::Relaxed) & event::UNANNOUNCED != 0
            && self.events.fetch_and(!event::UNANNOUNCED, Ordering::AcqRel) & event::UNANNOUNCED != 0
    }

    fn take(&self, flag: u8) -> bool {
        self.events.fetch_and(!flag, Ordering::AcqRel) & flag != 0
    }

    pub fn set_link(&self, is_up: bool) {
        if self.is_link_up.swap(is_up, Ordering::AcqRel) != is_up {
            self.announce(event::LINK);
        }
    }

    pub fn is_link_up(&self) -> bool {
        self.is_link_up.load(Ordering::Acquire)
    }

    pub fn take_link_change(&self) -> bool {
        self.take(event::LINK)
    }

    pub fn take_network_change(&self) -> bool {
        self.take(event::NETWORK)
    }

    /// The serial number of the VF that was attached, or `Some(None)` where it was detached; `None` without a change.
    pub fn take_virtual_function(&self) -> Option<Option<u32>> {
        let is_changed = self.take(event::VIRTUAL_FUNCTION);
        is_changed.then(|| u32::try_from(self.virtual_function.load(Ordering::Acquire)).ok())
    }

    /// The id of a keep-alive request that is not answered yet.
    pub fn take_keep_alive(&self) -> Option<u32> {
        match self.keep_alive.load(Ordering::Acquire) {
            0 => None,
            _ => Some(self.keep_alive.swap(0, Ordering::AcqRel).wrapping_sub(1) as u32),
        }
    }
}

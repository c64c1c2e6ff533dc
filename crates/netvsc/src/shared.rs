//! What the channels and the device share: answers to requests, and what the host has said.

use crate::message::HostMessage;
use crate::rndis::Control;
use crate::send::id;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use hyperv_bindings::netvsp::{NvspStatus, NvspVersion};
use hyperv_bindings::rndis::RndisStatus;
use paravirt_device::Fault;
use paravirt_platform::Platform;
use spin::Mutex;

/// Bytes of an answer that are kept.
pub(crate) const ANSWER: usize = 256;
/// What the packets of the device's own carry: requests, and the answers to those of the host.
pub(crate) const REQUEST: u64 = 1;
pub(crate) const ANSWERED: u64 = 2;
/// There is no virtual function.
const NO_FUNCTION: u64 = u64::MAX;

/// The answer to a request.
pub(crate) struct Answer {
    /// The request that it is awaited of; 0 for none.
    pub awaited: u32,
    pub status: Option<RndisStatus>,
    pub bytes: [u8; ANSWER],
    pub len: usize,
    /// The host has taken the request: its memory is the guest's again.
    pub is_sent: bool,
    /// The answer to INITIALIZE: packets of a message, and the power of two to which they are aligned.
    pub limits: (u32, u32),
    /// The answer to a request for further channels: how many there will be.
    pub further: Option<u32>,
}

/// Flags of what is new.
mod news {
    pub const LINK: u8 = 1;
    pub const NETWORK: u8 = 2;
    pub const FUNCTION: u8 = 4;
    /// The device has not been told yet.
    pub const UNSEEN: u8 = 128;
}

pub(crate) struct Shared<P: Platform> {
    pub platform: P,
    version: AtomicU32,
    fault: AtomicU8,
    pub answer: Mutex<Answer>,
    news: AtomicU8,
    is_link_up: AtomicBool,
    /// The serial number of the virtual function.
    function: AtomicU64,
    /// The request of the host's that wants to know whether the guest is there, plus one; 0 for none.
    keep_alive: AtomicU64,
    /// The answer to it is on its way.
    pub is_answering: AtomicBool,
}

impl<P: Platform> Shared<P> {
    pub fn new(platform: &P, version: NvspVersion) -> Self {
        let answer = Answer {
            awaited: 0,
            status: None,
            bytes: [0; ANSWER],
            len: 0,
            is_sent: true,
            limits: (1, 3),
            further: None,
        };
        Self {
            platform: platform.clone(),
            version: AtomicU32::new(version.0),
            fault: AtomicU8::new(0),
            answer: Mutex::new(answer),
            news: AtomicU8::new(0),
            is_link_up: AtomicBool::new(true),
            function: AtomicU64::new(NO_FUNCTION),
            keep_alive: AtomicU64::new(0),
            is_answering: AtomicBool::new(false),
        }
    }

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

    /// Puts the device out of service; whether that is new.
    pub fn fail(&self, fault: Fault) -> bool {
        let code = match fault {
            Fault::Protocol => 1,
            Fault::Timeout => 2,
            Fault::Removed => 3,
            _ => 4,
        };
        self.fault.compare_exchange(0, code, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// A timeout that came to light while the device was put out of service.
    pub fn worsen(&self) {
        self.fault.store(2, Ordering::Release);
    }

    /// The host has taken a message of the device's own, for the first time since it was sent.
    pub fn control_sent(&self, transaction: u64, payload: &[u8]) -> Result<(), Fault> {
        let is_again = match transaction & !id::CONTROL {
            REQUEST => {
                let mut answer = self.answer.lock();
                if let Ok(HostMessage::Subchannels(NvspStatus::SUCCESS, count)) =
                    HostMessage::parse(payload, self.version())
                {
                    answer.further = Some(count);
                }
                core::mem::replace(&mut answer.is_sent, true)
            }
            ANSWERED => !self.is_answering.swap(false, Ordering::AcqRel),
            _ => true,
        };
        if is_again { Err(Fault::Protocol) } else { Ok(()) }
    }

    /// A message without a frame has come.
    pub fn heard(&self, message: &Control, bytes: &[u8]) {
        match *message {
            Control::Initialized(complete) => {
                let mut answer = self.answer.lock();
                if answer.awaited == complete.request_id && answer.awaited != 0 {
                    answer.status = Some(complete.status);
                    answer.limits = (complete.maximum_packets, complete.alignment_factor);
                }
            }
            Control::Completed { request, status, info: (offset, len) } => {
                let mut answer = self.answer.lock();
                // What nobody waits for any more is passed over.
                if answer.awaited == request && request != 0 {
                    answer.status = Some(status);
                    let from = bytes.get(offset as usize..).unwrap_or_default();
                    let len = (len as usize).min(ANSWER).min(from.len());
                    answer.bytes.iter_mut().zip(from).take(len).for_each(|(to, from)| *to = *from);
                    answer.len = len;
                }
            }
            Control::Indicated(status) => match status {
                RndisStatus::MEDIA_CONNECT => self.set_link(true),
                RndisStatus::MEDIA_DISCONNECT => self.set_link(false),
                RndisStatus::NETWORK_CHANGE => self.tell(news::NETWORK),
                // Of speed and offloads nothing follows.
                _ => {}
            },
            Control::KeepAlive(request) => {
                self.keep_alive.store(u64::from(request).wrapping_add(1), Ordering::Release);
                self.tell(0);
            }
            Control::Other(kind) => log::debug!("netvsc: RNDIS message {kind:#x} is not known"),
        }
    }

    /// A message of the host's that answers nothing.
    pub fn notice(&self, payload: &[u8]) {
        match HostMessage::parse(payload, self.version()) {
            Ok(HostMessage::VfAssociation { is_there, serial }) => {
                let function = if is_there { u64::from(serial) } else { NO_FUNCTION };
                self.function.store(function, Ordering::Release);
                self.tell(news::FUNCTION);
            }
            // A queue sends by its own channel, whatever the table advises.
            Ok(HostMessage::SendTable(_)) => {}
            Ok(other) => log::debug!("netvsc: {other:?}"),
            Err(_) => log::warn!("netvsc: a message that is none"),
        }
    }

    fn tell(&self, news: u8) {
        self.news.fetch_or(news | news::UNSEEN, Ordering::AcqRel);
    }

    /// Whether there is something that the device has not been told.
    #[inline(always)]
    pub fn take_news(&self) -> bool {
        self.news.load(Ordering::Relaxed) & news::UNSEEN != 0
            && self.news.fetch_and(!news::UNSEEN, Ordering::AcqRel) & news::UNSEEN != 0
    }

    fn take(&self, flag: u8) -> bool {
        self.news.fetch_and(!flag, Ordering::AcqRel) & flag != 0
    }

    pub fn set_link(&self, is_up: bool) {
        if self.is_link_up.swap(is_up, Ordering::AcqRel) != is_up {
            self.tell(news::LINK);
        }
    }

    pub fn is_link_up(&self) -> bool {
        self.is_link_up.load(Ordering::Acquire)
    }

    pub fn take_link(&self) -> bool {
        self.take(news::LINK)
    }

    pub fn take_network_change(&self) -> bool {
        self.take(news::NETWORK)
    }

    /// The virtual function, where that has changed.
    pub fn take_function(&self) -> Option<Option<u32>> {
        self.take(news::FUNCTION).then(|| u32::try_from(self.function.load(Ordering::Acquire)).ok())
    }

    pub fn take_keep_alive(&self) -> Option<u32> {
        match self.keep_alive.load(Ordering::Acquire) {
            0 => None,
            _ => Some(self.keep_alive.swap(0, Ordering::AcqRel).wrapping_sub(1) as u32),
        }
    }
}

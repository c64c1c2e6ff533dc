//! A model of the host's side of an integration service.

use super::devices::{Packets, VmbusDevice};
use super::ring::HostPacket;
use super::violations::Violations;
use crate::Memory;
use hyperv_bindings::ic::{IcHeader, IcMessageFlags, IcMessageType, IcNegotiate, IcVersion};
use hyperv_bindings::ring::{RingPipeHeader, RingPipeType};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use zerocopy::{FromBytes, IntoBytes};

/// A response of the guest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IcAnswer {
    /// The type of the message.
    pub kind: IcMessageType,
    /// The status.
    pub status: u32,
    /// The bytes after the header.
    pub body: Vec<u8>,
}

#[derive(Default)]
struct Service {
    /// The version negotiation that is sent when the channel is opened.
    greeting: Option<Vec<u8>>,
    send: VecDeque<Vec<u8>>,
    answers: Vec<IcAnswer>,
    violations: Violations,
}

/// A model of an integration service. A handle: clones are the same service.
#[derive(Clone, Default)]
pub struct IcHost(Arc<Mutex<Service>>);

impl IcHost {
    fn with<R>(&self, work: impl FnOnce(&mut Service) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends the negotiation of `version` whenever the channel is opened, as hosts do.
    pub fn greet(&self, version: IcVersion) {
        let framework = IcVersion { major: 3, minor: 0 };
        let count = IcNegotiate { framework_count: 1, message_count: 1, reserved: 0 };
        let body = [count.as_bytes(), framework.as_bytes(), version.as_bytes()].concat();
        let message = Self::message(IcMessageType::NEGOTIATE, version, &body);
        self.with(|service| service.greeting = Some(framed(&message)));
    }

    /// Queues a request, which is sent when the channel is served.
    pub fn ask(&self, message_type: IcMessageType, version: IcVersion, body: &[u8]) {
        self.send(&Self::message(message_type, version, body));
    }

    fn message(message_type: IcMessageType, version: IcVersion, body: &[u8]) -> Vec<u8> {
        let header = IcHeader {
            framework_version: IcVersion { major: 3, minor: 0 },
            message_type,
            message_version: version,
            message_size: body.len() as u16,
            status_low: 0,
            status_high: 0,
            transaction_id: 1,
            flags: (IcMessageFlags::TRANSACTION | IcMessageFlags::REQUEST).bits(),
            reserved: 0,
        };
        [header.as_bytes(), body].concat()
    }

    /// Queues a message that is sent unchanged.
    pub fn send(&self, message: &[u8]) {
        self.with(|service| service.send.push_back(framed(message)));
    }

    /// Returns the guest's responses since the last call.
    pub fn take_answers(&self) -> Vec<IcAnswer> {
        self.with(|service| std::mem::take(&mut service.answers))
    }

    /// Returns the protocol violations of the guest so far.
    pub fn violations(&self) -> Vec<String> {
        self.with(|service| service.violations.list().to_vec())
    }
}

/// Adds the pipe header to a message.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let header = RingPipeHeader { pipe_type: RingPipeType::DATA, byte_count: message.len() as u32 };
    [header.as_bytes(), message].concat()
}

/// Returns the message in a pipe packet.
pub(crate) fn unframed(payload: &[u8]) -> Option<&[u8]> {
    let (header, rest) = RingPipeHeader::ref_from_prefix(payload).ok()?;
    rest.get(..header.byte_count as usize)
}

impl VmbusDevice for IcHost {
    fn open(&mut self) {
        self.with(|service| {
            if let Some(greeting) = service.greeting.clone() {
                service.send.clear();
                service.send.push_back(greeting);
            }
        });
    }

    fn packet(&mut self, _memory: &Memory, packet: &HostPacket<'_>, _out: &mut dyn Packets) {
        self.with(|service| {
            let message = unframed(packet.payload);
            let parsed = message.and_then(|bytes| IcHeader::read_from_prefix(bytes).ok());
            let Some((header, rest)) = parsed else {
                return service.violations.note("a malformed response");
            };
            let expected = IcMessageFlags::TRANSACTION | IcMessageFlags::RESPONSE;
            let Some(body) = rest.get(..usize::from(header.message_size)) else {
                return service.violations.note("an answer that is too short");
            };
            if header.flags != expected.bits() || header.transaction_id != 1 {
                service.violations.note("an answer that is not marked as one");
            }
            let status = u32::from(header.status_low) | u32::from(header.status_high) << 16;
            service.answers.push(IcAnswer { kind: header.message_type, status, body: body.to_vec() });
        });
    }

    fn poll(&mut self, _memory: &Memory, out: &mut dyn Packets) {
        self.with(|service| service.send.drain(..).for_each(|bytes| out.in_band(&bytes)));
    }
}

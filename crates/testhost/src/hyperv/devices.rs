//! The interface of device models on VMBus, and two devices: echo and dynamic memory.

use super::ring::{
    BufferRange, GuestRange, HostPacket, HostRingError, HostRingMemory, HostWriter, PacketKind,
};
use super::{Said, Verdict};
use crate::Memory;
use hyperv_bindings::dynmem::{
    DmBalloon, DmBalloonResponse, DmCapabilitiesResponse, DmCapabilityResponseFlags, DmHeader, DmHotAdd,
    DmHotAddResponse, DmMessageType, DmStatus, DmUnballoon, DmVersion, DmVersionRequest, DmVersionResponse,
};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use zerocopy::{FromBytes, IntoBytes};

/// A crash report of the guest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Crash {
    /// The five crash parameters.
    pub values: [u64; 5],
    /// The message text, if there is one.
    pub text: Option<String>,
}

/// The host's end of the ring to the guest. Packets that do not fit are queued and sent later.
pub trait Packets {
    /// Sends an in-band packet.
    fn in_band(&mut self, payload: &[u8]);
    /// Completes a packet of the guest.
    fn completion(&mut self, transaction: u64, payload: &[u8]);
    /// Sends a packet with transfer page ranges, which requests a completion.
    fn transfer(&mut self, transaction: u64, set: u16, ranges: &[BufferRange], payload: &[u8]);
    /// Offers `count` subchannels of the device.
    fn offer_further(&mut self, count: u16);
    /// Returns the page frame numbers of a GPADL; empty if it does not exist.
    fn memory(&self, gpadl: u32) -> Vec<u64>;
}

/// Returns the address of a byte in a page. `None` for a frame number out of range: frame numbers have 52 bits.
pub(crate) fn address(frame: u64, offset: u64) -> Option<u64> {
    frame.checked_mul(4096)?.checked_add(offset)
}

/// Returns the guest memory of the first `len` bytes of a packet's range, or of the whole range if it is shorter: addresses and
/// lengths. `None` if a frame number is out of range.
pub(crate) fn places(range: &GuestRange, len: usize) -> Option<Vec<(u64, usize)>> {
    let (mut left, mut offset, mut places) = (len, range.offset as usize, vec![]);
    for &frame in &range.frames {
        let now = left.min(4096 - offset);
        places.push((address(frame, offset as u64)?, now));
        (left, offset) = (left - now, 0);
    }
    Some(places)
}

/// A model of a device on a channel.
pub trait VmbusDevice: Send {
    /// Called when the guest has opened the channel.
    fn open(&mut self) {}
    /// Called when the guest has closed the channel, or the offer was rescinded.
    fn close(&mut self) {}
    /// Returns the device for subchannel `index`, at least 1, which was offered by [`Packets::offer_further`].
    fn further(&mut self, index: u16) -> Option<Box<dyn VmbusDevice>> {
        let _ = index;
        None
    }
    /// Handles a packet of the guest.
    fn packet(&mut self, memory: &Memory, packet: &HostPacket<'_>, out: &mut dyn Packets);
    /// Called whenever the channel is served, so that the device can send.
    fn poll(&mut self, memory: &Memory, out: &mut dyn Packets) {
        let _ = (memory, out);
    }
}

/// A device that echoes packets: as a completion if one is requested, otherwise as an in-band packet. Guest memory that a packet
/// names is filled with the low byte of its transaction id.
#[derive(Default)]
pub struct Echo;

impl VmbusDevice for Echo {
    fn packet(&mut self, memory: &Memory, packet: &HostPacket<'_>, out: &mut dyn Packets) {
        for range in packet.gpa_ranges().into_iter().flatten() {
            for (at, len) in places(&range, range.len as usize).into_iter().flatten() {
                memory.write(at, &vec![packet.transaction as u8; len]);
            }
        }
        if packet.wants_completion {
            out.completion(packet.transaction, packet.payload);
        } else if packet.kind == PacketKind::IN_BAND {
            out.in_band(packet.payload);
        }
    }
}

/// The state of a balloon.
#[derive(Default)]
struct Balloon {
    newest: u32,
    suppresses: bool,
    send: VecDeque<Vec<u8>>,
    held: Vec<(u64, u64)>,
    answers: Vec<(u16, u32)>,
    status: Option<DmStatus>,
    hot_added: Vec<(u32, u32)>,
    capabilities: bool,
}

/// A model of the dynamic memory device. A handle: clones are the same device.
#[derive(Clone)]
pub struct BalloonHost(Arc<Mutex<Balloon>>);

impl BalloonHost {
    /// Creates a device that accepts versions up to `newest`.
    pub fn new(newest: DmVersion) -> Self {
        Self(Arc::new(Mutex::new(Balloon { newest: newest.0, ..Balloon::default() })))
    }

    fn with<R>(&self, work: impl FnOnce(&mut Balloon) -> R) -> R {
        work(&mut self.0.lock().expect("the balloon"))
    }

    /// Sets the flag that asks the guest to send no pressure reports.
    pub fn suppress_reports(&self) {
        self.with(|balloon| balloon.suppresses = true);
    }

    /// Sends `bytes` unchanged.
    pub fn send(&self, bytes: &[u8]) {
        self.with(|balloon| balloon.send.push_back(bytes.to_vec()));
    }

    fn header(message_type: DmMessageType, size: usize, transaction_id: u32) -> DmHeader {
        DmHeader { message_type, size: size as u16, transaction_id }
    }

    /// Requests pages.
    pub fn inflate(&self, transaction: u32, pages: u32) {
        let header = Self::header(DmMessageType::BALLOON_REQUEST, size_of::<DmBalloon>(), transaction);
        self.send(DmBalloon { header, pages, reserved: 0 }.as_bytes());
    }

    /// Returns page ranges to the guest: first page and count.
    pub fn deflate(&self, transaction: u32, ranges: &[(u64, u64)], has_more: bool) {
        let size = size_of::<DmUnballoon>() + ranges.len() * 8;
        let header = Self::header(DmMessageType::UNBALLOON_REQUEST, size, transaction);
        let head = DmUnballoon { header, has_more: u32::from(has_more), range_count: ranges.len() as u32 };
        let mut bytes = head.as_bytes().to_vec();
        for (first, count) in ranges {
            bytes.extend((first | count << 40).to_le_bytes());
            self.with(|balloon| balloon.held.retain(|held| held.0 < *first || held.0 >= first + count));
        }
        self.send(&bytes);
    }

    /// Hot-adds memory: first page and count.
    pub fn hot_add(&self, transaction: u32, first: u64, count: u64) {
        let header = Self::header(DmMessageType::HOT_ADD_REQUEST, size_of::<DmHotAdd>(), transaction);
        self.send(DmHotAdd { header, range: first | count << 40 }.as_bytes());
    }

    /// Returns the page ranges that the guest has ballooned: first page and count.
    pub fn held(&self) -> Vec<(u64, u64)> {
        self.with(|balloon| balloon.held.clone())
    }

    /// Returns types and transaction ids of the guest's responses.
    pub fn answers(&self) -> Vec<(u16, u32)> {
        self.with(|balloon| balloon.answers.clone())
    }

    /// Returns the last status report.
    pub fn status(&self) -> Option<DmStatus> {
        self.with(|balloon| balloon.status)
    }

    /// Returns the responses to hot-add requests: pages and result.
    pub fn hot_added(&self) -> Vec<(u32, u32)> {
        self.with(|balloon| balloon.hot_added.clone())
    }
}

impl VmbusDevice for BalloonHost {
    fn packet(&mut self, _memory: &Memory, packet: &HostPacket<'_>, out: &mut dyn Packets) {
        let bytes = packet.payload;
        let Ok((header, _)) = DmHeader::read_from_prefix(bytes) else { return };
        let transaction = header.transaction_id;
        self.with(|balloon| match header.message_type {
            DmMessageType::VERSION_REQUEST => {
                let Ok((request, _)) = DmVersionRequest::read_from_prefix(bytes) else { return };
                let is_accepted = u64::from(request.version.0 <= balloon.newest);
                let header = Self::header(
                    DmMessageType::VERSION_RESPONSE,
                    size_of::<DmVersionResponse>(),
                    transaction,
                );
                out.in_band(DmVersionResponse { header, is_accepted }.as_bytes());
            }
            DmMessageType::CAPABILITIES_REPORT => {
                balloon.capabilities = true;
                let size = size_of::<DmCapabilitiesResponse>();
                let header = Self::header(DmMessageType::CAPABILITIES_RESPONSE, size, transaction);
                let mut flags = DmCapabilityResponseFlags::ACCEPTED;
                flags.set(DmCapabilityResponseFlags::SUPPRESS_PRESSURE_REPORTS, balloon.suppresses);
                out.in_band(DmCapabilitiesResponse { header, flags: flags.bits() }.as_bytes());
            }
            DmMessageType::STATUS_REPORT => {
                balloon.status = DmStatus::read_from_prefix(bytes).ok().map(|(status, _)| status);
            }
            DmMessageType::HOT_ADD_RESPONSE => {
                let Ok((response, _)) = DmHotAddResponse::read_from_prefix(bytes) else { return };
                balloon.hot_added.push((response.pages, response.result));
            }
            kind => {
                balloon.answers.push((kind.0, transaction));
                if let (DmMessageType::BALLOON_RESPONSE, Ok((head, rest))) =
                    (kind, DmBalloonResponse::read_from_prefix(bytes))
                {
                    for range in rest.chunks_exact(8).take((head.more_and_count >> 1) as usize) {
                        let range = u64::from_le_bytes(range.try_into().expect("eight bytes"));
                        balloon.held.push((range & ((1 << 40) - 1), range >> 40));
                    }
                }
            }
        });
    }

    fn poll(&mut self, _memory: &Memory, out: &mut dyn Packets) {
        self.with(|balloon| {
            if balloon.capabilities {
                balloon.send.drain(..).for_each(|bytes| out.in_band(&bytes));
            }
        });
    }
}

/// A packet that waits for room in the ring.
#[derive(Clone)]
pub(crate) enum Waiting {
    InBand(Vec<u8>),
    Completion(u64, Vec<u8>),
    Transfer(u64, u16, Vec<BufferRange>, Vec<u8>),
}

/// The packets that a device has queued.
#[derive(Default)]
pub(crate) struct Outbox {
    /// What the device has queued, before [`Faults::judge`](super::Faults::judge) has seen it.
    pub fresh: VecDeque<Waiting>,
    pub waiting: VecDeque<Waiting>,
    /// What is held back.
    pub late: VecDeque<Waiting>,
    /// Whether what is held back follows the next packet.
    pub is_swapped: bool,
    /// How many subchannels to offer.
    pub further: u16,
}

/// The implementation of [`Packets`] for a channel.
pub(crate) struct Out<'a> {
    pub outbox: &'a mut Outbox,
    pub gpadls: &'a std::collections::BTreeMap<u32, super::gpadl::Gpadl>,
}

impl Packets for Out<'_> {
    fn in_band(&mut self, payload: &[u8]) {
        self.outbox.fresh.push_back(Waiting::InBand(payload.to_vec()));
    }
    fn completion(&mut self, transaction: u64, payload: &[u8]) {
        self.outbox.fresh.push_back(Waiting::Completion(transaction, payload.to_vec()));
    }
    fn transfer(&mut self, transaction: u64, set: u16, ranges: &[BufferRange], payload: &[u8]) {
        self.outbox.fresh.push_back(Waiting::Transfer(transaction, set, ranges.to_vec(), payload.to_vec()));
    }
    fn offer_further(&mut self, count: u16) {
        self.outbox.further = count;
    }
    fn memory(&self, gpadl: u32) -> Vec<u64> {
        self.gpadls.get(&gpadl).map(|gpadl| gpadl.frames.clone()).unwrap_or_default()
    }
}

impl Outbox {
    /// Moves what the device has queued to what waits for the ring, as `judge` says.
    pub fn admit(&mut self, judge: &mut Option<super::Judge>) {
        while let Some(mut packet) = self.fresh.pop_front() {
            let verdict = judge.as_mut().map_or(Verdict::Pass, |judge| judge(packet.described()));
            match verdict {
                Verdict::Pass => self.waiting.push_back(packet),
                Verdict::Drop => continue,
                Verdict::Twice => self.waiting.extend([packet.clone(), packet]),
                Verdict::Late | Verdict::AfterNext => {
                    self.is_swapped = verdict == Verdict::AfterNext;
                    self.late.push_back(packet);
                    continue;
                }
                Verdict::Refuse(at, value) => {
                    let bytes = packet.payload();
                    if let Some(to) = bytes.get_mut(at..at + 4) {
                        to.copy_from_slice(&value.to_le_bytes());
                    }
                    self.waiting.push_back(packet);
                }
            }
            if std::mem::take(&mut self.is_swapped) {
                self.waiting.append(&mut self.late);
            }
        }
    }
}

impl Waiting {
    fn payload(&mut self) -> &mut Vec<u8> {
        match self {
            Self::InBand(payload) | Self::Completion(_, payload) | Self::Transfer(_, _, _, payload) => {
                payload
            }
        }
    }

    fn described(&mut self) -> Said<'_> {
        let is_transfer = matches!(self, Self::Transfer(..));
        Said::Packet { is_transfer, payload: self.payload() }
    }

    /// Writes the packet to a ring.
    pub fn write<M: HostRingMemory>(&self, ring: &mut HostWriter<M>) -> Result<(), HostRingError> {
        match self {
            Self::InBand(payload) => ring.in_band(0, payload),
            Self::Completion(transaction, payload) => ring.completion(*transaction, payload),
            Self::Transfer(transaction, set, ranges, payload) => {
                ring.transfer_pages(*transaction, *set, ranges, payload)
            }
        }
    }

    /// Returns the length of the packet in bytes without descriptor and footer.
    pub fn len(&self) -> usize {
        match self {
            Self::InBand(payload) | Self::Completion(_, payload) => payload.len(),
            Self::Transfer(_, _, ranges, payload) => 8 + ranges.len() * 8 + payload.len(),
        }
    }
}

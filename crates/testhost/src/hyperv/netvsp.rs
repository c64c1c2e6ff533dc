//! A model of NetVSP: the host's side of a network device on VMBus.

use super::devices::{Packets, VmbusDevice, places};
use super::nvsp::{Buffer, DATA_AT, SECTION, padded};
use super::ring::{BufferRange, HostPacket, PacketKind};
use super::violations::Violations;
use crate::Memory;
use crate::memory::gather;
use hyperv_bindings::netvsp::*;
use hyperv_bindings::rndis::*;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Sub-allocations of the receive buffer that are reserved for control messages.
const CONTROL_PIECES: usize = 16;

/// A frame on the wire, with its per-packet information.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct WireFrame {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Per-packet information: type and value.
    pub info: Vec<(u32, u32)>,
}

/// Changes a message that is about to be sent: NVSP or RNDIS.
type Mutation = Box<dyn FnMut(&mut Vec<u8>) + Send>;

/// What the model offers, and the faults that it injects.
pub struct NetVspFaultConfig {
    /// The newest NVSP version that it speaks.
    pub newest: NvspVersion,
    /// The MTU in bytes.
    pub mtu: u32,
    /// Queues that it offers.
    pub queues: u32,
    /// Offload requests are refused.
    pub lacks_offloads: bool,
    /// Sent frames are not completed while this is set.
    pub holds: bool,
    /// The status with which frames are completed.
    pub status: NvspStatus,
    /// The send buffer is refused.
    pub refuses_send_buffer: bool,
    /// Received frames in one packet, at most.
    pub batch: usize,
    /// The MAC address.
    pub mac: [u8; 6],
    /// Whether a new MAC address is accepted.
    pub takes_mac: bool,
    /// Changes every NVSP message before it is sent, except those with frames.
    pub mutate_nvsp: Option<Mutation>,
    /// Changes every RNDIS message before it is sent.
    pub mutate_rndis: Option<Mutation>,
    /// Bytes that are added to the offset of every transfer page range.
    pub shift_ranges: u32,
}

pub(super) struct Host {
    pub fault_config: NetVspFaultConfig,
    pub version: NvspVersion,
    pub config: bool,
    pub ndis: bool,
    pub initialized: bool,
    pub receive: Buffer,
    pub send: Buffer,
    pub piece: usize,
    /// Free sub-allocations.
    pub free: Vec<usize>,
    /// Sub-allocations of packets that the guest has not completed, by transaction.
    pub used: BTreeMap<u64, Vec<usize>>,
    control: VecDeque<Vec<u8>>,
    pub notices: VecDeque<Vec<u8>>,
    to_guest: BTreeMap<u16, VecDeque<WireFrame>>,
    sent: Vec<(u16, Vec<u8>)>,
    infos: Vec<Vec<(u32, u32)>>,
    packets: u64,
    held: Vec<(u16, u64)>,
    pub filter: u32,
    pub table: Vec<u32>,
    pub path: u32,
    pub oids: Vec<u32>,
    pub halted: bool,
    pub revoked: bool,
    violations: Violations,
}

/// A model of a network device on VMBus. Clones are handles of the same device.
#[derive(Clone)]
pub struct NetVspHost {
    shared: Arc<Mutex<Host>>,
    channel: u16,
}

impl Default for NetVspHost {
    fn default() -> Self {
        Self::new()
    }
}

impl NetVspHost {
    /// Makes a device that speaks every version and offers two queues.
    pub fn new() -> Self {
        let fault_config = NetVspFaultConfig {
            newest: NvspVersion::V61,
            mtu: 9000,
            queues: 2,
            lacks_offloads: false,
            holds: false,
            status: NvspStatus::SUCCESS,
            refuses_send_buffer: false,
            batch: 8,
            mac: [0, 0x15, 0x5d, 1, 2, 3],
            takes_mac: true,
            mutate_nvsp: None,
            mutate_rndis: None,
            shift_ranges: 0,
        };
        let host = Host {
            fault_config,
            version: NvspVersion(0),
            config: false,
            ndis: false,
            initialized: false,
            receive: Buffer::default(),
            send: Buffer::default(),
            piece: 0,
            free: vec![],
            used: BTreeMap::new(),
            control: VecDeque::new(),
            notices: VecDeque::new(),
            to_guest: BTreeMap::new(),
            sent: vec![],
            infos: vec![],
            packets: 0,
            held: vec![],
            filter: 0,
            table: vec![],
            path: 0,
            oids: vec![],
            halted: false,
            revoked: false,
            violations: Violations::default(),
        };
        Self { shared: Arc::new(Mutex::new(host)), channel: 0 }
    }

    fn with<R>(&self, work: impl FnOnce(&mut Host) -> R) -> R {
        work(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes what the model offers, and the faults that it injects.
    pub fn fault_config(&self, change: impl FnOnce(&mut NetVspFaultConfig)) {
        self.with(|host| change(&mut host.fault_config));
    }

    /// Receives a frame from the wire, by the primary channel, when that is served the next time.
    pub fn receive(&self, bytes: &[u8]) {
        self.receive_on(0, WireFrame { bytes: bytes.to_vec(), info: vec![] });
    }

    /// Receives a frame with per-packet information by channel `channel`.
    pub fn receive_on(&self, channel: u16, frame: WireFrame) {
        self.with(|host| host.to_guest.entry(channel).or_default().push_back(frame));
    }

    /// The number of frames that wait for room in the receive buffer.
    pub fn waiting(&self) -> usize {
        self.with(|host| host.to_guest.values().map(VecDeque::len).sum())
    }

    /// The frames that the guest has sent since the last call.
    pub fn take_sent(&self) -> Vec<Vec<u8>> {
        self.with(|host| std::mem::take(&mut host.sent)).into_iter().map(|(_, bytes)| bytes).collect()
    }

    /// The per-packet information of the frames that the guest has sent since the last call.
    pub fn take_infos(&self) -> Vec<Vec<(u32, u32)>> {
        self.with(|host| std::mem::take(&mut host.infos))
    }

    /// The frames that the guest has sent, with their per-packet information, since the last call of this, `take_sent` or
    /// `take_infos`.
    pub fn take_frames(&self) -> Vec<WireFrame> {
        let frames = self.take_sent().into_iter().zip(self.take_infos());
        frames.map(|(bytes, info)| WireFrame { bytes, info }).collect()
    }

    /// The number of packets with frames that the guest has sent.
    pub fn packets(&self) -> u64 {
        self.with(|host| host.packets)
    }

    /// Connects or disconnects the link.
    pub fn set_link(&self, is_up: bool) {
        let status = if is_up { RndisStatus::MEDIA_CONNECT } else { RndisStatus::MEDIA_DISCONNECT };
        self.indicate(status);
    }

    /// Sends a status indication.
    pub fn indicate(&self, status: RndisStatus) {
        let header = RndisHeader {
            message_type: RndisMessageType::INDICATE_STATUS,
            message_length: size_of::<RndisIndicateStatus>() as u32,
        };
        let message = RndisIndicateStatus { header, status, info_length: 0, info_offset: 0 };
        self.with(|host| host.control.push_back(message.as_bytes().to_vec()));
    }

    /// Sends a keep-alive request.
    pub fn keep_alive(&self, request_id: u32) {
        let header = RndisHeader { message_type: RndisMessageType::KEEPALIVE, message_length: 12 };
        let message = RndisRequest { header, request_id };
        self.with(|host| host.control.push_back(message.as_bytes().to_vec()));
    }

    /// Attaches or detaches a VF.
    pub fn associate(&self, serial: Option<u32>) {
        let message = NvspVfAssociation {
            message_type: NvspMessageType::SEND_VF_ASSOCIATION,
            is_allocated: u32::from(serial.is_some()),
            serial: serial.unwrap_or(0),
        };
        self.with(|host| host.notices.push_back(message.as_bytes().to_vec()));
    }

    /// The OIDs of query and set requests, and the ids of keep-alive answers, since the last call.
    pub fn take_oids(&self) -> Vec<u32> {
        self.with(|host| std::mem::take(&mut host.oids))
    }

    /// The packet filter, and the RSS indirection table.
    pub fn settings(&self) -> (u32, Vec<u32>) {
        self.with(|host| (host.filter, host.table.clone()))
    }

    /// The data path: 1 for the VF, 0 for the synthetic device.
    pub fn path(&self) -> u32 {
        self.with(|host| host.path)
    }

    /// The number of sub-allocations of the receive buffer whose packets the guest has not completed.
    pub fn pieces_in_use(&self) -> usize {
        self.with(|host| host.used.values().map(Vec::len).sum())
    }

    /// Whether the guest has taken its receive buffer back.
    pub fn is_revoked(&self) -> bool {
        self.with(|host| host.revoked)
    }

    /// Whether the guest has sent HALT.
    pub fn is_halted(&self) -> bool {
        self.with(|host| host.halted)
    }

    /// The protocol violations of the guest so far.
    pub fn violations(&self) -> Vec<String> {
        self.with(|host| host.violations.list().to_vec())
    }
}

impl VmbusDevice for NetVspHost {
    fn open(&mut self) {
        if self.channel == 0 {
            self.with(|host| {
                (host.config, host.ndis, host.initialized, host.version) =
                    (false, false, false, NvspVersion(0));
                host.take_receive_buffer_back();
                host.send = Buffer::default();
                host.used.clear();
                host.filter = 0;
            });
        }
    }

    fn close(&mut self) {
        let channel = self.channel;
        self.with(|host| host.held.retain(|(at, _)| *at != channel));
    }

    fn further(&mut self, index: u16) -> Option<Box<dyn VmbusDevice>> {
        Some(Box::new(Self { shared: self.shared.clone(), channel: index }))
    }

    fn packet(&mut self, memory: &Memory, packet: &HostPacket<'_>, out: &mut dyn Packets) {
        let channel = self.channel;
        self.with(|host| {
            if packet.kind == PacketKind::COMPLETION {
                match host.used.remove(&packet.transaction) {
                    Some(pieces) if packet.payload.get(..4) == Some(&108u32.to_le_bytes()) => {
                        host.free.extend(pieces);
                    }
                    // Of a notice.
                    _ if packet.transaction >= 1 << 62 => {}
                    _ => host.violation("a completion of no packet"),
                }
                return;
            }
            let Ok((kind, _)) = NvspMessageType::read_from_prefix(packet.payload) else {
                return host.violation("a packet without a type");
            };
            if packet.payload.len() != NVSP_MESSAGE_LENGTH as usize {
                return host.violation(format!("a message of {} bytes", packet.payload.len()));
            }
            if kind == NvspMessageType::SEND_RNDIS_PACKET {
                return host.rndis(memory, channel, packet, out);
            }
            if channel > 0 {
                return host.violation(format!("message {} on channel {channel}", kind.0));
            }
            let answer = host.nvsp(kind, packet.payload, out);
            if let Some(mut answer) = answer.filter(|_| packet.wants_completion) {
                if let Some(mutate) = &mut host.fault_config.mutate_nvsp {
                    mutate(&mut answer);
                }
                out.completion(packet.transaction, &answer);
            }
        });
    }

    fn poll(&mut self, memory: &Memory, out: &mut dyn Packets) {
        let channel = self.channel;
        self.with(|host| {
            if channel == 0 {
                for mut notice in host.notices.drain(..) {
                    if let Some(mutate) = &mut host.fault_config.mutate_nvsp {
                        mutate(&mut notice);
                    }
                    out.in_band(&padded(&notice));
                }
                while !host.receive.frames.is_empty() {
                    let Some(message) = host.control.pop_front() else { break };
                    host.deliver(memory, &[message], true, out);
                }
            }
            if !host.fault_config.holds {
                host.held.retain(|(at, transaction)| {
                    if *at == channel {
                        out.completion(*transaction, &padded(&[108, 0, 0, 0, 1, 0, 0, 0]));
                    }
                    *at != channel
                });
            }
            while host.initialized && host.filter != 0 {
                let Some(queue) = host.to_guest.get_mut(&channel).filter(|queue| !queue.is_empty()) else {
                    break;
                };
                let room = host.free.len().saturating_sub(CONTROL_PIECES);
                let count = queue.len().min(host.fault_config.batch).min(room);
                if count == 0 {
                    break;
                }
                let frames: Vec<WireFrame> = queue.drain(..count).collect();
                let messages: Vec<Vec<u8>> = frames.iter().map(message).collect();
                host.deliver(memory, &messages, false, out);
            }
        });
    }
}

/// A frame as a message: the frame at a fixed place.
fn message(frame: &WireFrame) -> Vec<u8> {
    let mut bytes = vec![0; DATA_AT];
    let mut at = size_of::<RndisPacket>();
    for (kind, value) in &frame.info {
        let info = RndisInfo { size: 16, info_type: RndisInfoType(*kind), offset: 12 };
        let word = RndisInfoWord { info, value: *value };
        bytes[at..at + 16].copy_from_slice(word.as_bytes());
        at += 16;
    }
    let mut packet = RndisPacket::new_zeroed();
    packet.header = RndisHeader {
        message_type: RndisMessageType::PACKET,
        message_length: (DATA_AT + frame.bytes.len()) as u32,
    };
    packet.data_offset = DATA_AT as u32 - 8;
    packet.data_length = frame.bytes.len() as u32;
    packet.info_offset = if frame.info.is_empty() { 0 } else { 36 };
    packet.info_length = (at - size_of::<RndisPacket>()) as u32;
    bytes[..size_of::<RndisPacket>()].copy_from_slice(packet.as_bytes());
    bytes.extend(&frame.bytes);
    bytes
}

impl Host {
    pub(super) fn violation(&mut self, text: impl Into<String>) {
        self.violations.note(text);
    }

    /// Handles a packet with RNDIS messages.
    fn rndis(&mut self, memory: &Memory, channel: u16, packet: &HostPacket<'_>, out: &mut dyn Packets) {
        let Ok((message, _)) = NvspSendRndisPacket::read_from_prefix(packet.payload) else {
            return self.violation("a message that is too short");
        };
        if !packet.wants_completion || !self.ndis || self.receive.frames.is_empty() {
            return self.violation("RNDIS out of turn");
        }
        let mut bytes = vec![];
        if message.section_index != NVSP_NO_SECTION {
            let at = message.section_index as usize * SECTION as usize;
            let inside = message.section_size <= SECTION;
            match self.send.places(at, message.section_size as usize).filter(|_| inside) {
                Some(places) => bytes.extend(gather(memory, &places)),
                None => return self.violation("a section that there is not"),
            }
        }
        for range in packet.gpa_ranges().into_iter().flatten() {
            let Some(places) = places(&range, range.len as usize) else {
                return self.violation("a packet with memory beyond all addresses");
            };
            bytes.extend(gather(memory, &places));
        }
        let complete = |out: &mut dyn Packets, status: NvspStatus| {
            let words = [108u32, status.0];
            out.completion(packet.transaction, &padded(words.as_bytes()));
        };
        if message.channel_type == NvspChannelType::CONTROL {
            complete(out, NvspStatus::SUCCESS);
            self.control_message(memory, &bytes, out);
            return;
        }
        self.packets += 1;
        self.frames(channel, &bytes);
        if self.fault_config.holds {
            self.held.push((channel, packet.transaction));
        } else {
            complete(out, self.fault_config.status);
        }
    }

    /// The frames in the messages of a packet.
    fn frames(&mut self, channel: u16, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Ok((head, _)) = RndisPacket::read_from_prefix(bytes) else {
                return self.violation("a frame without a header");
            };
            let length = head.header.message_length as usize;
            let start = head.data_offset as usize + 8;
            let Some(frame) = bytes.get(start..start + head.data_length as usize) else {
                return self.violation("a frame that is not inside");
            };
            if head.header.message_type != RndisMessageType::PACKET || length > bytes.len() || length < start
            {
                return self.violation("a frame of a wrong length");
            }
            let at = head.info_offset as usize + 8;
            let mut infos = vec![];
            let mut rest = match head.info_length {
                0 => &[][..],
                length => bytes.get(at..at + length as usize).unwrap_or_default(),
            };
            while let Ok((info, later)) = RndisInfoWord::read_from_prefix(rest) {
                infos.push((info.info.info_type.0, info.value));
                rest = later;
            }
            self.sent.push((channel, frame.to_vec()));
            self.infos.push(infos);
            bytes = &bytes[length..];
            if !bytes.is_empty() && length % 8 != 0 {
                return self.violation("a frame that is not aligned");
            }
        }
    }

    /// Puts messages in the receive buffer, and tells the guest in one packet.
    pub(super) fn deliver(
        &mut self,
        memory: &Memory,
        messages: &[Vec<u8>],
        is_control: bool,
        out: &mut dyn Packets,
    ) {
        let (mut pieces, mut ranges) = (vec![], vec![]);
        for message in messages {
            let mut message = message.clone();
            if let Some(mutate) = &mut self.fault_config.mutate_rndis {
                mutate(&mut message);
            }
            let Some(piece) = self.free.pop() else {
                return self.violation("the guest keeps the pieces for messages");
            };
            let at = piece * self.piece;
            let len = message.len().min(self.piece);
            for (place, bytes) in
                self.receive.places(at, len).into_iter().flatten().scan(0, |done, (place, len)| {
                    let from = *done;
                    *done += len;
                    Some((place, &message[from..from + len]))
                })
            {
                memory.write(place, bytes);
            }
            pieces.push(piece);
            ranges.push(BufferRange { len: len as u32, offset: at as u32 + self.fault_config.shift_ranges });
        }
        let transaction = pieces[0] as u64 + 1;
        self.used.insert(transaction, pieces);
        let words = [107u32, u32::from(is_control), u32::MAX, 0];
        out.transfer(transaction, NVSP_RECEIVE_BUFFER_ID as u16, &ranges, &padded(words.as_bytes()));
    }
}

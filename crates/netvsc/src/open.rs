//! Taking a device into service: version, buffers, RNDIS, further channels.

use crate::core::{Core, OpenError, TIMEOUT};
use crate::encode::{ALIGNMENT, ETHERNET, HEADROOM};
use crate::lane::Lane;
use crate::message::HostMessage;
use crate::send::{SendBuffer, SendLimits, Sending};
use crate::shared::Shared;
use core::time::Duration;
use hyperv_bindings::netvsp::{
    NVSP_RECEIVE_BUFFER_ID, NVSP_SEND_BUFFER_ID, NvspCapabilityFlags, NvspInit, NvspMessageType,
    NvspReceiveBufferComplete, NvspSendBuffer, NvspSendNdisConfig, NvspSendNdisVersion, NvspStatus,
    NvspSubchannelRequest, NvspVersion,
};
use hyperv_bindings::rndis::*;
use paravirt_device::{ControlError, Fault, Offloads};
use paravirt_platform::{DmaBuffer, DmaRegion, PageArc, PageTable, Platform, ProcessorId};
use paravirt_vmbus::{Channel, ChannelOptions, Gpadl, Kind, Offer, Vmbus};
use spin::Mutex;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// Versions, from the newest down.
const VERSIONS: [NvspVersion; 6] =
    [NvspVersion::V61, NvspVersion::V6, NvspVersion::V5, NvspVersion::V4, NvspVersion::V2, NvspVersion::V1];
/// How long the host may take to offer further channels.
const OFFERS_TIMEOUT: Duration = Duration::from_secs(2);
/// Notices that may come ahead of an answer of the set-up.
const NOTICES: usize = 8;
/// Bytes of any answer of the set-up.
const ANSWER: usize = 256;
/// Pieces of the receive buffer, at least: with fewer, control messages alone could use it up.
const LEAST_PIECES: u32 = 24;
/// Bytes of a piece, at least.
const LEAST_PIECE: u32 = 256;
/// What old hosts take of a receive buffer, and what all do: a GPADL has 8190 pages.
const MOST_RECEIVE_V2: usize = 15 << 20;
const MOST_RECEIVE: usize = 31 << 20;
const MOST_SEND: usize = 15 << 20;
/// Frames in the caller's memory, and slots for frames that are to be cut up, of a queue.
const LENT: u16 = 256;
const LARGES: usize = 8;
/// The most channels that are used.
pub(crate) const MOST_QUEUES: usize = 16;
/// Frames of a packet at most, whatever the host says.
const MOST_PACKETS: u32 = 32;

/// How a device is taken into service.
#[derive(Copy, Clone, Debug)]
pub struct NetOptions {
    /// Queues at most; usually the number of processors.
    pub queues: u16,
    /// Processors to which interrupts are spread, channel by channel, from 0 on.
    pub processors: u32,
    /// Bytes of the largest packet behind the Ethernet header that are asked for: 1500 to 9000. The host may give fewer.
    pub mtu: u16,
    /// Bytes of the receive buffer for each queue.
    pub receive_bytes: usize,
    /// Bytes of the send buffer for each queue.
    pub send_bytes: usize,
    /// Pages of each ring, its control page included.
    pub ring_pages: usize,
    /// The newest version that is proposed.
    pub newest: NvspVersion,
    /// Whether the guest can drive a virtual function beside the device: see
    /// [`NetEvent::VirtualFunction`](paravirt_device::NetEvent::VirtualFunction).
    pub takes_virtual_function: bool,
}

impl Default for NetOptions {
    /// One queue, an MTU of 1500, 2 MiB to receive and 1 MiB to send, 128 KiB of ring each way.
    fn default() -> Self {
        Self {
            queues: 1,
            processors: 1,
            mtu: 1500,
            receive_bytes: 2 << 20,
            send_bytes: 1 << 20,
            ring_pages: 33,
            newest: NvspVersion::V61,
            takes_virtual_function: false,
        }
    }
}

/// A device in service, and what was found out about it.
pub(crate) struct Opened<P: Platform, B: DmaBuffer> {
    pub core: PageArc<P, Core<P, B>>,
    pub queues: u16,
    pub mtu: u16,
    /// What can be set of the receiving side.
    pub receives: Offloads,
    pub limits: SendLimits,
    pub depth: u16,
}

/// The primary channel, while nothing but the set-up goes by it.
struct Setup<'a, P: Platform> {
    channel: &'a mut Channel<P>,
    version: NvspVersion,
}

impl<P: Platform> Setup<'_, P> {
    fn tell(&mut self, message: &(impl IntoBytes + Immutable)) -> Result<(), OpenError> {
        self.channel.send_in_band(0, false, &[message.as_bytes()])?;
        self.channel.kick();
        Ok(())
    }

    fn ask(&mut self, message: &(impl IntoBytes + Immutable)) -> Result<HostMessage, OpenError> {
        const STEP: u64 = 0x5e7;
        self.channel.send_in_band(STEP, true, &[message.as_bytes()])?;
        self.channel.kick();
        let mut buffer = [0; ANSWER];
        // A few notices may come ahead of it, of which none matters yet.
        for _ in 0..NOTICES {
            let packet = self.channel.wait(&mut buffer, TIMEOUT)?;
            let (transaction, wants_completion) = (packet.transaction, packet.wants_completion);
            match packet.kind {
                Kind::COMPLETION if transaction == STEP => {
                    return HostMessage::parse(packet.payload, self.version)
                        .map_err(|_| Fault::Protocol.into());
                }
                Kind::IN_BAND if wants_completion => self.channel.send_completion(transaction, &[])?,
                Kind::IN_BAND => {}
                _ => break,
            }
        }
        Err(Fault::Protocol.into())
    }

    /// Agrees on the newest version that both sides know.
    fn agree(&mut self, newest: NvspVersion) -> Result<(), OpenError> {
        for version in VERSIONS.into_iter().filter(|version| *version <= newest) {
            let init = NvspInit {
                message_type: NvspMessageType::INIT,
                version,
                version2: version,
                padding: [0; 28],
            };
            match self.ask(&init)? {
                HostMessage::InitComplete(answer) if answer.status == NvspStatus::SUCCESS => {
                    self.version = version;
                    return Ok(());
                }
                HostMessage::InitComplete(_) => {}
                _ => return Err(Fault::Protocol.into()),
            }
        }
        Err(OpenError::Version)
    }

    fn configure(&mut self, options: &NetOptions) -> Result<(), OpenError> {
        if self.version >= NvspVersion::V2 {
            let mut capabilities = NvspCapabilityFlags::IEEE8021Q;
            let is_willing = options.takes_virtual_function && self.version >= NvspVersion::V5;
            capabilities.set(NvspCapabilityFlags::SRIOV | NvspCapabilityFlags::TEAMING, is_willing);
            capabilities.set(NvspCapabilityFlags::RSC_OVER_VMBUS, self.version >= NvspVersion::V61);
            self.tell(&NvspSendNdisConfig {
                message_type: NvspMessageType::SEND_NDIS_CONFIG,
                mtu: u32::from(options.mtu).saturating_add(ETHERNET as u32),
                reserved: 0,
                capabilities_low: capabilities.bits() as u32,
                capabilities_high: (capabilities.bits() >> 32) as u32,
                padding: [0; 20],
            })?;
        }
        self.tell(&NvspSendNdisVersion {
            message_type: NvspMessageType::SEND_NDIS_VERSION,
            major: 6,
            minor: if self.version >= NvspVersion::V5 { 30 } else { 1 },
            padding: [0; 28],
        })
    }

    /// Tells the host of a buffer; its answer.
    fn share(
        &mut self,
        message_type: NvspMessageType,
        gpadl: &Gpadl<P>,
        id: u32,
    ) -> Result<HostMessage, OpenError> {
        let (gpadl, id) = (gpadl.id(), id as u16);
        self.ask(&NvspSendBuffer { message_type, gpadl, id, reserved: 0, padding: [0; 28] })
    }

    /// How many frames the host has room for in the buffer.
    fn share_receive_buffer(&mut self, gpadl: &Gpadl<P>, len: usize) -> Result<u32, OpenError> {
        let answer = self.share(NvspMessageType::SEND_RECEIVE_BUFFER, gpadl, NVSP_RECEIVE_BUFFER_ID)?;
        let HostMessage::ReceiveBuffer(answer) = answer else { return Err(Fault::Protocol.into()) };
        let NvspReceiveBufferComplete { status, section_count, allocation_size, allocation_count, .. } =
            answer;
        if status != NvspStatus::SUCCESS {
            return Err(OpenError::Buffers);
        }
        let total = u64::from(allocation_size).saturating_mul(u64::from(allocation_count));
        if section_count != 1
            || total > len as u64
            || allocation_count < LEAST_PIECES
            || allocation_size < LEAST_PIECE
        {
            return Err(Fault::Protocol.into());
        }
        Ok(allocation_count)
    }

    /// The size of a section; `None` where the host gives none that can be used.
    fn share_send_buffer(&mut self, gpadl: &Gpadl<P>) -> Result<Option<u32>, OpenError> {
        let answer = self.share(NvspMessageType::SEND_SEND_BUFFER, gpadl, NVSP_SEND_BUFFER_ID)?;
        let HostMessage::SendBuffer(answer) = answer else { return Err(Fault::Protocol.into()) };
        let is_usable = answer.status == NvspStatus::SUCCESS
            && answer.section_size >= 128
            && answer.section_size.is_multiple_of(8);
        Ok(is_usable.then_some(answer.section_size))
    }
}

fn open_channel<P: Platform>(
    vmbus: &Vmbus<P>,
    offer: &Offer,
    options: &NetOptions,
    index: u32,
) -> Result<Channel<P>, OpenError> {
    let processor = ProcessorId(index.checked_rem(options.processors.max(1)).unwrap_or(0));
    let (outgoing_pages, incoming_pages) = (options.ring_pages, options.ring_pages);
    let channel = ChannelOptions { outgoing_pages, incoming_pages, processor, ..ChannelOptions::default() };
    Ok(vmbus.open(offer, &channel)?)
}

/// Takes the device that `offer` offers into service.
pub(crate) fn open<P: Platform, B: DmaBuffer>(
    platform: &P,
    vmbus: &Vmbus<P>,
    offer: &Offer,
    options: &NetOptions,
) -> Result<Opened<P, B>, OpenError> {
    let wanted = usize::from(options.queues).clamp(1, MOST_QUEUES);
    // Ahead of the buffers, so that it goes first where something fails.
    let send;
    let receive;
    let mut channel = open_channel(vmbus, offer, options, 0)?;
    let mut setup = Setup { channel: &mut channel, version: NvspVersion(0) };
    setup.agree(options.newest)?;
    setup.configure(options)?;
    let most = if setup.version <= NvspVersion::V2 { MOST_RECEIVE_V2 } else { MOST_RECEIVE };
    let len = options.receive_bytes.saturating_mul(wanted).clamp(64 << 10, most);
    receive = setup.channel.add_memory(DmaRegion::alloc(platform, len)?)?;
    let pieces = setup.share_receive_buffer(&receive, len)?;
    let len = options.send_bytes.saturating_mul(wanted).clamp(64 << 10, MOST_SEND);
    send = Some(setup.channel.add_memory(DmaRegion::alloc(platform, len)?)?);
    let section_size = match &send {
        Some(gpadl) => setup.share_send_buffer(gpadl)?,
        None => None,
    };
    let version = setup.version;

    // RNDIS goes by the channel as it does in service; what depends on its answers is made then.
    let limits = SendLimits {
        offloads: Offloads::empty(),
        max_frame: ETHERNET,
        max_segmented: ETHERNET,
        max_packets: 1,
    };
    let frames = pieces as usize;
    let mut first = Lane::new(platform, frames, Sending::new(platform, None, limits, 0, 1)?)?;
    channel.register(&first.wakers.waker());
    first.channel = Some(channel);
    let mut first = Some(first);
    let lanes = PageTable::try_new(platform, wanted, |_| {
        Ok::<_, OpenError>(Mutex::new(match first.take() {
            Some(first) => first,
            None => Lane::new(platform, frames, Sending::new(platform, None, limits, 0, 1)?)?,
        }))
    })?;
    let control = Core::<P, B>::control(platform)?;
    let shared = Shared::new(platform, version);
    let core = PageArc::new(platform, Core { lanes, control, shared, receive, send })?;
    core.initialize()?;
    let offloads = offloads(&core)?;
    let mtu = match core.query(RndisOid::GEN_MAXIMUM_FRAME_SIZE, &[]) {
        Ok(reply) => reply.word().and_then(|word| u16::try_from(word).ok()).unwrap_or(options.mtu),
        Err(ControlError::Faulted(fault)) => return Err(fault.into()),
        Err(_) => options.mtu,
    };
    let mtu = mtu.clamp(576, options.mtu.max(576));
    let queues = if wanted > 1 { further_channels(&core, vmbus, offer, options, version)? } else { 1 };
    let max_frame = usize::from(mtu).saturating_add(ETHERNET);
    let (max_packets, _) = core.shared.answer.lock().limits;
    let limits = SendLimits {
        offloads: offloads.sends,
        max_frame,
        max_segmented: offloads.max_segmented.max(max_frame),
        max_packets: max_packets.clamp(1, MOST_PACKETS),
    };
    let mut depth = 0;
    for (index, lane) in (0u16..queues).zip(core.lanes.iter()) {
        let buffer = section_size.and_then(|size| send_buffer(&core, size, index, queues));
        depth = buffer.map_or(LENT, |buffer| buffer.count);
        // Also where the largest frame that is not cut up does not fit a section.
        let room = buffer.map_or(0, |buffer| buffer.section_size as usize);
        let is_large = max_frame.saturating_add(HEADROOM).saturating_add(ALIGNMENT) > room;
        let larges = if limits.max_segmented > max_frame || is_large { LARGES } else { 0 };
        lane.lock().sending = Sending::new(platform, buffer, limits, larges, LENT)?;
    }
    Ok(Opened { core, queues, mtu, receives: offloads.receives, limits, depth })
}

/// The part of the send buffer that queue `index` of `queues` uses.
fn send_buffer<P: Platform, B: DmaBuffer>(
    core: &Core<P, B>,
    section_size: u32,
    index: u16,
    queues: u16,
) -> Option<SendBuffer> {
    let region = core.send.as_ref()?.region()?;
    let sections = region.len().checked_div(section_size as usize)?;
    let count = u16::try_from(sections.min(usize::from(u16::MAX)).checked_div(usize::from(queues))?).ok()?;
    let first = count.checked_mul(index)?;
    (count > 0).then(|| SendBuffer { cpu: region.cpu(), bus: region.bus().0, section_size, first, count })
}

/// What the host can do to frames, and what of it was switched on.
struct Found {
    sends: Offloads,
    receives: Offloads,
    max_segmented: usize,
}

fn offloads<P: Platform, B: DmaBuffer>(core: &Core<P, B>) -> Result<Found, OpenError> {
    let nothing = Found { sends: Offloads::empty(), receives: Offloads::empty(), max_segmented: 0 };
    let mut input = NdisOffload::new_zeroed();
    input.header = NdisObjectHeader {
        object_type: NDIS_OBJECT_OFFLOAD as u8,
        revision: 1,
        size: size_of::<NdisOffload>() as u16,
    };
    let reply = match core.query(RndisOid::TCP_OFFLOAD_HARDWARE_CAPABILITIES, input.as_bytes()) {
        Ok(reply) => reply,
        Err(ControlError::Faulted(fault)) => return Err(fault.into()),
        Err(_) => return Ok(nothing),
    };
    let Ok((found, rest)) = NdisOffload::read_from_prefix(reply.bytes()) else { return Ok(nothing) };
    let both = NDIS_OFFLOAD_TCP_CHECKSUM | NDIS_OFFLOAD_UDP_CHECKSUM;
    let has = |offload: &NdisChecksumOffload| offload.encapsulation != 0 && offload.flags & both == both;
    let mut sends = Offloads::empty();
    sends.set(Offloads::TX_CHECKSUM, has(&found.tx_ipv4) && has(&found.tx_ipv6));
    let lso = &found.lso2;
    sends.set(Offloads::TX_TCP4, lso.ipv4_encapsulation != 0 && lso.ipv4_maximum_size > 0);
    sends.set(Offloads::TX_TCP6, lso.ipv6_encapsulation != 0 && lso.ipv6_maximum_size > 0);
    let sizes = [(Offloads::TX_TCP4, lso.ipv4_maximum_size), (Offloads::TX_TCP6, lso.ipv6_maximum_size)];
    let largest = sizes.iter().filter(|(flag, _)| sends.contains(*flag)).map(|(_, size)| *size).min();
    let max_segmented = usize::try_from(largest.unwrap_or(0)).unwrap_or(0).min(MAX_SEGMENTED);
    let mut receives = Offloads::empty();
    receives.set(Offloads::RX_CHECKSUM, has(&found.rx_ipv4) || has(&found.rx_ipv6));
    // Behind IPsec of version 2, in revision 3.
    let rsc = rest.get(RSC_OFFSET).copied().unwrap_or(0);
    receives.set(Offloads::RX_TCP4 | Offloads::RX_TCP6, rsc != 0);
    set_offloads(core, sends, receives)?;
    Ok(Found { sends, receives, max_segmented })
}

/// The largest frame that is cut up: what the length of an IP packet can say, and its Ethernet header.
const MAX_SEGMENTED: usize = 65535 + ETHERNET;
/// From the end of revision 1 to what a host offers of receive segment coalescing.
const RSC_OFFSET: usize = 32;

/// Switches offloads: those that are in `sends` and `receives` on, the others off.
pub(crate) fn set_offloads<P: Platform, B: DmaBuffer>(
    core: &Core<P, B>,
    sends: Offloads,
    receives: Offloads,
) -> Result<(), ControlError> {
    let checksum = match (sends.contains(Offloads::TX_CHECKSUM), receives.contains(Offloads::RX_CHECKSUM)) {
        (true, true) => NDIS_OFFLOAD_BOTH,
        (true, false) => NDIS_OFFLOAD_TX,
        (false, true) => NDIS_OFFLOAD_RX,
        (false, false) => NDIS_OFFLOAD_OFF,
    } as u8;
    let switch = |is_on: bool| if is_on { NDIS_OFFLOAD_ON as u8 } else { NDIS_OFFLOAD_OFF as u8 };
    let mut set = NdisOffloadParameters::new_zeroed();
    // Old hosts know no more than IPsec.
    let (revision, size) = match core.shared.version() {
        version if version >= NvspVersion::V5 => (3, size_of::<NdisOffloadParameters>()),
        _ => (2, 22),
    };
    set.header = NdisObjectHeader { object_type: NDIS_OBJECT_DEFAULT as u8, revision, size: size as u16 };
    set.ipv4_checksum = checksum;
    set.tcp_ipv4_checksum = checksum;
    set.udp_ipv4_checksum = checksum;
    set.tcp_ipv6_checksum = checksum;
    set.udp_ipv6_checksum = checksum;
    set.lso2_ipv4 = switch(sends.contains(Offloads::TX_TCP4));
    set.lso2_ipv6 = switch(sends.contains(Offloads::TX_TCP6));
    set.rsc_ipv4 = switch(receives.contains(Offloads::RX_TCP4));
    set.rsc_ipv6 = switch(receives.contains(Offloads::RX_TCP6));
    let bytes = set.as_bytes().get(..size).unwrap_or_default();
    match core.set(RndisOid::TCP_OFFLOAD_PARAMETERS, bytes) {
        // A host that does not know the setting has what it has.
        Err(ControlError::Unsupported) => Ok(()),
        result => result,
    }
}

/// Opens further channels, as many as host and options have; how many there are in all.
fn further_channels<P: Platform, B: DmaBuffer>(
    core: &Core<P, B>,
    vmbus: &Vmbus<P>,
    offer: &Offer,
    options: &NetOptions,
    version: NvspVersion,
) -> Result<u16, OpenError> {
    if version < NvspVersion::V5 {
        return Ok(1);
    }
    let mut input = NdisRssCapabilities::new_zeroed();
    input.header = NdisObjectHeader {
        object_type: NDIS_OBJECT_RSS_CAPABILITIES as u8,
        revision: 2,
        size: size_of::<NdisRssCapabilities>() as u16,
    };
    let reply = match core.query(RndisOid::GEN_RECEIVE_SCALE_CAPABILITIES, input.as_bytes()) {
        Ok(reply) => reply,
        Err(ControlError::Faulted(fault)) => return Err(fault.into()),
        Err(_) => return Ok(1),
    };
    // Some hosts leave the last two bytes out.
    let queues =
        reply.bytes().get(12..16).and_then(|bytes| bytes.first_chunk()).map(|b| u32::from_le_bytes(*b));
    let wanted = queues.unwrap_or(1).min(core.lanes.len() as u32);
    if wanted < 2 {
        return Ok(1);
    }
    let request = NvspSubchannelRequest {
        message_type: NvspMessageType::SUBCHANNEL,
        operation: 1,
        count: wanted.saturating_sub(1),
        padding: [0; 28],
    };
    // The channel is in service: whatever else comes by it is taken in meanwhile.
    core.tell(request.as_bytes())?;
    let granted = core.shared.answer.lock().further.take().unwrap_or(0).min(wanted.saturating_sub(1));
    let platform = &core.shared.platform;
    for index in 1..=granted {
        let end = platform.now().saturating_add(OFFERS_TIMEOUT);
        let further = loop {
            let found = vmbus.find(&offer.instance, u16::try_from(index).unwrap_or(u16::MAX));
            if found.is_some() || platform.now() >= end {
                break found;
            }
            platform.relax();
        };
        let (Some(further), Some(lane)) = (further, core.lane(index as usize)) else {
            log::warn!("netvsc: {offer}: the host does not offer channel {index}");
            return Ok(u16::try_from(index).unwrap_or(1));
        };
        let channel = open_channel(vmbus, &further, options, index)?;
        let mut lane = lane.lock();
        channel.register(&lane.wakers.waker());
        lane.channel = Some(channel);
    }
    Ok(u16::try_from(granted).unwrap_or(0).saturating_add(1))
}

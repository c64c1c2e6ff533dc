//! Opening a device: version, buffers, RNDIS, subchannels.

use crate::OpenError;
use crate::channel::{ChannelState, QueueState};
use crate::control::Requests;
use crate::encode::{ALIGNMENT, ETHERNET, HEADROOM};
use crate::host_state::HostState;
use crate::message::HostMessage;
use crate::offloads;
use crate::receive::frame_capacity;
use crate::send::TxState;
use crate::shared::NetShared;
use crate::transmit_limits::{LSO_SLOTS, MAX_CALLER_FRAMES, MAX_SECTIONS, SendBuffer, SendLimits};
use core::mem::offset_of;
use hyperv_bindings::netvsp::{
    NVSP_RECEIVE_BUFFER_ID, NVSP_SEND_BUFFER_ID, NvspCapabilityFlags, NvspInit, NvspMessageType,
    NvspReceiveBufferComplete, NvspSendBuffer, NvspSendNdisConfig, NvspSendNdisVersion, NvspStatus,
    NvspSubchannelRequest, NvspVersion,
};
use hyperv_bindings::rndis::*;
use paravirt_device::{ControlError, Fault, Offloads};
use paravirt_platform::{AllocError, DmaBuffer, DmaRegion, PageArc, PageTable, Platform, ProcessorId};
use paravirt_vmbus::{Channel, ChannelOptions, Gpadl, Kind, Offer, Version, Vmbus};
use spin::Mutex;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// NVSP versions, from the newest down.
const VERSIONS: [NvspVersion; 6] =
    [NvspVersion::V61, NvspVersion::V6, NvspVersion::V5, NvspVersion::V4, NvspVersion::V2, NvspVersion::V1];
/// Unrelated packets that may come before an answer during setup.
const MAX_UNRELATED: usize = 8;
/// Bytes of an answer during setup, at most.
const MAX_ANSWER: usize = 256;
/// Sub-allocations of the receive buffer, at least: with fewer, control messages alone could use it up.
const MIN_ALLOCATIONS: u32 = 24;
/// Bytes of a sub-allocation, at least.
const MIN_ALLOCATION: u32 = 256;
/// Bytes of a section of the send buffer, at least.
const MIN_SECTION: u32 = 128;
/// Bytes of a receive buffer, at most: for hosts up to NVSP 2, and for later ones, where a GPADL has 8190 pages.
const MAX_RECEIVE_V2: usize = 15 << 20;
const MAX_RECEIVE: usize = 31 << 20;
/// Bytes of a send buffer, at most.
const MAX_SEND: usize = 15 << 20;
/// Bytes of either buffer, at least.
const MIN_BUFFER: usize = 64 << 10;
/// Channels that are used, at most.
pub(crate) const MAX_QUEUES: usize = 16;
/// Frames in one packet, at most, whatever the host allows.
const MAX_PACKETS: u32 = 32;

/// Options for opening a device: [`NetVsc::open`](crate::NetVsc::open).
#[derive(Copy, Clone, Debug)]
#[non_exhaustive]
pub struct NetOptions {
    /// Queues to open, at most: 1 to 16; usually the number of processors. The host may offer fewer.
    pub queues: u16,
    /// Number of processors over which the interrupts of the channels are spread, from processor 0 on.
    pub processors: u32,
    /// MTU to ask for, in bytes behind the Ethernet header: 1500 to 9000. The host may grant less.
    pub mtu: u16,
    /// Bytes of the receive buffer for each queue; the whole buffer has 64 KiB to 31 MiB (15 MiB up to NVSP 2).
    pub receive_bytes: usize,
    /// Bytes of the send buffer for each queue; the whole buffer has 64 KiB to 15 MiB.
    pub send_bytes: usize,
    /// Pages of each ring of 4096 bytes, its control page included: at least 2.
    pub ring_pages: usize,
    /// The newest NVSP version to propose.
    pub newest: NvspVersion,
    /// Whether the guest can drive a VF that the host attaches to the device: see
    /// [`NetEvent::VirtualFunction`](paravirt_device::NetEvent::VirtualFunction).
    pub takes_virtual_function: bool,
}

impl NetOptions {
    /// These options, with up to `queues` queues whose interrupts are spread over `processors` processors.
    pub fn with_queues(self, queues: u16, processors: u32) -> Self {
        Self { queues, processors, ..self }
    }

    /// These options, with an MTU of `mtu` bytes.
    pub fn with_mtu(self, mtu: u16) -> Self {
        Self { mtu, ..self }
    }

    /// These options, with buffers of that many bytes for each queue.
    pub fn with_buffers(self, receive_bytes: usize, send_bytes: usize) -> Self {
        Self { receive_bytes, send_bytes, ..self }
    }

    /// These options, with rings of `ring_pages` pages each, control page included.
    pub fn with_ring_pages(self, ring_pages: usize) -> Self {
        Self { ring_pages, ..self }
    }
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

/// A device in service, and what was negotiated.
pub(crate) struct Opened<P: Platform, B: DmaBuffer> {
    pub shared: PageArc<P, NetShared<P, B>>,
    pub queues: u16,
    pub mtu: u16,
    /// The receive offloads that can be switched.
    pub receives: Offloads,
    pub limits: SendLimits,
    pub depth: u16,
}

/// The primary channel during setup, before frames come.
struct Setup<'a, P: Platform> {
    channel: &'a mut Channel<P>,
    platform: &'a P,
    version: NvspVersion,
    /// The transaction of the last request.
    step: u64,
}

impl<P: Platform> Setup<'_, P> {
    fn tell(&mut self, message: &(impl IntoBytes + Immutable)) -> Result<(), OpenError> {
        self.channel.send_in_band(0, false, &[message.as_bytes()])?;
        self.channel.kick();
        Ok(())
    }

    fn ask(&mut self, message: &(impl IntoBytes + Immutable)) -> Result<HostMessage, OpenError> {
        // A completion that comes twice is not that of the next step.
        self.step = self.step.wrapping_add(1);
        self.channel.send_in_band(self.step, true, &[message.as_bytes()])?;
        self.channel.kick();
        let mut buffer = [0; MAX_ANSWER];
        let end = self.platform.now().saturating_add(self.channel.timeouts().answer);
        // Unsolicited messages may come before it; none matters yet.
        for _ in 0..MAX_UNRELATED {
            let packet = self.channel.wait(&mut buffer, end.since(self.platform.now()))?;
            let (transaction, wants_completion) = (packet.transaction, packet.wants_completion);
            match packet.kind {
                Kind::COMPLETION if transaction == self.step => {
                    return HostMessage::parse(packet.payload, self.version)
                        .map_err(|_| Fault::Protocol.into());
                }
                Kind::IN_BAND if wants_completion => self.channel.send_completion(transaction, &[])?,
                Kind::IN_BAND | Kind::COMPLETION => {}
                _ => break,
            }
        }
        Err(Fault::Protocol.into())
    }

    /// Negotiates the newest version that both sides know.
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

    /// Tells the host of a buffer; returns its answer.
    fn share(
        &mut self,
        message_type: NvspMessageType,
        gpadl: &Gpadl<P>,
        id: u32,
    ) -> Result<HostMessage, OpenError> {
        let (gpadl, id) = (gpadl.id(), id as u16);
        self.ask(&NvspSendBuffer { message_type, gpadl, id, reserved: 0, padding: [0; 28] })
    }

    /// Tells the host of the receive buffer, `len` bytes of it, and checks into what the host divides it.
    fn share_receive_buffer(&mut self, gpadl: &Gpadl<P>, len: usize) -> Result<(), OpenError> {
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
            || allocation_count < MIN_ALLOCATIONS
            || allocation_size < MIN_ALLOCATION
        {
            return Err(Fault::Protocol.into());
        }
        Ok(())
    }

    /// Tells the host of the send buffer; returns the size of its sections in bytes, or `None` where the host refuses the buffer or
    /// its sections cannot be used.
    fn share_send_buffer(&mut self, gpadl: &Gpadl<P>) -> Result<Option<u32>, OpenError> {
        let answer = self.share(NvspMessageType::SEND_SEND_BUFFER, gpadl, NVSP_SEND_BUFFER_ID)?;
        let HostMessage::SendBuffer(answer) = answer else { return Err(Fault::Protocol.into()) };
        let is_usable = answer.status == NvspStatus::SUCCESS
            && answer.section_size >= MIN_SECTION
            && answer.section_size % 8 == 0;
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
    let channel =
        ChannelOptions::default().with_rings(outgoing_pages, incoming_pages).with_processor(processor);
    Ok(vmbus.open(offer, &channel)?)
}

/// The size of the receive buffer in bytes.
fn receive_len(options: &NetOptions, queues: usize, version: NvspVersion) -> usize {
    let max = if version <= NvspVersion::V2 { MAX_RECEIVE_V2 } else { MAX_RECEIVE };
    options.receive_bytes.saturating_mul(queues).clamp(MIN_BUFFER, max)
}

type Channels<P, B> = PageTable<P, Mutex<ChannelState<P, B>>>;

/// The states of `count` channels that are not open yet, for `frames` received frames each.
#[inline(never)]
fn closed_channels<P: Platform, B: DmaBuffer>(
    platform: &P,
    count: usize,
    frames: usize,
) -> Result<Channels<P, B>, AllocError> {
    // RNDIS uses the channel as it does in service. The sending state depends on its answers, and is made again then.
    let limits = SendLimits {
        offloads: Offloads::empty(),
        max_frame: ETHERNET,
        max_segmented: ETHERNET,
        max_packets: 1,
    };
    PageTable::try_new(platform, count, |_| {
        let queue = QueueState::new(platform, frames, TxState::new(platform, None, limits, 0, 1)?)?;
        ChannelState::new(platform, frames, queue)
    })
}

/// The device before frames come: what is shared, and the size of the sections of the send buffer.
type Prepared<P, B> = (PageArc<P, NetShared<P, B>>, Option<u32>);

/// Opens the primary channel, and shares the buffers with the host.
#[inline(never)]
fn prepare<P: Platform, B: DmaBuffer>(
    platform: &P,
    vmbus: &Vmbus<P>,
    offer: &Offer,
    options: &NetOptions,
    mut channels: Channels<P, B>,
) -> Result<Prepared<P, B>, OpenError> {
    let wanted = channels.len();
    // Where something fails, the channel is dropped, and so closed, before the buffers; in `channels`, it would be after them.
    let send;
    let receive;
    let mut channel = open_channel(vmbus, offer, options, 0)?;
    let mut setup = Setup { channel: &mut channel, platform, version: NvspVersion(0), step: 0x5e7 };
    setup.agree(options.newest)?;
    setup.configure(options)?;
    let len = receive_len(options, wanted, setup.version);
    receive = setup.channel.add_memory(DmaRegion::alloc(platform, len)?)?;
    setup.share_receive_buffer(&receive, len)?;
    let send_len = options.send_bytes.saturating_mul(wanted).clamp(MIN_BUFFER, MAX_SEND);
    send = setup.channel.add_memory(DmaRegion::alloc(platform, send_len)?)?;
    let section_size = setup.share_send_buffer(&send)?;
    let version = setup.version;

    let requests = Mutex::new(Requests::new(platform)?);
    if let Some(first) = channels.first_mut() {
        first.get_mut().set_channel(channel);
    }
    let host = HostState::new(platform, version, vmbus.timeouts().answer);
    let revokes_first = vmbus.version() < Version::new(4, 0);
    let shared =
        PageArc::new(platform, NetShared { channels, requests, host, receive, send, revokes_first })?;
    Ok((shared, section_size))
}

/// Opens the device of `offer`.
#[inline(never)]
pub(crate) fn open<P: Platform, B: DmaBuffer>(
    platform: &P,
    vmbus: &Vmbus<P>,
    offer: &Offer,
    options: &NetOptions,
) -> Result<Opened<P, B>, OpenError> {
    let wanted = usize::from(options.queues).clamp(1, MAX_QUEUES);
    // An older version than the newest has the same buffer, or a smaller one.
    let channels =
        closed_channels(platform, wanted, frame_capacity(receive_len(options, wanted, NvspVersion::V61)))?;
    let (shared, section_size) = prepare(platform, vmbus, offer, options, channels)?;
    shared.initialize()?;
    let found = offloads::negotiate(&shared)?;
    let mtu = match shared.query(RndisOid::GEN_MAXIMUM_FRAME_SIZE, &[]) {
        Ok(reply) => reply.read::<u32>().and_then(|size| u16::try_from(size).ok()).unwrap_or(options.mtu),
        Err(ControlError::Faulted(fault)) => return Err(fault.into()),
        Err(_) => options.mtu,
    };
    let mtu = mtu.clamp(MIN_MTU, options.mtu.max(MIN_MTU));
    let queues =
        if shared.channels.len() > 1 { open_subchannels(&shared, vmbus, offer, options)? } else { 1 };
    let max_frame = usize::from(mtu).saturating_add(ETHERNET);
    let max_packets = shared.host.answer.lock().max_packets;
    let limits = SendLimits {
        offloads: found.sends,
        max_frame,
        max_segmented: found.max_segmented.max(max_frame),
        max_packets: max_packets.clamp(1, MAX_PACKETS),
    };
    let depth = start_sending(platform, &shared, section_size, queues, limits)?;
    Ok(Opened { shared, queues, mtu, receives: found.receives, limits, depth })
}

/// Makes the sending state of each queue by what was negotiated; returns how many frames can be in flight.
#[inline(never)]
fn start_sending<P: Platform, B: DmaBuffer>(
    platform: &P,
    shared: &NetShared<P, B>,
    section_size: Option<u32>,
    queues: u16,
    limits: SendLimits,
) -> Result<u16, OpenError> {
    let mut depth = 0;
    for (index, channel) in (0u16..queues).zip(shared.channels.iter()) {
        let buffer = section_size.and_then(|size| send_buffer(shared, size, index, queues));
        depth = buffer.map_or(MAX_CALLER_FRAMES, |buffer| buffer.count);
        // Bounce slots are also for hosts whose sections do not hold the largest frame.
        let room = buffer.map_or(0, |buffer| buffer.section_size as usize);
        let is_too_large = limits.max_frame.saturating_add(HEADROOM).saturating_add(ALIGNMENT) > room;
        let lso_slots = if limits.max_segmented > limits.max_frame || is_too_large { LSO_SLOTS } else { 0 };
        let tx = TxState::new(platform, buffer, limits, lso_slots, MAX_CALLER_FRAMES)?;
        if let Some(queue) = &mut channel.lock().idle {
            *queue.tx = tx;
        }
    }
    Ok(depth)
}

/// Bytes of an MTU, at least: what every IPv4 host accepts.
const MIN_MTU: u16 = 576;

/// The part of the send buffer that queue `index` of `queues` uses.
fn send_buffer<P: Platform, B: DmaBuffer>(
    shared: &NetShared<P, B>,
    section_size: u32,
    index: u16,
    queues: u16,
) -> Option<SendBuffer> {
    let region = shared.send.region()?;
    let sections = region.len().checked_div(section_size as usize)?;
    let count = sections.checked_div(usize::from(queues))?.min(usize::from(MAX_SECTIONS)) as u16;
    let first = count.checked_mul(index)?;
    (count > 0).then(|| SendBuffer { cpu: region.cpu(), bus: region.bus().0, section_size, first, count })
}

/// The beginning of [`NdisRssCapabilities`]: some hosts omit the last two bytes of the structure.
#[repr(C)]
#[derive(FromBytes, Immutable, KnownLayout)]
struct RssCapabilitiesHead {
    _header: NdisObjectHeader,
    _flags: u32,
    _interrupt_messages: u32,
    receive_queues: u32,
}

const _: () = assert!(
    offset_of!(RssCapabilitiesHead, receive_queues) == offset_of!(NdisRssCapabilities, receive_queues)
);

/// Opens subchannels, as many as the host and the options allow; returns the number of all channels.
fn open_subchannels<P: Platform, B: DmaBuffer>(
    shared: &NetShared<P, B>,
    vmbus: &Vmbus<P>,
    offer: &Offer,
    options: &NetOptions,
) -> Result<u16, OpenError> {
    if shared.host.version() < NvspVersion::V5 {
        return Ok(1);
    }
    let mut input = NdisRssCapabilities::new_zeroed();
    input.header = NdisObjectHeader {
        object_type: NDIS_OBJECT_RSS_CAPABILITIES as u8,
        revision: 2,
        size: size_of::<NdisRssCapabilities>() as u16,
    };
    let reply = match shared.query(RndisOid::GEN_RECEIVE_SCALE_CAPABILITIES, input.as_bytes()) {
        Ok(reply) => reply,
        Err(ControlError::Faulted(fault)) => return Err(fault.into()),
        Err(_) => return Ok(1),
    };
    let queues = reply.read::<RssCapabilitiesHead>().map_or(1, |head| head.receive_queues);
    let wanted = queues.min(shared.channels.len() as u32);
    if wanted < 2 {
        return Ok(1);
    }
    let request = NvspSubchannelRequest {
        message_type: NvspMessageType::SUBCHANNEL,
        operation: 1,
        count: wanted.saturating_sub(1),
        padding: [0; 28],
    };
    // The channel is in service: frames may come before the answer.
    shared.send_nvsp(request.as_bytes())?;
    let granted = shared.host.answer.lock().subchannels.take().unwrap_or(0).min(wanted.saturating_sub(1));
    let platform = &shared.host.platform;
    // All must come in the time of one answer.
    let end = platform.now().saturating_add(vmbus.timeouts().answer);
    for index in 1..=granted {
        let subchannel = loop {
            let found = vmbus.find(&offer.instance, u16::try_from(index).unwrap_or(u16::MAX));
            if found.is_some() || platform.now() >= end {
                break found;
            }
            platform.relax();
        };
        let (Some(subchannel), Some(state)) = (subchannel, shared.channel(index as usize)) else {
            log::warn!("netvsc: {offer}: the host offers no subchannel {index}, using {index} channels");
            return Ok(u16::try_from(index).unwrap_or(1));
        };
        open_subchannel(vmbus, &subchannel, options, index, state)?;
    }
    Ok(u16::try_from(granted).unwrap_or(0).saturating_add(1))
}

#[inline(never)]
fn open_subchannel<P: Platform, B: DmaBuffer>(
    vmbus: &Vmbus<P>,
    offer: &Offer,
    options: &NetOptions,
    index: u32,
    state: &Mutex<ChannelState<P, B>>,
) -> Result<(), OpenError> {
    let channel = open_channel(vmbus, offer, options, index)?;
    state.lock().set_channel(channel);
    Ok(())
}

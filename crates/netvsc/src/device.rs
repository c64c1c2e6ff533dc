//! The device: its description, its events and its settings.

use crate::OpenError;
use crate::channel::DEVICE;
use crate::offloads::set_offloads;
use crate::open::{MAX_QUEUES, NetOptions, Opened, open};
use crate::queue::NetVscQueue;
use crate::shared::NetShared;
use core::{fmt, task::Waker};
use hyperv_bindings::netvsp::{NvspMessageType, NvspSwitchDataPath, NvspVersion};
use hyperv_bindings::rndis::{
    NDIS_OBJECT_RSS_PARAMETERS, NDIS_RSS_HASH, NDIS_RSS_KEY_LENGTH, NDIS_RSS_TABLE_COUNT, NdisObjectHeader,
    NdisRssParameters, RndisFilterFlags, RndisOid,
};
use paravirt_device::{
    Arm, ControlError, Fault, Link, MacAddr, NetDevice, NetEvent, NetInfo, Offloads, ReceiveMode,
};
use paravirt_platform::{DmaBuffer, PageArc, Platform};
use paravirt_vmbus::{Offer, Vmbus};
use zerocopy::IntoBytes;

/// The key of the Toeplitz hash: the example in Microsoft's RSS documentation, which every stack knows.
const RSS_KEY: [u8; NDIS_RSS_KEY_LENGTH as usize] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
    0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
    0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];
const RSS_TABLE: usize = NDIS_RSS_TABLE_COUNT as usize;

/// Rounds of dropping frames that nobody owns, in one call.
const ROUNDS: usize = 8;

/// Where frames are sent and received.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum DataPath {
    /// By the channels of this device.
    Synthetic,
    /// By the attached VF.
    VirtualFunction,
}

/// A network device on VMBus whose frames can be sent from buffers `B`.
pub struct NetVsc<P: Platform, B: DmaBuffer> {
    shared: PageArc<P, NetShared<P, B>>,
    info: NetInfo,
    link: Link,
    receives: Offloads,
    taken: u16,
    reported: Option<Fault>,
    /// Whether the last call of `poll_event` reported a change.
    has_just_reported: bool,
}

impl<P: Platform, B: DmaBuffer> NetVsc<P, B> {
    /// Opens the device of `offer`: negotiates the version, shares the buffers, starts RNDIS and opens the subchannels. Frames to
    /// its own address, to the broadcast address and to every multicast address are received from then on, by queue 0 until
    /// [`set_active_queues`](NetDevice::set_active_queues) spreads them.
    ///
    /// Allocates, and waits for the host at each step, by the bus's timeouts. Not for interrupt context.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the channels are closed then.
    pub fn open(
        platform: &P,
        vmbus: &Vmbus<P>,
        offer: &Offer,
        options: &NetOptions,
    ) -> Result<Self, OpenError> {
        let Opened { shared, queues, mtu, receives, limits, depth } = open(platform, vmbus, offer, options)?;
        let mac = address(&shared)?;
        let link = match shared.query(RndisOid::GEN_MEDIA_CONNECT_STATUS, &[]) {
            Ok(reply) if reply.read::<u32>() == Some(1) => Link::Down,
            Err(ControlError::Faulted(fault)) => return Err(fault.into()),
            _ => Link::Up,
        };
        shared.host.set_link(link == Link::Up);
        shared.host.take_link_change();
        let speed = match shared.query(RndisOid::GEN_LINK_SPEED, &[]) {
            // Units of 100 bit/s.
            Ok(reply) => reply.read::<u32>().map(|speed| speed / 10_000).filter(|speed| *speed > 0),
            Err(ControlError::Faulted(fault)) => return Err(fault.into()),
            Err(_) => None,
        };
        let max_segmented = u32::try_from(limits.max_segmented).unwrap_or(u32::MAX);
        let offloads = limits.offloads | receives;
        let mut info = NetInfo::new(mac, mtu);
        info.queues = queues;
        info.depth = depth;
        info.offloads = offloads;
        info.max_segmented = max_segmented;
        info.speed = speed;
        info.connection = vmbus.connection();
        let mut this =
            Self { shared, info, link, receives, taken: 0, reported: None, has_just_reported: false };
        this.set_receive_mode(ReceiveMode::AllMulticast)?;
        Ok(this)
    }

    /// The number of packets and messages of the host that were malformed, or answered nothing, and were dropped.
    pub fn malformed_packets(&self) -> u64 {
        self.shared.host.malformed()
    }

    /// The NVSP version that was negotiated.
    pub fn version(&self) -> NvspVersion {
        self.shared.host.version()
    }

    /// Switches the data path to the attached VF, or back to this device, and waits until the host has confirmed it. Blocks for
    /// up to the bus's timeout for answers.
    ///
    /// # Errors
    ///
    /// [`ControlError::Unsupported`] with hosts before NVSP 4; [`ControlError::Faulted`].
    pub fn switch_data_path(&mut self, to: DataPath) -> Result<(), ControlError> {
        if self.version() < NvspVersion::V4 {
            return Err(ControlError::Unsupported);
        }
        let message = NvspSwitchDataPath {
            message_type: NvspMessageType::SWITCH_DATA_PATH,
            active: u32::from(to == DataPath::VirtualFunction),
            padding: [0; 32],
        };
        self.shared.send_nvsp(message.as_bytes())
    }

    /// Takes in what came by the primary channel. Where no queue owns its frames they are dropped, and the channel is armed.
    fn take_in(&mut self) {
        let Some(channel) = self.shared.channel(0) else { return };
        for _ in 0..ROUNDS {
            if self.shared.pump_device().is_err() {
                return;
            }
            match channel.lock().drop_received() {
                // More has come meanwhile.
                Some(Arm::Pending) => {}
                _ => return,
            }
        }
        // More comes than is dropped in a while: the task is run again.
        channel.lock().wakers.wake(DEVICE);
    }

    fn alive(&self) -> Result<(), ControlError> {
        self.shared.host.fault().map_or(Ok(()), |fault| Err(fault.into()))
    }
}

fn address<P: Platform, B: DmaBuffer>(shared: &NetShared<P, B>) -> Result<MacAddr, ControlError> {
    for oid in [RndisOid::IEEE_802_3_CURRENT_ADDRESS, RndisOid::IEEE_802_3_PERMANENT_ADDRESS] {
        match shared.query(oid, &[]) {
            Ok(reply) => {
                if let Some(bytes) = reply.bytes().first_chunk() {
                    return Ok(MacAddr(*bytes));
                }
            }
            Err(ControlError::Faulted(fault)) => return Err(fault.into()),
            Err(_) => {}
        }
    }
    Err(ControlError::Unsupported)
}

impl<P: Platform, B: DmaBuffer> NetDevice for NetVsc<P, B> {
    type Queue = NetVscQueue<P, B>;

    fn info(&self) -> NetInfo {
        self.info
    }

    fn link(&self) -> Link {
        self.link
    }

    fn take_queue(&mut self, index: u16) -> Option<NetVscQueue<P, B>> {
        const { assert!(MAX_QUEUES <= u16::BITS as usize) };
        let bit = 1u16.checked_shl(u32::from(index)).filter(|_| index < self.info.queues)?;
        if self.taken & bit != 0 {
            return None;
        }
        let queue = NetVscQueue::take(&self.shared, usize::from(index)).ok()??;
        self.taken |= bit;
        Some(queue)
    }

    fn poll_event(&mut self) -> Option<NetEvent> {
        // Packets are taken in once until there is nothing to report: a host that changes the link without end must not keep the caller
        // busy.
        if !core::mem::take(&mut self.has_just_reported) {
            self.take_in();
        }
        self.shared.answer_keep_alive();
        let host = &self.shared.host;
        if let Some(fault) = host.fault() {
            if self.reported == Some(fault) {
                return None;
            }
            self.reported = Some(fault);
            return Some(NetEvent::Faulted(fault));
        }
        if host.take_link_change() {
            let link = if host.is_link_up() { Link::Up } else { Link::Down };
            if link != self.link {
                self.link = link;
                self.has_just_reported = true;
                return Some(NetEvent::Link(link));
            }
        }
        if host.take_network_change() {
            self.has_just_reported = true;
            return Some(NetEvent::Announce);
        }
        let serial = host.take_virtual_function()?;
        self.has_just_reported = true;
        Some(NetEvent::VirtualFunction { serial })
    }

    fn register(&mut self, waker: &Waker) {
        if let Some(channel) = self.shared.channel(0) {
            channel.lock().wakers.register(DEVICE, waker);
        }
    }

    fn set_active_queues(&mut self, queues: u16) -> Result<(), ControlError> {
        self.alive()?;
        if queues == 0 || queues > self.info.queues {
            return Err(ControlError::Unsupported);
        }
        if self.info.queues == 1 {
            return Ok(());
        }
        let mut table = [0u32; RSS_TABLE];
        for (at, entry) in (0u32..).zip(table.iter_mut()) {
            *entry = at.checked_rem(u32::from(queues)).unwrap_or(0);
        }
        let header = NdisObjectHeader {
            object_type: NDIS_OBJECT_RSS_PARAMETERS as u8,
            revision: 2,
            size: size_of::<NdisRssParameters>() as u16,
        };
        let table_offset = size_of::<NdisRssParameters>() as u32;
        let parameters = NdisRssParameters {
            header,
            flags: 0,
            base_cpu: 0,
            hash: NDIS_RSS_HASH,
            table_size: size_of_val(&table) as u16,
            reserved1: 0,
            table_offset,
            key_size: RSS_KEY.len() as u16,
            reserved2: 0,
            key_offset: table_offset.saturating_add(size_of_val(&table) as u32),
            masks_offset: 0,
            masks_count: 0,
            masks_size: 0,
        };
        self.shared.set_parts(
            RndisOid::GEN_RECEIVE_SCALE_PARAMETERS,
            &[parameters.as_bytes(), table.as_bytes(), &RSS_KEY],
        )
    }

    fn set_receive_mode(&mut self, mode: ReceiveMode) -> Result<(), ControlError> {
        self.alive()?;
        let own = RndisFilterFlags::DIRECTED | RndisFilterFlags::BROADCAST;
        let filter = match mode {
            ReceiveMode::Filtered => own | RndisFilterFlags::MULTICAST,
            ReceiveMode::AllMulticast => own | RndisFilterFlags::ALL_MULTICAST,
            ReceiveMode::Promiscuous => RndisFilterFlags::PROMISCUOUS,
            _ => return Err(ControlError::Unsupported),
        };
        self.shared.set(RndisOid::GEN_CURRENT_PACKET_FILTER, filter.bits().as_bytes())
    }

    fn set_multicast(&mut self, addresses: &[MacAddr]) -> Result<(), ControlError> {
        self.alive()?;
        let max = self.shared.query(RndisOid::IEEE_802_3_MAXIMUM_LIST_SIZE, &[])?.read::<u32>().unwrap_or(0);
        // Some hosts keep no list.
        if max == 0 {
            return Err(ControlError::Unsupported);
        }
        if addresses.len() > (max as usize).min(MAX_MULTICAST) {
            return Err(ControlError::Refused);
        }
        let mut list = [0; MAX_MULTICAST * 6];
        for (to, MacAddr(from)) in list.chunks_exact_mut(6).zip(addresses) {
            to.copy_from_slice(from);
        }
        let len = addresses.len().saturating_mul(6);
        self.shared.set(RndisOid::IEEE_802_3_MULTICAST_LIST, list.get(..len).unwrap_or_default())
    }

    fn set_mac(&mut self, mac: MacAddr) -> Result<(), ControlError> {
        self.alive()?;
        self.shared.set(RndisOid::GEN_RNDIS_CONFIG_PARAMETER, &network_address(mac))?;
        // Some hosts report success and keep the address that they have.
        let now = address(&self.shared)?;
        self.info.mac = now;
        if now == mac { Ok(()) } else { Err(ControlError::Refused) }
    }

    fn set_offloads(&mut self, offloads: Offloads) -> Result<(), ControlError> {
        self.alive()?;
        let receives = offloads & self.receives;
        let sends = self.info.offloads.difference(self.receives);
        set_offloads(&self.shared, sends, receives)?;
        self.info.offloads = sends | receives;
        Ok(())
    }

    fn announced(&mut self) -> Result<(), ControlError> {
        self.alive()
    }
}

/// Multicast addresses in a list, at most.
const MAX_MULTICAST: usize = 64;
/// The name of the setting, which is written as UTF-16.
const NAME: &[u8; 14] = b"NetworkAddress";
const NAME_LEN: usize = NAME.len() * 2;
const VALUE_LEN: usize = 24;
const VALUE_OFFSET: u32 = 20 + NAME_LEN as u32;

/// The configuration parameter that sets the address: offsets, lengths and a type, then the name and twelve hexadecimal digits in
/// UTF-16. [MS-RNDIS] 2.2.6, OID_GEN_RNDIS_CONFIG_PARAMETER
fn network_address(mac: MacAddr) -> [u8; 20 + NAME_LEN + VALUE_LEN] {
    let mut bytes = [0; 20 + NAME_LEN + VALUE_LEN];
    let head = [20, NAME_LEN as u32, 2, VALUE_OFFSET, VALUE_LEN as u32];
    let digits = mac.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let digits = digits.map(|digit| b"0123456789ABCDEF".get(usize::from(digit)).copied().unwrap_or(0));
    let text = NAME.iter().copied().chain(digits).flat_map(|letter| [letter, 0]);
    let all = head.into_iter().flat_map(u32::to_le_bytes).chain(text);
    bytes.iter_mut().zip(all).for_each(|(to, from)| *to = from);
    bytes
}

impl<P: Platform, B: DmaBuffer> Drop for NetVsc<P, B> {
    /// Stops reception and RNDIS, unless a queue is still in use.
    fn drop(&mut self) {
        let is_in_use = self.shared.channels.iter().any(|channel| channel.lock().idle.is_none());
        let is_in_service = self.shared.channel(0).is_some_and(|state| {
            state.lock().channel.as_ref().is_some_and(|channel| channel.fault().is_none())
        });
        if !is_in_use && is_in_service {
            let _ = self.shared.set(RndisOid::GEN_CURRENT_PACKET_FILTER, 0u32.as_bytes());
            self.shared.halt();
        }
    }
}

impl<P: Platform, B: DmaBuffer> fmt::Debug for NetVsc<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetVsc")
            .field("version", &self.version())
            .field("info", &self.info)
            .field("link", &self.link)
            .field("fault", &self.shared.host.fault())
            .finish_non_exhaustive()
    }
}

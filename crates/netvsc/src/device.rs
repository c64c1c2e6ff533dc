//! The device: what it is, what happens to it, and its settings.

use crate::core::{Core, OpenError};
use crate::lane::{DEVICE, Lane};
use crate::open::{MOST_QUEUES, NetOptions, Opened, open, set_offloads};
use crate::queue::NetVscQueue;
use core::task::Waker;
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

/// Microsoft's example key of the Toeplitz hash, which spreads well and which every stack knows.
const RSS_KEY: [u8; NDIS_RSS_KEY_LENGTH as usize] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
    0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
    0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];
const RSS_TABLE: usize = NDIS_RSS_TABLE_COUNT as usize;

/// How often what comes in is looked at in one go.
const ROUNDS: usize = 8;

/// A network device on VMBus whose frames can be sent from buffers `B`.
pub struct NetVsc<P: Platform, B: DmaBuffer> {
    core: PageArc<P, Core<P, B>>,
    info: NetInfo,
    link: Link,
    receives: Offloads,
    taken: u16,
    reported: Option<Fault>,
}

impl<P: Platform, B: DmaBuffer> NetVsc<P, B> {
    /// Takes the device that `offer` offers into service, with all its queues and with one in use; see
    /// [`set_active_queues`](NetDevice::set_active_queues). Frames to its own address, to all and to every multicast address
    /// come in from then on.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the channel is then closed.
    pub fn open(
        platform: &P,
        vmbus: &Vmbus<P>,
        offer: &Offer,
        options: &NetOptions,
    ) -> Result<Self, OpenError> {
        let Opened { core, queues, mtu, receives, limits, depth } = open(platform, vmbus, offer, options)?;
        let mac = address(&core)?;
        let link = match core.query(RndisOid::GEN_MEDIA_CONNECT_STATUS, &[]) {
            Ok(reply) if reply.word() == Some(1) => Link::Down,
            Err(ControlError::Faulted(fault)) => return Err(fault.into()),
            _ => Link::Up,
        };
        core.shared.set_link(link == Link::Up);
        core.shared.take_link();
        let speed = match core.query(RndisOid::GEN_LINK_SPEED, &[]) {
            // Units of 100 bit/s.
            Ok(reply) => reply.word().map(|word| word / 10_000).filter(|speed| *speed > 0),
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
        let mut this = Self { core, info, link, receives, taken: 0, reported: None };
        this.set_receive_mode(ReceiveMode::AllMulticast)?;
        Ok(this)
    }

    /// The version that is spoken.
    pub fn version(&self) -> NvspVersion {
        self.core.shared.version()
    }

    /// Moves the data path to the virtual function that stands beside the device, or back, and waits for the host's word.
    ///
    /// # Errors
    ///
    /// [`ControlError::Unsupported`] where the host's version has none.
    pub fn switch_data_path(&mut self, to_virtual_function: bool) -> Result<(), ControlError> {
        if self.version() < NvspVersion::V4 {
            return Err(ControlError::Unsupported);
        }
        let message = NvspSwitchDataPath {
            message_type: NvspMessageType::SWITCH_DATA_PATH,
            active: u32::from(to_virtual_function),
            padding: [0; 32],
        };
        self.core.tell(message.as_bytes())
    }

    /// Takes in what came by the primary channel, where no queue does.
    fn take_in(&mut self) {
        let Some(lane) = self.core.lane(0) else { return };
        for _ in 0..ROUNDS {
            if self.core.pump(0).is_err() {
                return;
            }
            let mut lane = lane.lock();
            if lane.is_taken {
                return lane.tell_queue();
            }
            // Nobody takes its frames.
            while lane.received.front().is_some() {
                lane.received.pop();
            }
            if lane.kick().is_err() {
                return;
            }
            let is_pending = lane.has_found_room()
                || lane.channel.as_mut().is_some_and(|channel| channel.arm() == Arm::Pending);
            if !is_pending {
                return;
            }
        }
        // More comes than can be thrown away in a while.
        lane.lock().wakers.wake(DEVICE);
    }

    fn alive(&self) -> Result<(), ControlError> {
        self.core.shared.fault().map_or(Ok(()), |fault| Err(fault.into()))
    }
}

fn address<P: Platform, B: DmaBuffer>(core: &Core<P, B>) -> Result<MacAddr, ControlError> {
    for oid in [RndisOid::IEEE_802_3_CURRENT_ADDRESS, RndisOid::IEEE_802_3_PERMANENT_ADDRESS] {
        match core.query(oid, &[]) {
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
        const { assert!(MOST_QUEUES <= u16::BITS as usize) };
        let bit = 1u16.checked_shl(u32::from(index)).filter(|_| index < self.info.queues)?;
        if self.taken & bit != 0 {
            return None;
        }
        let queue = NetVscQueue::new(&self.core, usize::from(index)).ok()?;
        self.core.lane(usize::from(index))?.lock().is_taken = true;
        self.taken |= bit;
        Some(queue)
    }

    fn poll_event(&mut self) -> Option<NetEvent> {
        self.take_in();
        self.core.keep_alive();
        let shared = &self.core.shared;
        if let Some(fault) = shared.fault() {
            if self.reported == Some(fault) {
                return None;
            }
            self.reported = Some(fault);
            return Some(NetEvent::Faulted(fault));
        }
        if shared.take_link() {
            let link = if shared.is_link_up() { Link::Up } else { Link::Down };
            if link != self.link {
                self.link = link;
                return Some(NetEvent::Link(link));
            }
        }
        if shared.take_network_change() {
            return Some(NetEvent::Announce);
        }
        shared.take_function().map(|serial| NetEvent::VirtualFunction { serial })
    }

    fn register(&mut self, waker: &Waker) {
        if let Some(lane) = self.core.lane(0) {
            lane.lock().wakers.register(DEVICE, waker);
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
        self.core.set_parts(
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
        self.core.set(RndisOid::GEN_CURRENT_PACKET_FILTER, filter.bits().as_bytes())
    }

    fn set_multicast(&mut self, addresses: &[MacAddr]) -> Result<(), ControlError> {
        self.alive()?;
        let most = self.core.query(RndisOid::IEEE_802_3_MAXIMUM_LIST_SIZE, &[])?.word().unwrap_or(0);
        // Some hosts keep no list: all multicast addresses are what can be had.
        if most == 0 {
            return Err(ControlError::Unsupported);
        }
        if addresses.len() > (most as usize).min(MOST_MULTICAST) {
            return Err(ControlError::Refused);
        }
        let mut list = [0; MOST_MULTICAST * 6];
        for (to, MacAddr(from)) in list.as_chunks_mut::<6>().0.iter_mut().zip(addresses) {
            *to = *from;
        }
        let len = addresses.len().saturating_mul(6);
        self.core.set(RndisOid::IEEE_802_3_MULTICAST_LIST, list.get(..len).unwrap_or_default())
    }

    fn set_mac(&mut self, mac: MacAddr) -> Result<(), ControlError> {
        self.alive()?;
        self.core.set(RndisOid::GEN_RNDIS_CONFIG_PARAMETER, &network_address(mac))?;
        // Some hosts say yes and keep the address that they have.
        let now = address(&self.core)?;
        self.info.mac = now;
        if now == mac { Ok(()) } else { Err(ControlError::Refused) }
    }

    fn set_offloads(&mut self, offloads: Offloads) -> Result<(), ControlError> {
        self.alive()?;
        let receives = offloads & self.receives;
        let sends = self.info.offloads.difference(self.receives);
        set_offloads(&self.core, sends, receives)?;
        self.info.offloads = sends | receives;
        Ok(())
    }

    fn announced(&mut self) -> Result<(), ControlError> {
        self.alive()
    }
}

/// Multicast addresses in a list.
const MOST_MULTICAST: usize = 64;
/// The name of the setting, in UTF-16.
const NAME: &[u8; 14] = b"NetworkAddress";
const NAME_LEN: usize = NAME.len() * 2;
const VALUE_LEN: usize = 24;
const VALUE_OFFSET: u32 = 20 + NAME_LEN as u32;

/// The setting of an address: a name and twelve digits, both in UTF-16, behind their offsets, lengths and a type.
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
    /// Ends reception where nobody has a queue any more.
    fn drop(&mut self) {
        let is_in_use = self.core.lanes.iter().any(|lane| lane.lock().is_taken);
        let is_there =
            |lane: &Lane<P, B>| lane.channel.as_ref().is_some_and(|channel| channel.fault().is_none());
        if !is_in_use && self.core.lane(0).is_some_and(|lane| is_there(&lane.lock())) {
            let _ = self.core.set(RndisOid::GEN_CURRENT_PACKET_FILTER, 0u32.as_bytes());
            self.core.halt();
        }
    }
}

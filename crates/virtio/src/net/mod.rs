//! The network device. VIRTIO 1.3 §5.1

pub mod config;
mod control;
mod debug;
pub mod header;
mod rx;
mod tx;

pub use rx::VirtioRx;
use tx::TxBuilder;
pub use tx::VirtioTx;

use crate::device::{OpenOptions, VirtioDevice};
use crate::features::Features;
use crate::queue::VirtQueue;
use crate::request_queue::{QueueBuilder, QueueParams};
use crate::transport::{OpenError, Transport, read_config};
use config::{CONFIG_FIELDS, NetConfig, NetFeatures};
use control::{Control, MAX_MULTICAST};
use core::task::Waker;
use header::HEADER_LEN;
use paravirt_device::{
    Arm, ControlError, Fault, Link, MacAddr, NetDevice, NetEvent, NetInfo, NetQueue, Notify, Offloads,
    ReceiveMode,
};
use paravirt_platform::Fifo;
use paravirt_platform::{DmaBuffer, DmaSlice, Instant, PageArc, PageBox, PageTable, Platform, ProcessorId};

/// The maximum number of queue pairs that are used.
pub const MAX_PAIRS: usize = 16;
/// The lengths in bytes of an Ethernet header and of a VLAN tag.
const ETHERNET_LEN: usize = 14;
const VLAN_LEN: usize = 4;
/// The size in bytes of a receive buffer if a frame may span several.
const MERGEABLE_LEN: usize = 2048;
/// The maximum size in bytes of all receive buffers of a queue together, and their minimum number.
const MAX_RX_BYTES: usize = 4 << 20;
const MIN_RX_BUFFERS: usize = 16;
/// The maximum length of a frame for segmentation: the longest IP packet and its Ethernet header.
const MAX_SEGMENTED: u32 = 65535 + 14;

/// A pair of queues of a virtio network device.
pub struct VirtioNetQueue<P: Platform, B: DmaBuffer> {
    rx: VirtioRx<P>,
    tx: VirtioTx<P, B>,
}

impl<P: Platform, B: DmaBuffer> Notify for VirtioNetQueue<P, B> {
    fn arm(&mut self) -> Arm {
        self.tx.arm_watchdog();
        self.rx.arm().and(self.tx.arm())
    }

    fn disarm(&mut self) {
        self.rx.queue().disarm();
        self.tx.disarm();
    }

    fn register(&mut self, waker: &Waker) {
        self.rx.queue().register(waker);
        self.tx.register(waker);
    }

    fn next_deadline(&self) -> Instant {
        self.tx.deadline()
    }

    fn expire(&mut self, now: Instant) -> Result<(), Fault> {
        if !self.tx.is_stalled(now) {
            return Ok(());
        }
        log::warn!("virtio-net: no frame was sent for too long: resetting the queues");
        self.reset()
    }
}

impl<P: Platform, B: DmaBuffer> NetQueue for VirtioNetQueue<P, B> {
    type Rx = VirtioRx<P>;
    type Tx = VirtioTx<P, B>;

    #[inline]
    fn poll(&mut self) -> Result<(), Fault> {
        let tx = self.tx.poll();
        self.rx.poll().and(tx)
    }

    fn split(&mut self) -> (&mut VirtioRx<P>, &mut VirtioTx<P, B>) {
        (&mut self.rx, &mut self.tx)
    }

    fn tx(&self) -> &VirtioTx<P, B> {
        &self.tx
    }

    fn reset(&mut self) -> Result<(), Fault> {
        self.tx.reset_alone()?;
        self.rx.queue().reset_alone()
    }
}

/// The settings of the device, which are sent again after a reset.
struct Settings {
    mode: Option<ReceiveMode>,
    multicast: [MacAddr; MAX_MULTICAST],
    multicast_len: usize,
    mac: Option<MacAddr>,
    pairs: u16,
    offloads: Option<Offloads>,
    generation: u32,
}

/// A virtio network device whose frames can be sent from buffers `B`.
pub struct VirtioNet<P: Platform, B: DmaBuffer> {
    device: PageArc<P, VirtioDevice<P>>,
    control: Option<Control<P>>,
    /// A separate allocation: the device may be moved on small stacks.
    queues: PageTable<P, Pair<P, B>>,
    features: NetFeatures,
    info: NetInfo,
    link: Link,
    /// A separate allocation, as the queues are.
    settings: PageBox<P, Settings>,
    was_asked_to_announce: bool,
    /// The configuration whose changes are being reported.
    snapshot: Option<NetConfig>,
    reported: Option<Fault>,
}

type RxBuilder<P> = QueueBuilder<P, VirtQueue<P, DmaSlice<P>, ()>>;

/// A pair of queues that has not been taken. Each half is built in its place: both together are much for a small stack.
struct Pair<P: Platform, B: DmaBuffer> {
    rx: Option<VirtioRx<P>>,
    tx: Option<VirtioTx<P, B>>,
}

impl<P: Platform, B: DmaBuffer> Pair<P, B> {
    /// Builds the receive queue, with buffers of `len` bytes, and submits them.
    fn build_rx(&mut self, builder: RxBuilder<P>, len: usize, is_merging: bool) -> Result<(), OpenError> {
        // With long frames in one buffer each, fewer than the queue has room for.
        let most = MAX_RX_BYTES.checked_div(len).unwrap_or(0).max(MIN_RX_BUFFERS);
        let size = builder.depth(1).min(u16::try_from(most).unwrap_or(u16::MAX));
        builder.build_in(&mut self.rx, |queue| VirtioRx::new(queue, size, len, is_merging))?;
        if let Some(rx) = &mut self.rx {
            let _ = rx.poll();
            rx.publish();
        }
        Ok(())
    }

    fn take(&mut self) -> Option<VirtioNetQueue<P, B>> {
        Some(VirtioNetQueue { rx: self.rx.take()?, tx: self.tx.take()? })
    }

    /// Drains the queues after a reset.
    fn poll(&mut self) {
        let _ = self.tx.as_mut().map(VirtioTx::poll);
        let _ = self.rx.as_mut().map(VirtioRx::poll);
    }
}

impl<P: Platform, B: DmaBuffer> VirtioNet<P, B> {
    /// Opens the device with all its queues. One pair is in use until [`set_active_queues`](NetDevice::set_active_queues) is
    /// called.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the device has then been reset.
    #[inline(never)]
    pub fn open(platform: &P, transport: Transport<P>, options: &OpenOptions) -> Result<Self, OpenError> {
        let choose = |offered| {
            NetFeatures::choose(NetFeatures::from_bits_truncate(offered)).bits() | Features::SUPPORTED.bits()
        };
        let device = VirtioDevice::open(platform, transport, choose)?;
        let features = NetFeatures::from_bits_truncate(device.features());
        // The header of a frame has 12 bytes on a modern device, and on a legacy device only with mergeable buffers; and only a device that
        // takes any layout takes it in one descriptor with the frame. §5.1.6.1, §2.7.4.3
        let is_legacy = device.features() & Features::VERSION_1.bits() == 0;
        let takes_any_layout = device.features() & Features::ANY_LAYOUT.bits() != 0;
        if is_legacy && !(features.contains(NetFeatures::MRG_RXBUF) && takes_any_layout) {
            return Err(OpenError::Legacy);
        }
        let bytes = device.with_transport(|t| read_config(t, CONFIG_FIELDS));
        let config = config::parse(&bytes, features).ok_or(OpenError::Config)?;
        let pairs = config.pairs.min(options.queues.clamp(1, MAX_PAIRS as u16));

        let mut builders = Fifo::new(platform, usize::from(pairs))?;
        let segments = options.segments.max(1);
        let max_frame = usize::from(config.mtu).saturating_add(ETHERNET_LEN);
        let size = options.queue_size;
        for index in 0..pairs {
            let rx = QueueParams::new(index.wrapping_mul(2), size);
            let tx = TxBuilder::new(&device, rx.index.wrapping_add(1), size, segments, max_frame)?;
            // `builders` has room for all of them.
            let _ = builders.push((RxBuilder::new(&device, &rx)?, tx));
        }
        // §5.1.2: the index after all pairs of the device, used or not.
        let control = match features.contains(NetFeatures::CTRL_VQ) {
            true => {
                let index = config.pairs.wrapping_mul(2);
                let params = QueueParams { indirect: 2, area: 64, ..QueueParams::new(index, 16) };
                Some(RxBuilder::new(&device, &params)?)
            }
            false => None,
        };
        let processors = options.processors.max(1);
        device.start(|place| ProcessorId((place as u32 >> 1).checked_rem(processors).unwrap_or(0)))?;

        let offloads = features.offloads();
        let is_merging = features.contains(NetFeatures::MRG_RXBUF);
        let rx_len = if is_merging { MERGEABLE_LEN } else { max_frame.saturating_add(HEADER_LEN + VLAN_LEN) };
        let mut queues = PageTable::new(platform, usize::from(pairs), |_| Pair { rx: None, tx: None })?;
        let mut depth = u16::MAX;
        for pair in queues.iter_mut() {
            let Some((rx, tx)) = builders.pop() else { break };
            depth = depth.min(rx.depth(1)).min(tx.depth());
            pair.build_rx(rx, rx_len, is_merging)?;
            tx.build_in(&mut pair.tx, max_frame, offloads)?;
        }
        let control =
            control.map(|builder| Ok::<_, OpenError>(Control::new(builder.build_boxed()?)?)).transpose()?;
        let can_segment = offloads.intersects(Offloads::TX_TCP4 | Offloads::TX_TCP6 | Offloads::TX_UDP);
        // §5.1.4: without an address from the device, the driver chooses a locally administered one.
        let mac = config.mac.unwrap_or(MacAddr([0x02, 0, 0, 0, 0, 1]));
        let mut info = NetInfo::new(mac, config.mtu);
        info.queues = pairs;
        info.depth = depth;
        info.offloads = offloads;
        info.max_segmented = if can_segment { MAX_SEGMENTED } else { max_frame as u32 };
        info.speed = config.speed;
        info.connection = device.connection();
        let settings = PageBox::new(
            platform,
            Settings {
                mode: None,
                multicast: [MacAddr::default(); MAX_MULTICAST],
                multicast_len: 0,
                mac: None,
                pairs: 1,
                offloads: None,
                generation: device.generation(),
            },
        )?;
        let mut net = Self {
            device,
            control,
            queues,
            features,
            info,
            link: config.link,
            settings,
            was_asked_to_announce: false,
            snapshot: None,
            reported: None,
        };
        net.take_config(&config);
        Ok(net)
    }

    fn control(&mut self, needs: NetFeatures) -> Result<&mut Control<P>, ControlError> {
        match &mut self.control {
            Some(control) if self.features.contains(needs) => Ok(control),
            _ => Err(ControlError::Unsupported),
        }
    }

    /// Stores the first changed field of the configuration and returns its event.
    fn take_config(&mut self, config: &NetConfig) -> Option<NetEvent> {
        if config.announce && !self.was_asked_to_announce {
            self.was_asked_to_announce = true;
            return Some(NetEvent::Announce);
        }
        if config.link != self.link {
            self.link = config.link;
            return Some(NetEvent::Link(config.link));
        }
        match config.mac {
            Some(mac) if mac != self.info.mac && self.settings.mac.is_none() => {
                self.info.mac = mac;
                Some(NetEvent::Mac(mac))
            }
            _ => None,
        }
    }

    /// Sends the settings again after a reset of the device. The device accepted each of them before; if it refuses one now, the
    /// next call that sets it returns the error.
    fn restore(&mut self) {
        let generation = self.device.generation();
        if self.settings.generation == generation || self.device.fault().is_some() {
            return;
        }
        self.settings.generation = generation;
        let _ = self.control.as_mut().map(Control::recover);
        if let Some(mode) = self.settings.mode {
            let _ = self.set_receive_mode(mode);
        }
        let Settings { multicast, multicast_len, mac, pairs, offloads, .. } = *self.settings;
        if let Some(addresses) = multicast.get(..multicast_len).filter(|list| !list.is_empty()) {
            let _ = self.set_multicast(addresses);
        }
        if let Some(mac) = mac {
            let _ = self.set_mac(mac);
        }
        if pairs > 1 {
            let _ = self.set_active_queues(pairs);
        }
        if let Some(offloads) = offloads {
            let _ = self.set_offloads(offloads);
        }
    }
}

impl<P: Platform, B: DmaBuffer> NetDevice for VirtioNet<P, B> {
    type Queue = VirtioNetQueue<P, B>;

    fn info(&self) -> NetInfo {
        self.info
    }

    fn link(&self) -> Link {
        self.link
    }

    fn take_queue(&mut self, index: u16) -> Option<VirtioNetQueue<P, B>> {
        self.queues.get_mut(usize::from(index))?.take()
    }

    fn poll_event(&mut self) -> Option<NetEvent> {
        if let Some(control) = &mut self.control {
            // After a reset it has to be drained like every queue.
            let _ = control.recover();
        }
        let changed = self.device.take_config_change();
        if self.device.fault() == Some(Fault::Reset) {
            // Pairs that were not taken have to be drained here, since the restart waits for them.
            self.queues.iter_mut().for_each(Pair::poll);
        }
        if let Some(fault) = self.device.fault() {
            if fault != Fault::Reset && self.reported != Some(fault) {
                self.reported = Some(fault);
                return Some(NetEvent::Faulted(fault));
            }
            return None;
        }
        self.restore();
        // Read once until everything in it has been reported: a configuration that changes at each read must not keep the caller busy.
        let config = match self.snapshot.take() {
            Some(config) => {
                if changed {
                    self.device.mark_config_changed();
                    self.device.config_cell().wake();
                }
                config
            }
            None if changed => {
                let bytes = self.device.with_transport(|t| read_config(t, CONFIG_FIELDS));
                config::parse(&bytes, self.features)?
            }
            None => return None,
        };
        let event = self.take_config(&config);
        if event.is_some() {
            self.snapshot = Some(config);
        }
        event
    }

    fn register(&mut self, waker: &Waker) {
        self.device.config_cell().register(waker);
    }

    fn set_active_queues(&mut self, queues: u16) -> Result<(), ControlError> {
        if queues == 0 || queues > self.info.queues {
            return Err(ControlError::Unsupported);
        }
        if queues > 1 || self.settings.pairs > 1 {
            self.control(NetFeatures::MQ)?.set_pairs(queues)?;
        }
        self.settings.pairs = queues;
        Ok(())
    }

    fn set_receive_mode(&mut self, mode: ReceiveMode) -> Result<(), ControlError> {
        self.control(NetFeatures::CTRL_RX)?.set_receive_mode(mode)?;
        self.settings.mode = Some(mode);
        Ok(())
    }

    fn set_multicast(&mut self, addresses: &[MacAddr]) -> Result<(), ControlError> {
        self.control(NetFeatures::CTRL_RX)?.set_multicast(addresses)?;
        self.settings.multicast_len = addresses.len();
        self.settings.multicast.iter_mut().zip(addresses).for_each(|(to, from)| *to = *from);
        Ok(())
    }

    fn set_mac(&mut self, mac: MacAddr) -> Result<(), ControlError> {
        self.control(NetFeatures::CTRL_MAC_ADDR)?.set_mac(mac)?;
        self.settings.mac = Some(mac);
        self.info.mac = mac;
        Ok(())
    }

    fn set_offloads(&mut self, offloads: Offloads) -> Result<(), ControlError> {
        let rx = Offloads::RX_CHECKSUM | Offloads::RX_TCP4 | Offloads::RX_TCP6 | Offloads::RX_UDP;
        let wanted = offloads & rx & self.features.offloads();
        let features = NetFeatures::guest_offloads(wanted) & self.features;
        self.control(NetFeatures::CTRL_GUEST_OFFLOADS)?.set_guest_offloads(features.bits())?;
        self.settings.offloads = Some(offloads);
        self.info.offloads = self.info.offloads.difference(rx) | wanted;
        Ok(())
    }

    fn announced(&mut self) -> Result<(), ControlError> {
        self.control(NetFeatures::GUEST_ANNOUNCE)?.announced()?;
        self.was_asked_to_announce = false;
        Ok(())
    }
}

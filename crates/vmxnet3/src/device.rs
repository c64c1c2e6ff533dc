//! The network card.

use crate::area::{Area, MAX_MULTICAST, event, feature, mode};
use crate::card::Card;
use crate::control::{Control, Pair, Settings, tx_vector};
use crate::error::OpenError;
use crate::queue::Vmxnet3Queue;
use crate::registers::{BAR_LEN, CardCommand, DOORBELLS, REGISTERS, Registers};
use crate::rx::Vmxnet3Rx;
use crate::tx::{TxLimits, Vmxnet3Tx};
use crate::{ETHERNET_LEN, MAX_MTU, MAX_PAIRS, MAX_SEGMENTED};
use core::fmt;
use core::task::Waker;
use paravirt_device::{
    Connection, ControlError, Fault, Link, MacAddr, NetDevice, NetEvent, NetInfo, Offloads, ReceiveMode,
    RingKind, Signalling,
};
use paravirt_pci::{Bound, DeviceBox, PciSlot, device};
use paravirt_platform::{DmaBuffer, PageArc, Platform};

/// What the card offers to do for frames that are sent: every card does.
const TX_OFFLOADS: Offloads = Offloads::TX_CHECKSUM.union(Offloads::TX_TCP4).union(Offloads::TX_TCP6);
/// What coalesces frames: both or none.
const LRO: Offloads = Offloads::RX_TCP4.union(Offloads::RX_TCP6);
const RX_OFFLOADS: Offloads = Offloads::RX_CHECKSUM.union(LRO);
/// Revisions, a bit each, of which the second one tells how frames were coalesced.
const REVISION_1: u32 = 1 << 0;
const REVISION_2: u32 = 1 << 1;

/// Options with which a card is opened.
#[derive(Copy, Clone, Debug)]
#[non_exhaustive]
pub struct Vmxnet3Options {
    /// The maximum number of pairs of queues, at most 8, rounded down to a power of two.
    pub pairs: u16,
    /// The maximum number of descriptors of a ring, rounded down to a power of two from 32 to 4096.
    pub queue_size: u16,
    /// The number of processors over which the interrupts of the queues are distributed, from processor 0 on.
    pub processors: u32,
    /// The maximum length in bytes of a packet without its Ethernet header, 68 to 9000: the card leaves it to the guest.
    pub mtu: u16,
}

impl Vmxnet3Options {
    /// One pair of 256 descriptors, interrupts on the first processor, packets of 1500 bytes.
    pub const fn new() -> Self {
        Self { pairs: 1, queue_size: 256, processors: 1, mtu: 1500 }
    }

    /// Sets [`pairs`](Self::pairs).
    #[must_use]
    pub const fn with_pairs(self, pairs: u16) -> Self {
        Self { pairs, ..self }
    }

    /// Sets [`queue_size`](Self::queue_size).
    #[must_use]
    pub const fn with_queue_size(self, queue_size: u16) -> Self {
        Self { queue_size, ..self }
    }

    /// Sets [`processors`](Self::processors).
    #[must_use]
    pub const fn with_processors(self, processors: u32) -> Self {
        Self { processors, ..self }
    }

    /// Sets [`mtu`](Self::mtu).
    #[must_use]
    pub const fn with_mtu(self, mtu: u16) -> Self {
        Self { mtu, ..self }
    }
}

impl Default for Vmxnet3Options {
    fn default() -> Self {
        Self::new()
    }
}

/// A network card whose frames can be sent from buffers `B`.
pub struct Vmxnet3<P: Platform, B: DmaBuffer> {
    platform: P,
    control: PageArc<P, Control<P, B>>,
    info: NetInfo,
    link: Link,
    /// The gate of the card at which the link was asked for.
    link_gate: u32,
    reported: Option<Fault>,
}

/// Opens the card in `slot`, with all its queues. One pair is in use until [`set_active_queues`](NetDevice::set_active_queues) is called.
/// Allocates; does not wait for the host. Not for interrupt context.
///
/// # Errors
///
/// [`OpenError`]; the card has been reset then, or is unchanged.
///
/// # Safety
///
/// No other driver uses the function, and the bridges above forward the addresses in its BARs to it.
#[inline(never)]
pub unsafe fn open<P: Platform, B: DmaBuffer>(
    platform: &P,
    slot: &PciSlot<P>,
    options: &Vmxnet3Options,
) -> Result<Vmxnet3<P, B>, OpenError> {
    let bars = [Some((DOORBELLS, BAR_LEN)), Some((REGISTERS, BAR_LEN))];
    // SAFETY: by the contract of this function.
    let device = unsafe { device::open(platform, slot, bars) }?;
    Vmxnet3::new(platform, device, options)
}

impl<P: Platform, B: DmaBuffer> Vmxnet3<P, B> {
    /// Opens the card `device`. [`open`] calls this for a PCI function.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the card has been reset then.
    pub fn new(platform: &P, device: DeviceBox<P>, options: &Vmxnet3Options) -> Result<Self, OpenError> {
        let pairs = 1u16 << options.pairs.clamp(1, MAX_PAIRS).ilog2();
        let size = 1u32 << u32::from(options.queue_size).clamp(32, 4096).ilog2();
        let mtu = options.mtu.clamp(68, MAX_MTU);
        // Those of the receive sides, of the transmit sides, and that of events.
        let vectors = pairs.saturating_mul(2).saturating_add(1);
        let registers = Registers::new(platform, device, vectors)?;
        let card = PageArc::new(platform, Card::new(registers, Area::new(platform)?, pairs))?;
        if !card.stop() {
            return Err(Fault::Timeout.into());
        }
        let revision = match card.registers.versions() {
            (revisions, upt) if revisions & REVISION_1 == 0 || upt & 1 == 0 => {
                return Err(OpenError::Revision);
            }
            (revisions, _) if revisions & REVISION_2 != 0 => REVISION_2,
            _ => REVISION_1,
        };
        let max_frame = usize::from(mtu).saturating_add(ETHERNET_LEN);
        let limits = TxLimits { offloads: TX_OFFLOADS, max_frame, max_segmented: MAX_SEGMENTED };
        let mut depth = u16::MAX;
        let settings = Settings::new(mtu, pairs, revision);
        let control = Control::new(platform, card.clone(), settings, |index| {
            let tx = Vmxnet3Tx::new(platform, &card, (index, tx_vector(pairs, index)), size, limits)?;
            let rx = Vmxnet3Rx::new(platform, &card, (index, index), size, max_frame)?;
            depth = depth.min(tx.depth()).min((size as u16).wrapping_sub(1));
            Ok(Pair::new(rx, tx, index))
        })?;
        let mac = MacAddr(card.registers.mac());
        control.start(options.processors.max(1))?;
        let mut info = NetInfo::new(mac, mtu);
        info.queues = pairs;
        info.depth = depth;
        info.offloads = TX_OFFLOADS | Offloads::RX_CHECKSUM;
        info.max_segmented = MAX_SEGMENTED as u32;
        let signalling = match control.bound() {
            Bound::Messages => Signalling::Messages,
            Bound::SharedMessage => Signalling::SharedMessages,
            Bound::Line => Signalling::Line,
            Bound::Nothing => Signalling::Polled,
        };
        info.connection = Connection::new(signalling, RingKind::Vmxnet3);
        let mut this =
            Self { platform: platform.clone(), control, info, link: Link::Up, link_gate: 1, reported: None };
        this.read_link();
        Ok(this)
    }

    /// Asks for the state of the link and its speed.
    fn read_link(&mut self) {
        self.link_gate = self.control.card.gate();
        if let Some(link) = self.control.ask(CardCommand::Link) {
            self.link = if link & 1 != 0 { Link::Up } else { Link::Down };
            self.info.speed = Some(link >> 16).filter(|speed| *speed > 0);
        }
    }

    /// Looks at the events that the card reports.
    fn take_events(&mut self) -> Option<NetEvent> {
        let card = &self.control.card;
        let gate = card.gate();
        if card.registers.device().is_gone() {
            self.control.reset(gate, Fault::Removed);
        }
        if card.fault().is_some() {
            return None;
        }
        card.registers.unmask(self.control.event_vector());
        let events = card.area().events();
        let has_failed = events & (event::RX_QUEUE_ERROR | event::TX_QUEUE_ERROR) != 0;
        if events != 0 {
            card.registers.acknowledge(events);
        }
        let before = self.link;
        // A card that was reset may have missed a change.
        if events & event::LINK != 0 || self.link_gate != gate {
            self.read_link();
        }
        if has_failed {
            self.check_queues(gate);
        }
        (self.link != before).then_some(NetEvent::Link(self.link))
    }

    /// Resets the card if it has stopped a queue.
    #[cold]
    fn check_queues(&self, gate: u32) {
        let _ = self.control.ask(CardCommand::QueueStatus);
        let card = &self.control.card;
        if let Some(error) = card.area().has_stopped(card.pairs.saturating_mul(2)) {
            log::warn!("vmxnet3: the card has stopped a queue with error {error:#x}");
            self.control.reset(gate, Fault::Reset);
        }
    }
}

impl<P: Platform, B: DmaBuffer> NetDevice for Vmxnet3<P, B> {
    type Queue = Vmxnet3Queue<P, B>;

    fn info(&self) -> NetInfo {
        self.info
    }

    fn link(&self) -> Link {
        self.link
    }

    fn take_queue(&mut self, index: u16) -> Option<Vmxnet3Queue<P, B>> {
        let pair = self.control.take(index)?;
        Some(Vmxnet3Queue::new(&self.platform, &self.control, pair))
    }

    fn poll_event(&mut self) -> Option<NetEvent> {
        if let Some(event) = self.take_events() {
            return Some(event);
        }
        match self.control.card.fault() {
            Some(fault) if fault != Fault::Reset && self.reported != Some(fault) => {
                self.reported = Some(fault);
                Some(NetEvent::Faulted(fault))
            }
            _ => None,
        }
    }

    fn register(&mut self, waker: &Waker) {
        let registers = &self.control.card.registers;
        let vector = self.control.event_vector();
        registers.cell(vector).into_iter().for_each(|cell| cell.register(waker));
        if self.control.card.fault().is_none() {
            registers.unmask(vector);
        }
    }

    fn set_active_queues(&mut self, queues: u16) -> Result<(), ControlError> {
        if queues == 0 || queues > self.info.queues {
            return Err(ControlError::Unsupported);
        }
        if self.info.queues == 1 {
            return Ok(());
        }
        self.control.change(Some(CardCommand::UpdateRssTable), |settings, card| {
            settings.active = queues;
            card.area().set_rss(queues);
        })
    }

    fn set_receive_mode(&mut self, mode: ReceiveMode) -> Result<(), ControlError> {
        let usual = mode::UNICAST | mode::MULTICAST | mode::BROADCAST;
        let bits = match mode {
            ReceiveMode::Filtered => usual,
            ReceiveMode::AllMulticast => usual | mode::ALL_MULTICAST,
            ReceiveMode::Promiscuous => usual | mode::ALL_MULTICAST | mode::PROMISCUOUS,
            _ => return Err(ControlError::Unsupported),
        };
        self.control.change(Some(CardCommand::UpdateReceiveMode), |settings, card| {
            settings.rx_mode = bits;
            card.area().set_rx_mode(bits);
        })
    }

    fn set_multicast(&mut self, addresses: &[MacAddr]) -> Result<(), ControlError> {
        if addresses.len() > MAX_MULTICAST {
            return Err(ControlError::Refused);
        }
        self.control.change(Some(CardCommand::UpdateMacFilters), |settings, card| {
            settings.filters = addresses.len() as u16;
            card.area().set_filters(addresses.iter().map(|address| &address.0));
        })
    }

    fn set_mac(&mut self, mac: MacAddr) -> Result<(), ControlError> {
        self.control.change(None, |settings, card| {
            settings.mac = Some(mac.0);
            card.registers.set_mac(mac.0);
        })?;
        self.info.mac = mac;
        Ok(())
    }

    fn set_offloads(&mut self, offloads: Offloads) -> Result<(), ControlError> {
        let checksum = if offloads.contains(Offloads::RX_CHECKSUM) { feature::RX_CHECKSUM } else { 0 };
        // The card does not tell IPv4 from IPv6.
        let lro = if offloads.contains(LRO) { feature::LRO } else { 0 };
        self.control.change(Some(CardCommand::UpdateFeatures), |settings, card| {
            settings.features = settings.features & !(feature::RX_CHECKSUM | feature::LRO) | checksum | lro;
            card.area().set_features(settings.features);
        })?;
        let mut enabled = offloads & Offloads::RX_CHECKSUM;
        enabled.set(LRO, lro != 0);
        self.info.offloads = self.info.offloads.difference(RX_OFFLOADS) | enabled;
        Ok(())
    }

    /// The card does not ask for announcements.
    fn announced(&mut self) -> Result<(), ControlError> {
        Err(ControlError::Unsupported)
    }
}

impl<P: Platform, B: DmaBuffer> fmt::Debug for Vmxnet3<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vmxnet3").field("info", &self.info).field("link", &self.link).finish_non_exhaustive()
    }
}

//! The card.

use crate::class::{Filter, LRO, NetClass, Pair, new_filter};
use crate::queue::NetFrontQueue;
use crate::wire::MAX_FRAME;
use core::fmt;
use core::task::Waker;
use paravirt_device::{
    Connection, ControlError, Fault, Link, MacAddr, NetDevice, NetEvent, NetInfo, Offloads, ReceiveMode,
    RingKind, Signalling,
};
use paravirt_platform::{DmaBuffer, PageArc, Platform};
use paravirt_xen::{Device, DeviceError, InFlight, OwnedQueue, Store, bus};

/// Options with which a card is opened.
#[derive(Copy, Clone, Debug)]
#[non_exhaustive]
pub struct NetFrontOptions {
    /// The maximum number of pairs of queues.
    pub pairs: u16,
    /// The maximum number of frames in flight in places of a transmit queue, at most 256.
    pub frames: u16,
}

impl NetFrontOptions {
    /// One pair of 256 frames.
    pub const fn new() -> Self {
        Self { pairs: 1, frames: 256 }
    }

    /// Sets [`pairs`](Self::pairs).
    #[must_use]
    pub const fn with_pairs(self, pairs: u16) -> Self {
        Self { pairs, ..self }
    }

    /// Sets [`frames`](Self::frames).
    #[must_use]
    pub const fn with_frames(self, frames: u16) -> Self {
        Self { frames, ..self }
    }
}

impl Default for NetFrontOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// A network card whose frames can be sent from buffers `B`.
pub struct NetFront<P: Platform, B: DmaBuffer> {
    platform: P,
    device: PageArc<P, Device<P, NetClass<P, B>>>,
    info: NetInfo,
    link: Link,
    /// The gate of the device at which the link was read.
    gate: u32,
    reported: Option<Fault>,
}

impl<P: Platform, B: DmaBuffer> NetFront<P, B> {
    /// Opens the card at `address`. One pair is in use until [`set_active_queues`](NetDevice::set_active_queues) is called. Allocates; blocks
    /// for the backend, at most 3 minutes for each step. Not for interrupt context.
    ///
    /// # Errors
    ///
    /// [`DeviceError`]; the card is closed then.
    #[inline(never)]
    pub fn open(
        store: &PageArc<P, Store<P>>,
        address: bus::Address,
        options: &NetFrontOptions,
    ) -> Result<Self, DeviceError> {
        let mut depth = u16::MAX;
        let filter = new_filter(store.hypervisor().platform())?;
        let device = Device::open(
            store,
            address,
            NetClass::new(*options, filter.clone()),
            |class| class.pair_count,
            |class, frontend, status, index| {
                let (hypervisor, domain) = (frontend.hypervisor(), frontend.domain());
                let filter = (index == 0).then(|| filter.clone());
                let pair = Pair::new(hypervisor, domain, status, options.frames, class.limits, filter)?;
                depth = depth.min(pair.tx.depth());
                Ok(pair)
            },
        )?;
        let (mut info, link) = device.with(|_, class| {
            let mut info = NetInfo::new(class.mac, class.mtu);
            info.offloads = class.limits.offloads | class.rx_offloads;
            if class.limits.can_segment() {
                info.max_segmented = MAX_FRAME as u32;
            }
            (info, class.link)
        });
        info.queues = device.queues();
        info.depth = depth;
        let is_signalled = store.hypervisor().has_interrupts();
        let signalling = if is_signalled { Signalling::Bus } else { Signalling::Polled };
        info.connection = Connection::new(signalling, RingKind::Netif);
        let gate = device.gate();
        let platform = store.hypervisor().platform().clone();
        Ok(Self { platform, device, info, link, gate, reported: None })
    }

    /// Changes what is negotiated, for which the card is connected anew.
    fn change(&mut self, change: impl FnOnce(&mut NetClass<P, B>)) -> Result<(), ControlError> {
        if let Some(fault) = self.device.fault().filter(|fault| *fault != Fault::Reset) {
            return Err(ControlError::Faulted(fault));
        }
        self.device.with(|_, class| change(class));
        // A card that waits for its queues to be connected is connected with the change.
        self.device.reset(self.device.gate(), Fault::Reset, InFlight::Abort);
        match self.device.fault() {
            // Queues that somebody uses are drained by their owners.
            None | Some(Fault::Reset) => Ok(()),
            Some(fault) => Err(ControlError::Faulted(fault)),
        }
    }
}

impl<P: Platform, B: DmaBuffer> NetFront<P, B> {
    /// Changes the filter by `change`, which returns whether the backend is to be told, for which the card is connected anew.
    fn set_filter(
        &mut self,
        needs_backend: bool,
        change: impl FnOnce(&mut Filter) -> bool,
    ) -> Result<(), ControlError> {
        let is_changed = self.device.with(|_, class| {
            let is_possible = class.can_filter || !needs_backend;
            is_possible.then(|| change(&mut class.filter.lock()))
        });
        match is_changed {
            None => Err(ControlError::Unsupported),
            Some(true) => self.change(|_| ()),
            Some(false) => Ok(()),
        }
    }
}

impl<P: Platform, B: DmaBuffer> NetDevice for NetFront<P, B> {
    type Queue = NetFrontQueue<P, B>;

    fn info(&self) -> NetInfo {
        self.info
    }

    fn link(&self) -> Link {
        self.link
    }

    fn take_queue(&mut self, index: u16) -> Option<NetFrontQueue<P, B>> {
        let owned = OwnedQueue::take(&self.device, index)?;
        Some(NetFrontQueue::new(&self.platform, owned))
    }

    fn poll_event(&mut self) -> Option<NetEvent> {
        let (before, gate) = (self.link, self.device.gate());
        if self.device.poll() || self.gate != gate {
            self.gate = gate;
            let read = self.device.try_with(|frontend, class| class.read_link(frontend).map(|()| class.link));
            if let Some(Ok(link)) = read {
                self.link = link;
            }
        }
        if self.link != before {
            return Some(NetEvent::Link(self.link));
        }
        self.device.new_fault(&mut self.reported).map(NetEvent::Faulted)
    }

    fn register(&mut self, waker: &Waker) {
        self.device.register(self.device.queues(), waker);
    }

    /// Connects the card anew, as backends spread frames over every queue that they know.
    fn set_active_queues(&mut self, queues: u16) -> Result<(), ControlError> {
        if queues == 0 || queues > self.info.queues {
            return Err(ControlError::Unsupported);
        }
        if self.device.with(|_, class| class.active) == queues {
            return Ok(());
        }
        self.change(|class| class.active = queues)
    }

    /// What the backend's bridge forwards is delivered, but for multicast frames with [`ReceiveMode::Filtered`], if the backend filters
    /// them. Connects the card anew where that changes.
    fn set_receive_mode(&mut self, mode: ReceiveMode) -> Result<(), ControlError> {
        let is_on = mode == ReceiveMode::Filtered;
        self.set_filter(is_on, |filter| core::mem::replace(&mut filter.is_on, is_on) != is_on)
    }

    /// Up to 64. Connects the card anew with [`ReceiveMode::Filtered`].
    fn set_multicast(&mut self, addresses: &[MacAddr]) -> Result<(), ControlError> {
        let mut has_room = false;
        self.set_filter(true, |filter| {
            has_room = filter.set(addresses);
            has_room && filter.is_on
        })?;
        if has_room { Ok(()) } else { Err(ControlError::Refused) }
    }

    fn set_mac(&mut self, _mac: MacAddr) -> Result<(), ControlError> {
        Err(ControlError::Unsupported)
    }

    /// Connects the card anew.
    fn set_offloads(&mut self, offloads: Offloads) -> Result<(), ControlError> {
        let wanted = offloads & (LRO | Offloads::RX_CHECKSUM);
        // A frame that was coalesced has no checksum.
        let wanted = if wanted.intersects(LRO) { wanted | Offloads::RX_CHECKSUM } else { wanted };
        let mut before = Offloads::empty();
        self.device.with(|_, class| before = class.rx_offloads);
        if before != wanted {
            self.change(|class| class.rx_offloads = wanted)?;
        }
        self.info.offloads = self.info.offloads.difference(LRO | Offloads::RX_CHECKSUM) | wanted;
        Ok(())
    }

    /// Backends do not ask for announcements.
    fn announced(&mut self) -> Result<(), ControlError> {
        Err(ControlError::Unsupported)
    }
}

impl<P: Platform, B: DmaBuffer> fmt::Debug for NetFront<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetFront").field("info", &self.info).field("link", &self.link).finish_non_exhaustive()
    }
}

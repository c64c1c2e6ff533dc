//! The SCSI controllers, which are kept for hot plug of their disks.

#[cfg(all(feature = "virtio", feature = "scsi"))]
use crate::any::separately;
use crate::{Address, Block, Device, Event, Found, Never, Place, Reason, Unclaimed, What};
use core::task::Waker;
use paravirt_device::Arm;
use paravirt_platform::{DmaBuffer, PageTable, Platform};
#[cfg(feature = "vmware")]
use paravirt_pvscsi::{PvscsiController, PvscsiOptions};
use paravirt_scsi::{Controller, ControllerEvent, Disk, OpenError, Options, ScsiTransport};
#[cfg(feature = "hyperv")]
use paravirt_storvsc::{StorController, StorOptions, StorTransport};
#[cfg(all(feature = "virtio", feature = "scsi"))]
use paravirt_virtio::OpenOptions;
#[cfg(all(feature = "virtio", feature = "scsi"))]
use paravirt_virtio::scsi::ScsiAdapter;
#[cfg(all(feature = "virtio", feature = "scsi"))]
use paravirt_virtio::transport::Transport;
#[cfg(feature = "hyperv")]
use paravirt_vmbus::{Offer, Vmbus};

/// Maximum number of controllers: Hyper-V has four, and four IDE disks.
const MAX_CONTROLLERS: usize = 16;
/// The maximum number of events of a controller that one call reports: a host may change its units as fast as they are scanned.
const MAX_EVENTS: usize = 256;

#[cfg(all(feature = "virtio", feature = "scsi"))]
type VirtioController<P, B> = Controller<P, ScsiAdapter<P>, B>;

/// A controller of any bus.
enum Any<P: Platform, B: DmaBuffer> {
    #[cfg(all(feature = "virtio", feature = "scsi"))]
    Virtio(VirtioController<P, B>),
    #[cfg(feature = "hyperv")]
    HyperV(StorController<P, B>),
    #[cfg(feature = "vmware")]
    VMware(PvscsiController<P, B>),
    #[allow(dead_code, reason = "without controllers it uses the parameters")]
    Never(Never<(P, B)>),
}

/// An event of a controller.
enum AnyEvent<P: Platform, B: DmaBuffer> {
    Added(Block<P, B>, paravirt_scsi::Address),
    Removed(paravirt_scsi::Address),
    Ignored(paravirt_scsi::Address, paravirt_scsi::Ignored),
    /// Reported by the disks themselves.
    Faulted,
}

impl<P: Platform, B: DmaBuffer> Any<P, B> {
    fn register(&self, waker: &Waker) {
        match self {
            #[cfg(all(feature = "virtio", feature = "scsi"))]
            Self::Virtio(controller) => controller.register(waker),
            #[cfg(feature = "hyperv")]
            Self::HyperV(controller) => controller.register(waker),
            #[cfg(feature = "vmware")]
            Self::VMware(controller) => controller.register(waker),
            Self::Never((never, _)) => match *never {},
        }
    }

    fn arm(&mut self) -> Arm {
        match self {
            #[cfg(all(feature = "virtio", feature = "scsi"))]
            Self::Virtio(controller) => controller.arm(),
            #[cfg(feature = "hyperv")]
            Self::HyperV(controller) => controller.arm(),
            #[cfg(feature = "vmware")]
            Self::VMware(controller) => controller.arm(),
            Self::Never((never, _)) => match *never {},
        }
    }

    #[inline(never)]
    fn poll(&mut self) -> Option<AnyEvent<P, B>> {
        match self {
            #[cfg(all(feature = "virtio", feature = "scsi"))]
            Self::Virtio(controller) => next_event(controller, Block::VirtioScsi),
            #[cfg(feature = "hyperv")]
            Self::HyperV(controller) => next_event(controller, Block::HyperV),
            #[cfg(feature = "vmware")]
            Self::VMware(controller) => next_event(controller, Block::VMware),
            Self::Never((never, _)) => match *never {},
        }
    }
}

/// The next event of a controller whose disks are `block`s. Events that are not known here are skipped.
#[inline(never)]
fn next_event<P: Platform, T: ScsiTransport, B: DmaBuffer>(
    controller: &mut Controller<P, T, B>,
    block: impl Fn(Disk<P, T, B>) -> Block<P, B>,
) -> Option<AnyEvent<P, B>> {
    loop {
        return Some(match controller.poll()? {
            ControllerEvent::Added(disk) => {
                let unit = disk.address();
                AnyEvent::Added(block(disk), unit)
            }
            ControllerEvent::Removed(unit) => AnyEvent::Removed(unit),
            ControllerEvent::Ignored(unit, reason) => AnyEvent::Ignored(unit, reason),
            ControllerEvent::Faulted(_) => AnyEvent::Faulted,
            _ => continue,
        });
    }
}

type Entry<P, B> = Option<(Place, Any<P, B>)>;

/// The table of controllers.
pub(crate) struct Controllers<P: Platform, B: DmaBuffer> {
    /// `None` if there was no memory for the table.
    table: Option<PageTable<P, Entry<P, B>>>,
    /// The waker to register with each controller that is opened.
    waker: Option<Waker>,
    /// With which controllers are opened.
    options: Options,
}

impl<P: Platform, B: DmaBuffer> Controllers<P, B> {
    pub fn new(platform: &P, options: Options) -> Self {
        Self { table: PageTable::new(platform, MAX_CONTROLLERS, |_| None).ok(), waker: None, options }
    }

    /// Opens the controller that VMBus offers, with up to `queues` queues for each disk. [`poll`](Self::poll) reports its disks.
    #[cfg(feature = "hyperv")]
    #[inline(never)]
    pub fn open_offer(
        &mut self,
        platform: &P,
        vmbus: &Vmbus<P>,
        offer: &Offer,
        queues: u16,
    ) -> Result<(), Reason> {
        let stor = StorOptions::default().with_processors(platform.processors().count());
        self.add(Place::from(offer), queues, |options| {
            let adapter = StorTransport::new(platform, vmbus, offer, &stor);
            Controller::open(platform, adapter, options).map(Any::HyperV).map_err(Reason::Scsi)
        })
    }

    /// Opens the SCSI host behind a virtio transport as a controller.
    #[cfg(all(feature = "virtio", feature = "scsi"))]
    #[inline(never)]
    pub fn open_virtio(
        &mut self,
        platform: &P,
        place: Place,
        transport: Transport<P>,
        open: &OpenOptions,
    ) -> Result<(), Reason> {
        self.add(place, open.queues, |options| {
            let adapter =
                separately(|| ScsiAdapter::open(platform, transport, open)).map_err(Reason::Open)?;
            Controller::open(platform, adapter, options).map(Any::Virtio).map_err(Reason::Scsi)
        })
    }

    /// Opens VMware's SCSI adapter in `slot` as a controller.
    ///
    /// # Safety
    ///
    /// No other driver uses the function, and the bridges above forward the addresses in its BARs to it.
    #[cfg(feature = "vmware")]
    #[inline(never)]
    pub unsafe fn open_pvscsi(
        &mut self,
        platform: &P,
        place: Place,
        slot: &paravirt_pci::PciSlot<P>,
        adapter: &PvscsiOptions,
    ) -> Result<(), Reason> {
        self.add(place, 1, |options| {
            // SAFETY: the caller upholds the same contract.
            let adapter =
                unsafe { paravirt_pvscsi::open(platform, slot, adapter) }.map_err(Reason::PciDevice)?;
            Controller::open(platform, adapter, options).map(Any::VMware).map_err(Reason::Scsi)
        })
    }

    fn add(
        &mut self,
        place: Place,
        queues: u16,
        open: impl FnOnce(&Options) -> Result<Any<P, B>, Reason>,
    ) -> Result<(), Reason> {
        self.remove(place);
        let mut options = self.options;
        options.queues = queues;
        let table = self.table.as_mut().ok_or(Reason::Scsi(OpenError::Memory))?;
        let free = table.iter_mut().find(|entry| entry.is_none()).ok_or(Reason::TooMany)?;
        let controller = open(&options)?;
        self.waker.iter().for_each(|waker| controller.register(waker));
        *free = Some((place, controller));
        Ok(())
    }

    /// Closes a controller.
    pub fn remove(&mut self, place: Place) {
        let table = self.table.iter_mut().flat_map(|table| table.iter_mut());
        table
            .filter(|entry| entry.as_ref().is_some_and(|(at, _)| *at == place))
            .for_each(|entry| *entry = None);
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut (Place, Any<P, B>)> {
        self.table.iter_mut().flat_map(|table| table.iter_mut()).flatten()
    }

    /// Passes each hot-plug event of the controller at `only`, or of all controllers, to `each`.
    #[inline(never)]
    pub fn poll(&mut self, only: Option<Place>, each: &mut dyn FnMut(Event<P, B>)) {
        for (place, controller) in self.iter_mut().filter(|(at, _)| only.is_none_or(|only| only == *at)) {
            for _ in 0..MAX_EVENTS {
                let Some(event) = controller.poll() else { break };
                let place = *place;
                match event {
                    AnyEvent::Added(disk, unit) => {
                        let address = Address { place, unit: Some(unit) };
                        each(Event::Found(Found { address, device: Device::Block(disk) }));
                    }
                    AnyEvent::Removed(unit) => each(Event::Removed(Address { place, unit: Some(unit) })),
                    AnyEvent::Ignored(unit, reason) => {
                        let address = Address { place, unit: Some(unit) };
                        let unclaimed = Unclaimed { what: What::ScsiUnit, reason: Reason::Unit(reason) };
                        each(Event::Found(Found { address, device: Device::Unclaimed(unclaimed) }));
                    }
                    AnyEvent::Faulted => {}
                }
            }
        }
    }

    pub fn register(&mut self, waker: &Waker) {
        self.waker = Some(waker.clone());
        self.iter_mut().for_each(|(_, controller)| controller.register(waker));
    }

    pub fn arm(&mut self) -> Arm {
        self.iter_mut().fold(Arm::Armed, |all, (_, controller)| all.and(controller.arm()))
    }
}

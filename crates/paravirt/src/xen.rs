//! Xen: the hypervisor, xenstore and the devices in it, requests of the host.

#[cfg(feature = "balloon")]
use crate::AnyBalloon;
#[cfg(feature = "console")]
use crate::AnyConsole;
use crate::any::{boxed, pass};
use crate::{AnyClock, Block, Device, Event, Found, Net, Options, Place, Reason, Unclaimed, What};
use core::task::Waker;
use paravirt_blkfront::{BlkFront, BlkFrontOptions};
use paravirt_device::{Agent, Arm};
#[cfg(feature = "net")]
use paravirt_netfront::{NetFront, NetFrontOptions};
use paravirt_platform::{DmaBuffer, PageArc, PageTable, Platform};
#[cfg(feature = "balloon")]
use paravirt_xen::XenBalloon;
#[cfg(feature = "console")]
use paravirt_xen::XenConsole;
use paravirt_xen::bus::{self, Address, Class, Frontend, State};
use paravirt_xen::{Control, Hypervisor, HypervisorOptions, OpenError, Shutdown, Store, Watch, XenClock};

/// Maximum number of devices.
const MAX_DEVICES: usize = 32;
/// The maximum number of requests in flight on a queue of a disk: grants are few.
const MAX_REQUESTS: u16 = 64;
/// The vendor of virtio devices on PCI.
const VIRTIO_VENDOR: u32 = 0x1af4;
/// Ports of PCI's configuration space.
const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;

/// The Xen host; empty on other hosts.
pub(crate) struct XenHost<P: Platform> {
    /// In a page of its own, as services are small; it has no other reference.
    host: Option<PageArc<P, Host<P>>>,
    queues: u16,
    requests: u16,
    persistent_grants: bool,
    hypervisor: HypervisorOptions,
    unplugs: bool,
}

/// What there is on Xen.
struct Host<P: Platform> {
    platform: P,
    hypervisor: PageArc<P, Hypervisor<P>>,
    bus: Option<Bus<P>>,
}

/// Xenstore, and what it tells of.
struct Bus<P: Platform> {
    store: PageArc<P, Store<P>>,
    /// Of the directory of devices.
    watch: Option<Watch<P>>,
    control: Option<Control<P>>,
    /// The devices that were passed on.
    known: PageTable<P, Option<Frontend<P>>>,
}

impl<P: Platform> XenHost<P> {
    /// The host before it was connected to. Each device gets up to `queues` queues.
    pub fn new(queues: u16, options: &Options) -> Self {
        Self {
            host: None,
            queues,
            requests: options.queue_size.min(MAX_REQUESTS),
            persistent_grants: options.persistent_grants,
            hypervisor: HypervisorOptions::new()
                .with_fifo_events(options.fifo_events)
                .with_wide_grants(options.wide_grants),
            unplugs: options.unplugs_emulated,
        }
    }

    /// Connects to the hypervisor and to xenstore, and removes emulated devices that are the same disks and cards once more.
    ///
    /// # Safety
    ///
    /// As for [`probe`](crate::probe).
    #[inline(never)]
    pub unsafe fn connect(&mut self, platform: &P) {
        let hypervisor = match Hypervisor::open_with(platform, &self.hypervisor) {
            Ok(hypervisor) => hypervisor,
            // A platform without pages for Xen does not use it.
            Err(OpenError::Absent | OpenError::NoFrames) => return,
            Err(error) => return log::warn!("xen: {error}"),
        };
        let bus = open_bus(platform, &hypervisor);
        if let (Some(bus), true) = (&bus, self.unplugs) {
            // SAFETY: the caller upholds the same contract.
            unsafe { unplug(platform, &bus.store) };
        }
        let host = Host { platform: platform.clone(), hypervisor, bus };
        self.host = PageArc::new(platform, host).map_err(|error| log::warn!("xen: {error}")).ok();
    }

    pub fn hypervisor(&self) -> Option<&PageArc<P, Hypervisor<P>>> {
        self.host.as_ref().map(|host| &host.hypervisor)
    }

    fn bus(&self) -> Option<&Bus<P>> {
        self.host.as_ref()?.bus.as_ref()
    }

    fn bus_mut(&mut self) -> Option<&mut Bus<P>> {
        self.host.as_mut()?.get_mut()?.bus.as_mut()
    }

    /// Opens every device, and passes it to `found`.
    #[inline(never)]
    pub fn find<B: DmaBuffer>(&mut self, found: &mut dyn FnMut(Found<P, B>)) {
        #[cfg(feature = "console")]
        if let Some(Ok(console)) = self.hypervisor().map(XenConsole::open) {
            pass(Place::XenConsole, Device::Console(AnyConsole::Xen(console)), found);
        }
        #[cfg(feature = "balloon")]
        if let Some(balloon) = self.bus().and_then(|bus| XenBalloon::open(&bus.store)) {
            pass(Place::XenBalloon, Device::Balloon(AnyBalloon::Xen(balloon)), found);
        }
        self.scan(found);
    }

    /// Opens the devices that are not known yet.
    fn scan<B: DmaBuffer>(&mut self, found: &mut dyn FnMut(Found<P, B>)) {
        let Some(store) = self.bus().map(|bus| bus.store.clone()) else { return };
        let mut floor = None;
        // One after the other, the lowest address first: what is done with a device needs none of a list's stack.
        while let Some(address) = self.next_device(&store, floor) {
            floor = Some(address);
            self.open(&store, address, found);
        }
    }

    /// The device with the lowest address above `floor` that is not known yet.
    #[inline(never)]
    fn next_device(&self, store: &Store<P>, floor: Option<Address>) -> Option<Address> {
        let mut next: Option<Address> = None;
        let listed = bus::devices(store, |address| {
            let is_next = floor.is_none_or(|floor| address > floor) && next.is_none_or(|next| address < next);
            if is_next && !self.is_known(address) {
                next = Some(address);
            }
        });
        if let Err(error) = listed {
            log::warn!("xenstore: {error}: no device is looked for");
        }
        next
    }

    fn is_known(&self, address: Address) -> bool {
        let known = self.bus().into_iter().flat_map(|bus| bus.known.iter().flatten());
        known.into_iter().any(|known| known.address() == address)
    }

    /// Opens a device, and passes it on. One whose nodes are not complete yet is looked at again at the next change.
    #[inline(never)]
    fn open<B: DmaBuffer>(
        &mut self,
        store: &PageArc<P, Store<P>>,
        address: Address,
        found: &mut dyn FnMut(Found<P, B>),
    ) {
        if !self.record(store, address) {
            return;
        }
        let unclaimed = |reason| Device::Unclaimed(Unclaimed { what: What::Xen(address.class), reason });
        let device = match address.class {
            Class::Block => {
                let options = BlkFrontOptions::new()
                    .with_queues(self.queues)
                    .with_requests(self.requests)
                    .with_persistent_grants(self.persistent_grants);
                let opened =
                    boxed(store.hypervisor().platform(), || BlkFront::open(store, address, &options));
                opened.map_or_else(
                    |error| unclaimed(Reason::XenDevice(error)),
                    |disk| Device::Block(Block::Xen(disk)),
                )
            }
            #[cfg(feature = "net")]
            Class::Net => {
                let options = NetFrontOptions::new().with_pairs(self.queues);
                let opened =
                    boxed(store.hypervisor().platform(), || NetFront::open(store, address, &options));
                opened.map_or_else(
                    |error| unclaimed(Reason::XenDevice(error)),
                    |card| Device::Net(Net::Xen(card)),
                )
            }
            _ => unclaimed(Reason::NoDriver),
        };
        pass(Place::Xen(address), device, found);
    }

    /// Records a device, unless it is about to go, or is not complete yet.
    #[inline(never)]
    fn record(&mut self, store: &PageArc<P, Store<P>>, address: Address) -> bool {
        let Ok(frontend) = Frontend::open(store, address) else { return false };
        // One that a former kernel has closed can be opened again; one that the host removes is to go.
        let is_usable = matches!(frontend.backend_state(), Ok(state) if !state.is_ending() || state == State::Closed)
            && frontend.number("online", 1) != Ok(0);
        if frontend.state() == Ok(State::Unknown) || !is_usable {
            return false;
        }
        // What changed until now is known.
        let _ = frontend.has_changed();
        let known = self.bus_mut().into_iter().flat_map(|bus| bus.known.iter_mut());
        let Some(place) = known.into_iter().find(|known| known.is_none()) else {
            log::warn!("{address}: too many devices, ignored");
            return false;
        };
        *place = Some(frontend);
        true
    }

    /// Passes each device that was added or removed to `each`.
    pub fn poll<B: DmaBuffer>(&mut self, each: &mut dyn FnMut(Event<P, B>)) {
        let Some(bus) = self.bus_mut() else { return };
        bus.store.poll();
        for place in bus.known.iter_mut() {
            let Some(frontend) = place else { continue };
            if !frontend.has_changed() || !is_removed(frontend) {
                continue;
            }
            let address = frontend.address();
            each(Event::Removed(Place::Xen(address).into()));
            // A device without a driver has nobody who closes it.
            let _ = frontend.close();
            *place = None;
        }
        if bus.watch.as_ref().is_some_and(Watch::take) {
            self.scan(&mut |found| each(Event::Found(found)));
        }
    }

    /// Passes the host's requests to `agent`.
    pub fn serve(&mut self, agent: &mut dyn Agent) {
        let control = self.bus().and_then(|bus| bus.control.as_ref());
        if control.is_some_and(|control| control.serve(agent)) {
            self.suspend();
        }
    }

    /// Suspends the guest, and connects again when it goes on in another domain.
    #[inline(never)]
    fn suspend(&mut self) {
        let unplugs = self.unplugs;
        let Some(host) = self.host.as_mut().and_then(PageArc::get_mut) else { return };
        let Host { platform, hypervisor, bus: Some(bus) } = host else { return };
        let mut suspended = Ok(false);
        let first = paravirt_platform::ProcessorId(0);
        let ran = platform.processors().run_on(first, &mut || suspended = hypervisor.suspend());
        match suspended {
            Ok(false) if ran.is_ok() => return log::info!("xen: the host has cancelled the suspension"),
            Ok(false) => return log::warn!("xen: the first processor does not run: not suspended"),
            Err(error) => return log::warn!("xen: {error}: not suspended"),
            Ok(true) => {}
        }
        if let Err(error) = bus.store.resume() {
            return log::warn!("xenstore: {error}: no device works any more");
        }
        bus.control.iter().for_each(Control::announce);
        for frontend in bus.known.iter_mut().flatten() {
            // One that is not there any more is removed by the next poll.
            let _ = frontend.find_backend();
        }
        if unplugs {
            // SAFETY: they were unplugged before, and the new ones are used by nobody.
            unsafe { unplug(platform, &bus.store) };
        }
    }

    pub fn register(&mut self, waker: &Waker) {
        self.bus().into_iter().for_each(|bus| bus.store.register(waker));
    }

    pub fn arm(&mut self) -> Arm {
        self.bus().map_or(Arm::Armed, |bus| bus.store.arm())
    }

    pub fn clock(&self) -> Option<AnyClock<P>> {
        XenClock::open(self.hypervisor()?).map(AnyClock::Xen)
    }

    /// Restarts the domain.
    pub fn restart(&self) {
        if let Some(hypervisor) = self.hypervisor() {
            if let Err(error) = hypervisor.shutdown(Shutdown::Restart) {
                log::warn!("xen: {error}");
            }
        }
    }
}

/// Connects to xenstore, and watches what is in it.
fn open_bus<P: Platform>(platform: &P, hypervisor: &PageArc<P, Hypervisor<P>>) -> Option<Bus<P>> {
    let store = Store::open(hypervisor).map_err(|error| log::warn!("xenstore: {error}")).ok()?;
    let watch = Watch::new(&store, format_args!("device"));
    let watch = watch.map_err(|error| log::warn!("xenstore: {error}: no hot plug")).ok();
    let control = Control::open(&store).map_err(|error| log::warn!("xenstore: {error}")).ok();
    let known = PageTable::new(platform, MAX_DEVICES, |_| None);
    let known = known.map_err(|error| log::warn!("xenstore: {error}")).ok()?;
    Some(Bus { store, watch, control, known })
}

/// # Safety
///
/// No other driver uses the machine's devices.
unsafe fn unplug<P: Platform>(platform: &P, store: &Store<P>) {
    let (mut disks, mut cards) = (false, false);
    let listed = bus::devices(store, |address| match address.class {
        Class::Block => disks = true,
        Class::Net => cards = cfg!(feature = "net"),
        _ => {}
    });
    // SAFETY: by the contract of this function; the ports are those of PCI on a PC, which Xen's guests are.
    unsafe {
        if listed.is_ok() && !has_virtio(platform) && paravirt_xen::unplug(platform, disks, cards) {
            log::debug!("xen: emulated devices were removed: disks {disks}, cards {cards}");
        }
    }
}

/// Whether there are virtio devices on the bus whose devices the host would remove.
///
/// # Safety
///
/// The ports are those of PCI, and nobody else uses them now.
unsafe fn has_virtio<P: Platform>(platform: &P) -> bool {
    let ports = platform.port_io();
    (0..256u32).any(|function| {
        // SAFETY: by the contract of this function: the first register of a function is read.
        let id = unsafe {
            ports.out32(CONFIG_ADDRESS, 1 << 31 | function << 8);
            ports.in32(CONFIG_DATA)
        };
        id & 0xffff == VIRTIO_VENDOR
    })
}

/// Whether the host removes the device: its backend closes, and the guest has not asked for that.
fn is_removed<P: Platform>(frontend: &Frontend<P>) -> bool {
    match (frontend.state(), frontend.backend_state()) {
        (Ok(State::Unknown), _) | (_, Ok(State::Unknown)) => true,
        (Ok(own), Ok(backend)) => {
            let is_in_use = matches!(own, State::Connected | State::Initialised | State::Initialising);
            is_in_use && matches!(backend, State::Closing | State::Closed)
        }
        _ => false,
    }
}

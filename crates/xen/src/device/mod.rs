//! The life cycle of a device with rings: opened, reset, resumed and closed with all its queues.
//!
//! ```text
//!   open ─ backend in InitWait ─ rings, event channels published ─ backend Connected ─► in service
//!                    ▲                                                                     │ fault, deadline, backend closes, resume
//!                    └── every queue has revoked its grants ◄── Closing, Closed ◄──────────┘
//! ```
//!
//! A queue is one value that its owner uses without a lock. It compares its gate with the device's on each call, and comes to
//! [`Device::sync`] when they differ.

mod class;
mod error;
mod status;

use crate::bus::{self, Frontend, State};
use crate::hypervisor::Hypervisor;
use crate::store::Store;
pub use class::{DeviceClass, FrontQueue, InFlight, QueueNodes};
use core::fmt;
use core::sync::atomic::Ordering;
use core::task::Waker;
pub use error::DeviceError;
use paravirt_device::Fault;
use paravirt_platform::{PageArc, PageBox, PageTable, Platform, ProcessorId, WakerGroup};
use spin::{Mutex, MutexGuard};
pub use status::Status;
use status::is_open;

/// A queue, and at which gate of the device it was brought up to date.
pub(crate) struct Slot<Q> {
    pub queue: Q,
    pub index: u16,
    gate: u32,
    /// The gate at which it had taken back what was in flight.
    drained: u32,
}

impl<Q> Slot<Q> {
    /// Takes back what the queue has in flight, with the device at `gate`.
    fn drain<P: Platform>(&mut self, gate: u32, in_flight: InFlight)
    where
        Q: FrontQueue<P>,
    {
        self.queue.drain(in_flight);
        self.drained = gate;
    }
}

/// A queue in pages of its own.
pub(crate) type SlotBox<P, Q> = PageBox<P, Slot<Q>>;

struct Place<P: Platform, Q> {
    /// The queue, while nobody uses it.
    slot: Option<SlotBox<P, Q>>,
    /// What is to be published, once the queue has taken back what was in flight.
    nodes: Option<QueueNodes>,
    was_taken: bool,
}

struct Inner<P: Platform, C: DeviceClass<P>> {
    frontend: Frontend<P>,
    class: C,
    places: PageTable<P, Place<P, C::Queue>>,
    /// What becomes of requests in flight, while the device is out of service.
    in_flight: InFlight,
}

/// A device, which its handle and its queues share. When the last of them is dropped, it is closed.
pub struct Device<P: Platform, C: DeviceClass<P>> {
    inner: Mutex<Inner<P, C>>,
    status: PageArc<P, Status>,
    /// The tasks of the queues, and that of the device behind them.
    wakers: WakerGroup<P>,
    queues: u16,
}

impl<P: Platform, C: DeviceClass<P>> Device<P, C> {
    /// Opens the device at `address`: brings it to the beginning, lets `make` make its queues, of which it returns how many there are to
    /// be, and connects. Blocks for the backend.
    ///
    /// # Errors
    ///
    /// [`DeviceError`]; the device is closed then.
    pub fn open(
        store: &PageArc<P, Store<P>>,
        address: bus::Address,
        mut class: C,
        count: impl FnOnce(&C) -> u16,
        mut make: impl FnMut(&C, &Frontend<P>, &PageArc<P, Status>, u16) -> Result<C::Queue, DeviceError>,
    ) -> Result<PageArc<P, Self>, DeviceError> {
        let frontend = begin(store, address, &mut class)?;
        let platform = frontend.hypervisor().platform();
        let queues = count(&class).max(1);
        let status = PageArc::new(platform, Status::new())?;
        let places = PageTable::try_new(platform, usize::from(queues), |index| {
            let slot =
                make_slot(platform, index as u16, &mut || make(&class, &frontend, &status, index as u16))?;
            Ok::<_, DeviceError>(Place { slot: Some(slot), nodes: None, was_taken: false })
        })?;
        let wakers = WakerGroup::new(platform, usize::from(queues).saturating_add(1))?;
        let platform = platform.clone();
        let inner = Mutex::new(Inner { frontend, class, places, in_flight: InFlight::Abort });
        let this = PageArc::new(&platform, Self { inner, status, wakers, queues })?;
        this.first_start()?;
        store.hypervisor().add(&this.status, &this.wakers);
        Ok(this)
    }

    #[inline(never)]
    fn first_start(&self) -> Result<(), DeviceError> {
        let inner = &mut *self.inner.lock();
        let Inner { places, frontend, .. } = inner;
        for place in places.iter_mut() {
            if let Some(slot) = &mut place.slot {
                place.nodes = Some(restart(slot, frontend)?);
            }
        }
        self.connect(inner)?;
        Ok(())
    }

    /// The device's gate.
    #[inline(always)]
    pub fn gate(&self) -> u32 {
        self.status.gate()
    }

    /// Returns the fault that keeps it out of service.
    pub fn fault(&self) -> Option<Fault> {
        self.status.fault()
    }

    /// Returns the fault that keeps the device out of service for good, if that is not the one in `reported`, where it is kept then.
    pub fn new_fault(&self, reported: &mut Option<Fault>) -> Option<Fault> {
        let fault = self.fault().filter(|fault| *fault != Fault::Reset && *reported != Some(*fault))?;
        *reported = Some(fault);
        Some(fault)
    }

    /// Returns the number of queues.
    pub fn queues(&self) -> u16 {
        self.queues
    }

    /// Publishes the rings and waits for the backend: the device is in service then.
    fn connect(&self, inner: &mut Inner<P, C>) -> Result<(), DeviceError> {
        let Inner { frontend, class, places, .. } = inner;
        let queues = class.active(self.queues);
        frontend.publish(|nodes| {
            class.publish(nodes, queues)?;
            for (index, place) in (0..queues).zip(places.iter()) {
                let queue = (queues > 1).then_some(index);
                place.nodes.unwrap_or_default().write(nodes, queue)?;
            }
            Ok(())
        })?;
        frontend.set_state(C::PUBLISHED)?;
        let state =
            frontend.wait(bus::CONNECT_TIMEOUT, |state| state == State::Connected || state.is_ending())?;
        if state != State::Connected {
            return Err(DeviceError::Unsupported);
        }
        class.connected(frontend)?;
        if C::PUBLISHED != State::Connected {
            frontend.set_state(State::Connected)?;
        }
        places.iter_mut().for_each(|place| place.nodes = None);
        let gate = self.status.gate.load(Ordering::Relaxed).wrapping_add(1);
        self.status.gate.store(gate, Ordering::Release);
        for slot in places.iter_mut().filter_map(|place| place.slot.as_mut()) {
            slot.gate = gate;
            slot.queue.resume(gate);
        }
        self.wakers.wake_all();
        Ok(())
    }

    /// Takes the device out of service because of `fault`, unless that was done since `gate`. After [`Fault::Reset`] it is connected again
    /// when every queue has taken back what was in flight; after any other fault it stays out of service. Blocks for the backend.
    pub fn reset(&self, gate: u32, fault: Fault, in_flight: InFlight) {
        let mut inner = self.inner.lock();
        self.begin_again(&mut inner);
        let (open, current) = (self.gate(), self.status.fault.load(Ordering::Relaxed));
        // A reset that waits for a queue ends with a removal.
        let ends_reset = !is_open(open) && current == Fault::Reset.code() && fault != Fault::Reset;
        if !ends_reset && (open != gate || !is_open(gate)) {
            return;
        }
        match fault {
            // Whoever resets it tells why.
            Fault::Reset => log::debug!("{}: connecting anew", inner.frontend.address()),
            _ => log::warn!("{}: out of service: {fault}", inner.frontend.address()),
        }
        self.status.fault.store(fault.code(), Ordering::Release);
        if is_open(open) {
            self.status.gate.store(open.wrapping_add(1), Ordering::Release);
        }
        let inner = &mut *inner;
        inner.in_flight = in_flight;
        if let Err(error) = inner.frontend.close() {
            log::warn!("{}: {error}", inner.frontend.address());
        }
        self.drain_places(inner, fault == Fault::Reset);
        self.reconnect(inner);
        self.wakers.wake_all();
    }

    /// Finds the backend of the domain in which the guest was resumed: what was in flight is sent again to it.
    fn begin_again(&self, inner: &mut Inner<P, C>) {
        if !self.status.was_resumed.swap(false, Ordering::AcqRel) || self.fault() != Some(Fault::Reset) {
            return;
        }
        inner.in_flight = InFlight::SendAgain;
        inner.places.iter_mut().for_each(|place| place.nodes = None);
        match inner.frontend.find_backend() {
            Ok(()) => self.drain_places(inner, true),
            Err(error) => self.give_up(error.into()),
        }
        self.reconnect(inner);
    }

    /// Takes back what the queues have in flight that nobody uses.
    fn drain_places(&self, inner: &mut Inner<P, C>, is_restarted: bool) {
        let gate = self.gate();
        let Inner { places, frontend, in_flight, .. } = inner;
        for place in places.iter_mut() {
            let Some(slot) = &mut place.slot else { continue };
            slot.drain(gate, *in_flight);
            slot.queue.forget();
            if is_restarted {
                place.nodes = self.restart(slot, frontend);
            }
        }
    }

    /// Restarts a queue, for a device that is to connect again; the device stays out of service if that fails.
    fn restart(&self, slot: &mut Slot<C::Queue>, frontend: &Frontend<P>) -> Option<QueueNodes> {
        restart(slot, frontend).map_err(|error| self.give_up(error)).ok()
    }

    fn give_up(&self, error: DeviceError) {
        log::warn!("xen: {error}: the device stays out of service");
        self.status.fault.store(error.fault().code(), Ordering::Release);
    }

    /// Connects again if every queue has taken back what was in flight.
    fn reconnect(&self, inner: &mut Inner<P, C>) {
        let is_waiting = self.fault() == Some(Fault::Reset);
        if !is_waiting || !inner.places.iter().all(|place| place.nodes.is_some()) {
            return;
        }
        let connected = inner
            .frontend
            .restart()
            .map_err(DeviceError::from)
            .and_then(|()| inner.class.negotiate(&inner.frontend))
            .and_then(|()| self.connect(inner));
        if let Err(error) = connected {
            self.give_up(error);
        }
        self.wakers.wake_all();
    }

    /// Brings a queue to the state of the device. Blocks for the backend if the queue is the last one of a reset.
    ///
    /// # Errors
    ///
    /// The fault, while the device is out of service.
    #[cold]
    pub(crate) fn sync(&self, slot: &mut Slot<C::Queue>) -> Result<u32, Fault> {
        // Somebody else may wait for the backend.
        let Some(mut inner) = self.inner.try_lock() else { return Err(Fault::Reset) };
        let inner = &mut *inner;
        self.begin_again(inner);
        let gate = self.gate();
        if !is_open(gate) && slot.drained != gate {
            slot.drain(gate, inner.in_flight);
            if self.fault() == Some(Fault::Reset) {
                let nodes = self.restart(slot, &inner.frontend);
                if let Some(place) = inner.places.get_mut(usize::from(slot.index)) {
                    place.nodes = nodes;
                }
                self.reconnect(inner);
            }
        }
        let gate = self.gate();
        if let Some(fault) = self.fault() {
            if fault != Fault::Reset {
                // What was to be sent again is not: there is no backend for it.
                slot.drain(gate, InFlight::Abort);
            }
            return Err(fault);
        }
        if slot.gate != gate {
            slot.gate = gate;
            slot.queue.resume(gate);
        }
        Ok(gate)
    }

    /// Takes queue `index` out, once.
    pub(crate) fn take(&self, index: u16) -> Option<SlotBox<P, C::Queue>> {
        let inner = &mut *self.inner.lock();
        let place = inner.places.get_mut(usize::from(index)).filter(|place| !place.was_taken)?;
        place.was_taken = true;
        place.slot.take()
    }

    /// Puts a queue back that nobody uses any more.
    pub(crate) fn put_back(&self, mut slot: SlotBox<P, C::Queue>) {
        let inner = &mut *self.inner.lock();
        self.begin_again(inner);
        slot.queue.forget();
        let gate = self.gate();
        let mut nodes = None;
        if !is_open(gate) {
            if slot.drained != gate {
                slot.drain(gate, inner.in_flight);
                slot.queue.forget();
            }
            if self.fault() == Some(Fault::Reset) {
                nodes = self.restart(&mut slot, &inner.frontend);
            }
        }
        if let Some(place) = inner.places.get_mut(usize::from(slot.index)) {
            place.nodes = nodes;
            place.slot = Some(slot);
        }
        self.reconnect(inner);
    }

    /// Passes the frontend and what is particular to the class to `work`, with the lock held.
    pub fn with<R>(&self, work: impl FnOnce(&Frontend<P>, &mut C) -> R) -> R {
        let inner = &mut *self.inner.lock();
        work(&inner.frontend, &mut inner.class)
    }

    /// As [`with`](Self::with), unless somebody else holds the lock, who may wait for the backend.
    pub fn try_with<R>(&self, work: impl FnOnce(&Frontend<P>, &mut C) -> R) -> Option<R> {
        let inner: &mut Inner<P, C> = &mut *self.inner.try_lock()?;
        Some(work(&inner.frontend, &mut inner.class))
    }

    /// Looks whether the backend ends the device, and takes it out of service then. Returns whether something of the backend has changed.
    pub fn poll(&self) -> bool {
        if self.status.was_resumed.load(Ordering::Acquire) {
            if let Some(mut inner) = self.inner.try_lock() {
                self.begin_again(&mut inner);
            }
            return true;
        }
        let gate = self.gate();
        let changed = self.try_with(|frontend, _| frontend.has_changed().then(|| frontend.backend_state()));
        match changed.flatten() {
            Some(Ok(state)) if state.is_ending() && self.fault() != Some(Fault::Removed) => {
                self.reset(gate, Fault::Removed, InFlight::Abort);
                true
            }
            Some(_) => true,
            None => false,
        }
    }

    /// Sets the task of queue `index`, or of the device if that is the number of queues: it is woken when the device goes out of service
    /// or comes back.
    pub fn register(&self, index: u16, waker: &Waker) {
        self.wakers.register(usize::from(index), waker);
    }
}

/// Opens a device, and reads what its backend offers.
#[inline(never)]
fn begin<P: Platform, C: DeviceClass<P>>(
    store: &PageArc<P, Store<P>>,
    address: bus::Address,
    class: &mut C,
) -> Result<Frontend<P>, DeviceError> {
    let frontend = Frontend::open(store, address)?;
    class.check(&frontend)?;
    frontend.restart()?;
    class.negotiate(&frontend)?;
    Ok(frontend)
}

/// Makes a queue, in a frame of its own.
#[inline(never)]
fn make_slot<P: Platform, Q>(
    platform: &P,
    index: u16,
    make: &mut dyn FnMut() -> Result<Q, DeviceError>,
) -> Result<SlotBox<P, Q>, DeviceError> {
    Ok(PageBox::new(platform, Slot { queue: make()?, index, gate: 1, drained: 1 })?)
}

/// Brings the rings of a queue that has taken back what was in flight to the beginning.
fn restart<P: Platform, Q: FrontQueue<P>>(
    slot: &mut Slot<Q>,
    frontend: &Frontend<P>,
) -> Result<QueueNodes, DeviceError> {
    let processors = frontend.hypervisor().platform().processors().count().max(1);
    let processor = u32::from(slot.index).checked_rem(processors).unwrap_or(0);
    slot.queue.restart(frontend, &mut || {
        let port = frontend.port()?;
        port.bind_to(ProcessorId(processor));
        Ok(port)
    })
}

impl<P: Platform, C: DeviceClass<P>> Drop for Device<P, C> {
    fn drop(&mut self) {
        let inner = self.inner.get_mut();
        inner.frontend.hypervisor().remove(&self.status);
        // Queues revoke their grants, or leak what is mapped still, when they are dropped after this.
        if let Err(error) = inner.frontend.close() {
            log::debug!("{}: {error}", inner.frontend.address());
        }
        for slot in inner.places.iter_mut().filter_map(|place| place.slot.as_mut()) {
            slot.queue.drain(InFlight::Abort);
            slot.queue.forget();
        }
    }
}

impl<P: Platform, C: DeviceClass<P>> fmt::Debug for Device<P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("status", &self.status)
            .field("queues", &self.queues)
            .finish_non_exhaustive()
    }
}

impl<P: Platform, C: DeviceClass<P>> Device<P, C> {
    /// Returns the hypervisor.
    pub fn hypervisor(&self) -> PageArc<P, Hypervisor<P>> {
        let inner: MutexGuard<'_, _> = self.inner.lock();
        inner.frontend.hypervisor().clone()
    }
}

impl<Q: fmt::Debug> fmt::Debug for Slot<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("queue", &self.queue).field("index", &self.index).finish_non_exhaustive()
    }
}

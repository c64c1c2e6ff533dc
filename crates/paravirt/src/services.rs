//! What the host offers to the machine as a whole.

use crate::controllers::Controllers;
use crate::integration::Integration;
use crate::{
    Address, AnyBalloon, AnyClock, AnyInput, AnySockets, Device, Found, HostTimer, Net, Place, Reason,
    Undriven, What,
    hypervisor::{Hypervisor as Kind, search},
};
use core::task::Waker;
use core::time::Duration;
use paravirt_device::{Agent, Arm, Fault};
use paravirt_hv_balloon::HvBalloon;
use paravirt_hv_input::HvInput;
use paravirt_hv_socket::HvSockets;
use paravirt_hyperv::{Hypervisor, OpenError, ReferenceClock};
use paravirt_kvm::KvmClock;
use paravirt_netvsc::{NetOptions, NetVsc};
use paravirt_platform::{DmaBuffer, PageArc, Platform, ProcessorId};
use paravirt_virtio::OpenOptions;
use paravirt_vmbus::{BusEvent, ChannelOptions, ConnectError, Offer, Version, Vmbus};

/// How long a host may take to read what was answered last.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the host offers to the machine as a whole: devices that come and go, a clock, crash reports, reset.
///
/// Nothing here names a vendor: where the host has no such thing, there is nothing to be had. At the end a kernel calls
/// [`leave`](Self::leave), so that the next one finds the host as it found it.
pub struct Services<P: Platform, B: DmaBuffer> {
    platform: P,
    hypervisor: Option<PageArc<P, Hypervisor<P>>>,
    vmbus: Option<Vmbus<P>>,
    controllers: Controllers<P, B>,
    integration: Integration<P>,
    queues: u16,
}

/// What has happened on a bus.
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "handed over once")]
pub enum Event<P: Platform, B: DmaBuffer> {
    /// A device has come.
    Found(Found<P, B>),
    /// A device has gone, or a controller with all of its units ([`Address::covers`]): whoever has it finds it removed, and
    /// drops it.
    Removed(Address),
}

impl<P: Platform, B: DmaBuffer> Services<P, B> {
    pub(crate) fn open(
        platform: &P,
        open: &OpenOptions,
        controllers: Controllers<P, B>,
        newest: Version,
    ) -> Self {
        let queues = open.queues;
        let (platform, integration) = (platform.clone(), Integration::new(platform));
        let mut this = Self { platform, hypervisor: None, vmbus: None, controllers, integration, queues };
        match Hypervisor::open(&this.platform) {
            Ok(hypervisor) => this.hypervisor = Some(hypervisor),
            // A platform that gives no page does not want any of it.
            Err(OpenError::Absent | OpenError::Unsupported | OpenError::NoPage) => return this,
            Err(error) => {
                log::warn!("hyper-v: {error}");
                return this;
            }
        }
        match this.hypervisor.as_ref().map(|hypervisor| Vmbus::connect(hypervisor, newest)) {
            Some(Ok(vmbus)) => this.vmbus = Some(vmbus),
            Some(Err(ConnectError::Absent | ConnectError::Hypervisor(OpenError::Unsupported))) | None => {}
            Some(Err(error)) => log::warn!("vmbus: {error}"),
        }
        this
    }

    pub(crate) fn offers(&mut self, found: &mut dyn FnMut(Found<P, B>)) {
        let Some(vmbus) = self.vmbus.clone() else { return };
        vmbus.offers(&mut |offer| self.offered(&vmbus, offer, found));
        // They are the bus's own: no offer tells of them.
        match HvSockets::new(&self.platform, &vmbus) {
            Ok(Some(sockets)) => {
                let device = Device::Sockets(AnySockets::HyperV(sockets));
                found(Found { address: Place::VmbusSockets.into(), device });
            }
            Ok(None) => {}
            Err(_) => log::warn!("vmbus: there is no memory for sockets"),
        }
    }

    /// Takes the device whose primary channel is offered into service.
    fn offered(&mut self, vmbus: &Vmbus<P>, offer: &Offer, found: &mut dyn FnMut(Found<P, B>)) {
        if offer.subchannel != 0 || self.integration.add(offer) {
            return;
        }
        let place = Place::from(offer);
        let undriven = |reason| Device::Undriven(Undriven { what: What::Vmbus(offer.interface), reason });
        // Channels are spread over the processors.
        let processor = offer.channel.checked_rem(self.platform.processors().count()).unwrap_or(0);
        let options = ChannelOptions { processor: ProcessorId(processor), ..ChannelOptions::default() };
        let device = match offer.interface {
            paravirt_hv_balloon::INTERFACE => match HvBalloon::open(&self.platform, vmbus, offer, &options) {
                Ok(balloon) => Device::Balloon(AnyBalloon::HyperV(balloon)),
                Err(error) => undriven(Reason::HvBalloon(error)),
            },
            interface if paravirt_hv_input::is_input(&interface) => {
                match HvInput::open(&self.platform, vmbus, offer, &options) {
                    Ok(input) => Device::Input(AnyInput::HyperV(input)),
                    Err(error) => undriven(Reason::HvInput(error)),
                }
            }
            paravirt_netvsc::INTERFACE => {
                let options = NetOptions {
                    queues: self.queues,
                    processors: self.platform.processors().count(),
                    ..NetOptions::default()
                };
                match NetVsc::open(&self.platform, vmbus, offer, &options) {
                    Ok(card) => Device::Net(Net::HyperV(card)),
                    Err(error) => undriven(Reason::NetVsc(error)),
                }
            }
            paravirt_storvsc::INTERFACE
            | paravirt_storvsc::IDE_INTERFACE
            | paravirt_storvsc::FIBRE_CHANNEL_INTERFACE => {
                match self.controllers.open_offer(&self.platform, vmbus, offer, self.queues) {
                    Ok(()) => {
                        self.controllers.poll(Some(place), &mut |event| {
                            if let Event::Found(disk) = event {
                                found(disk);
                            }
                        });
                        return;
                    }
                    Err(reason) => undriven(reason),
                }
            }
            _ => undriven(Reason::NoDriver),
        };
        found(Found { address: place.into(), device });
    }

    /// The bus itself, for a driver of one's own: of a device that [`Device::Undriven`] names.
    pub fn vmbus(&self) -> Option<&Vmbus<P>> {
        self.vmbus.as_ref()
    }

    /// The version of VMBus that is spoken, where there is one.
    pub fn vmbus_version(&self) -> Option<Version> {
        self.vmbus.as_ref().map(Vmbus::version)
    }

    /// What has come and gone since the last call, each handed to `each`. A device that has come is taken into service here,
    /// which takes the time of some messages to the host and back.
    pub fn poll(&mut self, each: &mut dyn FnMut(Event<P, B>)) {
        if let Some(vmbus) = self.vmbus.clone() {
            while let Some(event) = vmbus.poll() {
                match event {
                    BusEvent::Offered(offer) => {
                        self.offered(&vmbus, &offer, &mut |found| each(Event::Found(found)));
                    }
                    BusEvent::Removed(offer) if offer.subchannel == 0 => {
                        let place = Place::from(&offer);
                        self.integration.remove(place);
                        if !Integration::<P>::is_service(&offer) {
                            self.controllers.remove(place);
                            each(Event::Removed(place.into()));
                        }
                    }
                    _ => {}
                }
            }
        }
        self.controllers.poll(None, each);
    }

    /// Answers what the host has asked of the guest as a whole: to end, how it is, what it is called, which time it is. A kernel
    /// that calls this once goes on calling it when it is woken, as the host expects answers from then on.
    pub fn serve(&mut self, agent: &mut dyn Agent) {
        let Some(vmbus) = &self.vmbus else { return };
        let reference = self.hypervisor.as_ref().and_then(|hypervisor| hypervisor.reference_count());
        self.integration.serve(&self.platform, vmbus, reference, agent);
    }

    /// Registers the task to wake when a device comes or goes, or when the host asks something of an agent that
    /// [serves](Self::serve).
    pub fn register(&mut self, waker: &Waker) {
        self.integration.register(waker);
        self.vmbus.iter().for_each(|vmbus| vmbus.register(waker));
        self.controllers.register(waker);
    }

    /// Whether the next event wakes, or [`poll`](Self::poll) or [`serve`](Self::serve) has something to do.
    #[must_use]
    pub fn arm(&mut self) -> Arm {
        let bus = self.vmbus.as_ref().map_or(Arm::Armed, Vmbus::arm);
        match (bus, self.integration.arm(), self.controllers.arm()) {
            (Arm::Armed, Arm::Armed, Arm::Armed) => Arm::Armed,
            _ => Arm::Pending,
        }
    }

    /// The hypervisor's clock; `None` where it has none that all processors share. One at a time: a second takes over what the
    /// first reads.
    pub fn clock(&self) -> Option<AnyClock<P>> {
        if let Some(clock) =
            self.hypervisor.as_ref().and_then(|hypervisor| ReferenceClock::open(hypervisor).ok())
        {
            return Some(AnyClock::HyperV(clock));
        }
        let base = search(|leaf| self.platform.registers().cpuid(leaf))
            .find(|leaves| leaves.hypervisor == Kind::Kvm)?
            .base;
        KvmClock::open(&self.platform, base).ok().map(AnyClock::Kvm)
    }

    /// A timer of the hypervisor for `processor`, one at a time; `None` where there is none that raises an interrupt by itself.
    pub fn timer(&self, processor: ProcessorId) -> Option<HostTimer<P>> {
        HostTimer::open(self.hypervisor.as_ref()?, processor).ok()
    }

    /// What tells the host of a crash; to be kept for the panic handler.
    pub fn crash_reporter(&self) -> Option<CrashReporter<P>> {
        self.hypervisor.clone().map(CrashReporter)
    }

    /// Resets the machine by the hypervisor; returns where it does not offer that.
    pub fn reset(&self) {
        self.hypervisor.iter().for_each(|hypervisor| hypervisor.reset());
    }

    /// Ends the connections to the host's buses, once the host has read what was answered last, for which it has a second. Devices
    /// on them are out of service then, and the host lets go of all memory that they shared with it. What is the hypervisor's own
    /// (its call page, and its clock's) goes when this, the clock and the crash reporter have been dropped.
    ///
    /// # Errors
    ///
    /// [`Fault::Timeout`] where the host does not confirm.
    pub fn leave(&mut self) -> Result<(), Fault> {
        // A host that asked for the end may not have read the answer yet.
        let end = self.platform.now().saturating_add(PATIENCE);
        while !self.integration.is_flushed() && self.platform.now() < end {
            self.platform.relax();
        }
        self.vmbus.as_ref().map_or(Ok(()), Vmbus::unload)
    }
}

/// What tells the host of a crash.
pub struct CrashReporter<P: Platform>(PageArc<P, Hypervisor<P>>);

impl<P: Platform> CrashReporter<P> {
    /// Tells the host that the guest has crashed: five values as the guest likes, and a text where the host takes one, of
    /// which 4096 bytes at most. With a text, the last two values give way to its address and length. Whether the host was
    /// told.
    ///
    /// Callable from a panic: it takes no lock and waits for nothing. Some hosts stop the guest here.
    pub fn report(&self, values: [u64; 5], text: Option<&str>) -> bool {
        self.0.report_crash(values, text)
    }
}

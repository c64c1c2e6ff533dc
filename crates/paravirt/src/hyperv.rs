//! Hyper-V: the hypervisor, VMBus and the devices on it, the integration services.

use crate::any::{boxed, pass, separately};
use crate::controllers::Controllers;
use crate::integration::Integration;
use crate::{
    AnyBalloon, AnyClock, AnyInput, AnySockets, Device, Event, Found, Net, Place, Reason, Unclaimed, What,
};
use core::task::Waker;
use core::time::Duration;
use paravirt_device::{Agent, Arm, Fault};
use paravirt_hv_balloon::HvBalloon;
use paravirt_hv_input::HvInput;
use paravirt_hv_socket::HvSockets;
use paravirt_hyperv::{Hypervisor, OpenError, ReferenceClock};
use paravirt_netvsc::{NetOptions, NetVsc};
use paravirt_platform::{DmaBuffer, PageArc, Platform, ProcessorId};
use paravirt_vmbus::{BusEvent, ChannelOptions, ConnectError, Offer, Timeouts, Version, Vmbus};

/// The maximum number of events of the bus that one call handles; the rest stays pending.
const MAX_EVENTS: usize = 256;
/// How long to wait for the host to read the last responses.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The Hyper-V host; empty on other hosts.
pub(crate) struct HyperVHost<P: Platform> {
    platform: P,
    pub hypervisor: Option<PageArc<P, Hypervisor<P>>>,
    pub vmbus: Option<Vmbus<P>>,
    integration: Integration<P>,
    queues: u16,
}

impl<P: Platform> HyperVHost<P> {
    /// The host before it was connected to. Each device gets up to `queues` queues.
    pub fn new(platform: &P, queues: u16) -> Self {
        let integration = Integration::new(platform);
        Self { platform: platform.clone(), hypervisor: None, vmbus: None, integration, queues }
    }

    /// Connects to the hypervisor and VMBus, as far as the host offers them.
    #[inline(never)]
    pub fn connect(&mut self, newest: Version, timeouts: Timeouts) {
        match Hypervisor::open(&self.platform) {
            Ok(hypervisor) => self.hypervisor = Some(hypervisor),
            // A platform without a hypercall page does not use Hyper-V.
            Err(OpenError::Absent | OpenError::Unsupported | OpenError::NoPage) => return,
            Err(error) => return log::warn!("hyper-v: {error}"),
        }
        match self.hypervisor.as_ref().map(|hypervisor| Vmbus::connect_with(hypervisor, newest, timeouts)) {
            Some(Ok(vmbus)) => self.vmbus = Some(vmbus),
            Some(Err(ConnectError::Absent | ConnectError::Hypervisor(OpenError::Unsupported))) | None => {}
            Some(Err(error)) => log::warn!("vmbus: {error}"),
        }
    }

    /// Opens every offered device, and passes it to `found`.
    pub fn offers<B: DmaBuffer>(
        &mut self,
        controllers: &mut Controllers<P, B>,
        found: &mut dyn FnMut(Found<P, B>),
    ) {
        let Some(vmbus) = self.vmbus.clone() else { return };
        vmbus.offers(&mut |offer| self.offered(&vmbus, offer, controllers, found));
        // Sockets belong to the bus: there is no offer for them.
        #[cfg(feature = "sockets")]
        match HvSockets::new(&self.platform, &vmbus) {
            Ok(Some(sockets)) => {
                let device = Device::Sockets(AnySockets::HyperV(sockets));
                found(Found { address: Place::VmbusSockets.into(), device });
            }
            Ok(None) => {}
            Err(_) => log::warn!("vmbus: out of memory, sockets are unavailable"),
        }
    }

    /// Opens the device of an offered primary channel.
    fn offered<B: DmaBuffer>(
        &mut self,
        vmbus: &Vmbus<P>,
        offer: &Offer,
        controllers: &mut Controllers<P, B>,
        found: &mut dyn FnMut(Found<P, B>),
    ) {
        if offer.subchannel != 0 || self.integration.add(offer) {
            return;
        }
        let place = Place::from(offer);
        let unclaimed = |reason| Device::Unclaimed(Unclaimed { what: What::Vmbus(offer.interface), reason });
        // Channels are distributed over the processors.
        let processors = self.platform.processors().count().max(1);
        let processor = offer.channel.checked_rem(processors).unwrap_or(0);
        let options = ChannelOptions::default().with_processor(ProcessorId(processor));
        let device = match offer.interface {
            #[cfg(feature = "balloon")]
            paravirt_hv_balloon::INTERFACE => {
                match boxed(&self.platform, || HvBalloon::open(&self.platform, vmbus, offer, &options)) {
                    Ok(balloon) => Device::Balloon(AnyBalloon::HyperV(balloon)),
                    Err(error) => unclaimed(Reason::HvBalloon(error)),
                }
            }
            #[cfg(feature = "input")]
            interface if paravirt_hv_input::is_input(&interface) => {
                match boxed(&self.platform, || HvInput::open(&self.platform, vmbus, offer, &options)) {
                    Ok(input) => Device::Input(AnyInput::HyperV(input)),
                    Err(error) => unclaimed(Reason::HvInput(error)),
                }
            }
            #[cfg(feature = "net")]
            paravirt_netvsc::INTERFACE => {
                let options = NetOptions::default().with_queues(self.queues, processors);
                match separately(|| NetVsc::open(&self.platform, vmbus, offer, &options)) {
                    Ok(card) => Device::Net(Net::HyperV(card)),
                    Err(error) => unclaimed(Reason::NetVsc(error)),
                }
            }
            paravirt_storvsc::INTERFACE
            | paravirt_storvsc::IDE_INTERFACE
            | paravirt_storvsc::FIBRE_CHANNEL_INTERFACE => {
                match controllers.open_offer(&self.platform, vmbus, offer, self.queues) {
                    Ok(()) => {
                        controllers.poll(Some(place), &mut |event| {
                            if let Event::Found(disk) = event {
                                found(disk);
                            }
                        });
                        return;
                    }
                    Err(reason) => unclaimed(reason),
                }
            }
            paravirt_vmbus::PCI_INTERFACE => {
                log::warn!("vmbus: {offer}: {}", Reason::PciPassThrough);
                unclaimed(Reason::PciPassThrough)
            }
            _ => unclaimed(Reason::NoDriver),
        };
        pass(place, device, found);
    }

    /// Opens the device at `place` again; returns whether the host offers it.
    pub fn open_again<B: DmaBuffer>(
        &mut self,
        place: Place,
        controllers: &mut Controllers<P, B>,
        found: &mut dyn FnMut(Found<P, B>),
    ) -> bool {
        let (Place::Vmbus { instance, .. }, Some(vmbus)) = (place, self.vmbus.clone()) else { return false };
        let Some(offer) = vmbus.find(&instance, 0) else { return false };
        controllers.remove(place);
        self.offered(&vmbus, &offer, controllers, found);
        true
    }

    /// Passes each hot-plug event of the bus to the caller's closure. A host that adds devices without end is heard
    /// [`MAX_EVENTS`] times a call.
    pub fn poll<B: DmaBuffer>(
        &mut self,
        controllers: &mut Controllers<P, B>,
        each: &mut dyn FnMut(Event<P, B>),
    ) {
        let Some(vmbus) = self.vmbus.clone() else { return };
        for _ in 0..MAX_EVENTS {
            let Some(event) = vmbus.poll() else { break };
            match event {
                BusEvent::Offered(offer) => {
                    self.offered(&vmbus, &offer, controllers, &mut |found| each(Event::Found(found)));
                }
                BusEvent::Removed(offer) if offer.subchannel == 0 => {
                    let place = Place::from(&offer);
                    self.integration.remove(place);
                    if !Integration::<P>::is_service(&offer) {
                        controllers.remove(place);
                        each(Event::Removed(place.into()));
                    }
                }
                _ => {}
            }
        }
    }

    /// Answers the integration services.
    pub fn serve(&mut self, agent: &mut dyn Agent) {
        let Some(vmbus) = &self.vmbus else { return };
        let reference = self.hypervisor.as_ref().and_then(|hypervisor| hypervisor.reference_count());
        self.integration.serve(&self.platform, vmbus, reference, agent);
    }

    pub fn register(&mut self, waker: &Waker) {
        self.integration.register(waker);
        self.vmbus.iter().for_each(|vmbus| vmbus.register(waker));
    }

    pub fn arm(&mut self) -> Arm {
        let bus = self.vmbus.as_ref().map_or(Arm::Armed, Vmbus::arm);
        bus.and(self.integration.arm())
    }

    pub fn clock(&self) -> Option<AnyClock<P>> {
        ReferenceClock::open(self.hypervisor.as_ref()?).ok().map(AnyClock::HyperV)
    }

    /// Unloads the connection, after the host has read the last responses.
    pub fn unload(&mut self) -> Result<(), Fault> {
        // A host that requested a shutdown may not have read the response yet.
        let end = self.platform.now().saturating_add(FLUSH_TIMEOUT);
        while !self.integration.is_flushed() && self.platform.now() < end {
            self.platform.relax();
        }
        self.vmbus.as_ref().map_or(Ok(()), Vmbus::unload)
    }
}

//! The integration services of the host, each on a separate channel.

use crate::Place;
use core::task::Waker;
use paravirt_device::{Agent, Arm};
use paravirt_hv_ic::{Connection, Service, service};
use paravirt_platform::{PageTable, Platform};
use paravirt_vmbus::{Offer, Vmbus};

/// Maximum number of services: six are known.
const MAX_SERVICES: usize = 8;

#[allow(clippy::large_enum_variant, reason = "there are few, and they are not moved")]
enum Entry<P: Platform> {
    /// Offered; its channel is opened by the first `serve`, as a host expects responses from then on.
    Waiting(Offer, Service),
    Open(Place, Connection<P>),
}

impl<P: Platform> Entry<P> {
    fn place(&self) -> Place {
        match self {
            Self::Waiting(offer, _) => Place::from(offer),
            Self::Open(place, _) => *place,
        }
    }
}

/// The table of services.
pub(crate) struct Integration<P: Platform> {
    /// `None` if there was no memory for the table.
    table: Option<PageTable<P, Option<Entry<P>>>>,
    /// The waker to register with each service that is opened.
    waker: Option<Waker>,
    /// Whether `serve` was called.
    is_serving: bool,
}

impl<P: Platform> Integration<P> {
    pub fn new(platform: &P) -> Self {
        Self { table: PageTable::new(platform, MAX_SERVICES, |_| None).ok(), waker: None, is_serving: false }
    }

    fn entries(&mut self) -> impl Iterator<Item = &mut Option<Entry<P>>> {
        self.table.iter_mut().flat_map(|table| table.iter_mut())
    }

    /// Adds an offer to the table; returns whether it is for a service.
    pub fn add(&mut self, offer: &Offer) -> bool {
        let Some(service) = service(&offer.interface) else { return false };
        self.remove(Place::from(offer));
        match self.entries().find(|entry| entry.is_none()) {
            Some(free) => *free = Some(Entry::Waiting(*offer, service)),
            None => log::warn!("{offer}: too many integration services, ignored"),
        }
        true
    }

    /// Returns whether an offer is for a service.
    pub fn is_service(offer: &Offer) -> bool {
        service(&offer.interface).is_some()
    }

    /// Removes a service.
    pub fn remove(&mut self, place: Place) {
        let is_there =
            |entry: &&mut Option<Entry<P>>| entry.as_ref().is_some_and(|entry| entry.place() == place);
        self.entries().filter(is_there).for_each(|entry| *entry = None);
    }

    /// Opens the services that are not open, and responds to the requests of the host.
    pub fn serve(&mut self, platform: &P, vmbus: &Vmbus<P>, reference: Option<u64>, agent: &mut dyn Agent) {
        self.is_serving = true;
        let waker = self.waker.clone();
        for slot in self.entries() {
            if let Some(Entry::Waiting(offer, service)) = slot {
                *slot = match Connection::open(platform, vmbus, offer, *service) {
                    Ok(connection) => {
                        waker.iter().for_each(|waker| connection.register(waker));
                        Some(Entry::Open(Place::from(&*offer), connection))
                    }
                    Err(error) => {
                        log::warn!("{offer}: {error}");
                        None
                    }
                };
            }
            if let Some(Entry::Open(_, connection)) = slot {
                if let Err(fault) = connection.serve(reference, agent) {
                    log::debug!("{:?}: {fault}", connection.service());
                    *slot = None;
                }
            }
        }
    }

    /// Returns whether the host has read all responses.
    pub fn is_flushed(&mut self) -> bool {
        self.entries().flatten().all(|entry| match entry {
            Entry::Waiting(..) => true,
            Entry::Open(_, connection) => connection.is_flushed(),
        })
    }

    pub fn register(&mut self, waker: &Waker) {
        self.waker = Some(waker.clone());
        for entry in self.entries().flatten() {
            if let Entry::Open(_, connection) = entry {
                connection.register(waker);
            }
        }
    }

    pub fn arm(&mut self) -> Arm {
        let is_serving = self.is_serving;
        let mut all = Arm::Armed;
        for entry in self.entries().flatten() {
            all = all.and(match entry {
                // The next `serve` opens it.
                Entry::Waiting(..) if is_serving => Arm::Pending,
                Entry::Waiting(..) => Arm::Armed,
                Entry::Open(_, connection) => connection.arm(),
            });
        }
        all
    }
}

//! The controllers of disks, kept for the disks that come and go on them.

use crate::{Host, Place, Reason};
use paravirt_platform::{DmaBuffer, PageTable};
use paravirt_scsi::Options;
use paravirt_storvsc::{StorAdapter, StorController, StorOptions};
use paravirt_vmbus::{Offer, Vmbus};

/// Controllers that are kept, at most: Hyper-V has four, and four IDE disks.
const MOST: usize = 16;

type Entry<P, B> = Option<(Place, StorController<P, B>)>;

/// The controllers.
pub(crate) struct Controllers<P: Host, B: DmaBuffer> {
    /// `None` where there was no memory for it.
    table: Option<PageTable<P, Entry<P, B>>>,
}

impl<P: Host, B: DmaBuffer> Controllers<P, B> {
    pub fn new(platform: &P) -> Self {
        Self { table: PageTable::new(platform, MOST, |_| None).ok() }
    }

    /// Takes the controller that is offered into service, with up to `queues` queues for each disk.
    pub fn open(
        &mut self,
        platform: &P,
        vmbus: &Vmbus<P>,
        offer: &Offer,
        queues: u16,
    ) -> Result<&mut StorController<P, B>, Reason> {
        let place = Place::from(offer);
        self.remove(place);
        let table = self.table.as_mut().ok_or(Reason::Scsi(paravirt_scsi::OpenError::Memory))?;
        let free = table.iter_mut().find(|entry| entry.is_none()).ok_or(Reason::TooMany)?;
        let stor = StorOptions { processors: platform.count(), ..StorOptions::default() };
        let adapter = StorAdapter::new(platform, vmbus, offer, &stor);
        let options = Options { queues, ..Options::default() };
        let controller = StorController::open(platform, adapter, &options).map_err(Reason::Scsi)?;
        Ok(&mut free.insert((place, controller)).1)
    }

    /// Lets a controller go.
    pub fn remove(&mut self, place: Place) {
        let table = self.table.iter_mut().flat_map(|table| table.iter_mut());
        table
            .filter(|entry| entry.as_ref().is_some_and(|(at, _)| *at == place))
            .for_each(|entry| *entry = None);
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Place, &mut StorController<P, B>)> {
        let table = self.table.iter_mut().flat_map(|table| table.iter_mut());
        table.flatten().map(|(place, controller)| (*place, controller))
    }
}

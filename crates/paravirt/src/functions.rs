//! The PCI functions that were found, with what they use, so that removed ones are cut off from their drivers.

use paravirt_pci::{
    Address, Bars, Command, ConfigAccess, PciFunction, PciSlot, Presence, PresenceTable, buses_behind,
};
use paravirt_platform::{AllocError, PageTable, Platform};

/// Maximum number of functions that can be removed.
const MAX_FUNCTIONS: usize = 256;

/// A function that was found.
pub(crate) struct Function<P: Platform> {
    pub address: Address,
    pub bars: Bars,
    /// The buses behind it, first and last, if it is a bridge.
    pub behind: Option<(u8, u8)>,
    presence: Presence<P>,
}

/// The functions that were found and have not been removed, and those whose drivers have not let go of them.
pub(crate) struct Functions<P: Platform> {
    entries: PageTable<P, Option<Function<P>>>,
    presence: PresenceTable<P>,
    /// Whether a function was not recorded. What is not known to be free is not removed then.
    pub is_partial: bool,
}

impl<P: Platform> Functions<P> {
    pub fn new(platform: &P) -> Result<Self, AllocError> {
        let entries = PageTable::new(platform, MAX_FUNCTIONS, |_| None)?;
        Ok(Self { entries, presence: PresenceTable::new(platform)?, is_partial: false })
    }

    /// Records a function, whose driver is then cut off when it is removed. Returns false if there is no room.
    pub fn add(&mut self, slot: PciSlot<P>) -> (PciSlot<P>, bool) {
        let free = self.entries.iter_mut().find(|entry| entry.is_none());
        let (Some(free), Some(presence)) = (free, self.presence.insert()) else { return (slot, false) };
        let (address, bars) = (slot.address(), *slot.bars());
        let behind = buses_behind(slot.function());
        *free = Some(Function { address, bars, behind, presence: presence.clone() });
        (slot.with_presence(presence), true)
    }

    /// Iterates over the functions that have not been removed.
    pub fn iter(&self) -> impl Iterator<Item = &Function<P>> {
        self.entries.iter().flatten().filter(|function| !function.presence.is_gone())
    }

    /// Returns whether a function of the device at `at` has not been removed.
    pub fn has_device(&self, at: Address) -> bool {
        self.iter().any(|function| Address { function: 0, ..function.address } == at)
    }

    /// Returns the function to remove next for the removal of the device at `at`, with the buses behind it: the functions behind its
    /// bridges, from the highest bus down, then its own.
    pub fn next_to_remove(&self, at: Address) -> Option<(Address, Option<(u8, u8)>)> {
        let is_its = |function: &&Function<P>| Address { function: 0, ..function.address } == at;
        let is_behind = |bus: u8| {
            let mut buses = self.iter().filter(is_its).filter_map(|function| function.behind);
            buses.any(|(first, last)| (first..=last).contains(&bus))
        };
        let concerned = self.iter().filter(|function| {
            let Address { segment, bus, .. } = function.address;
            is_its(function) || segment == at.segment && bus != at.bus && is_behind(bus)
        });
        let next =
            concerned.min_by_key(|function| (core::cmp::Reverse(function.address.bus), function.address))?;
        Some((next.address, next.behind))
    }

    /// Cuts the driver of a function off, so that its memory can be freed, and what is added at its address is not its.
    pub fn cut_off(&mut self, access: &ConfigAccess<P>, at: Address) {
        let function = PciFunction::new(access, at);
        if function.is_present() {
            // SAFETY: the driver has been told to let go of the function, and is cut off from it; it stops accessing memory here.
            unsafe { function.set_command(function.command().difference(Command::BUS_MASTER)) };
        }
        let removed = self.entries.iter().flatten().filter(|function| function.address == at);
        // SAFETY: the function is no bus master any more, or not there.
        removed.for_each(|function| unsafe { function.presence.set_gone() });
    }

    /// Forgets the removed functions whose drivers have let go of them, and passes each to `released`: what it used is free. Until then
    /// its addresses are not given to another one, to which a driver that still has them would write.
    pub fn release(&mut self, mut released: impl FnMut(&Function<P>)) {
        for entry in self.entries.iter_mut() {
            let is_free = |function: &mut Function<P>| {
                let is_free = function.presence.is_gone() && !function.presence.is_shared();
                is_free.then(|| released(function)).is_some()
            };
            let _ = entry.take_if(is_free);
        }
    }
}

//! The PCI functions that were found, with what they use, so that removed ones are cut off from their drivers.

use paravirt_pci::{
    Address, Bars, Command, ConfigAccess, PciFunction, PciSlot, Presence, PresenceTable, Windows, forwarded,
};
use paravirt_platform::{AllocError, PageTable, Platform};

/// Maximum number of functions that can be removed.
const MAX_FUNCTIONS: usize = 256;

/// A function that was found.
pub(crate) struct Function<P: Platform> {
    pub address: Address,
    bars: Bars,
    /// The addresses that it forwards, if it is a bridge.
    forwarded: Windows,
    /// The buses behind it, first and last, if it is a bridge.
    pub behind: Option<(u8, u8)>,
    presence: Presence<P>,
}

impl<P: Platform> Function<P> {
    /// Iterates over the addresses that it uses on its bus: address and length.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.bars.ranges().chain(self.forwarded.ranges())
    }

    fn uses(&self, (start, len): (u64, u64)) -> bool {
        self.ranges().any(|(at, size)| at < start.saturating_add(len) && start < at.saturating_add(size))
    }

    fn is_on(&self, segment: u16, bus: u8) -> bool {
        (self.address.segment, self.address.bus) == (segment, bus)
    }
}

/// The functions that were found and have not been removed, and those whose drivers have not let go of them.
pub(crate) struct Functions<P: Platform> {
    entries: PageTable<P, Option<Function<P>>>,
    presence: PresenceTable<P>,
    /// Whether a function was not recorded: it may be behind any bridge. Nothing is given back to the host then.
    pub is_partial: bool,
}

impl<P: Platform> Functions<P> {
    pub fn new(platform: &P) -> Result<Self, AllocError> {
        let entries = PageTable::new(platform, MAX_FUNCTIONS, |_| None)?;
        Ok(Self { entries, presence: PresenceTable::new(platform)?, is_partial: false })
    }

    /// Records a function, whose driver is then cut off when it is removed; `declared` are the windows of its host bridge. Returns false if
    /// there is no room.
    pub fn add(&mut self, slot: PciSlot<P>, declared: &Windows) -> (PciSlot<P>, bool) {
        let free = self.entries.iter_mut().find(|entry| entry.is_none());
        let (Some(free), Some(presence)) = (free, self.presence.insert()) else { return (slot, false) };
        let (address, bars, behind) = (slot.address(), *slot.bars(), slot.buses_behind());
        let forwarded = behind.map(|_| forwarded(slot.function(), declared)).unwrap_or_default();
        *free = Some(Function { address, bars, forwarded, behind, presence: presence.clone() });
        (slot.with_presence(presence), true)
    }

    /// Returns whether there is room for all functions of a device.
    pub fn has_room(&self) -> bool {
        self.entries.iter().filter(|entry| entry.is_none()).count() >= 8
    }

    /// Iterates over the functions on a bus.
    pub fn on(&self, segment: u16, bus: u8) -> impl Iterator<Item = &Function<P>> {
        self.iter().filter(move |function| function.is_on(segment, bus))
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
            is_its(function) || segment == at.segment && is_behind(bus)
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

    /// Forgets the removed functions whose drivers have let go of them, and passes what each used to `released`, with its address. Until
    /// then its addresses are not given to another one, to which a driver that still has them would write. A range that another function
    /// on the bus has too, as the host wants it, is released by the last one.
    pub fn release(&mut self, mut released: impl FnMut(Address, (u64, u64))) {
        for index in 0..self.entries.len() {
            let Some(function) = self.entries.get(index).and_then(Option::as_ref) else { continue };
            let Address { segment, bus, .. } = function.address;
            let others = || {
                let all = self.entries.iter().enumerate().filter(move |(at, _)| *at != index);
                all.filter_map(|(_, other)| other.as_ref())
            };
            // A bridge that is gone forwarded the addresses that drivers of devices behind it may still have.
            let is_awaited = |other: &Function<P>| {
                let is_behind = other.address.segment == segment && other.address.bus > bus;
                is_behind && other.presence.is_gone() && function.ranges().any(|range| other.uses(range))
            };
            if !function.presence.is_gone() || function.presence.is_shared() || others().any(is_awaited) {
                continue;
            }
            for range in function.ranges() {
                if !others().any(|other| other.is_on(segment, bus) && other.uses(range)) {
                    released(function.address, range);
                }
            }
            if let Some(entry) = self.entries.get_mut(index) {
                *entry = None;
            }
        }
    }
}

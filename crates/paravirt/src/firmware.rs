//! The buses that firmware and the command line describe, collected before any device is accessed.

use crate::{Firmware, Physical, with_table};
use core::ops::ControlFlow;
use paravirt_firmware::aml::{self, Resource, VirtioMmio};
use paravirt_firmware::command_line::{MmioDevice, mmio_devices};
use paravirt_firmware::device_tree::{self, DeviceTree};
use paravirt_firmware::mcfg::{self, Ecam};
use paravirt_pci::{Address, ConfigAccess, FunctionInfo, PciSlot, Window, Windows, enumerate};
use paravirt_platform::{AllocError, InterruptLine, PageTable, Platform, Polarity, Trigger};

/// Maximum number of ECAM ranges, of host bridges, and of MMIO devices.
const MAX_ENTRIES: usize = 32;

/// The buses of the machine, in pages of their own: a kernel's stack may have no room for them.
pub(crate) struct Map<P: Platform> {
    pub ecam: List<P, Ecam>,
    bridges: List<P, Bridge>,
    pub mmio: List<P, VirtioMmio>,
}

/// A host bridge: its buses and its memory windows.
#[derive(Clone)]
struct Bridge {
    segment: u16,
    /// The address of its configuration space from AML, for a machine without MCFG.
    ecam: Option<u64>,
    first: u8,
    last: u8,
    windows: Windows,
}

/// The bus of a host bridge whose devices were enumerated.
pub(crate) struct Root<P: Platform> {
    pub access: ConfigAccess<P>,
    pub first: u8,
    /// The addresses that the host bridge forwards.
    pub declared: Windows,
    /// Those that no device was given.
    pub unused: Windows,
}

/// A list of up to [`MAX_ENTRIES`]. Elements that do not fit are counted, and reported in the log.
pub(crate) struct List<P: Platform, T> {
    entries: PageTable<P, Option<T>>,
    dropped: usize,
}

impl<P: Platform, T> List<P, T> {
    fn new(platform: &P) -> Result<Self, AllocError> {
        Ok(Self { entries: PageTable::new(platform, MAX_ENTRIES, |_| None)?, dropped: 0 })
    }

    fn push(&mut self, value: T) {
        match self.entries.iter_mut().find(|entry| entry.is_none()) {
            Some(free) => *free = Some(value),
            None => self.dropped = self.dropped.saturating_add(1),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().flatten()
    }
}

impl<P: Platform> Map<P> {
    pub fn collect(
        platform: &P,
        memory: &Physical<'_, P>,
        firmware: &Firmware<'_>,
    ) -> Result<Self, AllocError> {
        let (ecam, bridges, mmio) = (List::new(platform)?, List::new(platform)?, List::new(platform)?);
        let mut map = Self { ecam, bridges, mmio };
        firmware.acpi_tables(memory, |table| {
            let read = match &table.signature {
                b"MCFG" => {
                    with_table(memory, &table, |bytes| mcfg::entries(bytes).for_each(|e| map.ecam.push(e)))
                }
                b"DSDT" | b"SSDT" => with_table(memory, &table, |bytes| map.add_aml(bytes)),
                _ => Ok(()),
            };
            if let Err(error) = read {
                log::warn!("acpi: table at {:#x}: {error}", table.address);
            }
            ControlFlow::Continue(())
        });
        if let Some(bytes) = firmware.device_tree {
            map.add_tree(bytes);
        }
        if map.ecam.iter().count() == 0 {
            for Bridge { segment, ecam, first, last, .. } in map.bridges.iter() {
                if let Some(base) = *ecam {
                    map.ecam.push(Ecam { base, segment: *segment, first: *first, last: *last });
                }
            }
        }
        for device in mmio_devices(firmware.command_line) {
            match device {
                Ok(MmioDevice { base, len, irq, .. }) => {
                    // Edge-triggered, as in Firecracker and Linux.
                    let line =
                        InterruptLine { number: irq, trigger: Trigger::Edge, polarity: Polarity::High };
                    map.mmio.push(VirtioMmio::new(base, len, Some(line)));
                }
                Err(malformed) => log::warn!("{malformed}"),
            }
        }
        let dropped = [map.ecam.dropped, map.bridges.dropped, map.mmio.dropped];
        if dropped != [0; 3] {
            let [ecam, bridges, mmio] = dropped;
            log::warn!(
                "more than {MAX_ENTRIES} entries of a kind: ignored {ecam} ECAM ranges, {bridges} bridges, {mmio} MMIO devices"
            );
        }
        Ok(map)
    }

    fn add_tree(&mut self, bytes: &[u8]) {
        let Some(tree) = DeviceTree::parse(bytes) else {
            return log::warn!("device tree: malformed, ignored");
        };
        device_tree::virtio_mmio_devices(tree).take(MAX_ENTRIES).for_each(|device| self.mmio.push(device));
        for found in device_tree::host_bridges(tree).take(MAX_ENTRIES) {
            let device_tree::HostBridge { segment, first, last, ecam, .. } = found;
            let mut windows = Windows::new();
            for (start, len) in found.windows() {
                windows.add(Window { start, end: start.saturating_add(len) });
            }
            self.bridges.push(Bridge { segment, ecam: Some(ecam), first, last, windows });
        }
    }

    fn add_aml(&mut self, aml: &[u8]) {
        aml::virtio_mmio_devices(aml).for_each(|device| self.mmio.push(device));
        for aml::HostBridge { segment, ecam, template, .. } in aml::host_bridges(aml) {
            let mut bridge = Bridge { segment, ecam, first: 0, last: 0, windows: Windows::new() };
            for resource in aml::resources(template) {
                match resource {
                    Resource::Buses { first, last } => (bridge.first, bridge.last) = (first, last),
                    // Addresses below 1 MiB are for legacy VGA.
                    Resource::Window { start, last } if start >= 1 << 20 => {
                        bridge.windows.add(Window { start, end: last.saturating_add(1) });
                    }
                    _ => {}
                }
            }
            self.bridges.push(bridge);
        }
    }

    /// Enumerates the host bridges whose buses `access` reaches, or its first bus if firmware declares no bridge there. Buses that are in
    /// `seen` are left out, however often firmware describes them: a device has one owner.
    ///
    /// # Safety
    ///
    /// Firmware describes this machine, and no other driver uses its devices.
    pub unsafe fn enumerate(
        &self,
        access: &ConfigAccess<P>,
        is_driven: fn(&FunctionInfo) -> bool,
        seen: &mut Seen<P>,
        visit: &mut dyn FnMut(PciSlot<P>, &Windows),
        rooted: &mut dyn FnMut(Root<P>),
    ) {
        let (first, last) = access.buses();
        let segment = access.segment();
        let is_reached = |b: &&Bridge| b.segment == segment && (first..=last).contains(&b.first);
        let mut is_declared = false;
        for bridge in self.bridges.iter().filter(is_reached) {
            is_declared = true;
            // SAFETY: firmware reports that the bridge forwards the windows; the rest is the contract of this function.
            let root = unsafe { walk(access, bridge.first, &bridge.windows, is_driven, seen, visit) };
            root.into_iter().for_each(&mut *rooted);
        }
        if !is_declared {
            // SAFETY: there are no windows to allocate from; the rest is the contract of this function.
            let root = unsafe { walk(access, first, &Windows::new(), is_driven, seen, visit) };
            root.into_iter().for_each(rooted);
        }
    }
}

/// Enumerates from bus `first` on, and passes on the functions of buses that are new. Returns the bus, unless it was walked.
///
/// # Safety
///
/// As for [`enumerate`].
unsafe fn walk<P: Platform>(
    access: &ConfigAccess<P>,
    first: u8,
    declared: &Windows,
    is_driven: fn(&FunctionInfo) -> bool,
    seen: &mut Seen<P>,
    visit: &mut dyn FnMut(PciSlot<P>, &Windows),
) -> Option<Root<P>> {
    let segment = access.segment();
    if seen.contains(segment, first) {
        return None;
    }
    let mut current = None;
    let new = |slot: PciSlot<P>| {
        let bus = slot.address().bus;
        if current != Some(bus) {
            // A bus that another walk has reached is left to it.
            if seen.contains(segment, bus) || !seen.add(segment, bus) {
                return;
            }
            current = Some(bus);
        }
        visit(slot, declared);
    };
    let mut unused = declared.clone();
    // SAFETY: the contract of this function is that of the callee.
    unsafe { enumerate(access, first, &mut unused, is_driven, new) };
    Some(Root { access: access.clone(), first, declared: declared.clone(), unused })
}

/// Returns the interrupt line of a function on the first bus of a host bridge, if the device tree declares it.
pub(crate) fn line<P: Platform>(firmware: &Firmware<'_>, slot: &PciSlot<P>) -> Option<InterruptLine> {
    let Address { segment, bus, device, function } = slot.address();
    let tree = DeviceTree::parse(firmware.device_tree?)?;
    let pin = slot.function().pin()?;
    let mut bridges = device_tree::host_bridges(tree).take(MAX_ENTRIES);
    bridges.find(|bridge| (bridge.segment, bridge.first) == (segment, bus))?.line(device, function, pin)
}

/// Maximum number of buses with devices; those of further ones are not visited.
const MAX_BUSES: usize = 256;

/// The buses that were visited, of every segment: segment and number of each.
pub(crate) struct Seen<P: Platform>(Option<PageTable<P, Option<(u16, u8)>>>);

impl<P: Platform> Seen<P> {
    /// An empty set; without memory for it, nothing is visited.
    pub fn new(platform: &P) -> Self {
        Self(PageTable::new(platform, MAX_BUSES, |_| None).ok())
    }

    fn contains(&self, segment: u16, bus: u8) -> bool {
        self.0.iter().flat_map(|table| table.iter()).flatten().any(|seen| *seen == (segment, bus))
    }

    /// Adds a bus; returns false if it cannot be recorded.
    fn add(&mut self, segment: u16, bus: u8) -> bool {
        let mut slots = self.0.iter_mut().flat_map(|table| table.iter_mut());
        let free = slots.find(|slot| slot.is_none_or(|seen| seen == (segment, bus)));
        free.map(|slot| *slot = Some((segment, bus))).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use paravirt_testhost::Guest;

    #[test]
    fn a_bus_is_visited_by_one_walk_in_each_segment() {
        let mut seen = Seen::new(&Guest::new());
        assert!(seen.add(0, 0) && seen.add(0, 0) && seen.add(1, 255));
        assert!(seen.contains(0, 0) && !seen.contains(1, 0) && seen.contains(1, 255));
        // What cannot be recorded is not visited.
        for segment in 2..MAX_BUSES as u16 {
            assert!(seen.add(segment, 9));
        }
        assert!(!seen.add(1000, 9) && seen.add(1, 255));
    }
}

//! The buses that firmware and the command line describe, collected before any device is accessed.

use crate::{Firmware, Physical, with_table};
use core::ops::ControlFlow;
use paravirt_firmware::aml::{self, Resource, VirtioMmio};
use paravirt_firmware::command_line::{MmioDevice, mmio_devices};
use paravirt_firmware::device_tree::{self, DeviceTree};
use paravirt_firmware::mcfg::{self, Ecam};
use paravirt_pci::{Address, ConfigAccess, Enumeration, FunctionInfo, PciSlot, Window, Windows, enumerate};
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
    pub fn new(platform: &P) -> Result<Self, AllocError> {
        Ok(Self { entries: PageTable::new(platform, MAX_ENTRIES, |_| None)?, dropped: 0 })
    }

    pub fn push(&mut self, value: T) {
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
    #[inline(never)]
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
                b"DSDT" | b"SSDT" => with_table(memory, &table, |bytes| {
                    map.add_mmio_of(bytes);
                    map.add_bridges_of(bytes);
                }),
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

    #[inline(never)]
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

    #[inline(never)]
    fn add_mmio_of(&mut self, aml: &[u8]) {
        aml::virtio_mmio_devices(aml).for_each(|device| self.mmio.push(device));
    }

    #[inline(never)]
    fn add_bridges_of(&mut self, aml: &[u8]) {
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

    /// The ways to the configuration space of the machine: ECAM as firmware declares it, or ports.
    ///
    /// # Safety
    ///
    /// As for [`probe`](crate::probe).
    #[inline(never)]
    pub unsafe fn accesses(&self, platform: &P) -> Result<List<P, ConfigAccess<P>>, AllocError> {
        let mut all = List::new(platform)?;
        for range in self.ecam.iter() {
            // SAFETY: the MCFG reports configuration space there, and by the contract of this function firmware's tables are true.
            match unsafe { ConfigAccess::ecam(platform, range.base, range.segment, range.first, range.last) }
            {
                Ok(access) => all.push(access),
                Err(error) => log::warn!("pci: ECAM at {:#x}: {error}", range.base),
            }
        }
        if all.iter().next().is_none() {
            // SAFETY: ECAM is not in use; the rest is the caller's contract.
            all.push(unsafe { ConfigAccess::ports(platform) });
        }
        Ok(all)
    }

    /// Returns the `index`th of the host bridges whose buses `access` reaches: its first bus and its windows. Where firmware declares none,
    /// it is the first bus that `access` reaches.
    pub fn host_bridge(&self, access: &ConfigAccess<P>, index: usize) -> Option<(u8, Windows)> {
        let (first, last) = access.buses();
        let is_reached = |b: &&Bridge| b.segment == access.segment() && (first..=last).contains(&b.first);
        let declared = self.bridges.iter().filter(is_reached).nth(index);
        let declared = declared.map(|bridge| (bridge.first, bridge.windows.clone()));
        let is_undeclared = index == 0 && declared.is_none();
        declared.or_else(|| is_undeclared.then(|| (first, Windows::new())))
    }
}

impl<P: Platform> Root<P> {
    /// The host bridge whose first bus is `first`, and which forwards `declared`.
    pub fn new(access: &ConfigAccess<P>, first: u8, declared: Windows) -> Self {
        Self { access: access.clone(), first, unused: declared.clone(), declared }
    }

    /// Assigns addresses on its buses, and returns their functions.
    ///
    /// # Safety
    ///
    /// The bridge forwards the declared addresses, and no other driver uses the devices on its buses.
    #[inline(never)]
    pub unsafe fn enumerate(
        &mut self,
        platform: &P,
        is_driven: fn(&FunctionInfo) -> bool,
    ) -> Result<Enumeration<P>, AllocError> {
        // SAFETY: the contract of this function is that of the callee.
        unsafe { enumerate(platform, &self.access, self.first, &mut self.unused, is_driven) }
    }
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

/// The buses that were visited, of every segment: segment and number of each. A bus belongs to the walk that reaches it first, however
/// often firmware describes it: a device has one owner.
pub(crate) struct Seen<P: Platform> {
    buses: Option<PageTable<P, Option<(u16, u8)>>>,
    /// The bus of the walk in progress, and whether it belongs to it.
    current: Option<(u8, bool)>,
}

impl<P: Platform> Seen<P> {
    /// An empty set; without memory for it, nothing is visited.
    pub fn new(platform: &P) -> Self {
        Self { buses: PageTable::new(platform, MAX_BUSES, |_| None).ok(), current: None }
    }

    pub fn contains(&self, segment: u16, bus: u8) -> bool {
        self.buses.iter().flat_map(|table| table.iter()).flatten().any(|seen| *seen == (segment, bus))
    }

    /// Begins the walk of another host bridge.
    pub fn begin_walk(&mut self) {
        self.current = None;
    }

    /// Returns whether the function is on a bus that no other walk has reached. Walks are bus by bus.
    pub fn is_first(&mut self, slot: &PciSlot<P>) -> bool {
        let Address { segment, bus, .. } = slot.address();
        match self.current {
            Some((current, is_first)) if current == bus => is_first,
            _ => {
                let is_first = !self.contains(segment, bus) && self.add(segment, bus);
                self.current = Some((bus, is_first));
                is_first
            }
        }
    }

    /// Adds a bus; returns false if it cannot be recorded.
    fn add(&mut self, segment: u16, bus: u8) -> bool {
        let mut slots = self.buses.iter_mut().flat_map(|table| table.iter_mut());
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

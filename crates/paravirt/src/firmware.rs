//! The buses that firmware and the command line describe, collected before any device is accessed.

use crate::{Firmware, Physical, acpi_tables, with_table};
use core::ops::ControlFlow;
use paravirt_firmware::aml::{self, Resource, VirtioMmio};
use paravirt_firmware::command_line::{MmioDevice, mmio_devices};
use paravirt_firmware::mcfg::{self, Ecam};
use paravirt_pci::{ConfigAccess, FunctionInfo, PciSlot, Window, Windows, enumerate};
use paravirt_platform::{InterruptLine, Platform, Polarity, Trigger};

/// Maximum number of ECAM ranges, of host bridges, and of MMIO devices.
const MAX_ENTRIES: usize = 32;

/// The buses of the machine.
pub(crate) struct Map {
    pub ecam: List<Ecam, MAX_ENTRIES>,
    bridges: List<Bridge, MAX_ENTRIES>,
    pub mmio: List<VirtioMmio, MAX_ENTRIES>,
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

/// A list of fixed capacity. Elements that do not fit are counted, and reported in the log.
pub(crate) struct List<T, const N: usize> {
    entries: [Option<T>; N],
    dropped: usize,
}

impl<T, const N: usize> List<T, N> {
    const fn new() -> Self {
        Self { entries: [const { None }; N], dropped: 0 }
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

impl Map {
    pub fn collect<P: Platform>(memory: &Physical<'_, P>, firmware: &Firmware<'_>) -> Self {
        let mut map = Self { ecam: List::new(), bridges: List::new(), mmio: List::new() };
        acpi_tables(memory, firmware.rsdp, |table| {
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
        map
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
    /// `walked` are left out, however often firmware describes them: a device has one owner.
    ///
    /// # Safety
    ///
    /// Firmware describes this machine, and no other driver uses its devices.
    pub unsafe fn enumerate<P: Platform>(
        &self,
        access: &ConfigAccess<P>,
        is_driven: fn(&FunctionInfo) -> bool,
        walked: &mut Walked,
        visit: &mut dyn FnMut(PciSlot<P>),
        rooted: &mut dyn FnMut(Root<P>),
    ) {
        let (first, last) = access.buses();
        let segment = access.segment();
        let is_reached = |b: &&Bridge| b.segment == segment && (first..=last).contains(&b.first);
        let mut is_declared = false;
        for bridge in self.bridges.iter().filter(is_reached) {
            is_declared = true;
            // SAFETY: firmware reports that the bridge forwards the windows; the rest is the contract of this function.
            let root = unsafe { walk(access, bridge.first, &bridge.windows, is_driven, walked, visit) };
            root.into_iter().for_each(&mut *rooted);
        }
        if !is_declared {
            // SAFETY: there are no windows to allocate from; the rest is the contract of this function.
            let root = unsafe { walk(access, first, &Windows::new(), is_driven, walked, visit) };
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
    walked: &mut Walked,
    visit: &mut dyn FnMut(PciSlot<P>),
) -> Option<Root<P>> {
    let segment = access.segment();
    if walked.contains(segment, first) {
        return None;
    }
    let mut current = None;
    let new = |slot: PciSlot<P>| {
        let bus = slot.address().bus;
        if current != Some(bus) && !walked.add(segment, bus) {
            return;
        }
        current = Some(bus);
        visit(slot);
    };
    let mut unused = declared.clone();
    // SAFETY: the contract of this function is that of the callee.
    unsafe { enumerate(access, first, &mut unused, is_driven, new) };
    Some(Root { access: access.clone(), first, declared: declared.clone(), unused })
}

/// The PCI buses whose functions were visited, of every segment.
pub(crate) struct Walked(List<(u16, [u64; 4]), MAX_ENTRIES>);

impl Walked {
    pub const fn new() -> Self {
        Self(List::new())
    }

    fn contains(&self, segment: u16, bus: u8) -> bool {
        let (word, bit) = (usize::from(bus >> 6), 1u64 << (bus & 63));
        self.0
            .iter()
            .filter(|(s, _)| *s == segment)
            .any(|(_, buses)| buses.get(word).is_some_and(|w| w & bit != 0))
    }

    /// Adds a bus; returns false if it is there already, or if it cannot be recorded.
    fn add(&mut self, segment: u16, bus: u8) -> bool {
        if self.contains(segment, bus) {
            return false;
        }
        if !self.0.iter().any(|(s, _)| *s == segment) {
            self.0.push((segment, [0; 4]));
        }
        let (word, bit) = (usize::from(bus >> 6), 1u64 << (bus & 63));
        let entry = self.0.entries.iter_mut().flatten().find(|(s, _)| *s == segment);
        entry.and_then(|(_, buses)| buses.get_mut(word)).map(|w| *w |= bit).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_is_visited_once_in_each_segment() {
        let mut walked = Walked::new();
        assert!(walked.add(0, 0) && walked.add(1, 0) && walked.add(0, 255) && walked.add(0, 64));
        assert!(!walked.add(0, 0) && !walked.add(1, 0) && !walked.add(0, 255));
        assert!(walked.contains(0, 64) && !walked.contains(1, 64));
        // What cannot be recorded is not visited.
        for segment in 2..MAX_ENTRIES as u16 {
            assert!(walked.add(segment, 9));
        }
        assert!(!walked.add(100, 9));
    }
}

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
    /// The address of configuration space from AML, for a machine without MCFG.
    cba: Option<u64>,
}

/// A host bridge: its buses and its memory windows.
#[derive(Clone)]
struct Bridge {
    first: u8,
    last: u8,
    windows: Windows,
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
        let mut map = Self { ecam: List::new(), bridges: List::new(), mmio: List::new(), cba: None };
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
        if let (0, Some(base)) = (map.ecam.iter().count(), map.cba) {
            for Bridge { first, last, .. } in map.bridges.iter() {
                map.ecam.push(Ecam { base, segment: 0, first: *first, last: *last });
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
        self.cba = self.cba.or_else(|| aml::ecam_base(aml));
        for template in aml::host_bridges(aml) {
            let mut bridge = Bridge { first: 0, last: 0, windows: Windows::new() };
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

    /// Enumerates the host bridges whose buses `access` reaches, or its first bus if firmware declares no bridge.
    ///
    /// # Safety
    ///
    /// Firmware describes this machine, and no other driver uses its devices.
    pub unsafe fn enumerate<P: Platform>(
        &self,
        access: &ConfigAccess<P>,
        is_driven: fn(&FunctionInfo) -> bool,
        visit: &mut dyn FnMut(PciSlot<P>),
    ) {
        let (first, last) = access.buses();
        let mut is_walked = false;
        for bridge in self.bridges.iter().filter(|bridge| (first..=last).contains(&bridge.first)) {
            is_walked = true;
            // SAFETY: firmware reports that the bridge forwards the windows; the rest is the contract of `probe`.
            unsafe { enumerate(access, bridge.first, &mut bridge.windows.clone(), is_driven, &mut *visit) };
        }
        if !is_walked {
            // SAFETY: there are no windows to allocate from; the rest is the contract of `probe`.
            unsafe { enumerate(access, first, &mut Windows::new(), is_driven, visit) };
        }
    }
}

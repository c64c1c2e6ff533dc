//! The walk over the buses: every function, in the order of addresses, also behind bridges.

use super::assign::{Wide, Window, Windows};
use super::{Bars, ConfigAccess, PciFunction, PciSlot};
use paravirt_platform::Platform;
use virtio_drivers::transport::pci::VIRTIO_VENDOR_ID;
use virtio_drivers::transport::pci::bus::{
    BarInfo, Command, DeviceFunction, DeviceFunctionInfo, HeaderType, MemoryBarType, PciRoot,
};

/// Registers of a bridge. PCI-to-PCI Bridge 1.2 §3.2
const BUS_NUMBERS: u8 = 0x18;
const MEMORY_WINDOW: u8 = 0x20;
const PREFETCH_WINDOW: u8 = 0x24;
const PREFETCH_BASE_HIGH: u8 = 0x28;
const PREFETCH_LIMIT_HIGH: u8 = 0x2c;
/// How many bridges one behind the other are followed: the walk recurses, on a kernel's stack.
const DEEPEST: u8 = 16;
/// The unit of a bridge's window.
const BRIDGE_UNIT: u64 = 1 << 20;

/// Walks the buses from `first` on down, as far as `access` reaches, and hands every function to `visit`, by bus, device and function number.
///
/// Bridges that firmware left without bus numbers get some, and virtio functions whose BARs have no address get one from
/// `windows`, with the windows of the bridges ahead of them. What has an address keeps it.
pub fn enumerate<P: Platform>(
    access: &ConfigAccess<P>,
    first: u8,
    windows: &mut Windows,
    mut visit: impl FnMut(PciSlot<P>),
) {
    let (_, last) = access.buses();
    let mut walk = Walk { access, root: PciRoot::new(access.clone()), last, highest: first, seen: [0; 4] };
    walk.find_highest(first, 0);
    walk.seen = [0; 4];
    walk.reserve(first, windows, 0);
    walk.seen = [0; 4];
    walk.descend(first, windows, 0);
    for bus in first..=last {
        if walk.is_seen(bus) {
            for (address, info) in functions(access, bus) {
                let is_virtio = info.vendor_id == VIRTIO_VENDOR_ID;
                let bars = if is_virtio { walk.bars(address) } else { Bars::default() };
                visit(PciSlot { function: PciFunction::new(access, address), info, bars });
            }
        }
    }
}

/// The functions on one bus; of a device with one function, that one.
fn functions<P: Platform>(
    access: &ConfigAccess<P>,
    bus: u8,
) -> impl Iterator<Item = (DeviceFunction, DeviceFunctionInfo)> + use<P> {
    let access = access.clone();
    PciRoot::new(access.clone()).enumerate_bus(bus).filter(move |(address, info)| {
        // Vendor 0 is nobody's: some monitors answer 0 on ports behind which there is no PCI.
        if info.vendor_id == 0 {
            return false;
        }
        let zero = DeviceFunction { function: 0, ..*address };
        address.function == 0 || access.read(zero, 0x0c) & (0x80 << 16) != 0
    })
}

struct Walk<'a, P: Platform> {
    access: &'a ConfigAccess<P>,
    root: PciRoot<ConfigAccess<P>>,
    last: u8,
    /// The highest bus number in use.
    highest: u8,
    /// The buses that were reached.
    seen: [u64; 4],
}

impl<P: Platform> Walk<'_, P> {
    /// Marks `bus` as reached; `false` where it was already.
    fn see(&mut self, bus: u8) -> bool {
        let bit = 1u64 << (bus & 63);
        match self.seen.get_mut(usize::from(bus >> 6)) {
            Some(word) if *word & bit == 0 => {
                *word |= bit;
                true
            }
            _ => false,
        }
    }

    fn is_seen(&self, bus: u8) -> bool {
        self.seen.get(usize::from(bus >> 6)).is_some_and(|word| word & (1u64 << (bus & 63)) != 0)
    }

    fn bars(&mut self, at: DeviceFunction) -> Bars {
        self.root.bars(at).map(Bars).unwrap_or_default()
    }

    /// The secondary bus of the bridge at `at`, where it has a sane one.
    fn secondary(&self, at: DeviceFunction) -> Option<u8> {
        let [_, secondary, subordinate, _] = self.access.read(at, BUS_NUMBERS).to_le_bytes();
        (secondary > at.bus && subordinate >= secondary && secondary <= self.last).then_some(secondary)
    }

    /// Looks at each bus once, and not too deep.
    fn find_highest(&mut self, bus: u8, depth: u8) {
        if depth > DEEPEST || !self.see(bus) {
            return;
        }
        self.highest = self.highest.max(bus);
        for (at, info) in functions(self.access, bus) {
            if info.header_type == HeaderType::PciPciBridge
                && let Some(secondary) = self.secondary(at)
            {
                let subordinate = self.access.read(at, BUS_NUMBERS).to_le_bytes()[2];
                self.highest = self.highest.max(subordinate.min(self.last));
                self.find_highest(secondary, depth.saturating_add(1));
            }
        }
    }

    /// Takes out of `windows` what BARs and bridges have already.
    fn reserve(&mut self, bus: u8, windows: &mut Windows, depth: u8) {
        if depth > DEEPEST || !self.see(bus) {
            return;
        }
        for (at, info) in functions(self.access, bus) {
            match info.header_type {
                HeaderType::PciPciBridge => {
                    for window in self.bridge_windows(at).into_iter().flatten() {
                        windows.reserve(window.start, window.end.wrapping_sub(window.start));
                    }
                    if let Some(secondary) = self.secondary(at) {
                        self.reserve(secondary, windows, depth.saturating_add(1));
                    }
                }
                HeaderType::Standard => {
                    for (address, size) in
                        self.bars(at).0.iter().flatten().filter_map(BarInfo::memory_address_size)
                    {
                        if address != 0 {
                            windows.reserve(address, size);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// The memory and the prefetchable window of a bridge, where they are open.
    fn bridge_windows(&self, at: DeviceFunction) -> [Option<Window>; 2] {
        let open = |start: u64, last: u64| {
            (last >= start && start != 0).then(|| Window { start, end: (last | 0xf_ffff).saturating_add(1) })
        };
        let memory = self.access.read(at, MEMORY_WINDOW);
        let prefetch = self.access.read(at, PREFETCH_WINDOW);
        let high = |register| u64::from(self.access.read(at, register)) << 32;
        let (base, limit) = (u64::from(prefetch & 0xfff0) << 16, u64::from(prefetch & 0xfff0_0000));
        let wide = prefetch & 0xf == 1;
        let (base_high, limit_high) =
            if wide { (high(PREFETCH_BASE_HIGH), high(PREFETCH_LIMIT_HIGH)) } else { (0, 0) };
        [
            open(u64::from(memory & 0xfff0) << 16, u64::from(memory & 0xfff0_0000)),
            open(base_high | base, limit_high | limit),
        ]
    }

    /// Gives numbers and addresses where there are none, on `bus` and below.
    fn descend(&mut self, bus: u8, windows: &mut Windows, depth: u8) {
        if depth > DEEPEST || !self.see(bus) {
            return;
        }
        for (at, info) in functions(self.access, bus) {
            match info.header_type {
                HeaderType::PciPciBridge => self.bridge(at, windows, depth.saturating_add(1)),
                HeaderType::Standard if info.vendor_id == VIRTIO_VENDOR_ID => self.assign(at, windows),
                _ => {}
            }
        }
    }

    fn bridge(&mut self, at: DeviceFunction, windows: &mut Windows, depth: u8) {
        let numbered = self.secondary(at);
        let secondary = match numbered {
            Some(secondary) => secondary,
            None => {
                let Some(next) = self.highest.checked_add(1).filter(|next| *next <= self.last) else {
                    log::warn!("pci: no bus number left for the bridge at {at}");
                    return;
                };
                self.highest = next;
                let latency = self.access.read(at, BUS_NUMBERS) & 0xff00_0000;
                // Everything below, until it is known how far that reaches.
                let all = u32::from_le_bytes([at.bus, next, self.last, 0]);
                self.access.write(at, BUS_NUMBERS, latency | all);
                next
            }
        };
        let had_windows = self.bridge_windows(at).iter().any(Option::is_some);
        if had_windows {
            // Its windows are firmware's: what is behind it and has no address cannot get one there.
            self.descend(secondary, &mut Windows::new(), depth);
        } else {
            windows.align(BRIDGE_UNIT);
            let before = windows.cursors();
            self.descend(secondary, windows, depth);
            windows.align(BRIDGE_UNIT);
            self.open_bridge(at, &before, &windows.cursors());
        }
        if numbered.is_none() {
            let latency = self.access.read(at, BUS_NUMBERS) & 0xff00_0000;
            let numbers = u32::from_le_bytes([at.bus, secondary, self.highest, 0]);
            self.access.write(at, BUS_NUMBERS, latency | numbers);
        }
    }

    /// Opens a bridge's windows over what was given out behind it: below 4 GiB its memory window, above it the
    /// prefetchable one.
    fn open_bridge(&mut self, at: DeviceFunction, before: &[Option<Window>], after: &[Option<Window>]) {
        let taken = before.iter().flatten().zip(after.iter().flatten()).filter(|(b, a)| a.start > b.start);
        let (mut low, mut high) = (None::<Window>, None::<Window>);
        for (before, after) in taken {
            let slot = if before.start >> 32 == 0 { &mut low } else { &mut high };
            let whole = slot.get_or_insert(Window { start: before.start, end: after.start });
            whole.start = whole.start.min(before.start);
            whole.end = whole.end.max(after.start);
        }
        if let Some(Window { start, end }) = low {
            let last = end.wrapping_sub(1);
            let word = ((start >> 16) as u32 & 0xfff0) | (last as u32 & 0xfff0_0000);
            self.access.write(at, MEMORY_WINDOW, word);
        }
        if let Some(Window { start, end }) = high {
            let last = end.wrapping_sub(1);
            let word = ((start >> 16) as u32 & 0xfff0) | (last as u32 & 0xfff0_0000);
            self.access.write(at, PREFETCH_WINDOW, word);
            self.access.write(at, PREFETCH_BASE_HIGH, (start >> 32) as u32);
            self.access.write(at, PREFETCH_LIMIT_HIGH, (last >> 32) as u32);
        }
        let (_, command) = self.root.get_status_command(at);
        self.root.set_command(at, command | Command::MEMORY_SPACE | Command::BUS_MASTER);
    }

    /// Gives addresses to the memory BARs of a function that have none.
    fn assign(&mut self, at: DeviceFunction, windows: &mut Windows) {
        let Bars(bars) = self.bars(at);
        for (index, bar) in (0u8..).zip(bars) {
            let Some(BarInfo::Memory { address_type, address: 0, size, .. }) = bar else { continue };
            let wide = if address_type == MemoryBarType::Width64 { Wide::Yes } else { Wide::No };
            let taken = if size.is_power_of_two() { windows.take(size, wide) } else { None };
            let Some(address) = taken else {
                log::warn!("pci: no address for BAR {index} of {at}, {size} bytes");
                continue;
            };
            match wide {
                Wide::Yes => self.root.set_bar_64(at, index, address),
                Wide::No => self.root.set_bar_32(at, index, address as u32),
            }
        }
    }
}

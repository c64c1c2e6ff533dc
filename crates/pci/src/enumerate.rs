//! Bus enumeration: visits every function in the order of addresses, including those behind bridges.

use crate::bar::set_address;
use crate::bridge::{
    BUS_NUMBERS, MEMORY_WINDOW, PREFETCH_BASE_HIGH, PREFETCH_LIMIT_HIGH, PREFETCH_WINDOW, alias,
    bridge_windows, bus_numbers,
};
use crate::function::{HEADER_TYPE, MULTI_FUNCTION};
use crate::{
    Address, AddressWidth, Bar, Bars, Command, ConfigAccess, FunctionInfo, HeaderType, PciFunction, Presence,
    Window, Windows,
};
use core::fmt;
use paravirt_platform::{InterruptLine, Platform};

/// Maximum depth of nested bridges: the enumeration recurses on the kernel's stack.
const MAX_DEPTH: u8 = 16;
/// The unit of a bridge's window.
const BRIDGE_UNIT: u64 = 1 << 20;

/// A function found by the enumeration. There is one value per function: its owner may drive the function.
pub struct PciSlot<P: Platform> {
    function: PciFunction<P>,
    info: FunctionInfo,
    bars: Bars,
}

impl<P: Platform> PciSlot<P> {
    /// The function at `address`, which the kernel has enumerated: its bus numbers and addresses are left as they are. Nothing is written to
    /// a bridge, whose BARs are not read. `None` if there is no function.
    ///
    /// # Safety
    ///
    /// No other driver uses the function, and there is one value for it.
    pub unsafe fn read(access: &ConfigAccess<P>, address: Address) -> Option<Self> {
        let info = FunctionInfo::read(access, address)?;
        let bars = match info.header_type {
            // SAFETY: by the contract of this function, nothing else uses its registers.
            HeaderType::Device => unsafe { bars(access, address, &info) },
            // What is behind a bridge may be in use.
            _ => Bars::default(),
        };
        Some(Self { function: PciFunction::new(access, address), info, bars })
    }

    /// The same function, until `presence` says that it is gone: its driver is then cut off from whatever is at its address.
    #[must_use]
    pub fn with_presence(self, presence: Presence<P>) -> Self {
        Self { function: self.function.with_presence(presence), ..self }
    }

    /// The same function with this interrupt line, where configuration space does not tell it.
    #[must_use]
    pub fn with_line(self, line: InterruptLine) -> Self {
        Self { function: self.function.with_line(line), ..self }
    }

    /// Returns its configuration space.
    pub fn function(&self) -> &PciFunction<P> {
        &self.function
    }

    /// Returns its identity.
    pub fn info(&self) -> &FunctionInfo {
        &self.info
    }

    /// Returns its base address registers with their current addresses.
    pub fn bars(&self) -> &Bars {
        &self.bars
    }

    /// Returns the first and the last bus behind it; `None` if it is no bridge, or has no bus numbers.
    pub fn buses_behind(&self) -> Option<(u8, u8)> {
        match self.info.header_type {
            HeaderType::Bridge => bus_numbers(self.function.access(), self.address()),
            _ => None,
        }
    }

    /// Returns its address.
    pub fn address(&self) -> Address {
        self.function.address()
    }
}

impl<P: Platform> fmt::Debug for PciSlot<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { function, info, bars } = self;
        f.debug_struct("PciSlot")
            .field("address", &function.address())
            .field("info", info)
            .field("bars", bars)
            .finish()
    }
}

/// Enumerates bus `first` and those below it, as far as `access` reaches, and calls `visit` for every function, in the order of bus,
/// device and function number.
///
/// Bridges without bus numbers are assigned some. Functions for which `is_driven` returns true, and whose BARs have no address, are
/// assigned addresses from `windows`, and the windows of the upstream bridges are opened for them. Assigned addresses are kept; a BAR
/// outside `windows` is left out of the result, as the host bridge does not forward its address to the function: whatever is there (it
/// may be the kernel's RAM) is not its registers. Without any windows every address is accepted.
///
/// # Safety
///
/// `windows` are unused addresses that the host bridge forwards to these buses, and no other driver uses the functions.
pub unsafe fn enumerate<P: Platform>(
    access: &ConfigAccess<P>,
    first: u8,
    windows: &mut Windows,
    is_driven: fn(&FunctionInfo) -> bool,
    mut visit: impl FnMut(PciSlot<P>),
) {
    let (_, last) = access.buses();
    let declared = windows.clone();
    let mut walk = Walk::new(access, first, is_driven);
    walk.find_highest(first, 0);
    walk.seen = BusSet::default();
    walk.reserve(first, windows, 0);
    walk.seen = BusSet::default();
    walk.descend(first, windows, 0);
    for bus in first..=last {
        if walk.seen.contains(bus) {
            let devices = walk.devices(bus);
            // SAFETY: the caller upholds the same contract.
            unsafe { visit_functions(access, bus, devices, walk.alias(bus), &declared, &mut visit) };
        }
    }
}

/// Assigns addresses from `unused` to the functions of a device that has been added on `bus`, if `is_driven`, and calls `visit` for each.
/// Addresses that they have already are kept, and taken from `unused`. Nothing is written to other devices, and what is behind a bridge
/// among the functions is not visited. A BAR outside `declared`, the windows of the host bridge, is left out as [`enumerate`] does.
///
/// # Safety
///
/// `unused` are unused addresses that the bridges forward to this bus, and no other driver uses the device.
pub unsafe fn enumerate_device<P: Platform>(
    access: &ConfigAccess<P>,
    bus: u8,
    device: u8,
    declared: &Windows,
    unused: &mut Windows,
    is_driven: fn(&FunctionInfo) -> bool,
    mut visit: impl FnMut(PciSlot<P>),
) {
    let devices = 1u32.checked_shl(u32::from(device)).unwrap_or(0);
    for (at, info) in functions(access, bus, devices) {
        // SAFETY: by the contract of this function, no other driver uses the device.
        unsafe { for_each_range(access, at, &info, |address, len| unused.exclude(address, len)) };
    }
    // SAFETY: as above; the addresses are unused and forwarded to the bus.
    unsafe {
        assign(access, bus, devices, is_driven, unused);
        visit_functions(access, bus, devices, None, declared, &mut visit);
    }
}

/// Returns the BARs of a function.
///
/// # Safety
///
/// No other driver uses the function: for a moment it decodes no addresses.
unsafe fn bars<P: Platform>(access: &ConfigAccess<P>, at: Address, info: &FunctionInfo) -> Bars {
    // SAFETY: by the contract of this function.
    unsafe { Bars::read(&PciFunction::new(access, at), info.header_type) }
}

/// Calls `each` with the addresses and lengths that a function has: those of its BARs, and what it forwards if it is a bridge.
///
/// # Safety
///
/// No other driver uses the function.
unsafe fn for_each_range<P: Platform>(
    access: &ConfigAccess<P>,
    at: Address,
    info: &FunctionInfo,
    mut each: impl FnMut(u64, u64),
) {
    if info.header_type == HeaderType::Bridge {
        for window in bridge_windows(access, at).into_iter().flatten() {
            each(window.start, window.end.wrapping_sub(window.start));
        }
    }
    // SAFETY: by the contract of this function.
    unsafe { bars(access, at, info) }.ranges().for_each(|(address, len)| each(address, len));
}

/// Assigns addresses to the memory BARs on `bus` that have none, the largest first, so that alignment wastes nothing.
///
/// # Safety
///
/// `windows` are unused addresses that are forwarded to this bus, and no other driver uses the devices.
unsafe fn assign<P: Platform>(
    access: &ConfigAccess<P>,
    bus: u8,
    devices: u32,
    is_driven: fn(&FunctionInfo) -> bool,
    windows: &mut Windows,
) {
    let place = |bar: &Unassigned, windows: &mut Windows| {
        let Unassigned { at, index, size, width } = *bar;
        match windows.take(size, width) {
            // SAFETY: the address is from the window of the upstream bridges, and was allocated once.
            Some(address) => unsafe {
                set_address(&PciFunction::new(access, at), index, address, width);
            },
            None => log::warn!("pci {at}: no address for BAR {index}, {size} bytes"),
        }
    };
    let (mut unassigned, mut count) = ([None; MAX_UNASSIGNED], 0usize);
    for (at, info) in functions(access, bus, devices).filter(|(_, info)| is_driven(info)) {
        // SAFETY: by the contract of this function, no other driver uses the devices.
        for (index, bar) in unsafe { bars(access, at, &info) }.iter() {
            let Bar::Memory { address: 0, size, width } = bar else { continue };
            let bar = Unassigned { at, index, size, width };
            match unassigned.get_mut(count) {
                Some(slot) => {
                    *slot = Some(bar);
                    count = count.saturating_add(1);
                }
                None => place(&bar, windows),
            }
        }
    }
    let ordered = unassigned.get_mut(..count).unwrap_or_default();
    // The sort is of few and in place; functions of one size stay in their order.
    ordered.sort_unstable_by_key(|bar: &Option<Unassigned>| {
        bar.map(|bar| (core::cmp::Reverse(bar.size), bar.at, bar.index))
    });
    for bar in ordered.iter().flatten() {
        place(bar, windows);
    }
}

/// Calls `visit` for every function of `devices`, without BARs whose addresses are not in `declared`.
///
/// # Safety
///
/// No other driver uses the devices.
unsafe fn visit_functions<P: Platform>(
    access: &ConfigAccess<P>,
    bus: u8,
    devices: u32,
    alias: Option<u16>,
    declared: &Windows,
    visit: &mut impl FnMut(PciSlot<P>),
) {
    for (address, info) in functions(access, bus, devices) {
        // SAFETY: by the contract of this function.
        let mut bars = unsafe { bars(access, address, &info) };
        bars.retain(|index, start, size| {
            let is_forwarded = declared.may_contain(start, size);
            if !is_forwarded {
                log::warn!(
                    "pci {address}: BAR {index} at {start:#x} is outside the windows of its host bridge, ignored"
                );
            }
            is_forwarded
        });
        visit(PciSlot { function: PciFunction::new(access, address).with_alias(alias), info, bars });
    }
}

/// Iterates over the functions of the devices of `bus` whose bits are set in `devices`; of a single-function device, only function 0.
fn functions<P: Platform>(
    access: &ConfigAccess<P>,
    bus: u8,
    devices: u32,
) -> impl Iterator<Item = (Address, FunctionInfo)> + use<'_, P> {
    let segment = access.segment();
    (0..32u8).filter(move |device| devices & (1 << device) != 0).flat_map(move |device| {
        let zero = Address { segment, bus, device, function: 0 };
        let first = FunctionInfo::read(access, zero);
        let is_multi = first.is_some() && access.read(zero, HEADER_TYPE) & MULTI_FUNCTION != 0;
        let others = (1..8u8).filter(move |_| is_multi).filter_map(move |function| {
            let address = Address { function, ..zero };
            Some((address, FunctionInfo::read(access, address)?))
        });
        first.map(|info| (zero, info)).into_iter().chain(others)
    })
}

/// A set of bus numbers.
#[derive(Default)]
struct BusSet([u64; 4]);

impl BusSet {
    /// Adds `bus`; returns false if it already was in the set.
    fn add(&mut self, bus: u8) -> bool {
        let bit = 1u64 << (bus & 63);
        match self.0.get_mut(usize::from(bus >> 6)) {
            Some(word) if *word & bit == 0 => {
                *word |= bit;
                true
            }
            _ => false,
        }
    }

    fn contains(&self, bus: u8) -> bool {
        self.0.get(usize::from(bus >> 6)).is_some_and(|word| word & (1u64 << (bus & 63)) != 0)
    }
}

/// A BAR that has no address yet.
#[derive(Copy, Clone)]
struct Unassigned {
    at: Address,
    index: u8,
    size: u64,
    width: AddressWidth,
}

/// BARs of one bus that are ordered by size before they get addresses; what is beyond follows in the order of the functions.
const MAX_UNASSIGNED: usize = 64;

struct Walk<'a, P: Platform> {
    access: &'a ConfigAccess<P>,
    /// Whether a function is to be assigned addresses.
    is_driven: fn(&FunctionInfo) -> bool,
    last: u8,
    /// The highest bus number in use.
    highest: u8,
    /// The buses that this pass has reached.
    seen: BusSet,
    /// The requester id of what is on a bus, if a bridge above replaces it; or 0.
    aliases: [u16; 256],
    /// The buses whose devices are known, and these devices, a bit each.
    known: BusSet,
    devices: [u32; 256],
}

impl<'a, P: Platform> Walk<'a, P> {
    fn new(access: &'a ConfigAccess<P>, first: u8, is_driven: fn(&FunctionInfo) -> bool) -> Self {
        Self {
            access,
            is_driven,
            last: access.buses().1,
            highest: first,
            seen: BusSet::default(),
            aliases: [0; 256],
            known: BusSet::default(),
            devices: [0; 256],
        }
    }

    /// The devices on `bus`, a bit each. Every device number is read once in a walk.
    fn devices(&mut self, bus: u8) -> u32 {
        if self.known.add(bus) {
            let segment = self.access.segment();
            let is_there = |device: &u8| {
                let zero = Address { segment, bus, device: *device, function: 0 };
                FunctionInfo::read(self.access, zero).is_some()
            };
            let found = (0..32u8).filter(is_there).fold(0, |devices, device| devices | 1 << device);
            if let Some(devices) = self.devices.get_mut(usize::from(bus)) {
                *devices = found;
            }
        }
        self.devices.get(usize::from(bus)).copied().unwrap_or(0)
    }

    /// The requester id of what is on a bus, if it is not its own.
    fn alias(&self, bus: u8) -> Option<u16> {
        self.aliases.get(usize::from(bus)).copied().filter(|alias| *alias != 0)
    }

    /// Writes a register of the bridge at `at`.
    fn write(&self, at: Address, offset: u8, value: u32) {
        // SAFETY: by the contract of `enumerate`, no other driver uses the functions, and the windows are for them: bus numbers and
        // bridge windows affect nothing else.
        unsafe { self.access.write(at, offset, value) }
    }

    /// Visits each bus once, down to the maximum depth, to find the highest bus number.
    fn find_highest(&mut self, bus: u8, depth: u8) {
        if depth > MAX_DEPTH || !self.seen.add(bus) {
            return;
        }
        self.highest = self.highest.max(bus);
        for (at, info) in functions(self.access, bus, self.devices(bus)) {
            if info.header_type == HeaderType::Bridge {
                if let Some((secondary, subordinate)) = bus_numbers(self.access, at) {
                    self.highest = self.highest.max(subordinate.min(self.last));
                    self.find_highest(secondary, depth.saturating_add(1));
                }
            }
        }
    }

    /// Reserves the assigned addresses of BARs and bridges in `windows`.
    fn reserve(&mut self, bus: u8, windows: &mut Windows, depth: u8) {
        if depth > MAX_DEPTH || !self.seen.add(bus) {
            return;
        }
        for (at, info) in functions(self.access, bus, self.devices(bus)) {
            // SAFETY: by the contract of `enumerate`, no other driver uses the functions.
            unsafe { for_each_range(self.access, at, &info, |address, len| windows.reserve(address, len)) };
            if info.header_type == HeaderType::Bridge {
                if let Some((secondary, _)) = bus_numbers(self.access, at) {
                    self.reserve(secondary, windows, depth.saturating_add(1));
                }
            }
        }
    }

    /// Assigns missing bus numbers and addresses on `bus` and below, and visits the functions.
    fn descend(&mut self, bus: u8, windows: &mut Windows, depth: u8) {
        if depth > MAX_DEPTH || !self.seen.add(bus) {
            return;
        }
        let devices = self.devices(bus);
        // SAFETY: by the contract of `enumerate`, the windows are forwarded to its buses, whose functions have no other driver.
        unsafe { assign(self.access, bus, devices, self.is_driven, windows) };
        for (at, info) in functions(self.access, bus, devices) {
            if info.header_type == HeaderType::Bridge {
                self.bridge(at, windows, depth.saturating_add(1));
            }
        }
    }

    fn bridge(&mut self, at: Address, windows: &mut Windows, depth: u8) {
        let numbered = bus_numbers(self.access, at).map(|(secondary, _)| secondary);
        let secondary = match numbered {
            Some(secondary) => secondary,
            None => {
                let Some(next) = self.highest.checked_add(1).filter(|next| *next <= self.last) else {
                    log::warn!("pci: no bus number left for the bridge at {at}");
                    return;
                };
                self.highest = next;
                let latency = self.access.read(at, BUS_NUMBERS) & 0xff00_0000;
                // All buses, until the last one below the bridge is known.
                let all = u32::from_le_bytes([at.bus, next, self.last, 0]);
                self.write(at, BUS_NUMBERS, latency | all);
                next
            }
        };
        // The bridge next to the root is the one whose id arrives there.
        let alias = self.alias(at.bus).or_else(|| alias(self.access, at, secondary));
        if let Some(slot) = self.aliases.get_mut(usize::from(secondary)) {
            *slot = alias.unwrap_or(0);
        }
        let had_windows = bridge_windows(self.access, at).iter().any(Option::is_some);
        if had_windows {
            // Firmware has set its windows: functions behind it without an address cannot be assigned one.
            self.descend(secondary, &mut Windows::new(), depth);
        } else {
            windows.align(BRIDGE_UNIT);
            let before = windows.remaining();
            self.descend(secondary, windows, depth);
            windows.align(BRIDGE_UNIT);
            self.open_bridge(at, &before, &windows.remaining());
        }
        if numbered.is_none() {
            let latency = self.access.read(at, BUS_NUMBERS) & 0xff00_0000;
            let numbers = u32::from_le_bytes([at.bus, secondary, self.highest, 0]);
            self.write(at, BUS_NUMBERS, latency | numbers);
        }
    }

    /// Opens a bridge's windows for the addresses assigned behind it: the memory window below 4 GiB, the prefetchable window above.
    fn open_bridge(&mut self, at: Address, before: &[Option<Window>], after: &[Option<Window>]) {
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
            self.write(at, MEMORY_WINDOW, word);
        }
        if let Some(Window { start, end }) = high {
            let last = end.wrapping_sub(1);
            let word = ((start >> 16) as u32 & 0xfff0) | (last as u32 & 0xfff0_0000);
            self.write(at, PREFETCH_WINDOW, word);
            self.write(at, PREFETCH_BASE_HIGH, (start >> 32) as u32);
            self.write(at, PREFETCH_LIMIT_HIGH, (last >> 32) as u32);
        }
        let bridge = PciFunction::new(self.access, at);
        let command = bridge.command() | Command::MEMORY_SPACE | Command::BUS_MASTER;
        // SAFETY: the bridge forwards to functions behind it, which no other driver uses.
        unsafe { bridge.set_command(command) };
    }
}

//! The walk over the buses of a host bridge, which assigns the bus numbers and addresses that firmware left out.
//!
//! What it knows is in private pages, and it does not recurse: the host decides how deep bridges are nested, and kernels have small
//! stacks.

use crate::bar::set_address;
use crate::bridge::{
    BUS_NUMBERS, MEMORY_WINDOW, PREFETCH_BASE_HIGH, PREFETCH_LIMIT_HIGH, PREFETCH_WINDOW, alias,
    bridge_windows, bus_numbers,
};
use crate::enumerate::{bars, for_each_range};
use crate::functions::Functions;
use crate::{
    Address, AddressWidth, Bar, Command, ConfigAccess, FunctionInfo, HeaderType, PciFunction, Window, Windows,
};
use paravirt_platform::{AllocError, PageTable, Platform};

/// Maximum depth of nested bridges; what is behind deeper ones is not visited.
const MAX_DEPTH: usize = 16;
/// The unit of a bridge's window.
const BRIDGE_UNIT: u64 = 1 << 20;
/// BARs of one bus that are ordered by size before they get addresses; what is beyond comes first, in the order of the functions.
const MAX_UNASSIGNED: usize = 64;

/// A bus number.
#[derive(Copy, Clone, Default)]
struct Bus {
    /// The devices on it, a bit each, once they have been looked for.
    devices: Option<u32>,
    /// The requester id of what is on it, if a bridge above replaces it; or 0.
    alias: u16,
    /// Whether the walk in progress has reached it.
    is_reached: bool,
    /// Whether the walk in progress has looked for the bridges on it.
    is_done: bool,
}

/// A bus on the way from the host bridge to the one that is prepared.
struct Level {
    functions: Functions,
    /// The bridge above it; `None` for the first bus.
    bridge: Option<Address>,
    secondary: u8,
    /// Whether firmware gave the bridge its bus numbers.
    was_numbered: bool,
    /// What the windows had left before, if the bridge's are to be opened.
    before: Option<Windows>,
    /// Whether firmware has set the windows of a bridge above: functions without an address cannot be assigned one.
    is_closed: bool,
}

/// The buses of a host bridge.
pub(crate) struct Walk<P: Platform> {
    access: ConfigAccess<P>,
    /// Whether a function is to be assigned addresses.
    is_driven: fn(&FunctionInfo) -> bool,
    last: u8,
    /// The highest bus number in use.
    highest: u8,
    buses: PageTable<P, Bus>,
}

/// A BAR that has no address yet.
#[derive(Copy, Clone)]
struct Unassigned {
    at: Address,
    index: u8,
    /// The power of two that is its size in bytes.
    order: u8,
    width: AddressWidth,
}

impl<P: Platform> Walk<P> {
    pub fn new(
        platform: &P,
        access: &ConfigAccess<P>,
        first: u8,
        is_driven: fn(&FunctionInfo) -> bool,
    ) -> Result<Self, AllocError> {
        let buses = PageTable::new(platform, 256, |_| Bus::default())?;
        Ok(Self { access: access.clone(), is_driven, last: access.buses().1, highest: first, buses })
    }

    pub fn access(&self) -> &ConfigAccess<P> {
        &self.access
    }

    /// Assigns missing bus numbers, and missing addresses from `windows`.
    ///
    /// # Safety
    ///
    /// As for [`enumerate`](crate::enumerate).
    #[inline(never)]
    pub unsafe fn prepare(
        &mut self,
        platform: &P,
        first: u8,
        windows: &mut Windows,
    ) -> Result<(), AllocError> {
        let mut levels = PageTable::new(platform, MAX_DEPTH.saturating_add(1), |_| None)?;
        self.find_highest(first, windows);
        self.descend(first, windows, &mut levels);
        Ok(())
    }

    /// The devices on `bus`, a bit each. Every device number is read once in a walk.
    pub fn devices(&mut self, number: u8) -> u32 {
        let Self { access, buses, .. } = self;
        let Some(bus) = buses.get_mut(usize::from(number)) else { return 0 };
        *bus.devices.get_or_insert_with(|| {
            let segment = access.segment();
            let is_there = |device: &u8| {
                let zero = Address { segment, bus: number, device: *device, function: 0 };
                FunctionInfo::read(access, zero).is_some()
            };
            (0..32u8).filter(is_there).fold(0, |devices, device| devices | 1 << device)
        })
    }

    /// The requester id of what is on a bus, if it is not its own.
    pub fn alias(&self, bus: u8) -> Option<u16> {
        self.buses.get(usize::from(bus)).map(|bus| bus.alias).filter(|alias| *alias != 0)
    }

    /// The next bus with a higher number that was reached.
    pub fn next_bus(&self, bus: u8) -> Option<u8> {
        (bus.checked_add(1)?..=self.last).find(|bus| self.is_reached(*bus))
    }

    fn is_reached(&self, bus: u8) -> bool {
        self.buses.get(usize::from(bus)).is_some_and(|bus| bus.is_reached)
    }

    /// Marks a bus as reached; returns false if it already was.
    fn reach(&mut self, bus: u8) -> bool {
        let bus = self.buses.get_mut(usize::from(bus));
        bus.is_some_and(|bus| !core::mem::replace(&mut bus.is_reached, true))
    }

    fn forget_reached(&mut self) {
        self.buses.iter_mut().for_each(|bus| bus.is_reached = false);
    }

    /// Writes a register of the bridge at `at`.
    fn write(&self, at: Address, offset: u8, value: u32) {
        // SAFETY: by the contract of `prepare`, no other driver uses the functions, and the windows are for them: bus numbers and
        // bridge windows affect nothing else.
        unsafe { self.access.write(at, offset, value) }
    }

    /// Finds the highest bus number, and reserves the assigned addresses of BARs and bridges in `windows`.
    fn find_highest(&mut self, first: u8, windows: &mut Windows) {
        self.reach(first);
        let is_new = |bus: &Bus| bus.is_reached && !bus.is_done;
        while let Some(index) = self.buses.iter().position(is_new) {
            let Some(bus) = self.buses.get_mut(index) else { break };
            bus.is_done = true;
            let number = index as u8;
            self.highest = self.highest.max(number);
            let mut functions = Functions::new(number, self.devices(number));
            while let Some((at, info)) = functions.next(&self.access) {
                // SAFETY: by the contract of `prepare`, no other driver uses the functions.
                unsafe {
                    for_each_range(&self.access, at, &info, |address, len| windows.reserve(address, len))
                };
                if info.header_type == HeaderType::Bridge {
                    if let Some((secondary, subordinate)) = bus_numbers(&self.access, at) {
                        self.highest = self.highest.max(subordinate);
                        self.reach(secondary);
                    }
                }
            }
        }
        self.forget_reached();
    }

    /// Assigns missing bus numbers and addresses from bus `first` on, bridge by bridge: the numbers behind a bridge follow its own.
    fn descend(&mut self, first: u8, windows: &mut Windows, levels: &mut [Option<Level>]) {
        let root = Level {
            functions: self.enter(first, windows),
            bridge: None,
            secondary: first,
            was_numbered: true,
            before: None,
            is_closed: false,
        };
        let mut depth = 0usize;
        if let Some(level) = levels.first_mut() {
            *level = Some(root);
        }
        while let Some(level) = levels.get_mut(depth).and_then(Option::as_mut) {
            let is_closed = level.is_closed;
            let next = loop {
                match level.functions.next(&self.access) {
                    Some((at, info)) if info.header_type == HeaderType::Bridge => break Some(at),
                    Some(_) => {}
                    None => break None,
                }
            };
            let below = depth.saturating_add(1);
            match (next, levels.get_mut(below)) {
                (Some(at), Some(slot)) => {
                    if let Some(level) = self.begin(at, is_closed, windows) {
                        *slot = Some(level);
                        depth = below;
                    }
                }
                // Too deep.
                (Some(_), None) => {}
                (None, _) => {
                    let Some(level) = levels.get_mut(depth).and_then(Option::take) else { return };
                    self.end(&level, windows);
                    let Some(above) = depth.checked_sub(1) else { return };
                    depth = above;
                }
            }
        }
    }

    /// Assigns addresses to the functions on a bus, unless it was reached before; returns those that are to be looked at for bridges.
    fn enter(&mut self, bus: u8, windows: &mut Windows) -> Functions {
        if !self.reach(bus) {
            return Functions::default();
        }
        let functions = Functions::new(bus, self.devices(bus));
        // SAFETY: by the contract of `prepare`, the windows are forwarded to its buses, whose functions have no other driver.
        unsafe { assign(&self.access, functions, self.is_driven, windows) };
        functions
    }

    /// Gives the bridge at `at` bus numbers if it has none, and enters the bus behind it. `None` if no number is left.
    #[inline(never)]
    fn begin(&mut self, at: Address, is_closed: bool, windows: &mut Windows) -> Option<Level> {
        let numbered = bus_numbers(&self.access, at).map(|(secondary, _)| secondary);
        let secondary = match numbered {
            Some(secondary) => secondary,
            None => {
                let Some(next) = self.highest.checked_add(1).filter(|next| *next <= self.last) else {
                    log::warn!("pci: no bus number left for the bridge at {at}");
                    return None;
                };
                self.highest = next;
                // All buses, until the last one below the bridge is known.
                self.set_buses(at, next, self.last);
                next
            }
        };
        // The bridge next to the root is the one whose id arrives there.
        let alias = self.alias(at.bus).or_else(|| alias(&self.access, at, secondary));
        if let Some(bus) = self.buses.get_mut(usize::from(secondary)) {
            bus.alias = alias.unwrap_or(0);
        }
        let is_open = bridge_windows(&self.access, at).iter().any(Option::is_some);
        let is_closed = is_closed || is_open;
        let (functions, before) = if is_closed {
            (self.enter(secondary, &mut Windows::new()), Windows::new())
        } else {
            windows.align(BRIDGE_UNIT);
            let before = windows.clone();
            (self.enter(secondary, windows), before)
        };
        let before = if is_open { None } else { Some(before) };
        let was_numbered = numbered.is_some();
        Some(Level { functions, bridge: Some(at), secondary, was_numbered, before, is_closed })
    }

    /// Ends the walk behind a bridge: opens its windows for what was assigned there, and sets its last bus number.
    #[inline(never)]
    fn end(&mut self, level: &Level, windows: &mut Windows) {
        let Some(at) = level.bridge else { return };
        if let Some(before) = &level.before {
            if !level.is_closed {
                windows.align(BRIDGE_UNIT);
            }
            self.open_bridge(at, before, windows);
        }
        if !level.was_numbered {
            self.set_buses(at, level.secondary, self.highest);
        }
    }

    fn set_buses(&self, at: Address, secondary: u8, last: u8) {
        let latency = self.access.read(at, BUS_NUMBERS) & 0xff00_0000;
        self.write(at, BUS_NUMBERS, latency | u32::from_le_bytes([at.bus, secondary, last, 0]));
    }

    /// Opens a bridge's windows for the addresses assigned behind it: the memory window below 4 GiB, the prefetchable window above.
    fn open_bridge(&mut self, at: Address, before: &Windows, after: &Windows) {
        let (before, after) = (before.remaining(), after.remaining());
        let taken = before.iter().flatten().zip(after.iter().flatten()).filter(|(b, a)| a.start > b.start);
        let (mut low, mut high) = (None::<Window>, None::<Window>);
        for (before, after) in taken {
            let slot = if before.start >> 32 == 0 { &mut low } else { &mut high };
            let whole = slot.get_or_insert(Window { start: before.start, end: after.start });
            whole.start = whole.start.min(before.start);
            whole.end = whole.end.max(after.start);
        }
        let word = |start: u64, last: u64| ((start >> 16) as u32 & 0xfff0) | (last as u32 & 0xfff0_0000);
        if let Some(Window { start, end }) = low {
            self.write(at, MEMORY_WINDOW, word(start, end.wrapping_sub(1)));
        }
        if let Some(Window { start, end }) = high {
            let last = end.wrapping_sub(1);
            self.write(at, PREFETCH_WINDOW, word(start, last));
            self.write(at, PREFETCH_BASE_HIGH, (start >> 32) as u32);
            self.write(at, PREFETCH_LIMIT_HIGH, (last >> 32) as u32);
        }
        let bridge = PciFunction::new(&self.access, at);
        let command = bridge.command() | Command::MEMORY_SPACE | Command::BUS_MASTER;
        // SAFETY: the bridge forwards to functions behind it, which no other driver uses.
        unsafe { bridge.set_command(command) };
    }
}

/// Assigns addresses to the memory BARs of functions on one bus that have none, the largest first, so that alignment wastes nothing.
///
/// # Safety
///
/// `windows` are unused addresses that are forwarded to this bus, and no other driver uses the devices.
#[inline(never)]
pub(crate) unsafe fn assign<P: Platform>(
    access: &ConfigAccess<P>,
    functions: Functions,
    is_driven: fn(&FunctionInfo) -> bool,
    windows: &mut Windows,
) {
    let place = |bar: Unassigned, windows: &mut Windows| {
        let Unassigned { at, index, order, width } = bar;
        let size = 1u64.checked_shl(order.into()).unwrap_or(0);
        match windows.take(size, width) {
            // SAFETY: the address is from the window of the upstream bridges, and was allocated once.
            Some(address) => unsafe {
                set_address(&PciFunction::new(access, at), index, address, width);
            },
            None => log::warn!("pci {at}: no address for BAR {index}, {size} bytes"),
        }
    };
    let mut unassigned = [None; MAX_UNASSIGNED];
    for (at, info) in functions.iter(access).filter(|(_, info)| is_driven(info)) {
        // SAFETY: by the contract of this function, no other driver uses the devices.
        for (index, bar) in unsafe { bars(access, at, &info) }.iter() {
            let Bar::Memory { address: 0, size, width } = bar else { continue };
            let bar = Unassigned { at, index, order: size.trailing_zeros() as u8, width };
            match unassigned.iter_mut().find(|slot| slot.is_none()) {
                Some(slot) => *slot = Some(bar),
                None => place(bar, windows),
            }
        }
    }
    // They are in the order of the functions, in which those of one size stay.
    while let Some(largest) = unassigned.iter().flatten().map(|bar| bar.order).max() {
        let is_largest = |bar: &mut Unassigned| bar.order == largest;
        unassigned
            .iter_mut()
            .find_map(|slot| slot.take_if(is_largest))
            .into_iter()
            .for_each(|bar| place(bar, windows));
    }
}

//! Bridges: the buses behind them, and the addresses that they forward.

use crate::{Address, ConfigAccess, FunctionInfo, HeaderType, PciFunction, Window, Windows};
use paravirt_platform::Platform;

/// Registers of a bridge. PCI-to-PCI Bridge 1.2 §3.2
pub(crate) const BUS_NUMBERS: u8 = 0x18;
pub(crate) const MEMORY_WINDOW: u8 = 0x20;
pub(crate) const PREFETCH_WINDOW: u8 = 0x24;
pub(crate) const PREFETCH_BASE_HIGH: u8 = 0x28;
pub(crate) const PREFETCH_LIMIT_HIGH: u8 = 0x2c;

/// Returns the memory windows of a bridge, as far as they are in `declared`, the windows of the host bridge: the addresses that it
/// forwards to its secondary bus. None where nothing is declared, since the host writes the registers of a bridge. `function` is one.
pub fn forwarded<P: Platform>(function: &PciFunction<P>, declared: &Windows) -> Windows {
    let mut windows = Windows::new();
    for window in bridge_windows(function.access(), function.address()).into_iter().flatten() {
        if declared.contains(window.start, window.end.wrapping_sub(window.start)) {
            windows.add(window);
        }
    }
    windows
}

/// Returns the first and the last bus behind a bridge; `None` if `function` is no bridge, or has no bus numbers.
pub fn buses_behind<P: Platform>(function: &PciFunction<P>) -> Option<(u8, u8)> {
    let (access, at) = (function.access(), function.address());
    let info = FunctionInfo::read(access, at)?;
    if info.header_type == HeaderType::Bridge { bus_numbers(access, at) } else { None }
}

/// Returns the first and the last bus behind the bridge at `at`, if its registers are valid, as far as they can be reached.
pub(crate) fn bus_numbers<P: Platform>(access: &ConfigAccess<P>, at: Address) -> Option<(u8, u8)> {
    let [_, secondary, subordinate, _] = access.read(at, BUS_NUMBERS).to_le_bytes();
    let last = access.buses().1;
    let is_valid = secondary > at.bus && subordinate >= secondary && secondary <= last;
    is_valid.then_some((secondary, subordinate.min(last)))
}

/// Returns the requester id of what is behind the bridge at `at`, whose secondary bus is `secondary`, if the bridge replaces it: one to
/// conventional PCI takes ownership of what it passes on. PCI Express to PCI/PCI-X Bridge 1.0 §2.3
pub(crate) fn alias<P: Platform>(access: &ConfigAccess<P>, at: Address, secondary: u8) -> Option<u16> {
    /// The type of a PCI Express bridge to PCI, in its capabilities. PCI Express 6.0 §7.5.3.2
    const TO_PCI: u32 = 7;
    match express_capability(&PciFunction::new(access, at)) {
        None => Some(at.requester_id()),
        Some((_, word)) if word >> 20 & 0xf == TO_PCI => Some(u16::from(secondary) << 8),
        Some(_) => None,
    }
}

/// Returns the offset of the PCI Express capability, and its first word. PCI Express 6.0 §7.5.3
pub(crate) fn express_capability<P: Platform>(function: &PciFunction<P>) -> Option<(u8, u32)> {
    const POINTER: u8 = 0x34;
    const PCI_EXPRESS: u8 = 0x10;
    let mut at = function.read(POINTER) as u8 & 0xfc;
    // A list of capabilities has at most 48 entries.
    for _ in 0..48 {
        if at < 0x40 {
            return None;
        }
        let word = function.read(at);
        if word as u8 == PCI_EXPRESS {
            return Some((at, word));
        }
        at = (word >> 8) as u8 & 0xfc;
    }
    None
}

/// Returns the memory window and the prefetchable window of a bridge, if they are open.
pub(crate) fn bridge_windows<P: Platform>(access: &ConfigAccess<P>, at: Address) -> [Option<Window>; 2] {
    let open = |start: u64, last: u64| {
        (last >= start && start != 0).then(|| Window { start, end: (last | 0xf_ffff).saturating_add(1) })
    };
    let memory = access.read(at, MEMORY_WINDOW);
    let prefetch = access.read(at, PREFETCH_WINDOW);
    let high = |register| u64::from(access.read(at, register)) << 32;
    let (base, limit) = (u64::from(prefetch & 0xfff0) << 16, u64::from(prefetch & 0xfff0_0000));
    let wide = prefetch & 0xf == 1;
    let (base_high, limit_high) =
        if wide { (high(PREFETCH_BASE_HIGH), high(PREFETCH_LIMIT_HIGH)) } else { (0, 0) };
    [
        open(u64::from(memory & 0xfff0) << 16, u64::from(memory & 0xfff0_0000)),
        open(base_high | base, limit_high | limit),
    ]
}

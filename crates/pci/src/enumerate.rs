//! Bus enumeration: visits every function in the order of addresses, including those behind bridges.

use crate::bridge::bridge_windows;
use crate::functions::Functions;
use crate::walk::{Walk, assign};
use crate::{Address, Bars, ConfigAccess, FunctionInfo, HeaderType, PciFunction, PciSlot, Windows};
use core::fmt;
use paravirt_platform::{AllocError, Platform};

/// The functions on the buses of a host bridge, in the order of bus, device and function number: see [`enumerate`].
pub struct Enumeration<P: Platform> {
    walk: Walk<P>,
    /// The addresses that the host bridge forwards.
    declared: Windows,
    /// The bus that is visited.
    bus: u8,
    functions: Functions,
}

/// Prepares bus `first` and those below it, as far as `access` reaches, and returns their functions.
///
/// Bridges without bus numbers are assigned some. Functions for which `is_driven` returns true, and whose BARs have no address, are
/// assigned addresses from `windows`, and the windows of the upstream bridges are opened for them. Assigned addresses are kept; a BAR
/// outside `windows` is left out of the result, as the host bridge does not forward its address to the function: whatever is there (it
/// may be the kernel's RAM) is not its registers. Without any windows every address is accepted. What is left of `windows` has not been
/// assigned.
///
/// # Errors
///
/// [`AllocError`] if the platform has no private pages for it; nothing has been written then.
///
/// # Safety
///
/// `windows` are unused addresses that the host bridge forwards to these buses, and no other driver uses the functions, now and while
/// functions are taken from the result.
pub unsafe fn enumerate<P: Platform>(
    platform: &P,
    access: &ConfigAccess<P>,
    first: u8,
    windows: &mut Windows,
    is_driven: fn(&FunctionInfo) -> bool,
) -> Result<Enumeration<P>, AllocError> {
    let declared = windows.clone();
    let mut walk = Walk::new(platform, access, first, is_driven)?;
    // SAFETY: the caller upholds the same contract.
    unsafe { walk.prepare(platform, first, windows) }?;
    let functions = Functions::new(first, walk.devices(first));
    Ok(Enumeration { walk, declared, bus: first, functions })
}

impl<P: Platform> Iterator for Enumeration<P> {
    type Item = PciSlot<P>;

    fn next(&mut self) -> Option<PciSlot<P>> {
        loop {
            if let Some((at, info)) = self.functions.next(self.walk.access()) {
                let alias = self.walk.alias(self.bus);
                // SAFETY: by the contract of `enumerate`, no other driver uses the functions.
                return Some(unsafe { slot(self.walk.access(), at, info, alias, &self.declared) });
            }
            self.bus = self.walk.next_bus(self.bus)?;
            self.functions = Functions::new(self.bus, self.walk.devices(self.bus));
        }
    }
}

impl<P: Platform> fmt::Debug for Enumeration<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enumeration").field("bus", &self.bus).finish_non_exhaustive()
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
    let functions = Functions::new(bus, 1u32.checked_shl(u32::from(device)).unwrap_or(0));
    for (at, info) in functions.iter(access) {
        // SAFETY: by the contract of this function, no other driver uses the device.
        unsafe { for_each_range(access, at, &info, |address, len| unused.exclude(address, len)) };
    }
    // SAFETY: as above; the addresses are unused and forwarded to the bus.
    unsafe { assign(access, functions, is_driven, unused) };
    for (at, info) in functions.iter(access) {
        // SAFETY: as above.
        visit(unsafe { slot(access, at, info, None, declared) });
    }
}

/// Returns the BARs of a function.
///
/// # Safety
///
/// No other driver uses the function: for a moment it decodes no addresses.
pub(crate) unsafe fn bars<P: Platform>(access: &ConfigAccess<P>, at: Address, info: &FunctionInfo) -> Bars {
    // SAFETY: by the contract of this function.
    unsafe { Bars::read(&PciFunction::new(access, at), info.header_type) }
}

/// Calls `each` with the addresses and lengths that a function has: those of its BARs, and what it forwards if it is a bridge.
///
/// # Safety
///
/// No other driver uses the function.
pub(crate) unsafe fn for_each_range<P: Platform>(
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

/// Returns a function without the BARs whose addresses are not in `declared`.
///
/// # Safety
///
/// No other driver uses the function.
unsafe fn slot<P: Platform>(
    access: &ConfigAccess<P>,
    at: Address,
    info: FunctionInfo,
    alias: Option<u16>,
    declared: &Windows,
) -> PciSlot<P> {
    // SAFETY: by the contract of this function.
    let mut bars = unsafe { bars(access, at, &info) };
    bars.retain(|index, start, size| {
        let is_forwarded = declared.may_contain(start, size);
        if !is_forwarded {
            log::warn!(
                "pci {at}: BAR {index} at {start:#x} is outside the windows of its host bridge, ignored"
            );
        }
        is_forwarded
    });
    PciSlot { function: PciFunction::new(access, at).with_alias(alias), info, bars }
}

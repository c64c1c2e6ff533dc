//! The functions on a bus.

use crate::function::{HEADER_TYPE, MULTI_FUNCTION};
use crate::{Address, ConfigAccess, FunctionInfo};
use paravirt_platform::Platform;

/// The functions of devices on a bus that have not been visited, in the order of their numbers: of a single-function device only
/// function 0.
#[derive(Copy, Clone, Default)]
pub(crate) struct Functions {
    bus: u8,
    /// The devices that are left, a bit each.
    devices: u32,
    /// The next function of the first of them.
    function: u8,
    is_multi: bool,
}

impl Functions {
    /// The functions of the devices on `bus` whose bits are set in `devices`.
    pub fn new(bus: u8, devices: u32) -> Self {
        Self { bus, devices, function: 0, is_multi: false }
    }

    /// Returns the next function.
    pub fn next<P: Platform>(&mut self, access: &ConfigAccess<P>) -> Option<(Address, FunctionInfo)> {
        while self.devices != 0 {
            let (segment, device) = (access.segment(), self.devices.trailing_zeros() as u8);
            let at = Address { segment, bus: self.bus, device, function: self.function };
            let info = FunctionInfo::read(access, at);
            if at.function == 0 {
                self.is_multi = info.is_some() && access.read(at, HEADER_TYPE) & MULTI_FUNCTION != 0;
            }
            self.function = at.function.wrapping_add(1) & 7;
            if !self.is_multi || self.function == 0 {
                self.function = 0;
                self.devices &= self.devices.wrapping_sub(1);
            }
            if let Some(info) = info {
                return Some((at, info));
            }
        }
        None
    }

    /// Iterates over the functions.
    pub fn iter<P: Platform>(
        mut self,
        access: &ConfigAccess<P>,
    ) -> impl Iterator<Item = (Address, FunctionInfo)> + use<'_, P> {
        core::iter::from_fn(move || self.next(access))
    }
}

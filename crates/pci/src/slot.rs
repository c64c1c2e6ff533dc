//! A function with its identity and its base address registers.

use crate::bridge::bus_numbers;
use crate::enumerate::bars;
use crate::{Address, Bars, ConfigAccess, FunctionInfo, HeaderType, PciFunction, Presence};
use core::fmt;
use paravirt_platform::{InterruptLine, Platform};

/// A function found by the enumeration. There is one value per function: its owner may drive the function.
pub struct PciSlot<P: Platform> {
    pub(crate) function: PciFunction<P>,
    pub(crate) info: FunctionInfo,
    pub(crate) bars: Bars,
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

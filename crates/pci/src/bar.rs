//! Base address registers. PCI 3.0 §6.2.5

use crate::function::PciFunction;
use crate::{AddressWidth, BarRange, Command, HeaderType, OpenError};
use paravirt_platform::{MmioRegion, Platform};

/// The first base address register.
const BAR0: u8 = 0x10;
const COUNT: u8 = 6;

/// One base address register.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Bar {
    /// Memory.
    Memory {
        /// The address; 0 if it is unassigned.
        address: u64,
        /// The size in bytes, not 0.
        size: u64,
        /// The width of the address.
        width: AddressWidth,
    },
    /// I/O ports.
    Io {
        /// The first port.
        port: u32,
        /// The number of ports, not 0.
        size: u32,
    },
}

/// The base address registers of a function, by index.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Bars([Option<Bar>; COUNT as usize]);

impl Bars {
    /// Reads the registers of a device, which has six, or of a bridge, which has two; those of others are not known. Sizes are determined by writing all ones, while decoding of the BARs is disabled.
    /// Each register is restored, its lower half first, so that the hypervisor does not move the BAR meanwhile.
    ///
    /// # Safety
    ///
    /// Nothing else uses the function's registers meanwhile.
    pub unsafe fn read<P: Platform>(function: &PciFunction<P>, header_type: HeaderType) -> Self {
        let count = match header_type {
            HeaderType::Device => COUNT,
            HeaderType::Bridge => 2,
            HeaderType::Other(_) => return Self::default(),
        };
        let command = function.command();
        // SAFETY: decoding is disabled, which the contract of this function allows.
        unsafe {
            function.set_command(command.difference(Command::MEMORY_SPACE | Command::IO_SPACE));
        }
        let mut bars = [None; COUNT as usize];
        let mut is_upper_half = false;
        for (index, slot) in (0u8..count).zip(bars.iter_mut()) {
            if core::mem::take(&mut is_upper_half) {
                continue;
            }
            // SAFETY: decoding of the BARs is disabled.
            *slot = unsafe { read_one(function, index, count) };
            is_upper_half = matches!(slot, Some(Bar::Memory { width: AddressWidth::Bits64, .. }));
        }
        // SAFETY: the registers are restored, and so is the command.
        unsafe { function.set_command(command) };
        Self(bars)
    }

    /// Returns BAR `index`; `None` if it does not exist.
    pub fn get(&self, index: u8) -> Option<Bar> {
        *self.0.get(usize::from(index))?
    }

    /// Returns address and size of BAR `index`, if it is a memory BAR with an assigned address.
    pub fn memory(&self, index: u8) -> Option<(u64, u64)> {
        match self.get(index)? {
            Bar::Memory { address, size, .. } if address != 0 => Some((address, size)),
            _ => None,
        }
    }

    /// Returns the physical address of `range`; `None` if it is outside its BAR, or in a BAR that is not memory or has no address.
    pub fn locate(&self, range: &BarRange) -> Option<u64> {
        let (address, size) = self.memory(range.bar)?;
        let end = u64::from(range.offset).checked_add(u64::from(range.length))?;
        let phys = address.checked_add(u64::from(range.offset))?;
        phys.checked_add(u64::from(range.length))?;
        (end <= size).then_some(phys)
    }

    /// Maps `range`.
    ///
    /// # Errors
    ///
    /// [`OpenError::Bar`] if it cannot be [located](Self::locate), or [`OpenError::Map`] if the platform cannot map it.
    ///
    /// # Safety
    ///
    /// The addresses are those of a function that no other driver uses, and the bridges above forward them to it.
    pub unsafe fn map<P: Platform>(
        &self,
        platform: &P,
        range: &BarRange,
    ) -> Result<MmioRegion<P>, OpenError> {
        let phys = self.locate(range).ok_or(OpenError::Bar)?;
        // SAFETY: the range is in a BAR of the device: it contains registers, which by the contract of this function no other driver uses.
        Ok(unsafe { MmioRegion::map(platform, phys, range.length as usize) }?)
    }

    /// Removes memory BARs for which `keep` returns false, given index, address and size.
    pub(crate) fn retain(&mut self, keep: impl Fn(u8, u64, u64) -> bool) {
        for (index, slot) in (0u8..).zip(self.0.iter_mut()) {
            if let Some(Bar::Memory { address, size, .. }) = *slot {
                if address != 0 && !keep(index, address, size) {
                    *slot = None;
                }
            }
        }
    }

    /// Iterates over the ranges of addresses that are assigned: address and size of each.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().flatten().filter_map(|bar| match *bar {
            Bar::Memory { address, size, .. } if address != 0 => Some((address, size)),
            _ => None,
        })
    }

    /// Iterates over the existing BARs with their indices.
    pub fn iter(&self) -> impl Iterator<Item = (u8, Bar)> + '_ {
        (0u8..).zip(self.0.iter()).filter_map(|(index, bar)| Some((index, (*bar)?)))
    }
}

const fn register(index: u8) -> u8 {
    BAR0.saturating_add(index.saturating_mul(4))
}

/// # Safety
///
/// The function does not decode its BARs.
unsafe fn read_one<P: Platform>(function: &PciFunction<P>, index: u8, count: u8) -> Option<Bar> {
    let at = register(index);
    let old = function.read(at);
    // SAFETY: by the contract of this function, the value of the register is not decoded.
    let mask = unsafe { probe(function, at, old) };
    if old & 1 != 0 {
        let size = (mask & !3).wrapping_neg() & 0xffff;
        return (mask & !3 != 0 && size != 0).then_some(Bar::Io { port: old & !3, size });
    }
    let low = u64::from(mask & !0xf);
    let (address, mask, width) = match (old >> 1) & 3 {
        2 if index.wrapping_add(1) < count => {
            let above = register(index.saturating_add(1));
            let old_high = function.read(above);
            // SAFETY: by the contract of this function, the value of the register is not decoded.
            let high = unsafe { probe(function, above, old_high) };
            let address = u64::from(old & !0xf) | u64::from(old_high) << 32;
            (address, low | u64::from(high) << 32, AddressWidth::Bits64)
        }
        _ if mask & !0xf == 0 => return None,
        _ => (u64::from(old & !0xf), low | 0xffff_ffff << 32, AddressWidth::Bits32),
    };
    let size = mask.wrapping_neg();
    (mask != 0 && size.is_power_of_two()).then_some(Bar::Memory { address, size, width })
}

/// Writes all ones and restores `old`; returns the bits that are writable.
///
/// # Safety
///
/// The function does not decode its BARs.
unsafe fn probe<P: Platform>(function: &PciFunction<P>, at: u8, old: u32) -> u32 {
    // SAFETY: by the contract of this function, the value of the register is not decoded.
    unsafe {
        function.write(at, u32::MAX);
        let mask = function.read(at);
        function.write(at, old);
        mask
    }
}

/// Sets the address of BAR `index`.
///
/// # Safety
///
/// The address range is in a window that the upstream bridges forward to this function, and is not used by another function.
pub(crate) unsafe fn set_address<P: Platform>(
    function: &PciFunction<P>,
    index: u8,
    address: u64,
    width: AddressWidth,
) {
    // SAFETY: by the contract of this function, the PCI function may decode the address.
    unsafe {
        function.write(register(index), address as u32);
        if width == AddressWidth::Bits64 {
            function.write(register(index.saturating_add(1)), (address >> 32) as u32);
        }
    }
}

//! Reads firmware tables through mappings of the platform. No other module of this crate reads memory.

use crate::Firmware;
use core::fmt;
use core::ops::ControlFlow;
use paravirt_firmware::PhysicalMemory;
use paravirt_firmware::tables::{self, TableAt};
use paravirt_platform::{MapError, Platform};

/// Physical memory, read through mappings of the platform.
pub struct Physical<'a, P: Platform>(&'a P);

impl<'a, P: Platform> Physical<'a, P> {
    /// # Safety
    ///
    /// Reading physical memory that the platform maps has no side effects: no firmware table points to device registers whose reads
    /// have side effects.
    pub unsafe fn new(platform: &'a P) -> Self {
        Self(platform)
    }
}

impl<P: Platform> PhysicalMemory for Physical<'_, P> {
    fn read(&self, address: u64, into: &mut [u8]) -> Option<()> {
        // SAFETY: by the contract of `new`; the mapping is valid for the length until it is unmapped.
        unsafe {
            let base = self.0.map_firmware(address, into.len()).ok()?;
            for (i, byte) in into.iter_mut().enumerate() {
                *byte = base.add(i).read_volatile();
            }
            self.0.unmap(base, into.len());
        }
        Some(())
    }
}

/// Calls `visit` for every ACPI table that is reachable from `rsdp`, or from the RSDP in the BIOS area if that is `None`, until `visit`
/// breaks.
pub fn acpi_tables<P: Platform>(
    memory: &Physical<'_, P>,
    rsdp: Option<u64>,
    mut visit: impl FnMut(TableAt) -> ControlFlow<()>,
) {
    let Some(rsdp) = rsdp.or_else(|| tables::find_rsdp(memory)) else { return };
    let mut is_done = false;
    let walked = tables::walk(memory, rsdp, |table| is_done = is_done || visit(table).is_break());
    if walked.is_none() {
        log::warn!("acpi: no valid RSDP at {rsdp:#x}, tables are ignored");
    }
}

impl Firmware<'_> {
    /// Calls `visit` for every ACPI table that the boot loader passed on. The BIOS area is that of a PC, which has no device tree.
    pub(crate) fn acpi_tables<P: Platform>(
        &self,
        memory: &Physical<'_, P>,
        visit: impl FnMut(TableAt) -> ControlFlow<()>,
    ) {
        if self.rsdp.is_some() || self.device_tree.is_none() {
            acpi_tables(memory, self.rsdp, visit);
        }
    }
}

/// Calls `work` with the bytes of `table`.
///
/// # Errors
///
/// [`MapError`] if the platform cannot map the table.
pub fn with_table<P: Platform, R>(
    memory: &Physical<'_, P>,
    table: &TableAt,
    work: impl FnOnce(&[u8]) -> R,
) -> Result<R, MapError> {
    let len = table.len as usize;
    // SAFETY: by the contract of `Physical::new`. Tables do not change after the guest has started; the slice does not outlive the
    // mapping.
    unsafe {
        let base = memory.0.map_firmware(table.address, len)?;
        let result = work(core::slice::from_raw_parts(base.as_ptr(), len));
        memory.0.unmap(base, len);
        Ok(result)
    }
}

impl<P: Platform> fmt::Debug for Physical<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Physical")
    }
}

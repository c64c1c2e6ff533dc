//! Parsers of firmware tables and of the kernel command line, for finding devices.
//!
//! All parsers are pure, total and fuzzed functions of bytes, for use once at boot: the ACPI table directory ([`tables`]), the MCFG
//! ([`mcfg`]), the event registers of the FADT ([`fadt`]), a scan of AML for declarations, without an interpreter ([`aml`]), the flattened
//! device tree ([`device_tree`]), and the `virtio_mmio.device=` parameters of the command line ([`command_line`]). Physical memory is read through [`PhysicalMemory`].
//!
//! The scan finds declarations (`Name`, ACPI 6.5 §19.6), not methods. Virtual machine monitors declare the resources of MMIO
//! devices, the windows of host bridges and the sleep type of S5 that way. `paravirt` uses the results to find buses.
//!
//! ```
//! use paravirt_firmware::command_line::{MmioDevice, mmio_devices};
//!
//! let found: Vec<_> = mmio_devices("console=ttyS0 virtio_mmio.device=4K@0xd0000000:5").collect();
//! assert_eq!(found, [Ok(MmioDevice::new(0xd000_0000, 4096, 5))]);
//! ```
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub mod aml;
pub mod command_line;
pub mod device_tree;
pub mod fadt;
pub mod mcfg;
pub mod tables;

/// Reads of physical memory.
pub trait PhysicalMemory {
    /// Fills `into` from physical address `address`; returns `None` if the range is not readable memory.
    fn read(&self, address: u64, into: &mut [u8]) -> Option<()>;
}

/// Returns `N` bytes at offset `at` of `bytes`.
fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    field(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    field(bytes, at).map(u64::from_le_bytes)
}

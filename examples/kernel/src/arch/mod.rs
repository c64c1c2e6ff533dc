//! The processor and the board: descriptor tables, interrupts, other processors, time, ACPI.

pub mod acpi;
pub mod apic;
pub mod interrupts;
pub mod smp;
pub mod time;

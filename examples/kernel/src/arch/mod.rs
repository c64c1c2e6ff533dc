//! The x86-64 PC: interrupts, processors, time, ACPI.

pub mod acpi;
pub mod apic;
pub mod interrupts;
pub mod pci;
pub mod smp;
pub mod stack;
pub mod time;

//! 64-bit RISC-V: a machine that a device tree describes, with firmware that has SBI.

mod aia;
pub mod boot;
pub mod console;
pub mod cpu;
pub mod interrupts;
pub mod paging;
mod plic;
pub mod power;
pub mod processors;
mod runtime;
mod sbi;
pub mod time;
mod traps;

use alloc::format;
use alloc::string::String;
use boot::BootInfo;

/// Prepares the first processor, before there is memory to allocate.
pub fn early(_info: &BootInfo) {
    traps::install();
}

/// Reads what the device tree describes, and prepares time and interrupts. Returns the address of the RSDP, of which
/// there is none, and what the kernel prints of the machine.
pub fn init(info: &BootInfo) -> (Option<u64>, String) {
    let Some(hz) = time::init(info) else {
        log::error!("the device tree does not tell the rate of the clock");
        crate::exit::exit(1);
    };
    processors::init(info);
    let Some(controller) = interrupts::init(info) else {
        log::error!("the device tree has no interrupt controller that is known here");
        crate::exit::exit(1);
    };
    (info.rsdp(), format!("interrupts={controller} clock=riscv-time hz={hz}"))
}

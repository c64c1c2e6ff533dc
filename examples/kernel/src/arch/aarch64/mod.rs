//! 64-bit ARM: a machine that a device tree describes.

pub mod boot;
pub mod console;
pub mod cpu;
mod exceptions;
mod gic;
pub mod interrupts;
mod its;
pub mod paging;
pub mod power;
pub mod processors;
mod runtime;
pub mod time;

use alloc::format;
use alloc::string::String;
use boot::BootInfo;

/// Prepares the first processor, before there is memory to allocate.
pub fn early(_info: &BootInfo) {
    exceptions::install();
}

/// Reads what the device tree describes, and prepares time and interrupts. Returns no RSDP, and what the kernel prints of the machine.
pub fn init(info: &BootInfo) -> (Option<u64>, String) {
    power::init(info);
    let hz = time::init();
    let Some(gic) = gic::init(info) else {
        log::error!("the device tree has no interrupt controller that is known here");
        crate::exit::exit(1);
    };
    (None, format!("interrupts={gic} clock=arch-timer hz={hz}"))
}

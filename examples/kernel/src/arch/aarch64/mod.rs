//! 64-bit ARM: a machine that a device tree describes, or ACPI.

mod acpi;
pub mod boot;
pub mod console;
pub mod cpu;
pub mod efi;
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

/// Reads what the device tree or ACPI describes, and prepares time and interrupts. Returns the address of the RSDP, if the machine is
/// described by ACPI, and what the kernel prints of the machine.
pub fn init(info: &BootInfo) -> (Option<u64>, String) {
    let (rsdp, controller) = match (info.tree(), info.rsdp()) {
        (Some(tree), _) => {
            let method = tree.find("psci").and_then(|psci| psci.property("method"));
            power::set_secure(method == Some(b"smc\0"));
            processors::add_all(tree);
            (None, gic::find(tree))
        }
        (None, rsdp) => (rsdp, rsdp.and_then(acpi::init)),
    };
    let hz = time::init();
    let Some(controller) = controller else {
        log::error!("firmware describes no interrupt controller that is known here");
        crate::exit::exit(1);
    };
    let gic = gic::init(&controller);
    (rsdp, format!("interrupts={gic} clock=arch-timer hz={hz}"))
}

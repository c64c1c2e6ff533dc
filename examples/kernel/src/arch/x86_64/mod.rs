//! The x86-64 PC: interrupts, processors, time, ACPI.

mod acpi;
mod apic;
pub mod boot;
pub mod console;
pub mod cpu;
pub mod interrupts;
pub mod paging;
pub mod pci;
mod platform;
pub mod power;
pub mod processors;
mod runtime;
pub mod time;
pub mod xen;

use crate::exit;
use alloc::format;
use alloc::string::String;
use boot::{BootInfo, Protocol};

static mut FIRST: interrupts::PerProcessor = interrupts::PerProcessor::new();

/// Prepares the first processor, before there is memory to allocate.
pub fn early(info: &BootInfo) {
    // A boot loader may leave the cursor, and terminal escape sequences, in the middle of a line.
    if info.protocol == Protocol::Multiboot2 {
        power::TRIPLE_FAULT_ON_EXIT.store(false, core::sync::atomic::Ordering::Relaxed);
        crate::println!("");
    }
    let first = &raw mut FIRST;
    // SAFETY: only the first processor runs this, and only once.
    unsafe { (*first).install() }
}

/// Reads what firmware describes, and prepares time and interrupts. Returns the address of the RSDP, if there is one, and what the kernel
/// prints of the machine.
pub fn init(info: &BootInfo) -> (Option<u64>, String) {
    let rsdp = acpi::init(info.rsdp);
    let (clock, hz) = time::init();
    // Before the local APIC is enabled: an interrupt that is pending in the PIC would be spurious once LINT0 is masked.
    mask_pic();
    if apic::init().is_err() {
        log::error!("cannot map the registers of the local APIC");
        exit::exit(1);
    }
    apic::calibrate();
    let apic = if apic::is_x2apic() { "x2apic" } else { "xapic" };
    (rsdp, format!("apic={apic} clock={clock} hz={hz}"))
}

/// Masks all pins of the PICs, if there are any: interrupts are delivered through the APICs.
fn mask_pic() {
    for port in [0x21, 0xa1] {
        // SAFETY: the ports belong to the PICs or to no device.
        unsafe { ::x86_64::instructions::port::Port::<u8>::new(port).write(0xff) }
    }
}

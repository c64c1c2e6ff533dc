//! How the machine ends.

use super::acpi;
use crate::exit::stop;
use core::sync::atomic::{AtomicBool, Ordering};
use x86_64::instructions::port::Port;

/// The port of QEMU's isa-debug-exit; writes to it have no effect elsewhere.
const DEBUG_EXIT: u16 = 0xf4;

/// Whether to cause a triple fault if ACPI cannot power the machine off. False for a machine that boots from a disk, which would
/// boot again.
pub static TRIPLE_FAULT_ON_EXIT: AtomicBool = AtomicBool::new(true);

/// Tells QEMU the exit code.
pub fn report(code: u8) {
    // SAFETY: the port belongs to QEMU's isa-debug-exit or to no device.
    unsafe { Port::<u8>::new(DEBUG_EXIT).write(code) }
}

/// Powers the machine off.
pub fn off() -> ! {
    super::xen::power_off();
    acpi::power_off();
    match TRIPLE_FAULT_ON_EXIT.load(Ordering::Relaxed) {
        true => {
            reset_by_keyboard_controller();
            triple_fault()
        }
        false => stop(),
    }
}

/// Resets the machine through the keyboard controller, if there is one. Firecracker ends with status 0 then, and as crashed after a triple
/// fault.
fn reset_by_keyboard_controller() {
    const COMMAND: u16 = 0x64;
    const INPUT_FULL: u8 = 1 << 1;
    const PULSE_RESET: u8 = 0xfe;
    // SAFETY: the port belongs to the keyboard controller or to no device; the machine has nothing more to do.
    unsafe {
        let mut port = Port::<u8>::new(COMMAND);
        // Without a controller the register reads as all ones.
        if (0..1000).any(|_| port.read() & INPUT_FULL == 0) {
            port.write(PULSE_RESET);
        }
    }
    acpi::wait_a_second();
}

/// Resets the machine by a triple fault: an exception with an empty interrupt descriptor table.
fn triple_fault() -> ! {
    let empty = x86_64::structures::DescriptorTablePointer { limit: 0, base: x86_64::VirtAddr::zero() };
    // SAFETY: the machine is reset; no interrupt has to be handled any more.
    unsafe { x86_64::instructions::tables::lidt(&empty) }
    x86_64::instructions::interrupts::int3();
    stop()
}

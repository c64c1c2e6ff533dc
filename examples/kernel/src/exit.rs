//! The end: the verdict, and three ways to switch the machine off.

use crate::{arch::acpi, say};
use core::sync::atomic::{AtomicBool, Ordering};
use x86_64::instructions::{hlt, interrupts, port::Port};

/// QEMU's isa-debug-exit; harmless elsewhere.
const DEBUG_EXIT: u16 = 0xf4;

/// Whether a reset is an end, too: of a machine that was made for this kernel, but not of one that boots from a disk.
pub static RESET_ENDS: AtomicBool = AtomicBool::new(true);

/// Says how it went and switches the machine off. `code` is 0 for success.
pub fn exit(code: u8) -> ! {
    say!("same exit={code}");
    say!("exit={code}");
    // SAFETY: the port is QEMU's isa-debug-exit or nobody's.
    unsafe { Port::<u8>::new(DEBUG_EXIT).write(code) }
    interrupts::disable();
    off()
}

fn off() -> ! {
    acpi::power_off();
    match RESET_ENDS.load(Ordering::Relaxed) {
        true => triple_fault(),
        false => stop(),
    }
}

/// Resets the machine by an undeliverable exception (triple fault).
fn triple_fault() -> ! {
    let empty = x86_64::structures::DescriptorTablePointer { limit: 0, base: x86_64::VirtAddr::zero() };
    // SAFETY: nothing is to be continued.
    unsafe { x86_64::instructions::tables::lidt(&empty) }
    x86_64::instructions::interrupts::int3();
    stop()
}

/// Halts for good.
pub fn stop() -> ! {
    loop {
        interrupts::disable();
        hlt();
    }
}

/// What tells the host of a crash.
pub static CRASH: spin::Once<paravirt::CrashReporter<crate::platform::Machine>> = spin::Once::new();
/// The first of the values that a crash is reported with: "paravirt" in ASCII.
const CRASH_MAGIC: u64 = 0x7061_7261_7669_7274;

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    interrupts::disable();
    match info.location() {
        Some(at) => crate::console::last_line(format_args!(
            "panic=\"{}\" at={}:{}",
            info.message(),
            at.file(),
            at.line()
        )),
        None => crate::console::last_line(format_args!("panic=\"{}\"", info.message())),
    }
    if let Some(reporter) = CRASH.get() {
        let (line, column) =
            info.location().map_or((0, 0), |at| (u64::from(at.line()), u64::from(at.column())));
        reporter.report([CRASH_MAGIC, line, column, 101, 0], info.message().as_str());
    }
    crate::console::last_line(format_args!("same exit=101"));
    crate::console::last_line(format_args!("exit=101"));
    // SAFETY: as in `exit`.
    unsafe { Port::<u8>::new(DEBUG_EXIT).write(101) }
    off()
}

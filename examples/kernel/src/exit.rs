//! Exit: prints the exit code and powers the machine off; the panic handler.

use crate::arch::{cpu, power};
use crate::println;

/// Prints `code`, 0 for success, and powers the machine off.
pub fn exit(code: u8) -> ! {
    println!("same exit={code}");
    println!("exit={code}");
    power::report(code);
    cpu::disable_interrupts();
    power::off()
}

/// Halts this processor for good, with interrupts disabled.
pub fn stop() -> ! {
    loop {
        cpu::disable_interrupts();
        cpu::wait();
    }
}

/// Reports a panic to the host; set once, if the host accepts crash reports.
pub static CRASH: spin::Once<paravirt::CrashReporter<crate::platform::Machine>> = spin::Once::new();
/// The first of the five values of a crash report: "paravirt" in ASCII.
const CRASH_MAGIC: u64 = 0x7061_7261_7669_7274;

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    cpu::disable_interrupts();
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
    power::report(101);
    power::off()
}

//! The counter `time`: the kernel's clock, and each processor's timer.

use super::boot::BootInfo;
use super::sbi;
use crate::arch::counter;
use core::arch::asm;
use paravirt_platform::Instant;

fn count() -> u64 {
    let count: u64;
    // SAFETY: reads a register.
    unsafe { asm!("rdtime {}", out(reg) count, options(nomem, nostack)) }
    count
}

/// Returns the time since the kernel started.
pub fn now() -> Instant {
    counter::instant(count())
}

/// Starts the clock; returns its rate in Hz, which the device tree tells.
pub fn init(info: &BootInfo) -> Option<u64> {
    let hz = u64::from(info.tree()?.find("cpus")?.number("timebase-frequency")?);
    counter::start(count(), hz);
    Some(hz)
}

/// Sets this processor's timer to raise an interrupt in `nanos` nanoseconds, or to raise none.
pub fn set_timer(nanos: Option<u64>) {
    sbi::set_timer(nanos.map_or(u64::MAX, |nanos| count().saturating_add(counter::counts(nanos))));
}

//! The generic timer: the kernel's clock, and each processor's timer. Arm ARM D12

use crate::arch::counter;
use core::arch::asm;
use paravirt_platform::Instant;

/// Its interrupt: the virtual timer's, private to each processor. Arm BSA §3.8
pub const INTERRUPT: u32 = 27;
/// In its control register: it raises its interrupt, which is masked, when the time has come.
const ENABLE: u64 = 1 << 0;

fn count() -> u64 {
    let count: u64;
    // SAFETY: reads a register; the barrier keeps the read in program order.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) count, options(nomem, nostack)) }
    count
}

/// Returns the time since the kernel started.
pub fn now() -> Instant {
    counter::instant(count())
}

/// Starts the clock; returns its rate in Hz.
pub fn init() -> u64 {
    let hz: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) hz, options(nomem, nostack)) }
    counter::start(count(), hz);
    hz
}

/// Sets this processor's timer to raise an interrupt in `nanos` nanoseconds, or to raise none.
pub fn set_timer(nanos: Option<u64>) {
    let at = nanos.map(|nanos| count().saturating_add(counter::counts(nanos)));
    // SAFETY: the timer is this processor's, and its interrupt is handled.
    unsafe {
        if let Some(at) = at {
            asm!("msr cntv_cval_el0, {}", in(reg) at, options(nomem, nostack));
        }
        let control = if at.is_some() { ENABLE } else { 0 };
        asm!("msr cntv_ctl_el0, {}", "isb", in(reg) control, options(nomem, nostack));
    }
}

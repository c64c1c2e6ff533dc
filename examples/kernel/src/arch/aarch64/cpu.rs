//! The processor's interrupt mask, its wait for an interrupt, and its timer.

use super::time;
use core::arch::asm;

/// The mask of interrupts (IRQ) in DAIF.
const MASKED: u64 = 1 << 7;

/// Masks interrupts. Accesses to memory stay on their side of this, as the compiler is not told otherwise.
pub fn disable_interrupts() {
    // SAFETY: masks interrupts of this processor.
    unsafe { asm!("msr daifset, #2", options(nostack)) }
}

/// Takes interrupts from now on.
pub fn enable_interrupts() {
    // SAFETY: the exception vectors are installed.
    unsafe { asm!("msr daifclr, #2", options(nostack)) }
}

/// Waits for an interrupt, one that is masked too.
pub fn wait() {
    // SAFETY: has no effect but the wait.
    unsafe { asm!("dsb sy", "wfi", options(nostack)) }
}

/// Waits for an interrupt, which is taken then. It does not slip in between: a masked one ends the wait.
pub fn enable_interrupts_and_wait() {
    wait();
    enable_interrupts();
}

/// Runs `work` with interrupts masked.
pub fn without_interrupts<R>(work: impl FnOnce() -> R) -> R {
    let before: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, daif", out(reg) before, options(nostack)) }
    disable_interrupts();
    let result = work();
    if before & MASKED == 0 {
        enable_interrupts();
    }
    result
}

/// Sets this processor's timer to raise an interrupt in `nanos` nanoseconds, or to raise none.
pub fn set_timer(nanos: Option<u64>) {
    time::set_timer(nanos);
}

/// Returns the stack pointer.
#[inline(always)]
pub fn stack_pointer() -> u64 {
    let top: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, sp", out(reg) top, options(nomem, nostack, preserves_flags)) }
    top
}

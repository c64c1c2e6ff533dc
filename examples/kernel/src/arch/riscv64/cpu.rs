//! The processor's interrupt mask, its wait for an interrupt, and its timer. RISC-V privileged architecture, chapter 10

use super::time;
use core::arch::asm;

/// In sstatus: interrupts are taken.
const ENABLED: u64 = 1 << 1;

/// Masks interrupts. Accesses to memory stay on their side of this, as the compiler is not told otherwise.
pub fn disable_interrupts() {
    // SAFETY: masks interrupts of this processor.
    unsafe { asm!("csrc sstatus, {}", in(reg) ENABLED, options(nostack)) }
}

/// Takes interrupts from now on.
pub fn enable_interrupts() {
    // SAFETY: the trap handler is installed.
    unsafe { asm!("csrs sstatus, {}", in(reg) ENABLED, options(nostack)) }
}

/// Waits for an interrupt, one that is masked too.
pub fn wait() {
    // SAFETY: has no effect but the wait.
    unsafe { asm!("fence iorw, iorw", "wfi", options(nostack)) }
}

/// Waits for an interrupt, which is taken then. It does not slip in between: a masked one ends the wait.
pub fn enable_interrupts_and_wait() {
    wait();
    enable_interrupts();
}

/// Runs `work` with interrupts masked.
pub fn without_interrupts<R>(work: impl FnOnce() -> R) -> R {
    let before: u64;
    // SAFETY: masks interrupts of this processor, and reads whether they were.
    unsafe { asm!("csrrc {}, sstatus, {}", out(reg) before, in(reg) ENABLED, options(nostack)) }
    let result = work();
    if before & ENABLED != 0 {
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
    unsafe { asm!("mv {}, sp", out(reg) top, options(nomem, nostack, preserves_flags)) }
    top
}

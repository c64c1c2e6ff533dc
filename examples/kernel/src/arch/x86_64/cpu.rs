//! The processor's interrupt flag, and its wait for an interrupt.

use super::apic;
pub use x86_64::instructions::hlt as wait;
pub use x86_64::instructions::interrupts::{
    disable as disable_interrupts, enable as enable_interrupts, enable_and_hlt as enable_interrupts_and_wait,
    without_interrupts,
};

/// Sets this processor's timer to raise an interrupt in `nanos` nanoseconds, or to raise none.
pub fn set_timer(nanos: Option<u64>) {
    apic::set_timer(nanos);
}

/// Returns the stack pointer.
#[inline(always)]
pub fn stack_pointer() -> u64 {
    let top: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, rsp", out(reg) top, options(nomem, nostack, preserves_flags)) }
    top
}

//! How deep calls go on the boot stack. Interrupts have stacks of their own on x86-64; on ARM they count as calls.

use crate::arch::cpu::stack_pointer;

unsafe extern "C" {
    static boot_stack: u8;
}

const PATTERN: u64 = 0x5aa5_c33c_5aa5_c33c;

/// Runs `work` on the boot stack; returns its result, and how many bytes of the stack it used.
pub fn measure<R>(work: impl FnOnce() -> R) -> (R, usize) {
    let top = stack_pointer();
    // Below the frame of this function, and what the compiler may use below the stack pointer.
    let words = (&raw const boot_stack as u64..top - 512).step_by(8);
    for at in words.clone() {
        // SAFETY: the stack below this frame holds nothing, and is not used by interrupts.
        unsafe { (at as *mut u64).write_volatile(PATTERN) }
    }
    let result = call(work);
    // SAFETY: as above; what was called has returned.
    let deepest = words.into_iter().find(|at| unsafe { (*at as *const u64).read_volatile() } != PATTERN);
    (result, (top - deepest.unwrap_or(top)) as usize)
}

/// Calls `work` in a frame of its own, below the caller's.
#[inline(never)]
fn call<R>(work: impl FnOnce() -> R) -> R {
    work()
}

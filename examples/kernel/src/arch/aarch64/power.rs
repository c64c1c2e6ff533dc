//! How the machine ends: by PSCI, the calls to firmware for processors and power. Arm DEN 0022

use crate::exit::stop;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

const CPU_ON: u32 = 0xc400_0003;
const SYSTEM_OFF: u32 = 0x8400_0008;

/// Whether calls are made by `smc`, not by `hvc`.
static IS_SECURE: AtomicBool = AtomicBool::new(false);

/// Sets whether calls are made by `smc`.
pub fn set_secure(is_secure: bool) {
    IS_SECURE.store(is_secure, Ordering::Relaxed);
}

fn call(function: u32, first: u64, second: u64, third: u64) -> i64 {
    let result: i64;
    // SAFETY: the calls are those of PSCI, which preserve what is not listed; they affect processors and power alone.
    unsafe {
        if IS_SECURE.load(Ordering::Relaxed) {
            asm!("smc #0", inlateout("x0") u64::from(function) => result, inlateout("x1") first => _,
                inlateout("x2") second => _, inlateout("x3") third => _, clobber_abi("C"), options(nostack));
        } else {
            asm!("hvc #0", inlateout("x0") u64::from(function) => result, inlateout("x1") first => _,
                inlateout("x2") second => _, inlateout("x3") third => _, clobber_abi("C"), options(nostack));
        }
    }
    result
}

/// Starts a processor at physical address `entry` with `context` in its first register; returns whether it was started.
pub fn start_processor(id: u64, entry: u64, context: u64) -> bool {
    call(CPU_ON, id, entry, context) == 0
}

/// Nothing: the exit code is printed.
pub fn report(_code: u8) {}

/// Powers the machine off.
pub fn off() -> ! {
    call(SYSTEM_OFF, 0, 0, 0);
    stop()
}

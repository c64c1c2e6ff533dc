//! Calls to the firmware: console, timer, interrupts between processors, their start, and power. RISC-V SBI specification 2.0

use core::arch::asm;

/// Extensions and their functions. §4.8, §6.1, §7.1, §9.1, §10.1, §12.3
const BASE: (u64, u64) = (0x10, 3);
const TIMER: (u64, u64) = (0x5449_4d45, 0);
const SEND_INTERRUPT: (u64, u64) = (0x0073_5049, 0);
const START_PROCESSOR: (u64, u64) = (0x48_534d, 0);
const RESET: (u64, u64) = (0x5352_5354, 0);
const WRITE_BYTE: (u64, u64) = (0x4442_434e, 2);
/// The console of firmware that does not have the one above. §5.2
const OLD_WRITE_BYTE: (u64, u64) = (0x01, 0);

/// Calls a function; returns its error, 0 for none, and its value.
fn call((extension, function): (u64, u64), arguments: [u64; 3]) -> (i64, u64) {
    let [first, second, third] = arguments;
    let (error, value);
    // SAFETY: the firmware preserves all other registers. None of the functions above writes memory of the kernel.
    unsafe {
        asm!("ecall", inlateout("a0") first => error, inlateout("a1") second => value, in("a2") third,
            in("a6") function, in("a7") extension, options(nostack));
    }
    (error, value)
}

/// Returns whether the firmware has the console of SBI 2.0.
pub fn has_console() -> bool {
    call(BASE, [WRITE_BYTE.0, 0, 0]) >= (0, 1)
}

/// Writes a byte to the console: the one of SBI 2.0, or the older one.
pub fn write_byte(byte: u8, is_old: bool) {
    call(if is_old { OLD_WRITE_BYTE } else { WRITE_BYTE }, [u64::from(byte), 0, 0]);
}

/// Sets this processor's timer to the count `at`, which ends its pending interrupt.
pub fn set_timer(at: u64) {
    call(TIMER, [at, 0, 0]);
}

/// Interrupts the processor with this id.
pub fn send_interrupt(id: u64) {
    call(SEND_INTERRUPT, [1, id, 0]);
}

/// Starts a processor at physical address `entry` with `context` in its second register.
pub fn start_processor(id: u64, entry: u64, context: u64) {
    call(START_PROCESSOR, [id, entry, context]);
}

/// Powers the machine off; returns if the firmware cannot. A failure of the kernel is told to it.
pub fn power_off(is_failure: bool) {
    call(RESET, [0, u64::from(is_failure), 0]);
}

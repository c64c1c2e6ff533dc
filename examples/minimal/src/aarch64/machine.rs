//! QEMU's `virt`: RAM and the device tree at 1 GiB, a PL011, everything mapped one to one by the entry code.

use core::arch::{asm, global_asm};
use core::ops::Range;
use core::ptr::NonNull;
use paravirt::Firmware;
use paravirt_platform::*;

global_asm!(include_str!("entry.s"));

/// RAM, of which the entry code maps a GiB. A port refuses all RAM of the machine.
pub const RAM: Range<u64> = 1 << 30..2 << 30;
/// Up to where the entry code maps.
const MAPPED: u64 = 1 << 40;
/// The data register of the serial port.
const PL011: *mut u32 = 0x900_0000 as *mut u32;

/// Called by the entry code. QEMU puts the device tree at the start of RAM, for a kernel that is an ELF file.
#[unsafe(no_mangle)]
extern "C" fn start() -> ! {
    // SAFETY: the first 2 MiB of RAM are QEMU's, and this kernel is behind them.
    let tree = unsafe { core::slice::from_raw_parts(RAM.start as *const u8, 2 << 20) };
    crate::run(&Firmware::new(None).with_device_tree(tree))
}

pub fn now() -> Instant {
    let (count, frequency): (u64, u64);
    // SAFETY: the instructions only read the counter of the generic timer, and its frequency.
    unsafe {
        asm!("isb", "mrs {}, cntvct_el0", out(reg) count, options(nostack));
        asm!("mrs {}, cntfrq_el0", out(reg) frequency, options(nostack));
    }
    Instant::from_nanos((u128::from(count) * 1_000_000_000 / u128::from(frequency.max(1))) as u64)
}

pub fn map(phys: u64, len: usize) -> Result<NonNull<u8>, MapError> {
    let is_mapped = phys.checked_add(len as u64).is_some_and(|end| end <= MAPPED);
    NonNull::new(phys as *mut u8).filter(|_| is_mapped && len > 0).ok_or(MapError)
}

/// Prints to the serial port.
pub fn print(byte: u8) {
    // SAFETY: the register is that of the serial port.
    unsafe { paravirt_platform::write_register(NonNull::new_unchecked(PL011), u32::from(byte)) };
}

/// Ends the machine by PSCI: SYSTEM_OFF. Arm DEN 0022
pub fn exit(_code: u32) -> ! {
    loop {
        // SAFETY: the call ends the machine.
        unsafe { asm!("hvc #0", in("x0") 0x8400_0008u64, options(nostack)) };
    }
}

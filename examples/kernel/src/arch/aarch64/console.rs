//! A PL011 serial port. Arm DDI 0183

use core::sync::atomic::{AtomicU64, Ordering};

/// Where QEMU's machine `virt` has it: the kernel prints before it has read the device tree.
const DEFAULT: u64 = 0x900_0000;
/// Registers.
const DATA: u64 = 0x00;
const FLAGS: u64 = 0x18;
const CONTROL: u64 = 0x30;
const TRANSMIT_FULL: u32 = 1 << 5;
/// The port, its transmitter and its receiver.
const ENABLE: u32 = 1 << 0 | 1 << 8 | 1 << 9;

/// The address of its registers; 0 for no port.
static BASE: AtomicU64 = AtomicU64::new(DEFAULT);

/// Takes the port at the address that the device tree declares; none if it declares none.
pub fn set_base(base: Option<u64>) {
    BASE.store(base.unwrap_or(0), Ordering::Relaxed);
}

/// Switches the port on; its rate does not matter to an emulated port.
pub fn init() {
    let base = BASE.load(Ordering::Relaxed);
    if base != 0 {
        // SAFETY: as in `has_room`.
        unsafe { ((base + CONTROL) as *mut u32).write_volatile(ENABLE) }
    }
}

/// Returns whether the port takes a byte.
pub fn has_room() -> bool {
    let base = BASE.load(Ordering::Relaxed);
    // SAFETY: the port's registers are there, mapped one to one.
    base != 0 && unsafe { ((base + FLAGS) as *const u32).read_volatile() } & TRANSMIT_FULL == 0
}

/// Writes a byte; call it when there is room.
pub fn put(byte: u8) {
    // SAFETY: as in `has_room`.
    unsafe { ((BASE.load(Ordering::Relaxed) + DATA) as *mut u32).write_volatile(u32::from(byte)) }
}

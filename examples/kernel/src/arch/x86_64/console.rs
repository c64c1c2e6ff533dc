//! The first serial port (COM1), or the console of a domain of Xen without one.

use super::xen;
use x86_64::instructions::port::Port;

const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = COM1 + 5;
const TRANSMITTER_EMPTY: u8 = 1 << 5;

fn line_status() -> u8 {
    // SAFETY: the port belongs to the first serial port or to no device.
    unsafe { Port::<u8>::new(LINE_STATUS).read() }
}

/// Returns whether the port takes a byte. Without a port its registers read as all ones.
pub fn has_room() -> bool {
    if xen::has_console() { xen::has_room() } else { line_status() & TRANSMITTER_EMPTY != 0 }
}

/// Writes a byte.
pub fn put(byte: u8) {
    if xen::has_console() {
        return xen::put(byte);
    }
    // SAFETY: as in `line_status`.
    unsafe { Port::<u8>::new(COM1).write(byte) }
}

/// Sets the port up (8 data bits, FIFO on; the baud rate does not matter to an emulated port).
pub fn init() {
    if line_status() == u8::MAX {
        return xen::find_console();
    }
    for (offset, value) in [(1u16, 0u8), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 3)] {
        // SAFETY: as in `line_status`.
        unsafe { Port::<u8>::new(COM1 + offset).write(value) }
    }
}

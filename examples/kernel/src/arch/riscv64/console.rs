//! The console of the firmware.

use super::sbi;
use core::sync::atomic::{AtomicBool, Ordering};

/// Whether only the older console is there.
static IS_OLD: AtomicBool = AtomicBool::new(true);

/// Finds out which console there is.
pub fn init() {
    IS_OLD.store(!sbi::has_console(), Ordering::Relaxed);
}

/// Returns true: the firmware waits for room itself.
pub fn has_room() -> bool {
    true
}

/// Writes a byte.
pub fn put(byte: u8) {
    sbi::write_byte(byte, IS_OLD.load(Ordering::Relaxed));
}

//! How the machine ends.

use super::sbi;
use crate::exit::stop;
use core::sync::atomic::{AtomicBool, Ordering};

static HAS_FAILED: AtomicBool = AtomicBool::new(false);

/// Keeps whether the kernel failed: the firmware is told no more than that.
pub fn report(code: u8) {
    HAS_FAILED.store(code != 0, Ordering::Relaxed);
}

/// Powers the machine off.
pub fn off() -> ! {
    sbi::power_off(HAS_FAILED.load(Ordering::Relaxed));
    stop()
}

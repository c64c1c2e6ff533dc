//! A clock by a counter of the processor that runs at a constant rate.

use core::sync::atomic::{AtomicU64, Ordering};
use paravirt_platform::Instant;

/// The count when the kernel started.
static START: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds per count, and counts per nanosecond, as fixed-point numbers with 32 fractional bits.
static SCALE: AtomicU64 = AtomicU64::new(1 << 32);
static INVERSE: AtomicU64 = AtomicU64::new(1 << 32);

/// Starts the clock at `count` of a counter whose rate is `hz`.
pub fn start(count: u64, hz: u64) {
    let hz = u128::from(hz.max(1));
    SCALE.store(((1_000_000_000u128 << 32) / hz) as u64, Ordering::Relaxed);
    INVERSE.store(((hz << 32) / 1_000_000_000) as u64, Ordering::Relaxed);
    START.store(count, Ordering::Relaxed);
}

/// Returns the time at `count`, since the start.
pub fn instant(count: u64) -> Instant {
    let count = count.wrapping_sub(START.load(Ordering::Relaxed));
    Instant::from_nanos(scaled(count, SCALE.load(Ordering::Relaxed)))
}

/// Returns how many counts `nanos` nanoseconds are, at least one.
pub fn counts(nanos: u64) -> u64 {
    scaled(nanos, INVERSE.load(Ordering::Relaxed)).max(1)
}

fn scaled(value: u64, by: u64) -> u64 {
    ((u128::from(value) * u128::from(by)) >> 32) as u64
}

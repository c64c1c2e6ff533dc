//! The generic timer: the kernel's clock, and each processor's timer. Arm ARM D12

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use paravirt_platform::Instant;

/// Its interrupt: the virtual timer's, private to each processor. Arm BSA §3.8
pub const INTERRUPT: u32 = 27;
/// In its control register: it raises its interrupt, which is masked, when the time has come.
const ENABLE: u64 = 1 << 0;

/// The count when the kernel started.
static START: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds per count, and counts per nanosecond, as fixed-point numbers with 32 fractional bits.
static SCALE: AtomicU64 = AtomicU64::new(1 << 32);
static INVERSE: AtomicU64 = AtomicU64::new(1 << 32);

fn counter() -> u64 {
    let count: u64;
    // SAFETY: reads a register; the barrier keeps the read in program order.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) count, options(nomem, nostack)) }
    count
}

/// Returns the time since the kernel started.
pub fn now() -> Instant {
    let count = counter().wrapping_sub(START.load(Ordering::Relaxed));
    Instant::from_nanos(scaled(count, SCALE.load(Ordering::Relaxed)))
}

fn scaled(value: u64, by: u64) -> u64 {
    ((u128::from(value) * u128::from(by)) >> 32) as u64
}

/// Starts the clock; returns its rate in Hz.
pub fn init() -> u64 {
    let hz: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) hz, options(nomem, nostack)) }
    let hz = hz.max(1);
    SCALE.store(((1_000_000_000u128 << 32) / u128::from(hz)) as u64, Ordering::Relaxed);
    INVERSE.store(((u128::from(hz) << 32) / 1_000_000_000) as u64, Ordering::Relaxed);
    START.store(counter(), Ordering::Relaxed);
    hz
}

/// Sets this processor's timer to raise an interrupt in `nanos` nanoseconds, or to raise none.
pub fn set_timer(nanos: Option<u64>) {
    let at =
        nanos.map(|nanos| counter().saturating_add(scaled(nanos, INVERSE.load(Ordering::Relaxed)).max(1)));
    // SAFETY: the timer is this processor's, and its interrupt is handled.
    unsafe {
        if let Some(at) = at {
            asm!("msr cntv_cval_el0, {}", in(reg) at, options(nomem, nostack));
        }
        let control = if at.is_some() { ENABLE } else { 0 };
        asm!("msr cntv_ctl_el0, {}", "isb", in(reg) control, options(nomem, nostack));
    }
}

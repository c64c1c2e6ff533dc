//! The structure by which KVM and Xen tell a guest the time (`pvclock_vcpu_time_info`): how the cycle counter becomes nanoseconds.
//!
//! The host writes the structure at any time: it is read as atomics, a bounded number of times until it did not change meanwhile.
//!
//! ```
//! use paravirt_platform::DmaRegion;
//! use paravirt_pvclock::TimeInfo;
//! use std::sync::atomic::{AtomicU32, Ordering};
//! # let guest = paravirt_testhost::Guest::new();
//!
//! let page = DmaRegion::alloc(&guest, TimeInfo::LEN)?;
//! // 2 GHz: half a nanosecond a count, as 2^31 of 2^32.
//! page.shared().at::<AtomicU32>(24).unwrap().store(1 << 31, Ordering::Relaxed);
//! let info = TimeInfo::read(page.shared(), 0).expect("it does not change");
//! assert_eq!((info.nanos(3000), info.hz()), (1500, Some(2_000_000_000)));
//! # Ok::<(), paravirt_platform::AllocError>(())
//! ```
//!
//! Source: Linux `Documentation/virt/kvm/x86/msr.rst`; Xen `xen/include/public/xen.h`.
#![no_std]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
use paravirt_platform::SharedMemory;

/// Flag: the structures of all processors are synchronised, so that each is valid for the counter of any processor.
const STABLE: u8 = 1 << 0;
/// Attempts to read a structure that changes during the read.
const TRIES: u32 = 64;
const NANOS: u128 = 1_000_000_000;

/// A copy of the structure.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct TimeInfo {
    /// The cycle counter when the structure was written.
    counter: u64,
    /// The time then, in nanoseconds.
    nanos: u64,
    multiplier: u32,
    shift: i8,
    flags: u8,
}

impl TimeInfo {
    /// The length of the structure in bytes.
    pub const LEN: usize = 32;

    /// Copies a consistent version of the structure at `offset`; `None` if it keeps changing, or is out of bounds. Callable in interrupt
    /// context: it takes no lock.
    pub fn read(view: &SharedMemory, offset: usize) -> Option<Self> {
        let at = |by: usize| offset.checked_add(by);
        let version: &AtomicU32 = view.at(offset)?;
        for _ in 0..TRIES {
            let before = version.load(Ordering::Acquire);
            let info = Self {
                counter: view.at::<AtomicU64>(at(8)?)?.load(Ordering::Relaxed),
                nanos: view.at::<AtomicU64>(at(16)?)?.load(Ordering::Relaxed),
                multiplier: view.at::<AtomicU32>(at(24)?)?.load(Ordering::Relaxed),
                shift: view.at::<AtomicU8>(at(28)?)?.load(Ordering::Relaxed) as i8,
                flags: view.at::<AtomicU8>(at(29)?)?.load(Ordering::Relaxed),
            };
            fence(Ordering::Acquire);
            // The version is odd while the host writes the structure.
            if before & 1 == 0 && version.load(Ordering::Relaxed) == before {
                return Some(info);
            }
            core::hint::spin_loop();
        }
        None
    }

    /// Whether it is valid for the counter of any processor.
    pub fn is_stable(&self) -> bool {
        self.flags & STABLE != 0
    }

    /// Returns the time at `counter` in nanoseconds. A counter before that of the structure adds nothing.
    pub fn nanos(&self, counter: u64) -> u64 {
        let passed = u128::from(counter.saturating_sub(self.counter));
        let shift = u32::from(self.shift.unsigned_abs()).min(63);
        let shifted = if self.shift < 0 { passed >> shift } else { passed << shift };
        let scaled = shifted.wrapping_mul(u128::from(self.multiplier)) >> 32;
        self.nanos.wrapping_add(scaled as u64)
    }

    /// Returns the frequency of the counter in Hz; `None` if the structure was not filled in.
    pub fn hz(&self) -> Option<u64> {
        let hz = (NANOS << 32).checked_div(u128::from(self.multiplier))?;
        let shift = u32::from(self.shift.unsigned_abs()).min(63);
        let hz = if self.shift < 0 { hz << shift } else { hz >> shift };
        u64::try_from(hz).ok().filter(|hz| *hz > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_scaled_by_shift_and_multiplier() {
        // 2 GHz: half a nanosecond a count, as 2^31 of 2^32.
        let info = TimeInfo { counter: 1000, nanos: 5, multiplier: 1 << 31, shift: 0, flags: 0 };
        assert_eq!(info.nanos(3000), 1005);
        assert_eq!(info.nanos(0), 5, "a counter before the base adds nothing");
        assert_eq!(info.hz(), Some(2_000_000_000));
        // 4 GHz with a shift to the right.
        let info = TimeInfo { counter: 0, nanos: 0, multiplier: 1 << 31, shift: -1, flags: 0 };
        assert_eq!((info.nanos(4_000_000_000), info.hz()), (1_000_000_000, Some(4_000_000_000)));
        // What a host may write.
        let info = TimeInfo { counter: 0, nanos: u64::MAX, multiplier: u32::MAX, shift: i8::MIN, flags: 255 };
        assert_eq!((info.nanos(u64::MAX), info.is_stable()), (info.nanos(u64::MAX), true));
        assert_eq!(TimeInfo::default().hz(), None);
    }
}

//! What KVM gives its guests beside virtio: its clock.
//!
//! [`KvmClock::open`] finds the clock by CPUID, gives each processor a page that the host keeps up to date, and then reads
//! the time from the cycle counter and that page, without an exit.
//!
//! # States
//!
//! ```text
//!   CPUID ─► open: SYSTEM_TIME on every processor ─► now: version, counter, scale, version again ─► drop: SYSTEM_TIME off
//! ```
//!
//! # Trust
//!
//! The pages are the host's to write at any time: they are seen as atomics, and a page that does not come to rest is read a
//! bounded number of times. The time never goes back, whatever the host writes.
//!
//! ```
//! use paravirt_device::Clock;
//! use paravirt_kvm::{KvmClock, OpenError};
//! use paravirt_platform::Platform;
//!
//! /// The time since the machine was made, where KVM's leaves are at their usual place.
//! fn uptime<P: Platform>(kernel: &P) -> Result<u64, OpenError> {
//!     Ok(KvmClock::open(kernel, 0x4000_0000)?.now().as_nanos())
//! }
//! // A process is no guest.
//! assert_eq!(uptime(&paravirt_testhost::Guest::new()), Err(OpenError::Absent));
//! ```
//!
//! Source: Linux `Documentation/virt/kvm/x86/msr.rst` and `cpuid.rst`.
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

use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
use paravirt_device::Clock;
use paravirt_platform::{AllocError, DmaRegion, Instant, PAGE_SIZE, Platform, ProcessorId, SharedMemory};

/// The register that takes the address of a processor's page, with bit 0 for on.
const SYSTEM_TIME: u32 = 0x4b56_4d01;
/// The feature in EAX of the second leaf.
const FEATURE: u32 = 1 << 3;
/// A structure says by its flags whether all are in step.
const STABLE: u32 = 1 << 24;
/// All are in step: any of them will do for the counter of any processor.
const FLAG_STABLE: u8 = 1 << 0;
/// Bytes of a processor's structure, and how far they are apart.
const STRIDE: usize = 64;
/// How often a page that changes under the reader is read.
const TRIES: u32 = 64;

/// Why there is no clock.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum OpenError {
    /// The host does not offer it.
    Absent,
    /// It does, but not one that is the same on every processor.
    Unstable,
    /// There are more processors than structures find room in a page, or one does not run.
    Processor,
    /// There was no memory.
    Memory,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "the host offers no kvmclock",
            Self::Unstable => "the host's kvmclock differs between processors",
            Self::Processor => "a processor does not run, or there are too many",
            Self::Memory => "out of memory",
        })
    }
}

impl core::error::Error for OpenError {}

impl From<AllocError> for OpenError {
    fn from(_: AllocError) -> Self {
        Self::Memory
    }
}

/// KVM's clock: nanoseconds since the machine was made. Dropped, it is switched off.
pub struct KvmClock<P: Platform> {
    platform: P,
    page: DmaRegion<P>,
    /// The latest time that was told, in nanoseconds.
    latest: AtomicU64,
}

/// What turns the cycle counter into the time.
struct Scale {
    counter: u64,
    nanos: u64,
    multiplier: u32,
    shift: i8,
    flags: u8,
}

impl Scale {
    /// Copies the structure at `offset` as it is between two changes.
    fn read(view: &SharedMemory, offset: usize) -> Option<Self> {
        let at = |by: usize| offset.checked_add(by);
        let version: &AtomicU32 = view.at(offset)?;
        for _ in 0..TRIES {
            let before = version.load(Ordering::Acquire);
            let scale = Self {
                counter: view.at::<AtomicU64>(at(8)?)?.load(Ordering::Relaxed),
                nanos: view.at::<AtomicU64>(at(16)?)?.load(Ordering::Relaxed),
                multiplier: view.at::<AtomicU32>(at(24)?)?.load(Ordering::Relaxed),
                shift: view.at::<AtomicU8>(at(28)?)?.load(Ordering::Relaxed) as i8,
                flags: view.at::<AtomicU8>(at(29)?)?.load(Ordering::Relaxed),
            };
            fence(Ordering::Acquire);
            // Odd while the host is at it.
            if before & 1 == 0 && version.load(Ordering::Relaxed) == before {
                return Some(scale);
            }
            core::hint::spin_loop();
        }
        None
    }

    fn time(&self, counter: u64) -> u64 {
        let passed = u128::from(counter.saturating_sub(self.counter));
        let shift = u32::from(self.shift.unsigned_abs()).min(63);
        let shifted = if self.shift < 0 { passed >> shift } else { passed << shift };
        let scaled = shifted.wrapping_mul(u128::from(self.multiplier)) >> 32;
        self.nanos.wrapping_add(scaled as u64)
    }
}

impl<P: Platform> KvmClock<P> {
    /// Switches the clock on for every processor. `base` is the first of KVM's CPUID leaves, at which its name stands:
    /// 0x40000000, or further on where the host offers other interfaces too.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open(platform: &P, base: u32) -> Result<Self, OpenError> {
        let [features, ..] = platform.registers().cpuid(base.saturating_add(1));
        if features & FEATURE == 0 {
            return Err(OpenError::Absent);
        }
        if features & STABLE == 0 {
            return Err(OpenError::Unstable);
        }
        let count = platform.processors().count().max(1);
        if count as usize > PAGE_SIZE / STRIDE {
            return Err(OpenError::Processor);
        }
        let page = DmaRegion::alloc(platform, PAGE_SIZE)?;
        let this = Self { platform: platform.clone(), page, latest: AtomicU64::new(0) };
        for processor in 0..count {
            let at = this.page.bus().offset(u64::from(processor).saturating_mul(STRIDE as u64));
            // SAFETY: the register is offered; the structure is in the page, which is the host's until the drop.
            let mut work = || unsafe { platform.registers().write_msr(SYSTEM_TIME, at.0 | 1) };
            platform
                .processors()
                .run_on(ProcessorId(processor), &mut work)
                .map_err(|_| OpenError::Processor)?;
        }
        Ok(this)
    }

    fn read(&self) -> Option<u64> {
        let scale = Scale::read(self.page.shared(), 0)?;
        if scale.flags & FLAG_STABLE != 0 {
            return Some(scale.time(self.platform.registers().tsc()));
        }
        let own = (self.platform.processors().current().0 as usize).checked_mul(STRIDE)?;
        let scale = Scale::read(self.page.shared(), own)?;
        Some(scale.time(self.platform.registers().tsc()))
    }
}

impl<P: Platform> Clock for KvmClock<P> {
    fn now(&self) -> Instant {
        let now = self.read().unwrap_or(0);
        let latest = self.latest.fetch_max(now, Ordering::Relaxed);
        Instant::from_nanos(now.max(latest))
    }
}

impl<P: Platform> Drop for KvmClock<P> {
    fn drop(&mut self) {
        for processor in 0..self.platform.processors().count().max(1) {
            // SAFETY: the register is offered.
            let mut work = || unsafe { self.platform.registers().write_msr(SYSTEM_TIME, 0) };
            // A processor that does not run does not have its structure written.
            let _ = self.platform.processors().run_on(ProcessorId(processor), &mut work);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_scaled_by_shift_and_multiplier() {
        // 2 GHz: half a nanosecond a count, as 2^31 of 2^32.
        let scale = Scale { counter: 1000, nanos: 5, multiplier: 1 << 31, shift: 0, flags: 0 };
        assert_eq!(scale.time(3000), 1005);
        assert_eq!(scale.time(0), 5, "a counter that is behind is not ahead");
        // 4 GHz with a shift to the right.
        let scale = Scale { counter: 0, nanos: 0, multiplier: 1 << 31, shift: -1, flags: 0 };
        assert_eq!(scale.time(4_000_000_000), 1_000_000_000);
    }
}

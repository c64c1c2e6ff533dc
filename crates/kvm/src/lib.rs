//! KVM's paravirtual clock (kvmclock).
//!
//! [`KvmClock::open`] detects the clock by CPUID and registers a structure for each processor, which the host keeps up to date. The
//! time is read from the cycle counter and that structure, without an exit.
//!
//! # States
//!
//! ```text
//!   CPUID ─► open: SYSTEM_TIME on every processor ─► now: version, counter, scale, version again ─► drop: SYSTEM_TIME off
//! ```
//!
//! # Trust
//!
//! The host writes the structures at any time: they are accessed as atomics, and one that keeps changing is read a bounded number
//! of times. The time never goes back, whatever the host writes.
//!
//! ```
//! use paravirt_device::Clock;
//! use paravirt_kvm::{KvmClock, OpenError};
//! use paravirt_platform::Platform;
//!
//! /// The time since the VM was created, with KVM's CPUID leaves at their usual place.
//! fn uptime<P: Platform>(kernel: &P) -> Result<u64, OpenError> {
//!     Ok(KvmClock::open(kernel, 0x4000_0000)?.now().as_nanos())
//! }
//! // A process of the test host has no KVM.
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
use core::sync::atomic::{AtomicU64, Ordering};
use paravirt_device::Clock;
use paravirt_platform::{AllocError, DmaRegion, Instant, PAGE_SIZE, Platform, ProcessorId};
use paravirt_pvclock::TimeInfo;

/// MSR_KVM_SYSTEM_TIME_NEW: the address of a processor's structure, with bit 0 to enable it.
const SYSTEM_TIME: u32 = 0x4b56_4d01;
/// The feature in EAX of the second leaf.
const FEATURE: u32 = 1 << 3;
/// KVM_FEATURE_CLOCKSOURCE_STABLE_BIT: a flag in the structures reports whether they are synchronised.
const STABLE: u32 = 1 << 24;
/// Distance between the structures, in bytes.
const STRIDE: usize = 64;

/// Why the clock could not be opened.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum OpenError {
    /// The host offers no such clock.
    Absent,
    /// The clock is not synchronised between processors.
    Unstable,
    /// A processor is not running, or there are more processors than structures in a page.
    Processor,
    /// Out of memory.
    Memory,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "the host offers no kvmclock",
            Self::Unstable => "the host's kvmclock differs between processors",
            Self::Processor => "a processor is not running, or there are too many",
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

/// KVM's clock: nanoseconds since the VM was created. Dropping disables it on every processor.
///
/// Reading it takes no lock and is allowed in interrupt context.
pub struct KvmClock<P: Platform> {
    platform: P,
    page: DmaRegion<P>,
    /// The latest time that was returned, in nanoseconds.
    latest: AtomicU64,
}

impl<P: Platform> KvmClock<P> {
    /// Enables the clock on every processor. `base` is the first of KVM's CPUID leaves, the one with its signature: 0x40000000, or a
    /// higher one if the host offers other interfaces, too.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the clock is disabled then.
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
            // SAFETY: the register is offered; the structure is in the page, which the host owns until the drop.
            let mut work = || unsafe { platform.registers().write_msr(SYSTEM_TIME, at.0 | 1) };
            platform
                .processors()
                .run_on(ProcessorId(processor), &mut work)
                .map_err(|_| OpenError::Processor)?;
        }
        Ok(this)
    }

    fn read(&self) -> Option<u64> {
        let first = TimeInfo::read(self.page.shared(), 0)?;
        if first.is_stable() {
            return Some(first.nanos(self.platform.registers().tsc()));
        }
        let own = (self.platform.processors().current().0 as usize).checked_mul(STRIDE)?;
        let own = TimeInfo::read(self.page.shared(), own)?;
        Some(own.nanos(self.platform.registers().tsc()))
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
            // The host does not write the structure of a processor that is not running.
            let _ = self.platform.processors().run_on(ProcessorId(processor), &mut work);
        }
    }
}

impl<P: Platform> fmt::Debug for KvmClock<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvmClock").field("latest", &self.latest).finish_non_exhaustive()
    }
}

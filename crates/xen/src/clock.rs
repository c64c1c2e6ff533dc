//! The system time, which each processor's time information tells.

use crate::hypervisor::Hypervisor;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use paravirt_device::Clock;
use paravirt_platform::{Instant, PageArc, Platform};

/// Nanoseconds since the domain was created. It never goes back.
///
/// Reading it takes no lock and no exit, and is allowed in interrupt context.
pub struct XenClock<P: Platform> {
    hypervisor: PageArc<P, Hypervisor<P>>,
    /// The latest time that was returned, in nanoseconds.
    latest: AtomicU64,
}

impl<P: Platform> XenClock<P> {
    /// Opens the clock; `None` if the hypervisor does not tell the frequency of the cycle counter.
    pub fn open(hypervisor: &PageArc<P, Hypervisor<P>>) -> Option<Self> {
        let this = Self { hypervisor: hypervisor.clone(), latest: AtomicU64::new(0) };
        this.hypervisor.hz()?;
        Some(this)
    }
}

impl<P: Platform> Hypervisor<P> {
    /// Returns the frequency of the cycle counter in Hz, if the hypervisor tells it.
    pub fn hz(&self) -> Option<u64> {
        self.events().time_info(0)?.hz()
    }

    /// The system time in nanoseconds.
    pub(crate) fn system_time(&self) -> Option<u64> {
        let platform = self.platform();
        let first = self.events().time_info(0)?;
        if first.is_stable() {
            return Some(first.nanos(platform.registers().tsc()));
        }
        let vcpu = self.events().vcpu(platform.processors().current())?;
        Some(self.events().time_info(vcpu)?.nanos(platform.registers().tsc()))
    }
}

impl<P: Platform> Clock for XenClock<P> {
    fn now(&self) -> Instant {
        let now = self.hypervisor.system_time().unwrap_or(0);
        let latest = self.latest.fetch_max(now, Ordering::Relaxed);
        Instant::from_nanos(now.max(latest))
    }
}

impl<P: Platform> fmt::Debug for XenClock<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XenClock").field("latest", &self.latest).finish_non_exhaustive()
    }
}

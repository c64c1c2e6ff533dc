//! The reference time. TLFS §12.5, §12.6

use crate::{Hypervisor, OpenError};
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use hyperv_bindings::tlfs::{HvMsr, HvPageFlags, HvPrivilegeFlags};
use paravirt_device::Clock;
use paravirt_platform::{DmaRegion, Instant, PAGE_SIZE, PageArc, Platform};

/// Nanoseconds per unit of the reference time.
const UNIT: u64 = 100;
/// Attempts to read a page that changes during the read, before the register is read instead.
const TRIES: u32 = 16;

/// The reference time as a clock: computed from the cycle counter and the reference TSC page if the host offers it, otherwise read
/// from the register, which costs a VM exit.
///
/// It starts with the partition and is the same on all processors, with a resolution of 100 ns. A partition has one page: if two
/// clocks are open, the one that was opened last uses it, and the other reads the register.
pub struct ReferenceClock<P: Platform> {
    hypervisor: PageArc<P, Hypervisor<P>>,
    page: Option<DmaRegion<P>>,
}

impl<P: Platform> ReferenceClock<P> {
    /// Opens the clock, and enables the reference TSC page if the host offers it.
    ///
    /// # Errors
    ///
    /// [`OpenError::Unsupported`] if the host offers neither; [`OpenError::Memory`].
    pub fn open(hypervisor: &PageArc<P, Hypervisor<P>>) -> Result<Self, OpenError> {
        let privileges = hypervisor.features().privileges;
        if !privileges.contains(HvPrivilegeFlags::TIME_REF_COUNT) {
            return Err(OpenError::Unsupported);
        }
        let page = match privileges.contains(HvPrivilegeFlags::REFERENCE_TSC) {
            false => None,
            true => {
                let page = DmaRegion::alloc(hypervisor.platform(), PAGE_SIZE)?;
                // SAFETY: the register is offered; the hypervisor owns the page until it is disabled.
                unsafe {
                    let reserved = hypervisor.platform().registers().read_msr(HvMsr::REFERENCE_TSC.0) & 0xffe;
                    let value = page.bus().0 | reserved | HvPageFlags::ENABLE.bits();
                    hypervisor.platform().registers().write_msr(HvMsr::REFERENCE_TSC.0, value);
                }
                Some(page)
            }
        };
        Ok(Self { hypervisor: hypervisor.clone(), page })
    }

    /// Returns the reference time in units of 100 ns.
    pub fn reference_time(&self) -> u64 {
        self.page_time().or_else(|| self.hypervisor.reference_count()).unwrap_or(0)
    }

    /// Returns whether the time is read from the page, without a VM exit.
    pub fn is_from_page(&self) -> bool {
        self.page_time().is_some()
    }

    fn page_time(&self) -> Option<u64> {
        let view = self.page.as_ref()?.shared();
        let (sequence, scale, offset) =
            (view.at::<AtomicU32>(0)?, view.at::<AtomicU64>(8)?, view.at::<AtomicU64>(16)?);
        for _ in 0..TRIES {
            let before = sequence.load(Ordering::Acquire);
            if before == 0 {
                return None;
            }
            let tsc = self.hypervisor.platform().registers().tsc();
            let (scale, offset) = (scale.load(Ordering::Relaxed), offset.load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if sequence.load(Ordering::Relaxed) == before {
                // The offset is signed; addition modulo 2^64 gives the same result.
                let product = u128::from(tsc).wrapping_mul(u128::from(scale)) >> 64;
                return Some((product as u64).wrapping_add(offset));
            }
        }
        None
    }
}

impl<P: Platform> Clock for ReferenceClock<P> {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.reference_time().saturating_mul(UNIT))
    }
}

impl<P: Platform> Drop for ReferenceClock<P> {
    fn drop(&mut self) {
        if let Some(page) = &self.page {
            // SAFETY: the register is offered. If it names the page of a later clock, it is not changed.
            unsafe {
                let value = self.hypervisor.platform().registers().read_msr(HvMsr::REFERENCE_TSC.0);
                if value & !0xfff == page.bus().0 {
                    self.hypervisor.platform().registers().write_msr(HvMsr::REFERENCE_TSC.0, 0);
                }
            }
        }
    }
}

impl<P: Platform> fmt::Debug for ReferenceClock<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReferenceClock").field("is_from_page", &self.is_from_page()).finish_non_exhaustive()
    }
}

//! The reference time. TLFS §12.5, §12.6

use crate::{Hypervisor, OpenError};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use hyperv_bindings::tlfs::{HvMsr, HvPageFlags, HvPrivilegeFlags};
use paravirt_device::Clock;
use paravirt_platform::{DmaRegion, Instant, PAGE_SIZE, PageArc, Platform};

/// Nanoseconds of a unit of the reference time.
const UNIT: u64 = 100;
/// How often a page that changes under the reader is read before the register is.
const TRIES: u32 = 16;

/// The reference time as a clock: from the page that turns the cycle counter into it where there is one, which costs no
/// exit, else from the register, which costs one.
///
/// It begins when the partition does, and all processors share it. Its resolution is 100 ns. There is one page in a partition:
/// of two of these, the later one has it.
pub struct ReferenceClock<P: Platform> {
    hypervisor: PageArc<P, Hypervisor<P>>,
    page: Option<DmaRegion<P>>,
}

impl<P: Platform> ReferenceClock<P> {
    /// # Errors
    ///
    /// [`OpenError::Unsupported`] where there is neither.
    pub fn open(hypervisor: &PageArc<P, Hypervisor<P>>) -> Result<Self, OpenError> {
        let privileges = hypervisor.features().privileges;
        if !privileges.contains(HvPrivilegeFlags::TIME_REF_COUNT) {
            return Err(OpenError::Unsupported);
        }
        let page = match privileges.contains(HvPrivilegeFlags::REFERENCE_TSC) {
            false => None,
            true => {
                let page = DmaRegion::alloc(hypervisor.platform(), PAGE_SIZE)?;
                // SAFETY: the register is offered; the page is the hypervisor's until it is switched off.
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

    /// The reference time, in units of 100 ns.
    pub fn reference_time(&self) -> u64 {
        self.page_time().or_else(|| self.hypervisor.reference_count()).unwrap_or(0)
    }

    /// Whether the time comes from the page, without an exit.
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
                // The offset is signed: adding it modulo 2^64 is the same.
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
            // SAFETY: the register is offered. Where a later clock has its page there, it is left alone.
            unsafe {
                let value = self.hypervisor.platform().registers().read_msr(HvMsr::REFERENCE_TSC.0);
                if value & !0xfff == page.bus().0 {
                    self.hypervisor.platform().registers().write_msr(HvMsr::REFERENCE_TSC.0, 0);
                }
            }
        }
    }
}

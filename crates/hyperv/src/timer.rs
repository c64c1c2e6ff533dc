//! Synthetic timers. TLFS §12.3

use crate::{Hypervisor, OpenError};
use core::fmt;
use hyperv_bindings::tlfs::{HvFeatureFlags, HvMsr, HvPrivilegeFlags, HvStimerFlags};
use paravirt_platform::{PageArc, Platform, ProcessorId};

/// The number of timers of a virtual processor.
const TIMERS: u32 = 4;

/// How a timer signals its expiration.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum TimerSignal {
    /// By an interrupt with this number in the interrupt descriptor table, 16 or above, which needs an EOI. Not all hosts offer it.
    Direct(u8),
    /// By a message of the type `TIMER_EXPIRED` in the slot of this source, from 1 to 15.
    Message(u8),
}

/// A one-shot timer of a virtual processor. Dropping stops it.
pub struct SyntheticTimer<P: Platform> {
    hypervisor: PageArc<P, Hypervisor<P>>,
    processor: ProcessorId,
    config: u32,
}

impl<P: Platform> SyntheticTimer<P> {
    /// Opens timer `index`, 0 to 3, of `processor`, stopped.
    ///
    /// # Errors
    ///
    /// [`OpenError::Unsupported`] if there is no such timer, or the host does not offer the signal.
    pub fn open(
        hypervisor: &PageArc<P, Hypervisor<P>>,
        processor: ProcessorId,
        index: u32,
        signal: TimerSignal,
    ) -> Result<Self, OpenError> {
        let features = hypervisor.features();
        let is_offered = features.privileges.contains(HvPrivilegeFlags::STIMER);
        let can_signal = match signal {
            TimerSignal::Direct(vector) => {
                vector >= 16 && features.features.contains(HvFeatureFlags::DIRECT_STIMER)
            }
            TimerSignal::Message(sint) => (1..16).contains(&sint),
        };
        if !is_offered || !can_signal || index >= TIMERS {
            return Err(OpenError::Unsupported);
        }
        let config = HvMsr::STIMER0_CONFIG.0.saturating_add(index.saturating_mul(2));
        let this = Self { hypervisor: hypervisor.clone(), processor, config };
        let signal = match signal {
            TimerSignal::Direct(vector) => HvStimerFlags::DIRECT.bits() | u64::from(vector) << 4,
            TimerSignal::Message(sint) => u64::from(sint) << 16,
        };
        // A running timer must not be reconfigured: it is stopped first. Writing the count starts it.
        this.write(|write| {
            write(config, 0);
            write(config, signal | HvStimerFlags::AUTO_ENABLE.bits());
        })?;
        Ok(this)
    }

    /// Runs `work` on the timer's processor with a function that writes a register.
    fn write(&self, work: impl Fn(&dyn Fn(u32, u64)) + Send + Sync) -> Result<(), OpenError> {
        let platform = self.hypervisor.platform();
        // SAFETY: the registers are offered, and affect no memory.
        let write = |register: u32, value: u64| unsafe { platform.registers().write_msr(register, value) };
        platform.processors().run_on(self.processor, &mut || work(&write)).map_err(|_| OpenError::Processor)
    }

    /// Starts the timer to expire at reference time `at`, in units of 100 ns; at once if that has passed.
    ///
    /// # Errors
    ///
    /// [`OpenError::Processor`].
    pub fn set(&self, at: u64) -> Result<(), OpenError> {
        self.write(|write| write(self.config.saturating_add(1), at.max(1)))
    }

    /// Stops the timer.
    ///
    /// # Errors
    ///
    /// [`OpenError::Processor`].
    pub fn stop(&self) -> Result<(), OpenError> {
        self.write(|write| write(self.config.saturating_add(1), 0))
    }
}

impl<P: Platform> Drop for SyntheticTimer<P> {
    fn drop(&mut self) {
        let _ = self.write(|write| write(self.config, 0));
    }
}

impl<P: Platform> fmt::Debug for SyntheticTimer<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyntheticTimer")
            .field("processor", &self.processor)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

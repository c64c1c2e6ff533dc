//! One-shot timers of the hypervisor.

use crate::Never;
use core::fmt;
use core::task::Waker;
use core::time::Duration;
use paravirt_platform::Platform;

/// A one-shot timer of the hypervisor whose interrupt, on one processor, wakes a task. Dropping it stops it.
#[non_exhaustive]
pub enum HostTimer<P: Platform> {
    /// A Hyper-V synthetic timer (TLFS §12), with a resolution of 100 ns.
    #[cfg(feature = "hyperv")]
    HyperV(hyperv::Timer<P>),
    /// Xen's one-shot timer of a processor, with a resolution of 1 ns.
    #[cfg(feature = "xen")]
    Xen(paravirt_xen::XenTimer<P>),
    #[doc(hidden)]
    Never(Never<P>),
}

/// The timer could not be set because its processor is offline.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct TimerError;

impl fmt::Display for TimerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the timer cannot be set: its processor is not running")
    }
}

impl core::error::Error for TimerError {}

impl<P: Platform> fmt::Debug for HostTimer<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(feature = "hyperv")]
            Self::HyperV(_) => f.write_str("HostTimer(HyperV)"),
            #[cfg(feature = "xen")]
            Self::Xen(_) => f.write_str("HostTimer(Xen)"),
            Self::Never((never, _)) => match *never {},
        }
    }
}

impl<P: Platform> HostTimer<P> {
    #[cfg(feature = "hyperv")]
    pub(crate) fn open(
        hypervisor: &paravirt_platform::PageArc<P, paravirt_hyperv::Hypervisor<P>>,
        processor: paravirt_platform::ProcessorId,
    ) -> Option<Self> {
        hyperv::Timer::open(hypervisor, processor).ok().map(Self::HyperV)
    }

    #[cfg(feature = "xen")]
    pub(crate) fn open_xen(
        hypervisor: &paravirt_platform::PageArc<P, paravirt_xen::Hypervisor<P>>,
        processor: paravirt_platform::ProcessorId,
    ) -> Option<Self> {
        paravirt_xen::XenTimer::open(hypervisor, processor).map(Self::Xen)
    }

    /// Sets the timer to expire `after` from now, rounded down to 100 ns, replacing the previous setting.
    ///
    /// # Errors
    ///
    /// [`TimerError`] if the processor of the timer is offline.
    pub fn set(&self, after: Duration) -> Result<(), TimerError> {
        #[cfg(not(any(feature = "hyperv", feature = "xen")))]
        let _ = after;
        match self {
            #[cfg(feature = "hyperv")]
            Self::HyperV(timer) => timer.set(after).map_err(|_| TimerError),
            #[cfg(feature = "xen")]
            Self::Xen(timer) => timer.set(after).map_err(|_| TimerError),
            Self::Never((never, _)) => match *never {},
        }
    }

    /// Sets the waker to call when the timer expires, replacing the previous one.
    pub fn register(&self, waker: &Waker) {
        #[cfg(not(any(feature = "hyperv", feature = "xen")))]
        let _ = waker;
        match self {
            #[cfg(feature = "hyperv")]
            Self::HyperV(timer) => timer.register(waker),
            #[cfg(feature = "xen")]
            Self::Xen(timer) => timer.register(waker),
            Self::Never((never, _)) => match *never {},
        }
    }
}

/// The Hyper-V timer.
#[cfg(feature = "hyperv")]
pub mod hyperv {
    use core::fmt;
    use core::task::Waker;
    use core::time::Duration;
    use paravirt_hyperv::{Hypervisor, OpenError, SyntheticTimer, TimerSignal};
    use paravirt_platform::{InterruptCell, PageArc, Platform, ProcessorId, Vector};

    /// Nanoseconds per unit of the hypervisor's time.
    const UNIT: u64 = 100;

    /// A synthetic timer whose interrupt wakes a task.
    pub struct Timer<P: Platform> {
        hypervisor: PageArc<P, Hypervisor<P>>,
        /// `None` only during drop, which stops the timer before it unbinds the interrupt.
        timer: Option<SyntheticTimer<P>>,
        cell: PageArc<P, InterruptCell>,
        vector: Vector,
    }

    impl<P: Platform> Timer<P> {
        pub(crate) fn open(
            hypervisor: &PageArc<P, Hypervisor<P>>,
            processor: ProcessorId,
        ) -> Result<Self, OpenError> {
            let platform = hypervisor.platform();
            // The time is read from the reference counter MSR, as the reference TSC page may belong to a clock.
            hypervisor.reference_count().ok_or(OpenError::Unsupported)?;
            let cell = PageArc::new(platform, InterruptCell::new())?;
            // SAFETY: `cell` is freed only after `Drop` of `Timer` has unbound the vector.
            let vector =
                unsafe { platform.interrupts().bind(InterruptCell::handler(cell.as_ptr()), processor) };
            let vector = vector.map_err(|_| OpenError::Unsupported)?;
            let mut this = Self { hypervisor: hypervisor.clone(), timer: None, cell, vector };
            let descriptor = platform.interrupts().descriptor(vector).ok_or(OpenError::Unsupported)?;
            let signal = TimerSignal::Direct(descriptor);
            this.timer = Some(SyntheticTimer::open(hypervisor, processor, 0, signal)?);
            Ok(this)
        }

        /// Sets the timer to expire `after` from now, replacing the previous setting.
        ///
        /// # Errors
        ///
        /// [`OpenError::Processor`] if the processor of the timer is offline.
        pub(super) fn set(&self, after: Duration) -> Result<(), OpenError> {
            let units = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX).checked_div(UNIT).unwrap_or(0);
            let at = self.hypervisor.reference_count().unwrap_or(0).saturating_add(units);
            self.timer.as_ref().map_or(Err(OpenError::Unsupported), |timer| timer.set(at))
        }

        /// Sets the waker to call when the timer expires, replacing the previous one.
        pub(super) fn register(&self, waker: &Waker) {
            self.cell.register(waker);
        }
    }

    impl<P: Platform> fmt::Debug for Timer<P> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Timer").field("vector", &self.vector).finish_non_exhaustive()
        }
    }

    impl<P: Platform> Drop for Timer<P> {
        fn drop(&mut self) {
            drop(self.timer.take());
            self.hypervisor.platform().interrupts().unbind(self.vector);
        }
    }
}

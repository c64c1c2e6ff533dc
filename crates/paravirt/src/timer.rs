//! A timer of the hypervisor.

use crate::Never;
use core::fmt;
use core::task::Waker;
use core::time::Duration;
use paravirt_platform::Platform;

/// A one-shot timer that the hypervisor offers to one processor, and whose interrupt wakes a task.
///
/// Dropped, it is stopped.
#[non_exhaustive]
pub enum HostTimer<P: Platform> {
    /// Hyper-V's, with a resolution of 100 ns.
    #[cfg(feature = "hyperv")]
    HyperV(hyperv::Timer<P>),
    #[doc(hidden)]
    Never(Never<P>),
}

/// The processor of a timer does not run any more.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct TimerError;

impl fmt::Display for TimerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the timer cannot be set: its processor does not run")
    }
}

impl core::error::Error for TimerError {}

impl<P: Platform> HostTimer<P> {
    #[cfg(feature = "hyperv")]
    pub(crate) fn open(
        hypervisor: &paravirt_platform::PageArc<P, paravirt_hyperv::Hypervisor<P>>,
        processor: paravirt_platform::ProcessorId,
    ) -> Option<Self> {
        hyperv::Timer::open(hypervisor, processor).ok().map(Self::HyperV)
    }

    /// Sets it to go off `after` from now, in place of what it was set to.
    ///
    /// # Errors
    ///
    /// [`TimerError`].
    pub fn set(&self, after: Duration) -> Result<(), TimerError> {
        #[cfg(not(feature = "hyperv"))]
        let _ = after;
        match self {
            #[cfg(feature = "hyperv")]
            Self::HyperV(timer) => timer.set(after).map_err(|_| TimerError),
            Self::Never((never, _)) => match *never {},
        }
    }

    /// Registers the task to wake when it goes off.
    pub fn register(&self, waker: &Waker) {
        #[cfg(not(feature = "hyperv"))]
        let _ = waker;
        match self {
            #[cfg(feature = "hyperv")]
            Self::HyperV(timer) => timer.register(waker),
            Self::Never((never, _)) => match *never {},
        }
    }
}

/// The timer of Hyper-V.
#[cfg(feature = "hyperv")]
pub mod hyperv {
    use core::task::Waker;
    use core::time::Duration;
    use paravirt_hyperv::{Hypervisor, OpenError, SyntheticTimer, TimerSignal};
    use paravirt_platform::{InterruptCell, PageArc, Platform, ProcessorId, Vector};

    /// Nanoseconds of a unit of the hypervisor's time.
    const UNIT: u64 = 100;

    /// A synthetic timer whose interrupt wakes a task.
    pub struct Timer<P: Platform> {
        hypervisor: PageArc<P, Hypervisor<P>>,
        /// `None` while it is dropped: it is stopped ahead of its interrupt.
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
            // Its time is that of the register: the page may be a clock's.
            hypervisor.reference_count().ok_or(OpenError::Unsupported)?;
            let cell = PageArc::new(platform, InterruptCell::new())?;
            // SAFETY: the cell lives until the drop has unbound the vector.
            let vector =
                unsafe { platform.interrupts().bind(InterruptCell::handler(cell.as_ptr()), processor) };
            let vector = vector.map_err(|_| OpenError::Unsupported)?;
            let mut this = Self { hypervisor: hypervisor.clone(), timer: None, cell, vector };
            let descriptor = platform.hyperv().descriptor(vector).ok_or(OpenError::Unsupported)?;
            let signal = TimerSignal::Direct(descriptor);
            this.timer = Some(SyntheticTimer::open(hypervisor, processor, 0, signal)?);
            Ok(this)
        }

        /// Sets it to go off `after` from now, in place of what it was set to.
        ///
        /// # Errors
        ///
        /// [`OpenError::Processor`] where its processor does not run any more.
        pub(super) fn set(&self, after: Duration) -> Result<(), OpenError> {
            let units = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX).checked_div(UNIT).unwrap_or(0);
            let at = self.hypervisor.reference_count().unwrap_or(0).saturating_add(units);
            self.timer.as_ref().map_or(Err(OpenError::Unsupported), |timer| timer.set(at))
        }

        /// Registers the task to wake when it goes off.
        pub(super) fn register(&self, waker: &Waker) {
            self.cell.register(waker);
        }
    }

    impl<P: Platform> Drop for Timer<P> {
        fn drop(&mut self) {
            drop(self.timer.take());
            self.hypervisor.platform().interrupts().unbind(self.vector);
        }
    }
}

//! The one-shot timer of a processor.

use crate::events::Port;
use crate::hypervisor::Hypervisor;
use core::fmt;
use core::task::Waker;
use core::time::Duration;
use paravirt_platform::{PageArc, Platform, ProcessorId, RunError};

/// The virtual interrupt of the timer.
const VIRQ_TIMER: u32 = 0;

/// The one-shot timer of a processor, whose interrupt wakes a task. Dropping it stops it.
pub struct XenTimer<P: Platform> {
    hypervisor: PageArc<P, Hypervisor<P>>,
    port: Port<P>,
    processor: ProcessorId,
}

impl<P: Platform> XenTimer<P> {
    /// Opens the timer of `processor`, one at a time; `None` if events do not interrupt that processor.
    pub fn open(hypervisor: &PageArc<P, Hypervisor<P>>, processor: ProcessorId) -> Option<Self> {
        let vcpu = hypervisor.events().vcpu(processor)?;
        hypervisor.system_time()?;
        let port = Port::of_virq(hypervisor, VIRQ_TIMER, vcpu).ok().filter(Port::is_signalled)?;
        Some(Self { hypervisor: hypervisor.clone(), port, processor })
    }

    fn run(&self, work: &mut (dyn FnMut() + Send)) -> Result<(), RunError> {
        self.hypervisor.platform().processors().run_on(self.processor, work)
    }

    /// Sets the timer to expire `after` from now, replacing the previous setting.
    ///
    /// # Errors
    ///
    /// [`RunError`] if the processor does not run.
    pub fn set(&self, after: Duration) -> Result<(), RunError> {
        let nanos = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        let _ = self.port.arm();
        let hypervisor = &*self.hypervisor;
        self.run(&mut || {
            let now = hypervisor.system_time().unwrap_or(0);
            // One in the past expires at once. 0 would stop it.
            if let Err(error) = hypervisor.calls().set_timer(now.saturating_add(nanos).max(1)) {
                log::warn!("xen: {error}: the timer is not set");
            }
        })
    }

    /// Sets the waker to call when the timer expires, replacing the previous one.
    pub fn register(&self, waker: &Waker) {
        self.port.register(waker);
    }
}

impl<P: Platform> Drop for XenTimer<P> {
    fn drop(&mut self) {
        let hypervisor = &*self.hypervisor;
        // A processor that does not run has no timer.
        let _ = self.run(&mut || {
            let _ = hypervisor.calls().set_timer(0);
        });
    }
}

impl<P: Platform> fmt::Debug for XenTimer<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XenTimer").field("processor", &self.processor).finish_non_exhaustive()
    }
}

//! An event channel of the guest's.

use crate::calls::CallError;
use crate::hypervisor::Hypervisor;
use core::fmt;
use core::task::Waker;
use paravirt_device::Arm;
use paravirt_platform::{PageArc, Platform, ProcessorId};

/// An event channel.
pub struct Port<P: Platform> {
    hypervisor: PageArc<P, Hypervisor<P>>,
    port: u32,
    /// Whether it is closed when this is dropped.
    is_own: bool,
    /// How often the guest had been resumed: in another domain the number is of something else.
    resumed: u32,
}

impl<P: Platform> Port<P> {
    /// Allocates an event channel for domain `remote`, masked. Not for interrupt context.
    ///
    /// # Errors
    ///
    /// [`CallError`], if there is none.
    pub fn new(hypervisor: &PageArc<P, Hypervisor<P>>, remote: u16) -> Result<Self, CallError> {
        let port = hypervisor.calls().alloc_unbound(remote)?;
        hypervisor.events().mask(port);
        Ok(Self { hypervisor: hypervisor.clone(), port, is_own: true, resumed: hypervisor.resumed() })
    }

    /// An event channel for a virtual interrupt of a processor.
    pub(crate) fn of_virq(
        hypervisor: &PageArc<P, Hypervisor<P>>,
        virq: u32,
        vcpu: u32,
    ) -> Result<Self, CallError> {
        let port = hypervisor.calls().bind_virq(virq, vcpu)?;
        Ok(Self { hypervisor: hypervisor.clone(), port, is_own: true, resumed: hypervisor.resumed() })
    }

    /// An event channel that the domain was started with.
    pub(crate) fn existing(hypervisor: &PageArc<P, Hypervisor<P>>, port: u32) -> Self {
        Self { hypervisor: hypervisor.clone(), port, is_own: false, resumed: hypervisor.resumed() }
    }

    /// Returns its number.
    pub fn number(&self) -> u32 {
        self.port
    }

    /// Sends an event. Callable in interrupt context; costs a hypercall.
    #[inline]
    pub fn notify(&self) {
        // The port is this guest's. An event to a backend that has gone is lost, as it should.
        let _ = self.hypervisor.calls().send(self.port);
    }

    /// Makes it interrupt `processor`, if that has events of its own; otherwise it goes on to interrupt another one.
    pub fn bind_to(&self, processor: ProcessorId) {
        if let Some(vcpu) = self.hypervisor.events().vcpu(processor) {
            let _ = self.hypervisor.calls().bind_vcpu(self.port, vcpu);
        }
    }

    /// Sets the task to wake at the next event after [`arm`](Self::arm), in place of the previous one.
    pub fn register(&self, waker: &Waker) {
        self.hypervisor.events().register(self.port, waker);
    }

    /// Enables the interrupt of the next event; returns whether one had come already. An interrupt disables it. Costs no exit.
    #[inline]
    pub fn arm(&self) -> bool {
        self.hypervisor.events().unmask(self.port)
    }

    /// [Arms](Self::arm), and then looks by `has_work` whether there is something to do already; returns what the caller is to do.
    #[inline]
    pub fn arm_unless(&self, has_work: impl FnOnce() -> bool) -> Arm {
        let raced = self.arm();
        match () {
            () if has_work() || raced => Arm::Pending,
            () if self.is_signalled() => Arm::Armed,
            () => Arm::Unsignalled,
        }
    }

    /// Disables the interrupt.
    pub fn disarm(&self) {
        self.hypervisor.events().mask(self.port);
    }

    /// Whether an event wakes the task.
    pub fn is_signalled(&self) -> bool {
        self.hypervisor.events().is_signalled(self.port)
    }
}

impl<P: Platform> Drop for Port<P> {
    fn drop(&mut self) {
        if self.resumed != self.hypervisor.resumed() {
            return;
        }
        self.disarm();
        if self.is_own {
            let _ = self.hypervisor.calls().close(self.port);
        }
    }
}

impl<P: Platform> fmt::Debug for Port<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Port").field(&self.port).finish()
    }
}

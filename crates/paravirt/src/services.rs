//! What the host offers to the machine as a whole.

use crate::controllers::Controllers;
#[cfg(feature = "hyperv")]
use crate::hyperv::HyperVHost;
#[cfg(feature = "virtio")]
use crate::hypervisor::{Hypervisor as Kind, detect};
use crate::{Address, AnyClock, Found, HostTimer, Never};
use core::task::Waker;
use paravirt_device::{Agent, Arm, Fault};
#[cfg(feature = "virtio")]
use paravirt_kvm::KvmClock;
#[cfg(feature = "hyperv")]
use paravirt_platform::PageArc;
use paravirt_platform::{DmaBuffer, Platform, ProcessorId};

/// What the host offers to the machine as a whole: devices that come and go, a clock, crash reports, reset.
///
/// It owns the connections to the host's buses and the controllers of disks: a kernel keeps it as long as it uses the devices.
/// Nothing here names a vendor: where the host has no such thing, there is nothing to be had. At the end a kernel calls
/// [`leave`](Self::leave), so that the next one finds the host as it found it.
///
/// None of its methods may be called in interrupt context.
pub struct Services<P: Platform, B: DmaBuffer> {
    #[cfg_attr(not(feature = "virtio"), expect(dead_code, reason = "the clock of KVM reads its registers"))]
    platform: P,
    controllers: Controllers<P, B>,
    #[cfg(feature = "hyperv")]
    pub(crate) hyperv: HyperVHost<P>,
}

/// What has happened on a bus.
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "handed over once")]
pub enum Event<P: Platform, B: DmaBuffer> {
    /// A device was added.
    Found(Found<P, B>),
    /// A device was removed, or a controller with all of its units ([`Address::covers`]): whoever has it finds it removed, and
    /// drops it.
    Removed(Address),
}

impl<P: Platform, B: DmaBuffer> Services<P, B> {
    pub(crate) fn new(
        platform: &P,
        controllers: Controllers<P, B>,
        #[cfg(feature = "hyperv")] hyperv: HyperVHost<P>,
    ) -> Self {
        Self {
            platform: platform.clone(),
            controllers,
            #[cfg(feature = "hyperv")]
            hyperv,
        }
    }

    /// Takes every device on the hypervisor's own bus into service.
    #[cfg(feature = "hyperv")]
    pub(crate) fn offers(&mut self, found: &mut dyn FnMut(Found<P, B>)) {
        self.hyperv.offers(&mut self.controllers, found);
    }

    /// VMBus itself, for a driver of one's own: of a device that [`Device::Unclaimed`](crate::Device::Unclaimed) names.
    #[cfg(feature = "hyperv")]
    pub fn vmbus(&self) -> Option<&paravirt_vmbus::Vmbus<P>> {
        self.hyperv.vmbus.as_ref()
    }

    /// What has been added and removed since the last call, each handed to `each`. A device that was added is taken into service
    /// here, which takes the time of some messages to the host and back.
    pub fn poll(&mut self, each: &mut dyn FnMut(Event<P, B>)) {
        #[cfg(feature = "hyperv")]
        self.hyperv.poll(&mut self.controllers, each);
        self.controllers.poll(None, each);
    }

    /// Answers what the host has asked of the guest as a whole: to shut down, how it is, what it is called, which time it is. A
    /// kernel that calls this once goes on calling it when it is woken, as the host expects answers from then on.
    pub fn serve(&mut self, agent: &mut dyn Agent) {
        #[cfg(feature = "hyperv")]
        self.hyperv.serve(agent);
        #[cfg(not(feature = "hyperv"))]
        let _ = agent;
    }

    /// Registers the task to wake when a device is added or removed, or when the host asks something of an agent that
    /// [serves](Self::serve).
    pub fn register(&mut self, waker: &Waker) {
        #[cfg(feature = "hyperv")]
        self.hyperv.register(waker);
        self.controllers.register(waker);
    }

    /// Whether the next event wakes, or [`poll`](Self::poll) or [`serve`](Self::serve) has something to do.
    #[must_use]
    pub fn arm(&mut self) -> Arm {
        #[cfg(feature = "hyperv")]
        if self.hyperv.arm() == Arm::Pending {
            return Arm::Pending;
        }
        self.controllers.arm()
    }

    /// The hypervisor's clock; `None` where it has none that all processors share. One at a time: a second takes over what the
    /// first reads.
    pub fn clock(&self) -> Option<AnyClock<P>> {
        #[cfg(feature = "hyperv")]
        if let Some(clock) = self.hyperv.clock() {
            return Some(clock);
        }
        #[cfg(feature = "virtio")]
        {
            let base = detect(&self.platform).find(|leaves| leaves.hypervisor == Kind::Kvm)?.base;
            KvmClock::open(&self.platform, base).ok().map(AnyClock::Kvm)
        }
        #[cfg(not(feature = "virtio"))]
        None
    }

    /// A timer of the hypervisor for `processor`, one at a time; `None` where there is none that raises an interrupt by itself.
    pub fn timer(&self, processor: ProcessorId) -> Option<HostTimer<P>> {
        #[cfg(feature = "hyperv")]
        {
            HostTimer::open(self.hyperv.hypervisor.as_ref()?, processor)
        }
        #[cfg(not(feature = "hyperv"))]
        {
            let _ = processor;
            None
        }
    }

    /// What tells the host of a crash; to be kept for the panic handler.
    pub fn crash_reporter(&self) -> Option<CrashReporter<P>> {
        #[cfg(feature = "hyperv")]
        {
            self.hyperv.hypervisor.clone().map(CrashReporter::HyperV)
        }
        #[cfg(not(feature = "hyperv"))]
        None
    }

    /// Resets the machine by the hypervisor; returns where it does not offer that.
    pub fn reset(&self) {
        #[cfg(feature = "hyperv")]
        self.hyperv.hypervisor.iter().for_each(|hypervisor| hypervisor.reset());
    }

    /// Ends the connections to the host's buses, once the host has read what was answered last, for which it has a second. Devices
    /// on them are out of service then, and the host releases all memory that they shared with it. What is the hypervisor's own
    /// (its call page, and its clock's) goes when this, the clock and the crash reporter have been dropped.
    ///
    /// # Errors
    ///
    /// [`Fault::Timeout`] where the host does not confirm.
    pub fn leave(&mut self) -> Result<(), Fault> {
        #[cfg(feature = "hyperv")]
        self.hyperv.unload()?;
        Ok(())
    }
}

/// What tells the host of a crash.
#[non_exhaustive]
pub enum CrashReporter<P: Platform> {
    /// Hyper-V.
    #[cfg(feature = "hyperv")]
    HyperV(PageArc<P, paravirt_hyperv::Hypervisor<P>>),
    #[doc(hidden)]
    Never(Never<P>),
}

impl<P: Platform> CrashReporter<P> {
    /// Tells the host that the guest has crashed: five values as the guest likes, and a text where the host takes one, of
    /// which 4096 bytes at most. With a text, the last two values give way to its address and length. Whether the host was
    /// told.
    ///
    /// Callable from a panic: it takes no lock and waits for nothing. Some hosts stop the guest here.
    pub fn report(&self, values: [u64; 5], text: Option<&str>) -> bool {
        #[cfg(not(feature = "hyperv"))]
        let _ = (values, text);
        match self {
            #[cfg(feature = "hyperv")]
            Self::HyperV(hypervisor) => hypervisor.report_crash(values, text),
            Self::Never((never, _)) => match *never {},
        }
    }
}

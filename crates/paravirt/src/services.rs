//! Host services that belong to no single device: hot plug, clock, timers, crash reports, reset, integration services.

#[cfg(feature = "pci")]
use crate::Firmware;
use crate::Place;
use crate::controllers::Controllers;
#[cfg(feature = "pci")]
use crate::hot_plug::HotPlug;
#[cfg(feature = "hyperv")]
use crate::hyperv::HyperVHost;
#[cfg(feature = "virtio")]
use crate::hypervisor::{Hypervisor as Kind, detect};
#[cfg(feature = "pci")]
use crate::opener::Opener;
#[cfg(feature = "xen")]
use crate::xen::XenHost;
use crate::{Address, AnyClock, Found, HostTimer, Never, Options};
use core::fmt;
use core::task::Waker;
#[cfg(feature = "pci")]
use paravirt_device::PowerRequest;
use paravirt_device::{Agent, Arm, Fault};
#[cfg(feature = "virtio")]
use paravirt_kvm::KvmClock;
#[cfg(feature = "virtio")]
use paravirt_platform::InterruptLine;
#[cfg(any(feature = "hyperv", feature = "xen"))]
use paravirt_platform::PageArc;
use paravirt_platform::{DmaBuffer, Instant, Platform, ProcessorId};
#[cfg(feature = "vmware")]
use paravirt_vmware::{TscClock, VMware};

/// Host services that belong to no single device: hot plug, a clock, timers, crash reports, reset, integration services.
///
/// It owns the bus connections and the disk controllers, so a kernel keeps it for as long as it uses the devices. Its methods
/// name no vendor; a service that the host does not offer is `None` or does nothing. Before a kernel hands over to another one
/// (kexec), it calls [`disconnect`](Self::disconnect) to disconnect from the host.
///
/// No method may be called in interrupt context.
pub struct Services<P: Platform, B: DmaBuffer> {
    #[cfg_attr(
        not(any(feature = "pci", feature = "xen")),
        expect(dead_code, reason = "the clock of KVM reads its registers")
    )]
    platform: P,
    controllers: Controllers<P, B>,
    #[cfg(feature = "pci")]
    hot_plug: HotPlug<P>,
    #[cfg(feature = "hyperv")]
    pub(crate) hyperv: HyperVHost<P>,
    #[cfg(feature = "xen")]
    pub(crate) xen: XenHost<P>,
}

/// A hot-plug event.
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "moved once")]
pub enum Event<P: Platform, B: DmaBuffer> {
    /// A device was added.
    Found(Found<P, B>),
    /// A device was removed, or a controller with all its units ([`Address::covers`]). Calls on the device report
    /// [`Fault::Removed`]; its owner drops it.
    ///
    /// A PCI device that the host asks for still works during the call, and is gone when the call has returned: its owner stops and drops
    /// it meanwhile, so that nothing that it was doing is lost. One that is kept longer is cut off from what is added in its place, to which
    /// the addresses of its registers are not given before it is dropped.
    Removed(Address),
}

impl<P: Platform, B: DmaBuffer> fmt::Debug for Event<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found(found) => f.debug_tuple("Found").field(found).finish(),
            Self::Removed(address) => f.debug_tuple("Removed").field(&format_args!("{address}")).finish(),
        }
    }
}

impl<P: Platform, B: DmaBuffer> fmt::Debug for Services<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Services");
        #[cfg(feature = "hyperv")]
        text.field("has_hypervisor", &self.hyperv.hypervisor.is_some())
            .field("has_vmbus", &self.hyperv.vmbus.is_some());
        text.finish_non_exhaustive()
    }
}

impl<P: Platform> fmt::Debug for CrashReporter<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(feature = "hyperv")]
            Self::HyperV(_) => f.write_str("CrashReporter(HyperV)"),
            #[cfg(feature = "xen")]
            Self::Xen(_) => f.write_str("CrashReporter(Xen)"),
            Self::Never((never, _)) => match *never {},
        }
    }
}

impl<P: Platform, B: DmaBuffer> Services<P, B> {
    /// The services before any host was looked for. They are filled in place: moved, they would take much of a small stack.
    pub(crate) fn new(platform: &P, options: &Options) -> Self {
        let processors = platform.processors().count().max(1);
        let queues = options.queues.unwrap_or(u16::try_from(processors).unwrap_or(u16::MAX));
        let scsi = paravirt_scsi::Options::default()
            .with_command_timeout(options.command_timeout)
            .with_reset_timeout(options.reset_timeout);
        Self {
            platform: platform.clone(),
            controllers: Controllers::new(platform, scsi),
            #[cfg(feature = "pci")]
            hot_plug: HotPlug::new(platform, Opener::new(options, queues, processors)),
            #[cfg(feature = "hyperv")]
            hyperv: HyperVHost::new(platform, queues),
            #[cfg(feature = "xen")]
            xen: XenHost::new(queues, options),
        }
    }

    /// Opens every device on the buses that firmware describes, and passes it to `found`.
    ///
    /// # Safety
    ///
    /// As for [`probe`](crate::probe).
    #[cfg(feature = "pci")]
    pub(crate) unsafe fn find_on_buses(
        &mut self,
        firmware: &Firmware<'_>,
        found: &mut dyn FnMut(Found<P, B>),
    ) {
        // SAFETY: the caller upholds the same contract.
        unsafe {
            crate::opener::find(&self.platform, firmware, &mut self.hot_plug, &mut self.controllers, found);
        }
    }

    /// Connects to Hyper-V, opens every device that VMBus offers, and passes it to `found`.
    #[cfg(feature = "hyperv")]
    pub(crate) fn find_hyperv(&mut self, options: &Options, found: &mut dyn FnMut(Found<P, B>)) {
        // Xen offers Hyper-V's interface to guests that ask for it, without devices behind it.
        #[cfg(feature = "xen")]
        if self.xen.hypervisor().is_some() {
            return;
        }
        self.hyperv.connect(options.vmbus, options.timeouts);
        self.hyperv.offers(&mut self.controllers, found);
    }

    /// Connects to Xen, and removes emulated devices that its devices replace: before buses are walked.
    ///
    /// # Safety
    ///
    /// As for [`probe`](crate::probe).
    #[cfg(feature = "xen")]
    pub(crate) unsafe fn connect_xen(&mut self) {
        // SAFETY: the caller upholds the same contract.
        unsafe { self.xen.connect(&self.platform) };
    }

    /// Opens every device of Xen, and passes it to `found`.
    #[cfg(feature = "xen")]
    pub(crate) fn find_xen(&mut self, found: &mut dyn FnMut(Found<P, B>)) {
        self.xen.find(found);
    }

    /// Returns the VMBus connection, for drivers outside this library of devices that are
    /// [`Device::Unclaimed`](crate::Device::Unclaimed); `None` on a host without VMBus.
    #[cfg(feature = "hyperv")]
    pub fn vmbus(&self) -> Option<&paravirt_vmbus::Vmbus<P>> {
        self.hyperv.vmbus.as_ref()
    }

    /// Passes each hot-plug event since the last call to `each`. An added device is opened here, which blocks for some round
    /// trips to the host.
    ///
    /// PCI devices are added and removed by the ACPI registers of QEMU and Cloud Hypervisor, and by hot-plug ports of PCI Express; what is
    /// behind a bridge that is added itself is not looked for. [`Options::host_events`](crate::Options::host_events) leaves them to the kernel.
    pub fn poll(&mut self, each: &mut dyn FnMut(Event<P, B>)) {
        #[cfg(feature = "pci")]
        self.hot_plug.poll(&mut self.controllers, each);
        #[cfg(feature = "hyperv")]
        self.hyperv.poll(&mut self.controllers, each);
        #[cfg(feature = "xen")]
        self.xen.poll(each);
        self.controllers.poll(None, each);
    }

    /// Opens a PCI function that the kernel has enumerated ([`PciSlot::read`](paravirt_pci::PciSlot::read)), and passes what is found to
    /// `found`: the device, the disks of a SCSI host, or why it is unclaimed. A SCSI host that is open there is closed first. Blocks as [`probe`](crate::probe) does for the device.
    ///
    /// # Safety
    ///
    /// No other driver uses the function, and its memory BARs, where they have addresses, are forwarded to it.
    #[cfg(feature = "pci")]
    pub unsafe fn open_pci(&mut self, slot: &paravirt_pci::PciSlot<P>, found: &mut dyn FnMut(Found<P, B>)) {
        let Self { platform, controllers, hot_plug, .. } = self;
        // SAFETY: the caller upholds the same contract.
        unsafe { hot_plug.opener.open_slot(platform, slot, controllers, found) };
    }

    /// Closes the SCSI host at `place`, whose disks are out of service from then on; nothing if there is none. Other devices are closed
    /// when they are dropped. Blocks until the host has reset the device, for five seconds at most.
    pub fn close(&mut self, place: Place) {
        self.controllers.remove(place);
    }

    /// Opens the virtio device whose `len` bytes of registers are at physical address `base`, with its interrupt line, and passes what is
    /// found to `found`; nothing if the place is empty. Blocks as [`probe`](crate::probe) does for the device.
    ///
    /// # Safety
    ///
    /// There are registers of a virtio device, which no other driver uses.
    #[cfg(feature = "virtio")]
    pub unsafe fn open_mmio(
        &mut self,
        base: u64,
        len: usize,
        line: Option<InterruptLine>,
        found: &mut dyn FnMut(Found<P, B>),
    ) {
        let Self { platform, controllers, hot_plug, .. } = self;
        // SAFETY: the caller upholds the same contract.
        unsafe { hot_plug.opener.open_mmio(platform, base, len, line, controllers, found) };
    }

    /// Opens a device on VMBus again that could not be opened, or that reported a fault: what was found of it at `place` has been dropped.
    /// Passes what is found to `found`, and returns whether the host offers a device there. Blocks as [`probe`](crate::probe) does for
    /// the device.
    ///
    /// Other devices are opened again by another [`probe`](crate::probe), after everything was dropped.
    #[cfg(feature = "hyperv")]
    pub fn open_again(&mut self, place: Place, found: &mut dyn FnMut(Found<P, B>)) -> bool {
        self.hyperv.open_again(place, &mut self.controllers, found)
    }

    /// Answers the integration services of the host: shutdown requests, heartbeats, key-value pairs, time synchronisation. The
    /// first call opens their channels. From then on the host expects answers, so the kernel calls this on each wake-up.
    ///
    /// The power button of ACPI is a request to power off that may be refused.
    pub fn serve(&mut self, agent: &mut dyn Agent) {
        #[cfg(feature = "pci")]
        if self.hot_plug.take_power_button() {
            let _ = agent.power(PowerRequest::PowerOff, false);
        }
        #[cfg(feature = "hyperv")]
        self.hyperv.serve(agent);
        #[cfg(feature = "xen")]
        self.xen.serve(agent);
    }

    /// Returns the time by which [`poll`](Self::poll) and [`serve`](Self::serve) are to be called though nothing has woken the task:
    /// [`Instant::NEVER`] if every event wakes it. Hot-plug ports of PCI Express are looked at every second.
    pub fn next_deadline(&self) -> Instant {
        #[cfg(feature = "pci")]
        let deadline = self.hot_plug.next_deadline();
        #[cfg(not(feature = "pci"))]
        let deadline = Instant::NEVER;
        deadline
    }

    /// Sets the waker for hot-plug events and for requests to [`serve`](Self::serve), replacing the previous one.
    pub fn register(&mut self, waker: &Waker) {
        #[cfg(feature = "hyperv")]
        self.hyperv.register(waker);
        #[cfg(feature = "xen")]
        self.xen.register(waker);
        #[cfg(feature = "pci")]
        self.hot_plug.register(waker);
        self.controllers.register(waker);
    }

    /// Arms the wake-up. [`Arm::Pending`] means that [`poll`](Self::poll) or [`serve`](Self::serve) has work to do now.
    #[must_use]
    pub fn arm(&mut self) -> Arm {
        let controllers = self.controllers.arm();
        #[cfg(feature = "pci")]
        let controllers = controllers.and(self.hot_plug.arm());
        #[cfg(feature = "hyperv")]
        let controllers = controllers.and(self.hyperv.arm());
        #[cfg(feature = "xen")]
        let controllers = controllers.and(self.xen.arm());
        controllers
    }

    /// Opens the hypervisor's clock; `None` if it offers none that is consistent across processors. Open one at a time: the second one
    /// replaces the page that the first one reads.
    pub fn clock(&self) -> Option<AnyClock<P>> {
        #[cfg(feature = "xen")]
        if let Some(clock) = self.xen.clock() {
            return Some(clock);
        }
        #[cfg(feature = "hyperv")]
        if let Some(clock) = self.hyperv.clock() {
            return Some(clock);
        }
        #[cfg(feature = "virtio")]
        if let Some(kvm) = detect(&self.platform).find(|leaves| leaves.hypervisor == Kind::Kvm) {
            return KvmClock::open(&self.platform, kvm.base).ok().map(AnyClock::Kvm);
        }
        #[cfg(feature = "vmware")]
        if let Some(vmware) = VMware::detect(&self.platform) {
            return TscClock::open(&self.platform, &vmware).map(AnyClock::VMware);
        }
        None
    }

    /// Opens the hypervisor's timer of `processor`, one at a time; `None` if it has none that raises an interrupt directly.
    pub fn timer(&self, processor: ProcessorId) -> Option<HostTimer<P>> {
        #[cfg(feature = "xen")]
        if let Some(hypervisor) = self.xen.hypervisor() {
            return HostTimer::open_xen(hypervisor, processor);
        }
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

    /// Returns a crash reporter for the panic handler; `None` if the host accepts no crash reports.
    pub fn crash_reporter(&self) -> Option<CrashReporter<P>> {
        #[cfg(feature = "xen")]
        if let Some(hypervisor) = self.xen.hypervisor() {
            return Some(CrashReporter::Xen(hypervisor.clone()));
        }
        #[cfg(feature = "hyperv")]
        {
            self.hyperv.hypervisor.clone().map(CrashReporter::HyperV)
        }
        #[cfg(not(feature = "hyperv"))]
        None
    }

    /// Resets the machine through the hypervisor. Returns if the hypervisor does not support that.
    pub fn reset(&self) {
        #[cfg(feature = "hyperv")]
        self.hyperv.hypervisor.iter().for_each(|hypervisor| hypervisor.reset());
        #[cfg(feature = "xen")]
        self.xen.restart();
    }

    /// Disconnects from VMBus. Blocks until the host has read the last responses (at most one second) and has confirmed the
    /// unload. Afterwards the devices on it are out of service, and the host has released all memory shared with it. The
    /// hypercall page and the clock page are released when this value, the clock and the crash reporter have been dropped.
    ///
    /// # Errors
    ///
    /// [`Fault::Timeout`] if the host does not confirm in time.
    pub fn disconnect(&mut self) -> Result<(), Fault> {
        #[cfg(feature = "hyperv")]
        self.hyperv.unload()?;
        Ok(())
    }
}

/// Reports a guest crash to the host.
#[non_exhaustive]
pub enum CrashReporter<P: Platform> {
    /// Hyper-V.
    #[cfg(feature = "hyperv")]
    HyperV(PageArc<P, paravirt_hyperv::Hypervisor<P>>),
    /// Xen, which ends the domain as crashed; what becomes of it then, its configuration says.
    #[cfg(feature = "xen")]
    Xen(PageArc<P, paravirt_xen::Hypervisor<P>>),
    #[doc(hidden)]
    Never(Never<P>),
}

impl<P: Platform> CrashReporter<P> {
    /// Reports a crash with five guest-defined values and a text, of which the first 4096 bytes are sent if the host takes
    /// texts. A text replaces the last two values by its address and length. Returns whether the host was notified.
    ///
    /// Callable in any context, including a panic or an interrupt: takes no lock and does not block. Some hosts stop the guest
    /// here.
    pub fn report(&self, values: [u64; 5], text: Option<&str>) -> bool {
        #[cfg(not(feature = "hyperv"))]
        let _ = (values, text);
        match self {
            #[cfg(feature = "hyperv")]
            Self::HyperV(hypervisor) => hypervisor.report_crash(values, text),
            #[cfg(feature = "xen")]
            Self::Xen(hypervisor) => hypervisor.shutdown(paravirt_xen::Shutdown::Crash).is_ok(),
            Self::Never((never, _)) => match *never {},
        }
    }
}

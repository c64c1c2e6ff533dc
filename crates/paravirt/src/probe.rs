//! The function that finds all devices.

use crate::{Found, Services};
use core::time::Duration;
use paravirt_platform::{DmaBuffer, Platform};
#[cfg(feature = "hyperv")]
use paravirt_vmbus::{Timeouts, Version};

/// What the boot loader passed to the kernel.
#[derive(Copy, Clone, Debug, Default)]
#[non_exhaustive]
pub struct Firmware<'a> {
    /// The physical address of ACPI's RSDP. If it is `None`, and there is no device tree, the BIOS area is searched.
    pub rsdp: Option<u64>,
    /// The command line, which may have `virtio_mmio.device=` parameters.
    pub command_line: &'a str,
    /// The flattened device tree, on machines that have one: PCI host bridges with ECAM, and virtio MMIO devices.
    pub device_tree: Option<&'a [u8]>,
}

impl<'a> Firmware<'a> {
    /// The RSDP at this physical address, and no command line.
    pub const fn new(rsdp: Option<u64>) -> Self {
        Self { rsdp, command_line: "", device_tree: None }
    }

    /// Sets the flattened device tree, which may be followed by other bytes.
    #[must_use]
    pub const fn with_device_tree(mut self, device_tree: &'a [u8]) -> Self {
        self.device_tree = Some(device_tree);
        self
    }

    /// Sets the command line.
    #[must_use]
    pub const fn with_command_line(mut self, command_line: &'a str) -> Self {
        self.command_line = command_line;
        self
    }
}

/// Options for opening devices: start with [`Options::default`] and change fields.
#[derive(Copy, Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Maximum number of queues of a device; `None` for the number of processors.
    pub queues: Option<u16>,
    /// Maximum number of entries of a queue.
    pub queue_size: u16,
    /// Maximum number of segments of a buffer.
    pub segments: u16,
    /// The maximum length in bytes of a packet without its Ethernet header, of network cards that leave it to the guest: those of VMware, up
    /// to 9000.
    pub mtu: u16,
    /// Whether virtio disks are passed through to the driver of the `virtio-drivers` crate, which the trust rule does not cover: for
    /// comparison.
    pub passthrough_disks: bool,
    /// Whether the buses that firmware describes are walked. A kernel with buses of its own sets it to false, and passes each device to
    /// `Services::open_pci` or `Services::open_mmio`.
    pub walks_buses: bool,
    /// Whether events that ACPI reports are handled: PCI devices that are added and removed, and the power button. A kernel that runs the
    /// machine's ACPI code itself sets it to false: the registers have one user.
    pub host_events: bool,
    /// How long a command of the SCSI layer's own may take: of scans, and of the identification of disks.
    pub command_timeout: Duration,
    /// How long the commands in flight may take to complete after a SCSI bus was reset.
    pub reset_timeout: Duration,
    /// Whether emulated disks and network cards are removed for good that Xen's devices replace, unless there are virtio devices, which
    /// the host would remove with them.
    #[cfg(feature = "xen")]
    pub unplugs_emulated: bool,
    /// Whether Xen's disks copy every buffer by way of pages that are granted once, which a backend can keep mapped: see
    /// `BlkFrontOptions::with_persistent_grants`.
    #[cfg(feature = "xen")]
    pub persistent_grants: bool,
    /// Whether Xen's events are noted in queues, where it has those: see `HypervisorOptions::with_fifo_events`.
    #[cfg(feature = "xen")]
    pub fifo_events: bool,
    /// Whether Xen's grants are of version 2, where it has that: see `HypervisorOptions::with_wide_grants`.
    #[cfg(feature = "xen")]
    pub wide_grants: bool,
    /// The newest version of VMBus to offer.
    #[cfg(feature = "hyperv")]
    pub vmbus: Version,
    /// How long the drivers on VMBus wait for the host.
    #[cfg(feature = "hyperv")]
    pub timeouts: Timeouts,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queues: None,
            queue_size: 1024,
            segments: 14,
            mtu: 1500,
            passthrough_disks: false,
            walks_buses: true,
            host_events: true,
            command_timeout: paravirt_scsi::Options::default().command_timeout,
            reset_timeout: paravirt_scsi::Options::default().reset_timeout,
            #[cfg(feature = "xen")]
            unplugs_emulated: true,
            #[cfg(feature = "xen")]
            persistent_grants: false,
            #[cfg(feature = "xen")]
            fifo_events: true,
            #[cfg(feature = "xen")]
            wide_grants: false,
            #[cfg(feature = "hyperv")]
            vmbus: Version::NEWEST,
            #[cfg(feature = "hyperv")]
            timeouts: Timeouts::new(),
        }
    }
}

/// Finds every device of the machine, opens those that have a driver, and passes each to `found`: PCI by address, then MMIO by
/// address, then VMBus by channel, then Xen by class and number. Returns the host services that belong to no single device: keep them for
/// as long as the devices are used. They own the connection to VMBus and the SCSI controllers; when they are dropped, devices on those are
/// out of service, and nothing is hot-plugged any more.
///
/// Takes up to 8 KB of stack in a release build on x86-64, 10 KB where a SCSI controller has to be reset meanwhile, without that of the
/// platform's own methods and of `found`; and blocks for the answers of the hosts of all devices.
///
/// # Safety
///
/// * Firmware and command line describe this machine: there are registers where they report them.
/// * No other driver uses the devices, and firmware's drivers have stopped.
/// * Reading memory that the firmware's tables point to has no side effects.
pub unsafe fn probe<P, B>(
    platform: &P,
    firmware: &Firmware<'_>,
    options: &Options,
    found: &mut dyn FnMut(Found<P, B>),
) -> Services<P, B>
where
    P: Platform,
    B: DmaBuffer,
{
    let mut services = Services::new(platform, options);
    #[cfg(feature = "xen")]
    // SAFETY: the caller upholds the same contract.
    unsafe {
        services.connect_xen();
    }
    #[cfg(feature = "pci")]
    // SAFETY: the caller upholds the same contract.
    unsafe {
        services.find_on_buses(firmware, found);
    }
    #[cfg(not(feature = "pci"))]
    let _ = firmware;
    #[cfg(feature = "hyperv")]
    services.find_hyperv(options, found);
    #[cfg(feature = "xen")]
    services.find_xen(found);
    services
}

//! The one call that finds everything.

use crate::controllers::Controllers;
use crate::{Found, Services};
use paravirt_platform::{DmaBuffer, Platform};
#[cfg(feature = "hyperv")]
use paravirt_vmbus::Version;

/// What the boot loader passed on.
#[derive(Copy, Clone, Debug, Default)]
#[non_exhaustive]
pub struct Firmware<'a> {
    /// The physical address of ACPI's RSDP. Without, the BIOS area is searched.
    pub rsdp: Option<u64>,
    /// The command line, for `virtio_mmio.device=`.
    pub command_line: &'a str,
}

impl<'a> Firmware<'a> {
    /// The RSDP at this physical address, and no command line.
    pub const fn new(rsdp: Option<u64>) -> Self {
        Self { rsdp, command_line: "" }
    }

    /// Sets the command line.
    #[must_use]
    pub const fn with_command_line(mut self, command_line: &'a str) -> Self {
        self.command_line = command_line;
        self
    }
}

/// How devices are taken into service: make one by [`Options::default`] and set what is to be different.
#[derive(Copy, Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Queues of a device at most; `None` for as many as there are processors.
    pub queues: Option<u16>,
    /// Entries of a queue at most.
    pub queue_size: u16,
    /// Segments of a buffer at most.
    pub segments: u16,
    /// Virtio disks are passed through to the `virtio-drivers` crate's driver, outside the trust rule: to compare with.
    pub pass_disks: bool,
    /// The newest version of VMBus to speak.
    #[cfg(feature = "hyperv")]
    pub vmbus: Version,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queues: None,
            queue_size: 1024,
            segments: 14,
            pass_disks: false,
            #[cfg(feature = "hyperv")]
            vmbus: Version::NEWEST,
        }
    }
}

/// Finds every device of the machine, takes into service what there is a driver for, and hands each to `found`: PCI by
/// address, then MMIO by address, then VMBus by channel. Returns what the host offers to the machine as a whole.
///
/// # Safety
///
/// * Firmware and command line describe this machine: where they say that there are registers, there are.
/// * Nobody else drives the devices, and firmware's drivers have stopped.
/// * Reading the firmware's tables, wherever they lead, has no side effects.
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
    let processors = platform.processors().count().max(1);
    let queues = options.queues.unwrap_or(u16::try_from(processors).unwrap_or(u16::MAX));
    let mut controllers = Controllers::new(platform);
    #[cfg(feature = "virtio")]
    {
        let open = paravirt_virtio::OpenOptions::new()
            .with_queues(queues)
            .with_queue_size(options.queue_size)
            .with_processors(processors)
            .with_segments(options.segments);
        // SAFETY: the caller's promises are those that the call asks for.
        unsafe { crate::virtio::probe(platform, firmware, options, &open, &mut controllers, found) };
    }
    #[cfg(not(feature = "virtio"))]
    let _ = firmware;
    #[cfg(feature = "hyperv")]
    {
        let hyperv = crate::hyperv::HyperVHost::open(platform, queues, options.vmbus);
        let mut services = Services::new(platform, controllers, hyperv);
        services.offers(found);
        services
    }
    #[cfg(not(feature = "hyperv"))]
    Services::new(platform, controllers)
}

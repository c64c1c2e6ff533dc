//! What a kernel needs of Xen before it has memory to allocate: output, the frequency of the cycle counter, and an end. A PVH guest has no
//! serial port, no timer of a PC and no power button.

use crate::bytes::BytePage;
use crate::calls::{CallError, Calls, Parameter, Shutdown};
use crate::console::Rings;
use crate::detect::Detected;
use core::fmt;
use core::ptr::NonNull;
use paravirt_platform::{PAGE_SIZE, Platform, SharedMemory};
use paravirt_pvclock::TimeInfo;

/// Xen, before there is memory to allocate. All methods may be called in any context: they take no lock.
pub struct Early<P: Platform> {
    calls: Calls<P>,
}

/// The console of the domain, where nothing is allocated.
#[derive(Debug)]
pub struct EarlyConsole {
    rings: Rings,
    port: u32,
}

/// Memory for the time that the hypervisor tells a processor.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct TimeArea(core::cell::UnsafeCell<[u64; TimeInfo::LEN / 8]>);

// SAFETY: it is accessed as atomics only.
unsafe impl Sync for TimeArea {}

impl TimeArea {
    /// Creates an empty area.
    pub const fn new() -> Self {
        Self(core::cell::UnsafeCell::new([0; TimeInfo::LEN / 8]))
    }
}

impl Default for TimeArea {
    fn default() -> Self {
        Self::new()
    }
}

impl EarlyConsole {
    /// Writes the first of `bytes` and returns how many; 0 if the ring is full, as when nobody reads it. [`Early::notify`] tells the host.
    pub fn write(&self, bytes: &[u8]) -> usize {
        self.rings.write(bytes)
    }

    /// Whether a byte can be written.
    pub fn has_room(&self) -> bool {
        self.rings.has_room()
    }

    /// Whether the host has read everything.
    pub fn is_flushed(&self) -> bool {
        self.rings.is_flushed()
    }
}

impl<P: Platform> Early<P> {
    /// Detects Xen; `None` if there is none. Calls no method of the platform but [`registers`](Platform::registers) and
    /// [`xen`](Platform::xen).
    pub fn new(platform: &P) -> Option<Self> {
        Detected::new(platform).map(|detected| Self { calls: Calls::new(platform, detected.instruction) })
    }

    /// Returns the physical address of the console's page; `None` if the domain has none.
    pub fn console_address(&self) -> Option<u64> {
        let frame = self.calls.parameter(Parameter::ConsoleFrame).ok().filter(|frame| *frame != 0)?;
        frame.checked_mul(PAGE_SIZE as u64)
    }

    /// Returns the console, whose page is mapped at `page`.
    ///
    /// # Safety
    ///
    /// The page at [`console_address`](Self::console_address) is mapped there for as long as the value is used.
    pub unsafe fn console(&self, page: NonNull<u8>) -> Option<EarlyConsole> {
        let port = u32::try_from(self.calls.parameter(Parameter::ConsolePort).ok()?)
            .ok()
            .filter(|port| *port != 0)?;
        // SAFETY: by the contract of this function; both sides access it as atomics.
        let rings = Rings::new(BytePage::new(unsafe { SharedMemory::new(page, PAGE_SIZE) }));
        Some(EarlyConsole { rings, port })
    }

    /// Tells the host that something was written.
    pub fn notify(&self, console: &EarlyConsole) {
        // The port is the domain's.
        let _ = self.calls.send(console.port);
    }

    /// Lets other domains run for a moment, such as the one that reads the console.
    pub fn give_way(&self) {
        self.calls.give_way();
    }

    /// Returns the frequency of the cycle counter in Hz, which the hypervisor writes to `area`: from now on, as often as it likes.
    pub fn hz(&self, area: &'static TimeArea) -> Option<u64> {
        // SAFETY: the area is static, of that size, aligned, and accessed as atomics only.
        let view = unsafe { SharedMemory::new(NonNull::new(area.0.get())?.cast(), TimeInfo::LEN) };
        // SAFETY: the area is the hypervisor's to write for good.
        unsafe { self.calls.register_time(0, area.0.get().expose_provenance() as u64) }.ok()?;
        TimeInfo::read(&view, 0)?.hz()
    }

    /// Ends this domain. Returns only if the hypervisor refuses.
    ///
    /// # Errors
    ///
    /// [`CallError`] of the hypervisor.
    pub fn shutdown(&self, reason: Shutdown) -> Result<bool, CallError> {
        self.calls.shutdown(reason)
    }
}

impl<P: Platform> fmt::Debug for Early<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Early").finish_non_exhaustive()
    }
}

//! The hypervisor in service: shared page, event channels, grant table.

use crate::calls::{CallError, Calls, Parameter, Shutdown, Space};
use crate::detect::Detected;
use crate::device::Status;
use crate::events::{Events, FIFO_PAGES};
use crate::grants::{Grants, GrantsError};
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};
use paravirt_platform::{AllocError, PAGE_SIZE, PageArc, PageTable, Platform, SharedMemory, WakerGroup};
use spin::Mutex;

/// Why the hypervisor, or a part of it, could not be opened.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no Xen.
    Absent,
    /// The platform has no pages for the hypervisor to replace.
    NoFrames,
    /// The hypervisor refused a call that cannot be done without.
    Call(CallError),
    /// Out of memory.
    Memory,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("no Xen"),
            Self::NoFrames => f.write_str("the platform provides no pages for the hypervisor"),
            Self::Call(error) => error.fmt(f),
            Self::Memory => f.write_str("out of memory"),
        }
    }
}

impl core::error::Error for OpenError {}

impl From<AllocError> for OpenError {
    fn from(_: AllocError) -> Self {
        Self::Memory
    }
}

impl From<CallError> for OpenError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl From<GrantsError> for OpenError {
    fn from(error: GrantsError) -> Self {
        match error {
            GrantsError::Call(error) => Self::Call(error),
            GrantsError::Memory(_) => Self::Memory,
        }
    }
}

/// Options with which the hypervisor is opened.
#[derive(Copy, Clone, Debug)]
#[non_exhaustive]
pub struct HypervisorOptions {
    /// Whether events are noted in queues, where the hypervisor has those: see [`with_fifo_events`](Self::with_fifo_events).
    pub has_fifo_events: bool,
    /// Whether grants are of version 2, where the hypervisor has that: see [`with_wide_grants`](Self::with_wide_grants).
    pub has_wide_grants: bool,
}

impl HypervisorOptions {
    /// Events in queues, and grants of version 1.
    pub const fn new() -> Self {
        Self { has_fifo_events: true, has_wide_grants: false }
    }

    /// Sets whether events are noted in the queues of the FIFO interface, in which they are found in the order in which they came, if the
    /// hypervisor has it and the platform has enough [shared frames](paravirt_platform::Xen::shared_frames); otherwise in the tables of the
    /// 2-level interface.
    ///
    /// A domain leaves the FIFO interface only with a reset that xenstore and the console do not survive. What opens the hypervisor later finds
    /// events only with this option and the same shared frames; without them everything is polled.
    #[must_use]
    pub const fn with_fifo_events(self, has_fifo_events: bool) -> Self {
        Self { has_fifo_events, ..self }
    }

    /// Sets whether grants are of version 2. It is needed for memory beyond 16 TiB, which is refused in requests otherwise. A frame has half as
    /// many grants, and each costs somewhat more; many hosts do not offer it, and have version 1. Version 2 stays, whatever is asked for, for
    /// as long as a backend has pages mapped that an earlier user of the hypervisor has lost.
    #[must_use]
    pub const fn with_wide_grants(self, has_wide_grants: bool) -> Self {
        Self { has_wide_grants, ..self }
    }
}

impl Default for HypervisorOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// The hypervisor in service. When the last reference is dropped, everything is masked and nothing is granted any more.
pub struct Hypervisor<P: Platform> {
    platform: P,
    detected: Detected,
    features: u32,
    calls: Calls<P>,
    events: Events<P>,
    grants: Grants<P>,
    /// The first of the shared frames.
    frame: u64,
    /// How often the guest was resumed in another domain.
    resumed: AtomicU32,
    /// What is told then.
    devices: Mutex<PageTable<P, Option<Resumable<P>>>>,
}

/// The maximum number of devices that are told of a resume.
const MAX_DEVICES: usize = 64;

/// What is told when the guest was resumed in another domain: the status of a device, and the tasks to wake.
struct Resumable<P: Platform> {
    status: PageArc<P, Status>,
    wakers: WakerGroup<P>,
}

/// Returns how many of `wanted` queues there can be, of which each takes `each` of `grants`; at least one.
pub fn affordable(wanted: u16, grants: u32, each: u32) -> u16 {
    let most = grants.checked_div(each).unwrap_or(1);
    u32::from(wanted).min(most).max(1) as u16
}

/// How many of the shared frames behind the first are for grants, and how many for queues of events: the last ones, if the table of grants
/// has not more pages with them. It goes by their number alone, as the hypervisor does not let go of those with queues.
fn divide(frames: usize) -> (usize, usize) {
    let behind = frames.saturating_sub(1);
    let of_table = behind.checked_ilog2().map_or(0, |log| 1usize << log);
    let of_events = if behind.saturating_sub(of_table) >= FIFO_PAGES { FIFO_PAGES } else { 0 };
    (behind.saturating_sub(of_events), of_events)
}

impl<P: Platform> Hypervisor<P> {
    /// Maps the page that the hypervisor shares and the grant table, and sets how events interrupt.
    ///
    /// Allocates, and runs a closure on every processor. Not for interrupt context.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open(platform: &P) -> Result<PageArc<P, Self>, OpenError> {
        Self::open_with(platform, &HypervisorOptions::new())
    }

    /// Like [`open`](Self::open), with options.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open_with(platform: &P, options: &HypervisorOptions) -> Result<PageArc<P, Self>, OpenError> {
        let detected = Detected::new(platform).ok_or(OpenError::Absent)?;
        let frames = platform.xen().shared_frames().ok_or(OpenError::NoFrames)?;
        if frames.pages.get() < 2 {
            return Err(OpenError::NoFrames);
        }
        let calls = Calls::new(platform, detected.instruction);
        let features = calls.features(0)?;
        let frame = frames.bus.0 >> PAGE_SIZE.trailing_zeros();
        // SAFETY: the frame is the first of the shared frames, of which by their contract nobody else makes use.
        unsafe { calls.map(Space::SharedInfo, 0, frame) }?;
        // SAFETY: the pages are valid for good, and used by nothing else.
        let view = |first: usize, count: usize| unsafe {
            let (skipped, len) = (first.wrapping_mul(PAGE_SIZE), count.wrapping_mul(PAGE_SIZE));
            SharedMemory::new(frames.cpu.add(skipped), len)
        };
        let (of_grants, of_events) = divide(frames.pages.get());
        let grants = Grants::new(platform, &calls, &view(1, of_grants), options.has_wide_grants)?;
        // SAFETY: the frames are those behind the first.
        unsafe { grants.map(&calls, frame.saturating_add(1)) }?;
        let behind = of_grants.saturating_add(1);
        let has_queues = options.has_fifo_events && of_events != 0;
        let queues = has_queues.then(|| (view(behind, of_events), frame.saturating_add(behind as u64)));
        let events = Events::new(platform, &detected, view(0, 1), queues)?;
        let devices = Mutex::new(PageTable::new(platform, MAX_DEVICES, |_| None)?);
        let (platform, resumed) = (platform.clone(), AtomicU32::new(0));
        let mut this = Self { platform, detected, features, calls, events, grants, frame, resumed, devices };
        this.events.start(&this.calls);
        let (major, minor) = detected.version;
        let events = if this.has_fifo_events() { "queues" } else { "tables" };
        let version = if this.has_wide_grants() { 2 } else { 1 };
        log::info!("xen: version {major}.{minor}, events in {events}, grants of version {version}");
        Ok(PageArc::new(&this.platform.clone(), this)?)
    }

    /// Returns what was detected.
    pub fn detected(&self) -> Detected {
        self.detected
    }

    /// Returns the first group of features, a bit each.
    pub fn features(&self) -> u32 {
        self.features
    }

    /// Returns whether events interrupt a processor; otherwise everything is polled.
    pub fn has_interrupts(&self) -> bool {
        self.events.has_interrupts()
    }

    /// Returns whether events are noted in queues, by the FIFO interface.
    pub fn has_fifo_events(&self) -> bool {
        self.events.is_fifo()
    }

    /// Returns whether grants are of version 2.
    pub fn has_wide_grants(&self) -> bool {
        self.grants.is_wide()
    }

    /// Returns the platform.
    pub fn platform(&self) -> &P {
        &self.platform
    }

    pub(crate) fn calls(&self) -> &Calls<P> {
        &self.calls
    }

    pub(crate) fn events(&self) -> &Events<P> {
        &self.events
    }

    pub(crate) fn grants(&self) -> &Grants<P> {
        &self.grants
    }

    /// The page of a parameter with the number of a frame, and the event channel of another one.
    pub(crate) fn page_and_port(&self, page: Parameter, port: Parameter) -> Result<(u64, u32), CallError> {
        let frame = self.calls.parameter(page)?;
        let port = self.calls.parameter(port)?;
        let port = u32::try_from(port).ok().filter(|port| *port != 0).ok_or(CallError::NOT_IMPLEMENTED)?;
        if frame == 0 {
            return Err(CallError::NOT_IMPLEMENTED);
        }
        Ok((frame.saturating_mul(PAGE_SIZE as u64), port))
    }

    /// Returns how many grants a device that is opened now may take at most, so that there are some for each later one. Takes a lock.
    pub fn grants_of_a_device(&self) -> u32 {
        self.grants.free() >> 3
    }

    /// Returns how many pages were lost, since a backend had them mapped still when they were to be free again.
    pub fn lost_pages(&self) -> u64 {
        self.grants.lost()
    }

    /// Returns how often the guest was resumed in another domain since this was opened.
    pub fn resumed(&self) -> u32 {
        self.resumed.load(Ordering::Acquire)
    }

    /// Has a device told when the guest is resumed. One that finds no room is not: it is lost then.
    pub(crate) fn add(&self, status: &PageArc<P, Status>, wakers: &WakerGroup<P>) {
        let mut devices = self.devices.lock();
        if let Some(free) = devices.iter_mut().find(|device| device.is_none()) {
            *free = Some(Resumable { status: status.clone(), wakers: wakers.clone() });
        }
    }

    pub(crate) fn remove(&self, status: &PageArc<P, Status>) {
        let mut devices = self.devices.lock();
        let is_it = |device: &Resumable<P>| device.status.as_ptr() == status.as_ptr();
        let found = devices.iter_mut().find(|device| device.as_ref().is_some_and(is_it));
        found.into_iter().for_each(|device| *device = None);
    }

    /// Suspends the guest, to be saved or moved. Returns true when it runs again in another domain, and false if the host has cancelled that,
    /// and nothing has changed.
    ///
    /// In another domain there are the same page and grant table, but no event channels, no grants and no devices: each device is out of
    /// service, and is connected again by the next call of its handle or its queues. What a disk had in flight is sent again.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: the hypervisor refused, or what it shares cannot be mapped in the new domain; no device works then.
    ///
    /// To be called on the first processor, while the others use no device: what they did with one meanwhile would be lost.
    pub fn suspend(&self) -> Result<bool, OpenError> {
        if !self.calls.shutdown(Shutdown::Suspend)? {
            return Ok(false);
        }
        // SAFETY: these are the shared frames, of which this value makes use.
        unsafe {
            self.calls.map(Space::SharedInfo, 0, self.frame)?;
            self.grants.map(&self.calls, self.frame.saturating_add(1))?;
        }
        self.resumed.fetch_add(1, Ordering::AcqRel);
        self.events.signal(&self.calls);
        Ok(true)
    }

    /// Tells the devices, once xenstore works again.
    pub(crate) fn tell_resumed(&self) {
        for device in self.devices.lock().iter().flatten() {
            device.status.resume();
            device.wakers.wake_all();
        }
    }

    /// Ends this domain, or suspends it. Powering off, restarting and crashing return only if the hypervisor refuses.
    ///
    /// Callable in any context, also after a panic: it takes no lock.
    ///
    /// # Errors
    ///
    /// [`CallError`] of the hypervisor.
    pub fn shutdown(&self, reason: Shutdown) -> Result<bool, CallError> {
        self.calls.shutdown(reason)
    }
}

impl<P: Platform> Drop for Hypervisor<P> {
    fn drop(&mut self) {
        self.events.stop(&self.calls);
    }
}

impl<P: Platform> fmt::Debug for Hypervisor<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hypervisor")
            .field("detected", &self.detected)
            .field("features", &self.features)
            .field("frame", &self.frame)
            .finish_non_exhaustive()
    }
}

//! The traditional memory balloon device. VIRTIO 1.3 §5.5

use crate::device::{OpenOptions, VirtioDevice};
use crate::features::Features;
use crate::queue::VirtQueue;
use crate::request_queue::{BoxedQueue, Outcome, QueueBuilder, QueueParams};
use crate::transport::{OpenError, Transport, config_fields, read_config};
use core::fmt;
use core::task::Waker;
use core::time::Duration;
use paravirt_device::{
    Arm, Balloon, BalloonInfo, BalloonMemory, ControlError, Fault, HeldPages, Notify, PageRange,
};
use paravirt_platform::{
    BusAddr, Direction, DmaBuffer, DmaSegments, DmaSlice, Instant, PAGE_SIZE, PageArc, PageTable, Platform,
    ProcessorId, Segment, SubmitError,
};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Feature bits. VIRTIO 1.3 §5.5.3
mod feature {
    pub const MUST_TELL_HOST: u64 = 1 << 0;
    pub const STATS_VQ: u64 = 1 << 1;
    pub const FREE_PAGE_HINT: u64 = 1 << 3;
    pub const REPORTING: u64 = 1 << 5;
}

/// Binary logarithm of the page size: pages have 4 KiB. VIRTIO 1.3 §5.5.6
const PAGE_SHIFT: u32 = PAGE_SIZE.ilog2();

/// Queue indices that do not depend on features. VIRTIO 1.3 §5.5.2
const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
const STATISTICS: u16 = 2;
/// Pages of one inflate or deflate request, at most.
const MAX_REQUEST_PAGES: usize = 256;
/// Runs of contiguous pages that the balloon can hold.
const MAX_HELD_RUNS: usize = 16 << 10;
/// Runs of free pages of one report, at most.
const MAX_REPORT_RUNS: usize = 32;
/// The time after which a kernel that had no page to give up is asked again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// `struct virtio_balloon_config`, without the fields of features that the driver does not accept. VIRTIO 1.3 §5.5.4
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct WireConfig {
    /// Pages that the device asks for.
    num_pages: U32,
    /// Pages that the driver has given up; the driver writes it.
    _actual: U32,
}

const _: () = assert!(size_of::<WireConfig>() == 8);

/// Offset of `actual` in the configuration.
const ACTUAL: usize = core::mem::offset_of!(WireConfig, _actual);

/// `struct virtio_balloon_stat`. VIRTIO 1.3 §5.5.6.3
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct WireStatistic {
    tag: U16,
    val: U64,
}

const _: () = assert!(size_of::<WireStatistic>() == 10);

/// Statistics of one report, and their bytes.
const STATISTICS_COUNT: usize = 4;
const STATISTICS_LEN: usize = STATISTICS_COUNT * size_of::<WireStatistic>();

/// The free pages of a report, in flight while the device processes it.
struct FreePages {
    segments: [Segment; MAX_REPORT_RUNS],
    count: usize,
    is_in_flight: bool,
}

// SAFETY: the kernel has handed the pages out to this value, and gets them back after `reclaim` only.
unsafe impl DmaBuffer for FreePages {
    fn submit(&mut self, direction: Direction) -> Result<DmaSegments<'_>, SubmitError> {
        if core::mem::replace(&mut self.is_in_flight, true) {
            return Err(SubmitError::InFlight);
        }
        let segments = self.segments.get(..self.count).filter(|segments| !segments.is_empty());
        // SAFETY: the pages are free memory that the kernel has handed out; `release` returns them after `reclaim` only.
        segments.map(|segments| unsafe { DmaSegments::new(segments, direction) }).ok_or(SubmitError::Length)
    }

    unsafe fn reclaim(&mut self) {
        self.is_in_flight = false;
    }
}

impl FreePages {
    /// Returns the pages to the kernel.
    fn release(&self, memory: &mut dyn BalloonMemory) {
        for segment in self.segments.iter().take(self.count) {
            let count = u64::from(segment.len) >> PAGE_SHIFT;
            memory.release(PageRange { first: segment.addr.0 >> PAGE_SHIFT, count });
        }
    }
}

/// How a request ended.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Completion {
    /// The device has used it.
    Used,
    /// A reset aborted it.
    Aborted,
}

/// The inflate or deflate queue, with one request in flight at most.
struct PageQueue<P: Platform> {
    queue: BoxedQueue<P, DmaSlice<P>>,
    /// The buffer of the request while it is not in flight.
    spare: Option<DmaSlice<P>>,
    /// The runs of the request: a private copy, since the device may be able to write the buffer.
    runs: PageTable<P, PageRange>,
    /// Valid entries of `runs`; 0 if no request is outstanding.
    count: usize,
}

impl<P: Platform> PageQueue<P> {
    fn new(builder: QueueBuilder<P, VirtQueue<P, DmaSlice<P>, ()>>, platform: &P) -> Result<Self, OpenError> {
        let spare = Some(DmaSlice::alloc(platform, MAX_REQUEST_PAGES.saturating_mul(4))?);
        let runs = PageTable::new(platform, MAX_REQUEST_PAGES, |_| PageRange::default())?;
        Ok(Self { queue: builder.build_boxed()?, spare, runs, count: 0 })
    }

    /// Takes a completed request: how it ended. Its runs stay in `runs` until the next request.
    fn next_completion(&mut self) -> Result<Option<Completion>, Fault> {
        let (used, completion) = match self.queue.next()? {
            None => return Ok(None),
            Some(Outcome::Used(used)) => (used, Completion::Used),
            Some(Outcome::Aborted(used)) => (used, Completion::Aborted),
        };
        self.spare = used.buffer;
        Ok(Some(completion))
    }

    /// Submits a request with the runs that `next` returns, of at most `max` pages in all; whether there was any run.
    fn submit(&mut self, max: u64, mut next: impl FnMut(u64) -> Option<PageRange>) -> bool {
        if self.queue.fault().is_some() {
            return false;
        }
        let Some(mut buffer) = self.spare.take() else { return false };
        buffer.set_len(buffer.capacity());
        let mut left = max.min(MAX_REQUEST_PAGES as u64);
        let (mut len, mut count) = (0usize, 0usize);
        let words = buffer.bytes_mut();
        while left > 0 {
            let Some(slot) = self.runs.get_mut(count) else { break };
            let Some(run) = next(left) else { break };
            for (word, frame) in words.chunks_exact_mut(4).skip(len).zip(run.first..run.end()) {
                // The callers take no page whose number has more than 32 bits.
                word.copy_from_slice(&(frame as u32).to_le_bytes());
            }
            *slot = run;
            count = count.saturating_add(1);
            len = len.saturating_add(run.count as usize);
            left = left.saturating_sub(run.count);
        }
        self.count = count;
        buffer.set_len(len.saturating_mul(4));
        if count == 0 {
            self.spare = Some(buffer);
            return false;
        }
        let submitted = self.queue.submit(buffer, Direction::ToDevice);
        // Only one request is in flight, so the queue has room.
        self.spare = submitted.err().and_then(|refused| refused.buffer);
        self.queue.kick();
        true
    }
}

/// A virtio balloon, with statistics and free page reporting where the device offers them.
pub struct VirtioBalloon<P: Platform> {
    device: PageArc<P, VirtioDevice<P>>,
    inflate: PageQueue<P>,
    deflate: PageQueue<P>,
    statistics: Option<BoxedQueue<P, DmaSlice<P>>>,
    /// The buffer of the statistics while it is not in flight.
    statistics_buffer: Option<DmaSlice<P>>,
    reporting: Option<BoxedQueue<P, FreePages>>,
    held: HeldPages<P>,
    /// Statistics reports that the device has used.
    reports: u64,
    /// Pages that the device asked for when the configuration was read last.
    target: u64,
    /// When a kernel that had no page to give up is asked again.
    next_try: Instant,
    /// `actual` in the configuration is outdated.
    is_actual_stale: bool,
}

impl<P: Platform> VirtioBalloon<P> {
    /// Initialises the device and puts its queues in service.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the device has then been reset.
    pub fn open(platform: &P, transport: Transport<P>, options: &OpenOptions) -> Result<Self, OpenError> {
        let wanted = feature::MUST_TELL_HOST | feature::STATS_VQ | feature::REPORTING;
        let mut offered = 0;
        let device = VirtioDevice::open(platform, transport, |features| {
            offered = features;
            wanted | Features::SUPPORTED.bits()
        })?;
        let size = options.queue_size.min(64);
        let params = |index, indirect| QueueParams { indirect, ..QueueParams::new(index, size) };
        let inflate = QueueBuilder::new(&device, &params(INFLATE, 0))?;
        let deflate = QueueBuilder::new(&device, &params(DEFLATE, 0))?;
        let statistics = match device.features() & feature::STATS_VQ {
            0 => None,
            _ => Some(QueueBuilder::new(&device, &params(STATISTICS, 0))?),
        };
        // A queue that the device offers takes an index even if the driver does not use it. VIRTIO 1.3 §5.5.2
        let width = |bit| u16::from(offered & bit != 0);
        let index = width(feature::STATS_VQ)
            .saturating_add(width(feature::FREE_PAGE_HINT))
            .saturating_add(STATISTICS);
        let reporting = match device.features() & feature::REPORTING {
            0 => None,
            _ => Some(QueueBuilder::new(&device, &params(index, MAX_REPORT_RUNS as u16))?),
        };
        device.start(|_| ProcessorId(0))?;
        let mut this = Self {
            inflate: PageQueue::new(inflate, platform)?,
            deflate: PageQueue::new(deflate, platform)?,
            statistics: statistics.map(QueueBuilder::build_boxed).transpose()?,
            statistics_buffer: Some(DmaSlice::alloc(platform, STATISTICS_LEN)?),
            reporting: reporting.map(QueueBuilder::build_boxed).transpose()?,
            held: HeldPages::new(platform, MAX_HELD_RUNS)?,
            reports: 0,
            target: 0,
            next_try: Instant::NEVER,
            is_actual_stale: false,
            device,
        };
        // The device keeps the first buffer and uses it when it wants a report. VIRTIO 1.3 §5.5.6.3
        this.submit_statistics(None)?;
        Ok(this)
    }

    /// Submits the statistics of `memory`, or zeros without it, if the buffer is not in flight.
    fn submit_statistics(&mut self, memory: Option<&mut dyn BalloonMemory>) -> Result<(), Fault> {
        // Tags: VIRTIO_BALLOON_S_*. VIRTIO 1.3 §5.5.6.4
        const FREE: u16 = 4;
        const TOTAL: u16 = 5;
        const AVAILABLE: u16 = 6;
        const CACHES: u16 = 7;
        let Some(queue) = &mut self.statistics else { return Ok(()) };
        if queue.fault().is_some() {
            return Ok(());
        }
        let Some(mut buffer) = self.statistics_buffer.take() else { return Ok(()) };
        let statistics = memory.map(|memory| memory.statistics()).unwrap_or_default();
        let values: [(u16, u64); STATISTICS_COUNT] = [
            (FREE, statistics.free),
            (TOTAL, statistics.total),
            (AVAILABLE, statistics.available),
            (CACHES, statistics.caches),
        ];
        let values = values.map(|(tag, pages)| WireStatistic {
            tag: tag.into(),
            val: pages.saturating_mul(PAGE_SIZE as u64).into(),
        });
        buffer.bytes_mut().iter_mut().zip(values.as_bytes()).for_each(|(to, from)| *to = *from);
        let submitted = queue.submit(buffer, Direction::ToDevice);
        self.statistics_buffer = submitted.err().and_then(|refused| refused.buffer);
        queue.kick();
        Ok(())
    }

    fn poll_inflate(&mut self) -> Result<(), Fault> {
        while self.inflate.next_completion()?.is_some() {
            // The pages count as the device's even if a reset aborted the request.
            self.inflate.count = 0;
            self.is_actual_stale = true;
        }
        Ok(())
    }

    fn poll_deflate(&mut self, memory: &mut dyn BalloonMemory) -> Result<(), Fault> {
        while let Some(completion) = self.deflate.next_completion()? {
            let count = core::mem::take(&mut self.deflate.count);
            for run in self.deflate.runs.iter().take(count) {
                // The device still owns the pages of an aborted request.
                if completion == Completion::Used || !self.held.insert(*run) {
                    memory.release(*run);
                }
            }
            self.is_actual_stale = true;
        }
        Ok(())
    }

    fn poll_reporting(&mut self, memory: &mut dyn BalloonMemory) -> Result<(), Fault> {
        let Some(reporting) = &mut self.reporting else { return Ok(()) };
        while let Some(Outcome::Used(used) | Outcome::Aborted(used)) = reporting.next()? {
            // Pages that the device may still write to have no buffer here: they are leaked.
            used.buffer.iter().for_each(|pages| pages.release(memory));
        }
        Ok(())
    }

    fn poll_statistics(&mut self, memory: &mut dyn BalloonMemory) -> Result<(), Fault> {
        let Some(queue) = &mut self.statistics else { return Ok(()) };
        match queue.next()? {
            Some(Outcome::Used(used)) => {
                self.statistics_buffer = used.buffer;
                self.reports = self.reports.saturating_add(1);
            }
            Some(Outcome::Aborted(used)) => self.statistics_buffer = used.buffer,
            None => {}
        }
        self.submit_statistics(Some(memory))
    }

    /// Reads how many pages the device asks for.
    fn read_target(&self) -> u64 {
        let bytes: [u8; size_of::<WireConfig>()] = self
            .device
            .with_transport(|transport| read_config(transport, config_fields!(WireConfig: num_pages)));
        let config: WireConfig = zerocopy::transmute!(bytes);
        config.num_pages.get().into()
    }

    /// Writes the number of pages held to the configuration.
    fn write_actual(&self) {
        let pages = u32::try_from(self.held.pages()).unwrap_or(u32::MAX);
        self.device.with_transport(|transport| {
            if !transport.write_config(ACTUAL, &pages.to_le_bytes()) {
                log::warn!("virtio-balloon: configuration shorter than 8 bytes, actual not written");
            }
        });
    }
}

impl<P: Platform> fmt::Debug for VirtioBalloon<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioBalloon")
            .field("held", &self.held.pages())
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

impl<P: Platform> Notify for VirtioBalloon<P> {
    fn arm(&mut self) -> Arm {
        // The target may have changed since the last poll.
        if self.device.fault().is_none() && self.read_target() != self.target {
            return Arm::Pending;
        }
        let queues = [self.inflate.queue.arm(), self.deflate.queue.arm()];
        let statistics = self.statistics.as_mut().map_or(Arm::Armed, |queue| queue.arm());
        let reporting = self.reporting.as_mut().map_or(Arm::Armed, |queue| queue.arm());
        queues.into_iter().chain([statistics, reporting]).fold(Arm::Armed, Arm::and)
    }

    fn disarm(&mut self) {
        self.inflate.queue.disarm();
        self.deflate.queue.disarm();
        self.statistics.iter_mut().for_each(|queue| queue.disarm());
        self.reporting.iter_mut().for_each(|queue| queue.disarm());
    }

    fn next_deadline(&self) -> Instant {
        self.next_try
    }

    fn register(&mut self, waker: &Waker) {
        self.device.config_cell().register(waker);
        self.inflate.queue.register(waker);
        self.deflate.queue.register(waker);
        self.statistics.iter().for_each(|queue| queue.register(waker));
        self.reporting.iter().for_each(|queue| queue.register(waker));
    }
}

impl<P: Platform> Balloon for VirtioBalloon<P> {
    fn poll(&mut self, memory: &mut dyn BalloonMemory) -> Result<(), Fault> {
        // Detects removal of the device and its request for a reset.
        let _ = self.device.take_config_change();
        let drained = [
            self.poll_inflate(),
            self.poll_deflate(memory),
            self.poll_reporting(memory),
            self.poll_statistics(memory),
        ];
        // A device that was reset restarts once every queue has been polled: a reset is no error here.
        for result in drained {
            match result {
                Ok(()) | Err(Fault::Reset) => {}
                Err(fault) => return Err(fault),
            }
        }
        match self.device.fault() {
            None => {}
            Some(Fault::Reset) => return Ok(()),
            Some(fault) => return Err(fault),
        }
        // After a restart, the queues that were polled first still have to be polled again.
        if [&self.inflate.queue, &self.deflate.queue].into_iter().any(|queue| queue.fault().is_some()) {
            return Ok(());
        }
        if core::mem::take(&mut self.is_actual_stale) {
            self.write_actual();
        }
        self.target = self.read_target();
        self.next_try = Instant::NEVER;
        let held = self.held.pages();
        // One request at a time: the device serves its queues in any order, and a page must not be deflated before it was inflated.
        if self.inflate.count > 0 || self.deflate.count > 0 {
            return Ok(());
        }
        if self.target > held {
            let held_pages = &mut self.held;
            let is_submitted = self.inflate.submit(self.target.saturating_sub(held), |max| {
                let run = if held_pages.has_room() { memory.take(max)? } else { return None };
                // Page numbers have 32 bits. VIRTIO 1.3 §5.5.6
                if run.count <= max && run.end() <= 1 << 32 && held_pages.insert(run) {
                    return Some(run);
                }
                memory.release(run);
                None
            });
            if !is_submitted {
                // The kernel has no page to give up now.
                self.next_try = self.device.platform().now().saturating_add(RETRY_INTERVAL);
            }
        } else if self.target < held {
            let held_pages = &mut self.held;
            self.deflate.submit(held.saturating_sub(self.target), |max| held_pages.pop(max));
        }
        Ok(())
    }

    fn info(&self) -> BalloonInfo {
        let mut info = BalloonInfo::default();
        info.held = self.held.pages();
        info.target = Some(self.target);
        info.reports = self.reports;
        info
    }

    fn report_free(&mut self, memory: &mut dyn BalloonMemory, max: u64) -> Result<u64, ControlError> {
        let reporting = self.reporting.as_mut().ok_or(ControlError::Unsupported)?;
        if let Some(fault) = reporting.fault() {
            return Err(fault.into());
        }
        let mut pages =
            FreePages { segments: [Segment::default(); MAX_REPORT_RUNS], count: 0, is_in_flight: false };
        let mut total = 0u64;
        while total < max {
            let Some(segment) = pages.segments.get_mut(pages.count) else { break };
            let Some(run) = memory.take(max.saturating_sub(total).min(1 << 18)) else { break };
            let len = u32::try_from(run.count.saturating_mul(PAGE_SIZE as u64)).unwrap_or(0);
            *segment = Segment { addr: BusAddr(run.first.saturating_mul(PAGE_SIZE as u64)), len };
            pages.count = pages.count.saturating_add(1);
            total = total.saturating_add(run.count);
        }
        if pages.count == 0 {
            return Ok(0);
        }
        let submitted = reporting.submit(pages, Direction::FromDevice);
        if let Err(refused) = submitted {
            refused.buffer.iter().for_each(|pages| pages.release(memory));
            return Ok(0);
        }
        reporting.kick();
        Ok(total)
    }
}

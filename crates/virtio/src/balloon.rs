//! The balloon. VIRTIO 1.3 §5.5

use crate::device::{OpenOptions, VirtioDevice};
use crate::features::Features;
use crate::queue::VirtQueue;
use crate::request_queue::{BufferQueue, Outcome, QueueBuilder, QueueParams};
use crate::transport::{OpenError, Transport, read_config};
use core::task::Waker;
use core::time::Duration;
use paravirt_device::{
    Arm, Balloon, BalloonInfo, BalloonMemory, ControlError, Fault, HeldPages, Notify, PageRange,
};
use paravirt_platform::{
    BusAddr, Direction, DmaBuffer, DmaSegments, DmaSlice, Instant, PAGE_SIZE, PageArc, Platform, ProcessorId,
    Segment, SubmitError,
};

/// Feature bits. VIRTIO 1.3 §5.5.3
mod feature {
    pub const MUST_TELL_HOST: u64 = 1 << 0;
    pub const STATS_VQ: u64 = 1 << 1;
    pub const FREE_PAGE_HINT: u64 = 1 << 3;
    pub const REPORTING: u64 = 1 << 5;
}

/// Pages are of 2^12 bytes.
const PAGE_SHIFT: u32 = PAGE_SIZE.ilog2();

const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
const STATISTICS: u16 = 2;
/// Pages that one request names.
const PAGES: usize = 256;
/// Runs of pages that can be held.
const RUNS: usize = 16 << 10;
/// Runs that one report names.
const REPORTED: usize = 32;
/// When a kernel that has nothing to spare is asked again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Where the device reads how many pages it has: `actual`. VIRTIO 1.3 §5.5.4
const ACTUAL: usize = 4;
/// Statistics: a tag of 2 bytes and a value of 8. VIRTIO 1.3 §5.5.6.4
const STATISTICS_LEN: usize = 4 * 10;

/// Free pages, lent to the device for a report.
struct FreePages {
    segments: [Segment; REPORTED],
    count: usize,
    is_lent: bool,
}

// SAFETY: the pages belong to nobody but this value until they are given back to the kernel, which is done after `reclaim`.
unsafe impl DmaBuffer for FreePages {
    fn submit(&mut self, direction: Direction) -> Result<DmaSegments<'_>, SubmitError> {
        if core::mem::replace(&mut self.is_lent, true) {
            return Err(SubmitError::InFlight);
        }
        let segments = self.segments.get(..self.count).filter(|segments| !segments.is_empty());
        // SAFETY: the pages are free memory of the kernel that it has handed out, and goes back to it after `reclaim` only.
        segments.map(|segments| unsafe { DmaSegments::new(segments, direction) }).ok_or(SubmitError::Length)
    }

    unsafe fn reclaim(&mut self) {
        self.is_lent = false;
    }
}

impl FreePages {
    /// Gives the pages back to the kernel.
    fn give_back(&self, memory: &mut dyn BalloonMemory) {
        for segment in self.segments.iter().take(self.count) {
            let count = u64::from(segment.len) >> PAGE_SHIFT;
            memory.give_back(PageRange { first: segment.addr.0 >> PAGE_SHIFT, count });
        }
    }
}

/// Whether the device has served a request.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Served {
    Yes,
    No,
}

/// A queue by which pages are named, one request at a time.
struct Naming<P: Platform> {
    queue: BufferQueue<P, DmaSlice<P>>,
    spare: Option<DmaSlice<P>>,
    /// What the request names: privately, as the device could write its buffer.
    runs: [PageRange; PAGES],
    count: usize,
}

impl<P: Platform> Naming<P> {
    fn new(builder: QueueBuilder<P, VirtQueue<P, DmaSlice<P>, ()>>, platform: &P) -> Result<Self, OpenError> {
        let spare = Some(DmaSlice::alloc(platform, PAGES.saturating_mul(4))?);
        Ok(Self { queue: builder.build()?, spare, runs: [PageRange::default(); PAGES], count: 0 })
    }

    /// Whether a request has come back, and whether the device has served it: a reset gives back one that it has not. The runs
    /// that it names are there until the next.
    fn done(&mut self) -> Result<Option<Served>, Fault> {
        let (used, served) = match self.queue.next()? {
            None => return Ok(None),
            Some(Outcome::Used(used)) => (used, Served::Yes),
            Some(Outcome::Aborted(used)) => (used, Served::No),
        };
        self.spare = used.buffer;
        Ok(Some(served))
    }

    /// Sends a request that names the runs that `next` gives, for at most `most` pages; whether there was any.
    fn name(&mut self, most: u64, mut next: impl FnMut(u64) -> Option<PageRange>) -> bool {
        if self.queue.fault().is_some() {
            return false;
        }
        let Some(mut buffer) = self.spare.take() else { return false };
        buffer.set_len(buffer.capacity());
        let mut left = most.min(PAGES as u64);
        let (mut len, mut count) = (0usize, 0usize);
        let (words, _) = buffer.bytes_mut().as_chunks_mut::<4>();
        while left > 0
            && let Some(slot) = self.runs.get_mut(count)
            && let Some(run) = next(left)
        {
            for (word, frame) in words.iter_mut().skip(len).zip(run.first..run.end()) {
                // Frame numbers have 32 bits here; what is beyond is not taken.
                *word = (frame as u32).to_le_bytes();
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
        let sent = self.queue.submit(buffer, Direction::ToDevice);
        // There is one request in a queue that has room for it.
        self.spare = sent.err().and_then(|refused| refused.buffer);
        self.queue.kick();
        true
    }
}

/// A virtio balloon.
pub struct VirtioBalloon<P: Platform> {
    device: PageArc<P, VirtioDevice<P>>,
    inflate: Naming<P>,
    deflate: Naming<P>,
    statistics: Option<BufferQueue<P, DmaSlice<P>>>,
    /// What the statistics are written to, while the device does not have it.
    report: Option<DmaSlice<P>>,
    reporting: Option<BufferQueue<P, FreePages>>,
    held: HeldPages<P>,
    reports: u64,
    target: u64,
    /// When a kernel that had nothing to spare is asked again.
    next_try: Instant,
    /// The device has to be told how many pages it has.
    must_tell: bool,
}

impl<P: Platform> VirtioBalloon<P> {
    /// Takes the device into service.
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
        // A device that offers a queue has it in its place, also where the driver does not use it.
        let place = |bit| u16::from(offered & bit != 0);
        let index = place(feature::STATS_VQ)
            .saturating_add(place(feature::FREE_PAGE_HINT))
            .saturating_add(STATISTICS);
        let reporting = match device.features() & feature::REPORTING {
            0 => None,
            _ => Some(QueueBuilder::new(&device, &params(index, REPORTED as u16))?),
        };
        device.start(|_| ProcessorId(0))?;
        let mut this = Self {
            inflate: Naming::new(inflate, platform)?,
            deflate: Naming::new(deflate, platform)?,
            statistics: statistics.map(QueueBuilder::build).transpose()?,
            report: Some(DmaSlice::alloc(platform, STATISTICS_LEN)?),
            reporting: reporting.map(QueueBuilder::build).transpose()?,
            held: HeldPages::new(platform, RUNS)?,
            reports: 0,
            target: 0,
            next_try: Instant::NEVER,
            must_tell: false,
            device,
        };
        // The device keeps a first report and gives it back when it wants another one.
        this.send_statistics(None)?;
        Ok(this)
    }

    fn send_statistics(&mut self, memory: Option<&mut dyn BalloonMemory>) -> Result<(), Fault> {
        const FREE: u16 = 4;
        const TOTAL: u16 = 5;
        const AVAILABLE: u16 = 6;
        const CACHES: u16 = 7;
        let Some(queue) = &mut self.statistics else { return Ok(()) };
        if queue.fault().is_some() {
            return Ok(());
        }
        let Some(mut buffer) = self.report.take() else { return Ok(()) };
        let statistics = memory.map(|memory| memory.statistics()).unwrap_or_default();
        let values = [
            (FREE, statistics.free),
            (TOTAL, statistics.total),
            (AVAILABLE, statistics.available),
            (CACHES, statistics.caches),
        ];
        for (to, (tag, pages)) in buffer.bytes_mut().as_chunks_mut::<10>().0.iter_mut().zip(values) {
            let [t0, t1] = tag.to_le_bytes();
            let [v0, v1, v2, v3, v4, v5, v6, v7] = pages.saturating_mul(PAGE_SIZE as u64).to_le_bytes();
            *to = [t0, t1, v0, v1, v2, v3, v4, v5, v6, v7];
        }
        let sent = queue.submit(buffer, Direction::ToDevice);
        self.report = sent.err().and_then(|refused| refused.buffer);
        queue.kick();
        Ok(())
    }

    fn poll_inflate(&mut self) -> Result<(), Fault> {
        while self.inflate.done()?.is_some() {
            // What the device has been told of counts as its own, also where a reset came between.
            self.inflate.count = 0;
            self.must_tell = true;
        }
        Ok(())
    }

    fn poll_deflate(&mut self, memory: &mut dyn BalloonMemory) -> Result<(), Fault> {
        while let Some(served) = self.deflate.done()? {
            let count = core::mem::take(&mut self.deflate.count);
            for run in self.deflate.runs.iter().take(count) {
                // What the device has not been told of is its own still.
                if served == Served::Yes || !self.held.insert(*run) {
                    memory.give_back(*run);
                }
            }
            self.must_tell = true;
        }
        Ok(())
    }

    fn poll_reporting(&mut self, memory: &mut dyn BalloonMemory) -> Result<(), Fault> {
        let Some(reporting) = &mut self.reporting else { return Ok(()) };
        while let Some(Outcome::Used(used) | Outcome::Aborted(used)) = reporting.next()? {
            // What a device that did not let go may still write to is leaked.
            used.buffer.iter().for_each(|pages| pages.give_back(memory));
        }
        Ok(())
    }

    fn poll_statistics(&mut self, memory: &mut dyn BalloonMemory) -> Result<(), Fault> {
        let Some(queue) = &mut self.statistics else { return Ok(()) };
        match queue.next()? {
            Some(Outcome::Used(used)) => {
                self.report = used.buffer;
                self.reports = self.reports.saturating_add(1);
            }
            Some(Outcome::Aborted(used)) => self.report = used.buffer,
            None => {}
        }
        self.send_statistics(Some(memory))
    }

    /// How many pages the device asks for.
    fn read_target(&self) -> u64 {
        let bytes: [u8; 4] = self.device.with_transport(|transport| read_config(transport, &[(0, 4)]));
        u64::from(u32::from_le_bytes(bytes))
    }

    /// Tells the device how many pages it has.
    fn tell_actual(&self) {
        let pages = u32::try_from(self.held.pages()).unwrap_or(u32::MAX);
        self.device.with_transport(|transport| {
            if !transport.write_config(ACTUAL, &pages.to_le_bytes()) {
                log::warn!("virtio-balloon: its configuration is too short");
            }
        });
    }
}

impl<P: Platform> Notify for VirtioBalloon<P> {
    fn arm(&mut self) -> Arm {
        // What the device asks for may have changed since the last look.
        if self.device.fault().is_none() && self.read_target() != self.target {
            return Arm::Pending;
        }
        let queues = [self.inflate.queue.arm(), self.deflate.queue.arm()];
        let statistics = self.statistics.as_mut().map_or(Arm::Armed, BufferQueue::arm);
        let reporting = self.reporting.as_mut().map_or(Arm::Armed, BufferQueue::arm);
        let is_idle = queues.into_iter().chain([statistics, reporting]).all(|arm| arm == Arm::Armed);
        if is_idle { Arm::Armed } else { Arm::Pending }
    }

    fn disarm(&mut self) {
        self.inflate.queue.disarm();
        self.deflate.queue.disarm();
        self.statistics.iter_mut().for_each(BufferQueue::disarm);
        self.reporting.iter_mut().for_each(BufferQueue::disarm);
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
        // Also notices that the device is gone, or wants to be reset.
        let _ = self.device.take_config_change();
        let drained = [
            self.poll_inflate(),
            self.poll_deflate(memory),
            self.poll_reporting(memory),
            self.poll_statistics(memory),
        ];
        // A device that is reset starts again once every queue has been looked at: it is not out of service.
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
        // Also after a restart, of which the queues that were looked at first have to hear.
        if [&self.inflate.queue, &self.deflate.queue].into_iter().any(|queue| queue.fault().is_some()) {
            return Ok(());
        }
        if core::mem::take(&mut self.must_tell) {
            self.tell_actual();
        }
        self.target = self.read_target();
        self.next_try = Instant::NEVER;
        let held = self.held.pages();
        // One at a time: a device serves its queues in any order, and must not be given back pages that it has yet to take.
        if self.inflate.count > 0 || self.deflate.count > 0 {
            return Ok(());
        }
        if self.target > held {
            let room = &mut self.held;
            let was_sent = self.inflate.name(self.target.saturating_sub(held), |most| {
                let run = if room.has_room() { memory.take(most)? } else { return None };
                // Frame numbers have 32 bits on this device.
                if run.count <= most && run.end() <= 1 << 32 && room.insert(run) {
                    return Some(run);
                }
                memory.give_back(run);
                None
            });
            if !was_sent {
                // The kernel has nothing to spare now.
                self.next_try = self.device.platform().now().saturating_add(RETRY_INTERVAL);
            }
        } else if self.target < held {
            let room = &mut self.held;
            self.deflate.name(held.saturating_sub(self.target), |most| room.pop(most));
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

    fn report_free(&mut self, memory: &mut dyn BalloonMemory, most: u64) -> Result<u64, ControlError> {
        let reporting = self.reporting.as_mut().ok_or(ControlError::Unsupported)?;
        if let Some(fault) = reporting.fault() {
            return Err(fault.into());
        }
        let mut pages = FreePages { segments: [Segment::default(); REPORTED], count: 0, is_lent: false };
        let mut total = 0u64;
        while total < most
            && let Some(segment) = pages.segments.get_mut(pages.count)
            && let Some(run) = memory.take(most.saturating_sub(total).min(1 << 18))
        {
            let len = u32::try_from(run.count.saturating_mul(PAGE_SIZE as u64)).unwrap_or(0);
            *segment = Segment { addr: BusAddr(run.first.saturating_mul(PAGE_SIZE as u64)), len };
            pages.count = pages.count.saturating_add(1);
            total = total.saturating_add(run.count);
        }
        if pages.count == 0 {
            return Ok(0);
        }
        let sent = reporting.submit(pages, Direction::FromDevice);
        if let Err(refused) = sent {
            refused.buffer.iter().for_each(|pages| pages.give_back(memory));
            return Ok(0);
        }
        reporting.kick();
        Ok(total)
    }
}

use crate::HostMessage;
use crate::message::{MAX_RANGE_PAGES, pack};
use core::fmt;
use core::task::Waker;
use core::time::Duration;
use hyperv_bindings::dynmem::{
    DM_MESSAGE_MAXIMUM, DmBalloonResponse, DmCapabilities, DmCapabilityFlags, DmHeader, DmHotAddResponse,
    DmMessageType, DmStatus, DmVersion, DmVersionRequest,
};
use paravirt_device::{Arm, Balloon, BalloonInfo, BalloonMemory, Fault, HeldPages, Notify, PageRange};
use paravirt_platform::{AllocError, Instant, PageTable, Platform};
use paravirt_vmbus::{Channel, ChannelError, ChannelOptions, Offer, SendError, Vmbus};
use zerocopy::IntoBytes;

/// Pages of each ring, its control page included.
const RING_PAGES: usize = 5;
/// Interval between pressure reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Interval between looks at a full ring.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Delay of the first report after the device was opened.
const REPORT_OFFSET: Duration = Duration::from_millis(500);
const VERSIONS: [DmVersion; 3] = [DmVersion::WIN10, DmVersion::WIN8, DmVersion::WIN7];
/// Runs of pages that the balloon can hold.
const RUNS: usize = 16 << 10;
/// Ranges in one message, which is a page at most.
const RANGES: usize = (DM_MESSAGE_MAXIMUM as usize - size_of::<DmBalloonResponse>()) / 8;
/// Messages that one call of `poll` handles, at most.
const MAX_MESSAGES: usize = 64;
/// Alignment of memory that is added, as a power of two of MiB: 128 MiB.
const HOT_ADD_ALIGNMENT: u64 = HOT_ADD_SHIFT << 2;
const HOT_ADD_SHIFT: u64 = 7;
const HOT_ADD_PAGES: u64 = (1 << (HOT_ADD_SHIFT + 20)) / 4096;
/// The end of the frame numbers that a message can name.
const FRAMES: u64 = 1 << 40;

/// Why the device could not be opened.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum OpenError {
    /// The channel could not be opened.
    Channel(ChannelError),
    /// The host and this driver have no version in common.
    Version,
    /// The host refused the driver's capabilities.
    Capabilities,
    /// The host broke the protocol, or does not answer.
    Faulted(Fault),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel(error) => error.fmt(f),
            Self::Version => f.write_str("the host speaks no version that is known here"),
            Self::Capabilities => f.write_str("the host refused what the driver can do"),
            Self::Faulted(fault) => fault.fmt(f),
        }
    }
}

impl core::error::Error for OpenError {}

impl From<ChannelError> for OpenError {
    fn from(error: ChannelError) -> Self {
        Self::Channel(error)
    }
}

impl From<AllocError> for OpenError {
    fn from(_: AllocError) -> Self {
        Self::Channel(ChannelError::Memory)
    }
}

impl From<Fault> for OpenError {
    fn from(fault: Fault) -> Self {
        Self::Faulted(fault)
    }
}

impl From<SendError> for OpenError {
    fn from(error: SendError) -> Self {
        Self::Faulted(error.into())
    }
}

/// A request of the host for pages that is not fulfilled yet.
#[derive(Copy, Clone)]
struct PendingRequest {
    transaction: u32,
    pages: u64,
}

/// Dynamic memory on a VMBus channel.
///
/// Dropped, the channel is closed; pages that the balloon holds stay with the host.
pub struct HvBalloon<P: Platform> {
    channel: Channel<P>,
    platform: P,
    version: DmVersion,
    held: HeldPages<P>,
    /// The last packet of the host.
    buffer: PageTable<P, u8>,
    ranges: PageTable<P, PageRange>,
    request: Option<PendingRequest>,
    /// The answer to `request` waits for room in the ring.
    is_blocked: bool,
    /// When the ring is looked at again, while it is full.
    retry: Instant,
    suppresses_reports: bool,
    next_report: Instant,
    transaction: u32,
    added: u64,
    reports: u64,
    /// Messages and ranges of pages that were ignored.
    malformed: u64,
}

impl<P: Platform> HvBalloon<P> {
    /// Opens the channel of `offer`, and negotiates the version and the capabilities.
    ///
    /// Allocates, and blocks until the host has answered. Not for interrupt context.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the channel is closed then.
    pub fn open(
        platform: &P,
        vmbus: &Vmbus<P>,
        offer: &Offer,
        options: &ChannelOptions,
    ) -> Result<Self, OpenError> {
        let options = options.with_rings(RING_PAGES, RING_PAGES);
        let mut this = Self {
            channel: vmbus.open(offer, &options)?,
            platform: platform.clone(),
            version: DmVersion::WIN7,
            held: HeldPages::new(platform, RUNS)?,
            // A packet from the ring is no longer than that.
            buffer: PageTable::new(platform, RING_PAGES.saturating_mul(4096), |_| 0)?,
            ranges: PageTable::new(platform, RANGES, |_| PageRange::default())?,
            request: None,
            is_blocked: false,
            retry: Instant::NEVER,
            suppresses_reports: false,
            next_report: Instant::ZERO,
            transaction: 0,
            added: 0,
            reports: 0,
            malformed: 0,
        };
        this.agree()?;
        let flags = DmCapabilityFlags::BALLOON | DmCapabilityFlags::HOT_ADD;
        let message = DmCapabilities {
            header: this.header(DmMessageType::CAPABILITIES_REPORT, size_of::<DmCapabilities>()),
            capabilities: flags.bits() | HOT_ADD_ALIGNMENT,
            minimum_pages: 0,
            maximum_page_number: u64::MAX,
        };
        this.send(message.as_bytes())?;
        this.suppresses_reports = this.hear(|message| match message {
            HostMessage::Capabilities { is_accepted: true, suppresses_reports } => {
                Some(Ok(*suppresses_reports))
            }
            HostMessage::Capabilities { is_accepted: false, .. } => Some(Err(OpenError::Capabilities)),
            _ => None,
        })??;
        // Half an interval off: QEMU 8.2 to 10.0 ends with an assertion where a report comes in just when it has waited its
        // 50 seconds, from here on, before it asks a guest for anything.
        this.next_report = this.platform.now().saturating_add(REPORT_OFFSET);
        Ok(this)
    }

    fn agree(&mut self) -> Result<(), OpenError> {
        for version in VERSIONS {
            let message = DmVersionRequest {
                header: self.header(DmMessageType::VERSION_REQUEST, size_of::<DmVersionRequest>()),
                version,
                is_last_attempt: u32::from(version == DmVersion::WIN7),
            };
            self.send(message.as_bytes())?;
            let is_accepted = self.hear(|message| match message {
                HostMessage::Version { is_accepted } => Some(*is_accepted),
                _ => None,
            })?;
            if is_accepted {
                self.version = version;
                return Ok(());
            }
        }
        Err(OpenError::Version)
    }

    /// Waits, while the device is opened, for the message for which `answer` returns a value. Others are ignored.
    fn hear<T>(&mut self, answer: impl Fn(&HostMessage<'_>) -> Option<T>) -> Result<T, Fault> {
        let end = self.platform.now().saturating_add(self.channel.timeouts().answer);
        loop {
            let left = end.since(self.platform.now());
            let message = HostMessage::parse(self.channel.wait(&mut self.buffer, left)?.payload);
            match message {
                Ok(message) => {
                    if let Some(answer) = answer(&message) {
                        return Ok(answer);
                    }
                }
                Err(_) => self.ignore(1, "malformed message"),
            }
            if left.is_zero() {
                self.channel.fail(Fault::Timeout);
                return Err(Fault::Timeout);
            }
        }
    }

    /// The number of messages and of page ranges of the host that were malformed or not asked for, and were ignored.
    pub fn malformed_messages(&self) -> u64 {
        self.malformed
    }

    /// Counts what is ignored, and logs the first.
    #[cold]
    fn ignore(&mut self, count: u64, what: &str) {
        let had_none = self.malformed == 0;
        self.malformed = self.malformed.saturating_add(count);
        if had_none && count > 0 {
            log::warn!("hv-balloon: {what}, ignored; later ones are counted");
        }
    }

    /// The version that was negotiated: major and minor.
    pub fn version(&self) -> (u16, u16) {
        ((self.version.0 >> 16) as u16, self.version.0 as u16)
    }

    fn header(&mut self, message_type: DmMessageType, size: usize) -> DmHeader {
        self.transaction = self.transaction.wrapping_add(1);
        DmHeader { message_type, size: size as u16, transaction_id: self.transaction }
    }

    fn send(&mut self, message: &[u8]) -> Result<(), SendError> {
        self.channel.send_in_band(0, false, &[message])?;
        self.channel.kick();
        Ok(())
    }

    /// Sends an answer; returns whether the ring had room. Where it had none, the host is asked for a signal.
    fn answer(&mut self, message: &[u8]) -> Result<bool, Fault> {
        loop {
            match self.send(message) {
                Ok(()) => return Ok(true),
                Err(SendError::Full) if self.channel.await_room(message.len())? => {}
                Err(SendError::Full) => return Ok(false),
                Err(SendError::Faulted(fault)) => return Err(fault),
                Err(_) => return Err(self.fail("answer does not fit the ring")),
            }
        }
    }

    #[cold]
    fn fail(&mut self, why: &str) -> Fault {
        log::error!("hv-balloon: {why}, device put out of service");
        self.channel.fail(Fault::Protocol);
        Fault::Protocol
    }

    /// Sends the host pages that it asked for, as many ranges as a message has; returns whether more are to be sent.
    fn send_pages(&mut self, memory: &mut dyn BalloonMemory) -> Result<bool, Fault> {
        let Some(PendingRequest { transaction, mut pages }) = self.request else { return Ok(false) };
        self.is_blocked = false;
        let mut bytes = [0; size_of::<DmBalloonResponse>() + RANGES * 8];
        let (mut count, mut is_dry) = (0usize, false);
        while pages > 0 && count < RANGES && !is_dry {
            let range = if self.held.has_room() { memory.take(pages.min(MAX_RANGE_PAGES)) } else { None };
            match range {
                Some(range) if range.count <= pages && self.held.insert(range) => {
                    pages = pages.saturating_sub(range.count);
                    if let Some(slot) = self.ranges.get_mut(count) {
                        *slot = range;
                    }
                    count = count.saturating_add(1);
                }
                Some(range) => {
                    // Not what was asked for: the kernel keeps it.
                    memory.release(range);
                    is_dry = true;
                }
                None => is_dry = true,
            }
        }
        let has_more = pages > 0 && !is_dry;
        let size = count.saturating_mul(8).saturating_add(size_of::<DmBalloonResponse>());
        let head = DmBalloonResponse {
            header: DmHeader {
                message_type: DmMessageType::BALLOON_RESPONSE,
                size: size as u16,
                transaction_id: transaction,
            },
            reserved: 0,
            more_and_count: (count as u32) << 1 | u32::from(has_more),
        };
        let packed = self.ranges.iter().take(count).flat_map(|range| pack(*range).to_le_bytes());
        for (to, from) in bytes.iter_mut().zip(head.as_bytes().iter().copied().chain(packed)) {
            *to = from;
        }
        if !self.answer(bytes.get(..size).unwrap_or_default())? {
            // The message was not sent: the kernel keeps the pages.
            for range in self.ranges.iter().take(count).rev() {
                if self.held.remove(*range) {
                    memory.release(*range);
                }
            }
            self.is_blocked = true;
            self.retry = self.platform.now().saturating_add(RETRY_INTERVAL);
            return Ok(false);
        }
        self.request = has_more.then_some(PendingRequest { transaction, pages });
        Ok(has_more)
    }

    fn hot_add(
        &mut self,
        transaction: u32,
        range: PageRange,
        memory: &mut dyn BalloonMemory,
    ) -> Result<(), Fault> {
        let has_grain = range.count > 0 && (range.first | range.count) & (HOT_ADD_PAGES - 1) == 0;
        let is_new = range.end() <= FRAMES && !self.held.overlaps(range);
        let pages = if has_grain && is_new { memory.add(range).min(range.count) } else { 0 };
        self.added = self.added.saturating_add(pages);
        let size = size_of::<DmHotAddResponse>();
        let message = DmHotAddResponse {
            header: DmHeader {
                message_type: DmMessageType::HOT_ADD_RESPONSE,
                size: size as u16,
                transaction_id: transaction,
            },
            pages: u32::try_from(pages).unwrap_or(u32::MAX),
            result: u32::from(pages > 0),
        };
        self.must_answer(message.as_bytes())
    }

    /// Sends what is small and has to arrive: the ring is waited for.
    fn must_answer(&mut self, message: &[u8]) -> Result<(), Fault> {
        if !self.answer(message)? {
            let timeout = self.channel.timeouts().answer;
            self.channel
                .wait_for_room(message.len(), timeout)
                .inspect_err(|fault| self.channel.fail(*fault))?;
            if !self.answer(message)? {
                return Err(self.fail("a count of pages that is out of range"));
            }
        }
        Ok(())
    }

    fn report(&mut self, memory: &mut dyn BalloonMemory) -> Result<(), Fault> {
        let now = self.platform.now();
        if self.suppresses_reports || now < self.next_report {
            return Ok(());
        }
        // In step with the last one, not with when this came to it.
        let next = self.next_report.saturating_add(REPORT_INTERVAL);
        self.next_report = if next > now { next } else { now.saturating_add(REPORT_INTERVAL) };
        let statistics = memory.statistics();
        let message = DmStatus {
            header: self.header(DmMessageType::STATUS_REPORT, size_of::<DmStatus>()),
            available: statistics.available,
            // What the balloon holds is in use, as the host sees it.
            committed: statistics.committed.saturating_add(self.held.pages()),
            page_file: statistics.total,
            zero_and_free: statistics.free,
            page_file_writes: 0,
            io_difference: 0,
        };
        if self.answer(message.as_bytes())? {
            self.reports = self.reports.saturating_add(1);
        }
        Ok(())
    }

    /// Answers the next message of the host. Whether there was one.
    fn next(&mut self, memory: &mut dyn BalloonMemory) -> Result<bool, Fault> {
        let Some(packet) = self.channel.receive(&mut self.buffer)? else { return Ok(false) };
        match HostMessage::parse(packet.payload) {
            Ok(HostMessage::Balloon { transaction, pages }) => {
                self.request = Some(PendingRequest { transaction, pages: u64::from(pages) });
                self.send_pages(memory)?;
            }
            Ok(HostMessage::Unballoon { transaction, has_more, ranges }) => {
                let mut unknown = 0u64;
                for range in ranges.iter() {
                    if self.held.remove(range) {
                        memory.release(range);
                    } else {
                        unknown = unknown.saturating_add(1);
                    }
                }
                self.ignore(unknown, "pages returned that the host does not have");
                if !has_more {
                    let size = size_of::<DmHeader>();
                    let message_type = DmMessageType::UNBALLOON_RESPONSE;
                    let message = DmHeader { message_type, size: size as u16, transaction_id: transaction };
                    self.must_answer(message.as_bytes())?;
                }
            }
            Ok(HostMessage::HotAdd { transaction, range }) => self.hot_add(transaction, range, memory)?,
            Ok(HostMessage::Info) => {}
            Ok(HostMessage::Other(kind)) => {
                log::warn!("hv-balloon: unknown message type {}, ignored", kind.0)
            }
            Ok(HostMessage::Version { .. } | HostMessage::Capabilities { .. }) => {
                self.ignore(1, "an answer that was not asked for");
            }
            Err(_) => self.ignore(1, "malformed message"),
        }
        Ok(true)
    }
}

impl<P: Platform> Notify for HvBalloon<P> {
    fn arm(&mut self) -> Arm {
        match (&self.request, self.is_blocked) {
            (Some(_), false) => Arm::Pending,
            // Messages of the host wait for this answer, and the answer for room.
            (Some(_), true) if self.channel.fault().is_none() => match self.channel.arm() {
                Arm::Pending => Arm::Armed,
                other => other,
            },
            _ => self.channel.arm(),
        }
    }

    fn disarm(&mut self) {
        self.channel.disarm();
    }

    fn register(&mut self, waker: &Waker) {
        self.channel.register(waker);
    }

    fn next_deadline(&self) -> Instant {
        // Not every host signals that there is room again.
        let retry = if self.is_blocked { self.retry } else { Instant::NEVER };
        let report = if self.suppresses_reports { Instant::NEVER } else { self.next_report };
        report.min(retry)
    }
}

impl<P: Platform> Balloon for HvBalloon<P> {
    fn poll(&mut self, memory: &mut dyn BalloonMemory) -> Result<(), Fault> {
        for _ in 0..MAX_MESSAGES {
            // A request is fulfilled before the next message is read.
            if self.request.is_some() {
                if !self.send_pages(memory)? && self.request.is_some() {
                    break;
                }
            } else if !self.next(memory)? {
                break;
            }
        }
        self.report(memory)
    }

    fn info(&self) -> BalloonInfo {
        let mut info = BalloonInfo::default();
        info.held = self.held.pages();
        info.added = self.added;
        info.reports = self.reports;
        info
    }
}

impl<P: Platform> fmt::Debug for HvBalloon<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HvBalloon")
            .field("version", &self.version())
            .field("info", &self.info())
            .finish_non_exhaustive()
    }
}

//! The block device. VIRTIO 1.3 §5.2

pub mod config;
mod queue;
mod ring;

pub use queue::BlkQueue;

use crate::device::{OpenOptions, VirtioDevice};
use crate::features::Features;
use crate::queue::{RecordQueue, TransferCheck, VirtQueue};
use crate::request_queue::{QueueBuilder, QueueParams};
use crate::transport::{OpenError, Transport, read_config};
use config::{BlkFeatures, CONFIG_FIELDS};
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::Waker;
use paravirt_device::{
    Access, BlockDevice, BlockEvent, BlockInfo, BlockQueue, Cache, Fault, Rejected, Unmap,
};
use paravirt_platform::Fifo;
use paravirt_platform::{DmaBuffer, PageArc, PageTable, Platform, ProcessorId, Segment};
use queue::Pending;

/// The maximum number of queues of a block device that are used.
pub const MAX_BLK_QUEUES: usize = 16;

/// The limits against which every queue checks requests.
struct Limits {
    blocks: AtomicU64,
    /// The same as `blocks` for a writable medium, otherwise 0.
    writable_blocks: AtomicU64,
    has_cache: bool,
    can_unmap: bool,
    block_shift: u32,
    /// The shift from blocks to sectors.
    sector_shift: u32,
    /// The bits of a length that are not 0 if the length is not a multiple of the block size.
    partial_mask: u32,
    max_bytes: u32,
    max_segment_bytes: u32,
    /// The maximum number of bytes of a transfer of one segment.
    max_one: u32,
    max_segments: u16,
    max_discard: u32,
    max_zeroes: u32,
    access: Access,
}

/// Checks a transfer at `lba` against the limits and a medium of `blocks` blocks.
struct TransferAt<'a> {
    limits: &'a Limits,
    lba: u64,
    blocks: &'a AtomicU64,
}

impl TransferCheck for TransferAt<'_> {
    #[inline(always)]
    fn one(&self, len: u32) -> Result<(), Rejected> {
        let Self { limits, lba, blocks } = self;
        // The subtraction wraps for an empty transfer, which is refused as too long.
        if len.wrapping_sub(1) >= limits.max_one || len & limits.partial_mask != 0 {
            return Err(Rejected::Invalid);
        }
        limits.check_range(*lba, u64::from(len), blocks.load(Ordering::Relaxed))
    }

    #[inline]
    fn segments(&self, segments: &[Segment]) -> Result<(), Rejected> {
        self.limits.check_transfer(self.lba, segments, self.blocks.load(Ordering::Relaxed))
    }
}

impl Limits {
    fn new(info: &BlockInfo) -> Self {
        let block_shift = info.block_size.trailing_zeros();
        let limits = Self {
            blocks: AtomicU64::new(0),
            writable_blocks: AtomicU64::new(0),
            has_cache: info.cache == Cache::WriteBack,
            can_unmap: info.write_zeroes.is_some_and(|zero| zero.unmap == Unmap::May),
            block_shift,
            sector_shift: block_shift.saturating_sub(config::SECTOR.trailing_zeros()),
            partial_mask: info.block_size.wrapping_sub(1),
            max_bytes: info.max_bytes,
            max_segment_bytes: info.max_segment_bytes,
            max_one: info.max_bytes.min(info.max_segment_bytes),
            max_segments: info.max_segments,
            max_discard: info.discard.map_or(0, |limits| limits.max_blocks),
            max_zeroes: info.write_zeroes.map_or(0, |limits| limits.max_blocks),
            access: info.access,
        };
        limits.set_blocks(info.blocks);
        limits
    }

    fn set_blocks(&self, blocks: u64) {
        self.blocks.store(blocks, Ordering::Relaxed);
        let writable = if self.access == Access::ReadOnly { 0 } else { blocks };
        self.writable_blocks.store(writable, Ordering::Relaxed);
    }

    #[cold]
    fn is_read_only(&self) -> bool {
        self.access == Access::ReadOnly
    }

    /// Checks that `bytes` from block `lba` on are within a medium of `limit` blocks.
    #[inline(always)]
    fn check_range(&self, lba: u64, bytes: u64, limit: u64) -> Result<(), Rejected> {
        match lba.checked_add(bytes >> (self.block_shift & 63)) {
            Some(end) if end <= limit => Ok(()),
            _ => Err(Rejected::Range),
        }
    }

    /// Checks that the device accepts a transfer of `segments` at `lba`, on a medium of `limit` blocks.
    #[inline(always)]
    fn check_transfer(&self, lba: u64, segments: &[Segment], limit: u64) -> Result<(), Rejected> {
        let mut total = 0u64;
        let mut is_too_long = false;
        for segment in segments {
            is_too_long |= segment.len > self.max_segment_bytes;
            total = total.wrapping_add(u64::from(segment.len));
        }
        let is_partial = total & u64::from(self.partial_mask) != 0;
        // The subtraction wraps for an empty transfer, which is refused as out of range.
        let is_out_of_bounds = total.wrapping_sub(1) >= u64::from(self.max_bytes);
        if is_too_long || is_partial || is_out_of_bounds || segments.len() > usize::from(self.max_segments) {
            return Err(Rejected::Invalid);
        }
        self.check_range(lba, total, limit)
    }

    /// Checks the range of a discard or write-zeroes request of at most `max` blocks, and returns its first sector and its number
    /// of sectors.
    fn check_blocks(&self, lba: u64, blocks: u32, max: u32) -> Result<[u64; 2], Rejected> {
        if self.is_read_only() {
            return Err(Rejected::ReadOnly);
        }
        if blocks == 0 || blocks > max {
            return Err(if max == 0 { Rejected::Unsupported } else { Rejected::Invalid });
        }
        match lba.checked_add(u64::from(blocks)) {
            Some(end) if end <= self.blocks.load(Ordering::Relaxed) => {}
            _ => return Err(Rejected::Range),
        }
        let shift = self.sector_shift & 31;
        let sectors = blocks.checked_shl(shift).ok_or(Rejected::Invalid)?;
        Ok([lba << shift, u64::from(sectors)])
    }
}

/// A virtio block device whose requests carry buffers `B`.
pub struct VirtioBlk<P: Platform, B: DmaBuffer> {
    device: PageArc<P, VirtioDevice<P>>,
    limits: PageArc<P, Limits>,
    info: BlockInfo,
    /// A separate allocation: the device may be moved on small stacks.
    queues: PageTable<P, Option<BlkQueue<P, B>>>,
    /// The last fault that was reported as an event.
    reported: Option<Fault>,
    /// Whether the last call of `poll_event` reported a change of the configuration.
    has_just_reported: bool,
}

impl<P: Platform, B: DmaBuffer> VirtioBlk<P, B> {
    /// Opens the device with all its queues.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the device has then been reset.
    pub fn open(platform: &P, transport: Transport<P>, options: &OpenOptions) -> Result<Self, OpenError> {
        let wanted = BlkFeatures::all().bits() | Features::SUPPORTED.bits();
        let device = VirtioDevice::open(platform, transport, |_| wanted)?;
        let features = BlkFeatures::from_bits_truncate(device.features());
        let bytes = device.with_transport(|t| read_config(t, CONFIG_FIELDS));
        let mut info = config::parse(&bytes, features, options.segments.max(1)).ok_or(OpenError::Config)?;
        info.queues = info.queues.clamp(1, options.queues.clamp(1, MAX_BLK_QUEUES as u16));
        let mut builders = Fifo::new(platform, usize::from(info.queues))?;
        let (mut entries, mut depth) = (u16::MAX, u16::MAX);
        for index in 0..info.queues {
            match Builder::new(&device, index, options.queue_size, info.max_segments) {
                Ok(builder) => {
                    entries = entries.min(builder.size());
                    depth = depth.min(builder.depth());
                    // `builders` has room for all of them.
                    let _ = builders.push(builder);
                }
                // The driver works with fewer queues than announced, but needs the first.
                Err(OpenError::Queue) if index > 0 => break,
                Err(error) => return Err(error),
            }
        }
        info.queues = builders.len() as u16;
        info.depth = depth;
        let is_indirect = device.features() & Features::INDIRECT_DESC.bits() != 0;
        if !is_indirect {
            // Header and status take one entry each, and one entry is kept free.
            info.max_segments = info.max_segments.min(entries.saturating_sub(3).max(1));
        }
        let limits = PageArc::new(platform, Limits::new(&info))?;
        let processors = options.processors.max(1);
        device.start(|place| ProcessorId((place as u32).checked_rem(processors).unwrap_or(0)))?;

        info.connection = device.connection();

        let mut queues = PageTable::new(platform, usize::from(info.queues), |_| None)?;
        for slot in queues.iter_mut() {
            let Some(builder) = builders.pop() else { break };
            builder.build_in(slot, &limits)?;
        }
        if let Some(Some(first)) = queues.first_mut() {
            info.serial = first.serial().unwrap_or_default();
        }
        queues.iter_mut().skip(1).flatten().for_each(BlkQueue::set_untouched);
        Ok(Self { device, limits, info, queues, reported: None, has_just_reported: false })
    }
}

/// A queue of a device that has not been started yet.
#[allow(clippy::large_enum_variant, reason = "there are few, and they are short-lived")]
enum Builder<P: Platform, B: DmaBuffer> {
    Records(QueueBuilder<P, RecordQueue<P, B, Pending>>),
    General(QueueBuilder<P, VirtQueue<P, B, Pending>>),
}

impl<P: Platform, B: DmaBuffer> Builder<P, B> {
    fn new(
        device: &PageArc<P, VirtioDevice<P>>,
        index: u16,
        size: u16,
        segments: u16,
    ) -> Result<Self, OpenError> {
        if let Some(builder) = QueueBuilder::with_records(device, index, size, segments)? {
            return Ok(Self::Records(builder));
        }
        // A header precedes the data and a status byte follows them.
        let indirect = segments.saturating_add(2);
        let params = QueueParams { indirect, area: ring::AREA_LEN, ..QueueParams::new(index, size) };
        QueueBuilder::new(device, &params).map(Self::General)
    }

    fn size(&self) -> u16 {
        match self {
            Self::Records(builder) => builder.size(),
            Self::General(builder) => builder.size(),
        }
    }

    /// Returns the maximum number of requests of one segment in flight.
    fn depth(&self) -> u16 {
        match self {
            Self::Records(builder) => builder.size(),
            Self::General(builder) => builder.depth(3),
        }
    }

    /// Builds the queue in its place.
    fn build_in(
        self,
        slot: &mut Option<BlkQueue<P, B>>,
        limits: &PageArc<P, Limits>,
    ) -> Result<(), OpenError> {
        let size = self.size();
        match self {
            Self::Records(builder) => {
                builder.build_in(slot, |queue| BlkQueue::with_records(queue, limits, size))
            }
            Self::General(builder) => builder.build_in(slot, |queue| BlkQueue::general(queue, limits, size)),
        }
    }
}

impl<P: Platform, B: DmaBuffer> BlockDevice for VirtioBlk<P, B> {
    type Queue = BlkQueue<P, B>;

    fn info(&self) -> BlockInfo {
        self.info
    }

    fn take_queue(&mut self, index: u16) -> Option<BlkQueue<P, B>> {
        self.queues.get_mut(usize::from(index))?.take().map(BlkQueue::into_use)
    }

    fn poll_event(&mut self) -> Option<BlockEvent> {
        if self.device.take_config_change() {
            if core::mem::take(&mut self.has_just_reported) && self.device.fault().is_none() {
                // The configuration is read once for each drain: one that changes at each read must not keep the caller busy.
                self.device.mark_config_changed();
                self.device.config_cell().wake();
                return None;
            }
            if self.device.fault() == Some(Fault::Reset) {
                // The first queue was used when the device was opened: if nobody has taken it, it is drained here.
                for queue in self.queues.iter_mut().flatten() {
                    while let Ok(Some(_)) = queue.complete() {}
                }
            }
            if let Some(fault) = self.device.fault() {
                if fault != Fault::Reset && self.reported != Some(fault) {
                    self.reported = Some(fault);
                    return Some(BlockEvent::Faulted(fault));
                }
                return None;
            }
            let bytes = self.device.with_transport(|t| read_config(t, CONFIG_FIELDS));
            let blocks = config::capacity(&bytes, self.info.block_size);
            if blocks != self.info.blocks {
                self.info.blocks = blocks;
                self.limits.set_blocks(blocks);
                self.has_just_reported = true;
                return Some(BlockEvent::Capacity(blocks));
            }
        }
        self.has_just_reported = false;
        None
    }

    fn register(&mut self, waker: &Waker) {
        self.device.config_cell().register(waker);
    }
}

impl<P: Platform, B: DmaBuffer> fmt::Debug for VirtioBlk<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioBlk").field("info", &self.info).finish_non_exhaustive()
    }
}

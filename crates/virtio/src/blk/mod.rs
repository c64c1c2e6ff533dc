//! The block device. VIRTIO 1.3 §5.2

pub mod config;
mod queue;

pub use queue::BlkQueue;

use crate::device::{Core, OpenOptions};
use crate::features::Features;
use crate::lane::{Draft, Wish};
use crate::transport::{OpenError, VirtioTransport, read_config};
use config::{BlkFeatures, CONFIG_FIELDS};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::task::Waker;
use paravirt_device::{
    Access, BlockDevice, BlockEvent, BlockInfo, BlockQueue, Cache, Fault, Rejected, Unmap,
};
use paravirt_platform::Fifo;
use paravirt_platform::{DmaBuffer, PageArc, PageTable, Platform, ProcessorId, Segment};

/// The most queues of a block device that are used.
pub const MAX_BLK_QUEUES: usize = 16;

/// What every queue checks requests against.
struct Limits {
    blocks: AtomicU64,
    is_read_only: AtomicBool,
    has_cache: bool,
    can_unmap: bool,
    block_shift: u32,
    /// From blocks to sectors.
    sector_shift: u32,
    max_bytes: u32,
    max_segment_bytes: u32,
    max_segments: u16,
    max_discard: u32,
    max_zeroes: u32,
}

impl Limits {
    fn new(info: &BlockInfo) -> Self {
        let block_shift = info.block_size.trailing_zeros();
        Self {
            blocks: AtomicU64::new(info.blocks),
            is_read_only: AtomicBool::new(info.access == Access::ReadOnly),
            has_cache: info.cache == Cache::WriteBack,
            can_unmap: info.write_zeroes.is_some_and(|zero| zero.unmap == Unmap::May),
            block_shift,
            sector_shift: block_shift.saturating_sub(config::SECTOR.trailing_zeros()),
            max_bytes: info.max_bytes,
            max_segment_bytes: info.max_segment_bytes,
            max_segments: info.max_segments,
            max_discard: info.discard.map_or(0, |limits| limits.max_blocks),
            max_zeroes: info.write_zeroes.map_or(0, |limits| limits.max_blocks),
        }
    }

    /// Whether `blocks` blocks from `lba` on are on the medium.
    #[inline(always)]
    fn check_range(&self, lba: u64, blocks: u64) -> Result<(), Rejected> {
        match lba.checked_add(blocks) {
            Some(end) if end <= self.blocks.load(Ordering::Relaxed) => Ok(()),
            _ => Err(Rejected::Range),
        }
    }

    /// Whether the device takes a transfer of `segments` at `lba`.
    #[inline(always)]
    fn check_transfer(&self, lba: u64, segments: &[Segment]) -> Result<(), Rejected> {
        let mut total = 0u64;
        for segment in segments {
            if segment.len > self.max_segment_bytes {
                return Err(Rejected::Invalid);
            }
            total = total.wrapping_add(u64::from(segment.len));
        }
        let partial = total & (1u64 << (self.block_shift & 31)).wrapping_sub(1);
        let too_many = segments.len() > usize::from(self.max_segments);
        if partial != 0 || total == 0 || total > u64::from(self.max_bytes) || too_many {
            return Err(Rejected::Invalid);
        }
        self.check_range(lba, total >> (self.block_shift & 31))
    }
}

/// A virtio block device whose requests carry buffers `B`.
pub struct VirtioBlk<P: Platform, T: VirtioTransport, B: DmaBuffer> {
    core: PageArc<P, Core<P, T>>,
    limits: PageArc<P, Limits>,
    info: BlockInfo,
    /// Not in line: a device is moved about, on stacks that may be small.
    queues: PageTable<P, Option<BlkQueue<P, T, B>>>,
    /// The fault that was reported last.
    reported: Option<Fault>,
}

impl<P: Platform, T: VirtioTransport, B: DmaBuffer> VirtioBlk<P, T, B> {
    /// Takes the device into service, with all its queues.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the device has then been reset.
    pub fn open(platform: &P, transport: T, options: &OpenOptions) -> Result<Self, OpenError> {
        let wanted = BlkFeatures::all().bits() | Features::SUPPORTED.bits();
        let core = Core::open(platform, transport, |_| wanted)?;
        let features = BlkFeatures::from_bits_truncate(core.features());
        let bytes = core.with_transport(|t| read_config(t, CONFIG_FIELDS));
        let mut info = config::parse(&bytes, features, options.segments.max(1)).ok_or(OpenError::Config)?;
        let wanted = options.queues.clamp(1, MAX_BLK_QUEUES as u16);
        info.queues = info.queues.clamp(1, wanted);
        let limits = PageArc::new(platform, Limits::new(&info))?;

        // A header ahead of the data and a status behind them.
        let indirect = info.max_segments.saturating_add(2);
        let mut drafts = Fifo::new(platform, usize::from(info.queues))?;
        let (mut entries, mut depth) = (u16::MAX, u16::MAX);
        for index in 0..info.queues {
            let wish = Wish { index, size: options.queue_size, indirect, slot_areas: true };
            match Draft::new(&core, &wish) {
                Ok(draft) => {
                    entries = entries.min(draft.size());
                    depth = depth.min(draft.depth(3));
                    // There is room for all of them.
                    let _ = drafts.push(draft);
                }
                // Fewer queues than announced will do, but for the first.
                Err(OpenError::Queue) if index > 0 => break,
                Err(error) => return Err(error),
            }
        }
        info.queues = drafts.len() as u16;
        let is_indirect = core.features() & Features::INDIRECT_DESC.bits() != 0;
        info.depth = depth;
        if !is_indirect {
            info.max_segments = info.max_segments.min(entries.saturating_sub(3).max(1));
        }
        let processors = options.processors.max(1);
        Core::start(&core, |place| ProcessorId((place as u32).checked_rem(processors).unwrap_or(0)))?;

        let mut queues = PageTable::new(platform, usize::from(info.queues), |_| None)?;
        for slot in queues.iter_mut() {
            let Some(draft) = drafts.pop() else { break };
            let size = draft.size();
            *slot = Some(BlkQueue::new(draft.into_lane()?, limits.clone(), size)?);
        }
        if let Some(Some(first)) = queues.first_mut() {
            info.serial = first.serial().unwrap_or_default();
        }
        Ok(Self { core, limits, info, queues, reported: None })
    }
}

impl<P: Platform, T: VirtioTransport, B: DmaBuffer> BlockDevice for VirtioBlk<P, T, B> {
    type Queue = BlkQueue<P, T, B>;

    fn info(&self) -> BlockInfo {
        self.info
    }

    fn take_queue(&mut self, index: u16) -> Option<BlkQueue<P, T, B>> {
        self.queues.get_mut(usize::from(index))?.take()
    }

    fn poll_event(&mut self) -> Option<BlockEvent> {
        if self.core.take_config_change() {
            if self.core.fault() == Some(Fault::Reset) {
                // Queues that nobody has taken have to report in as well.
                for queue in self.queues.iter_mut().flatten() {
                    while let Ok(Some(_)) = queue.complete() {}
                }
            }
            if let Some(fault) = self.core.fault() {
                if fault != Fault::Reset && self.reported != Some(fault) {
                    self.reported = Some(fault);
                    return Some(BlockEvent::Faulted(fault));
                }
                return None;
            }
            let bytes = self.core.with_transport(|t| read_config(t, CONFIG_FIELDS));
            let blocks = config::capacity(&bytes, self.info.block_size);
            if blocks != self.info.blocks {
                self.info.blocks = blocks;
                self.limits.blocks.store(blocks, Ordering::Relaxed);
                return Some(BlockEvent::Capacity(blocks));
            }
        }
        None
    }

    fn register(&mut self, waker: &Waker) {
        self.core.config_cell().register(waker);
    }
}

//! What the backend of a disk and its frontend tell each other.

use crate::disk::BlkFrontOptions;
use crate::ring::{Ring, Shape};
use crate::wire::{DIRECT_SEGMENTS, SECTOR};
use core::marker::PhantomData;
use core::num::NonZeroU32;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use paravirt_device::{Access, BlockInfo, Cache, DiscardLimits};
use paravirt_platform::{DmaBuffer, PAGE_SIZE, PageArc, Platform};
use paravirt_xen::bus::{Frontend, Nodes, State};
use paravirt_xen::{DeviceClass, DeviceError, StoreError, affordable};

/// The maximum number of segments of a request, where they can be in a page of their own.
const MAX_SEGMENTS: u16 = 32;
/// The maximum number of requests in flight on a queue: grants are few.
const MAX_REQUESTS: u16 = 64;
/// The requests of a page of a ring, and the maximum order of the number of its pages.
const PAGE_REQUESTS: u16 = 32;
const MAX_ORDER: u32 = (MAX_REQUESTS / PAGE_REQUESTS).ilog2();
/// In `info`: a CD-ROM; read-only.
const CDROM: u64 = 1 << 0;
const READ_ONLY: u64 = 1 << 2;
/// The number of sectors of a request to discard, at most: as many as a block count of 32 bits has.
const MAX_DISCARD: u32 = u32::MAX;

/// What the queues look at without a lock.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    /// Blocks of the disk, and of those that can be written: none of a read-only disk.
    pub blocks: AtomicU64,
    pub writable: AtomicU64,
    /// The logarithm of the sectors of a block.
    pub sector_shift: AtomicU32,
    pub has_cache: AtomicBool,
    pub can_discard: AtomicBool,
}

impl Limits {
    pub fn set(&self, info: &BlockInfo) {
        let writable = if info.access == Access::ReadOnly { 0 } else { info.blocks };
        let sectors = u64::from(info.block_size).checked_div(SECTOR).unwrap_or(1).max(1);
        self.sector_shift.store(sectors.ilog2(), Ordering::Relaxed);
        self.has_cache.store(info.cache == Cache::WriteBack, Ordering::Relaxed);
        self.can_discard.store(info.discard.is_some(), Ordering::Relaxed);
        self.blocks.store(info.blocks, Ordering::Relaxed);
        self.writable.store(writable, Ordering::Release);
    }
}

/// What was negotiated.
pub(crate) struct BlockClass<P: Platform, B: DmaBuffer> {
    options: BlkFrontOptions,
    pub queue_count: u16,
    /// What the queues are made of. They stay as they are when the disk is connected anew.
    pub shape: Shape,
    was_connected: bool,
    /// What the queues look at.
    limits: PageArc<P, Limits>,
    /// What the backend told when it connected.
    pub info: BlockInfo,
    _queue: PhantomData<fn() -> (P, B)>,
}

impl<P: Platform, B: DmaBuffer> BlockClass<P, B> {
    /// The disk with this `handle`.
    pub fn new(options: BlkFrontOptions, handle: u16, limits: &PageArc<P, Limits>) -> Self {
        let info = BlockInfo::new(0, SECTOR as u32);
        let shape = Shape {
            handle,
            order: 0,
            requests: options.requests.clamp(1, MAX_REQUESTS),
            segments: DIRECT_SEGMENTS,
            is_persistent: options.has_persistent_grants,
        };
        let limits = limits.clone();
        Self { options, queue_count: 1, shape, was_connected: false, limits, info, _queue: PhantomData }
    }

    /// Reads what can change while the disk is connected: its size, and whether it can be written.
    pub fn read_size(&mut self, frontend: &Frontend<P>) -> Result<(), DeviceError> {
        let sectors = frontend.number("sectors", 0)?;
        let block = u64::from(self.info.block_size).checked_div(SECTOR).unwrap_or(1).max(1);
        self.info.blocks = sectors.checked_div(block).unwrap_or(0);
        let info = frontend.number("info", 0)?;
        let is_read_only = info & (READ_ONLY | CDROM) != 0;
        self.info.access = if is_read_only { Access::ReadOnly } else { Access::ReadWrite };
        Ok(())
    }
}

/// A power of two from 512 to a page; the size of a sector for anything else, which no host has.
fn block_size(size: u64) -> Result<u32, DeviceError> {
    let is_possible = size.is_power_of_two() && (SECTOR..=PAGE_SIZE as u64).contains(&size);
    if is_possible {
        u32::try_from(size).map_err(|_| DeviceError::Unsupported)
    } else {
        Err(DeviceError::Unsupported)
    }
}

/// Whether a device is a drive whose backend has the name of no file, behind that of the way to it.
fn has_no_medium<P: Platform>(frontend: &Frontend<P>) -> bool {
    let is_drive = frontend.text::<16>("device-type").is_ok_and(|kind| kind.as_str() == "cdrom");
    let is_empty = |name: &[u8]| matches!(name.last(), None | Some(b':'));
    is_drive && frontend.store().read(format_args!("{}/params", frontend.backend()), is_empty) == Ok(true)
}

impl<P: Platform, B: DmaBuffer> DeviceClass<P> for BlockClass<P, B> {
    type Queue = Ring<P, B>;
    const PUBLISHED: State = State::Initialised;

    fn check(&self, frontend: &Frontend<P>) -> Result<(), DeviceError> {
        // A backend makes no device of an empty drive: it would be waited for in vain.
        let is_unready = matches!(frontend.backend_state()?, State::Unknown | State::Initialising);
        if is_unready && has_no_medium(frontend) {
            return Err(DeviceError::NoMedium);
        }
        Ok(())
    }

    fn negotiate(&mut self, frontend: &Frontend<P>) -> Result<(), DeviceError> {
        let queues = frontend.offered_queues()?;
        let pages = u32::from(self.shape.requests.div_ceil(PAGE_REQUESTS)).next_power_of_two();
        let most = u32::try_from(frontend.number("max-ring-page-order", 0)?).unwrap_or(u32::MAX);
        let indirect = frontend.number("feature-max-indirect-segments", 0)?;
        let segments = u16::try_from(indirect).unwrap_or(u16::MAX).clamp(DIRECT_SEGMENTS, MAX_SEGMENTS);
        if self.was_connected {
            // The backend of another host may offer less than the queues have.
            let is_enough =
                queues >= self.queue_count && most >= self.shape.order && segments >= self.shape.segments;
            return if is_enough { Ok(()) } else { Err(DeviceError::Unsupported) };
        }
        let grants = frontend.hypervisor().grants_of_a_device();
        self.queue_count = affordable(queues.min(self.options.queues), grants, Shape::FEWEST_GRANTS);
        let each = grants.checked_div(self.queue_count.into()).unwrap_or(0);
        let order = pages.ilog2().min(MAX_ORDER).min(most);
        let requests = self.shape.requests.min(PAGE_REQUESTS << order);
        let shape = Shape { order, requests, segments, ..self.shape };
        self.shape = shape.within(each);
        Ok(())
    }

    fn publish(&self, nodes: &Nodes<'_, P>, queues: u16) -> Result<(), StoreError> {
        nodes.write(format_args!("protocol"), format_args!("x86_64-abi"))?;
        nodes.number("feature-persistent", self.shape.is_persistent.into())?;
        // This driver's sectors are of 512 bytes with blocks of any size.
        nodes.number("feature-large-sector-size", 1)?;
        let order = self.shape.order;
        if order > 0 {
            nodes.number("ring-page-order", order)?;
            nodes.number("num-ring-pages", 1u32.checked_shl(order).unwrap_or(1))?;
        }
        if queues > 1 {
            nodes.number("multi-queue-num-queues", queues.into())?;
        }
        Ok(())
    }

    fn connected(&mut self, frontend: &Frontend<P>) -> Result<(), DeviceError> {
        let size = block_size(frontend.number("sector-size", SECTOR)?)?;
        // Requests in flight, and the owner, count in blocks.
        if self.was_connected && size != self.info.block_size {
            return Err(DeviceError::Unsupported);
        }
        let physical = frontend.number("physical-sector-size", size.into())?;
        let info = &mut self.info;
        info.block_size = size;
        info.physical_block_size = u32::try_from(physical)
            .ok()
            .filter(|physical| physical.is_power_of_two() && *physical >= size)
            .unwrap_or(size);
        // One for a buffer that does not begin at a page.
        let pages = u32::from(self.shape.segments).saturating_sub(1);
        info.max_bytes = pages.saturating_mul(PAGE_SIZE as u32);
        info.max_segments = self.shape.segments;
        info.segment_boundary = NonZeroU32::new(PAGE_SIZE as u32);
        info.alignment = SECTOR as u32;
        let has_flush = frontend.has("feature-flush-cache")?;
        info.cache = if has_flush { Cache::WriteBack } else { Cache::WriteThrough };
        info.discard = match frontend.has("feature-discard")? {
            true => {
                let blocks = |bytes: u64| bytes.checked_div(size.into()).and_then(|n| u32::try_from(n).ok());
                let granularity = frontend.number("discard-granularity", 0)?;
                let alignment = blocks(granularity).unwrap_or(1).max(1);
                Some(DiscardLimits::new(MAX_DISCARD).with_alignment(alignment))
            }
            false => None,
        };
        self.read_size(frontend)?;
        // Before the queues go on: a cache, for one, has to be known then.
        self.limits.set(&self.info);
        self.was_connected = true;
        Ok(())
    }
}

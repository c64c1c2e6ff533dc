//! A unit as a block device.

use crate::core::Core;
use crate::identify::{self, Identity};
use crate::port::{Adapter, Address};
use crate::queue::DiskQueue;
use crate::shared::{MOST_UNITS, Unit};
use core::task::Waker;
use paravirt_device::{Access, BlockDevice, BlockEvent, BlockInfo, Cache, Fault, Rejected, Unmap};
use paravirt_platform::{DmaBuffer, PageArc, Platform, Segment};

/// What requests are checked against, beside what can change.
#[derive(Copy, Clone)]
pub(crate) struct Limits {
    pub address: Address,
    pub block_size: u32,
    pub has_cache: bool,
    pub has_fua: bool,
    pub zeroes_unmap: bool,
    pub max_discard: u32,
    pub max_zeroes: u32,
    pub is_optical: bool,
    max_bytes: u32,
    max_segments: u16,
    /// Bits of an address that are zero where segments meet.
    boundary_mask: u64,
}

impl Limits {
    fn new(address: Address, identity: &Identity) -> Self {
        let info = &identity.info;
        Self {
            address,
            block_size: info.block_size,
            has_cache: info.cache == Cache::WriteBack,
            has_fua: identity.has_fua,
            zeroes_unmap: info.write_zeroes.is_some_and(|zero| zero.unmap == Unmap::May),
            max_discard: info.discard.map_or(0, |limits| limits.max_blocks),
            max_zeroes: info.write_zeroes.map_or(0, |limits| limits.max_blocks),
            is_optical: identity.is_optical,
            max_bytes: info.max_bytes,
            max_segments: info.max_segments,
            boundary_mask: info.segment_boundary.map_or(0, |unit| u64::from(unit.get()).wrapping_sub(1)),
        }
    }

    /// Blocks and bytes of a transfer of `segments` at `lba` on a medium of `blocks`.
    #[inline(always)]
    pub fn check(&self, lba: u64, segments: &[Segment], blocks: u64) -> Result<(u32, u32), Rejected> {
        if segments.len() > usize::from(self.max_segments) {
            return Err(Rejected::Invalid);
        }
        let mut total = 0u64;
        let mut gaps = 0u64;
        let mut end = 0u64;
        for (at, segment) in segments.iter().enumerate() {
            if at > 0 {
                gaps |= end | segment.addr.0;
            }
            end = segment.addr.0.wrapping_add(u64::from(segment.len));
            total = total.wrapping_add(u64::from(segment.len));
        }
        let shift = self.block_size.trailing_zeros() & 31;
        let partial = total & u64::from(self.block_size.wrapping_sub(1));
        if partial != 0 || total == 0 || total > u64::from(self.max_bytes) || gaps & self.boundary_mask != 0 {
            return Err(Rejected::Invalid);
        }
        let count = total >> shift;
        match lba.checked_add(count) {
            Some(end) if end <= blocks => Ok((count as u32, total as u32)),
            _ => Err(Rejected::Range),
        }
    }
}

/// A disk, or a drive of optical media, as a block device.
pub struct Disk<P: Platform, A: Adapter, B: DmaBuffer> {
    core: PageArc<P, Core<P, A, B>>,
    place: usize,
    limits: Limits,
    info: BlockInfo,
    taken: u64,
    /// The fault that was reported last.
    reported: Option<Fault>,
}

impl<P: Platform, A: Adapter, B: DmaBuffer> Disk<P, A, B> {
    /// Takes a place for the unit at `address`; `None` where there is none.
    pub(crate) fn new(
        core: &PageArc<P, Core<P, A, B>>,
        address: Address,
        identity: &Identity,
    ) -> Option<Self> {
        const { assert!(MOST_UNITS <= u64::BITS as usize) };
        let place = core.shared.add_unit(address, identity.hash)?;
        let info = identity.info;
        let unit = core.shared.units.get(place)?;
        unit.set_blocks(info.blocks);
        unit.set_read_only(info.access == Access::ReadOnly);
        let limits = Limits::new(address, identity);
        Some(Self { core: core.clone(), place, limits, info, taken: 0, reported: None })
    }

    /// Where it is on its controller.
    pub fn address(&self) -> Address {
        self.limits.address
    }

    fn unit(&self) -> Option<&Unit> {
        self.core.shared.units.get(self.place)
    }

    /// Asks again what can change.
    fn look_again(&mut self) -> Option<BlockEvent> {
        let Self { core, limits, info, .. } = self;
        let unit = core.shared.units.get(self.place)?;
        let control = &mut core.control.lock();
        let capacity = identify::capacity(core, control, limits.address, limits.is_optical).ok()?;
        let mode = match limits.is_optical {
            true => None,
            false => identify::mode(core, control, limits.address).ok()?,
        };
        if let Some(mode) = mode {
            let is_read_only = mode.is_protected;
            if is_read_only != (info.access == Access::ReadOnly) {
                info.access = if is_read_only { Access::ReadOnly } else { Access::ReadWrite };
                unit.set_read_only(is_read_only);
                // The capacity is looked at the next time.
                unit.set_changed();
                return Some(BlockEvent::Access(info.access));
            }
        }
        let blocks = match capacity {
            Some(capacity) if capacity.block_size == info.block_size => capacity.blocks,
            // Another medium, on which no block is where it was.
            Some(_) => 0,
            None if limits.is_optical => 0,
            None => return None,
        };
        (blocks != info.blocks).then(|| {
            info.blocks = blocks;
            unit.set_blocks(blocks);
            BlockEvent::Capacity(blocks)
        })
    }
}

impl<P: Platform, A: Adapter, B: DmaBuffer> BlockDevice for Disk<P, A, B> {
    type Queue = DiskQueue<P, A, B>;

    fn info(&self) -> BlockInfo {
        self.info
    }

    fn take_queue(&mut self, index: u16) -> Option<Self::Queue> {
        let bit = 1u64.checked_shl(u32::from(index))?;
        if index >= self.info.queues || self.taken & bit != 0 {
            return None;
        }
        self.taken |= bit;
        DiskQueue::new(&self.core, self.limits, usize::from(index), self.place)
    }

    /// Asks the unit again where it said that something had changed, which takes a few commands' time.
    fn poll_event(&mut self) -> Option<BlockEvent> {
        let _ = self.core.continue_reset();
        let gone = self.unit()?.is_gone().then_some(Fault::Removed);
        let fault = self.core.fault().filter(|fault| *fault != Fault::Reset).or(gone);
        if let Some(fault) = fault {
            if self.reported == Some(fault) {
                return None;
            }
            self.reported = Some(fault);
            return Some(BlockEvent::Faulted(fault));
        }
        if self.core.fault().is_none() && self.unit()?.take_changed() {
            return self.look_again();
        }
        None
    }

    fn register(&mut self, waker: &Waker) {
        self.unit().into_iter().for_each(|unit| unit.cell.register(waker));
    }
}

impl<P: Platform, A: Adapter, B: DmaBuffer> Drop for Disk<P, A, B> {
    fn drop(&mut self) {
        self.unit().into_iter().for_each(Unit::let_go);
    }
}

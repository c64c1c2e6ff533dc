//! A unit as a block device.

use crate::controller_shared::ControllerShared;
use crate::data::Capacity;
use crate::identify::{self, Identity};
use crate::limits::DiskLimits;
use crate::queue::DiskQueue;
use crate::transport::{Address, ScsiTransport};
use crate::unit::{MAX_UNITS, Unit};
use core::fmt;
use core::task::Waker;
use paravirt_device::{Access, BlockDevice, BlockEvent, BlockInfo, Fault};
use paravirt_platform::{DmaBuffer, PageArc, Platform};

/// A disk, or a drive of optical media, as a block device.
pub struct Disk<P: Platform, T: ScsiTransport, B: DmaBuffer> {
    shared: PageArc<P, ControllerShared<P, T, B>>,
    /// Its index in the table of units.
    unit: usize,
    limits: DiskLimits,
    info: BlockInfo,
    /// The queues that were taken, a bit each.
    taken: u64,
    /// The fault that was reported last.
    reported: Option<Fault>,
    /// The capacity that is still to be compared, of the last look at the unit.
    capacity: Option<Option<Capacity>>,
    /// Whether the last call of `poll_event` reported a change.
    has_just_reported: bool,
}

impl<P: Platform, T: ScsiTransport, B: DmaBuffer> fmt::Debug for Disk<P, T, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk")
            .field("address", &self.limits.address)
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl<P: Platform, T: ScsiTransport, B: DmaBuffer> Disk<P, T, B> {
    /// Adds the unit at `address` to the table of units; `None` where that is full.
    pub(crate) fn new(
        shared: &PageArc<P, ControllerShared<P, T, B>>,
        address: Address,
        identity: &Identity,
    ) -> Option<Self> {
        const { assert!(MAX_UNITS <= u64::BITS as usize) };
        let index = shared.state.add_unit(address, identity.hash, identity.is_certain)?;
        let info = identity.info;
        let unit = shared.state.units.get(index)?;
        unit.set_blocks(info.blocks);
        unit.set_read_only(info.access == Access::ReadOnly);
        let limits = DiskLimits::new(address, identity);
        Some(Self {
            shared: shared.clone(),
            unit: index,
            limits,
            info,
            taken: 0,
            reported: None,
            capacity: None,
            has_just_reported: false,
        })
    }

    /// The address on the controller.
    pub fn address(&self) -> Address {
        self.limits.address
    }

    fn unit(&self) -> Option<&Unit> {
        self.shared.state.units.get(self.unit)
    }

    /// Reads capacity and write protection again, and says what changed.
    fn look_again(&mut self) -> Option<BlockEvent> {
        let Self { shared, limits, info, .. } = self;
        let unit = shared.state.units.get(self.unit)?;
        let mut control = shared.control.lock();
        let capacity = identify::capacity(shared, &mut control, limits.address, limits.is_optical).ok()?;
        let mode = match limits.is_optical {
            true => None,
            false => identify::mode(shared, &mut control, limits.address).ok()?,
        };
        if let Some(mode) = mode {
            let is_read_only = mode.is_protected;
            if is_read_only != (info.access == Access::ReadOnly) {
                info.access = if is_read_only { Access::ReadOnly } else { Access::ReadWrite };
                unit.set_read_only(is_read_only);
                // The capacity is compared at the next call, which asks the unit no more.
                self.capacity = Some(capacity);
                return Some(BlockEvent::Access(info.access));
            }
        }
        drop(control);
        self.compare(capacity)
    }

    /// Compares the capacity that the unit reports with what is known.
    fn compare(&mut self, capacity: Option<Capacity>) -> Option<BlockEvent> {
        let Self { shared, limits, info, .. } = self;
        let unit = shared.state.units.get(self.unit)?;
        let blocks = match capacity {
            Some(capacity) if capacity.block_size == info.block_size => capacity.blocks,
            // A medium with another block size, on which no block is where it was.
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

impl<P: Platform, T: ScsiTransport, B: DmaBuffer> BlockDevice for Disk<P, T, B> {
    type Queue = DiskQueue<P, T, B>;

    fn info(&self) -> BlockInfo {
        self.info
    }

    fn take_queue(&mut self, index: u16) -> Option<Self::Queue> {
        let bit = 1u64.checked_shl(u32::from(index))?;
        if index >= self.info.queues || self.taken & bit != 0 {
            return None;
        }
        self.taken |= bit;
        DiskQueue::new(&self.shared, self.limits, usize::from(index), self.unit, self.info.depth)
    }

    /// Reads capacity and protection again where the unit reported a change; that blocks for a few commands.
    fn poll_event(&mut self) -> Option<BlockEvent> {
        let _ = self.shared.continue_reset();
        let gone = self.unit()?.is_gone().then_some(Fault::Removed);
        let fault = self.shared.fault().filter(|fault| *fault != Fault::Reset).or(gone);
        if let Some(fault) = fault {
            if self.reported == Some(fault) {
                return None;
            }
            self.reported = Some(fault);
            return Some(BlockEvent::Faulted(fault));
        }
        if self.shared.fault().is_some() {
            return None;
        }
        // A unit that changes whenever it is asked must not keep the caller busy: it is asked once until there is nothing to report.
        if let Some(capacity) = self.capacity.take() {
            self.has_just_reported = true;
            return self.compare(capacity);
        }
        if core::mem::take(&mut self.has_just_reported) {
            return None;
        }
        if self.unit()?.take_changed() {
            let event = self.look_again();
            self.has_just_reported = event.is_some();
            return event;
        }
        None
    }

    fn register(&mut self, waker: &Waker) {
        self.unit().into_iter().for_each(|unit| unit.cell.register(waker));
    }
}

impl<P: Platform, T: ScsiTransport, B: DmaBuffer> Drop for Disk<P, T, B> {
    fn drop(&mut self) {
        self.unit().into_iter().for_each(Unit::release);
    }
}

//! The memory of a queue that the device accesses.

use super::{QueueAddresses, Quiesced};
use core::fmt;
use paravirt_platform::{AllocError, DmaRegion, Platform};

/// The maximum number of regions of a queue: rings, indirect tables, areas.
const MAX_REGIONS: usize = 3;

/// The memory that a queue owns. Dropping it leaks the memory if the device may still access it.
pub struct QueueMemory<P: Platform> {
    regions: [Option<DmaRegion<P>>; MAX_REGIONS],
    /// Whether a device may have the addresses and has not been confirmed to have stopped since.
    is_live: bool,
}

impl<P: Platform> QueueMemory<P> {
    pub const fn new() -> Self {
        Self { regions: [const { None }; MAX_REGIONS], is_live: false }
    }

    /// Allocates a region of `len` bytes.
    pub fn region(&mut self, platform: &P, len: usize) -> Result<&DmaRegion<P>, AllocError> {
        let free = self.regions.iter_mut().find(|region| region.is_none()).ok_or(AllocError)?;
        Ok(free.insert(DmaRegion::alloc(platform, len)?))
    }

    /// Records that a device is given `addresses`, and returns them. From now on dropping the memory leaks it, until
    /// [`set_quiesced`](Self::set_quiesced).
    pub fn set_live(&mut self, addresses: QueueAddresses) -> QueueAddresses {
        self.is_live = true;
        addresses
    }

    /// Records that the device has stopped.
    pub fn set_quiesced(&mut self, _proof: &Quiesced) {
        self.is_live = false;
    }
}

impl<P: Platform> fmt::Debug for QueueMemory<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueMemory").field("is_live", &self.is_live).finish_non_exhaustive()
    }
}

impl<P: Platform> Drop for QueueMemory<P> {
    fn drop(&mut self) {
        if self.is_live {
            self.regions.iter_mut().filter_map(Option::take).for_each(DmaRegion::leak);
        }
    }
}

//! The memory of a queue that its device accesses.

use super::{QueueAddresses, Quiesced};
use paravirt_platform::{AllocError, DmaRegion, Platform};

/// Regions that a queue is made of, at most: rings, indirect tables, areas.
const MAX_REGIONS: usize = 3;

/// The memory of a queue: owned by it, and leaked where the device may still access it.
pub(super) struct QueueMemory<P: Platform> {
    regions: [Option<DmaRegion<P>>; MAX_REGIONS],
    /// A device was told of it, and has not been seen to stop since.
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

    /// Gives the addresses away, to a device: from now on the memory is leaked rather than freed, until
    /// [`set_quiesced`](Self::set_quiesced).
    pub fn set_live(&mut self, addresses: QueueAddresses) -> QueueAddresses {
        self.is_live = true;
        addresses
    }

    /// Says that the device has stopped.
    pub fn set_quiesced(&mut self, _proof: &Quiesced) {
        self.is_live = false;
    }
}

impl<P: Platform> Drop for QueueMemory<P> {
    fn drop(&mut self) {
        if self.is_live {
            self.regions.iter_mut().filter_map(Option::take).for_each(DmaRegion::leak);
        }
    }
}

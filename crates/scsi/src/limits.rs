//! What the requests to a disk are checked against.

use crate::identify::Identity;
use crate::transport::Address;
use paravirt_device::{Cache, Rejected, Unmap};
use paravirt_platform::Segment;

/// What does not change while the disk is there; capacity and protection do, and are the unit's.
#[derive(Copy, Clone, Debug)]
pub(crate) struct DiskLimits {
    pub address: Address,
    pub block_size: u32,
    pub has_cache: bool,
    pub has_fua: bool,
    pub zeroes_unmap: bool,
    pub max_discard: u32,
    pub max_zeroes: u32,
    pub is_optical: bool,
    /// The block size as a power of two.
    block_shift: u32,
    max_bytes: u32,
    max_segments: u16,
    /// Bits of an address that are zero where segments meet.
    boundary_mask: u64,
}

impl DiskLimits {
    pub fn new(address: Address, identity: &Identity) -> Self {
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
            block_shift: info.block_size.trailing_zeros() & 31,
            max_bytes: info.max_bytes,
            max_segments: info.max_segments,
            boundary_mask: info.segment_boundary.map_or(0, |unit| u64::from(unit.get()).wrapping_sub(1)),
        }
    }

    /// Blocks of a transfer of `bytes` in one segment at `lba` on a medium of `blocks`.
    #[inline(always)]
    pub fn check_one(&self, lba: u64, bytes: u32, blocks: u64) -> Result<u32, Rejected> {
        let partial = bytes & self.block_size.wrapping_sub(1);
        if partial != 0 || bytes == 0 || bytes > self.max_bytes {
            return Err(Rejected::Invalid);
        }
        let count = bytes.wrapping_shr(self.block_shift);
        match lba.checked_add(u64::from(count)) {
            Some(end) if end <= blocks => Ok(count),
            _ => Err(Rejected::Range),
        }
    }

    /// Blocks and bytes of a transfer of `segments` at `lba` on a medium of `blocks`.
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
        let total = u32::try_from(total).map_err(|_| Rejected::Invalid)?;
        if gaps & self.boundary_mask != 0 {
            return Err(Rejected::Invalid);
        }
        Ok((self.check_one(lba, total, blocks)?, total))
    }
}

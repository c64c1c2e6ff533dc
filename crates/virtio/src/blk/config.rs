//! The configuration of a block device, `struct virtio_blk_config`: pure, total, fuzzed. VIRTIO 1.3 §5.2.4

use bitflags::bitflags;
use paravirt_device::{Access, BlockInfo, Cache, DiscardLimits, Unmap, ZeroLimits};

bitflags! {
    /// Feature bits of a block device. VIRTIO 1.3 §5.2.3
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
    pub struct BlkFeatures: u64 {
        /// The configuration has the largest size of a segment, `size_max`.
        const SIZE_MAX = 1 << 1;
        /// The configuration has the largest number of segments, `seg_max`.
        const SEG_MAX = 1 << 2;
        /// The device is read-only.
        const RO = 1 << 5;
        /// The configuration has the block size.
        const BLK_SIZE = 1 << 6;
        /// The device has a volatile cache and supports flush requests.
        const FLUSH = 1 << 9;
        /// The configuration has the topology: alignment and preferred I/O sizes.
        const TOPOLOGY = 1 << 10;
        /// The configuration has the cache mode, `writeback`.
        const CONFIG_WCE = 1 << 11;
        /// The device has several request queues.
        const MQ = 1 << 12;
        /// The device supports discard requests.
        const DISCARD = 1 << 13;
        /// The device supports write zeroes requests.
        const WRITE_ZEROES = 1 << 14;
    }
}

/// Bytes of the configuration that the driver reads.
pub const CONFIG_LEN: usize = 60;

/// The fields of the configuration as `(offset, width)`, in bytes. VIRTIO 1.3 §5.2.4
pub const CONFIG_FIELDS: &[(u8, u8)] = &[
    (0, 8),  // capacity
    (8, 4),  // size_max
    (12, 4), // seg_max
    (20, 4), // blk_size
    (24, 1), // physical_block_exp
    (25, 1), // alignment_offset
    (26, 2), // min_io_size
    (28, 4), // opt_io_size
    (32, 1), // writeback
    (34, 2), // num_queues
    (36, 4), // max_discard_sectors
    (40, 4), // max_discard_seg
    (44, 4), // discard_sector_alignment
    (48, 4), // max_write_zeroes_sectors
    (52, 4), // max_write_zeroes_seg
    (56, 1), // write_zeroes_may_unmap
];

/// Bytes of a sector, the unit of addresses in requests, whatever the block size is.
pub const SECTOR: u32 = 512;
/// Bytes that one request transfers, at most: every back end accepts that many.
const MAX_BYTES: u32 = 1 << 30;
/// The largest block size that is accepted, in bytes.
const MAX_BLOCK_SIZE: u32 = 1 << 16;

fn field<const N: usize>(bytes: &[u8; CONFIG_LEN], at: usize) -> [u8; N] {
    let end = at.wrapping_add(N);
    bytes.get(at..end).and_then(|field| field.try_into().ok()).unwrap_or([0; N])
}

/// Parses the configuration under the negotiated `features`; `None` if a field is out of range.
///
/// `segments` is the largest number of data segments that the driver can describe in one request. The serial number and the queue
/// depth are left empty.
pub fn parse(bytes: &[u8; CONFIG_LEN], features: BlkFeatures, segments: u16) -> Option<BlockInfo> {
    let u32_at = |at| u32::from_le_bytes(field(bytes, at));
    let has = |feature| features.contains(feature);
    let block_size = if has(BlkFeatures::BLK_SIZE) { u32_at(20) } else { SECTOR };
    if !block_size.is_power_of_two() || !(SECTOR..=MAX_BLOCK_SIZE).contains(&block_size) {
        return None;
    }
    let sectors_per_block = block_size >> 9;
    let blocks_of = |sectors: u32| sectors >> sectors_per_block.trailing_zeros();
    let [exponent, offset] = if has(BlkFeatures::TOPOLOGY) { field(bytes, 24) } else { [0, 0] };
    let physical_block_size =
        block_size.checked_shl(u32::from(exponent)).filter(|size| size >> exponent == block_size)?;
    let offered = if has(BlkFeatures::SEG_MAX) { u32_at(12) } else { 1 };
    let max_segments = u16::try_from(offered).unwrap_or(u16::MAX).clamp(1, segments.max(1));
    let size_max = if has(BlkFeatures::SIZE_MAX) { u32_at(8) } else { u32::MAX };
    if size_max < block_size {
        return None;
    }
    let max_bytes =
        size_max.saturating_mul(u32::from(max_segments)).min(MAX_BYTES) & !block_size.wrapping_sub(1);
    let limit = |sectors: u32| Some(blocks_of(sectors)).filter(|blocks| *blocks > 0);
    let discard = if has(BlkFeatures::DISCARD) && u32_at(40) > 0 { limit(u32_at(36)) } else { None };
    let zero = if has(BlkFeatures::WRITE_ZEROES) && u32_at(52) > 0 { limit(u32_at(48)) } else { None };
    let writeback = !has(BlkFeatures::CONFIG_WCE) || field::<1>(bytes, 32) != [0];
    let mut info = BlockInfo::new(capacity(bytes, block_size), block_size);
    info.physical_block_size = physical_block_size;
    info.alignment_offset = u32::from(offset);
    info.optimal_blocks = if has(BlkFeatures::TOPOLOGY) { u32_at(28) } else { 0 };
    info.max_bytes = max_bytes;
    info.max_segments = max_segments;
    info.max_segment_bytes = size_max;
    info.discard =
        discard.map(|max_blocks| DiscardLimits::new(max_blocks).with_alignment(blocks_of(u32_at(44)).max(1)));
    let unmap = if field::<1>(bytes, 56) == [0] { Unmap::Keep } else { Unmap::May };
    info.write_zeroes = zero.map(|max_blocks| ZeroLimits::new(max_blocks).with_unmap(unmap));
    info.cache = if has(BlkFeatures::FLUSH) && writeback { Cache::WriteBack } else { Cache::WriteThrough };
    info.access = if has(BlkFeatures::RO) { Access::ReadOnly } else { Access::ReadWrite };
    info.queues = if has(BlkFeatures::MQ) { u16::from_le_bytes(field(bytes, 34)) } else { 1 };
    info.depth = 0;
    Some(info)
}

/// The capacity in whole blocks of `block_size` bytes.
pub fn capacity(bytes: &[u8; CONFIG_LEN], block_size: u32) -> u64 {
    u64::from_le_bytes(field(bytes, 0)) >> (block_size >> 9).trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(fields: &[(usize, &[u8])]) -> [u8; CONFIG_LEN] {
        let mut bytes = [0; CONFIG_LEN];
        for (at, field) in fields {
            bytes[*at..at + field.len()].copy_from_slice(field);
        }
        bytes
    }

    #[test]
    fn without_features_the_defaults_of_the_specification_hold() {
        let info = parse(&config(&[(0, &[8, 0, 0, 0])]), BlkFeatures::empty(), 14).unwrap();
        assert_eq!((info.blocks, info.block_size, info.physical_block_size), (8, 512, 512));
        assert_eq!((info.max_segments, info.queues, info.cache), (1, 1, Cache::WriteThrough));
        assert_eq!((info.discard, info.write_zeroes, info.access), (None, None, Access::ReadWrite));
    }

    #[test]
    fn limits_are_converted_to_blocks() {
        let bytes = config(&[
            (0, &[17, 0, 0, 0]),
            (8, &[0, 0x10, 0, 0]),
            (12, &[126, 0, 0, 0]),
            (20, &[0, 0x10, 0, 0]),
            (24, &[1, 0]),
            (32, &[1]),
            (34, &[4, 0]),
            (36, &[64, 0, 0, 0]),
            (40, &[1, 0, 0, 0]),
            (44, &[8, 0, 0, 0]),
            (48, &[32, 0, 0, 0]),
            (52, &[1, 0, 0, 0]),
            (56, &[1]),
        ]);
        let info = parse(&bytes, BlkFeatures::all(), 14).unwrap();
        assert_eq!((info.blocks, info.block_size, info.physical_block_size), (2, 4096, 8192));
        assert_eq!((info.max_segments, info.max_bytes, info.queues), (14, 14 * 4096, 4));
        assert_eq!(info.discard, Some(DiscardLimits::new(8)));
        assert_eq!(info.write_zeroes, Some(ZeroLimits::new(4).with_unmap(Unmap::May)));
        assert_eq!((info.access, info.cache), (Access::ReadOnly, Cache::WriteBack));
    }

    #[test]
    fn a_configuration_out_of_range_is_refused() {
        for size in [0u32, 1, 511, 513, 1 << 17, u32::MAX] {
            assert_eq!(parse(&config(&[(20, &size.to_le_bytes())]), BlkFeatures::BLK_SIZE, 14), None);
        }
        assert_eq!(parse(&config(&[(24, &[31])]), BlkFeatures::TOPOLOGY, 14), None);
        assert_eq!(parse(&config(&[(24, &[200])]), BlkFeatures::TOPOLOGY, 14), None);
        assert_eq!(parse(&config(&[(8, &[1])]), BlkFeatures::SIZE_MAX, 14), None);
        assert!(parse(&[0xff; CONFIG_LEN], BlkFeatures::all(), 14).is_none());
    }
}

//! The configuration of a block device, `struct virtio_blk_config`: pure, total, fuzzed. VIRTIO 1.3 §5.2.4

use crate::transport::config_fields;
use bitflags::bitflags;
use core::mem::offset_of;
use paravirt_device::{Access, BlockInfo, Cache, DiscardLimits, Unmap, ZeroLimits};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

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

/// `struct virtio_blk_config`, up to the limits of write zeroes. VIRTIO 1.3 §5.2.4
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct WireConfig {
    /// Sectors of 512 bytes.
    capacity: U64,
    size_max: U32,
    seg_max: U32,
    _cylinders: U16,
    _heads: u8,
    _sectors: u8,
    blk_size: U32,
    physical_block_exp: u8,
    alignment_offset: u8,
    _min_io_size: U16,
    /// Logical blocks.
    opt_io_size: U32,
    writeback: u8,
    _unused0: u8,
    num_queues: U16,
    max_discard_sectors: U32,
    max_discard_seg: U32,
    /// Sectors of 512 bytes, as are all of these limits.
    discard_sector_alignment: U32,
    max_write_zeroes_sectors: U32,
    max_write_zeroes_seg: U32,
    write_zeroes_may_unmap: u8,
    _unused1: [u8; 3],
}

/// The number of bytes of the configuration that the driver reads.
pub const CONFIG_LEN: usize = size_of::<WireConfig>();

const _: () = {
    assert!(CONFIG_LEN == 60);
    assert!(offset_of!(WireConfig, blk_size) == 20 && offset_of!(WireConfig, opt_io_size) == 28);
    assert!(offset_of!(WireConfig, num_queues) == 34 && offset_of!(WireConfig, write_zeroes_may_unmap) == 56);
};

/// The fields of the configuration that the driver reads, as `(offset, width)`, in bytes.
pub(super) const CONFIG_FIELDS: &[(u8, u8)] = config_fields!(
    WireConfig: capacity,
    size_max,
    seg_max,
    blk_size,
    physical_block_exp,
    alignment_offset,
    opt_io_size,
    writeback,
    num_queues,
    max_discard_sectors,
    max_discard_seg,
    discard_sector_alignment,
    max_write_zeroes_sectors,
    max_write_zeroes_seg,
    write_zeroes_may_unmap,
);

/// The size in bytes of a sector, which is the unit of addresses in requests for every block size.
pub const SECTOR: u32 = 512;
/// The maximum number of bytes of one request, which every back end accepts.
const MAX_BYTES: u32 = 1 << 30;
/// The largest block size that is accepted, in bytes.
const MAX_BLOCK_SIZE: u32 = 1 << 16;

/// Parses the configuration under the negotiated `features`; `None` if a field is out of range.
///
/// `segments` is the maximum number of data segments that the driver supports in one request. The serial number is left empty and
/// the queue depth 0.
///
/// A limit of 0 is no limit, as in Linux: back ends that accept requests of any size report it. A segment limit below the block size
/// cannot be kept; it is taken as one block.
pub fn parse(bytes: &[u8; CONFIG_LEN], features: BlkFeatures, segments: u16) -> Option<BlockInfo> {
    let config: WireConfig = zerocopy::transmute!(*bytes);
    let has = |feature| features.contains(feature);
    let block_size = if has(BlkFeatures::BLK_SIZE) { config.blk_size.get() } else { SECTOR };
    if !block_size.is_power_of_two() || !(SECTOR..=MAX_BLOCK_SIZE).contains(&block_size) {
        return None;
    }
    let sectors_per_block = block_size >> 9;
    let blocks_of = |sectors: u32| sectors >> sectors_per_block.trailing_zeros();
    let (exponent, offset, optimal_blocks) = if has(BlkFeatures::TOPOLOGY) {
        (config.physical_block_exp, config.alignment_offset, config.opt_io_size.get())
    } else {
        (0, 0, 0)
    };
    let physical_block_size =
        block_size.checked_shl(u32::from(exponent)).filter(|size| size >> exponent == block_size)?;
    let or_unlimited = |limit: u32| if limit == 0 { u32::MAX } else { limit };
    let offered = if has(BlkFeatures::SEG_MAX) { or_unlimited(config.seg_max.get()) } else { 1 };
    let max_segments = u16::try_from(offered).unwrap_or(u16::MAX).min(segments.max(1));
    let size_max = if has(BlkFeatures::SIZE_MAX) { or_unlimited(config.size_max.get()) } else { u32::MAX };
    let size_max = size_max.max(block_size);
    let max_bytes =
        size_max.saturating_mul(u32::from(max_segments)).min(MAX_BYTES) & !block_size.wrapping_sub(1);
    // A request of the driver has one range, which every device that offers the feature accepts.
    let limit = |sectors: u32| Some(blocks_of(or_unlimited(sectors))).filter(|blocks| *blocks > 0);
    let discard = if has(BlkFeatures::DISCARD) { limit(config.max_discard_sectors.get()) } else { None };
    let zero =
        if has(BlkFeatures::WRITE_ZEROES) { limit(config.max_write_zeroes_sectors.get()) } else { None };
    let discard_alignment = blocks_of(config.discard_sector_alignment.get()).max(1);
    let unmap = if config.write_zeroes_may_unmap == 0 { Unmap::Keep } else { Unmap::May };
    let writeback = !has(BlkFeatures::CONFIG_WCE) || config.writeback != 0;
    let mut info = BlockInfo::new(capacity(bytes, block_size), block_size);
    info.physical_block_size = physical_block_size;
    info.alignment_offset = u32::from(offset);
    info.optimal_blocks = optimal_blocks;
    info.max_bytes = max_bytes;
    info.max_segments = max_segments;
    info.max_segment_bytes = size_max;
    info.discard = discard.map(|max_blocks| DiscardLimits::new(max_blocks).with_alignment(discard_alignment));
    info.write_zeroes = zero.map(|max_blocks| ZeroLimits::new(max_blocks).with_unmap(unmap));
    info.cache = if has(BlkFeatures::FLUSH) && writeback { Cache::WriteBack } else { Cache::WriteThrough };
    info.access = if has(BlkFeatures::RO) { Access::ReadOnly } else { Access::ReadWrite };
    info.queues = if has(BlkFeatures::MQ) { config.num_queues.get() } else { 1 };
    info.depth = 0;
    Some(info)
}

/// Returns the capacity in whole blocks of `block_size` bytes.
pub fn capacity(bytes: &[u8; CONFIG_LEN], block_size: u32) -> u64 {
    let config: WireConfig = zerocopy::transmute!(*bytes);
    config.capacity.get() >> (block_size >> 9).trailing_zeros()
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
    fn limits_of_zero_are_no_limits() {
        let info = parse(&config(&[(20, &[0, 2])]), BlkFeatures::all(), 14).unwrap();
        assert_eq!((info.max_segments, info.max_segment_bytes, info.max_bytes), (14, u32::MAX, MAX_BYTES));
        assert_eq!(info.discard, Some(DiscardLimits::new(u32::MAX)));
        assert_eq!(info.write_zeroes, Some(ZeroLimits::new(u32::MAX)));
        // A limit that no request can keep becomes one block in a segment.
        let info = parse(&config(&[(8, &[1])]), BlkFeatures::SIZE_MAX, 14).unwrap();
        assert_eq!((info.max_segment_bytes, info.max_bytes), (512, 512));
    }

    #[test]
    fn a_configuration_out_of_range_is_refused() {
        for size in [0u32, 1, 511, 513, 1 << 17, u32::MAX] {
            assert_eq!(parse(&config(&[(20, &size.to_le_bytes())]), BlkFeatures::BLK_SIZE, 14), None);
        }
        assert_eq!(parse(&config(&[(24, &[31])]), BlkFeatures::TOPOLOGY, 14), None);
        assert_eq!(parse(&config(&[(24, &[200])]), BlkFeatures::TOPOLOGY, 14), None);
        assert!(parse(&[0xff; CONFIG_LEN], BlkFeatures::all(), 14).is_none());
    }
}

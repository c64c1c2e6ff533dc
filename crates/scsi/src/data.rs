//! Data that a device reports of itself, parsed: pure, total, fuzzed. SPC-4, SBC-3.

use paravirt_device::Serial;

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_be_bytes(*b))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_be_bytes(*b))
}

fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_be_bytes(*b))
}

/// The peripheral device type of a unit. SPC-4 §6.6.2
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Peripheral {
    /// There is no unit at this LUN.
    None,
    /// A disk.
    Disk,
    /// A CD or DVD.
    Optical,
    /// Another type.
    Other(u8),
}

/// Parses standard INQUIRY data; `None` where they are too short.
pub fn peripheral(bytes: &[u8]) -> Option<Peripheral> {
    let first = *bytes.first()?;
    Some(match (first >> 5, first & 0x1f) {
        (0, 0x00) => Peripheral::Disk,
        (0, 0x05) => Peripheral::Optical,
        (0, other) => Peripheral::Other(other),
        _ => Peripheral::None,
    })
}

/// The body of a page of vital product data: `None` where it is another page or has no body. SPC-4 §7.8.1
pub fn vpd_body(bytes: &[u8], page: u8) -> Option<&[u8]> {
    if bytes.get(1) != Some(&page) {
        return None;
    }
    let len = usize::from(be16(bytes, 2)?);
    let body = bytes.get(4..)?;
    Some(body.get(..len).unwrap_or(body))
}

/// Codes of the vital product data pages that are read.
pub mod page {
    #![allow(missing_docs, reason = "the standard's names")]
    pub const SUPPORTED: u8 = 0x00;
    pub const SERIAL: u8 = 0x80;
    pub const IDENTIFICATION: u8 = 0x83;
    pub const BLOCK_LIMITS: u8 = 0xb0;
    pub const PROVISIONING: u8 = 0xb2;
}

/// The serial number in page 0x80.
pub fn serial(bytes: &[u8]) -> Option<Serial> {
    vpd_body(bytes, page::SERIAL).map(|body| Serial::new(body.trim_ascii_start()))
}

/// The worldwide name of the unit in page 0x83, as bytes: the best designator that there is. SPC-4 §7.8.6
pub fn name(bytes: &[u8]) -> Option<&[u8]> {
    let mut body = vpd_body(bytes, page::IDENTIFICATION)?;
    let mut best: Option<(u8, &[u8])> = None;
    while let Some((head, rest)) = body.split_first_chunk::<4>() {
        let [_, kind, _, len] = *head;
        let Some((designator, rest)) = rest.split_at_checked(usize::from(len)) else { break };
        body = rest;
        // Of the unit itself: NAA, EUI-64, T10, in this order.
        let rank = match (kind >> 4 & 3, kind & 0x0f) {
            (0, 3) => 3,
            (0, 2) => 2,
            (0, 1) => 1,
            _ => continue,
        };
        if best.is_none_or(|(other, _)| rank > other) && !designator.is_empty() {
            best = Some((rank, designator));
        }
    }
    best.map(|(_, designator)| designator)
}

/// Block limits of a unit; 0 where none is reported. SBC-3 §6.6.4
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct BlockLimits {
    /// Upper limit of the blocks of a transfer.
    pub max_transfer: u32,
    /// Blocks of an optimal transfer.
    pub optimal_transfer: u32,
    /// Upper limit of the blocks of an UNMAP.
    pub max_unmap: u32,
    /// Upper limit of the ranges of an UNMAP.
    pub max_unmap_ranges: u32,
    /// Blocks of the optimal unmap granularity.
    pub unmap_granularity: u32,
    /// Upper limit of the blocks of a WRITE SAME.
    pub max_write_same: u64,
}

/// Parses page 0xB0.
pub fn block_limits(bytes: &[u8]) -> Option<BlockLimits> {
    let body = vpd_body(bytes, page::BLOCK_LIMITS)?;
    let word = |at: usize| be32(body, at).unwrap_or(0);
    Some(BlockLimits {
        max_transfer: be32(body, 4)?,
        optimal_transfer: word(8),
        max_unmap: word(16),
        max_unmap_ranges: word(20),
        unmap_granularity: word(24),
        max_write_same: be64(body, 32).unwrap_or(0),
    })
}

/// Logical block provisioning of a unit. SBC-3 §6.6.5
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Provisioning {
    /// It supports UNMAP.
    pub unmaps: bool,
    /// WRITE SAME (16) can unmap.
    pub write_same_unmaps: bool,
}

/// Parses page 0xB2.
pub fn provisioning(bytes: &[u8]) -> Option<Provisioning> {
    let flags = *vpd_body(bytes, page::PROVISIONING)?.get(1)?;
    Some(Provisioning { unmaps: flags & 0x80 != 0, write_same_unmaps: flags & 0x40 != 0 })
}

/// The capacity of a unit.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Capacity {
    /// Blocks.
    pub blocks: u64,
    /// Bytes of a block.
    pub block_size: u32,
    /// Logical blocks of a physical one, as a power of two.
    pub physical_exponent: u8,
    /// The first block that begins a physical one.
    pub lowest_aligned: u16,
    /// Unmapped blocks read as zeroes.
    pub reads_zeroes: bool,
}

/// Parses the answer to READ CAPACITY (16). SBC-3 §5.16.2
pub fn capacity_16(bytes: &[u8]) -> Option<Capacity> {
    let last = be64(bytes, 0)?;
    let provisioning = be16(bytes, 14).unwrap_or(0);
    Some(Capacity {
        blocks: last.checked_add(1)?,
        block_size: be32(bytes, 8)?,
        physical_exponent: bytes.get(13).copied().unwrap_or(0) & 0x0f,
        lowest_aligned: provisioning & 0x3fff,
        reads_zeroes: provisioning & 0x4000 != 0,
    })
}

/// Parses the answer to READ CAPACITY (10); `None` also where the unit is too large for it. SBC-3 §5.15.2
pub fn capacity_10(bytes: &[u8]) -> Option<Capacity> {
    let last = be32(bytes, 0).filter(|last| *last != u32::MAX)?;
    Some(Capacity {
        blocks: u64::from(last).checked_add(1)?,
        block_size: be32(bytes, 4)?,
        physical_exponent: 0,
        lowest_aligned: 0,
        reads_zeroes: false,
    })
}

/// What MODE SENSE (6) reports. SPC-4 §7.5, SBC-3 §6.5.5
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Mode {
    /// It cannot be written.
    pub is_protected: bool,
    /// It supports FUA (DPOFUA).
    pub has_fua: bool,
    /// Its write cache is enabled; `None` where it does not report that.
    pub has_cache: Option<bool>,
}

/// The code of the caching mode page.
pub const CACHING_PAGE: u8 = 0x08;

/// Parses the answer to MODE SENSE (6) of the caching page or of all.
pub fn mode(bytes: &[u8]) -> Option<Mode> {
    let [len, _, specific, descriptors, ..] = *bytes else { return None };
    let end = usize::from(len).saturating_add(1).min(bytes.len());
    let mut pages =
        bytes.get(..end).and_then(|all| all.get(4usize.saturating_add(usize::from(descriptors))..));
    let mut has_cache = None;
    while let Some([code, len, ..]) = pages {
        let body = pages.and_then(|pages| pages.get(2..)).unwrap_or_default();
        if code & 0x3f == CACHING_PAGE {
            has_cache = body.first().map(|flags| flags & 4 != 0);
            break;
        }
        pages = body.get(usize::from(*len)..);
    }
    Some(Mode { is_protected: specific & 0x80 != 0, has_fua: specific & 0x10 != 0, has_cache })
}

/// The LUNs in the data of REPORT LUNS that use peripheral or flat addressing, below 16384. SPC-4 §6.33, SAM-5 §4.7
pub fn luns(bytes: &[u8]) -> impl Iterator<Item = u16> + '_ {
    let len = be32(bytes, 0).and_then(|len| usize::try_from(len).ok()).unwrap_or(0);
    let list = bytes.get(8..).unwrap_or_default();
    let list = list.get(..len).unwrap_or(list);
    list.chunks_exact(8).filter_map(|entry| {
        let [first, second, rest @ ..] = *entry.first_chunk::<8>()?;
        let is_simple = rest == [0; 6];
        match first >> 6 {
            0 if is_simple && first == 0 => Some(u16::from(second)),
            1 if is_simple => Some(u16::from(first & 0x3f) << 8 | u16::from(second)),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{string::ToString, vec::Vec};

    #[test]
    fn inquiry_reports_the_peripheral_type() {
        assert_eq!(peripheral(&[0]), Some(Peripheral::Disk));
        assert_eq!(peripheral(&[5]), Some(Peripheral::Optical));
        assert_eq!(peripheral(&[0x7f]), Some(Peripheral::None));
        assert_eq!(peripheral(&[]), None);
    }

    #[test]
    fn a_page_is_cut_at_its_length_field_and_at_its_end() {
        assert_eq!(vpd_body(&[0, 0x80, 0, 2, 7, 8, 9], 0x80), Some(&[7, 8][..]));
        assert_eq!(vpd_body(&[0, 0x80, 0, 9, 7, 8, 9], 0x80), Some(&[7, 8, 9][..]));
        assert_eq!(vpd_body(&[0, 0x81, 0, 2, 7, 8], 0x80), None);
        assert_eq!(serial(b"\0\x80\0\x06  abc ").map(|serial| serial.to_string()), Some("abc".into()));
    }

    #[test]
    fn the_best_designator_is_the_name() {
        let page = [0, 0x83, 0, 18, 2, 1, 0, 3, b'a', b'b', b'c', 1, 3, 0, 2, 0x60, 2, 1, 0x15, 0, 0xff];
        assert_eq!(name(&page), Some(&[0x60, 2][..]));
        // A designator that is longer than the page.
        assert_eq!(name(&[0, 0x83, 0, 5, 1, 3, 0, 9, 1]), None);
    }

    #[test]
    fn block_limits_and_provisioning_are_parsed() {
        let mut page = [0u8; 64];
        (page[1], page[3], page[11], page[23], page[27], page[31], page[43]) = (0xb0, 60, 9, 7, 6, 5, 4);
        let limits = block_limits(&page).unwrap();
        assert_eq!((limits.max_transfer, limits.max_unmap, limits.max_unmap_ranges), (9, 7, 6));
        assert_eq!((limits.unmap_granularity, limits.max_write_same), (5, 4));
        let thin = provisioning(&[0, 0xb2, 0, 4, 0, 0xc0, 2, 0]).unwrap();
        assert!(thin.unmaps && thin.write_same_unmaps);
    }

    #[test]
    fn a_capacity_that_overflows_is_refused() {
        let mut bytes = [0u8; 32];
        (bytes[7], bytes[10], bytes[13], bytes[14]) = (99, 2, 3, 0xc0);
        let capacity = capacity_16(&bytes).unwrap();
        assert_eq!((capacity.blocks, capacity.block_size, capacity.physical_exponent), (100, 512, 3));
        assert!(capacity.reads_zeroes);
        assert_eq!(capacity_16(&[0xff; 32]), None);
        assert_eq!(
            capacity_10(&[0, 0, 0, 9, 0, 0, 8, 0]).map(|c| (c.blocks, c.block_size)),
            Some((10, 2048))
        );
        assert_eq!(capacity_10(&[0xff; 8]), None);
    }

    #[test]
    fn mode_pages_and_luns_are_parsed() {
        let page = [23, 0, 0x90, 0, 0x08, 0x12, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(mode(&page), Some(Mode { is_protected: true, has_fua: true, has_cache: Some(true) }));
        assert_eq!(mode(&page[..4]).unwrap().has_cache, None);
        assert_eq!(mode(&[0, 0]), None);
        let list = [
            0, 0, 0, 24, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0x41, 0, 0, 0, 0, 0, 0, 0, 0xc1, 1, 0, 0, 0, 0,
            0, 0,
        ];
        assert_eq!(luns(&list).collect::<Vec<_>>(), [3, 256]);
        assert_eq!(luns(&list[..18]).count(), 1);
    }
}

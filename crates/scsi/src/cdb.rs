//! Commands (CDBs). SPC-4, SBC-3.

/// Bytes of the field for a command descriptor block.
pub const CDB_LEN: usize = 16;

mod opcode {
    pub const TEST_UNIT_READY: u8 = 0x00;
    pub const INQUIRY: u8 = 0x12;
    pub const MODE_SENSE_6: u8 = 0x1a;
    pub const READ_CAPACITY_10: u8 = 0x25;
    pub const READ_10: u8 = 0x28;
    pub const WRITE_10: u8 = 0x2a;
    pub const SYNCHRONIZE_CACHE_10: u8 = 0x35;
    pub const UNMAP: u8 = 0x42;
    pub const READ_16: u8 = 0x88;
    pub const WRITE_16: u8 = 0x8a;
    pub const WRITE_SAME_16: u8 = 0x93;
    pub const SERVICE_ACTION_IN_16: u8 = 0x9e;
    pub const REPORT_LUNS: u8 = 0xa0;
}

/// SBC-3 §5.16
const READ_CAPACITY_16: u8 = 0x10;
const EVPD: u8 = 1;
/// Force unit access: SBC-3 §5.32
const FUA: u8 = 1 << 3;
/// The unmap bit of WRITE SAME: SBC-3 §5.41
const WRITE_SAME_UNMAP: u8 = 1 << 3;

/// A command descriptor block.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Cdb {
    bytes: [u8; CDB_LEN],
    len: u8,
}

/// Command bytes: opcode and its second byte, a block number of 64 bits, a count of 32 bits.
const fn long(opcode: u8, second: u8, lba: u64, count: u32) -> Cdb {
    // As one number, whose bytes are swapped at once.
    let head = (opcode as u128) << 120 | (second as u128) << 112;
    Cdb { bytes: (head | (lba as u128) << 48 | (count as u128) << 16).to_be_bytes(), len: 16 }
}

const fn six(opcode: u8, second: u8, third: u8, len: u16) -> Cdb {
    let [high, low] = len.to_be_bytes();
    Cdb { bytes: [opcode, second, third, high, low, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], len: 6 }
}

const fn ten(opcode: u8) -> Cdb {
    Cdb { bytes: [opcode, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], len: 10 }
}

impl Cdb {
    /// The whole field of 16 bytes, with zeroes behind the command.
    pub const fn bytes(&self) -> &[u8; CDB_LEN] {
        &self.bytes
    }

    /// The same field as two words in little-endian order.
    #[inline(always)]
    pub const fn words(&self) -> [u64; 2] {
        let field = u128::from_le_bytes(self.bytes);
        [field as u64, (field >> 64) as u64]
    }

    /// Bytes of the command: 6, 10, 12 or 16.
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub const fn len(&self) -> u8 {
        self.len
    }

    /// READ (16): SBC-3 §5.11
    pub const fn read(lba: u64, blocks: u32) -> Self {
        long(opcode::READ_16, 0, lba, blocks)
    }

    /// READ (16), or WRITE (16), durable when it is done where `fua`: one command of either kind. SBC-3 §5.11, §5.32
    #[inline(always)]
    pub(crate) const fn transfer(is_write: bool, lba: u64, blocks: u32, fua: bool) -> Self {
        let opcode = if is_write { opcode::WRITE_16 } else { opcode::READ_16 };
        long(opcode, if fua { FUA } else { 0 }, lba, blocks)
    }

    /// READ (10), for devices without READ (16). SBC-3 §5.9
    pub const fn read_10(lba: u32, blocks: u16) -> Self {
        let [a, b, c, d] = lba.to_be_bytes();
        let [e, f] = blocks.to_be_bytes();
        Self { bytes: [opcode::READ_10, 0, a, b, c, d, 0, e, f, 0, 0, 0, 0, 0, 0, 0], len: 10 }
    }

    /// The same read or write, as a unit knows it that has the commands of 10 bytes only if `is_short`.
    #[inline(always)]
    pub(crate) fn known_to(self, is_short: bool) -> Self {
        if is_short { self.shortened().unwrap_or(self) } else { self }
    }

    /// The same read or write of 10 bytes, for units without the commands of 16: `None` where it is another command, or does not fit.
    /// SBC-3 §5.9, §5.30
    #[cold]
    pub(crate) fn shortened(&self) -> Option<Self> {
        let [opcode, second, lba @ .., _, _, _, _, _, _] = self.bytes;
        let [.., a, b, c, d, _, _] = self.bytes;
        let opcode = match opcode {
            opcode::READ_16 => opcode::READ_10,
            opcode::WRITE_16 => opcode::WRITE_10,
            _ => return None,
        };
        let lba = u32::try_from(u64::from_be_bytes(lba)).ok()?.to_be_bytes();
        let [e, f] = u16::try_from(u32::from_be_bytes([a, b, c, d])).ok()?.to_be_bytes();
        let [a, b, c, d] = lba;
        Some(Self { bytes: [opcode, second, a, b, c, d, 0, e, f, 0, 0, 0, 0, 0, 0, 0], len: 10 })
    }

    /// WRITE (16), durable when it is done where `fua`. SBC-3 §5.32
    pub const fn write(lba: u64, blocks: u32, fua: bool) -> Self {
        long(opcode::WRITE_16, if fua { FUA } else { 0 }, lba, blocks)
    }

    /// SYNCHRONIZE CACHE (10) of the whole medium. SBC-3 §5.22
    pub const fn synchronize_cache() -> Self {
        ten(opcode::SYNCHRONIZE_CACHE_10)
    }

    /// WRITE SAME (16) of one block of data. SBC-3 §5.41
    pub const fn write_same(lba: u64, blocks: u32, unmap: bool) -> Self {
        long(opcode::WRITE_SAME_16, if unmap { WRITE_SAME_UNMAP } else { 0 }, lba, blocks)
    }

    /// UNMAP with a list of one range. SBC-3 §5.28
    pub const fn unmap() -> Self {
        let len = UNMAP_LIST_LEN as u8;
        Self { bytes: [opcode::UNMAP, 0, 0, 0, 0, 0, 0, 0, len, 0, 0, 0, 0, 0, 0, 0], len: 10 }
    }

    /// INQUIRY for up to `len` bytes. SPC-4 §6.6
    pub const fn inquiry(len: u16) -> Self {
        six(opcode::INQUIRY, 0, 0, len)
    }

    /// INQUIRY for page `page` of vital product data. SPC-4 §7.8
    pub const fn vpd(page: u8, len: u16) -> Self {
        six(opcode::INQUIRY, EVPD, page, len)
    }

    /// READ CAPACITY (10): SBC-3 §5.15
    pub const fn read_capacity_10() -> Self {
        ten(opcode::READ_CAPACITY_10)
    }

    /// READ CAPACITY (16) for up to `len` bytes. SBC-3 §5.16
    pub const fn read_capacity_16(len: u32) -> Self {
        long(opcode::SERVICE_ACTION_IN_16, READ_CAPACITY_16, 0, len)
    }

    /// MODE SENSE (6) of page `page` for up to `len` bytes. SPC-4 §6.11
    pub const fn mode_sense(page: u8, len: u8) -> Self {
        six(opcode::MODE_SENSE_6, 0, page, len as u16)
    }

    /// REPORT LUNS for up to `len` bytes. SPC-4 §6.33
    pub const fn report_luns(len: u32) -> Self {
        let [a, b, c, d] = len.to_be_bytes();
        Self { bytes: [opcode::REPORT_LUNS, 0, 0, 0, 0, 0, a, b, c, d, 0, 0, 0, 0, 0, 0], len: 12 }
    }

    /// TEST UNIT READY: SPC-4 §6.47
    pub const fn test_unit_ready() -> Self {
        six(opcode::TEST_UNIT_READY, 0, 0, 0)
    }
}

/// Bytes of a list of one range to unmap.
pub const UNMAP_LIST_LEN: usize = 24;

/// The parameter list of an UNMAP of one range, as three words in memory. SBC-3 §5.28
pub const fn unmap_list(lba: u64, blocks: u32) -> [u64; UNMAP_LIST_LEN / 8] {
    const HEAD: [u8; 8] = [0, UNMAP_LIST_LEN as u8 - 2, 0, 16, 0, 0, 0, 0];
    let [a, b, c, d] = blocks.to_be_bytes();
    [u64::from_ne_bytes(HEAD), lba.to_be(), u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0])]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{vec, vec::Vec};

    #[test]
    fn commands_are_as_the_standard_has_them() {
        let read = Cdb::read(0x0102_0304_0506_0708, 0x090a_0b0c);
        assert_eq!(read.bytes(), &[0x88, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 0]);
        assert_eq!((Cdb::write(0, 1, true).bytes()[1], Cdb::write(0, 1, false).bytes()[1]), (8, 0));
        assert_eq!(Cdb::write_same(0, 1, true).bytes()[..2], [0x93, 8]);
        assert_eq!((Cdb::unmap().bytes()[7..9].to_vec(), Cdb::unmap().len()), (vec![0, 24], 10));
        assert_eq!(Cdb::read_10(0x0102_0304, 5).bytes()[..9], [0x28, 0, 1, 2, 3, 4, 0, 0, 5]);
        assert_eq!(Cdb::vpd(0x83, 255).bytes()[..5], [0x12, 1, 0x83, 0, 255]);
        assert_eq!(Cdb::report_luns(520).bytes()[..10], [0xa0, 0, 0, 0, 0, 0, 0, 0, 2, 8]);
        assert_eq!(Cdb::read_capacity_16(32).bytes()[..2], [0x9e, 0x10]);
        let list: Vec<u8> = unmap_list(7, 9).iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(list, [0, 22, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 9, 0, 0, 0, 0]);
    }
}

//! Command blocks of reads and writes. SBC-3 §5.11, §5.32

use crate::Cdb;
use crate::command::BuildCdb;
use crate::limits::DiskLimits;
use paravirt_device::Rejected;
use paravirt_platform::{Direction, Segment};

/// A read or a write, until its segments are known.
#[derive(Copy, Clone)]
pub(crate) struct Transfer<'a> {
    pub limits: &'a DiskLimits,
    /// The unit has the commands of 10 bytes only.
    pub is_short: bool,
    pub blocks: u64,
    pub lba: u64,
    pub direction: Direction,
    pub is_fua: bool,
}

impl BuildCdb for Transfer<'_> {
    fn build(self, segments: &[Segment], cdb: &mut Cdb) -> Result<u32, Rejected> {
        let (count, len) = self.limits.check(self.lba, segments, self.blocks)?;
        *cdb = if self.limits.is_optical {
            optical_read(self.lba, count, self.direction)?
        } else {
            let is_write = self.direction == Direction::ToDevice;
            Cdb::transfer(is_write, self.lba, count, self.is_fua).known_to(self.is_short)
        };
        Ok(len)
    }
}

/// The command that reads an optical medium: READ (10), the longest that such drives have to know. MMC-6 §6.19
#[cold]
fn optical_read(lba: u64, count: u32, direction: Direction) -> Result<Cdb, Rejected> {
    match (u32::try_from(lba), u16::try_from(count), direction) {
        (Ok(lba), Ok(count), Direction::FromDevice) => Ok(Cdb::read_10(lba, count)),
        (_, _, Direction::ToDevice) => Err(Rejected::ReadOnly),
        _ => Err(Rejected::Range),
    }
}

//! A SCSI logical unit backed by memory or a file.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// The storage of the blocks.
enum Store {
    Memory(Vec<u8>),
    File(File, u64),
}

/// The result of a command.
pub(crate) enum Answer {
    /// Success, with data for the guest.
    Data(Vec<u8>),
    /// Success, with the transferred length to report.
    Done(u32),
    /// CHECK CONDITION with sense data.
    Sense([u8; 18]),
}

/// Returns fixed-format sense data.
pub(crate) fn sense(key: u8, code: u8, qualifier: u8) -> [u8; 18] {
    let mut bytes = [0; 18];
    (bytes[0], bytes[2], bytes[7], bytes[12], bytes[13]) = (0x70, key, 10, code, qualifier);
    bytes
}

const INVALID_OPCODE: [u8; 3] = [5, 0x20, 0];
const OUT_OF_RANGE: [u8; 3] = [5, 0x21, 0];
const INVALID_FIELD: [u8; 3] = [5, 0x24, 0];
const PROTECTED: [u8; 3] = [7, 0x27, 0];
const WRITE_FAULT: [u8; 3] = [3, 0x03, 0];

/// Maximum number of blocks of a WRITE SAME.
const MAX_WRITE_SAME_BLOCKS: u32 = 0x4000;
/// Bytes written at once when a large range is filled.
const PIECE: usize = 64 << 10;

/// A SCSI unit: a disk, or a drive of optical media.
pub struct StorDrive {
    store: Store,
    block_size: u32,
    /// Whether the unit is an optical drive.
    pub is_optical: bool,
    /// Whether the unit is write-protected.
    pub is_read_only: bool,
    /// Whether FUA is unsupported.
    pub lacks_fua: bool,
    /// Whether the unit reports no write cache.
    pub lacks_cache: bool,
    /// Whether UNMAP and its VPD pages are unsupported.
    pub lacks_unmap: bool,
    /// Whether reads and writes of 16 bytes are unsupported.
    pub lacks_long: bool,
    /// Whether WRITE SAME is unsupported.
    pub lacks_write_same: bool,
    /// The NAA identifier (world wide name).
    pub name: [u8; 16],
    /// The serial number; empty for none.
    pub serial: String,
    /// Sense key, code and qualifier with which the next commands other than INQUIRY fail, one each.
    pub attentions: VecDeque<[u8; 3]>,
}

impl StorDrive {
    fn new(store: Store, block_size: u32) -> Self {
        Self {
            store,
            block_size,
            is_optical: false,
            is_read_only: false,
            lacks_fua: false,
            lacks_cache: false,
            lacks_unmap: false,
            lacks_long: false,
            lacks_write_same: false,
            name: *b"\x60\x02\x24\x80paravirt-01!",
            serial: String::new(),
            attentions: VecDeque::new(),
        }
    }

    /// Creates a disk in memory with blocks of `block_size` bytes.
    pub fn memory(block_size: u32, bytes: Vec<u8>) -> Self {
        Self::new(Store::Memory(bytes), block_size)
    }

    /// Creates a disk backed by a file, with blocks of `block_size` bytes.
    ///
    /// # Errors
    ///
    /// The length of the file cannot be read.
    pub fn file(block_size: u32, file: File) -> std::io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self::new(Store::File(file, len), block_size))
    }

    /// Creates an optical drive with this medium.
    pub fn optical(medium: Vec<u8>) -> Self {
        Self { is_optical: true, is_read_only: true, ..Self::memory(2048, medium) }
    }

    fn blocks(&self) -> u64 {
        let len = match &self.store {
            Store::Memory(bytes) => bytes.len() as u64,
            Store::File(_, len) => *len,
        };
        len / u64::from(self.block_size)
    }

    /// Reads `len` bytes at byte offset `at`; `None` if they are out of range or cannot be read.
    pub fn read(&self, at: u64, len: usize) -> Option<Vec<u8>> {
        match &self.store {
            Store::Memory(bytes) => Some(bytes.get(at as usize..)?.get(..len)?.to_vec()),
            Store::File(file, _) => {
                let mut bytes = vec![0; len];
                file.read_exact_at(&mut bytes, at).ok()?;
                Some(bytes)
            }
        }
    }

    fn write(&mut self, at: u64, from: &[u8]) -> Option<()> {
        match &mut self.store {
            Store::Memory(bytes) => {
                bytes.get_mut(at as usize..)?.get_mut(..from.len())?.copy_from_slice(from)
            }
            Store::File(file, _) => file.write_all_at(from, at).ok()?,
        }
        Some(())
    }

    /// Writes the same block `count` times.
    fn fill(&mut self, lba: u64, count: u32, block: &[u8]) -> Result<(), [u8; 3]> {
        let most = (PIECE / block.len()).clamp(1, count.max(1) as usize);
        let bytes = block.repeat(most);
        let (mut at, mut left) = (lba * block.len() as u64, count as usize);
        while left > 0 {
            let len = left.min(most) * block.len();
            self.write(at, &bytes[..len]).ok_or(WRITE_FAULT)?;
            (at, left) = (at + len as u64, left - left.min(most));
        }
        Ok(())
    }

    /// Unmaps `count` blocks, whose content is undefined afterwards. In memory they are filled with a pattern, so that tests notice. In a
    /// file they are zeroed, unless they are zero already, so that a sparse file stays sparse.
    fn unmap(&mut self, lba: u64, count: u32) -> Result<(), [u8; 3]> {
        let size = self.block_size as usize;
        if let Store::Memory(_) = self.store {
            return self.fill(lba, count, &vec![0xdd; size]);
        }
        let step = (PIECE / size).max(1);
        for from in (0..count).step_by(step) {
            let blocks = (step as u32).min(count - from);
            let at = lba + u64::from(from);
            let bytes = self.read(at * size as u64, blocks as usize * size).ok_or(WRITE_FAULT)?;
            if bytes.iter().any(|byte| *byte != 0) {
                self.fill(at, blocks, &vec![0; size])?;
            }
        }
        Ok(())
    }

    /// Changes the size of a disk in memory; the next command reports a unit attention.
    pub fn resize(&mut self, blocks: u64) {
        if let Store::Memory(bytes) = &mut self.store {
            bytes.resize((blocks * u64::from(self.block_size)) as usize, 0);
        }
        self.attentions.push_back([6, 0x2a, 0x09]);
    }

    /// Executes a command. `data` is the guest's data, and `room` the length of its receive buffer in bytes.
    pub(crate) fn run(&mut self, cdb: &[u8], data: &[u8], room: usize) -> Answer {
        self.try_run(cdb, data, room)
            .unwrap_or_else(|[key, code, qualifier]| Answer::Sense(sense(key, code, qualifier)))
    }

    fn try_run(&mut self, cdb: &[u8], data: &[u8], room: usize) -> Result<Answer, [u8; 3]> {
        let opcode = cdb[0];
        if opcode != 0x12 {
            if let Some(attention) = self.attentions.pop_front() {
                return Err(attention);
            }
        }
        let size = self.block_size as usize;
        let long = |at: usize| u64::from_be_bytes(cdb[at..at + 8].try_into().expect("eight bytes"));
        let word = |at: usize| u32::from_be_bytes(cdb[at..at + 4].try_into().expect("four bytes"));
        let half = |at: usize| u16::from_be_bytes(cdb[at..at + 2].try_into().expect("two bytes"));
        // The fields of reads and writes.
        let range = match opcode {
            0x28 | 0x2a => (u64::from(word(2)), u32::from(half(7))),
            _ => (long(2), word(10)),
        };
        Ok(match opcode {
            0x00 => Answer::Done(0),
            0x12 => {
                let allocation = usize::from(half(3));
                if room < allocation {
                    return Err(INVALID_FIELD);
                }
                let mut bytes = if cdb[1] & 1 == 0 { self.inquiry() } else { self.page(cdb[2])? };
                bytes.truncate(allocation);
                Answer::Data(bytes)
            }
            0x1a | 0x5a => {
                let specific = u8::from(self.is_read_only) << 7 | u8::from(!self.lacks_fua) << 4;
                let caching = [&[0x08, 18, u8::from(!self.lacks_cache) << 2][..], &[0; 17]].concat();
                let pages = match cdb[2] & 0x3f {
                    0x08 | 0x3f => caching,
                    _ => return Err(INVALID_FIELD),
                };
                let (mut bytes, most) = match opcode {
                    0x1a => (vec![pages.len() as u8 + 3, 0, specific, 0], usize::from(cdb[4])),
                    _ => (vec![0, pages.len() as u8 + 6, 0, specific, 0, 0, 0, 0], usize::from(half(7))),
                };
                bytes.extend(pages);
                bytes.truncate(most);
                Answer::Data(bytes)
            }
            0x25 => {
                let last = u32::try_from(self.blocks().wrapping_sub(1)).unwrap_or(u32::MAX);
                Answer::Data([last.to_be_bytes(), self.block_size.to_be_bytes()].concat())
            }
            0x9e if cdb[1] == 0x10 && !self.is_optical => {
                let mut bytes = self.blocks().wrapping_sub(1).to_be_bytes().to_vec();
                bytes.extend(self.block_size.to_be_bytes());
                bytes.extend([0, if size == 512 { 3 } else { 0 }, u8::from(!self.lacks_unmap) << 7, 0]);
                bytes.resize(32, 0);
                Answer::Data(bytes)
            }
            0x88 | 0x8a if self.lacks_long => return Err(INVALID_OPCODE),
            0x28 | 0x88 => {
                let (lba, count) = range;
                self.check(lba, count)?;
                let len = count as usize * size;
                if room < len {
                    return Err(OUT_OF_RANGE);
                }
                Answer::Data(self.read(lba * size as u64, len).ok_or(OUT_OF_RANGE)?)
            }
            0x2a | 0x8a if !self.is_optical => {
                self.check_writable()?;
                let (lba, count) = range;
                self.check(lba, count)?;
                let len = count as usize * size;
                let data = data.get(..len).ok_or(OUT_OF_RANGE)?;
                self.write(lba * size as u64, data).ok_or(WRITE_FAULT)?;
                Answer::Done(len as u32)
            }
            0x35 | 0x91 => {
                if let Store::File(file, _) = &self.store {
                    file.sync_data().map_err(|_| WRITE_FAULT)?;
                }
                Answer::Done(0)
            }
            0x42 if !self.lacks_unmap => {
                self.check_writable()?;
                for range in data.get(8..).unwrap_or_default().chunks_exact(16) {
                    let lba = u64::from_be_bytes(range[..8].try_into().expect("eight bytes"));
                    let count = u32::from_be_bytes(range[8..12].try_into().expect("four bytes"));
                    self.check(lba, count)?;
                    self.unmap(lba, count)?;
                }
                // As on some hosts.
                Answer::Done(0)
            }
            0x93 if !self.lacks_write_same && !self.is_optical => {
                self.check_writable()?;
                let (lba, count) = (long(2), word(10));
                if count > MAX_WRITE_SAME_BLOCKS {
                    return Err(INVALID_FIELD);
                }
                self.check(lba, count)?;
                let block = data.get(..size).ok_or(INVALID_FIELD)?;
                self.fill(lba, count, block)?;
                // As on some hosts.
                Answer::Done(count.saturating_mul(self.block_size))
            }
            _ => return Err(INVALID_OPCODE),
        })
    }

    fn check(&self, lba: u64, count: u32) -> Result<(), [u8; 3]> {
        let is_inside = lba.checked_add(u64::from(count)).is_some_and(|end| end <= self.blocks());
        if is_inside { Ok(()) } else { Err(OUT_OF_RANGE) }
    }

    fn check_writable(&self) -> Result<(), [u8; 3]> {
        if self.is_read_only { Err(PROTECTED) } else { Ok(()) }
    }

    fn inquiry(&self) -> Vec<u8> {
        let mut bytes = vec![if self.is_optical { 5 } else { 0 }, 0, 5, 2, 31, 0, 0, 2];
        bytes.extend(b"Msft    Virtual Disk    1.0 ");
        bytes
    }

    /// Returns a page of vital product data.
    fn page(&self, page: u8) -> Result<Vec<u8>, [u8; 3]> {
        let body = match page {
            0x00 => {
                let mut pages = vec![0x00, 0x83];
                if !self.serial.is_empty() {
                    pages.insert(1, 0x80);
                }
                if !self.lacks_unmap {
                    pages.extend([0xb0, 0xb2]);
                }
                pages
            }
            0x80 if !self.serial.is_empty() => self.serial.as_bytes().to_vec(),
            0x83 => [&[1, 3, 0, 16][..], &self.name].concat(),
            0xb0 if !self.lacks_unmap => {
                let mut body = vec![0; 60];
                body[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
                body[20..24].copy_from_slice(&4096u32.to_be_bytes());
                body[24..28].copy_from_slice(&1u32.to_be_bytes());
                if !self.lacks_write_same {
                    body[32..40].copy_from_slice(&u64::from(MAX_WRITE_SAME_BLOCKS).to_be_bytes());
                }
                body
            }
            0xb2 if !self.lacks_unmap => vec![0, 0xc0, 2, 0],
            _ => return Err(INVALID_FIELD),
        };
        let kind = if self.is_optical { 5 } else { 0 };
        Ok([&[kind, page, 0, body.len() as u8][..], &body].concat())
    }
}

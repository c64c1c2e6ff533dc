//! Requests and responses. Xen `xen/include/public/io/blkif.h`

use core::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a sector, the unit of addresses whatever the size of a block.
pub const SECTOR: u64 = 512;
pub const SECTOR_SHIFT: u32 = SECTOR.trailing_zeros();
/// Segments that fit in a request.
pub const DIRECT_SEGMENTS: u16 = 11;
/// Segments that a page of segments holds.
pub const PAGE_SEGMENTS: usize = 512;

/// An entry of the ring, of 112 bytes: a request, or a response in its first two words.
pub type Entry = [AtomicU64; 14];

/// Operations.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum Operation {
    Read = 0,
    Write = 1,
    Flush = 3,
    Discard = 5,
}

/// A request whose segments are in pages of their own.
const INDIRECT: u64 = 6;

/// The outcome that a response tells.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Status {
    Done,
    Error,
    Unsupported,
}

/// A part of a page: the grant, and the first and last sector.
#[inline(always)]
pub fn segment(grant: u32, first: u8, last: u8) -> u64 {
    u64::from(grant) | u64::from(first) << 32 | u64::from(last) << 40
}

/// Writes the head of a request with `segments` segments in it.
#[inline(always)]
pub fn write_direct(entry: &Entry, operation: Operation, segments: u16, handle: u16, id: u64, sector: u64) {
    let [head, tag, at, ..] = entry;
    let word = operation as u64 | u64::from(segments) << 8 | u64::from(handle) << 16;
    head.store(word, Ordering::Relaxed);
    tag.store(id, Ordering::Relaxed);
    at.store(sector, Ordering::Relaxed);
}

/// The place of segment `index` in a request.
#[inline(always)]
pub fn direct_segment(entry: &Entry, index: u16) -> Option<&AtomicU64> {
    entry.get(usize::from(index).checked_add(3)?)
}

/// Writes a request whose `segments` segments are in the page with the grant `page`.
pub fn write_indirect(
    entry: &Entry,
    operation: Operation,
    segments: u16,
    handle: u16,
    id: u64,
    sector: u64,
    page: u32,
) {
    let [head, tag, at, handle_and_page, rest, ..] = entry;
    head.store(INDIRECT | (operation as u64) << 8 | u64::from(segments) << 16, Ordering::Relaxed);
    tag.store(id, Ordering::Relaxed);
    at.store(sector, Ordering::Relaxed);
    handle_and_page.store(u64::from(handle) | u64::from(page) << 32, Ordering::Relaxed);
    rest.store(0, Ordering::Relaxed);
}

/// Writes a request to discard `sectors` sectors.
pub fn write_discard(entry: &Entry, handle: u16, id: u64, sector: u64, sectors: u64) {
    let [head, tag, at, count, ..] = entry;
    head.store(Operation::Discard as u64 | u64::from(handle) << 16, Ordering::Relaxed);
    tag.store(id, Ordering::Relaxed);
    at.store(sector, Ordering::Relaxed);
    count.store(sectors, Ordering::Relaxed);
}

/// A response: what it answers, and its outcome. It is read once.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Response {
    /// The number of the request.
    pub id: u64,
    /// 0 for success, -1 for an error, -2 for an operation that is not supported.
    pub status: i16,
}

impl Response {
    #[inline(always)]
    pub fn read(entry: &Entry) -> Self {
        let [id, outcome, ..] = entry;
        let outcome = outcome.load(Ordering::Relaxed);
        Self { id: id.load(Ordering::Relaxed), status: (outcome >> 16) as i16 }
    }

    #[inline(always)]
    pub fn status(self) -> Status {
        match self.status {
            0 => Status::Done,
            -2 => Status::Unsupported,
            _ => Status::Error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_laid_out_as_the_interface_has_them() {
        let entry: Entry = [const { AtomicU64::new(u64::MAX) }; 14];
        write_direct(&entry, Operation::Write, 2, 51712, 7, 0x1234);
        let words = entry.each_ref().map(|word| word.load(Ordering::Relaxed));
        assert_eq!(words[..3], [0xca00_0201, 7, 0x1234]);
        assert_eq!(segment(0x11, 3, 7), 0x0703_0000_0011);
        write_indirect(&entry, Operation::Read, 32, 51712, 8, 1, 0x99);
        let words = entry.each_ref().map(|word| word.load(Ordering::Relaxed));
        assert_eq!(words[..5], [0x0020_0006, 8, 1, 0x0000_0099_0000_ca00, 0]);
        write_discard(&entry, 1, 9, 2, 64);
        let words = entry.each_ref().map(|word| word.load(Ordering::Relaxed));
        assert_eq!(words[..4], [0x1_0005, 9, 2, 64]);
        entry[0].store(9, Ordering::Relaxed);
        entry[1].store(0xfffe_0003, Ordering::Relaxed);
        assert_eq!(Response::read(&entry), Response { id: 9, status: -2 });
        assert_eq!(Response::read(&entry).status(), Status::Unsupported);
    }
}

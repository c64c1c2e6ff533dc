//! The format of packets, and their parsers.
//!
//! Source: `vmbus_ring` of OpenVMM (MIT) and `vmbus_brvar.h` of FreeBSD (BSD); the structures are from `hyperv-bindings`.

use hyperv_bindings::ring::{
    RingFooter, RingGpaDirect, RingGpaRange, RingPacketDescriptor, RingPacketFlags, RingPacketType,
    RingTransferPageRange, RingTransferPages,
};
use zerocopy::FromBytes;

/// The kind of a packet.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub struct Kind(pub u16);

impl Kind {
    /// Payload in the ring.
    pub const IN_BAND: Self = Self(RingPacketType::IN_BAND.0);
    /// Payload in the ring, and ranges of a buffer that both sides know ([`Packet::transfer_ranges`]).
    pub const TRANSFER_PAGES: Self = Self(RingPacketType::TRANSFER_PAGES.0);
    /// Payload in the ring, and ranges of guest memory ([`Packet::gpa_ranges`]).
    pub const GPA_DIRECT: Self = Self(RingPacketType::GPA_DIRECT.0);
    /// The completion of a packet that requested one, with its transaction id.
    pub const COMPLETION: Self = Self(RingPacketType::COMPLETION.0);
}

/// Flag: the sender requests a completion.
pub(crate) const COMPLETION_REQUESTED: u16 = RingPacketFlags::COMPLETION_REQUESTED.bits();
/// The lengths in bytes of the descriptor and of the footer.
pub(crate) const DESCRIPTOR_LEN: u32 = size_of::<RingPacketDescriptor>() as u32;
pub(crate) const FOOTER_LEN: u32 = size_of::<RingFooter>() as u32;
/// The length of the descriptor in units of 8 bytes.
pub(crate) const DESCRIPTOR8: u16 = (DESCRIPTOR_LEN / 8) as u16;

/// A packet that was copied out of the ring, with checked lengths. Its contents are not checked.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Packet<'a> {
    /// The kind. The caller refuses kinds that it does not support.
    pub kind: Kind,
    /// Whether the other side requests a completion.
    pub wants_completion: bool,
    /// The transaction id, which a completion copies from its request. It comes from the other side and is not checked.
    pub transaction: u64,
    /// The header, between descriptor and payload.
    pub header: &'a [u8],
    /// The payload, with up to 7 bytes of padding.
    pub payload: &'a [u8],
}

/// The first word of a packet's descriptor, checked.
#[derive(Copy, Clone)]
pub(crate) struct Lengths {
    pub kind: Kind,
    pub flags: u16,
    /// The length of the header in bytes, and that of descriptor, header and payload together.
    pub header: usize,
    pub total: u32,
}

impl Lengths {
    /// Parses the word. Descriptor, header, payload and footer must fit the `available` bytes of the ring; otherwise returns
    /// `None`.
    #[inline(always)]
    pub fn parse(word: u64, available: u32) -> Option<Self> {
        let [kind, offset8, length8, flags] =
            [word as u16, (word >> 16) as u16, (word >> 32) as u16, (word >> 48) as u16];
        let total = u32::from(length8).wrapping_mul(8);
        if offset8 < DESCRIPTOR8 || length8 < offset8 || total.wrapping_add(FOOTER_LEN) > available {
            return None;
        }
        let header = usize::from(offset8.wrapping_sub(DESCRIPTOR8)).wrapping_mul(8);
        Some(Self { kind: Kind(kind), flags, header, total })
    }
}

impl<'a> Packet<'a> {
    /// Returns the ranges of a packet of transfer pages.
    ///
    /// `None` if it is of another kind, or its range count exceeds its header.
    pub fn transfer_ranges(&self) -> Option<TransferRanges<'a>> {
        if self.kind != Kind::TRANSFER_PAGES {
            return None;
        }
        let (head, ranges) = RingTransferPages::read_from_prefix(self.header).ok()?;
        let count = usize::try_from(head.range_count).ok()?;
        let ranges = ranges.get(..count.checked_mul(size_of::<RingTransferPageRange>())?)?;
        Some(TransferRanges { set: head.set_id, ranges })
    }

    /// Returns the ranges of a packet with guest memory.
    ///
    /// `None` if it is of another kind, has no range, or a malformed range, or one that exceeds the packet.
    pub fn gpa_ranges(&self) -> Option<GpaRanges<'a>> {
        if self.kind != Kind::GPA_DIRECT {
            return None;
        }
        let (head, rest) = RingGpaDirect::read_from_prefix(self.header).ok()?;
        let ranges = GpaRanges { left: head.range_count, rest };
        let mut check = ranges;
        if ranges.left == 0 || !(0..ranges.left).all(|_| check.next().is_some()) {
            return None;
        }
        Some(ranges)
    }
}

/// A range of a buffer that both sides know.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct TransferRange {
    /// The length in bytes.
    pub len: u32,
    /// The offset in bytes from the beginning of the buffer. The caller checks that the range is within the buffer.
    pub offset: u32,
}

/// The ranges of a packet of transfer pages.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct TransferRanges<'a> {
    /// The id of the buffer.
    pub set: u16,
    ranges: &'a [u8],
}

impl TransferRanges<'_> {
    /// Returns the ranges.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = TransferRange> + '_ {
        self.ranges.chunks_exact(size_of::<RingTransferPageRange>()).map(|range| {
            let range = RingTransferPageRange::read_from_bytes(range);
            // A chunk has the length of a range.
            range.map_or(TransferRange { len: 0, offset: 0 }, |range| TransferRange {
                len: range.byte_count,
                offset: range.byte_offset,
            })
        })
    }
}

/// A range of guest memory to write to a packet: `len` bytes from `offset` in the first page on, in the pages with the frame
/// numbers `pages`.
#[derive(Clone, Debug)]
pub struct GpaRange<I> {
    /// The length in bytes.
    pub len: u32,
    /// The offset in the first page, below 4096.
    pub offset: u32,
    /// The frame numbers of the pages.
    pub pages: I,
}

/// Consecutive frame numbers.
#[derive(Clone, Debug)]
pub struct FrameRun {
    next: u64,
    end: u64,
}

impl Iterator for FrameRun {
    type Item = u64;

    #[inline(always)]
    fn next(&mut self) -> Option<u64> {
        if self.next == self.end {
            return None;
        }
        let frame = self.next;
        self.next = frame.wrapping_add(1);
        Some(frame)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.end.wrapping_sub(self.next) as usize;
        (left, Some(left))
    }
}

impl ExactSizeIterator for FrameRun {}

impl GpaRange<FrameRun> {
    /// The range of `len` bytes of guest memory from guest physical address `address` on.
    #[inline]
    pub fn contiguous(address: u64, len: u32) -> Self {
        let end = address.saturating_add(u64::from(len)).div_ceil(4096);
        Self { len, offset: (address % 4096) as u32, pages: FrameRun { next: address / 4096, end } }
    }
}

/// A range of guest memory that was parsed from a packet.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct ParsedRange<'a> {
    /// The length in bytes.
    pub len: u32,
    /// The offset in the first page, below 4096.
    pub offset: u32,
    pages: &'a [u8],
}

impl ParsedRange<'_> {
    /// Returns the frame numbers of the pages.
    pub fn pages(&self) -> impl ExactSizeIterator<Item = u64> + '_ {
        self.pages.chunks_exact(8).map(|page| page.first_chunk().copied().map_or(0, u64::from_le_bytes))
    }
}

/// The ranges of a packet with guest memory.
#[derive(Copy, Clone, Debug)]
pub struct GpaRanges<'a> {
    left: u32,
    rest: &'a [u8],
}

impl<'a> Iterator for GpaRanges<'a> {
    type Item = ParsedRange<'a>;

    fn next(&mut self) -> Option<ParsedRange<'a>> {
        self.left = self.left.checked_sub(1)?;
        let (RingGpaRange { byte_count: len, byte_offset: offset }, rest) =
            RingGpaRange::read_from_prefix(self.rest).ok()?;
        if offset >= 4096 {
            return None;
        }
        let pages = len.checked_add(offset)?.div_ceil(4096);
        let (pages, rest) = rest.split_at_checked(usize::try_from(pages).ok()?.checked_mul(8)?)?;
        self.rest = rest;
        Some(ParsedRange { len, offset, pages })
    }
}

//! Descriptors and completions as the card knows them: pure, total, fuzzed.

use crate::VLAN_LEN;
use paravirt_device::{
    Offloads, Rejected, RxChecksum, RxMeta, SegmentKind, Segmentation, TxMeta, VlanTag, tcp_headers,
};

/// Bytes of a descriptor at most: a length of 0 stands for all of them.
pub(crate) const MAX_PIECE: u32 = 1 << 14;
const LEN_MASK: u32 = MAX_PIECE - 1;

/// The third word of a transmit descriptor: its generation, and a field of the offload.
const TX_GENERATION: u32 = 1 << 14;
const TX_OFFLOAD_SHIFT: u32 = 18;
/// The fourth one.
const MODE_SHIFT: u32 = 10;
const MODE_CHECKSUM: u32 = 2;
const MODE_SEGMENT: u32 = 3;
const END_OF_PACKET: u32 = 1 << 12;
const COMPLETION_WANTED: u32 = 1 << 13;
const INSERT_TAG: u32 = 1 << 15;
/// The maximum of the header length and of the field of the offload.
const MAX_HEADER: u16 = (1 << 10) - 1;
const MAX_OFFLOAD: u16 = (1 << 14) - 1;
/// The offset of the checksum in a TCP header.
const TCP_CHECKSUM: u16 = 16;

/// In the third word of a receive descriptor: its generation, and that it is for what follows the head of a frame.
const RX_GENERATION: u32 = 1 << 31;
const RX_BODY: u32 = 1 << 14;
/// In the last word of a completion.
const COMPLETION_GENERATION: u32 = 1 << 31;
const INDEX_MASK: u32 = (1 << 12) - 1;

/// The generation of the entry with this free-running number in a ring of `size` entries, a power of two: it begins as 1.
#[inline(always)]
pub(crate) const fn generation(number: u32, size: u32) -> bool {
    number & size == 0
}

/// What the card does for a frame, as the words of its first descriptor have it.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct TxOffload {
    third: u32,
    fourth: u32,
}

impl TxOffload {
    /// The words for `meta`, of a frame of `len` bytes on a card that has `offloads`, whose longest frame is `max_frame` bytes.
    pub fn new(meta: &TxMeta, len: usize, offloads: Offloads, max_frame: usize) -> Result<Self, Rejected> {
        let mut words = Self::default();
        if let Some(VlanTag(tag)) = meta.vlan {
            words.fourth = INSERT_TAG | u32::from(tag) << 16;
        }
        let Some(range) = meta.checksum else {
            return if meta.segmentation.is_some() || len > max_frame {
                Err(Rejected::Invalid)
            } else {
                Ok(words)
            };
        };
        let field = range.start.checked_add(range.offset).ok_or(Rejected::Invalid)?;
        if usize::from(field).saturating_add(2) > len || range.start > MAX_HEADER || field > MAX_OFFLOAD {
            return Err(Rejected::Invalid);
        }
        let (header, mode, value) = match meta.segmentation {
            None if !offloads.contains(Offloads::TX_CHECKSUM) => return Err(Rejected::Unsupported),
            None if len > max_frame => return Err(Rejected::Invalid),
            None => (range.start, MODE_CHECKSUM, field),
            Some(Segmentation { kind, size, headers }) => {
                let needed = match kind {
                    SegmentKind::Tcp4 => Offloads::TX_TCP4,
                    SegmentKind::Tcp6 => Offloads::TX_TCP6,
                    _ => return Err(Rejected::Unsupported),
                };
                if !offloads.contains(needed) || range.offset != TCP_CHECKSUM {
                    return Err(Rejected::Unsupported);
                }
                if size == 0 || size > MAX_OFFLOAD || headers > MAX_HEADER || usize::from(headers) > len {
                    return Err(Rejected::Invalid);
                }
                (headers, MODE_SEGMENT, size)
            }
        };
        words.third = u32::from(value) << TX_OFFLOAD_SHIFT;
        words.fourth |= u32::from(header) | mode << MODE_SHIFT;
        Ok(words)
    }
}

/// The second half of a transmit descriptor for `len` bytes, at most [`MAX_PIECE`].
#[inline(always)]
pub(crate) const fn tx_descriptor(len: u32, generation: bool, offload: TxOffload, is_last: bool) -> u64 {
    let third = len & LEN_MASK | if generation { TX_GENERATION } else { 0 } | offload.third;
    let fourth = offload.fourth | if is_last { END_OF_PACKET | COMPLETION_WANTED } else { 0 };
    third as u64 | (fourth as u64) << 32
}

/// The index of the last descriptor of the packets that a transmit completion is about, if it has this generation. `second` is its second
/// half, and `first` reads the other one.
#[inline(always)]
pub(crate) fn tx_completion(second: u64, generation: bool, first: impl FnOnce() -> u64) -> Option<u16> {
    is_generation(second, generation).then(|| (first() as u32 & INDEX_MASK) as u16)
}

/// Whether a completion has this generation, and is one that the card has written.
#[inline(always)]
pub(crate) const fn is_generation(second: u64, generation: bool) -> bool {
    ((second >> 32) as u32 & COMPLETION_GENERATION != 0) == generation
}

/// The second half of a receive descriptor for `len` bytes.
#[inline(always)]
pub(crate) const fn rx_descriptor(len: u32, is_body: bool, generation: bool) -> u64 {
    let third =
        len & LEN_MASK | if is_body { RX_BODY } else { 0 } | if generation { RX_GENERATION } else { 0 };
    third as u64
}

/// A completion of the receive side: its two halves, of which each method takes out what it tells.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct RxCompletion {
    first: u64,
    second: u64,
}

/// The types of a frame and of its checksums, in the last word: a fragment, versions 4 and 6 of IP, TCP and UDP, what is right.
mod rx_flag {
    pub const FRAGMENT: u32 = 1 << 22;
    pub const V4: u32 = 1 << 21;
    pub const V6: u32 = 1 << 20;
    pub const IP_GOOD: u32 = 1 << 19;
    pub const TCP: u32 = 1 << 18;
    pub const UDP: u32 = 1 << 17;
    pub const L4_GOOD: u32 = 1 << 16;
    /// In the first word: nothing was calculated.
    pub const NOT_CALCULATED: u32 = 1 << 30;
}

/// The type of a completion of a frame that was coalesced, of a card of revision 2.
const COALESCED: u32 = 4;

impl RxCompletion {
    /// The completion with these halves, in little-endian order.
    #[inline(always)]
    pub const fn new(first: u64, second: u64) -> Self {
        Self { first, second }
    }

    /// Returns the index of the descriptor.
    #[inline(always)]
    pub const fn index(&self) -> u16 {
        (self.first as u32 & INDEX_MASK) as u16
    }

    /// Returns the queue: its number in the first ring, and behind the numbers of all queues in the second one.
    #[inline(always)]
    pub const fn queue(&self) -> u16 {
        (self.first >> 16) as u16 & 0x3ff
    }

    /// Returns whether it is the first of a frame.
    #[inline(always)]
    pub const fn is_first(&self) -> bool {
        self.first & 1 << 15 != 0
    }

    /// Returns whether it is the last of a frame.
    #[inline(always)]
    pub const fn is_last(&self) -> bool {
        self.first & 1 << 14 != 0
    }

    /// Returns whether the frame is damaged.
    #[inline(always)]
    pub const fn is_error(&self) -> bool {
        self.second & 1 << 14 != 0
    }

    /// Returns the length in bytes.
    #[inline(always)]
    pub const fn len(&self) -> u32 {
        self.second as u32 & LEN_MASK
    }

    /// Returns whether nothing was written: the card has skipped the buffer.
    #[inline(always)]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the tag that the card has removed.
    #[inline(always)]
    pub fn vlan(&self) -> Option<u16> {
        (self.second & 1 << 15 != 0).then_some((self.second >> 16) as u16)
    }

    const fn flags(&self) -> u32 {
        (self.second >> 32) as u32
    }

    /// How many segments were coalesced, and the length of theirs, as cards of revision 2 say; 0 if they do not.
    const fn coalesced(&self) -> (u8, u16) {
        match self.flags() >> 24 & 0x7f {
            COALESCED => ((self.first >> 32) as u8, self.flags() as u16),
            _ => (0, 0),
        }
    }

    /// Whether the card says that a TCP or UDP datagram and its IPv4 header have the right sums.
    #[inline(always)]
    const fn is_valid(&self) -> bool {
        let flags = self.flags();
        let is_calculated =
            self.first as u32 & rx_flag::NOT_CALCULATED == 0 && flags & rx_flag::FRAGMENT == 0;
        let is_good = flags & rx_flag::L4_GOOD != 0 && flags & (rx_flag::TCP | rx_flag::UDP) != 0;
        let is_ip_good =
            flags & rx_flag::V6 != 0 || flags & rx_flag::V4 != 0 && flags & rx_flag::IP_GOOD != 0;
        is_calculated && is_good && is_ip_good
    }

    /// The metadata of a frame of `len` bytes whose last completion this is, and which begins with `head`; `first` is its first one, if
    /// it has several. `max_frame` is the length of the longest frame on the wire without a tag: a longer one was coalesced.
    #[inline(always)]
    pub fn meta(&self, first: Option<&Self>, len: usize, max_frame: usize, head: &[u8]) -> RxMeta {
        let mut meta = RxMeta::new(if self.is_valid() { RxChecksum::Valid } else { RxChecksum::Unknown });
        meta.vlan = self.vlan().map(VlanTag);
        let flags = self.flags();
        let is_tcp = flags & rx_flag::TCP != 0 && flags & (rx_flag::V4 | rx_flag::V6) != 0;
        let is_long = len > max_frame.saturating_add(VLAN_LEN);
        if is_tcp && (is_long || flags >> 24 & 0x7f == COALESCED || first.is_some()) {
            meta.segmentation = self.segmentation(first, len, max_frame, head);
        }
        meta
    }

    #[cold]
    fn segmentation(
        &self,
        first: Option<&Self>,
        len: usize,
        max_frame: usize,
        head: &[u8],
    ) -> Option<Segmentation> {
        let (segments, mss) = match first.map_or((0, 0), Self::coalesced) {
            (0, _) => self.coalesced(),
            told => told,
        };
        if segments < 2 && len <= max_frame.saturating_add(VLAN_LEN) {
            return None;
        }
        let (kind, headers) = tcp_headers(head)?;
        let payload = len.checked_sub(usize::from(headers)).filter(|payload| *payload > 0)?;
        let size = match (mss, usize::from(segments)) {
            // A card of revision 1 does not tell: the segments were as long as the wire allows.
            (0, 0) => u16::try_from(max_frame).ok()?.checked_sub(headers)?,
            (0, segments) => u16::try_from(payload.div_ceil(segments)).ok()?,
            (mss, _) => mss,
        };
        (size > 0).then_some(Segmentation { kind, size, headers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use paravirt_device::ChecksumRange;

    const ALL: Offloads = Offloads::TX_CHECKSUM.union(Offloads::TX_TCP4).union(Offloads::TX_TCP6);

    #[test]
    fn generations_begin_with_one_and_flip_at_each_wrap() {
        let all: std::vec::Vec<bool> = (0..12).map(|number| generation(number, 4)).collect();
        assert_eq!(all[..4], [true; 4]);
        assert_eq!(all[4..8], [false; 4]);
        assert_eq!(all[8..], [true; 4]);
        assert!(!generation(u32::MAX, 4) && generation(0, 4));
    }

    #[test]
    fn transmit_descriptors_are_as_the_card_reads_them() {
        assert_eq!(tx_descriptor(60, true, TxOffload::default(), true), 60 | 1 << 14 | 3 << 44);
        assert_eq!(tx_descriptor(MAX_PIECE, false, TxOffload::default(), false), 0);
        let range = ChecksumRange { start: 34, offset: 16 };
        let meta = TxMeta::new().with_checksum(range).with_vlan(VlanTag(0x123));
        let words = TxOffload::new(&meta, 1514, ALL, 1514).unwrap();
        assert_eq!((words.third, words.fourth), (50 << 18, 34 | 2 << 10 | 1 << 15 | 0x123 << 16));
        let segmentation = Segmentation { kind: SegmentKind::Tcp4, size: 1460, headers: 54 };
        let meta = TxMeta::new().with_checksum(range).with_segmentation(segmentation);
        let words = TxOffload::new(&meta, 9000, ALL, 1514).unwrap();
        assert_eq!((words.third, words.fourth), (1460 << 18, 54 | 3 << 10));
    }

    #[test]
    fn what_the_card_cannot_do_is_refused() {
        let range = ChecksumRange { start: 34, offset: 16 };
        let plain = TxMeta::new().with_checksum(range);
        let new = |meta: &TxMeta, len| TxOffload::new(meta, len, ALL, 1514).err();
        assert_eq!(new(&TxMeta::new(), 1515), Some(Rejected::Invalid));
        assert_eq!(new(&plain, 51), Some(Rejected::Invalid));
        assert_eq!(new(&plain, 1515), Some(Rejected::Invalid));
        assert_eq!(TxOffload::new(&plain, 60, Offloads::empty(), 1514).err(), Some(Rejected::Unsupported));
        let segmented = |kind, size, headers| {
            let segmentation = Segmentation { kind, size, headers };
            new(&plain.with_segmentation(segmentation), 9000)
        };
        assert_eq!(segmented(SegmentKind::Udp, 1460, 54), Some(Rejected::Unsupported));
        assert_eq!(segmented(SegmentKind::Tcp4, 0, 54), Some(Rejected::Invalid));
        assert_eq!(segmented(SegmentKind::Tcp4, 1460, 1024), Some(Rejected::Invalid));
        assert_eq!(segmented(SegmentKind::Tcp6, 1440, 74), None);
        let far = ChecksumRange { start: u16::MAX, offset: u16::MAX };
        assert_eq!(new(&TxMeta::new().with_checksum(far), 1 << 17), Some(Rejected::Invalid));
    }

    #[test]
    fn receive_completions_are_parsed() {
        // Index 5, end and start, queue 3; 1514 bytes with tag 7; TCP over IPv4, both sums right, generation 1.
        let first = 5 | 3 << 14 | 3 << 16;
        let second =
            1514 | 1 << 15 | 7 << 16 | (1u64 << 16 | 1 << 18 | 1 << 19 | 1 << 21 | 3 << 24 | 1 << 31) << 32;
        let found = RxCompletion::new(first, second);
        assert_eq!((found.index(), found.queue(), found.is_first(), found.is_last()), (5, 3, true, true));
        assert_eq!((found.len(), found.vlan(), found.is_error()), (1514, Some(7), false));
        assert!(is_generation(second, true) && !is_generation(second, false));
        let meta = found.meta(None, 1514, 1514, &[]);
        assert_eq!(
            (meta.checksum, meta.vlan, meta.segmentation),
            (RxChecksum::Valid, Some(VlanTag(7)), None)
        );
        // Not calculated, or a fragment, or a wrong sum of the header.
        for change in [1u64 << 30, 0] {
            for flip in [1u64 << 54, 1 << 51] {
                let found =
                    RxCompletion::new(first | change, if change == 0 { second ^ flip } else { second });
                assert_eq!(found.meta(None, 1514, 1514, &[]).checksum, RxChecksum::Unknown);
            }
        }
        // Four segments of 1448 bytes each, as revision 2 tells.
        let mut head = [0; 54];
        (head[12], head[14], head[23], head[46]) = (8, 0x45, 6, 0x50);
        let second = 1024 | (1448u64 | 1 << 18 | 1 << 21 | 4 << 24 | 1 << 31) << 32;
        let found = RxCompletion::new(first | 4 << 32, second);
        let expected = Segmentation { kind: SegmentKind::Tcp4, size: 1448, headers: 54 };
        assert_eq!(found.meta(None, 5846, 1514, &head).segmentation, Some(expected));
        assert_eq!(found.meta(None, 5846, 1514, &head[..20]).segmentation, None);
    }
}

//! Requests and responses of both rings. Xen `xen/include/public/io/netif.h`

use core::sync::atomic::{AtomicU32, Ordering};
use paravirt_device::{
    ChecksumRange, MacAddr, Offloads, Rejected, RxChecksum, RxMeta, SegmentKind, Segmentation, TxMeta,
    tcp_headers,
};

/// An entry of the transmit ring: a request of 12 bytes, a response in its first 4, or an extra in its first 8.
pub type TxEntry = [AtomicU32; 3];
/// An entry of the receive ring: a request, a response or an extra of 8 bytes.
pub type RxEntry = [AtomicU32; 2];

/// The slots of a frame at most: more than 18 are refused by backends, and more than 20 end the interface.
pub const MAX_SLOTS: usize = 18;
/// The longest frame.
pub const MAX_FRAME: usize = 65535;

/// Flags of transmit requests.
mod tx_flag {
    pub const CHECKSUM_BLANK: u16 = 1 << 0;
    pub const VALIDATED: u16 = 1 << 1;
    pub const MORE: u16 = 1 << 2;
    pub const EXTRA: u16 = 1 << 3;
}

/// Flags of receive responses.
mod rx_flag {
    pub const VALIDATED: u16 = 1 << 0;
    pub const CHECKSUM_BLANK: u16 = 1 << 1;
    pub const MORE: u16 = 1 << 2;
    pub const EXTRA: u16 = 1 << 3;
}

/// An extra that tells of segmentation, one that adds a multicast address, the kinds of segmentation, and the flag that another one follows.
const EXTRA_GSO: u8 = 1;
const EXTRA_MULTICAST_ADD: u8 = 2;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 2;
const EXTRA_MORE: u8 = 1 << 0;
/// The status of the response to an extra.
const STATUS_NULL: i16 = 1;

const ETHERTYPE: usize = 12;
const ETHERNET: usize = 14;

/// What follows the first request of a frame.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
enum Extra {
    #[default]
    None,
    Segmentation {
        size: u16,
        kind: u8,
    },
    AddMulticast(MacAddr),
}

/// What a frame to be sent asks for.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct TxOffload {
    flags: u16,
    extra: Extra,
}

impl TxOffload {
    /// A request that is no frame: the backend is to deliver those to `address`.
    pub fn add_multicast(address: MacAddr) -> Self {
        Self { flags: tx_flag::EXTRA, extra: Extra::AddMulticast(address) }
    }

    /// Checks what a frame of `len` bytes that begins with `head` asks for.
    pub fn new(meta: &TxMeta, offloads: Offloads, head: &[u8]) -> Result<Self, Rejected> {
        let mut offload = Self::default();
        if meta.vlan.is_some() {
            return Err(Rejected::Unsupported);
        }
        if let Some(range) = meta.checksum {
            // The backend finds the field by the headers.
            if !offloads.contains(Offloads::TX_CHECKSUM) || checksum_range(head) != Some(range) {
                return Err(Rejected::Unsupported);
            }
            offload.flags |= tx_flag::CHECKSUM_BLANK | tx_flag::VALIDATED;
        }
        if let Some(Segmentation { kind, size, .. }) = meta.segmentation {
            let (needed, kind) = match kind {
                SegmentKind::Tcp4 => (Offloads::TX_TCP4, GSO_TCP4),
                SegmentKind::Tcp6 => (Offloads::TX_TCP6, GSO_TCP6),
                _ => return Err(Rejected::Unsupported),
            };
            if !offloads.contains(needed) {
                return Err(Rejected::Unsupported);
            }
            if meta.checksum.is_none() || size == 0 {
                return Err(Rejected::Invalid);
            }
            offload.flags |= tx_flag::EXTRA;
            offload.extra = Extra::Segmentation { size, kind };
        }
        Ok(offload)
    }

    /// Whether an extra follows the first request.
    pub fn has_extra(self) -> bool {
        self.extra != Extra::None
    }

    /// Writes the extra.
    pub fn write_extra(self, entry: &TxEntry) {
        let [first, second, _] = entry;
        let bytes = match self.extra {
            Extra::None => return,
            Extra::Segmentation { size, kind } => {
                let [low, high] = size.to_le_bytes();
                [EXTRA_GSO, 0, low, high, kind, 0, 0, 0]
            }
            Extra::AddMulticast(MacAddr([a, b, c, d, e, f])) => [EXTRA_MULTICAST_ADD, 0, a, b, c, d, e, f],
        };
        let words = u64::from_le_bytes(bytes);
        first.store(words as u32, Ordering::Relaxed);
        second.store((words >> 32) as u32, Ordering::Relaxed);
    }
}

/// Writes a request. In the first one of a frame, `len` is the length of the whole frame.
#[inline(always)]
pub fn write_tx(
    entry: &TxEntry,
    grant: u32,
    offset: u16,
    offload: TxOffload,
    has_more: bool,
    id: u16,
    len: u16,
) {
    let [first, second, third] = entry;
    let flags = offload.flags | if has_more { tx_flag::MORE } else { 0 };
    first.store(grant, Ordering::Relaxed);
    second.store(u32::from(offset) | u32::from(flags) << 16, Ordering::Relaxed);
    third.store(u32::from(id) | u32::from(len) << 16, Ordering::Relaxed);
}

/// A response to a transmit request; `None` for that of an extra.
#[inline(always)]
pub fn read_tx(entry: &TxEntry) -> Option<(u16, bool)> {
    let [first, ..] = entry;
    let word = first.load(Ordering::Relaxed);
    let status = (word >> 16) as i16;
    (status != STATUS_NULL).then_some((word as u16, status == 0))
}

/// Writes a receive request.
#[inline(always)]
pub fn write_rx(entry: &RxEntry, id: u16, grant: u32) {
    let [first, second] = entry;
    first.store(id.into(), Ordering::Relaxed);
    second.store(grant, Ordering::Relaxed);
}

/// A receive response, or an extra. It is read once.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct RxResponse(u32, u32);

impl RxResponse {
    #[inline(always)]
    pub fn read(entry: &RxEntry) -> Self {
        let [first, second] = entry;
        Self(first.load(Ordering::Relaxed), second.load(Ordering::Relaxed))
    }

    #[cfg(test)]
    pub const fn new(first: u32, second: u32) -> Self {
        Self(first, second)
    }

    /// The number of the request.
    #[inline(always)]
    pub fn id(self) -> u16 {
        self.0 as u16
    }

    /// Where in its page the frame begins.
    #[inline(always)]
    pub fn offset(self) -> usize {
        (self.0 >> 16) as usize
    }

    fn flags(self) -> u16 {
        self.1 as u16
    }

    /// The length in bytes; `None` for an error.
    #[inline(always)]
    pub fn len(self) -> Option<usize> {
        usize::try_from((self.1 >> 16) as i16).ok()
    }

    /// Whether the frame goes on in another page.
    #[inline(always)]
    pub fn has_more(self) -> bool {
        self.flags() & rx_flag::MORE != 0
    }

    /// Whether an extra follows.
    #[inline(always)]
    pub fn has_extra(self) -> bool {
        self.flags() & rx_flag::EXTRA != 0
    }

    /// Of an extra: whether another one follows it.
    pub fn extra_has_more(self) -> bool {
        (self.0 >> 8) as u8 & EXTRA_MORE != 0
    }

    /// Of an extra: the size of the segments, and the protocol.
    pub fn extra_segmentation(self) -> Option<(u16, SegmentKind)> {
        let kind = match (self.0 as u8, self.1 as u8) {
            (EXTRA_GSO, GSO_TCP4) => SegmentKind::Tcp4,
            (EXTRA_GSO, GSO_TCP6) => SegmentKind::Tcp6,
            _ => return None,
        };
        Some(((self.0 >> 16) as u16, kind)).filter(|(size, _)| *size > 0)
    }

    /// The metadata of a frame that begins with this response, whose first bytes are `head`.
    #[inline(always)]
    pub fn meta(self, segmentation: Option<(u16, SegmentKind)>, head: &[u8]) -> RxMeta {
        let checksum = match self.flags() & (rx_flag::CHECKSUM_BLANK | rx_flag::VALIDATED) {
            0 => RxChecksum::Unknown,
            rx_flag::VALIDATED => RxChecksum::Valid,
            _ => checksum_range(head).map_or(RxChecksum::Unknown, RxChecksum::Partial),
        };
        let mut meta = RxMeta::new(checksum);
        if let (Some((size, kind)), Some((own, headers))) = (segmentation, tcp_headers(head)) {
            meta.segmentation = (own == kind).then_some(Segmentation { kind, size, headers });
        }
        meta
    }
}

/// Where the checksum of a TCP or UDP packet is in an Ethernet frame that begins with `head`, as both sides find it by the headers; `None`
/// if it is something else. An IPv6 header with extensions is not understood.
pub fn checksum_range(head: &[u8]) -> Option<ChecksumRange> {
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    let ip = head.get(ETHERNET..)?;
    let (len, protocol) = match (head.get(ETHERTYPE..)?.first_chunk()?, *ip.first()?) {
        (&[0x08, 0x00], first @ 0x45..=0x4f) => (u16::from(first & 15).checked_mul(4)?, *ip.get(9)?),
        (&[0x86, 0xdd], 0x60..=0x6f) => (40, *ip.get(6)?),
        _ => return None,
    };
    let offset = match protocol {
        TCP => 16,
        UDP => 6,
        _ => return None,
    };
    let start = len.checked_add(ETHERNET as u16)?;
    // The field is in the frame.
    head.get(usize::from(start.checked_add(offset)?)..)?.first_chunk::<2>()?;
    Some(ChecksumRange { start, offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp4() -> [u8; 60] {
        let mut frame = [0; 60];
        (frame[12], frame[14], frame[23], frame[46]) = (0x08, 0x45, 6, 0x50);
        frame
    }

    #[test]
    fn requests_and_extras_are_laid_out_as_the_interface_has_them() {
        let entry: TxEntry = [const { AtomicU32::new(0) }; 3];
        let meta = TxMeta::new()
            .with_checksum(ChecksumRange { start: 34, offset: 16 })
            .with_segmentation(Segmentation { kind: SegmentKind::Tcp4, size: 1448, headers: 54 });
        let all = Offloads::all();
        let offload = TxOffload::new(&meta, all, &tcp4()).expect("offloads");
        write_tx(&entry, 9, 0x100, offload, true, 7, 60);
        let words = entry.each_ref().map(|word| word.load(Ordering::Relaxed));
        assert_eq!(words, [9, 0x000f_0100, 60 << 16 | 7]);
        offload.write_extra(&entry);
        let words = entry.each_ref().map(|word| word.load(Ordering::Relaxed));
        assert_eq!(words[..2], [1448 << 16 | 1, 1]);
        // A field that the backend would not find there.
        let odd = TxMeta::new().with_checksum(ChecksumRange { start: 30, offset: 16 });
        assert_eq!(TxOffload::new(&odd, all, &tcp4()), Err(Rejected::Unsupported));
        assert_eq!(TxOffload::new(&meta, Offloads::empty(), &tcp4()), Err(Rejected::Unsupported));
    }

    #[test]
    fn responses_are_read_as_the_interface_has_them() {
        let blank = RxResponse::new(2 << 16 | 5, 60 << 16 | 3);
        assert_eq!((blank.id(), blank.offset(), blank.len()), (5, 2, Some(60)));
        let range = ChecksumRange { start: 34, offset: 16 };
        assert_eq!(blank.meta(None, &tcp4()).checksum, RxChecksum::Partial(range));
        assert_eq!(blank.meta(None, &[0; 60]).checksum, RxChecksum::Unknown);
        assert_eq!(RxResponse::new(0, 60 << 16 | 1).meta(None, &[]).checksum, RxChecksum::Valid);
        assert_eq!(RxResponse::new(0, 0xffff << 16).len(), None);
        let extra = RxResponse::new(1448 << 16 | 1, 1);
        assert_eq!(extra.extra_segmentation(), Some((1448, SegmentKind::Tcp4)));
        assert_eq!(RxResponse::new(1, 1).extra_segmentation(), None);
    }

    #[test]
    fn the_field_of_a_checksum_is_found_or_not_and_never_outside() {
        for len in 0..60 {
            let range = checksum_range(&tcp4()[..len]);
            assert_eq!(range.is_some(), len >= 52, "{len}");
        }
        let mut udp6 = [0; 80];
        (udp6[12], udp6[13], udp6[14], udp6[20]) = (0x86, 0xdd, 0x60, 17);
        assert_eq!(checksum_range(&udp6), Some(ChecksumRange { start: 54, offset: 6 }));
    }
}

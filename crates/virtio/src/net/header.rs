//! The header that precedes every frame, `struct virtio_net_hdr`: pure, total, fuzzed. VIRTIO 1.3 §5.1.6

use paravirt_device::{
    ChecksumRange, Offloads, Rejected, RxChecksum, RxMeta, SegmentKind, Segmentation, TxMeta,
};
use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `struct virtio_net_hdr`, of a device with VIRTIO_F_VERSION_1. VIRTIO 1.3 §5.1.6
#[derive(Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct WireHeader {
    flags: u8,
    gso_type: u8,
    hdr_len: U16,
    gso_size: U16,
    csum_start: U16,
    csum_offset: U16,
    num_buffers: U16,
}

/// Bytes of the header.
pub const HEADER_LEN: usize = size_of::<WireHeader>();
const _: () = assert!(HEADER_LEN == 12);

/// Flags and segmentation types. VIRTIO 1.3 §5.1.6
const F_NEEDS_CSUM: u8 = 1;
const F_DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// Parses the header of a received frame. Returns the metadata and the number of buffers that hold the frame, as the device states
/// it: the caller checks it. An unknown segmentation type counts as none.
#[inline]
pub fn parse(header: &[u8; HEADER_LEN]) -> (RxMeta, u16) {
    let header: WireHeader = zerocopy::transmute!(*header);
    let flags = header.flags;
    if flags | header.gso_type == 0 {
        // The common case: the device reports nothing about the frame.
        return (RxMeta::default(), header.num_buffers.get());
    }
    let range = ChecksumRange { start: header.csum_start.get(), offset: header.csum_offset.get() };
    let checksum = if flags & F_NEEDS_CSUM != 0 {
        RxChecksum::Partial(range)
    } else if flags & F_DATA_VALID != 0 {
        RxChecksum::Valid
    } else {
        RxChecksum::Unknown
    };
    let kind = match header.gso_type & !GSO_ECN {
        GSO_TCPV4 => Some(SegmentKind::Tcp4),
        GSO_TCPV6 => Some(SegmentKind::Tcp6),
        GSO_UDP_L4 => Some(SegmentKind::Udp),
        _ => None,
    };
    let segmentation = kind.map(|kind| Segmentation {
        kind,
        size: header.gso_size.get().max(1),
        headers: header.hdr_len.get(),
    });
    let mut meta = RxMeta::new(checksum);
    meta.segmentation = segmentation;
    (meta, header.num_buffers.get())
}

/// Encodes the header of a frame of `len` bytes that is sent with `meta`.
///
/// # Errors
///
/// [`Rejected::Unsupported`] if `meta` asks for an offload that is not in `offloads`. [`Rejected::Invalid`] if a field of `meta` is
/// out of range for the frame, or the frame is longer than `max_frame` bytes without segmentation.
#[inline]
pub fn encode(
    len: usize,
    meta: &TxMeta,
    offloads: Offloads,
    max_frame: usize,
) -> Result<[u8; HEADER_LEN], Rejected> {
    let mut header = WireHeader::default();
    if meta.checksum.is_none() && meta.segmentation.is_none() {
        // The common case: no offload.
        return if len > max_frame { Err(Rejected::Invalid) } else { Ok(zerocopy::transmute!(header)) };
    }
    if let Some(ChecksumRange { start, offset }) = meta.checksum {
        if !offloads.contains(Offloads::TX_CHECKSUM) {
            return Err(Rejected::Unsupported);
        }
        // The checksum has two bytes.
        let end = usize::from(start).wrapping_add(usize::from(offset)).wrapping_add(2);
        if end > len {
            return Err(Rejected::Invalid);
        }
        header.flags = F_NEEDS_CSUM;
        header.csum_start = start.into();
        header.csum_offset = offset.into();
    }
    match meta.segmentation {
        None if len > max_frame => return Err(Rejected::Invalid),
        None => header.gso_type = GSO_NONE,
        Some(Segmentation { kind, size, headers }) => {
            let (offload, value) = match kind {
                SegmentKind::Tcp4 => (Offloads::TX_TCP4, GSO_TCPV4),
                SegmentKind::Tcp6 => (Offloads::TX_TCP6, GSO_TCPV6),
                SegmentKind::Udp => (Offloads::TX_UDP, GSO_UDP_L4),
                _ => return Err(Rejected::Unsupported),
            };
            if !offloads.contains(offload) {
                return Err(Rejected::Unsupported);
            }
            if meta.checksum.is_none() || size == 0 || usize::from(headers) > len {
                return Err(Rejected::Invalid);
            }
            header.gso_type = value;
            header.hdr_len = headers.into();
            header.gso_size = size.into();
        }
    }
    Ok(zerocopy::transmute!(header))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CSUM: ChecksumRange = ChecksumRange { start: 34, offset: 16 };

    #[test]
    fn an_encoded_header_parses_to_the_same_metadata() {
        let segmentation = Segmentation { kind: SegmentKind::Tcp6, size: 1440, headers: 74 };
        let meta = TxMeta::new().with_checksum(CSUM).with_segmentation(segmentation);
        let header = encode(9000, &meta, Offloads::all(), 1514).unwrap();
        let (rx, buffers) = parse(&header);
        assert_eq!(
            (rx.checksum, rx.segmentation, buffers),
            (RxChecksum::Partial(CSUM), Some(segmentation), 0)
        );
        assert_eq!(header, [1, 4, 74, 0, 0xa0, 5, 34, 0, 16, 0, 0, 0]);
    }

    #[test]
    fn metadata_that_do_not_fit_the_frame_are_refused() {
        let checksum = TxMeta::new().with_checksum(CSUM);
        assert_eq!(encode(51, &checksum, Offloads::all(), 1514), Err(Rejected::Invalid));
        assert!(encode(52, &checksum, Offloads::all(), 1514).is_ok());
        assert_eq!(encode(52, &checksum, Offloads::empty(), 1514), Err(Rejected::Unsupported));
        assert_eq!(encode(1515, &TxMeta::default(), Offloads::all(), 1514), Err(Rejected::Invalid));
        let bare = Segmentation { kind: SegmentKind::Tcp4, size: 1460, headers: 54 };
        let meta = TxMeta::new().with_segmentation(bare);
        assert_eq!(encode(3000, &meta, Offloads::all(), 1514), Err(Rejected::Invalid));
    }
}

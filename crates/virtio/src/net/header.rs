//! The header ahead of every frame: pure, total, fuzzed. VIRTIO 1.3 §5.1.6

use paravirt_device::{
    ChecksumRange, Offloads, Rejected, RxChecksum, RxMeta, SegmentKind, Segmentation, TxMeta,
};

/// Bytes of the header of a modern device.
pub const HEADER_LEN: usize = 12;

const F_NEEDS_CSUM: u8 = 1;
const F_DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// What the header of a received frame says, and in how many buffers the frame lies.
pub fn parse(header: &[u8; HEADER_LEN]) -> (RxMeta, u16) {
    let [flags, gso, h0, h1, z0, z1, s0, s1, o0, o1, n0, n1] = *header;
    let range = ChecksumRange { start: u16::from_le_bytes([s0, s1]), offset: u16::from_le_bytes([o0, o1]) };
    let checksum = if flags & F_NEEDS_CSUM != 0 {
        RxChecksum::Partial(range)
    } else if flags & F_DATA_VALID != 0 {
        RxChecksum::Valid
    } else {
        RxChecksum::Unknown
    };
    let kind = match gso & !GSO_ECN {
        GSO_TCPV4 => Some(SegmentKind::Tcp4),
        GSO_TCPV6 => Some(SegmentKind::Tcp6),
        GSO_UDP_L4 => Some(SegmentKind::Udp),
        _ => None,
    };
    let segmentation = kind.map(|kind| Segmentation {
        kind,
        size: u16::from_le_bytes([z0, z1]).max(1),
        headers: u16::from_le_bytes([h0, h1]),
    });
    let mut meta = RxMeta::new(checksum);
    meta.segmentation = segmentation;
    (meta, u16::from_le_bytes([n0, n1]))
}

/// The header for a frame of `len` bytes that goes out as `meta` says.
///
/// # Errors
///
/// [`Rejected::Unsupported`] where `meta` asks for what is not in `offloads`, [`Rejected::Invalid`] where it does not fit
/// the frame, or the frame is longer than `max_frame` and not to be cut up.
pub fn encode(
    len: usize,
    meta: &TxMeta,
    offloads: Offloads,
    max_frame: usize,
) -> Result<[u8; HEADER_LEN], Rejected> {
    let mut header = [0; HEADER_LEN];
    let [flags, gso, h0, h1, z0, z1, s0, s1, o0, o1, ..] = &mut header;
    if let Some(ChecksumRange { start, offset }) = meta.checksum {
        if !offloads.contains(Offloads::TX_CHECKSUM) {
            return Err(Rejected::Unsupported);
        }
        // The checksum is two bytes.
        let end = usize::from(start).wrapping_add(usize::from(offset)).wrapping_add(2);
        if end > len {
            return Err(Rejected::Invalid);
        }
        *flags = F_NEEDS_CSUM;
        [*s0, *s1] = start.to_le_bytes();
        [*o0, *o1] = offset.to_le_bytes();
    }
    match meta.segmentation {
        None if len > max_frame => return Err(Rejected::Invalid),
        None => *gso = GSO_NONE,
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
            *gso = value;
            [*h0, *h1] = headers.to_le_bytes();
            [*z0, *z1] = size.to_le_bytes();
        }
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CSUM: ChecksumRange = ChecksumRange { start: 34, offset: 16 };

    #[test]
    fn what_is_encoded_reads_back() {
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
    fn what_does_not_fit_is_refused() {
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

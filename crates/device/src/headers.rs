//! What network drivers have to know of the headers in a frame, for segmentation: pure and total.

use crate::{ChecksumRange, SegmentKind};

/// The length of an Ethernet header.
const ETHERNET: usize = 14;
/// The offset of the EtherType.
const ETHERTYPE: usize = 12;
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
/// The length of an IPv6 header without extensions.
const IPV6_LEN: usize = 40;
/// The number of the protocol.
const TCP: u8 = 6;

/// Returns the IP version of a TCP segment in an Ethernet frame, and the length of its headers up to the payload, for drivers: `None` if
/// `frame`, the beginning of it, is too short or something else. An IPv6 header with extensions is not understood.
///
/// ```
/// use paravirt_device::{SegmentKind, tcp_headers};
/// let mut frame = [0; 60];
/// (frame[12], frame[14], frame[23], frame[46]) = (0x08, 0x45, 6, 0x50);
/// assert_eq!(tcp_headers(&frame), Some((SegmentKind::Tcp4, 54)));
/// assert_eq!(tcp_headers(&frame[..40]), None);
/// ```
pub fn tcp_headers(frame: &[u8]) -> Option<(SegmentKind, u16)> {
    let ip = frame.get(ETHERNET..)?;
    let (kind, ip_len, protocol) = match (frame.get(ETHERTYPE..)?.first_chunk()?, *ip.first()?) {
        (&IPV4, first @ 0x45..=0x4f) => {
            // More fragments, or a later one.
            let fragment = u16::from_be_bytes(*ip.get(6..)?.first_chunk()?) & 0x3fff;
            let protocol = if fragment == 0 { *ip.get(9)? } else { 0 };
            (SegmentKind::Tcp4, usize::from(first & 15).checked_mul(4)?, protocol)
        }
        (&IPV6, 0x60..=0x6f) => (SegmentKind::Tcp6, IPV6_LEN, *ip.get(6)?),
        _ => return None,
    };
    let l4 = ip_len.checked_add(ETHERNET)?;
    let words = usize::from(frame.get(l4.checked_add(12)?)? >> 4);
    if protocol != TCP || words < 5 {
        return None;
    }
    Some((kind, u16::try_from(l4.checked_add(words.checked_mul(4)?)?).ok()?))
}

/// Removes the length of the segment from the sum of the pseudo-header that the checksum field holds, as devices want it that segment the
/// frame, for drivers: `None`, with the frame unchanged, if the field is not in `frame`, the whole frame.
///
/// ```
/// use paravirt_device::{ChecksumRange, without_length};
/// let mut frame = [0; 60];
/// let range = ChecksumRange { start: 34, offset: 16 };
/// // The sum of addresses, protocol and 26 bytes.
/// frame[50..52].copy_from_slice(&(0x1234u16 + 26).to_be_bytes());
/// without_length(&mut frame, range).unwrap();
/// assert_eq!(frame[50..52], 0x1234u16.to_be_bytes());
/// ```
pub fn without_length(frame: &mut [u8], range: ChecksumRange) -> Option<()> {
    let ChecksumRange { start, offset } = range;
    let len = u32::try_from(frame.len()).ok()?.checked_sub(u32::from(start))?;
    let field = frame.get_mut(usize::from(start.checked_add(offset)?)..)?.first_chunk_mut::<2>()?;
    // In one's complement arithmetic a term is subtracted by adding its complement.
    let mut sum = u32::from(u16::from_be_bytes(*field));
    sum = sum.wrapping_add(u32::from(!(len as u16))).wrapping_add(u32::from(!((len >> 16) as u16)));
    while sum >> 16 != 0 {
        sum = (sum & 0xffff).wrapping_add(sum >> 16);
    }
    *field = (sum as u16).to_be_bytes();
    Some(())
}

//! The Internet checksum of TCP and UDP over IP, for stacks that leave it to the device. RFC 1071, RFC 768, RFC 9293, RFC 8200

#![cfg(any(feature = "smoltcp", test))]

use paravirt_device::{ChecksumRange, RxChecksum};

const ETHERNET_LEN: usize = 14;
const IPV6_LEN: usize = 40;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Sums 16-bit words, the odd byte at the end as a high one.
fn sum(mut total: u64, bytes: &[u8]) -> u64 {
    let (quads, rest) = bytes.as_chunks::<4>();
    for quad in quads {
        total = total.wrapping_add(u64::from(u32::from_be_bytes(*quad)));
    }
    let (pairs, rest) = rest.as_chunks::<2>();
    for pair in pairs {
        total = total.wrapping_add(u64::from(u16::from_be_bytes(*pair)));
    }
    match rest {
        [odd] => total.wrapping_add(u64::from(*odd) << 8),
        _ => total,
    }
}

fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff).wrapping_add(total >> 16);
    }
    total as u16
}

/// Where the TCP or UDP part of a frame is, and the sum of its pseudo-header.
struct Transport {
    start: usize,
    end: usize,
    /// Where the checksum is, from `start`.
    offset: usize,
    pseudo: u64,
}

fn transport(frame: &[u8]) -> Option<Transport> {
    let kind = u16::from_be_bytes(*frame.get(12..)?.first_chunk()?);
    let ip = frame.get(ETHERNET_LEN..)?;
    let (protocol, header, total, addresses) = match kind {
        0x0800 => {
            let header = usize::from(ip.first()? & 0xf).wrapping_mul(4);
            let total = usize::from(u16::from_be_bytes(*ip.get(2..)?.first_chunk()?));
            // A fragment has no checksum of its own.
            if u16::from_be_bytes(*ip.get(6..)?.first_chunk()?) & 0x3fff != 0 || header < 20 {
                return None;
            }
            (*ip.get(9)?, header, total, ip.get(12..20)?)
        }
        0x86dd => {
            let payload = usize::from(u16::from_be_bytes(*ip.get(4..)?.first_chunk()?));
            (*ip.get(6)?, IPV6_LEN, IPV6_LEN.wrapping_add(payload), ip.get(8..IPV6_LEN)?)
        }
        _ => return None,
    };
    let offset: usize = match protocol {
        TCP => 16,
        UDP => 6,
        _ => return None,
    };
    let len = total.checked_sub(header)?;
    let start = ETHERNET_LEN.wrapping_add(header);
    let end = start.wrapping_add(len);
    if end > frame.len() || len < offset.wrapping_add(2) {
        return None;
    }
    let pseudo = sum(u64::from(protocol).wrapping_add(len as u64), addresses);
    Some(Transport { start, end, offset, pseudo })
}

/// Writes the sum of the pseudo-header where the checksum goes, for the device to complete it; `None` where the frame is no
/// TCP or UDP.
pub(crate) fn prepare(frame: &mut [u8]) -> Option<ChecksumRange> {
    let Transport { start, offset, pseudo, .. } = transport(frame)?;
    let at = start.wrapping_add(offset);
    *frame.get_mut(at..)?.first_chunk_mut()? = fold(pseudo).to_be_bytes();
    Some(ChecksumRange { start: u16::try_from(start).ok()?, offset: offset as u16 })
}

/// Whether the TCP or UDP checksum of a received frame is right; yes where there is none.
pub(crate) fn is_valid(frame: &[u8], known: RxChecksum) -> bool {
    if known != RxChecksum::Unknown {
        return true;
    }
    let Some(Transport { start, end, offset, pseudo }) = transport(frame) else { return true };
    let Some(bytes) = frame.get(start..end) else { return true };
    // UDP over IPv4 may come without.
    let is_absent = offset == 6 && bytes.get(6..8) == Some(&[0, 0]) && frame.get(12..14) == Some(&[8, 0]);
    is_absent || fold(sum(pseudo, bytes)) == 0xffff
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    /// A UDP datagram over IPv4 with its checksum computed bit by bit from RFC 768's text.
    fn datagram(payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::from([0; 12]);
        frame.extend([8, 0]);
        let total = (28 + payload.len()) as u16;
        frame.extend([0x45, 0]);
        frame.extend(total.to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2]);
        let udp = (8 + payload.len()) as u16;
        frame.extend([0x12, 0x34, 0, 53]);
        frame.extend(udp.to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(payload);
        let mut words = Vec::from([0x0a00u32, 0x020f, 0x0a00, 0x0202, 17, u32::from(udp)]);
        let mut bytes = frame[34..].to_vec();
        if bytes.len() % 2 == 1 {
            bytes.push(0);
        }
        words.extend(bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])));
        let mut total = 0u32;
        for word in words {
            total += word;
            if total > 0xffff {
                total -= 0xffff;
            }
        }
        frame[40..42].copy_from_slice(&(!(total as u16)).to_be_bytes());
        frame
    }

    #[test]
    fn a_right_checksum_is_valid_and_a_wrong_one_is_not() {
        for payload in [&b""[..], b"a", b"abc", b"a longer payload, of odd length"] {
            let mut frame = datagram(payload);
            assert!(is_valid(&frame, RxChecksum::Unknown), "{payload:?}");
            frame[35] ^= 1;
            assert!(!is_valid(&frame, RxChecksum::Unknown));
            assert!(is_valid(&frame, RxChecksum::Valid));
        }
    }

    #[test]
    fn a_prepared_frame_is_completed_by_summing_from_its_start() {
        let whole = datagram(b"odd");
        let mut frame = whole.clone();
        let range = prepare(&mut frame).unwrap();
        assert_eq!(range, ChecksumRange { start: 34, offset: 6 });
        let complete = !fold(sum(0, &frame[usize::from(range.start)..]));
        assert_eq!(complete.to_be_bytes(), whole[40..42]);
    }

    #[test]
    fn what_is_no_tcp_or_udp_is_left_alone() {
        let mut short = datagram(b"xyz");
        for end in 0..short.len() {
            assert!(prepare(&mut short.clone()[..end]).is_none(), "{end}");
        }
        short[12] = 0;
        assert!(prepare(&mut short).is_none());
        assert!(is_valid(&short, RxChecksum::Unknown));
    }
}

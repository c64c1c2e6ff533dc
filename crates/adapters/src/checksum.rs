//! Checksum offload for smoltcp: the pseudo-header sum of sent TCP and UDP frames, and the verification of received ones.
//!
//! RFC 1071 (the sum), RFC 768 (UDP), RFC 9293 (TCP), RFC 8200 §8.1 (the pseudo-header of IPv6). smoltcp computes the sums; this
//! module finds the fields in a frame, since smoltcp's own packet types know only the IP versions it is built for.

#![cfg(any(feature = "smoltcp", test))]

use paravirt_device::{ChecksumRange, RxChecksum};
use smoltcp::wire::checksum::{combine, data};

const ETHERNET_LEN: usize = 14;
const IPV6_LEN: usize = 40;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The TCP or UDP segment of a frame.
struct Transport {
    /// The first byte of the TCP or UDP header, from the start of the frame.
    start: usize,
    /// The end of the segment; what follows is padding.
    end: usize,
    /// The offset of the checksum field from `start`.
    offset: usize,
    /// The sum of the pseudo-header.
    pseudo: u16,
}

/// Finds the TCP or UDP segment of a frame; `None` for other protocols, fragments and malformed or truncated frames.
fn transport(frame: &[u8]) -> Option<Transport> {
    let kind = u16::from_be_bytes(*frame.get(12..)?.first_chunk()?);
    let ip = frame.get(ETHERNET_LEN..)?;
    let (protocol, header, total, addresses) = match kind {
        0x0800 => {
            let header = usize::from(ip.first()? & 0xf).wrapping_mul(4);
            let total = usize::from(u16::from_be_bytes(*ip.get(2..)?.first_chunk()?));
            // The checksum covers the whole datagram, not a fragment of it.
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
    let pseudo = combine(&[data(addresses), u16::from(protocol), u16::try_from(len).ok()?]);
    Some(Transport { start, end, offset, pseudo })
}

/// Stores the sum of the pseudo-header in the checksum field, for the device to complete; `None` when the frame is not TCP or
/// UDP, and is then unchanged.
pub(crate) fn prepare(frame: &mut [u8]) -> Option<ChecksumRange> {
    let Transport { start, offset, pseudo, .. } = transport(frame)?;
    let at = start.wrapping_add(offset);
    *frame.get_mut(at..)?.first_chunk_mut()? = pseudo.to_be_bytes();
    Some(ChecksumRange { start: u16::try_from(start).ok()?, offset: offset as u16 })
}

/// Whether the TCP or UDP checksum of a received frame is valid; `true` for frames without one.
pub(crate) fn is_valid(frame: &[u8], known: RxChecksum) -> bool {
    if known != RxChecksum::Unknown {
        return true;
    }
    let Some(Transport { start, end, offset, pseudo }) = transport(frame) else { return true };
    let Some(bytes) = frame.get(start..end) else { return true };
    // RFC 768: a UDP checksum of zero over IPv4 means that there is none.
    let is_absent = offset == 6 && bytes.get(6..8) == Some(&[0, 0]) && frame.get(12..14) == Some(&[8, 0]);
    is_absent || combine(&[pseudo, data(bytes)]) == 0xffff
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    /// A UDP datagram over IPv4 with its checksum computed word by word as RFC 768 describes.
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
    fn only_a_correct_checksum_is_valid() {
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
        let complete = !data(&frame[usize::from(range.start)..]);
        assert_eq!(complete.to_be_bytes(), whole[40..42]);
    }

    #[test]
    fn frames_other_than_tcp_and_udp_are_unchanged() {
        let mut short = datagram(b"xyz");
        for end in 0..short.len() {
            assert!(prepare(&mut short.clone()[..end]).is_none(), "{end}");
        }
        short[12] = 0;
        assert!(prepare(&mut short).is_none());
        assert!(is_valid(&short, RxChecksum::Unknown));
    }
}

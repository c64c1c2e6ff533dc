//! The RNDIS header of a frame that is sent, and the changes that offloads need in the frame's own headers.

use crate::rndis::vlan_word;
use hyperv_bindings::rndis::{
    RNDIS_OFFSET_BASE, RndisHeader, RndisInfo, RndisInfoType, RndisInfoWord, RndisMessageType, RndisPacket,
    RndisTxChecksumFlags,
};
use paravirt_device::{ChecksumRange, Offloads, Rejected, SegmentKind, TxMeta, without_length};
use zerocopy::IntoBytes;

/// Bytes reserved ahead of a frame in a section or a bounce slot: the RNDIS header, checksum or segmentation information, a VLAN
/// tag, and padding to a multiple of 8.
pub(crate) const HEADROOM: usize = 80;
/// Alignment of messages in a packet, in bytes: what every host asks for in its answer to INITIALIZE.
pub(crate) const ALIGNMENT: usize = 8;
/// Bytes of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;
const ETHERTYPE: usize = 12;
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
/// Offsets of the checksum in TCP and UDP headers.
const TCP_CHECKSUM: u16 = 16;
const UDP_CHECKSUM: u16 = 6;
/// Offset of the L4 header in a frame whose IP header has no options or extensions.
const BEHIND_IPV4: u16 = 34;
const BEHIND_IPV6: u16 = 54;
/// Flags of the LSO information: version 2, IPv6.
const LSO2: u32 = 1 << 30;
const LSO_IPV6: u32 = 1 << 31;
/// The largest MSS and header offset that the information has bits for.
const MAX_MSS: u32 = 0xf_ffff;
const MAX_OFFSET: u16 = 0x3ff;

/// Where the bytes of a frame are.
pub(crate) enum FrameBytes<'a> {
    /// In a section or a bounce slot of the driver, behind [`HEADROOM`] bytes.
    Slot(&'a mut [u8]),
    /// In memory of the caller, which is named by address: the driver does not see the bytes.
    Caller,
}

/// The header of a packet message. [MS-RNDIS] 2.2.14
pub(crate) struct Header {
    bytes: [u8; HEADROOM],
    len: usize,
    message_len: usize,
}

impl Header {
    /// Makes the header of a frame of `len` bytes, and changes the frame where the host is to segment it. The frame begins
    /// [`HEADROOM`] bytes into the message where it is in a slot, else directly behind the header.
    pub fn new(
        len: usize,
        meta: &TxMeta,
        offloads: Offloads,
        max_frame: usize,
        frame: FrameBytes<'_>,
    ) -> Result<Self, Rejected> {
        if len < ETHERNET || len > max_frame {
            return Err(Rejected::Invalid);
        }
        let gap = matches!(frame, FrameBytes::Slot(_));
        let data_length = u32::try_from(len).map_err(|_| Rejected::Invalid)?;
        let offload = offload(meta, offloads, frame)?;
        let vlan = meta.vlan.map(|tag| word(RndisInfoType::VLAN, vlan_word(tag.0)));
        let mut this = Self { bytes: [0; HEADROOM], len: size_of::<RndisPacket>(), message_len: 0 };
        offload.iter().chain(&vlan).for_each(|info| this.push(info.as_bytes()));
        let info_length = this.len.saturating_sub(size_of::<RndisPacket>()) as u32;
        let start = if gap { HEADROOM } else { this.len };
        let message = start.saturating_add(len).next_multiple_of(ALIGNMENT);
        // A message from memory of the caller ends with the frame.
        let message = if gap { message } else { start.saturating_add(len) };
        this.message_len = message;
        let packet = RndisPacket {
            header: RndisHeader {
                message_type: RndisMessageType::PACKET,
                message_length: u32::try_from(message).map_err(|_| Rejected::Invalid)?,
            },
            data_offset: (start as u32).wrapping_sub(RNDIS_OFFSET_BASE),
            data_length,
            oob_offset: 0,
            oob_length: 0,
            oob_count: 0,
            info_offset: if info_length > 0 { INFO_OFFSET } else { 0 },
            info_length,
            vc_handle: 0,
            reserved: 0,
        };
        this.bytes.iter_mut().zip(packet.as_bytes()).for_each(|(to, from)| *to = *from);
        Ok(this)
    }

    fn push(&mut self, bytes: &[u8]) {
        let room = self.bytes.get_mut(self.len..).unwrap_or_default();
        room.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        self.len = self.len.saturating_add(bytes.len());
    }

    /// The header, with zeros behind it up to [`HEADROOM`] bytes.
    pub fn padded(&self) -> &[u8; HEADROOM] {
        &self.bytes
    }

    /// The bytes of the header alone.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes of the whole message: the header, the gap behind it, the frame, and its padding.
    pub fn message_len(&self) -> usize {
        self.message_len
    }
}

/// Bytes of the header of a frame without per-packet information.
pub(crate) const PLAIN_HEADER_LEN: usize = size_of::<RndisPacket>();

/// The header of a frame of `len` bytes without per-packet information, [`HEADROOM`] bytes into a message of `message_len`.
#[inline(always)]
pub(crate) fn plain_header(message_len: u32, len: u32) -> [u8; PLAIN_HEADER_LEN] {
    const DATA_OFFSET: u32 = HEADROOM as u32 - RNDIS_OFFSET_BASE;
    let packet = RndisPacket {
        header: RndisHeader { message_type: RndisMessageType::PACKET, message_length: message_len },
        data_offset: DATA_OFFSET,
        data_length: len,
        oob_offset: 0,
        oob_length: 0,
        oob_count: 0,
        info_offset: 0,
        info_length: 0,
        vc_handle: 0,
        reserved: 0,
    };
    zerocopy::transmute!(packet)
}

/// Offset of the per-packet information, counted from behind the message header.
const INFO_OFFSET: u32 = size_of::<RndisPacket>() as u32 - RNDIS_OFFSET_BASE;
const _: () = assert!(size_of::<RndisPacket>() + 2 * size_of::<RndisInfoWord>() <= HEADROOM);

fn word(info_type: RndisInfoType, value: u32) -> RndisInfoWord {
    let size = size_of::<RndisInfoWord>() as u32;
    let offset = size_of::<RndisInfo>() as u32;
    RndisInfoWord { info: RndisInfo { size, info_type, offset }, value }
}

/// Whether a frame is IPv6 (`true`) or IPv4; `None` where it is neither, or unknown.
fn is_ipv6(frame: &FrameBytes<'_>, start: u16) -> Option<bool> {
    match frame {
        FrameBytes::Slot(bytes) => match *bytes.get(ETHERTYPE..)?.first_chunk()? {
            IPV4 => Some(false),
            IPV6 => Some(true),
            _ => None,
        },
        // Only the length of the IP header tells.
        FrameBytes::Caller => match start {
            BEHIND_IPV4 => Some(false),
            BEHIND_IPV6 => Some(true),
            _ => None,
        },
    }
}

/// The per-packet information for the offload that `meta` asks for, if any.
fn offload(
    meta: &TxMeta,
    offloads: Offloads,
    frame: FrameBytes<'_>,
) -> Result<Option<RndisInfoWord>, Rejected> {
    let Some(checksum) = meta.checksum else {
        return if meta.segmentation.is_some() { Err(Rejected::Invalid) } else { Ok(None) };
    };
    let ChecksumRange { start, offset } = checksum;
    if start > MAX_OFFSET || usize::from(start) < ETHERNET {
        return Err(Rejected::Invalid);
    }
    let Some(segmentation) = meta.segmentation else {
        if !offloads.contains(Offloads::TX_CHECKSUM) {
            return Err(Rejected::Unsupported);
        }
        let ip = match is_ipv6(&frame, start).ok_or(Rejected::Unsupported)? {
            true => RndisTxChecksumFlags::IPV6,
            false => RndisTxChecksumFlags::IPV4,
        };
        let l4 = match offset {
            TCP_CHECKSUM => RndisTxChecksumFlags::TCP,
            UDP_CHECKSUM => RndisTxChecksumFlags::UDP,
            _ => return Err(Rejected::Unsupported),
        };
        let value = (ip | l4).bits() | u32::from(start) << 16;
        return Ok(Some(word(RndisInfoType::CHECKSUM, value)));
    };
    let (needed, is_ipv6) = match segmentation.kind {
        SegmentKind::Tcp4 => (Offloads::TX_TCP4, false),
        SegmentKind::Tcp6 => (Offloads::TX_TCP6, true),
        _ => return Err(Rejected::Unsupported),
    };
    // Lengths in the frame's headers have to be cleared, which the driver may not do in memory of the caller.
    let FrameBytes::Slot(bytes) = frame else { return Err(Rejected::Unsupported) };
    let mss = u32::from(segmentation.size);
    if !offloads.contains(needed) || offset != TCP_CHECKSUM || mss == 0 || mss > MAX_MSS {
        return Err(if mss == 0 { Rejected::Invalid } else { Rejected::Unsupported });
    }
    clear_lengths(bytes, start, is_ipv6).ok_or(Rejected::Invalid)?;
    let value = mss | u32::from(start) << 20 | LSO2 | if is_ipv6 { LSO_IPV6 } else { 0 };
    Ok(Some(word(RndisInfoType::LSO, value)))
}

/// Clears the lengths in the headers of a frame that the host segments, as NDIS wants it: in the IP header, and in the sum of
/// the TCP pseudo-header.
fn clear_lengths(frame: &mut [u8], start: u16, is_ipv6: bool) -> Option<()> {
    let ip = frame.get_mut(ETHERNET..)?;
    if is_ipv6 {
        ip.get_mut(4..6)?.fill(0);
    } else {
        ip.get_mut(2..4)?.fill(0);
        ip.get_mut(10..12)?.fill(0);
    }
    without_length(frame, ChecksumRange { start, offset: TCP_CHECKSUM })
}

#[cfg(test)]
mod tests {
    use super::*;
    use paravirt_device::{Segmentation, VlanTag};
    use std::vec;

    const ALL: Offloads = Offloads::all();

    fn words(header: &Header) -> std::vec::Vec<u32> {
        header.padded().chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    #[test]
    fn a_plain_frame_has_a_plain_header() {
        let mut frame = vec![0; 60];
        let header = Header::new(60, &TxMeta::default(), ALL, 1514, FrameBytes::Slot(&mut frame)).unwrap();
        assert_eq!(words(&header)[..11], [1, 144, 72, 60, 0, 0, 0, 0, 0, 0, 0]);
        let header = Header::new(61, &TxMeta::default(), ALL, 1514, FrameBytes::Caller).unwrap();
        assert_eq!((header.len(), &words(&header)[..4]), (44, &[1, 105, 36, 61][..]));
        let refused = |len| Header::new(len, &TxMeta::default(), ALL, 1514, FrameBytes::Caller).err();
        assert_eq!((refused(13), refused(1515)), (Some(Rejected::Invalid), Some(Rejected::Invalid)));
    }

    #[test]
    fn checksum_and_vlan_information_follows_the_header() {
        let mut frame = vec![0; 60];
        frame[12..14].copy_from_slice(&IPV6);
        let checksum = ChecksumRange { start: 54, offset: 6 };
        let meta = TxMeta::new().with_checksum(checksum).with_vlan(VlanTag(3));
        let header = Header::new(60, &meta, ALL, 1514, FrameBytes::Slot(&mut frame)).unwrap();
        assert_eq!(words(&header)[7..9], [36, 32]);
        assert_eq!(words(&header)[11..19], [16, 0, 12, 54 << 16 | 0b1010, 16, 6, 12, 0x30]);
        let caller = Header::new(60, &meta, ALL, 1514, FrameBytes::Caller).unwrap();
        assert_eq!((caller.len(), words(&caller)[2]), (76, 68));
        let odd = meta.with_checksum(ChecksumRange { start: 58, offset: 6 });
        assert_eq!(Header::new(60, &odd, ALL, 1514, FrameBytes::Caller).err(), Some(Rejected::Unsupported));
        let without = ALL.difference(Offloads::TX_CHECKSUM);
        assert_eq!(
            Header::new(60, &meta, without, 1514, FrameBytes::Caller).err(),
            Some(Rejected::Unsupported)
        );
    }

    #[test]
    fn lengths_are_cleared_in_a_frame_that_the_host_segments() {
        let mut frame = vec![0; 4054];
        frame[12..14].copy_from_slice(&IPV4);
        frame[16..18].copy_from_slice(&4040u16.to_be_bytes());
        frame[24..26].copy_from_slice(&[9, 9]);
        // The sum of a pseudo-header: addresses and protocol, and the length of 4020.
        frame[50..52].copy_from_slice(&(0x1234u16 + 4020).to_be_bytes());
        let meta = TxMeta::new()
            .with_checksum(ChecksumRange { start: 34, offset: 16 })
            .with_segmentation(Segmentation { kind: SegmentKind::Tcp4, size: 1460, headers: 54 });
        let header = Header::new(4054, &meta, ALL, 65000, FrameBytes::Slot(&mut frame)).unwrap();
        assert_eq!(words(&header)[11..15], [16, 2, 12, 1460 | 34 << 20 | 1 << 30]);
        assert_eq!(
            (&frame[16..18], &frame[24..26], &frame[50..52]),
            (&[0; 2][..], &[0; 2][..], &[0x12, 0x34][..])
        );
        assert_eq!(
            Header::new(4054, &meta, ALL, 65000, FrameBytes::Caller).err(),
            Some(Rejected::Unsupported)
        );
    }
}

//! RNDIS messages of the host, parsed by total functions. [MS-RNDIS] 2.2

use hyperv_bindings::rndis::{
    RNDIS_OFFSET_BASE, RndisComplete, RndisHeader, RndisIndicateStatus, RndisInfo, RndisInfoType,
    RndisInitializeComplete, RndisMessageType, RndisPacket, RndisPacketIdFlags, RndisQueryComplete,
    RndisRequest, RndisRxChecksumFlags, RndisStatus,
};
use zerocopy::FromBytes;

pub use crate::message::Malformed;

fn read<T: FromBytes>(bytes: &[u8]) -> Result<T, Malformed> {
    T::read_from_prefix(bytes).map(|(value, _)| value).map_err(|_| Malformed)
}

/// Converts an offset that counts from behind the message header to one from the beginning of the message.
fn absolute(offset: u32) -> Result<u32, Malformed> {
    offset.checked_add(RNDIS_OFFSET_BASE).ok_or(Malformed)
}

/// The position of a frame and of its per-packet information in a message. [MS-RNDIS] 2.2.14
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct FrameHeader {
    /// The offset of the frame from the beginning of the message, in bytes.
    pub offset: u32,
    /// The length of the frame in bytes.
    pub len: u32,
    /// The offset of the per-packet information from the beginning of the message, in bytes; 0 where there is none.
    pub info_offset: u32,
    /// The length of the per-packet information in bytes.
    pub info_len: u32,
}

impl FrameHeader {
    /// The length of the fixed part of a packet message in bytes.
    pub const LEN: usize = size_of::<RndisPacket>();

    /// Parses the head of a packet message. `room` is the length of the memory that the message lies in, in bytes; the length in
    /// its header is not used.
    ///
    /// # Errors
    ///
    /// [`Malformed`] where it is another message, or the frame or its information is not inside `room`.
    #[inline]
    pub fn parse(bytes: &[u8], room: u32) -> Result<Self, Malformed> {
        let packet: RndisPacket = read(bytes)?;
        let offset = absolute(packet.data_offset)?;
        let is_inside = |offset: u32, len: u32| offset.checked_add(len).is_some_and(|end| end <= room);
        let (len, info_len) = (packet.data_length, packet.info_length);
        if packet.header.message_type != RndisMessageType::PACKET || !is_inside(offset, len) {
            return Err(Malformed);
        }
        // Without information its offset means nothing.
        if info_len == 0 {
            return Ok(Self { offset, len, info_offset: 0, info_len });
        }
        let info_offset = absolute(packet.info_offset)?;
        if !is_inside(info_offset, info_len) {
            return Err(Malformed);
        }
        Ok(Self { offset, len, info_offset, info_len })
    }
}

/// The per-packet information of a frame. [MS-RNDIS] 2.2.18
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct FrameInfo {
    /// The checksum information: which checksums the host has verified.
    pub checksum: Option<u32>,
    /// The VLAN tag in the bit order of RNDIS: see [`tag`](Self::tag).
    pub vlan: Option<u32>,
    /// The place of the frame in a coalesced one.
    pub part: Option<RndisPacketIdFlags>,
}

impl FrameInfo {
    /// Parses the entries of per-packet information. Unknown types are ignored.
    ///
    /// # Errors
    ///
    /// [`Malformed`] where an entry is longer than what is left, or a known one too short.
    #[inline]
    pub fn parse(mut bytes: &[u8]) -> Result<Self, Malformed> {
        let mut found = Self::default();
        while !bytes.is_empty() {
            let info: RndisInfo = read(bytes)?;
            let size = usize::try_from(info.size).map_err(|_| Malformed)?;
            if size < size_of::<RndisInfo>() {
                return Err(Malformed);
            }
            let (entry, rest) = bytes.split_at_checked(size).ok_or(Malformed)?;
            bytes = rest;
            let data = || {
                let offset = usize::try_from(info.offset).map_err(|_| Malformed)?;
                entry.get(offset..).ok_or(Malformed)
            };
            match info.info_type {
                RndisInfoType::CHECKSUM => found.checksum = Some(read(data()?)?),
                RndisInfoType::VLAN => found.vlan = Some(read(data()?)?),
                RndisInfoType::PACKET_ID => {
                    let [_, flags]: [u8; 2] = read(data()?)?;
                    found.part = Some(RndisPacketIdFlags::from_bits_truncate(flags));
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// Whether the host has verified the TCP or UDP checksum, and no IP checksum failed.
    pub fn is_verified(&self) -> bool {
        let flags = RndisRxChecksumFlags::from_bits_truncate(self.checksum.unwrap_or(0));
        flags.intersects(RndisRxChecksumFlags::TCP_SUCCEEDED | RndisRxChecksumFlags::UDP_SUCCEEDED)
            && !flags.intersects(RndisRxChecksumFlags::IP_FAILED)
    }

    /// Whether the host has found the IPv4 checksum right, and has changed the header since without computing it again, as for a coalesced
    /// frame.
    pub fn lacks_ip_checksum(&self) -> bool {
        let flags = RndisRxChecksumFlags::from_bits_truncate(self.checksum.unwrap_or(0));
        flags.contains(RndisRxChecksumFlags::IP_VALUE_INVALID | RndisRxChecksumFlags::IP_SUCCEEDED)
    }

    /// The VLAN tag in the bit order of IEEE 802.1Q. RNDIS has priority, CFI and id in the opposite order.
    pub fn tag(&self) -> Option<u16> {
        self.vlan.map(|word| {
            let (priority, cfi, id) = (word & 7, word >> 3 & 1, word >> 4 & 0xfff);
            (priority << 13 | cfi << 12 | id) as u16
        })
    }
}

/// Converts a VLAN tag of IEEE 802.1Q to the bit order of RNDIS.
pub fn vlan_word(tag: u16) -> u32 {
    let tag = u32::from(tag);
    tag >> 13 | (tag >> 12 & 1) << 3 | (tag & 0xfff) << 4
}

/// A control message: one that carries no frame.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Control {
    /// The answer to INITIALIZE. [MS-RNDIS] 2.2.10
    Initialized(RndisInitializeComplete),
    /// The answer to a query or to a set request. [MS-RNDIS] 2.2.11, 2.2.12
    Completed {
        /// The id of the request.
        request: u32,
        /// The result of the request.
        status: RndisStatus,
        /// The offset of the answer in the message and its length, in bytes; (0, 0) where there is none.
        info: (u32, u32),
    },
    /// A status indication: something has changed. [MS-RNDIS] 2.2.7
    Indicated(RndisStatus),
    /// A keep-alive request, with its id. [MS-RNDIS] 2.2.8
    KeepAlive(u32),
    /// An unknown message type.
    Other(u32),
}

impl Control {
    /// Parses a control message.
    ///
    /// # Errors
    ///
    /// [`Malformed`] where it is shorter than its type or its header says, or its answer is not inside.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let header: RndisHeader = read(bytes)?;
        let len = usize::try_from(header.message_length).map_err(|_| Malformed)?;
        let bytes = bytes.get(..len).ok_or(Malformed)?;
        Ok(match header.message_type {
            RndisMessageType::INITIALIZE_COMPLETE => Self::Initialized(read(bytes)?),
            RndisMessageType::QUERY_COMPLETE => {
                let answer: RndisQueryComplete = read(bytes)?;
                let info = match answer.info_length {
                    0 => (0, 0),
                    length => (absolute(answer.info_offset)?, length),
                };
                let end = info.0.checked_add(info.1).ok_or(Malformed)?;
                if end > header.message_length {
                    return Err(Malformed);
                }
                Self::Completed { request: answer.request_id, status: answer.status, info }
            }
            RndisMessageType::SET_COMPLETE => {
                let RndisComplete { request_id, status, .. } = read(bytes)?;
                Self::Completed { request: request_id, status, info: (0, 0) }
            }
            RndisMessageType::INDICATE_STATUS => Self::Indicated(read::<RndisIndicateStatus>(bytes)?.status),
            RndisMessageType::KEEPALIVE => Self::KeepAlive(read::<RndisRequest>(bytes)?.request_id),
            RndisMessageType(other) => Self::Other(other),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn a_frame_outside_its_message_is_malformed() {
        let packet = |data: [u32; 2], info: [u32; 2]| {
            words(&[1, 200, data[0], data[1], 0, 0, 0, info[0], info[1], 0, 0])
        };
        let bytes = packet([60, 100], [36, 16]);
        let expected = FrameHeader { offset: 68, len: 100, info_offset: 44, info_len: 16 };
        assert_eq!(FrameHeader::parse(&bytes, 168), Ok(expected));
        assert_eq!(FrameHeader::parse(&bytes, 167), Err(Malformed));
        assert_eq!(FrameHeader::parse(&packet([u32::MAX, 1], [0, 0]), 1000), Err(Malformed));
        assert_eq!(FrameHeader::parse(&packet([60, u32::MAX], [0, 0]), 1000), Err(Malformed));
        assert_eq!(FrameHeader::parse(&packet([60, 1], [36, u32::MAX]), 1000), Err(Malformed));
        assert_eq!(FrameHeader::parse(&bytes[..43], 168), Err(Malformed));
    }

    #[test]
    fn known_packet_information_is_parsed_and_unknown_ignored() {
        let bytes = words(&[16, 0, 12, 8, 16, 77, 12, 0, 16, 6, 12, 0x1235]);
        let info = FrameInfo::parse(&bytes).expect("well-formed");
        assert!(info.is_verified());
        // Priority 5, id 0x123.
        assert_eq!(info.tag(), Some(5 << 13 | 0x123));
        assert_eq!(vlan_word(5 << 13 | 0x123), 0x1235);
        assert_eq!(vlan_word(1 << 12), 8);
        let part = words(&[16, 0x8000_0001, 12, 0x0301]);
        let flags = RndisPacketIdFlags::FIRST | RndisPacketIdFlags::SUBALLOCATION;
        assert_eq!(FrameInfo::parse(&part).expect("well-formed").part, Some(flags));
        for bad in [&[0u32, 0, 12][..], &[11, 0, 0, 0], &[20, 0, 12, 0], &[16, 0, 16, 0], &[16, 0, 17, 0]] {
            assert_eq!(FrameInfo::parse(&words(bad)), Err(Malformed), "{bad:?}");
        }
    }

    #[test]
    fn an_answer_outside_its_message_is_malformed() {
        let bytes = words(&[0x8000_0004, 32, 7, 0, 8, 16, 1, 2]);
        let info = (24, 8);
        let expected = Control::Completed { request: 7, status: RndisStatus::SUCCESS, info };
        assert_eq!(Control::parse(&bytes), Ok(expected));
        assert_eq!(Control::parse(&words(&[0x8000_0004, 32, 7, 0, 9, 16, 1, 2])), Err(Malformed));
        assert_eq!(Control::parse(&words(&[0x8000_0004, 33, 7, 0, 8, 16, 1, 2])), Err(Malformed));
        assert_eq!(Control::parse(&words(&[8, 12, 5])), Ok(Control::KeepAlive(5)));
        assert_eq!(
            Control::parse(&words(&[7, 20, 0x4001_000b, 0, 0])),
            Ok(Control::Indicated(RndisStatus::MEDIA_CONNECT))
        );
        assert_eq!(Control::parse(&[0; 7]), Err(Malformed));
    }
}

//! NVSP messages of the host, parsed by total functions.
//!
//! NVSP has no published specification; each message is as OpenVMM's netvsp (MIT) defines it.

use hyperv_bindings::netvsp::{
    NVSP_SEND_TABLE_COUNT, NVSP_SEND_TABLE_OFFSET_V6, NvspChannelType, NvspIndirectionTable,
    NvspInitComplete, NvspMessageType, NvspReceiveBufferComplete, NvspSendBufferComplete,
    NvspSendRndisPacket, NvspSendRndisPacketComplete, NvspStatus, NvspSubchannelComplete, NvspVersion,
    NvspVfAssociation,
};
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// Entries of the send indirection table.
pub const SEND_TABLE: usize = NVSP_SEND_TABLE_COUNT as usize;
/// Length from which a message of a host up to NVSP 6 has the table at a fixed offset, whatever offset it states.
const LONG_TABLE: usize = 4 + NVSP_SEND_TABLE_OFFSET_V6 as usize - 4 + SEND_TABLE * 4;

/// An NVSP message of the host.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum HostMessage {
    /// The answer to a version proposal.
    InitComplete(NvspInitComplete),
    /// The answer to the receive buffer: how the host divides it.
    ReceiveBuffer(NvspReceiveBufferComplete),
    /// The answer to the send buffer: the size of its sections.
    SendBuffer(NvspSendBufferComplete),
    /// RNDIS messages come with this packet: data, or control.
    Rndis(NvspChannelType),
    /// The host has processed the RNDIS messages of a packet.
    RndisComplete(NvspStatus),
    /// The answer to a request for subchannels: how many the host offers.
    Subchannels(NvspStatus, u32),
    /// The send indirection table: which channel to send on, by hash.
    SendTable([u32; SEND_TABLE]),
    /// A virtual function (VF) was attached to the device, or detached.
    VfAssociation {
        /// Whether it is attached now.
        is_attached: bool,
        /// The serial number of the VF on the virtual PCI bus.
        serial: u32,
    },
    /// An unknown message type.
    Other(u32),
}

/// A message that is shorter than its type or its own lengths say.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Malformed;

/// The beginning of [`NvspSendRndisPacket`], which is all that a host has to send of it: a section is named by guests only.
#[repr(C)]
#[derive(Copy, Clone, FromBytes, Immutable, KnownLayout)]
struct NvspRndisHead {
    message_type: NvspMessageType,
    channel_type: NvspChannelType,
}

fn read<T: FromBytes>(bytes: &[u8]) -> Result<T, Malformed> {
    T::read_from_prefix(bytes).map(|(value, _)| value).map_err(|_| Malformed)
}

impl HostMessage {
    /// The channel type of the message that a packet with RNDIS messages carries: of [`Rndis`](Self::Rndis).
    ///
    /// # Errors
    ///
    /// [`Malformed`] where it is another message, or too short.
    #[inline(always)]
    pub fn rndis_channel(bytes: &[u8]) -> Result<NvspChannelType, Malformed> {
        let NvspRndisHead { message_type, channel_type } = read(bytes)?;
        if message_type == NvspMessageType::SEND_RNDIS_PACKET { Ok(channel_type) } else { Err(Malformed) }
    }

    /// Parses a message of a host with which `version` was negotiated.
    ///
    /// # Errors
    ///
    /// [`Malformed`] where it is too short for its type, or its table is not inside.
    pub fn parse(bytes: &[u8], version: NvspVersion) -> Result<Self, Malformed> {
        let kind: NvspMessageType = read(bytes)?;
        Ok(match kind {
            NvspMessageType::INIT_COMPLETE => Self::InitComplete(read(bytes)?),
            NvspMessageType::SEND_RECEIVE_BUFFER_COMPLETE => Self::ReceiveBuffer(read(bytes)?),
            NvspMessageType::SEND_SEND_BUFFER_COMPLETE => Self::SendBuffer(read(bytes)?),
            NvspMessageType::SEND_RNDIS_PACKET => Self::Rndis(read::<NvspRndisHead>(bytes)?.channel_type),
            NvspMessageType::SEND_RNDIS_PACKET_COMPLETE => {
                Self::RndisComplete(read::<NvspSendRndisPacketComplete>(bytes)?.status)
            }
            NvspMessageType::SUBCHANNEL => {
                let NvspSubchannelComplete { status, count, .. } = read(bytes)?;
                Self::Subchannels(status, count)
            }
            NvspMessageType::SEND_VF_ASSOCIATION => {
                let NvspVfAssociation { is_allocated, serial, .. } = read(bytes)?;
                Self::VfAssociation { is_attached: is_allocated != 0, serial }
            }
            NvspMessageType::SEND_INDIRECTION_TABLE => {
                let NvspIndirectionTable { count, offset, .. } = read(bytes)?;
                // Some hosts up to NVSP 6 state the wrong offset.
                let is_fixed = version <= NvspVersion::V6 && bytes.len() >= LONG_TABLE;
                let offset = if is_fixed { NVSP_SEND_TABLE_OFFSET_V6 } else { offset };
                let table = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
                match table.map(read) {
                    Some(Ok(table)) if count == NVSP_SEND_TABLE_COUNT => Self::SendTable(table),
                    _ => return Err(Malformed),
                }
            }
            NvspMessageType(other) => Self::Other(other),
        })
    }
}

const _: () = assert!(size_of::<NvspSendRndisPacket>() == 40);

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn short_messages_are_malformed() {
        let parse = |bytes: &[u8]| HostMessage::parse(bytes, NvspVersion::V61);
        assert_eq!(parse(&words(&[107, 1])), Ok(HostMessage::Rndis(NvspChannelType::CONTROL)));
        assert_eq!(parse(&words(&[108, 1])), Ok(HostMessage::RndisComplete(NvspStatus::SUCCESS)));
        assert_eq!(parse(&words(&[108])), Err(Malformed));
        assert_eq!(parse(&words(&[130, 7])), Ok(HostMessage::Other(130)));
        assert_eq!(
            parse(&words(&[128, 1, 9])),
            Ok(HostMessage::VfAssociation { is_attached: true, serial: 9 })
        );
        assert_eq!(parse(&[]), Err(Malformed));
    }

    #[test]
    fn the_send_table_of_hosts_up_to_version_6_is_at_a_fixed_offset() {
        let table: Vec<u32> = (0..16).collect();
        let message = words(&[&[134, 16, 12], &table[..]].concat());
        let expected = HostMessage::SendTable(core::array::from_fn(|at| at as u32));
        assert_eq!(HostMessage::parse(&message, NvspVersion::V61), Ok(expected));
        assert_eq!(HostMessage::parse(&message, NvspVersion::V5), Ok(expected));
        // A host up to NVSP 6 that states 12 and means 40.
        let message = words(&[&[134, 16, 12, 0, 0, 0, 0, 0, 0, 0], &table[..]].concat());
        assert_eq!(HostMessage::parse(&message, NvspVersion::V6), Ok(expected));
        assert_eq!(HostMessage::parse(&words(&[134, 16, 80]), NvspVersion::V61), Err(Malformed));
        assert_eq!(HostMessage::parse(&words(&[134, 15, 12, 0]), NvspVersion::V61), Err(Malformed));
    }
}

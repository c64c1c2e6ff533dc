//! Messages of the host, parsed by total functions.

use hyperv_bindings::dynmem::{
    DmBalloon, DmCapabilitiesResponse, DmCapabilityResponseFlags, DmHeader, DmHotAdd, DmMessageType,
    DmUnballoon, DmVersionResponse,
};
use paravirt_device::PageRange;
use zerocopy::FromBytes;

/// A range in a message: the frame number of its first page in bits 39:0, its pages in bits 63:40.
const FRAME_BITS: u32 = 40;
/// Pages of a range, at most.
pub(crate) const MAX_RANGE_PAGES: u64 = (1 << (64 - FRAME_BITS)) - 1;

/// The page ranges in a message.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Ranges<'a>(&'a [u8]);

impl Ranges<'_> {
    /// The ranges, in the order of the message.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = PageRange> + '_ {
        self.0.chunks_exact(8).map(|range| unpack(range.first_chunk().copied().map_or(0, u64::from_le_bytes)))
    }
}

fn unpack(range: u64) -> PageRange {
    PageRange { first: range & ((1 << FRAME_BITS) - 1), count: range >> FRAME_BITS }
}

/// Encodes a range for a message.
pub(crate) fn pack(range: PageRange) -> u64 {
    range.first | range.count << FRAME_BITS
}

/// A message of the host.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum HostMessage<'a> {
    /// The answer to a version proposal.
    Version {
        /// Whether the host speaks it.
        is_accepted: bool,
    },
    /// The answer to the guest's capabilities.
    Capabilities {
        /// Whether the host accepts them.
        is_accepted: bool,
        /// Whether the host wants no pressure reports.
        suppresses_reports: bool,
    },
    /// The host asks for pages.
    Balloon {
        /// The transaction id, which the answer carries.
        transaction: u32,
        /// How many pages of 4096 bytes.
        pages: u32,
    },
    /// The host returns pages.
    Unballoon {
        /// The transaction id, which the answer carries.
        transaction: u32,
        /// Whether another message of this request follows; the answer is due after the last.
        has_more: bool,
        /// The pages that are returned.
        ranges: Ranges<'a>,
    },
    /// The host adds memory.
    HotAdd {
        /// The transaction id, which the answer carries.
        transaction: u32,
        /// The memory that is added.
        range: PageRange,
    },
    /// Information about the host, such as its largest page count.
    Info,
    /// An unknown message type.
    Other(DmMessageType),
}

/// A message that is shorter than its header or its type says, with its type.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Malformed(pub DmMessageType);

fn read<T: FromBytes>(bytes: &[u8], short: Malformed) -> Result<(T, &[u8]), Malformed> {
    T::read_from_prefix(bytes).map_err(|_| short)
}

impl<'a> HostMessage<'a> {
    /// Parses a packet's payload, which may be padded.
    ///
    /// # Errors
    ///
    /// [`Malformed`] where it is shorter than its header or its type says.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, _): (DmHeader, _) = read(bytes, Malformed(DmMessageType(0)))?;
        let DmHeader { message_type, size, transaction_id: transaction } = header;
        let short = Malformed(message_type);
        let bytes = bytes.get(..usize::from(size)).ok_or(short)?;
        Ok(match message_type {
            DmMessageType::VERSION_RESPONSE => {
                let (response, _): (DmVersionResponse, _) = read(bytes, short)?;
                Self::Version { is_accepted: response.is_accepted & 1 != 0 }
            }
            DmMessageType::CAPABILITIES_RESPONSE => {
                let (response, _): (DmCapabilitiesResponse, _) = read(bytes, short)?;
                let flags = DmCapabilityResponseFlags::from_bits_retain(response.flags);
                Self::Capabilities {
                    is_accepted: flags.contains(DmCapabilityResponseFlags::ACCEPTED),
                    suppresses_reports: flags.contains(DmCapabilityResponseFlags::SUPPRESS_PRESSURE_REPORTS),
                }
            }
            DmMessageType::BALLOON_REQUEST => {
                let (request, _): (DmBalloon, _) = read(bytes, short)?;
                Self::Balloon { transaction, pages: request.pages }
            }
            DmMessageType::UNBALLOON_REQUEST => {
                let (request, ranges): (DmUnballoon, _) = read(bytes, short)?;
                let len = usize::try_from(request.range_count).ok().and_then(|count| count.checked_mul(8));
                let ranges = ranges.get(..len.ok_or(short)?).ok_or(short)?;
                Self::Unballoon { transaction, has_more: request.has_more & 1 != 0, ranges: Ranges(ranges) }
            }
            DmMessageType::HOT_ADD_REQUEST => {
                let (request, _): (DmHotAdd, _) = read(bytes, short)?;
                Self::HotAdd { transaction, range: unpack(request.range) }
            }
            DmMessageType::INFO => Self::Info,
            other => Self::Other(other),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_as_many_as_there_is_room_for() {
        let mut bytes = [0u8; 32];
        bytes[..16].copy_from_slice(&[8, 0, 32, 0, 5, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
        bytes[16..24].copy_from_slice(&pack(PageRange { first: 0x12345, count: 3 }).to_le_bytes());
        let Ok(HostMessage::Unballoon { transaction: 5, has_more: true, ranges }) =
            HostMessage::parse(&bytes)
        else {
            panic!("no such message");
        };
        assert_eq!(ranges.iter().next(), Some(PageRange { first: 0x12345, count: 3 }));
        assert_eq!(ranges.iter().len(), 2);
        bytes[12] = 3;
        assert_eq!(HostMessage::parse(&bytes), Err(Malformed(DmMessageType::UNBALLOON_REQUEST)));
        bytes[2] = 33;
        assert!(HostMessage::parse(&bytes).is_err());
    }
}

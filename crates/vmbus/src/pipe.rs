//! The framing of services in pipe mode: a header of 8 bytes before each message. Source: `vmbus_ring` of OpenVMM (MIT).

use crate::{Channel, SendError};
use hyperv_bindings::ring::{RING_PIPE_MAXIMUM, RingPipeHeader, RingPipeType};
use paravirt_platform::Platform;
use zerocopy::{FromBytes, IntoBytes};

/// The message in a packet's payload; `None` where it is malformed, or not data.
pub fn parse(payload: &[u8]) -> Option<&[u8]> {
    let (header, data) = RingPipeHeader::read_from_prefix(payload).ok()?;
    if header.pipe_type != RingPipeType::DATA || header.byte_count > RING_PIPE_MAXIMUM {
        return None;
    }
    data.get(..usize::try_from(header.byte_count).ok()?)
}

/// Writes `message` as a packet of a service in pipe mode.
///
/// # Errors
///
/// [`SendError`]; [`SendError::Invalid`] where it is longer than 16 KiB.
pub fn send<P: Platform>(
    channel: &mut Channel<P>,
    transaction: u64,
    message: &[u8],
) -> Result<(), SendError> {
    let byte_count = u32::try_from(message.len()).ok().filter(|len| *len <= RING_PIPE_MAXIMUM);
    let header =
        RingPipeHeader { pipe_type: RingPipeType::DATA, byte_count: byte_count.ok_or(SendError::Invalid)? };
    channel.send_in_band(transaction, false, &[header.as_bytes(), message])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_as_long_as_its_header_says() {
        let packet = [1, 0, 0, 0, 3, 0, 0, 0, 7, 8, 9, 0, 0, 0, 0, 0];
        assert_eq!(parse(&packet), Some(&[7, 8, 9][..]));
        assert_eq!(parse(&packet[..10]), None);
        assert_eq!(parse(&[2, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}

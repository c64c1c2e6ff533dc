//! The header of a packet. VIRTIO 1.3 §5.10.6

/// Bytes of a header.
pub const HEADER: usize = 44;
/// The only type that is spoken: a stream. §5.10.6
pub const STREAM: u16 = 1;

/// What a packet is. §5.10.6
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Op(pub u16);

impl Op {
    /// Wants a connection.
    pub const REQUEST: Self = Self(1);
    /// Grants one.
    pub const RESPONSE: Self = Self(2);
    /// Ends one, or refuses it.
    pub const RESET: Self = Self(3);
    /// Says who sends or receives no more.
    pub const SHUTDOWN: Self = Self(4);
    /// Data.
    pub const DATA: Self = Self(5);
    /// Tells how much room there is.
    pub const CREDIT_UPDATE: Self = Self(6);
    /// Asks for that.
    pub const CREDIT_REQUEST: Self = Self(7);
}

/// Flags of [`Op::SHUTDOWN`]: the sender receives no more, sends no more. §5.10.6.5
pub const NO_RECEIVE: u32 = 1;
/// See there.
pub const NO_SEND: u32 = 2;

/// A header.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Packet {
    /// Who sends it: 2 is the host.
    pub from: u64,
    /// To whom.
    pub to: u64,
    /// From which port.
    pub from_port: u32,
    /// To which.
    pub to_port: u32,
    /// Bytes behind the header.
    pub len: u32,
    /// [`STREAM`].
    pub kind: u16,
    /// What it is.
    pub op: Op,
    /// Of [`Op::SHUTDOWN`].
    pub flags: u32,
    /// Bytes of room that the sender has for this stream in all.
    pub room: u32,
    /// Bytes that it has handed on, modulo 2^32.
    pub consumed: u32,
}

/// The first bytes of `rest`.
fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

impl Packet {
    /// Parses a packet; its data with it. `None` where it is shorter than it says.
    pub fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let mut rest = bytes;
        let packet = Self {
            from: u64::from_le_bytes(take(&mut rest)?),
            to: u64::from_le_bytes(take(&mut rest)?),
            from_port: u32::from_le_bytes(take(&mut rest)?),
            to_port: u32::from_le_bytes(take(&mut rest)?),
            len: u32::from_le_bytes(take(&mut rest)?),
            kind: u16::from_le_bytes(take(&mut rest)?),
            op: Op(u16::from_le_bytes(take(&mut rest)?)),
            flags: u32::from_le_bytes(take(&mut rest)?),
            room: u32::from_le_bytes(take(&mut rest)?),
            consumed: u32::from_le_bytes(take(&mut rest)?),
        };
        Some((packet, rest.get(..usize::try_from(packet.len).ok()?)?))
    }

    /// Its bytes.
    pub fn bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let words = self.from.to_le_bytes().into_iter().chain(self.to.to_le_bytes());
        let words = words.chain(self.from_port.to_le_bytes()).chain(self.to_port.to_le_bytes());
        let words = words.chain(self.len.to_le_bytes()).chain(self.kind.to_le_bytes());
        let words = words.chain(self.op.0.to_le_bytes()).chain(self.flags.to_le_bytes());
        let words = words.chain(self.room.to_le_bytes()).chain(self.consumed.to_le_bytes());
        bytes.iter_mut().zip(words).for_each(|(to, from)| *to = from);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_as_it_was() {
        let packet = Packet {
            from: 3,
            to: 2,
            from_port: 0x1234_5678,
            to_port: 9,
            len: 2,
            kind: STREAM,
            op: Op::DATA,
            flags: 7,
            room: 65536,
            consumed: u32::MAX,
        };
        let mut bytes = packet.bytes().to_vec();
        assert_eq!(Packet::parse(&bytes), None);
        bytes.extend([8, 9, 10]);
        assert_eq!(Packet::parse(&bytes), Some((packet, &[8, 9][..])));
        assert_eq!(Packet::parse(&bytes[..43]), None);
    }
}

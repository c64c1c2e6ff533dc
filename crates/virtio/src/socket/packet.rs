//! The packet header of a socket device: pure, total. VIRTIO 1.3 §5.10.6

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a header.
pub const HEADER_LEN: usize = size_of::<WireHeader>();
/// VIRTIO_VSOCK_TYPE_STREAM, the only socket type that the driver supports. VIRTIO 1.3 §5.10.6
pub const TYPE_STREAM: u16 = 1;

/// The operation of a packet: VIRTIO_VSOCK_OP_*. Values that the driver does not know are kept. VIRTIO 1.3 §5.10.6
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Op(pub u16);

impl Op {
    /// Requests a connection.
    pub const REQUEST: Self = Self(1);
    /// Accepts a connection request.
    pub const RESPONSE: Self = Self(2);
    /// Resets a connection, or refuses a request.
    pub const RESET: Self = Self(3);
    /// Announces that the sender no longer sends or no longer receives: see [`NO_RECEIVE`] and [`NO_SEND`].
    pub const SHUTDOWN: Self = Self(4);
    /// Carries data.
    pub const DATA: Self = Self(5);
    /// Announces the sender's receive credit.
    pub const CREDIT_UPDATE: Self = Self(6);
    /// Asks the peer for a [`CREDIT_UPDATE`](Self::CREDIT_UPDATE).
    pub const CREDIT_REQUEST: Self = Self(7);
}

/// Flag of [`Op::SHUTDOWN`]: the sender receives no more data. VIRTIO 1.3 §5.10.6.5
pub const NO_RECEIVE: u32 = 1;
/// Flag of [`Op::SHUTDOWN`]: the sender sends no more data. VIRTIO 1.3 §5.10.6.5
pub const NO_SEND: u32 = 2;

/// `struct virtio_vsock_hdr`. VIRTIO 1.3 §5.10.6
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct WireHeader {
    src_cid: U64,
    dst_cid: U64,
    src_port: U32,
    dst_port: U32,
    len: U32,
    kind: U16,
    op: U16,
    flags: U32,
    buf_alloc: U32,
    fwd_cnt: U32,
}

const _: () = assert!(size_of::<WireHeader>() == 44);

/// The header of a packet, in the processor's byte order.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Packet {
    /// CID of the sender; 2 is the host.
    pub src_cid: u64,
    /// CID of the receiver.
    pub dst_cid: u64,
    /// Port of the sender.
    pub src_port: u32,
    /// Port of the receiver.
    pub dst_port: u32,
    /// Bytes of data that follow the header.
    pub len: u32,
    /// Socket type, [`TYPE_STREAM`] for a stream.
    pub kind: u16,
    /// Operation.
    pub op: Op,
    /// Flags of the operation; only [`Op::SHUTDOWN`] has any.
    pub flags: u32,
    /// Bytes of the sender's receive buffer for this stream.
    pub buf_alloc: u32,
    /// Bytes that the sender has consumed of this stream, modulo 2^32.
    pub fwd_cnt: u32,
}

impl Packet {
    /// Parses the header at the start of `bytes`, and returns it with its data; `None` if `bytes` are shorter than the header and
    /// the length that it states. Bytes beyond the stated length are ignored.
    pub fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (header, rest) = WireHeader::read_from_prefix(bytes).ok()?;
        let packet = Self {
            src_cid: header.src_cid.get(),
            dst_cid: header.dst_cid.get(),
            src_port: header.src_port.get(),
            dst_port: header.dst_port.get(),
            len: header.len.get(),
            kind: header.kind.get(),
            op: Op(header.op.get()),
            flags: header.flags.get(),
            buf_alloc: header.buf_alloc.get(),
            fwd_cnt: header.fwd_cnt.get(),
        };
        Some((packet, rest.get(..usize::try_from(packet.len).ok()?)?))
    }

    /// Encodes the header.
    pub fn bytes(&self) -> [u8; HEADER_LEN] {
        zerocopy::transmute!(WireHeader {
            src_cid: self.src_cid.into(),
            dst_cid: self.dst_cid.into(),
            src_port: self.src_port.into(),
            dst_port: self.dst_port.into(),
            len: self.len.into(),
            kind: self.kind.into(),
            op: self.op.0.into(),
            flags: self.flags.into(),
            buf_alloc: self.buf_alloc.into(),
            fwd_cnt: self.fwd_cnt.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoded_header_parses_to_the_same_packet() {
        let packet = Packet {
            src_cid: 3,
            dst_cid: 2,
            src_port: 0x1234_5678,
            dst_port: 9,
            len: 2,
            kind: TYPE_STREAM,
            op: Op::DATA,
            flags: 7,
            buf_alloc: 65536,
            fwd_cnt: u32::MAX,
        };
        let mut bytes = packet.bytes().to_vec();
        assert_eq!(bytes[16..20], [0x78, 0x56, 0x34, 0x12]);
        assert_eq!(bytes[28..32], [1, 0, 5, 0]);
        assert_eq!(Packet::parse(&bytes), None);
        bytes.extend([8, 9, 10]);
        assert_eq!(Packet::parse(&bytes), Some((packet, &[8, 9][..])));
        assert_eq!(Packet::parse(&bytes[..43]), None);
    }
}

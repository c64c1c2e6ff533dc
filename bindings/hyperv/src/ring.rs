// Generated from include/ring.h by `cargo xtask bindgen`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bitflags::bitflags! {
    /// Features of a ring's producer.
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct RingFeatureFlags: u32 {
        const PENDING_SEND_SIZE = 0x1;
    }
}
bitflags::bitflags! {
    /// Flags of a packet.
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct RingPacketFlags: u16 {
        const COMPLETION_REQUESTED = 0x1;
    }
}
pub const RING_DATA_OFFSET: u32 = 4096;
pub const RING_PIPE_MAXIMUM: u32 = 16384;
#[doc = " The head of a ring's control page. Indices are bytes from the beginning of the data."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct RingControl {
    #[doc = " Written by the producer."]
    pub write_index: u32,
    #[doc = " Written by the consumer."]
    pub read_index: u32,
    #[doc = " Not 0: the consumer does not want to be signalled."]
    pub interrupt_mask: u32,
    #[doc = " Bytes of room that the producer waits for, or 0."]
    pub pending_send_size: u32,
    pub reserved: [u32; 12usize],
    pub feature_bits: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RingControl"][::core::mem::size_of::<RingControl>() - 68usize];
    ["Alignment of RingControl"][::core::mem::align_of::<RingControl>() - 4usize];
    ["Offset of field: RingControl::write_index"][::core::mem::offset_of!(RingControl, write_index) - 0usize];
    ["Offset of field: RingControl::read_index"][::core::mem::offset_of!(RingControl, read_index) - 4usize];
    ["Offset of field: RingControl::interrupt_mask"]
        [::core::mem::offset_of!(RingControl, interrupt_mask) - 8usize];
    ["Offset of field: RingControl::pending_send_size"]
        [::core::mem::offset_of!(RingControl, pending_send_size) - 12usize];
    ["Offset of field: RingControl::reserved"][::core::mem::offset_of!(RingControl, reserved) - 16usize];
    ["Offset of field: RingControl::feature_bits"]
        [::core::mem::offset_of!(RingControl, feature_bits) - 64usize];
};
impl RingPacketType {
    pub const IN_BAND: RingPacketType = RingPacketType(6);
    pub const TRANSFER_PAGES: RingPacketType = RingPacketType(7);
    pub const GPADL: RingPacketType = RingPacketType(8);
    pub const GPA_DIRECT: RingPacketType = RingPacketType(9);
    pub const CANCEL: RingPacketType = RingPacketType(10);
    pub const COMPLETION: RingPacketType = RingPacketType(11);
}
#[repr(transparent)]
#[doc = " Kinds of packets."]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct RingPacketType(pub u16);
#[doc = " The head of every packet."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct RingPacketDescriptor {
    pub packet_type: RingPacketType,
    #[doc = " Units of 8 bytes from the descriptor to the payload."]
    pub data_offset8: u16,
    #[doc = " Units of 8 bytes from the descriptor to the footer."]
    pub length8: u16,
    pub flags: u16,
    pub transaction_id: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RingPacketDescriptor"][::core::mem::size_of::<RingPacketDescriptor>() - 16usize];
    ["Alignment of RingPacketDescriptor"][::core::mem::align_of::<RingPacketDescriptor>() - 8usize];
    ["Offset of field: RingPacketDescriptor::packet_type"]
        [::core::mem::offset_of!(RingPacketDescriptor, packet_type) - 0usize];
    ["Offset of field: RingPacketDescriptor::data_offset8"]
        [::core::mem::offset_of!(RingPacketDescriptor, data_offset8) - 2usize];
    ["Offset of field: RingPacketDescriptor::length8"]
        [::core::mem::offset_of!(RingPacketDescriptor, length8) - 4usize];
    ["Offset of field: RingPacketDescriptor::flags"]
        [::core::mem::offset_of!(RingPacketDescriptor, flags) - 6usize];
    ["Offset of field: RingPacketDescriptor::transaction_id"]
        [::core::mem::offset_of!(RingPacketDescriptor, transaction_id) - 8usize];
};
#[doc = " Follows the descriptor in a packet of transfer pages; ring_transfer_page_range follow."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct RingTransferPages {
    pub set_id: u16,
    pub sender_owns_set: u8,
    pub reserved: u8,
    pub range_count: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RingTransferPages"][::core::mem::size_of::<RingTransferPages>() - 8usize];
    ["Alignment of RingTransferPages"][::core::mem::align_of::<RingTransferPages>() - 4usize];
    ["Offset of field: RingTransferPages::set_id"]
        [::core::mem::offset_of!(RingTransferPages, set_id) - 0usize];
    ["Offset of field: RingTransferPages::sender_owns_set"]
        [::core::mem::offset_of!(RingTransferPages, sender_owns_set) - 2usize];
    ["Offset of field: RingTransferPages::reserved"]
        [::core::mem::offset_of!(RingTransferPages, reserved) - 3usize];
    ["Offset of field: RingTransferPages::range_count"]
        [::core::mem::offset_of!(RingTransferPages, range_count) - 4usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct RingTransferPageRange {
    pub byte_count: u32,
    pub byte_offset: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RingTransferPageRange"][::core::mem::size_of::<RingTransferPageRange>() - 8usize];
    ["Alignment of RingTransferPageRange"][::core::mem::align_of::<RingTransferPageRange>() - 4usize];
    ["Offset of field: RingTransferPageRange::byte_count"]
        [::core::mem::offset_of!(RingTransferPageRange, byte_count) - 0usize];
    ["Offset of field: RingTransferPageRange::byte_offset"]
        [::core::mem::offset_of!(RingTransferPageRange, byte_offset) - 4usize];
};
#[doc = " Follows the descriptor in a packet of GPA ranges; ranges follow, each with its page frame numbers."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct RingGpaDirect {
    pub reserved: u32,
    pub range_count: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RingGpaDirect"][::core::mem::size_of::<RingGpaDirect>() - 8usize];
    ["Alignment of RingGpaDirect"][::core::mem::align_of::<RingGpaDirect>() - 4usize];
    ["Offset of field: RingGpaDirect::reserved"][::core::mem::offset_of!(RingGpaDirect, reserved) - 0usize];
    ["Offset of field: RingGpaDirect::range_count"]
        [::core::mem::offset_of!(RingGpaDirect, range_count) - 4usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct RingGpaRange {
    pub byte_count: u32,
    pub byte_offset: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RingGpaRange"][::core::mem::size_of::<RingGpaRange>() - 8usize];
    ["Alignment of RingGpaRange"][::core::mem::align_of::<RingGpaRange>() - 4usize];
    ["Offset of field: RingGpaRange::byte_count"][::core::mem::offset_of!(RingGpaRange, byte_count) - 0usize];
    ["Offset of field: RingGpaRange::byte_offset"]
        [::core::mem::offset_of!(RingGpaRange, byte_offset) - 4usize];
};
#[doc = " What follows a packet."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct RingFooter {
    pub reserved: u32,
    #[doc = " Where in the ring its descriptor is."]
    pub offset: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RingFooter"][::core::mem::size_of::<RingFooter>() - 8usize];
    ["Alignment of RingFooter"][::core::mem::align_of::<RingFooter>() - 4usize];
    ["Offset of field: RingFooter::reserved"][::core::mem::offset_of!(RingFooter, reserved) - 0usize];
    ["Offset of field: RingFooter::offset"][::core::mem::offset_of!(RingFooter, offset) - 4usize];
};
impl RingPipeType {
    pub const DATA: RingPipeType = RingPipeType(1);
    pub const PARTIAL: RingPipeType = RingPipeType(2);
    pub const SETUP_GPA_DIRECT: RingPipeType = RingPipeType(3);
    pub const TEARDOWN_GPA_DIRECT: RingPipeType = RingPipeType(4);
}
#[repr(transparent)]
#[doc = " Kinds of pipe messages."]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct RingPipeType(pub u32);
#[doc = " The head of the payload, in pipe mode."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct RingPipeHeader {
    pub pipe_type: RingPipeType,
    pub byte_count: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RingPipeHeader"][::core::mem::size_of::<RingPipeHeader>() - 8usize];
    ["Alignment of RingPipeHeader"][::core::mem::align_of::<RingPipeHeader>() - 4usize];
    ["Offset of field: RingPipeHeader::pipe_type"]
        [::core::mem::offset_of!(RingPipeHeader, pipe_type) - 0usize];
    ["Offset of field: RingPipeHeader::byte_count"]
        [::core::mem::offset_of!(RingPipeHeader, byte_count) - 4usize];
};

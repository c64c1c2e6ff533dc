// Generated from include/netvsp.h by `cargo xtask bindgen`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bitflags::bitflags! {
    /// What a guest can do.
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct NvspCapabilityFlags: u64 {
        const VMQ = 0x1;
        const CHIMNEY = 0x2;
        const SRIOV = 0x4;
        const IEEE8021Q = 0x8;
        const CORRELATION_ID = 0x10;
        const TEAMING = 0x20;
        const VIRTUAL_SUBNET_ID = 0x40;
        const RSC_OVER_VMBUS = 0x80;
    }
}
pub const NVSP_MESSAGE_LENGTH: u32 = 40;
pub const NVSP_NO_SECTION: u32 = 4294967295;
pub const NVSP_SEND_TABLE_COUNT: u32 = 16;
pub const NVSP_SEND_TABLE_OFFSET_V6: u32 = 40;
pub const NVSP_RECEIVE_BUFFER_ID: u32 = 51966;
pub const NVSP_SEND_BUFFER_ID: u32 = 0;
impl NvspVersion {
    pub const V1: NvspVersion = NvspVersion(2);
    pub const V2: NvspVersion = NvspVersion(196610);
    pub const V4: NvspVersion = NvspVersion(262144);
    pub const V5: NvspVersion = NvspVersion(327680);
    pub const V6: NvspVersion = NvspVersion(393216);
    pub const V61: NvspVersion = NvspVersion(393217);
}
#[repr(transparent)]
#[doc = " Versions of the protocol."]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct NvspVersion(pub u32);
impl NvspMessageType {
    pub const INIT: NvspMessageType = NvspMessageType(1);
    pub const INIT_COMPLETE: NvspMessageType = NvspMessageType(2);
    pub const SEND_NDIS_VERSION: NvspMessageType = NvspMessageType(100);
    pub const SEND_RECEIVE_BUFFER: NvspMessageType = NvspMessageType(101);
    pub const SEND_RECEIVE_BUFFER_COMPLETE: NvspMessageType = NvspMessageType(102);
    pub const REVOKE_RECEIVE_BUFFER: NvspMessageType = NvspMessageType(103);
    pub const SEND_SEND_BUFFER: NvspMessageType = NvspMessageType(104);
    pub const SEND_SEND_BUFFER_COMPLETE: NvspMessageType = NvspMessageType(105);
    pub const REVOKE_SEND_BUFFER: NvspMessageType = NvspMessageType(106);
    pub const SEND_RNDIS_PACKET: NvspMessageType = NvspMessageType(107);
    pub const SEND_RNDIS_PACKET_COMPLETE: NvspMessageType = NvspMessageType(108);
    pub const SEND_NDIS_CONFIG: NvspMessageType = NvspMessageType(125);
    pub const SEND_VF_ASSOCIATION: NvspMessageType = NvspMessageType(128);
    pub const SWITCH_DATA_PATH: NvspMessageType = NvspMessageType(129);
    pub const UPLINK_CONNECT_STATE: NvspMessageType = NvspMessageType(130);
    pub const OID_QUERY_EX: NvspMessageType = NvspMessageType(131);
    pub const OID_QUERY_EX_COMPLETE: NvspMessageType = NvspMessageType(132);
    pub const SUBCHANNEL: NvspMessageType = NvspMessageType(133);
    pub const SEND_INDIRECTION_TABLE: NvspMessageType = NvspMessageType(134);
}
#[repr(transparent)]
#[doc = " Types of messages."]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct NvspMessageType(pub u32);
impl NvspStatus {
    pub const NONE: NvspStatus = NvspStatus(0);
    pub const SUCCESS: NvspStatus = NvspStatus(1);
    pub const FAILURE: NvspStatus = NvspStatus(2);
    pub const TOO_NEW: NvspStatus = NvspStatus(3);
    pub const TOO_OLD: NvspStatus = NvspStatus(4);
    pub const INVALID_RNDIS_PACKET: NvspStatus = NvspStatus(5);
    pub const BUSY: NvspStatus = NvspStatus(6);
    pub const UNSUPPORTED: NvspStatus = NvspStatus(7);
}
#[repr(transparent)]
#[doc = " How the other side answers."]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct NvspStatus(pub u32);
impl NvspChannelType {
    pub const DATA: NvspChannelType = NvspChannelType(0);
    pub const CONTROL: NvspChannelType = NvspChannelType(1);
}
#[repr(transparent)]
#[doc = " What an RNDIS packet is."]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct NvspChannelType(pub u32);
#[doc = " All messages are padded to 40 bytes on their way to the host."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct NvspInit {
    pub message_type: NvspMessageType,
    pub version: NvspVersion,
    #[doc = " The same once more."]
    pub version2: NvspVersion,
    pub padding: [u8; 28usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NvspInit"][::core::mem::size_of::<NvspInit>() - 40usize];
    ["Alignment of NvspInit"][::core::mem::align_of::<NvspInit>() - 4usize];
    ["Offset of field: NvspInit::message_type"][::core::mem::offset_of!(NvspInit, message_type) - 0usize];
    ["Offset of field: NvspInit::version"][::core::mem::offset_of!(NvspInit, version) - 4usize];
    ["Offset of field: NvspInit::version2"][::core::mem::offset_of!(NvspInit, version2) - 8usize];
    ["Offset of field: NvspInit::padding"][::core::mem::offset_of!(NvspInit, padding) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct NvspInitComplete {
    pub message_type: NvspMessageType,
    pub deprecated: u32,
    pub maximum_mdl_chain_length: u32,
    pub status: NvspStatus,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NvspInitComplete"][::core::mem::size_of::<NvspInitComplete>() - 16usize];
    ["Alignment of NvspInitComplete"][::core::mem::align_of::<NvspInitComplete>() - 4usize];
    ["Offset of field: NvspInitComplete::message_type"]
        [::core::mem::offset_of!(NvspInitComplete, message_type) - 0usize];
    ["Offset of field: NvspInitComplete::deprecated"]
        [::core::mem::offset_of!(NvspInitComplete, deprecated) - 4usize];
    ["Offset of field: NvspInitComplete::maximum_mdl_chain_length"]
        [::core::mem::offset_of!(NvspInitComplete, maximum_mdl_chain_length) - 8usize];
    ["Offset of field: NvspInitComplete::status"]
        [::core::mem::offset_of!(NvspInitComplete, status) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct NvspSendNdisVersion {
    pub message_type: NvspMessageType,
    pub major: u32,
    pub minor: u32,
    pub padding: [u8; 28usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NvspSendNdisVersion"][::core::mem::size_of::<NvspSendNdisVersion>() - 40usize];
    ["Alignment of NvspSendNdisVersion"][::core::mem::align_of::<NvspSendNdisVersion>() - 4usize];
    ["Offset of field: NvspSendNdisVersion::message_type"]
        [::core::mem::offset_of!(NvspSendNdisVersion, message_type) - 0usize];
    ["Offset of field: NvspSendNdisVersion::major"]
        [::core::mem::offset_of!(NvspSendNdisVersion, major) - 4usize];
    ["Offset of field: NvspSendNdisVersion::minor"]
        [::core::mem::offset_of!(NvspSendNdisVersion, minor) - 8usize];
    ["Offset of field: NvspSendNdisVersion::padding"]
        [::core::mem::offset_of!(NvspSendNdisVersion, padding) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct NvspSendNdisConfig {
    pub message_type: NvspMessageType,
    #[doc = " Bytes of a frame, with its header of 14."]
    pub mtu: u32,
    pub reserved: u32,
    #[doc = " nvsp_capability_flags, low half."]
    pub capabilities_low: u32,
    pub capabilities_high: u32,
    pub padding: [u8; 20usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NvspSendNdisConfig"][::core::mem::size_of::<NvspSendNdisConfig>() - 40usize];
    ["Alignment of NvspSendNdisConfig"][::core::mem::align_of::<NvspSendNdisConfig>() - 4usize];
    ["Offset of field: NvspSendNdisConfig::message_type"]
        [::core::mem::offset_of!(NvspSendNdisConfig, message_type) - 0usize];
    ["Offset of field: NvspSendNdisConfig::mtu"][::core::mem::offset_of!(NvspSendNdisConfig, mtu) - 4usize];
    ["Offset of field: NvspSendNdisConfig::reserved"]
        [::core::mem::offset_of!(NvspSendNdisConfig, reserved) - 8usize];
    ["Offset of field: NvspSendNdisConfig::capabilities_low"]
        [::core::mem::offset_of!(NvspSendNdisConfig, capabilities_low) - 12usize];
    ["Offset of field: NvspSendNdisConfig::capabilities_high"]
        [::core::mem::offset_of!(NvspSendNdisConfig, capabilities_high) - 16usize];
    ["Offset of field: NvspSendNdisConfig::padding"]
        [::core::mem::offset_of!(NvspSendNdisConfig, padding) - 20usize];
};
#[doc = " Types 101 and 104."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct NvspSendBuffer {
    pub message_type: NvspMessageType,
    pub gpadl: u32,
    pub id: u16,
    pub reserved: u16,
    pub padding: [u8; 28usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NvspSendBuffer"][::core::mem::size_of::<NvspSendBuffer>() - 40usize];
    ["Alignment of NvspSendBuffer"][::core::mem::align_of::<NvspSendBuffer>() - 4usize];
    ["Offset of field: NvspSendBuffer::message_type"]
        [::core::mem::offset_of!(NvspSendBuffer, message_type) - 0usize];
    ["Offset of field: NvspSendBuffer::gpadl"][::core::mem::offset_of!(NvspSendBuffer, gpadl) - 4usize];
    ["Offset of field: NvspSendBuffer::id"][::core::mem::offset_of!(NvspSendBuffer, id) - 8usize];
    ["Offset of field: NvspSendBuffer::reserved"]
        [::core::mem::offset_of!(NvspSendBuffer, reserved) - 10usize];
    ["Offset of field: NvspSendBuffer::padding"][::core::mem::offset_of!(NvspSendBuffer, padding) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct NvspReceiveBufferComplete {
    pub message_type: NvspMessageType,
    pub status: NvspStatus,
    pub section_count: u32,
    #[doc = " The one section that there ever is."]
    pub offset: u32,
    pub allocation_size: u32,
    pub allocation_count: u32,
    pub end_offset: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NvspReceiveBufferComplete"][::core::mem::size_of::<NvspReceiveBufferComplete>() - 28usize];
    ["Alignment of NvspReceiveBufferComplete"][::core::mem::align_of::<NvspReceiveBufferComplete>() - 4usize];
    ["Offset of field: NvspReceiveBufferComplete::message_type"]
        [::core::mem::offset_of!(NvspReceiveBufferComplete, message_type) - 0usize];
    ["Offset of field: NvspReceiveBufferComplete::status"]
        [::core::mem::offset_of!(NvspReceiveBufferComplete, status) - 4usize];
    ["Offset of field: NvspReceiveBufferComplete::section_count"]
        [::core::mem::offset_of!(NvspReceiveBufferComplete, section_count) - 8usize];
    ["Offset of field: NvspReceiveBufferComplete::offset"]
        [::core::mem::offset_of!(NvspReceiveBufferComplete, offset) - 12usize];
    ["Offset of field: NvspReceiveBufferComplete::allocation_size"]
        [::core::mem::offset_of!(NvspReceiveBufferComplete, allocation_size) - 16usize];
    ["Offset of field: NvspReceiveBufferComplete::allocation_count"]
        [::core::mem::offset_of!(NvspReceiveBufferComplete, allocation_count) - 20usize];
    ["Offset of field: NvspReceiveBufferComplete::end_offset"]
        [::core::mem::offset_of!(NvspReceiveBufferComplete, end_offset) - 24usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct NvspSendBufferComplete {
    pub message_type: NvspMessageType,
    pub status: NvspStatus,
    pub section_size: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NvspSendBufferComplete"][::core::mem::size_of::<NvspSendBufferComplete>() - 12usize];
    ["Alignment of NvspSendBufferComplete"][::core::mem::align_of::<NvspSendBufferComplete>() - 4usize];
    ["Offset of field: NvspSendBufferComplete::message_type"]
        [::core::mem::offset_of!(NvspSendBufferComplete, message_type) - 0usize];
    ["Offset of field: NvspSendBufferComplete::status"]
        [::core::mem::offset_of!(NvspSendBufferComplete, status) - 4usize];
    ["Offset of field: NvspSendBufferComplete::section_size"]
        [::core::mem::offset_of!(NvspSendBufferComplete, section_size) - 8usize];
};
#[doc = " Types 103 and 106."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct NvspRevokeBuffer {
    pub message_type: NvspMessageType,
    pub id: u16,
    pub padding: [u8; 34usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NvspRevokeBuffer"][::core::mem::size_of::<NvspRevokeBuffer>() - 40usize];
    ["Alignment of NvspRevokeBuffer"][::core::mem::align_of::<NvspRevokeBuffer>() - 4usize];
    ["Offset of field: NvspRevokeBuffer::message_type"]
        [::core::mem::offset_of!(NvspRevokeBuffer, message_type) - 0usize];
    ["Offset of field: NvspRevokeBuffer::id"][::core::mem::offset_of!(NvspRevokeBuffer, id) - 4usize];
    ["Offset of field: NvspRevokeBuffer::padding"]
        [::core::mem::offset_of!(NvspRevokeBuffer, padding) - 6usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct NvspSendRndisPacket {
    pub message_type: NvspMessageType,
    pub channel_type: NvspChannelType,
    pub section_index: u32,
    pub section_size: u32,
    pub padding: [u8; 24usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NvspSendRndisPacket"][::core::mem::size_of::<NvspSendRndisPacket>() - 40usize];
    ["Alignment of NvspSendRndisPacket"][::core::mem::align_of::<NvspSendRndisPacket>() - 4usize];
    ["Offset of field: NvspSendRndisPacket::message_type"]
        [::core::mem::offset_of!(NvspSendRndisPacket, message_type) - 0usize];
    ["Offset of field: NvspSendRndisPacket::channel_type"]
        [::core::mem::offset_of!(NvspSendRndisPacket, channel_type) - 4usize];
    ["Offset of field: NvspSendRndisPacket::section_index"]
        [::core::mem::offset_of!(NvspSendRndisPacket, section_index) - 8usize];
    ["Offset of field: NvspSendRndisPacket::section_size"]
        [::core::mem::offset_of!(NvspSendRndisPacket, section_size) - 12usize];
    ["Offset of field: NvspSendRndisPacket::padding"]
        [::core::mem::offset_of!(NvspSendRndisPacket, padding) - 16usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct NvspSendRndisPacketComplete {
    pub message_type: NvspMessageType,
    pub status: NvspStatus,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NvspSendRndisPacketComplete"][::core::mem::size_of::<NvspSendRndisPacketComplete>() - 8usize];
    ["Alignment of NvspSendRndisPacketComplete"]
        [::core::mem::align_of::<NvspSendRndisPacketComplete>() - 4usize];
    ["Offset of field: NvspSendRndisPacketComplete::message_type"]
        [::core::mem::offset_of!(NvspSendRndisPacketComplete, message_type) - 0usize];
    ["Offset of field: NvspSendRndisPacketComplete::status"]
        [::core::mem::offset_of!(NvspSendRndisPacketComplete, status) - 4usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct NvspVfAssociation {
    pub message_type: NvspMessageType,
    pub is_allocated: u32,
    pub serial: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NvspVfAssociation"][::core::mem::size_of::<NvspVfAssociation>() - 12usize];
    ["Alignment of NvspVfAssociation"][::core::mem::align_of::<NvspVfAssociation>() - 4usize];
    ["Offset of field: NvspVfAssociation::message_type"]
        [::core::mem::offset_of!(NvspVfAssociation, message_type) - 0usize];
    ["Offset of field: NvspVfAssociation::is_allocated"]
        [::core::mem::offset_of!(NvspVfAssociation, is_allocated) - 4usize];
    ["Offset of field: NvspVfAssociation::serial"]
        [::core::mem::offset_of!(NvspVfAssociation, serial) - 8usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct NvspSwitchDataPath {
    pub message_type: NvspMessageType,
    #[doc = " 0 for the synthetic device, 1 for the virtual function."]
    pub active: u32,
    pub padding: [u8; 32usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NvspSwitchDataPath"][::core::mem::size_of::<NvspSwitchDataPath>() - 40usize];
    ["Alignment of NvspSwitchDataPath"][::core::mem::align_of::<NvspSwitchDataPath>() - 4usize];
    ["Offset of field: NvspSwitchDataPath::message_type"]
        [::core::mem::offset_of!(NvspSwitchDataPath, message_type) - 0usize];
    ["Offset of field: NvspSwitchDataPath::active"]
        [::core::mem::offset_of!(NvspSwitchDataPath, active) - 4usize];
    ["Offset of field: NvspSwitchDataPath::padding"]
        [::core::mem::offset_of!(NvspSwitchDataPath, padding) - 8usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct NvspSubchannelRequest {
    pub message_type: NvspMessageType,
    #[doc = " 1: allocate."]
    pub operation: u32,
    pub count: u32,
    pub padding: [u8; 28usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NvspSubchannelRequest"][::core::mem::size_of::<NvspSubchannelRequest>() - 40usize];
    ["Alignment of NvspSubchannelRequest"][::core::mem::align_of::<NvspSubchannelRequest>() - 4usize];
    ["Offset of field: NvspSubchannelRequest::message_type"]
        [::core::mem::offset_of!(NvspSubchannelRequest, message_type) - 0usize];
    ["Offset of field: NvspSubchannelRequest::operation"]
        [::core::mem::offset_of!(NvspSubchannelRequest, operation) - 4usize];
    ["Offset of field: NvspSubchannelRequest::count"]
        [::core::mem::offset_of!(NvspSubchannelRequest, count) - 8usize];
    ["Offset of field: NvspSubchannelRequest::padding"]
        [::core::mem::offset_of!(NvspSubchannelRequest, padding) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct NvspSubchannelComplete {
    pub message_type: NvspMessageType,
    pub status: NvspStatus,
    pub count: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NvspSubchannelComplete"][::core::mem::size_of::<NvspSubchannelComplete>() - 12usize];
    ["Alignment of NvspSubchannelComplete"][::core::mem::align_of::<NvspSubchannelComplete>() - 4usize];
    ["Offset of field: NvspSubchannelComplete::message_type"]
        [::core::mem::offset_of!(NvspSubchannelComplete, message_type) - 0usize];
    ["Offset of field: NvspSubchannelComplete::status"]
        [::core::mem::offset_of!(NvspSubchannelComplete, status) - 4usize];
    ["Offset of field: NvspSubchannelComplete::count"]
        [::core::mem::offset_of!(NvspSubchannelComplete, count) - 8usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct NvspIndirectionTable {
    pub message_type: NvspMessageType,
    pub count: u32,
    #[doc = " From the beginning of the message."]
    pub offset: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NvspIndirectionTable"][::core::mem::size_of::<NvspIndirectionTable>() - 12usize];
    ["Alignment of NvspIndirectionTable"][::core::mem::align_of::<NvspIndirectionTable>() - 4usize];
    ["Offset of field: NvspIndirectionTable::message_type"]
        [::core::mem::offset_of!(NvspIndirectionTable, message_type) - 0usize];
    ["Offset of field: NvspIndirectionTable::count"]
        [::core::mem::offset_of!(NvspIndirectionTable, count) - 4usize];
    ["Offset of field: NvspIndirectionTable::offset"]
        [::core::mem::offset_of!(NvspIndirectionTable, offset) - 8usize];
};

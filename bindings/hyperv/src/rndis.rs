// Generated from include/rndis.h by `cargo xtask bindgen`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bitflags::bitflags! {
    /// Which frames come in.
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct RndisFilterFlags: u32 {
        const DIRECTED = 0x1;
        const MULTICAST = 0x2;
        const ALL_MULTICAST = 0x4;
        const BROADCAST = 0x8;
        const PROMISCUOUS = 0x20;
    }
}
bitflags::bitflags! {
    /// The checksums of a frame on its way out.
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct RndisTxChecksumFlags: u32 {
        const IPV4 = 0x1;
        const IPV6 = 0x2;
        const TCP = 0x4;
        const UDP = 0x8;
        const IP_HEADER = 0x10;
    }
}
bitflags::bitflags! {
    /// The checksums of a frame that came in.
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct RndisRxChecksumFlags: u32 {
        const TCP_FAILED = 0x1;
        const UDP_FAILED = 0x2;
        const IP_FAILED = 0x4;
        const TCP_SUCCEEDED = 0x8;
        const UDP_SUCCEEDED = 0x10;
        const IP_SUCCEEDED = 0x20;
        const LOOPBACK = 0x40;
        const TCP_VALUE_INVALID = 0x80;
        const IP_VALUE_INVALID = 0x100;
    }
}
bitflags::bitflags! {
    /// Where a frame stands among those that are one.
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct RndisPacketIdFlags: u8 {
        const SUBALLOCATION = 0x1;
        const FIRST = 0x2;
        const LAST = 0x4;
    }
}
pub const NDIS_OBJECT_DEFAULT: u32 = 128;
pub const NDIS_OBJECT_RSS_CAPABILITIES: u32 = 136;
pub const NDIS_OBJECT_RSS_PARAMETERS: u32 = 137;
pub const NDIS_OBJECT_OFFLOAD: u32 = 167;
pub const NDIS_ENCAPSULATION_IEEE_802_3: u32 = 2;
pub const NDIS_OFFLOAD_TCP_CHECKSUM: u32 = 16;
pub const NDIS_OFFLOAD_UDP_CHECKSUM: u32 = 64;
pub const NDIS_OFFLOAD_IP_CHECKSUM: u32 = 256;
pub const NDIS_OFFLOAD_NO_CHANGE: u32 = 0;
pub const NDIS_OFFLOAD_OFF: u32 = 1;
pub const NDIS_OFFLOAD_TX: u32 = 2;
pub const NDIS_OFFLOAD_RX: u32 = 3;
pub const NDIS_OFFLOAD_BOTH: u32 = 4;
pub const NDIS_OFFLOAD_ON: u32 = 2;
pub const NDIS_RSS_HASH: u32 = 5889;
pub const NDIS_RSS_TABLE_COUNT: u32 = 128;
pub const NDIS_RSS_KEY_LENGTH: u32 = 40;
pub const RNDIS_OFFSET_BASE: u32 = 8;
impl RndisMessageType {
    pub const PACKET: RndisMessageType = RndisMessageType(1);
    pub const INITIALIZE: RndisMessageType = RndisMessageType(2);
    pub const HALT: RndisMessageType = RndisMessageType(3);
    pub const QUERY: RndisMessageType = RndisMessageType(4);
    pub const SET: RndisMessageType = RndisMessageType(5);
    pub const RESET: RndisMessageType = RndisMessageType(6);
    pub const INDICATE_STATUS: RndisMessageType = RndisMessageType(7);
    pub const KEEPALIVE: RndisMessageType = RndisMessageType(8);
    pub const INITIALIZE_COMPLETE: RndisMessageType = RndisMessageType(2147483650);
    pub const QUERY_COMPLETE: RndisMessageType = RndisMessageType(2147483652);
    pub const SET_COMPLETE: RndisMessageType = RndisMessageType(2147483653);
    pub const RESET_COMPLETE: RndisMessageType = RndisMessageType(2147483654);
    pub const KEEPALIVE_COMPLETE: RndisMessageType = RndisMessageType(2147483656);
}
#[repr(transparent)]
#[doc = " Types of messages."]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct RndisMessageType(pub u32);
impl RndisStatus {
    pub const SUCCESS: RndisStatus = RndisStatus(0);
    pub const PENDING: RndisStatus = RndisStatus(259);
    pub const MEDIA_CONNECT: RndisStatus = RndisStatus(1073807371);
    pub const MEDIA_DISCONNECT: RndisStatus = RndisStatus(1073807372);
    pub const LINK_SPEED_CHANGE: RndisStatus = RndisStatus(1073807379);
    pub const NETWORK_CHANGE: RndisStatus = RndisStatus(1073807384);
    pub const OFFLOAD_CURRENT_CONFIG: RndisStatus = RndisStatus(1073872902);
    pub const BUFFER_OVERFLOW: RndisStatus = RndisStatus(2147483653);
    pub const FAILURE: RndisStatus = RndisStatus(3221225473);
    pub const NOT_SUPPORTED: RndisStatus = RndisStatus(3221225659);
    pub const BAD_VERSION: RndisStatus = RndisStatus(3221291012);
    pub const INVALID_LENGTH: RndisStatus = RndisStatus(3221291028);
    pub const INVALID_DATA: RndisStatus = RndisStatus(3221291029);
    pub const INVALID_OID: RndisStatus = RndisStatus(3221291031);
}
#[repr(transparent)]
#[doc = " How a request went, and what is indicated."]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct RndisStatus(pub u32);
impl RndisOid {
    pub const GEN_SUPPORTED_LIST: RndisOid = RndisOid(65793);
    pub const GEN_MAXIMUM_FRAME_SIZE: RndisOid = RndisOid(65798);
    pub const GEN_LINK_SPEED: RndisOid = RndisOid(65799);
    pub const GEN_CURRENT_PACKET_FILTER: RndisOid = RndisOid(65806);
    pub const GEN_MAXIMUM_TOTAL_SIZE: RndisOid = RndisOid(65809);
    pub const GEN_MEDIA_CONNECT_STATUS: RndisOid = RndisOid(65812);
    pub const GEN_RECEIVE_SCALE_CAPABILITIES: RndisOid = RndisOid(66051);
    pub const GEN_RECEIVE_SCALE_PARAMETERS: RndisOid = RndisOid(66052);
    pub const GEN_LINK_STATE: RndisOid = RndisOid(66055);
    pub const GEN_RNDIS_CONFIG_PARAMETER: RndisOid = RndisOid(66075);
    pub const IEEE_802_3_PERMANENT_ADDRESS: RndisOid = RndisOid(16843009);
    pub const IEEE_802_3_CURRENT_ADDRESS: RndisOid = RndisOid(16843010);
    pub const IEEE_802_3_MULTICAST_LIST: RndisOid = RndisOid(16843011);
    pub const IEEE_802_3_MAXIMUM_LIST_SIZE: RndisOid = RndisOid(16843012);
    pub const OFFLOAD_ENCAPSULATION: RndisOid = RndisOid(16843018);
    pub const TCP_OFFLOAD_CURRENT_CONFIG: RndisOid = RndisOid(4227924491);
    pub const TCP_OFFLOAD_PARAMETERS: RndisOid = RndisOid(4227924492);
    pub const TCP_OFFLOAD_HARDWARE_CAPABILITIES: RndisOid = RndisOid(4227924493);
}
#[repr(transparent)]
#[doc = " What is asked for and set."]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct RndisOid(pub u32);
impl RndisInfoType {
    pub const CHECKSUM: RndisInfoType = RndisInfoType(0);
    pub const LSO: RndisInfoType = RndisInfoType(2);
    pub const VLAN: RndisInfoType = RndisInfoType(6);
    pub const HASH_VALUE: RndisInfoType = RndisInfoType(8);
    pub const HASH_INFO: RndisInfoType = RndisInfoType(9);
    #[doc = " Internal: bit 31."]
    pub const PACKET_ID: RndisInfoType = RndisInfoType(2147483649);
}
#[repr(transparent)]
#[doc = " The kinds of per-packet information of a frame."]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct RndisInfoType(pub u32);
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct RndisHeader {
    pub message_type: RndisMessageType,
    #[doc = " Bytes, with this header."]
    pub message_length: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RndisHeader"][::core::mem::size_of::<RndisHeader>() - 8usize];
    ["Alignment of RndisHeader"][::core::mem::align_of::<RndisHeader>() - 4usize];
    ["Offset of field: RndisHeader::message_type"]
        [::core::mem::offset_of!(RndisHeader, message_type) - 0usize];
    ["Offset of field: RndisHeader::message_length"]
        [::core::mem::offset_of!(RndisHeader, message_length) - 4usize];
};
#[doc = " A frame. Offsets count from behind the header."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct RndisPacket {
    pub header: RndisHeader,
    pub data_offset: u32,
    pub data_length: u32,
    pub oob_offset: u32,
    pub oob_length: u32,
    pub oob_count: u32,
    pub info_offset: u32,
    pub info_length: u32,
    pub vc_handle: u32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RndisPacket"][::core::mem::size_of::<RndisPacket>() - 44usize];
    ["Alignment of RndisPacket"][::core::mem::align_of::<RndisPacket>() - 4usize];
    ["Offset of field: RndisPacket::header"][::core::mem::offset_of!(RndisPacket, header) - 0usize];
    ["Offset of field: RndisPacket::data_offset"][::core::mem::offset_of!(RndisPacket, data_offset) - 8usize];
    ["Offset of field: RndisPacket::data_length"]
        [::core::mem::offset_of!(RndisPacket, data_length) - 12usize];
    ["Offset of field: RndisPacket::oob_offset"][::core::mem::offset_of!(RndisPacket, oob_offset) - 16usize];
    ["Offset of field: RndisPacket::oob_length"][::core::mem::offset_of!(RndisPacket, oob_length) - 20usize];
    ["Offset of field: RndisPacket::oob_count"][::core::mem::offset_of!(RndisPacket, oob_count) - 24usize];
    ["Offset of field: RndisPacket::info_offset"]
        [::core::mem::offset_of!(RndisPacket, info_offset) - 28usize];
    ["Offset of field: RndisPacket::info_length"]
        [::core::mem::offset_of!(RndisPacket, info_length) - 32usize];
    ["Offset of field: RndisPacket::vc_handle"][::core::mem::offset_of!(RndisPacket, vc_handle) - 36usize];
    ["Offset of field: RndisPacket::reserved"][::core::mem::offset_of!(RndisPacket, reserved) - 40usize];
};
#[doc = " The header of one item of per-packet information."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct RndisInfo {
    #[doc = " Bytes, with this header."]
    pub size: u32,
    pub info_type: RndisInfoType,
    #[doc = " Where the data are, from the beginning of this header."]
    pub offset: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RndisInfo"][::core::mem::size_of::<RndisInfo>() - 12usize];
    ["Alignment of RndisInfo"][::core::mem::align_of::<RndisInfo>() - 4usize];
    ["Offset of field: RndisInfo::size"][::core::mem::offset_of!(RndisInfo, size) - 0usize];
    ["Offset of field: RndisInfo::info_type"][::core::mem::offset_of!(RndisInfo, info_type) - 4usize];
    ["Offset of field: RndisInfo::offset"][::core::mem::offset_of!(RndisInfo, offset) - 8usize];
};
#[doc = " Beside a frame: one word."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct RndisInfoWord {
    pub info: RndisInfo,
    pub value: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RndisInfoWord"][::core::mem::size_of::<RndisInfoWord>() - 16usize];
    ["Alignment of RndisInfoWord"][::core::mem::align_of::<RndisInfoWord>() - 4usize];
    ["Offset of field: RndisInfoWord::info"][::core::mem::offset_of!(RndisInfoWord, info) - 0usize];
    ["Offset of field: RndisInfoWord::value"][::core::mem::offset_of!(RndisInfoWord, value) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct RndisInitialize {
    pub header: RndisHeader,
    pub request_id: u32,
    pub major: u32,
    pub minor: u32,
    pub maximum_transfer: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RndisInitialize"][::core::mem::size_of::<RndisInitialize>() - 24usize];
    ["Alignment of RndisInitialize"][::core::mem::align_of::<RndisInitialize>() - 4usize];
    ["Offset of field: RndisInitialize::header"][::core::mem::offset_of!(RndisInitialize, header) - 0usize];
    ["Offset of field: RndisInitialize::request_id"]
        [::core::mem::offset_of!(RndisInitialize, request_id) - 8usize];
    ["Offset of field: RndisInitialize::major"][::core::mem::offset_of!(RndisInitialize, major) - 12usize];
    ["Offset of field: RndisInitialize::minor"][::core::mem::offset_of!(RndisInitialize, minor) - 16usize];
    ["Offset of field: RndisInitialize::maximum_transfer"]
        [::core::mem::offset_of!(RndisInitialize, maximum_transfer) - 20usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct RndisInitializeComplete {
    pub header: RndisHeader,
    pub request_id: u32,
    pub status: RndisStatus,
    pub major: u32,
    pub minor: u32,
    pub device_flags: u32,
    pub medium: u32,
    pub maximum_packets: u32,
    pub maximum_transfer: u32,
    #[doc = " As a power of two."]
    pub alignment_factor: u32,
    pub reserved: [u32; 2usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RndisInitializeComplete"][::core::mem::size_of::<RndisInitializeComplete>() - 52usize];
    ["Alignment of RndisInitializeComplete"][::core::mem::align_of::<RndisInitializeComplete>() - 4usize];
    ["Offset of field: RndisInitializeComplete::header"]
        [::core::mem::offset_of!(RndisInitializeComplete, header) - 0usize];
    ["Offset of field: RndisInitializeComplete::request_id"]
        [::core::mem::offset_of!(RndisInitializeComplete, request_id) - 8usize];
    ["Offset of field: RndisInitializeComplete::status"]
        [::core::mem::offset_of!(RndisInitializeComplete, status) - 12usize];
    ["Offset of field: RndisInitializeComplete::major"]
        [::core::mem::offset_of!(RndisInitializeComplete, major) - 16usize];
    ["Offset of field: RndisInitializeComplete::minor"]
        [::core::mem::offset_of!(RndisInitializeComplete, minor) - 20usize];
    ["Offset of field: RndisInitializeComplete::device_flags"]
        [::core::mem::offset_of!(RndisInitializeComplete, device_flags) - 24usize];
    ["Offset of field: RndisInitializeComplete::medium"]
        [::core::mem::offset_of!(RndisInitializeComplete, medium) - 28usize];
    ["Offset of field: RndisInitializeComplete::maximum_packets"]
        [::core::mem::offset_of!(RndisInitializeComplete, maximum_packets) - 32usize];
    ["Offset of field: RndisInitializeComplete::maximum_transfer"]
        [::core::mem::offset_of!(RndisInitializeComplete, maximum_transfer) - 36usize];
    ["Offset of field: RndisInitializeComplete::alignment_factor"]
        [::core::mem::offset_of!(RndisInitializeComplete, alignment_factor) - 40usize];
    ["Offset of field: RndisInitializeComplete::reserved"]
        [::core::mem::offset_of!(RndisInitializeComplete, reserved) - 44usize];
};
#[doc = " Types 3 and 8."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct RndisRequest {
    pub header: RndisHeader,
    pub request_id: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RndisRequest"][::core::mem::size_of::<RndisRequest>() - 12usize];
    ["Alignment of RndisRequest"][::core::mem::align_of::<RndisRequest>() - 4usize];
    ["Offset of field: RndisRequest::header"][::core::mem::offset_of!(RndisRequest, header) - 0usize];
    ["Offset of field: RndisRequest::request_id"][::core::mem::offset_of!(RndisRequest, request_id) - 8usize];
};
#[doc = " Types 4 and 5."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct RndisQuery {
    pub header: RndisHeader,
    pub request_id: u32,
    pub oid: RndisOid,
    pub info_length: u32,
    pub info_offset: u32,
    pub vc_handle: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RndisQuery"][::core::mem::size_of::<RndisQuery>() - 28usize];
    ["Alignment of RndisQuery"][::core::mem::align_of::<RndisQuery>() - 4usize];
    ["Offset of field: RndisQuery::header"][::core::mem::offset_of!(RndisQuery, header) - 0usize];
    ["Offset of field: RndisQuery::request_id"][::core::mem::offset_of!(RndisQuery, request_id) - 8usize];
    ["Offset of field: RndisQuery::oid"][::core::mem::offset_of!(RndisQuery, oid) - 12usize];
    ["Offset of field: RndisQuery::info_length"][::core::mem::offset_of!(RndisQuery, info_length) - 16usize];
    ["Offset of field: RndisQuery::info_offset"][::core::mem::offset_of!(RndisQuery, info_offset) - 20usize];
    ["Offset of field: RndisQuery::vc_handle"][::core::mem::offset_of!(RndisQuery, vc_handle) - 24usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct RndisQueryComplete {
    pub header: RndisHeader,
    pub request_id: u32,
    pub status: RndisStatus,
    pub info_length: u32,
    pub info_offset: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RndisQueryComplete"][::core::mem::size_of::<RndisQueryComplete>() - 24usize];
    ["Alignment of RndisQueryComplete"][::core::mem::align_of::<RndisQueryComplete>() - 4usize];
    ["Offset of field: RndisQueryComplete::header"]
        [::core::mem::offset_of!(RndisQueryComplete, header) - 0usize];
    ["Offset of field: RndisQueryComplete::request_id"]
        [::core::mem::offset_of!(RndisQueryComplete, request_id) - 8usize];
    ["Offset of field: RndisQueryComplete::status"]
        [::core::mem::offset_of!(RndisQueryComplete, status) - 12usize];
    ["Offset of field: RndisQueryComplete::info_length"]
        [::core::mem::offset_of!(RndisQueryComplete, info_length) - 16usize];
    ["Offset of field: RndisQueryComplete::info_offset"]
        [::core::mem::offset_of!(RndisQueryComplete, info_offset) - 20usize];
};
#[doc = " Types 0x80000005 and 0x80000008."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct RndisComplete {
    pub header: RndisHeader,
    pub request_id: u32,
    pub status: RndisStatus,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RndisComplete"][::core::mem::size_of::<RndisComplete>() - 16usize];
    ["Alignment of RndisComplete"][::core::mem::align_of::<RndisComplete>() - 4usize];
    ["Offset of field: RndisComplete::header"][::core::mem::offset_of!(RndisComplete, header) - 0usize];
    ["Offset of field: RndisComplete::request_id"]
        [::core::mem::offset_of!(RndisComplete, request_id) - 8usize];
    ["Offset of field: RndisComplete::status"][::core::mem::offset_of!(RndisComplete, status) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct RndisIndicateStatus {
    pub header: RndisHeader,
    pub status: RndisStatus,
    pub info_length: u32,
    pub info_offset: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RndisIndicateStatus"][::core::mem::size_of::<RndisIndicateStatus>() - 20usize];
    ["Alignment of RndisIndicateStatus"][::core::mem::align_of::<RndisIndicateStatus>() - 4usize];
    ["Offset of field: RndisIndicateStatus::header"]
        [::core::mem::offset_of!(RndisIndicateStatus, header) - 0usize];
    ["Offset of field: RndisIndicateStatus::status"]
        [::core::mem::offset_of!(RndisIndicateStatus, status) - 8usize];
    ["Offset of field: RndisIndicateStatus::info_length"]
        [::core::mem::offset_of!(RndisIndicateStatus, info_length) - 12usize];
    ["Offset of field: RndisIndicateStatus::info_offset"]
        [::core::mem::offset_of!(RndisIndicateStatus, info_offset) - 16usize];
};
#[doc = " Ahead of NDIS' own structures."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct NdisObjectHeader {
    pub object_type: u8,
    pub revision: u8,
    pub size: u16,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NdisObjectHeader"][::core::mem::size_of::<NdisObjectHeader>() - 4usize];
    ["Alignment of NdisObjectHeader"][::core::mem::align_of::<NdisObjectHeader>() - 2usize];
    ["Offset of field: NdisObjectHeader::object_type"]
        [::core::mem::offset_of!(NdisObjectHeader, object_type) - 0usize];
    ["Offset of field: NdisObjectHeader::revision"]
        [::core::mem::offset_of!(NdisObjectHeader, revision) - 1usize];
    ["Offset of field: NdisObjectHeader::size"][::core::mem::offset_of!(NdisObjectHeader, size) - 2usize];
};
#[doc = " An encapsulation, and what is offered in it."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct NdisChecksumOffload {
    pub encapsulation: u32,
    pub flags: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NdisChecksumOffload"][::core::mem::size_of::<NdisChecksumOffload>() - 8usize];
    ["Alignment of NdisChecksumOffload"][::core::mem::align_of::<NdisChecksumOffload>() - 4usize];
    ["Offset of field: NdisChecksumOffload::encapsulation"]
        [::core::mem::offset_of!(NdisChecksumOffload, encapsulation) - 0usize];
    ["Offset of field: NdisChecksumOffload::flags"]
        [::core::mem::offset_of!(NdisChecksumOffload, flags) - 4usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct NdisLso2 {
    pub ipv4_encapsulation: u32,
    pub ipv4_maximum_size: u32,
    pub ipv4_minimum_segments: u32,
    pub ipv6_encapsulation: u32,
    pub ipv6_maximum_size: u32,
    pub ipv6_minimum_segments: u32,
    pub ipv6_flags: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NdisLso2"][::core::mem::size_of::<NdisLso2>() - 28usize];
    ["Alignment of NdisLso2"][::core::mem::align_of::<NdisLso2>() - 4usize];
    ["Offset of field: NdisLso2::ipv4_encapsulation"]
        [::core::mem::offset_of!(NdisLso2, ipv4_encapsulation) - 0usize];
    ["Offset of field: NdisLso2::ipv4_maximum_size"]
        [::core::mem::offset_of!(NdisLso2, ipv4_maximum_size) - 4usize];
    ["Offset of field: NdisLso2::ipv4_minimum_segments"]
        [::core::mem::offset_of!(NdisLso2, ipv4_minimum_segments) - 8usize];
    ["Offset of field: NdisLso2::ipv6_encapsulation"]
        [::core::mem::offset_of!(NdisLso2, ipv6_encapsulation) - 12usize];
    ["Offset of field: NdisLso2::ipv6_maximum_size"]
        [::core::mem::offset_of!(NdisLso2, ipv6_maximum_size) - 16usize];
    ["Offset of field: NdisLso2::ipv6_minimum_segments"]
        [::core::mem::offset_of!(NdisLso2, ipv6_minimum_segments) - 20usize];
    ["Offset of field: NdisLso2::ipv6_flags"][::core::mem::offset_of!(NdisLso2, ipv6_flags) - 24usize];
};
#[doc = " NDIS_OFFLOAD of revision 1; later ones are longer."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct NdisOffload {
    pub header: NdisObjectHeader,
    pub tx_ipv4: NdisChecksumOffload,
    pub rx_ipv4: NdisChecksumOffload,
    pub tx_ipv6: NdisChecksumOffload,
    pub rx_ipv6: NdisChecksumOffload,
    pub lso1: [u8; 16usize],
    pub ipsec1: [u8; 28usize],
    pub lso2: NdisLso2,
    pub flags: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NdisOffload"][::core::mem::size_of::<NdisOffload>() - 112usize];
    ["Alignment of NdisOffload"][::core::mem::align_of::<NdisOffload>() - 4usize];
    ["Offset of field: NdisOffload::header"][::core::mem::offset_of!(NdisOffload, header) - 0usize];
    ["Offset of field: NdisOffload::tx_ipv4"][::core::mem::offset_of!(NdisOffload, tx_ipv4) - 4usize];
    ["Offset of field: NdisOffload::rx_ipv4"][::core::mem::offset_of!(NdisOffload, rx_ipv4) - 12usize];
    ["Offset of field: NdisOffload::tx_ipv6"][::core::mem::offset_of!(NdisOffload, tx_ipv6) - 20usize];
    ["Offset of field: NdisOffload::rx_ipv6"][::core::mem::offset_of!(NdisOffload, rx_ipv6) - 28usize];
    ["Offset of field: NdisOffload::lso1"][::core::mem::offset_of!(NdisOffload, lso1) - 36usize];
    ["Offset of field: NdisOffload::ipsec1"][::core::mem::offset_of!(NdisOffload, ipsec1) - 52usize];
    ["Offset of field: NdisOffload::lso2"][::core::mem::offset_of!(NdisOffload, lso2) - 80usize];
    ["Offset of field: NdisOffload::flags"][::core::mem::offset_of!(NdisOffload, flags) - 108usize];
};
#[doc = " NDIS_OFFLOAD_PARAMETERS of revision 3."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct NdisOffloadParameters {
    pub header: NdisObjectHeader,
    pub ipv4_checksum: u8,
    pub tcp_ipv4_checksum: u8,
    pub udp_ipv4_checksum: u8,
    pub tcp_ipv6_checksum: u8,
    pub udp_ipv6_checksum: u8,
    pub lso1: u8,
    pub ipsec1: u8,
    pub lso2_ipv4: u8,
    pub lso2_ipv6: u8,
    pub connection_ipv4: u8,
    pub connection_ipv6: u8,
    pub reserved: u8,
    pub flags: u32,
    pub ipsec2: u8,
    pub ipsec2_ipv4: u8,
    pub rsc_ipv4: u8,
    pub rsc_ipv6: u8,
    pub encapsulation: u8,
    pub encapsulation_types: u8,
    pub reserved2: [u8; 2usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NdisOffloadParameters"][::core::mem::size_of::<NdisOffloadParameters>() - 28usize];
    ["Alignment of NdisOffloadParameters"][::core::mem::align_of::<NdisOffloadParameters>() - 4usize];
    ["Offset of field: NdisOffloadParameters::header"]
        [::core::mem::offset_of!(NdisOffloadParameters, header) - 0usize];
    ["Offset of field: NdisOffloadParameters::ipv4_checksum"]
        [::core::mem::offset_of!(NdisOffloadParameters, ipv4_checksum) - 4usize];
    ["Offset of field: NdisOffloadParameters::tcp_ipv4_checksum"]
        [::core::mem::offset_of!(NdisOffloadParameters, tcp_ipv4_checksum) - 5usize];
    ["Offset of field: NdisOffloadParameters::udp_ipv4_checksum"]
        [::core::mem::offset_of!(NdisOffloadParameters, udp_ipv4_checksum) - 6usize];
    ["Offset of field: NdisOffloadParameters::tcp_ipv6_checksum"]
        [::core::mem::offset_of!(NdisOffloadParameters, tcp_ipv6_checksum) - 7usize];
    ["Offset of field: NdisOffloadParameters::udp_ipv6_checksum"]
        [::core::mem::offset_of!(NdisOffloadParameters, udp_ipv6_checksum) - 8usize];
    ["Offset of field: NdisOffloadParameters::lso1"]
        [::core::mem::offset_of!(NdisOffloadParameters, lso1) - 9usize];
    ["Offset of field: NdisOffloadParameters::ipsec1"]
        [::core::mem::offset_of!(NdisOffloadParameters, ipsec1) - 10usize];
    ["Offset of field: NdisOffloadParameters::lso2_ipv4"]
        [::core::mem::offset_of!(NdisOffloadParameters, lso2_ipv4) - 11usize];
    ["Offset of field: NdisOffloadParameters::lso2_ipv6"]
        [::core::mem::offset_of!(NdisOffloadParameters, lso2_ipv6) - 12usize];
    ["Offset of field: NdisOffloadParameters::connection_ipv4"]
        [::core::mem::offset_of!(NdisOffloadParameters, connection_ipv4) - 13usize];
    ["Offset of field: NdisOffloadParameters::connection_ipv6"]
        [::core::mem::offset_of!(NdisOffloadParameters, connection_ipv6) - 14usize];
    ["Offset of field: NdisOffloadParameters::reserved"]
        [::core::mem::offset_of!(NdisOffloadParameters, reserved) - 15usize];
    ["Offset of field: NdisOffloadParameters::flags"]
        [::core::mem::offset_of!(NdisOffloadParameters, flags) - 16usize];
    ["Offset of field: NdisOffloadParameters::ipsec2"]
        [::core::mem::offset_of!(NdisOffloadParameters, ipsec2) - 20usize];
    ["Offset of field: NdisOffloadParameters::ipsec2_ipv4"]
        [::core::mem::offset_of!(NdisOffloadParameters, ipsec2_ipv4) - 21usize];
    ["Offset of field: NdisOffloadParameters::rsc_ipv4"]
        [::core::mem::offset_of!(NdisOffloadParameters, rsc_ipv4) - 22usize];
    ["Offset of field: NdisOffloadParameters::rsc_ipv6"]
        [::core::mem::offset_of!(NdisOffloadParameters, rsc_ipv6) - 23usize];
    ["Offset of field: NdisOffloadParameters::encapsulation"]
        [::core::mem::offset_of!(NdisOffloadParameters, encapsulation) - 24usize];
    ["Offset of field: NdisOffloadParameters::encapsulation_types"]
        [::core::mem::offset_of!(NdisOffloadParameters, encapsulation_types) - 25usize];
    ["Offset of field: NdisOffloadParameters::reserved2"]
        [::core::mem::offset_of!(NdisOffloadParameters, reserved2) - 26usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct NdisRssCapabilities {
    pub header: NdisObjectHeader,
    pub flags: u32,
    pub interrupt_messages: u32,
    pub receive_queues: u32,
    pub table_entries: u16,
    pub reserved: u16,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NdisRssCapabilities"][::core::mem::size_of::<NdisRssCapabilities>() - 20usize];
    ["Alignment of NdisRssCapabilities"][::core::mem::align_of::<NdisRssCapabilities>() - 4usize];
    ["Offset of field: NdisRssCapabilities::header"]
        [::core::mem::offset_of!(NdisRssCapabilities, header) - 0usize];
    ["Offset of field: NdisRssCapabilities::flags"]
        [::core::mem::offset_of!(NdisRssCapabilities, flags) - 4usize];
    ["Offset of field: NdisRssCapabilities::interrupt_messages"]
        [::core::mem::offset_of!(NdisRssCapabilities, interrupt_messages) - 8usize];
    ["Offset of field: NdisRssCapabilities::receive_queues"]
        [::core::mem::offset_of!(NdisRssCapabilities, receive_queues) - 12usize];
    ["Offset of field: NdisRssCapabilities::table_entries"]
        [::core::mem::offset_of!(NdisRssCapabilities, table_entries) - 16usize];
    ["Offset of field: NdisRssCapabilities::reserved"]
        [::core::mem::offset_of!(NdisRssCapabilities, reserved) - 18usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct NdisRssParameters {
    pub header: NdisObjectHeader,
    pub flags: u16,
    pub base_cpu: u16,
    pub hash: u32,
    pub table_size: u16,
    pub reserved1: u16,
    pub table_offset: u32,
    pub key_size: u16,
    pub reserved2: u16,
    pub key_offset: u32,
    pub masks_offset: u32,
    pub masks_count: u32,
    pub masks_size: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NdisRssParameters"][::core::mem::size_of::<NdisRssParameters>() - 40usize];
    ["Alignment of NdisRssParameters"][::core::mem::align_of::<NdisRssParameters>() - 4usize];
    ["Offset of field: NdisRssParameters::header"]
        [::core::mem::offset_of!(NdisRssParameters, header) - 0usize];
    ["Offset of field: NdisRssParameters::flags"][::core::mem::offset_of!(NdisRssParameters, flags) - 4usize];
    ["Offset of field: NdisRssParameters::base_cpu"]
        [::core::mem::offset_of!(NdisRssParameters, base_cpu) - 6usize];
    ["Offset of field: NdisRssParameters::hash"][::core::mem::offset_of!(NdisRssParameters, hash) - 8usize];
    ["Offset of field: NdisRssParameters::table_size"]
        [::core::mem::offset_of!(NdisRssParameters, table_size) - 12usize];
    ["Offset of field: NdisRssParameters::reserved1"]
        [::core::mem::offset_of!(NdisRssParameters, reserved1) - 14usize];
    ["Offset of field: NdisRssParameters::table_offset"]
        [::core::mem::offset_of!(NdisRssParameters, table_offset) - 16usize];
    ["Offset of field: NdisRssParameters::key_size"]
        [::core::mem::offset_of!(NdisRssParameters, key_size) - 20usize];
    ["Offset of field: NdisRssParameters::reserved2"]
        [::core::mem::offset_of!(NdisRssParameters, reserved2) - 22usize];
    ["Offset of field: NdisRssParameters::key_offset"]
        [::core::mem::offset_of!(NdisRssParameters, key_offset) - 24usize];
    ["Offset of field: NdisRssParameters::masks_offset"]
        [::core::mem::offset_of!(NdisRssParameters, masks_offset) - 28usize];
    ["Offset of field: NdisRssParameters::masks_count"]
        [::core::mem::offset_of!(NdisRssParameters, masks_count) - 32usize];
    ["Offset of field: NdisRssParameters::masks_size"]
        [::core::mem::offset_of!(NdisRssParameters, masks_size) - 36usize];
};

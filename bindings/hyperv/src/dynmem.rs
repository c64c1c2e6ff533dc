// Generated from include/dynmem.h by `cargo xtask bindgen`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bitflags::bitflags! {
    /// What a guest can do, beside the alignment of what is hot-added in bits 5:2, 2^n MiB.
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct DmCapabilityFlags: u64 {
        const BALLOON = 0x1;
        const HOT_ADD = 0x2;
        const HOT_REMOVE = 0x40;
    }
}
bitflags::bitflags! {
    /// What the host says to that.
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct DmCapabilityResponseFlags: u64 {
        const ACCEPTED = 0x1;
        const HOT_REMOVE = 0x2;
        const SUPPRESS_PRESSURE_REPORTS = 0x4;
    }
}
pub const DM_MESSAGE_MAXIMUM: u32 = 4096;
impl DmVersion {
    pub const WIN7: DmVersion = DmVersion(3);
    pub const WIN8: DmVersion = DmVersion(65536);
    pub const WIN10: DmVersion = DmVersion(131072);
}
#[repr(transparent)]
#[doc = " Versions of the protocol: major in the high half, minor in the low one."]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct DmVersion(pub u32);
impl DmMessageType {
    pub const VERSION_REQUEST: DmMessageType = DmMessageType(1);
    pub const VERSION_RESPONSE: DmMessageType = DmMessageType(2);
    pub const CAPABILITIES_REPORT: DmMessageType = DmMessageType(3);
    pub const CAPABILITIES_RESPONSE: DmMessageType = DmMessageType(4);
    pub const STATUS_REPORT: DmMessageType = DmMessageType(5);
    pub const BALLOON_REQUEST: DmMessageType = DmMessageType(6);
    pub const BALLOON_RESPONSE: DmMessageType = DmMessageType(7);
    pub const UNBALLOON_REQUEST: DmMessageType = DmMessageType(8);
    pub const UNBALLOON_RESPONSE: DmMessageType = DmMessageType(9);
    pub const HOT_ADD_REQUEST: DmMessageType = DmMessageType(10);
    pub const HOT_ADD_RESPONSE: DmMessageType = DmMessageType(11);
    pub const INFO: DmMessageType = DmMessageType(12);
    pub const HOT_REMOVE_REQUEST: DmMessageType = DmMessageType(13);
    pub const HOT_REMOVE_RESPONSE: DmMessageType = DmMessageType(14);
}
#[repr(transparent)]
#[doc = " Types of messages."]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct DmMessageType(pub u16);
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct DmHeader {
    pub message_type: DmMessageType,
    #[doc = " Bytes, with this header."]
    pub size: u16,
    pub transaction_id: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DmHeader"][::core::mem::size_of::<DmHeader>() - 8usize];
    ["Alignment of DmHeader"][::core::mem::align_of::<DmHeader>() - 4usize];
    ["Offset of field: DmHeader::message_type"][::core::mem::offset_of!(DmHeader, message_type) - 0usize];
    ["Offset of field: DmHeader::size"][::core::mem::offset_of!(DmHeader, size) - 2usize];
    ["Offset of field: DmHeader::transaction_id"][::core::mem::offset_of!(DmHeader, transaction_id) - 4usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct DmVersionRequest {
    pub header: DmHeader,
    pub version: DmVersion,
    #[doc = " Bit 0: there will be no other."]
    pub is_last_attempt: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DmVersionRequest"][::core::mem::size_of::<DmVersionRequest>() - 16usize];
    ["Alignment of DmVersionRequest"][::core::mem::align_of::<DmVersionRequest>() - 4usize];
    ["Offset of field: DmVersionRequest::header"][::core::mem::offset_of!(DmVersionRequest, header) - 0usize];
    ["Offset of field: DmVersionRequest::version"]
        [::core::mem::offset_of!(DmVersionRequest, version) - 8usize];
    ["Offset of field: DmVersionRequest::is_last_attempt"]
        [::core::mem::offset_of!(DmVersionRequest, is_last_attempt) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct DmVersionResponse {
    pub header: DmHeader,
    #[doc = " Bit 0."]
    pub is_accepted: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DmVersionResponse"][::core::mem::size_of::<DmVersionResponse>() - 16usize];
    ["Alignment of DmVersionResponse"][::core::mem::align_of::<DmVersionResponse>() - 8usize];
    ["Offset of field: DmVersionResponse::header"]
        [::core::mem::offset_of!(DmVersionResponse, header) - 0usize];
    ["Offset of field: DmVersionResponse::is_accepted"]
        [::core::mem::offset_of!(DmVersionResponse, is_accepted) - 8usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct DmCapabilities {
    pub header: DmHeader,
    pub capabilities: u64,
    pub minimum_pages: u64,
    pub maximum_page_number: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DmCapabilities"][::core::mem::size_of::<DmCapabilities>() - 32usize];
    ["Alignment of DmCapabilities"][::core::mem::align_of::<DmCapabilities>() - 8usize];
    ["Offset of field: DmCapabilities::header"][::core::mem::offset_of!(DmCapabilities, header) - 0usize];
    ["Offset of field: DmCapabilities::capabilities"]
        [::core::mem::offset_of!(DmCapabilities, capabilities) - 8usize];
    ["Offset of field: DmCapabilities::minimum_pages"]
        [::core::mem::offset_of!(DmCapabilities, minimum_pages) - 16usize];
    ["Offset of field: DmCapabilities::maximum_page_number"]
        [::core::mem::offset_of!(DmCapabilities, maximum_page_number) - 24usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct DmCapabilitiesResponse {
    pub header: DmHeader,
    pub flags: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DmCapabilitiesResponse"][::core::mem::size_of::<DmCapabilitiesResponse>() - 16usize];
    ["Alignment of DmCapabilitiesResponse"][::core::mem::align_of::<DmCapabilitiesResponse>() - 8usize];
    ["Offset of field: DmCapabilitiesResponse::header"]
        [::core::mem::offset_of!(DmCapabilitiesResponse, header) - 0usize];
    ["Offset of field: DmCapabilitiesResponse::flags"]
        [::core::mem::offset_of!(DmCapabilitiesResponse, flags) - 8usize];
};
#[doc = " Pages, but for the last two."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct DmStatus {
    pub header: DmHeader,
    pub available: u64,
    pub committed: u64,
    pub page_file: u64,
    pub zero_and_free: u64,
    pub page_file_writes: u32,
    pub io_difference: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DmStatus"][::core::mem::size_of::<DmStatus>() - 48usize];
    ["Alignment of DmStatus"][::core::mem::align_of::<DmStatus>() - 8usize];
    ["Offset of field: DmStatus::header"][::core::mem::offset_of!(DmStatus, header) - 0usize];
    ["Offset of field: DmStatus::available"][::core::mem::offset_of!(DmStatus, available) - 8usize];
    ["Offset of field: DmStatus::committed"][::core::mem::offset_of!(DmStatus, committed) - 16usize];
    ["Offset of field: DmStatus::page_file"][::core::mem::offset_of!(DmStatus, page_file) - 24usize];
    ["Offset of field: DmStatus::zero_and_free"][::core::mem::offset_of!(DmStatus, zero_and_free) - 32usize];
    ["Offset of field: DmStatus::page_file_writes"]
        [::core::mem::offset_of!(DmStatus, page_file_writes) - 40usize];
    ["Offset of field: DmStatus::io_difference"][::core::mem::offset_of!(DmStatus, io_difference) - 44usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct DmBalloon {
    pub header: DmHeader,
    pub pages: u32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DmBalloon"][::core::mem::size_of::<DmBalloon>() - 16usize];
    ["Alignment of DmBalloon"][::core::mem::align_of::<DmBalloon>() - 4usize];
    ["Offset of field: DmBalloon::header"][::core::mem::offset_of!(DmBalloon, header) - 0usize];
    ["Offset of field: DmBalloon::pages"][::core::mem::offset_of!(DmBalloon, pages) - 8usize];
    ["Offset of field: DmBalloon::reserved"][::core::mem::offset_of!(DmBalloon, reserved) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct DmBalloonResponse {
    pub header: DmHeader,
    pub reserved: u32,
    #[doc = " Bit 0: there will be more. Bits 31:1: how many ranges follow."]
    pub more_and_count: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DmBalloonResponse"][::core::mem::size_of::<DmBalloonResponse>() - 16usize];
    ["Alignment of DmBalloonResponse"][::core::mem::align_of::<DmBalloonResponse>() - 4usize];
    ["Offset of field: DmBalloonResponse::header"]
        [::core::mem::offset_of!(DmBalloonResponse, header) - 0usize];
    ["Offset of field: DmBalloonResponse::reserved"]
        [::core::mem::offset_of!(DmBalloonResponse, reserved) - 8usize];
    ["Offset of field: DmBalloonResponse::more_and_count"]
        [::core::mem::offset_of!(DmBalloonResponse, more_and_count) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct DmUnballoon {
    pub header: DmHeader,
    #[doc = " Bit 0: there will be more."]
    pub has_more: u32,
    pub range_count: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DmUnballoon"][::core::mem::size_of::<DmUnballoon>() - 16usize];
    ["Alignment of DmUnballoon"][::core::mem::align_of::<DmUnballoon>() - 4usize];
    ["Offset of field: DmUnballoon::header"][::core::mem::offset_of!(DmUnballoon, header) - 0usize];
    ["Offset of field: DmUnballoon::has_more"][::core::mem::offset_of!(DmUnballoon, has_more) - 8usize];
    ["Offset of field: DmUnballoon::range_count"]
        [::core::mem::offset_of!(DmUnballoon, range_count) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct DmHotAdd {
    pub header: DmHeader,
    pub range: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DmHotAdd"][::core::mem::size_of::<DmHotAdd>() - 16usize];
    ["Alignment of DmHotAdd"][::core::mem::align_of::<DmHotAdd>() - 8usize];
    ["Offset of field: DmHotAdd::header"][::core::mem::offset_of!(DmHotAdd, header) - 0usize];
    ["Offset of field: DmHotAdd::range"][::core::mem::offset_of!(DmHotAdd, range) - 8usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct DmHotAddResponse {
    pub header: DmHeader,
    pub pages: u32,
    #[doc = " 1 for success."]
    pub result: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DmHotAddResponse"][::core::mem::size_of::<DmHotAddResponse>() - 16usize];
    ["Alignment of DmHotAddResponse"][::core::mem::align_of::<DmHotAddResponse>() - 4usize];
    ["Offset of field: DmHotAddResponse::header"][::core::mem::offset_of!(DmHotAddResponse, header) - 0usize];
    ["Offset of field: DmHotAddResponse::pages"][::core::mem::offset_of!(DmHotAddResponse, pages) - 8usize];
    ["Offset of field: DmHotAddResponse::result"]
        [::core::mem::offset_of!(DmHotAddResponse, result) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct DmInfo {
    pub header: DmHeader,
    pub reserved: u32,
    pub info_size: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DmInfo"][::core::mem::size_of::<DmInfo>() - 16usize];
    ["Alignment of DmInfo"][::core::mem::align_of::<DmInfo>() - 4usize];
    ["Offset of field: DmInfo::header"][::core::mem::offset_of!(DmInfo, header) - 0usize];
    ["Offset of field: DmInfo::reserved"][::core::mem::offset_of!(DmInfo, reserved) - 8usize];
    ["Offset of field: DmInfo::info_size"][::core::mem::offset_of!(DmInfo, info_size) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct DmInfoBlock {
    #[doc = " 0: the most pages that the guest will have."]
    pub info_type: u32,
    pub data_size: u32,
    pub data: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DmInfoBlock"][::core::mem::size_of::<DmInfoBlock>() - 16usize];
    ["Alignment of DmInfoBlock"][::core::mem::align_of::<DmInfoBlock>() - 8usize];
    ["Offset of field: DmInfoBlock::info_type"][::core::mem::offset_of!(DmInfoBlock, info_type) - 0usize];
    ["Offset of field: DmInfoBlock::data_size"][::core::mem::offset_of!(DmInfoBlock, data_size) - 4usize];
    ["Offset of field: DmInfoBlock::data"][::core::mem::offset_of!(DmInfoBlock, data) - 8usize];
};

// Generated from include/storvsp.h by `cargo xtask bindgen`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bitflags::bitflags! {
    /// Flags of a packet.
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct StorvspPacketFlags: u32 {
        const REQUEST_COMPLETION = 0x1;
    }
}
bitflags::bitflags! {
    /// Flags of a request (SRB).
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct StorvspSrbFlags: u32 {
        const QUEUE_ACTION_ENABLE = 0x2;
        const DISABLE_DISCONNECT = 0x4;
        const DISABLE_SYNCHRONOUS_TRANSFER = 0x8;
        const BYPASS_FROZEN_QUEUE = 0x10;
        const DISABLE_AUTOSENSE = 0x20;
        const DATA_IN = 0x40;
        const DATA_OUT = 0x80;
        const NO_QUEUE_FREEZE = 0x100;
    }
}
bitflags::bitflags! {
    /// Bits above the status of a request.
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct StorvspSrbStatusFlags: u8 {
        const QUEUE_FROZEN = 0x40;
        const AUTOSENSE_VALID = 0x80;
    }
}
bitflags::bitflags! {
    /// Flags of a channel.
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct StorvspChannelFlags: u32 {
        const MULTICHANNEL = 0x1;
    }
}
pub const STORVSP_CDB_LENGTH: u32 = 16;
pub const STORVSP_SENSE_LENGTH: u32 = 20;
pub const STORVSP_SENSE_LENGTH_WIN7: u32 = 18;
pub const STORVSP_REQUEST_LENGTH_WIN7: u32 = 36;
pub const STORVSP_PACKET_LENGTH_WIN7: u32 = 48;
pub const STORVSP_QUEUE_ACTION_SIMPLE: u32 = 32;
pub const STORVSP_QUEUE_TAG_NONE: u32 = 255;
impl StorvspVersion {
    pub const WIN6: StorvspVersion = StorvspVersion(512);
    pub const WIN7: StorvspVersion = StorvspVersion(1026);
    pub const WIN8: StorvspVersion = StorvspVersion(1281);
    pub const BLUE: StorvspVersion = StorvspVersion(1536);
    pub const THRESHOLD: StorvspVersion = StorvspVersion(1538);
}
#[repr(transparent)]
#[doc = " Versions of the protocol: major in the high byte, minor in the low one."]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct StorvspVersion(pub u16);
impl StorvspOperation {
    pub const COMPLETE_IO: StorvspOperation = StorvspOperation(1);
    pub const REMOVE_DEVICE: StorvspOperation = StorvspOperation(2);
    pub const EXECUTE_SRB: StorvspOperation = StorvspOperation(3);
    pub const RESET_LUN: StorvspOperation = StorvspOperation(4);
    pub const RESET_ADAPTER: StorvspOperation = StorvspOperation(5);
    pub const RESET_BUS: StorvspOperation = StorvspOperation(6);
    pub const BEGIN_INITIALIZATION: StorvspOperation = StorvspOperation(7);
    pub const END_INITIALIZATION: StorvspOperation = StorvspOperation(8);
    pub const QUERY_PROTOCOL_VERSION: StorvspOperation = StorvspOperation(9);
    pub const QUERY_PROPERTIES: StorvspOperation = StorvspOperation(10);
    pub const ENUMERATE_BUS: StorvspOperation = StorvspOperation(11);
    pub const FC_HBA_DATA: StorvspOperation = StorvspOperation(12);
    pub const CREATE_SUB_CHANNELS: StorvspOperation = StorvspOperation(13);
    pub const EVENT_NOTIFICATION: StorvspOperation = StorvspOperation(14);
}
#[repr(transparent)]
#[doc = " What a packet is."]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct StorvspOperation(pub u32);
impl StorvspNtStatus {
    pub const SUCCESS: StorvspNtStatus = StorvspNtStatus(0);
    pub const BUFFER_OVERFLOW: StorvspNtStatus = StorvspNtStatus(2147483653);
    pub const DEVICE_BUSY: StorvspNtStatus = StorvspNtStatus(2147483665);
    pub const UNSUCCESSFUL: StorvspNtStatus = StorvspNtStatus(3221225473);
    pub const INVALID_PARAMETER: StorvspNtStatus = StorvspNtStatus(3221225485);
    pub const INVALID_DEVICE_REQUEST: StorvspNtStatus = StorvspNtStatus(3221225488);
    pub const REVISION_MISMATCH: StorvspNtStatus = StorvspNtStatus(3221225561);
    pub const DEVICE_NOT_CONNECTED: StorvspNtStatus = StorvspNtStatus(3221225629);
    pub const IO_TIMEOUT: StorvspNtStatus = StorvspNtStatus(3221225653);
    pub const DEVICE_DOES_NOT_EXIST: StorvspNtStatus = StorvspNtStatus(3221225664);
    pub const CANCELLED: StorvspNtStatus = StorvspNtStatus(3221225760);
    pub const INVALID_DEVICE_STATE: StorvspNtStatus = StorvspNtStatus(3221225860);
    pub const IO_DEVICE_ERROR: StorvspNtStatus = StorvspNtStatus(3221225861);
}
#[repr(transparent)]
#[doc = " How the host answers: NTSTATUS."]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct StorvspNtStatus(pub u32);
impl StorvspDirection {
    #[doc = " To the medium."]
    pub const OUT: StorvspDirection = StorvspDirection(0);
    #[doc = " From the medium."]
    pub const IN: StorvspDirection = StorvspDirection(1);
    #[doc = " From the medium."]
    pub const NONE: StorvspDirection = StorvspDirection(2);
}
#[repr(transparent)]
#[doc = " Which way data go."]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct StorvspDirection(pub u8);
impl StorvspSrbStatus {
    pub const PENDING: StorvspSrbStatus = StorvspSrbStatus(0);
    pub const SUCCESS: StorvspSrbStatus = StorvspSrbStatus(1);
    pub const ABORTED: StorvspSrbStatus = StorvspSrbStatus(2);
    pub const ABORT_FAILED: StorvspSrbStatus = StorvspSrbStatus(3);
    pub const ERROR: StorvspSrbStatus = StorvspSrbStatus(4);
    pub const BUSY: StorvspSrbStatus = StorvspSrbStatus(5);
    pub const INVALID_REQUEST: StorvspSrbStatus = StorvspSrbStatus(6);
    pub const INVALID_PATH: StorvspSrbStatus = StorvspSrbStatus(7);
    pub const NO_DEVICE: StorvspSrbStatus = StorvspSrbStatus(8);
    pub const TIMEOUT: StorvspSrbStatus = StorvspSrbStatus(9);
    pub const SELECTION_TIMEOUT: StorvspSrbStatus = StorvspSrbStatus(10);
    pub const COMMAND_TIMEOUT: StorvspSrbStatus = StorvspSrbStatus(11);
    pub const MESSAGE_REJECTED: StorvspSrbStatus = StorvspSrbStatus(13);
    pub const BUS_RESET: StorvspSrbStatus = StorvspSrbStatus(14);
    pub const PARITY_ERROR: StorvspSrbStatus = StorvspSrbStatus(15);
    pub const REQUEST_SENSE_FAILED: StorvspSrbStatus = StorvspSrbStatus(16);
    pub const NO_HBA: StorvspSrbStatus = StorvspSrbStatus(17);
    pub const DATA_OVERRUN: StorvspSrbStatus = StorvspSrbStatus(18);
    pub const BAD_SRB_LENGTH: StorvspSrbStatus = StorvspSrbStatus(21);
    pub const REQUEST_FLUSHED: StorvspSrbStatus = StorvspSrbStatus(22);
    pub const INVALID_LUN: StorvspSrbStatus = StorvspSrbStatus(32);
    pub const INVALID_TARGET: StorvspSrbStatus = StorvspSrbStatus(33);
    pub const BAD_FUNCTION: StorvspSrbStatus = StorvspSrbStatus(34);
    pub const ERROR_RECOVERY: StorvspSrbStatus = StorvspSrbStatus(35);
    pub const NOT_POWERED: StorvspSrbStatus = StorvspSrbStatus(36);
    pub const INTERNAL_ERROR: StorvspSrbStatus = StorvspSrbStatus(48);
}
#[repr(transparent)]
#[doc = " How a request went, in bits 5:0 of its status."]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct StorvspSrbStatus(pub u8);
#[doc = " Ahead of every payload."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct StorvspHeader {
    pub operation: StorvspOperation,
    #[doc = " storvsp_packet_flags"]
    pub flags: u32,
    pub status: StorvspNtStatus,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of StorvspHeader"][::core::mem::size_of::<StorvspHeader>() - 12usize];
    ["Alignment of StorvspHeader"][::core::mem::align_of::<StorvspHeader>() - 4usize];
    ["Offset of field: StorvspHeader::operation"][::core::mem::offset_of!(StorvspHeader, operation) - 0usize];
    ["Offset of field: StorvspHeader::flags"][::core::mem::offset_of!(StorvspHeader, flags) - 4usize];
    ["Offset of field: StorvspHeader::status"][::core::mem::offset_of!(StorvspHeader, status) - 8usize];
};
#[doc = " A SCSI command, and its answer."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct StorvspScsiRequest {
    #[doc = " Bytes: 0x34, or 0x24 ahead of version 5.1."]
    pub length: u16,
    #[doc = " In bits 5:0 storvsp_srb_status, above them storvsp_srb_status_flags."]
    pub srb_status: u8,
    pub scsi_status: u8,
    pub reserved1: u8,
    pub path_id: u8,
    pub target_id: u8,
    pub lun: u8,
    pub cdb_length: u8,
    pub sense_length: u8,
    pub direction: StorvspDirection,
    pub reserved2: u8,
    #[doc = " Bytes: of the buffer; in the answer, bytes that were transferred."]
    pub transfer_length: u32,
    #[doc = " The command; in the answer, sense data."]
    pub cdb_or_sense: [u8; 20usize],
    pub reserved3: u16,
    pub queue_tag: u8,
    pub queue_action: u8,
    #[doc = " storvsp_srb_flags"]
    pub srb_flags: u32,
    #[doc = " Seconds."]
    pub timeout: u32,
    pub queue_sort_key: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of StorvspScsiRequest"][::core::mem::size_of::<StorvspScsiRequest>() - 52usize];
    ["Alignment of StorvspScsiRequest"][::core::mem::align_of::<StorvspScsiRequest>() - 4usize];
    ["Offset of field: StorvspScsiRequest::length"]
        [::core::mem::offset_of!(StorvspScsiRequest, length) - 0usize];
    ["Offset of field: StorvspScsiRequest::srb_status"]
        [::core::mem::offset_of!(StorvspScsiRequest, srb_status) - 2usize];
    ["Offset of field: StorvspScsiRequest::scsi_status"]
        [::core::mem::offset_of!(StorvspScsiRequest, scsi_status) - 3usize];
    ["Offset of field: StorvspScsiRequest::reserved1"]
        [::core::mem::offset_of!(StorvspScsiRequest, reserved1) - 4usize];
    ["Offset of field: StorvspScsiRequest::path_id"]
        [::core::mem::offset_of!(StorvspScsiRequest, path_id) - 5usize];
    ["Offset of field: StorvspScsiRequest::target_id"]
        [::core::mem::offset_of!(StorvspScsiRequest, target_id) - 6usize];
    ["Offset of field: StorvspScsiRequest::lun"][::core::mem::offset_of!(StorvspScsiRequest, lun) - 7usize];
    ["Offset of field: StorvspScsiRequest::cdb_length"]
        [::core::mem::offset_of!(StorvspScsiRequest, cdb_length) - 8usize];
    ["Offset of field: StorvspScsiRequest::sense_length"]
        [::core::mem::offset_of!(StorvspScsiRequest, sense_length) - 9usize];
    ["Offset of field: StorvspScsiRequest::direction"]
        [::core::mem::offset_of!(StorvspScsiRequest, direction) - 10usize];
    ["Offset of field: StorvspScsiRequest::reserved2"]
        [::core::mem::offset_of!(StorvspScsiRequest, reserved2) - 11usize];
    ["Offset of field: StorvspScsiRequest::transfer_length"]
        [::core::mem::offset_of!(StorvspScsiRequest, transfer_length) - 12usize];
    ["Offset of field: StorvspScsiRequest::cdb_or_sense"]
        [::core::mem::offset_of!(StorvspScsiRequest, cdb_or_sense) - 16usize];
    ["Offset of field: StorvspScsiRequest::reserved3"]
        [::core::mem::offset_of!(StorvspScsiRequest, reserved3) - 36usize];
    ["Offset of field: StorvspScsiRequest::queue_tag"]
        [::core::mem::offset_of!(StorvspScsiRequest, queue_tag) - 38usize];
    ["Offset of field: StorvspScsiRequest::queue_action"]
        [::core::mem::offset_of!(StorvspScsiRequest, queue_action) - 39usize];
    ["Offset of field: StorvspScsiRequest::srb_flags"]
        [::core::mem::offset_of!(StorvspScsiRequest, srb_flags) - 40usize];
    ["Offset of field: StorvspScsiRequest::timeout"]
        [::core::mem::offset_of!(StorvspScsiRequest, timeout) - 44usize];
    ["Offset of field: StorvspScsiRequest::queue_sort_key"]
        [::core::mem::offset_of!(StorvspScsiRequest, queue_sort_key) - 48usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct StorvspExecute {
    pub header: StorvspHeader,
    pub request: StorvspScsiRequest,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of StorvspExecute"][::core::mem::size_of::<StorvspExecute>() - 64usize];
    ["Alignment of StorvspExecute"][::core::mem::align_of::<StorvspExecute>() - 4usize];
    ["Offset of field: StorvspExecute::header"][::core::mem::offset_of!(StorvspExecute, header) - 0usize];
    ["Offset of field: StorvspExecute::request"][::core::mem::offset_of!(StorvspExecute, request) - 12usize];
};
#[doc = " BEGIN, END, and whatever has no payload; padded to the length of all packets."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct StorvspPlain {
    pub header: StorvspHeader,
    pub padding: [u8; 52usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of StorvspPlain"][::core::mem::size_of::<StorvspPlain>() - 64usize];
    ["Alignment of StorvspPlain"][::core::mem::align_of::<StorvspPlain>() - 4usize];
    ["Offset of field: StorvspPlain::header"][::core::mem::offset_of!(StorvspPlain, header) - 0usize];
    ["Offset of field: StorvspPlain::padding"][::core::mem::offset_of!(StorvspPlain, padding) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct StorvspQueryVersion {
    pub header: StorvspHeader,
    pub version: StorvspVersion,
    pub revision: u16,
    pub padding: [u8; 48usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of StorvspQueryVersion"][::core::mem::size_of::<StorvspQueryVersion>() - 64usize];
    ["Alignment of StorvspQueryVersion"][::core::mem::align_of::<StorvspQueryVersion>() - 4usize];
    ["Offset of field: StorvspQueryVersion::header"]
        [::core::mem::offset_of!(StorvspQueryVersion, header) - 0usize];
    ["Offset of field: StorvspQueryVersion::version"]
        [::core::mem::offset_of!(StorvspQueryVersion, version) - 12usize];
    ["Offset of field: StorvspQueryVersion::revision"]
        [::core::mem::offset_of!(StorvspQueryVersion, revision) - 14usize];
    ["Offset of field: StorvspQueryVersion::padding"]
        [::core::mem::offset_of!(StorvspQueryVersion, padding) - 16usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct StorvspCreateSubChannels {
    pub header: StorvspHeader,
    pub count: u16,
    pub padding: [u8; 50usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of StorvspCreateSubChannels"][::core::mem::size_of::<StorvspCreateSubChannels>() - 64usize];
    ["Alignment of StorvspCreateSubChannels"][::core::mem::align_of::<StorvspCreateSubChannels>() - 4usize];
    ["Offset of field: StorvspCreateSubChannels::header"]
        [::core::mem::offset_of!(StorvspCreateSubChannels, header) - 0usize];
    ["Offset of field: StorvspCreateSubChannels::count"]
        [::core::mem::offset_of!(StorvspCreateSubChannels, count) - 12usize];
    ["Offset of field: StorvspCreateSubChannels::padding"]
        [::core::mem::offset_of!(StorvspCreateSubChannels, padding) - 14usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct StorvspProperties {
    pub reserved1: u32,
    #[doc = " Beside the primary channel."]
    pub maximum_sub_channels: u16,
    pub reserved2: u16,
    #[doc = " storvsp_channel_flags"]
    pub flags: u32,
    pub maximum_transfer: u32,
    pub reserved3: [u32; 2usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of StorvspProperties"][::core::mem::size_of::<StorvspProperties>() - 24usize];
    ["Alignment of StorvspProperties"][::core::mem::align_of::<StorvspProperties>() - 4usize];
    ["Offset of field: StorvspProperties::reserved1"]
        [::core::mem::offset_of!(StorvspProperties, reserved1) - 0usize];
    ["Offset of field: StorvspProperties::maximum_sub_channels"]
        [::core::mem::offset_of!(StorvspProperties, maximum_sub_channels) - 4usize];
    ["Offset of field: StorvspProperties::reserved2"]
        [::core::mem::offset_of!(StorvspProperties, reserved2) - 6usize];
    ["Offset of field: StorvspProperties::flags"][::core::mem::offset_of!(StorvspProperties, flags) - 8usize];
    ["Offset of field: StorvspProperties::maximum_transfer"]
        [::core::mem::offset_of!(StorvspProperties, maximum_transfer) - 12usize];
    ["Offset of field: StorvspProperties::reserved3"]
        [::core::mem::offset_of!(StorvspProperties, reserved3) - 16usize];
};

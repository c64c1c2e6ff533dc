// Generated from include/vmbus.h by `cargo xtask bindgen`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bitflags::bitflags! {
    /// Features of version 6.0.
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct VmbusFeatureFlags: u32 {
        const GUEST_SIGNAL_PARAMETERS = 0x1;
        const INTERRUPT_REDIRECTION = 0x2;
        const MODIFY_CONNECTION = 0x4;
        const CLIENT_ID = 0x8;
        const CONFIDENTIAL_CHANNELS = 0x10;
        const PAUSE_RESUME = 0x20;
        const SERVER_MONITOR_PAGES = 0x40;
        const GPA_PINNING = 0x80;
    }
}
bitflags::bitflags! {
    /// Flags of an offer.
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct VmbusOfferFlags: u16 {
        const ENUMERATE_INTERFACE = 0x1;
        const CONFIDENTIAL_RING = 0x2;
        const CONFIDENTIAL_EXTERNAL_MEMORY = 0x4;
        const PINNED_EXTERNAL_MEMORY = 0x8;
        const NAMED_PIPE = 0x10;
        const LOOPBACK = 0x100;
        const PARENT_OFFER = 0x200;
        const MONITORED_NOTIFICATION = 0x400;
        const HVSOCK = 0x2000;
    }
}
/// `00000000-facb-11e6-bd58-64006a7986d3`
pub const SOCKET: crate::Guid = crate::Guid([
    0x00, 0x00, 0x00, 0x00, 0xcb, 0xfa, 0xe6, 0x11, 0xbd, 0x58, 0x64, 0x00, 0x6a, 0x79, 0x86, 0xd3,
]);
/// `ba6163d9-04a1-4d29-b605-72e2ffb1dc7f`
pub const SCSI: crate::Guid = crate::Guid([
    0xd9, 0x63, 0x61, 0xba, 0xa1, 0x04, 0x29, 0x4d, 0xb6, 0x05, 0x72, 0xe2, 0xff, 0xb1, 0xdc, 0x7f,
]);
/// `32412632-86cb-44a2-9b5c-50d1417354f5`
pub const IDE: crate::Guid = crate::Guid([
    0x32, 0x26, 0x41, 0x32, 0xcb, 0x86, 0xa2, 0x44, 0x9b, 0x5c, 0x50, 0xd1, 0x41, 0x73, 0x54, 0xf5,
]);
/// `2f9bcc4a-0069-4af3-b76b-6fd0be528cda`
pub const FIBRE_CHANNEL: crate::Guid = crate::Guid([
    0x4a, 0xcc, 0x9b, 0x2f, 0x69, 0x00, 0xf3, 0x4a, 0xb7, 0x6b, 0x6f, 0xd0, 0xbe, 0x52, 0x8c, 0xda,
]);
/// `f8615163-df3e-46c5-913f-f2d2f965ed0e`
pub const NETWORK: crate::Guid = crate::Guid([
    0x63, 0x51, 0x61, 0xf8, 0x3e, 0xdf, 0xc5, 0x46, 0x91, 0x3f, 0xf2, 0xd2, 0xf9, 0x65, 0xed, 0x0e,
]);
/// `f912ad6d-2b17-48ea-bd65-f927a61c7684`
pub const KEYBOARD: crate::Guid = crate::Guid([
    0x6d, 0xad, 0x12, 0xf9, 0x17, 0x2b, 0xea, 0x48, 0xbd, 0x65, 0xf9, 0x27, 0xa6, 0x1c, 0x76, 0x84,
]);
/// `cfa8b69e-5b4a-4cc0-b98b-8ba1a1f3f95a`
pub const MOUSE: crate::Guid = crate::Guid([
    0x9e, 0xb6, 0xa8, 0xcf, 0x4a, 0x5b, 0xc0, 0x4c, 0xb9, 0x8b, 0x8b, 0xa1, 0xa1, 0xf3, 0xf9, 0x5a,
]);
/// `da0a7802-e377-4aac-8e77-0558eb1073f8`
pub const VIDEO: crate::Guid = crate::Guid([
    0x02, 0x78, 0x0a, 0xda, 0x77, 0xe3, 0xac, 0x4a, 0x8e, 0x77, 0x05, 0x58, 0xeb, 0x10, 0x73, 0xf8,
]);
/// `0e0b6031-5213-4934-818b-38d90ced39db`
pub const SHUTDOWN: crate::Guid = crate::Guid([
    0x31, 0x60, 0x0b, 0x0e, 0x13, 0x52, 0x34, 0x49, 0x81, 0x8b, 0x38, 0xd9, 0x0c, 0xed, 0x39, 0xdb,
]);
/// `57164f39-9115-4e78-ab55-382f3bd5422d`
pub const HEARTBEAT: crate::Guid = crate::Guid([
    0x39, 0x4f, 0x16, 0x57, 0x15, 0x91, 0x78, 0x4e, 0xab, 0x55, 0x38, 0x2f, 0x3b, 0xd5, 0x42, 0x2d,
]);
/// `9527e630-d0ae-497b-adce-e80ab0175caf`
pub const TIME_SYNC: crate::Guid = crate::Guid([
    0x30, 0xe6, 0x27, 0x95, 0xae, 0xd0, 0x7b, 0x49, 0xad, 0xce, 0xe8, 0x0a, 0xb0, 0x17, 0x5c, 0xaf,
]);
/// `a9a0f4e7-5a45-4d96-b827-8a841e8c03e6`
pub const KVP: crate::Guid = crate::Guid([
    0xe7, 0xf4, 0xa0, 0xa9, 0x45, 0x5a, 0x96, 0x4d, 0xb8, 0x27, 0x8a, 0x84, 0x1e, 0x8c, 0x03, 0xe6,
]);
/// `35fa2e29-ea23-4236-96ae-3a6ebacba440`
pub const VSS: crate::Guid = crate::Guid([
    0x29, 0x2e, 0xfa, 0x35, 0x23, 0xea, 0x36, 0x42, 0x96, 0xae, 0x3a, 0x6e, 0xba, 0xcb, 0xa4, 0x40,
]);
/// `34d14be3-dee4-41c8-9ae7-6b174977c192`
pub const FILE_COPY: crate::Guid = crate::Guid([
    0xe3, 0x4b, 0xd1, 0x34, 0xe4, 0xde, 0xc8, 0x41, 0x9a, 0xe7, 0x6b, 0x17, 0x49, 0x77, 0xc1, 0x92,
]);
/// `525074dc-8985-46e2-8057-a307dc18a502`
pub const DYNAMIC_MEMORY: crate::Guid = crate::Guid([
    0xdc, 0x74, 0x50, 0x52, 0x85, 0x89, 0xe2, 0x46, 0x80, 0x57, 0xa3, 0x07, 0xdc, 0x18, 0xa5, 0x02,
]);
/// `44c4f61d-4444-4400-9d52-802e27ede19f`
pub const PCI: crate::Guid = crate::Guid([
    0x1d, 0xf6, 0xc4, 0x44, 0x44, 0x44, 0x00, 0x44, 0x9d, 0x52, 0x80, 0x2e, 0x27, 0xed, 0xe1, 0x9f,
]);
/// `276aacf4-ac15-426c-98dd-7521ad3f01fe`
pub const REMOTE_DESKTOP: crate::Guid = crate::Guid([
    0xf4, 0xac, 0x6a, 0x27, 0x15, 0xac, 0x6c, 0x42, 0x98, 0xdd, 0x75, 0x21, 0xad, 0x3f, 0x01, 0xfe,
]);
pub const VMBUS_MESSAGE_CONNECTION: u32 = 1;
pub const VMBUS_MULTI_CLIENT_CONNECTION: u32 = 4;
pub const VMBUS_EVENT_CONNECTION: u32 = 2;
pub const VMBUS_SINT: u32 = 2;
pub const VMBUS_GPADL_HEADER_PFNS: u32 = 26;
pub const VMBUS_GPADL_BODY_PFNS: u32 = 28;
pub const VMBUS_GPADL_PAGES: u32 = 8190;
pub const VMBUS_VP_DISABLED: u32 = 4294967295;
pub const VMBUS_STATUS_FAILURE: u32 = 2147549183;
impl VmbusVersion {
    pub const V1: VmbusVersion = VmbusVersion(13);
    pub const WIN7: VmbusVersion = VmbusVersion(65537);
    pub const WIN8: VmbusVersion = VmbusVersion(131076);
    pub const WIN8_1: VmbusVersion = VmbusVersion(196608);
    pub const WIN10: VmbusVersion = VmbusVersion(262144);
    pub const WIN10_RS3_0: VmbusVersion = VmbusVersion(262145);
    pub const WIN10_RS3_1: VmbusVersion = VmbusVersion(327680);
    pub const WIN10_RS4: VmbusVersion = VmbusVersion(327681);
    pub const WIN10_RS5: VmbusVersion = VmbusVersion(327682);
    pub const IRON: VmbusVersion = VmbusVersion(327683);
    pub const COPPER: VmbusVersion = VmbusVersion(393216);
}
#[repr(transparent)]
#[doc = " Versions of the protocol: major in the high half, minor in the low one."]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct VmbusVersion(pub u32);
impl VmbusMessageType {
    pub const OFFER_CHANNEL: VmbusMessageType = VmbusMessageType(1);
    pub const RESCIND_CHANNEL_OFFER: VmbusMessageType = VmbusMessageType(2);
    pub const REQUEST_OFFERS: VmbusMessageType = VmbusMessageType(3);
    pub const ALL_OFFERS_DELIVERED: VmbusMessageType = VmbusMessageType(4);
    pub const OPEN_CHANNEL: VmbusMessageType = VmbusMessageType(5);
    pub const OPEN_CHANNEL_RESULT: VmbusMessageType = VmbusMessageType(6);
    pub const CLOSE_CHANNEL: VmbusMessageType = VmbusMessageType(7);
    pub const GPADL_HEADER: VmbusMessageType = VmbusMessageType(8);
    pub const GPADL_BODY: VmbusMessageType = VmbusMessageType(9);
    pub const GPADL_CREATED: VmbusMessageType = VmbusMessageType(10);
    pub const GPADL_TEARDOWN: VmbusMessageType = VmbusMessageType(11);
    pub const GPADL_TORNDOWN: VmbusMessageType = VmbusMessageType(12);
    pub const REL_ID_RELEASED: VmbusMessageType = VmbusMessageType(13);
    pub const INITIATE_CONTACT: VmbusMessageType = VmbusMessageType(14);
    pub const VERSION_RESPONSE: VmbusMessageType = VmbusMessageType(15);
    pub const UNLOAD: VmbusMessageType = VmbusMessageType(16);
    pub const UNLOAD_COMPLETE: VmbusMessageType = VmbusMessageType(17);
    pub const OPEN_RESERVED_CHANNEL: VmbusMessageType = VmbusMessageType(18);
    pub const CLOSE_RESERVED_CHANNEL: VmbusMessageType = VmbusMessageType(19);
    pub const CLOSE_RESERVED_RESPONSE: VmbusMessageType = VmbusMessageType(20);
    pub const TL_CONNECT_REQUEST: VmbusMessageType = VmbusMessageType(21);
    pub const MODIFY_CHANNEL: VmbusMessageType = VmbusMessageType(22);
    pub const TL_CONNECT_RESULT: VmbusMessageType = VmbusMessageType(23);
    pub const MODIFY_CHANNEL_RESPONSE: VmbusMessageType = VmbusMessageType(24);
    pub const MODIFY_CONNECTION: VmbusMessageType = VmbusMessageType(25);
    pub const MODIFY_CONNECTION_RESPONSE: VmbusMessageType = VmbusMessageType(26);
    pub const PAUSE: VmbusMessageType = VmbusMessageType(27);
    pub const PAUSE_RESPONSE: VmbusMessageType = VmbusMessageType(28);
    pub const RESUME: VmbusMessageType = VmbusMessageType(29);
}
#[repr(transparent)]
#[doc = " Types of messages."]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct VmbusMessageType(pub u32);
impl VmbusConnectionState {
    pub const SUCCESS: VmbusConnectionState = VmbusConnectionState(0);
    pub const LOW_RESOURCES: VmbusConnectionState = VmbusConnectionState(1);
    pub const FAILED: VmbusConnectionState = VmbusConnectionState(2);
}
#[repr(transparent)]
#[doc = " What a host says of the connection, from version 2.4 on."]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct VmbusConnectionState(pub u8);
#[doc = " The header of every message."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct VmbusMessageHeader {
    pub message_type: VmbusMessageType,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of VmbusMessageHeader"][::core::mem::size_of::<VmbusMessageHeader>() - 8usize];
    ["Alignment of VmbusMessageHeader"][::core::mem::align_of::<VmbusMessageHeader>() - 4usize];
    ["Offset of field: VmbusMessageHeader::message_type"]
        [::core::mem::offset_of!(VmbusMessageHeader, message_type) - 0usize];
    ["Offset of field: VmbusMessageHeader::reserved"]
        [::core::mem::offset_of!(VmbusMessageHeader, reserved) - 4usize];
};
#[doc = " A message that consists of its header and the id of a channel."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct VmbusChannelMessage {
    pub header: VmbusMessageHeader,
    pub channel_id: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of VmbusChannelMessage"][::core::mem::size_of::<VmbusChannelMessage>() - 12usize];
    ["Alignment of VmbusChannelMessage"][::core::mem::align_of::<VmbusChannelMessage>() - 4usize];
    ["Offset of field: VmbusChannelMessage::header"]
        [::core::mem::offset_of!(VmbusChannelMessage, header) - 0usize];
    ["Offset of field: VmbusChannelMessage::channel_id"]
        [::core::mem::offset_of!(VmbusChannelMessage, channel_id) - 8usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct VmbusOfferChannel {
    pub header: VmbusMessageHeader,
    #[doc = " Windows' layout: the first three parts little-endian."]
    pub interface_id: [u8; 16usize],
    pub instance_id: [u8; 16usize],
    pub reserved: [u32; 4usize],
    pub flags: u16,
    pub mmio_megabytes: u16,
    #[doc = " By kind of device: vmbus_pipe_user_data, vmbus_hvsock_user_data."]
    pub user_defined: [u8; 120usize],
    #[doc = " 0 for the primary channel."]
    pub subchannel_index: u16,
    pub mmio_megabytes_optional: u16,
    pub channel_id: u32,
    pub monitor_id: u8,
    pub monitor_allocated: u8,
    #[doc = " Bit 0, from version 1.1 on: the channel has a connection id of its own."]
    pub is_dedicated: u16,
    pub connection_id: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of VmbusOfferChannel"][::core::mem::size_of::<VmbusOfferChannel>() - 196usize];
    ["Alignment of VmbusOfferChannel"][::core::mem::align_of::<VmbusOfferChannel>() - 4usize];
    ["Offset of field: VmbusOfferChannel::header"]
        [::core::mem::offset_of!(VmbusOfferChannel, header) - 0usize];
    ["Offset of field: VmbusOfferChannel::interface_id"]
        [::core::mem::offset_of!(VmbusOfferChannel, interface_id) - 8usize];
    ["Offset of field: VmbusOfferChannel::instance_id"]
        [::core::mem::offset_of!(VmbusOfferChannel, instance_id) - 24usize];
    ["Offset of field: VmbusOfferChannel::reserved"]
        [::core::mem::offset_of!(VmbusOfferChannel, reserved) - 40usize];
    ["Offset of field: VmbusOfferChannel::flags"]
        [::core::mem::offset_of!(VmbusOfferChannel, flags) - 56usize];
    ["Offset of field: VmbusOfferChannel::mmio_megabytes"]
        [::core::mem::offset_of!(VmbusOfferChannel, mmio_megabytes) - 58usize];
    ["Offset of field: VmbusOfferChannel::user_defined"]
        [::core::mem::offset_of!(VmbusOfferChannel, user_defined) - 60usize];
    ["Offset of field: VmbusOfferChannel::subchannel_index"]
        [::core::mem::offset_of!(VmbusOfferChannel, subchannel_index) - 180usize];
    ["Offset of field: VmbusOfferChannel::mmio_megabytes_optional"]
        [::core::mem::offset_of!(VmbusOfferChannel, mmio_megabytes_optional) - 182usize];
    ["Offset of field: VmbusOfferChannel::channel_id"]
        [::core::mem::offset_of!(VmbusOfferChannel, channel_id) - 184usize];
    ["Offset of field: VmbusOfferChannel::monitor_id"]
        [::core::mem::offset_of!(VmbusOfferChannel, monitor_id) - 188usize];
    ["Offset of field: VmbusOfferChannel::monitor_allocated"]
        [::core::mem::offset_of!(VmbusOfferChannel, monitor_allocated) - 189usize];
    ["Offset of field: VmbusOfferChannel::is_dedicated"]
        [::core::mem::offset_of!(VmbusOfferChannel, is_dedicated) - 190usize];
    ["Offset of field: VmbusOfferChannel::connection_id"]
        [::core::mem::offset_of!(VmbusOfferChannel, connection_id) - 192usize];
};
#[doc = " User-defined data of an offer in pipe mode."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct VmbusPipeUserData {
    #[doc = " 0 bytes, 4 messages."]
    pub pipe_type: u32,
    pub user_defined: [u8; 112usize],
    pub flags: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of VmbusPipeUserData"][::core::mem::size_of::<VmbusPipeUserData>() - 120usize];
    ["Alignment of VmbusPipeUserData"][::core::mem::align_of::<VmbusPipeUserData>() - 4usize];
    ["Offset of field: VmbusPipeUserData::pipe_type"]
        [::core::mem::offset_of!(VmbusPipeUserData, pipe_type) - 0usize];
    ["Offset of field: VmbusPipeUserData::user_defined"]
        [::core::mem::offset_of!(VmbusPipeUserData, user_defined) - 4usize];
    ["Offset of field: VmbusPipeUserData::flags"]
        [::core::mem::offset_of!(VmbusPipeUserData, flags) - 116usize];
};
#[doc = " User-defined data of an offer of a socket, packed."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct VmbusHvsockUserData {
    pub pipe_type: [u8; 4usize],
    pub is_for_guest_accept: u8,
    pub is_for_guest_container: u8,
    pub version: [u8; 4usize],
    pub silo_id: [u8; 16usize],
    pub padding: [u8; 2usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of VmbusHvsockUserData"][::core::mem::size_of::<VmbusHvsockUserData>() - 28usize];
    ["Alignment of VmbusHvsockUserData"][::core::mem::align_of::<VmbusHvsockUserData>() - 1usize];
    ["Offset of field: VmbusHvsockUserData::pipe_type"]
        [::core::mem::offset_of!(VmbusHvsockUserData, pipe_type) - 0usize];
    ["Offset of field: VmbusHvsockUserData::is_for_guest_accept"]
        [::core::mem::offset_of!(VmbusHvsockUserData, is_for_guest_accept) - 4usize];
    ["Offset of field: VmbusHvsockUserData::is_for_guest_container"]
        [::core::mem::offset_of!(VmbusHvsockUserData, is_for_guest_container) - 5usize];
    ["Offset of field: VmbusHvsockUserData::version"]
        [::core::mem::offset_of!(VmbusHvsockUserData, version) - 6usize];
    ["Offset of field: VmbusHvsockUserData::silo_id"]
        [::core::mem::offset_of!(VmbusHvsockUserData, silo_id) - 10usize];
    ["Offset of field: VmbusHvsockUserData::padding"]
        [::core::mem::offset_of!(VmbusHvsockUserData, padding) - 26usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct VmbusInitiateContact {
    pub header: VmbusMessageHeader,
    pub version: VmbusVersion,
    pub target_message_vp: u32,
    #[doc = " Up to version 4.1 the address of the interrupt page, from 5.0 on vmbus_contact_target."]
    pub interrupt_page_or_target: [u8; 8usize],
    pub parent_to_child_monitor_page: u64,
    pub child_to_parent_monitor_page: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of VmbusInitiateContact"][::core::mem::size_of::<VmbusInitiateContact>() - 40usize];
    ["Alignment of VmbusInitiateContact"][::core::mem::align_of::<VmbusInitiateContact>() - 8usize];
    ["Offset of field: VmbusInitiateContact::header"]
        [::core::mem::offset_of!(VmbusInitiateContact, header) - 0usize];
    ["Offset of field: VmbusInitiateContact::version"]
        [::core::mem::offset_of!(VmbusInitiateContact, version) - 8usize];
    ["Offset of field: VmbusInitiateContact::target_message_vp"]
        [::core::mem::offset_of!(VmbusInitiateContact, target_message_vp) - 12usize];
    ["Offset of field: VmbusInitiateContact::interrupt_page_or_target"]
        [::core::mem::offset_of!(VmbusInitiateContact, interrupt_page_or_target) - 16usize];
    ["Offset of field: VmbusInitiateContact::parent_to_child_monitor_page"]
        [::core::mem::offset_of!(VmbusInitiateContact, parent_to_child_monitor_page) - 24usize];
    ["Offset of field: VmbusInitiateContact::child_to_parent_monitor_page"]
        [::core::mem::offset_of!(VmbusInitiateContact, child_to_parent_monitor_page) - 32usize];
};
#[doc = " Where messages go, from version 5.0 on, and the features wanted, from 6.0 on."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct VmbusContactTarget {
    pub target_sint: u8,
    pub target_vtl: u8,
    pub reserved: u16,
    pub feature_flags: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of VmbusContactTarget"][::core::mem::size_of::<VmbusContactTarget>() - 8usize];
    ["Alignment of VmbusContactTarget"][::core::mem::align_of::<VmbusContactTarget>() - 4usize];
    ["Offset of field: VmbusContactTarget::target_sint"]
        [::core::mem::offset_of!(VmbusContactTarget, target_sint) - 0usize];
    ["Offset of field: VmbusContactTarget::target_vtl"]
        [::core::mem::offset_of!(VmbusContactTarget, target_vtl) - 1usize];
    ["Offset of field: VmbusContactTarget::reserved"]
        [::core::mem::offset_of!(VmbusContactTarget, reserved) - 2usize];
    ["Offset of field: VmbusContactTarget::feature_flags"]
        [::core::mem::offset_of!(VmbusContactTarget, feature_flags) - 4usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct VmbusVersionResponse {
    pub header: VmbusMessageHeader,
    pub version_supported: u8,
    pub connection_state: VmbusConnectionState,
    pub reserved: u16,
    #[doc = " Below version 5.0 the version, or 0; from 5.0 on the connection id for messages."]
    pub selected_version_or_connection_id: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of VmbusVersionResponse"][::core::mem::size_of::<VmbusVersionResponse>() - 16usize];
    ["Alignment of VmbusVersionResponse"][::core::mem::align_of::<VmbusVersionResponse>() - 4usize];
    ["Offset of field: VmbusVersionResponse::header"]
        [::core::mem::offset_of!(VmbusVersionResponse, header) - 0usize];
    ["Offset of field: VmbusVersionResponse::version_supported"]
        [::core::mem::offset_of!(VmbusVersionResponse, version_supported) - 8usize];
    ["Offset of field: VmbusVersionResponse::connection_state"]
        [::core::mem::offset_of!(VmbusVersionResponse, connection_state) - 9usize];
    ["Offset of field: VmbusVersionResponse::reserved"]
        [::core::mem::offset_of!(VmbusVersionResponse, reserved) - 10usize];
    ["Offset of field: VmbusVersionResponse::selected_version_or_connection_id"]
        [::core::mem::offset_of!(VmbusVersionResponse, selected_version_or_connection_id) - 12usize];
};
#[doc = " The response of version 6.0."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct VmbusVersionResponse2 {
    pub base: VmbusVersionResponse,
    pub feature_flags: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of VmbusVersionResponse2"][::core::mem::size_of::<VmbusVersionResponse2>() - 20usize];
    ["Alignment of VmbusVersionResponse2"][::core::mem::align_of::<VmbusVersionResponse2>() - 4usize];
    ["Offset of field: VmbusVersionResponse2::base"]
        [::core::mem::offset_of!(VmbusVersionResponse2, base) - 0usize];
    ["Offset of field: VmbusVersionResponse2::feature_flags"]
        [::core::mem::offset_of!(VmbusVersionResponse2, feature_flags) - 16usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct VmbusGpadlHeader {
    pub header: VmbusMessageHeader,
    pub channel_id: u32,
    pub gpadl_id: u32,
    #[doc = " Bytes of all ranges with their headers, over all messages."]
    pub range_buffer_len: u16,
    pub range_count: u16,
    pub byte_count: u32,
    pub byte_offset: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of VmbusGpadlHeader"][::core::mem::size_of::<VmbusGpadlHeader>() - 28usize];
    ["Alignment of VmbusGpadlHeader"][::core::mem::align_of::<VmbusGpadlHeader>() - 4usize];
    ["Offset of field: VmbusGpadlHeader::header"][::core::mem::offset_of!(VmbusGpadlHeader, header) - 0usize];
    ["Offset of field: VmbusGpadlHeader::channel_id"]
        [::core::mem::offset_of!(VmbusGpadlHeader, channel_id) - 8usize];
    ["Offset of field: VmbusGpadlHeader::gpadl_id"]
        [::core::mem::offset_of!(VmbusGpadlHeader, gpadl_id) - 12usize];
    ["Offset of field: VmbusGpadlHeader::range_buffer_len"]
        [::core::mem::offset_of!(VmbusGpadlHeader, range_buffer_len) - 16usize];
    ["Offset of field: VmbusGpadlHeader::range_count"]
        [::core::mem::offset_of!(VmbusGpadlHeader, range_count) - 18usize];
    ["Offset of field: VmbusGpadlHeader::byte_count"]
        [::core::mem::offset_of!(VmbusGpadlHeader, byte_count) - 20usize];
    ["Offset of field: VmbusGpadlHeader::byte_offset"]
        [::core::mem::offset_of!(VmbusGpadlHeader, byte_offset) - 24usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct VmbusGpadlBody {
    pub header: VmbusMessageHeader,
    pub message_number: u32,
    pub gpadl_id: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of VmbusGpadlBody"][::core::mem::size_of::<VmbusGpadlBody>() - 16usize];
    ["Alignment of VmbusGpadlBody"][::core::mem::align_of::<VmbusGpadlBody>() - 4usize];
    ["Offset of field: VmbusGpadlBody::header"][::core::mem::offset_of!(VmbusGpadlBody, header) - 0usize];
    ["Offset of field: VmbusGpadlBody::message_number"]
        [::core::mem::offset_of!(VmbusGpadlBody, message_number) - 8usize];
    ["Offset of field: VmbusGpadlBody::gpadl_id"]
        [::core::mem::offset_of!(VmbusGpadlBody, gpadl_id) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct VmbusGpadlCreated {
    pub header: VmbusMessageHeader,
    pub channel_id: u32,
    pub gpadl_id: u32,
    pub status: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of VmbusGpadlCreated"][::core::mem::size_of::<VmbusGpadlCreated>() - 20usize];
    ["Alignment of VmbusGpadlCreated"][::core::mem::align_of::<VmbusGpadlCreated>() - 4usize];
    ["Offset of field: VmbusGpadlCreated::header"]
        [::core::mem::offset_of!(VmbusGpadlCreated, header) - 0usize];
    ["Offset of field: VmbusGpadlCreated::channel_id"]
        [::core::mem::offset_of!(VmbusGpadlCreated, channel_id) - 8usize];
    ["Offset of field: VmbusGpadlCreated::gpadl_id"]
        [::core::mem::offset_of!(VmbusGpadlCreated, gpadl_id) - 12usize];
    ["Offset of field: VmbusGpadlCreated::status"]
        [::core::mem::offset_of!(VmbusGpadlCreated, status) - 16usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct VmbusGpadlTeardown {
    pub header: VmbusMessageHeader,
    pub channel_id: u32,
    pub gpadl_id: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of VmbusGpadlTeardown"][::core::mem::size_of::<VmbusGpadlTeardown>() - 16usize];
    ["Alignment of VmbusGpadlTeardown"][::core::mem::align_of::<VmbusGpadlTeardown>() - 4usize];
    ["Offset of field: VmbusGpadlTeardown::header"]
        [::core::mem::offset_of!(VmbusGpadlTeardown, header) - 0usize];
    ["Offset of field: VmbusGpadlTeardown::channel_id"]
        [::core::mem::offset_of!(VmbusGpadlTeardown, channel_id) - 8usize];
    ["Offset of field: VmbusGpadlTeardown::gpadl_id"]
        [::core::mem::offset_of!(VmbusGpadlTeardown, gpadl_id) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct VmbusGpadlTorndown {
    pub header: VmbusMessageHeader,
    pub gpadl_id: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of VmbusGpadlTorndown"][::core::mem::size_of::<VmbusGpadlTorndown>() - 12usize];
    ["Alignment of VmbusGpadlTorndown"][::core::mem::align_of::<VmbusGpadlTorndown>() - 4usize];
    ["Offset of field: VmbusGpadlTorndown::header"]
        [::core::mem::offset_of!(VmbusGpadlTorndown, header) - 0usize];
    ["Offset of field: VmbusGpadlTorndown::gpadl_id"]
        [::core::mem::offset_of!(VmbusGpadlTorndown, gpadl_id) - 8usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct VmbusOpenChannel {
    pub header: VmbusMessageHeader,
    pub channel_id: u32,
    pub open_id: u32,
    pub ring_gpadl_id: u32,
    #[doc = " The index of a virtual processor, or VMBUS_VP_DISABLED."]
    pub target_vp: u32,
    pub downstream_page_offset: u32,
    pub user_defined: [u8; 120usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of VmbusOpenChannel"][::core::mem::size_of::<VmbusOpenChannel>() - 148usize];
    ["Alignment of VmbusOpenChannel"][::core::mem::align_of::<VmbusOpenChannel>() - 4usize];
    ["Offset of field: VmbusOpenChannel::header"][::core::mem::offset_of!(VmbusOpenChannel, header) - 0usize];
    ["Offset of field: VmbusOpenChannel::channel_id"]
        [::core::mem::offset_of!(VmbusOpenChannel, channel_id) - 8usize];
    ["Offset of field: VmbusOpenChannel::open_id"]
        [::core::mem::offset_of!(VmbusOpenChannel, open_id) - 12usize];
    ["Offset of field: VmbusOpenChannel::ring_gpadl_id"]
        [::core::mem::offset_of!(VmbusOpenChannel, ring_gpadl_id) - 16usize];
    ["Offset of field: VmbusOpenChannel::target_vp"]
        [::core::mem::offset_of!(VmbusOpenChannel, target_vp) - 20usize];
    ["Offset of field: VmbusOpenChannel::downstream_page_offset"]
        [::core::mem::offset_of!(VmbusOpenChannel, downstream_page_offset) - 24usize];
    ["Offset of field: VmbusOpenChannel::user_defined"]
        [::core::mem::offset_of!(VmbusOpenChannel, user_defined) - 28usize];
};
#[doc = " A guest's request for a socket connection. The silo is from version 5.2 on."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct VmbusTlConnectRequest {
    pub header: VmbusMessageHeader,
    pub endpoint_id: [u8; 16usize],
    pub service_id: [u8; 16usize],
    pub silo_id: [u8; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of VmbusTlConnectRequest"][::core::mem::size_of::<VmbusTlConnectRequest>() - 56usize];
    ["Alignment of VmbusTlConnectRequest"][::core::mem::align_of::<VmbusTlConnectRequest>() - 4usize];
    ["Offset of field: VmbusTlConnectRequest::header"]
        [::core::mem::offset_of!(VmbusTlConnectRequest, header) - 0usize];
    ["Offset of field: VmbusTlConnectRequest::endpoint_id"]
        [::core::mem::offset_of!(VmbusTlConnectRequest, endpoint_id) - 8usize];
    ["Offset of field: VmbusTlConnectRequest::service_id"]
        [::core::mem::offset_of!(VmbusTlConnectRequest, service_id) - 24usize];
    ["Offset of field: VmbusTlConnectRequest::silo_id"]
        [::core::mem::offset_of!(VmbusTlConnectRequest, silo_id) - 40usize];
};
#[doc = " That it is refused; where it is granted, a channel is offered."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct VmbusTlConnectResult {
    pub header: VmbusMessageHeader,
    pub endpoint_id: [u8; 16usize],
    pub service_id: [u8; 16usize],
    pub status: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of VmbusTlConnectResult"][::core::mem::size_of::<VmbusTlConnectResult>() - 44usize];
    ["Alignment of VmbusTlConnectResult"][::core::mem::align_of::<VmbusTlConnectResult>() - 4usize];
    ["Offset of field: VmbusTlConnectResult::header"]
        [::core::mem::offset_of!(VmbusTlConnectResult, header) - 0usize];
    ["Offset of field: VmbusTlConnectResult::endpoint_id"]
        [::core::mem::offset_of!(VmbusTlConnectResult, endpoint_id) - 8usize];
    ["Offset of field: VmbusTlConnectResult::service_id"]
        [::core::mem::offset_of!(VmbusTlConnectResult, service_id) - 24usize];
    ["Offset of field: VmbusTlConnectResult::status"]
        [::core::mem::offset_of!(VmbusTlConnectResult, status) - 40usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct VmbusOpenChannelResult {
    pub header: VmbusMessageHeader,
    pub channel_id: u32,
    pub open_id: u32,
    pub status: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of VmbusOpenChannelResult"][::core::mem::size_of::<VmbusOpenChannelResult>() - 20usize];
    ["Alignment of VmbusOpenChannelResult"][::core::mem::align_of::<VmbusOpenChannelResult>() - 4usize];
    ["Offset of field: VmbusOpenChannelResult::header"]
        [::core::mem::offset_of!(VmbusOpenChannelResult, header) - 0usize];
    ["Offset of field: VmbusOpenChannelResult::channel_id"]
        [::core::mem::offset_of!(VmbusOpenChannelResult, channel_id) - 8usize];
    ["Offset of field: VmbusOpenChannelResult::open_id"]
        [::core::mem::offset_of!(VmbusOpenChannelResult, open_id) - 12usize];
    ["Offset of field: VmbusOpenChannelResult::status"]
        [::core::mem::offset_of!(VmbusOpenChannelResult, status) - 16usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct VmbusModifyChannel {
    pub header: VmbusMessageHeader,
    pub channel_id: u32,
    pub target_vp: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of VmbusModifyChannel"][::core::mem::size_of::<VmbusModifyChannel>() - 16usize];
    ["Alignment of VmbusModifyChannel"][::core::mem::align_of::<VmbusModifyChannel>() - 4usize];
    ["Offset of field: VmbusModifyChannel::header"]
        [::core::mem::offset_of!(VmbusModifyChannel, header) - 0usize];
    ["Offset of field: VmbusModifyChannel::channel_id"]
        [::core::mem::offset_of!(VmbusModifyChannel, channel_id) - 8usize];
    ["Offset of field: VmbusModifyChannel::target_vp"]
        [::core::mem::offset_of!(VmbusModifyChannel, target_vp) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct VmbusModifyChannelResponse {
    pub header: VmbusMessageHeader,
    pub channel_id: u32,
    pub status: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of VmbusModifyChannelResponse"][::core::mem::size_of::<VmbusModifyChannelResponse>() - 16usize];
    ["Alignment of VmbusModifyChannelResponse"]
        [::core::mem::align_of::<VmbusModifyChannelResponse>() - 4usize];
    ["Offset of field: VmbusModifyChannelResponse::header"]
        [::core::mem::offset_of!(VmbusModifyChannelResponse, header) - 0usize];
    ["Offset of field: VmbusModifyChannelResponse::channel_id"]
        [::core::mem::offset_of!(VmbusModifyChannelResponse, channel_id) - 8usize];
    ["Offset of field: VmbusModifyChannelResponse::status"]
        [::core::mem::offset_of!(VmbusModifyChannelResponse, status) - 12usize];
};

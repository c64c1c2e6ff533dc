// Generated from include/ic.h by `cargo xtask bindgen`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bitflags::bitflags! {
    /// Flags of a message.
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct IcMessageFlags: u8 {
        const TRANSACTION = 0x1;
        const REQUEST = 0x2;
        const RESPONSE = 0x4;
    }
}
bitflags::bitflags! {
    /// Flags of a shutdown.
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct IcShutdownFlags: u32 {
        const FORCE = 0x1;
        const RESTART = 0x2;
        const HIBERNATE = 0x4;
    }
}
bitflags::bitflags! {
    /// Flags of a time.
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct IcTimeFlags: u8 {
        const SYNC = 0x1;
        const SAMPLE = 0x2;
    }
}
bitflags::bitflags! {
    /// Flags of a key.
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct KeyboardEventFlags: u32 {
        const UNICODE = 0x1;
        const BREAK = 0x2;
        const E0 = 0x4;
        const E1 = 0x8;
    }
}
bitflags::bitflags! {
    /// Lights of a keyboard.
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct KeyboardLedFlags: u16 {
        const SCROLL_LOCK = 0x1;
        const NUM_LOCK = 0x2;
        const CAPS_LOCK = 0x4;
    }
}
pub const IC_UNIX_EPOCH: u64 = 116444736000000000;
pub const IC_MESSAGE_MAXIMUM: u32 = 13312;
pub const KEYBOARD_VERSION: u32 = 65536;
pub const MOUSE_VERSION: u32 = 131072;
impl IcMessageType {
    pub const NEGOTIATE: IcMessageType = IcMessageType(0);
    pub const HEARTBEAT: IcMessageType = IcMessageType(1);
    pub const KVP: IcMessageType = IcMessageType(2);
    pub const SHUTDOWN: IcMessageType = IcMessageType(3);
    pub const TIME_SYNC: IcMessageType = IcMessageType(4);
    pub const VSS: IcMessageType = IcMessageType(5);
    pub const FILE_COPY: IcMessageType = IcMessageType(7);
}
#[repr(transparent)]
#[doc = " Types of messages."]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct IcMessageType(pub u16);
impl IcStatus {
    pub const SUCCESS: IcStatus = IcStatus(0);
    pub const FAILURE: IcStatus = IcStatus(2147500037);
    pub const NOT_FOUND: IcStatus = IcStatus(2147749890);
    pub const NOT_SUPPORTED: IcStatus = IcStatus(2147942450);
    pub const NO_MORE_ITEMS: IcStatus = IcStatus(2147942659);
}
#[repr(transparent)]
#[doc = " How a message was taken: HRESULT."]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct IcStatus(pub u32);
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct IcVersion {
    pub major: u16,
    pub minor: u16,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of IcVersion"][::core::mem::size_of::<IcVersion>() - 4usize];
    ["Alignment of IcVersion"][::core::mem::align_of::<IcVersion>() - 2usize];
    ["Offset of field: IcVersion::major"][::core::mem::offset_of!(IcVersion, major) - 0usize];
    ["Offset of field: IcVersion::minor"][::core::mem::offset_of!(IcVersion, minor) - 2usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct IcHeader {
    pub framework_version: IcVersion,
    pub message_type: IcMessageType,
    pub message_version: IcVersion,
    #[doc = " Bytes behind this header."]
    pub message_size: u16,
    #[doc = " In two halves, as the word is not aligned to 4."]
    pub status_low: u16,
    pub status_high: u16,
    pub transaction_id: u8,
    #[doc = " ic_message_flags"]
    pub flags: u8,
    pub reserved: u16,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of IcHeader"][::core::mem::size_of::<IcHeader>() - 20usize];
    ["Alignment of IcHeader"][::core::mem::align_of::<IcHeader>() - 2usize];
    ["Offset of field: IcHeader::framework_version"]
        [::core::mem::offset_of!(IcHeader, framework_version) - 0usize];
    ["Offset of field: IcHeader::message_type"][::core::mem::offset_of!(IcHeader, message_type) - 4usize];
    ["Offset of field: IcHeader::message_version"]
        [::core::mem::offset_of!(IcHeader, message_version) - 6usize];
    ["Offset of field: IcHeader::message_size"][::core::mem::offset_of!(IcHeader, message_size) - 10usize];
    ["Offset of field: IcHeader::status_low"][::core::mem::offset_of!(IcHeader, status_low) - 12usize];
    ["Offset of field: IcHeader::status_high"][::core::mem::offset_of!(IcHeader, status_high) - 14usize];
    ["Offset of field: IcHeader::transaction_id"]
        [::core::mem::offset_of!(IcHeader, transaction_id) - 16usize];
    ["Offset of field: IcHeader::flags"][::core::mem::offset_of!(IcHeader, flags) - 17usize];
    ["Offset of field: IcHeader::reserved"][::core::mem::offset_of!(IcHeader, reserved) - 18usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct IcNegotiate {
    pub framework_count: u16,
    pub message_count: u16,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of IcNegotiate"][::core::mem::size_of::<IcNegotiate>() - 8usize];
    ["Alignment of IcNegotiate"][::core::mem::align_of::<IcNegotiate>() - 4usize];
    ["Offset of field: IcNegotiate::framework_count"]
        [::core::mem::offset_of!(IcNegotiate, framework_count) - 0usize];
    ["Offset of field: IcNegotiate::message_count"]
        [::core::mem::offset_of!(IcNegotiate, message_count) - 2usize];
    ["Offset of field: IcNegotiate::reserved"][::core::mem::offset_of!(IcNegotiate, reserved) - 4usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct IcShutdown {
    pub reason: u32,
    pub timeout: u32,
    #[doc = " ic_shutdown_flags"]
    pub flags: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of IcShutdown"][::core::mem::size_of::<IcShutdown>() - 12usize];
    ["Alignment of IcShutdown"][::core::mem::align_of::<IcShutdown>() - 4usize];
    ["Offset of field: IcShutdown::reason"][::core::mem::offset_of!(IcShutdown, reason) - 0usize];
    ["Offset of field: IcShutdown::timeout"][::core::mem::offset_of!(IcShutdown, timeout) - 4usize];
    ["Offset of field: IcShutdown::flags"][::core::mem::offset_of!(IcShutdown, flags) - 8usize];
};
impl IcHeartbeatState {
    pub const UNKNOWN: IcHeartbeatState = IcHeartbeatState(0);
    pub const HEALTHY: IcHeartbeatState = IcHeartbeatState(1);
    pub const CRITICAL: IcHeartbeatState = IcHeartbeatState(2);
    pub const STOPPED: IcHeartbeatState = IcHeartbeatState(3);
}
#[repr(transparent)]
#[doc = " How a guest feels."]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct IcHeartbeatState(pub u32);
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct IcHeartbeat {
    pub sequence: u64,
    pub state: IcHeartbeatState,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of IcHeartbeat"][::core::mem::size_of::<IcHeartbeat>() - 16usize];
    ["Alignment of IcHeartbeat"][::core::mem::align_of::<IcHeartbeat>() - 8usize];
    ["Offset of field: IcHeartbeat::sequence"][::core::mem::offset_of!(IcHeartbeat, sequence) - 0usize];
    ["Offset of field: IcHeartbeat::state"][::core::mem::offset_of!(IcHeartbeat, state) - 8usize];
    ["Offset of field: IcHeartbeat::reserved"][::core::mem::offset_of!(IcHeartbeat, reserved) - 12usize];
};
#[doc = " A time, up to version 3."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct IcTime {
    #[doc = " Units of 100 ns since 1601."]
    pub parent_time: u64,
    pub child_time: u64,
    pub round_trip: u64,
    #[doc = " ic_time_flags"]
    pub flags: u8,
    pub reserved: [u8; 7usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of IcTime"][::core::mem::size_of::<IcTime>() - 32usize];
    ["Alignment of IcTime"][::core::mem::align_of::<IcTime>() - 8usize];
    ["Offset of field: IcTime::parent_time"][::core::mem::offset_of!(IcTime, parent_time) - 0usize];
    ["Offset of field: IcTime::child_time"][::core::mem::offset_of!(IcTime, child_time) - 8usize];
    ["Offset of field: IcTime::round_trip"][::core::mem::offset_of!(IcTime, round_trip) - 16usize];
    ["Offset of field: IcTime::flags"][::core::mem::offset_of!(IcTime, flags) - 24usize];
    ["Offset of field: IcTime::reserved"][::core::mem::offset_of!(IcTime, reserved) - 25usize];
};
#[doc = " A time, from version 4 on."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct IcTime4 {
    pub parent_time: u64,
    #[doc = " The guest's reference time when it was taken."]
    pub reference_time: u64,
    pub flags: u8,
    pub leap: u8,
    pub stratum: u8,
    pub reserved: [u8; 5usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of IcTime4"][::core::mem::size_of::<IcTime4>() - 24usize];
    ["Alignment of IcTime4"][::core::mem::align_of::<IcTime4>() - 8usize];
    ["Offset of field: IcTime4::parent_time"][::core::mem::offset_of!(IcTime4, parent_time) - 0usize];
    ["Offset of field: IcTime4::reference_time"][::core::mem::offset_of!(IcTime4, reference_time) - 8usize];
    ["Offset of field: IcTime4::flags"][::core::mem::offset_of!(IcTime4, flags) - 16usize];
    ["Offset of field: IcTime4::leap"][::core::mem::offset_of!(IcTime4, leap) - 17usize];
    ["Offset of field: IcTime4::stratum"][::core::mem::offset_of!(IcTime4, stratum) - 18usize];
    ["Offset of field: IcTime4::reserved"][::core::mem::offset_of!(IcTime4, reserved) - 19usize];
};
impl IcKvpOperation {
    pub const GET: IcKvpOperation = IcKvpOperation(0);
    pub const SET: IcKvpOperation = IcKvpOperation(1);
    pub const DELETE: IcKvpOperation = IcKvpOperation(2);
    pub const ENUMERATE: IcKvpOperation = IcKvpOperation(3);
    pub const GET_IP: IcKvpOperation = IcKvpOperation(4);
    pub const SET_IP: IcKvpOperation = IcKvpOperation(5);
}
#[repr(transparent)]
#[doc = " What is done with a key-value pair."]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct IcKvpOperation(pub u8);
impl IcKvpPool {
    pub const EXTERNAL: IcKvpPool = IcKvpPool(0);
    pub const GUEST: IcKvpPool = IcKvpPool(1);
    pub const AUTO: IcKvpPool = IcKvpPool(2);
    pub const AUTO_EXTERNAL: IcKvpPool = IcKvpPool(3);
}
#[repr(transparent)]
#[doc = " Where it is kept."]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct IcKvpPool(pub u8);
impl IcKvpValueType {
    pub const STRING: IcKvpValueType = IcKvpValueType(1);
    pub const EXPAND_STRING: IcKvpValueType = IcKvpValueType(2);
    pub const DWORD: IcKvpValueType = IcKvpValueType(4);
    pub const QWORD: IcKvpValueType = IcKvpValueType(11);
}
#[repr(transparent)]
#[doc = " What a value is."]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct IcKvpValueType(pub u32);
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct IcKvpHeader {
    pub operation: IcKvpOperation,
    pub pool: IcKvpPool,
    pub reserved: u16,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of IcKvpHeader"][::core::mem::size_of::<IcKvpHeader>() - 4usize];
    ["Alignment of IcKvpHeader"][::core::mem::align_of::<IcKvpHeader>() - 2usize];
    ["Offset of field: IcKvpHeader::operation"][::core::mem::offset_of!(IcKvpHeader, operation) - 0usize];
    ["Offset of field: IcKvpHeader::pool"][::core::mem::offset_of!(IcKvpHeader, pool) - 1usize];
    ["Offset of field: IcKvpHeader::reserved"][::core::mem::offset_of!(IcKvpHeader, reserved) - 2usize];
};
#[doc = " Operations 0 and 1."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct IcKvpValue {
    pub value_type: IcKvpValueType,
    #[doc = " Bytes, with the zero at the end."]
    pub key_size: u32,
    pub value_size: u32,
    pub key: [u8; 512usize],
    pub value: [u8; 2048usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of IcKvpValue"][::core::mem::size_of::<IcKvpValue>() - 2572usize];
    ["Alignment of IcKvpValue"][::core::mem::align_of::<IcKvpValue>() - 4usize];
    ["Offset of field: IcKvpValue::value_type"][::core::mem::offset_of!(IcKvpValue, value_type) - 0usize];
    ["Offset of field: IcKvpValue::key_size"][::core::mem::offset_of!(IcKvpValue, key_size) - 4usize];
    ["Offset of field: IcKvpValue::value_size"][::core::mem::offset_of!(IcKvpValue, value_size) - 8usize];
    ["Offset of field: IcKvpValue::key"][::core::mem::offset_of!(IcKvpValue, key) - 12usize];
    ["Offset of field: IcKvpValue::value"][::core::mem::offset_of!(IcKvpValue, value) - 524usize];
};
#[doc = " Operation 3: an index, then as above."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct IcKvpEnumerate {
    pub index: u32,
    pub value: IcKvpValue,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of IcKvpEnumerate"][::core::mem::size_of::<IcKvpEnumerate>() - 2576usize];
    ["Alignment of IcKvpEnumerate"][::core::mem::align_of::<IcKvpEnumerate>() - 4usize];
    ["Offset of field: IcKvpEnumerate::index"][::core::mem::offset_of!(IcKvpEnumerate, index) - 0usize];
    ["Offset of field: IcKvpEnumerate::value"][::core::mem::offset_of!(IcKvpEnumerate, value) - 4usize];
};
#[doc = " Operation 2."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct IcKvpDelete {
    pub key_size: u32,
    pub key: [u8; 512usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of IcKvpDelete"][::core::mem::size_of::<IcKvpDelete>() - 516usize];
    ["Alignment of IcKvpDelete"][::core::mem::align_of::<IcKvpDelete>() - 4usize];
    ["Offset of field: IcKvpDelete::key_size"][::core::mem::offset_of!(IcKvpDelete, key_size) - 0usize];
    ["Offset of field: IcKvpDelete::key"][::core::mem::offset_of!(IcKvpDelete, key) - 4usize];
};
impl KeyboardMessageType {
    pub const PROTOCOL_REQUEST: KeyboardMessageType = KeyboardMessageType(1);
    pub const PROTOCOL_RESPONSE: KeyboardMessageType = KeyboardMessageType(2);
    pub const EVENT: KeyboardMessageType = KeyboardMessageType(3);
    pub const SET_LED_INDICATORS: KeyboardMessageType = KeyboardMessageType(4);
}
#[repr(transparent)]
#[doc = " Types of a keyboard's messages."]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct KeyboardMessageType(pub u32);
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct KeyboardProtocolRequest {
    pub message_type: KeyboardMessageType,
    pub version: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of KeyboardProtocolRequest"][::core::mem::size_of::<KeyboardProtocolRequest>() - 8usize];
    ["Alignment of KeyboardProtocolRequest"][::core::mem::align_of::<KeyboardProtocolRequest>() - 4usize];
    ["Offset of field: KeyboardProtocolRequest::message_type"]
        [::core::mem::offset_of!(KeyboardProtocolRequest, message_type) - 0usize];
    ["Offset of field: KeyboardProtocolRequest::version"]
        [::core::mem::offset_of!(KeyboardProtocolRequest, version) - 4usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct KeyboardProtocolResponse {
    pub message_type: KeyboardMessageType,
    #[doc = " Bit 0."]
    pub is_accepted: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of KeyboardProtocolResponse"][::core::mem::size_of::<KeyboardProtocolResponse>() - 8usize];
    ["Alignment of KeyboardProtocolResponse"][::core::mem::align_of::<KeyboardProtocolResponse>() - 4usize];
    ["Offset of field: KeyboardProtocolResponse::message_type"]
        [::core::mem::offset_of!(KeyboardProtocolResponse, message_type) - 0usize];
    ["Offset of field: KeyboardProtocolResponse::is_accepted"]
        [::core::mem::offset_of!(KeyboardProtocolResponse, is_accepted) - 4usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct KeyboardEvent {
    pub message_type: KeyboardMessageType,
    pub make_code: u16,
    pub reserved: u16,
    #[doc = " keyboard_event_flags"]
    pub flags: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of KeyboardEvent"][::core::mem::size_of::<KeyboardEvent>() - 12usize];
    ["Alignment of KeyboardEvent"][::core::mem::align_of::<KeyboardEvent>() - 4usize];
    ["Offset of field: KeyboardEvent::message_type"]
        [::core::mem::offset_of!(KeyboardEvent, message_type) - 0usize];
    ["Offset of field: KeyboardEvent::make_code"][::core::mem::offset_of!(KeyboardEvent, make_code) - 4usize];
    ["Offset of field: KeyboardEvent::reserved"][::core::mem::offset_of!(KeyboardEvent, reserved) - 6usize];
    ["Offset of field: KeyboardEvent::flags"][::core::mem::offset_of!(KeyboardEvent, flags) - 8usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct KeyboardSetLedIndicators {
    pub message_type: KeyboardMessageType,
    #[doc = " keyboard_led_flags"]
    pub leds: u16,
    pub reserved: u16,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of KeyboardSetLedIndicators"][::core::mem::size_of::<KeyboardSetLedIndicators>() - 8usize];
    ["Alignment of KeyboardSetLedIndicators"][::core::mem::align_of::<KeyboardSetLedIndicators>() - 4usize];
    ["Offset of field: KeyboardSetLedIndicators::message_type"]
        [::core::mem::offset_of!(KeyboardSetLedIndicators, message_type) - 0usize];
    ["Offset of field: KeyboardSetLedIndicators::leds"]
        [::core::mem::offset_of!(KeyboardSetLedIndicators, leds) - 4usize];
    ["Offset of field: KeyboardSetLedIndicators::reserved"]
        [::core::mem::offset_of!(KeyboardSetLedIndicators, reserved) - 6usize];
};
impl MouseMessageType {
    pub const PROTOCOL_REQUEST: MouseMessageType = MouseMessageType(0);
    pub const PROTOCOL_RESPONSE: MouseMessageType = MouseMessageType(1);
    pub const INITIAL_DEVICE_INFO: MouseMessageType = MouseMessageType(2);
    pub const DEVICE_INFO_ACK: MouseMessageType = MouseMessageType(3);
    pub const INPUT_REPORT: MouseMessageType = MouseMessageType(4);
}
#[repr(transparent)]
#[doc = " Types of a mouse's messages."]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct MouseMessageType(pub u32);
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct MouseHeader {
    pub message_type: MouseMessageType,
    #[doc = " Bytes behind this header."]
    pub size: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MouseHeader"][::core::mem::size_of::<MouseHeader>() - 8usize];
    ["Alignment of MouseHeader"][::core::mem::align_of::<MouseHeader>() - 4usize];
    ["Offset of field: MouseHeader::message_type"]
        [::core::mem::offset_of!(MouseHeader, message_type) - 0usize];
    ["Offset of field: MouseHeader::size"][::core::mem::offset_of!(MouseHeader, size) - 4usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct MouseProtocolRequest {
    pub header: MouseHeader,
    pub version: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MouseProtocolRequest"][::core::mem::size_of::<MouseProtocolRequest>() - 12usize];
    ["Alignment of MouseProtocolRequest"][::core::mem::align_of::<MouseProtocolRequest>() - 4usize];
    ["Offset of field: MouseProtocolRequest::header"]
        [::core::mem::offset_of!(MouseProtocolRequest, header) - 0usize];
    ["Offset of field: MouseProtocolRequest::version"]
        [::core::mem::offset_of!(MouseProtocolRequest, version) - 8usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct MouseProtocolResponse {
    pub header: MouseHeader,
    pub version: u32,
    #[doc = " Only the first byte is sent."]
    pub is_accepted: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MouseProtocolResponse"][::core::mem::size_of::<MouseProtocolResponse>() - 16usize];
    ["Alignment of MouseProtocolResponse"][::core::mem::align_of::<MouseProtocolResponse>() - 4usize];
    ["Offset of field: MouseProtocolResponse::header"]
        [::core::mem::offset_of!(MouseProtocolResponse, header) - 0usize];
    ["Offset of field: MouseProtocolResponse::version"]
        [::core::mem::offset_of!(MouseProtocolResponse, version) - 8usize];
    ["Offset of field: MouseProtocolResponse::is_accepted"]
        [::core::mem::offset_of!(MouseProtocolResponse, is_accepted) - 12usize];
};
#[doc = " What describes a mouse: a USB descriptor of HID follows, and the descriptor of reports that it names."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct MouseDeviceInfo {
    pub header: MouseHeader,
    #[doc = " Bytes of the attributes."]
    pub attributes_size: u32,
    pub vendor: u16,
    pub product: u16,
    pub version: u16,
    pub reserved: [u16; 11usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MouseDeviceInfo"][::core::mem::size_of::<MouseDeviceInfo>() - 40usize];
    ["Alignment of MouseDeviceInfo"][::core::mem::align_of::<MouseDeviceInfo>() - 4usize];
    ["Offset of field: MouseDeviceInfo::header"][::core::mem::offset_of!(MouseDeviceInfo, header) - 0usize];
    ["Offset of field: MouseDeviceInfo::attributes_size"]
        [::core::mem::offset_of!(MouseDeviceInfo, attributes_size) - 8usize];
    ["Offset of field: MouseDeviceInfo::vendor"][::core::mem::offset_of!(MouseDeviceInfo, vendor) - 12usize];
    ["Offset of field: MouseDeviceInfo::product"]
        [::core::mem::offset_of!(MouseDeviceInfo, product) - 14usize];
    ["Offset of field: MouseDeviceInfo::version"]
        [::core::mem::offset_of!(MouseDeviceInfo, version) - 16usize];
    ["Offset of field: MouseDeviceInfo::reserved"]
        [::core::mem::offset_of!(MouseDeviceInfo, reserved) - 18usize];
};

// Generated from include/tlfs.h by `cargo xtask bindgen`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bitflags::bitflags! {
    /// Privileges of the partition: EAX of the features leaf in the low half, EBX in the high one. TLFS §2.4.3
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct HvPrivilegeFlags: u64 {
        const VP_RUNTIME = 0x1;
        const TIME_REF_COUNT = 0x2;
        const SYNIC = 0x4;
        const STIMER = 0x8;
        const APIC = 0x10;
        const HYPERCALL = 0x20;
        const VP_INDEX = 0x40;
        const RESET = 0x80;
        const STATS = 0x100;
        const REFERENCE_TSC = 0x200;
        const GUEST_IDLE = 0x400;
        const FREQUENCY = 0x800;
        const DEBUG = 0x1000;
        const REENLIGHTENMENT = 0x2000;
        const TSC_INVARIANT = 0x8000;
        const CREATE_PARTITIONS = 0x100000000;
        const ACCESS_PARTITION_ID = 0x200000000;
        const ACCESS_MEMORY_POOL = 0x400000000;
        const POST_MESSAGES = 0x1000000000;
        const SIGNAL_EVENTS = 0x2000000000;
        const CREATE_PORT = 0x4000000000;
        const CONNECT_PORT = 0x8000000000;
        const ACCESS_STATS = 0x10000000000;
        const DEBUGGING = 0x80000000000;
        const CPU_MANAGEMENT = 0x100000000000;
        const ACCESS_VSM = 0x1000000000000;
        const ACCESS_VP_REGISTERS = 0x2000000000000;
        const EXTENDED_HYPERCALLS = 0x10000000000000;
        const ISOLATION = 0x40000000000000;
    }
}
bitflags::bitflags! {
    /// EDX of the features leaf. TLFS §2.4.3
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct HvFeatureFlags: u32 {
        const GUEST_DEBUGGING = 0x2;
        const PERF_MONITORS = 0x4;
        const XMM_HYPERCALL_INPUT = 0x10;
        const GUEST_IDLE = 0x20;
        const FREQUENCY_MSRS = 0x100;
        const CRASH_MSRS = 0x400;
        const DEBUG_MSRS = 0x800;
        const XMM_HYPERCALL_OUTPUT = 0x8000;
        const SINT_POLLING = 0x20000;
        const HYPERCALL_MSR_LOCK = 0x40000;
        const DIRECT_STIMER = 0x80000;
    }
}
bitflags::bitflags! {
    /// EAX of the recommendations leaf. TLFS §2.4.4
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct HvRecommendationFlags: u32 {
        const ADDRESS_SWITCH_HYPERCALL = 0x1;
        const LOCAL_FLUSH_HYPERCALL = 0x2;
        const REMOTE_FLUSH_HYPERCALL = 0x4;
        const APIC_MSRS = 0x8;
        const RESET_MSR = 0x10;
        const RELAXED_TIMING = 0x20;
        const AUTO_EOI_DEPRECATED = 0x200;
        const CLUSTER_IPI_HYPERCALL = 0x400;
        const EX_PROCESSOR_MASKS = 0x800;
        const NESTED = 0x1000;
        const ENLIGHTENED_VMCS = 0x4000;
    }
}
bitflags::bitflags! {
    /// The low bits of a register that names a page: HYPERCALL, SIEFP, SIMP, REFERENCE_TSC.
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct HvPageFlags: u64 {
        const ENABLE = 0x1;
        const LOCKED = 0x2;
    }
}
bitflags::bitflags! {
    /// SCONTROL. TLFS §11.8.1
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct HvScontrolFlags: u64 {
        const ENABLE = 0x1;
    }
}
bitflags::bitflags! {
    /// SINTx, above the vector in its low byte. TLFS §11.8.4
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct HvSintFlags: u64 {
        const MASKED = 0x10000;
        const AUTO_EOI = 0x20000;
        const POLLING = 0x40000;
    }
}
bitflags::bitflags! {
    /// STIMERx_CONFIG, beside the vector in bits 11:4 and the SINT in bits 19:16. TLFS §12.3.1
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct HvStimerFlags: u64 {
        const ENABLE = 0x1;
        const PERIODIC = 0x2;
        const LAZY = 0x4;
        const AUTO_ENABLE = 0x8;
        const DIRECT = 0x1000;
    }
}
bitflags::bitflags! {
    /// CRASH_CTL.
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct HvCrashFlags: u64 {
        const NO_DUMP = 0x2000000000000000;
        const MESSAGE = 0x4000000000000000;
        const NOTIFY = 0x8000000000000000;
    }
}
bitflags::bitflags! {
    /// The control word of a hypercall, beside the code in bits 15:0. TLFS §3.7
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct HvHypercallFlags: u64 {
        const FAST = 0x10000;
    }
}
bitflags::bitflags! {
    /// Flags in the header of a SynIC message.
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
    #[repr(transparent)]
    pub struct HvMessageFlags: u8 {
        const PENDING = 0x1;
    }
}
pub const HV_INTERFACE_SIGNATURE: u32 = 824407624;
pub const HV_MESSAGE_PAYLOAD: u32 = 240;
pub const HV_SINTS: u32 = 16;
pub const HV_SLOT_LEN: u32 = 256;
pub const HV_EVENT_FLAGS: u32 = 2048;
impl HvCpuidLeaf {
    pub const VENDOR: HvCpuidLeaf = HvCpuidLeaf(1073741824);
    pub const INTERFACE: HvCpuidLeaf = HvCpuidLeaf(1073741825);
    pub const VERSION: HvCpuidLeaf = HvCpuidLeaf(1073741826);
    pub const FEATURES: HvCpuidLeaf = HvCpuidLeaf(1073741827);
    pub const RECOMMENDATIONS: HvCpuidLeaf = HvCpuidLeaf(1073741828);
    pub const LIMITS: HvCpuidLeaf = HvCpuidLeaf(1073741829);
    pub const HARDWARE: HvCpuidLeaf = HvCpuidLeaf(1073741830);
    pub const NESTED: HvCpuidLeaf = HvCpuidLeaf(1073741834);
    pub const ISOLATION: HvCpuidLeaf = HvCpuidLeaf(1073741836);
}
#[repr(transparent)]
#[doc = " CPUID leaves. TLFS, feature discovery"]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct HvCpuidLeaf(pub u32);
impl HvMsr {
    pub const GUEST_OS_ID: HvMsr = HvMsr(1073741824);
    pub const HYPERCALL: HvMsr = HvMsr(1073741825);
    pub const VP_INDEX: HvMsr = HvMsr(1073741826);
    pub const RESET: HvMsr = HvMsr(1073741827);
    pub const VP_RUNTIME: HvMsr = HvMsr(1073741840);
    pub const TIME_REF_COUNT: HvMsr = HvMsr(1073741856);
    pub const REFERENCE_TSC: HvMsr = HvMsr(1073741857);
    pub const TSC_FREQUENCY: HvMsr = HvMsr(1073741858);
    pub const APIC_FREQUENCY: HvMsr = HvMsr(1073741859);
    pub const EOI: HvMsr = HvMsr(1073741936);
    pub const ICR: HvMsr = HvMsr(1073741937);
    pub const TPR: HvMsr = HvMsr(1073741938);
    pub const VP_ASSIST_PAGE: HvMsr = HvMsr(1073741939);
    pub const SCONTROL: HvMsr = HvMsr(1073741952);
    pub const SVERSION: HvMsr = HvMsr(1073741953);
    pub const SIEFP: HvMsr = HvMsr(1073741954);
    pub const SIMP: HvMsr = HvMsr(1073741955);
    pub const EOM: HvMsr = HvMsr(1073741956);
    pub const SINT0: HvMsr = HvMsr(1073741968);
    pub const SINT15: HvMsr = HvMsr(1073741983);
    pub const STIMER0_CONFIG: HvMsr = HvMsr(1073742000);
    pub const STIMER0_COUNT: HvMsr = HvMsr(1073742001);
    pub const STIMER3_COUNT: HvMsr = HvMsr(1073742007);
    pub const GUEST_IDLE: HvMsr = HvMsr(1073742064);
    pub const CRASH_P0: HvMsr = HvMsr(1073742080);
    pub const CRASH_P1: HvMsr = HvMsr(1073742081);
    pub const CRASH_P2: HvMsr = HvMsr(1073742082);
    pub const CRASH_P3: HvMsr = HvMsr(1073742083);
    pub const CRASH_P4: HvMsr = HvMsr(1073742084);
    pub const CRASH_CTL: HvMsr = HvMsr(1073742085);
    pub const TSC_INVARIANT_CONTROL: HvMsr = HvMsr(1073742104);
}
#[repr(transparent)]
#[doc = " Synthetic model-specific registers. TLFS, appendix B"]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct HvMsr(pub u32);
impl HvHypercallCode {
    pub const NOTIFY_LONG_SPIN_WAIT: HvHypercallCode = HvHypercallCode(8);
    pub const SEND_CLUSTER_IPI: HvHypercallCode = HvHypercallCode(11);
    pub const GET_VP_REGISTERS: HvHypercallCode = HvHypercallCode(80);
    pub const SET_VP_REGISTERS: HvHypercallCode = HvHypercallCode(81);
    pub const POST_MESSAGE: HvHypercallCode = HvHypercallCode(92);
    pub const SIGNAL_EVENT: HvHypercallCode = HvHypercallCode(93);
    pub const RETARGET_DEVICE_INTERRUPT: HvHypercallCode = HvHypercallCode(126);
    pub const QUERY_CAPABILITIES: HvHypercallCode = HvHypercallCode(32769);
}
#[repr(transparent)]
#[doc = " Codes of hypercalls. TLFS, appendix A"]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct HvHypercallCode(pub u16);
impl HvStatus {
    pub const SUCCESS: HvStatus = HvStatus(0);
    pub const INVALID_HYPERCALL_CODE: HvStatus = HvStatus(2);
    pub const INVALID_HYPERCALL_INPUT: HvStatus = HvStatus(3);
    pub const INVALID_ALIGNMENT: HvStatus = HvStatus(4);
    pub const INVALID_PARAMETER: HvStatus = HvStatus(5);
    pub const ACCESS_DENIED: HvStatus = HvStatus(6);
    pub const INVALID_PARTITION_STATE: HvStatus = HvStatus(7);
    pub const OPERATION_DENIED: HvStatus = HvStatus(8);
    pub const INSUFFICIENT_MEMORY: HvStatus = HvStatus(11);
    pub const INVALID_PARTITION_ID: HvStatus = HvStatus(13);
    pub const INVALID_VP_INDEX: HvStatus = HvStatus(14);
    pub const INVALID_PORT_ID: HvStatus = HvStatus(17);
    pub const INVALID_CONNECTION_ID: HvStatus = HvStatus(18);
    pub const INSUFFICIENT_BUFFERS: HvStatus = HvStatus(19);
    pub const NOT_ACKNOWLEDGED: HvStatus = HvStatus(20);
    pub const INVALID_SYNIC_STATE: HvStatus = HvStatus(24);
    pub const OBJECT_IN_USE: HvStatus = HvStatus(25);
    pub const NO_RESOURCES: HvStatus = HvStatus(29);
    pub const TIMEOUT: HvStatus = HvStatus(120);
}
#[repr(transparent)]
#[doc = " Status of a hypercall. TLFS, appendix A"]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct HvStatus(pub u16);
impl HvMessageType {
    pub const NONE: HvMessageType = HvMessageType(0);
    pub const CHANNEL: HvMessageType = HvMessageType(1);
    pub const TIMER_EXPIRED: HvMessageType = HvMessageType(2147483664);
}
#[repr(transparent)]
#[doc = " Types of SynIC messages. TLFS §11.9"]
#[derive(
    Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, PartialOrd, Ord,
)]
pub struct HvMessageType(pub u32);
#[doc = " Input of HvCallPostMessage. TLFS §11.10"]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct HvPostMessageInput {
    pub connection_id: u32,
    pub reserved: u32,
    pub message_type: HvMessageType,
    pub payload_size: u32,
    pub payload: [u8; 240usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of HvPostMessageInput"][::core::mem::size_of::<HvPostMessageInput>() - 256usize];
    ["Alignment of HvPostMessageInput"][::core::mem::align_of::<HvPostMessageInput>() - 4usize];
    ["Offset of field: HvPostMessageInput::connection_id"]
        [::core::mem::offset_of!(HvPostMessageInput, connection_id) - 0usize];
    ["Offset of field: HvPostMessageInput::reserved"]
        [::core::mem::offset_of!(HvPostMessageInput, reserved) - 4usize];
    ["Offset of field: HvPostMessageInput::message_type"]
        [::core::mem::offset_of!(HvPostMessageInput, message_type) - 8usize];
    ["Offset of field: HvPostMessageInput::payload_size"]
        [::core::mem::offset_of!(HvPostMessageInput, payload_size) - 12usize];
    ["Offset of field: HvPostMessageInput::payload"]
        [::core::mem::offset_of!(HvPostMessageInput, payload) - 16usize];
};
#[doc = " Input of HvCallSignalEvent; its eight bytes are the register of the fast form."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct HvSignalEventInput {
    pub connection_id: u32,
    pub flag_number: u16,
    pub reserved: u16,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of HvSignalEventInput"][::core::mem::size_of::<HvSignalEventInput>() - 8usize];
    ["Alignment of HvSignalEventInput"][::core::mem::align_of::<HvSignalEventInput>() - 4usize];
    ["Offset of field: HvSignalEventInput::connection_id"]
        [::core::mem::offset_of!(HvSignalEventInput, connection_id) - 0usize];
    ["Offset of field: HvSignalEventInput::flag_number"]
        [::core::mem::offset_of!(HvSignalEventInput, flag_number) - 4usize];
    ["Offset of field: HvSignalEventInput::reserved"]
        [::core::mem::offset_of!(HvSignalEventInput, reserved) - 6usize];
};
#[doc = " The header of a slot in the message page. TLFS §11.9"]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct HvMessageHeader {
    pub message_type: HvMessageType,
    pub payload_size: u8,
    pub flags: u8,
    pub reserved: u16,
    #[doc = " The partition or port that sent it."]
    pub sender: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of HvMessageHeader"][::core::mem::size_of::<HvMessageHeader>() - 16usize];
    ["Alignment of HvMessageHeader"][::core::mem::align_of::<HvMessageHeader>() - 8usize];
    ["Offset of field: HvMessageHeader::message_type"]
        [::core::mem::offset_of!(HvMessageHeader, message_type) - 0usize];
    ["Offset of field: HvMessageHeader::payload_size"]
        [::core::mem::offset_of!(HvMessageHeader, payload_size) - 4usize];
    ["Offset of field: HvMessageHeader::flags"][::core::mem::offset_of!(HvMessageHeader, flags) - 5usize];
    ["Offset of field: HvMessageHeader::reserved"]
        [::core::mem::offset_of!(HvMessageHeader, reserved) - 6usize];
    ["Offset of field: HvMessageHeader::sender"][::core::mem::offset_of!(HvMessageHeader, sender) - 8usize];
};
#[doc = " A slot of the message page."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct HvMessage {
    pub header: HvMessageHeader,
    pub payload: [u8; 240usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of HvMessage"][::core::mem::size_of::<HvMessage>() - 256usize];
    ["Alignment of HvMessage"][::core::mem::align_of::<HvMessage>() - 8usize];
    ["Offset of field: HvMessage::header"][::core::mem::offset_of!(HvMessage, header) - 0usize];
    ["Offset of field: HvMessage::payload"][::core::mem::offset_of!(HvMessage, payload) - 16usize];
};
#[doc = " Payload of HV_MESSAGE_TYPE_TIMER_EXPIRED; times in units of 100 ns."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct HvTimerMessage {
    pub timer_index: u32,
    pub reserved: u32,
    pub expiration_time: u64,
    pub delivery_time: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of HvTimerMessage"][::core::mem::size_of::<HvTimerMessage>() - 24usize];
    ["Alignment of HvTimerMessage"][::core::mem::align_of::<HvTimerMessage>() - 8usize];
    ["Offset of field: HvTimerMessage::timer_index"]
        [::core::mem::offset_of!(HvTimerMessage, timer_index) - 0usize];
    ["Offset of field: HvTimerMessage::reserved"][::core::mem::offset_of!(HvTimerMessage, reserved) - 4usize];
    ["Offset of field: HvTimerMessage::expiration_time"]
        [::core::mem::offset_of!(HvTimerMessage, expiration_time) - 8usize];
    ["Offset of field: HvTimerMessage::delivery_time"]
        [::core::mem::offset_of!(HvTimerMessage, delivery_time) - 16usize];
};
#[doc = " The head of the reference TSC page. TLFS §12.6.1"]
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct HvReferenceTsc {
    #[doc = " 0 where the page is not valid."]
    pub sequence: u32,
    pub reserved: u32,
    #[doc = " Units of 100 ns for a count, as a fraction of 2^64."]
    pub scale: u64,
    #[doc = " Units of 100 ns."]
    pub offset: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of HvReferenceTsc"][::core::mem::size_of::<HvReferenceTsc>() - 24usize];
    ["Alignment of HvReferenceTsc"][::core::mem::align_of::<HvReferenceTsc>() - 8usize];
    ["Offset of field: HvReferenceTsc::sequence"][::core::mem::offset_of!(HvReferenceTsc, sequence) - 0usize];
    ["Offset of field: HvReferenceTsc::reserved"][::core::mem::offset_of!(HvReferenceTsc, reserved) - 4usize];
    ["Offset of field: HvReferenceTsc::scale"][::core::mem::offset_of!(HvReferenceTsc, scale) - 8usize];
    ["Offset of field: HvReferenceTsc::offset"][::core::mem::offset_of!(HvReferenceTsc, offset) - 16usize];
};

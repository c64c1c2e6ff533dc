// The hypervisor's interface: Hyper-V Top-Level Functional Specification (TLFS).
//
// The rules of these headers: no bit-field, no union, no flexible array, no implicit padding. A union is a byte array of its
// largest arm and one struct for each arm; a flag word is an integer, and its flags are an enumeration whose name ends in
// `_flags`; a GUID is a string.
#include <stdint.h>

/// CPUID leaves. TLFS, feature discovery
enum hv_cpuid_leaf : uint32_t {
    HV_CPUID_LEAF_VENDOR = 0x40000000,
    HV_CPUID_LEAF_INTERFACE = 0x40000001,
    HV_CPUID_LEAF_VERSION = 0x40000002,
    HV_CPUID_LEAF_FEATURES = 0x40000003,
    HV_CPUID_LEAF_RECOMMENDATIONS = 0x40000004,
    HV_CPUID_LEAF_LIMITS = 0x40000005,
    HV_CPUID_LEAF_HARDWARE = 0x40000006,
    HV_CPUID_LEAF_NESTED = 0x4000000a,
    HV_CPUID_LEAF_ISOLATION = 0x4000000c,
};

/// EAX of HV_CPUID_LEAF_INTERFACE: "Hv#1".
#define HV_INTERFACE_SIGNATURE 0x31237648

/// Privileges of the partition: EAX of the features leaf in the low half, EBX in the high one. TLFS §2.4.3
enum hv_privilege_flags : uint64_t {
    HV_PRIVILEGE_FLAGS_VP_RUNTIME = 1ull << 0,
    HV_PRIVILEGE_FLAGS_TIME_REF_COUNT = 1ull << 1,
    HV_PRIVILEGE_FLAGS_SYNIC = 1ull << 2,
    HV_PRIVILEGE_FLAGS_STIMER = 1ull << 3,
    HV_PRIVILEGE_FLAGS_APIC = 1ull << 4,
    HV_PRIVILEGE_FLAGS_HYPERCALL = 1ull << 5,
    HV_PRIVILEGE_FLAGS_VP_INDEX = 1ull << 6,
    HV_PRIVILEGE_FLAGS_RESET = 1ull << 7,
    HV_PRIVILEGE_FLAGS_STATS = 1ull << 8,
    HV_PRIVILEGE_FLAGS_REFERENCE_TSC = 1ull << 9,
    HV_PRIVILEGE_FLAGS_GUEST_IDLE = 1ull << 10,
    HV_PRIVILEGE_FLAGS_FREQUENCY = 1ull << 11,
    HV_PRIVILEGE_FLAGS_DEBUG = 1ull << 12,
    HV_PRIVILEGE_FLAGS_REENLIGHTENMENT = 1ull << 13,
    HV_PRIVILEGE_FLAGS_TSC_INVARIANT = 1ull << 15,
    HV_PRIVILEGE_FLAGS_CREATE_PARTITIONS = 1ull << 32,
    HV_PRIVILEGE_FLAGS_ACCESS_PARTITION_ID = 1ull << 33,
    HV_PRIVILEGE_FLAGS_ACCESS_MEMORY_POOL = 1ull << 34,
    HV_PRIVILEGE_FLAGS_POST_MESSAGES = 1ull << 36,
    HV_PRIVILEGE_FLAGS_SIGNAL_EVENTS = 1ull << 37,
    HV_PRIVILEGE_FLAGS_CREATE_PORT = 1ull << 38,
    HV_PRIVILEGE_FLAGS_CONNECT_PORT = 1ull << 39,
    HV_PRIVILEGE_FLAGS_ACCESS_STATS = 1ull << 40,
    HV_PRIVILEGE_FLAGS_DEBUGGING = 1ull << 43,
    HV_PRIVILEGE_FLAGS_CPU_MANAGEMENT = 1ull << 44,
    HV_PRIVILEGE_FLAGS_ACCESS_VSM = 1ull << 48,
    HV_PRIVILEGE_FLAGS_ACCESS_VP_REGISTERS = 1ull << 49,
    HV_PRIVILEGE_FLAGS_EXTENDED_HYPERCALLS = 1ull << 52,
    HV_PRIVILEGE_FLAGS_ISOLATION = 1ull << 54,
};

/// EDX of the features leaf. TLFS §2.4.3
enum hv_feature_flags : uint32_t {
    HV_FEATURE_FLAGS_GUEST_DEBUGGING = 1u << 1,
    HV_FEATURE_FLAGS_PERF_MONITORS = 1u << 2,
    HV_FEATURE_FLAGS_XMM_HYPERCALL_INPUT = 1u << 4,
    HV_FEATURE_FLAGS_GUEST_IDLE = 1u << 5,
    HV_FEATURE_FLAGS_FREQUENCY_MSRS = 1u << 8,
    HV_FEATURE_FLAGS_CRASH_MSRS = 1u << 10,
    HV_FEATURE_FLAGS_DEBUG_MSRS = 1u << 11,
    HV_FEATURE_FLAGS_XMM_HYPERCALL_OUTPUT = 1u << 15,
    HV_FEATURE_FLAGS_SINT_POLLING = 1u << 17,
    HV_FEATURE_FLAGS_HYPERCALL_MSR_LOCK = 1u << 18,
    HV_FEATURE_FLAGS_DIRECT_STIMER = 1u << 19,
};

/// EAX of the recommendations leaf. TLFS §2.4.4
enum hv_recommendation_flags : uint32_t {
    HV_RECOMMENDATION_FLAGS_ADDRESS_SWITCH_HYPERCALL = 1u << 0,
    HV_RECOMMENDATION_FLAGS_LOCAL_FLUSH_HYPERCALL = 1u << 1,
    HV_RECOMMENDATION_FLAGS_REMOTE_FLUSH_HYPERCALL = 1u << 2,
    HV_RECOMMENDATION_FLAGS_APIC_MSRS = 1u << 3,
    HV_RECOMMENDATION_FLAGS_RESET_MSR = 1u << 4,
    HV_RECOMMENDATION_FLAGS_RELAXED_TIMING = 1u << 5,
    HV_RECOMMENDATION_FLAGS_AUTO_EOI_DEPRECATED = 1u << 9,
    HV_RECOMMENDATION_FLAGS_CLUSTER_IPI_HYPERCALL = 1u << 10,
    HV_RECOMMENDATION_FLAGS_EX_PROCESSOR_MASKS = 1u << 11,
    HV_RECOMMENDATION_FLAGS_NESTED = 1u << 12,
    HV_RECOMMENDATION_FLAGS_ENLIGHTENED_VMCS = 1u << 14,
};

/// Synthetic model-specific registers. TLFS, appendix B
enum hv_msr : uint32_t {
    HV_MSR_GUEST_OS_ID = 0x40000000,
    HV_MSR_HYPERCALL = 0x40000001,
    HV_MSR_VP_INDEX = 0x40000002,
    HV_MSR_RESET = 0x40000003,
    HV_MSR_VP_RUNTIME = 0x40000010,
    HV_MSR_TIME_REF_COUNT = 0x40000020,
    HV_MSR_REFERENCE_TSC = 0x40000021,
    HV_MSR_TSC_FREQUENCY = 0x40000022,
    HV_MSR_APIC_FREQUENCY = 0x40000023,
    HV_MSR_EOI = 0x40000070,
    HV_MSR_ICR = 0x40000071,
    HV_MSR_TPR = 0x40000072,
    HV_MSR_VP_ASSIST_PAGE = 0x40000073,
    HV_MSR_SCONTROL = 0x40000080,
    HV_MSR_SVERSION = 0x40000081,
    HV_MSR_SIEFP = 0x40000082,
    HV_MSR_SIMP = 0x40000083,
    HV_MSR_EOM = 0x40000084,
    HV_MSR_SINT0 = 0x40000090,
    HV_MSR_SINT15 = 0x4000009f,
    HV_MSR_STIMER0_CONFIG = 0x400000b0,
    HV_MSR_STIMER0_COUNT = 0x400000b1,
    HV_MSR_STIMER3_COUNT = 0x400000b7,
    HV_MSR_GUEST_IDLE = 0x400000f0,
    HV_MSR_CRASH_P0 = 0x40000100,
    HV_MSR_CRASH_P1 = 0x40000101,
    HV_MSR_CRASH_P2 = 0x40000102,
    HV_MSR_CRASH_P3 = 0x40000103,
    HV_MSR_CRASH_P4 = 0x40000104,
    HV_MSR_CRASH_CTL = 0x40000105,
    HV_MSR_TSC_INVARIANT_CONTROL = 0x40000118,
};

/// The low bits of a register that names a page: HYPERCALL, SIEFP, SIMP, REFERENCE_TSC.
enum hv_page_flags : uint64_t {
    HV_PAGE_FLAGS_ENABLE = 1ull << 0,
    /// HYPERCALL only: the value is kept until reset.
    HV_PAGE_FLAGS_LOCKED = 1ull << 1,
};

/// SCONTROL. TLFS §11.8.1
enum hv_scontrol_flags : uint64_t {
    HV_SCONTROL_FLAGS_ENABLE = 1ull << 0,
};

/// SINTx, above the vector in its low byte. TLFS §11.8.4
enum hv_sint_flags : uint64_t {
    HV_SINT_FLAGS_MASKED = 1ull << 16,
    HV_SINT_FLAGS_AUTO_EOI = 1ull << 17,
    HV_SINT_FLAGS_POLLING = 1ull << 18,
};

/// STIMERx_CONFIG, beside the vector in bits 11:4 and the SINT in bits 19:16. TLFS §12.3.1
enum hv_stimer_flags : uint64_t {
    HV_STIMER_FLAGS_ENABLE = 1ull << 0,
    HV_STIMER_FLAGS_PERIODIC = 1ull << 1,
    HV_STIMER_FLAGS_LAZY = 1ull << 2,
    HV_STIMER_FLAGS_AUTO_ENABLE = 1ull << 3,
    HV_STIMER_FLAGS_DIRECT = 1ull << 12,
};

/// CRASH_CTL.
enum hv_crash_flags : uint64_t {
    /// There will be no crash dump.
    HV_CRASH_FLAGS_NO_DUMP = 1ull << 61,
    /// P3 and P4 are address and length of a text.
    HV_CRASH_FLAGS_MESSAGE = 1ull << 62,
    HV_CRASH_FLAGS_NOTIFY = 1ull << 63,
};

/// Codes of hypercalls. TLFS, appendix A
enum hv_hypercall_code : uint16_t {
    HV_HYPERCALL_CODE_NOTIFY_LONG_SPIN_WAIT = 0x0008,
    HV_HYPERCALL_CODE_SEND_CLUSTER_IPI = 0x000b,
    HV_HYPERCALL_CODE_GET_VP_REGISTERS = 0x0050,
    HV_HYPERCALL_CODE_SET_VP_REGISTERS = 0x0051,
    HV_HYPERCALL_CODE_POST_MESSAGE = 0x005c,
    HV_HYPERCALL_CODE_SIGNAL_EVENT = 0x005d,
    HV_HYPERCALL_CODE_RETARGET_DEVICE_INTERRUPT = 0x007e,
    HV_HYPERCALL_CODE_QUERY_CAPABILITIES = 0x8001,
};

/// The control word of a hypercall, beside the code in bits 15:0. TLFS §3.7
enum hv_hypercall_flags : uint64_t {
    HV_HYPERCALL_FLAGS_FAST = 1ull << 16,
};

/// Status of a hypercall. TLFS, appendix A
enum hv_status : uint16_t {
    HV_STATUS_SUCCESS = 0x0000,
    HV_STATUS_INVALID_HYPERCALL_CODE = 0x0002,
    HV_STATUS_INVALID_HYPERCALL_INPUT = 0x0003,
    HV_STATUS_INVALID_ALIGNMENT = 0x0004,
    HV_STATUS_INVALID_PARAMETER = 0x0005,
    HV_STATUS_ACCESS_DENIED = 0x0006,
    HV_STATUS_INVALID_PARTITION_STATE = 0x0007,
    HV_STATUS_OPERATION_DENIED = 0x0008,
    HV_STATUS_INSUFFICIENT_MEMORY = 0x000b,
    HV_STATUS_INVALID_PARTITION_ID = 0x000d,
    HV_STATUS_INVALID_VP_INDEX = 0x000e,
    HV_STATUS_INVALID_PORT_ID = 0x0011,
    HV_STATUS_INVALID_CONNECTION_ID = 0x0012,
    HV_STATUS_INSUFFICIENT_BUFFERS = 0x0013,
    HV_STATUS_NOT_ACKNOWLEDGED = 0x0014,
    HV_STATUS_INVALID_SYNIC_STATE = 0x0018,
    HV_STATUS_OBJECT_IN_USE = 0x0019,
    HV_STATUS_NO_RESOURCES = 0x001d,
    HV_STATUS_TIMEOUT = 0x0078,
};

/// Bytes of payload in a message, at most.
#define HV_MESSAGE_PAYLOAD 240
/// Synthetic interrupt sources of a virtual processor.
#define HV_SINTS 16
/// Bytes of a source's slot in the message page, and of its flags in the event page.
#define HV_SLOT_LEN 256
/// Event flags of a source.
#define HV_EVENT_FLAGS 2048

/// Types of SynIC messages. TLFS §11.9
enum hv_message_type : uint32_t {
    HV_MESSAGE_TYPE_NONE = 0,
    HV_MESSAGE_TYPE_CHANNEL = 1,
    HV_MESSAGE_TYPE_TIMER_EXPIRED = 0x80000010,
};

/// Flags in the header of a SynIC message.
enum hv_message_flags : uint8_t {
    /// Another one waits for the slot.
    HV_MESSAGE_FLAGS_PENDING = 1 << 0,
};

/// Input of HvCallPostMessage. TLFS §11.10
struct hv_post_message_input {
    uint32_t connection_id;
    uint32_t reserved;
    enum hv_message_type message_type;
    uint32_t payload_size;
    uint8_t payload[HV_MESSAGE_PAYLOAD];
};

/// Input of HvCallSignalEvent; its eight bytes are the register of the fast form.
struct hv_signal_event_input {
    uint32_t connection_id;
    uint16_t flag_number;
    uint16_t reserved;
};

/// The header of a slot in the message page. TLFS §11.9
struct hv_message_header {
    enum hv_message_type message_type;
    uint8_t payload_size;
    uint8_t flags;
    uint16_t reserved;
    /// The partition or port that sent it.
    uint64_t sender;
};

/// A slot of the message page.
struct hv_message {
    struct hv_message_header header;
    uint8_t payload[HV_MESSAGE_PAYLOAD];
};

/// Payload of HV_MESSAGE_TYPE_TIMER_EXPIRED; times in units of 100 ns.
struct hv_timer_message {
    uint32_t timer_index;
    uint32_t reserved;
    uint64_t expiration_time;
    uint64_t delivery_time;
};

/// The head of the reference TSC page. TLFS §12.6.1
struct hv_reference_tsc {
    /// 0 where the page is not valid.
    uint32_t sequence;
    uint32_t reserved;
    /// Units of 100 ns for a count, as a fraction of 2^64.
    uint64_t scale;
    /// Units of 100 ns.
    int64_t offset;
};

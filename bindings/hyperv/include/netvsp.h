// Network: messages between NetVSC and NetVSP (NVSP), as those of OpenVMM (MIT) and FreeBSD (BSD) show them.
#include <stdint.h>

/// Versions of the protocol.
enum nvsp_version : uint32_t {
    NVSP_VERSION_V1 = 0x00000002,
    NVSP_VERSION_V2 = 0x00030002,
    NVSP_VERSION_V4 = 0x00040000,
    NVSP_VERSION_V5 = 0x00050000,
    NVSP_VERSION_V6 = 0x00060000,
    NVSP_VERSION_V61 = 0x00060001,
};

/// Types of messages.
enum nvsp_message_type : uint32_t {
    NVSP_MESSAGE_TYPE_INIT = 1,
    NVSP_MESSAGE_TYPE_INIT_COMPLETE = 2,
    NVSP_MESSAGE_TYPE_SEND_NDIS_VERSION = 100,
    NVSP_MESSAGE_TYPE_SEND_RECEIVE_BUFFER = 101,
    NVSP_MESSAGE_TYPE_SEND_RECEIVE_BUFFER_COMPLETE = 102,
    NVSP_MESSAGE_TYPE_REVOKE_RECEIVE_BUFFER = 103,
    NVSP_MESSAGE_TYPE_SEND_SEND_BUFFER = 104,
    NVSP_MESSAGE_TYPE_SEND_SEND_BUFFER_COMPLETE = 105,
    NVSP_MESSAGE_TYPE_REVOKE_SEND_BUFFER = 106,
    NVSP_MESSAGE_TYPE_SEND_RNDIS_PACKET = 107,
    NVSP_MESSAGE_TYPE_SEND_RNDIS_PACKET_COMPLETE = 108,
    NVSP_MESSAGE_TYPE_SEND_NDIS_CONFIG = 125,
    NVSP_MESSAGE_TYPE_SEND_VF_ASSOCIATION = 128,
    NVSP_MESSAGE_TYPE_SWITCH_DATA_PATH = 129,
    NVSP_MESSAGE_TYPE_UPLINK_CONNECT_STATE = 130,
    NVSP_MESSAGE_TYPE_OID_QUERY_EX = 131,
    NVSP_MESSAGE_TYPE_OID_QUERY_EX_COMPLETE = 132,
    NVSP_MESSAGE_TYPE_SUBCHANNEL = 133,
    NVSP_MESSAGE_TYPE_SEND_INDIRECTION_TABLE = 134,
};

/// How the other side answers.
enum nvsp_status : uint32_t {
    NVSP_STATUS_NONE = 0,
    NVSP_STATUS_SUCCESS = 1,
    NVSP_STATUS_FAILURE = 2,
    NVSP_STATUS_TOO_NEW = 3,
    NVSP_STATUS_TOO_OLD = 4,
    NVSP_STATUS_INVALID_RNDIS_PACKET = 5,
    NVSP_STATUS_BUSY = 6,
    NVSP_STATUS_UNSUPPORTED = 7,
};

/// What a guest can do.
enum nvsp_capability_flags : uint64_t {
    NVSP_CAPABILITY_FLAGS_VMQ = 1ull << 0,
    NVSP_CAPABILITY_FLAGS_CHIMNEY = 1ull << 1,
    NVSP_CAPABILITY_FLAGS_SRIOV = 1ull << 2,
    NVSP_CAPABILITY_FLAGS_IEEE8021Q = 1ull << 3,
    NVSP_CAPABILITY_FLAGS_CORRELATION_ID = 1ull << 4,
    NVSP_CAPABILITY_FLAGS_TEAMING = 1ull << 5,
    NVSP_CAPABILITY_FLAGS_VIRTUAL_SUBNET_ID = 1ull << 6,
    NVSP_CAPABILITY_FLAGS_RSC_OVER_VMBUS = 1ull << 7,
};

/// What an RNDIS packet is.
enum nvsp_channel_type : uint32_t {
    NVSP_CHANNEL_TYPE_DATA = 0,
    NVSP_CHANNEL_TYPE_CONTROL = 1,
};

/// All messages are padded to 40 bytes on their way to the host.
struct nvsp_init {
    enum nvsp_message_type message_type;
    enum nvsp_version version;
    /// The same once more.
    enum nvsp_version version2;
    uint8_t padding[28];
};

struct nvsp_init_complete {
    enum nvsp_message_type message_type;
    uint32_t deprecated;
    uint32_t maximum_mdl_chain_length;
    enum nvsp_status status;
};

struct nvsp_send_ndis_version {
    enum nvsp_message_type message_type;
    uint32_t major;
    uint32_t minor;
    uint8_t padding[28];
};

struct nvsp_send_ndis_config {
    enum nvsp_message_type message_type;
    /// Bytes of a frame, with its header of 14.
    uint32_t mtu;
    uint32_t reserved;
    /// nvsp_capability_flags, low half.
    uint32_t capabilities_low;
    uint32_t capabilities_high;
    uint8_t padding[20];
};

/// Types 101 and 104.
struct nvsp_send_buffer {
    enum nvsp_message_type message_type;
    uint32_t gpadl;
    uint16_t id;
    uint16_t reserved;
    uint8_t padding[28];
};

struct nvsp_receive_buffer_complete {
    enum nvsp_message_type message_type;
    enum nvsp_status status;
    uint32_t section_count;
    /// The one section that there ever is.
    uint32_t offset;
    uint32_t allocation_size;
    uint32_t allocation_count;
    uint32_t end_offset;
};

struct nvsp_send_buffer_complete {
    enum nvsp_message_type message_type;
    enum nvsp_status status;
    uint32_t section_size;
};

/// Types 103 and 106.
struct nvsp_revoke_buffer {
    enum nvsp_message_type message_type;
    uint16_t id;
    uint8_t padding[34];
};

struct nvsp_send_rndis_packet {
    enum nvsp_message_type message_type;
    enum nvsp_channel_type channel_type;
    uint32_t section_index;
    uint32_t section_size;
    uint8_t padding[24];
};

struct nvsp_send_rndis_packet_complete {
    enum nvsp_message_type message_type;
    enum nvsp_status status;
};

struct nvsp_vf_association {
    enum nvsp_message_type message_type;
    uint32_t is_allocated;
    uint32_t serial;
};

struct nvsp_switch_data_path {
    enum nvsp_message_type message_type;
    /// 0 for the synthetic device, 1 for the virtual function.
    uint32_t active;
    uint8_t padding[32];
};

struct nvsp_subchannel_request {
    enum nvsp_message_type message_type;
    /// 1: allocate.
    uint32_t operation;
    uint32_t count;
    uint8_t padding[28];
};

struct nvsp_subchannel_complete {
    enum nvsp_message_type message_type;
    enum nvsp_status status;
    uint32_t count;
};

struct nvsp_indirection_table {
    enum nvsp_message_type message_type;
    uint32_t count;
    /// From the beginning of the message.
    uint32_t offset;
    // uint32_t channels follow.
};

/// Bytes of a message to the host.
#define NVSP_MESSAGE_LENGTH 40
/// No section of the send buffer.
#define NVSP_NO_SECTION 0xffffffff
/// Entries of the table that says where to send.
#define NVSP_SEND_TABLE_COUNT 16
/// Where that table is in messages whose offset is not to be trusted.
#define NVSP_SEND_TABLE_OFFSET_V6 40
/// What the receive buffer is known by, and the send buffer.
#define NVSP_RECEIVE_BUFFER_ID 0xcafe
#define NVSP_SEND_BUFFER_ID 0

// The messages of VMBus, as the VMBus of OpenVMM (MIT) and of FreeBSD (BSD) show them.
#include <stdint.h>

/// Versions of the protocol: major in the high half, minor in the low one.
enum vmbus_version : uint32_t {
    VMBUS_VERSION_V1 = 0x0000000d,
    VMBUS_VERSION_WIN7 = 0x00010001,
    VMBUS_VERSION_WIN8 = 0x00020004,
    VMBUS_VERSION_WIN8_1 = 0x00030000,
    VMBUS_VERSION_WIN10 = 0x00040000,
    VMBUS_VERSION_WIN10_RS3_0 = 0x00040001,
    VMBUS_VERSION_WIN10_RS3_1 = 0x00050000,
    VMBUS_VERSION_WIN10_RS4 = 0x00050001,
    VMBUS_VERSION_WIN10_RS5 = 0x00050002,
    VMBUS_VERSION_IRON = 0x00050003,
    VMBUS_VERSION_COPPER = 0x00060000,
};

/// Types of messages.
enum vmbus_message_type : uint32_t {
    VMBUS_MESSAGE_TYPE_OFFER_CHANNEL = 1,
    VMBUS_MESSAGE_TYPE_RESCIND_CHANNEL_OFFER = 2,
    VMBUS_MESSAGE_TYPE_REQUEST_OFFERS = 3,
    VMBUS_MESSAGE_TYPE_ALL_OFFERS_DELIVERED = 4,
    VMBUS_MESSAGE_TYPE_OPEN_CHANNEL = 5,
    VMBUS_MESSAGE_TYPE_OPEN_CHANNEL_RESULT = 6,
    VMBUS_MESSAGE_TYPE_CLOSE_CHANNEL = 7,
    VMBUS_MESSAGE_TYPE_GPADL_HEADER = 8,
    VMBUS_MESSAGE_TYPE_GPADL_BODY = 9,
    VMBUS_MESSAGE_TYPE_GPADL_CREATED = 10,
    VMBUS_MESSAGE_TYPE_GPADL_TEARDOWN = 11,
    VMBUS_MESSAGE_TYPE_GPADL_TORNDOWN = 12,
    VMBUS_MESSAGE_TYPE_REL_ID_RELEASED = 13,
    VMBUS_MESSAGE_TYPE_INITIATE_CONTACT = 14,
    VMBUS_MESSAGE_TYPE_VERSION_RESPONSE = 15,
    VMBUS_MESSAGE_TYPE_UNLOAD = 16,
    VMBUS_MESSAGE_TYPE_UNLOAD_COMPLETE = 17,
    VMBUS_MESSAGE_TYPE_OPEN_RESERVED_CHANNEL = 18,
    VMBUS_MESSAGE_TYPE_CLOSE_RESERVED_CHANNEL = 19,
    VMBUS_MESSAGE_TYPE_CLOSE_RESERVED_RESPONSE = 20,
    VMBUS_MESSAGE_TYPE_TL_CONNECT_REQUEST = 21,
    VMBUS_MESSAGE_TYPE_MODIFY_CHANNEL = 22,
    VMBUS_MESSAGE_TYPE_TL_CONNECT_RESULT = 23,
    VMBUS_MESSAGE_TYPE_MODIFY_CHANNEL_RESPONSE = 24,
    VMBUS_MESSAGE_TYPE_MODIFY_CONNECTION = 25,
    VMBUS_MESSAGE_TYPE_MODIFY_CONNECTION_RESPONSE = 26,
    VMBUS_MESSAGE_TYPE_PAUSE = 27,
    VMBUS_MESSAGE_TYPE_PAUSE_RESPONSE = 28,
    VMBUS_MESSAGE_TYPE_RESUME = 29,
};

/// Features of version 6.0.
enum vmbus_feature_flags : uint32_t {
    VMBUS_FEATURE_FLAGS_GUEST_SIGNAL_PARAMETERS = 1u << 0,
    VMBUS_FEATURE_FLAGS_INTERRUPT_REDIRECTION = 1u << 1,
    VMBUS_FEATURE_FLAGS_MODIFY_CONNECTION = 1u << 2,
    VMBUS_FEATURE_FLAGS_CLIENT_ID = 1u << 3,
    VMBUS_FEATURE_FLAGS_CONFIDENTIAL_CHANNELS = 1u << 4,
    VMBUS_FEATURE_FLAGS_PAUSE_RESUME = 1u << 5,
    VMBUS_FEATURE_FLAGS_SERVER_MONITOR_PAGES = 1u << 6,
    VMBUS_FEATURE_FLAGS_GPA_PINNING = 1u << 7,
};

/// Flags of an offer.
enum vmbus_offer_flags : uint16_t {
    VMBUS_OFFER_FLAGS_ENUMERATE_INTERFACE = 1 << 0,
    VMBUS_OFFER_FLAGS_CONFIDENTIAL_RING = 1 << 1,
    VMBUS_OFFER_FLAGS_CONFIDENTIAL_EXTERNAL_MEMORY = 1 << 2,
    VMBUS_OFFER_FLAGS_PINNED_EXTERNAL_MEMORY = 1 << 3,
    VMBUS_OFFER_FLAGS_NAMED_PIPE = 1 << 4,
    VMBUS_OFFER_FLAGS_LOOPBACK = 1 << 8,
    VMBUS_OFFER_FLAGS_PARENT_OFFER = 1 << 9,
    VMBUS_OFFER_FLAGS_MONITORED_NOTIFICATION = 1 << 10,
    VMBUS_OFFER_FLAGS_HVSOCK = 1 << 13,
};

/// What a host says of the connection, from version 2.4 on.
enum vmbus_connection_state : uint8_t {
    VMBUS_CONNECTION_STATE_SUCCESS = 0,
    VMBUS_CONNECTION_STATE_LOW_RESOURCES = 1,
    VMBUS_CONNECTION_STATE_FAILED = 2,
};

/// Connection ids of the message port: of every host, and of hosts from 5.0 on.
#define VMBUS_MESSAGE_CONNECTION 1
#define VMBUS_MULTI_CLIENT_CONNECTION 4
/// The connection id by which version 1.1 signals channels that have none of their own.
#define VMBUS_EVENT_CONNECTION 2
/// The synthetic interrupt source of VMBus.
#define VMBUS_SINT 2
/// Page frame numbers in a GPADL header message and in a body message.
#define VMBUS_GPADL_HEADER_PFNS 26
#define VMBUS_GPADL_BODY_PFNS 28
/// Pages of a GPADL of one range, at most.
#define VMBUS_GPADL_PAGES 8190

/// The header of every message.
struct vmbus_message_header {
    enum vmbus_message_type message_type;
    uint32_t reserved;
};

/// A message that consists of its header and the id of a channel.
struct vmbus_channel_message {
    struct vmbus_message_header header;
    uint32_t channel_id;
};

struct vmbus_offer_channel {
    struct vmbus_message_header header;
    /// Windows' layout: the first three parts little-endian.
    uint8_t interface_id[16];
    uint8_t instance_id[16];
    uint32_t reserved[4];
    uint16_t flags;
    uint16_t mmio_megabytes;
    /// By kind of device: vmbus_pipe_user_data, vmbus_hvsock_user_data.
    uint8_t user_defined[120];
    /// 0 for the primary channel.
    uint16_t subchannel_index;
    uint16_t mmio_megabytes_optional;
    uint32_t channel_id;
    uint8_t monitor_id;
    uint8_t monitor_allocated;
    /// Bit 0, from version 1.1 on: the channel has a connection id of its own.
    uint16_t is_dedicated;
    uint32_t connection_id;
};

/// User-defined data of an offer in pipe mode.
struct vmbus_pipe_user_data {
    /// 0 bytes, 4 messages.
    uint32_t pipe_type;
    uint8_t user_defined[112];
    uint32_t flags;
};

/// User-defined data of an offer of a socket, packed.
struct vmbus_hvsock_user_data {
    uint8_t pipe_type[4];
    uint8_t is_for_guest_accept;
    uint8_t is_for_guest_container;
    uint8_t version[4];
    uint8_t silo_id[16];
    uint8_t padding[2];
};

struct vmbus_initiate_contact {
    struct vmbus_message_header header;
    enum vmbus_version version;
    uint32_t target_message_vp;
    /// Up to version 4.1 the address of the interrupt page, from 5.0 on vmbus_contact_target.
    uint8_t interrupt_page_or_target[8];
    uint64_t parent_to_child_monitor_page;
    uint64_t child_to_parent_monitor_page;
};

/// Where messages go, from version 5.0 on, and the features wanted, from 6.0 on.
struct vmbus_contact_target {
    uint8_t target_sint;
    uint8_t target_vtl;
    uint16_t reserved;
    uint32_t feature_flags;
};

struct vmbus_version_response {
    struct vmbus_message_header header;
    uint8_t version_supported;
    enum vmbus_connection_state connection_state;
    uint16_t reserved;
    /// Below version 5.0 the version, or 0; from 5.0 on the connection id for messages.
    uint32_t selected_version_or_connection_id;
};

/// The response of version 6.0.
struct vmbus_version_response2 {
    struct vmbus_version_response base;
    uint32_t feature_flags;
};

struct vmbus_gpadl_header {
    struct vmbus_message_header header;
    uint32_t channel_id;
    uint32_t gpadl_id;
    /// Bytes of all ranges with their headers, over all messages.
    uint16_t range_buffer_len;
    uint16_t range_count;
    uint32_t byte_count;
    uint32_t byte_offset;
    // Page frame numbers follow, not aligned.
};

struct vmbus_gpadl_body {
    struct vmbus_message_header header;
    uint32_t message_number;
    uint32_t gpadl_id;
    // Page frame numbers follow.
};

struct vmbus_gpadl_created {
    struct vmbus_message_header header;
    uint32_t channel_id;
    uint32_t gpadl_id;
    uint32_t status;
};

struct vmbus_gpadl_teardown {
    struct vmbus_message_header header;
    uint32_t channel_id;
    uint32_t gpadl_id;
};

struct vmbus_gpadl_torndown {
    struct vmbus_message_header header;
    uint32_t gpadl_id;
};

struct vmbus_open_channel {
    struct vmbus_message_header header;
    uint32_t channel_id;
    uint32_t open_id;
    uint32_t ring_gpadl_id;
    /// The index of a virtual processor, or VMBUS_VP_DISABLED.
    uint32_t target_vp;
    uint32_t downstream_page_offset;
    uint8_t user_defined[120];
};

/// No interrupts, on hosts that know it.
#define VMBUS_VP_DISABLED 0xffffffff

/// A guest's request for a socket connection. The silo is from version 5.2 on.
struct vmbus_tl_connect_request {
    struct vmbus_message_header header;
    uint8_t endpoint_id[16];
    uint8_t service_id[16];
    uint8_t silo_id[16];
};

/// That it is refused; where it is granted, a channel is offered.
struct vmbus_tl_connect_result {
    struct vmbus_message_header header;
    uint8_t endpoint_id[16];
    uint8_t service_id[16];
    uint32_t status;
};

/// The class of a socket at port 0: the port is in the first four bytes.
#define VMBUS_GUID_SOCKET "00000000-facb-11e6-bd58-64006a7986d3"

struct vmbus_open_channel_result {
    struct vmbus_message_header header;
    uint32_t channel_id;
    uint32_t open_id;
    uint32_t status;
};

struct vmbus_modify_channel {
    struct vmbus_message_header header;
    uint32_t channel_id;
    uint32_t target_vp;
};

struct vmbus_modify_channel_response {
    struct vmbus_message_header header;
    uint32_t channel_id;
    uint32_t status;
};

/// What a host answers for failure.
#define VMBUS_STATUS_FAILURE 0x8000ffff

/// Classes of devices, by their interfaces.
#define VMBUS_GUID_SCSI "ba6163d9-04a1-4d29-b605-72e2ffb1dc7f"
#define VMBUS_GUID_IDE "32412632-86cb-44a2-9b5c-50d1417354f5"
#define VMBUS_GUID_FIBRE_CHANNEL "2f9bcc4a-0069-4af3-b76b-6fd0be528cda"
#define VMBUS_GUID_NETWORK "f8615163-df3e-46c5-913f-f2d2f965ed0e"
#define VMBUS_GUID_KEYBOARD "f912ad6d-2b17-48ea-bd65-f927a61c7684"
#define VMBUS_GUID_MOUSE "cfa8b69e-5b4a-4cc0-b98b-8ba1a1f3f95a"
#define VMBUS_GUID_VIDEO "da0a7802-e377-4aac-8e77-0558eb1073f8"
#define VMBUS_GUID_SHUTDOWN "0e0b6031-5213-4934-818b-38d90ced39db"
#define VMBUS_GUID_HEARTBEAT "57164f39-9115-4e78-ab55-382f3bd5422d"
#define VMBUS_GUID_TIME_SYNC "9527e630-d0ae-497b-adce-e80ab0175caf"
#define VMBUS_GUID_KVP "a9a0f4e7-5a45-4d96-b827-8a841e8c03e6"
#define VMBUS_GUID_VSS "35fa2e29-ea23-4236-96ae-3a6ebacba440"
#define VMBUS_GUID_FILE_COPY "34d14be3-dee4-41c8-9ae7-6b174977c192"
#define VMBUS_GUID_DYNAMIC_MEMORY "525074dc-8985-46e2-8057-a307dc18a502"
#define VMBUS_GUID_PCI "44c4f61d-4444-4400-9d52-802e27ede19f"
#define VMBUS_GUID_REMOTE_DESKTOP "276aacf4-ac15-426c-98dd-7521ad3f01fe"

// Remote NDIS: the messages inside NVSP, as FreeBSD (BSD) and OpenVMM (MIT) show them.
#include <stdint.h>

/// Types of messages.
enum rndis_message_type : uint32_t {
    RNDIS_MESSAGE_TYPE_PACKET = 1,
    RNDIS_MESSAGE_TYPE_INITIALIZE = 2,
    RNDIS_MESSAGE_TYPE_HALT = 3,
    RNDIS_MESSAGE_TYPE_QUERY = 4,
    RNDIS_MESSAGE_TYPE_SET = 5,
    RNDIS_MESSAGE_TYPE_RESET = 6,
    RNDIS_MESSAGE_TYPE_INDICATE_STATUS = 7,
    RNDIS_MESSAGE_TYPE_KEEPALIVE = 8,
    RNDIS_MESSAGE_TYPE_INITIALIZE_COMPLETE = 0x80000002,
    RNDIS_MESSAGE_TYPE_QUERY_COMPLETE = 0x80000004,
    RNDIS_MESSAGE_TYPE_SET_COMPLETE = 0x80000005,
    RNDIS_MESSAGE_TYPE_RESET_COMPLETE = 0x80000006,
    RNDIS_MESSAGE_TYPE_KEEPALIVE_COMPLETE = 0x80000008,
};

/// How a request went, and what is indicated.
enum rndis_status : uint32_t {
    RNDIS_STATUS_SUCCESS = 0,
    RNDIS_STATUS_PENDING = 0x103,
    RNDIS_STATUS_MEDIA_CONNECT = 0x4001000b,
    RNDIS_STATUS_MEDIA_DISCONNECT = 0x4001000c,
    RNDIS_STATUS_LINK_SPEED_CHANGE = 0x40010013,
    RNDIS_STATUS_NETWORK_CHANGE = 0x40010018,
    RNDIS_STATUS_OFFLOAD_CURRENT_CONFIG = 0x40020006,
    RNDIS_STATUS_BUFFER_OVERFLOW = 0x80000005,
    RNDIS_STATUS_FAILURE = 0xc0000001,
    RNDIS_STATUS_NOT_SUPPORTED = 0xc00000bb,
    RNDIS_STATUS_BAD_VERSION = 0xc0010004,
    RNDIS_STATUS_INVALID_LENGTH = 0xc0010014,
    RNDIS_STATUS_INVALID_DATA = 0xc0010015,
    RNDIS_STATUS_INVALID_OID = 0xc0010017,
};

/// What is asked for and set.
enum rndis_oid : uint32_t {
    RNDIS_OID_GEN_SUPPORTED_LIST = 0x00010101,
    RNDIS_OID_GEN_MAXIMUM_FRAME_SIZE = 0x00010106,
    RNDIS_OID_GEN_LINK_SPEED = 0x00010107,
    RNDIS_OID_GEN_CURRENT_PACKET_FILTER = 0x0001010e,
    RNDIS_OID_GEN_MAXIMUM_TOTAL_SIZE = 0x00010111,
    RNDIS_OID_GEN_MEDIA_CONNECT_STATUS = 0x00010114,
    RNDIS_OID_GEN_RECEIVE_SCALE_CAPABILITIES = 0x00010203,
    RNDIS_OID_GEN_RECEIVE_SCALE_PARAMETERS = 0x00010204,
    RNDIS_OID_GEN_LINK_STATE = 0x00010207,
    RNDIS_OID_GEN_RNDIS_CONFIG_PARAMETER = 0x0001021b,
    RNDIS_OID_IEEE_802_3_PERMANENT_ADDRESS = 0x01010101,
    RNDIS_OID_IEEE_802_3_CURRENT_ADDRESS = 0x01010102,
    RNDIS_OID_IEEE_802_3_MULTICAST_LIST = 0x01010103,
    RNDIS_OID_IEEE_802_3_MAXIMUM_LIST_SIZE = 0x01010104,
    RNDIS_OID_OFFLOAD_ENCAPSULATION = 0x0101010a,
    RNDIS_OID_TCP_OFFLOAD_CURRENT_CONFIG = 0xfc01020b,
    RNDIS_OID_TCP_OFFLOAD_PARAMETERS = 0xfc01020c,
    RNDIS_OID_TCP_OFFLOAD_HARDWARE_CAPABILITIES = 0xfc01020d,
};

/// Which frames come in.
enum rndis_filter_flags : uint32_t {
    RNDIS_FILTER_FLAGS_DIRECTED = 0x1,
    RNDIS_FILTER_FLAGS_MULTICAST = 0x2,
    RNDIS_FILTER_FLAGS_ALL_MULTICAST = 0x4,
    RNDIS_FILTER_FLAGS_BROADCAST = 0x8,
    RNDIS_FILTER_FLAGS_PROMISCUOUS = 0x20,
};

/// The kinds of per-packet information of a frame.
enum rndis_info_type : uint32_t {
    RNDIS_INFO_TYPE_CHECKSUM = 0,
    RNDIS_INFO_TYPE_LSO = 2,
    RNDIS_INFO_TYPE_VLAN = 6,
    RNDIS_INFO_TYPE_HASH_VALUE = 8,
    RNDIS_INFO_TYPE_HASH_INFO = 9,
    /// Internal: bit 31.
    RNDIS_INFO_TYPE_PACKET_ID = 0x80000001,
};

/// The checksums of a frame on its way out.
enum rndis_tx_checksum_flags : uint32_t {
    RNDIS_TX_CHECKSUM_FLAGS_IPV4 = 1u << 0,
    RNDIS_TX_CHECKSUM_FLAGS_IPV6 = 1u << 1,
    RNDIS_TX_CHECKSUM_FLAGS_TCP = 1u << 2,
    RNDIS_TX_CHECKSUM_FLAGS_UDP = 1u << 3,
    RNDIS_TX_CHECKSUM_FLAGS_IP_HEADER = 1u << 4,
};

/// The checksums of a frame that came in.
enum rndis_rx_checksum_flags : uint32_t {
    RNDIS_RX_CHECKSUM_FLAGS_TCP_FAILED = 1u << 0,
    RNDIS_RX_CHECKSUM_FLAGS_UDP_FAILED = 1u << 1,
    RNDIS_RX_CHECKSUM_FLAGS_IP_FAILED = 1u << 2,
    RNDIS_RX_CHECKSUM_FLAGS_TCP_SUCCEEDED = 1u << 3,
    RNDIS_RX_CHECKSUM_FLAGS_UDP_SUCCEEDED = 1u << 4,
    RNDIS_RX_CHECKSUM_FLAGS_IP_SUCCEEDED = 1u << 5,
    RNDIS_RX_CHECKSUM_FLAGS_LOOPBACK = 1u << 6,
    RNDIS_RX_CHECKSUM_FLAGS_TCP_VALUE_INVALID = 1u << 7,
    RNDIS_RX_CHECKSUM_FLAGS_IP_VALUE_INVALID = 1u << 8,
};

/// Where a frame stands among those that are one.
enum rndis_packet_id_flags : uint8_t {
    RNDIS_PACKET_ID_FLAGS_SUBALLOCATION = 1u << 0,
    RNDIS_PACKET_ID_FLAGS_FIRST = 1u << 1,
    RNDIS_PACKET_ID_FLAGS_LAST = 1u << 2,
};

struct rndis_header {
    enum rndis_message_type message_type;
    /// Bytes, with this header.
    uint32_t message_length;
};

/// A frame. Offsets count from behind the header.
struct rndis_packet {
    struct rndis_header header;
    uint32_t data_offset;
    uint32_t data_length;
    uint32_t oob_offset;
    uint32_t oob_length;
    uint32_t oob_count;
    uint32_t info_offset;
    uint32_t info_length;
    uint32_t vc_handle;
    uint32_t reserved;
};

/// The header of one item of per-packet information.
struct rndis_info {
    /// Bytes, with this header.
    uint32_t size;
    enum rndis_info_type info_type;
    /// Where the data are, from the beginning of this header.
    uint32_t offset;
};

/// Beside a frame: one word.
struct rndis_info_word {
    struct rndis_info info;
    uint32_t value;
};

struct rndis_initialize {
    struct rndis_header header;
    uint32_t request_id;
    uint32_t major;
    uint32_t minor;
    uint32_t maximum_transfer;
};

struct rndis_initialize_complete {
    struct rndis_header header;
    uint32_t request_id;
    enum rndis_status status;
    uint32_t major;
    uint32_t minor;
    uint32_t device_flags;
    uint32_t medium;
    uint32_t maximum_packets;
    uint32_t maximum_transfer;
    /// As a power of two.
    uint32_t alignment_factor;
    uint32_t reserved[2];
};

/// Types 3 and 8.
struct rndis_request {
    struct rndis_header header;
    uint32_t request_id;
};

/// Types 4 and 5.
struct rndis_query {
    struct rndis_header header;
    uint32_t request_id;
    enum rndis_oid oid;
    uint32_t info_length;
    uint32_t info_offset;
    uint32_t vc_handle;
};

struct rndis_query_complete {
    struct rndis_header header;
    uint32_t request_id;
    enum rndis_status status;
    uint32_t info_length;
    uint32_t info_offset;
};

/// Types 0x80000005 and 0x80000008.
struct rndis_complete {
    struct rndis_header header;
    uint32_t request_id;
    enum rndis_status status;
};

struct rndis_indicate_status {
    struct rndis_header header;
    enum rndis_status status;
    uint32_t info_length;
    uint32_t info_offset;
};

/// Ahead of NDIS' own structures.
struct ndis_object_header {
    uint8_t object_type;
    uint8_t revision;
    uint16_t size;
};

/// An encapsulation, and what is offered in it.
struct ndis_checksum_offload {
    uint32_t encapsulation;
    uint32_t flags;
};

struct ndis_lso2 {
    uint32_t ipv4_encapsulation;
    uint32_t ipv4_maximum_size;
    uint32_t ipv4_minimum_segments;
    uint32_t ipv6_encapsulation;
    uint32_t ipv6_maximum_size;
    uint32_t ipv6_minimum_segments;
    uint32_t ipv6_flags;
};

/// NDIS_OFFLOAD of revision 1; later ones are longer.
struct ndis_offload {
    struct ndis_object_header header;
    struct ndis_checksum_offload tx_ipv4;
    struct ndis_checksum_offload rx_ipv4;
    struct ndis_checksum_offload tx_ipv6;
    struct ndis_checksum_offload rx_ipv6;
    uint8_t lso1[16];
    uint8_t ipsec1[28];
    struct ndis_lso2 lso2;
    uint32_t flags;
};

/// NDIS_OFFLOAD_PARAMETERS of revision 3.
struct ndis_offload_parameters {
    struct ndis_object_header header;
    uint8_t ipv4_checksum;
    uint8_t tcp_ipv4_checksum;
    uint8_t udp_ipv4_checksum;
    uint8_t tcp_ipv6_checksum;
    uint8_t udp_ipv6_checksum;
    uint8_t lso1;
    uint8_t ipsec1;
    uint8_t lso2_ipv4;
    uint8_t lso2_ipv6;
    uint8_t connection_ipv4;
    uint8_t connection_ipv6;
    uint8_t reserved;
    uint32_t flags;
    uint8_t ipsec2;
    uint8_t ipsec2_ipv4;
    uint8_t rsc_ipv4;
    uint8_t rsc_ipv6;
    uint8_t encapsulation;
    uint8_t encapsulation_types;
    uint8_t reserved2[2];
};

struct ndis_rss_capabilities {
    struct ndis_object_header header;
    uint32_t flags;
    uint32_t interrupt_messages;
    uint32_t receive_queues;
    uint16_t table_entries;
    uint16_t reserved;
};

struct ndis_rss_parameters {
    struct ndis_object_header header;
    uint16_t flags;
    uint16_t base_cpu;
    uint32_t hash;
    uint16_t table_size;
    uint16_t reserved1;
    uint32_t table_offset;
    uint16_t key_size;
    uint16_t reserved2;
    uint32_t key_offset;
    uint32_t masks_offset;
    uint32_t masks_count;
    uint32_t masks_size;
};

/// Types of NDIS' own structures.
#define NDIS_OBJECT_DEFAULT 0x80
#define NDIS_OBJECT_RSS_CAPABILITIES 0x88
#define NDIS_OBJECT_RSS_PARAMETERS 0x89
#define NDIS_OBJECT_OFFLOAD 0xa7
/// Ethernet.
#define NDIS_ENCAPSULATION_IEEE_802_3 2
/// Flags of an offload for IPv4, IPv6 alike.
#define NDIS_OFFLOAD_TCP_CHECKSUM 0x10
#define NDIS_OFFLOAD_UDP_CHECKSUM 0x40
#define NDIS_OFFLOAD_IP_CHECKSUM 0x100
/// A setting of an offload.
#define NDIS_OFFLOAD_NO_CHANGE 0
#define NDIS_OFFLOAD_OFF 1
#define NDIS_OFFLOAD_TX 2
#define NDIS_OFFLOAD_RX 3
#define NDIS_OFFLOAD_BOTH 4
#define NDIS_OFFLOAD_ON 2
/// Toeplitz over TCP and IP, both versions.
#define NDIS_RSS_HASH 0x00001701
#define NDIS_RSS_TABLE_COUNT 128
#define NDIS_RSS_KEY_LENGTH 40
/// From the header on: what an offset of 0 means.
#define RNDIS_OFFSET_BASE 8

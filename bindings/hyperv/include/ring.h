// A channel's rings: the control page and the packets, as the ring of OpenVMM (MIT) and of FreeBSD (BSD) show them.
#include <stdint.h>

/// Where a ring's data begins, behind its control page.
#define RING_DATA_OFFSET 4096

/// The head of a ring's control page. Indices are bytes from the beginning of the data.
struct ring_control {
    /// Written by the producer.
    uint32_t write_index;
    /// Written by the consumer.
    uint32_t read_index;
    /// Not 0: the consumer does not want to be signalled.
    uint32_t interrupt_mask;
    /// Bytes of room that the producer waits for, or 0.
    uint32_t pending_send_size;
    uint32_t reserved[12];
    uint32_t feature_bits;
};

/// Features of a ring's producer.
enum ring_feature_flags : uint32_t {
    RING_FEATURE_FLAGS_PENDING_SEND_SIZE = 1u << 0,
};

/// Kinds of packets.
enum ring_packet_type : uint16_t {
    RING_PACKET_TYPE_IN_BAND = 6,
    RING_PACKET_TYPE_TRANSFER_PAGES = 7,
    RING_PACKET_TYPE_GPADL = 8,
    RING_PACKET_TYPE_GPA_DIRECT = 9,
    RING_PACKET_TYPE_CANCEL = 0xa,
    RING_PACKET_TYPE_COMPLETION = 0xb,
};

/// Flags of a packet.
enum ring_packet_flags : uint16_t {
    RING_PACKET_FLAGS_COMPLETION_REQUESTED = 1 << 0,
};

/// The head of every packet.
struct ring_packet_descriptor {
    enum ring_packet_type packet_type;
    /// Units of 8 bytes from the descriptor to the payload.
    uint16_t data_offset8;
    /// Units of 8 bytes from the descriptor to the footer.
    uint16_t length8;
    uint16_t flags;
    uint64_t transaction_id;
};

/// Follows the descriptor in a packet of transfer pages; ring_transfer_page_range follow.
struct ring_transfer_pages {
    uint16_t set_id;
    uint8_t sender_owns_set;
    uint8_t reserved;
    uint32_t range_count;
};

struct ring_transfer_page_range {
    uint32_t byte_count;
    uint32_t byte_offset;
};

/// Follows the descriptor in a packet of GPA ranges; ranges follow, each with its page frame numbers.
struct ring_gpa_direct {
    uint32_t reserved;
    uint32_t range_count;
};

struct ring_gpa_range {
    uint32_t byte_count;
    uint32_t byte_offset;
    // Page frame numbers follow.
};

/// What follows a packet.
struct ring_footer {
    uint32_t reserved;
    /// Where in the ring its descriptor is.
    uint32_t offset;
};

/// Kinds of pipe messages.
enum ring_pipe_type : uint32_t {
    RING_PIPE_TYPE_DATA = 1,
    RING_PIPE_TYPE_PARTIAL = 2,
    RING_PIPE_TYPE_SETUP_GPA_DIRECT = 3,
    RING_PIPE_TYPE_TEARDOWN_GPA_DIRECT = 4,
};

/// The head of the payload, in pipe mode.
struct ring_pipe_header {
    enum ring_pipe_type pipe_type;
    uint32_t byte_count;
};

/// Bytes in a pipe message, at most.
#define RING_PIPE_MAXIMUM 16384

// Dynamic memory, as QEMU's hv-balloon and Linux' hv_balloon show it.
#include <stdint.h>

/// Versions of the protocol: major in the high half, minor in the low one.
enum dm_version : uint32_t {
    DM_VERSION_WIN7 = 0x00000003,
    DM_VERSION_WIN8 = 0x00010000,
    DM_VERSION_WIN10 = 0x00020000,
};

/// Types of messages.
enum dm_message_type : uint16_t {
    DM_MESSAGE_TYPE_VERSION_REQUEST = 1,
    DM_MESSAGE_TYPE_VERSION_RESPONSE = 2,
    DM_MESSAGE_TYPE_CAPABILITIES_REPORT = 3,
    DM_MESSAGE_TYPE_CAPABILITIES_RESPONSE = 4,
    DM_MESSAGE_TYPE_STATUS_REPORT = 5,
    DM_MESSAGE_TYPE_BALLOON_REQUEST = 6,
    DM_MESSAGE_TYPE_BALLOON_RESPONSE = 7,
    DM_MESSAGE_TYPE_UNBALLOON_REQUEST = 8,
    DM_MESSAGE_TYPE_UNBALLOON_RESPONSE = 9,
    DM_MESSAGE_TYPE_HOT_ADD_REQUEST = 10,
    DM_MESSAGE_TYPE_HOT_ADD_RESPONSE = 11,
    DM_MESSAGE_TYPE_INFO = 12,
    DM_MESSAGE_TYPE_HOT_REMOVE_REQUEST = 13,
    DM_MESSAGE_TYPE_HOT_REMOVE_RESPONSE = 14,
};

/// What a guest can do, beside the alignment of what is hot-added in bits 5:2, 2^n MiB.
enum dm_capability_flags : uint64_t {
    DM_CAPABILITY_FLAGS_BALLOON = 1ull << 0,
    DM_CAPABILITY_FLAGS_HOT_ADD = 1ull << 1,
    DM_CAPABILITY_FLAGS_HOT_REMOVE = 1ull << 6,
};

/// What the host says to that.
enum dm_capability_response_flags : uint64_t {
    DM_CAPABILITY_RESPONSE_FLAGS_ACCEPTED = 1ull << 0,
    DM_CAPABILITY_RESPONSE_FLAGS_HOT_REMOVE = 1ull << 1,
    DM_CAPABILITY_RESPONSE_FLAGS_SUPPRESS_PRESSURE_REPORTS = 1ull << 2,
};

struct dm_header {
    enum dm_message_type message_type;
    /// Bytes, with this header.
    uint16_t size;
    uint32_t transaction_id;
};

struct dm_version_request {
    struct dm_header header;
    enum dm_version version;
    /// Bit 0: there will be no other.
    uint32_t is_last_attempt;
};

struct dm_version_response {
    struct dm_header header;
    /// Bit 0.
    uint64_t is_accepted;
};

struct dm_capabilities {
    struct dm_header header;
    uint64_t capabilities;
    uint64_t minimum_pages;
    uint64_t maximum_page_number;
};

struct dm_capabilities_response {
    struct dm_header header;
    uint64_t flags;
};

/// Pages, but for the last two.
struct dm_status {
    struct dm_header header;
    uint64_t available;
    uint64_t committed;
    uint64_t page_file;
    uint64_t zero_and_free;
    uint32_t page_file_writes;
    uint32_t io_difference;
};

struct dm_balloon {
    struct dm_header header;
    uint32_t pages;
    uint32_t reserved;
};

struct dm_balloon_response {
    struct dm_header header;
    uint32_t reserved;
    /// Bit 0: there will be more. Bits 31:1: how many ranges follow.
    uint32_t more_and_count;
    // Ranges follow: page frame number in bits 39:0, pages in bits 63:40.
};

struct dm_unballoon {
    struct dm_header header;
    /// Bit 0: there will be more.
    uint32_t has_more;
    uint32_t range_count;
    // Ranges follow.
};

struct dm_hot_add {
    struct dm_header header;
    uint64_t range;
    // The range of the region may follow.
};

struct dm_hot_add_response {
    struct dm_header header;
    uint32_t pages;
    /// 1 for success.
    uint32_t result;
};

struct dm_info {
    struct dm_header header;
    uint32_t reserved;
    uint32_t info_size;
    // dm_info_block follow.
};

struct dm_info_block {
    /// 0: the most pages that the guest will have.
    uint32_t info_type;
    uint32_t data_size;
    uint64_t data;
};

/// Bytes of a message, at most.
#define DM_MESSAGE_MAXIMUM 4096

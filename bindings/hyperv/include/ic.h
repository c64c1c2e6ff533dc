// Integration services: shutdown, heartbeat, time, key-value pairs and the rest, and keyboard and mouse, as OpenVMM (MIT) and
// FreeBSD (BSD) show them. All but the keyboard go in pipe framing.
#include <stdint.h>

/// Types of messages.
enum ic_message_type : uint16_t {
    IC_MESSAGE_TYPE_NEGOTIATE = 0,
    IC_MESSAGE_TYPE_HEARTBEAT = 1,
    IC_MESSAGE_TYPE_KVP = 2,
    IC_MESSAGE_TYPE_SHUTDOWN = 3,
    IC_MESSAGE_TYPE_TIME_SYNC = 4,
    IC_MESSAGE_TYPE_VSS = 5,
    IC_MESSAGE_TYPE_FILE_COPY = 7,
};

/// How a message was taken: HRESULT.
enum ic_status : uint32_t {
    IC_STATUS_SUCCESS = 0,
    IC_STATUS_FAILURE = 0x80004005,
    IC_STATUS_NOT_FOUND = 0x80041002,
    IC_STATUS_NOT_SUPPORTED = 0x80070032,
    IC_STATUS_NO_MORE_ITEMS = 0x80070103,
};

/// Flags of a message.
enum ic_message_flags : uint8_t {
    IC_MESSAGE_FLAGS_TRANSACTION = 1u << 0,
    IC_MESSAGE_FLAGS_REQUEST = 1u << 1,
    IC_MESSAGE_FLAGS_RESPONSE = 1u << 2,
};

struct ic_version {
    uint16_t major;
    uint16_t minor;
};

struct ic_header {
    struct ic_version framework_version;
    enum ic_message_type message_type;
    struct ic_version message_version;
    /// Bytes behind this header.
    uint16_t message_size;
    /// In two halves, as the word is not aligned to 4.
    uint16_t status_low;
    uint16_t status_high;
    uint8_t transaction_id;
    /// ic_message_flags
    uint8_t flags;
    uint16_t reserved;
};

struct ic_negotiate {
    uint16_t framework_count;
    uint16_t message_count;
    uint32_t reserved;
    // struct ic_version follow: of the framework, then of messages.
};

/// Flags of a shutdown.
enum ic_shutdown_flags : uint32_t {
    IC_SHUTDOWN_FLAGS_FORCE = 1u << 0,
    IC_SHUTDOWN_FLAGS_RESTART = 1u << 1,
    IC_SHUTDOWN_FLAGS_HIBERNATE = 1u << 2,
};

struct ic_shutdown {
    uint32_t reason;
    uint32_t timeout;
    /// ic_shutdown_flags
    uint32_t flags;
    // A text of 2048 bytes follows.
};

/// How a guest feels.
enum ic_heartbeat_state : uint32_t {
    IC_HEARTBEAT_STATE_UNKNOWN = 0,
    IC_HEARTBEAT_STATE_HEALTHY = 1,
    IC_HEARTBEAT_STATE_CRITICAL = 2,
    IC_HEARTBEAT_STATE_STOPPED = 3,
};

struct ic_heartbeat {
    uint64_t sequence;
    enum ic_heartbeat_state state;
    uint32_t reserved;
};

/// Flags of a time.
enum ic_time_flags : uint8_t {
    IC_TIME_FLAGS_SYNC = 1u << 0,
    IC_TIME_FLAGS_SAMPLE = 1u << 1,
};

/// A time, up to version 3.
struct ic_time {
    /// Units of 100 ns since 1601.
    uint64_t parent_time;
    uint64_t child_time;
    uint64_t round_trip;
    /// ic_time_flags
    uint8_t flags;
    uint8_t reserved[7];
};

/// A time, from version 4 on.
struct ic_time4 {
    uint64_t parent_time;
    /// The guest's reference time when it was taken.
    uint64_t reference_time;
    uint8_t flags;
    uint8_t leap;
    uint8_t stratum;
    uint8_t reserved[5];
};

/// What is done with a key-value pair.
enum ic_kvp_operation : uint8_t {
    IC_KVP_OPERATION_GET = 0,
    IC_KVP_OPERATION_SET = 1,
    IC_KVP_OPERATION_DELETE = 2,
    IC_KVP_OPERATION_ENUMERATE = 3,
    IC_KVP_OPERATION_GET_IP = 4,
    IC_KVP_OPERATION_SET_IP = 5,
};

/// Where it is kept.
enum ic_kvp_pool : uint8_t {
    IC_KVP_POOL_EXTERNAL = 0,
    IC_KVP_POOL_GUEST = 1,
    IC_KVP_POOL_AUTO = 2,
    IC_KVP_POOL_AUTO_EXTERNAL = 3,
};

/// What a value is.
enum ic_kvp_value_type : uint32_t {
    IC_KVP_VALUE_TYPE_STRING = 1,
    IC_KVP_VALUE_TYPE_EXPAND_STRING = 2,
    IC_KVP_VALUE_TYPE_DWORD = 4,
    IC_KVP_VALUE_TYPE_QWORD = 11,
};

struct ic_kvp_header {
    enum ic_kvp_operation operation;
    enum ic_kvp_pool pool;
    uint16_t reserved;
};

/// Operations 0 and 1.
struct ic_kvp_value {
    enum ic_kvp_value_type value_type;
    /// Bytes, with the zero at the end.
    uint32_t key_size;
    uint32_t value_size;
    uint8_t key[512];
    uint8_t value[2048];
};

/// Operation 3: an index, then as above.
struct ic_kvp_enumerate {
    uint32_t index;
    struct ic_kvp_value value;
};

/// Operation 2.
struct ic_kvp_delete {
    uint32_t key_size;
    uint8_t key[512];
};

/// Types of a keyboard's messages.
enum keyboard_message_type : uint32_t {
    KEYBOARD_MESSAGE_TYPE_PROTOCOL_REQUEST = 1,
    KEYBOARD_MESSAGE_TYPE_PROTOCOL_RESPONSE = 2,
    KEYBOARD_MESSAGE_TYPE_EVENT = 3,
    KEYBOARD_MESSAGE_TYPE_SET_LED_INDICATORS = 4,
};

/// Flags of a key.
enum keyboard_event_flags : uint32_t {
    KEYBOARD_EVENT_FLAGS_UNICODE = 1u << 0,
    KEYBOARD_EVENT_FLAGS_BREAK = 1u << 1,
    KEYBOARD_EVENT_FLAGS_E0 = 1u << 2,
    KEYBOARD_EVENT_FLAGS_E1 = 1u << 3,
};

struct keyboard_protocol_request {
    enum keyboard_message_type message_type;
    uint32_t version;
};

struct keyboard_protocol_response {
    enum keyboard_message_type message_type;
    /// Bit 0.
    uint32_t is_accepted;
};

struct keyboard_event {
    enum keyboard_message_type message_type;
    uint16_t make_code;
    uint16_t reserved;
    /// keyboard_event_flags
    uint32_t flags;
};

/// Lights of a keyboard.
enum keyboard_led_flags : uint16_t {
    KEYBOARD_LED_FLAGS_SCROLL_LOCK = 1u << 0,
    KEYBOARD_LED_FLAGS_NUM_LOCK = 1u << 1,
    KEYBOARD_LED_FLAGS_CAPS_LOCK = 1u << 2,
};

struct keyboard_set_led_indicators {
    enum keyboard_message_type message_type;
    /// keyboard_led_flags
    uint16_t leds;
    uint16_t reserved;
};

/// Types of a mouse's messages.
enum mouse_message_type : uint32_t {
    MOUSE_MESSAGE_TYPE_PROTOCOL_REQUEST = 0,
    MOUSE_MESSAGE_TYPE_PROTOCOL_RESPONSE = 1,
    MOUSE_MESSAGE_TYPE_INITIAL_DEVICE_INFO = 2,
    MOUSE_MESSAGE_TYPE_DEVICE_INFO_ACK = 3,
    MOUSE_MESSAGE_TYPE_INPUT_REPORT = 4,
};

struct mouse_header {
    enum mouse_message_type message_type;
    /// Bytes behind this header.
    uint32_t size;
};

struct mouse_protocol_request {
    struct mouse_header header;
    uint32_t version;
};

struct mouse_protocol_response {
    struct mouse_header header;
    uint32_t version;
    /// Only the first byte is sent.
    uint32_t is_accepted;
};

/// What describes a mouse: a USB descriptor of HID follows, and the descriptor of reports that it names.
struct mouse_device_info {
    struct mouse_header header;
    /// Bytes of the attributes.
    uint32_t attributes_size;
    uint16_t vendor;
    uint16_t product;
    uint16_t version;
    uint16_t reserved[11];
};

/// The host's time of 1970 in its own units.
#define IC_UNIX_EPOCH 116444736000000000
/// Bytes of a message, at most.
#define IC_MESSAGE_MAXIMUM 13312
#define KEYBOARD_VERSION 0x00010000
#define MOUSE_VERSION 0x00020000

// Storage: packets between StorVSC and StorVSP, as those of OpenVMM (MIT) and FreeBSD (BSD) show them.
#include <stdint.h>

/// Versions of the protocol: major in the high byte, minor in the low one.
enum storvsp_version : uint16_t {
    STORVSP_VERSION_WIN6 = 0x0200,
    STORVSP_VERSION_WIN7 = 0x0402,
    STORVSP_VERSION_WIN8 = 0x0501,
    STORVSP_VERSION_BLUE = 0x0600,
    STORVSP_VERSION_THRESHOLD = 0x0602,
};

/// What a packet is.
enum storvsp_operation : uint32_t {
    STORVSP_OPERATION_COMPLETE_IO = 1,
    STORVSP_OPERATION_REMOVE_DEVICE = 2,
    STORVSP_OPERATION_EXECUTE_SRB = 3,
    STORVSP_OPERATION_RESET_LUN = 4,
    STORVSP_OPERATION_RESET_ADAPTER = 5,
    STORVSP_OPERATION_RESET_BUS = 6,
    STORVSP_OPERATION_BEGIN_INITIALIZATION = 7,
    STORVSP_OPERATION_END_INITIALIZATION = 8,
    STORVSP_OPERATION_QUERY_PROTOCOL_VERSION = 9,
    STORVSP_OPERATION_QUERY_PROPERTIES = 10,
    STORVSP_OPERATION_ENUMERATE_BUS = 11,
    STORVSP_OPERATION_FC_HBA_DATA = 12,
    STORVSP_OPERATION_CREATE_SUB_CHANNELS = 13,
    STORVSP_OPERATION_EVENT_NOTIFICATION = 14,
};

/// Flags of a packet.
enum storvsp_packet_flags : uint32_t {
    STORVSP_PACKET_FLAGS_REQUEST_COMPLETION = 1u << 0,
};

/// How the host answers: NTSTATUS.
enum storvsp_nt_status : uint32_t {
    STORVSP_NT_STATUS_SUCCESS = 0x00000000,
    STORVSP_NT_STATUS_BUFFER_OVERFLOW = 0x80000005,
    STORVSP_NT_STATUS_DEVICE_BUSY = 0x80000011,
    STORVSP_NT_STATUS_UNSUCCESSFUL = 0xc0000001,
    STORVSP_NT_STATUS_INVALID_PARAMETER = 0xc000000d,
    STORVSP_NT_STATUS_INVALID_DEVICE_REQUEST = 0xc0000010,
    STORVSP_NT_STATUS_REVISION_MISMATCH = 0xc0000059,
    STORVSP_NT_STATUS_DEVICE_NOT_CONNECTED = 0xc000009d,
    STORVSP_NT_STATUS_IO_TIMEOUT = 0xc00000b5,
    STORVSP_NT_STATUS_DEVICE_DOES_NOT_EXIST = 0xc00000c0,
    STORVSP_NT_STATUS_CANCELLED = 0xc0000120,
    STORVSP_NT_STATUS_INVALID_DEVICE_STATE = 0xc0000184,
    STORVSP_NT_STATUS_IO_DEVICE_ERROR = 0xc0000185,
};

/// Which way data go.
enum storvsp_direction : uint8_t {
    /// To the medium.
    STORVSP_DIRECTION_OUT = 0,
    /// From the medium.
    STORVSP_DIRECTION_IN = 1,
    STORVSP_DIRECTION_NONE = 2,
};

/// Flags of a request (SRB).
enum storvsp_srb_flags : uint32_t {
    STORVSP_SRB_FLAGS_QUEUE_ACTION_ENABLE = 0x2,
    STORVSP_SRB_FLAGS_DISABLE_DISCONNECT = 0x4,
    STORVSP_SRB_FLAGS_DISABLE_SYNCHRONOUS_TRANSFER = 0x8,
    STORVSP_SRB_FLAGS_BYPASS_FROZEN_QUEUE = 0x10,
    STORVSP_SRB_FLAGS_DISABLE_AUTOSENSE = 0x20,
    STORVSP_SRB_FLAGS_DATA_IN = 0x40,
    STORVSP_SRB_FLAGS_DATA_OUT = 0x80,
    STORVSP_SRB_FLAGS_NO_QUEUE_FREEZE = 0x100,
};

/// How a request went, in bits 5:0 of its status.
enum storvsp_srb_status : uint8_t {
    STORVSP_SRB_STATUS_PENDING = 0x00,
    STORVSP_SRB_STATUS_SUCCESS = 0x01,
    STORVSP_SRB_STATUS_ABORTED = 0x02,
    STORVSP_SRB_STATUS_ABORT_FAILED = 0x03,
    STORVSP_SRB_STATUS_ERROR = 0x04,
    STORVSP_SRB_STATUS_BUSY = 0x05,
    STORVSP_SRB_STATUS_INVALID_REQUEST = 0x06,
    STORVSP_SRB_STATUS_INVALID_PATH = 0x07,
    STORVSP_SRB_STATUS_NO_DEVICE = 0x08,
    STORVSP_SRB_STATUS_TIMEOUT = 0x09,
    STORVSP_SRB_STATUS_SELECTION_TIMEOUT = 0x0a,
    STORVSP_SRB_STATUS_COMMAND_TIMEOUT = 0x0b,
    STORVSP_SRB_STATUS_MESSAGE_REJECTED = 0x0d,
    STORVSP_SRB_STATUS_BUS_RESET = 0x0e,
    STORVSP_SRB_STATUS_PARITY_ERROR = 0x0f,
    STORVSP_SRB_STATUS_REQUEST_SENSE_FAILED = 0x10,
    STORVSP_SRB_STATUS_NO_HBA = 0x11,
    STORVSP_SRB_STATUS_DATA_OVERRUN = 0x12,
    STORVSP_SRB_STATUS_BAD_SRB_LENGTH = 0x15,
    STORVSP_SRB_STATUS_REQUEST_FLUSHED = 0x16,
    STORVSP_SRB_STATUS_INVALID_LUN = 0x20,
    STORVSP_SRB_STATUS_INVALID_TARGET = 0x21,
    STORVSP_SRB_STATUS_BAD_FUNCTION = 0x22,
    STORVSP_SRB_STATUS_ERROR_RECOVERY = 0x23,
    STORVSP_SRB_STATUS_NOT_POWERED = 0x24,
    STORVSP_SRB_STATUS_INTERNAL_ERROR = 0x30,
};

/// Bits above the status of a request.
enum storvsp_srb_status_flags : uint8_t {
    STORVSP_SRB_STATUS_FLAGS_QUEUE_FROZEN = 0x40,
    STORVSP_SRB_STATUS_FLAGS_AUTOSENSE_VALID = 0x80,
};

/// Ahead of every payload.
struct storvsp_header {
    enum storvsp_operation operation;
    /// storvsp_packet_flags
    uint32_t flags;
    enum storvsp_nt_status status;
};

/// A SCSI command, and its answer.
struct storvsp_scsi_request {
    /// Bytes: 0x34, or 0x24 ahead of version 5.1.
    uint16_t length;
    /// In bits 5:0 storvsp_srb_status, above them storvsp_srb_status_flags.
    uint8_t srb_status;
    uint8_t scsi_status;
    uint8_t reserved1;
    uint8_t path_id;
    uint8_t target_id;
    uint8_t lun;
    uint8_t cdb_length;
    uint8_t sense_length;
    enum storvsp_direction direction;
    uint8_t reserved2;
    /// Bytes: of the buffer; in the answer, bytes that were transferred.
    uint32_t transfer_length;
    /// The command; in the answer, sense data.
    uint8_t cdb_or_sense[20];
    uint16_t reserved3;
    uint8_t queue_tag;
    uint8_t queue_action;
    /// storvsp_srb_flags
    uint32_t srb_flags;
    /// Seconds.
    uint32_t timeout;
    uint32_t queue_sort_key;
};

struct storvsp_execute {
    struct storvsp_header header;
    struct storvsp_scsi_request request;
};

/// BEGIN, END, and whatever has no payload; padded to the length of all packets.
struct storvsp_plain {
    struct storvsp_header header;
    uint8_t padding[52];
};

struct storvsp_query_version {
    struct storvsp_header header;
    enum storvsp_version version;
    uint16_t revision;
    uint8_t padding[48];
};

struct storvsp_create_sub_channels {
    struct storvsp_header header;
    uint16_t count;
    uint8_t padding[50];
};

/// Flags of a channel.
enum storvsp_channel_flags : uint32_t {
    STORVSP_CHANNEL_FLAGS_MULTICHANNEL = 1u << 0,
};

struct storvsp_properties {
    uint32_t reserved1;
    /// Beside the primary channel.
    uint16_t maximum_sub_channels;
    uint16_t reserved2;
    /// storvsp_channel_flags
    uint32_t flags;
    uint32_t maximum_transfer;
    uint32_t reserved3[2];
};

/// Bytes of a command.
#define STORVSP_CDB_LENGTH 16
/// Bytes of sense data.
#define STORVSP_SENSE_LENGTH 20
#define STORVSP_SENSE_LENGTH_WIN7 18
/// Bytes of a request ahead of version 5.1, and of a whole packet.
#define STORVSP_REQUEST_LENGTH_WIN7 0x24
#define STORVSP_PACKET_LENGTH_WIN7 0x30
/// Action of a request in a queue: any order.
#define STORVSP_QUEUE_ACTION_SIMPLE 0x20
/// No tag.
#define STORVSP_QUEUE_TAG_NONE 0xff

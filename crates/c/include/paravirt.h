// SPDX-License-Identifier: MIT OR Apache-2.0
// The C interface of paravirt. Written by `cargo xtask bindgen`.


#ifndef PARAVIRT_H
#define PARAVIRT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Of the kernel: reports `len` bytes of text, and does not return.
#ifdef __cplusplus
extern "C"
#endif
#ifdef __GNUC__
__attribute__((noreturn))
#endif
void paravirt_panic(const char *text, size_t len);

// No time: of a deadline, that there is none.
#define PARAVIRT_NEVER UINT64_MAX

// The LEDs of a keyboard: num lock.
#define PARAVIRT_LED_NUM_LOCK 1

// Caps lock.
#define PARAVIRT_LED_CAPS_LOCK 2

// Scroll lock.
#define PARAVIRT_LED_SCROLL_LOCK 4

// A card that fills in checksums of sent frames.
#define PARAVIRT_OFFLOAD_TX_CHECKSUM (1 << 0)

// A card that segments TCP over IPv4.
#define PARAVIRT_OFFLOAD_TX_TCP4 (1 << 1)

// A card that segments TCP over IPv6.
#define PARAVIRT_OFFLOAD_TX_TCP6 (1 << 2)

// A card that segments UDP.
#define PARAVIRT_OFFLOAD_TX_UDP (1 << 3)

// A card that reports on checksums of received frames.
#define PARAVIRT_OFFLOAD_RX_CHECKSUM (1 << 8)

// A card that coalesces TCP over IPv4.
#define PARAVIRT_OFFLOAD_RX_TCP4 (1 << 9)

// A card that coalesces TCP over IPv6.
#define PARAVIRT_OFFLOAD_RX_TCP6 (1 << 10)

// A card that coalesces UDP.
#define PARAVIRT_OFFLOAD_RX_UDP (1 << 11)

// The result of a call.
enum paravirt_status {
    // Done.
    PARAVIRT_STATUS_OK,
    // There is nothing now: no completion, no event, no frame.
    PARAVIRT_STATUS_EMPTY,
    // There is no room now: try again after a completion.
    PARAVIRT_STATUS_FULL,
    // The request exceeds the device or its limits.
    PARAVIRT_STATUS_RANGE,
    // An argument is invalid.
    PARAVIRT_STATUS_INVALID,
    // The medium is read-only.
    PARAVIRT_STATUS_READ_ONLY,
    // The device does not offer that.
    PARAVIRT_STATUS_UNSUPPORTED,
    // The buffer cannot be given to the device: it is empty, or too long.
    PARAVIRT_STATUS_BUFFER,
    // There is no memory.
    PARAVIRT_STATUS_NO_MEMORY,
    // The device reported an error.
    PARAVIRT_STATUS_DEVICE,
    // The medium is defective at these blocks.
    PARAVIRT_STATUS_MEDIUM,
    // The request was aborted by a reset. It may have been executed.
    PARAVIRT_STATUS_ABORTED,
    // The device refused.
    PARAVIRT_STATUS_REFUSED,
    // No such socket.
    PARAVIRT_STATUS_UNKNOWN,
    // The socket is not open.
    PARAVIRT_STATUS_NOT_OPEN,
    // The port is in use.
    PARAVIRT_STATUS_IN_USE,
    // Out of service: the device violated its protocol.
    PARAVIRT_STATUS_FAULT_PROTOCOL,
    // Out of service: the device did not confirm that it had stopped. Memory that it may write is kept.
    PARAVIRT_STATUS_FAULT_TIMEOUT,
    // Out of service: the device was removed.
    PARAVIRT_STATUS_FAULT_REMOVED,
    // The device is being reset, and is in service again when all of its queues have returned what was in flight.
    PARAVIRT_STATUS_FAULT_RESET,
    // Out of service: the device could not be started again.
    PARAVIRT_STATUS_FAULT_REFUSED,
    // An error that this header does not know.
    PARAVIRT_STATUS_OTHER,
};

// An event of a disk.
enum paravirt_block_event_kind {
    // The capacity changed.
    PARAVIRT_BLOCK_EVENT_KIND_CAPACITY,
    // The medium became writable or read-only.
    PARAVIRT_BLOCK_EVENT_KIND_ACCESS,
    // The device is out of service.
    PARAVIRT_BLOCK_EVENT_KIND_FAULTED,
};

// Whether a wake-up follows.
enum paravirt_arm {
    // The registered waker is called at the next event: the task may sleep.
    PARAVIRT_ARM_ARMED,
    // There is something to do now.
    PARAVIRT_ARM_PENDING,
    // The device raises no interrupt: the task has to poll.
    PARAVIRT_ARM_UNSIGNALLED,
};

// The kind of an input event.
enum paravirt_input_kind {
    // Ends a group of simultaneous events.
    PARAVIRT_INPUT_KIND_SYNC,
    // A key or button: `code` is its Linux event code, `value` whether it is pressed.
    PARAVIRT_INPUT_KIND_KEY,
    // Relative motion: `code` is an axis, `value` the distance.
    PARAVIRT_INPUT_KIND_RELATIVE,
    // An absolute position: `code` is an axis, `value` from 0 to 32767.
    PARAVIRT_INPUT_KIND_ABSOLUTE,
    // Typed text: `code` is a UTF-16 code unit, `value` whether it is pressed.
    PARAVIRT_INPUT_KIND_TEXT,
    // Another Linux event: type in `other`, `code` and `value`.
    PARAVIRT_INPUT_KIND_OTHER,
};

// The severity of a message.
enum paravirt_log_level {
    // A device or a service is not available.
    PARAVIRT_LOG_LEVEL_ERROR,
    // A host did something odd.
    PARAVIRT_LOG_LEVEL_WARN,
    // What was found.
    PARAVIRT_LOG_LEVEL_INFO,
    // Details.
    PARAVIRT_LOG_LEVEL_DEBUG,
    // More details.
    PARAVIRT_LOG_LEVEL_TRACE,
};

// An event of a card.
enum paravirt_net_event_kind {
    // The link went up or down.
    PARAVIRT_NET_EVENT_KIND_LINK,
    // The address changed.
    PARAVIRT_NET_EVENT_KIND_MAC,
    // The host asks the guest to announce its addresses; answer by `paravirt_net_announced`.
    PARAVIRT_NET_EVENT_KIND_ANNOUNCE,
    // A virtual function of the card was attached or detached.
    PARAVIRT_NET_EVENT_KIND_VIRTUAL_FUNCTION,
    // The device is out of service.
    PARAVIRT_NET_EVENT_KIND_FAULTED,
};

// The kind of a device that was found.
enum paravirt_kind {
    // No driver claimed it.
    PARAVIRT_KIND_UNCLAIMED,
    // A disk.
    PARAVIRT_KIND_BLOCK,
    // A network card.
    PARAVIRT_KIND_NET,
    // A console.
    PARAVIRT_KIND_CONSOLE,
    // A source of random bytes.
    PARAVIRT_KIND_ENTROPY,
    // A keyboard, mouse or tablet.
    PARAVIRT_KIND_INPUT,
    // Sockets to the host.
    PARAVIRT_KIND_SOCKETS,
    // A memory balloon.
    PARAVIRT_KIND_BALLOON,
    // A device was removed, or a controller with all its units.
    PARAVIRT_KIND_REMOVED,
};

// What the host asks for.
enum paravirt_power {
    // To power off.
    PARAVIRT_POWER_OFF,
    // To restart.
    PARAVIRT_POWER_RESTART,
    // To save memory to disk and power off.
    PARAVIRT_POWER_HIBERNATE,
};

// A fact about the guest.
enum paravirt_fact {
    // The host name.
    PARAVIRT_FACT_HOST_NAME,
    // The name of the operating system.
    PARAVIRT_FACT_OS_NAME,
    // Its version.
    PARAVIRT_FACT_OS_VERSION,
    // Its major version number.
    PARAVIRT_FACT_OS_MAJOR,
    // Its minor version number.
    PARAVIRT_FACT_OS_MINOR,
    // Its build number.
    PARAVIRT_FACT_OS_BUILD,
    // The processor architecture.
    PARAVIRT_FACT_ARCHITECTURE,
    // The IPv4 addresses, separated by semicolons.
    PARAVIRT_FACT_ADDRESSES4,
    // The IPv6 addresses, separated by semicolons.
    PARAVIRT_FACT_ADDRESSES6,
};

// A pool of key-value pairs.
enum paravirt_value_pool {
    // Written by the host, read by the guest.
    PARAVIRT_VALUE_POOL_FROM_HOST,
    // Written by the guest, read by the host.
    PARAVIRT_VALUE_POOL_FROM_GUEST,
    // Facts about the host.
    PARAVIRT_VALUE_POOL_HOST_FACTS,
};

// The state of a socket.
enum paravirt_socket_state {
    // There is no such socket.
    PARAVIRT_SOCKET_STATE_UNKNOWN,
    // The host has not answered.
    PARAVIRT_SOCKET_STATE_CONNECTING,
    // It is connected.
    PARAVIRT_SOCKET_STATE_OPEN,
    // It is connected, and the host sends nothing more.
    PARAVIRT_SOCKET_STATE_ENDED,
    // Closed: the host refused the connection.
    PARAVIRT_SOCKET_STATE_REFUSED,
    // Closed: the host did not answer in time.
    PARAVIRT_SOCKET_STATE_TIMED_OUT,
    // Closed by the host, in order.
    PARAVIRT_SOCKET_STATE_CLOSED,
    // Closed: reset.
    PARAVIRT_SOCKET_STATE_RESET,
};

// Operations of a request, for `paravirt_request.op`.
enum paravirt_op {
    // Reads into the buffer.
    PARAVIRT_OP_READ,
    // Writes the buffer.
    PARAVIRT_OP_WRITE,
    // Writes the buffer, and completes when the data are on stable storage.
    PARAVIRT_OP_WRITE_DURABLE,
    // Makes durable every write that completed before.
    PARAVIRT_OP_FLUSH,
    // Discards `blocks`.
    PARAVIRT_OP_DISCARD,
    // Makes `blocks` read as zeroes.
    PARAVIRT_OP_WRITE_ZEROES,
    // The same; the device may deallocate them.
    PARAVIRT_OP_WRITE_ZEROES_UNMAP,
};

// Protocols of a segmented frame, for `paravirt_net_meta.segment_kind`.
enum paravirt_segment_kind {
    // Not segmented.
    PARAVIRT_SEGMENT_KIND_NONE,
    // TCP over IPv4.
    PARAVIRT_SEGMENT_KIND_TCP4,
    // TCP over IPv6.
    PARAVIRT_SEGMENT_KIND_TCP6,
    // UDP.
    PARAVIRT_SEGMENT_KIND_UDP,
};

// States of a checksum, for `paravirt_net_meta.checksum`.
enum paravirt_checksum {
    // Received: not verified. Sent: complete.
    PARAVIRT_CHECKSUM_NONE,
    // Received: verified by the host.
    PARAVIRT_CHECKSUM_VALID,
    // The field holds the sum of the pseudo-header only. Sent: the host completes it. Received: the data are valid.
    PARAVIRT_CHECKSUM_PARTIAL,
};

// Which frames a card receives.
enum paravirt_receive_mode {
    // Those to its address, to multicast addresses that were set, and to all.
    PARAVIRT_RECEIVE_MODE_FILTERED,
    // Those and all multicast frames.
    PARAVIRT_RECEIVE_MODE_ALL_MULTICAST,
    // All frames.
    PARAVIRT_RECEIVE_MODE_PROMISCUOUS,
};

// Axes, for `paravirt_input_event.code`.
enum paravirt_axis {
    // To the right.
    PARAVIRT_AXIS_X,
    // Downwards.
    PARAVIRT_AXIS_Y,
    // The wheel.
    PARAVIRT_AXIS_WHEEL,
    // The wheel to the side.
    PARAVIRT_AXIS_HORIZONTAL_WHEEL,
};

// A memory balloon.
struct paravirt_balloon;

// A disk.
struct paravirt_block;

// A queue of a disk.
struct paravirt_block_queue;

// The clock of the hypervisor.
struct paravirt_clock;

// A console.
struct paravirt_console;

// What tells the host that the guest has crashed.
struct paravirt_crash_reporter;

// A source of random bytes.
struct paravirt_entropy;

// A keyboard, mouse or tablet.
struct paravirt_input;

// A network card.
struct paravirt_net;

// A pair of a receive and a transmit queue of a card.
struct paravirt_net_queue;

// What can be waited for: a queue, or a device with queues of its own. It is a part of the handle that it came from, and valid as long.
struct paravirt_notify;

// The services of the host that belong to no single device. They own the connections of the buses: devices are out of service when
// they are closed.
struct paravirt_services;

// The sockets of a host.
struct paravirt_sockets;

// A range of pages of 4096 bytes.
struct paravirt_page_range {
    // The number of the first page: its physical address divided by 4096.
    uint64_t first;
    // The number of pages.
    uint64_t count;
};

// The memory of the guest, in pages of 4096 bytes.
struct paravirt_memory_statistics {
    // All memory, with that in the balloon.
    uint64_t total;
    // Unused memory.
    uint64_t free;
    // Memory available without swapping.
    uint64_t available;
    // Memory in caches.
    uint64_t caches;
    // Memory committed to programs, without that in the balloon.
    uint64_t committed;
};

// The page allocator of the kernel, for a balloon. It is used during the call that it is passed to.
struct paravirt_balloon_memory {
    // Passed to every function.
    void *context;
    // Required. Takes 1 to `most` contiguous pages out of use, and writes them to `out`; returns false if none can be spared.
    bool (*take)(void *context, uint64_t most, struct paravirt_page_range *out);
    // Required. Brings pages that were taken back into use; in ranges of any size.
    void (*release)(void *context, struct paravirt_page_range range);
    // Brings hot-added memory into use, and returns the number of pages used, from the first on. The kernel refuses addresses that it
    // uses already: the range comes from the host.
    uint64_t (*add)(void *context, struct paravirt_page_range range);
    // Fills in the statistics.
    void (*statistics)(void *context, struct paravirt_memory_statistics *out);
};

// The geometry and limits of a disk.
struct paravirt_block_info {
    // The capacity in logical blocks.
    uint64_t blocks;
    // The size of a logical block in bytes: a power of two, at least 512.
    uint32_t block_size;
    // The number of bytes that the medium writes as one.
    uint32_t physical_block_size;
    // The offset of the first aligned physical block, in logical blocks.
    uint32_t alignment_offset;
    // The optimal transfer size in logical blocks; 0 if the device does not report it.
    uint32_t optimal_blocks;
    // The maximum number of bytes in one request.
    uint32_t max_bytes;
    // The maximum number of bytes in one segment.
    uint32_t max_segment_bytes;
    // If it is not 0, every segment but the first begins, and every segment but the last ends, at a multiple of this many bytes.
    uint32_t segment_boundary;
    // The required alignment of segments in bytes.
    uint32_t alignment;
    // The maximum number of segments of a buffer.
    uint16_t max_segments;
    // The number of queues that can be taken.
    uint16_t queues;
    // The maximum number of requests in flight on one queue.
    uint16_t depth;
    // Whether the medium is read-only.
    bool is_read_only;
    // Whether a completed write is lost by a power loss before the next flush.
    bool has_cache;
    // The maximum number of blocks of a discard; 0 if the device does not support it.
    uint32_t max_discard_blocks;
    // The preferred alignment of discarded ranges in blocks.
    uint32_t discard_alignment;
    // The maximum number of blocks of write-zeroes; 0 if the device does not support it.
    uint32_t max_zero_blocks;
    // The length of the serial number.
    size_t serial_len;
    // The serial number.
    uint8_t serial[32];
};

// An event of a disk.
struct paravirt_block_event {
    // What happened.
    enum paravirt_block_event_kind kind;
    // Of a capacity: the number of logical blocks.
    uint64_t blocks;
    // Of an access: whether the medium is read-only.
    bool is_read_only;
    // Of a fault: which.
    enum paravirt_status fault;
};

// What wakes a task of the kernel's. It stays valid as long as it is registered anywhere: until the device and every queue taken from it
// are closed (of the services: until they are closed), or until another one was registered in its place and no interrupt handler of the
// device is running.
struct paravirt_waker {
    // Called with `context`, also in interrupt context.
    void (*wake)(void *context);
    // The kernel's own.
    void *context;
};

// A contiguous part of a buffer.
struct paravirt_segment {
    // The bus address of the first byte: a physical address, without an IOMMU.
    uint64_t bus;
    // The length in bytes, at least 1.
    uint32_t len;
};

// Memory of the kernel's that a device reads or writes. From the call that accepts it until a completion returns it, it belongs to the
// device: the kernel neither accesses nor frees the memory or the segments.
struct paravirt_buffer {
    // `count` segments, in the order of the bytes; they do not overlap.
    const struct paravirt_segment *segments;
    // The number of segments: at most `max_segments` of a disk, and `paravirt_options.segments` of another device.
    size_t count;
    // The kernel's own, returned with the completion.
    void *owner;
    // Whether the segments are alone in their pages of 4096 bytes: Xen's backends are given whole pages, and none of other buffers, which
    // are refused.
    bool owns_pages;
};

// A request.
struct paravirt_request {
    // A `paravirt_op`.
    uint32_t op;
    // The number of blocks of a discard or of write-zeroes.
    uint32_t blocks;
    // The first block.
    uint64_t lba;
    // The buffer of a read or write, a multiple of the block size long.
    struct paravirt_buffer buffer;
    // The kernel's own, returned with the completion.
    uint64_t tag;
    // When `paravirt_expire` begins recovery if the request is still in flight; `PARAVIRT_NEVER` for no deadline.
    uint64_t deadline;
};

// A completed request.
struct paravirt_completion {
    // The tag of the request.
    uint64_t tag;
    // The owner of its buffer, which belongs to the kernel again; null if it had none.
    void *owner;
    // The outcome. After a failed read, the contents of the buffer are undefined.
    enum paravirt_status result;
};

// What an input device has.
struct paravirt_input_info {
    // Keys of a keyboard.
    bool has_keys;
    // Buttons of a mouse.
    bool has_buttons;
    // Relative motion.
    bool is_relative;
    // Absolute positions.
    bool is_absolute;
};

// An input event.
struct paravirt_input_event {
    // The kind.
    enum paravirt_input_kind kind;
    // See the kind.
    uint16_t other;
    // See the kind.
    uint16_t code;
    // See the kind.
    int32_t value;
};

// Takes a message of `len` bytes, which need not end in a zero. It may be called from any processor, several at once, possibly while a
// driver holds a spin lock.
typedef void (*paravirt_log)(void *context, enum paravirt_log_level level, const char *text, size_t len);

// What a card is.
struct paravirt_net_info {
    // Its Ethernet address.
    uint8_t mac[6];
    // The maximum length of the payload of a frame in bytes.
    uint16_t mtu;
    // The number of queue pairs that can be taken.
    uint16_t queues;
    // The number of frames in flight in each direction.
    uint16_t depth;
    // `PARAVIRT_OFFLOAD_` bits.
    uint32_t offloads;
    // The maximum length of a frame to be segmented in bytes.
    uint32_t max_segmented;
    // The speed in Mbit/s; 0 if it is not known.
    uint32_t speed;
};

// An event of a card.
struct paravirt_net_event {
    // What happened.
    enum paravirt_net_event_kind kind;
    // Of a link: whether it is up. Of a virtual function: whether it is attached.
    bool is_up;
    // Of an address: the new one.
    uint8_t mac[6];
    // Of a virtual function that is attached: its serial number.
    uint32_t serial;
    // Of a fault: which.
    enum paravirt_status fault;
};

// The metadata of a frame. All zeroes is a frame without offloads.
struct paravirt_net_meta {
    // A `paravirt_checksum`.
    uint32_t checksum;
    // Of a partial checksum: the offset in bytes at which the sum begins, and that of the field from there.
    uint16_t checksum_start;
    // See `checksum_start`.
    uint16_t checksum_offset;
    // A `paravirt_segment_kind`. To send, it needs a partial checksum.
    uint32_t segment_kind;
    // The payload of each segment in bytes.
    uint16_t segment_size;
    // The length of the headers that each segment repeats in bytes.
    uint16_t headers;
    // Whether there is a VLAN tag beside the frame, and its control information.
    bool has_vlan;
    // See `has_vlan`.
    uint16_t vlan;
};

// A received frame.
struct paravirt_rx_frame {
    // The length in bytes from the Ethernet header on, without the frame check sequence.
    size_t len;
    // The number of segments in memory, at least 1.
    uint16_t segments;
    // The metadata.
    struct paravirt_net_meta meta;
};

// A completed send of a buffer.
struct paravirt_sent {
    // The tag of the send.
    uint64_t tag;
    // The owner of the buffer, which belongs to the kernel again.
    void *owner;
    // Whether the buffer was returned: if not, the host may still read it.
    bool is_returned;
    // Whether the host accepted the frame.
    enum paravirt_status result;
};

// A handler of an interrupt, to be kept and passed to `paravirt_handler_call`.
struct paravirt_handler {
    // The library's own.
    void *words[2];
};

// Pages for devices to access.
struct paravirt_dma {
    // The virtual address, aligned to 4096.
    void *cpu;
    // The bus address, aligned to 4096: a physical address, without an IOMMU. The pages are contiguous.
    uint64_t bus;
    // The number of pages of 4096 bytes.
    size_t pages;
};

// The PCI function that sends a message.
struct paravirt_requester {
    // The PCI segment.
    uint16_t segment;
    // Bus, device and function: `bus << 8 | device << 3 | function`.
    uint16_t id;
};

// A message-signalled interrupt.
struct paravirt_message {
    // The address that the device writes to.
    uint64_t address;
    // What it writes.
    uint32_t data;
};

// An interrupt line.
struct paravirt_line {
    // Its number at the interrupt controller: a global system interrupt with ACPI, an interrupt id with a device tree.
    uint32_t number;
    // Whether it is level-triggered, else edge-triggered.
    bool is_level;
    // Whether it is active low, else active high.
    bool is_low;
};

// The services of the kernel. It stays valid, at the same address, as long as a device or the services exist. Functions that are not
// marked as required may be null: then there is no such service, and drivers poll, or find no device.
//
// They are called in task context, from any processor, possibly while a driver holds a spin lock: they do not call the library. `cpuid`,
// `tsc` and the functions of registers are called by the handlers of VMBus too.
struct paravirt_platform {
    // Passed to every function.
    void *context;
    // Required. Allocates `pages` contiguous, zeroed pages for devices to access, coherent between processors and devices, and fills
    // in `out`. Returns whether there was memory.
    bool (*dma_alloc)(void *context, size_t pages, struct paravirt_dma *out);
    // Required. Frees what `dma_alloc` returned.
    void (*dma_free)(void *context, const struct paravirt_dma *region);
    // Required. Returns the time of a monotonic clock, in nanoseconds, with a resolution of a millisecond or finer.
    uint64_t (*now)(void *context);
    // Waits for a moment: called in bounded waits. Default: the processor's hint for spinning.
    void (*relax)(void *context);
    // Maps `len` bytes of device registers at the physical address `phys`, uncached, and returns the address of the byte at `phys`;
    // null if that cannot be done. **Ranges that overlap RAM are refused**: a host may choose the address.
    void *(*map)(void *context, uint64_t phys, size_t len);
    // Maps a table of the firmware's, for reading; it may be in RAM. Default: `map`.
    void *(*map_firmware)(void *context, uint64_t phys, size_t len);
    // Ends a mapping.
    void (*unmap)(void *context, void *base, size_t len);
    // Binds `handler` to a free interrupt vector of `processor`, whose interrupts call `paravirt_handler_call`, and writes its number.
    bool (*bind)(void *context, struct paravirt_handler handler, uint32_t processor, uint32_t *vector);
    // Frees a vector. When it returns, the handler is not running and not called any more. Required with `bind`.
    void (*unbind)(void *context, uint32_t vector);
    // Writes the message that raises `vector`. `from` is the function that sends it, or null.
    bool (*message)(void *context,
                    uint32_t vector,
                    const struct paravirt_requester *from,
                    struct paravirt_message *out);
    // Returns how many entries of the MSI-X table of function `from` the kernel has programmed and enabled itself: the library then
    // leaves table and control register to it, and binds handlers by `bind_entry`. -1 leaves both to the library, as without the function.
    int32_t (*own_entries)(void *context, const struct paravirt_requester *from);
    // Binds `handler` to entry `entry` of function `from`, as `bind` does. Required with `own_entries`.
    bool (*bind_entry)(void *context,
                       const struct paravirt_requester *from,
                       uint16_t entry,
                       struct paravirt_handler handler,
                       uint32_t processor,
                       uint32_t *vector);
    // Returns the number of vectors that can still be bound. Default: many.
    uint32_t (*free_vectors)(void *context);
    // Lets an interrupt line raise `vector`; several vectors may share a line.
    bool (*route)(void *context, struct paravirt_line line, uint32_t vector);
    // Returns the number of processors, which have the numbers from 0 on. Default: one.
    uint32_t (*processors)(void *context);
    // Returns the number of this processor. Default: 0.
    uint32_t (*current)(void *context);
    // Calls `work` with `data` on `processor`, and waits until it has returned. Default: only on this processor.
    bool (*run_on)(void *context, uint32_t processor, void (*work)(void *data), void *data);
    // Whether the instructions for port I/O, CPUID, the cycle counter and model-specific registers may be executed where the function is
    // null: true for a kernel on x86-64.
    bool has_instructions;
    // Port I/O, of which PCI without ECAM needs 32 bits, and ACPI 16 bits.
    uint32_t (*in32)(void *context, uint16_t port);
    // Writes 32 bits to a port.
    void (*out32)(void *context, uint16_t port, uint32_t value);
    // Reads 16 bits from a port.
    uint16_t (*in16)(void *context, uint16_t port);
    // Writes 16 bits to a port.
    void (*out16)(void *context, uint16_t port, uint16_t value);
    // Writes EAX, EBX, ECX and EDX of a leaf to `out`.
    void (*cpuid)(void *context, uint32_t leaf, uint32_t *out);
    // Reads the cycle counter.
    uint64_t (*tsc)(void *context);
    // Reads a model-specific register.
    uint64_t (*read_msr)(void *context, uint32_t index);
    // Writes a model-specific register.
    void (*write_msr)(void *context, uint32_t index, uint64_t value);
    // Allocates a page that is executable, at a page boundary, for Hyper-V's calls. Without it, no device on Hyper-V is found.
    bool (*hypercall_page)(void *context, struct paravirt_dma *out);
    // Frees it. Required with `hypercall_page`.
    void (*free_hypercall_page)(void *context, const struct paravirt_dma *page);
    // Returns the number in the processor's interrupt table (IDT) that `vector` has, 0 if it has none. Without it, VMBus and Xen's
    // devices are polled.
    uint8_t (*descriptor)(void *context, uint32_t vector);
    // Returns contiguous pages of RAM for Xen to replace with its own, the same ones at each call, which the kernel never frees: 67 at best,
    // as fewer make fewer and smaller queues. Without it, no device of Xen is found. Needs `has_instructions`.
    bool (*xen_frames)(void *context, struct paravirt_dma *out);
};

// What the boot loader passed to the kernel. All zeroes is nothing.
struct paravirt_firmware {
    // The physical address of ACPI's RSDP; 0 if it is not known: the BIOS area is searched then, on a machine without a device tree.
    uint64_t rsdp;
    // The command line, of `command_line_len` bytes, or null.
    const char *command_line;
    // The length of the command line.
    size_t command_line_len;
    // The flattened device tree, in `device_tree_len` bytes or fewer, or null.
    const uint8_t *device_tree;
    // The length of the device tree.
    size_t device_tree_len;
};

// Options. All zeroes are the defaults.
struct paravirt_options {
    // The maximum number of queues of a device; 0 for the number of processors.
    uint16_t queues;
    // The maximum number of entries of a queue; 0 for 1024.
    uint16_t queue_size;
    // The maximum number of segments of a buffer; 0 for 14.
    uint16_t segments;
    // Whether the buses are not walked: the kernel opens devices by `paravirt_services_open_mmio`.
    bool leaves_buses;
    // Whether events of ACPI are left to the kernel: hot plug and the power button.
    bool leaves_host_events;
    // The timeout of a SCSI command of the library's own, in nanoseconds; 0 for the default.
    uint64_t command_timeout;
    // The timeout of the reset of a SCSI bus, in nanoseconds; 0 for the default.
    uint64_t reset_timeout;
};

// The address of a device, for comparison by `paravirt_address_covers`.
struct paravirt_address {
    // The library's own.
    uint64_t words[8];
};

// A device that was found, or removed. The handle belongs to the kernel: exactly one is not null, unless `kind` is
// `PARAVIRT_KIND_UNCLAIMED` or `PARAVIRT_KIND_REMOVED`. The rest is valid during the call.
struct paravirt_found {
    // The kind.
    enum paravirt_kind kind;
    // The address.
    struct paravirt_address address;
    // The address as text, for example `pci:0000:00:03.0`, and of an unclaimed device what it is and why. It ends in a zero.
    const char *text;
    // A disk, else null.
    struct paravirt_block *block;
    // A network card, else null.
    struct paravirt_net *net;
    // A console, else null.
    struct paravirt_console *console;
    // A source of random bytes, else null.
    struct paravirt_entropy *entropy;
    // A keyboard, mouse or tablet, else null.
    struct paravirt_input *input;
    // Sockets, else null.
    struct paravirt_sockets *sockets;
    // A balloon, else null.
    struct paravirt_balloon *balloon;
};

// Receives what is found. It may not call functions of the services.
typedef void (*paravirt_on_found)(void *context, const struct paravirt_found *found);

// Answers the host's requests. Functions that are null decline. Texts are UTF-8 and do not end in a zero; a function that returns one
// writes at most `room` bytes to `out` and returns their number, or -1 if there is no such text.
struct paravirt_agent {
    // Passed to every function.
    void *context;
    // The host asks for a shutdown; `is_forced` if it accepts no refusal. Returns whether the guest complies, which it does when
    // `paravirt_services_serve` has returned.
    bool (*power)(void *context, enum paravirt_power request, bool is_forced);
    // The host sends its time, in nanoseconds since 1970-01-01 00:00:00 UTC; `is_step` if the clock is to be set to it.
    void (*time)(void *context, uint64_t since_1970, bool is_step);
    // Writes a fact.
    ptrdiff_t (*fact)(void *context, enum paravirt_fact fact, char *out, size_t room);
    // The host sets the value of a key, or deletes the key (`value` is null). Returns whether that was done.
    bool (*set_value)(void *context,
                      enum paravirt_value_pool pool,
                      const char *key,
                      size_t key_len,
                      const char *value,
                      size_t value_len);
    // Writes the value of a key.
    ptrdiff_t (*value)(void *context,
                       enum paravirt_value_pool pool,
                       const char *key,
                       size_t key_len,
                       char *out,
                       size_t room);
    // Writes the key at `index` of the pool.
    ptrdiff_t (*key)(void *context, enum paravirt_value_pool pool, uint32_t index, char *out, size_t room);
};

// A socket.
struct paravirt_socket {
    // The library's own.
    uint16_t place;
    // The library's own: it distinguishes a socket from one that was closed.
    uint32_t generation;
};

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Serves the host's requests with the kernel's memory: a bounded amount of work.
enum paravirt_status paravirt_balloon_poll(struct paravirt_balloon *balloon,
                                           const struct paravirt_balloon_memory *memory);

// Returns the number of pages in the balloon.
uint64_t paravirt_balloon_held(struct paravirt_balloon *balloon);

// Reports up to `most` free pages to the host, which may discard their contents, and writes their number to `reported`. A later
// `paravirt_balloon_poll` returns them.
enum paravirt_status paravirt_balloon_report_free(struct paravirt_balloon *balloon,
                                                  const struct paravirt_balloon_memory *memory,
                                                  uint64_t most,
                                                  uint64_t *reported);

// Returns what a task waits for requests by.
struct paravirt_notify *paravirt_balloon_notify(struct paravirt_balloon *balloon);

// Closes the balloon; null is permitted. Pages in it stay with the host.
void paravirt_balloon_close(struct paravirt_balloon *balloon);

// Writes the geometry and limits of the disk.
void paravirt_block_get_info(struct paravirt_block *disk, struct paravirt_block_info *out);

// Takes queue `index`; null if it was taken, if there is none, or no memory.
struct paravirt_block_queue *paravirt_block_take_queue(struct paravirt_block *disk, uint16_t index);

// Writes the next event of the disk; `PARAVIRT_STATUS_EMPTY` if there is none. May wait for the host.
enum paravirt_status paravirt_block_poll_event(struct paravirt_block *disk, struct paravirt_block_event *out);

// Registers the waker for events of the disk.
void paravirt_block_register(struct paravirt_block *disk, const struct paravirt_waker *waker);

// Closes the disk; null is permitted. Queues that were taken stay usable.
void paravirt_block_close(struct paravirt_block *disk);

// Submits a request. The host may not see it before `paravirt_block_queue_kick`. If the result is not `PARAVIRT_STATUS_OK`, the buffer
// still belongs to the kernel; `PARAVIRT_STATUS_FULL` until a request completes.
enum paravirt_status paravirt_block_queue_submit(struct paravirt_block_queue *queue,
                                                 const struct paravirt_request *request);

// Notifies the host of submitted requests, unless it has suppressed notifications: once for a batch.
void paravirt_block_queue_kick(struct paravirt_block_queue *queue);

// Writes the next completed request; `PARAVIRT_STATUS_EMPTY` when there is none now. A fault is returned when the device is out of
// service, after every request in flight was returned; a buffer that the device may still write is never returned then.
enum paravirt_status paravirt_block_queue_complete(struct paravirt_block_queue *queue,
                                                   struct paravirt_completion *out);

// Resets the queue, or the device if one queue alone cannot be reset; requests in flight complete as aborted. Blocks for seconds on
// virtio, and for up to three minutes for each step on VMBus, if the host does not answer.
enum paravirt_status paravirt_block_queue_reset(struct paravirt_block_queue *queue);

// Returns what a task waits for completions by.
struct paravirt_notify *paravirt_block_queue_notify(struct paravirt_block_queue *queue);

// Closes the queue; null is permitted. Buffers in flight are not returned, and the device may access them until it has been reset: the
// kernel takes back what is in flight first.
void paravirt_block_queue_close(struct paravirt_block_queue *queue);

// Registers the waker of the task that waits, in place of the previous one.
void paravirt_register(struct paravirt_notify *notify, const struct paravirt_waker *waker);

// Asks for a wake-up at the next event. A task registers its waker, arms, and sleeps only if the result is `PARAVIRT_ARM_ARMED`.
enum paravirt_arm paravirt_arm_wakeup(struct paravirt_notify *notify);

// Asks for no wake-ups, as while polling.
void paravirt_disarm(struct paravirt_notify *notify);

// Returns the time by which `paravirt_expire` is to be called; `PARAVIRT_NEVER` if there is none.
uint64_t paravirt_next_deadline(struct paravirt_notify *notify);

// Begins the recovery of what has exceeded its deadline at the time `now`. May block, as a reset does.
enum paravirt_status paravirt_expire(struct paravirt_notify *notify, uint64_t now);

// Writes what the device has.
void paravirt_input_get_info(struct paravirt_input *device, struct paravirt_input_info *out);

// Writes the next event; `PARAVIRT_STATUS_EMPTY` if there is none.
enum paravirt_status paravirt_input_poll(struct paravirt_input *device, struct paravirt_input_event *out);

// Lights LEDs: `PARAVIRT_LED_` bits. `PARAVIRT_STATUS_FULL` if the last change is still on its way.
enum paravirt_status paravirt_input_set_leds(struct paravirt_input *device, uint32_t leds);

// Returns what a task waits for events by.
struct paravirt_notify *paravirt_input_notify(struct paravirt_input *device);

// Closes the device; null is permitted.
void paravirt_input_close(struct paravirt_input *device);

// Passes the library's messages to `sink`, with `context`: those of level `max` (a `paravirt_log_level`) and more severe ones. Returns
// false if that was done before. Without this call they are dropped.
bool paravirt_set_log(paravirt_log sink,
                      void *context,
                      uint32_t max);

// Writes what the card is.
void paravirt_net_get_info(struct paravirt_net *card, struct paravirt_net_info *out);

// Returns whether the link is up.
bool paravirt_net_is_up(struct paravirt_net *card);

// Takes queue pair `index`; null if it was taken, if there is none, or no memory.
struct paravirt_net_queue *paravirt_net_take_queue(struct paravirt_net *card, uint16_t index);

// Writes the next event of the card; `PARAVIRT_STATUS_EMPTY` if there is none. May wait for the host.
enum paravirt_status paravirt_net_poll_event(struct paravirt_net *card, struct paravirt_net_event *out);

// Registers the waker for events of the card.
void paravirt_net_register(struct paravirt_net *card, const struct paravirt_waker *waker);

// Uses the first `queues` queue pairs from now on; one at first.
enum paravirt_status paravirt_net_set_active_queues(struct paravirt_net *card, uint16_t queues);

// Chooses which frames are received: `mode` is a `paravirt_receive_mode`.
enum paravirt_status paravirt_net_set_receive_mode(struct paravirt_net *card, uint32_t mode);

// Sets the multicast addresses to receive: `count` addresses of six bytes.
enum paravirt_status paravirt_net_set_multicast(struct paravirt_net *card,
                                                const uint8_t (*addresses)[6],
                                                size_t count);

// Sets the address of the card.
enum paravirt_status paravirt_net_set_mac(struct paravirt_net *card, const uint8_t (*mac)[6]);

// Sets which of the offloads of received frames are on: `PARAVIRT_OFFLOAD_` bits.
enum paravirt_status paravirt_net_set_offloads(struct paravirt_net *card, uint32_t offloads);

// Tells the host that the guest has announced its addresses.
enum paravirt_status paravirt_net_announced(struct paravirt_net *card);

// Closes the card; null is permitted.
void paravirt_net_close(struct paravirt_net *card);

// Receives frames and collects completed sends: a bounded amount of work.
enum paravirt_status paravirt_net_queue_poll(struct paravirt_net_queue *queue);

// Writes the oldest received frame, until `paravirt_net_queue_pop`; `PARAVIRT_STATUS_EMPTY` if there is none.
enum paravirt_status paravirt_net_queue_front(struct paravirt_net_queue *queue,
                                              struct paravirt_rx_frame *out);

// Returns segment `index` of the oldest frame, and writes its length; null if there is none. The bytes are the kernel's to read and
// write until `paravirt_net_queue_pop`.
uint8_t *paravirt_net_queue_segment(struct paravirt_net_queue *queue,
                                    uint16_t index,
                                    size_t *len);

// Returns the memory of the oldest frame to the driver.
void paravirt_net_queue_pop(struct paravirt_net_queue *queue);

// Reserves a slot for a frame of `len` bytes, and returns it; null if none is free now, or the frame is too long. Further calls keep the
// reservation, until `paravirt_net_queue_commit`.
uint8_t *paravirt_net_queue_reserve(struct paravirt_net_queue *queue,
                                    size_t len);

// Sends the first `len` bytes of the reserved slot. `meta` may be null for a frame without offloads.
enum paravirt_status paravirt_net_queue_commit(struct paravirt_net_queue *queue,
                                               size_t len,
                                               const struct paravirt_net_meta *meta);

// Sends a frame from the kernel's buffer, without a copy; `paravirt_net_queue_sent` returns it. If the result is not
// `PARAVIRT_STATUS_OK`, the buffer still belongs to the kernel.
enum paravirt_status paravirt_net_queue_send(struct paravirt_net_queue *queue,
                                             uint64_t tag,
                                             const struct paravirt_buffer *frame,
                                             const struct paravirt_net_meta *meta);

// Writes the next completed send of a buffer; `PARAVIRT_STATUS_EMPTY` if there is none.
enum paravirt_status paravirt_net_queue_sent(struct paravirt_net_queue *queue, struct paravirt_sent *out);

// Notifies the host of sent frames, unless it has suppressed notifications: once for a batch.
void paravirt_net_queue_kick(struct paravirt_net_queue *queue);

// Takes back what is in flight: `paravirt_net_queue_sent` returns it as aborted.
enum paravirt_status paravirt_net_queue_reset(struct paravirt_net_queue *queue);

// Returns what a task waits for frames by.
struct paravirt_notify *paravirt_net_queue_notify(struct paravirt_net_queue *queue);

// Closes the queue pair; null is permitted. As for a queue of a disk, buffers in flight are not returned.
void paravirt_net_queue_close(struct paravirt_net_queue *queue);

// Calls the bound handler of a vector, in interrupt context. Returns whether its device raised the interrupt: a kernel calls all
// handlers that share a line, and acknowledges the interrupt afterwards.
bool paravirt_handler_call(struct paravirt_handler handler);

// Finds every device of the machine, opens those that have a driver, and passes each to `on_found`: PCI by address, then MMIO by address,
// then VMBus by channel. Returns the services, which the kernel keeps as long as it uses the devices; null if the table of the platform
// lacks a required function, or if there is no memory for them.
//
// `firmware` and `options` may be null. Needs 12 KB of stack, without that of the kernel's functions, and blocks for the answers of the
// host.
//
// # Safety
//
// Firmware and command line describe this machine, whose devices no other driver uses, and reading what firmware's tables point to has
// no side effects.
struct paravirt_services *paravirt_probe(const struct paravirt_platform *platform,
                                         const struct paravirt_firmware *firmware,
                                         const struct paravirt_options *options,
                                         paravirt_on_found on_found,
                                         void *context);

// Returns whether `other` is the device at `address`, or a unit of the controller there.
bool paravirt_address_covers(const struct paravirt_address *address, const struct paravirt_address *other);

// Passes each device that was added or removed since the last call to `on_found`. Blocks while an added device is opened.
void paravirt_services_poll(struct paravirt_services *services,
                            paravirt_on_found on_found,
                            void *context);

// Opens the virtio device whose `len` bytes of registers are at the physical address `base`. `line` may be null. A library that was
// built without the feature `virtio` passes nothing to `on_found`.
void paravirt_services_open_mmio(struct paravirt_services *services,
                                 uint64_t base,
                                 size_t len,
                                 const struct paravirt_line *line,
                                 paravirt_on_found on_found,
                                 void *context);

// Answers what the host asks of the guest as a whole. From the first call on the host expects answers: the kernel calls this on each
// wake-up of the services. Needs 10 KB of stack on Hyper-V.
void paravirt_services_serve(struct paravirt_services *services,
                             const struct paravirt_agent *agent);

// Registers the waker for hot plug and for requests of the host.
void paravirt_services_register(struct paravirt_services *services, const struct paravirt_waker *waker);

// Asks for a wake-up, as `paravirt_arm_wakeup` does.
enum paravirt_arm paravirt_services_arm(struct paravirt_services *services);

// Returns the time by which `paravirt_services_poll` and `paravirt_services_serve` are to be called though nothing has woken the task.
uint64_t paravirt_services_next_deadline(struct paravirt_services *services);

// Resets the machine through the hypervisor; returns if it does not support that.
void paravirt_services_reset(struct paravirt_services *services);

// Disconnects from VMBus, before another kernel is started. The devices on it are out of service then.
enum paravirt_status paravirt_services_disconnect(struct paravirt_services *services);

// Closes the services; null is permitted.
void paravirt_services_close(struct paravirt_services *services);

// Opens the clock of the hypervisor, one at a time; null if there is none that is the same on all processors.
struct paravirt_clock *paravirt_services_open_clock(struct paravirt_services *services);

// Returns the time of the clock in nanoseconds. Callable in any context, and by several processors at once.
uint64_t paravirt_clock_now(struct paravirt_clock *clock);

// Closes the clock; null is permitted.
void paravirt_clock_close(struct paravirt_clock *clock);

// Opens what tells the host of a crash; null if the host accepts no reports.
struct paravirt_crash_reporter *paravirt_services_open_crash_reporter(struct paravirt_services *services);

// Reports a crash, with five values of the guest's and a text of `len` bytes, which may be null. Callable in any context, and by several
// processors at once. Some hosts stop the guest here.
bool paravirt_report_crash(struct paravirt_crash_reporter *reporter,
                           const uint64_t (*values)[5],
                           const char *text,
                           size_t len);

// Closes the reporter; null is permitted.
void paravirt_crash_reporter_close(struct paravirt_crash_reporter *reporter);

// Returns the maximum number of open sockets.
uint16_t paravirt_sockets_capacity(struct paravirt_sockets *sockets);

// Processes events from the host, a bounded number at a time.
enum paravirt_status paravirt_sockets_poll(struct paravirt_sockets *sockets);

// Starts to connect to `port` of the host.
enum paravirt_status paravirt_sockets_connect(struct paravirt_sockets *sockets,
                                              uint32_t port,
                                              struct paravirt_socket *out);

// Accepts connections of the host to `port` from now on.
enum paravirt_status paravirt_sockets_listen(struct paravirt_sockets *sockets, uint32_t port);

// Writes the next connection of the host to `port`; `PARAVIRT_STATUS_EMPTY` if there is none.
enum paravirt_status paravirt_sockets_accept(struct paravirt_sockets *sockets,
                                             uint32_t port,
                                             struct paravirt_socket *out);

// Returns the state of a socket.
enum paravirt_socket_state paravirt_sockets_state(struct paravirt_sockets *sockets,
                                                  struct paravirt_socket socket);

// Sends the beginning of `bytes`, and writes the number of bytes that there was room for to `sent`.
enum paravirt_status paravirt_sockets_send(struct paravirt_sockets *sockets,
                                           struct paravirt_socket socket,
                                           const uint8_t *bytes,
                                           size_t len,
                                           size_t *sent);

// Receives up to `len` bytes, and writes their number to `received`; 0 when there are none now.
enum paravirt_status paravirt_sockets_receive(struct paravirt_sockets *sockets,
                                              struct paravirt_socket socket,
                                              uint8_t *bytes,
                                              size_t len,
                                              size_t *received);

// Tells the host that nothing more is sent on the socket.
enum paravirt_status paravirt_sockets_finish(struct paravirt_sockets *sockets, struct paravirt_socket socket);

// Closes a socket.
void paravirt_sockets_close_one(struct paravirt_sockets *sockets, struct paravirt_socket socket);

// Returns `PARAVIRT_STATUS_OK` when the host has taken all that was sent, `PARAVIRT_STATUS_EMPTY` while it has not.
enum paravirt_status paravirt_sockets_is_flushed(struct paravirt_sockets *sockets);

// Returns what a task waits for events by.
struct paravirt_notify *paravirt_sockets_notify(struct paravirt_sockets *sockets);

// Closes all sockets and the device; null is permitted.
void paravirt_sockets_close(struct paravirt_sockets *sockets);

// Returns a short English text that describes `status`, a `paravirt_status`. It is constant and ends in a zero.
const char *paravirt_status_text(uint32_t status);

// Writes up to `len` bytes to the console, and the number of bytes that it took to `written`; 0 when there is no room now.
enum paravirt_status paravirt_console_write(struct paravirt_console *console,
                                            const uint8_t *bytes,
                                            size_t len,
                                            size_t *written);

// Reads up to `len` bytes from the console, and writes their number to `read`; 0 when there are none now.
enum paravirt_status paravirt_console_read(struct paravirt_console *console,
                                           uint8_t *bytes,
                                           size_t len,
                                           size_t *read);

// Returns `PARAVIRT_STATUS_OK` when the host has taken all that was written, `PARAVIRT_STATUS_EMPTY` while it has not.
enum paravirt_status paravirt_console_is_flushed(struct paravirt_console *console);

// Writes the size of the console; returns whether it is known.
bool paravirt_console_size(struct paravirt_console *console, uint16_t *columns, uint16_t *rows);

// Returns what a task waits for input and room by.
struct paravirt_notify *paravirt_console_notify(struct paravirt_console *console);

// Closes the console; null is permitted.
void paravirt_console_close(struct paravirt_console *console);

// Fills in up to `len` random bytes of the host's, and writes their number to `filled`; 0 when there are none now.
enum paravirt_status paravirt_entropy_fill(struct paravirt_entropy *source,
                                           uint8_t *bytes,
                                           size_t len,
                                           size_t *filled);

// Returns what a task waits for bytes by.
struct paravirt_notify *paravirt_entropy_notify(struct paravirt_entropy *source);

// Closes the source; null is permitted.
void paravirt_entropy_close(struct paravirt_entropy *source);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* PARAVIRT_H */

// A kernel of one C file: reads the first block of its disk, and answers ARP and pings at 10.0.2.15, by polling. It ends when it has
// answered three pings. The entry code is that of examples/minimal.
#include <stdatomic.h>

#include "paravirt.h"

// Device registers are above this address, and all memory that this kernel uses is below it: a port refuses all RAM of the machine.
#define RAM_END ((uint64_t)2 << 30)
#define PAGE 4096

// ---- What compiled code expects of the C library.

void *memcpy(void *restrict to, const void *restrict from, size_t len)
{
    void *start = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(len) : : "memory");
    return start;
}

void *memset(void *to, int byte, size_t len)
{
    void *start = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(len) : "a"(byte) : "memory");
    return start;
}

void *memmove(void *to, const void *from, size_t len)
{
    if ((uintptr_t)to - (uintptr_t)from >= len)
        return memcpy(to, from, len);
    for (size_t i = len; i > 0; i--)
        ((volatile uint8_t *)to)[i - 1] = ((const uint8_t *)from)[i - 1];
    return to;
}

int memcmp(const void *a, const void *b, size_t len)
{
    const volatile uint8_t *x = a;
    const uint8_t *y = b;
    for (size_t i = 0; i < len; i++)
        if (x[i] != y[i])
            return x[i] - y[i];
    return 0;
}

int bcmp(const void *a, const void *b, size_t len)
{
    return memcmp(a, b, len);
}

// ---- The machine.

static void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "d"(port));
}

static void print_bytes(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        out8(0x3f8, text[i]);
}

static void print(const char *text)
{
    for (; *text; text++)
        out8(0x3f8, *text);
}

static void print_number(uint64_t number)
{
    char digits[20];
    size_t at = sizeof digits;
    do
        digits[--at] = '0' + number % 10;
    while (number /= 10);
    print_bytes(digits + at, sizeof digits - at);
}

// Ends the machine by QEMU's isa-debug-exit.
static _Noreturn void leave(uint32_t code)
{
    print("exit=");
    print_number(code);
    print("\n");
    __asm__ volatile("outl %0, %1" : : "a"(code), "d"((uint16_t)0xf4));
    for (;;)
        __asm__ volatile("hlt");
}

void paravirt_panic(const char *text, size_t len)
{
    print("panic: ");
    print_bytes(text, len);
    print("\n");
    leave(101);
}

// ---- The services for the drivers. Virtual addresses are physical ones, all memory is executable, and one processor runs.

static _Alignas(PAGE) uint8_t pool[40 << 20];
static atomic_size_t pool_used;
extern uint64_t pdpt[512];

static bool dma_alloc(void *context, size_t pages, struct paravirt_dma *out)
{
    size_t at = atomic_load(&pool_used);
    (void)context;
    if (pages > (sizeof pool - at) / PAGE)
        return false;
    atomic_store(&pool_used, at + pages * PAGE);
    // The pool is part of the kernel's zeroed memory, and is given out once.
    *out = (struct paravirt_dma){ .cpu = pool + at, .bus = (uintptr_t)(pool + at), .pages = pages };
    return true;
}

// Devices are opened once: nothing is worth being given out again.
static void dma_free(void *context, const struct paravirt_dma *region)
{
    (void)context;
    (void)region;
}

static bool hypercall_page(void *context, struct paravirt_dma *out)
{
    return dma_alloc(context, 1, out);
}

static uint64_t now(void *context)
{
    uint32_t low, high;
    (void)context;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    // As if the counter ran at 8 GHz, which none exceeds: deadlines are later than they are meant, not earlier.
    return ((uint64_t)high << 32 | low) / 8;
}

// Maps what lies in the first 512 GiB one to one, with pages of 2 MiB.
static void *map_firmware(void *context, uint64_t phys, size_t len)
{
    if (len == 0 || phys + len < phys || phys + len > (uint64_t)512 << 30)
        return NULL;
    for (uint64_t page = phys >> 21; page <= (phys + len - 1) >> 21; page++) {
        uint64_t *directory = &pdpt[page >> 9];
        if (*directory == 0) {
            struct paravirt_dma table;
            if (!dma_alloc(context, 1, &table))
                return NULL;
            *directory = table.bus | 3;
        }
        uint64_t *entry = (uint64_t *)(*directory & ~(uint64_t)0xfff) + (page & 511);
        // Present, writable, uncached, of 2 MiB. An entry that is there maps the same page.
        if (*entry == 0)
            *entry = page << 21 | 0x93;
    }
    return (void *)phys;
}

static void *map(void *context, uint64_t phys, size_t len)
{
    return phys < RAM_END ? NULL : map_firmware(context, phys, len);
}

static const struct paravirt_platform platform = {
    .dma_alloc = dma_alloc,
    .dma_free = dma_free,
    .now = now,
    .map = map,
    .map_firmware = map_firmware,
    .has_instructions = true,
    .hypercall_page = hypercall_page,
    .free_hypercall_page = dma_free,
};

// ---- The work.

static struct paravirt_block *disk;
static struct paravirt_net *card;

static void on_found(void *context, const struct paravirt_found *found)
{
    (void)context;
    print("found=");
    print(found->text);
    print("\n");
    if (found->kind == PARAVIRT_KIND_BLOCK && disk == NULL)
        disk = found->block;
    else
        paravirt_block_close(found->block);
    if (found->kind == PARAVIRT_KIND_NET && card == NULL)
        card = found->net;
    else
        paravirt_net_close(found->net);
    // The others are not used here.
    paravirt_console_close(found->console);
    paravirt_entropy_close(found->entropy);
    paravirt_input_close(found->input);
    paravirt_sockets_close(found->sockets);
    paravirt_balloon_close(found->balloon);
}

static void on_log(void *context, enum paravirt_log_level level, const char *text, size_t len)
{
    (void)context;
    (void)level;
    print("log: ");
    print_bytes(text, len);
    print("\n");
}

static void check(enum paravirt_status status, const char *what)
{
    if (status == PARAVIRT_STATUS_OK)
        return;
    print(what);
    print(": ");
    print(paravirt_status_text(status));
    print("\n");
    leave(1);
}

// Reads the first block, and prints the sum of its bytes.
static void read_block(void)
{
    struct paravirt_block_info info;
    struct paravirt_block_queue *queue = paravirt_block_take_queue(disk, 0);
    struct paravirt_dma memory;
    paravirt_block_get_info(disk, &info);
    if (queue == NULL || info.block_size > PAGE || !dma_alloc(NULL, 1, &memory))
        leave(1);
    struct paravirt_segment segment = { .bus = memory.bus, .len = info.block_size };
    struct paravirt_request request = {
        .op = PARAVIRT_OP_READ,
        .lba = 0,
        .buffer = { .segments = &segment, .count = 1, .owner = memory.cpu },
        .tag = 7,
        .deadline = PARAVIRT_NEVER,
    };
    struct paravirt_completion done;
    enum paravirt_status status;
    check(paravirt_block_queue_submit(queue, &request), "submit");
    paravirt_block_queue_kick(queue);
    do
        status = paravirt_block_queue_complete(queue, &done);
    while (status == PARAVIRT_STATUS_EMPTY);
    check(status, "complete");
    check(done.result, "read");
    uint64_t sum = 0;
    for (size_t i = 0; i < info.block_size; i++)
        sum += ((uint8_t *)done.owner)[i];
    print("disk blocks=");
    print_number(info.blocks);
    print(" first=");
    print_number(sum);
    print("\n");
    paravirt_block_queue_close(queue);
}

static const uint8_t ADDRESS[4] = { 10, 0, 2, 15 };

static void swap(uint8_t *a, uint8_t *b, size_t len)
{
    for (; len > 0; len--, a++, b++) {
        uint8_t byte = *a;
        *a = *b;
        *b = byte;
    }
}

// Turns a request in `frame` into its answer. Returns whether there is one, and sets `is_ping`. RFC 826, RFC 792
static bool answer(uint8_t *frame, size_t len, const uint8_t mac[6], bool *is_ping)
{
    static const uint8_t arp_request[] = { 8, 6, 0, 1, 8, 0, 6, 4, 0, 1 };
    *is_ping = false;
    if (len >= 42 && memcmp(frame + 12, arp_request, sizeof arp_request) == 0
        && memcmp(frame + 38, ADDRESS, 4) == 0) {
        frame[21] = 2;
        memcpy(frame + 32, frame + 22, 10);
        memcpy(frame + 22, mac, 6);
        memcpy(frame + 28, ADDRESS, 4);
        memcpy(frame, frame + 32, 6);
        memcpy(frame + 6, mac, 6);
        return true;
    }
    // IPv4 without options, of protocol ICMP, to this address: an echo request.
    if (len < 42 || frame[12] != 8 || frame[13] != 0 || frame[14] != 0x45 || frame[23] != 1 || frame[34] != 8
        || memcmp(frame + 30, ADDRESS, 4) != 0)
        return false;
    swap(frame, frame + 6, 6);
    swap(frame + 26, frame + 30, 4);
    // The type changes from 8 to 0, and the sum of the message by as much.
    frame[34] = 0;
    uint32_t sum = ((uint32_t)frame[36] << 8 | frame[37]) + 0x800;
    sum = (sum & 0xffff) + (sum >> 16);
    frame[36] = sum >> 8;
    frame[37] = sum;
    *is_ping = true;
    return true;
}

static void answer_pings(unsigned wanted)
{
    struct paravirt_net_info info;
    struct paravirt_net_queue *queue = paravirt_net_take_queue(card, 0);
    if (queue == NULL)
        leave(1);
    paravirt_net_get_info(card, &info);
    print("card mtu=");
    print_number(info.mtu);
    print("\n");
    while (wanted > 0) {
        struct paravirt_rx_frame frame;
        check(paravirt_net_queue_poll(queue), "poll");
        while (paravirt_net_queue_front(queue, &frame) == PARAVIRT_STATUS_OK) {
            size_t len;
            bool is_ping;
            // Requests are in one segment.
            uint8_t *bytes = paravirt_net_queue_segment(queue, 0, &len);
            if (frame.segments == 1 && answer(bytes, len, info.mac, &is_ping)) {
                uint8_t *slot = paravirt_net_queue_reserve(queue, len);
                // Without room the answer is left out, and the request repeated.
                if (slot != NULL) {
                    memcpy(slot, bytes, len);
                    check(paravirt_net_queue_commit(queue, len, NULL), "send");
                    paravirt_net_queue_kick(queue);
                    wanted -= is_ping && wanted > 0;
                    if (is_ping)
                        print("ping answered\n");
                }
            }
            paravirt_net_queue_pop(queue);
        }
    }
    // The card is closed when the host has taken the last answer, which takes no second.
    for (uint64_t end = now(NULL) + 1000000000; now(NULL) < end;)
        check(paravirt_net_queue_poll(queue), "poll");
    paravirt_net_queue_close(queue);
}

// Called by the entry code, with PVH's start info.
_Noreturn void start(const uint64_t *start_info)
{
    struct paravirt_firmware firmware = { .rsdp = start_info[4] };
    paravirt_set_log(on_log, NULL, PARAVIRT_LOG_LEVEL_WARN);
    struct paravirt_services *services = paravirt_probe(&platform, &firmware, NULL, on_found, NULL);
    if (services == NULL || disk == NULL || card == NULL) {
        print("a disk or a card is missing\n");
        leave(1);
    }
    read_block();
    answer_pings(3);
    paravirt_block_close(disk);
    paravirt_net_close(card);
    check(paravirt_services_disconnect(services), "disconnect");
    paravirt_services_close(services);
    leave(0);
}

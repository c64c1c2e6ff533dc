// Maps the first TiB one to one, the second GiB of it as memory and the rest as device registers, and calls `start()` with floating point
// switched on. QEMU starts an ELF file at its entry point in EL1, with address translation off.

.section .text.boot, "ax"
.global minimal_entry
minimal_entry:
    // Two entries of level 0, each a table of 512 blocks of 1 GiB: valid, accessed; device is attribute 0 and not executed, memory is 1
    // and shareable.
    adrp x0, blocks
    add x0, x0, :lo12:blocks
    mov x1, xzr
    mov x2, #1024
    mov x4, #0x40000000
    ldr x3, =0x60000000000401
1:  str x3, [x0, x1, lsl #3]
    add x3, x3, x4
    add x1, x1, #1
    cmp x1, x2
    b.ne 1b
    ldr x3, =0x40000705
    str x3, [x0, #8]
    adrp x1, root
    add x1, x1, :lo12:root
    orr x2, x0, #3
    str x2, [x1]
    add x2, x2, #4096
    str x2, [x1, #8]
    // Attributes: 0 device nGnRE, 1 memory with write-back. 40 bits of addresses both ways, tables in cached memory, pages of 4 KiB.
    ldr x2, =0xff04
    msr mair_el1, x2
    ldr x2, =0x200803518
    msr tcr_el1, x2
    msr ttbr0_el1, x1
    dsb sy
    isb
    tlbi vmalle1
    dsb sy
    isb
    mov x2, #(3 << 20)
    msr cpacr_el1, x2
    // Translation and both caches on.
    mrs x2, sctlr_el1
    ldr x3, =0x1005
    orr x2, x2, x3
    msr sctlr_el1, x2
    isb
    adrp x1, stack_end
    add x1, x1, :lo12:stack_end
    mov sp, x1
    b start
    .ltorg

.section .bss
    .balign 4096
root:   .skip 4096
blocks: .skip 8192
    .skip 65536
stack_end:

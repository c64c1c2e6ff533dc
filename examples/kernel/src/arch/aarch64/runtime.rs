//! The C functions that copy and fill memory, and the other symbols that compiled code expects.

use core::arch::global_asm;

global_asm!(
    r#"
.section .text
.global memcpy
memcpy:
    mov x3, x0
1:  cmp x2, #16
    b.lo 2f
    ldp x4, x5, [x1], #16
    stp x4, x5, [x3], #16
    sub x2, x2, #16
    b 1b
2:  cbz x2, 3f
    ldrb w4, [x1], #1
    strb w4, [x3], #1
    sub x2, x2, #1
    b 2b
3:  ret

.global memmove
memmove:
    sub x3, x0, x1
    cmp x3, x2
    b.hs memcpy
    add x1, x1, x2
    add x3, x0, x2
1:  cmp x2, #16
    b.lo 2f
    ldp x4, x5, [x1, #-16]!
    stp x4, x5, [x3, #-16]!
    sub x2, x2, #16
    b 1b
2:  cbz x2, 3f
    ldrb w4, [x1, #-1]!
    strb w4, [x3, #-1]!
    sub x2, x2, #1
    b 2b
3:  ret

.global memset
memset:
    mov x3, x0
    and x1, x1, #0xff
    mov x4, #0x0101010101010101
    mul x1, x1, x4
1:  cmp x2, #16
    b.lo 2f
    stp x1, x1, [x3], #16
    sub x2, x2, #16
    b 1b
2:  cbz x2, 3f
    strb w1, [x3], #1
    sub x2, x2, #1
    b 2b
3:  ret
"#
);

/// Asked for what the processor can do, to choose atomic instructions: the base of the architecture.
#[unsafe(no_mangle)]
extern "C" fn getauxval(_kind: u64) -> u64 {
    0
}

//! The C functions that copy and fill memory.

use core::arch::global_asm;

global_asm!(
    r#"
.section .text
.global memcpy
memcpy:
    mv t0, a0
    or t1, a0, a1
    andi t1, t1, 7
    bnez t1, 2f
    li t2, 8
1:  bltu a2, t2, 2f
    ld t1, (a1)
    sd t1, (t0)
    addi a1, a1, 8
    addi t0, t0, 8
    addi a2, a2, -8
    j 1b
2:  beqz a2, 3f
    lb t1, (a1)
    sb t1, (t0)
    addi a1, a1, 1
    addi t0, t0, 1
    addi a2, a2, -1
    j 2b
3:  ret

.global memmove
memmove:
    sub t0, a0, a1
    bgeu t0, a2, memcpy
    add a1, a1, a2
    add t0, a0, a2
1:  beqz a2, 2f
    addi a1, a1, -1
    addi t0, t0, -1
    lb t1, (a1)
    sb t1, (t0)
    addi a2, a2, -1
    j 1b
2:  ret

.global memset
memset:
    mv t0, a0
    andi a1, a1, 255
    andi t1, a0, 7
    bnez t1, 2f
    slli t1, a1, 8
    or t1, t1, a1
    slli t2, t1, 16
    or t1, t1, t2
    slli t2, t1, 32
    or t1, t1, t2
    li t2, 8
1:  bltu a2, t2, 2f
    sd t1, (t0)
    addi t0, t0, 8
    addi a2, a2, -8
    j 1b
2:  beqz a2, 3f
    sb a1, (t0)
    addi t0, t0, 1
    addi a2, a2, -1
    j 2b
3:  ret
"#
);

//! Exceptions: the vectors and the entry code. Arm ARM D1.3
//!
//! Interrupts are handled on the stack of what they interrupt: the ABI has no red zone.

use core::arch::{asm, global_asm};

global_asm!(
    r#"
.section .text
.balign 2048
exception_vectors:
.set i, 0
.rept 16
    .balign 128
    .if i == 5
    b interrupt_entry
    .else
    mrs x0, esr_el1
    mrs x1, elr_el1
    mrs x2, far_el1
    mov x3, #i
    b rust_exception
    .endif
    .set i, i + 1
.endr

interrupt_entry:
    sub sp, sp, #784
    stp x0, x1, [sp]
    stp x2, x3, [sp, #16]
    stp x4, x5, [sp, #32]
    stp x6, x7, [sp, #48]
    stp x8, x9, [sp, #64]
    stp x10, x11, [sp, #80]
    stp x12, x13, [sp, #96]
    stp x14, x15, [sp, #112]
    stp x16, x17, [sp, #128]
    stp x18, x29, [sp, #144]
    mrs x0, elr_el1
    stp x30, x0, [sp, #160]
    mrs x0, spsr_el1
    mrs x1, fpcr
    stp x0, x1, [sp, #176]
    mrs x0, fpsr
    str x0, [sp, #192]
    add x1, sp, #208
    stp q0, q1, [x1]
    stp q2, q3, [x1, #32]
    stp q4, q5, [x1, #64]
    stp q6, q7, [x1, #96]
    stp q8, q9, [x1, #128]
    stp q10, q11, [x1, #160]
    stp q12, q13, [x1, #192]
    stp q14, q15, [x1, #224]
    stp q16, q17, [x1, #256]
    stp q18, q19, [x1, #288]
    stp q20, q21, [x1, #320]
    stp q22, q23, [x1, #352]
    stp q24, q25, [x1, #384]
    stp q26, q27, [x1, #416]
    stp q28, q29, [x1, #448]
    stp q30, q31, [x1, #480]
    bl rust_interrupt
    add x1, sp, #208
    ldp q0, q1, [x1]
    ldp q2, q3, [x1, #32]
    ldp q4, q5, [x1, #64]
    ldp q6, q7, [x1, #96]
    ldp q8, q9, [x1, #128]
    ldp q10, q11, [x1, #160]
    ldp q12, q13, [x1, #192]
    ldp q14, q15, [x1, #224]
    ldp q16, q17, [x1, #256]
    ldp q18, q19, [x1, #288]
    ldp q20, q21, [x1, #320]
    ldp q22, q23, [x1, #352]
    ldp q24, q25, [x1, #384]
    ldp q26, q27, [x1, #416]
    ldp q28, q29, [x1, #448]
    ldp q30, q31, [x1, #480]
    ldr x0, [sp, #192]
    msr fpsr, x0
    ldp x0, x1, [sp, #176]
    msr spsr_el1, x0
    msr fpcr, x1
    ldp x30, x0, [sp, #160]
    msr elr_el1, x0
    ldp x18, x29, [sp, #144]
    ldp x16, x17, [sp, #128]
    ldp x14, x15, [sp, #112]
    ldp x12, x13, [sp, #96]
    ldp x10, x11, [sp, #80]
    ldp x8, x9, [sp, #64]
    ldp x6, x7, [sp, #48]
    ldp x4, x5, [sp, #32]
    ldp x2, x3, [sp, #16]
    ldp x0, x1, [sp]
    add sp, sp, #784
    eret
"#
);

unsafe extern "C" {
    static exception_vectors: u8;
}

/// Installs the vectors on this processor.
pub fn install() {
    // SAFETY: the vectors are code that is aligned as they must be.
    unsafe {
        asm!("msr vbar_el1, {}", "isb", in(reg) &raw const exception_vectors, options(nostack));
    }
}

#[unsafe(no_mangle)]
extern "C" fn rust_exception(syndrome: u64, at: u64, address: u64, vector: u64) -> ! {
    panic!("exception {vector} esr {syndrome:#x} elr {at:#x} far {address:#x}");
}

#[unsafe(no_mangle)]
extern "C" fn rust_interrupt() {
    super::interrupts::handle();
}

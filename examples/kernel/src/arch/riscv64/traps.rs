//! Traps: the entry code for interrupts and exceptions. RISC-V privileged architecture §10.1
//!
//! Interrupts are handled on the stack of what they interrupt: the ABI has no red zone.

use super::interrupts;
use core::arch::{asm, global_asm};

/// In sie: interrupts of software, of the timer, and of devices.
const ALL: u64 = 1 << 1 | 1 << 5 | 1 << 9;

global_asm!(
    r#"
.section .text
.balign 4
.global trap_entry
trap_entry:
    addi sp, sp, -304
    sd ra, 0(sp)
    sd t0, 8(sp)
    sd t1, 16(sp)
    sd t2, 24(sp)
    sd t3, 32(sp)
    sd t4, 40(sp)
    sd t5, 48(sp)
    sd t6, 56(sp)
    sd a0, 64(sp)
    sd a1, 72(sp)
    sd a2, 80(sp)
    sd a3, 88(sp)
    sd a4, 96(sp)
    sd a5, 104(sp)
    sd a6, 112(sp)
    sd a7, 120(sp)
    csrr a0, scause
    bltz a0, 1f
    csrr a1, sepc
    csrr a2, stval
    tail rust_exception
1:  frcsr t0
    sd t0, 128(sp)
    fsd ft0, 136(sp)
    fsd ft1, 144(sp)
    fsd ft2, 152(sp)
    fsd ft3, 160(sp)
    fsd ft4, 168(sp)
    fsd ft5, 176(sp)
    fsd ft6, 184(sp)
    fsd ft7, 192(sp)
    fsd ft8, 200(sp)
    fsd ft9, 208(sp)
    fsd ft10, 216(sp)
    fsd ft11, 224(sp)
    fsd fa0, 232(sp)
    fsd fa1, 240(sp)
    fsd fa2, 248(sp)
    fsd fa3, 256(sp)
    fsd fa4, 264(sp)
    fsd fa5, 272(sp)
    fsd fa6, 280(sp)
    fsd fa7, 288(sp)
    call rust_interrupt
    fld ft0, 136(sp)
    fld ft1, 144(sp)
    fld ft2, 152(sp)
    fld ft3, 160(sp)
    fld ft4, 168(sp)
    fld ft5, 176(sp)
    fld ft6, 184(sp)
    fld ft7, 192(sp)
    fld ft8, 200(sp)
    fld ft9, 208(sp)
    fld ft10, 216(sp)
    fld ft11, 224(sp)
    fld fa0, 232(sp)
    fld fa1, 240(sp)
    fld fa2, 248(sp)
    fld fa3, 256(sp)
    fld fa4, 264(sp)
    fld fa5, 272(sp)
    fld fa6, 280(sp)
    fld fa7, 288(sp)
    ld t0, 128(sp)
    fscsr t0
    ld ra, 0(sp)
    ld t0, 8(sp)
    ld t1, 16(sp)
    ld t2, 24(sp)
    ld t3, 32(sp)
    ld t4, 40(sp)
    ld t5, 48(sp)
    ld t6, 56(sp)
    ld a0, 64(sp)
    ld a1, 72(sp)
    ld a2, 80(sp)
    ld a3, 88(sp)
    ld a4, 96(sp)
    ld a5, 104(sp)
    ld a6, 112(sp)
    ld a7, 120(sp)
    addi sp, sp, 304
    sret
"#
);

unsafe extern "C" {
    fn trap_entry();
}

/// Installs the entry code on this processor, and has it take all kinds of interrupts once they are enabled.
pub fn install() {
    // SAFETY: the entry code is aligned as it must be, and preserves what it interrupts.
    unsafe {
        asm!("csrw stvec, {}", in(reg) trap_entry as *const () as u64, options(nostack));
        asm!("csrw sie, {}", in(reg) ALL, options(nostack));
    }
}

#[unsafe(no_mangle)]
extern "C" fn rust_exception(cause: u64, at: u64, value: u64) -> ! {
    panic!("exception {cause} sepc {at:#x} stval {value:#x}");
}

#[unsafe(no_mangle)]
extern "C" fn rust_interrupt(cause: u64) {
    interrupts::handle(cause << 1 >> 1);
}

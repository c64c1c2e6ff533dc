//! Interrupts: the descriptor tables and the entry code.
//!
//! `core` was built with a red zone, so handlers run on separate stacks (IST).

use super::apic;
use crate::interrupts::{count_timer, dispatch};
use crate::smp;
use core::arch::global_asm;
use paravirt_platform::{BindError, InterruptLine, Message, Requester, Vector};
use x86_64::VirtAddr;
use x86_64::structures::idt::InterruptDescriptorTable;
use x86_64::structures::tss::TaskStateSegment;

/// The vectors that are bound to devices.
pub const DEVICE_VECTORS: core::ops::Range<usize> = 0x30..0xf0;
/// Wakes a processor from `hlt`, sent by another one.
pub const WAKE: u8 = 0xf0;
/// The local timer.
pub const TIMER: u8 = 0xf1;
const SPURIOUS: u8 = 0xff;

/// Indices into the interrupt stack table: one stack for interrupts, one for exceptions.
const IST_INTERRUPT: u16 = 0;
const IST_EXCEPTION: u16 = 1;
pub const STACK_LEN: usize = 32 << 10;

global_asm!(
    r#"
.section .text
.altmacro
.macro stub vector
    .align 16
    .if (\vector == 8) || (\vector == 10) || (\vector == 11) || (\vector == 12) || (\vector == 13) || (\vector == 14) || (\vector == 17) || (\vector == 21) || (\vector == 29) || (\vector == 30)
    .else
    push 0
    .endif
    push \vector
    jmp interrupt_common
.endm

.align 16
.global interrupt_stubs
interrupt_stubs:
.set i, 0
.rept 256
    stub %i
    .set i, i + 1
.endr

interrupt_common:
    cld
    push rax
    push rcx
    push rdx
    push rbx
    push rbp
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov rdi, rsp
    mov rbp, rsp
    sub rsp, 512
    and rsp, -16
    fxsave64 [rsp]
    call rust_interrupt
    fxrstor64 [rsp]
    mov rsp, rbp
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq
.noaltmacro
"#
);

unsafe extern "C" {
    static interrupt_stubs: u8;
}

/// The length of a stub in bytes.
const STUB_LEN: usize = 16;

/// The registers and the exception frame, as the entry code and the processor push them.
#[repr(C)]
struct Frame {
    registers: [u64; 15],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    flags: u64,
    rsp: u64,
    ss: u64,
}

#[unsafe(no_mangle)]
extern "C" fn rust_interrupt(frame: &Frame) {
    let vector = frame.vector as usize;
    match vector {
        0..32 => {
            let cr2 = x86_64::registers::control::Cr2::read_raw();
            panic!("exception {vector} error {:#x} rip {:#x} cr2 {cr2:#x}", frame.error, frame.rip);
        }
        _ if DEVICE_VECTORS.contains(&vector) => dispatch(vector),
        _ if vector == usize::from(TIMER) => count_timer(),
        _ => {}
    }
    if vector != usize::from(SPURIOUS) {
        apic::end_of_interrupt();
    }
}

/// The descriptor table, task state and stacks of a processor.
#[repr(C, align(16))]
pub struct PerProcessor {
    gdt: [u64; 5],
    tss: TaskStateSegment,
    stacks: [[u8; STACK_LEN]; 2],
}

static IDT: spin::Once<InterruptDescriptorTable> = spin::Once::new();

impl PerProcessor {
    /// Returns empty tables, which [`install`](Self::install) fills in.
    pub const fn new() -> Self {
        Self { gdt: [0; 5], tss: TaskStateSegment::new(), stacks: [[0; STACK_LEN]; 2] }
    }

    /// Fills in the tables and loads them, and the interrupt descriptor table, which all processors share.
    pub fn install(&'static mut self) {
        for (ist, stack) in [(IST_INTERRUPT, 0), (IST_EXCEPTION, 1)] {
            let end = self.stacks[stack].as_ptr_range().end as u64 & !15;
            self.tss.interrupt_stack_table[usize::from(ist)] = VirtAddr::new(end);
        }
        let tss = &raw const self.tss as u64;
        let limit = size_of::<TaskStateSegment>() as u64 - 1;
        let low = limit | (tss & 0xff_ffff) << 16 | 0x89 << 40 | (tss >> 24 & 0xff) << 56;
        self.gdt = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, low, tss >> 32];
        let pointer = x86_64::structures::DescriptorTablePointer {
            limit: (size_of_val(&self.gdt) - 1) as u16,
            base: VirtAddr::new(self.gdt.as_ptr() as u64),
        };
        use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
        use x86_64::structures::gdt::SegmentSelector;
        // SAFETY: the tables are static; selectors 8, 16 and 24 are their code, data and task state segments.
        unsafe {
            x86_64::instructions::tables::lgdt(&pointer);
            CS::set_reg(SegmentSelector(8));
            DS::set_reg(SegmentSelector(16));
            ES::set_reg(SegmentSelector(16));
            SS::set_reg(SegmentSelector(16));
            x86_64::instructions::tables::load_tss(SegmentSelector(24));
        }
        IDT.call_once(idt).load();
    }
}

fn idt() -> InterruptDescriptorTable {
    let mut idt = InterruptDescriptorTable::new();
    let base = &raw const interrupt_stubs as u64;
    let stub = |vector: usize| VirtAddr::new(base + (vector * STUB_LEN) as u64);
    // SAFETY: the stubs save all registers and return with `iretq`, and `install` sets the stacks of the IST.
    unsafe {
        for vector in 32..256usize {
            idt[vector as u8].set_handler_addr(stub(vector)).set_stack_index(IST_INTERRUPT);
        }
        let x = IST_EXCEPTION;
        idt.divide_error.set_handler_addr(stub(0)).set_stack_index(x);
        idt.debug.set_handler_addr(stub(1)).set_stack_index(x);
        idt.non_maskable_interrupt.set_handler_addr(stub(2)).set_stack_index(x);
        idt.breakpoint.set_handler_addr(stub(3)).set_stack_index(x);
        idt.overflow.set_handler_addr(stub(4)).set_stack_index(x);
        idt.bound_range_exceeded.set_handler_addr(stub(5)).set_stack_index(x);
        idt.invalid_opcode.set_handler_addr(stub(6)).set_stack_index(x);
        idt.device_not_available.set_handler_addr(stub(7)).set_stack_index(x);
        idt.double_fault.set_handler_addr(stub(8)).set_stack_index(x);
        idt.invalid_tss.set_handler_addr(stub(10)).set_stack_index(x);
        idt.segment_not_present.set_handler_addr(stub(11)).set_stack_index(x);
        idt.stack_segment_fault.set_handler_addr(stub(12)).set_stack_index(x);
        idt.general_protection_fault.set_handler_addr(stub(13)).set_stack_index(x);
        idt.page_fault.set_handler_addr(stub(14)).set_stack_index(x);
        idt.x87_floating_point.set_handler_addr(stub(16)).set_stack_index(x);
        idt.alignment_check.set_handler_addr(stub(17)).set_stack_index(x);
        idt.machine_check.set_handler_addr(stub(18)).set_stack_index(x);
        idt.simd_floating_point.set_handler_addr(stub(19)).set_stack_index(x);
    }
    idt
}

/// Raises `vector` for a line.
pub fn route(line: InterruptLine, vector: u32) -> Result<(), BindError> {
    apic::route(line, vector as u8)
}

/// Ends the interrupts of a line.
pub fn mask(line: InterruptLine) {
    apic::mask(line);
}

/// Wakes the processor with this APIC id from `hlt`.
pub fn send_wake(id: u64) {
    apic::send(id as u32, WAKE);
}

const MESSAGE_ADDRESS: u64 = 0xfee0_0000;

/// Returns the message that raises `vector` on the processor with this APIC id, whichever device sends it. It has 8 bits for the id; larger ones are replaced by the
/// first processor's.
pub fn message(vector: Vector, target: u64, _from: Option<Requester>) -> Option<Message> {
    let target = u8::try_from(target).or(u8::try_from(smp::id(0))).unwrap_or(0);
    Some(Message { address: MESSAGE_ADDRESS | u64::from(target) << 12, data: vector.0 })
}

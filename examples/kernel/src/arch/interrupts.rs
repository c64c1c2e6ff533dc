//! Interrupts: the descriptor tables, the entry code, and the handlers bound to vectors.
//!
//! `core` was built with a red zone, so handlers run on separate stacks (IST).

use super::acpi::MAX_PROCESSORS;
use super::{apic, smp};
use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use paravirt_platform::{BindError, InterruptLine, RawHandler, Vector};
use spin::Mutex;
use x86_64::VirtAddr;
use x86_64::structures::idt::InterruptDescriptorTable;
use x86_64::structures::tss::TaskStateSegment;

/// The first and the last vector that are bound to devices.
const FIRST_DEVICE: usize = 0x30;
const LAST_DEVICE: usize = 0xef;
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

/// The handler of a vector.
struct Slot {
    handler: Mutex<Option<RawHandler>>,
    /// On how many processors the handler runs.
    running: AtomicU32,
    /// The interrupt line that is routed to the vector or shares one, plus 1; or 0.
    line: AtomicU32,
}

/// The vectors whose handlers share an interrupt line, a bit each.
struct Line([AtomicU64; 4]);

/// How a line is routed.
#[derive(Copy, Clone)]
struct Route {
    line: InterruptLine,
    /// The vector that the I/O APIC raises for it.
    head: u32,
}

static SLOTS: [Slot; 256] =
    [const { Slot { handler: Mutex::new(None), running: AtomicU32::new(0), line: AtomicU32::new(0) } }; 256];
static LINES: [Line; 256] = [const { Line([const { AtomicU64::new(0) }; 4]) }; 256];
/// The lines that are routed, by number. Locked with interrupts disabled; handlers do not take it.
static ROUTED: Mutex<[Option<Route>; 256]> = Mutex::new([None; 256]);
static DEVICE_INTERRUPTS: [AtomicU64; MAX_PROCESSORS] = [const { AtomicU64::new(0) }; MAX_PROCESSORS];
static TIMER_INTERRUPTS: AtomicU64 = AtomicU64::new(0);

/// Returns the number of device interrupts so far, on all processors.
pub fn device_interrupts() -> u64 {
    DEVICE_INTERRUPTS.iter().map(|count| count.load(Ordering::Relaxed)).sum()
}

/// Returns the number of device interrupts so far on one processor.
pub fn device_interrupts_on(processor: u32) -> u64 {
    DEVICE_INTERRUPTS.get(processor as usize).map_or(0, |count| count.load(Ordering::Relaxed))
}

/// Returns the number of local timer interrupts so far, on all processors.
pub fn timer_interrupts() -> u64 {
    TIMER_INTERRUPTS.load(Ordering::Relaxed)
}

#[unsafe(no_mangle)]
extern "C" fn rust_interrupt(frame: &Frame) {
    let vector = frame.vector as usize;
    match vector {
        0..32 => {
            let cr2 = x86_64::registers::control::Cr2::read_raw();
            panic!("exception {vector} error {:#x} rip {:#x} cr2 {cr2:#x}", frame.error, frame.rip);
        }
        FIRST_DEVICE..=LAST_DEVICE => {
            if let Some(count) = DEVICE_INTERRUPTS.get(smp::current() as usize) {
                count.fetch_add(1, Ordering::Relaxed);
            }
            match SLOTS[vector].line.load(Ordering::Acquire).checked_sub(1) {
                Some(line) => LINES[line as usize & 0xff].vectors().for_each(|vector| call(&SLOTS[vector])),
                None => call(&SLOTS[vector]),
            }
        }
        _ if vector == usize::from(TIMER) => {
            TIMER_INTERRUPTS.fetch_add(1, Ordering::Relaxed);
        }
        _ => {}
    }
    if vector != usize::from(SPURIOUS) {
        apic::end_of_interrupt();
    }
}

/// Calls the handler of a slot, if it has one.
fn call(slot: &Slot) {
    slot.running.fetch_add(1, Ordering::SeqCst);
    // The lock is held only to copy the handler. `bind` and `unbind` take it with interrupts disabled.
    let handler = *slot.handler.lock();
    if let Some(handler) = handler {
        // SAFETY: the handler is bound: `unbind` waits until it no longer runs.
        unsafe { handler.call() };
    }
    slot.running.fetch_sub(1, Ordering::SeqCst);
}

impl Line {
    fn word(&self, vector: usize) -> (&AtomicU64, u64) {
        (&self.0[vector >> 6 & 3], 1 << (vector & 63))
    }

    /// The vectors whose handlers share the line.
    fn vectors(&self) -> impl Iterator<Item = usize> + '_ {
        let is_member = |vector: &usize| {
            let (word, bit) = self.word(*vector);
            word.load(Ordering::Acquire) & bit != 0
        };
        (FIRST_DEVICE..=LAST_DEVICE).filter(is_member)
    }

    fn set_member(&self, vector: usize, is_member: bool) {
        let (word, bit) = self.word(vector);
        if is_member {
            word.fetch_or(bit, Ordering::AcqRel)
        } else {
            word.fetch_and(!bit, Ordering::AcqRel)
        };
    }
}

/// Routes an interrupt line to `vector`, which shares it with those that it is routed to already.
pub fn route(line: InterruptLine, vector: Vector) -> Result<(), BindError> {
    x86_64::instructions::interrupts::without_interrupts(|| {
        let mut routed = ROUTED.lock();
        let number = line.number as usize;
        let (shared, slot) = (LINES.get(number).ok_or(BindError::Unsupported)?, vector.0 as usize & 0xff);
        if routed[number].is_none() {
            apic::route(line, vector.0 as u8)?;
            routed[number] = Some(Route { line, head: vector.0 });
        }
        // Another vector may be raised for the line: it calls the handlers of all.
        shared.set_member(slot, true);
        SLOTS[slot].line.store(line.number + 1, Ordering::Release);
        Ok(())
    })
}

/// Takes `vector` off the line that it shares: the line is routed to another vector, or masked if there is none.
fn unroute(vector: usize) {
    x86_64::instructions::interrupts::without_interrupts(|| {
        let mut routed = ROUTED.lock();
        let Some(number) = SLOTS[vector].line.load(Ordering::Acquire).checked_sub(1) else { return };
        let (shared, routed) = (&LINES[number as usize & 0xff], &mut routed[number as usize & 0xff]);
        shared.set_member(vector, false);
        if let Some(Route { line, head }) = *routed
            && head as usize == vector
        {
            *routed = shared.vectors().next().map(|next| Route { line, head: next as u32 });
            match *routed {
                // It was routed before, so it can be again.
                Some(next) => drop(apic::route(line, next.head as u8)),
                None => apic::mask(line),
            }
        }
        SLOTS[vector].line.store(0, Ordering::Release);
    });
}

/// Returns the number of vectors that can still be bound.
pub fn free_vectors() -> u32 {
    x86_64::instructions::interrupts::without_interrupts(|| {
        let device_slots = &SLOTS[FIRST_DEVICE..=LAST_DEVICE];
        device_slots.iter().filter(|slot| slot.handler.lock().is_none()).count() as u32
    })
}

/// Binds `handler` to a free vector.
pub fn bind(handler: RawHandler) -> Result<Vector, BindError> {
    x86_64::instructions::interrupts::without_interrupts(|| {
        for (vector, slot) in SLOTS.iter().enumerate().take(LAST_DEVICE + 1).skip(FIRST_DEVICE) {
            let mut bound = slot.handler.lock();
            if bound.is_none() {
                *bound = Some(handler);
                return Ok(Vector(vector as u32));
            }
        }
        Err(BindError::Exhausted)
    })
}

/// Unbinds the handler of `vector`, and waits until it runs on no processor.
pub fn unbind(vector: Vector) {
    if let Some(slot) = SLOTS.get(vector.0 as usize) {
        unroute(vector.0 as usize);
        x86_64::instructions::interrupts::without_interrupts(|| *slot.handler.lock() = None);
        while slot.running.load(Ordering::SeqCst) > 0 {
            core::hint::spin_loop();
        }
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

/// Wakes `processor` from `hlt`; does nothing if it is the current one.
pub fn wake(processor: u32) {
    if processor != smp::current() {
        apic::send(smp::apic_id(processor), WAKE);
    }
}

//! Boot: the entry code. The firmware enters one processor, of its choice, with its id and the address of the device tree.
//!
//! A processor's id is kept in `tp`, which compiled code would use for thread-local variables; the kernel has none.

pub use crate::arch::device_tree::BootInfo;
use core::arch::global_asm;

global_asm!(
    r#"
.section .text.boot, "ax"
.option push
.option norelax
.global start
start:
    mv tp, a0
    mv s0, a1
    csrw sie, zero
    csrw satp, zero
    la sp, boot_stack_end
    la t0, bss_start
    la t1, bss_end
1:  bgeu t0, t1, 2f
    sd zero, (t0)
    addi t0, t0, 8
    j 1b
    // Floating point on, with registers that hold nothing yet.
2:  li t0, 1 << 13
    csrs sstatus, t0
    mv a0, s0
    tail rust_start

.global processor_start
processor_start:
    mv tp, a0
    mv sp, a1
    csrw sie, zero
    csrw satp, zero
    li t0, 1 << 13
    csrs sstatus, t0
    tail rust_processor
.option pop

.section .bss
.balign 4096
.global boot_stack
boot_stack:
    .skip 262144
.global boot_stack_end
boot_stack_end:
"#
);

unsafe extern "C" {
    static kernel_start: u8;
    static kernel_end: u8;
    fn processor_start();
}

/// Returns the address range of the kernel image and its data: the first address, and one past the last.
pub fn kernel_range() -> (u64, u64) {
    (&raw const kernel_start as u64, &raw const kernel_end as u64)
}

/// Returns the address at which other processors start.
pub fn processor_entry() -> u64 {
    processor_start as *const () as u64
}

/// Reads the device tree and runs the kernel; called by the entry code, on the boot stack.
#[unsafe(no_mangle)]
extern "C" fn rust_start(tree: u64) -> ! {
    // SAFETY: every address can be read, and the loader's tree is not in memory that the kernel allocates.
    crate::main(unsafe { BootInfo::read(tree) })
}

//! Boot: the entry code.

use super::{console, efi, paging};
pub use crate::arch::device_tree::BootInfo;
use core::arch::global_asm;

global_asm!(
    r#"
.section .text.boot, "ax"
.global start
start:
    b tree_start
// The entry of the image for UEFI: the second instruction of the kernel.
    b efi_start

tree_start:
    mov x19, x0
    bl to_el1
    adrp x1, boot_stack_end
    add x1, x1, :lo12:boot_stack_end
    mov sp, x1
    adrp x1, bss_start
    add x1, x1, :lo12:bss_start
    adrp x2, bss_end
    add x2, x2, :lo12:bss_end
1:  cmp x1, x2
    b.hs 2f
    str xzr, [x1], #8
    b 1b
2:  mov x0, x19
    b rust_start

.global processor_start
processor_start:
    mov x19, x0
    bl to_el1
    mov sp, x19
    b rust_processor_start

// Leaves the exception level of a hypervisor, and switches floating point on.
.global to_el1
to_el1:
    mrs x1, CurrentEL
    cmp x1, #8
    b.ne 1f
    mov x1, #(1 << 31)
    msr hcr_el2, x1
    // Nothing of floating point is trapped, the processor's ids are its own, interrupts are handled by system registers if it has them,
    // and translation is off, with the bits that are always set.
    mov x1, #0x33ff
    msr cptr_el2, x1
    mrs x1, midr_el1
    msr vpidr_el2, x1
    mrs x1, mpidr_el1
    msr vmpidr_el2, x1
    mrs x1, id_aa64pfr0_el1
    tst x1, #(15 << 24)
    b.eq 2f
    mov x1, #15
    msr S3_4_C12_C9_5, x1
    isb
2:  ldr x1, =0x30d00800
    msr sctlr_el1, x1
    mov x1, #3
    msr cnthctl_el2, x1
    msr cntvoff_el2, xzr
    mov x1, #0x3c5
    msr spsr_el2, x1
    msr elr_el2, x30
    mov x1, #(3 << 20)
    msr cpacr_el1, x1
    eret
1:  mov x1, #(3 << 20)
    msr cpacr_el1, x1
    isb
    ret
    .ltorg

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

/// Where QEMU puts the device tree for a kernel that is an ELF file: at the start of RAM.
const DEFAULT_TREE: u64 = 0x4000_0000;
/// Switches address translation on, reads the device tree and runs the kernel; called by the entry code, on the boot stack.
#[unsafe(no_mangle)]
extern "C" fn rust_start(tree: u64) -> ! {
    // SAFETY: only this processor runs, and this is the first that it does.
    unsafe {
        paging::fill(kernel_range().0);
        paging::enable();
    }
    let tree = if tree == 0 { DEFAULT_TREE } else { tree };
    // SAFETY: everything is mapped, and the loader's tree is not in memory that the kernel allocates.
    run(unsafe { BootInfo::read(tree) })
}

/// Runs the kernel behind UEFI; called by the code that leaves it, on the boot stack.
#[unsafe(no_mangle)]
extern "C" fn rust_start_from_efi() -> ! {
    // SAFETY: as in `rust_start`.
    unsafe {
        paging::fill(kernel_range().0);
        paging::enable();
    }
    let info = efi::take_info();
    // The tree may be anywhere in RAM.
    paging::init(&info);
    run(info)
}

fn run(info: BootInfo) -> ! {
    if let Some(tree) = info.tree() {
        let port = tree.nodes().find(|node| node.is_enabled() && node.is_compatible("arm,pl011"));
        console::set_base(port.and_then(|port| port.registers().next()).map(|(base, _)| base));
    }
    crate::main(info)
}

/// Runs a processor that was started; called by the entry code, on its own stack.
#[unsafe(no_mangle)]
extern "C" fn rust_processor_start() -> ! {
    // SAFETY: the first processor has filled in the tables.
    unsafe { paging::enable() }
    crate::smp::rust_processor()
}

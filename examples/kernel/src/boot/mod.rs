//! From the loader to `main`: the entry code, and what it passes on.

mod info;

pub use info::{BootInfo, Memory};

use core::arch::{asm, global_asm};

global_asm!(include_str!("entry.s"));

unsafe extern "C" {
    /// Where the page tables' address goes in the copy of the trampoline.
    static trampoline_cr3: u8;
    static trampoline_start: u8;
    static trampoline_end: u8;
    /// The stack of the processor that is being started.
    pub static mut processor_stack: u64;
    fn linux_entry();
    static kernel_start: u8;
    static kernel_end: u8;
}

/// The kernel's own memory: first address and the one behind the last.
pub fn kernel_range() -> (u64, u64) {
    (&raw const kernel_start as u64, &raw const kernel_end as u64)
}

/// The code by which another processor starts, and where in it the 32-bit address of the page tables goes.
pub fn trampoline() -> (&'static [u8], usize) {
    let start = &raw const trampoline_start;
    let len = &raw const trampoline_end as usize - start as usize;
    let at = &raw const trampoline_cr3 as usize - start as usize;
    // SAFETY: the linker placed the code between the two symbols.
    (unsafe { core::slice::from_raw_parts(start, len) }, at)
}

/// How the kernel was entered.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// The PVH entry point; the information is a `hvm_start_info`.
    Pvh,
    /// The 64-bit Linux boot protocol; the information is `boot_params`.
    Linux,
    /// The Multiboot2 entry point; the information is a list of tags.
    Multiboot2,
}

/// Called by the entry code, on the boot stack.
#[unsafe(no_mangle)]
extern "C" fn rust_start(protocol: u32, information: u64) -> ! {
    let protocol = match protocol {
        0 => Protocol::Pvh,
        1 => Protocol::Linux,
        _ => Protocol::Multiboot2,
    };
    // SAFETY: the entry code passes on what the loader gave, and the first 4 GiB are mapped.
    let info = unsafe { BootInfo::read(protocol, information) };
    if protocol == Protocol::Pvh && info.command_line().split(' ').any(|word| word == "reenter=linux") {
        reenter(&info);
    }
    crate::main(info)
}

/// Enters the kernel once more, as a loader of the 64-bit Linux boot protocol does, with no more than that promises: for a
/// machine whose loader knows PVH only.
fn reenter(info: &BootInfo) -> ! {
    const CR4_PAE: u64 = 1 << 5;
    static mut PARAMETERS: [u8; 8192] = [0; 8192];
    let parameters = &raw mut PARAMETERS;
    // SAFETY: one processor runs, and nobody else has the page. The page tables map the first 4 GiB one to one; nothing
    // between the change of CR4 and the entry needs what it switches off.
    unsafe {
        info.write_boot_params(&mut *parameters);
        asm!("mov cr4, {cr4}", "xor esp, esp", "jmp {entry}", cr4 = in(reg) CR4_PAE, entry = sym linux_entry,
            in("rsi") parameters, options(noreturn));
    }
}

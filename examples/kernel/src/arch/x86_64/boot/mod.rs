//! Boot: the entry code and the information that the loader passes.

mod info;

pub use info::BootInfo;

use core::arch::{asm, global_asm};

global_asm!(include_str!("entry.s"));

unsafe extern "C" {
    /// The place in the trampoline for the physical address of the page tables.
    static trampoline_cr3: u8;
    static trampoline_start: u8;
    static trampoline_end: u8;
    /// The stack of the processor that is being started.
    pub static mut processor_stack: u64;
    fn linux_entry();
    static kernel_start: u8;
    static kernel_end: u8;
}

/// Returns the address range of the kernel image and its data: the first address, and one past the last.
pub fn kernel_range() -> (u64, u64) {
    (&raw const kernel_start as u64, &raw const kernel_end as u64)
}

/// Returns the code at which other processors start, and the offset in it where the 32-bit address of the page tables is written.
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

/// Reads the boot information and runs the kernel; called by the entry code, on the boot stack.
#[unsafe(no_mangle)]
extern "C" fn rust_start(protocol: u32, information: u64) -> ! {
    let protocol = match protocol {
        0 => Protocol::Pvh,
        1 => Protocol::Linux,
        _ => Protocol::Multiboot2,
    };
    // SAFETY: the entry code passes the loader's address, and the first 4 GiB are mapped one to one.
    let info = unsafe { BootInfo::read(protocol, information) };
    if protocol == Protocol::Pvh
        && info.command_line().unwrap_or_default().split(' ').any(|word| word == "reenter=linux")
    {
        reenter(&info);
    }
    crate::main(info)
}

/// Enters the kernel again by the 64-bit Linux boot protocol, with only the state that the protocol guarantees. It tests that entry
/// on machines whose loader supports PVH only.
fn reenter(info: &BootInfo) -> ! {
    const CR4_PAE: u64 = 1 << 5;
    static mut PARAMETERS: [u8; 8192] = [0; 8192];
    let parameters = &raw mut PARAMETERS;
    // SAFETY: one processor runs, and only this function uses the page. The page tables map the first 4 GiB one to one; no
    // instruction between the change of CR4 and the entry needs a feature that the change disables.
    unsafe {
        info.write_boot_params(&mut *parameters);
        asm!("mov cr4, {cr4}", "xor esp, esp", "jmp {entry}", cr4 = in(reg) CR4_PAE, entry = sym linux_entry,
            in("rsi") parameters, options(noreturn));
    }
}

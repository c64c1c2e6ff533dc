use crate::RawDma;

/// The instruction by which a guest of Xen calls its hypervisor. It goes by the vendor of the processor: the other one faults.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum XenInstruction {
    /// VMCALL, of processors with VMX.
    Vmcall,
    /// VMMCALL, of processors with SVM.
    Vmmcall,
}

/// What the drivers for Xen need in addition to [`Registers`](crate::Registers): pages that the hypervisor replaces with its own.
/// [`Platform::xen`](crate::Platform::xen) returns it.
///
/// The bus addresses of the platform's memory are guest physical addresses on Xen. No method is called in interrupt context, or blocks;
/// [`hypercall`](Self::hypercall) is on the data path.
///
/// # Safety
///
/// An implementation upholds what each method requires.
pub unsafe trait Xen: Send + Sync {
    /// Returns contiguous pages of RAM which the hypervisor replaces with pages of its own, or writes for as long as the guest runs: one for
    /// its shared information, one for each 512 grants, by which backends access memory, of which hypervisors have 64, and two for queues of
    /// events: 67 pages; 75 for grants of version 2, of which a page has 256, with 8 pages of their status. With fewer, there are the tables
    /// of the shared information instead of the queues, and devices have fewer and smaller queues. The RAM is lost. The kernel allocates the pages at the first call, keeps them for good, and returns the same ones to
    /// each call, of which one user at a time makes use.
    ///
    /// `None` if there are none; no device of Xen is used then.
    fn shared_frames(&self) -> Option<RawDma>;

    /// Calls the hypervisor by `instruction`: hypercall `number`, with `arguments` in RDI, RSI and RDX; returns RAX, in which errors are
    /// negative. Addresses in the arguments are virtual.
    ///
    /// # Safety
    ///
    /// This is a guest of Xen in ring 0, on a processor that has the instruction, and the call with these arguments keeps memory safe.
    unsafe fn hypercall(&self, instruction: XenInstruction, number: u32, arguments: [u64; 3]) -> i64 {
        #[cfg(target_arch = "x86_64")]
        {
            let [first, second, third] = arguments;
            let result: i64;
            macro_rules! call {
                ($instruction:literal) => {
                    core::arch::asm!(
                        $instruction,
                        inlateout("rax") u64::from(number) => result,
                        inlateout("rdi") first => _,
                        inlateout("rsi") second => _,
                        inlateout("rdx") third => _,
                        lateout("rcx") _, lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
                        options(nostack)
                    )
                };
            }
            // SAFETY: the caller promises that the instruction exists and the call keeps memory safe. The registers are those that the
            // hypervisor may change.
            unsafe {
                match instruction {
                    XenInstruction::Vmcall => call!("vmcall"),
                    XenInstruction::Vmmcall => call!("vmmcall"),
                }
            }
            result
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = (instruction, number, arguments);
            // "Function not implemented".
            -38
        }
    }
}

use crate::{Interrupts, RawDma, Registers, Vector};

/// What the Hyper-V drivers need beside the registers: a page for hypercalls, and vectors by the processor's own numbers.
///
/// The defaults are those of a platform that gives neither: nothing of Hyper-V is driven then, and an empty `impl` is
/// enough.
///
/// # Safety
///
/// An implementation upholds what each method promises.
pub unsafe trait HyperV: Registers + Interrupts {
    /// A page of RAM that the hypervisor may lay its hypercall page over: mapped executable, never written by the guest
    /// while it is in use. It comes back by [`free_hypercall_page`](Self::free_hypercall_page).
    fn hypercall_page(&self) -> Option<RawDma> {
        None
    }

    /// Takes back what [`hypercall_page`](Self::hypercall_page) gave.
    ///
    /// # Safety
    ///
    /// The page came from there, is given back once, and the hypervisor does not use it any more.
    unsafe fn free_hypercall_page(&self, page: RawDma) {
        let _ = page;
    }

    /// The vector's number in the interrupt descriptor table (16 to 255), which a synthetic interrupt source is told;
    /// `None` where it has none: the source is then polled.
    fn descriptor(&self, vector: Vector) -> Option<u8> {
        let _ = vector;
        None
    }

    /// Calls the hypervisor through its hypercall page, mapped at `page`: `control` in RCX, `input` in RDX, `output` in R8;
    /// returns RAX (TLFS §3.7).
    ///
    /// # Safety
    ///
    /// The hypercall page is enabled at `page`, and the call with these arguments keeps memory safe.
    unsafe fn hypercall(&self, page: *const u8, control: u64, input: u64, output: u64) -> u64 {
        #[cfg(target_arch = "x86_64")]
        {
            let result: u64;
            // SAFETY: passed on from the caller. The registers are those that the hypervisor or its page may change.
            unsafe {
                core::arch::asm!(
                    "call {page}",
                    page = in(reg) page,
                    inlateout("rcx") control => _,
                    inlateout("rdx") input => _,
                    inlateout("r8") output => _,
                    lateout("rax") result,
                    lateout("r9") _, lateout("r10") _, lateout("r11") _,
                    lateout("xmm0") _, lateout("xmm1") _, lateout("xmm2") _,
                    lateout("xmm3") _, lateout("xmm4") _, lateout("xmm5") _,
                );
            }
            result
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = (page, control, input, output);
            u64::MAX
        }
    }
}

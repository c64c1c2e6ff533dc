use crate::{RawDma, Vector};

/// What the Hyper-V drivers need beside [`Registers`](crate::Registers): a page for hypercalls, and vectors by the processor's own
/// numbers. This is what [`Platform::hyperv`](crate::Platform::hyperv) gives.
///
/// No method is called in interrupt context by a driver. [`hypercall`](Self::hypercall) is on the data path and called under spin
/// locks: it takes none and does not block. The others are called when the hypervisor is opened and closed, and may allocate.
///
/// # Safety
///
/// An implementation upholds what each method promises.
pub unsafe trait HyperV: Send + Sync {
    /// A page of RAM that the hypervisor may lay its hypercall page over: mapped executable, never written by the guest
    /// while it is in use. [`free_hypercall_page`](Self::free_hypercall_page) frees it.
    ///
    /// `None` where there is none; nothing of Hyper-V is driven then.
    fn hypercall_page(&self) -> Option<RawDma>;

    /// Takes back what [`hypercall_page`](Self::hypercall_page) gave.
    ///
    /// # Safety
    ///
    /// The page came from there, is freed once, and the hypervisor no longer uses it.
    unsafe fn free_hypercall_page(&self, page: RawDma);

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
            // SAFETY: the caller promises that the page is enabled and the call keeps memory safe. The registers are those that the hypervisor or its page may change.
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

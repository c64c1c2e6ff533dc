use crate::RawDma;

/// What the Hyper-V drivers need in addition to [`Registers`](crate::Registers): a hypercall page.
/// [`Platform::hyperv`](crate::Platform::hyperv) returns it.
///
/// No method is called in interrupt context by a driver. [`hypercall`](Self::hypercall) is on the data path and called under spin
/// locks: it takes none and does not block. The others are called when the hypervisor is opened and closed, and may allocate.
///
/// # Safety
///
/// An implementation upholds what each method requires.
pub unsafe trait HyperV: Send + Sync {
    /// Allocates a page of RAM which the hypervisor may overlay with its hypercall page: mapped executable, and not written by the guest
    /// while it is in use. [`free_hypercall_page`](Self::free_hypercall_page) frees it.
    ///
    /// `None` if there is none; no Hyper-V device is used then.
    fn hypercall_page(&self) -> Option<RawDma>;

    /// Frees a page allocated by [`hypercall_page`](Self::hypercall_page).
    ///
    /// # Safety
    ///
    /// The page came from there, is freed once, and the hypervisor no longer uses it.
    unsafe fn free_hypercall_page(&self, page: RawDma);

    /// Returns whether hypercalls are made by an instruction, and not through a page: as on 64-bit ARM, which is the default. No
    /// [`hypercall_page`](Self::hypercall_page) is asked for then.
    fn calls_by_instruction(&self) -> bool {
        cfg!(target_arch = "aarch64")
    }

    /// Calls the hypervisor through its hypercall page, mapped at `page`: `control` in RCX, `input` in RDX, `output` in R8;
    /// returns RAX (TLFS §3.7). On 64-bit ARM it calls by HVC, with the arguments in X1 to X3 (TLFS §3.8), and `page` is null.
    ///
    /// # Safety
    ///
    /// The hypercall page is enabled at `page`, unless [calls](Self::calls_by_instruction) are made by an instruction; and the call with these arguments keeps memory safe.
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
        #[cfg(target_arch = "aarch64")]
        {
            let _ = page;
            let result: u64;
            // SAFETY: the caller promises that this is a guest of Hyper-V, and that the call keeps memory safe. The call preserves what
            // is not listed (Arm DEN 0028 §2.6). X0 is a call of the hypervisor's vendor, number 1.
            unsafe {
                core::arch::asm!(
                    "hvc #1",
                    inlateout("x0") 0x4600_0001u64 => result,
                    inlateout("x1") control => _, inlateout("x2") input => _, inlateout("x3") output => _,
                    lateout("x4") _, lateout("x5") _, lateout("x6") _, lateout("x7") _, lateout("x8") _, lateout("x9") _,
                    lateout("x10") _, lateout("x11") _, lateout("x12") _, lateout("x13") _, lateout("x14") _,
                    lateout("x15") _, lateout("x16") _, lateout("x17") _,
                    options(nostack)
                );
            }
            result
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            let _ = (page, control, input, output);
            u64::MAX
        }
    }
}

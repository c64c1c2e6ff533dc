/// A processor's CPUID, model-specific registers and cycle counter. Hypervisors are found and spoken to by these.
///
/// This is what [`Platform::registers`](crate::Platform::registers) gives. The defaults are the instructions themselves on x86-64,
/// and nothing elsewhere: an empty `impl` is right for a kernel. Drivers touch a model-specific register only after CPUID has
/// offered it.
///
/// All methods are called in task and in interrupt context, on any processor, and take no lock and do not block.
///
/// # Safety
///
/// The registers are those of the processor that calls, and their instructions may be executed where the drivers run.
pub unsafe trait Registers: Send + Sync {
    /// CPUID of `leaf`, subleaf 0: EAX, EBX, ECX and EDX.
    fn cpuid(&self, leaf: u32) -> [u32; 4] {
        #[cfg(target_arch = "x86_64")]
        {
            let result = core::arch::x86_64::__cpuid(leaf);
            [result.eax, result.ebx, result.ecx, result.edx]
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = leaf;
            [0; 4]
        }
    }

    /// The cycle counter (TSC), read after everything ahead of it.
    fn tsc(&self) -> u64 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every processor that runs long mode has both.
        unsafe {
            core::arch::x86_64::_mm_lfence();
            core::arch::x86_64::_rdtsc()
        }
        #[cfg(not(target_arch = "x86_64"))]
        0
    }

    /// Reads a model-specific register of this processor.
    ///
    /// # Safety
    ///
    /// The host offers the register: reading one that it does not offer faults (TLFS §2.4).
    unsafe fn read_msr(&self, index: u32) -> u64 {
        #[cfg(target_arch = "x86_64")]
        {
            let (low, high): (u32, u32);
            // SAFETY: the caller promises that the host offers the register.
            unsafe {
                core::arch::asm!("rdmsr", in("ecx") index, out("eax") low, out("edx") high, options(nostack));
            }
            u64::from(high) << 32 | u64::from(low)
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = index;
            0
        }
    }

    /// Writes a model-specific register of this processor.
    ///
    /// # Safety
    ///
    /// The host offers the register, and what the value makes the host do keeps memory safe.
    unsafe fn write_msr(&self, index: u32, value: u64) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller promises that the host offers the register and that the value keeps memory safe.
        unsafe {
            let (low, high) = (value as u32, (value >> 32) as u32);
            core::arch::asm!("wrmsr", in("ecx") index, in("eax") low, in("edx") high, options(nostack));
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = (index, value);
        }
    }
}

/// CPUID, model-specific registers and the cycle counter, by which hypervisors are detected and used.
///
/// [`Platform::registers`](crate::Platform::registers) returns it. The default methods execute the instructions on x86-64, and do
/// nothing on other architectures, so that a kernel uses an empty `impl`. Drivers access a model-specific register only if CPUID
/// offers it.
///
/// All methods are called in task and in interrupt context, on any processor, and take no lock and do not block.
///
/// # Safety
///
/// The registers are those of the current processor, and the drivers run where the instructions are allowed.
pub unsafe trait Registers: Send + Sync {
    /// Returns CPUID leaf `leaf`, subleaf 0: EAX, EBX, ECX and EDX.
    fn cpuid(&self, leaf: u32) -> [u32; 4] {
        #[cfg(target_arch = "x86_64")]
        {
            #[allow(unused_unsafe, reason = "a safe function since Rust 1.94")]
            // SAFETY: every processor with long mode has the instruction, which affects no memory.
            let result = unsafe { core::arch::x86_64::__cpuid(leaf) };
            [result.eax, result.ebx, result.ecx, result.edx]
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = leaf;
            [0; 4]
        }
    }

    /// Returns the cycle counter (TSC), read after all earlier instructions.
    fn tsc(&self) -> u64 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every processor with long mode has both instructions.
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
            // SAFETY: the caller guarantees that the host offers the register.
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
    /// The host offers the register, and the effect of the value does not violate memory safety.
    unsafe fn write_msr(&self, index: u32, value: u64) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller guarantees that the host offers the register, and that the value does not violate memory safety.
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

//! Hyper-V on 64-bit ARM: registers of the virtual processor by hypercalls, and hypercalls by HVC.
//!
//! There are no model-specific registers and no CPUID. [`VpRegisters`] offers what the drivers use under the names that it has on x86-64,
//! so that a kernel returns it from [`Platform::registers`](paravirt_platform::Platform::registers), and everything else is the same. A
//! kernel knows by ACPI that it is on Hyper-V: the hypervisor's vendor in the FADT is "MsHyperV". The interrupt of VMBus is that of its
//! device in the DSDT, a private interrupt of each processor, whose number `Interrupts::descriptor` returns.

use core::fmt;
use hyperv_bindings::tlfs::{
    HV_INTERFACE_SIGNATURE, HvCpuidLeaf, HvCrashFlags, HvHypercallCode, HvHypercallFlags, HvMsr, HvStatus,
};
use paravirt_platform::Registers;

/// The hypercall function: a call of the hypervisor's vendor, number 1, with 64-bit arguments. Arm DEN 0028 §2.5, TLFS §3.8
pub const FUNCTION: u64 = 0x4600_0001;
/// One repetition, in the control word of a hypercall. TLFS §3.7
const ONE_REP: u64 = 1 << 32;
/// The guest's own partition, and the processor that calls. TLFS §15
const SELF: u64 = u64::MAX;
const THIS_PROCESSOR: u64 = 0xffff_fffe;

/// Names of registers. TLFS, HV_REGISTER_NAME
mod name {
    pub const VERSION: u32 = 0x100;
    pub const PRIVILEGES_AND_FEATURES: u32 = 0x200;
    pub const RECOMMENDATIONS: u32 = 0x201;
    pub const LIMITS: u32 = 0x202;
    pub const HARDWARE: u32 = 0x203;
    pub const CRASH_P0: u32 = 0x210;
    pub const CRASH_CTL: u32 = 0x215;
    pub const GUEST_OS_ID: u32 = 0x9_0002;
    pub const VP_INDEX: u32 = 0x9_0003;
    pub const TIME_REF_COUNT: u32 = 0x9_0004;
    pub const REFERENCE_TSC: u32 = 0x9_0017;
    pub const SINT0: u32 = 0xa_0000;
    pub const SCONTROL: u32 = 0xa_0010;
    pub const SVERSION: u32 = 0xa_0011;
    pub const SIEFP: u32 = 0xa_0012;
    pub const SIMP: u32 = 0xa_0013;
    pub const EOM: u32 = 0xa_0014;
    pub const STIMER0_CONFIG: u32 = 0xb_0000;
}

/// Calls the hypervisor by HVC with X0 to X7, and returns what they are afterwards.
///
/// # Safety
///
/// This is a guest of Hyper-V, and the call keeps memory safe.
#[cfg(target_arch = "aarch64")]
pub unsafe fn hvc(arguments: [u64; 8]) -> [u64; 8] {
    let [mut x0, mut x1, mut x2, mut x3, mut x4, mut x5, mut x6, mut x7] = arguments;
    // SAFETY: by the contract of this function; the call preserves what is not listed (Arm DEN 0028 §2.6).
    unsafe {
        core::arch::asm!(
            "hvc #1",
            inout("x0") x0, inout("x1") x1, inout("x2") x2, inout("x3") x3,
            inout("x4") x4, inout("x5") x5, inout("x6") x6, inout("x7") x7,
            lateout("x8") _, lateout("x9") _, lateout("x10") _, lateout("x11") _, lateout("x12") _,
            lateout("x13") _, lateout("x14") _, lateout("x15") _, lateout("x16") _, lateout("x17") _,
            options(nostack)
        );
    }
    [x0, x1, x2, x3, x4, x5, x6, x7]
}

/// The registers of the virtual processor, by hypercalls that `hvc` makes: the function of that name, or a model's.
pub struct VpRegisters<F> {
    hvc: F,
}

impl<F: Fn([u64; 8]) -> [u64; 8] + Send + Sync> VpRegisters<F> {
    /// # Safety
    ///
    /// `hvc` calls Hyper-V with the arguments in X0 to X7, and returns X0 to X7.
    pub const unsafe fn new(hvc: F) -> Self {
        Self { hvc }
    }

    /// Returns a register, its lower half first; zeroes if the hypervisor does not have it. TLFS, HvCallGetVpRegisters
    fn get(&self, name: u32) -> [u64; 2] {
        let control =
            u64::from(HvHypercallCode::GET_VP_REGISTERS.0) | HvHypercallFlags::FAST.bits() | ONE_REP;
        let [status, _, _, _, _, _, low, high] =
            (self.hvc)([FUNCTION, control, SELF, THIS_PROCESSOR, u64::from(name), 0, 0, 0]);
        if HvStatus(status as u16) == HvStatus::SUCCESS { [low, high] } else { [0; 2] }
    }

    /// Sets a register. TLFS, HvCallSetVpRegisters
    fn set(&self, name: u32, value: u64) {
        let control =
            u64::from(HvHypercallCode::SET_VP_REGISTERS.0) | HvHypercallFlags::FAST.bits() | ONE_REP;
        let [status, ..] =
            (self.hvc)([FUNCTION, control, SELF, THIS_PROCESSOR, u64::from(name), 0, value, 0]);
        if HvStatus(status as u16) != HvStatus::SUCCESS {
            log::warn!("hyper-v: register {name:#x} is not set: status {:#x}", status as u16);
        }
    }
}

/// Returns the name of the register that has this number on x86-64; `None` if there is none.
fn name_of(index: u32) -> Option<u32> {
    let nth = |first: HvMsr, count: u32, name: u32| {
        let place = index.checked_sub(first.0).filter(|place| *place < count)?;
        Some(name.wrapping_add(place))
    };
    Some(match HvMsr(index) {
        HvMsr::GUEST_OS_ID => name::GUEST_OS_ID,
        HvMsr::VP_INDEX => name::VP_INDEX,
        HvMsr::TIME_REF_COUNT => name::TIME_REF_COUNT,
        HvMsr::REFERENCE_TSC => name::REFERENCE_TSC,
        HvMsr::SCONTROL => name::SCONTROL,
        HvMsr::SVERSION => name::SVERSION,
        HvMsr::SIEFP => name::SIEFP,
        HvMsr::SIMP => name::SIMP,
        HvMsr::EOM => name::EOM,
        HvMsr::CRASH_CTL => name::CRASH_CTL,
        _ => {
            return nth(HvMsr::SINT0, 16, name::SINT0)
                .or_else(|| nth(HvMsr::STIMER0_CONFIG, 8, name::STIMER0_CONFIG))
                .or_else(|| nth(HvMsr::CRASH_P0, 5, name::CRASH_P0));
        }
    })
}

// SAFETY: registers are read and written as the methods say; what Hyper-V does not have on this processor reads as zero.
unsafe impl<F: Fn([u64; 8]) -> [u64; 8] + Send + Sync> Registers for VpRegisters<F> {
    fn cpuid(&self, leaf: u32) -> [u32; 4] {
        const HYPERVISOR: u32 = 1 << 31;
        let register = match HvCpuidLeaf(leaf) {
            HvCpuidLeaf(1) => return [0, 0, HYPERVISOR, 0],
            // "Microsoft Hv"
            HvCpuidLeaf::VENDOR => {
                return [HvCpuidLeaf::LIMITS.0.wrapping_add(1), 0x7263_694d, 0x666f_736f, 0x7648_2074];
            }
            HvCpuidLeaf::INTERFACE => return [HV_INTERFACE_SIGNATURE, 0, 0, 0],
            HvCpuidLeaf::FEATURES => name::PRIVILEGES_AND_FEATURES,
            HvCpuidLeaf::RECOMMENDATIONS => name::RECOMMENDATIONS,
            HvCpuidLeaf::LIMITS => name::LIMITS,
            HvCpuidLeaf(0x4000_0002) => name::VERSION,
            HvCpuidLeaf(0x4000_0006) => name::HARDWARE,
            _ => return [0; 4],
        };
        let [low, high] = self.get(register);
        [low as u32, (low >> 32) as u32, high as u32, (high >> 32) as u32]
    }

    fn tsc(&self) -> u64 {
        #[cfg(target_arch = "aarch64")]
        {
            let count;
            // SAFETY: reads the counter of the generic timer, by which the reference page counts.
            unsafe { core::arch::asm!("isb", "mrs {}, cntvct_el0", out(reg) count, options(nostack)) };
            count
        }
        #[cfg(not(target_arch = "aarch64"))]
        0
    }

    unsafe fn read_msr(&self, index: u32) -> u64 {
        if HvMsr(index) == HvMsr::CRASH_CTL {
            // It cannot be read for what the host takes, which is both.
            return (HvCrashFlags::NOTIFY | HvCrashFlags::MESSAGE).bits();
        }
        name_of(index).map_or(0, |name| self.get(name)[0])
    }

    unsafe fn write_msr(&self, index: u32, value: u64) {
        if let Some(name) = name_of(index) {
            self.set(name, value);
        }
    }
}

impl<F> fmt::Debug for VpRegisters<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VpRegisters")
    }
}

//! Detection by CPUID.

use paravirt_platform::{Platform, XenInstruction};

/// The signature of the first leaf.
const SIGNATURE: &[u8; 12] = b"XenVMMXenVMM";
/// Where a hypervisor's leaves may begin: each 0x100 from the first.
const BASES: core::ops::Range<u32> = 0x4000_0000..0x4001_0000;
const STEP: usize = 0x100;
/// In ECX of leaf 1: there is a hypervisor.
const HYPERVISOR: u32 = 1 << 31;
/// In EAX of the fourth leaf behind the base: EBX is the number of the virtual processor.
const HAS_VCPU_ID: u32 = 1 << 3;

/// Xen, as it was detected.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Detected {
    /// The first of its CPUID leaves: 0x40000000, or a higher one beside other interfaces, such as those of Hyper-V.
    pub base: u32,
    /// The major and minor version.
    pub version: (u16, u16),
    /// The instruction that calls it.
    pub instruction: XenInstruction,
}

impl Detected {
    /// Detects Xen; `None` if there is none. Executes CPUID some 260 times if there is another hypervisor, once if there is none. Not for
    /// interrupt context.
    pub fn new<P: Platform>(platform: &P) -> Option<Self> {
        let registers = platform.registers();
        let [.., features, _] = registers.cpuid(1);
        if features & HYPERVISOR == 0 {
            return None;
        }
        let base = BASES.step_by(STEP).find(|base| {
            let [last, ebx, ecx, edx] = registers.cpuid(*base);
            let words = [ebx, ecx, edx].map(u32::to_le_bytes);
            words.as_flattened() == SIGNATURE && last >= base.saturating_add(2)
        })?;
        let [version, ..] = registers.cpuid(base.saturating_add(1));
        Some(Self {
            base,
            version: ((version >> 16) as u16, version as u16),
            instruction: instruction(platform),
        })
    }

    /// The number by which hypercalls name the current virtual processor, `number` for the platform.
    pub(crate) fn vcpu<P: Platform>(&self, platform: &P, number: u32) -> u32 {
        let registers = platform.registers();
        let [last, ..] = registers.cpuid(self.base);
        if last < self.base.saturating_add(4) {
            return number;
        }
        match registers.cpuid(self.base.saturating_add(4)) {
            [features, vcpu, ..] if features & HAS_VCPU_ID != 0 => vcpu,
            _ => number,
        }
    }
}

/// The instruction by the vendor of the processor.
fn instruction<P: Platform>(platform: &P) -> XenInstruction {
    let [_, ebx, ecx, edx] = platform.registers().cpuid(0);
    let words = [ebx, edx, ecx].map(u32::to_le_bytes);
    match words.as_flattened() {
        b"AuthenticAMD" | b"HygonGenuine" => XenInstruction::Vmmcall,
        _ => XenInstruction::Vmcall,
    }
}

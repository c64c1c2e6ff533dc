use core::fmt;
use hyperv_bindings::tlfs::{
    HV_INTERFACE_SIGNATURE, HvCpuidLeaf, HvFeatureFlags, HvPrivilegeFlags, HvRecommendationFlags,
};
use paravirt_platform::Platform;

/// The features of the hypervisor, from CPUID. TLFS §2.4
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Features {
    /// Privileges of the partition: which registers and hypercalls the guest may use.
    pub privileges: HvPrivilegeFlags,
    /// Optional features.
    pub features: HvFeatureFlags,
    /// Recommendations for the guest.
    pub recommendations: HvRecommendationFlags,
    /// How the guest's memory is isolated from the host; `None` if the host can access it.
    pub isolation: Option<Isolation>,
}

/// How the memory of a confidential virtual machine is isolated from the host. TLFS §2.4.14
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Isolation {
    /// The technology.
    pub kind: IsolationKind,
    /// Whether a paravisor runs between host and guest.
    pub has_paravisor: bool,
}

/// The technology that isolates a guest's memory.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum IsolationKind {
    /// Virtualisation-based security.
    Vbs,
    /// AMD SEV-SNP.
    Snp,
    /// Intel TDX.
    Tdx,
    /// Another one, by its number.
    Other(u8),
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            IsolationKind::Vbs => f.write_str("VBS")?,
            IsolationKind::Snp => f.write_str("SEV-SNP")?,
            IsolationKind::Tdx => f.write_str("TDX")?,
            IsolationKind::Other(kind) => write!(f, "type {kind}")?,
        }
        f.write_str(if self.has_paravisor { " with a paravisor" } else { "" })
    }
}

impl Features {
    /// Reads the CPUID leaves; `None` if there is no hypervisor with interface "Hv#1". The vendor signature is ignored: other hypervisors
    /// offer the interface, too.
    pub fn detect(platform: &impl Platform) -> Option<Self> {
        const HYPERVISOR: u32 = 1 << 31;
        let leaf = |leaf: HvCpuidLeaf| platform.registers().cpuid(leaf.0);
        let [_, _, basic, _] = platform.registers().cpuid(1);
        if basic & HYPERVISOR == 0 {
            return None;
        }
        let [last, ..] = leaf(HvCpuidLeaf::VENDOR);
        let [interface, ..] = leaf(HvCpuidLeaf::INTERFACE);
        if last < HvCpuidLeaf::LIMITS.0 || interface != HV_INTERFACE_SIGNATURE {
            return None;
        }
        let [low, high, _, features] = leaf(HvCpuidLeaf::FEATURES);
        let [recommendations, ..] = leaf(HvCpuidLeaf::RECOMMENDATIONS);
        let privileges = HvPrivilegeFlags::from_bits_retain(u64::from(low) | u64::from(high) << 32);
        let mut isolation = None;
        if privileges.contains(HvPrivilegeFlags::ISOLATION) && last >= HvCpuidLeaf::ISOLATION.0 {
            let [paravisor, kind, ..] = leaf(HvCpuidLeaf::ISOLATION);
            let kind = match (kind & 15) as u8 {
                0 => None,
                1 => Some(IsolationKind::Vbs),
                2 => Some(IsolationKind::Snp),
                3 => Some(IsolationKind::Tdx),
                other => Some(IsolationKind::Other(other)),
            };
            isolation = kind.map(|kind| Isolation { kind, has_paravisor: paravisor & 1 != 0 });
        }
        Some(Self {
            privileges,
            isolation,
            features: HvFeatureFlags::from_bits_retain(features),
            recommendations: HvRecommendationFlags::from_bits_retain(recommendations),
        })
    }

    /// Returns whether the guest may use what VMBus needs: hypercalls, SynIC and the VP index. The privileges to post messages and to
    /// signal events are not checked, since some hosts do not report them.
    pub fn has_vmbus(&self) -> bool {
        self.privileges
            .contains(HvPrivilegeFlags::HYPERCALL | HvPrivilegeFlags::SYNIC | HvPrivilegeFlags::VP_INDEX)
    }
}

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
        Some(Self {
            privileges: HvPrivilegeFlags::from_bits_retain(u64::from(low) | u64::from(high) << 32),
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

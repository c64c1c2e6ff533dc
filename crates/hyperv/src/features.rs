use hyperv_bindings::tlfs::{
    HV_INTERFACE_SIGNATURE, HvCpuidLeaf, HvFeatureFlags, HvPrivilegeFlags, HvRecommendationFlags,
};
use paravirt_platform::Platform;

/// What CPUID says of the hypervisor. TLFS §2.4
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Features {
    /// What the guest may do.
    pub privileges: HvPrivilegeFlags,
    /// What there is beside.
    pub features: HvFeatureFlags,
    /// What the guest had better do.
    pub recommendations: HvRecommendationFlags,
}

impl Features {
    /// Reads the leaves; `None` where there is no hypervisor of this interface. The vendor's name is not looked at: it is
    /// the interface that counts.
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

    /// Whether VMBus can be spoken here: hypercalls, SynIC and the index of the processor. The bits for posting messages
    /// and signalling events are advice that some hosts leave out.
    pub fn has_vmbus(&self) -> bool {
        self.privileges
            .contains(HvPrivilegeFlags::HYPERCALL | HvPrivilegeFlags::SYNIC | HvPrivilegeFlags::VP_INDEX)
    }
}

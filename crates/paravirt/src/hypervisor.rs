//! Detection of the hypervisor, for information only: the choice of drivers does not depend on it.

use core::fmt;
use paravirt_platform::Platform;

/// A hypervisor, by the vendor signature of its CPUID leaves.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Hypervisor {
    /// Linux KVM.
    Kvm,
    /// Microsoft Hyper-V, or one that offers its interface.
    HyperV,
    /// Xen.
    Xen,
    /// VMware.
    VMware,
    /// QEMU without hardware virtualisation.
    Tcg,
    /// Another hypervisor, with its signature.
    Other([u8; 12]),
}

impl fmt::Display for Hypervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kvm => f.write_str("kvm"),
            Self::HyperV => f.write_str("hyper-v"),
            Self::Xen => f.write_str("xen"),
            Self::VMware => f.write_str("vmware"),
            Self::Tcg => f.write_str("tcg"),
            Self::Other(signature) => write!(f, "{}", signature.escape_ascii()),
        }
    }
}

/// The CPUID leaves of a hypervisor.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Leaves {
    /// The hypervisor.
    pub hypervisor: Hypervisor,
    /// The first leaf.
    pub base: u32,
}

const FIRST: u32 = 0x4000_0000;
const STEP: u32 = 0x100;
/// How many leaf bases are checked, as in Linux.
const PLACES: u32 = 256;
/// Maximum number of hypervisors that are reported.
pub const MAX_HYPERVISORS: usize = 4;

/// An iterator over the detected hypervisors.
pub type Found = core::iter::Flatten<core::array::IntoIter<Option<Leaves>, MAX_HYPERVISORS>>;

/// Returns the hypervisors with CPUID leaves, in the order of the leaves; none on bare metal, or on a platform without
/// [`registers`](Platform::registers). Hyper-V's and KVM's leaves can be present at once.
pub fn detect<P: Platform>(platform: &P) -> Found {
    search(|leaf| platform.registers().cpuid(leaf))
}

/// Returns the hypervisor without CPUID leaves that is known by a port: VMware's, on a platform that gives access to it. Call it if
/// [`detect`] finds none.
#[cfg(feature = "vmware")]
pub fn detect_by_port<P: Platform>(platform: &P) -> Option<Hypervisor> {
    paravirt_vmware::VMware::detect(platform).filter(|found| !found.has_leaves).map(|_| Hypervisor::VMware)
}

/// As [`detect`], with CPUID as a function from the leaf to EAX, EBX, ECX and EDX.
pub fn search(cpuid: impl Fn(u32) -> [u32; 4]) -> Found {
    let mut found = [None; MAX_HYPERVISORS];
    let mut slots = found.iter_mut();
    let [_, _, features, _] = cpuid(1);
    if features & (1 << 31) != 0 {
        for place in 0..PLACES {
            let base = FIRST.wrapping_add(place.wrapping_mul(STEP));
            let Some(hypervisor) = signature(cpuid(base)) else { continue };
            match slots.next() {
                Some(slot) => *slot = Some(Leaves { hypervisor, base }),
                None => break,
            }
        }
    }
    found.into_iter().flatten()
}

fn signature([last, ebx, ecx, edx]: [u32; 4]) -> Option<Hypervisor> {
    let mut text = [0; 12];
    for (to, register) in text.chunks_exact_mut(4).zip([ebx, ecx, edx]) {
        to.copy_from_slice(&register.to_le_bytes());
    }
    // For an absent leaf a processor returns the highest basic leaf, which is not a valid base, or not text. KVM before Linux 3.0
    // returned 0 as its last leaf.
    let is_base = last == 0 || last & 0xffff_0000 == FIRST;
    let is_text = text.iter().all(|byte| *byte == 0 || byte.is_ascii_graphic() || *byte == b' ');
    match &text {
        _ if !is_base || !is_text || text.iter().all(|byte| *byte == 0) => None,
        b"KVMKVMKVM\0\0\0" | b"Linux KVM Hv" => Some(Hypervisor::Kvm),
        b"Microsoft Hv" => Some(Hypervisor::HyperV),
        b"XenVMMXenVMM" => Some(Hypervisor::Xen),
        b"VMwareVMware" => Some(Hypervisor::VMware),
        b"TCGTCGTCGTCG" => Some(Hypervisor::Tcg),
        _ => Some(Hypervisor::Other(text)),
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    fn leaf(last: u32, text: &[u8; 12]) -> [u32; 4] {
        let word = |i: usize| u32::from_le_bytes(text[i * 4..][..4].try_into().unwrap());
        [last, word(0), word(1), word(2)]
    }

    #[test]
    fn finds_hyper_v_and_kvm_together() {
        let found: Vec<_> = search(|at| match at {
            1 => [0, 0, 1 << 31, 0],
            0x4000_0000 => leaf(0x4000_000b, b"Microsoft Hv"),
            0x4000_0100 => leaf(0x4000_0101, b"KVMKVMKVM\0\0\0"),
            _ => [0; 4],
        })
        .collect();
        let expected = [(Hypervisor::HyperV, 0x4000_0000), (Hypervisor::Kvm, 0x4000_0100)];
        assert_eq!(found, expected.map(|(hypervisor, base)| Leaves { hypervisor, base }));
    }

    #[test]
    fn bare_metal_has_no_hypervisor_for_any_leaf_content() {
        assert_eq!(search(|_| [7, 0x756e_6547, 0, 0]).count(), 0);
        assert_eq!(search(|at| if at == 1 { [0, 0, 1 << 31, 0] } else { [0x16, 0x20, 1, 0xff] }).count(), 0);
    }
}

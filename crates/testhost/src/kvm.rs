//! A KVM host, as far as its clock needs one: CPUID leaves and the registers of kvmclock.

use crate::Guest;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// KVM's CPUID leaves: the signature, then the features.
const SIGNATURE_LEAF: u32 = 0x4000_0000;
const FEATURES_LEAF: u32 = SIGNATURE_LEAF + 1;
/// KVM_FEATURE_CLOCKSOURCE2 and KVM_FEATURE_CLOCKSOURCE_STABLE_BIT.
const FEATURES: u32 = 1 << 3 | 1 << 24;
/// MSR_KVM_SYSTEM_TIME_NEW.
const SYSTEM_TIME: u32 = 0x4b56_4d01;
/// PVCLOCK_TSC_STABLE_BIT: the structures of all processors agree.
const STABLE: u8 = 1 << 0;

/// A KVM host that offers kvmclock. A handle: clones are the same host.
#[derive(Clone)]
pub struct KvmHost(Arc<Mutex<BTreeMap<u32, u64>>>);

impl KvmHost {
    /// Makes KVM the hypervisor of `guest`.
    pub fn new(guest: &Guest) -> Self {
        let host = Self(Arc::default());
        guest.set_kvm(host.clone());
        host
    }

    /// The processors on which the clock is enabled.
    pub fn processors_in_use(&self) -> Vec<u32> {
        self.0.lock().expect("the host").keys().copied().collect()
    }

    pub(crate) fn cpuid(leaf: u32) -> [u32; 4] {
        let text = |bytes| u32::from_le_bytes(bytes);
        match leaf {
            1 => [0, 0, 1 << 31, 0],
            SIGNATURE_LEAF => [FEATURES_LEAF, text(*b"KVMK"), text(*b"VMKV"), text(*b"M\0\0\0")],
            FEATURES_LEAF => [FEATURES, 0, 0, 0],
            _ => [0; 4],
        }
    }

    /// Writes the time structure of a processor where the guest enables the clock. The guest's cycle counter counts nanoseconds.
    pub(crate) fn write_msr(&self, guest: &Guest, processor: u32, index: u32, value: u64) {
        assert_eq!(index, SYSTEM_TIME, "register {index:#x} is written, which is not offered");
        let mut enabled = self.0.lock().expect("the host");
        if value & 1 == 0 {
            enabled.remove(&processor);
            return;
        }
        // Two to the power of 32, in units of 2^-32: a shift by one, and half of it.
        let (version, shift, multiplier) = (2u32, 1u8, 1u32 << 31);
        let mut time = [0; 32];
        time[..4].copy_from_slice(&version.to_le_bytes());
        time[24..28].copy_from_slice(&multiplier.to_le_bytes());
        time[28..30].copy_from_slice(&[shift, STABLE]);
        enabled.insert(processor, value & !1);
        guest.write(value & !1, &time);
    }
}

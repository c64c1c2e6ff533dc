//! VMware's hypervisor, as far as its clock needs one: CPUID leaves, and a port.

use crate::Guest;

const SIGNATURE_LEAF: u32 = 0x4000_0000;
const TIMING_LEAF: u32 = 0x4000_0010;
const MAGIC: u32 = 0x564d_5868;

/// VMware's hypervisor.
#[derive(Copy, Clone, Debug)]
#[non_exhaustive]
pub struct VmwareHypervisor {
    /// The frequency in its leaves, in kHz: 0 if they do not tell it. `None` if it has no leaves, and hides that it is there.
    pub khz: Option<u32>,
    /// The frequency that its port tells, in Hz; `None` if that call does not exist, as in QEMU.
    pub hz: Option<u64>,
    /// Whether there is the port.
    pub has_port: bool,
}

impl VmwareHypervisor {
    /// One with leaves that tell this frequency, and a port that does not tell it.
    pub fn with_leaves(khz: u32) -> Self {
        Self { khz: Some(khz), hz: None, has_port: true }
    }

    /// One that is known by its port alone.
    pub fn with_port(hz: Option<u64>) -> Self {
        Self { khz: None, hz, has_port: true }
    }

    /// Makes it the hypervisor of `guest`.
    pub fn attach(self, guest: &Guest) {
        guest.set_vmware(self);
    }

    pub(crate) fn cpuid(&self, leaf: u32) -> [u32; 4] {
        let text = |bytes| u32::from_le_bytes(bytes);
        match (leaf, self.khz) {
            (1, Some(_)) => [0, 0, 1 << 31, 0],
            (SIGNATURE_LEAF, Some(_)) => [TIMING_LEAF, text(*b"VMwa"), text(*b"reVM"), text(*b"ware")],
            (TIMING_LEAF, Some(khz)) => [khz, 0, 0, 0],
            _ => [0; 4],
        }
    }

    pub(crate) fn call(&self, command: u32, parameter: u32) -> [u32; 4] {
        match (command, self.hz) {
            _ if !self.has_port => [u32::MAX, parameter, command, 0x5658],
            (10, _) => [6, MAGIC, 2, 0x5658],
            (45, Some(hz)) => [hz as u32, (hz >> 32) as u32, 0, 0x5658],
            _ => [MAGIC, u32::MAX, command, 0x5658],
        }
    }
}

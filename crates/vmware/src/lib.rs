//! VMware's hypervisor: its detection, and a clock from the frequency of its cycle counter.
//!
//! [`VMware::detect`] finds the hypervisor by its CPUID leaves, or where there are none of any hypervisor by its port (the "backdoor"), which
//! the platform gives access to with [`PortIo::vmware_call`](paravirt_platform::PortIo::vmware_call). Two calls of the port are made, of
//! which neither changes anything: for the version, and for the frequency of the cycle counter. VMware's devices need nothing of this
//! crate: they are found on PCI, on any hypervisor.
//!
//! ```
//! use paravirt_device::Clock;
//! use paravirt_testhost::{Guest, VmwareHypervisor};
//! use paravirt_vmware::{TscClock, VMware};
//!
//! let guest = Guest::new();
//! assert_eq!(VMware::detect(&guest), None);
//! VmwareHypervisor::with_leaves(1_000_000).attach(&guest);
//! let vmware = VMware::detect(&guest).expect("the hypervisor");
//! let clock = TscClock::open(&guest, &vmware).expect("a frequency");
//! assert!(clock.now() <= clock.now());
//! ```
//!
//! Source: VMware's "Mechanisms to determine if software is running in a VMware virtual machine" (KB 1009458); Linux 6.12
//! `arch/x86/kernel/cpu/vmware.c`.
#![no_std]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

use core::fmt;
use paravirt_device::Clock;
use paravirt_platform::{Instant, Platform};

/// The first CPUID leaf of a hypervisor, and the signature of this one.
const SIGNATURE_LEAF: u32 = 0x4000_0000;
const SIGNATURE: &[u8; 12] = b"VMwareVMware";
/// The leaf with frequencies, in kHz: that of the cycle counter in EAX.
const TIMING_LEAF: u32 = 0x4000_0010;
/// In ECX of leaf 1: there is a hypervisor.
const HYPERVISOR: u32 = 1 << 31;
/// Calls of the port, and what EBX is after one that exists.
const GET_VERSION: u32 = 10;
const GET_HZ: u32 = 45;
const MAGIC: u32 = 0x564d_5868;
/// The frequencies that are believed, in Hz.
const FREQUENCIES: core::ops::RangeInclusive<u64> = 1_000_000..=100_000_000_000;
/// The bits of the fraction by which cycles become nanoseconds.
const SHIFT: u32 = 48;
const NANOS: u128 = 1_000_000_000;

/// VMware's hypervisor, as it was detected.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct VMware {
    /// Whether it has CPUID leaves; otherwise it was detected by its port.
    pub has_leaves: bool,
    /// The frequency of the cycle counter in Hz; `None` if the hypervisor does not tell it.
    pub tsc_hz: Option<u64>,
}

impl VMware {
    /// Detects the hypervisor; `None` if it is another one, or none. Executes CPUID and the port a few times. Not for interrupt context.
    ///
    /// The port is tried if CPUID tells of no hypervisor at all, or of this one without a frequency, and the platform gives access to it. A
    /// port without a device reads as all ones; in a confidential virtual machine, where it might fault, the platform gives no access.
    pub fn detect<P: Platform>(platform: &P) -> Option<Self> {
        let registers = platform.registers();
        let [.., features, _] = registers.cpuid(1);
        if features & HYPERVISOR == 0 {
            return Self::by_port(platform);
        }
        let [last, ebx, ecx, edx] = registers.cpuid(SIGNATURE_LEAF);
        let words = [ebx, ecx, edx].map(u32::to_le_bytes);
        if words.as_flattened() != SIGNATURE {
            return None;
        }
        let leaf = if last >= TIMING_LEAF { registers.cpuid(TIMING_LEAF) } else { [0; 4] };
        let [khz, ..] = leaf;
        let tsc_hz = believed(u64::from(khz).saturating_mul(1000)).or_else(|| frequency(platform));
        Some(Self { has_leaves: true, tsc_hz })
    }

    fn by_port<P: Platform>(platform: &P) -> Option<Self> {
        let [version, magic, ..] = call(platform, GET_VERSION, u32::MAX)?;
        if version == u32::MAX || magic != MAGIC {
            return None;
        }
        Some(Self { has_leaves: false, tsc_hz: frequency(platform) })
    }
}

/// The frequency of the cycle counter by the port.
fn frequency<P: Platform>(platform: &P) -> Option<u64> {
    let [low, high, ..] = call(platform, GET_HZ, u32::MAX)?;
    // A call that does not exist leaves the parameter as it was.
    let hz = u64::from(low) | u64::from(high) << 32;
    believed(hz).filter(|_| high != u32::MAX)
}

fn believed(hz: u64) -> Option<u64> {
    FREQUENCIES.contains(&hz).then_some(hz)
}

fn call<P: Platform>(platform: &P, command: u32, parameter: u32) -> Option<[u32; 4]> {
    // SAFETY: both commands that are used here only read.
    unsafe { platform.port_io().vmware_call(command, parameter) }
}

/// The time since this value was opened, from the cycle counter, which is constant and the same on all virtual processors on VMware's
/// hypervisor.
///
/// Reading it takes no lock and no exit, and is allowed in interrupt context.
pub struct TscClock<P: Platform> {
    platform: P,
    start: u64,
    /// Nanoseconds in a cycle, with [`SHIFT`] bits of fraction.
    multiplier: u64,
}

impl<P: Platform> TscClock<P> {
    /// Opens the clock; `None` if the hypervisor does not tell the frequency.
    pub fn open(platform: &P, vmware: &VMware) -> Option<Self> {
        let hz = vmware.tsc_hz.filter(|hz| FREQUENCIES.contains(hz))?;
        let multiplier = u64::try_from((NANOS << SHIFT).checked_div(u128::from(hz))?).ok()?;
        Some(Self { platform: platform.clone(), start: platform.registers().tsc(), multiplier })
    }
}

impl<P: Platform> Clock for TscClock<P> {
    fn now(&self) -> Instant {
        // A processor that is a few cycles behind the one that opened the clock.
        let cycles = self.platform.registers().tsc().saturating_sub(self.start);
        let nanos = u128::from(cycles).wrapping_mul(u128::from(self.multiplier)) >> SHIFT;
        Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl<P: Platform> fmt::Debug for TscClock<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TscClock").field("multiplier", &self.multiplier).finish_non_exhaustive()
    }
}

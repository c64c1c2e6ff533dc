//! The kernel's clock: the time stamp counter (TSC). Its rate is read from the hypervisor or CPUID, or measured.

use super::acpi;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use paravirt_platform::Instant;
use raw_cpuid::native_cpuid::cpuid_count;
use x86_64::instructions::port::Port;
use x86_64::registers::model_specific::Msr;

/// Where the rate of the TSC was read.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Source {
    KvmClock,
    HyperV,
    Xen,
    Cpuid,
    PmTimer,
    Pit,
    /// No source: 1 GHz is assumed.
    Guess,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KvmClock => "kvmclock",
            Self::HyperV => "hyper-v",
            Self::Xen => "xen",
            Self::Cpuid => "cpuid",
            Self::PmTimer => "pm-timer",
            Self::Pit => "pit",
            Self::Guess => "guess",
        })
    }
}

/// The count when the kernel started.
static START: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds per count, as a fixed-point number with 32 fractional bits.
static SCALE: AtomicU64 = AtomicU64::new(1 << 32);
const PM_TIMER_HZ: u64 = 3_579_545;
const PIT_HZ: u64 = 1_193_182;
/// The rate that is assumed if no source reports it.
const GUESS_HZ: u64 = 1_000_000_000;

fn counter() -> u64 {
    // SAFETY: every processor with long mode has the instruction.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Returns the time since the kernel started.
pub fn now() -> Instant {
    let count = counter().wrapping_sub(START.load(Ordering::Relaxed));
    Instant::from_nanos(((u128::from(count) * u128::from(SCALE.load(Ordering::Relaxed))) >> 32) as u64)
}

/// Starts the clock; returns the rate of the TSC in Hz, and where it was read.
pub fn init() -> (Source, u64) {
    START.store(counter(), Ordering::Relaxed);
    let (source, hz) = kvmclock()
        .map(|hz| (Source::KvmClock, hz))
        .or_else(|| hyperv().map(|hz| (Source::HyperV, hz)))
        .or_else(|| super::xen::hz().map(|hz| (Source::Xen, hz)))
        .or_else(|| cpuid().map(|hz| (Source::Cpuid, hz)))
        .or_else(|| pm_timer().map(|hz| (Source::PmTimer, hz)))
        .or_else(|| pit().map(|hz| (Source::Pit, hz)))
        .unwrap_or((Source::Guess, GUESS_HZ));
    SCALE.store(((1_000_000_000u128 << 32) / u128::from(hz)) as u64, Ordering::Relaxed);
    (source, hz)
}

/// Returns the base of the CPUID leaves of hypervisor `wanted`, if it is present.
fn leaves(wanted: paravirt::hypervisor::Hypervisor) -> Option<u32> {
    paravirt::hypervisor::detect(&crate::platform::Machine).find(|l| l.hypervisor == wanted).map(|l| l.base)
}

/// Reads the rate from the kvmclock page. Linux Documentation/virt/kvm/x86/msr.rst
fn kvmclock() -> Option<u64> {
    const FEATURE: u32 = 1 << 3;
    const SYSTEM_TIME: u32 = 0x4b56_4d01;
    #[repr(C, align(64))]
    struct Page([u8; 32]);
    let base = leaves(paravirt::hypervisor::Hypervisor::Kvm)?;
    if cpuid_count(base + 1, 0).eax & FEATURE == 0 {
        return None;
    }
    let page = Page([0; 32]);
    let at = &raw const page as u64;
    // SAFETY: KVM offers the register; the page is on the stack, which is mapped one to one, until the clock is disabled.
    let (mul, shift) = unsafe {
        Msr::new(SYSTEM_TIME).write(at | 1);
        let mul = ((at + 24) as *const u32).read_volatile();
        let shift = ((at + 28) as *const i8).read_volatile();
        Msr::new(SYSTEM_TIME).write(0);
        (mul, shift)
    };
    // Nanoseconds are (counts << shift) * mul >> 32.
    let hz = (1_000_000_000u128 << 32).checked_div(u128::from(mul))?;
    let hz = if shift >= 0 { hz >> shift } else { hz << -shift };
    u64::try_from(hz).ok().filter(|hz| *hz > 1_000_000)
}

/// Reads the rate from the TSC frequency MSR. TLFS §12.2.1
fn hyperv() -> Option<u64> {
    const ACCESS_FREQUENCY_MSRS: u32 = 1 << 11;
    const FREQUENCY_MSRS_AVAILABLE: u32 = 1 << 8;
    const TSC_FREQUENCY: u32 = 0x4000_0022;
    let base = leaves(paravirt::hypervisor::Hypervisor::HyperV)?;
    let features = cpuid_count(base + 3, 0);
    if features.eax & ACCESS_FREQUENCY_MSRS == 0 || features.edx & FREQUENCY_MSRS_AVAILABLE == 0 {
        return None;
    }
    // SAFETY: the host offers the register.
    Some(unsafe { Msr::new(TSC_FREQUENCY).read() }).filter(|hz| *hz > 1_000_000)
}

/// Reads the rate from CPUID leaf 15H (Intel SDM), or from hypervisor leaf 10H, which VMware introduced and others have.
fn cpuid() -> Option<u64> {
    if cpuid_count(0, 0).eax >= 0x15 {
        let leaf = cpuid_count(0x15, 0);
        let hz = (u64::from(leaf.ecx) * u64::from(leaf.ebx)).checked_div(u64::from(leaf.eax));
        if let Some(hz) = hz.filter(|hz| *hz > 1_000_000) {
            return Some(hz);
        }
    }
    let base = paravirt::hypervisor::detect(&crate::platform::Machine).next()?.base;
    let has_leaf = cpuid_count(base, 0).eax >= base + 0x10;
    has_leaf.then(|| u64::from(cpuid_count(base + 0x10, 0).eax) * 1000).filter(|hz| *hz > 1_000_000)
}

/// Reads of a counter after which one that has not moved is taken for absent: a read of a port takes a microsecond or longer.
const READS: u32 = 1000;
/// The cycles that a measurement may take: a second and more on any processor.
const MOST_CYCLES: u64 = 4_000_000_000;

/// Measures the TSC for a fiftieth of a second with another counter, which `read` reads, of rate `hz` and width `mask`. Returns
/// `None` if that counter does not count, or not in time: each read may be an exit to the hypervisor.
fn measure_with(hz: u64, mask: u64, mut read: impl FnMut() -> u64) -> Option<u64> {
    let wanted = hz / 50;
    let (mut last, mut passed, mut reads) = (read(), 0, 0);
    let start = counter();
    loop {
        let now = read();
        let cycles = counter().wrapping_sub(start);
        passed += now.wrapping_sub(last) & mask;
        last = now;
        if passed >= wanted {
            return Some((u128::from(cycles) * u128::from(hz) / u128::from(passed)) as u64);
        }
        reads += 1;
        if passed == 0 && reads >= READS || cycles > MOST_CYCLES {
            return None;
        }
    }
}

fn pm_timer() -> Option<u64> {
    let (port, is_wide) = acpi::timer()?;
    let mask = if is_wide { u64::from(u32::MAX) } else { 0xff_ffff };
    // SAFETY: the FADT names the port.
    measure_with(PM_TIMER_HZ, mask, || unsafe { u64::from(Port::<u32>::new(port).read()) & mask })
}

/// Measures with channel 2 of the PIT, a 16-bit down counter. Without a PIT it does not count.
fn pit() -> Option<u64> {
    const CONTROL: u16 = 0x43;
    const CHANNEL2: u16 = 0x42;
    const GATE: u16 = 0x61;
    // SAFETY: the ports belong to the PIT or to no device.
    unsafe {
        let gate = Port::<u8>::new(GATE).read();
        Port::<u8>::new(GATE).write(gate & !2 | 1);
        // Mode 2, low byte then high byte.
        Port::<u8>::new(CONTROL).write(0xb4);
        Port::<u8>::new(CHANNEL2).write(0xff);
        Port::<u8>::new(CHANNEL2).write(0xff);
        measure_with(PIT_HZ, 0xffff, || {
            Port::<u8>::new(CONTROL).write(0x80);
            let low = Port::<u8>::new(CHANNEL2).read();
            let high = Port::<u8>::new(CHANNEL2).read();
            u64::from(u16::from_le_bytes([low, high])).wrapping_neg() & 0xffff
        })
    }
}

//! The local APIC, by its registers in memory or by x2APIC MSRs, and the I/O APICs. Intel SDM volume 3 chapter 12

use super::acpi::{self, IoApic};
use super::interrupts::TIMER;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use paravirt_platform::{BindError, InterruptLine, MapError, Polarity, Trigger};
use spin::Mutex;
use x86_64::registers::model_specific::Msr;

const APIC_BASE: u32 = 0x1b;
const BASE_ENABLE: u64 = 1 << 11;
const BASE_X2APIC: u64 = 1 << 10;
const X2APIC_MSR: u32 = 0x800;

/// Registers, by their MMIO offset.
const ID: u32 = 0x20;
const EOI: u32 = 0xb0;
const SPURIOUS: u32 = 0xf0;
const ICR: u32 = 0x300;
const ICR_HIGH: u32 = 0x310;
const LVT_TIMER: u32 = 0x320;
const LVT_LINT0: u32 = 0x350;
const LVT_LINT1: u32 = 0x360;
const TIMER_INITIAL: u32 = 0x380;
const TIMER_CURRENT: u32 = 0x390;
const TIMER_DIVIDE: u32 = 0x3e0;

const MASKED: u32 = 1 << 16;
const SOFTWARE_ENABLE: u32 = 1 << 8;
const ICR_INIT: u32 = 0x4500;
const ICR_STARTUP: u32 = 0x4600;
const ICR_FIXED: u32 = 0x4000;
const ICR_BUSY: u32 = 1 << 12;

static IS_X2APIC: AtomicBool = AtomicBool::new(false);
/// The virtual address of the registers in xAPIC mode.
static BASE: AtomicU64 = AtomicU64::new(0);
/// Ticks of the local timer per millisecond.
static TICKS: AtomicU64 = AtomicU64::new(0);

fn read(register: u32) -> u32 {
    // SAFETY: the local APIC is present and enabled, in the mode that `IS_X2APIC` holds.
    unsafe {
        match IS_X2APIC.load(Ordering::Relaxed) {
            true => Msr::new(X2APIC_MSR + (register >> 4)).read() as u32,
            false => ((BASE.load(Ordering::Relaxed) + u64::from(register)) as *const u32).read_volatile(),
        }
    }
}

fn write(register: u32, value: u32) {
    // SAFETY: as in `read`.
    unsafe {
        match IS_X2APIC.load(Ordering::Relaxed) {
            true => Msr::new(X2APIC_MSR + (register >> 4)).write(u64::from(value)),
            false => ((BASE.load(Ordering::Relaxed) + u64::from(register)) as *mut u32).write_volatile(value),
        }
    }
}

/// Enables this processor's local APIC, in x2APIC mode if the processor has it.
///
/// # Errors
///
/// The registers cannot be mapped.
pub fn init() -> Result<(), MapError> {
    let has_x2apic = raw_cpuid::CpuId::new().get_feature_info().is_some_and(|f| f.has_x2apic());
    let mut msr = Msr::new(APIC_BASE);
    // SAFETY: every processor with long mode has the register.
    let base = unsafe { msr.read() };
    let mode = if has_x2apic { BASE_X2APIC } else { 0 };
    // SAFETY: the mode goes from disabled or xAPIC to xAPIC or x2APIC in the order that the SDM requires.
    unsafe {
        msr.write(base | BASE_ENABLE);
        msr.write(base | BASE_ENABLE | mode);
    }
    if BASE.load(Ordering::Relaxed) == 0 {
        IS_X2APIC.store(has_x2apic, Ordering::Relaxed);
        BASE.store(
            crate::memory::map(base & 0x000f_ffff_ffff_f000, 4096)?.as_ptr() as u64,
            Ordering::Relaxed,
        );
    }
    write(SPURIOUS, SOFTWARE_ENABLE | 0xff);
    write(LVT_LINT0, MASKED);
    write(LVT_LINT1, MASKED);
    write(LVT_TIMER, MASKED | u32::from(TIMER));
    write(TIMER_DIVIDE, 0b1011);
    Ok(())
}

/// Returns this processor's APIC id.
pub fn id() -> u32 {
    if IS_X2APIC.load(Ordering::Relaxed) { read(ID) } else { read(ID) >> 24 }
}

/// Returns whether the APICs are in x2APIC mode.
pub fn is_x2apic() -> bool {
    IS_X2APIC.load(Ordering::Relaxed)
}

pub fn end_of_interrupt() {
    write(EOI, 0);
}

fn command(destination: u32, low: u32) {
    if IS_X2APIC.load(Ordering::Relaxed) {
        // SAFETY: as in `read`; in x2APIC mode one write sends the whole command.
        unsafe { Msr::new(X2APIC_MSR + (ICR >> 4)).write(u64::from(destination) << 32 | u64::from(low)) }
        return;
    }
    x86_64::instructions::interrupts::without_interrupts(|| {
        write(ICR_HIGH, destination << 24);
        write(ICR, low);
        while read(ICR) & ICR_BUSY != 0 {
            core::hint::spin_loop();
        }
    });
}

/// Sends an interrupt to the processor whose APIC id is `destination`.
pub fn send(destination: u32, vector: u8) {
    command(destination, ICR_FIXED | u32::from(vector));
}

/// Sends INIT, which resets the processor whose APIC id is `destination`.
pub fn send_init(destination: u32) {
    command(destination, ICR_INIT);
}

/// Sends SIPI, which starts the processor whose APIC id is `destination` at page number `page`, below 1 MiB.
pub fn send_startup(destination: u32, page: u8) {
    command(destination, ICR_STARTUP | u32::from(page));
}

/// Measures the rate of the local timer with the kernel's clock.
pub fn calibrate() {
    write(TIMER_INITIAL, u32::MAX);
    let start = super::time::now();
    while super::time::now().since(start).as_millis() < 10 {
        core::hint::spin_loop();
    }
    let ticks = u64::from(u32::MAX - read(TIMER_CURRENT));
    let micros = super::time::now().since(start).as_micros().max(1) as u64;
    write(TIMER_INITIAL, 0);
    TICKS.store((ticks * 1000 / micros).max(1), Ordering::Relaxed);
}

/// Raises the timer interrupt once, after `nanos` nanoseconds, or after the longest time that the timer can count if that is
/// shorter. `None` stops the timer.
pub fn set_timer(nanos: Option<u64>) {
    match nanos {
        None => write(TIMER_INITIAL, 0),
        Some(nanos) => {
            let ticks = u128::from(nanos) * u128::from(TICKS.load(Ordering::Relaxed)) / 1_000_000;
            write(LVT_TIMER, u32::from(TIMER));
            write(TIMER_INITIAL, u32::try_from(ticks).unwrap_or(u32::MAX).max(1));
        }
    }
}

static IO_APICS: Mutex<()> = Mutex::new(());
const IO_SELECT: u64 = 0;
const IO_WINDOW: u64 = 0x10;
const IO_VERSION: u32 = 1;
const IO_TABLE: u32 = 0x10;
const IO_LOW: u32 = 1 << 13;
const IO_LEVEL: u32 = 1 << 15;

/// Reads a register of an I/O APIC, or writes `value` to it.
///
/// # Safety
///
/// `base` is the virtual address of an I/O APIC's registers.
unsafe fn io_access(base: u64, register: u32, value: Option<u32>) -> u32 {
    // SAFETY: by the contract of this function, which is that of the callee.
    unsafe {
        ((base + IO_SELECT) as *mut u32).write_volatile(register);
        let window = (base + IO_WINDOW) as *mut u32;
        match value {
            Some(value) => {
                window.write_volatile(value);
                value
            }
            None => window.read_volatile(),
        }
    }
}

/// Routes an interrupt line to a vector of the first processor. An ISA interrupt is first mapped by the MADT's overrides.
///
/// # Errors
///
/// No I/O APIC has the line, or its registers cannot be mapped.
pub fn route(line: InterruptLine, vector: u8) -> Result<(), BindError> {
    let line = acpi::apply_override(line);
    let mut low = u32::from(vector);
    low |= if line.trigger == Trigger::Level { IO_LEVEL } else { 0 };
    low |= if line.polarity == Polarity::Low { IO_LOW } else { 0 };
    set_entry(line.number, low)
}

/// Masks an interrupt line that was routed.
pub fn mask(line: InterruptLine) {
    // A line that no I/O APIC has was not routed.
    let _ = set_entry(acpi::apply_override(line).number, MASKED);
}

/// Writes the entry of a global system interrupt, for the first processor.
fn set_entry(number: u32, low: u32) -> Result<(), BindError> {
    x86_64::instructions::interrupts::without_interrupts(|| {
        let _one = IO_APICS.lock();
        for IoApic { address, first } in acpi::io_apics().into_iter().flatten() {
            let Some(pin) = number.checked_sub(first) else { continue };
            let base = crate::memory::map(u64::from(address), 32).map_err(|_| BindError::Unsupported)?;
            let base = base.as_ptr() as u64;
            // SAFETY: the MADT names an I/O APIC at this address.
            unsafe {
                if pin <= io_access(base, IO_VERSION, None) >> 16 & 0xff {
                    io_access(base, IO_TABLE + pin * 2 + 1, Some((crate::smp::id(0) as u32) << 24));
                    io_access(base, IO_TABLE + pin * 2, Some(low));
                    return Ok(());
                }
            }
        }
        Err(BindError::Unsupported)
    })
}

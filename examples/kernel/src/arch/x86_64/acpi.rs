//! Information from the ACPI tables: processors, I/O APICs, the PM timer and how to power off.

use acpi::fadt::Fadt;
use acpi::madt::{Madt, MadtEntry};
use acpi::{AcpiHandler, AcpiTables, PhysicalMapping};
use core::ops::ControlFlow;
use core::time::Duration;
use paravirt::{Physical, acpi_tables, with_table};
use paravirt_firmware::aml;
use paravirt_firmware::tables::find_rsdp;
use paravirt_platform::{InterruptLine, Polarity, Trigger};
use spin::Mutex;
use x86_64::instructions::port::Port;

use super::time;
use crate::platform::Machine;
use crate::smp::MAX_PROCESSORS;

const MAX_IO_APICS: usize = 8;
const ISA_LINES: usize = 16;
/// The I/O APIC of a PC without ACPI.
const DEFAULT_IO_APIC: IoApic = IoApic { address: 0xfec0_0000, first: 0 };

#[derive(Copy, Clone)]
pub struct IoApic {
    /// The physical address of its registers.
    pub address: u32,
    /// The global system interrupt of its first pin.
    pub first: u32,
}

/// How to power the machine off.
#[derive(Copy, Clone)]
enum Power {
    /// The PM1 control registers, each with its sleep type for S5; `enable` is the port and the value that switch to ACPI mode, if
    /// firmware leaves that to the kernel.
    Pm1 { a: (u16, u8), b: Option<(u16, u8)>, enable: Option<(u16, u8)> },
    /// The sleep control register of hardware-reduced ACPI, in memory or I/O space.
    Sleep { is_io: bool, address: u64, sleep_type: u8 },
}

struct Board {
    processors: [Option<u32>; MAX_PROCESSORS],
    /// Processors beyond [`MAX_PROCESSORS`].
    ignored: usize,
    io_apics: [Option<IoApic>; MAX_IO_APICS],
    overrides: [Option<InterruptLine>; ISA_LINES],
    power: Option<Power>,
    /// The port of the PM timer, and whether it has 32 bits (else 24).
    timer: Option<(u16, bool)>,
}

static BOARD: Mutex<Board> = Mutex::new(Board {
    processors: [None; MAX_PROCESSORS],
    ignored: 0,
    io_apics: [None; MAX_IO_APICS],
    overrides: [None; ISA_LINES],
    power: None,
    timer: None,
});

#[derive(Clone)]
struct Identity;

impl AcpiHandler for Identity {
    unsafe fn map_physical_region<T>(&self, address: usize, size: usize) -> PhysicalMapping<Self, T> {
        let Some(start) = crate::memory::map_firmware(address as u64, size).ok().filter(|_| address != 0)
        else {
            panic!("ACPI table of {size} bytes at {address:#x} cannot be mapped");
        };
        // SAFETY: the range is mapped.
        unsafe { PhysicalMapping::new(address, start.cast(), size, size, Self) }
    }
    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

/// Reads the tables; returns the RSDP's address, if there is one.
pub fn init(rsdp: Option<u64>) -> Option<u64> {
    // SAFETY: addresses in firmware tables point to memory.
    let memory = unsafe { Physical::new(&Machine) };
    let rsdp = rsdp.or_else(|| find_rsdp(&memory));
    let mut board = BOARD.lock();
    if let Some(rsdp) = rsdp {
        // SAFETY: the loader reported the RSDP there, or it was found in the BIOS area.
        if let Ok(tables) = unsafe { AcpiTables::from_rsdp(Identity, rsdp as usize) } {
            if let Ok(madt) = tables.find_table::<Madt>() {
                read_madt(&mut board, madt.get());
            }
            if let Ok(fadt) = tables.find_table::<Fadt>() {
                let mut sleep = None;
                acpi_tables(&memory, Some(rsdp), |table| {
                    if matches!(&table.signature, b"DSDT" | b"SSDT") {
                        sleep = with_table(&memory, &table, aml::sleep_type_s5).ok().flatten();
                    }
                    if sleep.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                });
                read_fadt(&mut board, &fadt, sleep);
            }
        }
    }
    if board.io_apics.iter().all(Option::is_none) && rsdp.is_none() {
        board.io_apics[0] = Some(DEFAULT_IO_APIC);
    }
    rsdp
}

fn read_madt(board: &mut Board, madt: core::pin::Pin<&Madt>) {
    let mut processors = board.processors.iter_mut();
    let mut io_apics = board.io_apics.iter_mut();
    let mut add = |id: u32, flags: u32| {
        // Enabled.
        match processors.next() {
            _ if flags & 1 == 0 => {}
            Some(slot) => *slot = Some(id),
            None => board.ignored += 1,
        }
    };
    for entry in madt.entries() {
        match entry {
            MadtEntry::LocalApic(apic) => add(u32::from(apic.apic_id), apic.flags),
            MadtEntry::LocalX2Apic(apic) => add(apic.x2apic_id, apic.flags),
            MadtEntry::IoApic(io) => {
                if let Some(slot) = io_apics.next() {
                    *slot =
                        Some(IoApic { address: io.io_apic_address, first: io.global_system_interrupt_base });
                }
            }
            MadtEntry::InterruptSourceOverride(o) => {
                if let Some(slot) = board.overrides.get_mut(usize::from(o.irq)) {
                    let polarity = if o.flags & 3 == 3 { Polarity::Low } else { Polarity::High };
                    let trigger = if o.flags >> 2 & 3 == 3 { Trigger::Level } else { Trigger::Edge };
                    *slot = Some(InterruptLine { number: o.global_system_interrupt, trigger, polarity });
                }
            }
            _ => {}
        }
    }
}

fn read_fadt(board: &mut Board, fadt: &Fadt, sleep: Option<(u8, u8)>) {
    use acpi::address::AddressSpace;
    if let Ok(Some(timer)) = fadt.pm_timer_block()
        && timer.address_space == AddressSpace::SystemIo
    {
        let flags = { fadt.flags };
        board.timer = u16::try_from(timer.address).ok().map(|port| (port, flags.pm_timer_is_32_bit()));
    }
    let Some((type_a, type_b)) = sleep else { return };
    let flags = { fadt.flags };
    // A FADT may name the register though it is not used. ACPI 6.5 §4.8.3.7
    if flags.system_is_hw_reduced_acpi()
        && let Ok(Some(register)) = fadt.sleep_control_register()
        && register.address != 0
    {
        let is_io = register.address_space == AddressSpace::SystemIo;
        board.power = Some(Power::Sleep { is_io, address: register.address, sleep_type: type_a });
    } else if let Ok(a) = fadt.pm1a_control_block()
        && let Ok(port) = u16::try_from(a.address)
        && port != 0
    {
        let b = fadt.pm1b_control_block().ok().flatten().and_then(|b| u16::try_from(b.address).ok());
        let b = b.filter(|port| *port != 0).map(|port| (port, type_b));
        let smi = u16::try_from(fadt.smi_cmd_port).ok().filter(|port| *port != 0);
        let enable = smi.map(|port| (port, fadt.acpi_enable)).filter(|(_, value)| *value != 0);
        board.power = Some(Power::Pm1 { a: (port, type_a), b, enable });
    }
}

/// Returns the number of processors that are not in [`processors`].
pub fn ignored_processors() -> usize {
    BOARD.lock().ignored
}

/// Returns the APIC ids of the processors.
pub fn processors() -> [Option<u32>; MAX_PROCESSORS] {
    BOARD.lock().processors
}

pub fn io_apics() -> [Option<IoApic>; MAX_IO_APICS] {
    BOARD.lock().io_apics
}

/// Returns the port of the PM timer, and whether it has 32 bits (else 24).
pub fn timer() -> Option<(u16, bool)> {
    BOARD.lock().timer
}

/// Returns the global system interrupt of an ISA interrupt, by the overrides of the MADT; other lines are returned unchanged.
pub fn apply_override(line: InterruptLine) -> InterruptLine {
    match BOARD.lock().overrides.get(line.number as usize) {
        Some(Some(other)) => InterruptLine { trigger: line.trigger, ..*other },
        _ => line,
    }
}

/// Powers the machine off (state S5) if ACPI describes how, and waits for that to happen. Returns if it did not.
pub fn power_off() {
    const SCI_ENABLE_PM1: u16 = 1 << 0;
    const SLEEP_TYPE_PM1: u16 = 7 << 10;
    const SLEEP_ENABLE_PM1: u16 = 1 << 13;
    const SLEEP_ENABLE: u8 = 1 << 5;
    // The code that panicked may hold the lock.
    let Some(board) = BOARD.try_lock() else { return };
    // SAFETY: the FADT names the ports and registers.
    unsafe {
        match board.power {
            Some(Power::Pm1 { a, b, enable }) => {
                let mut control = Port::<u16>::new(a.0);
                if let Some((port, value)) = enable.filter(|_| control.read() & SCI_ENABLE_PM1 == 0) {
                    Port::<u8>::new(port).write(value);
                    wait(|| control.read() & SCI_ENABLE_PM1 != 0);
                }
                for (port, sleep_type) in [Some(a), b].into_iter().flatten() {
                    let mut control = Port::<u16>::new(port);
                    let others = control.read() & !SLEEP_TYPE_PM1;
                    control.write(others | u16::from(sleep_type) << 10 | SLEEP_ENABLE_PM1);
                }
            }
            Some(Power::Sleep { is_io, address, sleep_type }) => {
                let value = sleep_type << 2 | SLEEP_ENABLE;
                if is_io {
                    Port::<u8>::new(address as u16).write(value);
                } else if let Ok(register) = crate::memory::map(address, 1) {
                    register.as_ptr().write_volatile(value);
                }
            }
            None => return,
        }
        // The processor may run for a while before power is off; a triple fault in that time would look like a crash.
        wait(|| false);
    }
}

/// How long to wait for firmware.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Limits the wait if the kernel fails before its clock runs.
const MAX_POLLS: u32 = 1_000_000;

/// Waits for a reset that was requested to happen.
pub fn wait_a_second() {
    wait(|| false);
}

fn wait(mut is_done: impl FnMut() -> bool) {
    let end = time::now().saturating_add(TIMEOUT);
    for _ in 0..MAX_POLLS {
        if is_done() || time::now() >= end {
            break;
        }
        // SAFETY: the port belongs to the POST code display or to no device.
        unsafe { Port::<u8>::new(0x80).write(0) }
    }
}

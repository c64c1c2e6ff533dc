//! What ACPI tells of the machine: processors, interrupt controller, how firmware is called, the serial port. ACPI 6.5 §5.2.9, §5.2.12

use super::gic::Controller;
use super::{console, power, processors};
use crate::platform::Machine;
use core::ops::ControlFlow;
use paravirt::{Physical, acpi_tables, with_table};

/// Entries of the MADT, behind its header: kind, length. §5.2.12.14 to §5.2.12.18
const MADT_ENTRIES: usize = 44;
const PROCESSOR: u8 = 0x0b;
const DISTRIBUTOR: u8 = 0x0c;
const MESSAGE_FRAME: u8 = 0x0d;
const REDISTRIBUTORS: u8 = 0x0e;
const SERVICE: u8 = 0x0f;
/// Of a processor: it can be used.
const ENABLED: u32 = 1 << 0;
/// In the FADT: the calls of PSCI are made by `hvc`. §5.2.9.4
const ARM_BOOT: usize = 129;
const USES_HVC: u16 = 1 << 1;
/// In the table of the console: the kind of port, and its address. Microsoft, Serial Port Console Redirection Table
const PORT_KIND: usize = 36;
const PORT_ADDRESS: usize = 44;
const PORT_KINDS: [u8; 3] = [0x03, 0x0d, 0x0e];

fn bytes<const LEN: usize>(table: &[u8], at: usize) -> Option<[u8; LEN]> {
    table.get(at..)?.first_chunk().copied()
}

fn word(table: &[u8], at: usize) -> Option<u32> {
    bytes(table, at).map(u32::from_le_bytes)
}

fn long(table: &[u8], at: usize) -> Option<u64> {
    bytes(table, at).map(u64::from_le_bytes)
}

/// Reads the tables; returns the interrupt controller.
pub fn init(rsdp: u64) -> Option<Controller> {
    // SAFETY: addresses in firmware tables point to memory.
    let memory = unsafe { Physical::new(&Machine) };
    let mut controller = None;
    acpi_tables(&memory, Some(rsdp), |table| {
        let is_read = with_table(&memory, &table, |bytes| match &table.signature {
            b"APIC" => controller = read_madt(bytes),
            b"FACP" => power::set_secure(
                self::bytes(bytes, ARM_BOOT).map(u16::from_le_bytes).unwrap_or(0) & USES_HVC == 0,
            ),
            b"SPCR" if bytes.get(PORT_KIND).is_some_and(|kind| PORT_KINDS.contains(kind)) => {
                console::set_base(long(bytes, PORT_ADDRESS));
            }
            _ => {}
        });
        if is_read.is_err() {
            log::warn!("acpi: a table cannot be mapped");
        }
        ControlFlow::Continue(())
    });
    controller
}

/// Reads the controller, and adds the processors.
fn read_madt(table: &[u8]) -> Option<Controller> {
    let (mut version, mut distributor, mut processor_interface, mut redistributors) = (0, None, None, None);
    let (mut frame, mut service, mut ranges) = (None, None, None);
    let mut rest = table.get(MADT_ENTRIES..)?;
    while let Some([kind, len]) = bytes::<2>(rest, 0) {
        let Some(entry) = rest.get(..usize::from(len)).filter(|entry| entry.len() >= 2) else { break };
        match kind {
            PROCESSOR if word(entry, 12)? & ENABLED != 0 => {
                processor_interface = processor_interface.or(long(entry, 32));
                redistributors = redistributors.or(long(entry, 60).filter(|base| *base != 0));
                processors::add(long(entry, 68)?);
            }
            DISTRIBUTOR => (distributor, version) = (long(entry, 8), *entry.get(20)?),
            MESSAGE_FRAME => frame = frame.or(long(entry, 8)),
            REDISTRIBUTORS => ranges = ranges.or(long(entry, 4)),
            SERVICE => service = service.or(long(entry, 8)),
            _ => {}
        }
        rest = rest.get(usize::from(len)..)?;
    }
    // Version 0 is for the kernel to find out: only the later one has redistributors.
    let redistributors = ranges.or(redistributors);
    let version = if version >= 3 || version == 0 && redistributors.is_some() { 3 } else { 2 };
    let interface = if version == 3 { redistributors } else { processor_interface };
    Some(Controller { version, distributor: distributor?, interface: interface?, frame, service })
}

//! The ACPI tables: processors, ports, and a VMBus device, without which some guests do not look for VMBus.

use crate::ports::{PM1_CONTROL, PM1_EVENT, RESET, RESET_VALUE, SERIAL, SERIAL_GSI, SLEEP_S5};
use acpi_tables::{Aml, AmlSink, aml, fadt, gas, madt, rsdp::Rsdp, sdt::Sdt, xsdt::XSDT};
use anyhow::Result;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// The address of the tables; they may extend up to 1 MiB.
pub const TABLES: u64 = 0xe_0000;
const OEM: [u8; 6] = *b"PARAVT";
const TABLE: [u8; 8] = *b"PARAVIRT";
/// The MMIO window for devices on VMBus: first and last address.
const WINDOW: (u32, u32) = (0xf800_0000, 0xfbff_ffff);
/// Where a processor starts after a reset.
const RESET_VECTOR: u64 = 0xf_fff0;
/// Resets the machine: mov al, 0xfe; out 0x64, al; jmp $. For guests that reset by a jump to the reset vector.
const RESET_CODE: [u8; 6] = [0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe];

/// A MADT with the flag PCAT_COMPAT: the machine also has PICs, which the guest has to mask. `acpi_tables` cannot set the flag. ACPI
/// 6.5 §5.2.12
struct WithPics<'a>(&'a dyn Aml);

impl Aml for WithPics<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        const CHECKSUM: usize = 9;
        const FLAGS: usize = 40;
        let mut bytes = Vec::new();
        self.0.to_aml_bytes(&mut bytes);
        bytes[FLAGS] |= 1;
        // All bytes of a table add up to 0.
        bytes[CHECKSUM] = bytes[CHECKSUM].wrapping_sub(1);
        sink.vec(&bytes);
    }
}

/// Writes the tables for that many processors; returns the address of the RSDP.
pub fn write(memory: &GuestMemoryMmap, processors: u32) -> Result<u64> {
    memory.write_slice(&RESET_CODE, GuestAddress(RESET_VECTOR))?;
    let mut at = TABLES;
    let mut put = |table: &dyn Aml| -> Result<u64> {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        memory.write_slice(&bytes, GuestAddress(at))?;
        let here = at;
        at += (bytes.len() as u64).next_multiple_of(64);
        Ok(here)
    };
    let mut differentiated = Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, 1);
    differentiated.append_slice(&devices());
    let differentiated = put(&differentiated)?;

    let mut fixed = fadt::FADTBuilder::new(OEM, TABLE, 1).dsdt_64(differentiated);
    fixed.sci_int = 9.into();
    (fixed.pm1a_evt_blk, fixed.pm1_evt_len) = (u32::from(PM1_EVENT).into(), 4);
    (fixed.pm1a_cnt_blk, fixed.pm1_cnt_len) = (u32::from(PM1_CONTROL).into(), 2);
    for flag in
        [fadt::Flags::ResetRegSup, fadt::Flags::Wbinvd, fadt::Flags::PwrButton, fadt::Flags::SlpButton]
    {
        fixed = fixed.flag(flag);
    }
    // No VGA, and no CMOS clock.
    fixed.iapc_boot_arch = (1 << 2 | 1 << 5).into();
    fixed.reset_reg =
        gas::GAS::new(gas::AddressSpace::SystemIo, 8, 0, gas::AccessSize::ByteAccess, RESET.into());
    fixed.reset_value = RESET_VALUE;
    let fixed = put(&fixed.finalize())?;

    let mut apics = madt::MADT::new(OEM, TABLE, 1, madt::LocalInterruptController::Address(0xfee0_0000));
    for id in 0..processors as u8 {
        apics.add_structure(madt::ProcessorLocalApic::new(id, id, madt::EnabledStatus::Enabled));
    }
    apics.add_structure(madt::IoApic::new(0, 0xfec0_0000, 0));
    let apics = put(&WithPics(&apics))?;

    let mut root = XSDT::new(OEM, TABLE, 1);
    root.add_entry(fixed);
    root.add_entry(apics);
    let root = put(&root)?;
    put(&Rsdp::new(OEM, root))
}

/// Returns the AML of the serial port, of VMBus in a module device with the MMIO window, and of the sleep type for S5.
fn devices() -> Vec<u8> {
    let port = aml::IO::new(SERIAL, SERIAL, 1, 8);
    let interrupt = aml::Interrupt::new(true, true, false, false, SERIAL_GSI);
    let cacheable = aml::AddressSpaceCacheable::NotCacheable;
    let window = aml::AddressSpace::new_memory(cacheable, true, WINDOW.0, WINDOW.1, None);
    let mut code = Vec::new();
    aml::Scope::new(
        "_SB_".into(),
        vec![
            &aml::Device::new(
                "COM1".into(),
                vec![
                    &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0501")),
                    &aml::Name::new("_UID".into(), &0u8),
                    &aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&port, &interrupt])),
                ],
            ),
            &aml::Device::new(
                "VMOD".into(),
                vec![
                    &aml::Name::new("_HID".into(), &"ACPI0004"),
                    &aml::Name::new("_UID".into(), &0u8),
                    &aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&window])),
                    &aml::Device::new(
                        "VMBS".into(),
                        vec![
                            &aml::Name::new("_HID".into(), &"VMBUS"),
                            &aml::Name::new("_UID".into(), &0u8),
                            &aml::Name::new("_STA".into(), &15u8),
                            &aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![])),
                        ],
                    ),
                ],
            ),
        ],
    )
    .to_aml_bytes(&mut code);
    aml::Name::new("_S5_".into(), &aml::Package::new(vec![&SLEEP_S5, &0u8])).to_aml_bytes(&mut code);
    code
}

//! Devices that firmware and boot loader tell of: ACPI's tables lead to the PCI configuration space, the command line to a virtio
//! device behind MMIO registers.
//!
//! Runs in process, on tables that it builds: `cargo run -p paravirt-firmware --example find-devices`
#![forbid(unsafe_code)]

use paravirt_firmware::PhysicalMemory;
use paravirt_firmware::command_line::{MmioDevice, mmio_devices};
use paravirt_firmware::mcfg::{self, Ecam};
use paravirt_firmware::tables;
use std::error::Error;

/// The first MiB of physical memory. A kernel reads through its map of all physical memory instead.
struct Memory(Vec<u8>);

impl PhysicalMemory for Memory {
    fn read(&self, address: u64, into: &mut [u8]) -> Option<()> {
        let start = usize::try_from(address).ok()?;
        into.copy_from_slice(self.0.get(start..start.checked_add(into.len())?)?);
        Some(())
    }
}

impl Memory {
    fn write(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// An ACPI table: the header, of which only signature and length matter here, and `body`.
    fn write_table(&mut self, at: usize, signature: &[u8; 4], body: &[u8]) {
        self.write(at, &[&signature[..], &(36 + body.len() as u32).to_le_bytes(), &[0; 28], body].concat());
    }
}

/// What firmware leaves in memory: RSDP, RSDT, and the MCFG with one range of buses.
fn firmware() -> Memory {
    let mut memory = Memory(vec![0; 1 << 20]);
    let mut rsdp = [&b"RSD PTR \0PARAVR\0"[..], &0x1000u32.to_le_bytes()].concat();
    rsdp[8] = rsdp.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    memory.write(0xf_1230, &rsdp);
    memory.write_table(0x1000, b"RSDT", &0x2000u32.to_le_bytes());
    let range = [&0xb000_0000u64.to_le_bytes()[..], &[0, 0, 0, 255, 0, 0, 0, 0]].concat();
    memory.write_table(0x2000, b"MCFG", &[&[0; 8], &range[..]].concat());
    memory
}

fn main() -> Result<(), Box<dyn Error>> {
    let memory = firmware();
    let rsdp = tables::find_rsdp(&memory).ok_or("no RSDP")?;
    println!("RSDP at {rsdp:#x}");
    let mut found = None;
    tables::walk(&memory, rsdp, |table| {
        println!("{} at {:#x}, {} bytes", table.signature.escape_ascii(), table.address, table.len);
        if &table.signature == b"MCFG" {
            found = Some(table);
        }
    })
    .ok_or("a damaged RSDP")?;

    let table = found.ok_or("no MCFG")?;
    let mut bytes = vec![0; table.len as usize];
    memory.read(table.address, &mut bytes).ok_or("the MCFG is not in memory")?;
    let ranges: Vec<Ecam> = mcfg::entries(&bytes).collect();
    println!("PCI configuration space: {ranges:x?}");
    assert_eq!(ranges, [Ecam { base: 0xb000_0000, segment: 0, first: 0, last: 255 }]);

    // Firecracker and others name devices on the command line; a malformed parameter is an error of its own.
    let line = "console=ttyS0 virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=nonsense";
    let devices: Vec<_> = mmio_devices(line).collect();
    for device in &devices {
        match device {
            Ok(device) => println!("virtio device at {:#x}, interrupt line {}", device.base, device.irq),
            Err(error) => println!("{error}"),
        }
    }
    assert_eq!(devices[0], Ok(MmioDevice::new(0xd000_0000, 4096, 5)));
    assert!(devices[1].is_err());
    Ok(())
}

//! ACPI's table directory: finds every table from the RSDP. ACPI 6.5 §5.2.5 to §5.2.8

use crate::{PhysicalMemory, field, u32_at, u64_at};

/// A table's signature.
pub type Signature = [u8; 4];

/// The length in bytes of the header that every table has.
pub const HEADER_LEN: usize = 36;
/// Maximum length of a table in bytes; longer ones are malformed.
const MAX_TABLE_LEN: u32 = 16 << 20;
/// Maximum number of tables in a directory; further ones are ignored.
const MAX_TABLES: u32 = 256;
const RSDP_SIGNATURE: [u8; 8] = *b"RSD PTR ";
/// The first and the last paragraph of the BIOS area. ACPI 6.5 §5.2.5.1
const BIOS_AREA: (u64, u64) = (0xe_0000, 0xf_fff0);

/// The location of a table.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct TableAt {
    /// Its signature.
    pub signature: Signature,
    /// Its physical address.
    pub address: u64,
    /// Its length in bytes, header included: [`HEADER_LEN`] to 16 MiB.
    pub len: u32,
}

fn is_sum_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0
}

/// Searches the first KiB of the extended BIOS data area and the BIOS area for the RSDP; returns its physical address.
pub fn find_rsdp(memory: &impl PhysicalMemory) -> Option<u64> {
    let mut segment = [0; 2];
    let ebda = memory.read(0x40e, &mut segment).map(|()| u64::from(u16::from_le_bytes(segment)) << 4);
    let ebda =
        ebda.filter(|base| (0x400..0xa_0000).contains(base)).map(|base| (base, base.wrapping_add(0x3f0)));
    ebda.into_iter().chain([BIOS_AREA]).find_map(|(first, last)| {
        (first..=last).step_by(16).find(|address| {
            let mut bytes = [0; 20];
            memory.read(*address, &mut bytes).is_some()
                && field::<8>(&bytes, 0) == Some(RSDP_SIGNATURE)
                && is_sum_zero(&bytes)
        })
    })
}

/// Reads the header of the table at physical address `address`; `None` if it is not readable or its length is invalid.
pub fn header(memory: &impl PhysicalMemory, address: u64) -> Option<TableAt> {
    let mut bytes = [0; 8];
    memory.read(address, &mut bytes)?;
    let len = u32_at(&bytes, 4)?;
    let fits = (HEADER_LEN as u32..=MAX_TABLE_LEN).contains(&len);
    Some(TableAt { signature: field(&bytes, 0)?, address, len }).filter(|_| fits)
}

/// Calls `visit` for every table that is reachable from the RSDP at `rsdp`, including the DSDT. Invalid entries are skipped. Returns
/// `None` if there is no valid RSDP.
pub fn walk(memory: &impl PhysicalMemory, rsdp: u64, mut visit: impl FnMut(TableAt)) -> Option<()> {
    let mut bytes = [0; 36];
    let (first, rest) = bytes.split_at_mut_checked(20)?;
    memory.read(rsdp, first)?;
    if field::<8>(first, 0)? != RSDP_SIGNATURE || !is_sum_zero(first) {
        return None;
    }
    let revision = first.get(15).copied()?;
    // Revision 2 added the 64-bit directory (XSDT).
    let wide = revision >= 2 && memory.read(rsdp.checked_add(20)?, rest).is_some() && is_sum_zero(&bytes);
    let xsdt = if wide { u64_at(&bytes, 24).filter(|address| *address != 0) } else { None };
    let (directory, width) = match xsdt {
        Some(address) => (address, 8),
        None => (u64::from(u32_at(&bytes, 16)?), 4),
    };
    let directory = header(memory, directory)?;
    let entries = directory.len.saturating_sub(HEADER_LEN as u32).checked_div(width)?.min(MAX_TABLES);
    for index in 0..entries {
        let at = directory
            .address
            .checked_add(HEADER_LEN as u64)?
            .checked_add(u64::from(index.wrapping_mul(width)))?;
        let mut entry = [0; 8];
        let Some(()) = entry.get_mut(..width as usize).and_then(|entry| memory.read(at, entry)) else {
            continue;
        };
        let Some(table) = header(memory, u64::from_le_bytes(entry)) else { continue };
        visit(table);
        if table.signature == *b"FACP" {
            if let Some(dsdt) = dsdt(memory, &table) {
                visit(dsdt);
            }
        }
    }
    Some(())
}

/// Returns the DSDT that the FADT names. ACPI 6.5 §5.2.9
fn dsdt(memory: &impl PhysicalMemory, fadt: &TableAt) -> Option<TableAt> {
    let mut narrow = [0; 4];
    memory.read(fadt.address.checked_add(40)?, &mut narrow)?;
    let mut wide = [0; 8];
    let has_wide = fadt.len >= 148 && memory.read(fadt.address.checked_add(140)?, &mut wide).is_some();
    let address = Some(u64::from_le_bytes(wide)).filter(|address| has_wide && *address != 0);
    header(memory, address.unwrap_or(u64::from(u32::from_le_bytes(narrow))))
        .filter(|t| t.signature == *b"DSDT")
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::{vec, vec::Vec};

    struct Memory(Vec<u8>);
    impl PhysicalMemory for Memory {
        fn read(&self, address: u64, into: &mut [u8]) -> Option<()> {
            let at = usize::try_from(address).ok()?;
            into.copy_from_slice(self.0.get(at..at.checked_add(into.len())?)?);
            Some(())
        }
    }

    fn put(memory: &mut Memory, at: usize, bytes: &[u8]) {
        memory.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn table(memory: &mut Memory, at: usize, signature: &[u8; 4], body: &[u8]) {
        put(memory, at, signature);
        put(memory, at + 4, &((36 + body.len()) as u32).to_le_bytes());
        put(memory, at + 36, body);
    }

    fn machine() -> Memory {
        let mut memory = Memory(vec![0; 0x10_0000]);
        let mut rsdp = [0; 20];
        rsdp[..8].copy_from_slice(b"RSD PTR ");
        rsdp[16..20].copy_from_slice(&0x1000u32.to_le_bytes());
        rsdp[8] = 0u8.wrapping_sub(rsdp.iter().fold(0, |a: u8, b| a.wrapping_add(*b)));
        put(&mut memory, 0xf_1230, &rsdp);
        let entries: Vec<u8> =
            [0x2000u32, 0x3000, 0xffff_0000].iter().flat_map(|e| e.to_le_bytes()).collect();
        table(&mut memory, 0x1000, b"RSDT", &entries);
        let mut fadt = [0; 80];
        fadt[4..8].copy_from_slice(&0x4000u32.to_le_bytes());
        table(&mut memory, 0x2000, b"FACP", &fadt);
        table(&mut memory, 0x3000, b"MCFG", &[0; 24]);
        table(&mut memory, 0x4000, b"DSDT", &[]);
        memory
    }

    #[test]
    fn finds_every_table_from_the_bios_area() {
        let memory = machine();
        let rsdp = find_rsdp(&memory).unwrap();
        assert_eq!(rsdp, 0xf_1230);
        let mut found = vec![];
        walk(&memory, rsdp, |t| found.push((t.signature, t.address, t.len))).unwrap();
        assert_eq!(found, [(*b"FACP", 0x2000, 116), (*b"DSDT", 0x4000, 36), (*b"MCFG", 0x3000, 60)]);
    }

    #[test]
    fn an_rsdp_with_a_wrong_checksum_is_not_found() {
        let mut memory = machine();
        memory.0[0xf_1231] ^= 1;
        assert_eq!(find_rsdp(&memory), None);
        assert_eq!(walk(&memory, 0xf_1230, |_| panic!("no table")), None);
        assert_eq!(walk(&memory, u64::MAX, |_| panic!("no table")), None);
    }
}

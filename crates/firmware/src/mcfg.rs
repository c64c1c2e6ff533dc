//! The MCFG: the physical addresses of PCI configuration space. PCI Firmware 3.3 §4.1.2

use crate::{field, tables::HEADER_LEN, u64_at};

/// The configuration space of a range of buses.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Ecam {
    /// The physical address of bus 0 of the segment, even if the range does not include bus 0.
    pub base: u64,
    /// The PCI segment group.
    pub segment: u16,
    /// The first bus.
    pub first: u8,
    /// The last bus, not below the first.
    pub last: u8,
}

/// Returns the ranges in the table `bytes`, which includes the header; malformed ranges are skipped.
pub fn entries(bytes: &[u8]) -> impl Iterator<Item = Ecam> + '_ {
    let entries = bytes.get(HEADER_LEN.wrapping_add(8)..).unwrap_or_default();
    entries.chunks_exact(16).filter_map(|entry| {
        let base = u64_at(entry, 0)?;
        let segment = u16::from_le_bytes(field(entry, 8)?);
        let [first, last] = field(entry, 10)?;
        let fits = base != 0 && first <= last && base.checked_add(256 << 20).is_some();
        fits.then_some(Ecam { base, segment, first, last })
    })
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    #[test]
    fn malformed_entries_are_skipped() {
        let mut table = Vec::from([0; 44]);
        table.extend(0xb000_0000u64.to_le_bytes());
        table.extend([1, 0, 0, 255, 0, 0, 0, 0]);
        table.extend(0xc000_0000u64.to_le_bytes());
        table.extend([0, 0, 9, 3, 0, 0, 0, 0]);
        table.extend([1, 2, 3]);
        let found: Vec<_> = entries(&table).collect();
        assert_eq!(found, [Ecam { base: 0xb000_0000, segment: 1, first: 0, last: 255 }]);
        assert_eq!(entries(&[]).count(), 0);
    }
}

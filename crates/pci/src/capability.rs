//! The capability list of a function: pure, total, fuzzed. PCI 3.0 §6.7

const STATUS: u8 = 0x04;
const STATUS_CAPABILITIES: u32 = 1 << 20;
const CAPABILITIES: u8 = 0x34;
/// How many capabilities fit: the longest list without a loop.
const MAX_CAPABILITIES: usize = 48;

/// The identifier of MSI. PCI 3.0 §6.8.1
const MSI: u8 = 0x05;
/// The identifier of MSI-X. PCI 3.0 §6.8.2
pub(crate) const MSIX: u8 = 0x11;

/// A range of a base address register.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct BarRange {
    /// The base address register, 0 to 5.
    pub bar: u8,
    /// The offset in bytes from the start of the BAR; `offset + length` does not overflow 32 bits.
    pub offset: u32,
    /// The length in bytes.
    pub length: u32,
}

impl BarRange {
    /// The `length` bytes at `offset` of BAR `bar`; `None` if there is no such BAR, or the range overflows 32 bits.
    pub fn new(bar: u8, offset: u32, length: u32) -> Option<Self> {
        offset.checked_add(length)?;
        (bar < 6).then_some(Self { bar, offset, length })
    }
}

/// A capability.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Capability {
    /// Its identifier.
    pub id: u8,
    /// Its offset in configuration space.
    pub position: u8,
}

/// Iterates over the capabilities of a function. `read` returns the aligned 32-bit word of configuration space at an offset.
pub fn capabilities(read: impl Fn(u8) -> u32) -> impl Iterator<Item = Capability> {
    let mut at = match read(STATUS) {
        // There is no function.
        u32::MAX => 0,
        status if status & STATUS_CAPABILITIES == 0 => 0,
        _ => (read(CAPABILITIES) & 0xfc) as u8,
    };
    let next = move || {
        let position = at;
        if position < 0x40 {
            return None;
        }
        let [id, next, ..] = read(position).to_le_bytes();
        at = next & 0xfc;
        Some(Capability { id, position })
    };
    core::iter::from_fn(next).take(MAX_CAPABILITIES)
}

/// The MSI-X capability. PCI 3.0 §6.8.2
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct MsixCapability {
    /// The offset of the capability in configuration space.
    pub position: u8,
    /// The number of entries of the table, 1 to 2048.
    pub entries: u16,
    /// The location of the table.
    pub table: BarRange,
}

impl MsixCapability {
    /// Parses `capability`; `None` if it is another one, or its table is in no BAR.
    pub fn parse(read: impl Fn(u8) -> u32, capability: Capability) -> Option<Self> {
        let Capability { id, position } = capability;
        if id != MSIX {
            return None;
        }
        let entries = ((read(position) >> 16) & 0x7ff) as u16;
        let entries = entries.wrapping_add(1);
        let table = read(position.checked_add(4)?);
        let range = BarRange::new((table & 7) as u8, table & !7, u32::from(entries).wrapping_mul(16))?;
        Some(Self { position, entries, table: range })
    }
}

/// The MSI capability, of which one message is used. PCI 3.0 §6.8.1
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct MsiCapability {
    /// The offset of the capability in configuration space.
    pub position: u8,
    /// Whether the address of the message has 64 bits.
    pub is_wide: bool,
}

impl MsiCapability {
    /// Parses `capability`; `None` if it is another one, or reaches beyond configuration space.
    pub fn parse(read: impl Fn(u8) -> u32, capability: Capability) -> Option<Self> {
        let Capability { id, position } = capability;
        if id != MSI {
            return None;
        }
        let is_wide = read(position) >> 16 & 1 << 7 != 0;
        position.checked_add(if is_wide { 13 } else { 9 })?;
        Some(Self { position, is_wide })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    fn space(list: &[(u8, &[u8])]) -> impl Fn(u8) -> u32 + use<> {
        let mut bytes = [0u8; 256];
        (bytes[6], bytes[0x34]) = (0x10, list.first().map_or(0, |(at, _)| *at));
        for (at, capability) in list {
            bytes[usize::from(*at)..][..capability.len()].copy_from_slice(capability);
        }
        move |at| u32::from_le_bytes(bytes[usize::from(at & 0xfc)..][..4].try_into().unwrap())
    }

    #[test]
    fn messages_are_parsed_and_a_list_with_a_loop_ends() {
        // The second one refers to the first one.
        let msi = [0x05, 0x50, 0x80, 0];
        let msix = [0x11, 0x40, 24, 0, 2, 0x10, 0, 0];
        let read = space(&[(0x40, &msi), (0x50, &msix)]);
        let all: Vec<_> = capabilities(&read).collect();
        assert_eq!((all.len(), all[1]), (48, Capability { id: MSIX, position: 0x50 }));
        assert_eq!(
            MsiCapability::parse(&read, all[0]),
            Some(MsiCapability { position: 0x40, is_wide: true })
        );
        let table = BarRange { bar: 2, offset: 0x1000, length: 400 };
        let expected = MsixCapability { position: 0x50, entries: 25, table };
        assert_eq!(MsixCapability::parse(&read, all[1]), Some(expected));
        assert_eq!((MsiCapability::parse(&read, all[1]), MsixCapability::parse(&read, all[0])), (None, None));
    }

    #[test]
    fn what_is_not_there_has_no_capabilities() {
        assert_eq!(capabilities(|_| u32::MAX).count(), 0);
        assert_eq!(capabilities(|_| 0).count(), 0);
        // A table beyond the last BAR.
        let read = space(&[(0x40, &[0x11, 0, 0, 0, 6, 0, 0, 0])]);
        assert_eq!(MsixCapability::parse(&read, Capability { id: MSIX, position: 0x40 }), None);
        assert_eq!(MsixCapability::parse(|_| u32::MAX, Capability { id: MSIX, position: 0xfc }), None);
        let at = |position, wide: u32| MsiCapability::parse(|_| wide << 23, Capability { id: MSI, position });
        assert!(at(0xf4, 0).is_some() && at(0xf0, 1).is_some());
        assert!(at(0xf8, 0).is_none() && at(0xf4, 1).is_none());
    }
}

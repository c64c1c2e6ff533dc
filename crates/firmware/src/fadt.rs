//! The FADT: fixed hardware registers. ACPI 6.5 §5.2.9

use crate::{field, u32_at};

/// The event registers of a machine whose ACPI hardware is not reduced. ACPI 6.5 §4.8.3, §4.8.4
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct EventRegisters {
    /// The system control interrupt (SCI), level-triggered: an ISA interrupt, or a global system interrupt.
    pub interrupt: u32,
    /// The I/O port of the PM1a event registers, and the offset of the enable register from the status register, in bytes.
    pub pm1: (u16, u16),
    /// The same of the general-purpose events' block 0, if there is one.
    pub gpe0: Option<(u16, u16)>,
    /// Whether the power button is reported by PM1, not by a device in AML.
    pub has_power_button: bool,
}

/// Offsets in the table.
const SCI_INTERRUPT: usize = 46;
const PM1A_EVENT: usize = 56;
const GPE0: usize = 80;
const PM1_EVENT_LEN: usize = 88;
const GPE0_LEN: usize = 92;
const FLAGS: usize = 112;
/// Flags.
const POWER_BUTTON_IN_AML: u32 = 1 << 4;
const REDUCED_HARDWARE: u32 = 1 << 20;

/// Returns the event registers that the table `bytes`, with its header, describes; `None` if it is malformed, or the machine has none.
pub fn event_registers(bytes: &[u8]) -> Option<EventRegisters> {
    let flags = u32_at(bytes, FLAGS)?;
    if flags & REDUCED_HARDWARE != 0 {
        return None;
    }
    // The first half of a block has the status registers, the second half the enable registers.
    let block = |address: usize, len: usize| {
        let port = u16::try_from(u32_at(bytes, address)?).ok().filter(|port| *port != 0)?;
        let half = u16::from(*bytes.get(len)?) / 2;
        (half >= 2 && port.checked_add(half)?.checked_add(half).is_some()).then_some((port, half))
    };
    Some(EventRegisters {
        interrupt: u32::from(u16::from_le_bytes(field(bytes, SCI_INTERRUPT)?)),
        pm1: block(PM1A_EVENT, PM1_EVENT_LEN)?,
        gpe0: block(GPE0, GPE0_LEN),
        has_power_button: flags & POWER_BUTTON_IN_AML == 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> [u8; 116] {
        let mut bytes = [0; 116];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(SCI_INTERRUPT, &[9, 0]);
        put(PM1A_EVENT, &0x600u32.to_le_bytes());
        put(GPE0, &0xafe0u32.to_le_bytes());
        put(PM1_EVENT_LEN, &[4]);
        put(GPE0_LEN, &[4]);
        bytes
    }

    #[test]
    fn finds_the_registers_of_a_pc() {
        let found = event_registers(&table()).unwrap();
        assert_eq!((found.interrupt, found.pm1, found.gpe0), (9, (0x600, 2), Some((0xafe0, 2))));
        assert!(found.has_power_button);
    }

    #[test]
    fn reduced_hardware_and_malformed_tables_have_none() {
        let changed = |at: usize, value: u8| {
            let mut bytes = table();
            bytes[at] = value;
            event_registers(&bytes)
        };
        assert_eq!(changed(FLAGS + 2, 0x10), None);
        assert_eq!(changed(PM1_EVENT_LEN, 0), None);
        assert_eq!(changed(PM1A_EVENT + 2, 1), None);
        assert!(!changed(FLAGS, 0x10).unwrap().has_power_button);
        assert_eq!(changed(GPE0_LEN, 0).unwrap().gpe0, None);
        for end in 0..table().len() {
            assert_eq!(event_registers(&table()[..end]), None);
        }
    }
}

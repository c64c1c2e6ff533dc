//! The PCI capabilities of a virtio device, parsed from its configuration space: pure, total, fuzzed.

use paravirt_pci::{BarRange, capabilities};

/// The locations of the virtio structures that the capabilities of a modern device specify.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct VirtioCaps {
    /// The common configuration, at least [`COMMON_LEN`] bytes.
    pub common: BarRange,
    /// The doorbells, at least 2 bytes.
    pub notify: BarRange,
    /// The distance in bytes between doorbells.
    pub notify_multiplier: u32,
    /// The interrupt status, at least 1 byte.
    pub isr: BarRange,
    /// The device-specific configuration, if the device has one.
    pub device: Option<BarRange>,
}

/// The minimum length of the common configuration in bytes: up to and including `queue_device`. VIRTIO 1.3 §4.1.4.3
pub const COMMON_LEN: u32 = 56;

const CAP_VENDOR: u8 = 0x09;

/// Why the driver cannot use a device with these capabilities.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum CapsError {
    /// A structure that every modern device has is missing or too short.
    Missing,
    /// Every instance of such a structure is unreachable.
    Unreachable,
}

/// Parses the capabilities. `read` returns the aligned 32-bit word of configuration space at an offset.
///
/// Of several structures of one kind, the first one is used for which `is_reachable` returns true (§4.1.4.1): a device may place a
/// structure in an I/O BAR, or in a BAR without an address, and offer another instance later in the list. The number of steps is
/// limited to the length of the longest list without a loop.
///
/// # Errors
///
/// [`CapsError`].
pub fn parse(
    read: impl Fn(u8) -> u32,
    is_reachable: impl Fn(&BarRange) -> bool,
) -> Result<VirtioCaps, CapsError> {
    let mut is_any_unreachable = false;
    let (mut common, mut notify, mut isr, mut device) = (None, None, None, None);
    for at in capabilities(&read).filter(|found| found.id == CAP_VENDOR).map(|found| found.position) {
        let word = |i: u8| at.checked_add(i).map_or(u32::MAX, &read);
        let [_, _, len, kind] = word(0).to_le_bytes();
        if len < 16 {
            continue;
        }
        let found = BarRange::new((word(4) & 0xff) as u8, word(8), word(12));
        let reached = found.filter(|structure| is_reachable(structure));
        is_any_unreachable |= found.is_some() && reached.is_none() && matches!(kind, 1..=3);
        match (kind, reached) {
            (1, Some(s)) if common.is_none() && s.length >= COMMON_LEN => common = Some(s),
            (2, Some(s)) if notify.is_none() && len >= 20 && s.length >= 2 => notify = Some((s, word(16))),
            (3, Some(s)) if isr.is_none() && s.length >= 1 => isr = Some(s),
            (4, Some(s)) if device.is_none() && s.length >= 1 => device = Some(s),
            _ => {}
        }
    }
    match (common, notify, isr) {
        (Some(common), Some((notify, notify_multiplier)), Some(isr)) => {
            Ok(VirtioCaps { common, notify, notify_multiplier, isr, device })
        }
        _ if is_any_unreachable => Err(CapsError::Unreachable),
        _ => Err(CapsError::Missing),
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    /// Returns a configuration space with `caps` one after the other from 0x40 on.
    fn space(caps: &[&[u8]]) -> [u8; 256] {
        let mut space = [0; 256];
        space[6] = 0x10;
        let mut at = 0x40;
        space[0x34] = at as u8;
        for (i, cap) in caps.iter().enumerate() {
            let next = (at + cap.len()).next_multiple_of(4);
            space[at..at + cap.len()].copy_from_slice(cap);
            space[at + 1] = if i + 1 < caps.len() { next as u8 } else { 0 };
            at = next;
        }
        space
    }

    fn parse_space(space: &[u8; 256]) -> Option<VirtioCaps> {
        parse_reachable(space, |_| true).ok()
    }

    fn parse_reachable(
        space: &[u8; 256],
        is_reachable: impl Fn(&BarRange) -> bool,
    ) -> Result<VirtioCaps, CapsError> {
        let read = |at| u32::from_le_bytes(space[usize::from(at & 0xfc)..][..4].try_into().unwrap());
        parse(read, is_reachable)
    }

    fn cap(kind: u8, bar: u8, offset: u32, length: u32) -> [u8; 20] {
        let mut cap = [9, 0, 20, kind, bar, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0];
        cap[8..12].copy_from_slice(&offset.to_le_bytes());
        cap[12..16].copy_from_slice(&length.to_le_bytes());
        cap
    }

    #[test]
    fn parse_finds_the_first_usable_instance_of_each_structure() {
        let caps: [&[u8]; 5] = [
            &cap(1, 7, 0, 64),
            &cap(1, 4, 0, 56),
            &cap(2, 4, 0x3000, 0x1000),
            &cap(3, 4, 0x1000, 1),
            &cap(4, 4, 0x2000, 0x100),
        ];
        let caps = parse_space(&space(&caps)).unwrap();
        assert_eq!(Some(caps.common), BarRange::new(4, 0, 56));
        assert_eq!(caps.notify_multiplier, 4);
        assert_eq!(caps.device.unwrap().offset, 0x2000);
    }

    /// With `modern-pio-notify=on`, QEMU has doorbells in an I/O BAR before those in memory.
    #[test]
    fn an_unreachable_structure_does_not_hide_the_next_one() {
        for kind in [1, 2, 3, 4] {
            let good = [cap(1, 4, 0, 56), cap(2, 4, 64, 4), cap(3, 4, 128, 1), cap(4, 4, 192, 8)];
            let hidden = cap(kind, 2, 0, 64);
            let all: Vec<&[u8]> = [&hidden].into_iter().chain(&good).map(|cap| &cap[..]).collect();
            let caps = parse_reachable(&space(&all), |structure| structure.bar == 4).unwrap();
            assert!([caps.common, caps.notify, caps.isr, caps.device.unwrap()].iter().all(|s| s.bar == 4));
            let only: Vec<&[u8]> =
                all[1..].iter().copied().filter(|cap| cap[3] != kind).chain([&hidden[..]]).collect();
            let wanted = if kind == 4 { None } else { Some(CapsError::Unreachable) };
            assert_eq!(parse_reachable(&space(&only), |structure| structure.bar == 4).err(), wanted);
        }
    }

    #[test]
    fn overflowing_short_or_looping_capabilities_are_refused() {
        let good: [&[u8]; 3] = [&cap(1, 0, 0, 56), &cap(2, 0, 64, 4), &cap(3, 0, 128, 1)];
        assert!(parse_space(&space(&good)).is_some());
        for bad in [cap(1, 0, 0, 55), cap(1, 0, u32::MAX, 56), cap(1, 0, u32::MAX - 55, 57), cap(1, 6, 0, 56)]
        {
            assert_eq!(parse_space(&space(&[&bad, good[1], good[2]])), None);
        }
        let mut looping = space(&good);
        looping[0x41] = 0x40;
        assert_eq!(parse_space(&looping), None);
        let mut without = space(&good);
        without[6] = 0;
        assert_eq!(parse_space(&without), None);
        assert_eq!(parse_space(&[0xff; 256]), None);
    }
}

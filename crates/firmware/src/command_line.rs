//! Devices named on the kernel command line.

use core::fmt;

/// A virtio MMIO device.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct MmioDevice {
    /// The physical address of its registers.
    pub base: u64,
    /// Their length in bytes.
    pub len: u64,
    /// Its interrupt line.
    pub irq: u32,
}

impl MmioDevice {
    /// A device with `len` bytes of registers at `base`.
    pub const fn new(base: u64, len: u64, irq: u32) -> Self {
        Self { base, len, irq }
    }
}

/// A `virtio_mmio.device=` parameter that is malformed.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Malformed<'a> {
    /// Its value.
    pub value: &'a str,
}

impl fmt::Display for Malformed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed virtio_mmio.device={}: use SIZE@BASE:IRQ", self.value)
    }
}

impl core::error::Error for Malformed<'_> {}

/// Returns the devices that `virtio_mmio.device=SIZE@BASE:IRQ[:ID]` parameters name, in the form that Linux parses and Firecracker
/// writes: numbers are decimal or begin with `0x`, sizes may end in `K`, `M` or `G`.
pub fn mmio_devices(command_line: &str) -> impl Iterator<Item = Result<MmioDevice, Malformed<'_>>> {
    command_line
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix("virtio_mmio.device="))
        .map(|value| parse(value).ok_or(Malformed { value }))
}

fn parse(value: &str) -> Option<MmioDevice> {
    let (len, rest) = split(value, b'@')?;
    let (base, rest) = split(rest, b':')?;
    let (irq, id) = split(rest, b':').map_or((rest, None), |(irq, id)| (irq, Some(id)));
    let (len, base) = (number(len)?, number(base)?);
    let irq = u32::try_from(number(irq)?).ok()?;
    let fits = len > 0 && base.checked_add(len).is_some() && id.is_none_or(|id| number(id).is_some());
    fits.then_some(MmioDevice { base, len, irq })
}

/// Splits at the first `mark`. The function of `str` has a path that panics.
fn split(text: &str, mark: u8) -> Option<(&str, &str)> {
    let at = text.bytes().position(|byte| byte == mark)?;
    Some((text.get(..at)?, text.get(at.saturating_add(1)..)?))
}

fn number(text: &str) -> Option<u64> {
    let (text, shift) = match text.char_indices().next_back()? {
        (at, 'k' | 'K') => (text.get(..at)?, 10),
        (at, 'm' | 'M') => (text.get(..at)?, 20),
        (at, 'g' | 'G') => (text.get(..at)?, 30),
        _ => (text, 0),
    };
    let digits = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => text.parse().ok()?,
    };
    digits.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    #[test]
    fn parses_the_parameters_of_firecracker() {
        let line =
            "reboot=k panic=1 virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=0x1000@3489665024:6:1";
        let found: Vec<_> = mmio_devices(line).map(Result::unwrap).collect();
        assert_eq!(found[0], MmioDevice { base: 0xd000_0000, len: 4096, irq: 5 });
        assert_eq!(found[1], MmioDevice { base: 0xd000_1000, len: 4096, irq: 6 });
    }

    #[test]
    fn reports_malformed_parameters() {
        for bad in [
            "",
            "4K",
            "4K@",
            "4K@0x:5",
            "4K@1:",
            "0@1:5",
            "4K@1:5:x",
            "4K@1:5:1:2",
            "1@0xffffffffffffffff:1",
            "é@1:5",
        ] {
            let line = std::format!("virtio_mmio.device={bad} quiet");
            assert_eq!(mmio_devices(&line).next(), Some(Err(Malformed { value: bad })), "{bad}");
        }
    }
}

//! A device's own configuration, in accesses of the widths that the specification asks for. VIRTIO 1.3 §4.1.3.1, §4.2.2.2

use paravirt_platform::{MmioRegion, Platform};
use virtio_drivers::Error;
use zerocopy::FromBytes;

/// The configuration, somewhere in a region of registers.
pub(super) struct Config<'a, P: Platform> {
    region: &'a MmioRegion<P>,
    base: usize,
    len: usize,
}

impl<'a, P: Platform> Config<'a, P> {
    /// What lies from `base` on to the end of `region`.
    pub fn new(region: &'a MmioRegion<P>, base: usize) -> Self {
        Self { region, base, len: region.len().saturating_sub(base) }
    }

    fn at(&self, offset: usize) -> usize {
        self.base.wrapping_add(offset)
    }

    /// Reads `bytes.len()` bytes: as one access of 8 or 16 bits, or as words of 32, where that is aligned; else byte by byte.
    fn read_bytes(&self, offset: usize, bytes: &mut [u8]) {
        match bytes {
            [_, _] if offset.is_multiple_of(2) => {
                bytes.copy_from_slice(&self.region.read16(self.at(offset)).to_le_bytes());
            }
            _ if bytes.len().is_multiple_of(4) && offset.is_multiple_of(4) => {
                for (i, word) in bytes.chunks_exact_mut(4).enumerate() {
                    let at = self.at(offset).wrapping_add(i.wrapping_mul(4));
                    word.copy_from_slice(&self.region.read32(at).to_le_bytes());
                }
            }
            _ => {
                for (i, byte) in bytes.iter_mut().enumerate() {
                    *byte = self.region.read8(self.at(offset).wrapping_add(i));
                }
            }
        }
    }

    fn has(&self, offset: usize, len: usize) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len)
    }

    /// Copies fields, given as `(offset, width)`; what the device does not have is left as it is.
    pub fn read_fields(&self, fields: &[(u8, u8)], into: &mut [u8]) {
        for &(offset, width) in fields {
            let (offset, width) = (usize::from(offset), usize::from(width));
            if let Some(to) = into.get_mut(offset..offset.wrapping_add(width))
                && self.has(offset, width)
            {
                self.read_bytes(offset, to);
            }
        }
    }

    /// Reads a value.
    pub fn read_value<T: FromBytes>(&self, offset: usize) -> virtio_drivers::Result<T> {
        let mut bytes = [0; 64];
        let bytes = bytes.get_mut(..size_of::<T>()).filter(|bytes| self.has(offset, bytes.len()));
        let bytes = bytes.ok_or(Error::ConfigSpaceTooSmall)?;
        self.read_bytes(offset, bytes);
        T::read_from_bytes(bytes).map_err(|_| Error::ConfigSpaceTooSmall)
    }

    /// Writes a value.
    pub fn write_value(&self, offset: usize, bytes: &[u8]) -> virtio_drivers::Result<()> {
        if !self.has(offset, bytes.len()) {
            return Err(Error::ConfigSpaceTooSmall);
        }
        match *bytes {
            [a, b] if offset.is_multiple_of(2) => {
                self.region.write16(self.at(offset), u16::from_le_bytes([a, b]))
            }
            [a, b, c, d] if offset.is_multiple_of(4) => {
                self.region.write32(self.at(offset), u32::from_le_bytes([a, b, c, d]));
            }
            _ => {
                for (i, byte) in bytes.iter().enumerate() {
                    self.region.write8(self.at(offset).wrapping_add(i), *byte);
                }
            }
        }
        Ok(())
    }
}

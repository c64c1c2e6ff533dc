//! Register values that are common to all transports, and access to the device-specific configuration.

use bitflags::bitflags;
use core::fmt;
use paravirt_platform::{MmioRegion, Platform};

bitflags! {
    /// The device status. VIRTIO 1.3 §2.1
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
    pub struct DeviceStatus: u8 {
        /// The guest has seen the device.
        const ACKNOWLEDGE = 1 << 0;
        /// The guest has a driver for it.
        const DRIVER = 1 << 1;
        /// The driver is ready: the device may work.
        const DRIVER_OK = 1 << 2;
        /// The device accepts the negotiated features.
        const FEATURES_OK = 1 << 3;
        /// The device has failed and has to be reset.
        const NEEDS_RESET = 1 << 6;
        /// The driver has given up.
        const FAILED = 1 << 7;
        const _ = !0;
    }

    /// Why an interrupt line was raised. VIRTIO 1.3 §4.1.4.5, §4.2.2
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
    pub struct InterruptStatus: u8 {
        /// A queue has used requests.
        const QUEUE = 1 << 0;
        /// The configuration has changed.
        const CONFIG = 1 << 1;
    }
}

/// The type of a virtio device: its device id. VIRTIO 1.3 §5
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct DeviceType(pub u32);

macro_rules! types {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $text:literal;)*) => {
        impl DeviceType {
            $($(#[$doc])* pub const $name: Self = Self($id);)*

            /// Returns the name of the type; `None` for an id without a constant here.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

types! {
    /// A network card.
    NET = 1, "network";
    /// A disk.
    BLOCK = 2, "block";
    /// A console.
    CONSOLE = 3, "console";
    /// A source of random bytes.
    ENTROPY = 4, "entropy";
    /// A memory balloon.
    BALLOON = 5, "balloon";
    /// An IO memory device.
    IO_MEMORY = 6, "io memory";
    /// A message channel to a remote processor.
    RPMSG = 7, "rpmsg";
    /// A SCSI host.
    SCSI = 8, "scsi host";
    /// A 9P transport.
    P9 = 9, "9p";
    /// A wireless network card.
    WLAN = 10, "wlan";
    /// A display.
    GPU = 16, "gpu";
    /// A clock.
    CLOCK = 17, "clock";
    /// A keyboard, mouse or tablet.
    INPUT = 18, "input";
    /// Stream sockets to the host.
    SOCKET = 19, "socket";
    /// A cryptographic accelerator.
    CRYPTO = 20, "crypto";
    /// An IOMMU.
    IOMMU = 23, "iommu";
    /// Memory that the host can plug and unplug.
    MEMORY = 24, "memory";
    /// A sound card.
    SOUND = 25, "sound";
    /// A shared file system.
    FILE_SYSTEM = 26, "file system";
    /// Persistent memory.
    PERSISTENT_MEMORY = 27, "persistent memory";
    /// An I2C adapter.
    I2C = 34, "i2c";
    /// General-purpose lines.
    GPIO = 41, "gpio";
}

impl fmt::Display for DeviceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "device {}", self.0),
        }
    }
}

/// The device-specific configuration in a region of registers. VIRTIO 1.3 §4.1.3.1, §4.2.2.2
pub(super) struct Config<'a, P: Platform> {
    region: &'a MmioRegion<P>,
    base: usize,
    len: usize,
}

impl<'a, P: Platform> Config<'a, P> {
    /// The configuration from `base` to the end of `region`.
    pub fn new(region: &'a MmioRegion<P>, base: usize) -> Self {
        Self { region, base, len: region.len().saturating_sub(base) }
    }

    fn at(&self, offset: usize) -> usize {
        self.base.wrapping_add(offset)
    }

    fn has(&self, offset: usize, len: usize) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len)
    }

    /// Reads `bytes.len()` bytes: by one access of 8 or 16 bits or by 32-bit words if they are aligned, otherwise byte by byte.
    fn read_bytes(&self, offset: usize, bytes: &mut [u8]) {
        match bytes {
            [_, _] if offset % 2 == 0 => {
                bytes.copy_from_slice(&self.region.read16(self.at(offset)).to_le_bytes());
            }
            _ if bytes.len() % 4 == 0 && offset % 4 == 0 => {
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

    /// Reads the fields `(offset, width)` to the same offsets of `into`. Fields outside the configuration leave `into` unchanged.
    pub fn read(&self, fields: &[(u8, u8)], into: &mut [u8]) {
        for &(offset, width) in fields {
            let (offset, width) = (usize::from(offset), usize::from(width));
            if let Some(to) = into.get_mut(offset..offset.wrapping_add(width)) {
                if self.has(offset, width) {
                    self.read_bytes(offset, to);
                }
            }
        }
    }

    /// Writes bytes at `offset`; returns `false`, without writing, if the configuration is shorter.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> bool {
        if !self.has(offset, bytes.len()) {
            return false;
        }
        match *bytes {
            [a, b] if offset % 2 == 0 => self.region.write16(self.at(offset), u16::from_le_bytes([a, b])),
            [a, b, c, d] if offset % 4 == 0 => {
                self.region.write32(self.at(offset), u32::from_le_bytes([a, b, c, d]));
            }
            _ => {
                for (i, byte) in bytes.iter().enumerate() {
                    self.region.write8(self.at(offset).wrapping_add(i), *byte);
                }
            }
        }
        true
    }
}

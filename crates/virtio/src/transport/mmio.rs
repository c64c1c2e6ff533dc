//! virtio over MMIO, version 2. VIRTIO 1.3 §4.2

use super::config::Config;
use super::pci::{begin_init, stop};
use super::{Doorbell, InterruptReason, VirtioTransport};
use crate::queue::QueueAddresses;
use core::{fmt, ops::BitAnd};
use paravirt_platform::{AllocError, InterruptLine, MapError, Message, MmioRegion, PageArc, Platform};
use virtio_drivers::PhysAddr;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Register offsets. VIRTIO 1.3 §4.2.2
mod reg {
    pub const MAGIC: usize = 0x00;
    pub const VERSION: usize = 0x04;
    pub const DEVICE_ID: usize = 0x08;
    pub const DEVICE_FEATURES: usize = 0x10;
    pub const DEVICE_FEATURES_SEL: usize = 0x14;
    pub const DRIVER_FEATURES: usize = 0x20;
    pub const DRIVER_FEATURES_SEL: usize = 0x24;
    pub const QUEUE_SEL: usize = 0x30;
    pub const QUEUE_NUM_MAX: usize = 0x34;
    pub const QUEUE_NUM: usize = 0x38;
    pub const QUEUE_READY: usize = 0x44;
    pub const QUEUE_NOTIFY: usize = 0x50;
    pub const INTERRUPT_STATUS: usize = 0x60;
    pub const INTERRUPT_ACK: usize = 0x64;
    pub const STATUS: usize = 0x70;
    pub const QUEUE_DESC: usize = 0x80;
    pub const QUEUE_DRIVER: usize = 0x90;
    pub const QUEUE_DEVICE: usize = 0xa0;
    pub const QUEUE_RESET: usize = 0xc0;
    pub const CONFIG_GENERATION: usize = 0xfc;
    pub const CONFIG: usize = 0x100;
}

/// "virt"
const MAGIC: u32 = 0x7472_6976;

/// Why a register block cannot be used as a virtio device.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum MmioError {
    /// There is no virtio device.
    NoDevice,
    /// The place is there, but no device in it (device id 0).
    Empty,
    /// The device has the interface of this version, not 2; the type says which device it is.
    Version {
        /// What it says.
        version: u32,
        /// Its device id. VIRTIO 1.3 §5
        device_id: u32,
    },
    /// The device id is none that is known.
    UnknownType(u32),
    /// The registers could not be mapped.
    Map,
    /// There is no memory.
    Memory,
}

impl fmt::Display for MmioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice => f.write_str("there is no virtio device"),
            Self::Empty => f.write_str("there is no device behind the transport"),
            Self::Version { version: 1, .. } => f.write_str(
                "it has the legacy interface (version 1): under QEMU give -global virtio-mmio.force-legacy=false",
            ),
            Self::Version { version, .. } => write!(f, "it has interface version {version}, which is not known"),
            Self::UnknownType(id) => write!(f, "its device id {id} is not known"),
            Self::Map => f.write_str("its registers cannot be mapped"),
            Self::Memory => f.write_str("there is no memory for it"),
        }
    }
}

impl core::error::Error for MmioError {}

impl From<MapError> for MmioError {
    fn from(_: MapError) -> Self {
        Self::Map
    }
}

impl From<AllocError> for MmioError {
    fn from(_: AllocError) -> Self {
        Self::Memory
    }
}

/// A virtio device behind a block of registers.
pub struct MmioTransport<P: Platform> {
    registers: PageArc<P, MmioRegion<P>>,
    device_type: DeviceType,
    line: Option<InterruptLine>,
    refused: bool,
}

impl<P: Platform> MmioTransport<P> {
    /// Takes the `len` bytes of registers at `phys` as a virtio device whose interrupt is `line`.
    ///
    /// # Errors
    ///
    /// [`MmioError`].
    ///
    /// # Safety
    ///
    /// Firmware or the command line says that a virtio device's registers are there.
    pub unsafe fn new(
        platform: &P,
        phys: u64,
        len: usize,
        line: Option<InterruptLine>,
    ) -> Result<Self, MmioError> {
        // SAFETY: passed on from the caller.
        let registers = unsafe { MmioRegion::map(platform, phys, len) }?;
        if len < reg::CONFIG || registers.read32(reg::MAGIC) != MAGIC {
            return Err(MmioError::NoDevice);
        }
        let device_id = registers.read32(reg::DEVICE_ID);
        if device_id == 0 {
            return Err(MmioError::Empty);
        }
        let version = registers.read32(reg::VERSION);
        if version != 2 {
            return Err(MmioError::Version { version, device_id });
        }
        let device_type = DeviceType::try_from(device_id).map_err(|_| MmioError::UnknownType(device_id))?;
        Ok(Self { registers: PageArc::new(platform, registers)?, device_type, line, refused: false })
    }

    fn select(&self, queue: u16) {
        self.registers.write32(reg::QUEUE_SEL, u32::from(queue));
    }

    fn write_address(&self, offset: usize, address: u64) {
        self.registers.write32(offset, address as u32);
        self.registers.write32(offset.wrapping_add(4), (address >> 32) as u32);
    }

    fn config(&self) -> Config<'_, P> {
        Config::new(&self.registers, reg::CONFIG)
    }
}

/// Writes the queue's index to the notification register. VIRTIO 1.3 §4.2.3.3
pub struct MmioBell<P: Platform> {
    registers: PageArc<P, MmioRegion<P>>,
    queue: u16,
}

impl<P: Platform> Doorbell for MmioBell<P> {
    #[inline]
    fn ring(&self) {
        self.registers.write32(reg::QUEUE_NOTIFY, u32::from(self.queue));
    }
}

/// The interrupt status, and its acknowledgement. VIRTIO 1.3 §4.2.3.4
pub struct MmioIsr<P: Platform>(PageArc<P, MmioRegion<P>>);

impl<P: Platform> InterruptReason for MmioIsr<P> {
    fn take(&self) -> InterruptStatus {
        let bits = self.0.read32(reg::INTERRUPT_STATUS);
        if bits == 0 || bits == u32::MAX {
            return InterruptStatus::empty();
        }
        self.0.write32(reg::INTERRUPT_ACK, bits);
        InterruptStatus::from_bits_truncate(bits)
    }
}

impl<P: Platform> VirtioTransport for MmioTransport<P> {
    type Doorbell = MmioBell<P>;
    type Reason = MmioIsr<P>;

    fn is_present(&mut self) -> bool {
        self.registers.read32(reg::MAGIC) == MAGIC
    }

    fn enable_queue(&mut self, index: u16, addresses: &QueueAddresses) -> bool {
        self.select(index);
        self.registers.write32(reg::QUEUE_NUM, u32::from(addresses.size));
        self.write_address(reg::QUEUE_DESC, addresses.desc.0);
        self.write_address(reg::QUEUE_DRIVER, addresses.driver.0);
        self.write_address(reg::QUEUE_DEVICE, addresses.device.0);
        self.registers.write32(reg::QUEUE_READY, 1);
        self.registers.read32(reg::QUEUE_READY) == 1
    }

    fn doorbell(&mut self, index: u16) -> Option<MmioBell<P>> {
        Some(MmioBell { registers: self.registers.clone(), queue: index })
    }

    fn start_queue_reset(&mut self, index: u16) {
        self.select(index);
        self.registers.write32(reg::QUEUE_RESET, 1);
    }

    fn is_queue_reset(&mut self, index: u16) -> bool {
        self.select(index);
        self.registers.read32(reg::QUEUE_RESET) == 0 && self.registers.read32(reg::QUEUE_READY) == 0
    }

    fn messages(&mut self) -> u16 {
        0
    }

    fn set_message(&mut self, _entry: u16, _message: Message) {}

    fn enable_messages(&mut self, _on: bool) {}

    fn set_queue_message(&mut self, _index: u16, entry: Option<u16>) -> bool {
        entry.is_none()
    }

    fn set_config_message(&mut self, entry: Option<u16>) -> bool {
        entry.is_none()
    }

    fn line(&self) -> Option<InterruptLine> {
        self.line
    }

    fn reason(&self) -> MmioIsr<P> {
        MmioIsr(self.registers.clone())
    }

    fn read_config(&self, fields: &[(u8, u8)], into: &mut [u8]) {
        self.config().read_fields(fields, into);
    }
}

impl<P: Platform> Transport for MmioTransport<P> {
    fn device_type(&self) -> DeviceType {
        self.device_type
    }

    fn read_device_features(&mut self) -> u64 {
        self.registers.write32(reg::DEVICE_FEATURES_SEL, 0);
        let low = self.registers.read32(reg::DEVICE_FEATURES);
        self.registers.write32(reg::DEVICE_FEATURES_SEL, 1);
        u64::from(low) | (u64::from(self.registers.read32(reg::DEVICE_FEATURES)) << 32)
    }

    fn write_driver_features(&mut self, driver_features: u64) {
        self.registers.write32(reg::DRIVER_FEATURES_SEL, 0);
        self.registers.write32(reg::DRIVER_FEATURES, driver_features as u32);
        self.registers.write32(reg::DRIVER_FEATURES_SEL, 1);
        self.registers.write32(reg::DRIVER_FEATURES, (driver_features >> 32) as u32);
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        if self.refused {
            return 0;
        }
        self.select(queue);
        match self.registers.read32(reg::QUEUE_NUM_MAX) {
            u32::MAX => 0,
            size => size,
        }
    }

    fn notify(&mut self, queue: u16) {
        self.registers.write32(reg::QUEUE_NOTIFY, u32::from(queue));
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(self.registers.read32(reg::STATUS))
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.registers.write32(reg::STATUS, status.bits());
    }

    fn set_guest_page_size(&mut self, _guest_page_size: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(&mut self, queue: u16, size: u32, desc: PhysAddr, driver: PhysAddr, device: PhysAddr) {
        let addresses = QueueAddresses::from_raw(size, desc, driver, device);
        if !self.enable_queue(queue, &addresses) {
            log::warn!("virtio: the device did not accept queue {queue}");
        }
    }

    fn queue_unset(&mut self, queue: u16) {
        self.select(queue);
        self.registers.write32(reg::QUEUE_READY, 0);
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.select(queue);
        self.registers.read32(reg::QUEUE_READY) != 0
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        self.reason().take()
    }

    fn begin_init<F: bitflags::Flags<Bits = u64> + BitAnd<Output = F> + fmt::Debug>(
        &mut self,
        supported: F,
    ) -> F {
        begin_init(self, supported, |t| t.refused = true)
    }

    fn read_config_generation(&self) -> u32 {
        self.registers.read32(reg::CONFIG_GENERATION)
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> virtio_drivers::Result<T> {
        self.config().read_value(offset)
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> virtio_drivers::Result<()> {
        self.config().write_value(offset, value.as_bytes())
    }
}

/// A driver of the `virtio-drivers` crate frees its queues when it goes, trusting the transport to stop the device first.
impl<P: Platform> Drop for MmioTransport<P> {
    fn drop(&mut self) {
        stop(self);
    }
}

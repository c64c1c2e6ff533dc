//! virtio over MMIO: version 2, and the legacy interface, version 1. VIRTIO 1.3 §4.2

use super::registers::Config;
use super::{
    DeviceStatus, DeviceType, Doorbell, InterruptAck, InterruptStatus, Transport, VirtioTransport, boxed,
};
use crate::queue::{QueueAddresses, USED_ALIGN};
use core::fmt;
use core::ptr::NonNull;
use paravirt_platform::{AllocError, InterruptLine, MapError, Message, MmioRegion, PAGE_SIZE, Platform};

/// Register offsets. VIRTIO 1.3 §4.2.2, §4.2.4
mod reg {
    pub const MAGIC: usize = 0x00;
    pub const VERSION: usize = 0x04;
    pub const DEVICE_ID: usize = 0x08;
    pub const DEVICE_FEATURES: usize = 0x10;
    pub const DEVICE_FEATURES_SEL: usize = 0x14;
    pub const DRIVER_FEATURES: usize = 0x20;
    pub const DRIVER_FEATURES_SEL: usize = 0x24;
    /// Legacy: the unit of `QUEUE_PFN` in bytes.
    pub const GUEST_PAGE_SIZE: usize = 0x28;
    pub const QUEUE_SEL: usize = 0x30;
    pub const QUEUE_NUM_MAX: usize = 0x34;
    pub const QUEUE_NUM: usize = 0x38;
    /// Legacy: the alignment of the used ring in bytes.
    pub const QUEUE_ALIGN: usize = 0x3c;
    /// Legacy: the page number of the queue, which enables it.
    pub const QUEUE_PFN: usize = 0x40;
    pub const QUEUE_READY: usize = 0x44;
    pub const QUEUE_NOTIFY: usize = 0x50;
    pub const INTERRUPT_STATUS: usize = 0x60;
    pub const INTERRUPT_ACK: usize = 0x64;
    pub const STATUS: usize = 0x70;
    pub const QUEUE_DESC: usize = 0x80;
    pub const QUEUE_DRIVER: usize = 0x90;
    pub const QUEUE_DEVICE: usize = 0xa0;
    pub const CONFIG_GENERATION: usize = 0xfc;
    pub const CONFIG: usize = 0x100;
}

/// The maximum number of bytes of registers that are mapped: no device has a configuration of that length.
const MAX_LEN: usize = 64 << 10;

/// "virt"
const MAGIC: u32 = 0x7472_6976;

/// Why a register block cannot be used as a virtio device.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum MmioError {
    /// There is no virtio device.
    NoDevice,
    /// The register block exists, but contains no device (device id 0).
    Empty,
    /// The device has another interface version than 1 and 2.
    Version {
        /// The value of the version register.
        version: u32,
        /// The device id, which tells the type of the device. VIRTIO 1.3 §5
        device_id: u32,
    },
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
            Self::Version { version, .. } => write!(f, "it has the unknown interface version {version}"),
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

/// A virtio device with a block of memory-mapped registers.
struct MmioTransport<P: Platform> {
    registers: MmioRegion<P>,
    /// The address of the first register, for accesses without the region.
    base: NonNull<()>,
    device_type: DeviceType,
    /// Whether it has version 1 of the interface.
    is_legacy: bool,
    line: Option<InterruptLine>,
}

// SAFETY: the pointer is to the region's registers, which any processor may access.
unsafe impl<P: Platform> Send for MmioTransport<P> {}

/// Creates the transport of the virtio device whose registers are the `len` bytes at `phys` and whose interrupt line is `line`.
///
/// # Errors
///
/// [`MmioError`].
///
/// # Safety
///
/// Firmware or the command line reports the registers of a virtio device at `phys`, and no other driver uses the device.
pub unsafe fn mmio<P: Platform>(
    platform: &P,
    phys: u64,
    len: usize,
    line: Option<InterruptLine>,
) -> Result<Transport<P>, MmioError> {
    // SAFETY: by the contract of this function, the range is a device's registers.
    let registers = unsafe { MmioRegion::map(platform, phys, len.min(MAX_LEN)) }?;
    if len < reg::CONFIG || registers.read32(reg::MAGIC) != MAGIC {
        return Err(MmioError::NoDevice);
    }
    let device_id = registers.read32(reg::DEVICE_ID);
    if device_id == 0 {
        return Err(MmioError::Empty);
    }
    let version = registers.read32(reg::VERSION);
    let is_legacy = version == 1;
    if !is_legacy && version != 2 {
        return Err(MmioError::Version { version, device_id });
    }
    let base = registers.pointer::<u32>(0).ok_or(MmioError::NoDevice)?.cast();
    let device_type = DeviceType(device_id);
    Ok(boxed(platform, MmioTransport { registers, base, device_type, is_legacy, line })?)
}

impl<P: Platform> MmioTransport<P> {
    fn select(&self, queue: u16) {
        self.registers.write32(reg::QUEUE_SEL, u32::from(queue));
    }

    fn write_address(&self, offset: usize, address: u64) {
        self.registers.write32(offset, address as u32);
        self.registers.write32(offset.wrapping_add(4), (address >> 32) as u32);
    }

    /// Gives a legacy device the page of its selected queue, which it takes to be laid out as here. Returns whether it accepted that.
    /// VIRTIO 1.3 §2.7.2, §4.2.4
    fn enable_legacy_queue(&self, addresses: &QueueAddresses) -> bool {
        const PAGE_SHIFT: u32 = PAGE_SIZE.trailing_zeros();
        let Ok(page) = u32::try_from(addresses.desc.0 >> PAGE_SHIFT) else { return false };
        let descs = usize::from(addresses.size).wrapping_mul(16);
        let avail_end = descs.wrapping_add(usize::from(addresses.size).wrapping_mul(2)).wrapping_add(6);
        let is_laid_out = addresses.desc.0 == u64::from(page) << PAGE_SHIFT
            && addresses.driver == addresses.desc.offset(descs as u64)
            && addresses.device == addresses.desc.offset(avail_end.next_multiple_of(USED_ALIGN) as u64);
        if !is_laid_out || page == 0 {
            return false;
        }
        self.registers.write32(reg::GUEST_PAGE_SIZE, PAGE_SIZE as u32);
        self.registers.write32(reg::QUEUE_ALIGN, USED_ALIGN as u32);
        self.registers.write32(reg::QUEUE_PFN, page);
        self.registers.read32(reg::QUEUE_PFN) == page
    }

    fn config(&self) -> Config<'_, P> {
        Config::new(&self.registers, reg::CONFIG)
    }
}

/// Writes the queue's index to the notification register. VIRTIO 1.3 §4.2.3.3
///
/// # Safety
///
/// `base` is the address of the first register of a live transport.
unsafe fn ring(base: NonNull<()>, queue: u16) {
    // SAFETY: by the contract of this function the registers are at this address; they are at least `CONFIG` bytes.
    unsafe { paravirt_platform::write_register(base.byte_add(reg::QUEUE_NOTIFY).cast(), u32::from(queue)) }
}

/// Reads the interrupt status, and acknowledges it. VIRTIO 1.3 §4.2.3.4
///
/// # Safety
///
/// `base` is the address of the first register of a live transport.
unsafe fn take_status(base: NonNull<()>) -> InterruptStatus {
    // SAFETY: by the contract of this function the registers are at this address; they are at least `CONFIG` bytes.
    unsafe {
        let bits: u32 = paravirt_platform::read_register(base.byte_add(reg::INTERRUPT_STATUS).cast());
        if bits == 0 || bits == u32::MAX {
            return InterruptStatus::empty();
        }
        paravirt_platform::write_register(base.byte_add(reg::INTERRUPT_ACK).cast(), bits);
        InterruptStatus::from_bits_truncate(bits as u8)
    }
}

// SAFETY: every method returns what the device's registers read as, and the registers stay mapped at the same addresses as long as
// the transport lives.
unsafe impl<P: Platform> VirtioTransport for MmioTransport<P> {
    fn device_type(&self) -> DeviceType {
        self.device_type
    }

    fn is_legacy(&self) -> bool {
        self.is_legacy
    }

    fn device_features(&mut self) -> u64 {
        self.registers.write32(reg::DEVICE_FEATURES_SEL, 0);
        let low = self.registers.read32(reg::DEVICE_FEATURES);
        if self.is_legacy {
            return u64::from(low);
        }
        self.registers.write32(reg::DEVICE_FEATURES_SEL, 1);
        u64::from(low) | (u64::from(self.registers.read32(reg::DEVICE_FEATURES)) << 32)
    }

    fn set_driver_features(&mut self, features: u64) {
        self.registers.write32(reg::DRIVER_FEATURES_SEL, 0);
        self.registers.write32(reg::DRIVER_FEATURES, features as u32);
        if self.is_legacy {
            return;
        }
        self.registers.write32(reg::DRIVER_FEATURES_SEL, 1);
        self.registers.write32(reg::DRIVER_FEATURES, (features >> 32) as u32);
    }

    fn status(&self) -> DeviceStatus {
        // The register has 32 bits, of which 8 are defined; that of a removed device reads as all ones.
        DeviceStatus::from_bits_retain(self.registers.read32(reg::STATUS) as u8)
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.registers.write32(reg::STATUS, u32::from(status.bits()));
    }

    fn is_present(&self) -> bool {
        self.registers.read32(reg::MAGIC) == MAGIC
    }

    fn max_queue_size(&mut self, index: u16) -> u32 {
        self.select(index);
        match self.registers.read32(reg::QUEUE_NUM_MAX) {
            u32::MAX => 0,
            size => size,
        }
    }

    fn enable_queue(&mut self, index: u16, addresses: &QueueAddresses) -> bool {
        self.select(index);
        self.registers.write32(reg::QUEUE_NUM, u32::from(addresses.size));
        if self.is_legacy {
            return self.enable_legacy_queue(addresses);
        }
        self.write_address(reg::QUEUE_DESC, addresses.desc.0);
        self.write_address(reg::QUEUE_DRIVER, addresses.driver.0);
        self.write_address(reg::QUEUE_DEVICE, addresses.device.0);
        self.registers.write32(reg::QUEUE_READY, 1);
        self.registers.read32(reg::QUEUE_READY) == 1
    }

    fn doorbell(&mut self, index: u16) -> Option<Doorbell> {
        // SAFETY: the register is mapped while the transport lives, and any processor may write it.
        Some(unsafe { Doorbell::new(self.base, index, ring) })
    }

    // QEMU's MMIO devices offer VIRTIO_F_RING_RESET without its register, which cannot be detected: `can_reset_queues` is false.
    fn start_queue_reset(&mut self, _index: u16) {}

    fn is_queue_reset(&mut self, _index: u16) -> bool {
        false
    }

    fn messages(&self) -> u16 {
        0
    }

    fn set_message(&mut self, _entry: u16, _message: Message) {}

    fn enable_messages(&mut self) -> bool {
        false
    }

    fn disable_messages(&mut self) {}

    fn set_queue_message(&mut self, _index: u16, entry: Option<u16>) -> bool {
        entry.is_none()
    }

    fn set_config_message(&mut self, entry: Option<u16>) -> bool {
        entry.is_none()
    }

    fn line(&self) -> Option<InterruptLine> {
        self.line
    }

    fn interrupt_ack(&self) -> InterruptAck {
        // SAFETY: the registers are mapped while the transport lives, and any processor may access them.
        unsafe { InterruptAck::new(self.base, take_status) }
    }

    fn config_generation(&self) -> u32 {
        // A legacy device does not have the register.
        if self.is_legacy { 0 } else { self.registers.read32(reg::CONFIG_GENERATION) }
    }

    fn read_config(&self, fields: &[(u8, u8)], into: &mut [u8]) {
        self.config().read(fields, into);
    }

    fn write_config(&mut self, offset: usize, bytes: &[u8]) -> bool {
        self.config().write(offset, bytes)
    }
}

//! virtio over PCI, modern devices. VIRTIO 1.3 §4.1

use super::pci_caps::{self, CapsError, VirtioCaps};
use super::registers::Config;
use super::{
    DeviceStatus, DeviceType, Doorbell, InterruptAck, InterruptStatus, Transport, VirtioTransport, boxed,
};
use crate::queue::QueueAddresses;
use core::fmt;
use core::ptr::NonNull;
use paravirt_pci::{BarRange, Command, FunctionInfo, Messages, PciFunction, PciSlot};
use paravirt_platform::{AllocError, InterruptLine, Message, MmioRegion, Platform, Requester};

/// The PCI vendor id of virtio devices, and the range of their modern device ids: `MODERN` plus the device id of §5. VIRTIO 1.3
/// §4.1.2
const VENDOR: u16 = 0x1af4;
const MODERN: u16 = 0x1040;
const MODERN_LAST: u16 = 0x107f;

/// Returns the type of virtio device that a PCI function is; `None` if it is not a virtio device. VIRTIO 1.3 §4.1.2
pub fn is_virtio(info: &FunctionInfo) -> Option<DeviceType> {
    if info.vendor != VENDOR {
        return None;
    }
    match info.device {
        0x1000 => Some(DeviceType::NET),
        0x1001 => Some(DeviceType::BLOCK),
        0x1002 => Some(DeviceType::BALLOON),
        0x1003 => Some(DeviceType::CONSOLE),
        0x1004 => Some(DeviceType::SCSI),
        0x1005 => Some(DeviceType::ENTROPY),
        0x1009 => Some(DeviceType::P9),
        MODERN..=MODERN_LAST => Some(DeviceType(u32::from(info.device.wrapping_sub(MODERN)))),
        _ => None,
    }
}

/// Offsets in the common configuration. VIRTIO 1.3 §4.1.4.3
mod common {
    pub const DEVICE_FEATURE_SELECT: usize = 0;
    pub const DEVICE_FEATURE: usize = 4;
    pub const DRIVER_FEATURE_SELECT: usize = 8;
    pub const DRIVER_FEATURE: usize = 12;
    pub const CONFIG_MSIX_VECTOR: usize = 16;
    pub const DEVICE_STATUS: usize = 20;
    pub const CONFIG_GENERATION: usize = 21;
    pub const QUEUE_SELECT: usize = 22;
    pub const QUEUE_SIZE: usize = 24;
    pub const QUEUE_MSIX_VECTOR: usize = 26;
    pub const QUEUE_ENABLE: usize = 28;
    pub const QUEUE_NOTIFY_OFF: usize = 30;
    pub const QUEUE_DESC: usize = 32;
    pub const QUEUE_DRIVER: usize = 40;
    pub const QUEUE_DEVICE: usize = 48;
    pub const QUEUE_RESET: usize = 58;
}

/// No message. VIRTIO 1.3 §4.1.5.1.3
const NO_VECTOR: u16 = 0xffff;

/// Why a PCI function cannot be used as a virtio device.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum PciError {
    /// It lacks the capabilities of a modern device: it is a legacy device.
    Legacy,
    /// A structure is outside its BAR, or in a BAR that is not memory or has no address.
    Bar,
    /// A range could not be mapped.
    Map,
    /// There is no memory.
    Memory,
}

impl fmt::Display for PciError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Legacy => "it has only the legacy interface",
            Self::Bar => "a register block is outside its BAR, or the BAR has no address",
            Self::Map => "its registers cannot be mapped",
            Self::Memory => "there is no memory for it",
        })
    }
}

impl core::error::Error for PciError {}

impl From<CapsError> for PciError {
    fn from(error: CapsError) -> Self {
        match error {
            CapsError::Missing => Self::Legacy,
            CapsError::Unreachable => Self::Bar,
        }
    }
}

impl From<paravirt_pci::OpenError> for PciError {
    fn from(error: paravirt_pci::OpenError) -> Self {
        match error {
            paravirt_pci::OpenError::Memory => Self::Memory,
            paravirt_pci::OpenError::Map => Self::Map,
            _ => Self::Bar,
        }
    }
}

impl From<AllocError> for PciError {
    fn from(_: AllocError) -> Self {
        Self::Memory
    }
}

/// A modern virtio device on PCI.
///
/// Once its function is gone, its registers read as all ones and are not written, and it has no configuration: what is there may be another
/// device then. A doorbell is rung all the same, and an interrupt acknowledged, which are harmless.
struct PciTransport<P: Platform> {
    device_type: DeviceType,
    common: MmioRegion<P>,
    notify: MmioRegion<P>,
    notify_multiplier: u32,
    isr: MmioRegion<P>,
    config: Option<MmioRegion<P>>,
    messages: Option<Messages<P>>,
    function: PciFunction<P>,
}

/// Creates the transport of the virtio device in `slot`, of type `device_type`: maps its registers and makes it a bus master.
/// [`paravirt_pci::enumerate`] has assigned addresses to its BARs.
///
/// # Errors
///
/// [`PciError`]; the function is unchanged.
///
/// # Safety
///
/// No other driver uses the function.
pub unsafe fn pci<P: Platform>(
    platform: &P,
    slot: &PciSlot<P>,
    device_type: DeviceType,
) -> Result<Transport<P>, PciError> {
    let function = slot.function();
    let bars = slot.bars();
    let is_reachable = |structure: &BarRange| bars.locate(structure).is_some();
    let caps = pci_caps::parse(|at| function.read(at), is_reachable)?;
    let VirtioCaps { common, notify, notify_multiplier, isr, device } = caps;
    // SAFETY: the range is in a BAR of the device, which by the contract of this function no other driver uses.
    let map = |structure: &BarRange| unsafe { bars.map(platform, structure) };
    let transport = PciTransport {
        device_type,
        common: map(&common)?,
        notify: map(&notify)?,
        notify_multiplier,
        isr: map(&isr)?,
        config: device.as_ref().map(map).transpose()?,
        // SAFETY: by the contract of this function. A device whose MSI-X table cannot be mapped is used without messages.
        messages: unsafe { Messages::msix(platform, function, bars) },
        function: function.clone(),
    };
    let transport = boxed(platform, transport)?;
    let command = function.command() | Command::MEMORY_SPACE | Command::BUS_MASTER;
    // SAFETY: by the contract of this function, no other driver uses the function; it accesses no memory before it is given a
    // queue.
    unsafe { function.set_command(command) };
    Ok(transport)
}

/// The common configuration; `None` once the device is gone.
struct Common<'a, P: Platform>(Option<&'a MmioRegion<P>>);

impl<P: Platform> Common<'_, P> {
    fn read8(&self, offset: usize) -> u8 {
        self.0.map_or(u8::MAX, |region| region.read8(offset))
    }

    fn read16(&self, offset: usize) -> u16 {
        self.0.map_or(u16::MAX, |region| region.read16(offset))
    }

    fn read32(&self, offset: usize) -> u32 {
        self.0.map_or(u32::MAX, |region| region.read32(offset))
    }

    fn write8(&self, offset: usize, value: u8) {
        self.0.iter().for_each(|region| region.write8(offset, value));
    }

    fn write16(&self, offset: usize, value: u16) {
        self.0.iter().for_each(|region| region.write16(offset, value));
    }

    fn write32(&self, offset: usize, value: u32) {
        self.0.iter().for_each(|region| region.write32(offset, value));
    }
}

impl<P: Platform> PciTransport<P> {
    /// The common configuration, of a device that is still there.
    fn common(&self) -> Common<'_, P> {
        Common(if self.function.is_gone() { None } else { Some(&self.common) })
    }

    fn select(&self, queue: u16) {
        self.common().write16(common::QUEUE_SELECT, queue);
    }

    /// The device's configuration, of a device that is still there and has one.
    fn config(&self) -> Option<Config<'_, P>> {
        let region = self.config.as_ref().filter(|_| !self.function.is_gone())?;
        Some(Config::new(region, 0))
    }

    /// Writes a 64-bit field as two 32-bit words. VIRTIO 1.3 §4.1.3.1
    fn write_address(&self, offset: usize, address: u64) {
        self.common().write32(offset, address as u32);
        self.common().write32(offset.wrapping_add(4), (address >> 32) as u32);
    }
}

/// Writes the queue's index to the queue's register in the notification structure. VIRTIO 1.3 §4.1.5.2
///
/// # Safety
///
/// `register` is the notification register of `queue`, of a live transport.
unsafe fn ring(register: NonNull<()>, queue: u16) {
    // SAFETY: by the contract of this function, it is a mapped register.
    unsafe { paravirt_platform::write_register(register.cast::<u16>(), queue) }
}

/// Reads the ISR status, which clears it. VIRTIO 1.3 §4.1.4.5
///
/// # Safety
///
/// `register` is the ISR status register of a live transport.
unsafe fn take_isr(register: NonNull<()>) -> InterruptStatus {
    // SAFETY: by the contract of this function, it is a mapped register.
    match unsafe { paravirt_platform::read_register(register.cast::<u8>()) } {
        0xff => InterruptStatus::empty(),
        bits => InterruptStatus::from_bits_truncate(bits),
    }
}

// SAFETY: every method returns what the device's registers or its configuration space read as, and the registers stay mapped at
// the same addresses as long as the transport lives. The structures are in BARs of this device and long enough, as `pci_caps` has
// checked.
unsafe impl<P: Platform> VirtioTransport for PciTransport<P> {
    fn device_type(&self) -> DeviceType {
        self.device_type
    }

    fn device_features(&mut self) -> u64 {
        self.common().write32(common::DEVICE_FEATURE_SELECT, 0);
        let low = self.common().read32(common::DEVICE_FEATURE);
        self.common().write32(common::DEVICE_FEATURE_SELECT, 1);
        u64::from(low) | (u64::from(self.common().read32(common::DEVICE_FEATURE)) << 32)
    }

    fn set_driver_features(&mut self, features: u64) {
        self.common().write32(common::DRIVER_FEATURE_SELECT, 0);
        self.common().write32(common::DRIVER_FEATURE, features as u32);
        self.common().write32(common::DRIVER_FEATURE_SELECT, 1);
        self.common().write32(common::DRIVER_FEATURE, (features >> 32) as u32);
    }

    fn status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(self.common().read8(common::DEVICE_STATUS))
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.common().write8(common::DEVICE_STATUS, status.bits());
    }

    fn is_present(&self) -> bool {
        self.common().read8(common::DEVICE_STATUS) != 0xff
            || self.common().read32(common::DEVICE_FEATURE_SELECT) != u32::MAX
    }

    fn max_queue_size(&mut self, index: u16) -> u32 {
        self.select(index);
        match self.common().read16(common::QUEUE_SIZE) {
            u16::MAX => 0,
            size => u32::from(size),
        }
    }

    fn set_queue_size(&mut self, index: u16, size: u16) -> u32 {
        self.select(index);
        self.common().write16(common::QUEUE_SIZE, size);
        u32::from(self.common().read16(common::QUEUE_SIZE))
    }

    fn enable_queue(&mut self, index: u16, addresses: &QueueAddresses) -> bool {
        self.select(index);
        self.common().write16(common::QUEUE_SIZE, addresses.size);
        self.write_address(common::QUEUE_DESC, addresses.desc.0);
        self.write_address(common::QUEUE_DRIVER, addresses.driver.0);
        self.write_address(common::QUEUE_DEVICE, addresses.device.0);
        let size = self.common().read16(common::QUEUE_SIZE);
        self.common().write16(common::QUEUE_ENABLE, 1);
        size == addresses.size && self.common().read16(common::QUEUE_ENABLE) == 1
    }

    fn doorbell(&mut self, index: u16) -> Option<Doorbell> {
        self.select(index);
        let offset = usize::from(self.common().read16(common::QUEUE_NOTIFY_OFF))
            .checked_mul(usize::try_from(self.notify_multiplier).ok()?)?;
        let register = self.notify.pointer::<u16>(offset)?;
        // SAFETY: the register is in the notification structure, which is mapped while the transport lives, and any processor may
        // write it.
        Some(unsafe { Doorbell::new(register.cast(), index, ring) })
    }

    fn can_reset_queues(&self) -> bool {
        self.common.pointer::<u16>(common::QUEUE_RESET).is_some()
    }

    fn cut_off(&mut self) -> bool {
        // SAFETY: by the contract of `pci`, no other driver uses the function; it loses access to memory here.
        unsafe { self.function.set_command(self.function.command().difference(Command::BUS_MASTER)) };
        !self.function.is_present() || !self.function.command().contains(Command::BUS_MASTER)
    }

    fn start_queue_reset(&mut self, index: u16) {
        self.select(index);
        self.common().write16(common::QUEUE_RESET, 1);
    }

    fn is_queue_reset(&mut self, index: u16) -> bool {
        self.select(index);
        self.common().read16(common::QUEUE_RESET) == 0 && self.common().read16(common::QUEUE_ENABLE) == 0
    }

    fn requester(&self) -> Option<Requester> {
        Some(self.function.requester())
    }

    fn messages(&self) -> u16 {
        self.messages.as_ref().map_or(0, Messages::count)
    }

    fn set_message(&mut self, entry: u16, message: Message) {
        self.messages.iter().for_each(|messages| messages.set(entry, message));
    }

    fn enable_messages(&mut self) -> bool {
        self.messages.as_ref().is_some_and(Messages::enable)
    }

    fn disable_messages(&mut self) {
        match &self.messages {
            Some(messages) => messages.disable(),
            None => {
                let command = self.function.command().difference(Command::INTERRUPT_DISABLE);
                // SAFETY: by the contract of `pci`, no other driver uses the function, which may raise its line.
                unsafe { self.function.set_command(command) };
            }
        }
    }

    fn set_queue_message(&mut self, index: u16, entry: Option<u16>) -> bool {
        let entry = entry.unwrap_or(NO_VECTOR);
        self.select(index);
        self.common().write16(common::QUEUE_MSIX_VECTOR, entry);
        self.common().read16(common::QUEUE_MSIX_VECTOR) == entry
    }

    fn set_config_message(&mut self, entry: Option<u16>) -> bool {
        let entry = entry.unwrap_or(NO_VECTOR);
        self.common().write16(common::CONFIG_MSIX_VECTOR, entry);
        self.common().read16(common::CONFIG_MSIX_VECTOR) == entry
    }

    fn line(&self) -> Option<InterruptLine> {
        self.function.line()
    }

    fn interrupt_ack(&self) -> InterruptAck {
        let register = self.isr.pointer::<u8>(0).map_or(NonNull::dangling(), NonNull::cast);
        // SAFETY: `pci_caps` has checked that the structure has at least one byte, to which the pointer points; it is mapped while
        // the transport lives, and any processor may read it.
        unsafe { InterruptAck::new(register, take_isr) }
    }

    fn config_generation(&self) -> u32 {
        u32::from(self.common().read8(common::CONFIG_GENERATION))
    }

    fn read_config(&self, fields: &[(u8, u8)], into: &mut [u8]) {
        if let Some(config) = self.config() {
            config.read(fields, into);
        }
    }

    fn write_config(&mut self, offset: usize, bytes: &[u8]) -> bool {
        self.config().is_some_and(|config| config.write(offset, bytes))
    }
}

//! virtio over PCI, modern devices. VIRTIO 1.3 §4.1

use super::config::Config;
use super::pci_caps::{self, Msix, Structure, VirtioCaps};
use super::{Doorbell, InterruptReason, VirtioTransport};
use crate::features::Features;
use crate::pci::{Bars, PciFunction, PciSlot};
use crate::queue::QueueAddresses;
use core::{fmt, ops::BitAnd};
use paravirt_platform::{AllocError, InterruptLine, MapError, Message, MmioRegion, PageArc, Platform};
use virtio_drivers::transport::pci::bus::{Command, PciRoot};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

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

/// VIRTIO 1.3 §4.1.5.1.3: no message.
const NO_VECTOR: u16 = 0xffff;
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASK_ALL: u16 = 1 << 14;

/// Why a PCI function cannot be used as a virtio device.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum PciError {
    /// It lacks the capabilities of a modern device: it is a legacy device.
    Legacy,
    /// A structure lies outside its BAR, or in one that is not memory or has no address.
    Bar,
    /// A range could not be mapped.
    Map,
    /// There is no memory.
    Memory,
}

impl fmt::Display for PciError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Legacy => "it has the legacy interface only",
            Self::Bar => "a register block lies outside its BAR, or the BAR has no address",
            Self::Map => "its registers cannot be mapped",
            Self::Memory => "there is no memory for it",
        })
    }
}

impl core::error::Error for PciError {}

impl From<MapError> for PciError {
    fn from(_: MapError) -> Self {
        Self::Map
    }
}

impl From<AllocError> for PciError {
    fn from(_: AllocError) -> Self {
        Self::Memory
    }
}

/// A modern virtio device on PCI.
pub struct PciTransport<P: Platform> {
    device_type: DeviceType,
    common: MmioRegion<P>,
    notify: PageArc<P, MmioRegion<P>>,
    notify_multiplier: u32,
    isr: PageArc<P, MmioRegion<P>>,
    config: Option<MmioRegion<P>>,
    msix: Option<(Msix, MmioRegion<P>)>,
    function: PciFunction<P>,
    /// Features did not stick: no queue is given out any more.
    refused: bool,
}

impl<P: Platform> PciTransport<P> {
    /// Takes the function in `slot` as a virtio device of the type given, maps its registers and makes it a bus master. Its
    /// BARs have addresses (see [`crate::pci::enumerate`]).
    ///
    /// # Errors
    ///
    /// [`PciError`]; the function is left as it was.
    pub fn new(platform: &P, slot: &PciSlot<P>, device_type: DeviceType) -> Result<Self, PciError> {
        let function = slot.function();
        let caps = pci_caps::parse(|at| function.read(at)).ok_or(PciError::Legacy)?;
        let VirtioCaps { common, notify, notify_multiplier, isr, device, msix } = caps;
        let map = |structure: &Structure| map(platform, slot.bars(), structure);
        let transport = Self {
            device_type,
            common: map(&common)?,
            notify: PageArc::new(platform, map(&notify)?)?,
            notify_multiplier,
            isr: PageArc::new(platform, map(&isr)?)?,
            config: device.as_ref().map(map).transpose()?,
            // A device whose MSI-X table cannot be reached works without.
            msix: msix.and_then(|cap| map(&cap.table).ok().map(|table| (cap, table))),
            function: function.clone(),
            refused: false,
        };
        let mut root = PciRoot::new(function.access());
        let (_, command) = root.get_status_command(function.address());
        let command = command | Command::MEMORY_SPACE | Command::BUS_MASTER;
        root.set_command(function.address(), command);
        Ok(transport)
    }

    fn config(&self) -> virtio_drivers::Result<Config<'_, P>> {
        self.config.as_ref().map(|region| Config::new(region, 0)).ok_or(Error::ConfigSpaceMissing)
    }

    fn select(&self, queue: u16) {
        self.common.write16(common::QUEUE_SELECT, queue);
    }

    /// 64-bit fields are written as two of 32. VIRTIO 1.3 §4.1.3.1
    fn write_address(&self, offset: usize, address: u64) {
        self.common.write32(offset, address as u32);
        self.common.write32(offset.wrapping_add(4), (address >> 32) as u32);
    }

    fn msix_control(&mut self, change: impl FnOnce(u16) -> u16) {
        if let Some((cap, _)) = &self.msix {
            let word = self.function.read(cap.position);
            let control = change((word >> 16) as u16);
            self.function.write(cap.position, (word & 0xffff) | (u32::from(control) << 16));
        }
    }
}

fn map<P: Platform>(platform: &P, bars: &Bars, at: &Structure) -> Result<MmioRegion<P>, PciError> {
    let (address, size) = bars.memory(at.bar).ok_or(PciError::Bar)?;
    let end = u64::from(at.offset).checked_add(u64::from(at.length)).ok_or(PciError::Bar)?;
    if address == 0 || end > size {
        return Err(PciError::Bar);
    }
    let phys = address.checked_add(u64::from(at.offset)).ok_or(PciError::Bar)?;
    phys.checked_add(u64::from(at.length)).ok_or(PciError::Bar)?;
    // SAFETY: the range lies in a BAR of the device: it is registers.
    Ok(unsafe { MmioRegion::map(platform, phys, at.length as usize) }?)
}

/// Writes the queue's index at the queue's place in the notification structure. VIRTIO 1.3 §4.1.5.2
pub struct PciBell<P: Platform> {
    notify: PageArc<P, MmioRegion<P>>,
    offset: usize,
    queue: u16,
}

impl<P: Platform> Doorbell for PciBell<P> {
    #[inline]
    fn ring(&self) {
        self.notify.write16(self.offset, self.queue);
    }
}

/// The ISR status, which is cleared by reading it. VIRTIO 1.3 §4.1.4.5
pub struct PciIsr<P: Platform>(PageArc<P, MmioRegion<P>>);

impl<P: Platform> InterruptReason for PciIsr<P> {
    fn take(&self) -> InterruptStatus {
        match self.0.read8(0) {
            0xff => InterruptStatus::empty(),
            bits => InterruptStatus::from_bits_truncate(u32::from(bits)),
        }
    }
}

impl<P: Platform> VirtioTransport for PciTransport<P> {
    type Doorbell = PciBell<P>;
    type Reason = PciIsr<P>;

    fn is_present(&mut self) -> bool {
        self.common.read8(common::DEVICE_STATUS) != 0xff
            || self.common.read32(common::DEVICE_FEATURE_SELECT) != u32::MAX
    }

    fn enable_queue(&mut self, index: u16, addresses: &QueueAddresses) -> bool {
        self.select(index);
        self.common.write16(common::QUEUE_SIZE, addresses.size);
        self.write_address(common::QUEUE_DESC, addresses.desc.0);
        self.write_address(common::QUEUE_DRIVER, addresses.driver.0);
        self.write_address(common::QUEUE_DEVICE, addresses.device.0);
        let size = self.common.read16(common::QUEUE_SIZE);
        self.common.write16(common::QUEUE_ENABLE, 1);
        size == addresses.size && self.common.read16(common::QUEUE_ENABLE) == 1
    }

    fn doorbell(&mut self, index: u16) -> Option<PciBell<P>> {
        self.select(index);
        let offset = usize::from(self.common.read16(common::QUEUE_NOTIFY_OFF))
            .checked_mul(usize::try_from(self.notify_multiplier).ok()?)?;
        self.notify.pointer::<u16>(offset)?;
        Some(PciBell { notify: self.notify.clone(), offset, queue: index })
    }

    fn start_queue_reset(&mut self, index: u16) {
        self.select(index);
        self.common.write16(common::QUEUE_RESET, 1);
    }

    fn is_queue_reset(&mut self, index: u16) -> bool {
        self.select(index);
        self.common.read16(common::QUEUE_RESET) == 0 && self.common.read16(common::QUEUE_ENABLE) == 0
    }

    fn messages(&mut self) -> u16 {
        self.msix.as_ref().map_or(0, |(cap, _)| cap.entries)
    }

    fn set_message(&mut self, entry: u16, message: Message) {
        if let Some((_, table)) = &self.msix {
            let at = usize::from(entry).wrapping_mul(16);
            table.write32(at, message.address as u32);
            table.write32(at.wrapping_add(4), (message.address >> 32) as u32);
            table.write32(at.wrapping_add(8), message.data);
            table.write32(at.wrapping_add(12), 0);
        }
    }

    fn enable_messages(&mut self, on: bool) {
        self.msix_control(|control| {
            let off = control & !(MSIX_ENABLE | MSIX_MASK_ALL);
            if on { off | MSIX_ENABLE } else { off }
        });
        let mut root = PciRoot::new(self.function.access());
        let (_, mut command) = root.get_status_command(self.function.address());
        command.set(Command::INTERRUPT_DISABLE, on);
        root.set_command(self.function.address(), command);
    }

    fn set_queue_message(&mut self, index: u16, entry: Option<u16>) -> bool {
        let entry = entry.unwrap_or(NO_VECTOR);
        self.select(index);
        self.common.write16(common::QUEUE_MSIX_VECTOR, entry);
        self.common.read16(common::QUEUE_MSIX_VECTOR) == entry
    }

    fn set_config_message(&mut self, entry: Option<u16>) -> bool {
        let entry = entry.unwrap_or(NO_VECTOR);
        self.common.write16(common::CONFIG_MSIX_VECTOR, entry);
        self.common.read16(common::CONFIG_MSIX_VECTOR) == entry
    }

    fn line(&self) -> Option<InterruptLine> {
        self.function.line()
    }

    fn reason(&self) -> PciIsr<P> {
        PciIsr(self.isr.clone())
    }

    fn read_config(&self, fields: &[(u8, u8)], into: &mut [u8]) {
        if let Ok(config) = self.config() {
            config.read_fields(fields, into);
        }
    }
}

impl<P: Platform> Transport for PciTransport<P> {
    fn device_type(&self) -> DeviceType {
        self.device_type
    }

    fn read_device_features(&mut self) -> u64 {
        self.common.write32(common::DEVICE_FEATURE_SELECT, 0);
        let low = self.common.read32(common::DEVICE_FEATURE);
        self.common.write32(common::DEVICE_FEATURE_SELECT, 1);
        u64::from(low) | (u64::from(self.common.read32(common::DEVICE_FEATURE)) << 32)
    }

    fn write_driver_features(&mut self, driver_features: u64) {
        self.common.write32(common::DRIVER_FEATURE_SELECT, 0);
        self.common.write32(common::DRIVER_FEATURE, driver_features as u32);
        self.common.write32(common::DRIVER_FEATURE_SELECT, 1);
        self.common.write32(common::DRIVER_FEATURE, (driver_features >> 32) as u32);
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        if self.refused {
            return 0;
        }
        self.select(queue);
        match self.common.read16(common::QUEUE_SIZE) {
            u16::MAX => 0,
            size => u32::from(size),
        }
    }

    fn notify(&mut self, queue: u16) {
        if let Some(bell) = self.doorbell(queue) {
            bell.ring();
        }
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(u32::from(self.common.read8(common::DEVICE_STATUS)))
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.common.write8(common::DEVICE_STATUS, status.bits() as u8);
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

    fn queue_unset(&mut self, _queue: u16) {
        // VIRTIO 1.3 §4.1.4.3.2: a driver must not write 0 to queue_enable.
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.select(queue);
        self.common.read16(common::QUEUE_ENABLE) == 1
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
        u32::from(self.common.read8(common::CONFIG_GENERATION))
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> virtio_drivers::Result<T> {
        self.config()?.read_value(offset)
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> virtio_drivers::Result<()> {
        self.config()?.write_value(offset, value.as_bytes())
    }
}

/// A driver of the `virtio-drivers` crate frees its queues when it goes, trusting the transport to stop the device first.
impl<P: Platform> Drop for PciTransport<P> {
    fn drop(&mut self) {
        stop(self);
    }
}

/// Resets the device and waits, for a bounded number of looks, until it says so or is gone.
pub(super) fn stop<T: VirtioTransport>(transport: &mut T) {
    const LOOKS: u32 = 1_000_000;
    transport.set_status(DeviceStatus::empty());
    for _ in 0..LOOKS {
        if transport.get_status().is_empty() || !transport.is_present() {
            return;
        }
        core::hint::spin_loop();
    }
    log::warn!("virtio: a device did not confirm its reset");
}

/// The start of initialisation for drivers of `virtio-drivers`, which do not read FEATURES_OK back: where it does not
/// stick, the device is marked as failed and `refuse` makes sure that it gives out no queue.
pub(super) fn begin_init<T, F>(transport: &mut T, supported: F, refuse: impl FnOnce(&mut T)) -> F
where
    T: VirtioTransport,
    F: bitflags::Flags<Bits = u64> + BitAnd<Output = F>,
{
    stop(transport);
    // Their queue has neither indirect tables that it owns nor event indices that are safe across the wrap.
    let wanted = supported.bits() & !(Features::EVENT_IDX.bits() | Features::INDIRECT_DESC.bits());
    match super::negotiate(transport, |_| wanted) {
        Ok(features) => F::from_bits_truncate(features) & supported,
        Err(error) => {
            log::warn!("virtio: device refused: {error}");
            refuse(transport);
            F::empty()
        }
    }
}

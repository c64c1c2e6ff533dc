//! A transport of either kind, chosen when the device is found.

use super::mmio::{MmioBell, MmioIsr};
use super::pci::{PciBell, PciIsr};
use super::{Doorbell, InterruptReason, MmioTransport, PciTransport, VirtioTransport};
use crate::queue::QueueAddresses;
use core::{fmt, ops::BitAnd};
use paravirt_platform::{InterruptLine, Message, Platform};
use virtio_drivers::PhysAddr;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A virtio device on either bus.
pub enum AnyTransport<P: Platform> {
    /// On PCI.
    Pci(PciTransport<P>),
    /// Behind a block of registers.
    Mmio(MmioTransport<P>),
}

/// The doorbell of a queue on either bus.
pub enum AnyBell<P: Platform> {
    /// On PCI.
    Pci(PciBell<P>),
    /// Behind a block of registers.
    Mmio(MmioBell<P>),
}

/// The acknowledgement of an interrupt on either bus.
pub enum AnyIsr<P: Platform> {
    /// On PCI.
    Pci(PciIsr<P>),
    /// Behind a block of registers.
    Mmio(MmioIsr<P>),
}

impl<P: Platform> Doorbell for AnyBell<P> {
    #[inline]
    fn ring(&self) {
        match self {
            Self::Pci(bell) => bell.ring(),
            Self::Mmio(bell) => bell.ring(),
        }
    }
}

impl<P: Platform> InterruptReason for AnyIsr<P> {
    fn take(&self) -> InterruptStatus {
        match self {
            Self::Pci(isr) => isr.take(),
            Self::Mmio(isr) => isr.take(),
        }
    }
}

macro_rules! each {
    ($self:ident, $t:ident => $call:expr) => {
        match $self {
            Self::Pci($t) => $call,
            Self::Mmio($t) => $call,
        }
    };
}

impl<P: Platform> VirtioTransport for AnyTransport<P> {
    type Doorbell = AnyBell<P>;
    type Reason = AnyIsr<P>;

    fn is_present(&mut self) -> bool {
        each!(self, t => t.is_present())
    }
    fn enable_queue(&mut self, index: u16, addresses: &QueueAddresses) -> bool {
        each!(self, t => t.enable_queue(index, addresses))
    }
    fn doorbell(&mut self, index: u16) -> Option<AnyBell<P>> {
        match self {
            Self::Pci(t) => t.doorbell(index).map(AnyBell::Pci),
            Self::Mmio(t) => t.doorbell(index).map(AnyBell::Mmio),
        }
    }
    fn start_queue_reset(&mut self, index: u16) {
        each!(self, t => t.start_queue_reset(index));
    }
    fn is_queue_reset(&mut self, index: u16) -> bool {
        each!(self, t => t.is_queue_reset(index))
    }
    fn messages(&mut self) -> u16 {
        each!(self, t => t.messages())
    }
    fn set_message(&mut self, entry: u16, message: Message) {
        each!(self, t => t.set_message(entry, message));
    }
    fn enable_messages(&mut self, on: bool) {
        each!(self, t => t.enable_messages(on));
    }
    fn set_queue_message(&mut self, index: u16, entry: Option<u16>) -> bool {
        each!(self, t => t.set_queue_message(index, entry))
    }
    fn set_config_message(&mut self, entry: Option<u16>) -> bool {
        each!(self, t => t.set_config_message(entry))
    }
    fn line(&self) -> Option<InterruptLine> {
        each!(self, t => t.line())
    }
    fn reason(&self) -> AnyIsr<P> {
        match self {
            Self::Pci(t) => AnyIsr::Pci(t.reason()),
            Self::Mmio(t) => AnyIsr::Mmio(t.reason()),
        }
    }
    fn read_config(&self, fields: &[(u8, u8)], into: &mut [u8]) {
        each!(self, t => t.read_config(fields, into));
    }
}

impl<P: Platform> Transport for AnyTransport<P> {
    fn device_type(&self) -> DeviceType {
        each!(self, t => t.device_type())
    }
    fn read_device_features(&mut self) -> u64 {
        each!(self, t => t.read_device_features())
    }
    fn write_driver_features(&mut self, driver_features: u64) {
        each!(self, t => t.write_driver_features(driver_features));
    }
    fn max_queue_size(&mut self, queue: u16) -> u32 {
        each!(self, t => t.max_queue_size(queue))
    }
    fn notify(&mut self, queue: u16) {
        each!(self, t => t.notify(queue));
    }
    fn get_status(&self) -> DeviceStatus {
        each!(self, t => t.get_status())
    }
    fn set_status(&mut self, status: DeviceStatus) {
        each!(self, t => t.set_status(status));
    }
    fn set_guest_page_size(&mut self, guest_page_size: u32) {
        each!(self, t => t.set_guest_page_size(guest_page_size));
    }
    fn requires_legacy_layout(&self) -> bool {
        each!(self, t => t.requires_legacy_layout())
    }
    fn queue_set(&mut self, queue: u16, size: u32, desc: PhysAddr, driver: PhysAddr, device: PhysAddr) {
        each!(self, t => t.queue_set(queue, size, desc, driver, device));
    }
    fn queue_unset(&mut self, queue: u16) {
        each!(self, t => t.queue_unset(queue));
    }
    fn queue_used(&mut self, queue: u16) -> bool {
        each!(self, t => t.queue_used(queue))
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        each!(self, t => t.ack_interrupt())
    }
    fn begin_init<F: bitflags::Flags<Bits = u64> + BitAnd<Output = F> + fmt::Debug>(
        &mut self,
        supported: F,
    ) -> F {
        each!(self, t => t.begin_init(supported))
    }
    fn read_config_generation(&self) -> u32 {
        each!(self, t => t.read_config_generation())
    }
    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> virtio_drivers::Result<T> {
        each!(self, t => t.read_config_space(offset))
    }
    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> virtio_drivers::Result<()> {
        each!(self, t => t.write_config_space(offset, value))
    }
}

//! Transports: how the registers of a virtio device are reached.
//!
//! The transports here implement the `virtio-drivers` crate's
//! [`Transport`], so that its drivers run on them too, and
//! [`VirtioTransport`], which adds what that trait lacks: read-back of what was set, doorbells that are rung without
//! a lock, reset of one queue, interrupts for each queue, and the absence of a device.

mod any;
mod config;
mod handshake;
mod mmio;
mod pci;
pub mod pci_caps;

pub use any::{AnyBell, AnyIsr, AnyTransport};
pub use handshake::OpenError;
pub(crate) use handshake::{negotiate, reset};
pub use mmio::{MmioError, MmioTransport};
pub use pci::{PciError, PciTransport};

use crate::queue::QueueAddresses;
use paravirt_platform::{InterruptLine, Message};
use virtio_drivers::transport::{InterruptStatus, Transport};

/// Tells the device that a queue has new requests. Rung from any processor, without a lock.
pub trait Doorbell: Send + Sync + 'static {
    /// Rings it.
    fn ring(&self);
}

/// Reads, and thereby acknowledges, why a device raised its interrupt line. Called in interrupt context.
pub trait InterruptReason: Send + Sync + 'static {
    /// Why, since the last call; empty where it was not this device.
    fn take(&self) -> InterruptStatus;
}

/// What the drivers of this crate need of a transport.
///
/// Everything that is read is the device's word: callers check it. Absent registers read as all ones.
pub trait VirtioTransport: Transport + Send + 'static {
    /// How a queue is kicked.
    type Doorbell: Doorbell;
    /// How the interrupt line is acknowledged.
    type Reason: InterruptReason;

    /// Whether the device still answers. One that was unplugged reads as all ones.
    fn is_present(&mut self) -> bool;

    /// Tells the device of queue `index` and enables it; `false` where it did not accept that.
    fn enable_queue(&mut self, index: u16, addresses: &QueueAddresses) -> bool;

    /// The doorbell of queue `index`, which has been enabled.
    fn doorbell(&mut self, index: u16) -> Option<Self::Doorbell>;

    /// Starts the reset of one queue (VIRTIO_F_RING_RESET).
    fn start_queue_reset(&mut self, index: u16);

    /// Whether that reset is done.
    fn is_queue_reset(&mut self, index: u16) -> bool;

    /// How many message-signalled interrupts the device can tell apart; 0 where it has none.
    fn messages(&mut self) -> u16;

    /// Sets message `entry` and unmasks it.
    fn set_message(&mut self, entry: u16, message: Message);

    /// Switches message-signalled interrupts on, and the line off; with `false`, the reverse.
    fn enable_messages(&mut self, on: bool);

    /// Leads the interrupts of queue `index` to message `entry`; `false` where the device did not accept that.
    fn set_queue_message(&mut self, index: u16, entry: Option<u16>) -> bool;

    /// Leads configuration changes to message `entry`; `false` where the device did not accept that.
    fn set_config_message(&mut self, entry: Option<u16>) -> bool;

    /// The device's interrupt line, where it has one.
    fn line(&self) -> Option<InterruptLine>;

    /// How its interrupt line is acknowledged.
    fn reason(&self) -> Self::Reason;

    /// Copies bytes of the device's configuration, in accesses of the widths given as `(offset, width)`; what the device
    /// does not have is left as it is.
    fn read_config(&self, fields: &[(u8, u8)], into: &mut [u8]);
}

/// Reads the fields of a device's configuration so that they belong together: the generation is the same before and
/// after. Gives up after a bounded number of tries, with what it has then.
pub(crate) fn read_config<T: VirtioTransport, const N: usize>(transport: &T, fields: &[(u8, u8)]) -> [u8; N] {
    let mut bytes = [0; N];
    for _ in 0..8 {
        let before = transport.read_config_generation();
        transport.read_config(fields, &mut bytes);
        if transport.read_config_generation() == before {
            break;
        }
    }
    bytes
}

//! Transports: how the registers of a virtio device are reached. VIRTIO 1.3 §4
//!
//! [`pci`] and [`mmio`] make a [`Transport`], a [`VirtioTransport`] in memory of its own: from there on a driver does not know
//! which bus its device is on. After a device was opened only the [`Doorbell`] of each queue is used on the data path.

mod handshake;
mod mmio;
mod pci;
pub mod pci_caps;
mod registers;

pub use handshake::OpenError;
pub(crate) use handshake::{negotiate, reset};
pub use mmio::{MmioError, mmio};
pub use pci::{PciError, is_virtio, pci};
pub use registers::{DeviceStatus, DeviceType, InterruptStatus};

use crate::queue::QueueAddresses;
use core::fmt;
use core::ptr::NonNull;
use paravirt_platform::{AllocError, InterruptLine, Message, PageBox, Platform};

/// A transport of either bus.
pub type Transport<P> = PageBox<P, dyn VirtioTransport>;

/// Moves a transport into memory of its own.
///
/// # Errors
///
/// [`AllocError`] where the platform has none.
pub fn boxed<P: Platform, T: VirtioTransport>(
    platform: &P,
    transport: T,
) -> Result<Transport<P>, AllocError> {
    // SAFETY: the function is an unsizing coercion.
    Ok(unsafe { PageBox::new(platform, transport)?.unsize(|value| value as *mut dyn VirtioTransport) })
}

/// Tells the device that a queue has new requests. Rung from any processor, without a lock. It lives as long as the transport
/// that made it.
#[derive(Copy, Clone)]
pub struct Doorbell {
    register: NonNull<()>,
    queue: u16,
    ring: unsafe fn(NonNull<()>, u16),
}

// SAFETY: `new` asks for a register that any processor may write.
unsafe impl Send for Doorbell {}
// SAFETY: `new` asks for a register that several processors may write at once.
unsafe impl Sync for Doorbell {}

impl Doorbell {
    /// The doorbell that calls `ring` with `register` and `queue`.
    ///
    /// # Safety
    ///
    /// The call may be made from any processor, several at once, as long as the transport lives that hands the doorbell out.
    pub const unsafe fn new(register: NonNull<()>, queue: u16, ring: unsafe fn(NonNull<()>, u16)) -> Self {
        Self { register, queue, ring }
    }

    /// Rings it.
    ///
    /// # Safety
    ///
    /// The transport that made it is alive.
    #[inline(always)]
    pub unsafe fn ring(&self) {
        // SAFETY: the transport is alive, which is what `new` asks for.
        unsafe { (self.ring)(self.register, self.queue) }
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doorbell").field("queue", &self.queue).finish()
    }
}

/// Reads, and thereby acknowledges, why a device raised its interrupt line. Called in interrupt context. It lives as long as the
/// transport that made it.
#[derive(Copy, Clone)]
pub struct InterruptAck {
    register: NonNull<()>,
    take: unsafe fn(NonNull<()>) -> InterruptStatus,
}

// SAFETY: `new` asks for a register that any processor may access.
unsafe impl Send for InterruptAck {}
// SAFETY: `new` asks for a register that several processors may access at once.
unsafe impl Sync for InterruptAck {}

impl InterruptAck {
    /// The acknowledgement that calls `take` with `register`.
    ///
    /// # Safety
    ///
    /// The call may be made in interrupt context, from any processor, several at once, as long as the transport lives that hands
    /// this out.
    pub const unsafe fn new(register: NonNull<()>, take: unsafe fn(NonNull<()>) -> InterruptStatus) -> Self {
        Self { register, take }
    }

    /// Why the line was raised, since the last call; empty where it was not this device.
    ///
    /// # Safety
    ///
    /// The transport that made it is alive.
    pub unsafe fn take(&self) -> InterruptStatus {
        // SAFETY: the transport is alive, which is what `new` asks for.
        unsafe { (self.take)(self.register) }
    }
}

impl fmt::Debug for InterruptAck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InterruptAck")
    }
}

/// The registers of a virtio device.
///
/// Everything that is read is the device's word: callers check it. Absent registers read as all ones. No method is called in
/// interrupt context, and none blocks.
///
/// # Safety
///
/// Drivers free the memory of their queues, and hand buffers back, on the word of a transport. An implementation says that a
/// device is reset ([`status`](Self::status) is empty), gone ([`is_present`](Self::is_present) is false), or that a queue is reset
/// ([`is_queue_reset`](Self::is_queue_reset)) only when that is what the device's registers say, and tells the device of no memory
/// but what it is given. The values that [`doorbell`](Self::doorbell) and [`interrupt_ack`](Self::interrupt_ack) return may be
/// used as long as the transport lives, also while it is moved.
pub unsafe trait VirtioTransport: Send + 'static {
    /// What the device is.
    fn device_type(&self) -> DeviceType;

    /// The features that the device offers.
    fn device_features(&mut self) -> u64;

    /// Tells the device which of them are accepted.
    fn set_driver_features(&mut self, features: u64);

    /// The device status.
    fn status(&self) -> DeviceStatus;

    /// Writes the device status; an empty one starts a reset.
    fn set_status(&mut self, status: DeviceStatus);

    /// Whether the device still answers. One that was unplugged reads as all ones.
    fn is_present(&self) -> bool;

    /// The most entries of queue `index`; 0 where there is no such queue.
    fn max_queue_size(&mut self, index: u16) -> u32;

    /// Sets the size of queue `index` and returns the size that the device then has; by default of a transport on which it cannot be
    /// read back, the size that was set.
    fn set_queue_size(&mut self, index: u16, size: u16) -> u32 {
        let _ = index;
        u32::from(size)
    }

    /// Tells the device of queue `index` and enables it; `false` where it did not accept that.
    fn enable_queue(&mut self, index: u16, addresses: &QueueAddresses) -> bool;

    /// The doorbell of queue `index`, which has been enabled; `None` where it lies outside the device's registers.
    fn doorbell(&mut self, index: u16) -> Option<Doorbell>;

    /// Whether the transport has the registers by which one queue is reset. VIRTIO_F_RING_RESET is accepted only then; by default
    /// it is not.
    fn can_reset_queues(&self) -> bool {
        false
    }

    /// Keeps the device from accessing memory, whatever its registers read as, and returns whether it is certain that it does not any
    /// more: the bus has cut it off, or reports that it is gone. By default nothing is certain.
    fn cut_off(&mut self) -> bool {
        false
    }

    /// Starts the reset of one queue (VIRTIO_F_RING_RESET).
    fn start_queue_reset(&mut self, index: u16);

    /// Whether that reset is done.
    fn is_queue_reset(&mut self, index: u16) -> bool;

    /// How many message-signalled interrupts the device can tell apart; 0 where it has none.
    fn messages(&self) -> u16;

    /// Sets message `entry` and unmasks it.
    fn set_message(&mut self, entry: u16, message: Message);

    /// Switches message-signalled interrupts on, and the line off; `false` where the device did not take that.
    fn enable_messages(&mut self) -> bool;

    /// Switches message-signalled interrupts off, and the line on.
    fn disable_messages(&mut self);

    /// Has queue `index` raise message `entry`; `false` where the device did not accept that.
    fn set_queue_message(&mut self, index: u16, entry: Option<u16>) -> bool;

    /// Has configuration changes raise message `entry`; `false` where the device did not accept that.
    fn set_config_message(&mut self, entry: Option<u16>) -> bool;

    /// The device's interrupt line, where it has one.
    fn line(&self) -> Option<InterruptLine>;

    /// How its interrupt line is acknowledged.
    fn interrupt_ack(&self) -> InterruptAck;

    /// Counts the changes of the configuration.
    fn config_generation(&self) -> u32;

    /// Copies bytes of the device's configuration, in accesses of the widths given as `(offset, width)`; what the device
    /// does not have is left as it is.
    fn read_config(&self, fields: &[(u8, u8)], into: &mut [u8]);

    /// Writes bytes to the device's configuration at `offset`, as one access where it is aligned and of 1, 2 or 4 bytes;
    /// `false` where the configuration is shorter.
    fn write_config(&mut self, offset: usize, bytes: &[u8]) -> bool;
}

/// The width of the field that `_` selects in a configuration structure, in bytes, for [`config_fields`].
pub(crate) const fn config_width<C, F>(_: fn(&C) -> &F) -> u8 {
    size_of::<F>() as u8
}

/// The named fields of a configuration structure as the `(offset, width)` pairs that [`read_config`] takes. The structure is
/// `repr(C)`, below 256 bytes and without alignment, so that the layout is that of the wire.
macro_rules! config_fields {
    ($config:ty: $($field:ident),+ $(,)?) => {
        &[$((
            core::mem::offset_of!($config, $field) as u8,
            $crate::transport::config_width(|config: &$config| &config.$field),
        )),+]
    };
}
pub(crate) use config_fields;

/// Reads the fields of a device's configuration so that they belong together: the generation is the same before and
/// after. Gives up after eight tries, with what it has then. VIRTIO 1.3 §2.5.1
pub(crate) fn read_config<const N: usize>(transport: &dyn VirtioTransport, fields: &[(u8, u8)]) -> [u8; N] {
    let mut bytes = [0; N];
    for _ in 0..8 {
        let before = transport.config_generation();
        transport.read_config(fields, &mut bytes);
        if transport.config_generation() == before {
            break;
        }
    }
    bytes
}

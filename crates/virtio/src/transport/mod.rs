//! Transports: access to the registers of a virtio device over PCI or MMIO. VIRTIO 1.3 §4
//!
//! [`pci`] and [`mmio`] create a [`Transport`], a boxed [`VirtioTransport`]: drivers do not depend on the bus of their device. The
//! data path of an open device uses only the [`Doorbell`] of each queue.

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
use paravirt_platform::{AllocError, InterruptLine, Message, PageBox, Platform, Requester};

/// A transport of any bus.
pub type Transport<P> = PageBox<P, dyn VirtioTransport>;

/// Moves a transport into a separate allocation.
///
/// # Errors
///
/// [`AllocError`] if the platform has no memory.
pub fn boxed<P: Platform, T: VirtioTransport>(
    platform: &P,
    transport: T,
) -> Result<Transport<P>, AllocError> {
    // SAFETY: the function is an unsizing coercion.
    Ok(unsafe { PageBox::new(platform, transport)?.unsize(|value| value as *mut dyn VirtioTransport) })
}

/// The notification register of a queue, which tells the device that the queue has new requests. Any processor may ring it,
/// without a lock, as long as the transport lives that returned it.
#[derive(Copy, Clone)]
pub struct Doorbell {
    register: NonNull<()>,
    queue: u16,
    ring: unsafe fn(NonNull<()>, u16),
}

// SAFETY: `new` requires a register that any processor may write.
unsafe impl Send for Doorbell {}
// SAFETY: `new` requires a register that several processors may write at once.
unsafe impl Sync for Doorbell {}

impl Doorbell {
    /// Creates a doorbell that calls `ring` with `register` and `queue`.
    ///
    /// # Safety
    ///
    /// The call may be made from any processor, several at once, as long as the transport lives that returns the doorbell.
    pub const unsafe fn new(register: NonNull<()>, queue: u16, ring: unsafe fn(NonNull<()>, u16)) -> Self {
        Self { register, queue, ring }
    }

    /// Notifies the device.
    ///
    /// # Safety
    ///
    /// The transport that returned the doorbell is alive.
    #[inline(always)]
    pub unsafe fn ring(&self) {
        // SAFETY: the transport is alive, as `new` requires.
        unsafe { (self.ring)(self.register, self.queue) }
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doorbell").field("queue", &self.queue).finish()
    }
}

/// Reads and acknowledges the cause of a line interrupt of a device. May be called in interrupt context, as long as the transport
/// lives that returned it.
#[derive(Copy, Clone)]
pub struct InterruptAck {
    register: NonNull<()>,
    take: unsafe fn(NonNull<()>) -> InterruptStatus,
}

// SAFETY: `new` requires a register that any processor may access.
unsafe impl Send for InterruptAck {}
// SAFETY: `new` requires a register that several processors may access at once.
unsafe impl Sync for InterruptAck {}

impl InterruptAck {
    /// Creates an acknowledgement that calls `take` with `register`.
    ///
    /// # Safety
    ///
    /// The call may be made in interrupt context, from any processor, several at once, as long as the transport lives that returns
    /// this value.
    pub const unsafe fn new(register: NonNull<()>, take: unsafe fn(NonNull<()>) -> InterruptStatus) -> Self {
        Self { register, take }
    }

    /// Returns why the device raised the line since the last call; empty if this device did not raise it.
    ///
    /// # Safety
    ///
    /// The transport that returned this value is alive.
    pub unsafe fn take(&self) -> InterruptStatus {
        // SAFETY: the transport is alive, as `new` requires.
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
/// All values that are read come from the device: callers check them. Absent registers read as all ones. No method is called in
/// interrupt context, and none blocks.
///
/// # Safety
///
/// Depending on what a transport returns, drivers free the memory of their queues and return buffers to callers. An implementation
/// reports a device as reset ([`status`](Self::status) is empty) or removed ([`is_present`](Self::is_present) is false), or a
/// queue as reset ([`is_queue_reset`](Self::is_queue_reset)), only if the device's registers say so, and reports it as cut off
/// ([`cut_off`](Self::cut_off)) only if the bus guarantees that the device no longer accesses memory. It gives the device no
/// memory addresses but those that it receives. The values that [`doorbell`](Self::doorbell) and
/// [`interrupt_ack`](Self::interrupt_ack) return may be used as long as the transport lives, even while it is moved.
pub unsafe trait VirtioTransport: Send + 'static {
    /// Returns the type of the device.
    fn device_type(&self) -> DeviceType;

    /// Returns whether the device has the legacy interface only: no VIRTIO_F_VERSION_1, no FEATURES_OK, and the three parts of a queue
    /// follow each other in memory. VIRTIO 1.3 §1.3.1. The default is `false`.
    fn is_legacy(&self) -> bool {
        false
    }

    /// Returns the features that the device offers.
    fn device_features(&mut self) -> u64;

    /// Tells the device which features the driver accepts.
    fn set_driver_features(&mut self, features: u64);

    /// Reads the device status.
    fn status(&self) -> DeviceStatus;

    /// Writes the device status; an empty one starts a reset.
    fn set_status(&mut self, status: DeviceStatus);

    /// Returns whether the device still answers. The registers of an unplugged device read as all ones.
    fn is_present(&self) -> bool;

    /// Returns the maximum number of entries of queue `index`; 0 if there is no such queue.
    fn max_queue_size(&mut self, index: u16) -> u32;

    /// Sets the size of queue `index` and returns the size that the device reports afterwards. The default, for transports on
    /// which it cannot be read back, returns `size`.
    fn set_queue_size(&mut self, index: u16, size: u16) -> u32 {
        let _ = index;
        u32::from(size)
    }

    /// Gives the device the addresses of queue `index` and enables the queue. Returns `false` if the device did not accept that.
    fn enable_queue(&mut self, index: u16, addresses: &QueueAddresses) -> bool;

    /// Returns the doorbell of queue `index`, which is enabled; `None` if it is outside the device's registers.
    fn doorbell(&mut self, index: u16) -> Option<Doorbell>;

    /// Returns whether the transport has the registers to reset a single queue, without which VIRTIO_F_RING_RESET is not accepted.
    /// The default is `false`.
    fn can_reset_queues(&self) -> bool {
        false
    }

    /// Cuts the device off from memory, whatever its registers read as. Returns whether the device certainly no longer accesses
    /// memory: the bus has cut it off, or reports that it is no longer there. The default returns `false`.
    fn cut_off(&mut self) -> bool {
        false
    }

    /// Starts the reset of one queue (VIRTIO_F_RING_RESET).
    fn start_queue_reset(&mut self, index: u16);

    /// Returns whether the reset of queue `index` is complete.
    fn is_queue_reset(&mut self, index: u16) -> bool;

    /// Returns the number of message-signalled interrupts that the device supports; 0 if it supports none.
    fn messages(&self) -> u16;

    /// Returns who sends its messages; `None` if it is on no PCI bus, as by default.
    fn requester(&self) -> Option<Requester> {
        None
    }

    /// Programs and unmasks message `entry`.
    fn set_message(&mut self, entry: u16, message: Message);

    /// Enables message-signalled interrupts and disables the line. Returns `false` if the device did not accept that.
    fn enable_messages(&mut self) -> bool;

    /// Disables message-signalled interrupts and enables the line.
    fn disable_messages(&mut self);

    /// Assigns message `entry` to queue `index`, or none. Returns `false` if the device did not accept that.
    fn set_queue_message(&mut self, index: u16, entry: Option<u16>) -> bool;

    /// Assigns message `entry` to configuration changes, or none. Returns `false` if the device did not accept that.
    fn set_config_message(&mut self, entry: Option<u16>) -> bool;

    /// Returns the device's interrupt line, if it has one.
    fn line(&self) -> Option<InterruptLine>;

    /// Returns the acknowledgement of the device's interrupt line.
    fn interrupt_ack(&self) -> InterruptAck;

    /// Returns the generation of the configuration, which changes with the configuration.
    fn config_generation(&self) -> u32;

    /// Reads the fields `(offset, width)`, in bytes, of the device's configuration to the same offsets of `into`. Fields that the
    /// device does not have leave `into` unchanged.
    fn read_config(&self, fields: &[(u8, u8)], into: &mut [u8]);

    /// Writes bytes to the device's configuration at `offset`: by one access if they are aligned and 1, 2 or 4 bytes long. Returns
    /// `false`, without writing, if the configuration is shorter.
    fn write_config(&mut self, offset: usize, bytes: &[u8]) -> bool;
}

/// Returns the width in bytes of the field of a configuration structure that the argument selects, for [`config_fields`].
pub(crate) const fn config_width<C, F>(_: fn(&C) -> &F) -> u8 {
    size_of::<F>() as u8
}

/// Returns the named fields of a configuration structure as the `(offset, width)` pairs for [`read_config`]. The structure is
/// `repr(C)`, shorter than 256 bytes, and has alignment 1, so that its layout is the wire layout.
macro_rules! config_fields {
    ($config:ty: $($field:ident),+ $(,)?) => {
        &[$((
            core::mem::offset_of!($config, $field) as u8,
            $crate::transport::config_width(|config: &$config| &config.$field),
        )),+]
    };
}
pub(crate) use config_fields;

/// Reads fields of a device's configuration consistently: the generation is the same before and after. After eight attempts
/// returns the last values read. VIRTIO 1.3 §2.5.1
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

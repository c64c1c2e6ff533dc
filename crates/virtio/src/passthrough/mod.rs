//! What the drivers of the `virtio-drivers` crate need: a [`hal`] over a platform, and a [transport](PassthroughTransport) over one
//! of ours.
//!
//! These drivers trust the device, and allocate: they stand **outside the trust rule**.

pub mod hal;

use crate::features::Features;
use crate::queue::QueueAddresses;
use crate::transport::{DeviceStatus, Transport, negotiate};
use core::fmt;
use core::ops::BitAnd;
use paravirt_platform::{BusAddr, Platform};
use virtio_drivers::transport::{self as peer, DeviceType, InterruptStatus};
use virtio_drivers::{Error, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Looks at a device that is being reset: a driver of that crate gives no clock.
const RESET_LOOKS: u32 = 1_000_000;
/// Bytes of the longest field of a device's configuration.
const MAX_FIELD: usize = 64;

/// One of our transports, for a driver of the `virtio-drivers` crate.
pub struct PassthroughTransport<P: Platform> {
    transport: Transport<P>,
    /// The device did not agree on features: no queue is given out.
    is_refused: bool,
}

impl<P: Platform> PassthroughTransport<P> {
    /// Wraps `transport`.
    pub fn new(transport: Transport<P>) -> Self {
        Self { transport, is_refused: false }
    }

    /// Resets the device and waits, for a bounded number of looks, until it says so or is gone.
    fn stop(&mut self) {
        self.transport.set_status(DeviceStatus::empty());
        for _ in 0..RESET_LOOKS {
            if self.transport.status().is_empty() || !self.transport.is_present() {
                return;
            }
            core::hint::spin_loop();
        }
        log::warn!("virtio {}: the device did not confirm its reset", self.transport.device_type());
    }

    /// Fills `bytes` from byte `offset` of the configuration, in accesses of the widest kind that fits.
    fn read(&self, offset: usize, bytes: &mut [u8]) -> virtio_drivers::Result<()> {
        let width: usize = match (offset & 3, bytes.len()) {
            (0, len) if len % 4 == 0 => 4,
            (0 | 2, 2) => 2,
            _ => 1,
        };
        for (i, chunk) in bytes.chunks_mut(width).enumerate() {
            let at = offset.saturating_add(i.saturating_mul(width));
            let at = u8::try_from(at).map_err(|_| Error::ConfigSpaceTooSmall)?;
            let mut window = [0; 256];
            self.transport.read_config(&[(at, chunk.len() as u8)], &mut window);
            let from = window.get(usize::from(at)..).unwrap_or_default();
            chunk.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        }
        Ok(())
    }
}

impl<P: Platform> fmt::Debug for PassthroughTransport<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PassthroughTransport").field(&self.transport.device_type()).finish()
    }
}

impl<P: Platform> peer::Transport for PassthroughTransport<P> {
    /// A network card where that crate has no name for the type: its drivers look at the type of their own only.
    fn device_type(&self) -> DeviceType {
        DeviceType::try_from(self.transport.device_type().0).unwrap_or(DeviceType::Network)
    }

    fn read_device_features(&mut self) -> u64 {
        self.transport.device_features()
    }

    fn write_driver_features(&mut self, driver_features: u64) {
        self.transport.set_driver_features(driver_features);
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        if self.is_refused { 0 } else { self.transport.max_queue_size(queue) }
    }

    fn notify(&mut self, queue: u16) {
        if let Some(doorbell) = self.transport.doorbell(queue) {
            // SAFETY: the transport is this value's.
            unsafe { doorbell.ring() }
        }
    }

    fn get_status(&self) -> peer::DeviceStatus {
        peer::DeviceStatus::from_bits_retain(u32::from(self.transport.status().bits()))
    }

    fn set_status(&mut self, status: peer::DeviceStatus) {
        self.transport.set_status(DeviceStatus::from_bits_retain(status.bits() as u8));
    }

    fn set_guest_page_size(&mut self, _guest_page_size: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(&mut self, queue: u16, size: u32, desc: PhysAddr, driver: PhysAddr, device: PhysAddr) {
        let addresses = QueueAddresses {
            size: u16::try_from(size).unwrap_or(0),
            desc: BusAddr(desc),
            driver: BusAddr(driver),
            device: BusAddr(device),
        };
        if !self.transport.enable_queue(queue, &addresses) {
            log::warn!("virtio: the device did not accept queue {queue}");
        }
    }

    /// Nothing: a queue of a modern device cannot be disabled alone (VIRTIO 1.3 §4.1.4.3.2); the drop resets the device.
    fn queue_unset(&mut self, _queue: u16) {}

    fn queue_used(&mut self, _queue: u16) -> bool {
        false
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        // SAFETY: the transport is this value's.
        let why = unsafe { self.transport.interrupt_ack().take() };
        InterruptStatus::from_bits_truncate(u32::from(why.bits()))
    }

    /// Reads FEATURES_OK back, which that crate's drivers do not: where it does not stick, the device is marked as failed and gives
    /// out no queue.
    fn begin_init<F: bitflags::Flags<Bits = u64> + BitAnd<Output = F> + fmt::Debug>(
        &mut self,
        supported: F,
    ) -> F {
        self.stop();
        // Their queue has neither indirect tables that it owns nor event indices that are safe across the wrap.
        let wanted = supported.bits() & !(Features::EVENT_IDX.bits() | Features::INDIRECT_DESC.bits());
        match negotiate(&mut *self.transport, |_| wanted) {
            Ok(features) => F::from_bits_truncate(features) & supported,
            Err(error) => {
                log::warn!("virtio: device refused: {error}");
                self.is_refused = true;
                F::empty()
            }
        }
    }

    fn read_config_generation(&self) -> u32 {
        self.transport.config_generation()
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> virtio_drivers::Result<T> {
        let mut bytes = [0; MAX_FIELD];
        let bytes = bytes.get_mut(..size_of::<T>()).ok_or(Error::ConfigSpaceTooSmall)?;
        self.read(offset, bytes)?;
        T::read_from_bytes(bytes).map_err(|_| Error::ConfigSpaceTooSmall)
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> virtio_drivers::Result<()> {
        let is_written = self.transport.write_config(offset, value.as_bytes());
        if is_written { Ok(()) } else { Err(Error::ConfigSpaceTooSmall) }
    }
}

/// A driver of the `virtio-drivers` crate frees its queues when it goes, trusting the transport to stop the device first.
impl<P: Platform> Drop for PassthroughTransport<P> {
    fn drop(&mut self) {
        self.stop();
    }
}

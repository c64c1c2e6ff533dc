//! Passthrough of devices to the `virtio-drivers` crate: a [`hal`] over a platform, and a [transport](PassthroughTransport) over a
//! [`Transport`] of this crate.
//!
//! The drivers of that crate trust the device and allocate memory: they are **outside the trust rule**.

pub mod hal;

use crate::features::Features;
use crate::queue::QueueAddresses;
use crate::transport::{DeviceStatus, Transport, negotiate};
use core::fmt;
use core::ops::BitAnd;
use core::time::Duration;
use paravirt_platform::{BusAddr, Platform};
use virtio_drivers::transport::{self as peer, DeviceType, InterruptStatus};
use virtio_drivers::{Error, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// How long a device may take to confirm a reset.
const RESET_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of the longest configuration field that can be read.
const MAX_FIELD_LEN: usize = 64;

/// A transport for a driver of the `virtio-drivers` crate.
pub struct PassthroughTransport<P: Platform> {
    transport: Transport<P>,
    platform: P,
    /// Feature negotiation failed: every queue is reported with size 0.
    has_failed: bool,
}

impl<P: Platform> PassthroughTransport<P> {
    /// Wraps `transport`. The clock of `platform` limits the wait for a reset to 5 seconds.
    pub fn new(platform: &P, transport: Transport<P>) -> Self {
        Self { transport, platform: platform.clone(), has_failed: false }
    }

    /// Resets the device and polls its status until the reset is confirmed, the device is removed, or the time is up. A status is read
    /// over a socket by some monitors, and takes a millisecond there: reads are not counted.
    fn reset(&mut self) {
        self.transport.set_status(DeviceStatus::empty());
        let deadline = self.platform.now().saturating_add(RESET_TIMEOUT);
        while self.platform.now() < deadline {
            if self.transport.status().is_empty() || !self.transport.is_present() {
                return;
            }
            self.platform.relax();
        }
        log::warn!("virtio {}: reset not confirmed", self.transport.device_type());
    }

    /// Reads `bytes.len()` bytes at byte `offset` of the configuration, in the widest accesses that are aligned.
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
    /// The device type; `Network` for a type that `virtio-drivers` does not name, since its drivers compare with their own type only.
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
        if self.has_failed { 0 } else { self.transport.max_queue_size(queue) }
    }

    fn notify(&mut self, queue: u16) {
        if let Some(doorbell) = self.transport.doorbell(queue) {
            // SAFETY: this value owns the transport, which outlives the call.
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
            log::warn!("virtio {}: queue {queue} not accepted by the device", self.transport.device_type());
        }
    }

    /// Does nothing: a driver cannot disable a single queue (VIRTIO 1.3 §4.1.4.3.2). The drop resets the device.
    fn queue_unset(&mut self, _queue: u16) {}

    fn queue_used(&mut self, _queue: u16) -> bool {
        false
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        // SAFETY: this value owns the transport, which outlives the call.
        let causes = unsafe { self.transport.interrupt_ack().take() };
        InterruptStatus::from_bits_truncate(u32::from(causes.bits()))
    }

    /// Resets the device and negotiates features. Reads FEATURES_OK back, which the drivers of `virtio-drivers` do not: if the device has
    /// cleared it, the device is marked as failed and no queue can be set up.
    fn begin_init<F: bitflags::Flags<Bits = u64> + BitAnd<Output = F> + fmt::Debug>(
        &mut self,
        supported: F,
    ) -> F {
        self.reset();
        // The queue of `virtio-drivers` does not own its indirect tables, and its event indices are wrong across the wrap.
        let wanted = supported.bits() & !(Features::EVENT_IDX.bits() | Features::INDIRECT_DESC.bits());
        match negotiate(&mut *self.transport, |_| wanted) {
            Ok(features) => F::from_bits_truncate(features) & supported,
            Err(error) => {
                log::warn!("virtio {}: feature negotiation failed: {error}", self.transport.device_type());
                self.has_failed = true;
                F::empty()
            }
        }
    }

    fn read_config_generation(&self) -> u32 {
        self.transport.config_generation()
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> virtio_drivers::Result<T> {
        let mut bytes = [0; MAX_FIELD_LEN];
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

/// Resets the device: a driver of `virtio-drivers` frees its queues on drop and relies on the transport to stop the device first.
impl<P: Platform> Drop for PassthroughTransport<P> {
    fn drop(&mut self) {
        self.reset();
    }
}

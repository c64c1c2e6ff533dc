//! The devices of the `virtio-drivers` crate, as that crate's own objects.

use crate::Passed;
use paravirt_platform::Platform;
use paravirt_virtio::hal::{BounceHal, PoolSource};
use paravirt_virtio::transport::AnyTransport;
use virtio_drivers::device::gpu::VirtIOGpu;
use virtio_drivers::device::sound::VirtIOSound;
use virtio_drivers::device::virtio_9p::VirtIO9p;
use virtio_drivers::transport::DeviceType;

/// A driver of the `virtio-drivers` crate on its device, over a pool that buffers are bounced through.
///
/// It stands outside the trust rule: the device can make it panic, spin or lose a wake-up.
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "made once")]
pub enum PassedDevice<P: Platform, S: PoolSource> {
    /// A display.
    Gpu(VirtIOGpu<BounceHal<S>, AnyTransport<P>>),
    /// A sound card.
    Sound(VirtIOSound<BounceHal<S>, AnyTransport<P>>),
    /// A 9P transport.
    P9(VirtIO9p<BounceHal<S>, AnyTransport<P>>),
}

impl<P: Platform> Passed<P> {
    /// Opens the device with that crate's driver.
    ///
    /// # Errors
    ///
    /// That crate's.
    pub fn open<S: PoolSource>(self) -> virtio_drivers::Result<PassedDevice<P, S>> {
        let transport = self.transport;
        Ok(match self.device_type {
            DeviceType::GPU => PassedDevice::Gpu(VirtIOGpu::new(transport)?),
            DeviceType::Sound => PassedDevice::Sound(VirtIOSound::new(transport)?),
            DeviceType::_9P => PassedDevice::P9(VirtIO9p::new(transport)?),
            _ => return Err(virtio_drivers::Error::Unsupported),
        })
    }
}

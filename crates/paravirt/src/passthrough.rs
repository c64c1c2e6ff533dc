//! Passthrough devices opened with the drivers of the `virtio-drivers` crate.

use crate::Passthrough;
use core::fmt;
use paravirt_platform::Platform;
use paravirt_virtio::passthrough::PassthroughTransport;
use paravirt_virtio::passthrough::hal::{BounceHal, PoolSource};
use paravirt_virtio::transport::DeviceType;
use virtio_drivers::device::gpu::VirtIOGpu;
use virtio_drivers::device::sound::VirtIOSound;
use virtio_drivers::device::virtio_9p::VirtIO9p;

/// A driver of the `virtio-drivers` crate on its device, with a pool of bounce buffers.
///
/// The trust rule does not cover it: the device can make it panic, spin or lose a wake-up.
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "made once")]
pub enum PassthroughDevice<P: Platform, S: PoolSource> {
    /// A display.
    Gpu(VirtIOGpu<BounceHal<S>, PassthroughTransport<P>>),
    /// A sound card.
    Sound(VirtIOSound<BounceHal<S>, PassthroughTransport<P>>),
    /// A 9P transport.
    P9(VirtIO9p<BounceHal<S>, PassthroughTransport<P>>),
}

impl<P: Platform> Passthrough<P> {
    /// Opens the device with the driver of `virtio-drivers`.
    ///
    /// # Errors
    ///
    /// Those of `virtio-drivers`.
    pub fn open<S: PoolSource>(self, platform: &P) -> virtio_drivers::Result<PassthroughDevice<P, S>> {
        let transport = PassthroughTransport::new(platform, self.transport);
        Ok(match self.device_type {
            DeviceType::GPU => PassthroughDevice::Gpu(VirtIOGpu::new(transport)?),
            DeviceType::SOUND => PassthroughDevice::Sound(VirtIOSound::new(transport)?),
            DeviceType::P9 => PassthroughDevice::P9(VirtIO9p::new(transport)?),
            _ => return Err(virtio_drivers::Error::Unsupported),
        })
    }
}

impl<P: Platform, S: PoolSource> fmt::Debug for PassthroughDevice<P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gpu(_) => "PassthroughDevice::Gpu",
            Self::Sound(_) => "PassthroughDevice::Sound",
            Self::P9(_) => "PassthroughDevice::P9",
        })
    }
}

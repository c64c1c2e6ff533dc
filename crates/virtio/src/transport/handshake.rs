use super::{DeviceStatus, VirtioTransport};
use crate::{features::Features, queue::Quiesced};
use core::{fmt, time::Duration};
use paravirt_device::Fault;
use paravirt_platform::{AllocError, Platform};

/// The timeout of a reset.
const RESET_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a device was not opened. The device has been reset and, if it answers, its status is set to failed.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum OpenError {
    /// It offers only the legacy interface, and this driver or transport needs the modern one.
    Legacy,
    /// It cleared FEATURES_OK: it rejected features that it offers.
    FeaturesRefused,
    /// It did not confirm a reset in time.
    Timeout,
    /// It does not answer: its registers read as all ones.
    Absent,
    /// A queue that the driver needs is missing, or was not accepted.
    Queue,
    /// Its configuration violates the specification.
    Config,
    /// There is no memory for it.
    Memory,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Legacy => "it has only the legacy interface",
            Self::FeaturesRefused => "it refuses the features that it offers",
            Self::Timeout => "it does not confirm a reset",
            Self::Absent => "it does not answer",
            Self::Queue => "it lacks a queue or refuses one",
            Self::Config => "its configuration is invalid",
            Self::Memory => "there is no memory for it",
        })
    }
}

impl core::error::Error for OpenError {}

impl From<AllocError> for OpenError {
    fn from(_: AllocError) -> Self {
        Self::Memory
    }
}

/// Resets the device and waits until it reads back as reset. A device whose registers read as all ones counts as removed; only the
/// bus can then prove that it no longer accesses memory. Returns that proof, if there is one, and the fault of a reset that was
/// not confirmed.
///
/// VIRTIO 1.3 §2.4.1, §4.1.4.3.2
pub(crate) fn reset<P: Platform>(
    platform: &P,
    transport: &mut dyn VirtioTransport,
) -> (Option<Quiesced>, Option<Fault>) {
    let deadline = platform.now().saturating_add(RESET_TIMEOUT);
    transport.set_status(DeviceStatus::empty());
    loop {
        if transport.status().is_empty() {
            // SAFETY: the device reads back as reset, and a device that is reset accesses no queue.
            return (Some(unsafe { Quiesced::new() }), None);
        }
        if !transport.is_present() {
            // SAFETY: the bus has cut the device off from memory, or reports that it is no longer there.
            let proof = transport.cut_off().then(|| unsafe { Quiesced::new() });
            return (proof, Some(Fault::Removed));
        }
        if platform.now() >= deadline {
            return (None, Some(Fault::Timeout));
        }
        platform.relax();
    }
}

/// Initialises a device after a reset, up to the point where queues can be enabled. Returns the negotiated features: those offered
/// ones that `choose` returns, and always VERSION_1; of a legacy device ANY_LAYOUT in its place, and nothing confirms them.
///
/// VIRTIO 1.3 §3.1.1, §3.1.2
pub(crate) fn negotiate(
    transport: &mut dyn VirtioTransport,
    choose: impl FnOnce(u64) -> u64,
) -> Result<u64, OpenError> {
    transport.set_status(DeviceStatus::ACKNOWLEDGE);
    transport.set_status(DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER);
    let offered = transport.device_features();
    if transport.is_legacy() {
        let features = offered & (choose(offered) | Features::ANY_LAYOUT.bits());
        transport.set_driver_features(features);
        return Ok(features);
    }
    if offered & Features::VERSION_1.bits() == 0 {
        transport.set_status(DeviceStatus::FAILED);
        return Err(OpenError::Legacy);
    }
    let chosen = choose(offered) & !Features::ANY_LAYOUT.bits();
    let mut features = offered & (chosen | Features::VERSION_1.bits());
    if !transport.can_reset_queues() {
        features &= !Features::RING_RESET.bits();
    }
    transport.set_driver_features(features);
    let status = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER | DeviceStatus::FEATURES_OK;
    transport.set_status(status);
    if !transport.status().contains(DeviceStatus::FEATURES_OK) {
        transport.set_status(status.difference(DeviceStatus::FEATURES_OK) | DeviceStatus::FAILED);
        return Err(OpenError::FeaturesRefused);
    }
    Ok(features)
}

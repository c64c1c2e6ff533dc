//! VMware's devices on PCI.

use crate::controllers::Controllers;
use crate::opener::{Opened, Opener};
#[cfg(feature = "net")]
use crate::{Device, Net, any::boxed};
use crate::{Place, Reason};
use paravirt_pci::{FunctionInfo, PciSlot};
use paravirt_platform::{DmaBuffer, Platform};
use paravirt_pvscsi::PvscsiOptions;
#[cfg(feature = "net")]
use paravirt_vmxnet3::{OpenError, Vmxnet3, Vmxnet3Options};

/// The maximum number of commands in flight on an adapter, and of descriptors of a network card's ring.
const MAX_QUEUE_SIZE: u16 = 256;

/// Returns whether there is a driver for the function.
pub(crate) fn is_driven(info: &FunctionInfo) -> bool {
    paravirt_pvscsi::is_pvscsi(info) || is_card(info)
}

#[cfg(feature = "net")]
fn is_card(info: &FunctionInfo) -> bool {
    paravirt_vmxnet3::is_vmxnet3(info)
}

#[cfg(not(feature = "net"))]
fn is_card(_info: &FunctionInfo) -> bool {
    false
}

/// Opens the device of a PCI function.
///
/// # Safety
///
/// No other driver uses the function.
#[inline(never)]
pub(crate) unsafe fn open<P: Platform, B: DmaBuffer>(
    opener: &Opener,
    platform: &P,
    place: Place,
    slot: &PciSlot<P>,
    controllers: &mut Controllers<P, B>,
) -> Result<Opened<P, B>, Reason> {
    #[cfg(feature = "net")]
    if paravirt_vmxnet3::is_vmxnet3(slot.info()) {
        // SAFETY: the caller upholds the same contract.
        return unsafe { open_card(opener, platform, slot) }.map(Opened::Device).map_err(Reason::Vmxnet3);
    }
    let options = PvscsiOptions::new().with_queue_size(opener.options.queue_size.min(MAX_QUEUE_SIZE));
    // SAFETY: the caller upholds the same contract.
    unsafe { controllers.open_pvscsi(platform, place, slot, &options) }?;
    Ok(Opened::Controller)
}

/// # Safety
///
/// As for [`open`].
#[cfg(feature = "net")]
#[inline(never)]
unsafe fn open_card<P: Platform, B: DmaBuffer>(
    opener: &Opener,
    platform: &P,
    slot: &PciSlot<P>,
) -> Result<Device<P, B>, OpenError> {
    let options = Vmxnet3Options::new()
        .with_pairs(opener.queues)
        .with_queue_size(opener.options.queue_size.min(MAX_QUEUE_SIZE))
        .with_processors(opener.processors)
        .with_mtu(opener.options.mtu);
    // SAFETY: the caller upholds the same contract.
    let open = || unsafe { paravirt_vmxnet3::open(platform, slot, &options) };
    boxed::<P, Vmxnet3<P, B>, OpenError>(platform, open).map(|card| Device::Net(Net::VMware(card)))
}

//! VMware's devices on PCI.

use crate::controllers::Controllers;
use crate::opener::{Opened, Opener};
use crate::{Place, Reason};
use paravirt_pci::{FunctionInfo, PciSlot};
use paravirt_platform::{DmaBuffer, Platform};
use paravirt_pvscsi::PvscsiOptions;

/// Returns whether there is a driver for the function.
pub(crate) fn is_driven(info: &FunctionInfo) -> bool {
    paravirt_pvscsi::is_pvscsi(info)
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
    let options = PvscsiOptions::new().with_queue_size(opener.options.queue_size.min(256));
    // SAFETY: the caller upholds the same contract.
    unsafe { controllers.open_pvscsi(platform, place, slot, &options) }?;
    Ok(Opened::Controller)
}

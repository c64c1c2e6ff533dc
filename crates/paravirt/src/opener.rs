//! The devices on the buses that firmware describes: PCI and virtio MMIO.

use crate::any::pass;
use crate::buses::Buses;
use crate::controllers::Controllers;
use crate::firmware::Map;
use crate::hot_plug::HotPlug;
use crate::{Device, Event, Firmware, Found, Options, Physical, Place, Reason, Unclaimed, What};
use paravirt_pci::{FunctionInfo, PciSlot};
use paravirt_platform::{DmaBuffer, Platform};

/// How devices are opened.
#[derive(Copy, Clone)]
pub(crate) struct Opener {
    pub options: Options,
    /// The maximum number of queues of a device, and of processors that handle their interrupts.
    pub queues: u16,
    pub processors: u32,
}

/// What a device was opened as.
pub(crate) enum Opened<P: Platform, B: DmaBuffer> {
    /// As itself, or it is unclaimed.
    Device(Device<P, B>),
    /// As a controller in the table, whose disks are to be passed on.
    Controller,
}

impl<P: Platform, B: DmaBuffer> Opened<P, B> {
    /// A device that is not in service.
    pub fn unclaimed(what: What, reason: Reason) -> Self {
        Self::Device(Device::Unclaimed(Unclaimed { what, reason }))
    }
}

/// Finds every device, and passes each to `found`: PCI by address, then MMIO by address. Those on PCI can be added and removed from then
/// on by `hot_plug`.
///
/// # Safety
///
/// As for [`probe`](crate::probe).
#[inline(never)]
pub(crate) unsafe fn find<P: Platform, B: DmaBuffer>(
    platform: &P,
    firmware: &Firmware<'_>,
    hot_plug: &mut HotPlug<P>,
    controllers: &mut Controllers<P, B>,
    found: &mut dyn FnMut(Found<P, B>),
) {
    // SAFETY: by the contract of this function, reading the firmware's tables has no side effects.
    let memory = unsafe { Physical::new(platform) };
    hot_plug.switch_on(&memory, firmware);
    if !hot_plug.opener.options.walks_buses {
        return;
    }
    let map = match Map::collect(platform, &memory, firmware) {
        Ok(map) => map,
        Err(error) => return log::warn!("pci: {error}: no device is looked for"),
    };
    // SAFETY: the caller upholds the same contract.
    match unsafe { Buses::new(platform, firmware, &map, Opener::is_driven) } {
        Ok(mut buses) => {
            while let Some(slot) = buses.next(hot_plug) {
                // SAFETY: the caller upholds the same contract, and each function is returned once.
                unsafe { hot_plug.opener.open_slot(platform, &slot, controllers, found) };
            }
            hot_plug.add_buses(&memory, firmware, &buses.roots);
        }
        Err(error) => log::warn!("pci: {error}: no function is looked for"),
    }
    #[cfg(feature = "virtio")]
    // SAFETY: the DSDT or the command line reports registers there, and by the contract of `probe` that is true.
    unsafe {
        crate::virtio::find_mmio(platform, &hot_plug.opener, &map, controllers, found);
    }
}

impl Opener {
    pub fn new(options: &Options, queues: u16, processors: u32) -> Self {
        Self { options: *options, queues, processors }
    }

    /// Returns whether there is a driver for the function, so that it is to have addresses.
    pub fn is_driven(info: &FunctionInfo) -> bool {
        #[cfg(feature = "virtio")]
        if paravirt_virtio::transport::is_virtio(info).is_some() {
            return true;
        }
        #[cfg(feature = "vmware")]
        if crate::vmware::is_driven(info) {
            return true;
        }
        false
    }

    /// Opens a PCI function, and passes what is found to `found`.
    ///
    /// # Safety
    ///
    /// No other driver uses the function.
    #[inline(never)]
    pub unsafe fn open_slot<P: Platform, B: DmaBuffer>(
        &self,
        platform: &P,
        slot: &PciSlot<P>,
        controllers: &mut Controllers<P, B>,
        found: &mut dyn FnMut(Found<P, B>),
    ) {
        let place = Place::Pci(slot.address());
        // A controller that is open there still is no longer used, by the contract of this function.
        controllers.remove(place);
        // SAFETY: the caller upholds the same contract.
        let opened = unsafe { self.open_function(platform, place, slot, controllers) };
        hand_over(place, opened, controllers, found);
    }

    /// # Safety
    ///
    /// No other driver uses the function.
    #[inline(never)]
    unsafe fn open_function<P: Platform, B: DmaBuffer>(
        &self,
        platform: &P,
        place: Place,
        slot: &PciSlot<P>,
        controllers: &mut Controllers<P, B>,
    ) -> Opened<P, B> {
        let info = slot.info();
        #[cfg(feature = "virtio")]
        if let Some(device_type) = paravirt_virtio::transport::is_virtio(info) {
            // SAFETY: the caller upholds the same contract.
            return unsafe { crate::virtio::open_pci(self, platform, place, slot, device_type, controllers) };
        }
        let what = What::Pci {
            vendor: info.vendor,
            device: info.device,
            class: info.class,
            subclass: info.subclass,
        };
        #[cfg(feature = "vmware")]
        if crate::vmware::is_driven(info) {
            // SAFETY: the caller upholds the same contract.
            let opened = unsafe { crate::vmware::open(self, platform, place, slot, controllers) };
            return opened.unwrap_or_else(|reason| Opened::unclaimed(what, reason));
        }
        Opened::unclaimed(what, Reason::NoDriver)
    }
}

/// Passes an opened device to `found`; the disks of a controller instead of itself.
pub(crate) fn hand_over<P: Platform, B: DmaBuffer>(
    place: Place,
    opened: Opened<P, B>,
    controllers: &mut Controllers<P, B>,
    found: &mut dyn FnMut(Found<P, B>),
) {
    match opened {
        Opened::Device(device) => pass(place, device, found),
        Opened::Controller => controllers.poll(Some(place), &mut |event| {
            if let Event::Found(disk) = event {
                found(disk);
            }
        }),
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! A module of Linux with the drivers of paravirt in it: gives the first virtio disk that is not in use to them.

use core::sync::atomic::{AtomicPtr, Ordering};
use kernel::{bindings, prelude::*};

module! {
    type: Disk,
    name: "paravirt_disk",
    authors: ["paravirt"],
    description: "Reads the first block of a virtio disk by paravirt",
    // Functions of the kernel that this calls are for modules with such a licence.
    license: "Dual MIT/GPL",
}

extern "C" {
    fn paravirt_read_first_block(function: u16) -> i32;
}

/// The device, of which the module holds a reference as long as it is loaded.
static DEVICE: AtomicPtr<bindings::pci_dev> = AtomicPtr::new(core::ptr::null_mut());

/// The device, if it is at this function.
fn device_at(function: u32) -> Option<*mut bindings::pci_dev> {
    let device = DEVICE.load(Ordering::Acquire);
    // SAFETY: the module holds a reference.
    (!device.is_null() && unsafe { u32::from(bindings::pci_dev_id(device)) } == function).then_some(device)
}

fn order(pages: usize) -> u32 {
    pages.next_power_of_two().trailing_zeros()
}

#[no_mangle]
extern "C" fn module_log(text: *const u8, len: usize) {
    // SAFETY: the library passes a line of text.
    let text = unsafe { core::slice::from_raw_parts(text, len) };
    pr_info!("{}\n", core::str::from_utf8(text).unwrap_or("?"));
}

#[no_mangle]
extern "C" fn module_pages(pages: usize, bus: *mut u64) -> *mut u8 {
    let flags = bindings::GFP_KERNEL | bindings::__GFP_ZERO;
    // SAFETY: may be called in task context, which the library is called in.
    let at = unsafe { bindings::get_free_pages_noprof(flags, order(pages)) } as *mut u8;
    if !at.is_null() {
        // SAFETY: the address is one of the kernel's, and the library passes a valid pointer. Without an IOMMU it is the device's too.
        unsafe { *bus = bindings::slow_virt_to_phys(at.cast()) };
    }
    at
}

#[no_mangle]
extern "C" fn module_free(at: *mut u8, pages: usize) {
    // SAFETY: the library frees what `module_pages` returned, once.
    unsafe { bindings::free_pages(at as usize, order(pages)) }
}

#[no_mangle]
extern "C" fn module_now() -> u64 {
    // SAFETY: may be called in any context.
    unsafe { bindings::ktime_get() as u64 }
}

#[no_mangle]
extern "C" fn module_relax() {
    // SAFETY: a hint.
    unsafe { bindings::cpu_relax() }
}

#[no_mangle]
extern "C" fn module_map(phys: u64, len: usize) -> *mut u8 {
    // SAFETY: the function refuses RAM; the library asks for registers of the device.
    unsafe { bindings::ioremap(phys, len) }.cast()
}

#[no_mangle]
extern "C" fn module_unmap(at: *mut u8) {
    // SAFETY: the library unmaps what `module_map` returned, once.
    unsafe { bindings::iounmap(at.cast()) }
}

#[no_mangle]
extern "C" fn module_config_read(function: u32, offset: u32) -> u32 {
    let mut value = u32::MAX;
    if let Some(device) = device_at(function) {
        // SAFETY: the module holds a reference to the device.
        unsafe { bindings::pci_read_config_dword(device, offset as i32, &mut value) };
    }
    value
}

#[no_mangle]
extern "C" fn module_config_write(function: u32, offset: u32, value: u32) {
    if let Some(device) = device_at(function) {
        // SAFETY: the module holds a reference to the device, which no other driver uses.
        unsafe { bindings::pci_write_config_dword(device, offset as i32, value) };
    }
}

#[no_mangle]
extern "C" fn module_config_write16(function: u32, offset: u32, value: u16) {
    if let Some(device) = device_at(function) {
        // SAFETY: the module holds a reference to the device, which no other driver uses.
        unsafe { bindings::pci_write_config_word(device, offset as i32, value) };
    }
}

/// Enables a device and takes its registers, which no driver can take then; returns whether that succeeded.
///
/// # Safety
///
/// The caller holds a reference to the device.
unsafe fn claim(device: *mut bindings::pci_dev) -> bool {
    // SAFETY: by the contract of this function.
    unsafe {
        if bindings::pci_enable_device(device) != 0 {
            return false;
        }
        let is_free = bindings::pci_request_regions(device, c"paravirt_disk".as_ptr().cast()) == 0;
        if !is_free {
            bindings::pci_disable_device(device);
        }
        is_free
    }
}

/// Claims and returns the first virtio block device without the legacy interface that has no driver, with a reference. VIRTIO 1.3 §4.1.2
fn find() -> Option<*mut bindings::pci_dev> {
    let mut device = core::ptr::null_mut();
    loop {
        // SAFETY: the search begins nowhere, or behind a device of which this holds the reference, which the call gives up.
        device = unsafe { bindings::pci_get_device(0x1af4, 0x1042, device) };
        if device.is_null() {
            return None;
        }
        // SAFETY: this holds a reference to the device.
        if unsafe { (*device).dev.driver.is_null() && claim(device) } {
            return Some(device);
        }
    }
}

struct Disk;

impl kernel::Module for Disk {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let device = find().ok_or_else(|| {
            pr_err!("there is no virtio disk without a driver\n");
            ENODEV
        })?;
        DEVICE.store(device, Ordering::Release);
        let this = Self;
        // SAFETY: the device is enabled, and its registers are this module's.
        kernel::error::to_result(unsafe { paravirt_read_first_block(bindings::pci_dev_id(device)) })?;
        Ok(this)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let device = DEVICE.swap(core::ptr::null_mut(), Ordering::AcqRel);
        // SAFETY: the library has closed the device, and the reference is given up once.
        unsafe {
            bindings::pci_release_regions(device);
            bindings::pci_disable_device(device);
            bindings::pci_dev_put(device);
        }
    }
}

//! A virtio disk, driven inside Linux: what the module in `module/` links. It is compiled with the kernel's own core and flags, and asks the
//! module for all that the kernel does. `cargo xtask linux` builds and boots both; `docs/linux.md` explains them.
#![no_std]

use core::fmt::{self, Write};
use core::num::NonZeroUsize;
use core::ptr::NonNull;
use paravirt_device::{BlockDevice, BlockQueue, Op, Request};
use paravirt_pci::{Address, ConfigAccess, ConfigSpace, PciSlot};
use paravirt_platform::{AllocError, BusAddr, DmaSlice, Instant, MapError, Platform, RawDma};
use paravirt_virtio::blk::VirtioBlk;
use paravirt_virtio::{OpenOptions, transport};
// Not used here: that they compile is a part of what this shows.
use {paravirt_scsi as _, paravirt_vmbus_ring as _};

// What the module provides. None keeps what it is given.
unsafe extern "C" {
    /// Logs `len` bytes of text.
    fn module_log(text: *const u8, len: usize);
    fn module_pages(pages: usize, bus: *mut u64) -> *mut u8;
    fn module_free(at: *mut u8, pages: usize);
    safe fn module_now() -> u64;
    safe fn module_relax();
    fn module_map(phys: u64, len: usize) -> *mut u8;
    fn module_unmap(at: *mut u8);
    safe fn module_config_read(function: u32, offset: u32) -> u32;
    fn module_config_write(function: u32, offset: u32, value: u32);
    fn module_config_write16(function: u32, offset: u32, value: u16);
}

/// A line of the kernel's log.
struct Line {
    bytes: [u8; 96],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.len..).unwrap_or_default();
        let (to, _) = room.split_at_mut_checked(text.len()).ok_or(fmt::Error)?;
        to.copy_from_slice(text.as_bytes());
        self.len = self.len.saturating_add(text.len());
        Ok(())
    }
}

#[derive(Clone)]
struct Linux;

// SAFETY: pages of the kernel's are zeroed and belong to their caller, stay where they are, and are contiguous in the machine's memory,
// which devices access coherently; `ioremap` maps registers uncached, and refuses RAM.
unsafe impl Platform for Linux {
    fn dma_alloc(&self, pages: NonZeroUsize) -> Result<RawDma, AllocError> {
        let mut bus = 0;
        // SAFETY: the module writes one number to `bus`.
        let cpu = NonNull::new(unsafe { module_pages(pages.get(), &raw mut bus) }).ok_or(AllocError)?;
        Ok(RawDma { cpu, bus: BusAddr(bus), pages })
    }

    unsafe fn dma_free(&self, region: RawDma) {
        // SAFETY: by the contract of this function they came from `module_pages`, and are not used any more.
        unsafe { module_free(region.cpu.as_ptr(), region.pages.get()) }
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(module_now())
    }

    fn relax(&self) {
        module_relax();
    }

    unsafe fn map(&self, phys: u64, len: usize) -> Result<NonNull<u8>, MapError> {
        // SAFETY: by the contract of this function these are registers of a device, if they are not RAM, which the module refuses.
        NonNull::new(unsafe { module_map(phys, len) }).ok_or(MapError)
    }

    unsafe fn unmap(&self, base: NonNull<u8>, _len: usize) {
        // SAFETY: by the contract of this function `map` returned it.
        unsafe { module_unmap(base.as_ptr()) }
    }
}

/// The kernel's access to the configuration space of the module's device.
struct Bus;

/// Bus, device and function as the kernel writes them in one number.
fn function(at: Address) -> u32 {
    u32::from(at.bus) << 8 | u32::from(at.device) << 3 | u32::from(at.function)
}

// SAFETY: the kernel's functions have the widths that the methods promise.
unsafe impl ConfigSpace for Bus {
    fn read(&self, at: Address, offset: u8) -> u32 {
        module_config_read(function(at), offset.into())
    }

    unsafe fn write(&self, at: Address, offset: u8, value: u32) {
        // SAFETY: by the contract of this function.
        unsafe { module_config_write(function(at), offset.into(), value) }
    }

    unsafe fn write16(&self, at: Address, offset: u8, value: u16) {
        // SAFETY: by the contract of this function.
        unsafe { module_config_write16(function(at), offset.into(), value) }
    }
}

/// Opens the disk, reads its first block, and logs the sum of its bytes.
fn read(at: Address) -> Option<()> {
    let access = ConfigAccess::kernel(&Bus, 0, 0, 255);
    // SAFETY: the kernel has enumerated the bus, and no other driver of its uses the function.
    let slot = unsafe { PciSlot::read(&access, at) }?;
    let device_type = transport::is_virtio(slot.info())?;
    // SAFETY: as above; the kernel has assigned the BARs.
    let transport = unsafe { transport::pci(&Linux, &slot, device_type) }.ok()?;
    let options = OpenOptions::new();
    let mut disk = VirtioBlk::<Linux, DmaSlice<Linux>>::open(&Linux, transport, &options).ok()?;
    let info = disk.info();
    let into = DmaSlice::alloc(&Linux, info.block_size as usize).ok()?;
    let mut queue = disk.take_queue(0)?;
    queue.submit(Request::new(1, Op::Read { lba: 0, into })).ok()?;
    queue.kick();
    let done = loop {
        if let Some(done) = queue.complete().ok()? {
            break done;
        }
        module_relax();
    };
    done.result.ok()?;
    let sum = done.buffer?.bytes().iter().fold(0u64, |sum, byte| sum.wrapping_add(u64::from(*byte)));
    let mut line = Line { bytes: [0; 96], len: 0 };
    write!(line, "disk at={at} blocks={} first={sum}", info.blocks).ok()?;
    // SAFETY: the line has as many bytes.
    unsafe { module_log(line.bytes.as_ptr(), line.len) };
    Some(())
}

/// Reads the first block of the disk at PCI function `function` of segment 0: bus, device and function in one number. Returns 0, or `-EIO`.
#[unsafe(no_mangle)]
pub extern "C" fn paravirt_read_first_block(function: u16) -> i32 {
    let [low, bus] = function.to_le_bytes();
    let at = Address { segment: 0, bus, device: low >> 3, function: low & 7 };
    const EIO: i32 = 5;
    if read(at).is_some() { 0 } else { -EIO }
}

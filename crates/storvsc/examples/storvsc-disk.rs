//! A disk of Hyper-V's storage controller (StorVSP): finds the controller on VMBus, opens its first disk, and reads a block.
//!
//! Runs in process, against a model of the host: `cargo run -p paravirt-storvsc --example storvsc-disk`
#![forbid(unsafe_code)]

use paravirt_device::{BlockDevice, BlockQueue, Op, Request};
use paravirt_hyperv::Hypervisor;
use paravirt_platform::{DmaSlice, Platform};
use paravirt_scsi::{ControllerEvent, Options};
use paravirt_storvsc::{INTERFACE, StorController, StorOptions, StorTransport};
use paravirt_testhost::{Guest, HvHost, StorDrive, StorHost};
use paravirt_vmbus::{Version, Vmbus};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    // The host: a controller with a disk of 1 MiB; block 3 contains a text.
    let mut medium = vec![0; 1 << 20];
    medium[3 * 512..][..10].copy_from_slice(b"block no 3");
    let drives = StorHost::new();
    drives.insert(0, StorDrive::memory(512, medium.clone()));
    let guest = Guest::with(1, true);
    let (host, _) = HvHost::with_device(&guest, INTERFACE, drives);

    // The guest: hypervisor, VMBus, the offer of the controller.
    let hypervisor = Hypervisor::open(&guest)?;
    let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST)?;
    let mut offer = None;
    vmbus.offers(&mut |found| {
        if found.interface == INTERFACE {
            offer = Some(*found);
        }
    });
    let offer = offer.ok_or("the host offers no SCSI controller")?;

    // The controller reports its disks as events: first the existing disks, later those that are added.
    let transport = StorTransport::new(&guest, &vmbus, &offer, &StorOptions::default());
    let mut controller = StorController::open(&guest, transport, &Options::default())?;
    let Some(ControllerEvent::Added(mut disk)) = controller.poll() else {
        return Err("the controller has no disk".into());
    };
    let info = disk.info();
    println!("disk {} of {} blocks of {} bytes", disk.address(), info.blocks, info.block_size);

    let mut queue = disk.take_queue(0).ok_or("queue 0 is taken once")?;
    let into = DmaSlice::alloc(&guest, info.block_size as usize)?;
    let request = Request::new(7, Op::Read { lba: 3, into });
    queue.submit(request).map_err(|refused| refused.reason)?;
    queue.kick();
    let done = loop {
        match queue.complete()? {
            Some(done) => break done,
            None => guest.relax(),
        }
    };
    done.result?;
    let buffer = done.buffer.ok_or("a read returns its buffer")?;
    assert_eq!((done.tag, buffer.bytes()), (7, &medium[3 * 512..][..512]));
    println!("read block 3: {}", buffer.bytes()[..10].escape_ascii());
    assert!(host.violations().is_empty());
    Ok(())
}

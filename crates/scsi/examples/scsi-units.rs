//! The units of a SCSI controller: finds the disks that are there, writes to one, and follows as the host adds and removes disks.
//!
//! The transport is that of Hyper-V's storage; virtio-scsi's takes its place without a change below the controller.
//! Runs in process, against a model of the host: `cargo run -p paravirt-scsi --example scsi-units`
#![forbid(unsafe_code)]

use hyperv_bindings::storvsp::StorvspOperation;
use paravirt_device::{BlockDevice, BlockQueue, Durability, Op, Request};
use paravirt_hyperv::Hypervisor;
use paravirt_platform::{DmaSlice, Platform};
use paravirt_scsi::{Controller, ControllerEvent, Disk, Options, ScsiTransport};
use paravirt_storvsc::{INTERFACE, StorOptions, StorTransport};
use paravirt_testhost::{Guest, HvHost, StorDrive, StorHost};
use paravirt_vmbus::{Version, Vmbus};
use std::collections::BTreeMap;
use std::error::Error;

type Disks<T> = BTreeMap<u16, Disk<Guest, T, DmaSlice<Guest>>>;

/// Handles the events of the controller. A kernel does this whenever the waker of `Controller::register` is woken.
fn follow<T: ScsiTransport>(controller: &mut Controller<Guest, T, DmaSlice<Guest>>, disks: &mut Disks<T>) {
    while let Some(event) = controller.poll() {
        match event {
            ControllerEvent::Added(disk) => {
                println!("added {}: {} blocks", disk.address(), disk.info().blocks);
                disks.insert(disk.address().lun, disk);
            }
            ControllerEvent::Removed(address) => {
                println!("removed {address}");
                disks.remove(&address.lun);
            }
            ControllerEvent::Faulted(fault) => println!("out of service: {fault}"),
            other => println!("{other:?}"),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let storage = StorHost::new();
    storage.insert(0, StorDrive::memory(512, vec![0; 1 << 20]));
    let guest = Guest::with(1, true);
    let (host, channel) = HvHost::with_device(&guest, INTERFACE, storage.clone());

    let hypervisor = Hypervisor::open(&guest)?;
    let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST)?;
    let mut offer = None;
    vmbus.offers(&mut |found| {
        if found.interface == INTERFACE {
            offer = Some(*found);
        }
    });
    let offer = offer.ok_or("the host offers no SCSI controller")?;
    let transport = StorTransport::new(&guest, &vmbus, &offer, &StorOptions::default());
    let mut controller = Controller::open(&guest, transport, &Options::default())?;
    let mut disks = Disks::new();
    follow(&mut controller, &mut disks);
    assert!(disks.keys().eq(&[0]));

    // A write that is on the medium when it completes: by FUA where the unit has it, else with a flush behind it.
    let mut queue = disks.get_mut(&0).and_then(|disk| disk.take_queue(0)).ok_or("no queue")?;
    let mut from = DmaSlice::alloc(&guest, 512)?;
    from.bytes_mut().fill(0x5a);
    let op = Op::Write { lba: 9, from, durability: Durability::Durable };
    queue.submit(Request::new(1, op)).map_err(|refused| refused.reason)?;
    queue.kick();
    let done = loop {
        match queue.complete()? {
            Some(done) => break done,
            None => guest.relax(),
        }
    };
    done.result?;
    let medium = storage.drive(0, |drive| drive.read(9 * 512, 512)).flatten();
    assert_eq!(medium, Some(vec![0x5a; 512]));
    println!("wrote block 9 of unit 0");

    // The host adds a disk of 2 MiB, then removes the first one.
    let mut second = StorDrive::memory(512, vec![0; 2 << 20]);
    second.name = [9; 16];
    storage.insert(5, second);
    storage.notify(StorvspOperation::ENUMERATE_BUS);
    host.work(&guest, channel);
    follow(&mut controller, &mut disks);
    storage.remove(0);
    storage.notify(StorvspOperation::ENUMERATE_BUS);
    host.work(&guest, channel);
    follow(&mut controller, &mut disks);
    assert!(disks.keys().eq(&[5]));
    assert_eq!(disks[&5].info().blocks, 4096);
    Ok(())
}

//! A disk of VMware's SCSI adapter: opens the adapter and its first disk, and reads a block.
//!
//! Runs in process, against a model of the host: `cargo run -p paravirt-pvscsi --example pvscsi-disk`
#![forbid(unsafe_code)]

use paravirt_device::{BlockDevice, BlockQueue, Op, Request};
use paravirt_platform::{DmaSlice, Platform};
use paravirt_pvscsi::{PvscsiAdapter, PvscsiController, PvscsiOptions};
use paravirt_scsi::{ControllerEvent, Options};
use paravirt_testhost::{Guest, PvscsiHost, StorDrive};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    // The host: an adapter with a disk of 1 MiB; block 3 contains a text.
    let mut medium = vec![0; 1 << 20];
    medium[3 * 512..][..10].copy_from_slice(b"block no 3");
    let guest = Guest::with(1, true);
    let host = PvscsiHost::new(&guest);
    host.insert(0, StorDrive::memory(512, medium.clone()));

    // The guest. A kernel opens the adapter of a PCI function with `paravirt_pvscsi::open`.
    let adapter = PvscsiAdapter::new(&guest, host.device(), 0, &PvscsiOptions::default())?;
    // The controller reports its disks as events: first the existing disks, later those that are added.
    let mut controller = PvscsiController::open(&guest, adapter, &Options::default())?;
    let Some(ControllerEvent::Added(mut disk)) = controller.poll() else {
        return Err("the controller has no disk".into());
    };
    let info = disk.info();
    println!("disk {} of {} blocks of {} bytes", disk.address(), info.blocks, info.block_size);

    let mut queue = disk.take_queue(0).ok_or("queue 0 is taken once")?;
    let into = DmaSlice::alloc(&guest, info.block_size as usize)?;
    queue.submit(Request::new(7, Op::Read { lba: 3, into })).map_err(|refused| refused.reason)?;
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
    Ok(())
}

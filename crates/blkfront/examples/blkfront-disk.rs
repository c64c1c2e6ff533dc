//! A disk of Xen's: opens it, reads a block, and writes it back durably.
//!
//! Runs in process, against a model of the host: `cargo run -p paravirt-blkfront --example blkfront-disk`
#![forbid(unsafe_code)]

use paravirt_blkfront::{BlkFront, BlkFrontOptions};
use paravirt_device::{BlockDevice, BlockQueue, Completion, Durability, Op, Request};
use paravirt_platform::{DmaSlice, Platform};
use paravirt_testhost::{Guest, XenDisk, XenHost};
use paravirt_xen::{Hypervisor, Store, bus};
use std::error::Error;

type Queue = paravirt_blkfront::BlkFrontQueue<Guest, DmaSlice<Guest>>;

/// Waits for the only request.
fn done(guest: &Guest, queue: &mut Queue) -> Result<Completion<DmaSlice<Guest>>, Box<dyn Error>> {
    loop {
        match queue.complete()? {
            Some(done) => return Ok(done),
            None => guest.relax(),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // The host: a disk of 1 MiB; block 3 contains a text.
    let mut medium = vec![0; 1 << 20];
    medium[3 * 512..][..10].copy_from_slice(b"block no 3");
    let guest = Guest::with(1, true);
    let host = XenHost::new(&guest);
    host.add_disk(51712, XenDisk::new(medium));

    // The guest finds its devices in xenstore.
    let store = Store::open(&Hypervisor::open(&guest)?)?;
    let mut found = None;
    bus::devices(&store, |address| found = Some(address))?;
    let address = found.ok_or("no device")?;
    let mut disk = BlkFront::<_, DmaSlice<Guest>>::open(&store, address, &BlkFrontOptions::new())?;
    let info = disk.info();
    println!("disk {address} of {} blocks of {} bytes", info.blocks, info.block_size);

    let mut queue = disk.take_queue(0).ok_or("queue 0 is taken once")?;
    let into = DmaSlice::alloc(&guest, info.block_size as usize)?;
    queue.submit(Request::new(7, Op::Read { lba: 3, into })).map_err(|refused| refused.reason)?;
    queue.kick();
    let read = done(&guest, &mut queue)?;
    read.result?;
    let from = read.buffer.ok_or("a read returns its buffer")?;
    assert_eq!((read.tag, &from.bytes()[..10]), (7, &b"block no 3"[..]));
    println!("read block 3: {}", from.bytes()[..10].escape_ascii());

    let op = Op::Write { lba: 4, from, durability: Durability::Durable };
    queue.submit(Request::new(8, op)).map_err(|refused| refused.reason)?;
    queue.kick();
    done(&guest, &mut queue)?.result?;
    assert_eq!(&host.disk_bytes(51712)[4 * 512..][..10], b"block no 3");
    println!("wrote it to block 4, with {} flush", host.disk_operations(51712).len());
    Ok(())
}

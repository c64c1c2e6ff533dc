//! A virtio disk: writes a block durably, reads it back, and compares.
//!
//! Runs in process, against a model of the device: `cargo run -p paravirt-virtio --example virtio-blk`
#![forbid(unsafe_code)]

use paravirt_device::{BlockDevice, BlockQueue, Durability, Op, Request};
use paravirt_platform::{DmaSlice, Platform};
use paravirt_testhost::{BlkHost, Guest, Ring};
use paravirt_virtio::OpenOptions;
use paravirt_virtio::blk::VirtioBlk;
use std::error::Error;

type Buffer = DmaSlice<Guest>;

/// Submits one request, waits for its completion, and returns its buffer. A kernel that does not poll sleeps in the loop until the
/// queue's interrupt, after `arm`.
fn run<Q: BlockQueue<Buffer = Buffer>>(
    guest: &Guest,
    queue: &mut Q,
    op: Op<Buffer>,
) -> Result<Buffer, Box<dyn Error>> {
    queue.submit(Request::new(1, op)).map_err(|refused| refused.reason)?;
    queue.kick();
    let done = loop {
        match queue.complete()? {
            Some(done) => break done,
            // The model processes the queue here.
            None => guest.relax(),
        }
    };
    done.result?;
    done.buffer.ok_or_else(|| "a read or write returns its buffer".into())
}

fn main() -> Result<(), Box<dyn Error>> {
    let guest = Guest::new();
    let host = BlkHost::new(&guest, Ring::Split, 64);

    // In a virtual machine, a PCI function or a block of MMIO registers provides the transport.
    let mut disk = VirtioBlk::<Guest, Buffer>::open(&guest, host.transport(), &OpenOptions::new())?;
    let info = disk.info();
    println!("disk of {} blocks of {} bytes", info.blocks, info.block_size);
    let mut queue = disk.take_queue(0).ok_or("queue 0 is taken once")?;

    let mut from = DmaSlice::alloc(&guest, info.block_size as usize)?;
    from.bytes_mut().fill(0x5a);
    let written = run(&guest, &mut queue, Op::Write { lba: 3, from, durability: Durability::Durable })?;
    println!("wrote block 3");

    let into = DmaSlice::alloc(&guest, info.block_size as usize)?;
    let read = run(&guest, &mut queue, Op::Read { lba: 3, into })?;
    assert_eq!(read.bytes(), written.bytes());
    assert_eq!(host.sector(3), written.bytes());
    println!("read block 3: {:02x?}..., as written", &read.bytes()[..4]);
    Ok(())
}

//! A disk and a network card in a process, without a virtual machine: one block read, one frame sent, one received.
//!
//! The platform is [`Guest`], the hosts are models; the drivers are those that a kernel links. `cargo run --example quickstart`

use paravirt_device::{BlockDevice, BlockQueue, NetDevice, NetQueue, NetRx, NetTx, Op, Request, TxMeta};
use paravirt_platform::DmaSlice;
use paravirt_testhost::{BlkHost, Guest, NetHost, Ring};
use paravirt_virtio::OpenOptions;
use paravirt_virtio::blk::VirtioBlk;
use paravirt_virtio::net::VirtioNet;
use paravirt_virtio::net::config::NetFeatures;

type Error = Box<dyn std::error::Error>;

fn read_a_block(guest: &Guest) -> Result<(), Error> {
    let host = BlkHost::new(guest, Ring::Split, 64);
    let transport = host.transport();
    let mut disk = VirtioBlk::<Guest, DmaSlice<Guest>>::open(guest, transport, &OpenOptions::new())?;
    let info = disk.info();
    println!("disk: {} blocks of {} bytes", info.blocks, info.block_size);
    let mut queue = disk.take_queue(0).ok_or("it has a queue")?;
    let into = DmaSlice::alloc(guest, info.block_size as usize)?;
    let request = Request::new(7, Op::Read { lba: 3, into });
    queue.submit(request).map_err(|refused| refused.reason)?;
    queue.kick();
    host.work();
    let done = queue.complete()?.ok_or("the host has worked")?;
    done.result?;
    let buffer = done.buffer.ok_or("it completes with its buffer")?;
    println!("read block 3, tag {}: {:02x?}...", done.tag, &buffer.bytes()[..8]);
    Ok(())
}

fn exchange_frames(guest: &Guest) -> Result<(), Error> {
    let host = NetHost::new(guest, Ring::Split, NetFeatures::all());
    let transport = host.transport();
    let mut card = VirtioNet::<Guest, DmaSlice<Guest>>::open(guest, transport, &OpenOptions::new())?;
    println!("card: {} with an MTU of {}", card.info().mac, card.info().mtu);
    let mut queue = card.take_queue(0).ok_or("it has a queue")?;
    let (_, tx) = queue.split();
    if tx.reserve(60) {
        tx.slot()[..5].copy_from_slice(b"hello");
        tx.commit(60, TxMeta::default())?;
        tx.kick();
    }
    host.work();
    println!("sent {} frame of 60 bytes", host.take_sent().len());
    host.deliver([0; 10], b"a frame for the guest, from the host's side of the network..");
    host.work();
    queue.poll()?;
    let (rx, _) = queue.split();
    let frame = rx.front().ok_or("a frame came in")?;
    println!(
        "received {} bytes: {:?}",
        frame.len,
        rx.segment(0).map(|bytes| bytes.escape_ascii().to_string())
    );
    rx.pop();
    Ok(())
}

fn main() -> Result<(), Error> {
    let guest = Guest::new();
    read_a_block(&guest)?;
    exchange_frames(&guest)
}

//! One kernel function, two families of hosts, no virtual machine: `cargo run --example quickstart`.
//!
//! The hosts are models in this process: a virtio disk and card, then a disk and a card on the VMBus of a Hyper-V host. The
//! function [`kernel`] writes a block, reads it back and sends a frame on either, and names neither.

use paravirt_device::{BlockDevice, BlockQueue, Durability, NetDevice, NetQueue, NetTx, Op, Request, TxMeta};
use paravirt_hyperv::Hypervisor;
use paravirt_netvsc::{NetOptions, NetVsc};
use paravirt_platform::{DmaSlice, Instant, Platform};
use paravirt_scsi::{ControllerEvent, Options};
use paravirt_storvsc::{StorController, StorOptions, StorTransport};
use paravirt_testhost::{
    BlkHost, Guest, HvHost, HvOffer, NetHost, NetVspHost, OfferSettings, Ring, StorDrive, StorHost,
};
use paravirt_virtio::OpenOptions;
use paravirt_virtio::blk::VirtioBlk;
use paravirt_virtio::net::VirtioNet;
use paravirt_virtio::net::config::NetFeatures;
use paravirt_vmbus::{Guid, Version, Vmbus};
use std::error::Error;

const LBA: u64 = 3;

/// What a kernel does with a disk and a card, whoever made them.
fn kernel<P: Platform, Q: BlockQueue<Buffer = DmaSlice<P>>>(
    platform: &P,
    mut disk: impl BlockDevice<Queue = Q>,
    mut card: impl NetDevice,
) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut queue = disk.take_queue(0).ok_or("the disk has no queue")?;
    let mut from = DmaSlice::alloc(platform, disk.info().block_size as usize)?;
    from.bytes_mut().fill(b'p');
    // The buffer moves into the request and comes back with its completion.
    let buffer = run(platform, &mut queue, Op::Write { lba: LBA, from, durability: Durability::Durable })?;
    let buffer = run(platform, &mut queue, Op::Read { lba: LBA, into: buffer.ok_or("no buffer")? })?;

    let frame = [[0xff; 6], card.info().mac.0, *b"\x88\xb5para"].concat();
    let mut pair = card.take_queue(0).ok_or("the card has no queue")?;
    let (_, tx) = pair.split();
    if !tx.reserve(frame.len()) {
        return Err("no slot is free".into());
    }
    tx.slot()[..frame.len()].copy_from_slice(&frame);
    tx.commit(frame.len(), TxMeta::default())?;
    tx.kick();
    platform.relax();
    pair.poll()?;
    Ok(buffer.ok_or("no buffer")?.bytes().to_vec())
}

/// Submits one request and polls until it is complete; returns its buffer.
fn run<P: Platform, Q: BlockQueue>(
    platform: &P,
    queue: &mut Q,
    op: Op<Q::Buffer>,
) -> Result<Option<Q::Buffer>, Box<dyn Error>> {
    let request = Request { tag: 1, op, deadline: Instant::NEVER };
    queue.submit(request).map_err(|refused| refused.reason)?;
    queue.kick();
    loop {
        if let Some(done) = queue.complete()? {
            done.result?;
            return Ok(done.buffer);
        }
        platform.relax(); // The models do their work here.
    }
}

fn virtio() -> Result<(), Box<dyn Error>> {
    let guest = Guest::new();
    let disk_host = BlkHost::new(&guest, Ring::Split, 64);
    let net_host = NetHost::new(&guest, Ring::Packed, NetFeatures::all());
    let options = OpenOptions::default();
    let disk = VirtioBlk::<_, DmaSlice<Guest>>::open(&guest, disk_host.transport(), &options)?;
    let card = VirtioNet::<_, DmaSlice<Guest>>::open(&guest, net_host.transport(), &options)?;
    let block = kernel(&guest, disk, card)?;
    assert_eq!(block, disk_host.sector(LBA as usize));
    let frames: Vec<_> = net_host.take_sent().into_iter().map(|(_header, frame)| frame).collect();
    report("virtio", &block, &frames);
    Ok(())
}

fn hyperv() -> Result<(), Box<dyn Error>> {
    let guest = Guest::with(1, true);
    let host = HvHost::new(&guest, HvOffer::default());
    let storage = StorHost::new();
    storage.insert(0, StorDrive::memory(512, vec![0; 64 * 512]));
    let wire = NetVspHost::new();
    let instances = [Guid([1; 16]), Guid([2; 16])];
    let settings = |interface, instance| OfferSettings { interface, instance, ..OfferSettings::default() };
    host.add(&guest, settings(paravirt_storvsc::INTERFACE, instances[0]), storage.clone());
    let channel = host.add(&guest, settings(paravirt_netvsc::INTERFACE, instances[1]), wire.clone());

    let hypervisor = Hypervisor::open(&guest)?;
    let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST)?;
    let [storvsc, netvsc] = instances.map(|instance| vmbus.find(&instance, 0));
    let transport =
        StorTransport::new(&guest, &vmbus, &storvsc.ok_or("no controller")?, &StorOptions::default());
    let mut controller = StorController::<_, DmaSlice<Guest>>::open(&guest, transport, &Options::default())?;
    let Some(ControllerEvent::Added(disk)) = controller.poll() else { return Err("no disk".into()) };
    let card = NetVsc::<_, DmaSlice<Guest>>::open(
        &guest,
        &vmbus,
        &netvsc.ok_or("no card")?,
        &NetOptions::default(),
    )?;
    let block = kernel(&guest, disk, card)?;
    host.work(&guest, channel);
    assert_eq!(storage.drive(0, |drive| drive.read(LBA * 512, 512)).flatten().as_ref(), Some(&block));
    report("hyper-v", &block, &wire.take_sent());
    Ok(())
}

fn report(family: &str, block: &[u8], frames: &[Vec<u8>]) {
    assert!(block.iter().all(|byte| *byte == b'p'), "{family}: the block does not read as written");
    assert_eq!(frames.len(), 1, "{family}: not one frame on the wire");
    let payload = String::from_utf8_lossy(&frames[0][14..]);
    println!("{family:8} block {LBA}: {} bytes read back; frame on the wire: {payload:?}", block.len());
}

fn main() -> Result<(), Box<dyn Error>> {
    virtio()?;
    hyperv()
}

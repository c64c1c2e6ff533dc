//! Drivers on a host that writes all memory that was shared with it, at any time, as the host of a confidential virtual machine can:
//! requests fail and devices fault, but no state of a driver is in that memory.
//!
//! A pointer, an index or a length in shared memory would make safe code access memory that is not its own, which AddressSanitizer or a
//! bounds check reports.

use paravirt_device::{
    BlockDevice, BlockQueue, Durability, NetDevice, NetQueue, NetRx, NetTx, Notify, Op, Request, TxMeta,
};
use paravirt_hyperv::Hypervisor;
use paravirt_netvsc::{NetOptions, NetVsc};
use paravirt_platform::{DmaSlice, Platform};
use paravirt_pvscsi::{PvscsiAdapter, PvscsiController, PvscsiOptions};
use paravirt_scsi::{ControllerEvent, Options};
use paravirt_storvsc::{StorController, StorOptions, StorTransport};
use paravirt_testhost::{
    BlkHost, Guest, HvHost, HvOffer, NetHost, NetVspHost, OfferSettings, PvscsiHost, Ring, StorDrive,
    StorHost, Vmxnet3Host,
};
use paravirt_virtio::OpenOptions;
use paravirt_virtio::blk::VirtioBlk;
use paravirt_virtio::net::VirtioNet;
use paravirt_virtio::net::config::NetFeatures;
use paravirt_vmbus::{Guid, Offer, Version, Vmbus};
use paravirt_vmxnet3::{Vmxnet3, Vmxnet3Options};
use std::time::Duration;

type Buffer = DmaSlice<Guest>;

/// Runs with different contents.
const SEEDS: u64 = 12;
/// How often memory is overwritten in a run.
const ROUNDS: u64 = 6;

/// The words that are written: of any value, or small enough to pass for indices and lengths, or the same everywhere.
fn words(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        match seed % 4 {
            0 => state,
            1 => state & 0x00ff_00ff_00ff_00ff,
            2 => state & 0x0000_003f_0001_007f,
            _ => seed.wrapping_mul(0x0101_0101_0101_0101),
        }
    }
}

/// A guest whose clock runs fast while it waits, so that deadlines expire soon.
fn machine() -> Guest {
    let guest = Guest::with(2, true);
    let clock = guest.downgrade();
    guest.attach(move || clock.turn(Duration::from_secs(2)));
    guest
}

/// Uses a disk while memory is overwritten; errors are expected.
fn use_disk<D: BlockDevice<Queue: BlockQueue<Buffer = Buffer>>>(guest: &Guest, seed: u64, disk: &mut D) {
    let Some(mut queue) = disk.take_queue(0) else { return };
    let mut word = words(seed);
    for round in 0..ROUNDS {
        for tag in 0..6 {
            let Ok(buffer) = DmaSlice::alloc(guest, 512) else { return };
            let op = match tag % 3 {
                0 => Op::Read { lba: tag, into: buffer },
                1 => Op::Write { lba: tag, from: buffer, durability: Durability::Durable },
                _ => Op::Flush,
            };
            let deadline = guest.now().saturating_add(Duration::from_secs(1));
            let _ = queue.submit(Request::new(tag, op).with_deadline(deadline));
        }
        if round % 2 == 0 {
            queue.kick();
        }
        guest.scribble(&mut word);
        while let Ok(Some(_)) = queue.complete() {}
        let _ = queue.arm();
        guest.relax();
        let _ = queue.expire(guest.now());
        if round == ROUNDS / 2 {
            let _ = queue.reset();
        }
        for _ in 0..16 {
            if disk.poll_event().is_none() {
                break;
            }
        }
    }
}

/// Uses a card while memory is overwritten; errors are expected.
fn use_card<D: NetDevice>(guest: &Guest, seed: u64, card: &mut D) {
    let Some(mut queue) = card.take_queue(0) else { return };
    let mut word = words(seed);
    for round in 0..ROUNDS {
        let (_, tx) = queue.split();
        for _ in 0..6 {
            if tx.reserve(100) {
                tx.slot()[..100].fill(seed as u8);
                let _ = tx.commit(100, TxMeta::default());
            }
        }
        if round % 2 == 0 {
            tx.kick();
        }
        guest.scribble(&mut word);
        let _ = queue.poll();
        let (rx, _) = queue.split();
        for _ in 0..64 {
            let Some(frame) = rx.front() else { break };
            (0..frame.segments).for_each(|at| drop(rx.segment(at).map(|bytes| bytes.to_vec())));
            rx.pop();
        }
        let _ = queue.arm();
        guest.relax();
        for _ in 0..16 {
            if card.poll_event().is_none() {
                break;
            }
        }
    }
}

#[test]
fn a_virtio_disk_keeps_its_state_to_itself() {
    for seed in 0..SEEDS {
        for ring in [Ring::Split, Ring::Packed] {
            let guest = machine();
            let host = BlkHost::new(&guest, ring, 64);
            let options = OpenOptions::new().with_queues(2).with_queue_size(64).with_processors(2);
            let mut disk =
                VirtioBlk::<Guest, Buffer>::open(&guest, host.transport(), &options).expect("a disk");
            use_disk(&guest, seed, &mut disk);
        }
    }
}

#[test]
fn a_virtio_card_keeps_its_state_to_itself() {
    for seed in 0..SEEDS {
        for ring in [Ring::Split, Ring::Packed] {
            let guest = machine();
            let host = NetHost::new(&guest, ring, NetFeatures::all());
            host.deliver([0; 10], &[7; 200]);
            let options = OpenOptions::new().with_queue_size(64);
            let mut card =
                VirtioNet::<Guest, Buffer>::open(&guest, host.transport(), &options).expect("a card");
            use_card(&guest, seed, &mut card);
        }
    }
}

/// Connects to VMBus with a device on it.
fn vmbus(guest: &Guest, add: impl FnOnce(&HvHost)) -> (HvHost, Vmbus<Guest>, Offer) {
    let host = HvHost::new(guest, HvOffer::least());
    add(&host);
    let hypervisor = Hypervisor::open(guest).expect("a hypervisor");
    let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST).expect("a connection");
    let offer = vmbus.find(&Guid::default(), 0).expect("an offer");
    (host, vmbus, offer)
}

#[test]
fn a_synthetic_disk_keeps_its_state_to_itself() {
    for seed in 0..SEEDS {
        let guest = machine();
        let storage = StorHost::new();
        storage.insert(0, StorDrive::memory(512, vec![1; 64 << 10]));
        let settings = OfferSettings { interface: paravirt_storvsc::INTERFACE, ..OfferSettings::default() };
        let (_host, vmbus, offer) = vmbus(&guest, |host| {
            host.add(&guest, settings, storage.clone());
        });
        let transport = StorTransport::new(&guest, &vmbus, &offer, &StorOptions::default());
        let mut controller = StorController::<Guest, Buffer>::open(&guest, transport, &Options::new(2, 8))
            .expect("a controller");
        let Some(ControllerEvent::Added(mut disk)) = controller.poll() else { panic!("no disk") };
        use_disk(&guest, seed, &mut disk);
        let _ = controller.poll();
    }
}

#[test]
fn a_synthetic_card_keeps_its_state_to_itself() {
    for seed in 0..SEEDS {
        let guest = machine();
        let wire = NetVspHost::new();
        let settings = OfferSettings { interface: paravirt_netvsc::INTERFACE, ..OfferSettings::default() };
        let (_host, vmbus, offer) = vmbus(&guest, |host| {
            host.add(&guest, settings, wire.clone());
        });
        let options = NetOptions::default().with_queues(2, 1).with_buffers(64 << 10, 64 << 10);
        let mut card = NetVsc::<Guest, Buffer>::open(&guest, &vmbus, &offer, &options).expect("a card");
        wire.receive(&[1; 100]);
        use_card(&guest, seed, &mut card);
    }
}

#[test]
fn a_disk_of_vmware_keeps_its_state_to_itself() {
    for seed in 0..SEEDS {
        let guest = machine();
        let host = PvscsiHost::new(&guest);
        host.insert(0, StorDrive::memory(512, vec![1; 64 << 10]));
        let adapter =
            PvscsiAdapter::new(&guest, host.device(), 0, &PvscsiOptions::default()).expect("memory");
        let mut controller = PvscsiController::<Guest, Buffer>::open(&guest, adapter, &Options::new(1, 8))
            .expect("a controller");
        let Some(ControllerEvent::Added(mut disk)) = controller.poll() else { panic!("no disk") };
        use_disk(&guest, seed, &mut disk);
        let _ = controller.poll();
    }
}

#[test]
fn a_card_of_vmware_keeps_its_state_to_itself() {
    for seed in 0..SEEDS {
        let guest = machine();
        let host = Vmxnet3Host::new(&guest);
        let options = Vmxnet3Options::new().with_pairs(2).with_queue_size(64);
        let mut card = Vmxnet3::<Guest, Buffer>::new(&guest, host.device(), &options).expect("a card");
        host.receive(&[1; 100]);
        use_card(&guest, seed, &mut card);
    }
}

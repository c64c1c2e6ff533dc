//! Limits of the cost of requests to Hyper-V devices: no allocation, one signal per batch, frames copied once.

use paravirt_device::{
    Arm, BlockDevice, BlockQueue, NetDevice, NetQueue, NetRx, NetTx, Notify, Op, Request, TxMeta,
};
use paravirt_hyperv::Hypervisor;
use paravirt_netvsc::{NetOptions, NetVsc};
use paravirt_platform::DmaSlice;
use paravirt_scsi::{ControllerEvent, Options};
use paravirt_storvsc::{StorController, StorOptions, StorTransport};
use paravirt_testhost::count::{self, Counting, counted};
use paravirt_testhost::{Guest, HvHost, HvOffer, NetVspHost, OfferSettings, StorDrive, StorHost};
use paravirt_vmbus::{Guid, Version, Vmbus};

#[global_allocator]
static COUNTING: Counting = Counting;

type Buffer = DmaSlice<Guest>;

const BATCH: usize = 32;

/// A single test, as allocations are counted for the whole program.
#[test]
fn a_batch_of_32_is_signalled_once_and_allocates_nothing() {
    let guest = Guest::with(1, true);
    let host = HvHost::new(&guest, HvOffer::least());
    let storage = StorHost::new();
    storage.insert(0, StorDrive::memory(512, vec![7; 1 << 20]));
    let of = |interface, instance| OfferSettings {
        interface,
        instance: Guid([instance; 16]),
        ..OfferSettings::default()
    };
    let disks = host.add(&guest, of(paravirt_storvsc::INTERFACE, 1), storage);
    let wire = NetVspHost::new();
    let cards = host.add(&guest, of(paravirt_netvsc::INTERFACE, 2), wire.clone());
    let hypervisor = Hypervisor::open(&guest).expect("a hypervisor");
    let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST).expect("a connection");

    let offer = vmbus.find(&Guid([1; 16]), 0).expect("an offer");
    let adapter = StorTransport::new(&guest, &vmbus, &offer, &StorOptions::default());
    let mut controller =
        StorController::<Guest, Buffer>::open(&guest, adapter, &Options::default()).expect("a controller");
    let Some(ControllerEvent::Added(mut disk)) = controller.poll() else { panic!("no disk") };
    let mut queue = disk.take_queue(0).expect("a queue");
    let mut buffers: Vec<Buffer> =
        (0..BATCH).map(|_| DmaSlice::alloc(&guest, 4096).expect("memory")).collect();
    for _ in 0..20 {
        let before = host.signals(disks).0;
        counted(|| {
            while let Some(into) = buffers.pop() {
                let op = Op::Read { lba: 8 * buffers.len() as u64, into };
                queue.submit(Request::new(0, op)).expect("room");
            }
            queue.kick();
            while let Some(done) = queue.complete().expect("no fault") {
                buffers.push(done.buffer.expect("its buffer"));
            }
        });
        assert_eq!((buffers.len(), host.signals(disks).0 - before, count::allocations()), (BATCH, 1, 0));
    }

    let offer = vmbus.find(&Guid([2; 16]), 0).expect("an offer");
    let mut card =
        NetVsc::<Guest, Buffer>::open(&guest, &vmbus, &offer, &NetOptions::default()).expect("a card");
    let mut queue = card.take_queue(0).expect("a queue");
    for _ in 0..20 {
        let before = host.signals(cards).0;
        counted(|| {
            let (_, tx) = queue.split();
            for _ in 0..BATCH {
                assert!(tx.reserve(1000));
                tx.slot()[..1000].fill(3);
                tx.commit(1000, TxMeta::default()).expect("sent");
            }
            tx.kick();
            queue.poll().expect("no fault");
        });
        // Frames that do not fit in a packet go in the next one; the host is signalled once.
        assert_eq!((host.signals(cards).0 - before, count::allocations()), (1, 0));
        assert_eq!(wire.take_sent().len(), BATCH);
        (0..BATCH).for_each(|_| wire.receive(&[5; 1000]));
        while queue.arm() == Arm::Pending {
            queue.poll().expect("no fault");
        }
        host.work(&guest, cards);
        let before = host.signals(cards).0;
        let mut count = 0;
        counted(|| {
            queue.poll().expect("no fault");
            let (rx, _) = queue.split();
            while rx.front().is_some() {
                let frame = rx.segment(0).expect("a frame");
                assert_eq!(frame[999], 5);
                // The guest copies the frame once: the copy is at the same address again.
                let place = frame.as_ptr();
                assert_eq!(rx.segment(0).expect("a frame").as_ptr(), place);
                rx.pop();
                count += 1;
            }
            queue.poll().expect("no fault");
        });
        assert_eq!((count, host.signals(cards).0 - before, count::allocations()), (BATCH, 1, 0));
    }
}

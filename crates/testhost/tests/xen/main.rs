//! Xen's hypervisor, xenstore, disks and network cards against the model.

use paravirt_blkfront::{BlkFront, BlkFrontOptions, BlkFrontQueue};
use paravirt_device::{
    Access, Agent, Arm, Balloon, BalloonMemory, BlockDevice, BlockEvent, BlockQueue, Cache, ChecksumRange,
    Clock, Completion, Console, ControlError, Durability, Fault, IoError, Link, MacAddr, MemoryStatistics,
    NetDevice, NetEvent, NetQueue, NetRx, NetTx, Notify, Offloads, Op, PageRange, PowerRequest, ReceiveMode,
    Rejected, Request, RxChecksum, SegmentKind, Segmentation, Signalling, TxMeta,
};
use paravirt_netfront::{NetFront, NetFrontOptions, NetFrontQueue};
use paravirt_platform::{
    Direction, DmaBuffer, DmaSegments, DmaSlice, PageArc, Platform, ProcessorId, Segment, SubmitError,
};
use paravirt_testhost::count::{Counting, allocations, counted};
use paravirt_testhost::{Guest, Wakes, XenDisk, XenHost, XenReceived};
use paravirt_xen::bus::{Address, Class};
use paravirt_xen::{
    Control, DeviceError, Early, Hypervisor, OpenError, Store, StoreError, Watch, XenBalloon, XenClock,
    XenConsole, XenTimer,
};
use std::time::Duration;

mod block;
mod interfaces;
mod net;

#[global_allocator]
static COUNTING: Counting = Counting;

type Buffer = DmaSlice<Guest>;
type Disk = BlkFront<Guest, Buffer>;
type DiskQueue = BlkFrontQueue<Guest, Buffer>;
type Card = NetFront<Guest, Buffer>;
type CardQueue = NetFrontQueue<Guest, Buffer>;

const XVDA: u32 = 51712;
const VBD: Address = Address { class: Class::Block, id: XVDA };
const VIF: Address = Address { class: Class::Net, id: 0 };

fn host(has_interrupts: bool) -> (Guest, XenHost) {
    let guest = Guest::with(1, has_interrupts);
    let host = XenHost::new(&guest);
    (guest, host)
}

fn store(guest: &Guest) -> PageArc<Guest, Store<Guest>> {
    Store::open(&Hypervisor::open(guest).unwrap()).unwrap()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 512) as u8).collect()
}

struct Setup {
    queue: DiskQueue,
    disk: Disk,
    store: PageArc<Guest, Store<Guest>>,
    host: XenHost,
    guest: Guest,
}

fn disk(disk: XenDisk) -> Setup {
    let (guest, host) = host(true);
    host.add_disk(XVDA, disk);
    let store = store(&guest);
    let mut disk = Disk::open(&store, VBD, &BlkFrontOptions::new().with_requests(64)).unwrap();
    let queue = disk.take_queue(0).unwrap();
    Setup { queue, disk, store, host, guest }
}

fn buffer(guest: &Guest, len: usize) -> Buffer {
    DmaSlice::alloc(guest, len).unwrap()
}

fn read(guest: &Guest, tag: u64, lba: u64, len: usize) -> Request<Buffer> {
    Request::new(tag, Op::Read { lba, into: buffer(guest, len) })
}

fn write(guest: &Guest, tag: u64, lba: u64, bytes: &[u8], durability: Durability) -> Request<Buffer> {
    let mut from = buffer(guest, bytes.len());
    from.bytes_mut().copy_from_slice(bytes);
    Request::new(tag, Op::Write { lba, from, durability })
}

fn done(queue: &mut DiskQueue) -> Completion<Buffer> {
    queue.complete().unwrap().expect("a completion")
}

struct NetSetup {
    queue: CardQueue,
    card: Card,
    store: PageArc<Guest, Store<Guest>>,
    host: XenHost,
    guest: Guest,
}

const ALL: &[(&str, &str)] = &[
    ("feature-sg", "1"),
    ("feature-gso-tcpv4", "1"),
    ("feature-gso-tcpv6", "1"),
    ("multi-queue-max-queues", "4"),
];

fn card(features: &[(&str, &str)]) -> NetSetup {
    let (guest, host) = host(true);
    host.add_card(0, features);
    let store = store(&guest);
    let mut card = Card::open(&store, VIF, &NetFrontOptions::new().with_pairs(2)).unwrap();
    let queue = card.take_queue(0).unwrap();
    NetSetup { queue, card, store, host, guest }
}

#[test]
fn the_hypervisor_is_found_beside_others_and_its_time_never_goes_back() {
    let guest = Guest::new();
    assert_eq!(Hypervisor::open(&guest).err(), Some(OpenError::Absent));
    let host = XenHost::new(&guest);
    host.set_base(0x4000_0100);
    let hypervisor = Hypervisor::open(&guest).unwrap();
    assert_eq!((hypervisor.detected().base, hypervisor.detected().version), (0x4000_0100, (4, 17)));
    assert_eq!(hypervisor.hz(), Some(1_000_000_000));
    let clock = XenClock::open(&hypervisor).unwrap();
    let (first, second) = (clock.now(), clock.now());
    assert!(first <= second);
    guest.turn(Duration::from_secs(3));
    assert!(clock.now().since(second) >= Duration::from_secs(3));
}

#[test]
fn nothing_is_left_when_everything_was_dropped() {
    for _ in 0..2 {
        let setup = disk(XenDisk::new(pattern(1 << 20)));
        setup.host.add_card(0, &[]);
        let card = Card::open(&setup.store, VIF, &NetFrontOptions::new()).unwrap();
        assert!(setup.host.grants_in_force() > 256);
        drop(card);
        let Setup { queue, disk, store, host, guest } = setup;
        drop((queue, disk, store));
        assert_eq!((host.grants_in_force(), guest.pages(), guest.bound_handlers()), (0, 0, 0));
        assert_eq!(host.node("device/vbd/51712/state").as_deref(), Some("6"));
        assert_eq!(host.refused(), 0);
    }
}

#[test]
fn xenstore_answers_watches_and_transactions() {
    let (guest, host) = host(true);
    let store = store(&guest);
    assert_eq!(store.number(format_args!("domid")), Ok(Some(1)));
    assert_eq!(store.number(format_args!("nowhere")), Ok(None));
    assert_eq!(store.text::<8>(format_args!("nowhere")), Err(StoreError::Missing));
    let watch = Watch::new(&store, format_args!("some/node")).unwrap();
    assert!(watch.take() && !watch.take());
    store.poll();
    let _ = watch.take();
    let (woken, waker) = Wakes::new();
    store.register(&waker);
    while store.arm() == Arm::Pending {
        store.poll();
    }
    host.set("some/node/below", "x");
    assert_eq!(woken.get(), 1);
    store.poll();
    assert!(watch.take() && !watch.take());
    host.faults(|faults| faults.conflicts = 3);
    let mut tries = 0;
    let written = store.transaction(|transaction| {
        tries += 1;
        transaction.write(format_args!("some/node"), format_args!("{tries}"))
    });
    assert_eq!((written, tries, host.node("some/node").as_deref()), (Ok(()), 4, Some("4")));
    host.faults(|faults| faults.conflicts = 1000);
    assert_eq!(store.transaction(|_| Ok(())), Err(StoreError::Again));
    let mut names = vec![];
    store.list(format_args!("some"), |name| names.push(name.to_string())).unwrap();
    assert_eq!(names, ["node"]);
    store.remove(format_args!("some/node")).unwrap();
    assert_eq!(host.node("some/node"), None);
    let long = "x".repeat(200);
    assert_eq!(store.write(format_args!("{long}"), format_args!("1")), Err(StoreError::Length));
    // More than the rings hold at once.
    host.set("large", &"y".repeat(3000));
    assert_eq!(store.read(format_args!("large"), <[u8]>::len), Ok(3000));
}

#[test]
fn a_xenstore_that_lies_or_is_silent_does_no_harm() {
    let (guest, host) = host(false);
    let store = store(&guest);
    let _watch = Watch::new(&store, format_args!("some")).unwrap();
    // An event of an unknown watch, and an answer to no request.
    host.faults(|faults| {
        let mut count = 0;
        faults.mutate_store = Some(Box::new(move |message| {
            count += 1;
            let strange = [[15u32, 0, 0, 9], [2, 777, 0, 3], [1, 0, 5, 0]];
            let bodies: [&[u8]; 3] = [b"some\x00999\0", b"abc", b""];
            let words = strange[count % 3].map(u32::to_le_bytes);
            let before = [words.as_flattened(), bodies[count % 3]].concat();
            *message = [before, std::mem::take(message)].concat();
        }));
    });
    for _ in 0..10 {
        assert_eq!(store.number(format_args!("domid")), Ok(Some(1)));
    }
    host.faults(|faults| faults.mutate_store = None);
    host.faults(|faults| faults.is_deaf = true);
    let quick = guest.clone();
    guest.attach(move || quick.turn(Duration::from_secs(1)));
    assert_eq!(store.number(format_args!("domid")), Err(StoreError::Faulted(Fault::Timeout)));
    assert_eq!(store.number(format_args!("domid")), Err(StoreError::Faulted(Fault::Timeout)));

    let (guest, host) = self::host(false);
    let store = self::store(&guest);
    host.faults(|faults| faults.mutate_store = Some(Box::new(|message| message[13] = 0xff)));
    assert_eq!(store.number(format_args!("domid")), Err(StoreError::Faulted(Fault::Protocol)));
}

#[test]
fn the_host_asks_for_an_end_and_for_a_suspension() {
    struct Answers(Vec<PowerRequest>);
    impl Agent for Answers {
        fn power(&mut self, request: PowerRequest, _: bool) -> bool {
            self.0.push(request);
            true
        }
    }
    let (guest, host) = host(false);
    let store = store(&guest);
    let control = Control::open(&store).unwrap();
    assert_eq!(host.node("control/feature-suspend").as_deref(), Some("1"));
    let mut answers = Answers(vec![]);
    assert!(!control.serve(&mut answers));
    for (word, suspends) in [("poweroff", false), ("reboot", false), ("strange", false), ("suspend", true)] {
        host.set("control/shutdown", word);
        assert_eq!(
            (control.serve(&mut answers), host.node("control/shutdown").as_deref()),
            (suspends, Some(""))
        );
        assert!(!control.serve(&mut answers));
    }
    assert_eq!(answers.0, [PowerRequest::PowerOff, PowerRequest::Restart, PowerRequest::Suspend]);
}

#[test]
fn the_console_writes_early_and_late_and_the_timer_wakes() {
    let (guest, host) = host(true);
    let early = Early::new(&guest).unwrap();
    let address = early.console_address().unwrap();
    // SAFETY: the page lives as long as the guest, and is mapped where the guest says.
    let console = unsafe { early.console(guest.map(address, 4096).unwrap()) }.unwrap();
    assert_eq!(console.write(b"early "), 6);
    early.notify(&console);
    let hypervisor = Hypervisor::open(&guest).unwrap();
    let mut late = XenConsole::open(&hypervisor).unwrap();
    assert_eq!((late.write(b"late"), late.is_flushed()), (Ok(4), Ok(false)));
    assert_eq!(host.console(), b"early late");
    assert!(late.is_flushed().unwrap() && console.is_flushed());
    // Nobody reads: what does not fit is not written.
    let mut written = 0;
    while let Ok(count @ 1..) = late.write(&[b'x'; 1000]) {
        written += count;
    }
    assert_eq!((written, console.has_room()), (2048, false));
    assert_eq!(late.read(&mut [0; 8]), Ok(0));

    let timer = XenTimer::open(&hypervisor, ProcessorId(0)).unwrap();
    let (woken, waker) = Wakes::new();
    timer.register(&waker);
    timer.set(Duration::from_millis(20)).unwrap();
    assert!(host.timer() > 20_000_000);
    host.fire_timer();
    assert_eq!(woken.get(), 1);
    drop(timer);
    assert_eq!(host.timer(), 0);
}

#[test]
fn the_balloon_follows_the_target() {
    struct Pages(Vec<PageRange>, u64);
    impl BalloonMemory for Pages {
        fn take(&mut self, most: u64) -> Option<PageRange> {
            let first = self.1;
            self.1 += most;
            Some(PageRange { first, count: most })
        }
        fn release(&mut self, range: PageRange) {
            self.0.push(range);
        }
        fn statistics(&mut self) -> MemoryStatistics {
            MemoryStatistics::default()
        }
    }
    let (guest, host) = host(true);
    let store = store(&guest);
    assert!(XenBalloon::open(&store).is_none(), "there is no target");
    host.set("memory/target", "65536");
    let mut balloon = XenBalloon::open(&store).unwrap();
    let mut pages = Pages(vec![], 100);
    balloon.poll(&mut pages).unwrap();
    assert_eq!((balloon.info().held, balloon.info().target), (0, Some(0)));
    host.set("memory/target", "57344");
    while {
        balloon.poll(&mut pages).unwrap();
        balloon.arm() == Arm::Pending
    } {}
    assert_eq!((balloon.info().held, host.ballooned()), (2048, 2048));
    host.set("memory/target", "61440");
    while {
        balloon.poll(&mut pages).unwrap();
        balloon.arm() == Arm::Pending
    } {}
    assert_eq!((balloon.info().held, host.ballooned(), pages.0.len()), (1024, 1024, 1024));
    // More than it had: there is nothing to give.
    host.set("memory/target", "999999");
    while {
        balloon.poll(&mut pages).unwrap();
        balloon.arm() == Arm::Pending
    } {}
    assert_eq!((balloon.info().held, host.ballooned()), (0, 0));
}

#[test]
fn many_devices_with_many_queues_share_the_grants() {
    let (guest, host) = host(true);
    let offer = [("multi-queue-max-queues", "8")];
    for number in 0..14 {
        let disk = XenDisk::new(pattern(1 << 16)).with("feature-max-indirect-segments", "256");
        host.add_disk(XVDA + number * 16, disk.with("max-ring-page-order", "4").with(offer[0].0, offer[0].1));
    }
    (0..6).for_each(|number| host.add_card(number, &[ALL, &offer].concat()));
    let store = store(&guest);
    let (mut disks, mut cards) = (vec![], vec![]);
    for number in 0..14 {
        let address = Address { class: Class::Block, id: XVDA + number * 16 };
        let options = BlkFrontOptions::new().with_queues(8).with_requests(64);
        disks.push(Disk::open(&store, address, &options).unwrap());
    }
    for number in 0..6 {
        let address = Address { class: Class::Net, id: number };
        cards.push(Card::open(&store, address, &NetFrontOptions::new().with_pairs(8)).unwrap());
    }
    assert_eq!((disks[0].info().queues, disks[0].info().depth), (8, 16));
    assert!(disks.iter().all(|disk| disk.info().queues >= 1 && disk.info().depth >= 4));
    assert!(cards.iter().all(|card| card.info().queues >= 1));
    for disk in &mut disks {
        let mut queue = disk.take_queue(disk.info().queues - 1).unwrap();
        queue.submit(read(&guest, 1, 0, 8192)).unwrap();
        queue.kick();
        assert_eq!(done(&mut queue).buffer.unwrap().bytes(), &pattern(1 << 16)[..8192]);
    }
    for (number, card) in (0..).zip(&mut cards) {
        let mut queue = card.take_queue(0).unwrap();
        queue.poll().unwrap();
        assert!(net::send(&mut queue, &[number as u8; 60]));
        assert_eq!(host.take_sent(number)[0].bytes, [number as u8; 60]);
    }
    drop((disks, cards, store));
    assert_eq!((guest.pages(), host.refused(), host.grants_in_force()), (0, 0, 0));
}

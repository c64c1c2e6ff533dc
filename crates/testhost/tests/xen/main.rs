//! Xen's hypervisor, xenstore, disks and network cards against the model.

use paravirt_blkfront::{BlkFront, BlkFrontOptions, BlkFrontQueue};
use paravirt_device::{
    Access, Agent, Arm, Balloon, BalloonMemory, BlockDevice, BlockEvent, BlockQueue, Cache, ChecksumRange,
    Clock, Completion, Console, Durability, Fault, IoError, Link, MacAddr, MemoryStatistics, NetDevice,
    NetEvent, NetQueue, NetRx, NetTx, Notify, Offloads, Op, PageRange, PowerRequest, Rejected, Request,
    RxChecksum, SegmentKind, Segmentation, Signalling, TxMeta,
};
use paravirt_netfront::{NetFront, NetFrontOptions, NetFrontQueue};
use paravirt_platform::{DmaSlice, PageArc, Platform, ProcessorId, SubmitError};
use paravirt_testhost::count::{Counting, allocations, counted};
use paravirt_testhost::{Guest, Wakes, XenDisk, XenHost, XenReceived};
use paravirt_xen::bus::{Address, Class};
use paravirt_xen::{
    Control, DeviceError, Early, Hypervisor, OpenError, Store, StoreError, Watch, XenBalloon, XenClock,
    XenConsole, XenTimer,
};
use std::time::Duration;

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
fn blocks_are_read_and_written_without_a_copy_and_a_batch_kicks_once() {
    let Setup { mut queue, host, guest, disk, .. } = disk(XenDisk::new(pattern(1 << 20)));
    let info = disk.info();
    assert_eq!(
        (info.blocks, info.block_size, info.cache, info.access),
        (2048, 512, Cache::WriteBack, Access::ReadWrite)
    );
    assert_eq!((info.connection.signalling, info.depth, info.max_segments), (Signalling::Bus, 32, 11));
    let content = pattern(1 << 20);
    for round in 0..40u64 {
        let mut requests: Vec<_> = (0..32).map(|tag| Some(read(&guest, tag, tag * 8, 4096))).collect();
        let (kicks, mut completed) = (host.kicks(), vec![]);
        completed.reserve(32);
        counted(|| {
            for request in &mut requests {
                queue.submit(request.take().unwrap()).unwrap();
            }
            queue.kick();
            while let Some(done) = queue.complete().unwrap() {
                completed.push(done);
            }
        });
        assert_eq!((host.kicks() - kicks, completed.len(), allocations()), (1, 32, 0), "round {round}");
        for done in completed {
            let bytes = done.buffer.unwrap();
            assert_eq!(bytes.bytes(), &content[done.tag as usize * 4096..][..4096]);
            assert_eq!(done.result, Ok(()));
        }
    }
    let bytes = [9; 1024];
    queue.submit(write(&guest, 1, 100, &bytes, Durability::Cached)).unwrap();
    queue.kick();
    assert_eq!(done(&mut queue).result, Ok(()));
    assert_eq!(host.disk_bytes(XVDA)[51200..52224], bytes);
    assert!(host.disk_operations(XVDA).is_empty());
    // A buffer that begins within a page, and ends within another.
    let (mut first, mut several) = (None, 0);
    DmaSlice::alloc_many(&guest, 1, 4096 + 1536, |slice| (first, several) = (Some(slice), several + 1))
        .unwrap();
    queue.submit(Request::new(2, Op::Read { lba: 3, into: first.unwrap() })).unwrap();
    queue.kick();
    assert_eq!(done(&mut queue).buffer.unwrap().bytes(), &host.disk_bytes(XVDA)[1536..][..5632]);
    assert_eq!(host.refused(), 0);
}

#[test]
fn large_requests_have_their_segments_in_a_page_and_rings_have_several() {
    let options = XenDisk::new(pattern(1 << 20))
        .with("feature-max-indirect-segments", "256")
        .with("max-ring-page-order", "4")
        .with("multi-queue-max-queues", "4");
    let (guest, host) = host(false);
    host.add_disk(XVDA, options);
    let store = store(&guest);
    let options = BlkFrontOptions::new().with_requests(64).with_queues(2);
    let mut disk = Disk::open(&store, VBD, &options).unwrap();
    let info = disk.info();
    assert_eq!((info.queues, info.depth, info.max_segments, info.max_bytes), (2, 64, 32, 31 * 4096));
    let content = pattern(1 << 20);
    for index in 0..2 {
        let mut queue = disk.take_queue(index).unwrap();
        for _ in 0..100 {
            queue.submit(read(&guest, 5, 8, 31 * 4096)).unwrap();
            queue.kick();
            assert_eq!(done(&mut queue).buffer.unwrap().bytes(), &content[4096..][..31 * 4096]);
        }
        let refused = queue.submit(read(&guest, 6, 0, 33 * 4096)).unwrap_err();
        assert_eq!(refused.reason, Rejected::Invalid);
    }
    assert_eq!((host.refused(), host.node("device/vbd/51712/queue-1/ring-ref1").is_some()), (0, true));
}

#[test]
fn durable_writes_flush_and_disks_without_a_cache_need_no_flush() {
    let Setup { mut queue, host, guest, .. } = disk(XenDisk::new(vec![0; 1 << 16]));
    queue.submit(write(&guest, 1, 0, &[1; 512], Durability::Durable)).unwrap();
    queue.kick();
    let mut completed = None;
    for _ in 0..3 {
        completed = completed.or_else(|| queue.complete().unwrap());
    }
    assert!(completed.is_some_and(|done| done.result.is_ok() && done.buffer.is_some()));
    assert_eq!(host.disk_operations(XVDA), [3]);
    queue.submit(Request::new(2, Op::Flush)).unwrap();
    queue.kick();
    assert_eq!(done(&mut queue).result, Ok(()));
    assert_eq!(host.disk_operations(XVDA), [3, 3]);

    let mut plain = XenDisk::new(vec![0; 1 << 16]);
    (plain.lacks_flush, plain.has_discard) = (true, true);
    let Setup { mut queue, host, guest, disk, .. } = self::disk(plain);
    assert_eq!((disk.info().cache, disk.info().discard.is_some()), (Cache::WriteThrough, true));
    let kicks = host.kicks();
    queue.submit(Request::new(2, Op::Flush)).unwrap();
    queue.kick();
    assert_eq!((done(&mut queue).result, host.kicks()), (Ok(()), kicks));
    queue.submit(write(&guest, 1, 0, &[1; 512], Durability::Durable)).unwrap();
    queue.submit(Request::new(3, Op::Discard { lba: 8, blocks: 8 })).unwrap();
    queue.kick();
    assert_eq!((done(&mut queue).tag, done(&mut queue).tag), (1, 3));
    assert_eq!((host.disk_operations(XVDA), host.disk_bytes(XVDA)[4096]), (vec![5], 0xdd));
    let refused = queue.submit(Request::new(4, Op::Discard { lba: 127, blocks: 2 })).unwrap_err();
    assert_eq!(refused.reason, Rejected::Range);
}

#[test]
fn impossible_requests_are_refused_with_their_buffers() {
    let mut readable = XenDisk::new(vec![0; 1 << 16]);
    (readable.is_read_only, readable.block_size) = (true, 4096);
    let Setup { mut queue, guest, disk, .. } = disk(readable);
    assert_eq!(
        (disk.info().blocks, disk.info().block_size, disk.info().access),
        (16, 4096, Access::ReadOnly)
    );
    for (request, reason) in [
        (read(&guest, 1, 15, 8192), Rejected::Range),
        (read(&guest, 1, u64::MAX, 4096), Rejected::Range),
        (read(&guest, 1, 0, 512), Rejected::Invalid),
        (write(&guest, 1, 0, &[0; 4096], Durability::Cached), Rejected::ReadOnly),
        (Request::new(1, Op::Discard { lba: 0, blocks: 1 }), Rejected::Unsupported),
    ] {
        let refused = queue.submit(request).unwrap_err();
        assert_eq!(refused.reason, reason);
        assert!(refused.request.op.into_buffer().is_none_or(|buffer| !buffer.is_in_flight()));
    }
    for tag in 0..32 {
        queue.submit(read(&guest, tag, 0, 4096)).unwrap();
    }
    assert_eq!(queue.submit(read(&guest, 99, 0, 4096)).unwrap_err().reason, Rejected::Full);
}

/// A buffer that neither owns its pages nor can be copied.
struct Foreign(Buffer);

// SAFETY: forwards to a buffer with the same contract, and tells less of it.
unsafe impl paravirt_platform::DmaBuffer for Foreign {
    fn submit(
        &mut self,
        direction: paravirt_platform::Direction,
    ) -> Result<paravirt_platform::DmaSegments<'_>, SubmitError> {
        self.0.submit(direction)
    }
    unsafe fn reclaim(&mut self) {
        // SAFETY: by the contract of this function.
        unsafe { self.0.reclaim() }
    }
}

#[test]
fn a_buffer_that_shares_its_pages_is_copied_and_its_neighbours_stay_hidden() {
    let Setup { mut queue, host, guest, store, .. } = disk(XenDisk::new(pattern(1 << 16)));
    let mut slices = vec![];
    DmaSlice::alloc_many(&guest, 8, 512, |slice| slices.push(slice)).unwrap();
    let address = slices[0].bus().0;
    let before = host.grants_in_force();
    for round in 0..200u64 {
        let mut from = slices.pop().unwrap();
        from.bytes_mut().fill(round as u8);
        queue.submit(Request::new(1, Op::Write { lba: 20, from, durability: Durability::Cached })).unwrap();
        queue.kick();
        let from = done(&mut queue).buffer.unwrap();
        assert_eq!(host.disk_bytes(XVDA)[10240..10752], [round as u8; 512]);
        queue.submit(Request::new(2, Op::Read { lba: 7, into: from })).unwrap();
        queue.kick();
        let into = done(&mut queue).buffer.unwrap();
        assert_eq!(into.bytes(), &pattern(1 << 16)[3584..4096]);
        slices.push(into);
    }
    assert_eq!((host.grants_in_force(), host.refused()), (before, 0));
    assert!(address & 0xfff == 0);
    host.add_disk(51728, XenDisk::new(vec![0; 1 << 16]));
    let other = Address { class: Class::Block, id: 51728 };
    let mut disk = BlkFront::<Guest, Foreign>::open(&store, other, &BlkFrontOptions::new()).unwrap();
    let mut queue = disk.take_queue(0).unwrap();
    let into = Foreign(buffer(&guest, 512));
    let refused = queue.submit(Request::new(1, Op::Read { lba: 0, into })).unwrap_err();
    assert_eq!(refused.reason, Rejected::Buffer(SubmitError::SharedPages));
}

#[test]
fn an_interrupt_wakes_the_task_once_for_each_time_it_is_armed() {
    for has_vectors in [true, false] {
        let (guest, host) = host(true);
        host.set_vectors(has_vectors);
        host.add_disk(XVDA, XenDisk::new(vec![0; 1 << 16]));
        let store = store(&guest);
        let mut disk = Disk::open(&store, VBD, &BlkFrontOptions::new()).unwrap();
        let mut queue = disk.take_queue(0).unwrap();
        let (woken, waker) = Wakes::new();
        queue.register(&waker);
        while queue.arm() == Arm::Pending {}
        let before = woken.get();
        for round in 1..=20 {
            host.faults(|faults| faults.holds = true);
            queue.submit(read(&guest, 1, 0, 512)).unwrap();
            queue.kick();
            assert_eq!((queue.arm(), woken.get()), (Arm::Armed, before + round - 1));
            host.faults(|faults| faults.holds = false);
            host.run();
            assert_eq!(woken.get(), before + round);
            // Nothing more until it is armed again, whatever the backend does.
            host.run();
            assert_eq!(woken.get(), before + round);
            assert_eq!(queue.arm(), Arm::Pending);
            done(&mut queue);
        }
    }
    let (guest, host) = host(false);
    host.add_disk(XVDA, XenDisk::new(vec![0; 1 << 16]));
    let store = store(&guest);
    let mut disk = Disk::open(&store, VBD, &BlkFrontOptions::new()).unwrap();
    let mut queue = disk.take_queue(0).unwrap();
    assert_eq!(queue.arm(), Arm::Pending, "it looks at the device first");
    assert_eq!((disk.info().connection.signalling, queue.arm()), (Signalling::Polled, Arm::Unsignalled));
}

#[test]
fn errors_of_the_backend_are_the_requests() {
    let Setup { mut queue, host, guest, .. } = disk(XenDisk::new(vec![0; 1 << 16]));
    for (status, error) in [(-1i16, IoError::Device), (-2, IoError::Unsupported), (7, IoError::Device)] {
        host.faults(|faults| {
            faults.mutate = Some(Box::new(move |bytes| bytes[10..12].copy_from_slice(&status.to_le_bytes())));
        });
        queue.submit(read(&guest, 3, 0, 512)).unwrap();
        queue.kick();
        let done = done(&mut queue);
        assert_eq!((done.result, done.buffer.is_some()), (Err(error), true));
    }
}

#[test]
fn an_answer_to_nothing_is_passed_over_and_claims_reset_the_disk() {
    let Setup { mut queue, mut disk, host, guest, .. } = disk(XenDisk::new(vec![7; 1 << 16]));
    for id in [1u64, 63, 64, u64::MAX] {
        host.faults(|faults| {
            faults.mutate = Some(Box::new(move |bytes| bytes[..8].copy_from_slice(&id.to_le_bytes())));
        });
        queue.submit(read(&guest, 3, 0, 512)).unwrap();
        queue.kick();
        assert!(queue.complete().unwrap().is_none(), "{id}");
    }
    host.faults(|faults| (faults.mutate, faults.claims) = (None, 5));
    queue.submit(read(&guest, 4, 0, 512)).unwrap();
    queue.kick();
    host.faults(|faults| faults.claims = 0);
    // Everything comes back, and the disk works again.
    let mut aborted = 0;
    while let Some(done) = queue.complete().unwrap() {
        assert_eq!(done.result, Err(IoError::Aborted));
        aborted += 1;
    }
    assert_eq!((aborted, disk.poll_event()), (5, None));
    queue.submit(read(&guest, 5, 0, 512)).unwrap();
    queue.kick();
    assert_eq!(done(&mut queue).buffer.unwrap().bytes(), [7; 512]);
}

#[test]
fn a_page_that_the_backend_keeps_is_lost_and_never_freed() {
    let Setup { mut queue, disk, store, host, guest } = disk(XenDisk::new(vec![7; 1 << 16]));
    let hypervisor = store.hypervisor().clone();
    let pages = guest.pages();
    host.faults(|faults| faults.keeps_pages = true);
    queue.submit(read(&guest, 3, 0, 512)).unwrap();
    queue.kick();
    host.faults(|faults| faults.keeps_pages = false);
    let done = queue.complete().unwrap().expect("its completion");
    assert_eq!((done.tag, done.result, done.buffer.is_some()), (3, Err(IoError::Device), false));
    assert_eq!(hypervisor.lost_pages(), 1);
    // The disk was reset, and goes on.
    queue.submit(read(&guest, 5, 0, 512)).unwrap();
    queue.kick();
    assert_eq!(self::done(&mut queue).result, Ok(()));
    assert!(guest.pages() > pages);
    drop((queue, disk, store, hypervisor));
    assert!(guest.pages() > 0);
}

#[test]
fn a_backend_that_takes_too_long_is_connected_anew() {
    let Setup { mut queue, host, guest, .. } = disk(XenDisk::new(vec![7; 1 << 16]));
    host.faults(|faults| faults.holds = true);
    let deadline = guest.now().saturating_add(Duration::from_secs(30));
    queue.submit(read(&guest, 3, 0, 512).with_deadline(deadline)).unwrap();
    queue.kick();
    assert_eq!(queue.next_deadline(), deadline);
    queue.expire(guest.now()).unwrap();
    assert!(queue.complete().unwrap().is_none());
    guest.turn(Duration::from_secs(31));
    host.faults(|faults| faults.holds = false);
    queue.expire(guest.now()).unwrap();
    let done = done(&mut queue);
    assert_eq!((done.tag, done.result, done.buffer.is_some()), (3, Err(IoError::Aborted), true));
    queue.submit(read(&guest, 4, 0, 512)).unwrap();
    queue.kick();
    assert_eq!(self::done(&mut queue).result, Ok(()));
}

#[test]
fn a_backend_that_misses_states_of_the_frontend_is_told_again() {
    let (guest, host) = host(true);
    host.add_disk(XVDA, XenDisk::new(pattern(1 << 20)));
    let store = store(&guest);
    let open = || Disk::open(&store, VBD, &BlkFrontOptions::new());
    // A former kernel has given up between the rings and the connection.
    host.faults(|faults| faults.lags = true);
    store.write(format_args!("device/vbd/51712/state"), format_args!("3")).unwrap();
    guest.relax();
    host.set("/local/domain/0/backend/vbd/1/51712/state", "2");
    let disk = open().unwrap();
    assert_eq!(host.node("/local/domain/0/backend/vbd/1/51712/state").as_deref(), Some("4"));
    // Nor does it miss that it was closed and opened at once.
    drop(disk);
    assert_eq!(host.node("/local/domain/0/backend/vbd/1/51712/state").as_deref(), Some("6"));
    drop(open().unwrap());
}

#[test]
fn two_queues_are_reset_together_and_one_that_is_dropped_does_not_wait() {
    let (guest, host) = host(false);
    host.add_disk(XVDA, XenDisk::new(vec![7; 1 << 16]).with("multi-queue-max-queues", "3"));
    let store = store(&guest);
    let mut disk = Disk::open(&store, VBD, &BlkFrontOptions::new().with_queues(3)).unwrap();
    let mut queues: Vec<DiskQueue> = (0..2).map(|index| disk.take_queue(index).unwrap()).collect();
    host.faults(|faults| faults.holds = true);
    for (tag, queue) in (0..).zip(&mut queues) {
        queue.submit(read(&guest, tag, 0, 512)).unwrap();
        queue.kick();
    }
    host.faults(|faults| faults.holds = false);
    queues[0].reset().unwrap();
    assert_eq!(done(&mut queues[0]).result, Err(IoError::Aborted));
    assert_eq!(queues[0].complete().err(), Some(Fault::Reset));
    assert_eq!(done(&mut queues[1]).result, Err(IoError::Aborted));
    for queue in &mut queues {
        queue.submit(read(&guest, 9, 0, 512)).unwrap();
        queue.kick();
        assert_eq!(done(queue).result, Ok(()));
    }
    queues.pop();
    queues[0].reset().unwrap();
    queues[0].submit(read(&guest, 9, 0, 512)).unwrap();
    queues[0].kick();
    assert_eq!(done(&mut queues[0]).result, Ok(()));
}

#[test]
fn the_size_changes_and_the_host_takes_the_disk_away() {
    let Setup { mut queue, mut disk, host, guest, .. } = disk(XenDisk::new(vec![7; 1 << 16]));
    while disk.poll_event().is_some() {}
    host.set("/local/domain/0/backend/vbd/1/51712/sectors", "256");
    host.set("/local/domain/0/backend/vbd/1/51712/state", "4");
    assert_eq!((disk.poll_event(), disk.info().blocks), (Some(BlockEvent::Capacity(256)), 256));
    host.faults(|faults| faults.holds = true);
    queue.submit(read(&guest, 1, 200, 512)).unwrap();
    queue.kick();
    host.remove("vbd", XVDA);
    assert_eq!(disk.poll_event(), Some(BlockEvent::Faulted(Fault::Removed)));
    assert_eq!(done(&mut queue).result, Err(IoError::Aborted));
    assert_eq!(queue.complete().err(), Some(Fault::Removed));
    assert_eq!(queue.submit(read(&guest, 1, 0, 512)).unwrap_err().reason, Rejected::Faulted(Fault::Removed));
    assert_eq!(host.node("device/vbd/51712/state").as_deref(), Some("6"));
}

#[test]
fn a_suspended_guest_sends_what_was_in_flight_again() {
    let Setup { mut queue, disk, store, host, guest } = disk(XenDisk::new(pattern(1 << 16)));
    host.add_card(0, &[]);
    let mut card = Card::open(&store, VIF, &NetFrontOptions::new()).unwrap();
    let mut pair = card.take_queue(0).unwrap();
    let hypervisor = store.hypervisor().clone();
    host.set_resumes(false);
    assert_eq!(hypervisor.suspend(), Ok(false));
    host.set_resumes(true);
    host.faults(|faults| faults.holds = true);
    let (woken, waker) = Wakes::new();
    queue.register(&waker);
    queue.submit(write(&guest, 1, 0, &[9; 512], Durability::Durable)).unwrap();
    let mut slices = vec![];
    DmaSlice::alloc_many(&guest, 2, 512, |slice| slices.push(slice)).unwrap();
    queue.submit(Request::new(2, Op::Read { lba: 8, into: slices.remove(0) })).unwrap();
    queue.submit(read(&guest, 3, 16, 8192)).unwrap();
    queue.kick();
    assert_eq!((hypervisor.suspend(), hypervisor.resumed()), (Ok(true), 1));
    store.resume().unwrap();
    host.faults(|faults| faults.holds = false);
    assert!(woken.get() > 0);
    let mut completed = vec![];
    for _ in 0..8 {
        completed.extend(queue.complete().unwrap());
    }
    completed.sort_by_key(|done| done.tag);
    assert!(completed.iter().all(|done| done.result.is_ok()), "{completed:?}");
    let tags: Vec<u64> = completed.iter().map(|done| done.tag).collect();
    assert_eq!((tags, host.disk_operations(XVDA)), (vec![1, 2, 3], vec![3]));
    assert_eq!(completed[1].buffer.as_ref().unwrap().bytes(), &pattern(1 << 16)[4096..4608]);
    assert_eq!(completed[2].buffer.as_ref().unwrap().bytes(), &pattern(1 << 16)[8192..16384]);
    assert_eq!(host.disk_bytes(XVDA)[..512], [9; 512]);
    pair.poll().unwrap();
    assert!(send(&mut pair, &[3; 60]));
    assert_eq!(host.take_sent(0)[0].bytes, [3; 60]);
    drop((queue, disk, pair, card, store, hypervisor, completed, slices));
    assert_eq!((guest.pages(), host.refused()), (0, 0));
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

fn send(queue: &mut CardQueue, bytes: &[u8]) -> bool {
    let (_, tx) = queue.split();
    if !tx.reserve(bytes.len()) {
        return false;
    }
    tx.slot()[..bytes.len()].copy_from_slice(bytes);
    tx.commit(bytes.len(), TxMeta::new()).unwrap();
    tx.kick();
    true
}

/// The oldest received frame, in one piece.
fn next(queue: &mut CardQueue) -> Option<Vec<u8>> {
    let (rx, _) = queue.split();
    let frame = rx.front()?;
    let bytes: Vec<u8> = (0..frame.segments).flat_map(|index| rx.segment(index).unwrap().to_vec()).collect();
    assert_eq!(bytes.len(), frame.len);
    rx.pop();
    Some(bytes)
}

fn plain() -> XenReceived {
    XenReceived::default()
}

#[test]
fn frames_pass_both_ways_around_the_rings() {
    let NetSetup { mut queue, card, host, .. } = card(&[]);
    assert_eq!(
        (card.info().mac, card.info().mtu, card.link()),
        (MacAddr([0, 0x16, 0x3e, 0, 0, 1]), 1500, Link::Up)
    );
    for round in 0..1500u32 {
        let bytes = vec![round as u8; 60 + round as usize % 1455];
        assert!(send(&mut queue, &bytes));
        assert_eq!(host.take_sent(0).pop().unwrap().bytes, bytes);
        let how = XenReceived { offset: (round % 3) as u16, ..plain() };
        assert!(host.receive(0, &bytes, &how));
        queue.poll().unwrap();
        assert_eq!(next(&mut queue), Some(bytes));
    }
    assert_eq!((next(&mut queue), host.refused()), (None, 0));
}

#[test]
fn a_batch_kicks_once_and_nothing_is_allocated_or_copied() {
    let NetSetup { mut queue, host, .. } = card(&[]);
    for _ in 0..20 {
        let before = host.kicks();
        counted(|| {
            let (_, tx) = queue.split();
            for _ in 0..32 {
                assert!(tx.reserve(1000));
                tx.slot()[..1000].fill(3);
                tx.commit(1000, TxMeta::default()).unwrap();
            }
            tx.kick();
            queue.poll().unwrap();
        });
        assert_eq!((host.kicks() - before, allocations(), host.take_sent(0).len()), (1, 0, 32));
        (0..32).for_each(|_| assert!(host.receive(0, &[5; 1000], &plain())));
        let mut count = 0;
        counted(|| {
            queue.poll().unwrap();
            let (rx, _) = queue.split();
            while rx.front().is_some() {
                assert_eq!(rx.segment(0).unwrap()[999], 5);
                rx.pop();
                count += 1;
            }
            queue.poll().unwrap();
        });
        assert_eq!((count, allocations()), (32, 0));
    }
}

fn tcp_frame(len: usize) -> Vec<u8> {
    let mut frame = vec![0; len];
    (frame[12], frame[14], frame[23], frame[46]) = (0x08, 0x45, 6, 0x50);
    frame
}

#[test]
fn checksums_and_segmentation_are_asked_for_and_told() {
    let NetSetup { mut queue, mut card, host, .. } = card(ALL);
    let range = ChecksumRange { start: 34, offset: 16 };
    let segmentation = Segmentation { kind: SegmentKind::Tcp4, size: 1448, headers: 54 };
    let frame = tcp_frame(30_000);
    let (_, tx) = queue.split();
    assert!(tx.reserve(frame.len()));
    tx.slot()[..frame.len()].copy_from_slice(&frame);
    tx.commit(frame.len(), TxMeta::new().with_checksum(range).with_segmentation(segmentation)).unwrap();
    tx.kick();
    let sent = host.take_sent(0).pop().unwrap();
    assert_eq!(
        (sent.bytes, sent.flags & 11, sent.segmentation, sent.requests),
        (frame.clone(), 11, Some((1448, 1)), 8)
    );
    queue.poll().unwrap();

    assert_eq!(card.info().offloads & Offloads::RX_TCP4, Offloads::empty());
    card.set_offloads(Offloads::RX_CHECKSUM | Offloads::RX_TCP4 | Offloads::RX_TCP6).unwrap();
    queue.poll().unwrap();
    assert_eq!(host.node("device/vif/0/feature-gso-tcpv4").as_deref(), Some("1"));
    let how = XenReceived { flags: 2, segmentation: Some((1448, 1)), offset: 2, ..plain() };
    assert!(host.receive(0, &frame, &how));
    queue.poll().unwrap();
    let got = queue.split().0.front().unwrap();
    assert_eq!((got.len, got.segments, got.meta.checksum), (30_000, 8, RxChecksum::Partial(range)));
    assert_eq!(got.meta.segmentation, Some(segmentation));
    assert_eq!(next(&mut queue), Some(frame));
    assert!(host.receive(0, &tcp_frame(60), &XenReceived { flags: 1, ..plain() }));
    queue.poll().unwrap();
    assert_eq!(queue.split().0.front().unwrap().meta.checksum, RxChecksum::Valid);
    assert_eq!(host.refused(), 0);
}

#[test]
fn frames_of_the_callers_are_sent_from_its_buffers() {
    let NetSetup { mut queue, host, guest, .. } = card(ALL);
    for round in 0..300u64 {
        let mut frame = buffer(&guest, 1400);
        frame.bytes_mut().fill(round as u8);
        queue.split().1.send(round, frame, TxMeta::new()).unwrap();
        queue.split().1.kick();
        assert_eq!(host.take_sent(0)[0].bytes, vec![round as u8; 1400]);
        queue.poll().unwrap();
        let sent = queue.split().1.sent().unwrap();
        assert_eq!((sent.tag, sent.result, sent.buffer.is_some()), (round, Ok(()), true));
    }
    let mut slices = vec![];
    DmaSlice::alloc_many(&guest, 2, 100, |slice| slices.push(slice)).unwrap();
    let refused = queue.split().1.send(1, slices.pop().unwrap(), TxMeta::new()).unwrap_err();
    assert_eq!(refused.reason, Rejected::Buffer(SubmitError::SharedPages));
    assert_eq!(host.refused(), 0);
}

#[test]
fn odd_responses_are_dropped_and_pages_that_are_kept_reset_the_card() {
    let NetSetup { mut queue, mut card, store, host, .. } = card(ALL);
    let lengths: [(u16, u16, u16); 5] =
        [(0, 0, 0), (4090, 0, 100), (0, 0, 0xffff), (0, 0, 4097), (0xffff, 0, 1)];
    for (offset, flags, len) in lengths {
        host.faults(|faults| {
            faults.mutate = Some(Box::new(move |bytes| {
                bytes[2..].copy_from_slice([offset, flags, len].map(u16::to_le_bytes).as_flattened());
            }));
        });
        assert!(host.receive(0, &[1; 60], &plain()));
        queue.poll().unwrap();
        assert_eq!(next(&mut queue), None, "{offset} {flags} {len}");
    }
    host.faults(|faults| faults.mutate = None);
    assert!(host.receive(0, &[1; 9000], &XenReceived { piece: 1000, ..plain() }));
    queue.poll().unwrap();
    assert_eq!(next(&mut queue), Some(vec![1; 9000]));
    // More pieces than a frame has.
    assert!(host.receive(0, &[1; 9000], &XenReceived { piece: 100, ..plain() }));
    queue.poll().unwrap();
    assert_eq!(next(&mut queue), None);
    // A wrong number of a sent frame, and one twice.
    for id in [255u16, 300, u16::MAX] {
        host.faults(|faults| {
            faults.mutate = Some(Box::new(move |bytes| bytes[..2].copy_from_slice(&id.to_le_bytes())));
        });
        assert!(send(&mut queue, &[2; 60]));
        queue.poll().unwrap();
    }
    host.faults(|faults| (faults.mutate, faults.keeps_pages) = (None, true));
    assert!(host.receive(0, &[1; 60], &plain()));
    host.faults(|faults| faults.keeps_pages = false);
    queue.poll().unwrap();
    assert_eq!(store.hypervisor().lost_pages(), 1);
    assert_eq!(card.poll_event(), None);
    queue.poll().unwrap();
    assert!(host.receive(0, &[7; 60], &plain()));
    queue.poll().unwrap();
    assert_eq!(next(&mut queue), Some(vec![7; 60]));
}

#[test]
fn the_link_changes_and_pairs_are_taken_into_use() {
    let NetSetup { mut queue, mut card, host, .. } = card(ALL);
    while card.poll_event().is_some() {}
    for (carrier, link) in [("0", Link::Down), ("1", Link::Up)] {
        host.set("/local/domain/0/backend/vif/1/0/carrier", carrier);
        assert_eq!((card.poll_event(), card.link()), (Some(NetEvent::Link(link)), link));
    }
    assert_eq!(
        (card.info().queues, host.node("device/vif/0/multi-queue-num-queues").as_deref()),
        (2, Some("1"))
    );
    card.set_active_queues(2).unwrap();
    queue.poll().unwrap();
    assert_eq!(host.node("device/vif/0/multi-queue-num-queues").as_deref(), Some("2"));
    assert!(send(&mut queue, &[2; 60]));
    assert_eq!(host.take_sent(0).len(), 1);
    host.remove("vif", 0);
    assert_eq!(card.poll_event(), Some(NetEvent::Faulted(Fault::Removed)));
    assert_eq!(queue.poll().err(), Some(Fault::Removed));
    assert!(!queue.split().1.reserve(60));
}

#[test]
fn a_backend_that_offers_too_little_is_refused() {
    let (guest, host) = host(false);
    host.add_card(0, &[("feature-rx-copy", "0")]);
    let store = store(&guest);
    assert_eq!(Card::open(&store, VIF, &NetFrontOptions::new()).err(), Some(DeviceError::Unsupported));
    assert_eq!(
        Disk::open(&store, VBD, &BlkFrontOptions::new()).err(),
        Some(DeviceError::Store(StoreError::Missing))
    );
    let mut odd = XenDisk::new(vec![0; 1 << 16]);
    odd.block_size = 1000;
    host.add_disk(XVDA, odd);
    assert_eq!(Disk::open(&store, VBD, &BlkFrontOptions::new()).err(), Some(DeviceError::Unsupported));
    drop(store);
    assert_eq!((guest.pages(), host.grants_in_force()), (0, 0));
}

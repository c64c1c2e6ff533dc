//! The block driver against rust-vmm's split queue, and against our model of a packed one.

use paravirt_device::{
    Arm, BlockDevice, BlockEvent, BlockQueue, Blocking, BlockingError, Durability, Fault, IoError, Notify,
    Op, Rejected, Request, Unmap, restarted,
};
use paravirt_platform::{DmaSlice, Instant, Platform};
use paravirt_testhost::{BlkFaultConfig, BlkHost, Guest, Ring};
use paravirt_virtio::OpenOptions;
use paravirt_virtio::blk::config::BlkFeatures;
use paravirt_virtio::blk::{BlkQueue, VirtioBlk};
use paravirt_virtio::features::Features;
use paravirt_virtio::transport::DeviceStatus;
use std::future::Future;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

type Buffer = DmaSlice<Guest>;
type Disk = VirtioBlk<Guest, Buffer>;
type Queue = BlkQueue<Guest, Buffer>;

const OPTIONS: OpenOptions =
    OpenOptions::new().with_queues(2).with_queue_size(64).with_processors(2).with_segments(6);
const RINGS: [Ring; 2] = [Ring::Split, Ring::Packed];

fn open(guest: &Guest, host: &BlkHost) -> (Disk, Queue) {
    let mut disk = Disk::open(guest, host.transport(), &OPTIONS).expect("a disk");
    host.take_log();
    let queue = disk.take_queue(0).expect("a queue");
    (disk, queue)
}

fn filled(guest: &Guest, len: usize, byte: u8) -> Buffer {
    let mut buffer = DmaSlice::alloc(guest, len).expect("memory");
    buffer.bytes_mut().fill(byte);
    buffer
}

fn request(tag: u64, op: Op<Buffer>) -> Request<Buffer> {
    Request::new(tag, op)
}

fn write(tag: u64, lba: u64, from: Buffer) -> Request<Buffer> {
    request(tag, Op::Write { lba, from, durability: Durability::Cached })
}

/// Submits a read with tag 4 to a device that does not complete it.
fn hold_a_read(guest: &Guest, host: &BlkHost, queue: &mut Queue) {
    host.set_fault_config(BlkFaultConfig::Silent);
    queue.submit(request(4, Op::Read { lba: 0, into: filled(guest, 512, 0) })).expect("room");
    queue.kick();
}

/// Checks that each queue completes a request.
fn is_in_service<const N: usize>(guest: &Guest, host: &BlkHost, queues: [&mut Queue; N]) {
    for queue in queues {
        queue.submit(write(7, 3, filled(guest, 512, 7))).expect("in service again");
        queue.kick();
        host.work();
        assert_eq!(queue.complete().expect("no fault").expect("done").result, Ok(()));
    }
}

#[test]
fn a_batch_of_32_costs_one_kick_and_copies_nothing() {
    for ring in RINGS {
        let guest = Guest::new();
        let host = BlkHost::new(&guest, ring, 4096);
        let (_disk, mut queue) = open(&guest, &host);
        let before = host.device().kicks(0);
        let mut places = vec![];
        for tag in 0..32 {
            let buffer = filled(&guest, 1024, tag as u8 + 1);
            places.push(buffer.bytes().as_ptr());
            queue.submit(write(tag, tag * 2, buffer)).expect("room");
        }
        queue.kick();
        queue.kick();
        assert_eq!(host.device().kicks(0) - before, 1, "{ring:?}");
        assert_eq!(host.work(), 32);
        for tag in 0..32u64 {
            let done = queue.complete().expect("no fault").expect("a completion");
            assert_eq!((done.tag, done.result), (tag, Ok(())));
            let buffer = done.buffer.expect("the buffer");
            // The very same memory was returned, and the device read it where it was.
            assert_eq!(buffer.bytes().as_ptr(), places[tag as usize]);
            assert_eq!(host.sector(tag as usize * 2), buffer.bytes()[..512]);
        }
        assert!(queue.complete().expect("no fault").is_none());
    }
}

#[test]
fn blocking_calls_reach_every_operation() {
    for ring in RINGS {
        let guest = Guest::new();
        let host = BlkHost::new(&guest, ring, 256);
        let (disk, queue) = open(&guest, &host);
        let info = disk.info();
        assert_eq!(info.serial.as_bytes(), b"testhost");
        let bounce = DmaSlice::alloc(&guest, 4096).expect("memory");
        let relax = guest.clone();
        let wait = move |_: &mut Queue, _: Instant| relax.relax();
        let mut io = Blocking::new(queue, guest.clone(), bounce, &info, Duration::from_secs(5), wait);
        let data: Vec<u8> = (0..10 * 512).map(|i| (i / 7) as u8).collect();
        io.write(3, &data, Durability::Cached).expect("write");
        let mut back = vec![0; data.len()];
        io.read(3, &mut back).expect("read");
        assert_eq!(back, data);
        io.write_zeroes(4, 2, Unmap::Keep).expect("zeroes");
        io.discard(8, 2).expect("discard");
        io.read(3, &mut back).expect("read");
        assert_eq!(back[512..1536], [0; 1024]);
        host.take_log();
        io.flush().expect("flush");
        assert_eq!(host.take_log(), [4]);
    }
}

#[test]
fn a_durable_write_is_a_write_and_then_a_flush() {
    for ring in RINGS {
        let guest = Guest::new();
        let host = BlkHost::new(&guest, ring, 64);
        let (_disk, mut queue) = open(&guest, &host);
        let op = Op::Write { lba: 1, from: filled(&guest, 512, 9), durability: Durability::Durable };
        queue.submit(request(5, op)).expect("room");
        queue.kick();
        host.work();
        assert!(queue.complete().expect("no fault").is_none(), "durable before it was flushed");
        host.work();
        let done = queue.complete().expect("no fault").expect("a completion");
        assert_eq!((done.tag, done.result, done.buffer.expect("the buffer").bytes()[0]), (5, Ok(()), 9));
        assert_eq!(host.take_log(), [1, 4]);
    }
}

#[test]
fn without_a_cache_a_flush_succeeds_and_nothing_is_sent() {
    let guest = Guest::new();
    let features =
        (BlkFeatures::all() - BlkFeatures::FLUSH - BlkFeatures::RO).bits() | Features::VERSION_1.bits();
    let host = BlkHost::with(&guest, Ring::Split, 64, features, &[16]);
    let (_disk, mut queue) = open(&guest, &host);
    queue.submit(request(1, Op::Flush)).expect("room");
    let op = Op::Write { lba: 0, from: filled(&guest, 512, 1), durability: Durability::Durable };
    queue.submit(request(2, op)).expect("room");
    queue.kick();
    assert_eq!(queue.complete().expect("no fault").expect("the flush").tag, 1);
    host.work();
    assert_eq!(queue.complete().expect("no fault").expect("the write").tag, 2);
    assert_eq!(host.take_log(), [1]);
}

#[test]
fn requests_beyond_the_limits_are_refused_with_their_buffers() {
    let guest = Guest::new();
    let host = BlkHost::new(&guest, Ring::Split, 64);
    let (_disk, mut queue) = open(&guest, &host);
    let mut refused = |request| {
        let refused = queue.submit(request).expect_err("refused");
        let (Op::Read { into: buffer, .. } | Op::Write { from: buffer, .. }) = refused.request.op else {
            panic!("no buffer")
        };
        assert!(!buffer.is_in_flight());
        refused.reason
    };
    assert_eq!(refused(write(1, 64, filled(&guest, 512, 0))), Rejected::Range);
    assert_eq!(refused(write(1, 63, filled(&guest, 1024, 0))), Rejected::Range);
    assert_eq!(refused(write(1, u64::MAX, filled(&guest, 512, 0))), Rejected::Range);
    assert_eq!(refused(write(1, 0, filled(&guest, 100, 0))), Rejected::Invalid);
    assert_eq!(refused(write(1, 0, filled(&guest, 65536 + 512, 0))), Rejected::Invalid);
    let reason = queue.submit(request(1, Op::Discard { lba: 0, blocks: 65 })).expect_err("refused").reason;
    assert_eq!(reason, Rejected::Invalid);
    assert!(queue.complete().expect("no fault").is_none());
}

#[test]
fn the_status_byte_is_the_result() {
    for ring in RINGS {
        let guest = Guest::new();
        let host = BlkHost::new(&guest, ring, 64);
        let (_disk, mut queue) = open(&guest, &host);
        for (status, error) in
            [(1, IoError::Device), (2, IoError::Unsupported), (0xff, IoError::Device), (77, IoError::Device)]
        {
            host.set_fault_config(BlkFaultConfig::Status(status));
            queue.submit(request(1, Op::Read { lba: 0, into: filled(&guest, 512, 0) })).expect("room");
            queue.kick();
            host.work();
            let done = queue.complete().expect("no fault").expect("a completion");
            assert_eq!(done.result, Err(error));
            assert!(done.buffer.is_some());
        }
    }
}

#[test]
fn a_missed_deadline_resets_the_device_and_returns_all_buffers() {
    for ring in RINGS {
        let guest = Guest::new();
        let host = BlkHost::new(&guest, ring, 64);
        let (mut disk, mut first) = open(&guest, &host);
        let mut second = disk.take_queue(1).expect("a second queue");
        host.set_fault_config(BlkFaultConfig::Silent);
        let deadline = guest.now().saturating_add(Duration::from_secs(1));
        for tag in 0..5 {
            let op = Op::Read { lba: tag, into: filled(&guest, 512, 0) };
            first.submit(Request::new(tag, op).with_deadline(deadline)).expect("room");
        }
        second.submit(request(9, Op::Read { lba: 0, into: filled(&guest, 512, 0) })).expect("room");
        first.kick();
        second.kick();
        host.work();
        assert_eq!(first.next_deadline(), deadline);
        first.expire(guest.now()).expect("nothing is late");
        assert!(first.complete().expect("no fault").is_none());
        guest.turn(Duration::from_secs(2));
        first.expire(guest.now()).expect("a reset");
        host.set_fault_config(BlkFaultConfig::Works);
        for tag in 0..5 {
            let done = first.complete().expect("no fault yet").expect("an aborted request");
            assert_eq!((done.tag, done.result), (tag, Err(IoError::Aborted)));
            assert!(!done.buffer.expect("its buffer").is_in_flight());
        }
        // The second queue has not been drained: the device waits for it.
        assert_eq!(first.complete().expect_err("not restarted"), Fault::Reset);
        let refused = first.submit(request(1, Op::Flush)).expect_err("not restarted");
        assert_eq!(refused.reason, Rejected::Faulted(Fault::Reset));
        assert_eq!(second.complete().expect("no fault").expect("aborted").result, Err(IoError::Aborted));
        while second.complete().is_ok_and(|done| done.is_some()) {}
        assert!(first.complete().expect("restarted").is_none());
        is_in_service(&guest, &host, [&mut first, &mut second]);
    }
}

#[test]
fn memory_is_leaked_if_the_device_does_not_confirm_the_reset() {
    let guest = Guest::new();
    let host = BlkHost::new(&guest, Ring::Split, 64);
    let (disk, mut queue) = open(&guest, &host);
    host.set_fault_config(BlkFaultConfig::Silent);
    queue.submit(request(4, Op::Read { lba: 0, into: filled(&guest, 512, 0) })).expect("room");
    queue.kick();
    host.work();
    host.device().registers().ignores_reset = true;
    let turning = guest.clone();
    guest.attach(move || turning.turn(Duration::from_secs(1)));
    assert_eq!(queue.reset(), Err(Fault::Timeout));
    let done = queue.complete().expect("the request first").expect("the request");
    assert_eq!((done.tag, done.result), (4, Err(IoError::Aborted)));
    assert!(done.buffer.is_none(), "a buffer that the device may write to was returned");
    assert_eq!(queue.complete().expect_err("then the fault"), Fault::Timeout);
    drop((disk, queue));
    assert!(guest.pages() > 0, "the memory that the device may write to was freed");
}

#[test]
fn a_removed_device_is_a_fault_and_returns_all_buffers() {
    for ring in RINGS {
        let guest = Guest::new();
        let host = BlkHost::new(&guest, ring, 64);
        let (mut disk, mut queue) = open(&guest, &host);
        hold_a_read(&guest, &host, &mut queue);
        host.device().registers().is_gone = true;
        assert_eq!(disk.poll_event(), Some(BlockEvent::Faulted(Fault::Removed)));
        let done = queue.complete().expect("the request first").expect("the request");
        assert!(done.buffer.is_some_and(|buffer| !buffer.is_in_flight()));
        assert_eq!(queue.complete().expect_err("then the fault"), Fault::Removed);
        assert_eq!(disk.poll_event(), None);
        drop((disk, queue));
        assert_eq!(guest.pages(), 0, "{ring:?}: memory leaked");
    }
}

#[test]
fn a_dropped_queue_aborts_its_requests_and_frees_all_memory() {
    for ring in RINGS {
        let guest = Guest::new();
        let host = BlkHost::new(&guest, ring, 64);
        let (disk, mut queue) = open(&guest, &host);
        hold_a_read(&guest, &host, &mut queue);
        host.work();
        drop(queue);
        drop(disk);
        assert_eq!(guest.pages(), 0, "{ring:?}: memory leaked");
    }
}

#[test]
fn capacity_changes_are_events_and_limits() {
    let guest = Guest::new();
    let host = BlkHost::new(&guest, Ring::Split, 64);
    let (mut disk, mut queue) = open(&guest, &host);
    {
        let mut registers = host.device().registers();
        registers.config[..8].copy_from_slice(&32u64.to_le_bytes());
        registers.generation += 1;
    }
    assert_eq!(disk.poll_event(), Some(BlockEvent::Capacity(32)));
    assert_eq!(disk.poll_event(), None);
    let reason = queue.submit(write(1, 40, filled(&guest, 512, 0))).expect_err("beyond the end").reason;
    assert_eq!(reason, Rejected::Range);
}

#[test]
fn features_that_do_not_stick_and_legacy_devices_are_refused() {
    let guest = Guest::new();
    let host = BlkHost::new(&guest, Ring::Split, 64);
    host.device().registers().refuses_features = true;
    let error = Disk::open(&guest, host.transport(), &OPTIONS).expect_err("refused");
    assert_eq!(error, paravirt_virtio::transport::OpenError::FeaturesRefused);
    assert!(host.device().registers().status.contains(paravirt_virtio::transport::DeviceStatus::FAILED));
    let legacy = BlkHost::with(&guest, Ring::Split, 64, BlkFeatures::FLUSH.bits(), &[16]);
    let error = Disk::open(&guest, legacy.transport(), &OPTIONS).expect_err("refused");
    assert_eq!(error, paravirt_virtio::transport::OpenError::Legacy);
    assert_eq!(guest.pages(), 0, "memory leaked");
}

#[test]
fn a_legacy_device_is_driven_without_what_it_does_not_have() {
    let guest = Guest::new();
    let offered = BlkFeatures::FLUSH.bits() | Features::INDIRECT_DESC.bits() | Features::ANY_LAYOUT.bits();
    let host = BlkHost::with(&guest, Ring::Split, 64, offered, &[16]);
    host.device().registers().is_legacy = true;
    let (_disk, mut queue) = open(&guest, &host);
    {
        let registers = host.device().registers();
        assert_eq!(registers.accepted, offered);
        // FEATURES_OK is not a bit of its status.
        let status = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER | DeviceStatus::DRIVER_OK;
        assert_eq!(registers.status, status);
        // The formula of VIRTIO 1.3 §2.7.2, for 16 entries and an alignment of 64.
        let queue = registers.queues[0].expect("a queue").addresses;
        assert_eq!(queue.desc.0 % 4096, 0);
        assert_eq!((queue.driver.0 - queue.desc.0, queue.device.0 - queue.desc.0), (256, 320));
    }
    is_in_service(&guest, &host, [&mut queue]);
}

#[test]
fn arming_sees_what_raced_in() {
    for ring in RINGS {
        let guest = Guest::with(1, true);
        let host = BlkHost::new(&guest, ring, 64);
        host.device().registers().messages = 3;
        let (_disk, mut queue) = open(&guest, &host);
        assert_eq!(queue.arm(), Arm::Armed);
        queue.submit(write(1, 0, filled(&guest, 512, 0))).expect("room");
        queue.kick();
        host.work();
        assert_eq!(queue.arm(), Arm::Pending);
        assert!(queue.complete().expect("no fault").is_some());
        assert_eq!(queue.arm(), Arm::Armed);
    }
}

#[test]
fn a_refused_request_does_not_affect_requests_in_flight() {
    for ring in RINGS {
        let guest = Guest::new();
        let host = BlkHost::new(&guest, ring, 4096);
        let (_disk, mut queue) = open(&guest, &host);
        let mut count = 0;
        let reason = loop {
            let op = Op::Write {
                lba: count,
                from: filled(&guest, 512, count as u8 + 1),
                durability: Durability::Cached,
            };
            match queue.submit(request(count, op)) {
                Ok(()) => count += 1,
                Err(refused) => break refused.reason,
            }
        };
        assert_eq!((reason, count), (Rejected::Full, 64));
        let refused = queue.submit(request(99, Op::Discard { lba: 0, blocks: 8 })).expect_err("full");
        assert_eq!(refused.reason, Rejected::Full);
        queue.kick();
        host.work();
        for tag in 0..count {
            let done = queue.complete().expect("no fault").expect("a completion");
            assert_eq!((done.tag, done.result), (tag, Ok(())), "{ring:?}");
            assert_eq!(host.sector(tag as usize), [tag as u8 + 1; 512]);
        }
    }
}

#[test]
fn a_second_reset_before_a_queue_has_noticed_the_restart_is_recovered_from() {
    let guest = Guest::new();
    let host = BlkHost::new(&guest, Ring::Split, 64);
    let (mut disk, mut first) = open(&guest, &host);
    let mut second = disk.take_queue(1).expect("a second queue");
    first.reset().expect("reset");
    // The second queue is drained first; the first one restarts the device, and resets it again.
    assert_eq!(second.complete().expect_err("not restarted"), Fault::Reset);
    assert!(first.complete().expect("restarted").is_none());
    first.reset().expect("reset again");
    assert_eq!(first.complete().expect_err("not restarted"), Fault::Reset);
    assert!(second.complete().expect("restarted").is_none());
    assert!(first.complete().expect("restarted").is_none());
    is_in_service(&guest, &host, [&mut first, &mut second]);
}

/// kvmtool counts what it has read of a write as written: the status alone says how a request went.
#[test]
fn a_write_is_not_judged_by_the_length_that_the_device_reports() {
    for ring in RINGS {
        let guest = Guest::new();
        let host = BlkHost::new(&guest, ring, 64);
        let (_disk, mut queue) = open(&guest, &host);
        host.set_fault_config(BlkFaultConfig::CountsReads);
        is_in_service(&guest, &host, [&mut queue]);
        assert_eq!(host.sector(3), [7; 512]);
    }
}

/// kvmtool ignores a queue size that is smaller than its own.
#[test]
fn a_queue_whose_size_cannot_be_set_is_used_as_it_is() {
    for ring in RINGS {
        let guest = Guest::new();
        let host = BlkHost::new(&guest, ring, 64);
        host.device().registers().ignores_sizes = true;
        let options = OpenOptions::new().with_queue_size(16);
        let mut disk = Disk::open(&guest, host.transport(), &options).expect("a disk");
        let mut queue = disk.take_queue(0).expect("a queue");
        is_in_service(&guest, &host, [&mut queue]);
    }
}

/// The request for the serial number is the driver's own: unanswered, it costs the number and nothing else.
#[test]
fn an_unanswered_request_of_the_drivers_own_never_reaches_the_caller() {
    for ring in RINGS {
        let guest = Guest::new();
        let host = BlkHost::new(&guest, ring, 64);
        host.set_fault_config(BlkFaultConfig::Silent);
        let clock = guest.downgrade();
        guest.attach(move || clock.turn(Duration::from_millis(100)));
        let mut disk = Disk::open(&guest, host.transport(), &OPTIONS.with_queues(1)).expect("a disk");
        assert_eq!(disk.info().serial.as_bytes(), b"");
        let mut queue = disk.take_queue(0).expect("a queue");
        host.set_fault_config(BlkFaultConfig::Works);
        assert!(queue.complete().expect("no fault").is_none());
        is_in_service(&guest, &host, [&mut queue]);
        queue.reset().expect("a reset");
        for _ in 0..3 {
            let done = queue.complete();
            assert!(!matches!(done, Ok(Some(_))), "nobody submitted {done:?}");
        }
        is_in_service(&guest, &host, [&mut queue]);
    }
}

/// Registers that read as all ones do not show that a device has stopped: what it may write to is leaked, unless the bus reports it
/// removed or has cut it off.
#[test]
fn a_device_that_only_stops_answering_keeps_its_memory() {
    for ring in RINGS {
        let guest = Guest::new();
        let host = BlkHost::new(&guest, ring, 64);
        let (mut disk, mut queue) = open(&guest, &host);
        hold_a_read(&guest, &host, &mut queue);
        {
            let mut registers = host.device().registers();
            (registers.is_gone, registers.is_unplugged) = (true, false);
        }
        assert_eq!(disk.poll_event(), Some(BlockEvent::Faulted(Fault::Removed)));
        let done = queue.complete().expect("the request first").expect("the request");
        assert_eq!((done.tag, done.buffer.is_none()), (4, true), "its buffer may still be written");
        drop((disk, queue));
        assert!(guest.pages() > 0, "{ring:?}: memory that the device may write to was freed");
    }
}

/// QEMU's MMIO devices offer VIRTIO_F_RING_RESET without its register: closing each device took five seconds.
#[test]
fn a_queue_reset_is_agreed_on_only_where_the_transport_has_its_registers() {
    let guest = Guest::new();
    let host = BlkHost::new(&guest, Ring::Split, 64);
    host.device().registers().lacks_queue_reset = true;
    let (_disk, queue) = open(&guest, &host);
    assert_eq!(host.device().registers().accepted & Features::RING_RESET.bits(), 0);
    let (resets, before) = (host.device().registers().resets, guest.now());
    drop(queue);
    let after = host.device().registers().resets;
    assert_eq!(after, resets, "its memory is kept instead");
    assert!(guest.now().since(before) < Duration::from_secs(4));
}

/// Opens a disk with two queues whose device cannot reset one of them alone, as on crosvm and Cloud Hypervisor.
fn open_without_queue_reset(guest: &Guest, ring: Ring) -> (BlkHost, Disk) {
    let features = (BlkFeatures::all() - BlkFeatures::RO).bits() | Features::all().bits();
    let features = features & !(Features::IN_ORDER | Features::RING_RESET).bits();
    let host = BlkHost::with(guest, ring, 64, features, &[64, 64]);
    let disk = Disk::open(guest, host.transport(), &OPTIONS).expect("a disk");
    (host, disk)
}

#[test]
fn dropping_an_idle_queue_does_not_disturb_the_others() {
    for ring in RINGS {
        let guest = Guest::new();
        let (host, mut disk) = open_without_queue_reset(&guest, ring);
        let mut first = disk.take_queue(0).expect("a queue");
        let mut second = disk.take_queue(1).expect("a queue");
        is_in_service(&guest, &host, [&mut first, &mut second]);
        hold_a_read(&guest, &host, &mut first);
        let resets = host.device().registers().resets;
        // Its last request is completed, but was not collected.
        second.submit(write(9, 5, filled(&guest, 512, 9))).expect("room");
        second.kick();
        host.set_fault_config(BlkFaultConfig::Works);
        host.work();
        drop(second);
        let after = host.device().registers().resets;
        assert_eq!(after, resets, "{ring:?}: the device was reset");
        let done = first.complete().expect("no fault").expect("the read");
        assert_eq!((done.tag, done.result), (4, Ok(())));
        is_in_service(&guest, &host, [&mut first]);
        // The device still has the memory of the second queue until it is reset; afterwards it is not given that queue again.
        first.reset().expect("a reset");
        while !matches!(first.complete(), Ok(None)) {}
        is_in_service(&guest, &host, [&mut first]);
        assert!(host.device().queue(1).is_none());
        drop((done, first, disk));
        assert_eq!(guest.pages(), 0, "{ring:?}: pages are leaked");
    }
}

#[test]
fn a_restart_does_not_wait_for_a_queue_that_nobody_has_taken() {
    for ring in RINGS {
        let guest = Guest::new();
        let (host, mut disk) = open_without_queue_reset(&guest, ring);
        let mut first = disk.take_queue(0).expect("a queue");
        first.reset().expect("a reset");
        while !matches!(first.complete(), Ok(None)) {}
        is_in_service(&guest, &host, [&mut first]);
        let mut second = disk.take_queue(1).expect("a queue");
        is_in_service(&guest, &host, [&mut second, &mut first]);
        drop((first, second, disk));
        assert_eq!(guest.pages(), 0, "{ring:?}: pages are leaked");
    }
}

#[test]
fn a_blocking_call_outlasts_a_reset_by_another_queue() {
    for ring in RINGS {
        let guest = Guest::new();
        let (host, mut disk) = open_without_queue_reset(&guest, ring);
        let (queue, mut other) = (disk.take_queue(0).expect("a queue"), disk.take_queue(1));
        host.set_fault_config(BlkFaultConfig::Silent);
        let (bounce, relax) = (filled(&guest, 4096, 0), guest.clone());
        let (mut waits, host) = (0, &host);
        let wait = |_: &mut Queue, _: Instant| {
            relax.relax();
            waits += 1;
            match (waits, &mut other) {
                // The call's request is in flight: it is aborted.
                (2, Some(other)) => {
                    other.reset().expect("a reset");
                }
                (4, Some(_)) => {
                    host.set_fault_config(BlkFaultConfig::Works);
                    other = None;
                }
                _ => {}
            }
        };
        let info = disk.info();
        let mut io = Blocking::new(queue, guest.clone(), bounce, &info, Duration::from_secs(60), wait);
        io.write(3, &[5; 1024], Durability::Cached).expect("written after the restart");
        assert_eq!(host.sector(4), [5; 512]);
        // A call that begins during a reset waits for its end.
        let mut back = [0; 1024];
        io.read(3, &mut back).expect("read");
        assert_eq!(back, [5; 1024]);
    }
}

#[test]
fn a_future_waits_for_the_restart() {
    let guest = Guest::new();
    let (host, mut disk) = open_without_queue_reset(&guest, Ring::Split);
    let (mut queue, other) = (disk.take_queue(0).expect("a queue"), disk.take_queue(1));
    queue.reset().expect("a reset");
    let mut context = Context::from_waker(Waker::noop());
    let mut restart = Box::pin(restarted(&mut queue));
    for _ in 0..3 {
        assert!(restart.as_mut().poll(&mut context).is_pending());
    }
    drop(other);
    assert!(matches!(restart.as_mut().poll(&mut context), Poll::Ready(Ok(None))));
    drop(restart);
    is_in_service(&guest, &host, [&mut queue]);
}

#[test]
fn blocking_calls_stay_within_the_limits_of_the_device() {
    let guest = Guest::new();
    let host = BlkHost::new(&guest, Ring::Split, 1024);
    // One segment of 4096 bytes a request.
    for (at, value) in [(8, 4096u32), (12, 1)] {
        host.device().registers().config[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    let (disk, queue) = open(&guest, &host);
    let (bounce, relax) = (filled(&guest, 65536, 0), guest.clone());
    let wait = |_: &mut Queue, _: Instant| relax.relax();
    let info = disk.info();
    assert_eq!((info.max_bytes, info.discard.map(|limits| limits.max_blocks)), (4096, Some(64)));
    let mut io = Blocking::new(queue, guest.clone(), bounce, &info, Duration::from_secs(5), wait);
    host.take_log();
    io.write(0, &[3; 65536], Durability::Cached).expect("in pieces");
    assert_eq!(host.take_log(), [1; 16]);
    io.discard(0, 200).expect("in pieces");
    io.write_zeroes(0, 128, Unmap::Keep).expect("in pieces");
    assert_eq!(host.take_log(), [11, 11, 11, 11, 13, 13]);
    assert_eq!(io.write(0, &[0; 100], Durability::Cached), Err(BlockingError::Rejected(Rejected::Invalid)));
}

/// A host that changes its mind at each look costs one event a drain.
#[test]
fn a_capacity_that_changes_at_each_read_does_not_keep_the_caller_busy() {
    let guest = Guest::new();
    let host = BlkHost::new(&guest, Ring::Split, 64);
    let (mut disk, _queue) = open(&guest, &host);
    host.device().registers().flickers = Some(0);
    for _ in 0..3 {
        let events = core::iter::from_fn(|| disk.poll_event()).take(100).count();
        assert_eq!(events, 1);
    }
}

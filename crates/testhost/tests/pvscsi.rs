//! The driver of VMware's SCSI adapter against the model.

use paravirt_device::{
    Arm, BlockDevice, BlockQueue, Durability, Fault, IoError, Notify, Op, Request, Signalling,
};
use paravirt_platform::{DmaSlice, InterruptLine, Polarity, Trigger};
use paravirt_pvscsi::{PvscsiAdapter, PvscsiController, PvscsiDisk, PvscsiOptions, PvscsiQueue};
use paravirt_scsi::{ControllerEvent, Options, ScsiTransport};
use paravirt_testhost::count::{Counting, allocations, counted};
use paravirt_testhost::{Guest, PvscsiFaults, PvscsiHost, StorDrive};
use std::time::Duration;

#[global_allocator]
static COUNTING: Counting = Counting;

type Buffer = DmaSlice<Guest>;
type Controller = PvscsiController<Guest, Buffer>;
type Disk = PvscsiDisk<Guest, Buffer>;
type Queue = PvscsiQueue<Guest, Buffer>;

const BLOCKS: usize = 2048;

fn drive() -> StorDrive {
    StorDrive::memory(512, (0..BLOCKS * 512).map(|at| (at / 512) as u8).collect())
}

fn open(guest: &Guest, host: &PvscsiHost) -> (Controller, Vec<Disk>) {
    let adapter = PvscsiAdapter::new(guest, host.device(), 0, &PvscsiOptions::default()).unwrap();
    let mut controller = Controller::open(guest, adapter, &Options::default()).unwrap();
    let disks = added(&mut controller);
    (controller, disks)
}

fn added(controller: &mut Controller) -> Vec<Disk> {
    let events = std::iter::from_fn(|| controller.poll());
    events
        .filter_map(|event| if let ControllerEvent::Added(disk) = event { Some(disk) } else { None })
        .collect()
}

/// A guest with a disk at target 0.
fn one_disk() -> (Guest, PvscsiHost, Controller, Disk, Queue) {
    let guest = Guest::new();
    let host = PvscsiHost::new(&guest);
    host.insert(0, drive());
    let (controller, mut disks) = open(&guest, &host);
    let mut disk = disks.remove(0);
    let queue = disk.take_queue(0).unwrap();
    (guest, host, controller, disk, queue)
}

fn read(guest: &Guest, queue: &mut Queue, lba: u64, len: usize) -> Result<Vec<u8>, IoError> {
    let into = DmaSlice::alloc(guest, len).unwrap();
    queue.submit(Request::new(lba, Op::Read { lba, into })).unwrap();
    queue.kick();
    let done = complete(queue);
    done.1.map(|()| done.0.bytes().to_vec())
}

fn complete(queue: &mut Queue) -> (Buffer, Result<(), IoError>) {
    for _ in 0..1000 {
        if let Some(done) = queue.complete().unwrap() {
            return (done.buffer.unwrap(), done.result);
        }
    }
    panic!("nothing completes");
}

#[test]
fn blocks_are_read_written_and_flushed() {
    let (guest, host, _controller, disk, mut queue) = one_disk();
    assert_eq!((disk.info().blocks, disk.info().block_size), (BLOCKS as u64, 512));
    assert_eq!(read(&guest, &mut queue, 7, 1024).unwrap(), [[7; 512], [8; 512]].concat());
    let mut from = DmaSlice::alloc(&guest, 512).unwrap();
    from.bytes_mut().fill(0xa5);
    queue.submit(Request::new(1, Op::Write { lba: 9, from, durability: Durability::Cached })).unwrap();
    queue.kick();
    complete(&mut queue).1.unwrap();
    assert_eq!(host.drive(0, |drive| drive.read(9 * 512, 512)).unwrap().unwrap(), [0xa5; 512]);
    host.take_commands();
    queue.submit(Request::new(2, Op::Flush)).unwrap();
    queue.kick();
    assert!(queue.complete().unwrap().unwrap().result.is_ok());
    // SYNCHRONIZE CACHE was sent.
    assert_eq!(host.take_commands(), [0x35]);
}

/// What QEMU leaves out and ESXi tells; a device of 65 targets has a disk at the last one.
#[test]
fn adapters_that_tell_lengths_and_targets_are_driven_too() {
    let guest = Guest::new();
    let host = PvscsiHost::new(&guest);
    host.faults(|faults| {
        (faults.tells_lengths, faults.targets, faults.threshold) = (true, Some(65), Some(1));
    });
    host.insert(0, drive());
    host.insert(64, drive());
    let (_controller, mut disks) = open(&guest, &host);
    assert_eq!(disks.len(), 2);
    let mut queue = disks[1].take_queue(0).unwrap();
    assert_eq!(read(&guest, &mut queue, 3, 512).unwrap(), [3; 512]);
}

#[test]
fn a_batch_is_announced_once_and_nothing_is_allocated_or_copied() {
    let (guest, host, _controller, _disk, mut queue) = one_disk();
    let mut buffers: Vec<_> = (0..32).map(|_| DmaSlice::alloc(&guest, 4096).unwrap()).collect();
    let [before, others] = host.kicks();
    counted(|| {
        for tag in 0..32 {
            let into = buffers.pop().unwrap();
            queue.submit(Request::new(tag, Op::Read { lba: 8 * tag, into })).unwrap();
        }
        queue.kick();
        while let Some(done) = queue.complete().unwrap() {
            buffers.push(done.buffer.unwrap());
        }
    });
    assert_eq!((buffers.len(), allocations(), host.kicks()), (32, 0, [before + 1, others]));
    assert_eq!(buffers[31].bytes()[4095], 255);
}

/// An adapter that waits for several requests is told of them when it has as many.
#[test]
fn kicks_are_coalesced_where_the_adapter_asks_for_it() {
    let guest = Guest::new();
    let host = PvscsiHost::new(&guest);
    host.insert(0, drive());
    host.faults(|faults| faults.threshold = Some(0));
    let (_controller, mut disks) = open(&guest, &host);
    let mut queue = disks[0].take_queue(0).unwrap();
    host.write_state(6, 2);
    let submit = |queue: &mut Queue, lba| {
        let into = DmaSlice::alloc(&guest, 512).unwrap();
        queue.submit(Request::new(lba, Op::Read { lba, into })).unwrap();
        queue.kick();
    };
    let [before, _] = host.kicks();
    submit(&mut queue, 1);
    assert_eq!(host.kicks()[0], before);
    submit(&mut queue, 2);
    assert_eq!(host.kicks()[0], before + 1);
    complete(&mut queue).1.unwrap();
    complete(&mut queue).1.unwrap();
}

#[test]
fn segments_are_sent_as_a_list() {
    use paravirt_platform::{Direction, DmaBuffer, DmaSegments, Segment, SubmitError};
    /// Two pieces that are not adjacent.
    #[derive(Debug)]
    struct Pieces(Vec<DmaSlice<Guest>>, Vec<Segment>);
    // SAFETY: forwards to buffers with the same contract.
    unsafe impl DmaBuffer for Pieces {
        fn submit(&mut self, direction: Direction) -> Result<DmaSegments<'_>, SubmitError> {
            self.1.clear();
            for piece in &mut self.0 {
                self.1.extend(piece.submit(direction)?.as_slice());
            }
            // SAFETY: the segments are those of the pieces, which are in flight.
            Ok(unsafe { DmaSegments::new(&self.1, direction) })
        }
        unsafe fn reclaim(&mut self) {
            // SAFETY: by the contract of this function, for each piece.
            self.0.iter_mut().for_each(|piece| unsafe { piece.reclaim() });
        }
    }
    let guest = Guest::new();
    let host = PvscsiHost::new(&guest);
    host.insert(0, drive());
    let adapter = PvscsiAdapter::new(&guest, host.device(), 0, &PvscsiOptions::default()).unwrap();
    let mut controller = PvscsiController::<_, Pieces>::open(&guest, adapter, &Options::default()).unwrap();
    let Some(ControllerEvent::Added(mut disk)) = controller.poll() else { panic!("no disk") };
    let mut queue = disk.take_queue(0).unwrap();
    let pieces = (0..16).map(|_| DmaSlice::alloc(&guest, 512).unwrap()).collect();
    queue.submit(Request::new(0, Op::Read { lba: 4, into: Pieces(pieces, vec![]) })).unwrap();
    queue.kick();
    let done = queue.complete().unwrap().unwrap();
    done.result.unwrap();
    let firsts: Vec<u8> = done.buffer.unwrap().0.iter().map(|piece| piece.bytes()[0]).collect();
    assert_eq!(firsts, (4..20).collect::<Vec<u8>>());
}

#[test]
fn units_come_and_go_by_messages() {
    let (_guest, host, mut controller, mut disk, mut queue) = one_disk();
    host.insert(3, drive());
    host.announce(3, true);
    assert_eq!(added(&mut controller).len(), 1);
    host.remove(0);
    host.announce(0, false);
    let mut events = std::iter::from_fn(|| controller.poll());
    assert!(events.any(|event| matches!(event, ControllerEvent::Removed(address) if address.target == 0)));
    assert!(disk.poll_event().is_some());
    assert!(queue.submit(Request::new(0, Op::Flush)).is_err());
}

#[test]
fn a_silent_command_is_aborted_alone_then_with_the_bus_then_with_the_adapter() {
    // (stuck, aborts, resets of the bus, adapter resets more than at the start)
    for (is_stuck, refuses) in [(false, false), (true, false), (true, true)] {
        let (guest, host, controller, _disk, mut queue) = one_disk();
        host.faults(|faults| {
            (faults.holds, faults.is_stuck, faults.refuses_reset) = (true, is_stuck, refuses)
        });
        let [adapter_resets, _] = host.resets();
        let into = DmaSlice::alloc(&guest, 512).unwrap();
        let deadline = guest_now(&guest) + Duration::from_secs(1);
        let request = Request::new(5, Op::Read { lba: 0, into }).with_deadline(at(deadline));
        queue.submit(request).unwrap();
        queue.kick();
        let mut done = None;
        for _ in 0..128 {
            guest.turn(Duration::from_secs(2));
            let _ = queue.expire(at(guest_now(&guest)));
            match queue.complete() {
                Ok(None) => {}
                other => {
                    done = Some(other);
                    break;
                }
            }
        }
        let done = done.expect("the command ends").unwrap().unwrap();
        assert_eq!((done.tag, done.result), (5, Err(IoError::Aborted)));
        assert_eq!(host.aborts().len(), 1);
        let [after, bus] = host.resets();
        assert_eq!((bus > 0, after > adapter_resets), (is_stuck, is_stuck), "{is_stuck} {refuses}");
        // A buffer is leaked only where the adapter did not confirm that it has stopped.
        assert_eq!(done.buffer.is_some(), !refuses);
        host.faults(|faults| *faults = PvscsiFaults::default());
        if refuses {
            assert_eq!(queue.submit(Request::new(0, Op::Flush)).unwrap_err().reason, Fault::Timeout.into());
        } else {
            assert_eq!(read(&guest, &mut queue, 2, 512).unwrap(), [2; 512]);
        }
        drop(controller);
    }
}

fn guest_now(guest: &Guest) -> Duration {
    use paravirt_platform::Platform;
    Duration::from_nanos(guest.now().as_nanos())
}

fn at(time: Duration) -> paravirt_platform::Instant {
    paravirt_platform::Instant::from_nanos(time.as_nanos() as u64)
}

#[test]
fn a_removed_adapter_ends_everything_and_nothing_leaks() {
    let guest = Guest::new();
    let pages = guest.pages();
    let host = PvscsiHost::new(&guest);
    host.insert(0, drive());
    let (controller, mut disks) = open(&guest, &host);
    let mut queue = disks[0].take_queue(0).unwrap();
    host.faults(|faults| faults.holds = true);
    let into = DmaSlice::alloc(&guest, 512).unwrap();
    queue.submit(Request::new(5, Op::Read { lba: 0, into })).unwrap();
    queue.kick();
    host.pci(|pci| pci.is_gone = true);
    let done = queue.complete().unwrap().unwrap();
    assert_eq!((done.result, done.buffer.is_some()), (Err(IoError::Aborted), true));
    assert_eq!(queue.complete().unwrap_err(), Fault::Removed);
    drop((done, queue, disks, controller, host));
    assert_eq!(guest.pages(), pages);
}

#[test]
fn memory_of_an_adapter_that_does_not_stop_is_leaked() {
    for change in [
        |host: &PvscsiHost| host.pci(|pci| pci.keeps_bus_master = true),
        |host: &PvscsiHost| host.faults(|faults| faults.refuses_reset = true),
    ] {
        let guest = Guest::new();
        let pages = guest.pages();
        let host = PvscsiHost::new(&guest);
        // Its last command succeeds: a failure after that is one of the reset.
        host.faults(|faults| faults.targets = Some(16));
        host.insert(0, drive());
        let (controller, disks) = open(&guest, &host);
        change(&host);
        drop((disks, controller));
        assert!(guest.pages() > pages);
    }
}

#[test]
fn completions_that_are_odd_are_passed_over() {
    let (guest, host, _controller, _disk, mut queue) = one_disk();
    host.faults(|faults| faults.twice = true);
    for lba in 0..4 {
        assert_eq!(read(&guest, &mut queue, lba, 512).unwrap(), [lba as u8; 512]);
    }
    // A context that is not in flight, and then the right one.
    let mut is_first = true;
    host.faults(|faults| {
        faults.mutate = Some(Box::new(move |bytes| {
            if std::mem::take(&mut is_first) {
                bytes[..8].fill(0x5a);
            }
        }));
    });
    assert_eq!(read(&guest, &mut queue, 9, 512).unwrap(), [9; 512]);
}

/// A producer index that is further than the ring is long ends the adapter: what would be read is not what was written.
#[test]
fn an_index_beyond_the_ring_takes_the_adapter_out_of_service() {
    let (guest, host, _controller, _disk, mut queue) = one_disk();
    let into = DmaSlice::alloc(&guest, 512).unwrap();
    host.faults(|faults| faults.holds = true);
    queue.submit(Request::new(0, Op::Read { lba: 0, into })).unwrap();
    queue.kick();
    host.write_state(3, 0x8000_0000);
    let done = queue.complete().unwrap().unwrap();
    assert_eq!((done.result, done.buffer.is_some()), (Err(IoError::Aborted), true));
    assert_eq!(queue.complete().unwrap_err(), Fault::Protocol);
}

#[test]
fn errors_of_target_and_host_are_told_apart() {
    let (guest, host, _controller, _disk, mut queue) = one_disk();
    // Busy, and a reset by another initiator: sent again after a pause.
    for statuses in [(0, 8), (0x25, 0)] {
        host.faults(|faults| faults.fail.push_back(statuses));
        let into = DmaSlice::alloc(&guest, 512).unwrap();
        queue.submit(Request::new(0, Op::Read { lba: 1, into })).unwrap();
        queue.kick();
        assert!(queue.complete().unwrap().is_none());
        guest.turn(Duration::from_secs(2));
        assert_eq!(complete(&mut queue).1, Ok(()));
    }
    host.faults(|faults| faults.fail.push_back((0, 0x18)));
    assert_eq!(read(&guest, &mut queue, 1, 512), Err(IoError::Device));
    host.faults(|faults| faults.fail.push_back((0x12, 0)));
    assert_eq!(read(&guest, &mut queue, 1, 512), Err(IoError::Device));
}

#[test]
fn interrupts_come_by_message_or_line_or_not_at_all() {
    let line = InterruptLine { number: 11, trigger: Trigger::Level, polarity: Polarity::Low };
    let cases = [
        (1, false, None, Signalling::Messages),
        (24, false, None, Signalling::Messages),
        (1, true, Some(line), Signalling::Line),
        (0, false, Some(line), Signalling::Line),
        (0, false, None, Signalling::Polled),
    ];
    for (messages, ignores, line, signalling) in cases {
        let guest = Guest::with(1, true);
        let host = PvscsiHost::new(&guest);
        host.insert(0, drive());
        host.pci(|pci| (pci.messages, pci.ignores_messages, pci.line) = (messages, ignores, line));
        let (controller, mut disks) = open(&guest, &host);
        assert_eq!(disks[0].info().connection.signalling, signalling);
        let mut queue = disks[0].take_queue(0).unwrap();
        host.faults(|faults| faults.holds = true);
        let into = DmaSlice::alloc(&guest, 512).unwrap();
        queue.submit(Request::new(0, Op::Read { lba: 1, into })).unwrap();
        queue.kick();
        let is_signalled = signalling != Signalling::Polled;
        assert_eq!(queue.arm(), if is_signalled { Arm::Armed } else { Arm::Unsignalled });
        let before = guest.interrupts();
        host.release();
        assert_eq!(guest.interrupts() > before, is_signalled);
        assert_eq!(queue.arm(), Arm::Pending);
        assert_eq!(complete(&mut queue).1, Ok(()));
        drop((queue, disks, controller));
        assert_eq!(guest.bound_handlers(), 0);
    }
}

/// Whoever drops a port: its memory is not freed while the adapter can write to it.
#[test]
fn a_dropped_port_stops_its_adapter() {
    for is_stopping in [true, false] {
        let guest = Guest::new();
        let pages = guest.pages();
        let host = PvscsiHost::new(&guest);
        let new = |host: &PvscsiHost| {
            PvscsiAdapter::new(&guest, host.device(), 0, &PvscsiOptions::default()).unwrap()
        };
        let (mut adapter, mut place) = (new(&host), None);
        adapter.open(0, 1, &mut place).unwrap();
        host.pci(|pci| pci.keeps_bus_master = !is_stopping);
        drop(place.take());
        drop(adapter);
        assert_eq!(guest.pages() == pages, is_stopping);
        host.announce(3, true);
    }
    // A port that another adapter closes.
    let guest = Guest::new();
    let hosts = [PvscsiHost::new(&guest), PvscsiHost::new(&guest)];
    let pages = guest.pages();
    let mut adapters = hosts
        .each_ref()
        .map(|host| PvscsiAdapter::new(&guest, host.device(), 0, &PvscsiOptions::default()).unwrap());
    let (mut first, mut second) = (None, None);
    adapters[0].open(0, 1, &mut first).unwrap();
    adapters[1].open(0, 1, &mut second).unwrap();
    adapters[0].close(second.take().unwrap()).unwrap();
    hosts[1].announce(3, true);
    assert_eq!(adapters[0].open(0, 1, &mut second), Err(Fault::Timeout));
    drop((first, adapters));
    assert_eq!(guest.pages(), pages);
}

/// One that has no interrupt at first has none after a recovery either: it is in service all the same.
#[test]
fn an_adapter_that_is_polled_stays_polled() {
    let guest = Guest::with(1, true);
    guest.limit_vectors(0);
    let host = PvscsiHost::new(&guest);
    host.pci(|pci| pci.messages = 1);
    host.insert(0, drive());
    let (_controller, mut disks) = open(&guest, &host);
    assert_eq!(disks[0].info().connection.signalling, Signalling::Polled);
    let mut queue = disks[0].take_queue(0).unwrap();
    guest.limit_vectors(8);
    assert_eq!(queue.reset(), Ok(()));
    assert_eq!(read(&guest, &mut queue, 2, 512).unwrap(), [2; 512]);
}

/// A request whose deadline passes completes: before it was announced, and while the adapter lets it wait.
#[test]
fn late_requests_that_the_adapter_has_not_seen_end_without_a_reset() {
    for (is_announced, threshold) in [(false, None), (true, Some(8))] {
        let guest = Guest::new();
        let host = PvscsiHost::new(&guest);
        host.insert(0, drive());
        host.faults(|faults| faults.threshold = threshold);
        let (_controller, mut disks) = open(&guest, &host);
        let mut queue = disks[0].take_queue(0).unwrap();
        let resets = host.resets();
        let into = DmaSlice::alloc(&guest, 512).unwrap();
        let deadline = at(guest_now(&guest) + Duration::from_secs(1));
        queue.submit(Request::new(5, Op::Read { lba: 0, into }).with_deadline(deadline)).unwrap();
        if is_announced {
            queue.kick();
        }
        guest.turn(Duration::from_secs(2));
        queue.expire(at(guest_now(&guest))).unwrap();
        let done = queue.complete().unwrap().unwrap();
        assert_eq!((done.buffer.is_some(), host.resets()), (true, resets));
        assert!(matches!(done.result, Ok(()) | Err(IoError::Aborted)));
        assert!(queue.complete().unwrap().is_none());
    }
}

/// A scan that meets a silent target aborts its own command, and does not reset the bus of the others.
#[test]
fn a_silent_scan_aborts_its_own_command() {
    let (guest, host, mut controller, _disk, mut queue) = one_disk();
    let clock = guest.downgrade();
    guest.attach(move || clock.turn(Duration::from_secs(20)));
    let [_, resets] = host.resets();
    host.insert(4, drive());
    host.faults(|faults| faults.holds = true);
    host.announce(4, true);
    let _ = added(&mut controller);
    assert!(!host.aborts().is_empty());
    assert_eq!(host.resets()[1], resets);
    host.faults(|faults| faults.holds = false);
    assert_eq!(read(&guest, &mut queue, 3, 512).unwrap(), [3; 512]);
}

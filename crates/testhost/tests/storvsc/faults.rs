//! Deadlines, hosts that do not release memory, and malformed replies.

use super::*;

#[test]
fn a_deadline_resets_the_bus_first() {
    let bench = Bench::new();
    let (_controller, _disk, mut queue) = bench.first();
    bench.storage.fault_config(|fault_config| (fault_config.holds, fault_config.reset_aborts) = (true, true));
    let deadline = bench.guest.now().saturating_add(Duration::from_secs(1));
    let op = Op::Read { lba: 0, into: bench.filled(512, 0) };
    queue.submit(Request::new(1, op).with_deadline(deadline)).expect("accepted");
    queue.kick();
    assert_eq!(queue.next_deadline(), deadline);
    queue.expire(bench.guest.now()).expect("not yet");
    assert_eq!(bench.storage.resets(), 0);
    bench.guest.turn(Duration::from_secs(2));
    queue.expire(bench.guest.now()).expect("it is reset");
    assert_eq!(bench.storage.resets(), 1);
    let refused = queue.submit(read(2, 0, bench.filled(512, 0))).unwrap_err();
    assert_eq!(refused.reason, Rejected::Faulted(Fault::Reset));
    bench.storage.fault_config(|fault_config| fault_config.holds = false);
    bench.work();
    let done = queue.complete().expect("no fault").expect("aborted");
    assert_eq!((done.tag, done.result), (1, Err(IoError::Aborted)));
    queue.complete().expect("no fault");
    assert_eq!(run(&mut queue, refused.request).result, Ok(()));
    bench.is_clean();
}

#[test]
fn a_host_that_ignores_the_reset_is_closed_and_opened_again() {
    let bench = Bench::new();
    let (mut controller, _disk, mut queue) = bench.first();
    assert!(controller.poll().is_none());
    bench.storage.fault_config(|fault_config| fault_config.holds = true);
    let op = Op::Read { lba: 0, into: bench.filled(512, 0) };
    queue.submit(Request::new(1, op).with_deadline(Instant::ZERO)).expect("accepted");
    queue.kick();
    queue.expire(bench.guest.now()).expect("the grace begins");
    assert!(queue.complete().expect("no fault").is_none(), "the host still has the request");
    bench.storage.fault_config(|fault_config| fault_config.holds = false);
    bench.guest.turn(Duration::from_secs(40));
    queue.expire(bench.guest.now()).expect("a busy host has a minute");
    assert!(queue.complete().expect("no fault").is_none(), "the grace has not ended");
    bench.guest.turn(Duration::from_secs(21));
    queue.expire(bench.guest.now()).expect("it expires");
    let done = queue.complete().expect("no fault").expect("aborted");
    assert_eq!((done.tag, done.result, done.buffer.is_some()), (1, Err(IoError::Aborted), true));
    assert_eq!(run(&mut queue, read(2, 3, bench.filled(512, 0))).result, Ok(()));
    assert!(controller.poll().is_none(), "the same disks as before");
    bench.is_clean();
}

#[test]
fn memory_that_the_host_does_not_release_is_leaked() {
    use hyperv_bindings::vmbus::VmbusMessageType;
    let bench = Bench::new();
    let (_controller, mut disk, mut queue) = bench.first();
    bench.storage.fault_config(|fault_config| fault_config.holds = true);
    let op = Op::Read { lba: 0, into: bench.filled(512, 0) };
    queue.submit(Request::new(1, op).with_deadline(Instant::ZERO)).expect("accepted");
    queue.kick();
    bench.host.faults(&bench.guest, |faults| faults.drop = vec![VmbusMessageType::GPADL_TORNDOWN]);
    bench.guest.attach({
        let guest = bench.guest.downgrade();
        move || guest.with(|guest| guest.turn(Duration::from_millis(100)))
    });
    assert_eq!(queue.reset(), Err(Fault::Timeout));
    // The completion comes, without the buffer.
    let done = queue.complete().expect("no fault yet").expect("the read");
    assert_eq!((done.tag, done.result, done.buffer.is_none()), (1, Err(IoError::Aborted), true));
    assert_eq!(queue.complete().unwrap_err(), Fault::Timeout);
    assert_eq!(disk.poll_event(), Some(BlockEvent::Faulted(Fault::Timeout)));
}

#[test]
fn a_reset_aborts_what_was_submitted_before_it_and_nothing_after() {
    let bench = Bench::new();
    let (_controller, _disk, mut queue) = bench.first();
    queue.submit(read(1, 0, bench.filled(512, 0))).expect("accepted");
    // Not kicked: the host has not received it.
    queue.reset().expect("it resets");
    bench.storage.take_commands();
    queue.submit(read(2, 7, bench.filled(512, 0))).expect("accepted");
    queue.kick();
    let done = queue.complete().expect("no fault").expect("aborted");
    assert_eq!((done.tag, done.result, done.buffer.is_some()), (1, Err(IoError::Aborted), true));
    let done = queue.complete().expect("no fault").expect("done");
    assert_eq!((done.tag, done.result), (2, Ok(())));
    assert_eq!(bench.storage.take_commands(), [(0, 0x88)]);
    bench.is_clean();
}

#[test]
fn a_rescind_aborts_everything_in_flight() {
    let bench = Bench::new();
    let (mut controller, mut disk, mut queue) = bench.first();
    assert!(controller.poll().is_none());
    bench.storage.fault_config(|fault_config| fault_config.holds = true);
    for tag in 0..3 {
        queue.submit(read(tag, 0, bench.filled(512, 0))).expect("accepted");
    }
    queue.kick();
    bench.host.rescind(&bench.guest, bench.channel);
    // The driver polls the bus when the ring is drained.
    assert!(queue.complete().expect("no fault").is_none());
    for tag in 0..3 {
        let done = queue.complete().expect("no fault").expect("aborted");
        assert_eq!((done.tag, done.result, done.buffer.is_some()), (tag, Err(IoError::Aborted), true));
    }
    assert_eq!(queue.complete().unwrap_err(), Fault::Removed);
    assert_eq!(disk.poll_event(), Some(BlockEvent::Faulted(Fault::Removed)));
    assert!(matches!(controller.poll(), Some(ControllerEvent::Faulted(Fault::Removed))));
    while bench.vmbus.poll().is_some() {}
    assert!(!bench.host.has(bench.channel), "it was released");
    assert_eq!(bench.host.gpadls(), (0, 0));
    bench.is_clean();
}

#[test]
fn a_malformed_completion_is_passed_over_and_its_request_ends_by_a_reset() {
    let bench = Bench::new();
    let (_controller, _disk, mut queue) = bench.first();
    bench.storage.fault_config(|fault_config| {
        fault_config.mutate = Some(Box::new(|bytes| bytes[0] = 9));
    });
    queue.submit(read(1, 0, bench.filled(512, 0))).expect("accepted");
    queue.kick();
    assert!(queue.complete().expect("no fault").is_none(), "the host still has the buffer");
    bench.storage.fault_config(|fault_config| fault_config.mutate = None);
    queue.reset().expect("the controller is opened again");
    let done = queue.complete().expect("no fault").expect("a completion");
    assert_eq!((done.result, done.buffer.is_some()), (Err(IoError::Aborted), true));
    assert!(queue.complete().expect("no fault").is_none(), "once");
    assert_eq!(run(&mut queue, read(2, 0, bench.filled(512, 0))).result, Ok(()));
}

#[test]
fn the_instance_guid_of_an_ide_disk_is_its_address() {
    let mut instance = [0; 16];
    (instance[0], instance[6], instance[7]) = (0, 0x99, 0x88);
    let bench = Bench::with(IDE_INTERFACE, Guid(instance), |storage| storage.insert(0, disk(512, 1 << 20)));
    let (mut controller, disk, mut queue) = bench.first();
    assert_eq!(disk.address(), Address::default());
    assert_eq!(run(&mut queue, read(1, 1, bench.filled(512, 0))).result, Ok(()));
    assert!(controller.poll().is_none());
    bench.is_clean();
}

#[test]
fn buffers_of_a_dropped_queue_are_freed_when_they_complete() {
    let bench = Bench::new();
    let (mut controller, disk, mut queue) = bench.first();
    bench.storage.fault_config(|fault_config| fault_config.holds = true);
    queue.submit(read(1, 0, bench.filled(512, 0))).expect("accepted");
    queue.kick();
    let pages = bench.guest.pages();
    drop(queue);
    assert_eq!(bench.guest.pages(), pages, "the host has the buffer still");
    bench.storage.fault_config(|fault_config| fault_config.holds = false);
    bench.storage.release();
    bench.work();
    assert!(controller.poll().is_none());
    assert!(bench.guest.pages() < pages, "it was dropped when the host was done");
    drop((controller, disk));
    assert_eq!(bench.host.gpadls(), (0, 0));
    bench.is_clean();
}

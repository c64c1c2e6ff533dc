//! Several disks and channels, and disks that come and go.

use super::*;

struct Count(AtomicUsize);
impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn disks_of_one_controller_wake_each_their_own() {
    let bench = Bench::with(INTERFACE, NOWHERE, |storage| {
        storage.insert(0, disk(512, 1 << 20));
        storage.insert(1, tuned(disk(512, 1 << 20), |drive| drive.name = [3; 16]));
    });
    let mut controller = bench.open(&ONE);
    let (mut one, mut two) = (added(&mut controller), added(&mut controller));
    let (mut first, mut second) = (one.take_queue(0).expect("a queue"), two.take_queue(0).expect("a queue"));
    let counts = [(); 2].map(|()| Arc::new(Count(AtomicUsize::new(0))));
    let [a, b] = [0, 1].map(|at| Waker::from(counts[at].clone()));
    let woken = || [0, 1].map(|at| counts[at].0.swap(0, Ordering::SeqCst));
    first.register(&a);
    second.register(&b);
    bench.storage.moods(|moods| moods.holds = true);
    first.submit(read(1, 1, bench.filled(512, 0))).expect("accepted");
    first.kick();
    second.submit(read(2, 2, bench.filled(512, 0))).expect("accepted");
    second.kick();
    while first.arm() == Arm::Pending || second.arm() == Arm::Pending {
        assert!(
            first.complete().expect("no fault").is_none() && second.complete().expect("no fault").is_none()
        );
    }
    woken();
    bench.storage.release();
    bench.work();
    // The interrupt is for both.
    assert_eq!(woken(), [1, 1]);
    // Who looks first takes what is the other's in, and wakes them.
    assert_eq!(first.complete().expect("no fault").expect("done").tag, 1);
    assert_eq!(woken()[1], 1);
    assert_eq!(second.arm(), Arm::Pending);
    assert_eq!(second.complete().expect("no fault").expect("done").tag, 2);
    bench.is_clean();
}

#[test]
fn who_found_no_room_is_woken_when_there_is() {
    let bench = Bench::with(INTERFACE, NOWHERE, |storage| {
        for lun in 0..3 {
            storage.insert(lun, tuned(disk(512, 1 << 20), |drive| drive.name = [lun + 1; 16]));
        }
    });
    // Four slots, of which the controller keeps one.
    let mut controller = bench.open(&Options { queues: 1, depth: 2 });
    let mut disks = [(); 3].map(|()| added(&mut controller));
    let [mut one, mut two, mut three] = disks.each_mut().map(|disk| disk.take_queue(0).expect("a queue"));
    let count = Arc::new(Count(AtomicUsize::new(0)));
    three.register(&Waker::from(count.clone()));
    for (is_one, tag) in [(true, 1), (true, 2), (false, 3)] {
        let queue = if is_one { &mut one } else { &mut two };
        queue.submit(read(tag, 0, bench.filled(512, 0))).expect("room");
        queue.kick();
    }
    let refused = three.submit(read(4, 0, bench.filled(512, 0))).unwrap_err();
    assert_eq!(refused.reason, Rejected::Full);
    // It takes in the replies, which the others have not taken yet: there is no room still.
    assert!(three.complete().expect("no fault").is_none());
    let refused = three.submit(refused.request).unwrap_err();
    assert_eq!(refused.reason, Rejected::Full);
    while three.arm() == Arm::Pending {
        assert!(three.complete().expect("no fault").is_none());
    }
    let before = count.0.load(Ordering::SeqCst);
    assert_eq!(one.complete().expect("no fault").expect("done").tag, 1);
    assert!(count.0.load(Ordering::SeqCst) > before, "there is room, and nobody says so");
    three.submit(refused.request).expect("room");
    // Also where it had not gone to sleep yet.
    let refused = three.submit(read(5, 0, bench.filled(512, 0))).map_err(|refused| refused.reason);
    assert_eq!(refused.unwrap_err(), Rejected::Full);
    assert_eq!(one.complete().expect("no fault").expect("done").tag, 2);
    assert_eq!(three.arm(), Arm::Pending);
    bench.is_clean();
}

#[test]
fn a_scan_that_is_disturbed_takes_no_disk_away() {
    let bench = Bench::new();
    let (mut controller, mut disk, mut queue) = bench.first();
    // REPORT LUNS is aborted, as by a reset of the bus.
    bench.storage.moods(|moods| moods.fail.push_back((0x0e, 0)));
    bench.storage.notify(StorvspOperation::ENUMERATE_BUS);
    bench.work();
    assert!(controller.poll().is_none());
    assert_eq!(disk.poll_event(), None);
    assert_eq!(run(&mut queue, read(1, 1, bench.filled(512, 0))).result, Ok(()));
    bench.is_clean();
}

#[test]
fn further_channels_are_queues() {
    let bench = Bench::new();
    let mut controller = bench.open(&Options { queues: 3, depth: 32 });
    assert_eq!(controller.queues(), 3);
    let mut disk = added(&mut controller);
    assert_eq!(disk.info().queues, 3);
    let mut queues: Vec<Queue> = (0..3).map(|at| disk.take_queue(at).expect("a queue")).collect();
    assert!(disk.take_queue(1).is_none() && disk.take_queue(3).is_none());
    bench.storage.take_commands();
    for (at, queue) in queues.iter_mut().enumerate() {
        assert_eq!(run(queue, read(at as u64, at as u64, bench.filled(512, 0))).result, Ok(()));
    }
    assert_eq!(bench.storage.take_commands(), [(0, 0x88), (1, 0x88), (2, 0x88)]);
    // A reset closes them all, and opens them again.
    bench.storage.moods(|moods| moods.holds = true);
    for (at, queue) in queues.iter_mut().enumerate() {
        queue.submit(read(at as u64, 0, bench.filled(512, 0))).expect("accepted");
        queue.kick();
    }
    bench.storage.moods(|moods| moods.holds = false);
    queues[1].reset().expect("it comes back");
    for (at, queue) in queues.iter_mut().enumerate() {
        let done = queue.complete().expect("no fault").expect("done");
        assert_eq!((done.tag, done.result, done.buffer.is_some()), (at as u64, Err(IoError::Aborted), true));
        assert_eq!(run(queue, read(9, 7, bench.filled(512, 0))).result, Ok(()));
    }
    drop((queues, disk, controller));
    assert_eq!(bench.host.gpadls(), (0, 0));
    bench.is_clean();
}

#[test]
fn disks_come_and_go() {
    for operation in [
        StorvspOperation::ENUMERATE_BUS,
        StorvspOperation::REMOVE_DEVICE,
        StorvspOperation::EVENT_NOTIFICATION,
    ] {
        let bench = Bench::new();
        let (mut controller, mut first, mut queue) = bench.first();
        assert!(controller.poll().is_none());
        bench.storage.insert(5, tuned(disk(512, 1 << 20), |drive| drive.name = [9; 16]));
        bench.storage.notify(operation);
        bench.work();
        let second = added(&mut controller);
        assert_eq!(second.address().lun, 5);
        assert!(controller.poll().is_none());
        bench.storage.remove(0);
        bench.storage.notify(operation);
        bench.work();
        let Some(ControllerEvent::Removed(address)) = controller.poll() else { panic!("it has gone") };
        assert_eq!(address.lun, 0);
        assert_eq!(first.poll_event(), Some(BlockEvent::Faulted(Fault::Removed)));
        assert_eq!(queue.complete().unwrap_err(), Fault::Removed);
        let refused = queue.submit(read(1, 0, bench.filled(512, 0))).unwrap_err();
        assert_eq!(refused.reason, Rejected::Faulted(Fault::Removed));
        // Another disk at the place of one that is known.
        bench.storage.insert(5, tuned(disk(512, 2 << 20), |drive| drive.name = [8; 16]));
        bench.storage.notify(operation);
        bench.work();
        assert!(matches!(controller.poll(), Some(ControllerEvent::Removed(address)) if address.lun == 5));
        assert_eq!(added(&mut controller).info().blocks, 4096);
        bench.is_clean();
    }
}

#[test]
fn a_disk_that_is_gone_shows_by_its_commands() {
    let bench = Bench::new();
    let (mut controller, mut disk, mut queue) = bench.first();
    bench.storage.remove(0);
    let done = run(&mut queue, read(1, 0, bench.filled(512, 0)));
    assert_eq!((done.result, done.buffer.is_some()), (Err(IoError::Aborted), true));
    assert_eq!(disk.poll_event(), Some(BlockEvent::Faulted(Fault::Removed)));
    assert!(matches!(controller.poll(), Some(ControllerEvent::Removed(_))));
}

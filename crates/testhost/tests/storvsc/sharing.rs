//! Several disks and channels, and hot plug.

use super::*;

#[test]
fn a_reply_to_another_queue_wakes_that_queue() {
    let bench = Bench::with(INTERFACE, NOWHERE, |storage| {
        storage.insert(0, disk(512, 1 << 20));
        storage.insert(1, tuned(disk(512, 1 << 20), |drive| drive.name = [3; 16]));
    });
    let mut controller = bench.open(&ONE);
    let (mut one, mut two) = (added(&mut controller), added(&mut controller));
    let (mut first, mut second) = (one.take_queue(0).expect("a queue"), two.take_queue(0).expect("a queue"));
    let [(one_woken, a), (two_woken, b)] = [(); 2].map(|()| Wakes::new());
    let woken = || [one_woken.take(), two_woken.take()];
    first.register(&a);
    second.register(&b);
    bench.storage.fault_config(|fault_config| fault_config.holds = true);
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
    // The first queue to poll receives the other's completion, and wakes its task.
    assert_eq!(first.complete().expect("no fault").expect("done").tag, 1);
    assert_eq!(woken()[1], 1);
    assert_eq!(second.arm(), Arm::Pending);
    assert_eq!(second.complete().expect("no fault").expect("done").tag, 2);
    bench.is_clean();
}

#[test]
fn a_queue_that_found_the_ring_full_sends_when_there_is_room() {
    let bench = Bench::with(INTERFACE, NOWHERE, |storage| {
        storage.insert(0, disk(512, 1 << 20));
        storage.insert(1, tuned(disk(512, 1 << 20), |drive| drive.name = [3; 16]));
    });
    let options = StorOptions::default().with_ring_pages(2);
    let mut controller =
        Controller::open(&bench.guest, bench.transport(&options), &ONE).expect("a controller");
    let (mut one, mut two) = (added(&mut controller), added(&mut controller));
    let (mut first, mut second) = (one.take_queue(0).expect("a queue"), two.take_queue(0).expect("a queue"));
    bench.storage.take_commands();
    // Packets of 88 bytes: 46 of them leave no room for another.
    for tag in 0..46 {
        first.submit(request(tag, Op::Flush)).expect("room");
    }
    second.submit(read(100, 1, bench.filled(512, 0))).expect("it is staged");
    // It finds no room, and publishes what the other queue has written.
    second.kick();
    assert_eq!(bench.storage.take_commands(), [(0, 0x35); 46]);
    let done = loop {
        match second.complete().expect("no fault") {
            Some(done) => break done,
            None => assert_eq!(
                second.arm(),
                Arm::Pending,
                "the queue would sleep with a command that was not sent"
            ),
        }
    };
    assert_eq!((done.tag, done.result), (100, Ok(())));
    assert_eq!(bench.storage.take_commands(), [(0, 0x88)]);
    for tag in 0..46 {
        assert_eq!(first.complete().expect("no fault").expect("done").tag, tag);
    }
    bench.is_clean();
}

#[test]
fn a_full_table_of_one_queue_does_not_affect_the_others() {
    let bench = Bench::with(INTERFACE, NOWHERE, |storage| {
        storage.insert(0, disk(512, 1 << 20));
        storage.insert(1, tuned(disk(512, 1 << 20), |drive| drive.name = [3; 16]));
    });
    let mut controller = bench.open(&Options::new(1, 2));
    let (mut one, mut two) = (added(&mut controller), added(&mut controller));
    let (mut first, mut second) = (one.take_queue(0).expect("a queue"), two.take_queue(0).expect("a queue"));
    for tag in [1, 2] {
        first.submit(read(tag, 0, bench.filled(512, 0))).expect("room");
    }
    let refused = first.submit(read(3, 0, bench.filled(512, 0))).unwrap_err();
    assert_eq!((refused.reason, refused.request.tag), (Rejected::Full, 3));
    assert_eq!(run(&mut second, read(4, 0, bench.filled(512, 0))).result, Ok(()));
    first.kick();
    for tag in [1, 2] {
        assert_eq!(first.complete().expect("no fault").expect("done").tag, tag);
    }
    assert_eq!(run(&mut first, refused.request).result, Ok(()));
    bench.is_clean();
}

#[test]
fn an_aborted_scan_removes_no_disk() {
    let bench = Bench::new();
    let (mut controller, mut disk, mut queue) = bench.first();
    // REPORT LUNS is aborted, as by a reset of the bus.
    bench.storage.fault_config(|fault_config| fault_config.fail.push_back((0x0e, 0)));
    bench.storage.notify(StorvspOperation::ENUMERATE_BUS);
    bench.work();
    assert!(controller.poll().is_none());
    assert_eq!(disk.poll_event(), None);
    assert_eq!(run(&mut queue, read(1, 1, bench.filled(512, 0))).result, Ok(()));
    bench.is_clean();
}

#[test]
fn subchannels_are_queues() {
    let bench = Bench::new();
    let mut controller = bench.open(&Options::new(3, 32));
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
    // A reset closes all channels and opens them again.
    bench.storage.fault_config(|fault_config| fault_config.holds = true);
    for (at, queue) in queues.iter_mut().enumerate() {
        queue.submit(read(at as u64, 0, bench.filled(512, 0))).expect("accepted");
        queue.kick();
    }
    bench.storage.fault_config(|fault_config| fault_config.holds = false);
    queues[1].reset().expect("it resets");
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
fn disks_are_hot_plugged_and_removed() {
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
        let Some(ControllerEvent::Removed(address)) = controller.poll() else { panic!("expected a removal") };
        assert_eq!(address.lun, 0);
        assert_eq!(first.poll_event(), Some(BlockEvent::Faulted(Fault::Removed)));
        assert_eq!(queue.complete().unwrap_err(), Fault::Removed);
        let refused = queue.submit(read(1, 0, bench.filled(512, 0))).unwrap_err();
        assert_eq!(refused.reason, Rejected::Faulted(Fault::Removed));
        // Another disk at the LUN of a known one.
        bench.storage.insert(5, tuned(disk(512, 2 << 20), |drive| drive.name = [8; 16]));
        bench.storage.notify(operation);
        bench.work();
        assert!(matches!(controller.poll(), Some(ControllerEvent::Removed(address)) if address.lun == 5));
        assert_eq!(added(&mut controller).info().blocks, 4096);
        bench.is_clean();
    }
}

#[test]
fn a_command_to_an_absent_unit_removes_the_disk() {
    let bench = Bench::new();
    let (mut controller, mut disk, mut queue) = bench.first();
    bench.storage.remove(0);
    let done = run(&mut queue, read(1, 0, bench.filled(512, 0)));
    assert_eq!((done.result, done.buffer.is_some()), (Err(IoError::Aborted), true));
    assert_eq!(disk.poll_event(), Some(BlockEvent::Faulted(Fault::Removed)));
    assert!(matches!(controller.poll(), Some(ControllerEvent::Removed(_))));
}

#[test]
fn all_subchannels_are_awaited_for_the_time_of_one_answer() {
    let bench = Bench::new();
    let mut offered = 0;
    bench.host.faults(&bench.guest, |faults| {
        faults.judge = Some(Box::new(move |said| {
            let Said::Message([message_type, ..]) = said else { return Verdict::Pass };
            if u32::from(*message_type) != VmbusMessageType::OFFER_CHANNEL.0 {
                return Verdict::Pass;
            }
            offered += 1;
            // The second subchannel never comes.
            if offered == 1 { Verdict::Late } else { Verdict::Drop }
        }));
    });
    let (clock, host, start) = (bench.guest.downgrade(), bench.host.clone(), bench.guest.now());
    bench.guest.attach(move || {
        clock.with(|guest| {
            guest.turn(Duration::from_secs(1));
            if guest.now().since(start) > Duration::from_secs(150) {
                host.release_late(guest);
            }
        });
    });
    let controller = bench.open(&Options::new(3, 32));
    assert_eq!(controller.queues(), 2);
    let waited = bench.guest.now().since(start);
    assert!((Duration::from_secs(150)..Duration::from_secs(200)).contains(&waited), "{waited:?}");
}

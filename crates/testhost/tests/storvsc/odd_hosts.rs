//! Hosts that hiccup, are throttled, or know less than others: a disk is not lost for that, and a request fails by its own deadline.

use super::*;

const REPORT_LUNS: u8 = 0xa0;
const INQUIRY: u8 = 0x12;
const WRITE_SAME: u8 = 0x93;
/// SRB statuses.
const ABORTED: u8 = 0x02;
const ERROR: u8 = 0x04;
const INVALID_PATH: u8 = 0x07;
const NO_DEVICE: u8 = 0x08;
const TIMEOUT: u8 = 0x09;
const SELECTION_TIMEOUT: u8 = 0x0a;
const BUS_RESET: u8 = 0x0e;
const INTERNAL_ERROR: u8 = 0x30;

/// Lets the clock pass quickly while a driver waits.
fn hurry(guest: &Guest) {
    let clock = guest.downgrade();
    guest.attach(move || clock.turn(Duration::from_millis(5)));
}

/// Completes the request, and lets the clock pass while there is nothing; how long that took.
fn finish(bench: &Bench, queue: &mut Queue) -> (Completion<Buffer>, Duration) {
    let start = bench.guest.now();
    loop {
        if let Some(done) = queue.complete().expect("no fault") {
            return (done, bench.guest.now().since(start));
        }
        bench.guest.turn(Duration::from_millis(20));
        bench.work();
    }
}

#[test]
fn a_passing_failure_is_retried_and_not_reported() {
    for status in
        [TIMEOUT, SELECTION_TIMEOUT, INTERNAL_ERROR, ERROR, ABORTED, BUS_RESET, NO_DEVICE, INVALID_PATH]
    {
        let bench = Bench::new();
        let (mut controller, mut disk, mut queue) = bench.first();
        bench.storage.fault_config(|fault_config| fault_config.fail.extend([(status, 0); 12]));
        queue.submit(read(1, 3, bench.filled(512, 0))).expect("accepted");
        queue.kick();
        let (done, waited) = finish(&bench, &mut queue);
        assert_eq!((done.tag, done.result), (1, Ok(())), "{status:#x}");
        assert_eq!(done.buffer.expect("its buffer").bytes()[0], 3);
        assert!(waited > Duration::from_secs(4), "pauses grow: {waited:?}");
        // A path that failed for a while costs a scan, and no disk.
        assert!(controller.poll().is_none() && disk.poll_event().is_none(), "{status:#x}");
        bench.is_clean();
    }
}

#[test]
fn a_throttled_disk_is_waited_for_until_the_requests_own_deadline() {
    let bench = Bench::new();
    let (_controller, _disk, mut queue) = bench.first();
    bench.storage.fault_config(|fault_config| fault_config.busy = 60);
    queue.submit(read(1, 0, bench.filled(512, 0))).expect("accepted");
    queue.kick();
    let (done, waited) = finish(&bench, &mut queue);
    assert_eq!(done.result, Ok(()));
    assert!(waited > Duration::from_secs(60), "{waited:?}");
    // A deadline ends the retries without a reset of the bus.
    bench.storage.fault_config(|fault_config| fault_config.busy = 10_000);
    let deadline = bench.guest.now().saturating_add(Duration::from_secs(5));
    queue.submit(read(2, 0, bench.filled(512, 0)).with_deadline(deadline)).expect("accepted");
    queue.kick();
    let (done, waited) = finish(&bench, &mut queue);
    assert_eq!(done.result, Err(IoError::Device));
    assert!(waited < Duration::from_secs(6) && bench.storage.resets() == 0, "{waited:?}");
    bench.is_clean();
}

/// A pass-through disk on an old host: vital product data fail without a word.
#[test]
fn a_disk_without_vital_product_data_is_a_disk() {
    let fails: [paravirt_testhost::FailIf; 2] = [
        |cdb| (cdb[0] == INQUIRY && cdb[1] & 1 != 0).then_some((ERROR, 0)),
        |cdb| (cdb[0] == INQUIRY && cdb[1] & 1 != 0 && cdb[2] != 0).then_some((ERROR, 2)),
    ];
    for fail_if in fails {
        let bench = Bench::new();
        hurry(&bench.guest);
        bench.storage.fault_config(|fault_config| fault_config.fail_if = Some(fail_if));
        let mut controller = bench.open(&ONE);
        let mut disk = added(&mut controller);
        assert_eq!((disk.info().blocks, disk.info().serial.as_bytes()), (2048, &b""[..]));
        let mut queue = disk.take_queue(0).expect("a queue");
        assert_eq!(run(&mut queue, read(1, 3, bench.filled(512, 0))).result, Ok(()));
        // Another scan does not take it for another disk.
        bench.storage.notify(StorvspOperation::ENUMERATE_BUS);
        bench.work();
        assert!(controller.poll().is_none());
        bench.is_clean();
    }
}

#[test]
fn units_are_looked_for_one_by_one_where_the_target_does_not_report_them() {
    let bench = Bench::with(INTERFACE, NOWHERE, |storage| {
        for lun in [0, 1, 2, 4] {
            storage.insert(lun, disk(512, 1 << 20));
        }
    });
    hurry(&bench.guest);
    bench.storage.fault_config(|fault_config| {
        fault_config.fail_if = Some(|cdb| (cdb[0] == REPORT_LUNS).then_some((ERROR, 0)));
    });
    let mut controller = bench.open(&ONE);
    let mut found = vec![];
    while let Some(ControllerEvent::Added(disk)) = controller.poll() {
        found.push(disk.address().lun);
    }
    assert_eq!(found, [0, 1, 2], "the scan ends at the first that is absent");
}

/// Before StorVSP 6.2 a host fails WRITE SAME without saying why.
#[test]
fn write_same_is_used_only_where_the_unit_shows_that_it_has_it() {
    let bench = Bench::with(INTERFACE, NOWHERE, |storage| {
        // Without limits, only an attempt shows it.
        storage.insert(0, tuned(disk(512, 1 << 20), |drive| drive.lacks_unmap = true));
    });
    hurry(&bench.guest);
    assert!(added(&mut bench.open(&ONE)).info().write_zeroes.is_some());
    bench.storage.fault_config(|fault_config| {
        fault_config.fail_if = Some(|cdb| (cdb[0] == WRITE_SAME).then_some((ERROR, 0)));
    });
    assert!(added(&mut bench.open(&ONE)).info().write_zeroes.is_none());
}

#[test]
fn fibre_channel_is_scanned_on_all_paths() {
    let bench = Bench::with(paravirt_storvsc::FIBRE_CHANNEL_INTERFACE, NOWHERE, |storage| {
        storage.insert(0, disk(512, 1 << 20));
    });
    bench.storage.take_commands();
    let mut controller = bench.open(&ONE);
    assert_eq!(added(&mut controller).address(), Address { path: 0, target: 0, lun: 0 });
    let asked = bench.storage.take_commands().iter().filter(|(_, opcode)| *opcode == REPORT_LUNS).count();
    assert_eq!(asked, 8 * 128);
}

/// A host that sends a completion twice, or for transaction 0, costs nothing: no memory depends on such a reply.
#[test]
fn replies_that_name_no_command_are_counted_and_passed_over() {
    let bench = Bench::new();
    let (controller, _disk, mut queue) = bench.first();
    bench.storage.fault_config(|fault_config| fault_config.twice = true);
    for tag in 0..8 {
        assert_eq!(run(&mut queue, read(tag, 3, bench.filled(512, 0))).result, Ok(()));
    }
    assert!(queue.complete().expect("no fault").is_none());
    assert!(controller.stray_replies() >= 7, "{}", controller.stray_replies());
    assert_eq!(run(&mut queue, read(9, 5, bench.filled(512, 0))).result, Ok(()));
}

/// Hosts before 2012 pass USB disks through that have the commands of 10 bytes only.
#[test]
fn a_disk_with_short_commands_only_gets_those() {
    let bench = Bench::with(INTERFACE, NOWHERE, |storage| {
        storage.insert(0, tuned(disk(512, 1 << 20), |drive| drive.lacks_long = true));
    });
    let (_controller, _disk, mut queue) = bench.first();
    queue.submit(read(1, 3, bench.filled(512, 0))).expect("accepted");
    queue.kick();
    let (done, _) = finish(&bench, &mut queue);
    assert_eq!(done.buffer.expect("it").bytes()[0], 3);
    assert_eq!(bench.storage.take_commands(), [(0, 0x88), (0, 0x28)]);
    assert_eq!(run(&mut queue, write(2, 7, bench.filled(1024, 0x55), Durability::Cached)).result, Ok(()));
    let done = run(&mut queue, read(3, 8, bench.filled(512, 0)));
    assert_eq!(done.buffer.expect("it").bytes()[511], 0x55);
    assert_eq!(bench.storage.take_commands(), [(0, 0x2a), (0, 0x28)], "what was learnt is remembered");
    bench.is_clean();
}

/// What the host reports and this crate does not drive is named, with the reason.
#[test]
fn a_unit_that_is_no_disk_for_this_crate_is_named() {
    let bench = Bench::with(INTERFACE, NOWHERE, |storage| {
        storage.insert(1, disk(8192, 1 << 20));
        storage.insert(3, disk(512, 1 << 20));
    });
    let mut controller = bench.open(&ONE);
    let address = Address { path: 0, target: 0, lun: 1 };
    match controller.poll() {
        Some(ControllerEvent::Ignored(at, reason)) => {
            assert_eq!((at, reason), (address, paravirt_scsi::Ignored::BlockSize(8192)));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(added(&mut controller).address().lun, 3);
}

/// A name that could not be read when the disk was found, and can be later, is not another disk.
#[test]
fn a_disk_whose_name_becomes_known_stays() {
    let bench = Bench::new();
    hurry(&bench.guest);
    bench.storage.fault_config(|fault_config| {
        fault_config.fail_if = Some(|cdb| (cdb[0] == INQUIRY && cdb[1] & 1 != 0).then_some((ERROR, 0)));
    });
    let mut controller = bench.open(&ONE);
    let mut disk = added(&mut controller);
    bench.storage.fault_config(|fault_config| fault_config.fail_if = None);
    for _ in 0..2 {
        bench.storage.notify(StorvspOperation::ENUMERATE_BUS);
        bench.work();
        assert!(controller.poll().is_none() && disk.poll_event().is_none());
    }
    bench.is_clean();
}

/// A silent host costs one deadline and one recovery a call, not one for each command of a scan.
#[test]
fn a_scan_of_a_silent_host_keeps_to_its_time() {
    let bench = Bench::with(paravirt_storvsc::FIBRE_CHANNEL_INTERFACE, NOWHERE, |storage| {
        storage.insert(0, disk(512, 1 << 20));
    });
    let mut options = ONE;
    options.command_timeout = Duration::from_secs(10);
    options.reset_timeout = Duration::from_secs(5);
    let mut controller = bench.open(&options);
    let mut first = added(&mut controller);
    let clock = bench.guest.downgrade();
    bench.guest.attach(move || clock.turn(Duration::from_millis(100)));
    bench.storage.fault_config(|fault_config| {
        (fault_config.holds, fault_config.reset_aborts) = (true, true);
    });
    bench.storage.notify(StorvspOperation::ENUMERATE_BUS);
    bench.work();
    for _ in 0..4 {
        let before = bench.guest.now();
        assert!(controller.poll().is_none());
        let took = bench.guest.now().since(before);
        assert!(took < Duration::from_secs(16), "{took:?}");
        assert_eq!(controller.arm(), Arm::Pending, "the scan goes on");
    }
    bench.storage.fault_config(|fault_config| fault_config.holds = false);
    while controller.arm() == Arm::Pending {
        let event = controller.poll();
        assert!(event.is_none(), "the disk stays: {event:?}");
    }
    let mut queue = first.take_queue(0).expect("a queue");
    assert_eq!(run(&mut queue, read(1, 3, bench.filled(512, 0))).result, Ok(()));
}

/// Windows Server 2008 R2 expects packets of 48 bytes until the version is known. Which length it is, the version of the bus tells first.
#[test]
fn the_length_of_the_first_packets_goes_by_what_is_known_and_is_tried_twice() {
    for (version, expects, first) in [
        (Version::new(1, 1), 48, 48),
        (Version::new(1, 1), 64, 48),
        (Version::NEWEST, 48, 64),
        (Version::NEWEST, 64, 64),
    ] {
        let bench = Bench::by(version, INTERFACE, NOWHERE, |storage| {
            storage.insert(0, disk(512, 1 << 20));
            storage.set_newest(StorvspVersion::WIN7);
            storage.fault_config(|fault_config| fault_config.packet_len = expects);
        });
        let (_controller, _disk, mut queue) = bench.first();
        assert_eq!(bench.storage.take_lengths()[0], first);
        assert_eq!(run(&mut queue, read(1, 3, bench.filled(512, 0))).result, Ok(()));
        bench.is_clean();
    }
}

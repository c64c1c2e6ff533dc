//! Requests: their results, their cost, and what is refused.

use super::*;

#[test]
fn every_version_reads_and_writes() {
    for newest in [
        StorvspVersion::THRESHOLD,
        StorvspVersion::BLUE,
        StorvspVersion::WIN8,
        StorvspVersion::WIN7,
        StorvspVersion::WIN6,
    ] {
        let bench = Bench::new();
        bench.storage.set_newest(newest);
        let (_controller, disk, mut queue) = bench.first();
        assert_eq!(bench.storage.versions().last(), Some(&newest.0));
        assert_eq!((disk.info().blocks, disk.info().block_size), (2048, 512));
        let done = run(&mut queue, write(1, 3, bench.filled(1024, 0xab), Durability::Cached));
        assert_eq!(done.result, Ok(()));
        let done = run(&mut queue, read(2, 2, bench.filled(2048, 0)));
        let buffer = done.buffer.expect("the buffer");
        assert_eq!([0, 511, 512, 1535, 1536].map(|at| buffer.bytes()[at]), [2, 2, 0xab, 0xab, 5]);
        bench.is_clean();
    }
}

#[test]
fn disk_info_is_read_from_the_vpd_pages() {
    let bench = Bench::with(INTERFACE, NOWHERE, |storage| {
        storage.insert(0, disk(512, 1 << 20));
        storage.insert(
            3,
            tuned(disk(4096, 1 << 20), |drive| {
                drive.serial = "  ABC-1 ".into();
                drive.is_read_only = true;
            }),
        );
        storage.insert(
            9,
            tuned(disk(512, 1 << 20), |drive| {
                drive.lacks_unmap = true;
                drive.lacks_cache = true;
            }),
        );
        storage.insert(10, StorDrive::optical(vec![5; 64 << 10]));
    });
    let mut controller = bench.open(&ONE);
    let first = added(&mut controller);
    let info = first.info();
    assert_eq!(first.address(), Address { path: 0, target: 0, lun: 0 });
    assert_eq!((info.physical_block_size, info.max_bytes, info.max_segments), (4096, 256 << 10, 65));
    assert_eq!((info.cache, info.access, info.queues), (Cache::WriteBack, Access::ReadWrite, 1));
    assert_eq!(info.discard.map(|limits| limits.max_blocks), Some(u32::MAX));
    assert_eq!(info.write_zeroes.map(|limits| (limits.max_blocks, limits.unmap)), Some((0x4000, Unmap::May)));
    assert_eq!(info.serial.to_string(), "600224807061726176697274 2d303121".replace(' ', ""));
    let second = added(&mut controller);
    assert_eq!(second.address().lun, 3);
    let info = second.info();
    assert_eq!((info.block_size, info.blocks, info.access), (4096, 256, Access::ReadOnly));
    assert_eq!(info.serial.to_string(), "ABC-1");
    let third = added(&mut controller).info();
    // Without the pages, WRITE SAME was detected by a command that writes no blocks.
    assert_eq!((third.discard, third.cache), (None, Cache::WriteThrough));
    assert!(third.write_zeroes.is_some_and(|limits| limits.unmap == Unmap::Keep));
    let mut drive = added(&mut controller);
    let info = drive.info();
    assert_eq!((info.block_size, info.blocks, info.access), (2048, 32, Access::ReadOnly));
    assert_eq!((info.discard, info.write_zeroes), (None, None));
    let mut queue = drive.take_queue(0).expect("a queue");
    let done = run(&mut queue, read(1, 31, bench.filled(2048, 0)));
    assert_eq!(done.buffer.expect("the buffer").bytes(), [5; 2048]);
    let refused = queue.submit(write(1, 0, bench.filled(2048, 0), Durability::Cached)).unwrap_err();
    assert_eq!(refused.reason, Rejected::ReadOnly);
    assert!(controller.poll().is_none());
    bench.is_clean();
}

#[test]
fn blocking_calls_reach_every_operation() {
    let bench = Bench::new();
    let (_controller, disk, queue) = bench.first();
    let bounce = bench.filled(4096, 0);
    let relax = bench.guest.clone();
    let wait = move |_: &mut Queue, _: Instant| relax.relax();
    let info = disk.info();
    let mut io = Blocking::new(queue, bench.guest.clone(), bounce, &info, Duration::from_secs(5), wait);
    let data: Vec<u8> = (0..10 * 512).map(|i| (i / 7) as u8).collect();
    io.write(3, &data, Durability::Cached).expect("write");
    let mut back = vec![0; data.len()];
    io.read(3, &mut back).expect("read");
    assert_eq!(back, data);
    io.write_zeroes(4, 2, Unmap::May).expect("zeroes");
    io.discard(8, 2).expect("discard");
    io.read(3, &mut back).expect("read");
    assert_eq!((&back[..512], &back[512..1536]), (&data[..512], &[0; 1024][..]));
    assert_eq!(back[5 * 512..7 * 512], [0xdd; 1024]);
    bench.storage.take_commands();
    io.flush().expect("flush");
    assert_eq!(bench.storage.take_commands(), [(0, 0x35)]);
    bench.is_clean();
}

#[test]
fn a_durable_write_uses_fua_or_a_following_flush() {
    let bench = Bench::new();
    let (_controller, _disk, mut queue) = bench.first();
    assert_eq!(run(&mut queue, write(1, 0, bench.filled(512, 1), Durability::Durable)).result, Ok(()));
    assert_eq!(bench.storage.cdbs()[0][..2], [0x8a, 8]);

    let bench = Bench::with(INTERFACE, NOWHERE, |storage| {
        storage.insert(0, tuned(disk(512, 1 << 20), |drive| drive.lacks_fua = true));
    });
    let (_controller, _disk, mut queue) = bench.first();
    queue.submit(write(1, 0, bench.filled(512, 1), Durability::Durable)).expect("accepted");
    queue.kick();
    assert!(queue.complete().expect("no fault").is_none(), "durable before it was flushed");
    let done = queue.complete().expect("no fault").expect("done");
    assert_eq!((done.tag, done.result, done.buffer.is_some()), (1, Ok(()), true));
    assert_eq!(bench.storage.take_commands(), [(0, 0x8a), (0, 0x35)]);

    // Without a cache, no command is sent for a flush or after a write.
    let bench = Bench::with(INTERFACE, NOWHERE, |storage| {
        storage.insert(0, tuned(disk(512, 1 << 20), |drive| drive.lacks_cache = true));
    });
    let (_controller, _disk, mut queue) = bench.first();
    run(&mut queue, write(1, 0, bench.filled(512, 1), Durability::Durable));
    for tag in [7, 8] {
        queue.submit(request(tag, Op::Flush)).expect("accepted");
    }
    assert_eq!(queue.arm(), Arm::Pending);
    assert_eq!([(); 2].map(|()| queue.complete().expect("no fault").expect("done").tag), [7, 8]);
    assert_eq!(bench.storage.take_commands(), [(0, 0x8a)]);
}

#[test]
fn requests_beyond_the_limits_are_refused() {
    let bench = Bench::new();
    let (_controller, _disk, mut queue) = bench.first();
    let mut refused = |request| queue.submit(request).unwrap_err().reason;
    assert_eq!(refused(read(1, 2047, bench.filled(1024, 0))), Rejected::Range);
    assert_eq!(refused(read(1, u64::MAX, bench.filled(512, 0))), Rejected::Range);
    assert_eq!(refused(read(1, 0, bench.filled(500, 0))), Rejected::Invalid);
    assert_eq!(refused(read(1, 0, bench.filled(512 << 10, 0))), Rejected::Invalid);
    assert_eq!(refused(request(1, Op::Discard { lba: 2047, blocks: 2 })), Rejected::Range);
    assert_eq!(refused(request(1, Op::Discard { lba: 0, blocks: 0 })), Rejected::Invalid);
    let op = Op::WriteZeroes { lba: 0, blocks: 0x4001, unmap: Unmap::Keep };
    assert_eq!(refused(request(1, op)), Rejected::Invalid);
    assert!(bench.storage.take_commands().is_empty());
}

/// A buffer of several segments.
struct Pieces(Vec<Segment>, Arc<AtomicUsize>);

// SAFETY: the segments are in memory of the test, which lives as long as the guest.
unsafe impl DmaBuffer for Pieces {
    fn submit(&mut self, direction: Direction) -> Result<DmaSegments<'_>, SubmitError> {
        self.1.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the memory belongs to a slice that the test keeps and does not access meanwhile.
        Ok(unsafe { DmaSegments::new(&self.0, direction) })
    }
    unsafe fn reclaim(&mut self) {
        self.1.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn segments_that_meet_at_page_boundaries_are_sent_and_others_refused() {
    let bench = Bench::new();
    let transport = bench.transport(&StorOptions::default());
    let mut controller =
        StorController::<Guest, Pieces>::open(&bench.guest, transport, &ONE).expect("a controller");
    let Some(ControllerEvent::Added(mut disk)) = controller.poll() else { panic!("no disk") };
    let mut queue = disk.take_queue(0).expect("a queue");
    let memory = bench.filled(5 * 4096, 0);
    let base = memory.bus().0;
    let in_flight = Arc::new(AtomicUsize::new(0));
    let pieces = |list: &[(u64, u32)]| {
        let segments = list.iter().map(|(at, len)| Segment { addr: BusAddr(base + at), len: *len });
        Pieces(segments.collect(), in_flight.clone())
    };
    // The end of page 3, all of page 1, the beginning of page 4.
    let into = pieces(&[(4 * 4096 - 512, 512), (4096, 4096), (4 * 4096, 1024)]);
    let op = Op::Read { lba: 100, into };
    queue.submit(Request::new(1, op)).map_err(|refused| refused.reason).expect("room");
    assert_eq!(in_flight.load(Ordering::SeqCst), 1);
    queue.kick();
    assert_eq!(queue.complete().expect("no fault").expect("done").result, Ok(()));
    let at = |offset: usize| memory.bytes()[offset];
    assert_eq!(
        [4 * 4096 - 1, 4096, 2 * 4096 - 1, 4 * 4096, 4 * 4096 + 1023].map(at),
        [100, 101, 108, 109, 110]
    );
    for list in [&[(0, 512), (4096, 512)][..], &[(0, 4096), (4096 + 512, 512)]] {
        let op = Op::Read { lba: 0, into: pieces(list) };
        let refused = queue.submit(Request::new(1, op)).map_err(|refused| refused.reason);
        assert_eq!(refused, Err(Rejected::Invalid));
    }
    assert_eq!(in_flight.load(Ordering::SeqCst), 0);
    bench.is_clean();
}

#[test]
fn sense_data_and_statuses_become_io_errors() {
    let bench = Bench::new();
    let (_controller, mut disk, mut queue) = bench.first();
    let with_sense = |sense: &[[u8; 3]]| {
        bench.storage.drive(0, |drive| drive.attentions.extend(sense));
    };
    let mut result = |bench: &Bench| {
        queue.submit(read(1, 0, bench.filled(512, 0))).expect("accepted");
        queue.kick();
        loop {
            if let Some(done) = queue.complete().expect("no fault") {
                return done.result;
            }
        }
    };
    with_sense(&[[3, 0x11, 0]]);
    assert_eq!(result(&bench), Err(IoError::Medium));
    with_sense(&[[4, 0x44, 0]]);
    assert_eq!(result(&bench), Err(IoError::Device));
    with_sense(&[[7, 0x27, 0]]);
    assert_eq!(result(&bench), Err(IoError::ReadOnly));
    with_sense(&[[1, 0x17, 0]]);
    // Recovered error, but the host reports that it transferred nothing.
    assert_eq!(result(&bench), Err(IoError::Device));
    // After a unit attention or an abort the command is retried, a limited number of times.
    with_sense(&[[6, 0x29, 0], [0xb, 0, 0]]);
    assert_eq!(result(&bench), Ok(()));
    with_sense(&[[6, 0x29, 0]; 20]);
    assert_eq!(result(&bench), Err(IoError::Device));
    bench.storage.drive(0, |drive| drive.attentions.clear());
    bench.storage.fault_config(|fault_config| fault_config.fail.push_back((4, 0x18)));
    assert_eq!(result(&bench), Err(IoError::Device));
    // The size changed, and the disk became write-protected.
    assert_eq!(disk.poll_event(), None);
    bench.storage.drive(0, |drive| drive.resize(4096));
    assert_eq!(result(&bench), Ok(()));
    assert_eq!(disk.poll_event(), Some(BlockEvent::Capacity(4096)));
    assert_eq!((disk.info().blocks, disk.poll_event()), (4096, None));
    bench.storage.drive(0, |drive| {
        drive.is_read_only = true;
        drive.attentions.push_back([6, 0x2a, 1]);
    });
    assert_eq!(result(&bench), Ok(()));
    assert_eq!(disk.poll_event(), Some(BlockEvent::Access(Access::ReadOnly)));
    assert_eq!(disk.poll_event(), None);
    bench.is_clean();
}

#[test]
fn busy_is_retried_after_a_delay() {
    let bench = Bench::new();
    let (_controller, _disk, mut queue) = bench.first();
    bench.storage.fault_config(|fault_config| fault_config.busy = 2);
    queue.submit(read(1, 4, bench.filled(512, 0))).expect("accepted");
    queue.kick();
    assert!(queue.complete().expect("no fault").is_none());
    assert_eq!(bench.storage.take_commands().len(), 1);
    // Not before the delay has passed; the queue reports when that is.
    assert!(queue.complete().expect("no fault").is_none());
    assert_eq!(bench.storage.take_commands().len(), 0);
    assert!(queue.next_deadline() < Instant::NEVER);
    bench.guest.turn(Duration::from_millis(25));
    queue.expire(bench.guest.now()).expect("no fault");
    bench.guest.turn(Duration::from_millis(25));
    let done = loop {
        if let Some(done) = queue.complete().expect("no fault") {
            break done;
        }
        bench.guest.turn(Duration::from_millis(5));
    };
    assert_eq!((done.result, done.buffer.map(|buffer| buffer.bytes()[0])), (Ok(()), Some(4)));
}

#[test]
fn a_batch_of_32_costs_one_signal_and_copies_nothing() {
    let bench = Bench::new();
    let (_controller, _disk, mut queue) = bench.first();
    while queue.arm() == Arm::Pending {
        assert!(queue.complete().expect("no fault").is_none());
    }
    let before = bench.host.signals(bench.channel);
    let mut places = vec![];
    for tag in 0..32 {
        let buffer = bench.filled(4096, 0);
        places.push(buffer.bytes().as_ptr());
        queue.submit(read(tag, tag * 8, buffer)).expect("room");
    }
    queue.kick();
    queue.kick();
    let after = bench.host.signals(bench.channel);
    assert_eq!((after.0 - before.0, after.1 - before.1), (1, 1));
    for tag in 0..32u64 {
        let done = queue.complete().expect("no fault").expect("a completion");
        let buffer = done.buffer.expect("the buffer");
        assert_eq!((done.tag, done.result, buffer.bytes().as_ptr()), (tag, Ok(()), places[tag as usize]));
        assert_eq!(buffer.bytes()[511], (tag * 8) as u8);
    }
    assert!(queue.complete().expect("no fault").is_none());
    assert_eq!(bench.host.signals(bench.channel), after);
    bench.is_clean();
}

#[test]
fn a_full_queue_refuses_until_a_completion_is_taken() {
    let bench = Bench::new();
    let (_controller, disk, mut queue) = bench.first();
    bench.storage.fault_config(|fault_config| fault_config.holds = true);
    let mut sent = 0;
    let refused = loop {
        match queue.submit(read(sent, sent % 8, bench.filled(512, 0))) {
            Ok(()) => sent += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!((refused.reason, sent), (Rejected::Full, u64::from(disk.info().depth)));
    queue.kick();
    bench.storage.fault_config(|fault_config| fault_config.holds = false);
    bench.storage.release();
    bench.work();
    for _ in 0..sent {
        assert_eq!(queue.complete().expect("no fault").expect("done").result, Ok(()));
    }
    assert_eq!(run(&mut queue, refused.request).result, Ok(()));
    bench.is_clean();
}

#[test]
fn a_small_ring_fills_and_empties() {
    let bench = Bench::new();
    let options = StorOptions::default().with_ring_pages(2);
    let mut controller =
        Controller::open(&bench.guest, bench.transport(&options), &ONE).expect("a controller");
    let mut disk = added(&mut controller);
    let mut queue = disk.take_queue(0).expect("a queue");
    let (mut sent, mut done) = (0, 0);
    while done < 500 {
        while sent < 500 && queue.submit(read(sent, sent % 100, bench.filled(4096, 0))).is_ok() {
            sent += 1;
        }
        queue.kick();
        while let Some(completion) = queue.complete().expect("no fault") {
            let buffer = completion.buffer.expect("the buffer");
            assert_eq!((completion.result, buffer.bytes()[0]), (Ok(()), (completion.tag % 100) as u8));
            done += 1;
        }
    }
    bench.is_clean();
}

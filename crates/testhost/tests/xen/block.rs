//! Disks.

use super::*;

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
    assert_eq!((info.queues, info.depth, info.max_segments, info.max_bytes), (2, 32, 32, 31 * 4096));
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
unsafe impl DmaBuffer for Foreign {
    fn submit(&mut self, direction: Direction) -> Result<DmaSegments<'_>, SubmitError> {
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
    assert!(net::send(&mut pair, &[3; 60]));
    assert_eq!(host.take_sent(0)[0].bytes, [3; 60]);
    drop((queue, disk, pair, card, store, hypervisor, completed, slices));
    assert_eq!((guest.pages(), host.refused()), (0, 0));
}

#[test]
fn a_drive_is_read_only_and_an_empty_one_is_not_waited_for() {
    let backend = "/local/domain/0/backend/vbd/1/51712";
    for (name, state, opened) in [
        ("aio:", "1", Err(DeviceError::NoMedium)),
        ("", "1", Err(DeviceError::NoMedium)),
        ("a.iso", "2", Ok(())),
    ] {
        let (guest, host) = host(true);
        host.add_disk(XVDA, XenDisk::new(pattern(1 << 16)).with("params", name));
        host.set("device/vbd/51712/device-type", "cdrom");
        host.set(&format!("{backend}/state"), state);
        let store = store(&guest);
        let disk = Disk::open(&store, VBD, &BlkFrontOptions::new());
        assert_eq!(disk.as_ref().map(drop).map_err(|error| *error), opened, "{name}");
        if let Ok(disk) = disk {
            assert_eq!(disk.info().access, Access::ReadOnly);
        }
    }
}

#[test]
fn with_persistent_grants_every_buffer_is_copied_and_the_backend_keeps_few_pages() {
    for offer in ["1", "0"] {
        let (guest, host) = host(true);
        let options = XenDisk::new(pattern(1 << 20)).with("feature-persistent", offer);
        host.add_disk(XVDA, options.with("feature-max-indirect-segments", "256"));
        let store = store(&guest);
        let options = BlkFrontOptions::new().with_requests(8).with_persistent_grants(true);
        let mut disk = Disk::open(&store, VBD, &options).unwrap();
        let mut queue = disk.take_queue(0).unwrap();
        assert_eq!(host.node("device/vbd/51712/feature-persistent").as_deref(), Some("1"));
        let mut content = pattern(1 << 20);
        for round in 0..200u64 {
            let len = if round % 3 == 0 { 20 * 4096 } else { 4096 };
            let lba = round % 8 * 8;
            queue.submit(read(&guest, 1, lba, len)).unwrap();
            queue.kick();
            let read = done(&mut queue).buffer.unwrap();
            assert_eq!((read.bytes(), read.is_in_flight()), (&content[lba as usize * 512..][..len], false));
            queue.submit(write(&guest, 2, lba, &[round as u8; 512], Durability::Cached)).unwrap();
            queue.kick();
            assert!(done(&mut queue).result.is_ok());
            content[lba as usize * 512..][..512].fill(round as u8);
        }
        assert!(host.disk_bytes(XVDA) == content);
        // Pages of the queue, and those of segments.
        let kept = host.kept_pages(XVDA);
        assert!(if offer == "1" { (1..=64 + 8).contains(&kept) } else { kept == 0 }, "{kept}");
        let mut requests: Vec<_> = (0..3).map(|tag| read(&guest, tag, 0, 31 * 4096)).collect();
        queue.submit(requests.remove(0)).unwrap();
        queue.submit(requests.remove(0)).unwrap();
        assert_eq!(queue.submit(requests.remove(0)).unwrap_err().reason, Rejected::Full, "64 pages");
        queue.kick();
        assert!(done(&mut queue).result.is_ok() && done(&mut queue).result.is_ok());
        // In another domain the pages are granted anew.
        let hypervisor = store.hypervisor().clone();
        host.set_resumes(true);
        host.faults(|faults| faults.holds = true);
        queue.submit(read(&guest, 1, 0, 4096)).unwrap();
        queue.kick();
        assert_eq!(hypervisor.suspend(), Ok(true));
        store.resume().unwrap();
        host.faults(|faults| faults.holds = false);
        let mut completion = None;
        for _ in 0..8 {
            completion = completion.or_else(|| queue.complete().unwrap());
        }
        assert_eq!(completion.unwrap().buffer.unwrap().bytes(), &content[..4096]);
        drop((queue, disk));
        assert_eq!((host.refused(), hypervisor.lost_pages()), (0, 0));
        drop((hypervisor, store));
        assert_eq!((guest.pages(), host.grants_in_force()), (0, 0));
    }
}

#[test]
fn a_backend_that_offers_less_ends_the_disk_and_gives_its_requests_back() {
    let options = XenDisk::new(pattern(1 << 16)).with("feature-max-indirect-segments", "256");
    let Setup { mut queue, disk, store, host, guest } = disk(options);
    let hypervisor = store.hypervisor().clone();
    host.set_resumes(true);
    host.faults(|faults| faults.holds = true);
    queue.submit(write(&guest, 1, 0, &[9; 512], Durability::Cached)).unwrap();
    queue.submit(read(&guest, 2, 8, 512)).unwrap();
    queue.kick();
    assert_eq!(hypervisor.suspend(), Ok(true));
    host.set("/local/domain/0/backend/vbd/1/51712/feature-max-indirect-segments", "11");
    store.resume().unwrap();
    host.faults(|faults| faults.holds = false);
    let mut tags = vec![];
    for _ in 0..8 {
        match queue.complete() {
            Ok(Some(done)) => {
                assert_eq!(
                    (done.result, done.buffer.unwrap().is_in_flight()),
                    (Err(IoError::Aborted), false)
                );
                tags.push(done.tag);
            }
            Ok(None) => {}
            Err(fault) => assert_eq!((fault, tags.len()), (Fault::Refused, 2)),
        }
    }
    assert_eq!((tags, host.disk_bytes(XVDA)), (vec![1, 2], pattern(1 << 16)));
    drop((queue, disk, store, hypervisor));
    assert_eq!((guest.pages(), host.refused()), (0, 0));
}

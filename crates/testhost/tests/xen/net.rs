//! Network cards.

use super::*;

pub fn send(queue: &mut CardQueue, bytes: &[u8]) -> bool {
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
    let NetSetup { mut queue, mut card, store, host, guest } = card(ALL);
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
    // The pages of a queue are freed together, or not at all.
    let hypervisor = store.hypervisor().clone();
    drop((queue, card, store));
    assert_eq!(hypervisor.lost_pages(), 256);
    drop(hypervisor);
    assert_eq!(guest.pages(), 256);
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

#[test]
fn each_ring_has_an_event_channel_where_the_backend_can() {
    let NetSetup { mut queue, host, guest, .. } = card(&[("feature-split-event-channels", "1")]);
    let node = |name: &str| host.node(&format!("device/vif/0/{name}"));
    assert_eq!(node("event-channel"), None);
    assert_ne!(node("event-channel-tx").unwrap(), node("event-channel-rx").unwrap());
    let (woken, waker) = Wakes::new();
    queue.register(&waker);
    while queue.arm() == Arm::Pending {
        queue.poll().unwrap();
    }
    for round in 0..20 {
        let before = woken.get();
        if round % 2 == 0 {
            assert!(host.receive(0, &[7; 60], &plain()));
        } else {
            // The completion of a frame in the caller's buffer is waited for.
            host.faults(|faults| faults.holds = true);
            queue.split().1.send(1, buffer(&guest, 60), TxMeta::new()).unwrap();
            queue.split().1.kick();
            assert_eq!(queue.arm(), Arm::Armed);
            host.faults(|faults| faults.holds = false);
            host.run();
        }
        assert_eq!(woken.get(), before + 1);
        queue.poll().unwrap();
        assert_eq!(next(&mut queue).is_some(), round % 2 == 0);
        assert_eq!(queue.split().1.sent().is_some(), round % 2 == 1);
        while queue.arm() == Arm::Pending {
            queue.poll().unwrap();
        }
    }
    queue.reset().unwrap();
    assert!(host.receive(0, &[8; 60], &plain()));
    queue.poll().unwrap();
    assert_eq!(next(&mut queue), Some(vec![8; 60]));
}

/// A buffer in several pieces, each in a page of its own.
struct Pieces {
    segments: Vec<Segment>,
    memory: Buffer,
}

impl Pieces {
    fn new(guest: &Guest, count: usize, len: u32) -> Self {
        let memory = buffer(guest, count * 4096);
        let segment = |page: usize| Segment { addr: memory.bus().offset(page as u64 * 4096), len };
        Self { segments: (0..count).map(segment).collect(), memory }
    }
}

// SAFETY: the segments are parts of a buffer with the same contract, which is put in flight whole.
unsafe impl DmaBuffer for Pieces {
    fn submit(&mut self, direction: Direction) -> Result<DmaSegments<'_>, SubmitError> {
        self.memory.submit(direction)?;
        // SAFETY: the buffer is in flight until it is reclaimed.
        Ok(unsafe { DmaSegments::new(&self.segments, direction) })
    }
    unsafe fn reclaim(&mut self) {
        // SAFETY: by the contract of this function.
        unsafe { self.memory.reclaim() }
    }
    fn owns_pages(&self) -> bool {
        true
    }
}

/// Xen Security Advisories 392, 423 and 424: what a backend cannot take is never sent to it.
#[test]
fn a_frame_is_never_in_more_requests_than_a_backend_takes() {
    for (features, most) in [(ALL, 18), (&[][..], 1)] {
        let (guest, host) = host(true);
        host.add_card(0, features);
        host.set("device/vif/0/mtu", "65521");
        let store = store(&guest);
        let mut card = NetFront::open(&store, VIF, &NetFrontOptions::new()).unwrap();
        let mut queue = card.take_queue(0).unwrap();
        queue.poll().unwrap();
        for (count, len) in
            [(1, 13), (1, 14), (1, 4096), (2, 100), (18, 100), (19, 100), (16, 4096), (30, 10)]
        {
            let total = count * len as usize;
            let is_sent = count <= most && (14..=usize::from(card.info().mtu) + 14).contains(&total);
            let result = queue.split().1.send(1, Pieces::new(&guest, count, len), TxMeta::new());
            assert_eq!(
                result.map_err(|refused| refused.reason),
                if is_sent { Ok(()) } else { Err(Rejected::Invalid) }
            );
            queue.split().1.kick();
            let sent: Vec<_> =
                host.take_sent(0).iter().map(|frame| (frame.requests, frame.bytes.len())).collect();
            assert_eq!(sent, if is_sent { vec![(count, total)] } else { vec![] });
            queue.poll().unwrap();
            assert_eq!(queue.split().1.sent().is_some(), is_sent);
        }
        assert_eq!(host.refused(), 0);
    }
}

#[test]
fn multicast_frames_are_filtered_where_the_backend_can() {
    let to = |last: u8| [[1, 0, 0x5e, 0, 0, last].as_slice(), &[0; 54]].concat();
    let address = |last: u8| MacAddr([1, 0, 0x5e, 0, 0, last]);
    let NetSetup { mut queue, mut card, host, .. } = self::card(&[("feature-multicast-control", "1")]);
    let passes = |queue: &mut CardQueue, frame: &[u8]| {
        queue.poll().unwrap();
        host.receive(0, frame, &plain());
        queue.poll().unwrap();
        next(queue).is_some()
    };
    assert!(passes(&mut queue, &to(1)));
    card.set_multicast(&[address(1), address(2)]).unwrap();
    assert!(passes(&mut queue, &to(3)), "nothing is filtered yet");
    card.set_receive_mode(ReceiveMode::Filtered).unwrap();
    for (last, does) in [(1, true), (2, true), (3, false)] {
        assert_eq!(passes(&mut queue, &to(last)), does, "{last}");
    }
    assert!(passes(&mut queue, &[0xff; 60]) && passes(&mut queue, &[0; 60]));
    // As many as a backend takes, and again after a reset.
    let many: Vec<MacAddr> = (0..64).map(address).collect();
    card.set_multicast(&many).unwrap();
    assert!(passes(&mut queue, &to(63)) && !passes(&mut queue, &to(64)));
    queue.reset().unwrap();
    assert!(passes(&mut queue, &to(63)) && !passes(&mut queue, &to(64)));
    for round in 0..600 {
        assert!(send(&mut queue, &[round as u8; 60]), "no request is lost");
        queue.poll().unwrap();
    }
    assert_eq!(host.take_sent(0).len(), 600);
    assert_eq!(card.set_multicast(&[address(0); 65]), Err(ControlError::Refused));
    card.set_receive_mode(ReceiveMode::AllMulticast).unwrap();
    assert!(passes(&mut queue, &to(64)));
    assert_eq!(host.refused(), 0);

    // What is changed while the card waits for its queues is changed with them.
    let NetSetup { mut queue, mut card, host, .. } =
        self::card(&[("feature-multicast-control", "1"), ("multi-queue-max-queues", "2")]);
    card.set_active_queues(2).unwrap();
    card.set_multicast(&[address(1)]).unwrap();
    card.set_receive_mode(ReceiveMode::Filtered).unwrap();
    queue.poll().unwrap();
    assert_eq!(host.node("device/vif/0/multi-queue-num-queues").as_deref(), Some("2"));
    assert!(host.receive(0, &to(1), &plain()) && !host.receive(0, &to(2), &plain()));

    let NetSetup { queue: _queue, mut card, .. } = self::card(&[]);
    assert_eq!(card.set_receive_mode(ReceiveMode::Filtered), Err(ControlError::Unsupported));
    assert_eq!(card.set_multicast(&[address(1)]), Err(ControlError::Unsupported));
    assert_eq!(card.set_receive_mode(ReceiveMode::Promiscuous), Ok(()));
}

#[test]
fn a_backend_of_another_host_may_offer_fewer_queues_than_are_unused_and_no_less_else() {
    for (node, value, works) in
        [("multi-queue-max-queues", "1", true), ("feature-gso-tcpv4", "0", false), ("feature-sg", "0", false)]
    {
        let NetSetup { mut queue, card, store, host, .. } = self::card(ALL);
        host.set_resumes(true);
        assert_eq!(store.hypervisor().suspend(), Ok(true));
        host.set(&format!("/local/domain/0/backend/vif/1/0/{node}"), value);
        store.resume().unwrap();
        assert_eq!(queue.poll(), if works { Ok(()) } else { Err(Fault::Refused) }, "{node}");
        assert_eq!(card.info().queues, 2);
        assert_eq!(queue.split().1.reserve(60), works);
    }
}

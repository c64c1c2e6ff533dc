//! The network driver against rust-vmm's split queue, and against our model of a packed one.

use core::time::Duration;
use paravirt_device::{
    ChecksumRange, Fault, IoError, Link, MacAddr, NetDevice, NetEvent, NetQueue, NetRx, NetTx, Notify,
    Offloads, ReceiveMode, Rejected, RxChecksum, SegmentKind, Segmentation, TxMeta, VlanTag,
};
use paravirt_platform::{DmaSlice, Instant, Platform};
use paravirt_testhost::{Guest, NetHost, Ring};
use paravirt_virtio::OpenOptions;
use paravirt_virtio::net::config::NetFeatures;
use paravirt_virtio::net::{VirtioNet, VirtioNetQueue};

type Card = VirtioNet<Guest, DmaSlice<Guest>>;
type Queue = VirtioNetQueue<Guest, DmaSlice<Guest>>;

const RINGS: [Ring; 2] = [Ring::Split, Ring::Packed];

fn open(guest: &Guest, ring: Ring, features: NetFeatures) -> (NetHost, Card, Queue) {
    let host = NetHost::new(guest, ring, features);
    let options = OpenOptions::new().with_queue_size(64);
    let mut card = Card::open(guest, host.transport(), &options).expect("a card");
    let queue = card.take_queue(0).expect("a queue");
    (host, card, queue)
}

fn send(queue: &mut Queue, frame: &[u8], meta: TxMeta) -> Result<(), Rejected> {
    let (_, tx) = queue.split();
    assert!(tx.reserve(frame.len()));
    tx.slot()[..frame.len()].copy_from_slice(frame);
    tx.commit(frame.len(), meta)
}

#[test]
fn a_batch_of_frames_is_sent_with_one_kick() {
    for ring in RINGS {
        let guest = Guest::new();
        let (host, _card, mut queue) = open(&guest, ring, NetFeatures::all());
        host.work();
        let before = host.device().kicks(1);
        for i in 0..32u8 {
            send(&mut queue, &[i; 100], TxMeta::default()).expect("sent");
        }
        queue.split().1.kick();
        assert_eq!(host.device().kicks(1) - before, 1, "{ring:?}");
        host.work();
        let sent = host.take_sent();
        assert_eq!(sent.len(), 32);
        assert!(sent.iter().zip(0u8..).all(|((header, frame), i)| header == &[0; 12] && frame == &[i; 100]));
        // The slots are reused.
        for round in 0..200u8 {
            queue.poll().expect("no fault");
            send(&mut queue, &[round; 60], TxMeta::default()).expect("sent");
            queue.split().1.kick();
            host.work();
        }
        assert_eq!(host.take_sent().len(), 200);
    }
}

#[test]
fn checksum_segmentation_and_vlan_are_sent_with_the_frame() {
    let guest = Guest::new();
    let (host, card, mut queue) = open(&guest, Ring::Split, NetFeatures::all());
    assert!(card.info().offloads.contains(Offloads::TX_TCP4 | Offloads::TX_CHECKSUM));
    let summed = TxMeta::new().with_checksum(ChecksumRange { start: 34, offset: 16 });
    send(&mut queue, &[7; 200], summed).expect("sent");
    send(&mut queue, &[8; 60], summed.with_vlan(VlanTag(0x2064))).expect("sent");
    let mut large = DmaSlice::alloc(&guest, 9000).expect("memory");
    large.bytes_mut().fill(3);
    let place = large.bytes().as_ptr();
    let segmentation = Segmentation { kind: SegmentKind::Tcp4, size: 1460, headers: 54 };
    queue.split().1.send(5, large, summed.with_segmentation(segmentation)).expect("sent");
    queue.split().1.kick();
    host.work();
    let sent = host.take_sent();
    assert_eq!(sent[0].0, [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0]);
    assert_eq!(sent[1].0, [1, 0, 0, 0, 0, 0, 38, 0, 16, 0, 0, 0]);
    assert_eq!(sent[1].1[..18], [8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 0x81, 0, 0x20, 0x64, 8, 8]);
    assert_eq!(sent[1].1.len(), 64);
    assert_eq!(sent[2].0, [1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0]);
    assert_eq!(sent[2].1, [3; 9000]);
    queue.poll().expect("no fault");
    let back = queue.split().1.sent().expect("the memory");
    let buffer = back.buffer.expect("its buffer");
    assert_eq!((back.tag, back.result, buffer.bytes().as_ptr()), (5, Ok(()), place));
    let too_long = DmaSlice::alloc(&guest, 1600).expect("memory");
    let refused = queue.split().1.send(6, too_long, TxMeta::default()).expect_err("longer than the MTU");
    assert_eq!(refused.reason, Rejected::Invalid);
    assert!(!refused.buffer.is_in_flight());
}

#[test]
fn frames_are_received_without_a_copy_and_large_ones_in_segments() {
    for ring in RINGS {
        let guest = Guest::new();
        let (host, _card, mut queue) = open(&guest, ring, NetFeatures::all());
        for round in 0..40u8 {
            let large: Vec<u8> = (0..6000u32).map(|i| (i as u8) ^ round).collect();
            host.deliver([0; 10], &[round; 60]);
            host.deliver([1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0], &large);
            host.deliver([2, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[1; 80]);
            host.work();
            queue.poll().expect("no fault");
            let (rx, _) = queue.split();
            let frame = rx.front().expect("a frame");
            assert_eq!((frame.len, frame.segments, frame.meta.checksum), (60, 1, RxChecksum::Unknown));
            let place = rx.segment(0).expect("its bytes").as_ptr();
            let mut scratch = vec![0; 65549];
            assert_eq!(rx.contiguous(&mut scratch).expect("its bytes").as_ptr(), place, "copied");
            rx.pop();
            let frame = rx.front().expect("a frame");
            assert_eq!((frame.len, frame.segments), (6000, 3));
            let partial = RxChecksum::Partial(ChecksumRange { start: 34, offset: 16 });
            assert_eq!(frame.meta.checksum, partial);
            assert_eq!(frame.meta.segmentation.expect("segmented").size, 1460);
            assert_eq!(rx.contiguous(&mut scratch).expect("its bytes"), large);
            assert!(rx.segment(3).is_none());
            rx.pop();
            assert_eq!(rx.front().expect("a frame").meta.checksum, RxChecksum::Valid);
            rx.pop();
            assert!(rx.front().is_none());
        }
    }
}

#[test]
fn malformed_headers_are_faults() {
    // More buffers than there are, no buffer, and a frame shorter than its header.
    for (buffers, len) in [(0xffffu16, 100), (0, 100), (1, 11)] {
        let guest = Guest::new();
        let (host, mut card, mut queue) = open(&guest, Ring::Split, NetFeatures::all());
        queue.poll().expect("no fault");
        let state = host.device().queue(0).expect("a queue");
        let mut device = paravirt_testhost::SplitDevice::new(&guest, &state, true);
        let chain = device.pop().expect("a buffer");
        let mut bytes = vec![0; 100];
        bytes[10..12].copy_from_slice(&buffers.to_le_bytes());
        chain.write(&guest, &bytes);
        device.push(chain.id, len);
        assert_eq!(queue.poll().expect_err("a fault"), Fault::Protocol);
        assert_eq!(card.poll_event(), Some(NetEvent::Faulted(Fault::Protocol)));
        drop((card, queue));
        assert_eq!(guest.pages(), 0, "memory leaked");
    }
}

#[test]
fn settings_are_commands_and_are_restored_after_a_reset() {
    for ring in RINGS {
        let guest = Guest::new();
        let (host, mut card, mut queue) = open(&guest, ring, NetFeatures::all());
        card.set_receive_mode(ReceiveMode::Promiscuous).expect("set");
        card.set_multicast(&[MacAddr([1, 0, 0x5e, 0, 0, 1])]).expect("set");
        card.set_mac(MacAddr([2, 0, 0, 0, 0, 7])).expect("set");
        card.set_offloads(Offloads::RX_CHECKSUM).expect("set");
        let commands = host.take_commands();
        assert_eq!(commands[..2], [vec![0, 0, 1], vec![0, 1, 0]]);
        assert_eq!(commands[2], [1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0x5e, 0, 0, 1]);
        assert_eq!(commands[3], [1, 1, 2, 0, 0, 0, 0, 7]);
        assert_eq!(commands[4], [5, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(card.info().offloads & Offloads::RX_TCP4, Offloads::empty());
        host.device().registers().status |= paravirt_virtio::transport::DeviceStatus::NEEDS_RESET;
        assert_eq!(card.poll_event(), None);
        // The device and its queue are drained; then the device is in service with the same settings.
        for _ in 0..4 {
            let _ = queue.poll();
            assert_eq!(card.poll_event(), None);
        }
        assert_eq!(host.take_commands().len(), 5, "{ring:?}");
        send(&mut queue, &[1; 60], TxMeta::default()).expect("in service again");
        queue.split().1.kick();
        host.deliver([0; 10], &[5; 60]);
        host.work();
        assert_eq!(host.take_sent().len(), 1);
        queue.poll().expect("no fault");
        assert_eq!(queue.split().0.front().expect("a frame").len, 60);
    }
}

#[test]
fn link_changes_and_announcements_are_events() {
    let guest = Guest::new();
    let (host, mut card, _queue) = open(&guest, Ring::Split, NetFeatures::all());
    let set = |status: u8| host.device().registers().config[6] = status;
    set(0);
    assert_eq!((card.poll_event(), card.link()), (Some(NetEvent::Link(Link::Down)), Link::Down));
    assert_eq!(card.poll_event(), None);
    set(3);
    assert_eq!(card.poll_event(), Some(NetEvent::Announce));
    assert_eq!(card.poll_event(), Some(NetEvent::Link(Link::Up)));
    assert_eq!(card.poll_event(), None);
    card.announced().expect("acknowledged");
    assert_eq!(host.take_commands(), [vec![3, 0]]);
}

#[test]
fn a_queue_pair_is_reset_alone_and_continues() {
    let guest = Guest::new();
    let (host, _card, mut queue) = open(&guest, Ring::Split, NetFeatures::all());
    host.work();
    let frame = DmaSlice::alloc(&guest, 100).expect("memory");
    queue.split().1.send(3, frame, TxMeta::default()).expect("sent");
    let resets = host.device().registers().resets;
    queue.reset().expect("reset");
    for _ in 0..3 {
        queue.poll().expect("no fault");
    }
    let back = queue.split().1.sent().expect("the memory");
    assert_eq!((back.tag, back.result), (3, Err(paravirt_device::IoError::Aborted)));
    assert_eq!(host.device().registers().resets, resets, "the whole device was reset");
    host.deliver([0; 10], &[9; 60]);
    send(&mut queue, &[1; 60], TxMeta::default()).expect("sent");
    queue.split().1.kick();
    host.work();
    queue.poll().expect("no fault");
    assert_eq!((host.take_sent().len(), queue.split().0.front().expect("a frame").len), (1, 60));
}

/// A host that changes its mind at each look costs one event a drain.
#[test]
fn a_configuration_that_changes_at_each_read_does_not_keep_the_caller_busy() {
    let guest = Guest::new();
    let (host, mut card, _queue) = open(&guest, Ring::Split, NetFeatures::all());
    // The status, whose lowest bit is the link.
    host.device().registers().flickers = Some(6);
    for _ in 0..3 {
        let events = core::iter::from_fn(|| card.poll_event()).take(100).count();
        assert!((1..=2).contains(&events), "{events}");
    }
}

/// Frames without a copy come back from a host that has stopped: after the deadline, or, if it does not even confirm a reset, without
/// their buffers.
#[test]
fn a_silent_host_does_not_keep_frames() {
    for ring in RINGS {
        for confirms in [true, false] {
            let guest = Guest::new();
            let clock = guest.downgrade();
            guest.attach(move || clock.turn(Duration::from_secs(1)));
            let host = NetHost::new(&guest, ring, NetFeatures::all());
            host.device().registers().lacks_queue_reset = !confirms;
            let options = OpenOptions::new().with_queue_size(64);
            let mut card = Card::open(&guest, host.transport(), &options).expect("a card");
            let mut queue = card.take_queue(0).expect("a queue");
            assert_eq!(queue.next_deadline(), Instant::NEVER);
            for tag in 0..3 {
                let frame = DmaSlice::alloc(&guest, 100).expect("memory");
                queue.split().1.send(tag, frame, TxMeta::default()).expect("sent");
            }
            let _ = queue.arm();
            let deadline = queue.next_deadline();
            assert!(deadline != Instant::NEVER && deadline > guest.now());
            queue.expire(guest.now()).expect("not yet");
            assert!(queue.split().1.sent().is_none());
            host.device().registers().ignores_reset = !confirms;
            guest.turn(Duration::from_secs(61));
            let expired = queue.expire(guest.now());
            assert_eq!(expired.is_ok(), confirms, "{expired:?}");
            let _ = queue.poll();
            let mut tags = vec![];
            while let Some(sent) = queue.split().1.sent() {
                assert_eq!((sent.result, sent.buffer.is_some()), (Err(IoError::Aborted), confirms));
                tags.push(sent.tag);
            }
            assert_eq!(tags, [0, 1, 2], "{ring:?}: every tag once");
            assert_eq!(queue.next_deadline(), Instant::NEVER);
        }
    }
}

#[test]
fn a_legacy_card_needs_mergeable_buffers() {
    let guest = Guest::new();
    for features in [NetFeatures::MAC, NetFeatures::MAC | NetFeatures::MRG_RXBUF] {
        let host = NetHost::new(&guest, Ring::Split, features);
        {
            let mut registers = host.device().registers();
            registers.is_legacy = true;
            // A legacy device has no feature bits above 31.
            registers.offered &= u64::from(u32::MAX);
        }
        // Without them the header of a frame has 10 bytes.
        let error = Card::open(&guest, host.transport(), &OpenOptions::new()).err();
        let is_mergeable = features.contains(NetFeatures::MRG_RXBUF);
        assert_eq!(error, (!is_mergeable).then_some(paravirt_virtio::transport::OpenError::Legacy));
    }
}

/// A device with the longest frames and no mergeable buffers made the driver allocate 67 MB a direction.
#[test]
fn the_memory_of_a_queue_has_a_limit() {
    let guest = Guest::new();
    let host = NetHost::new(&guest, Ring::Packed, NetFeatures::all() - NetFeatures::MRG_RXBUF);
    {
        let mut registers = host.device().registers();
        registers.config[10..12].copy_from_slice(&65535u16.to_le_bytes());
        registers.sizes.fill(1024);
    }
    let before = guest.pages();
    let mut card = Card::open(&guest, host.transport(), &OpenOptions::new()).expect("a card");
    assert_eq!(card.info().mtu, 65535);
    let pages = guest.pages() - before;
    assert!(pages < 2048, "{pages} pages");
    let mut queue = card.take_queue(0).expect("a queue");
    send(&mut queue, &[1; 1514], TxMeta::default()).expect("sent");
    queue.split().1.kick();
    host.deliver([0; 10], &[9; 60]);
    host.work();
    queue.poll().expect("no fault");
    assert_eq!((host.take_sent().len(), queue.split().0.front().expect("a frame").len), (1, 60));
}

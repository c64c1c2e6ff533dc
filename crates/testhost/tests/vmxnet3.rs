//! The driver of VMware's network card against the model.

use paravirt_device::{
    Arm, ChecksumRange, ControlError, Fault, IoError, Link, MacAddr, NetDevice, NetEvent, NetQueue, NetRx,
    NetTx, Notify, Offloads, ReceiveMode, Rejected, RxChecksum, SegmentKind, Segmentation, Signalling,
    TxMeta, VlanTag,
};
use paravirt_platform::{DmaSlice, Instant, InterruptLine, Platform, Polarity, Trigger};
use paravirt_testhost::count::{Counting, allocations, counted};
use paravirt_testhost::{Guest, ReceivedMeta, Vmxnet3Host, Wakes};
use paravirt_vmxnet3::{OpenError, Vmxnet3, Vmxnet3Options, Vmxnet3Queue};
use std::time::Duration;

#[global_allocator]
static COUNTING: Counting = Counting;

type Buffer = DmaSlice<Guest>;
type Card = Vmxnet3<Guest, Buffer>;
type Queue = Vmxnet3Queue<Guest, Buffer>;

fn open(guest: &Guest, host: &Vmxnet3Host, options: &Vmxnet3Options) -> Card {
    Vmxnet3::new(guest, host.device(), options).unwrap()
}

fn card() -> (Guest, Vmxnet3Host, Card, Queue) {
    let guest = Guest::new();
    let host = Vmxnet3Host::new(&guest);
    let mut card = open(&guest, &host, &Vmxnet3Options::default());
    let queue = card.take_queue(0).unwrap();
    (guest, host, card, queue)
}

fn send(queue: &mut Queue, bytes: &[u8]) {
    let (_, tx) = queue.split();
    assert!(tx.reserve(bytes.len()));
    tx.slot()[..bytes.len()].copy_from_slice(bytes);
    tx.commit(bytes.len(), TxMeta::new()).unwrap();
}

/// The oldest received frame, in one piece.
fn next(queue: &mut Queue) -> Option<Vec<u8>> {
    let (rx, _) = queue.split();
    let frame = rx.front()?;
    let bytes: Vec<u8> = (0..frame.segments).flat_map(|index| rx.segment(index).unwrap().to_vec()).collect();
    assert_eq!(bytes.len(), frame.len);
    rx.pop();
    Some(bytes)
}

#[test]
fn frames_pass_both_ways_around_the_rings() {
    let (_guest, host, card, mut queue) = card();
    assert_eq!((card.info().mac, card.info().mtu), (MacAddr([0, 0x0c, 0x29, 1, 2, 3]), 1500));
    assert_eq!((card.link(), card.info().speed, host.chosen()), (Link::Up, Some(10_000), (1, 1)));
    for round in 0..2000u32 {
        let bytes = vec![round as u8; 60 + round as usize % 1455];
        send(&mut queue, &bytes);
        queue.split().1.kick();
        assert_eq!(host.take_sent().pop().unwrap().bytes, bytes);
        assert!(host.receive(&bytes));
        queue.poll().unwrap();
        assert_eq!(next(&mut queue), Some(bytes));
    }
    assert_eq!(next(&mut queue), None);
}

#[test]
fn a_batch_rings_once_and_nothing_is_allocated_or_copied() {
    let (_guest, host, _card, mut queue) = card();
    for _ in 0..20 {
        let (before, producers) = host.doorbells();
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
        assert_eq!((host.doorbells(), allocations()), ((before + 1, producers), 0));
        assert_eq!(host.take_sent().len(), 32);
        (0..32).for_each(|_| assert!(host.receive(&[5; 1000])));
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
        assert_eq!((count, host.doorbells(), allocations()), (32, (before + 1, producers), 0));
    }
}

#[test]
fn the_card_says_when_it_wants_to_hear_of_descriptors() {
    let guest = Guest::new();
    let host = Vmxnet3Host::new(&guest);
    host.faults(|faults| (faults.threshold, faults.wants_producer) = (3, true));
    let mut card = open(&guest, &host, &Vmxnet3Options::default());
    let mut queue = card.take_queue(0).unwrap();
    let (before, producers) = host.doorbells();
    for sent in 1..=3 {
        send(&mut queue, &[1; 60]);
        queue.split().1.kick();
        assert_eq!(host.doorbells().0 - before, u32::from(sent == 3));
    }
    assert_eq!(host.take_sent().len(), 3);
    host.receive(&[1; 60]);
    queue.poll().unwrap();
    next(&mut queue);
    // In batches, and before the task sleeps.
    queue.poll().unwrap();
    assert_eq!(host.doorbells().1, producers);
    let _ = queue.arm();
    assert_eq!(host.doorbells().1, producers + 1);
    for _ in 0..64 {
        host.receive(&[1; 60]);
        queue.poll().unwrap();
        next(&mut queue);
    }
    queue.poll().unwrap();
    assert_eq!(host.doorbells().1, producers + 2);
}

#[test]
fn frames_are_sent_from_buffers_of_the_caller() {
    let (guest, host, _card, mut queue) = card();
    let mut frame = DmaSlice::alloc(&guest, 1514).unwrap();
    frame.bytes_mut().fill(0x5a);
    queue.split().1.send(77, frame, TxMeta::new()).unwrap();
    queue.split().1.kick();
    assert_eq!(host.take_sent()[0].bytes, [0x5a; 1514]);
    queue.poll().unwrap();
    let sent = queue.split().1.sent().unwrap();
    assert_eq!((sent.tag, sent.result, sent.buffer.unwrap().bytes().len()), (77, Ok(()), 1514));
    // One that the card does not take comes back.
    let frame = DmaSlice::alloc(&guest, 1515).unwrap();
    let refused = queue.split().1.send(78, frame, TxMeta::new()).unwrap_err();
    assert_eq!((refused.reason, refused.buffer.is_in_flight()), (Rejected::Invalid, false));
}

#[test]
fn checksum_segmentation_and_tag_are_asked_for() {
    let (_guest, host, _card, mut queue) = card();
    let range = ChecksumRange { start: 34, offset: 16 };
    let (_, tx) = queue.split();
    assert!(tx.reserve(200));
    tx.commit(200, TxMeta::new().with_checksum(range).with_vlan(VlanTag(9))).unwrap();
    // A long frame, of TCP over IPv4, with the sum of its pseudo-header over its length.
    assert!(tx.reserve(40_000));
    let len = (40_000u32 - 34) as u16;
    tx.slot()[50..52].copy_from_slice(&(len.wrapping_add(0x1000)).to_be_bytes());
    let segmentation = Segmentation { kind: SegmentKind::Tcp4, size: 1460, headers: 54 };
    tx.commit(40_000, TxMeta::new().with_checksum(range).with_segmentation(segmentation)).unwrap();
    assert!(!tx.reserve(70_000));
    tx.kick();
    let sent = host.take_sent();
    assert_eq!((sent[0].mode, sent[0].header_len, sent[0].offset, sent[0].tag), (2, 34, 50, Some(9)));
    assert_eq!((sent[1].mode, sent[1].header_len, sent[1].offset, sent[1].tag), (3, 54, 1460, None));
    assert_eq!((sent[1].bytes.len(), &sent[1].bytes[50..52]), (40_000, &0x1000u16.to_be_bytes()[..]));
    queue.poll().unwrap();
    // The buffers of long frames come back.
    for _ in 0..10 {
        let (_, tx) = queue.split();
        assert!(tx.reserve(60_000));
        tx.commit(60_000, TxMeta::new().with_checksum(range).with_segmentation(segmentation)).unwrap();
        tx.kick();
        queue.poll().unwrap();
    }
    assert_eq!(host.take_sent().len(), 10);
}

#[test]
fn metadata_of_received_frames_are_told() {
    let guest = Guest::new();
    let host = Vmxnet3Host::new(&guest);
    host.faults(|faults| faults.more_revisions = 2);
    let mut card = open(&guest, &host, &Vmxnet3Options::default());
    assert_eq!(host.chosen().0, 2);
    let mut queue = card.take_queue(0).unwrap();
    let lro = Offloads::RX_TCP4 | Offloads::RX_TCP6;
    card.set_offloads(lro | Offloads::RX_CHECKSUM).unwrap();
    assert_eq!(host.area(24, 1), [1 | 4 | 8]);
    assert!(card.info().offloads.contains(lro));
    let mut bytes = vec![0; 30_000];
    (bytes[12], bytes[14], bytes[23], bytes[46]) = (8, 0x45, 6, 0x50);
    let meta = ReceivedMeta {
        flags: ReceivedMeta::TCP4,
        tag: Some(5),
        coalesced: Some((21, 1448)),
        ..Default::default()
    };
    assert!(host.receive_with(&bytes, meta));
    queue.poll().unwrap();
    let frame = queue.split().0.front().unwrap();
    assert_eq!((frame.len, frame.segments), (30_000, 15));
    assert_eq!((frame.meta.checksum, frame.meta.vlan), (RxChecksum::Valid, Some(VlanTag(5))));
    let expected = Segmentation { kind: SegmentKind::Tcp4, size: 1448, headers: 54 };
    assert_eq!(frame.meta.segmentation, Some(expected));
    assert_eq!(next(&mut queue), Some(bytes));
}

#[test]
fn jumbo_frames_take_several_buffers() {
    let guest = Guest::new();
    let host = Vmxnet3Host::new(&guest);
    let mut card = open(&guest, &host, &Vmxnet3Options::new().with_mtu(9000));
    let mut queue = card.take_queue(0).unwrap();
    for round in 0..500u32 {
        let bytes: Vec<u8> = (0..9014).map(|at| (at + round) as u8).collect();
        send(&mut queue, &bytes);
        queue.split().1.kick();
        assert_eq!(host.take_sent()[0].bytes, bytes);
        assert!(host.receive(&bytes));
        queue.poll().unwrap();
        assert_eq!(queue.split().0.front().unwrap().meta.segmentation, None);
        assert_eq!(next(&mut queue), Some(bytes));
    }
}

/// Also with the smallest rings, and the largest.
#[test]
fn rings_of_every_size_work() {
    for (queue_size, mtu) in [(0, 1500), (8, 9000), (64, 68), (4096, 1500)] {
        let guest = Guest::new();
        let host = Vmxnet3Host::new(&guest);
        let options = Vmxnet3Options::new().with_queue_size(queue_size).with_mtu(mtu);
        let mut card = open(&guest, &host, &options);
        let mut queue = card.take_queue(0).unwrap();
        let depth = u32::from(card.info().depth);
        for round in 0..2 * u32::from(queue_size.max(32)) {
            send(&mut queue, &[round as u8; 60]);
            if round % depth == depth - 1 {
                queue.split().1.kick();
                queue.poll().unwrap();
            }
        }
        queue.split().1.kick();
        let sent = host.take_sent();
        assert!(sent.iter().enumerate().all(|(at, frame)| frame.bytes == [at as u8; 60]), "{queue_size}");
        assert_eq!(sent.len(), 2 * usize::from(queue_size.max(32)));
    }
}

#[test]
fn settings_reach_the_card_and_survive_a_reset() {
    let guest = Guest::new();
    let host = Vmxnet3Host::new(&guest);
    let mut card = open(&guest, &host, &Vmxnet3Options::new().with_pairs(3));
    assert_eq!(card.info().queues, 2);
    let mut queues = [card.take_queue(0).unwrap(), card.take_queue(1).unwrap()];
    assert!(card.take_queue(0).is_none() && card.take_queue(2).is_none());
    card.set_receive_mode(ReceiveMode::Promiscuous).unwrap();
    card.set_multicast(&[MacAddr([1, 0, 0x5e, 0, 0, 1]), MacAddr([1, 0, 0x5e, 0, 0, 2])]).unwrap();
    card.set_mac(MacAddr([2, 0, 0, 0, 0, 9])).unwrap();
    card.set_active_queues(2).unwrap();
    assert_eq!(card.set_multicast(&[MacAddr::default(); 65]), Err(ControlError::Refused));
    assert_eq!(card.set_active_queues(3), Err(ControlError::Unsupported));
    let check = || {
        assert_eq!(host.area(120, 1), [0x1f]);
        assert_eq!((host.area(124, 2), host.behind(128, 12)[11]), (vec![12, 0], 2));
        assert_eq!(host.mac(), [2, 0, 0, 0, 0, 9]);
        // The table of the second half of RSS's configuration.
        assert_eq!(host.behind(656, 52)[48..], [0, 1, 0, 1]);
        assert_eq!(host.area(24, 1), [1 | 2 | 4]);
    };
    check();
    host.faults(|faults| faults.holds = true);
    let frame = DmaSlice::alloc(&guest, 60).unwrap();
    queues[0].split().1.send(5, frame, TxMeta::new()).unwrap();
    assert_eq!(queues[0].reset(), Ok(()));
    // The second pair has its buffers still.
    assert_eq!((host.activations(), queues[0].poll()), (1, Ok(())));
    let sent = queues[0].split().1.sent().unwrap();
    assert_eq!((sent.tag, sent.result, sent.buffer.is_some()), (5, Err(IoError::Aborted), true));
    assert_eq!(card.set_mac(MacAddr::default()), Err(ControlError::Faulted(Fault::Reset)));
    queues[1].poll().unwrap();
    assert_eq!(host.activations(), 2);
    check();
    host.faults(|faults| faults.holds = false);
    for (index, queue) in queues.iter_mut().enumerate() {
        queue.poll().unwrap();
        send(queue, &[index as u8; 60]);
        queue.split().1.kick();
        assert_eq!(host.take_sent()[0].queue, index);
        assert!(host.receive_with(&[7; 99], ReceivedMeta { queue: index, ..Default::default() }));
        queue.poll().unwrap();
        assert_eq!(next(queue), Some(vec![7; 99]));
    }
}

#[test]
fn the_link_and_failed_queues_are_events() {
    let (_guest, host, mut card, mut queue) = card();
    assert_eq!(card.poll_event(), None);
    host.set_link(false, 0);
    assert_eq!((card.poll_event(), card.link()), (Some(NetEvent::Link(Link::Down)), Link::Down));
    host.set_link(true, 100);
    assert_eq!((card.poll_event(), card.info().speed), (Some(NetEvent::Link(Link::Up)), Some(100)));
    assert_eq!(card.poll_event(), None);
    host.fail_queue(0, 0x1234);
    assert_eq!(card.poll_event(), None);
    queue.poll().unwrap();
    assert_eq!(host.activations(), 2);
    send(&mut queue, &[1; 60]);
    queue.split().1.kick();
    assert_eq!(host.take_sent().len(), 1);
}

#[test]
fn a_card_that_sends_nothing_is_reset() {
    let (guest, host, _card, mut queue) = card();
    host.faults(|faults| faults.holds = true);
    send(&mut queue, &[1; 60]);
    let _ = queue.arm();
    let deadline = queue.next_deadline();
    assert!(deadline < Instant::NEVER);
    guest.turn(Duration::from_secs(61));
    queue.expire(guest.now()).unwrap();
    assert_eq!(host.activations(), 2);
    host.faults(|faults| faults.holds = false);
    queue.poll().unwrap();
    host.take_sent();
    send(&mut queue, &[2; 60]);
    queue.split().1.kick();
    assert_eq!(host.take_sent()[0].bytes, [2; 60]);
}

#[test]
fn odd_completions_are_dropped_and_counted() {
    let (_guest, host, _card, mut queue) = card();
    // Wrong index, wrong queue, too long, damaged: each once, with a good frame after it.
    let changes: [fn(&mut [u32; 4]); 5] = [
        |words| words[0] |= 0xfff,
        |words| words[0] |= 0x3ff << 16,
        |words| words[2] |= 0x3fff,
        |words| words[2] |= 1 << 14,
        |words| words[2] &= !0x3fff,
    ];
    for change in changes {
        let mut is_first = true;
        host.faults(|faults| {
            faults.mutate_rx = Some(Box::new(move |words| {
                if std::mem::take(&mut is_first) {
                    change(words);
                }
            }));
        });
        assert!(host.receive(&[1; 60]) && host.receive(&[2; 60]));
        queue.poll().unwrap();
        assert_eq!((next(&mut queue), next(&mut queue)), (Some(vec![2; 60]), None));
    }
    // A sent frame that is completed by a wrong index, and then with the next one.
    let mut is_first = true;
    host.faults(|faults| {
        faults.mutate_tx = Some(Box::new(move |words| {
            if std::mem::take(&mut is_first) {
                words[0] = 0xfff;
            }
        }));
    });
    for _ in 0..600 {
        send(&mut queue, &[1; 60]);
        queue.split().1.kick();
        queue.poll().unwrap();
    }
    assert_eq!(host.take_sent().len(), 600);
}

#[test]
fn skipped_descriptors_are_filled_again() {
    let (_guest, host, _card, mut queue) = card();
    host.faults(|faults| faults.skips = true);
    for round in 0..1000u32 {
        assert!(host.receive(&[round as u8; 60]), "round {round}");
        queue.poll().unwrap();
        assert_eq!(next(&mut queue), Some(vec![round as u8; 60]));
        queue.poll().unwrap();
    }
}

#[test]
fn cards_that_cannot_be_used_are_refused() {
    let refused = |change: fn(&Vmxnet3Host)| {
        let guest = Guest::new();
        let before = guest.pages();
        let host = Vmxnet3Host::new(&guest);
        change(&host);
        let error = Vmxnet3::<_, Buffer>::new(&guest, host.device(), &Vmxnet3Options::default()).unwrap_err();
        (error, guest.pages() - before)
    };
    assert_eq!(refused(|host| host.faults(|faults| faults.lacks_revision = true)), (OpenError::Revision, 0));
    let faulted = |fault| OpenError::Faulted(fault);
    assert_eq!(refused(|host| host.faults(|faults| faults.refuses = true)), (faulted(Fault::Refused), 0));
    assert_eq!(refused(|host| host.pci(|pci| pci.is_gone = true)).0, OpenError::Revision);
    // Nothing was given to it.
    let (error, _) = refused(|host| {
        host.pci(|pci| pci.keeps_bus_master = true);
    });
    assert_eq!(error, faulted(Fault::Timeout));
}

#[test]
fn a_removed_card_reports_it_and_leaks_nothing() {
    let guest = Guest::new();
    let pages = guest.pages();
    let host = Vmxnet3Host::new(&guest);
    let mut card = open(&guest, &host, &Vmxnet3Options::default());
    let mut queue = card.take_queue(0).unwrap();
    host.faults(|faults| faults.holds = true);
    let frame = DmaSlice::alloc(&guest, 60).unwrap();
    queue.split().1.send(5, frame, TxMeta::new()).unwrap();
    queue.split().1.kick();
    host.pci(|pci| pci.is_gone = true);
    assert_eq!(card.poll_event(), Some(NetEvent::Faulted(Fault::Removed)));
    assert_eq!(queue.poll(), Err(Fault::Removed));
    let sent = queue.split().1.sent().unwrap();
    assert_eq!((sent.result, sent.buffer.is_some()), (Err(IoError::Aborted), true));
    let frame = DmaSlice::alloc(&guest, 60).unwrap();
    assert_eq!(queue.split().1.send(6, frame, TxMeta::new()).unwrap_err().reason, Fault::Removed.into());
    drop((sent, queue, card, host));
    assert_eq!(guest.pages(), pages);
}

#[test]
fn memory_of_a_card_that_does_not_stop_is_leaked() {
    let guest = Guest::new();
    let pages = guest.pages();
    let host = Vmxnet3Host::new(&guest);
    let mut card = open(&guest, &host, &Vmxnet3Options::default());
    let mut queue = card.take_queue(0).unwrap();
    host.faults(|faults| faults.holds = true);
    let frame = DmaSlice::alloc(&guest, 60).unwrap();
    queue.split().1.send(5, frame, TxMeta::new()).unwrap();
    queue.split().1.kick();
    host.pci(|pci| pci.keeps_bus_master = true);
    assert_eq!(queue.reset(), Err(Fault::Timeout));
    let sent = queue.split().1.sent().unwrap();
    assert_eq!((sent.result, sent.buffer.is_none()), (Err(IoError::Aborted), true));
    assert_eq!(card.poll_event(), Some(NetEvent::Faulted(Fault::Timeout)));
    drop((queue, card));
    assert!(guest.pages() > pages);
}

#[test]
fn a_pair_outlives_its_card_and_a_card_its_pairs() {
    let guest = Guest::new();
    let pages = guest.pages();
    let host = Vmxnet3Host::new(&guest);
    let mut card = open(&guest, &host, &Vmxnet3Options::new().with_pairs(2));
    let (mut first, second) = (card.take_queue(0).unwrap(), card.take_queue(1).unwrap());
    // The card goes on with a pair that nobody uses.
    drop(second);
    assert!(host.receive_with(&[1; 60], ReceivedMeta { queue: 1, ..Default::default() }));
    assert!(card.take_queue(1).is_none());
    // A reset does not wait for it.
    assert_eq!((first.reset(), host.activations()), (Ok(()), 2));
    drop(card);
    first.poll().unwrap();
    send(&mut first, &[1; 60]);
    first.split().1.kick();
    assert_eq!(host.take_sent().len(), 1);
    drop((first, host));
    assert_eq!(guest.pages(), pages);
}

#[test]
fn interrupts_come_by_messages_one_message_a_line_or_not_at_all() {
    let line = InterruptLine { number: 11, trigger: Trigger::Level, polarity: Polarity::Low };
    let cases = [
        (25, false, None, Signalling::Messages),
        (1, false, None, Signalling::SharedMessages),
        (25, true, Some(line), Signalling::Line),
        (0, false, Some(line), Signalling::Line),
        (0, false, None, Signalling::Polled),
    ];
    for (messages, ignores, line, signalling) in cases {
        let guest = Guest::with(1, true);
        let host = Vmxnet3Host::new(&guest);
        host.pci(|pci| (pci.messages, pci.ignores_messages, pci.line) = (messages, ignores, line));
        let mut card = open(&guest, &host, &Vmxnet3Options::default());
        assert_eq!(card.info().connection.signalling, signalling);
        let mut queue = card.take_queue(0).unwrap();
        let is_signalled = signalling != Signalling::Polled;
        let armed = if is_signalled { Arm::Armed } else { Arm::Unsignalled };
        // Masked until it is armed.
        host.receive(&[1; 60]);
        assert_eq!(guest.interrupts(), 0);
        assert_eq!(queue.arm(), Arm::Pending);
        queue.poll().unwrap();
        next(&mut queue);
        assert_eq!(queue.arm(), armed);
        for _ in 0..3 {
            let before = guest.interrupts();
            assert!(host.receive(&[1; 60]) && host.receive(&[2; 60]));
            // The second one finds the vector masked.
            assert_eq!(guest.interrupts() - before, u64::from(is_signalled));
            queue.poll().unwrap();
            assert!(next(&mut queue).is_some() && next(&mut queue).is_some());
            assert_eq!(queue.arm(), armed);
        }
        // A frame that was sent wakes nobody who does not wait for it.
        let before = guest.interrupts();
        if signalling == Signalling::Messages {
            send(&mut queue, &[1; 60]);
            queue.split().1.kick();
            assert_eq!(guest.interrupts(), before);
        }
        // A reset leaves it armed anew by the next call.
        queue.reset().unwrap();
        queue.poll().unwrap();
        let _ = queue.arm();
        drop((queue, card));
        assert_eq!(guest.bound_handlers(), 0);
    }
}

/// A reservation keeps its descriptor: nothing is written over what the card has not read.
#[test]
fn a_full_ring_refuses_and_overwrites_nothing() {
    let (guest, host, card, mut queue) = card();
    host.faults(|faults| faults.threshold = u32::MAX);
    // As many as there is room for, but one.
    let room = u64::from(card.info().depth);
    let (_, tx) = queue.split();
    let frame = || DmaSlice::alloc(&guest, 60).unwrap();
    (1..room).for_each(|tag| tx.send(tag, frame(), TxMeta::new()).unwrap());
    assert!(tx.reserve(60));
    assert_eq!(tx.send(room, frame(), TxMeta::new()).unwrap_err().reason, Rejected::Full);
    tx.slot()[..60].fill(9);
    tx.commit(60, TxMeta::new()).unwrap();
    assert!(!tx.reserve(60));
    assert_eq!(tx.commit(60, TxMeta::new().with_vlan(VlanTag(1))), Err(Rejected::Full));
    assert_eq!(tx.send(room, frame(), TxMeta::new()).unwrap_err().reason, Rejected::Full);
    queue.reset().unwrap();
    queue.poll().unwrap();
    let tags: Vec<u64> = std::iter::from_fn(|| queue.split().1.sent()).map(|sent| sent.tag).collect();
    assert_eq!(tags, (1..room).collect::<Vec<_>>());
}

/// Halves that were exchanged are not drained for each other: the card stays out of service, and memory that it may write is not read.
#[test]
fn exchanged_halves_keep_the_card_out_of_service() {
    let guest = Guest::new();
    let host = Vmxnet3Host::new(&guest);
    let mut card = open(&guest, &host, &Vmxnet3Options::new().with_pairs(2));
    let [mut a, mut b] = [0, 1].map(|index| card.take_queue(index).unwrap());
    assert!(host.receive_with(&[7; 60], ReceivedMeta { queue: 1, ..Default::default() }));
    b.poll().unwrap();
    a.reset().unwrap();
    std::mem::swap(a.split().0, b.split().0);
    assert_eq!((b.poll(), a.poll()), (Err(Fault::Refused), Err(Fault::Refused)));
    assert_eq!(host.activations(), 1);
    assert!(!host.receive_with(&[9; 60], ReceivedMeta { queue: 1, ..Default::default() }));
    assert_eq!(a.split().0.segment(0), Some(&mut [7; 60][..]));
    assert_eq!(card.poll_event(), Some(NetEvent::Faulted(Fault::Refused)));
}

/// Neither a reset with polls in between nor another queue that is disarmed or dropped leaves a vector masked for good.
#[test]
fn interrupts_survive_resets_and_other_queues() {
    for messages in [25, 1] {
        let guest = Guest::with(1, true);
        let host = Vmxnet3Host::new(&guest);
        host.pci(|pci| pci.messages = messages);
        let mut card = open(&guest, &host, &Vmxnet3Options::new().with_pairs(2));
        let [mut a, mut b] = [0, 1].map(|index| card.take_queue(index).unwrap());
        let ((frames, frame_waker), (events, event_waker)) = (Wakes::new(), Wakes::new());
        a.register(&frame_waker);
        card.register(&event_waker);
        a.reset().unwrap();
        // The card waits for the second pair.
        assert_eq!(card.poll_event(), None);
        b.poll().unwrap();
        a.poll().unwrap();
        assert_eq!(card.poll_event(), None);
        assert_eq!(a.arm(), Arm::Armed);
        let _ = (frames.take(), events.take());
        host.receive(&[1; 60]);
        assert!(frames.take() > 0, "{messages}");
        a.poll().unwrap();
        next(&mut a);
        assert_eq!((a.arm(), card.poll_event()), (Arm::Armed, None));
        events.take();
        host.set_link(false, 10);
        assert!(events.take() > 0, "{messages}");
        assert!(card.poll_event().is_some());
        let _ = b.arm();
        b.disarm();
        drop(b);
        assert_eq!(a.arm(), Arm::Armed);
        frames.take();
        host.receive(&[1; 60]);
        assert!(frames.take() > 0, "{messages}");
    }
}

/// A caller that waits for a buffer of a long frame is woken when there is one.
#[test]
fn a_sender_of_long_frames_is_woken() {
    let guest = Guest::with(1, true);
    let host = Vmxnet3Host::new(&guest);
    host.pci(|pci| pci.messages = 25);
    host.faults(|faults| faults.holds = true);
    let mut card = open(&guest, &host, &Vmxnet3Options::default());
    let mut queue = card.take_queue(0).unwrap();
    let (woken, waker) = Wakes::new();
    queue.register(&waker);
    let range = ChecksumRange { start: 34, offset: 16 };
    let segmentation = Segmentation { kind: SegmentKind::Tcp4, size: 1460, headers: 54 };
    let (_, tx) = queue.split();
    while tx.reserve(40_000) {
        tx.commit(40_000, TxMeta::new().with_checksum(range).with_segmentation(segmentation)).unwrap();
    }
    assert_eq!(queue.arm(), Arm::Armed);
    host.release();
    assert!(woken.take() > 0);
    queue.poll().unwrap();
    assert!(queue.split().1.reserve(40_000));
}

#[test]
fn what_happens_around_a_reset_is_not_lost() {
    let guest = Guest::new();
    let host = Vmxnet3Host::new(&guest);
    let mut card = open(&guest, &host, &Vmxnet3Options::new().with_pairs(2));
    let [mut a, b] = [0, 1].map(|index| card.take_queue(index).unwrap());
    // A link change with a failed queue, and one while the card is stopped.
    host.fail_queue(0, 1);
    host.set_link(false, 0);
    assert_eq!(card.poll_event(), Some(NetEvent::Link(Link::Down)));
    host.set_link(true, 10);
    host.faults(|faults| faults.holds = true);
    // Buffers of a pair that nobody has any more are given back when the card has stopped.
    drop(b);
    let pages = guest.pages();
    a.poll().unwrap();
    assert_eq!(card.poll_event(), Some(NetEvent::Link(Link::Up)));
    let frame = DmaSlice::alloc(&guest, 60).unwrap();
    a.split().1.send(5, frame, TxMeta::new()).unwrap();
    drop(a);
    drop(card);
    assert!(guest.pages() < pages);
}

/// Another queue's reset aborts what is in flight: the task is to look, not to sleep.
#[test]
fn aborted_sends_are_pending() {
    let guest = Guest::new();
    let host = Vmxnet3Host::new(&guest);
    let mut card = open(&guest, &host, &Vmxnet3Options::new().with_pairs(2));
    let [mut a, mut b] = [0, 1].map(|index| card.take_queue(index).unwrap());
    host.faults(|faults| faults.holds = true);
    b.split().1.send(5, DmaSlice::alloc(&guest, 60).unwrap(), TxMeta::new()).unwrap();
    a.reset().unwrap();
    assert_eq!(b.arm(), Arm::Pending);
    assert_eq!(b.split().1.sent().unwrap().result, Err(IoError::Aborted));
}

//! The netvsc driver against our model of NetVSP.

use core::time::Duration;
use hyperv_bindings::rndis::{RndisInfoType, RndisOid, RndisRxChecksumFlags, RndisStatus};
use paravirt_device::{
    Arm, ChecksumRange, ControlError, Fault, IoError, Link, MacAddr, NetDevice, NetEvent, NetQueue, NetRx,
    NetTx, Notify, Offloads, ReceiveMode, Rejected, RxChecksum, SegmentKind, Segmentation, TxMeta, VlanTag,
};
use paravirt_hyperv::Hypervisor;
use paravirt_netvsc::{DataPath, INTERFACE, NetOptions, NetVsc, NetVscQueue, NvspVersion, OpenError};
use paravirt_platform::{DmaSlice, Platform};
use paravirt_testhost::{Guest, HvHost, NetVspHost, OfferSettings, Wakes, WireFrame};
use paravirt_vmbus::{Guid, Version, Vmbus};

type Buffer = DmaSlice<Guest>;
type Card = NetVsc<Guest, Buffer>;
type Queue = NetVscQueue<Guest, Buffer>;

const NOWHERE: Guid = Guid([0; 16]);

/// A guest with a network card, and its host.
struct Bench {
    guest: Guest,
    host: HvHost,
    wire: NetVspHost,
    vmbus: Vmbus<Guest>,
    channel: u32,
}

impl Bench {
    fn new() -> Self {
        let guest = Guest::with(2, true);
        let wire = NetVspHost::new();
        let (host, channel) = HvHost::with_device(&guest, INTERFACE, wire.clone());
        let hypervisor = Hypervisor::open(&guest).expect("a hypervisor");
        let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST).expect("a connection");
        Self { guest, host, wire, vmbus, channel }
    }

    fn try_open(&self, options: &NetOptions) -> Result<Card, OpenError> {
        let offer = self.vmbus.find(&NOWHERE, 0).expect("an offer");
        Card::open(&self.guest, &self.vmbus, &offer, options)
    }

    fn first(&self) -> (Card, Queue) {
        let mut card = self.try_open(&NetOptions::default()).expect("a card");
        let queue = card.take_queue(0).expect("a queue");
        (card, queue)
    }

    fn work(&self) {
        self.host.work(&self.guest, self.channel);
    }

    fn is_clean(&self) {
        assert_eq!(self.host.violations(), Vec::<String>::new());
        assert_eq!(self.wire.violations(), Vec::<String>::new());
    }
}

fn frame(len: usize, byte: u8) -> Vec<u8> {
    (0..len).map(|at| if at < 14 { byte } else { at as u8 ^ byte }).collect()
}

fn commit(queue: &mut Queue, bytes: &[u8], meta: TxMeta) -> Result<(), Rejected> {
    let (_, tx) = queue.split();
    assert!(tx.reserve(bytes.len()), "no room for {} bytes", bytes.len());
    tx.slot()[..bytes.len()].copy_from_slice(bytes);
    tx.commit(bytes.len(), meta)
}

fn kick(queue: &mut Queue) {
    queue.split().1.kick();
}

/// Pops the next received frame.
fn next(queue: &mut Queue) -> Option<Vec<u8>> {
    let (rx, _) = queue.split();
    let mut scratch = vec![0; 65550];
    let bytes = rx.contiguous(&mut scratch)?.to_vec();
    rx.pop();
    Some(bytes)
}

#[test]
fn every_version_sends_and_receives() {
    for newest in [
        NvspVersion::V61,
        NvspVersion::V6,
        NvspVersion::V5,
        NvspVersion::V4,
        NvspVersion::V2,
        NvspVersion::V1,
    ] {
        let bench = Bench::new();
        bench.wire.fault_config(|fault_config| fault_config.newest = newest);
        let (card, mut queue) = bench.first();
        assert_eq!(card.version(), newest);
        let info = card.info();
        assert_eq!((info.mac, info.mtu, info.speed), (MacAddr([0, 0x15, 0x5d, 1, 2, 3]), 1500, Some(10_000)));
        assert_eq!(card.link(), Link::Up);
        for len in [14, 60, 1514] {
            commit(&mut queue, &frame(len, 3), TxMeta::default()).expect("sent");
            kick(&mut queue);
            assert_eq!(bench.wire.take_sent(), [frame(len, 3)]);
            bench.wire.receive(&frame(len, 5));
            bench.work();
            queue.poll().expect("no fault");
            assert_eq!(next(&mut queue), Some(frame(len, 5)));
        }
        queue.poll().expect("no fault");
        bench.work();
        assert_eq!(bench.wire.pieces_in_use(), 0);
        drop((queue, card));
        assert!(bench.wire.is_halted());
        assert_eq!((bench.host.gpadls(), bench.wire.settings().0), ((0, 0), 0));
        bench.is_clean();
    }
}

#[test]
fn a_host_without_a_version_in_common_is_refused() {
    let bench = Bench::new();
    bench.wire.fault_config(|fault_config| fault_config.newest = NvspVersion(1));
    assert_eq!(bench.try_open(&NetOptions::default()).err(), Some(OpenError::Version));
    assert_eq!(bench.host.gpadls(), (0, 0));
    bench.is_clean();
}

#[test]
fn a_batch_of_32_costs_one_signal_and_few_packets() {
    let bench = Bench::new();
    let (_card, mut queue) = bench.first();
    while queue.arm() == Arm::Pending {
        queue.poll().expect("no fault");
    }
    let before = (bench.host.signals(bench.channel), bench.wire.packets());
    for at in 0..32 {
        commit(&mut queue, &frame(60, at), TxMeta::default()).expect("room");
    }
    kick(&mut queue);
    kick(&mut queue);
    let after = (bench.host.signals(bench.channel), bench.wire.packets());
    assert_eq!((after.0.0 - before.0.0, after.0.1 - before.0.1, after.1 - before.1), (1, 1, 4));
    assert_eq!(bench.wire.take_sent(), (0..32).map(|at| frame(60, at)).collect::<Vec<_>>());
    // Reception: eight frames per packet, each packet completed once.
    for at in 0..32 {
        bench.wire.receive(&frame(60, at));
    }
    queue.poll().expect("no fault");
    while queue.arm() == Arm::Pending {
        queue.poll().expect("no fault");
    }
    let before = bench.host.signals(bench.channel);
    bench.work();
    queue.poll().expect("no fault");
    for at in 0..32 {
        assert_eq!(next(&mut queue), Some(frame(60, at)));
    }
    assert_eq!(bench.wire.pieces_in_use(), 32);
    queue.poll().expect("no fault");
    assert_eq!(bench.wire.pieces_in_use(), 0);
    let after = bench.host.signals(bench.channel);
    assert_eq!((after.0 - before.0, after.1 - before.1), (1, 1));
    bench.is_clean();
}

#[test]
fn reserve_fails_while_all_sections_are_in_flight() {
    let bench = Bench::new();
    let mut options = NetOptions::default();
    options.send_bytes = 64 << 10;
    let mut card = bench.try_open(&options).expect("a card");
    let mut queue = card.take_queue(0).expect("a queue");
    bench.wire.fault_config(|fault_config| fault_config.holds = true);
    let mut sent = 0;
    while queue.split().1.is_ready(1514) {
        commit(&mut queue, &frame(1514, sent), TxMeta::default()).expect("room");
        sent += 1;
    }
    assert!(!queue.split().1.reserve(1514));
    kick(&mut queue);
    // Ten sections of 6144 bytes, three frames in each.
    assert_eq!((sent, bench.wire.take_sent().len()), (30, 30));
    bench.wire.fault_config(|fault_config| fault_config.holds = false);
    bench.work();
    queue.poll().expect("no fault");
    assert!(queue.split().1.is_ready(1514));
    bench.is_clean();
}

#[test]
fn a_reservation_survives_a_kick() {
    let bench = Bench::new();
    let (_card, mut queue) = bench.first();
    commit(&mut queue, &frame(60, 1), TxMeta::default()).expect("room");
    let (_, tx) = queue.split();
    assert!(tx.reserve(60));
    tx.slot()[..60].copy_from_slice(&frame(60, 2));
    tx.kick();
    tx.commit(60, TxMeta::default()).expect("reserved");
    tx.kick();
    assert_eq!(bench.wire.take_sent(), [frame(60, 1), frame(60, 2)]);
    queue.poll().expect("no fault");
    // No section is lost.
    bench.wire.fault_config(|fault_config| fault_config.holds = true);
    let mut count = 0;
    while queue.split().1.is_ready(1514) {
        commit(&mut queue, &frame(1514, 0), TxMeta::default()).expect("room");
        count += 1;
    }
    assert_eq!(count, (1 << 20) / 6144 * 3);
    bench.is_clean();
}

#[test]
fn frames_are_sent_from_memory_of_the_caller() {
    let bench = Bench::new();
    let (_card, mut queue) = bench.first();
    let buffer_with = |bytes: &[u8]| {
        let mut buffer = DmaSlice::alloc(&bench.guest, bytes.len()).expect("memory");
        buffer.bytes_mut().copy_from_slice(bytes);
        buffer
    };
    let (_, tx) = queue.split();
    tx.send(7, buffer_with(&frame(1000, 4)), TxMeta::default())
        .map_err(|refused| refused.reason)
        .expect("sent");
    bench
        .wire
        .fault_config(|fault_config| fault_config.status = hyperv_bindings::netvsp::NvspStatus::FAILURE);
    let tcp = ChecksumRange { start: 34, offset: 16 };
    let meta = TxMeta::new().with_checksum(tcp).with_vlan(VlanTag(5));
    tx.kick();
    tx.send(8, buffer_with(&frame(500, 6)), meta).map_err(|refused| refused.reason).expect("sent");
    let cut = Segmentation { kind: SegmentKind::Tcp4, size: 400, headers: 54 };
    let meta = TxMeta::new().with_checksum(tcp).with_segmentation(cut);
    let refused = tx.send(9, buffer_with(&frame(500, 6)), meta).unwrap_err();
    assert_eq!((refused.reason, refused.buffer.bytes()), (Rejected::Unsupported, &frame(500, 6)[..]));
    tx.kick();
    assert_eq!(bench.wire.take_sent(), [frame(1000, 4), frame(500, 6)]);
    assert_eq!(bench.wire.take_infos()[1], [(0, 34 << 16 | 0b101), (6, 0x50)]);
    queue.poll().expect("no fault");
    let (_, tx) = queue.split();
    let first = tx.sent().expect("sent");
    assert_eq!(
        (first.tag, first.result, first.buffer.as_ref().expect("its buffer").bytes()),
        (7, Err(IoError::Device), &frame(1000, 4)[..])
    );
    assert_eq!(tx.sent().map(|sent| (sent.tag, sent.result)), Some((8, Err(IoError::Device))));
    assert!(tx.sent().is_none());
    bench.is_clean();
}

#[test]
fn offloads_travel_as_packet_information() {
    let bench = Bench::new();
    let (mut card, mut queue) = bench.first();
    let info = card.info();
    let all = Offloads::all().difference(Offloads::TX_UDP | Offloads::RX_UDP);
    assert_eq!((info.offloads, info.max_segmented), (all, 0xf53c));
    let mut large = frame(20_000, 1);
    large[12..14].copy_from_slice(&[0x08, 0x00]);
    let cut = Segmentation { kind: SegmentKind::Tcp4, size: 1460, headers: 54 };
    let checksum = ChecksumRange { start: 34, offset: 16 };
    commit(&mut queue, &large, TxMeta::new().with_checksum(checksum).with_segmentation(cut)).expect("sent");
    kick(&mut queue);
    let sent = bench.wire.take_sent();
    assert_eq!((sent[0].len(), &sent[0][60..]), (20_000, &large[60..]));
    assert_eq!(bench.wire.take_infos(), [[(RndisInfoType::LSO.0, 1460 | 34 << 20 | 1 << 30)]]);
    // Reception: verified checksums, a VLAN tag, and a coalesced frame.
    let good = (RndisInfoType::CHECKSUM.0, RndisRxChecksumFlags::TCP_SUCCEEDED.bits());
    let info = vec![good, (RndisInfoType::VLAN.0, 0x30)];
    bench.wire.receive_on(0, WireFrame { bytes: frame(100, 1), info });
    let mut tcp = frame(1514, 2);
    tcp[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
    (tcp[20], tcp[21], tcp[23], tcp[46]) = (0, 0, 6, 0x50);
    let part = |flags: u32| (RndisInfoType::PACKET_ID.0, 1 | flags << 8);
    bench.wire.receive_on(0, WireFrame { bytes: tcp.clone(), info: vec![good, part(3)] });
    bench.wire.receive_on(0, WireFrame { bytes: vec![7; 1460], info: vec![part(1)] });
    bench.wire.receive_on(0, WireFrame { bytes: vec![8; 10], info: vec![part(5)] });
    bench.work();
    queue.poll().expect("no fault");
    let (rx, _) = queue.split();
    let first = rx.front().expect("a frame");
    assert_eq!((first.meta.checksum, first.meta.vlan), (RxChecksum::Valid, Some(VlanTag(3))));
    rx.pop();
    let second = rx.front().expect("a frame");
    assert_eq!((second.len, second.segments, second.meta.segmentation), (1514 + 1470, 3, Some(cut)));
    assert_eq!(rx.segment(2).expect("a part"), [8; 10]);
    assert_eq!(rx.segment(0).expect("a part"), tcp);
    assert_eq!(rx.segment(1).expect("a part"), [7; 1460]);
    assert!(rx.segment(3).is_none());
    rx.pop();
    assert!(rx.front().is_none());
    card.set_offloads(Offloads::RX_CHECKSUM).expect("a setting");
    assert!(!card.info().offloads.contains(Offloads::RX_TCP4));
    bench.is_clean();
}

#[test]
fn a_host_without_offloads_and_send_buffer_works() {
    let bench = Bench::new();
    bench.wire.fault_config(|fault_config| {
        (fault_config.lacks_offloads, fault_config.refuses_send_buffer) = (true, true)
    });
    let (card, mut queue) = bench.first();
    assert_eq!(card.info().offloads, Offloads::empty());
    commit(&mut queue, &frame(60, 1), TxMeta::default()).expect("sent");
    kick(&mut queue);
    assert_eq!(bench.wire.take_sent(), [frame(60, 1)]);
    bench.is_clean();
}

#[test]
fn jumbo_frames_are_sent_and_received() {
    let bench = Bench::new();
    let options = NetOptions::default().with_mtu(9000);
    let mut card = bench.try_open(&options).expect("a card");
    assert_eq!(card.info().mtu, 9000);
    let mut queue = card.take_queue(0).expect("a queue");
    commit(&mut queue, &frame(9014, 1), TxMeta::default()).expect("sent");
    kick(&mut queue);
    bench.wire.receive(&frame(9014, 2));
    bench.work();
    queue.poll().expect("no fault");
    assert_eq!((bench.wire.take_sent(), next(&mut queue)), (vec![frame(9014, 1)], Some(frame(9014, 2))));
    let (_, tx) = queue.split();
    assert!(tx.reserve(9016));
    assert_eq!(tx.commit(9015, TxMeta::default()), Err(Rejected::Invalid));
    bench.is_clean();
}

#[test]
fn jumbo_frames_are_sent_without_segmentation_offload() {
    let bench = Bench::new();
    bench.wire.fault_config(|fault_config| fault_config.lacks_offloads = true);
    let options = NetOptions::default().with_mtu(9000);
    let mut card = bench.try_open(&options).expect("a card");
    let mut queue = card.take_queue(0).expect("a queue");
    // The small frame is sent first, although it waits in a section.
    commit(&mut queue, &frame(60, 1), TxMeta::default()).expect("sent");
    commit(&mut queue, &frame(9014, 2), TxMeta::default()).expect("sent");
    commit(&mut queue, &frame(60, 3), TxMeta::default()).expect("sent");
    kick(&mut queue);
    assert_eq!(bench.wire.take_sent(), [frame(60, 1), frame(9014, 2), frame(60, 3)]);
    bench.is_clean();
}

#[test]
fn completions_wait_for_room_in_a_small_ring() {
    let bench = Bench::new();
    let options = NetOptions::default().with_ring_pages(2);
    let mut card = bench.try_open(&options).expect("a card");
    let mut queue = card.take_queue(0).expect("a queue");
    let (mut came, mut sent) = (0, 0);
    bench.wire.fault_config(|fault_config| fault_config.batch = 1);
    for at in 0..600usize {
        bench.wire.receive(&frame(100, at as u8));
    }
    while came < 600 {
        bench.work();
        if queue.split().1.is_ready(1000) {
            commit(&mut queue, &frame(1000, 9), TxMeta::default()).expect("room");
            sent += 1;
        }
        while let Some(bytes) = next(&mut queue) {
            assert_eq!(bytes, frame(100, came as u8));
            came += 1;
        }
        let _ = queue.arm();
        queue.poll().expect("no fault");
    }
    kick(&mut queue);
    assert_eq!(bench.wire.take_sent().len(), sent);
    bench.is_clean();
}

#[test]
fn packet_ids_without_suballocation_are_ignored() {
    let bench = Bench::new();
    let (_card, mut queue) = bench.first();
    let info = vec![(RndisInfoType::PACKET_ID.0, 1)];
    bench.wire.receive_on(0, WireFrame { bytes: frame(100, 1), info });
    bench.wire.receive(&frame(100, 2));
    bench.work();
    queue.poll().expect("no fault");
    assert_eq!([(); 2].map(|()| next(&mut queue)), [1, 2].map(|byte| Some(frame(100, byte))));
    bench.is_clean();
}

#[test]
fn subchannels_are_queues() {
    let bench = Bench::new();
    bench.wire.fault_config(|fault_config| fault_config.queues = 4);
    let options = NetOptions::default().with_queues(3, 2);
    let mut card = bench.try_open(&options).expect("a card");
    assert_eq!(card.info().queues, 3);
    card.set_active_queues(3).expect("a table");
    let (_, table) = bench.wire.settings();
    assert_eq!((table.len(), &table[..4]), (128, &[0, 1, 2, 0][..]));
    let mut queues: Vec<Queue> = (0..3).map(|at| card.take_queue(at).expect("a queue")).collect();
    for (at, queue) in queues.iter_mut().enumerate() {
        commit(queue, &frame(60, at as u8), TxMeta::default()).expect("sent");
        kick(queue);
        bench.wire.receive_on(at as u16, WireFrame { bytes: frame(80, at as u8), info: vec![] });
        let channel = bench.host.channel(NOWHERE, at as u16).expect("a channel");
        bench.host.work(&bench.guest, channel);
        queue.poll().expect("no fault");
        assert_eq!(next(queue), Some(frame(80, at as u8)));
    }
    assert_eq!(bench.wire.take_sent(), [0, 1, 2].map(|at| frame(60, at)));
    drop((queues, card));
    assert_eq!(bench.host.gpadls(), (0, 0));
    bench.is_clean();
}

#[test]
fn device_events_are_reported_once() {
    let bench = Bench::new();
    let (mut card, mut queue) = bench.first();
    assert_eq!(card.poll_event(), None);
    let (count, waker) = Wakes::new();
    card.register(&waker);
    while queue.arm() == Arm::Pending {
        queue.poll().expect("no fault");
    }
    count.take();
    bench.wire.set_link(false);
    bench.work();
    assert!(count.get() > 0);
    assert_eq!((card.poll_event(), card.link()), (Some(NetEvent::Link(Link::Down)), Link::Down));
    assert_eq!(card.poll_event(), None);
    bench.wire.set_link(true);
    bench.wire.indicate(RndisStatus::NETWORK_CHANGE);
    bench.wire.indicate(RndisStatus::OFFLOAD_CURRENT_CONFIG);
    bench.work();
    // Also if the queue reads the message.
    queue.poll().expect("no fault");
    assert_eq!(card.poll_event(), Some(NetEvent::Link(Link::Up)));
    assert_eq!(card.poll_event(), Some(NetEvent::Announce));
    assert_eq!(card.poll_event(), None);
    bench.wire.associate(Some(9));
    bench.work();
    assert_eq!(card.poll_event(), Some(NetEvent::VirtualFunction { serial: Some(9) }));
    assert_eq!(card.poll_event(), None);
    card.switch_data_path(DataPath::VirtualFunction).expect("switched");
    assert_eq!(bench.wire.path(), 1);
    card.switch_data_path(DataPath::Synthetic).expect("switched");
    bench.wire.associate(None);
    bench.work();
    assert_eq!(card.poll_event(), Some(NetEvent::VirtualFunction { serial: None }));
    assert_eq!(card.poll_event(), None);
    bench.wire.take_oids();
    bench.wire.keep_alive(77);
    bench.work();
    assert_eq!((card.poll_event(), bench.wire.take_oids()), (None, vec![77]));
    bench.is_clean();
}

#[test]
fn settings_are_made_while_frames_are_received() {
    let bench = Bench::new();
    let (mut card, mut queue) = bench.first();
    assert_eq!(bench.wire.settings().0, 0xd);
    bench.wire.receive(&frame(60, 1));
    bench.work();
    card.set_receive_mode(ReceiveMode::Promiscuous).expect("a setting");
    assert_eq!(bench.wire.settings().0, 0x20);
    // The queue gets the frame received meanwhile at its next poll.
    queue.poll().expect("no fault");
    assert_eq!(next(&mut queue), Some(frame(60, 1)));
    card.set_receive_mode(ReceiveMode::Filtered).expect("a setting");
    card.set_multicast(&[MacAddr([1, 0, 0x5e, 0, 0, 1])]).expect("a list");
    assert_eq!(card.set_multicast(&[MacAddr::default(); 5]), Err(ControlError::Refused));
    card.set_mac(MacAddr([2, 0, 0, 0, 0, 9])).expect("an address");
    assert_eq!(card.info().mac, MacAddr([2, 0, 0, 0, 0, 9]));
    bench.wire.fault_config(|fault_config| fault_config.takes_mac = false);
    assert_eq!(card.set_mac(MacAddr([2, 0, 0, 0, 0, 8])), Err(ControlError::Refused));
    assert_eq!(card.info().mac, MacAddr([2, 0, 0, 0, 0, 9]));
    assert!(bench.wire.take_oids().contains(&RndisOid::IEEE_802_3_MULTICAST_LIST.0));
    bench.is_clean();
}

/// The device reads the primary channel while it waits for a response: frames that it finds there belong to the queue.
#[test]
fn frames_and_completions_read_by_the_device_reach_the_queue_in_order() {
    let bench = Bench::new();
    let (mut card, mut queue) = bench.first();
    let part = |flags: u32| vec![(RndisInfoType::PACKET_ID.0, 1 | flags << 8)];
    bench.wire.fault_config(|fault_config| fault_config.holds = true);
    let buffer = DmaSlice::alloc(&bench.guest, 100).expect("memory");
    let (_, tx) = queue.split();
    tx.send(3, buffer, TxMeta::default()).map_err(|refused| refused.reason).expect("sent");
    tx.kick();
    // The queue has the first packet already, and the beginning of the second.
    bench.wire.receive(&frame(60, 0));
    bench.wire.receive_on(0, WireFrame { bytes: vec![7; 1000], info: part(3) });
    bench.work();
    queue.poll().expect("no fault");
    bench.wire.receive_on(0, WireFrame { bytes: vec![8; 10], info: part(5) });
    for byte in 1..20 {
        bench.wire.receive(&frame(60, byte));
    }
    bench.wire.fault_config(|fault_config| fault_config.holds = false);
    bench.work();
    card.set_receive_mode(ReceiveMode::Promiscuous).expect("a setting");
    bench.wire.receive(&frame(60, 20));
    bench.work();
    assert_eq!(queue.arm(), Arm::Pending, "there is a frame");
    assert_eq!(next(&mut queue), Some(frame(60, 0)));
    assert_eq!(queue.arm(), Arm::Pending, "the device read a packet");
    queue.poll().expect("no fault");
    assert_eq!(queue.split().1.sent().map(|sent| (sent.tag, sent.result)), Some((3, Ok(()))));
    assert_eq!(next(&mut queue), Some([&[7; 1000][..], &[8; 10]].concat()));
    for byte in 1..=20 {
        assert_eq!(next(&mut queue), Some(frame(60, byte)));
    }
    queue.poll().expect("no fault");
    bench.work();
    assert_eq!(bench.wire.pieces_in_use(), 0);
    bench.is_clean();
}

/// A dropped queue leaves frames in flight to the device, which completes them.
#[test]
fn a_dropped_queue_leaves_its_frames_to_the_device() {
    let bench = Bench::new();
    let (mut card, mut queue) = bench.first();
    bench.wire.fault_config(|fault_config| fault_config.holds = true);
    let buffer = DmaSlice::alloc(&bench.guest, 100).expect("memory");
    let (_, tx) = queue.split();
    tx.send(3, buffer, TxMeta::default()).map_err(|refused| refused.reason).expect("sent");
    commit(&mut queue, &frame(60, 1), TxMeta::default()).expect("sent");
    bench.wire.receive(&frame(60, 2));
    bench.work();
    queue.poll().expect("no fault");
    drop(queue);
    assert_eq!(bench.wire.take_sent().len(), 2, "committed frames are sent");
    assert!(card.take_queue(0).is_none());
    bench.wire.fault_config(|fault_config| fault_config.holds = false);
    for _ in 0..100 {
        bench.wire.receive(&frame(60, 3));
    }
    bench.work();
    assert_eq!(card.poll_event(), None);
    bench.work();
    assert_eq!(card.poll_event(), None);
    assert_eq!(bench.wire.pieces_in_use(), 0);
    drop(card);
    assert!(bench.wire.is_halted());
    bench.is_clean();
}

#[test]
fn reception_continues_after_the_receive_buffer_was_full() {
    let bench = Bench::new();
    let mut options = NetOptions::default();
    options.receive_bytes = 64 << 10;
    let mut card = bench.try_open(&options).expect("a card");
    let mut queue = card.take_queue(0).expect("a queue");
    for at in 0..100 {
        bench.wire.receive(&frame(200, at));
    }
    let mut came = 0;
    while came < 100 {
        bench.work();
        queue.poll().expect("no fault");
        while let Some(bytes) = next(&mut queue) {
            assert_eq!(bytes, frame(200, came));
            came += 1;
        }
    }
    bench.is_clean();
}

#[test]
fn a_rescind_returns_frames_in_flight_and_a_new_offer_opens() {
    let bench = Bench::new();
    let (mut card, mut queue) = bench.first();
    bench.wire.fault_config(|fault_config| fault_config.holds = true);
    let buffer = DmaSlice::alloc(&bench.guest, 100).expect("memory");
    let (_, tx) = queue.split();
    tx.send(3, buffer, TxMeta::default()).map_err(|refused| refused.reason).expect("sent");
    tx.kick();
    bench.host.rescind(&bench.guest, bench.channel);
    let fault = loop {
        if let Err(fault) = queue.poll() {
            break fault;
        }
    };
    assert_eq!(fault, Fault::Removed);
    let sent = queue.split().1.sent().expect("a completion");
    assert_eq!((sent.tag, sent.result), (3, Err(IoError::Aborted)));
    assert_eq!(card.poll_event(), Some(NetEvent::Faulted(Fault::Removed)));
    assert!(!queue.split().1.is_ready(60));
    assert_eq!(queue.arm(), Arm::Armed);
    drop((queue, card));
    while bench.vmbus.poll().is_some() {}
    assert_eq!((bench.host.has(bench.channel), bench.host.gpadls()), (false, (0, 0)));
    bench.wire.fault_config(|fault_config| fault_config.holds = false);
    bench.host.add(&bench.guest, OfferSettings::new(INTERFACE), bench.wire.clone());
    let (_card, mut queue) = bench.first();
    commit(&mut queue, &frame(60, 1), TxMeta::default()).expect("sent");
    kick(&mut queue);
    assert_eq!(bench.wire.take_sent().last(), Some(&frame(60, 1)));
    bench.is_clean();
}

/// What is odd in a packet costs that packet: it is dropped, completed as failed, and counted. The card stays in service.
#[test]
fn odd_packets_are_dropped_and_counted() {
    type Mutation = fn(&mut Vec<u8>);
    let mutations: [Mutation; 4] = [
        // A frame that is longer than its message, and one that begins beyond it.
        |bytes| bytes[12..16].fill(0xff),
        |bytes| bytes[8..12].copy_from_slice(&[0, 0, 1, 0]),
        // Per-packet information beyond the message.
        |bytes| bytes[32..36].copy_from_slice(&[0xff, 0xff, 0, 0]),
        // Another message of RNDIS: a status indication that is too short.
        |bytes| bytes[..8].copy_from_slice(&[7, 0, 0, 0, 8, 0, 0, 0]),
    ];
    for at in 0..=mutations.len() {
        let bench = Bench::new();
        let (mut card, mut queue) = bench.first();
        bench.wire.fault_config(|fault_config| match mutations.get(at) {
            Some(mutation) => fault_config.mutate_rndis = Some(Box::new(*mutation)),
            // A range outside the receive buffer.
            None => fault_config.shift_ranges = 2 << 20,
        });
        bench.wire.receive(&frame(60, 1));
        bench.work();
        queue.poll().expect("no fault");
        assert_eq!((next(&mut queue), card.malformed_packets()), (None, 1), "{at}");
        bench.wire.fault_config(|fault_config| {
            (fault_config.mutate_rndis, fault_config.shift_ranges) = (None, 0);
        });
        bench.wire.receive(&frame(60, 2));
        bench.work();
        queue.poll().expect("no fault");
        assert_eq!(next(&mut queue), Some(frame(60, 2)), "{at}");
        queue.poll().expect("no fault");
        kick(&mut queue);
        assert_eq!((bench.wire.pieces_in_use(), card.poll_event()), (0, None));
    }
}

/// A part of a coalesced frame without its beginning, and a beginning without the rest, cost that frame only.
#[test]
fn a_coalesced_frame_that_is_broken_off_is_given_up() {
    let bench = Bench::new();
    let (card, mut queue) = bench.first();
    let part = |flags: u32| vec![(RndisInfoType::PACKET_ID.0, 1 | flags << 8)];
    let mut receive = |frames: &[(u8, Option<u32>)]| {
        for (byte, flags) in frames {
            let info = flags.map_or(vec![], part);
            bench.wire.receive_on(0, WireFrame { bytes: frame(60, *byte), info });
        }
        bench.work();
        queue.poll().expect("no fault");
        let found: Vec<_> =
            core::iter::from_fn(|| next(&mut queue)).map(|bytes| (bytes.len(), bytes[0])).collect();
        queue.poll().expect("no fault");
        kick(&mut queue);
        found
    };
    const FIRST: Option<u32> = Some(3);
    const MIDDLE: Option<u32> = Some(1);
    const LAST: Option<u32> = Some(5);
    assert_eq!(receive(&[(1, LAST), (2, None)]), [(60, 2)], "without its beginning");
    assert_eq!(receive(&[(3, FIRST), (4, MIDDLE), (5, None)]), [(60, 5)], "without its end");
    assert_eq!(receive(&[(6, FIRST), (7, FIRST), (8, LAST), (9, None)]), [(120, 7), (60, 9)], "begun anew");
    assert_eq!(receive(&[(10, MIDDLE)]), []);
    assert_eq!(receive(&[(11, FIRST)]), [], "its end may still come");
    assert_eq!(receive(&[(12, LAST), (13, None)]), [(120, 11), (60, 13)]);
    assert!(card.malformed_packets() >= 4, "{}", card.malformed_packets());
    assert_eq!(bench.wire.pieces_in_use(), 0, "every packet is completed");
    bench.is_clean();
}

/// The virtual switch leaves the IPv4 checksum of a coalesced frame wrong.
#[test]
fn a_checksum_that_the_host_left_wrong_is_computed() {
    let bench = Bench::new();
    let (_card, mut queue) = bench.first();
    let mut bytes = frame(60, 1);
    bytes[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
    let flags = RndisRxChecksumFlags::IP_SUCCEEDED
        | RndisRxChecksumFlags::TCP_SUCCEEDED
        | RndisRxChecksumFlags::IP_VALUE_INVALID;
    let info = vec![(RndisInfoType::CHECKSUM.0, flags.bits())];
    bench.wire.receive_on(0, WireFrame { bytes: bytes.clone(), info });
    bench.work();
    queue.poll().expect("no fault");
    let found = next(&mut queue).expect("a frame");
    let sum: u32 = found[14..34].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "the sum over a right header");
    assert_eq!((&found[..24], &found[26..]), (&bytes[..24], &bytes[26..]));
    bench.is_clean();
}

/// Only what may cost memory puts a card out of service, and then it can be opened again.
#[test]
fn a_card_that_faulted_can_be_opened_again() {
    let bench = Bench::new();
    for round in 0..2 {
        let (mut card, mut queue) = bench.first();
        commit(&mut queue, &frame(60, round), TxMeta::default()).expect("sent");
        kick(&mut queue);
        assert_eq!(bench.wire.take_sent(), [frame(60, round)]);
        // The write index of the host's ring.
        bench.host.scribble(&bench.guest, bench.channel, |control, _| {
            control[0].store(u32::MAX, std::sync::atomic::Ordering::SeqCst);
        });
        assert_eq!(queue.poll(), Err(Fault::Protocol));
        assert_eq!(card.poll_event(), Some(NetEvent::Faulted(Fault::Protocol)));
        drop((queue, card));
        assert_eq!(bench.host.gpadls(), (0, 0));
    }
}

/// Hosts before VMBus 4.0 do not release buffers that were not revoked and torn down before the channel was closed.
#[test]
fn old_hosts_get_their_buffers_back_before_the_channel_is_closed() {
    for (newest, revokes) in [(Version::new(3, 0), true), (Version::NEWEST, false)] {
        let guest = Guest::with(2, true);
        let wire = NetVspHost::new();
        let (host, channel) = HvHost::with_device(&guest, INTERFACE, wire.clone());
        host.faults(&guest, |faults| faults.wants_buffers_first = true);
        let hypervisor = Hypervisor::open(&guest).expect("a hypervisor");
        let vmbus = Vmbus::connect(&hypervisor, newest).expect("a connection");
        let before = guest.pages();
        let bench = Bench { guest, host, wire, vmbus, channel };
        let (card, mut queue) = bench.first();
        bench.wire.receive(&frame(60, 1));
        bench.work();
        queue.poll().expect("no fault");
        assert!(queue.split().0.front().is_some());
        let start = bench.guest.now();
        drop((queue, card));
        assert!(bench.guest.now().since(start) < Duration::from_secs(20), "{newest:?}");
        assert_eq!(bench.guest.pages(), before, "{newest:?}");
        assert_eq!(bench.wire.is_revoked(), revokes);
        bench.is_clean();
    }
}

/// Frames without a copy come back from a host that has stopped completing them, and the card can be opened again.
#[test]
fn a_silent_host_does_not_keep_frames() {
    let bench = Bench::new();
    let (card, mut queue) = bench.first();
    bench.wire.fault_config(|fault_config| fault_config.holds = true);
    for tag in 0..3 {
        let mut buffer = DmaSlice::alloc(&bench.guest, 100).expect("memory");
        buffer.bytes_mut().fill(7);
        queue.split().1.send(tag, buffer, TxMeta::default()).expect("sent");
    }
    kick(&mut queue);
    let _ = queue.arm();
    assert!(queue.next_deadline() > bench.guest.now() && queue.split().1.sent().is_none());
    queue.expire(bench.guest.now()).expect("not yet");
    bench.guest.turn(Duration::from_secs(61));
    assert_eq!(queue.expire(bench.guest.now()), Err(Fault::Timeout));
    for tag in 0..3 {
        let sent = queue.split().1.sent().expect("it comes back");
        assert_eq!((sent.tag, sent.result, sent.buffer.is_some()), (tag, Err(IoError::Aborted), true));
    }
    drop((queue, card));
    bench.wire.fault_config(|fault_config| fault_config.holds = false);
    let (_card, mut queue) = bench.first();
    commit(&mut queue, &frame(60, 1), TxMeta::default()).expect("sent");
    kick(&mut queue);
    assert_eq!(bench.wire.take_sent().last(), Some(&frame(60, 1)));
}

/// A host that changes the link whenever it is looked at costs one event a drain.
#[test]
fn a_link_that_flickers_does_not_keep_the_caller_busy() {
    let bench = Bench::new();
    let (mut card, _queue) = bench.first();
    let (wire, host, channel) = (bench.wire.clone(), bench.host.clone(), bench.channel);
    let mut is_up = true;
    let guest = bench.guest.clone();
    let events = core::iter::from_fn(|| {
        is_up = !is_up;
        wire.set_link(is_up);
        host.work(&guest, channel);
        card.poll_event()
    });
    assert!((1..=3).contains(&events.take(100).count()));
}

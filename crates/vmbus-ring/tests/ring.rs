//! Tests each end of the ring with the opposite end of the test host, which shares no code with this crate, and with a consumer
//! and a producer that violate the protocol.

use paravirt_testhost::{BufferRange, GuestRange, HostReader, HostRingError, HostWriter, PacketKind};
use paravirt_vmbus_ring::{
    ArrayRing, GpaRange, Incoming, Kind, Outgoing, RingError, RingMemory, TransferRange,
};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

type Ring = ArrayRing<512>;

type Memory<'a> = (&'a [AtomicU32; 32], &'a [AtomicU64]);

fn memory<M: RingMemory>(ring: &M) -> Memory<'_> {
    (ring.control(), ring.data())
}

/// A ring that the guest writes.
fn to_host(ring: &Ring) -> (Outgoing<&Ring>, HostReader<Memory<'_>>) {
    (Outgoing::new(ring).unwrap(), HostReader::new(memory(ring)).unwrap())
}

/// A ring that the host writes.
fn to_guest(ring: &Ring) -> (HostWriter<Memory<'_>>, Incoming<&Ring>) {
    (HostWriter::new(memory(ring)).unwrap(), Incoming::new(ring).unwrap())
}

/// Returns the index of a packet's descriptor from its footer, the word before the index `end`.
fn footer(ring: &Ring, end: u32) -> u64 {
    let word = (end / 8 + 512 - 1) % 512;
    ring.data()[word as usize].load(Ordering::SeqCst)
}

const WRITE: usize = 0;
const READ: usize = 1;
const MASK: usize = 2;
const PENDING: usize = 3;

fn set(ring: &Ring, word: usize, value: u32) {
    ring.control()[word].store(value, Ordering::SeqCst);
}

fn get(ring: &Ring, word: usize) -> u32 {
    ring.control()[word].load(Ordering::SeqCst)
}

proptest! {
    /// The host reads all packets that the guest writes, in order, wherever they wrap around the end of the ring.
    #[test]
    fn the_host_reads_what_the_guest_writes(
        lengths in prop::collection::vec(0usize..1200, 1..200),
        batch in 1usize..8,
    ) {
        let ring = Ring::new();
        let (mut out, mut host) = to_host(&ring);
        let mut sent = VecDeque::new();
        let mut buffer = vec![];
        for (i, len) in lengths.iter().enumerate() {
            let bytes: Vec<u8> = (0..*len).map(|at| (at * 7 + i) as u8).collect();
            let at = (len / 2) & !7;
            let parts = [&bytes[..at], &bytes[at..]];
            while let Err(error) = out.in_band(i as u64, i % 2 == 0, &parts) {
                prop_assert_eq!(error, RingError::Full);
                let _ = out.publish();
                let (id, bytes): (u64, Vec<u8>) = sent.pop_front().unwrap();
                let packet = host.next(&mut buffer).unwrap().unwrap();
                prop_assert_eq!((packet.kind, packet.transaction), (PacketKind::IN_BAND, id));
                prop_assert_eq!(packet.wants_completion, id % 2 == 0);
                prop_assert!(packet.header.is_empty());
                prop_assert_eq!(packet.payload.len(), bytes.len().next_multiple_of(8));
                prop_assert_eq!(&packet.payload[..bytes.len()], &bytes[..]);
                prop_assert!(packet.payload[bytes.len()..].iter().all(|byte| *byte == 0));
                let _ = host.release();
            }
            sent.push_back((i as u64, bytes));
            if i % batch == 0 {
                let _ = out.publish();
            }
        }
        let _ = out.publish();
        for (id, bytes) in sent {
            let packet = host.next(&mut buffer).unwrap().unwrap();
            prop_assert_eq!(packet.transaction, id);
            prop_assert_eq!(&packet.payload[..bytes.len()], &bytes[..]);
        }
        prop_assert_eq!(host.next(&mut buffer), Ok(None));
    }

    /// The guest reads all packets that the host writes, in order, wherever they wrap around the end of the ring.
    #[test]
    fn the_guest_reads_what_the_host_writes(
        lengths in prop::collection::vec(0usize..1200, 1..200),
        batch in 1usize..8,
    ) {
        let ring = Ring::new();
        let (mut host, mut inc) = to_guest(&ring);
        let mut sent = VecDeque::new();
        let mut buffer = [0; 4096];
        for (i, len) in lengths.iter().enumerate() {
            let bytes: Vec<u8> = (0..*len).map(|at| (at * 5 + i) as u8).collect();
            loop {
                let written = match i % 3 {
                    0 => host.in_band(i as u64, &bytes),
                    1 => host.request(i as u64, &bytes),
                    _ => host.completion(i as u64, &bytes),
                };
                let Err(error) = written else { break };
                prop_assert_eq!(error, HostRingError::Full);
                let _ = host.publish();
                let (id, bytes): (u64, Vec<u8>) = sent.pop_front().unwrap();
                let packet = inc.next(&mut buffer).unwrap().unwrap();
                prop_assert_eq!(packet.transaction, id);
                prop_assert_eq!(packet.kind, if id % 3 == 2 { Kind::COMPLETION } else { Kind::IN_BAND });
                prop_assert_eq!(packet.wants_completion, id % 3 == 1);
                prop_assert_eq!(packet.payload.len(), bytes.len().next_multiple_of(8));
                prop_assert_eq!(&packet.payload[..bytes.len()], &bytes[..]);
                let _ = inc.release();
            }
            sent.push_back((i as u64, bytes));
            if i % batch == 0 {
                let _ = host.publish();
            }
        }
        let _ = host.publish();
        for (id, bytes) in sent {
            let packet = inc.next(&mut buffer).unwrap().unwrap();
            prop_assert_eq!(packet.transaction, id);
            prop_assert_eq!(&packet.payload[..bytes.len()], &bytes[..]);
        }
        prop_assert_eq!(inc.next(&mut buffer), Ok(None));
    }

    /// The host's ends of the tests return an error and terminate if the guest writes arbitrary values.
    #[test]
    fn the_hosts_ends_survive_any_guest(
        words in prop::collection::vec(any::<u64>(), 512),
        indices in prop::collection::vec((any::<u32>(), any::<u32>(), any::<u32>()), 1..20),
        small in any::<bool>(),
    ) {
        let ring = Ring::new();
        for (to, word) in ring.data().iter().zip(&words) {
            let word = if small { word & 0x0001_001f_000f_000f | 0x2_0000 } else { *word };
            to.store(word, Ordering::Relaxed);
        }
        let (mut reader, mut writer) =
            (HostReader::new(memory(&ring)).unwrap(), HostWriter::new(memory(&ring)).unwrap());
        let mut buffer = vec![];
        for (write, read, pending) in indices {
            set(&ring, WRITE, if small { write % 512 * 8 } else { write });
            set(&ring, READ, if small { read % 512 * 8 } else { read });
            set(&ring, PENDING, pending);
            let mut taken = 0;
            while let Ok(Some(packet)) = reader.next(&mut buffer) {
                let _ = packet.gpa_ranges();
                taken += 1;
                prop_assert!(taken <= 4096 / 24);
            }
            let _ = (reader.unmask(), reader.release());
            let mut written = 0;
            set(&ring, READ, if small { read % 512 * 8 } else { read });
            while writer.in_band(0, &[0; 100]).is_ok() {
                written += 1;
                prop_assert!(written <= 4096 / 128);
            }
            let _ = (writer.publish(), writer.await_room(pending as usize % 5000));
        }
    }

    /// A producer writes arbitrary values: the consumer returns errors or packets inside the buffer, and terminates.
    #[test]
    fn an_arbitrary_producer_yields_errors_or_bounded_packets(
        words in prop::collection::vec(any::<u64>(), 512),
        small in any::<bool>(),
        write in any::<u32>(),
    ) {
        let ring = Ring::new();
        for (to, word) in ring.data().iter().zip(&words) {
            // Often plausible lengths.
            let word = if small { word & 0x0001_001f_000f_000f | 0x2_0000 } else { *word };
            to.store(word, Ordering::Relaxed);
        }
        set(&ring, WRITE, if small { write % 512 * 8 } else { write });
        let mut inc = Incoming::new(&ring).unwrap();
        let mut buffer = [0; 512];
        let mut taken = 0;
        while let Ok(Some(packet)) = inc.next(&mut buffer) {
            let _ = packet.transfer_ranges().map(|ranges| ranges.iter().count());
            let _ = packet.gpa_ranges().map(|ranges| ranges.map(|range| range.pages().count()).sum::<usize>());
            taken += 1;
            prop_assert!(taken <= 4096 / 24);
        }
    }

    /// A consumer writes arbitrary values to its index: the producer never counts unread bytes as room.
    #[test]
    fn an_arbitrary_consumer_index_never_frees_unread_bytes(reads in prop::collection::vec(any::<u32>(), 1..20), in_range in any::<bool>()) {
        let ring = Ring::new();
        let mut out = Outgoing::new(&ring).unwrap();
        for read in reads {
            set(&ring, READ, if in_range { read % 512 * 8 } else { read });
            let mut written = 0;
            while out.in_band(0, false, &[&[0; 100]]).is_ok() {
                written += 1;
                prop_assert!(written <= 4096 / 128);
            }
            let _ = out.publish();
            let _ = out.await_room(100);
        }
    }
}

#[test]
fn ranges_of_guest_memory_and_of_buffers_round_trip() {
    let (up, down) = (Ring::new(), Ring::new());
    let ((mut out, mut reader), (mut writer, mut inc)) = (to_host(&up), to_guest(&down));
    let (mut buffer, mut host_buffer) = ([0; 1024], vec![]);
    for turn in 0..100u64 {
        let pages = [turn, turn + 1, turn + 9];
        let ranges = [
            GpaRange { len: 8192, offset: 512, pages: pages.iter().copied() },
            GpaRange { len: 17, offset: 0, pages: pages[..1].iter().copied() },
        ];
        out.gpa_direct(turn, ranges.iter().cloned(), &[b"payload!"]).unwrap();
        let _ = out.publish();
        let packet = reader.next(&mut host_buffer).unwrap().unwrap();
        assert!(packet.kind == PacketKind::GPA_DIRECT && packet.wants_completion);
        let expected = [
            GuestRange { len: 8192, offset: 512, frames: pages.to_vec() },
            GuestRange { len: 17, offset: 0, frames: vec![turn] },
        ];
        assert_eq!(packet.gpa_ranges().unwrap(), expected);
        assert_eq!((packet.transaction, packet.payload), (turn, &b"payload!"[..]));
        let _ = reader.release();

        writer.transfer_pages(turn, 7, &[BufferRange { len: 60, offset: 1024 }], b"x").unwrap();
        let _ = writer.publish();
        let packet = inc.next(&mut buffer).unwrap().unwrap();
        assert!(packet.wants_completion && packet.payload == b"x\0\0\0\0\0\0\0");
        let ranges = packet.transfer_ranges().unwrap();
        assert_eq!((ranges.set, packet.transaction), (7, turn));
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [TransferRange { len: 60, offset: 1024 }]);
        let _ = inc.release();

        out.transfer_pages(turn, 7, &[TransferRange { len: 60, offset: 1024 }], &[b"x"]).unwrap();
        let _ = out.publish();
        let packet = reader.next(&mut host_buffer).unwrap().unwrap();
        assert_eq!(packet.kind, PacketKind::TRANSFER_PAGES);
        assert_eq!(packet.header, [7, 0, 0, 0, 1, 0, 0, 0, 60, 0, 0, 0, 0, 4, 0, 0]);
        let _ = reader.release();
    }
}

/// Hosts ignore the footer, so the test reads it from the memory of the ring.
#[test]
fn the_footer_contains_the_index_of_the_descriptor() {
    let ring = Ring::new();
    let (mut out, mut host) = to_host(&ring);
    for turn in 0..1000u64 {
        let start = get(&ring, WRITE);
        out.in_band(turn, false, &[&vec![0xff; turn as usize % 300]]).unwrap();
        let _ = out.publish();
        assert_eq!(footer(&ring, get(&ring, WRITE)), u64::from(start) << 32);
        host.next(&mut vec![]).unwrap().unwrap();
        let _ = host.release();
    }
}

#[test]
fn a_footer_beyond_the_available_bytes_is_refused() {
    let ring = Ring::new();
    let (mut host, mut inc) = to_guest(&ring);
    host.in_band(1, &[1; 64]).unwrap();
    let _ = host.publish();
    // The producer publishes the packet without its footer.
    set(&ring, WRITE, 80);
    assert_eq!(inc.next(&mut [0; 128]), Err(RingError::Packet));
}

#[test]
fn a_packet_of_the_maximum_payload_is_accepted() {
    for words in [512usize, 1 << 17] {
        let control: [_; 32] = std::array::from_fn(|_| AtomicU32::new(0));
        struct Memory([AtomicU32; 32], Vec<AtomicU64>);
        impl RingMemory for Memory {
            fn control(&self) -> &[AtomicU32; 32] {
                &self.0
            }
            fn data(&self) -> &[AtomicU64] {
                &self.1
            }
        }
        let memory = Memory(control, (0..words).map(|_| AtomicU64::new(0)).collect());
        paravirt_vmbus_ring::reset(&memory);
        let (mut out, mut host) =
            (Outgoing::new(&memory).unwrap(), HostReader::new((memory.control(), memory.data())).unwrap());
        let bytes = vec![5; out.max_payload()];
        out.in_band(1, false, &[&bytes]).unwrap();
        let _ = out.publish();
        let mut buffer = vec![];
        assert_eq!(host.next(&mut buffer).unwrap().unwrap().payload, bytes);
        assert_eq!(out.in_band(1, false, &[&vec![5; bytes.len() + 1]]), Err(RingError::Large));
    }
}

#[test]
fn only_the_first_of_a_batch_and_only_an_unmasked_consumer_is_signalled() {
    let ring = Ring::new();
    let (mut out, mut host) = to_host(&ring);
    let mut buffer = vec![];
    (0..32).for_each(|i| out.in_band(i, false, &[&[0; 32]]).unwrap());
    assert!(out.publish(), "one signal for 32");
    assert!(!out.publish());
    out.in_band(9, false, &[&[0; 32]]).unwrap();
    assert!(!out.publish(), "it was not empty");
    host.mask();
    while host.next(&mut buffer).unwrap().is_some() {}
    let _ = host.release();
    out.in_band(9, false, &[&[0; 32]]).unwrap();
    assert!(!out.publish(), "it is masked");
    assert!(host.unmask(), "something came in");
    while host.next(&mut buffer).unwrap().is_some() {}
    assert!(!host.unmask());
}

#[test]
fn a_guest_that_masks_is_not_signalled_and_unmask_reports_the_raced_packet() {
    let ring = Ring::new();
    let (mut host, mut inc) = to_guest(&ring);
    let mut buffer = [0; 64];
    host.in_band(1, &[0; 32]).unwrap();
    assert!(host.publish());
    inc.mask();
    while inc.next(&mut buffer).unwrap().is_some() {}
    let _ = inc.release();
    host.in_band(2, &[0; 32]).unwrap();
    assert!(!host.publish(), "it is masked");
    assert!(inc.unmask(), "something came in");
    assert_eq!(get(&ring, MASK), 1);
    while inc.next(&mut buffer).unwrap().is_some() {}
    assert!(!inc.unmask());
    assert_eq!(get(&ring, MASK), 0);
}

#[test]
fn waiting_for_room_in_a_full_ring_can_be_cancelled() {
    let ring = Ring::new();
    let (mut out, mut host) = to_host(&ring);
    while out.in_band(0, false, &[&[0; 1000]]).is_ok() {}
    let _ = out.publish();
    assert_eq!(out.await_room(1000), Ok(false));
    assert_eq!(get(&ring, PENDING), 1024);
    host.next(&mut vec![]).unwrap().unwrap();
    // 4096 - 3 * 1024 leaves 1016 bytes: reading one more packet makes room.
    assert!(host.release());
    assert_eq!(out.await_room(1000), Ok(true));
    assert_eq!(get(&ring, PENDING), 0);
    out.in_band(0, false, &[&[0; 1000]]).unwrap();
}

/// The guest signals a waiting host exactly when the room reaches the amount for which the host waits.
#[test]
fn a_waiting_host_is_signalled_once_when_there_is_room() {
    for body in [0usize, 8, 200, 1000, 4096 - 32] {
        let ring = Ring::new();
        let (mut host, mut inc) = to_guest(&ring);
        let mut buffer = [0; 64];
        while host.in_band(0, &[]).is_ok() {}
        let _ = host.publish();
        assert_eq!(host.await_room(body), Ok(false), "{body}");
        let mut signals = 0;
        while inc.next(&mut buffer).unwrap().is_some() {
            let is_signalled = inc.release();
            assert_eq!(host.await_room(body), Ok(signals > 0 || is_signalled), "{body}");
            signals += u32::from(is_signalled);
        }
        assert_eq!(signals, 1, "{body}");
    }
}

const COUNT: u64 = 200_000;

fn sleep(flag: &AtomicBool) {
    while !flag.swap(false, Ordering::SeqCst) {
        std::thread::yield_now();
    }
}

fn wake(flag: &AtomicBool, is_signalled: bool) {
    if is_signalled {
        flag.store(true, Ordering::SeqCst);
    }
}

/// A guest writes and a host reads, on two threads that sleep until they are signalled: a missing signal hangs the test.
#[test]
fn a_writing_guest_and_a_reading_host_lose_nothing() {
    let ring = Ring::new();
    let (to_consumer, to_producer) = (&AtomicBool::new(false), &AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (mut out, mut host) = to_host(&ring);
        scope.spawn(move || {
            for i in 0..COUNT {
                let bytes = [i as u8; 100];
                let part = &bytes[..(i % 97) as usize];
                while out.in_band(i, false, &[part]) == Err(RingError::Full) {
                    wake(to_consumer, out.publish());
                    if !out.await_room(part.len()).unwrap() {
                        sleep(to_producer);
                    }
                }
                wake(to_consumer, i % 3 == 0 && out.publish());
            }
            wake(to_consumer, out.publish());
        });
        let mut buffer = vec![];
        let mut next = 0;
        while next < COUNT {
            host.mask();
            while let Some(packet) = host.next(&mut buffer).unwrap() {
                assert_eq!(packet.transaction, next);
                assert!(packet.payload.iter().take((next % 97) as usize).all(|byte| *byte == next as u8));
                next += 1;
                wake(to_producer, next % 5 == 0 && host.release());
            }
            wake(to_producer, host.release());
            if next < COUNT && !host.unmask() {
                sleep(to_consumer);
            }
        }
    });
}

/// A host writes and a guest reads, on two threads that sleep until they are signalled.
#[test]
fn a_writing_host_and_a_reading_guest_lose_nothing() {
    let ring = Ring::new();
    let (to_consumer, to_producer) = (&AtomicBool::new(false), &AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (mut host, mut inc) = to_guest(&ring);
        scope.spawn(move || {
            for i in 0..COUNT {
                let bytes = [i as u8; 100];
                let part = &bytes[..(i % 97) as usize];
                while host.in_band(i, part) == Err(HostRingError::Full) {
                    wake(to_consumer, host.publish());
                    if !host.await_room(part.len()).unwrap() {
                        sleep(to_producer);
                    }
                }
                wake(to_consumer, i % 3 == 0 && host.publish());
            }
            wake(to_consumer, host.publish());
        });
        let mut buffer = [0; 128];
        let mut next = 0;
        while next < COUNT {
            inc.mask();
            while let Some(packet) = inc.next(&mut buffer).unwrap() {
                assert_eq!(packet.transaction, next);
                assert!(packet.payload.iter().take((next % 97) as usize).all(|byte| *byte == next as u8));
                next += 1;
                wake(to_producer, next % 5 == 0 && inc.release());
            }
            wake(to_producer, inc.release());
            if next < COUNT && !inc.unmask() {
                sleep(to_consumer);
            }
        }
    });
}

proptest! {
    /// At every offset of the ring, `gpa_page` writes the same words as `gpa_direct`, or nothing.
    #[test]
    fn a_packet_of_constant_length_is_the_same_as_the_general_one(
        ahead in 0usize..500,
        address in 0u64..1 << 40,
        len in 1u32..6000,
        payload in any::<[u64; 8]>(),
    ) {
        let rings = [Ring::new(), Ring::new()];
        let mut outs = [Outgoing::new(&rings[0]).unwrap(), Outgoing::new(&rings[1]).unwrap()];
        let mut inc = Incoming::new(&rings[0]).unwrap();
        let mut other = Incoming::new(&rings[1]).unwrap();
        let mut buffer = [0; 4096];
        // Moves both rings to the same offset.
        for (out, inc) in outs.iter_mut().zip([&mut inc, &mut other]) {
            out.in_band(1, false, &[&vec![0; ahead * 8]]).unwrap();
            let _ = out.publish();
            inc.next(&mut buffer).unwrap().unwrap();
            let _ = inc.release();
        }
        let [short, general] = &mut outs;
        let is_written = short.gpa_page(7, address, len, payload).unwrap();
        let is_in_page = address % 4096 + u64::from(len) <= 4096;
        // Descriptor, header of 24 bytes, payload and footer, after those of the first packet.
        let is_contiguous = (ahead + 3) % 512 + 14 <= 512;
        prop_assert_eq!(is_written, is_in_page && is_contiguous);
        if is_written {
            let bytes: Vec<u8> = payload.iter().flat_map(|word| word.to_le_bytes()).collect();
            general.gpa_direct(7, std::iter::once(GpaRange::contiguous(address, len)), &[&bytes]).unwrap();
            let words = |ring: &Ring| ring.data().iter().map(|word| word.load(Ordering::Relaxed)).collect::<Vec<_>>();
            prop_assert_eq!(words(&rings[0]), words(&rings[1]));
            let _ = (short.publish(), general.publish());
            prop_assert_eq!(get(&rings[0], WRITE), get(&rings[1], WRITE));
        }
    }

    /// `next_if` consumes exactly the complete packets of its kind, and leaves every other packet for `next`.
    #[test]
    fn a_conditional_read_takes_a_packet_or_leaves_it(
        lengths in prop::collection::vec((0usize..200, any::<bool>(), any::<bool>()), 1..100),
    ) {
        let ring = Ring::new();
        let mut out = Outgoing::new(&ring).unwrap();
        let mut inc = Incoming::new(&ring).unwrap();
        let mut buffer = [0; 4096];
        for (id, (words, is_completion, is_wanted)) in (1u64..).zip(lengths) {
            let bytes: Vec<u8> = (0..words as u64).flat_map(|word| (word ^ id << 32).to_le_bytes()).collect();
            match is_completion {
                true => out.completion(id, &[&bytes]).unwrap(),
                false => out.in_band(id, false, &[&bytes]).unwrap(),
            }
            let _ = out.publish();
            let taken = inc.next_if(Kind::COMPLETION, 6, |transaction, first: [u64; 4]| {
                assert_eq!((transaction, first), (id, [0, 1, 2, 3].map(|word| word ^ id << 32)));
                is_wanted.then_some(transaction)
            });
            match taken {
                Some(transaction) => {
                    prop_assert!(is_completion && is_wanted && words >= 6);
                    prop_assert_eq!(transaction, id);
                }
                None => {
                    let packet = inc.next(&mut buffer).unwrap().unwrap();
                    prop_assert_eq!((packet.transaction, packet.payload), (id, &bytes[..]));
                }
            }
            prop_assert!(inc.next(&mut buffer).unwrap().is_none());
            let _ = inc.release();
        }
    }
}

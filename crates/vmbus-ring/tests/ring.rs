//! Both ends against each other and against a consumer and a producer that lie.

use paravirt_vmbus_ring::{
    ArrayRing, GpaRange, Incoming, Kind, Outgoing, RingError, RingMemory, TransferRange,
};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

type Ring = ArrayRing<512>;

fn ends(ring: &Ring) -> (Outgoing<&Ring>, Incoming<&Ring>) {
    (Outgoing::new(ring).unwrap(), Incoming::new(ring).unwrap())
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
    /// Whatever is written comes out, in order, across every place of the end.
    #[test]
    fn what_goes_in_comes_out(lengths in prop::collection::vec(0usize..1200, 1..200), batch in 1usize..8) {
        let ring = Ring::new();
        let (mut out, mut inc) = ends(&ring);
        let mut sent = VecDeque::new();
        let mut buffer = [0; 4096];
        for (i, len) in lengths.iter().enumerate() {
            let bytes: Vec<u8> = (0..*len).map(|at| (at * 7 + i) as u8).collect();
            let at = (len / 2) & !7;
            let parts = [&bytes[..at], &bytes[at..]];
            loop {
                match out.in_band(i as u64, i % 2 == 0, &parts) {
                    Ok(()) => break,
                    Err(RingError::Full) => {
                        let _ = out.publish();
                        let (id, bytes): (u64, Vec<u8>) = sent.pop_front().unwrap();
                        let packet = inc.next(&mut buffer).unwrap().unwrap();
                        prop_assert_eq!(packet.transaction, id);
                        prop_assert_eq!(packet.wants_completion, id % 2 == 0);
                        prop_assert_eq!(&packet.payload[..bytes.len()], &bytes[..]);
                        prop_assert!(packet.payload[bytes.len()..].iter().all(|byte| *byte == 0));
                        let _ = inc.release();
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            sent.push_back((i as u64, bytes));
            if i % batch == 0 {
                let _ = out.publish();
            }
        }
        let _ = out.publish();
        for (id, bytes) in sent {
            let packet = inc.next(&mut buffer).unwrap().unwrap();
            prop_assert_eq!(packet.transaction, id);
            prop_assert_eq!(&packet.payload[..bytes.len()], &bytes[..]);
        }
        prop_assert_eq!(inc.next(&mut buffer), Ok(None));
    }

    /// A producer that writes anything: an error or a packet inside the buffer, and an end.
    #[test]
    fn a_lying_producer_ends_in_an_error(
        words in prop::collection::vec(any::<u64>(), 512),
        small in any::<bool>(),
        write in any::<u32>(),
    ) {
        let ring = Ring::new();
        for (to, word) in ring.data().iter().zip(&words) {
            // Often lengths that could be right.
            let word = if small { word & 0x0001_001f_000f_000f | 0x2_0000 } else { *word };
            to.store(word, Ordering::Relaxed);
        }
        set(&ring, WRITE, if small { write % 512 * 8 } else { write });
        let (_, mut inc) = ends(&ring);
        let mut buffer = [0; 512];
        let mut taken = 0;
        while let Ok(Some(packet)) = inc.next(&mut buffer) {
            let _ = packet.transfer_ranges().map(|ranges| ranges.iter().count());
            let _ = packet.gpa_ranges().map(|ranges| ranges.map(|range| range.pages().count()).sum::<usize>());
            taken += 1;
            prop_assert!(taken <= 4096 / 24);
        }
    }

    /// A consumer that writes anything to its index: what was not read by the rules is never taken for room.
    #[test]
    fn a_lying_consumer_ends_in_an_error(reads in prop::collection::vec(any::<u32>(), 1..20), in_range in any::<bool>()) {
        let ring = Ring::new();
        let (mut out, _) = ends(&ring);
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
    let ring = Ring::new();
    let (mut out, mut inc) = ends(&ring);
    let mut buffer = [0; 1024];
    for turn in 0..100u64 {
        let pages = [turn, turn + 1, turn + 9];
        let ranges = [
            GpaRange { len: 8192, offset: 512, pages: pages.iter().copied() },
            GpaRange { len: 17, offset: 0, pages: pages[..1].iter().copied() },
        ];
        out.gpa_direct(turn, ranges.iter().cloned(), &[b"payload!"]).unwrap();
        out.transfer_pages(turn, 7, &[TransferRange { len: 60, offset: 1024 }], &[b"x"]).unwrap();
        let _ = out.publish();
        let packet = inc.next(&mut buffer).unwrap().unwrap();
        assert!(packet.kind == Kind::GPA_DIRECT && packet.wants_completion);
        let found: Vec<_> =
            packet.gpa_ranges().unwrap().map(|r| (r.len, r.offset, r.pages().collect::<Vec<_>>())).collect();
        assert_eq!(found, [(8192, 512, pages.to_vec()), (17, 0, vec![turn])]);
        assert_eq!(packet.payload, b"payload!");
        let packet = inc.next(&mut buffer).unwrap().unwrap();
        let ranges = packet.transfer_ranges().unwrap();
        assert_eq!(ranges.set, 7);
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [TransferRange { len: 60, offset: 1024 }]);
        let _ = inc.release();
    }
}

#[test]
fn a_footer_outside_of_what_is_there_is_refused() {
    let ring = Ring::new();
    let (mut out, mut inc) = ends(&ring);
    out.in_band(1, false, &[&[1; 64]]).unwrap();
    let _ = out.publish();
    // The producer shows the packet without its footer.
    set(&ring, WRITE, 80);
    assert_eq!(inc.next(&mut [0; 128]), Err(RingError::Packet));
}

#[test]
fn the_longest_packet_that_is_announced_is_taken() {
    for words in [512usize, 1 << 17] {
        let control: [_; 32] = std::array::from_fn(|_| std::sync::atomic::AtomicU32::new(0));
        struct Memory([std::sync::atomic::AtomicU32; 32], Vec<std::sync::atomic::AtomicU64>);
        impl RingMemory for Memory {
            fn control(&self) -> &[std::sync::atomic::AtomicU32; 32] {
                &self.0
            }
            fn data(&self) -> &[std::sync::atomic::AtomicU64] {
                &self.1
            }
        }
        let memory = Memory(control, (0..words).map(|_| std::sync::atomic::AtomicU64::new(0)).collect());
        paravirt_vmbus_ring::reset(&memory);
        let (mut out, mut inc) = (Outgoing::new(&memory).unwrap(), Incoming::new(&memory).unwrap());
        let bytes = vec![5; out.max_payload()];
        out.in_band(1, false, &[&bytes]).unwrap();
        let _ = out.publish();
        let mut buffer = vec![0; bytes.len()];
        assert_eq!(inc.next(&mut buffer).unwrap().unwrap().payload, bytes);
        assert_eq!(out.in_band(1, false, &[&vec![5; bytes.len() + 1]]), Err(RingError::Large));
    }
}

#[test]
fn only_the_first_of_a_batch_and_only_an_unmasked_consumer_is_signalled() {
    let ring = Ring::new();
    let (mut out, mut inc) = ends(&ring);
    let mut buffer = [0; 64];
    (0..32).for_each(|i| out.in_band(i, false, &[&[0; 32]]).unwrap());
    assert!(out.publish(), "one signal for 32");
    assert!(!out.publish());
    out.in_band(9, false, &[&[0; 32]]).unwrap();
    assert!(!out.publish(), "it was not empty");
    inc.mask();
    while inc.next(&mut buffer).unwrap().is_some() {}
    let _ = inc.release();
    out.in_band(9, false, &[&[0; 32]]).unwrap();
    assert!(!out.publish(), "it is masked");
    assert!(inc.unmask(), "something came in");
    assert_eq!(get(&ring, MASK), 1);
    while inc.next(&mut buffer).unwrap().is_some() {}
    assert!(!inc.unmask());
    assert_eq!(get(&ring, MASK), 0);
}

#[test]
fn a_full_ring_is_waited_for_and_the_wait_is_taken_back() {
    let ring = Ring::new();
    let (mut out, mut inc) = ends(&ring);
    let mut buffer = [0; 1024];
    while out.in_band(0, false, &[&[0; 1000]]).is_ok() {}
    let _ = out.publish();
    assert_eq!(out.await_room(1000), Ok(false));
    assert_eq!(get(&ring, PENDING), 1024);
    inc.next(&mut buffer).unwrap().unwrap();
    // 4096 - 3 * 1024 leaves 1016: after one more there is room.
    assert!(inc.release());
    assert_eq!(out.await_room(1000), Ok(true));
    assert_eq!(get(&ring, PENDING), 0);
    out.in_band(0, false, &[&[0; 1000]]).unwrap();
}

/// Two threads that sleep by the rules: a signal that is missing hangs, one that is not owed is counted.
#[test]
fn two_threads_lose_nothing() {
    const COUNT: u64 = 300_000;
    let ring = Ring::new();
    let (to_consumer, to_producer) = (&AtomicBool::new(false), &AtomicBool::new(false));
    let sleep = |flag: &AtomicBool| {
        while !flag.swap(false, Ordering::SeqCst) {
            std::thread::yield_now();
        }
    };
    std::thread::scope(|scope| {
        let (mut out, mut inc) = ends(&ring);
        scope.spawn(move || {
            for i in 0..COUNT {
                let bytes = [i as u8; 100];
                let part = &bytes[..(i % 97) as usize];
                while out.in_band(i, false, &[part]) == Err(RingError::Full) {
                    if out.publish() {
                        to_consumer.store(true, Ordering::SeqCst);
                    }
                    if !out.await_room(part.len()).unwrap() {
                        sleep(to_producer);
                    }
                }
                if i % 3 == 0 && out.publish() {
                    to_consumer.store(true, Ordering::SeqCst);
                }
            }
            if out.publish() {
                to_consumer.store(true, Ordering::SeqCst);
            }
        });
        let mut buffer = [0; 128];
        let mut next = 0;
        while next < COUNT {
            inc.mask();
            while let Some(packet) = inc.next(&mut buffer).unwrap() {
                assert_eq!(packet.transaction, next);
                assert!(packet.payload.iter().take((next % 97) as usize).all(|byte| *byte == next as u8));
                next += 1;
                if next % 5 == 0 && inc.release() {
                    to_producer.store(true, Ordering::SeqCst);
                }
            }
            if inc.release() {
                to_producer.store(true, Ordering::SeqCst);
            }
            if next < COUNT && !inc.unmask() {
                sleep(to_consumer);
            }
        }
    });
}

proptest! {
    /// `gpa_page` writes the words that `gpa_direct` writes, at every offset of the ring, or nothing at all.
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
        // Descriptor, header of 24 bytes, payload and footer, behind those of the first packet.
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

    /// `next_if` takes exactly the packets of its kind, whole, and leaves every other one for `next`.
    #[test]
    fn a_conditional_read_takes_a_packet_or_leaves_it(
        lengths in prop::collection::vec((0usize..200, any::<bool>(), any::<bool>()), 1..100),
    ) {
        let ring = Ring::new();
        let (mut out, mut inc) = ends(&ring);
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

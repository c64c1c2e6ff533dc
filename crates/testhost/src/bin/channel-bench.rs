//! What a packet costs in a VMBus ring: run under callgrind by `cargo xtask bench`.
//!
//! `channel-bench BYTES BATCH ROUNDS` writes and reads packets with that payload; what stands in functions named `ring_side` is
//! the ring. Without payload there is nothing to copy. `channel-bench ratio` times the ring beside copies of the
//! same bytes.

use paravirt_testhost::count::{self, Counting, counted};
use paravirt_vmbus_ring::{ArrayRing, Incoming, Outgoing};
use std::hint::black_box;
use std::time::Instant;

#[global_allocator]
static COUNTING: Counting = Counting;

const PAGE: usize = 4096;
const WORDS: usize = 16 << 10;

struct Ends<'a> {
    outgoing: Outgoing<&'a ArrayRing<WORDS>>,
    incoming: Incoming<&'a ArrayRing<WORDS>>,
    payload: Vec<u8>,
    buffer: Vec<u8>,
    signals: u64,
}

impl<'a> Ends<'a> {
    fn new(ring: &'a ArrayRing<WORDS>, bytes: usize) -> Self {
        Self {
            outgoing: Outgoing::new(ring).expect("a ring"),
            incoming: Incoming::new(ring).expect("a ring"),
            payload: vec![7; bytes],
            buffer: vec![0; bytes.next_multiple_of(8)],
            signals: 0,
        }
    }

    /// One batch, written and read.
    #[inline(never)]
    fn ring_side_batch(&mut self, batch: u64) {
        for id in 0..batch {
            self.outgoing.in_band(id, true, &[&self.payload]).expect("room");
        }
        self.signals += u64::from(self.outgoing.publish());
        let mut read = 0;
        while let Some(packet) = self.incoming.next(&mut self.buffer).expect("a ring") {
            read += packet.payload.len();
        }
        self.signals += u64::from(self.incoming.release());
        assert_eq!(read, self.buffer.len() * batch as usize);
    }
}

/// Nanoseconds of one call of `work`: the best of many.
fn best(mut work: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..200 {
        let start = Instant::now();
        (0..20).for_each(|_| work());
        best = best.min(start.elapsed().as_nanos() as f64 / 20.0);
    }
    best
}

fn ratio() {
    for (bytes, batch) in [(64usize, 32u64), (1500, 32), (16 << 10, 1)] {
        let ring = Box::new(ArrayRing::default());
        let mut ends = Ends::new(&ring, bytes);
        let ours = best(|| ends.ring_side_batch(batch));
        // The same bytes into a ring and out of it, at the places where the packets are; in pages of their own, so that how
        // they lie to each other is the same every time.
        let stride = bytes.next_multiple_of(8) + 24;
        let mut memory = vec![1u8; 65 * PAGE];
        let start = memory.as_ptr().align_offset(PAGE);
        let (from, rest) = memory[start..].split_at_mut(6 * PAGE);
        let (to, middle) = rest.split_at_mut(6 * PAGE);
        let (from, to) = (&from[PAGE / 4..][..bytes], &mut to[PAGE / 2..][..bytes]);
        let floor = best(|| {
            for at in 0..batch as usize {
                middle[at * stride..at * stride + bytes].copy_from_slice(black_box(from));
            }
            for at in 0..batch as usize {
                black_box(&mut *to).copy_from_slice(&middle[at * stride..at * stride + bytes]);
            }
        });
        println!("ratio=ring bytes={bytes} batch={batch} over_memcpy={:.2}", ours / floor);
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let ring: &'static ArrayRing<WORDS> = Box::leak(Box::default());
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
    match (words.first().map(String::as_str), number(0), number(1), number(2)) {
        (Some("ratio"), ..) => ratio(),
        (_, Some(bytes), Some(batch), Some(rounds)) => {
            let mut ends = Ends::new(ring, bytes as usize);
            (0..rounds).for_each(|_| counted(|| ends.ring_side_batch(batch)));
            let each = count::allocations() as f64 / (rounds * batch) as f64;
            println!("signals={} allocations={each}", ends.signals as f64 / rounds as f64);
        }
        _ => {
            eprintln!("channel-bench BYTES BATCH ROUNDS, or channel-bench ratio");
            std::process::exit(2);
        }
    }
}

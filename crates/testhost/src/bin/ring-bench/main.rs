//! What a request costs in the queues, in the block driver behind `dyn BlockQueue`, and in `virtio-drivers`: run under callgrind by
//! `cargo xtask bench`.
//!
//! `ring-bench PART BATCH ROUNDS` runs one part. The device side is the same for all parts, and does the least that the protocol asks
//! for. `ring-bench ratio` times the parts side by side.

mod block;
mod peer;
mod peer_net;
mod peer_transport;
mod queue;

use block::BlockDyn;
use paravirt_testhost::bench::{self, Part};
use paravirt_testhost::count::Counting;
use peer::{Peer, PeerBlock};
use peer_net::{PeerRx, PeerTx};
use queue::{Ours, Records};
use std::time::{Duration, Instant};

#[global_allocator]
static COUNTING: Counting = Counting;

fn part(name: &str) -> Option<Box<dyn Part>> {
    Some(match name {
        "queue-indirect" => Box::new(Records::new()),
        "queue-direct" => Box::new(Ours::new(0, false)),
        "queue-packed" => Box::new(Ours::new(4, true)),
        "block-dyn" => Box::new(BlockDyn::new()),
        "peer-queue" => Box::new(Peer::new()),
        "peer-block" => Box::new(PeerBlock::<false>::new()),
        "peer-block-dyn" => Box::new(PeerBlock::<true>::new()),
        "peer-virtio-net-tx" => Box::new(PeerTx::new()),
        "peer-virtio-net-rx" => Box::new(PeerRx::new()),
        _ => return None,
    })
}

/// Times two parts in turn, so that both see the same machine.
fn ratio(ours: &str, peer: &str, batch: u64) {
    let (Some(mut a), Some(mut b)) = (part(ours), part(peer)) else { return };
    let mut times = [Duration::ZERO; 2];
    for _ in 0..200 {
        for (part, time) in [&mut a, &mut b].into_iter().zip(&mut times) {
            let start = Instant::now();
            (0..500).for_each(|_| part.batch(batch));
            *time += start.elapsed();
        }
    }
    let ratio = times[0].as_secs_f64() / times[1].as_secs_f64();
    println!("time of {ours} for that of {peer}, batch of {batch}, device side included: {ratio:.2}");
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("ratio") {
        // The peer's indirect queue has 16 entries.
        for batch in [1, 16] {
            ratio("queue-indirect", "peer-queue", batch);
            ratio("block-dyn", "peer-block-dyn", batch);
        }
        return;
    }
    bench::main("ring-bench PART BATCH ROUNDS, or ring-bench ratio", part);
}

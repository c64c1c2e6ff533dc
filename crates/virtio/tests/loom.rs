//! Tests the decisions to kick and to sleep under loom, in every interleaving that the C11 memory model allows.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p paravirt-virtio --test loom --target-dir target/loom`, as the test command
//! does.

#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU16, fence};
use loom::thread;
use paravirt_virtio::queue::decide::{Word, ask_then_look, need_event, publish_then_look};
use std::sync::atomic::Ordering;

struct Shared(AtomicU16);

impl Word for Shared {
    type Value = u16;
    fn load(&self, order: Ordering) -> u16 {
        self.0.load(order)
    }
    fn store(&self, value: u16, order: Ordering) {
        self.0.store(value, order);
    }
    fn full_fence() {
        fence(Ordering::SeqCst);
    }
}

/// The same words without the fence, for which loom must find a failure.
struct Unfenced(AtomicU16);

impl Word for Unfenced {
    type Value = u16;
    fn load(&self, order: Ordering) -> u16 {
        self.0.load(order)
    }
    fn store(&self, value: u16, order: Ordering) {
        self.0.store(value, order);
    }
    fn full_fence() {}
}

/// One side publishes an index, the other requests a notification and reads the index again: one of the two must act. `wanted` is
/// the value that the other side writes; `acts` returns whether the publisher notifies for the value that it reads.
fn one_side_acts<W, M, A>(make: M, initial: u16, wanted: u16, acts: A)
where
    W: Word<Value = u16> + Send + Sync + 'static,
    M: Fn(u16) -> W + Send + Sync + Copy + 'static,
    A: Fn(u16) -> bool + Send + Sync + Copy + 'static,
{
    loom::model(move || {
        let index = Arc::new(make(0));
        let hint = Arc::new(make(initial));
        let (other_index, other_hint) = (index.clone(), hint.clone());
        let other = thread::spawn(move || ask_then_look(&*other_hint, wanted, &*other_index, 0));
        let is_told = acts(publish_then_look(&*index, 1, &*hint));
        let has_seen = other.join().expect("the other side");
        assert!(is_told || has_seen, "nobody acts: the queue hangs");
    });
}

/// The driver's kick and the device's interrupt with EVENT_IDX: the event changes from a distant index to entry 0.
#[test]
fn with_event_idx_nothing_is_lost() {
    one_side_acts(|v| Shared(AtomicU16::new(v)), 9, 0, |event| need_event(event, 1, 0));
}

/// The same with flags: the flag changes from 1 (suppressed) to 0.
#[test]
fn with_flags_nothing_is_lost() {
    one_side_acts(|v| Shared(AtomicU16::new(v)), 1, 0, |flags| flags & 1 == 0);
}

#[test]
#[should_panic(expected = "nobody acts")]
fn without_the_fence_loom_finds_the_lost_kick() {
    one_side_acts(|v| Unfenced(AtomicU16::new(v)), 9, 0, |event| need_event(event, 1, 0));
}

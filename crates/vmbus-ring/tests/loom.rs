//! Tests the ring's decisions under loom, in every interleaving that the C11 memory model allows.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p paravirt-vmbus-ring --test loom --target-dir target/loom`, as the test command
//! does.

#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, fence};
use loom::thread;
use paravirt_vmbus_ring::decide::{
    Word, await_then_look, publish_then_look, release_then_look, room, unmask_then_look,
};
use std::sync::atomic::Ordering;

struct Shared(AtomicU32);

impl Word for Shared {
    fn load(&self, order: Ordering) -> u32 {
        self.0.load(order)
    }
    fn store(&self, value: u32, order: Ordering) {
        self.0.store(value, order);
    }
    fn full_fence() {
        fence(Ordering::SeqCst);
    }
}

/// The same words without the fence, for which loom must find a failure.
struct Unfenced(AtomicU32);

impl Word for Unfenced {
    fn load(&self, order: Ordering) -> u32 {
        self.0.load(order)
    }
    fn store(&self, value: u32, order: Ordering) {
        self.0.store(value, order);
    }
    fn full_fence() {}
}

/// A packet arrives while the consumer, after draining the ring, unmasks signals: one of the two must act.
fn a_packet_is_noticed<W: Word + Send + Sync + 'static>(make: fn(u32) -> W) {
    loom::model(move || {
        let words = Arc::new([0, 0, 1].map(make));
        let theirs = words.clone();
        let consumer = thread::spawn(move || {
            let [write, _, mask] = &*theirs;
            unmask_then_look(mask, write) != 0
        });
        let [write, read, mask] = &*words;
        let signalled = publish_then_look(write, 24, 0, mask, read);
        let noticed = consumer.join().expect("the consumer");
        assert!(signalled || noticed, "nobody acts: the channel hangs");
    });
}

/// The consumer reads while the producer, on a full ring, announces how much room it waits for: one of the two must act.
fn room_is_noticed<W: Word + Send + Sync + 'static>(make: fn(u32) -> W) {
    const SIZE: u32 = 64;
    loom::model(move || {
        let words = Arc::new([SIZE - 8, 0, 0].map(make));
        let theirs = words.clone();
        let consumer = thread::spawn(move || {
            let [write, read, pending] = &*theirs;
            release_then_look(read, 24, 0, pending, write, SIZE)
        });
        let [_, read, pending] = &*words;
        let seen = await_then_look(pending, 24, read);
        let noticed = room(SIZE - 8, seen, SIZE).expect("an index") >= 24;
        let signalled = consumer.join().expect("the consumer");
        assert!(signalled || noticed, "nobody acts: the channel hangs");
    });
}

#[test]
fn a_packet_is_never_lost() {
    a_packet_is_noticed(|v| Shared(AtomicU32::new(v)));
}

#[test]
fn room_is_never_lost() {
    room_is_noticed(|v| Shared(AtomicU32::new(v)));
}

#[test]
#[should_panic(expected = "nobody acts")]
fn without_the_fence_loom_finds_the_lost_packet() {
    a_packet_is_noticed(|v| Unfenced(AtomicU32::new(v)));
}

#[test]
#[should_panic(expected = "nobody acts")]
fn without_the_fence_loom_finds_the_lost_room() {
    room_is_noticed(|v| Unfenced(AtomicU32::new(v)));
}

//! The message slot under loom: every interleaving that the C11 memory model allows.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p paravirt-hyperv --test loom --target-dir target/loom`, as the test command does.

#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, fence};
use loom::thread;
use paravirt_hyperv::decide::{Slot, free_then_look};
use std::sync::atomic::Ordering;

struct Words {
    message_type: AtomicU32,
    flags: AtomicU32,
}

struct Fenced(Arc<Words>);
/// The same without a fence: loom must find the lost message.
struct Unfenced(Arc<Words>);

impl Slot for Fenced {
    fn clear(&self) {
        self.0.message_type.store(0, Ordering::Release);
    }
    fn full_fence() {
        fence(Ordering::SeqCst);
    }
    fn is_pending(&self) -> bool {
        self.0.flags.load(Ordering::Acquire) & 1 != 0
    }
}

impl Slot for Unfenced {
    fn clear(&self) {
        self.0.message_type.store(0, Ordering::Release);
    }
    fn full_fence() {}
    fn is_pending(&self) -> bool {
        self.0.flags.load(Ordering::Acquire) & 1 != 0
    }
}

/// The hypervisor has a second message: it flags the full slot, and then checks whether it has become free. The guest frees it. One of
/// the two must see the other's write, or the message is never delivered.
fn a_message_is_noticed<S: Slot + 'static>(make: fn(Arc<Words>) -> S) {
    loom::model(move || {
        let words = Arc::new(Words { message_type: AtomicU32::new(1), flags: AtomicU32::new(0) });
        let theirs = words.clone();
        let hypervisor = thread::spawn(move || {
            theirs.flags.store(1, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            theirs.message_type.load(Ordering::Acquire) == 0
        });
        let ends = free_then_look(&make(words));
        let delivers = hypervisor.join().expect("the hypervisor");
        assert!(ends || delivers, "the second message is never delivered");
    });
}

#[test]
fn a_message_behind_another_is_never_lost() {
    a_message_is_noticed(Fenced);
}

#[test]
#[should_panic(expected = "never delivered")]
fn without_the_fence_loom_finds_the_lost_message() {
    a_message_is_noticed(Unfenced);
}

//! The message inbox under loom: every interleaving that the C11 memory model allows.
//!
//! The files of the library that it consists of are compiled here once more, over loom's atomics. Freeing the message slot is
//! modelled with `paravirt-hyperv`.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p paravirt-vmbus --test loom --target-dir target/loom`, as the test command does.

#![cfg(loom)]

#[path = "../src/inbox/cursors.rs"]
mod cursors;
#[path = "../src/inbox/pump.rs"]
mod pump;
/// In place of `src/inbox/sync.rs`.
mod sync {
    pub use loom::sync::atomic::{AtomicBool, AtomicU32, fence};
}

use cursors::Cursors;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use pump::{Pump, Source};
use std::sync::atomic::Ordering;
use sync::{AtomicBool, AtomicU32, fence};

/// An inbox of `N` entries whose contents loom watches, and a slot with `pending` more messages behind it.
struct Inbox<const N: usize> {
    cursors: Cursors,
    entries: [UnsafeCell<u32>; N],
    pump: Pump,
    /// The message in the slot, or 0.
    slot: AtomicU32,
    last: u32,
    woken: AtomicBool,
}

impl<const N: usize> Inbox<N> {
    fn new(first: u32, last: u32) -> Self {
        Self {
            cursors: Cursors::new(N as u32),
            entries: std::array::from_fn(|_| UnsafeCell::new(0)),
            pump: Pump::new(),
            slot: AtomicU32::new(first),
            last,
            woken: AtomicBool::new(false),
        }
    }

    fn put(&self, message: u32) {
        // SAFETY: loom reports where somebody else is at the entry.
        self.cursors.put(|index| self.entries[index].with_mut(|entry| unsafe { *entry = message }));
    }

    fn take(&self) -> Option<u32> {
        // SAFETY: loom reports where somebody else writes the entry.
        self.cursors.take(|index| self.entries[index].with(|entry| unsafe { *entry }))
    }

    /// What the handler does with a message's interrupt.
    fn interrupt(&self) {
        if self.pump.run(8, self) {
            self.woken.store(true, Ordering::Release);
        }
    }

    /// What the task does when it is woken: drains, then looks whether a message was left.
    fn collect(&self, taken: &mut Vec<u32>) {
        loop {
            taken.extend(std::iter::from_fn(|| self.take()));
            fence(Ordering::SeqCst);
            if !(self.has_message() && self.pump.take_stall() && self.pump.run(8, self)) {
                return;
            }
        }
    }
}

impl<const N: usize> Source for Inbox<N> {
    fn has_message(&self) -> bool {
        self.slot.load(Ordering::Acquire) != 0
    }
    fn is_full(&self) -> bool {
        self.cursors.is_full()
    }
    fn transfer(&self) -> bool {
        let message = self.slot.load(Ordering::Acquire);
        if message != 0 {
            self.put(message);
            // The host fills a slot that has become free.
            self.slot.store(if message < self.last { message + 1 } else { 0 }, Ordering::Release);
        }
        message != 0
    }
}

/// More messages than there are entries come in while a task drains: each comes out once, in its order, and is not
/// overwritten while it is read.
#[test]
fn messages_come_out_once_and_in_order() {
    loom::model(|| {
        let inbox = Arc::new(Inbox::<2>::new(1, 3));
        let theirs = inbox.clone();
        let interrupt = thread::spawn(move || theirs.interrupt());
        let mut taken = vec![];
        inbox.collect(&mut taken);
        interrupt.join().expect("the interrupt");
        if inbox.woken.load(Ordering::Acquire) {
            inbox.collect(&mut taken);
        }
        assert_eq!(taken, [1, 2, 3], "a message is lost");
    });
}

/// A message finds the inbox full while a task drains it: the task fetches it, or is woken to fetch it.
#[test]
fn a_message_left_in_the_slot_is_fetched() {
    loom::model(|| {
        let inbox = Arc::new(Inbox::<1>::new(2, 2));
        inbox.put(1);
        let theirs = inbox.clone();
        let interrupt = thread::spawn(move || theirs.interrupt());
        let mut taken = vec![];
        inbox.collect(&mut taken);
        interrupt.join().expect("the interrupt");
        if inbox.woken.load(Ordering::Acquire) {
            inbox.collect(&mut taken);
        }
        assert_eq!(taken, [1, 2], "a message is lost");
    });
}

/// An interrupt comes in the middle of a pump: one of the two moves the message that came with it.
#[test]
fn a_message_that_comes_during_a_pump_is_moved() {
    loom::model(|| {
        let inbox = Arc::new(Inbox::<2>::new(0, 1));
        let theirs = inbox.clone();
        let interrupt = thread::spawn(move || {
            theirs.slot.store(1, Ordering::Release);
            fence(Ordering::SeqCst);
            theirs.interrupt();
        });
        inbox.interrupt();
        interrupt.join().expect("the interrupt");
        let mut taken = vec![];
        if inbox.woken.load(Ordering::Acquire) {
            inbox.collect(&mut taken);
        }
        assert_eq!(taken, [1], "a message is lost");
    });
}

//! The waker cell and the waker group under loom: every interleaving that the C11 memory model allows.
//!
//! The library's source files are compiled here again, with loom's atomics.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p paravirt-platform --test loom --target-dir target/loom`, as the test command
//! does.

#![cfg(loom)]

#[path = "../src/waker/cell.rs"]
mod cell;
#[path = "../src/waker/cells.rs"]
mod cells;
/// Replaces `src/waker/sync.rs`.
mod sync {
    pub use loom::{
        cell::UnsafeCell,
        hint::spin_loop,
        sync::atomic::{AtomicU8, AtomicUsize},
    };

    macro_rules! const_fn {
        ($($function:tt)*) => { $($function)* };
    }
    pub(crate) use const_fn;
}

use cell::WakerCell;
use cells::Cells;
use loom::{
    sync::atomic::{AtomicBool, AtomicUsize},
    thread,
};
use std::{
    sync::{Arc, atomic::Ordering},
    task::{Wake, Waker},
};

/// Maximum number of preemptions.
const PREEMPTIONS: usize = 3;

/// Counts how often it is woken.
struct Task(AtomicUsize);

impl Task {
    fn new() -> (Arc<Self>, Waker) {
        let task = Arc::new(Self(AtomicUsize::new(0)));
        (task.clone(), task.into())
    }
    fn wakes(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Tries every interleaving with up to [`PREEMPTIONS`] preemptions: trying all would take too long, and bugs appear with few.
fn model(work: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(work);
}

/// Runs `first` and `second` on two threads and `here` on this one, with the same value, and waits for them.
fn with_threads<T: Send + Sync + 'static>(
    shared: &Arc<T>,
    first: impl FnOnce(&T) + 'static,
    second: impl FnOnce(&T) + 'static,
    here: impl FnOnce(&T),
) {
    let (a, b) = (shared.clone(), shared.clone());
    let threads = [thread::spawn(move || first(&a)), thread::spawn(move || second(&b))];
    here(shared);
    threads.into_iter().for_each(|thread| thread.join().expect("a thread"));
}

/// A waker that is registered while two wakes run is woken by the next wake, and by the one after it.
#[test]
fn a_waker_registered_during_wakes_stays_registered() {
    model(|| {
        let cell = Arc::new(WakerCell::new());
        let (task, waker) = Task::new();
        with_threads(&cell, WakerCell::wake, WakerCell::wake, |cell| cell.register(&waker));
        let before = task.wakes();
        cell.wake();
        assert_eq!(task.wakes(), before + 1, "the waker was lost");
        cell.wake();
        assert_eq!(task.wakes(), before + 2, "the waker was lost");
    });
}

/// A wake that begins after the registration reaches the new waker, even if a running wake uses the old one and performs the new
/// wake.
#[test]
fn a_wake_after_a_replacement_reaches_the_new_waker() {
    model(|| {
        let cell = Arc::new(WakerCell::new());
        let ((old, old_waker), (new, new_waker)) = (Task::new(), Task::new());
        cell.register(&old_waker);
        let first = cell.clone();
        let wake = thread::spawn(move || first.wake());
        cell.register(&new_waker);
        cell.wake();
        wake.join().expect("the wake");
        assert!(new.wakes() >= 1, "the waker was lost");
        assert!(old.wakes() + new.wakes() <= 3);
    });
}

/// A task that registers and then checks for its event sees it, or is woken by the waker that it registered last.
#[test]
fn a_task_that_registers_and_checks_misses_no_event() {
    model(|| {
        let cell = Arc::new(WakerCell::new());
        let event = Arc::new(AtomicBool::new(false));
        let ((_, first), (task, second)) = (Task::new(), Task::new());
        cell.register(&first);
        let (their_cell, their_event) = (cell.clone(), event.clone());
        let interrupt = thread::spawn(move || {
            their_event.store(true, Ordering::Relaxed);
            their_cell.wake();
        });
        cell.register(&second);
        let is_seen = event.load(Ordering::Relaxed);
        interrupt.join().expect("the interrupt");
        assert!(is_seen || task.wakes() == 1, "the event was missed");
    });
}

/// A waker that is registered again, which writes nothing, is woken by a concurrent wake.
#[test]
fn a_wake_while_the_same_waker_is_registered_again_reaches_it() {
    model(|| {
        let cell = Arc::new(WakerCell::new());
        let (task, waker) = Task::new();
        cell.register(&waker);
        let other = cell.clone();
        let interrupt = thread::spawn(move || other.wake());
        cell.register(&waker);
        interrupt.join().expect("the interrupt");
        assert_eq!(task.wakes(), 1, "the wake was lost");
    });
}

/// Two tasks register at once while a wake runs: the cell keeps one of them, and wakes it from then on.
#[test]
fn of_two_wakers_registered_at_once_one_stays() {
    model(|| {
        let cell = Arc::new(WakerCell::new());
        let ((a, first), (b, second)) = (Task::new(), Task::new());
        with_threads(
            &cell,
            move |cell| cell.register(&first),
            WakerCell::wake,
            |cell| cell.register(&second),
        );
        let before = a.wakes() + b.wakes();
        cell.wake();
        assert_eq!(a.wakes() + b.wakes(), before + 1, "both wakers were lost");
    });
}

/// Each clone of each waker is dropped once, the last one with the cell, even if a wake was using it when it was replaced.
#[test]
fn every_clone_is_dropped_once() {
    model(|| {
        let cell = Arc::new(WakerCell::new());
        let tasks = [(); 4].map(|()| Task::new());
        cell.register(&tasks[0].1);
        let other = cell.clone();
        let interrupt = thread::spawn(move || other.wake());
        tasks[1..].iter().for_each(|(_, waker)| cell.register(waker));
        interrupt.join().expect("the interrupt");
        cell.register(&tasks[0].1);
        // The references are: the task, its waker here, and the registered clone. At most one replaced clone is left.
        assert_eq!(Arc::strong_count(&tasks[0].0), 3);
        assert!(tasks[1..].iter().map(|(task, _)| Arc::strong_count(task)).sum::<usize>() <= 3 * 2 + 1);
        drop(cell);
        assert!(tasks.iter().all(|(task, _)| Arc::strong_count(task) == 2), "a clone was leaked");
    });
}

fn group() -> Arc<Cells<Box<[WakerCell]>>> {
    Arc::new(Cells::new(Box::new([WakerCell::new(), WakerCell::new()])))
}

/// The group is woken while a task registers in an unused cell: the task sees the event, or is woken.
#[test]
fn a_task_that_registers_in_a_group_misses_no_event() {
    model(|| {
        let cells = group();
        let event = Arc::new(AtomicBool::new(false));
        let (task, waker) = Task::new();
        let (their_cells, their_event) = (cells.clone(), event.clone());
        let interrupt = thread::spawn(move || {
            their_event.store(true, Ordering::Relaxed);
            their_cells.wake_all();
        });
        cells.register(1, &waker);
        let is_seen = event.load(Ordering::Relaxed);
        interrupt.join().expect("the interrupt");
        assert!(is_seen || task.wakes() == 1, "the event was missed");
        cells.wake_all();
        cells.wake(1);
        assert!(task.wakes() >= 2, "the waker was lost");
    });
}

/// Two tasks register in separate cells while the group is woken: both stay registered.
#[test]
fn two_wakers_of_a_group_stay_registered() {
    model(|| {
        let cells = group();
        let ((a, first), (b, second)) = (Task::new(), Task::new());
        with_threads(
            &cells,
            move |cells| cells.register(0, &first),
            Cells::wake_all,
            |cells| cells.register(1, &second),
        );
        let before = (a.wakes(), b.wakes());
        cells.wake_all();
        assert_eq!((a.wakes(), b.wakes()), (before.0 + 1, before.1 + 1), "a waker was lost");
    });
}

/// Two owners of a group let go of it, one after a wake and one after a registration: the last one drops every clone, once.
#[test]
fn the_last_owner_of_a_group_drops_every_clone_once() {
    model(|| {
        let boxed: Box<[WakerCell]> = Box::new([WakerCell::new(), WakerCell::new()]);
        let cells = loom::sync::Arc::new(Cells::new(boxed));
        let ((a, first), (b, second)) = (Task::new(), Task::new());
        cells.register(0, &first);
        let other = cells.clone();
        let interrupt = thread::spawn(move || {
            other.wake_all();
            drop(other);
        });
        cells.register(1, &second);
        cells.register(0, &second);
        drop(cells);
        interrupt.join().expect("the interrupt");
        // What is left is the task and its waker here.
        assert_eq!(
            (Arc::strong_count(&a), Arc::strong_count(&b)),
            (2, 2),
            "a clone was leaked, or dropped twice"
        );
        drop((first, second));
    });
}

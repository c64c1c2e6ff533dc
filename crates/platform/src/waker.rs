//! The waker cell and the waker group with the atomics of `core`; `tests/loom.rs` compiles the same files with loom's.

mod cell;
mod cells;
mod sync;

pub use cell::WakerCell;
pub(crate) use cells::Cells;

#[cfg(test)]
mod tests {
    extern crate std;
    use super::WakerCell;
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, AtomicUsize, Ordering},
        },
        task::{Wake, Waker},
        thread,
    };

    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_registered_waker_is_woken_every_time_and_replaced() {
        let cell = WakerCell::new();
        cell.wake();
        let (a, b) = (Arc::new(Count(AtomicUsize::new(0))), Arc::new(Count(AtomicUsize::new(0))));
        cell.register(&a.clone().into());
        cell.wake();
        cell.wake();
        cell.register(&b.clone().into());
        cell.wake();
        assert_eq!((a.0.load(Ordering::SeqCst), b.0.load(Ordering::SeqCst)), (2, 1));
    }

    /// Each event sets a flag before the wake; after the last wake a woken task must have seen the flag.
    #[test]
    fn no_wake_is_lost_between_threads() {
        let cell = WakerCell::new();
        let woken = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(woken.clone());
        let events = AtomicUsize::new(0);
        thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| {
                    for _ in 0..20_000 {
                        events.fetch_add(1, Ordering::SeqCst);
                        cell.wake();
                    }
                });
            }
            let (mut seen, mut wakes) = (0, 0);
            while seen < 40_000 {
                cell.register(&waker);
                seen = events.load(Ordering::SeqCst);
                // Sleep until woken: a lost wake-up would hang here.
                while seen < 40_000 && woken.0.load(Ordering::SeqCst) == wakes {
                    thread::yield_now();
                }
                wakes = woken.0.load(Ordering::SeqCst);
            }
        });
    }

    /// A waker that is registered once, while another processor wakes, is woken by every later wake.
    #[test]
    fn a_waker_registered_once_during_a_storm_of_wakes_stays() {
        for _ in 0..200 {
            let cell = WakerCell::new();
            let woken = Arc::new(Count(AtomicUsize::new(0)));
            let is_over = AtomicBool::new(false);
            thread::scope(|s| {
                s.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        cell.wake();
                    }
                });
                cell.register(&woken.clone().into());
                is_over.store(true, Ordering::Relaxed);
            });
            let before = woken.0.load(Ordering::SeqCst);
            cell.wake();
            assert_eq!(woken.0.load(Ordering::SeqCst), before + 1);
        }
    }

    /// A waker may wake or register in the cell that wakes it.
    #[test]
    fn a_wake_may_register_from_inside() {
        struct Replaces(WakerCell, Waker);
        impl Wake for Replaces {
            fn wake(self: Arc<Self>) {
                self.0.register(&self.1);
            }
        }
        let counts = Arc::new(Count(AtomicUsize::new(0)));
        let this = Arc::new(Replaces(WakerCell::new(), counts.clone().into()));
        this.0.register(&this.clone().into());
        this.0.wake();
        assert_eq!(counts.0.load(Ordering::SeqCst), 0);
        this.0.wake();
        assert_eq!(counts.0.load(Ordering::SeqCst), 1);
    }
}

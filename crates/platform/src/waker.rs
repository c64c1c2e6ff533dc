use core::{
    cell::UnsafeCell,
    sync::atomic::{AtomicU8, Ordering},
    task::Waker,
};

const REGISTERING: u8 = 1;
const WAKING: u8 = 2;
const AGAIN: u8 = 4;

/// A cell that holds one [`Waker`]: tasks register in it, an interrupt wakes it.
///
/// [`wake`](Self::wake) takes no lock, and never clones, drops or allocates, so that it may run in an interrupt
/// handler, on several processors at once and in the middle of a [`register`](Self::register).
#[derive(Debug)]
pub struct WakerCell {
    state: AtomicU8,
    waker: UnsafeCell<Option<Waker>>,
}

// SAFETY: the state admits one side at a time to the waker.
unsafe impl Sync for WakerCell {}
// SAFETY: a `Waker` is `Send`.
unsafe impl Send for WakerCell {}

impl WakerCell {
    /// An empty cell.
    pub const fn new() -> Self {
        Self { state: AtomicU8::new(0), waker: UnsafeCell::new(None) }
    }

    /// Replaces the waker by a clone of `waker`, unless that one would wake the same task.
    ///
    /// A wake that comes meanwhile is not lost: `waker` is then woken at once. One task at a time may register;
    /// where two do, one of them is woken instead of registered.
    pub fn register(&self, waker: &Waker) {
        if self.state.compare_exchange(0, REGISTERING, Ordering::Acquire, Ordering::Relaxed).is_err() {
            waker.wake_by_ref();
            return;
        }
        // SAFETY: REGISTERING was taken from the empty state: nobody else is at the waker.
        let slot = unsafe { &mut *self.waker.get() };
        match slot {
            Some(old) if old.will_wake(waker) => {}
            _ => *slot = Some(waker.clone()),
        }
        if self.state.swap(0, Ordering::AcqRel) & AGAIN != 0 {
            waker.wake_by_ref();
        }
    }

    /// Wakes what is registered; nothing happens where there is none. It stays registered.
    pub fn wake(&self) {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            // Where somebody is at the waker, leave word: they look before they go.
            let (to, mine) = if state == 0 { (WAKING, true) } else { (state | AGAIN, false) };
            match self.state.compare_exchange_weak(state, to, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) if mine => break,
                Ok(_) => return,
                Err(now) => state = now,
            }
        }
        loop {
            // SAFETY: WAKING was taken from the empty state: nobody else is at the waker.
            if let Some(waker) = unsafe { &*self.waker.get() } {
                waker.wake_by_ref();
            }
            if self.state.compare_exchange(WAKING, 0, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return;
            }
            self.state.fetch_and(!AGAIN, Ordering::AcqRel);
        }
    }
}

impl Default for WakerCell {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::{
        sync::{Arc, atomic::AtomicUsize},
        task::Wake,
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

    /// Each event is announced in a flag before the wake; after the last wake the flag must have been seen by
    /// somebody who was woken after it was set.
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
                // Sleep until woken: a lost wake would hang here.
                while seen < 40_000 && woken.0.load(Ordering::SeqCst) == wakes {
                    thread::yield_now();
                }
                wakes = woken.0.load(Ordering::SeqCst);
            }
        });
    }
}

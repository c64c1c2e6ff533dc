use super::sync::{AtomicU8, UnsafeCell, const_fn, spin_loop};
use core::{fmt, sync::atomic::Ordering, task::Waker};

/// The state: in bits 0 and 1 the slot of the waker that was registered last, in bits 2 and 3 the slot of the waker that is
/// being woken or [`NO_SLOT`], then the flags.
const SLOT: u8 = 3;
const WAKING_SHIFT: u32 = 2;
const NO_SLOT: u8 = 3;
/// A wake began while another one was running, which starts over before it ends.
const AGAIN: u8 = 1 << 4;
/// A [`WakerCell::register`] is running.
const REGISTERING: u8 = 1 << 5;

const fn registered(state: u8) -> u8 {
    state & SLOT
}

const fn waking(state: u8) -> u8 {
    (state >> WAKING_SHIFT) & SLOT
}

/// Returns the state in which the registered waker is being woken, without a pending wake.
const fn begin(state: u8) -> u8 {
    state & !(SLOT << WAKING_SHIFT | AGAIN) | registered(state) << WAKING_SHIFT
}

/// A cell that holds one [`Waker`]: a task registers it, an interrupt wakes it.
///
/// A registered waker stays registered until another one replaces it: each [`wake`](Self::wake) that begins after
/// [`register`](Self::register) has returned wakes it, whatever else runs at the same time. A wake that begins earlier
/// wakes it or the previous one; what was written before that wake is then visible after `register` returns. So a task that
/// registers first and checks for its event second never misses the event.
///
/// # Implementation
///
/// There are three slots: one for the registered waker, and one for the waker that a running wake uses, which may have been replaced
/// meanwhile. So one slot is always free for the next registration. One wake runs at a time; one that begins meanwhile sets a flag,
/// and the running one starts over.
pub struct WakerCell {
    state: AtomicU8,
    slots: [UnsafeCell<Option<Waker>>; 3],
}

// SAFETY: `state` determines the access to each slot. The registered slot and the slot that is being woken are only read; the other
// one, and the replaced one once no wake uses it, are accessed only by the `register` that set REGISTERING.
unsafe impl Sync for WakerCell {}
// SAFETY: a `Waker` is `Send`.
unsafe impl Send for WakerCell {}

/// The exclusive right to register, released on drop.
struct Registration<'a>(&'a AtomicU8);

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.0.fetch_and(!REGISTERING, Ordering::AcqRel);
    }
}

impl WakerCell {
    const_fn! {
        /// Creates an empty cell.
        pub fn new() -> Self {
            Self {
                state: AtomicU8::new(NO_SLOT << WAKING_SHIFT),
                slots: [UnsafeCell::new(None), UnsafeCell::new(None), UnsafeCell::new(None)],
            }
        }
    }

    fn slot(&self, index: u8) -> &UnsafeCell<Option<Waker>> {
        let [first, second, third] = &self.slots;
        match index {
            0 => first,
            1 => second,
            _ => third,
        }
    }

    /// Registers a clone of `waker`, replacing the previous one unless that would wake the same task.
    ///
    /// It never waits for a wake. It spins while another `register` of the same cell runs, which at most clones a waker; so an interrupt
    /// handler must not call it. The replaced waker is dropped by this call or, if a wake is using it, by a later `register` or with the
    /// cell.
    pub fn register(&self, waker: &Waker) {
        let claimed = loop {
            let state = self.state.fetch_or(REGISTERING, Ordering::Acquire);
            if state & REGISTERING == 0 {
                break state;
            }
            spin_loop();
        };
        let claim = Registration(&self.state);
        let current = registered(claimed);
        // SAFETY: only the holder of the registration changes the registered slot; others at most read it.
        let is_same = self
            .slot(current)
            .with(|slot| unsafe { &*slot }.as_ref().is_some_and(|registered| registered.will_wake(waker)));
        if is_same {
            return;
        }
        let fresh = Some(waker.clone());
        let Some(free) = (0..NO_SLOT).find(|slot| *slot != current && *slot != waking(claimed)) else {
            return;
        };
        // SAFETY: this slot is neither registered nor being woken; a wake begins with the registered slot, which only the holder of the
        // registration changes.
        let leftover = self.slot(free).with_mut(|slot| unsafe { core::mem::replace(&mut *slot, fresh) });
        let state = self.state.fetch_xor(current ^ free, Ordering::AcqRel);
        let replaced = if waking(state) == current {
            None
        } else {
            // SAFETY: the slot is no longer registered and no wake uses it, so none can begin to use it.
            self.slot(current).with_mut(|slot| unsafe { (*slot).take() })
        };
        drop(claim);
        // Dropping the last reference to a task runs its destructor, which must not happen while others spin.
        drop((leftover, replaced));
    }

    /// Wakes the registered waker, which stays registered; does nothing if there is none.
    ///
    /// Callable from an interrupt handler, on several processors at once and during a `register`. It never waits, clones, drops or
    /// allocates. If another wake is running, that one wakes the registered waker once more, and this one returns at once.
    pub fn wake(&self) {
        let before = self.change(|state| if waking(state) == NO_SLOT { begin(state) } else { state | AGAIN });
        if waking(before) != NO_SLOT {
            return;
        }
        let mut slot = registered(before);
        loop {
            self.slot(slot).with(|slot| {
                // SAFETY: the state marks this slot as being woken, so it is not written.
                if let Some(waker) = unsafe { &*slot } {
                    waker.wake_by_ref();
                }
            });
            let before =
                self.change(
                    |state| {
                        if state & AGAIN == 0 { state | NO_SLOT << WAKING_SHIFT } else { begin(state) }
                    },
                );
            if before & AGAIN == 0 {
                return;
            }
            slot = registered(before);
        }
    }

    /// Replaces the state by `next` of it; returns the previous state.
    fn change(&self, next: impl Fn(u8) -> u8) -> u8 {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            match self.state.compare_exchange_weak(state, next(state), Ordering::AcqRel, Ordering::Relaxed) {
                Ok(before) => return before,
                Err(now) => state = now,
            }
        }
    }
}

impl Default for WakerCell {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for WakerCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WakerCell").finish_non_exhaustive()
    }
}

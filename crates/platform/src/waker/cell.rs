use super::sync::{AtomicU8, UnsafeCell, const_fn, spin_loop};
use core::{fmt, sync::atomic::Ordering, task::Waker};

/// The state: in bits 0 and 1 the slot of the waker that was registered last, in bits 2 and 3 the slot of the waker that is
/// being woken or [`NO_SLOT`], then the flags.
const SLOT: u8 = 3;
const WAKING_SHIFT: u32 = 2;
const NO_SLOT: u8 = 3;
/// A wake came while another one was running, which is to look for it before it ends.
const AGAIN: u8 = 1 << 4;
/// A [`WakerCell::register`] is running.
const REGISTERING: u8 = 1 << 5;

const fn registered(state: u8) -> u8 {
    state & SLOT
}

const fn waking(state: u8) -> u8 {
    (state >> WAKING_SHIFT) & SLOT
}

/// The state in which the registered waker is being woken, with nothing left to do after it.
const fn begin(state: u8) -> u8 {
    state & !(SLOT << WAKING_SHIFT | AGAIN) | registered(state) << WAKING_SHIFT
}

/// A cell that holds one [`Waker`]: a task registers it, an interrupt wakes it.
///
/// A registered waker stays registered until another one replaces it: each [`wake`](Self::wake) that begins after
/// [`register`](Self::register) has returned wakes it, whatever else runs at the same time. A wake that begins earlier
/// wakes it or the one before; what was written ahead of that wake is then visible to whoever returns from `register`. So a task
/// that registers first and looks for its event second never misses the event.
///
/// # How
///
/// There are three slots: one for the registered waker, one for the waker that a running wake is using, which may
/// have been replaced meanwhile, and so always one that nobody uses, to register the next waker in. One wake runs at a
/// time; one that begins meanwhile leaves a flag, and the running one starts over.
pub struct WakerCell {
    state: AtomicU8,
    slots: [UnsafeCell<Option<Waker>>; 3],
}

// SAFETY: `state` says who may touch which slot. The registered slot and the slot that is being woken are only read; the other one,
// and the replaced one once no wake uses it, belong to the one `register` that set REGISTERING.
unsafe impl Sync for WakerCell {}
// SAFETY: a `Waker` is `Send`.
unsafe impl Send for WakerCell {}

/// The right to register, given up when it is dropped.
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

    /// Registers a clone of `waker` in place of the waker before, unless that one would wake the same task.
    ///
    /// It waits for no wake, neither on this processor nor on another. It spins while another `register` of the same cell
    /// runs, which clones a waker at most; so an interrupt handler must not call it. The waker that is replaced is dropped
    /// by this call, or, where a wake is using it, by a later `register` or with the cell.
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
        // SAFETY: only who has the claim changes what is registered; others read that slot at most.
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
        // SAFETY: this slot is neither registered nor being woken; a wake begins at the registered one, and only who has the claim
        // changes that.
        let leftover = self.slot(free).with_mut(|slot| unsafe { core::mem::replace(&mut *slot, fresh) });
        let state = self.state.fetch_xor(current ^ free, Ordering::AcqRel);
        let replaced = if waking(state) == current {
            None
        } else {
            // SAFETY: the slot is not registered any more and no wake uses it: none can begin there.
            self.slot(current).with_mut(|slot| unsafe { (*slot).take() })
        };
        drop(claim);
        // The last reference to a task may run its destructor: not while others spin.
        drop((leftover, replaced));
    }

    /// Wakes the registered waker, which stays registered; does nothing where there is none.
    ///
    /// Callable from an interrupt handler, on several processors at once and in the middle of a `register`. It waits for
    /// nobody, and never clones, drops or allocates. Where another wake is running, that one wakes the registered waker
    /// once more, and this one returns at once.
    pub fn wake(&self) {
        let before = self.change(|state| if waking(state) == NO_SLOT { begin(state) } else { state | AGAIN });
        if waking(before) != NO_SLOT {
            return;
        }
        let mut slot = registered(before);
        loop {
            self.slot(slot).with(|slot| {
                // SAFETY: the state names this slot as the one that is being woken: nobody writes it.
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

    /// Replaces the state by `next` of it; the state before.
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

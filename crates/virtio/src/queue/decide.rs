//! The decisions of a queue that hang on memory order: to kick or not to kick, and to sleep or not to sleep.
//!
//! They are written over the words that they look at, so that the very same code runs on ring memory and under
//! loom, whose atomics cannot live in ring memory.

use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

/// An atomic word that both sides see.
pub trait Word {
    /// What it holds.
    type Value: Copy + PartialEq;
    /// Reads it.
    fn load(&self, order: Ordering) -> Self::Value;
    /// Writes it.
    fn store(&self, value: Self::Value, order: Ordering);
    /// A full fence: no load after it is done before a store ahead of it is seen.
    fn full_fence();
}

macro_rules! word {
    ($t:ty, $v:ty) => {
        impl Word for $t {
            type Value = $v;
            #[inline(always)]
            fn load(&self, order: Ordering) -> $v {
                <$t>::load(self, order)
            }
            #[inline(always)]
            fn store(&self, value: $v, order: Ordering) {
                <$t>::store(self, value, order);
            }
            #[inline(always)]
            fn full_fence() {
                fence(Ordering::SeqCst);
            }
        }
    };
}
word!(AtomicU16, u16);
word!(AtomicU32, u32);
word!(AtomicU64, u64);

/// Whether an index that went from `old` to `new` has passed `event`, so that the other side wants to know. Right
/// across the wrap of 16 bits.
///
/// VIRTIO 1.3 §2.7.10
#[inline(always)]
pub const fn need_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// Publishes `value` in `index`, then reads in `hint` what the other side asked for.
///
/// Between the two stands a full fence: without it, the read may be done before the store is seen, while the other
/// side writes its event word and then misses the store: neither acts, and the queue hangs.
#[inline(always)]
pub fn publish_then_look<I: Word, H: Word>(index: &I, value: I::Value, hint: &H) -> H::Value {
    index.store(value, Ordering::Release);
    I::full_fence();
    hint.load(Ordering::Acquire)
}

/// Writes in `hint` that an interrupt is wanted, then looks whether `index` has moved on from what was `seen`:
/// `true` means that something raced in, and no interrupt will tell.
///
/// The full fence stands here for the same reason as in [`publish_then_look`].
#[inline(always)]
pub fn ask_then_look<H: Word, I: Word>(hint: &H, wanted: H::Value, index: &I, seen: I::Value) -> bool {
    hint.store(wanted, Ordering::Relaxed);
    I::full_fence();
    index.load(Ordering::Acquire) != seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_due_when_the_index_passes_it() {
        // The device waits for entry 5: it is told when the index goes from 5 to 6 or beyond, and only then.
        assert!(need_event(5, 6, 5));
        assert!(need_event(5, 9, 3));
        assert!(!need_event(5, 5, 3));
        assert!(!need_event(5, 7, 6));
    }

    #[test]
    fn the_wrap_of_sixteen_bits_loses_nothing() {
        // A batch of two across the wrap, the event on the entry before it and on the one behind it.
        assert!(need_event(u16::MAX, 1, u16::MAX));
        assert!(need_event(0, 1, u16::MAX));
        assert!(!need_event(1, 1, u16::MAX));
        // Exhaustively: an event is due exactly when it is one of the entries published.
        for old in [0u16, 1, 0x7fff, 0xfffd, 0xffff] {
            for batch in 0..40u16 {
                let new = old.wrapping_add(batch);
                for event in 0..=u16::MAX {
                    let inside = event.wrapping_sub(old) < batch;
                    assert_eq!(need_event(event, new, old), inside, "event {event} old {old} new {new}");
                }
            }
        }
    }
}

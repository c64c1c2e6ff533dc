//! The decisions of a queue that depend on memory order: whether to kick the device, and whether to sleep.
//!
//! They are generic over the words that they access, so that the same code runs on ring memory and under loom, whose atomics
//! cannot be in ring memory.

use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

/// An atomic word that both sides see.
pub trait Word {
    /// The type of its value.
    type Value: Copy + PartialEq;
    /// Reads the word.
    fn load(&self, order: Ordering) -> Self::Value;
    /// Writes the word.
    fn store(&self, value: Self::Value, order: Ordering);
    /// A full fence: no later load is performed before an earlier store is visible.
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

/// Returns whether an index that advanced from `old` to `new` has passed `event`, so that the other side is to be notified.
/// Correct across the wrap of the 16-bit indices.
///
/// VIRTIO 1.3 §2.7.10
#[inline(always)]
pub const fn need_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// Publishes `value` in `index`, then returns the notification request that the other side has written to `hint`.
///
/// A full fence separates the two. Without it, the load may be performed before the store is visible, while the other side writes
/// its event word and then misses the store: neither side acts, and the queue hangs.
#[inline(always)]
pub fn publish_then_look<I: Word, H: Word>(index: &I, value: I::Value, hint: &H) -> H::Value {
    index.store(value, Ordering::Release);
    I::full_fence();
    hint.load(Ordering::Acquire)
}

/// Requests an interrupt by writing `wanted` to `hint`, then returns whether `index` differs from `seen`: if it does, an entry
/// raced in, for which no interrupt may arrive.
///
/// The full fence is needed for the same reason as in [`publish_then_look`].
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
        // The device waits for entry 5: it is notified only when the index goes from 5 to 6 or beyond.
        assert!(need_event(5, 6, 5));
        assert!(need_event(5, 9, 3));
        assert!(!need_event(5, 5, 3));
        assert!(!need_event(5, 7, 6));
    }

    #[test]
    fn need_event_is_correct_across_the_wrap_of_the_index() {
        // A batch of two across the wrap, with the event on the entry before the wrap and on the one after it.
        assert!(need_event(u16::MAX, 1, u16::MAX));
        assert!(need_event(0, 1, u16::MAX));
        assert!(!need_event(1, 1, u16::MAX));
        // For every event: it is due if and only if it is one of the published entries.
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

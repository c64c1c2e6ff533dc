//! The decisions of a ring that depend on memory order: to signal, to sleep, to wait for room.
//!
//! They are written over the words that they look at, so that the very same code runs on ring memory and under loom, whose
//! atomics cannot live in ring memory. In each, a word is written and then another one is read that the other side writes
//! before it reads ours: only a full fence between the two makes sure that one of the two sides sees the other.

use core::sync::atomic::{AtomicU32, Ordering, fence};

/// A word that both sides see.
pub trait Word {
    /// Reads it.
    fn load(&self, order: Ordering) -> u32;
    /// Writes it.
    fn store(&self, value: u32, order: Ordering);
    /// A full fence: no load after it is done before a store ahead of it is seen.
    fn full_fence();
}

impl Word for AtomicU32 {
    #[inline(always)]
    fn load(&self, order: Ordering) -> u32 {
        AtomicU32::load(self, order)
    }
    #[inline(always)]
    fn store(&self, value: u32, order: Ordering) {
        AtomicU32::store(self, value, order);
    }
    #[inline(always)]
    fn full_fence() {
        fence(Ordering::SeqCst);
    }
}

/// Bytes that can be written: what is free, less one granule, since a ring that is filled looks empty.
///
/// `None` where an index is out of range.
#[inline(always)]
pub const fn room(write: u32, read: u32, size: u32) -> Option<u32> {
    if write >= size || read >= size || (write | read) & 7 != 0 {
        return None;
    }
    let used =
        if write >= read { write.wrapping_sub(read) } else { write.wrapping_add(size).wrapping_sub(read) };
    Some(size.wrapping_sub(used).wrapping_sub(8))
}

/// The producer shows what it has written since `old`; whether the consumer is to be signalled: it has not masked signals, and
/// the ring was empty.
#[inline(always)]
pub fn publish_then_look<W: Word>(write: &W, new: u32, old: u32, mask: &W, read: &W) -> bool {
    write.store(new, Ordering::Release);
    W::full_fence();
    mask.load(Ordering::Acquire) == 0 && read.load(Ordering::Acquire) == old
}

/// The consumer wants signals again; what the producer has written by then. Where that is not `read`, something came in of
/// which no signal may tell.
#[inline(always)]
pub fn unmask_then_look<W: Word>(mask: &W, write: &W) -> u32 {
    mask.store(0, Ordering::Relaxed);
    W::full_fence();
    write.load(Ordering::Acquire)
}

/// The consumer shows that it has read up to `new`; whether the producer is to be signalled: the room has passed that for
/// which it waits.
#[inline(always)]
pub fn release_then_look<W: Word>(read: &W, new: u32, old: u32, pending: &W, write: &W, size: u32) -> bool {
    read.store(new, Ordering::Release);
    W::full_fence();
    // Some hosts write a size less one: of the whole ring, when they wait for it to be empty.
    let wanted = pending.load(Ordering::Acquire) & !7;
    if wanted == 0 {
        return false;
    }
    let write = write.load(Ordering::Acquire);
    match (room(write, old, size), room(write, new, size)) {
        (Some(before), Some(after)) => before < wanted && wanted <= after,
        _ => false,
    }
}

/// The producer says that it waits for `bytes` of room; where the consumer has read to by then.
#[inline(always)]
pub fn await_then_look<W: Word>(pending: &W, bytes: u32, read: &W) -> u32 {
    pending.store(bytes, Ordering::Relaxed);
    W::full_fence();
    read.load(Ordering::Acquire)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_leaves_a_granule() {
        assert_eq!(room(0, 0, 4096), Some(4088));
        assert_eq!(room(8, 0, 4096), Some(4080));
        assert_eq!(room(0, 8, 4096), Some(0));
        assert_eq!(room(4096, 0, 4096), None);
        assert_eq!(room(4, 0, 4096), None);
    }

    /// What waits for T is woken when the room reaches T, of which N - used is 8 more.
    #[test]
    fn a_producer_is_woken_at_exactly_the_room_it_waits_for() {
        const N: u32 = 4096;
        let words = [0u32; 3].map(AtomicU32::new);
        let [read, pending, write] = &words;
        write.store(N - 8, Ordering::Relaxed);
        for wanted in [8, 64, 1000, N - 8] {
            pending.store(wanted, Ordering::Relaxed);
            // At the beginning the room is 0: to have T, T bytes have to be read.
            assert!(!release_then_look(read, wanted - 8, 0, pending, write, N));
            assert!(release_then_look(read, wanted, wanted - 8, pending, write, N), "{wanted}");
            assert!(wanted == N - 8 || !release_then_look(read, wanted + 8, wanted, pending, write, N));
        }
        for whole in [N - 8, N - 4, N - 1] {
            pending.store(whole, Ordering::Relaxed);
            assert!(release_then_look(read, N - 8, 0, pending, write, N), "woken when empty: {whole}");
        }
    }
}

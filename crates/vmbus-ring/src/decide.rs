//! The decisions of a ring that depend on memory order: whether to signal, to sleep, or to wait for room.
//!
//! They are generic over the words that they access, so that the same code runs on ring memory and under loom, whose atomics
//! cannot be in ring memory. Each decision writes one word and then reads another, which the other side writes before it reads the
//! first. Only a full fence between the write and the read ensures that at least one side sees the other's write.

use core::sync::atomic::{AtomicU32, Ordering, fence};

/// An atomic word that both sides access.
pub trait Word {
    /// Reads the word.
    fn load(&self, order: Ordering) -> u32;
    /// Writes the word.
    fn store(&self, value: u32, order: Ordering);
    /// A full fence: no later load is performed before an earlier store is visible.
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

/// Returns the number of bytes that can be written: the free bytes less one granule of 8 bytes, since a completely full ring would
/// look empty.
///
/// `None` if an index is out of range.
#[inline(always)]
pub const fn room(write: u32, read: u32, size: u32) -> Option<u32> {
    if write >= size || read >= size || (write | read) & 7 != 0 {
        return None;
    }
    let used =
        if write >= read { write.wrapping_sub(read) } else { write.wrapping_add(size).wrapping_sub(read) };
    Some(size.wrapping_sub(used).wrapping_sub(8))
}

/// Publishes the producer's index `new`. Returns whether the consumer is to be signalled: it has not masked signals, and had read
/// everything up to the previously published index `old`.
#[inline(always)]
pub fn publish_then_look<W: Word>(write: &W, new: u32, old: u32, mask: &W, read: &W) -> bool {
    write.store(new, Ordering::Release);
    W::full_fence();
    mask.load(Ordering::Acquire) == 0 && read.load(Ordering::Acquire) == old
}

/// Unmasks signals for the consumer and returns the producer's index afterwards. If it differs from the consumer's index, a packet
/// raced in, for which no signal may arrive.
#[inline(always)]
pub fn unmask_then_look<W: Word>(mask: &W, write: &W) -> u32 {
    mask.store(0, Ordering::Relaxed);
    W::full_fence();
    write.load(Ordering::Acquire)
}

/// Publishes the consumer's index `new`. Returns whether the producer is to be signalled: the room has reached the amount for
/// which the producer waits.
#[inline(always)]
pub fn release_then_look<W: Word>(read: &W, new: u32, old: u32, pending: &W, write: &W, size: u32) -> bool {
    read.store(new, Ordering::Release);
    W::full_fence();
    // Some hosts that wait for an empty ring write the ring size less one.
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

/// Announces that the producer waits for `bytes` of room, and returns the consumer's index afterwards.
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

    /// A producer that waits for `wanted` bytes is signalled when the room reaches `wanted`: the free bytes less one granule.
    #[test]
    fn a_producer_is_signalled_when_the_room_reaches_the_amount_it_waits_for() {
        const N: u32 = 4096;
        let words = [0u32; 3].map(AtomicU32::new);
        let [read, pending, write] = &words;
        write.store(N - 8, Ordering::Relaxed);
        for wanted in [8, 64, 1000, N - 8] {
            pending.store(wanted, Ordering::Relaxed);
            // Initially the room is 0: it reaches `wanted` when `wanted` bytes have been read.
            assert!(!release_then_look(read, wanted - 8, 0, pending, write, N));
            assert!(release_then_look(read, wanted, wanted - 8, pending, write, N), "{wanted}");
            assert!(wanted == N - 8 || !release_then_look(read, wanted + 8, wanted, pending, write, N));
        }
        for whole in [N - 8, N - 4, N - 1] {
            pending.store(whole, Ordering::Relaxed);
            assert!(release_then_look(read, N - 8, 0, pending, write, N), "signalled when empty: {whole}");
        }
    }
}

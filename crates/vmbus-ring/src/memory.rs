use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The memory of one ring, which both sides see.
///
/// Both methods give the same memory at every call.
pub trait RingMemory {
    /// The head of the control page.
    fn control(&self) -> &[AtomicU32; 32];
    /// The data.
    fn data(&self) -> &[AtomicU64];
}

impl<M: RingMemory + ?Sized> RingMemory for &M {
    #[inline(always)]
    fn control(&self) -> &[AtomicU32; 32] {
        (**self).control()
    }
    #[inline(always)]
    fn data(&self) -> &[AtomicU64] {
        (**self).data()
    }
}

/// The words of the control page.
pub(crate) struct Control<'a> {
    /// Where the producer writes next, in bytes from the beginning of the data.
    pub write: &'a AtomicU32,
    /// Where the consumer reads next.
    pub read: &'a AtomicU32,
    /// Not 0: the consumer does not want to be signalled.
    pub mask: &'a AtomicU32,
    /// Bytes of room for which the producer waits, or 0.
    pub pending: &'a AtomicU32,
    /// Bit 0: the producer uses `pending`.
    pub features: &'a AtomicU32,
}

#[inline(always)]
pub(crate) fn control<M: RingMemory>(memory: &M) -> Control<'_> {
    let [write, read, mask, pending, _, _, _, _, _, _, _, _, _, _, _, _, features, ..] = memory.control();
    Control { write, read, mask, pending, features }
}

/// Bytes of data; `None` where no ring can be so long or so short.
pub(crate) fn size<M: RingMemory>(memory: &M) -> Option<u32> {
    let bytes = memory.data().len().checked_mul(8)?;
    u32::try_from(bytes).ok().filter(|bytes| (64..=1 << 30).contains(bytes))
}

/// Makes a ring new: empty, its producer one that says for how much room it waits. Done by the guest, for both rings, before
/// it opens a channel.
pub fn reset<M: RingMemory>(memory: &M) {
    memory.control().iter().for_each(|word| word.store(0, Ordering::Relaxed));
    control(memory).features.store(1, Ordering::Release);
}

/// A ring in memory of its own, of `WORDS` words of 8 bytes: for tests, and between two threads.
pub struct ArrayRing<const WORDS: usize> {
    control: [AtomicU32; 32],
    data: [AtomicU64; WORDS],
}

impl<const WORDS: usize> ArrayRing<WORDS> {
    /// A ring that is new.
    pub fn new() -> Self {
        let ring =
            Self { control: [const { AtomicU32::new(0) }; 32], data: [const { AtomicU64::new(0) }; WORDS] };
        reset(&ring);
        ring
    }
}

impl<const WORDS: usize> Default for ArrayRing<WORDS> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const WORDS: usize> RingMemory for ArrayRing<WORDS> {
    fn control(&self) -> &[AtomicU32; 32] {
        &self.control
    }
    fn data(&self) -> &[AtomicU64] {
        &self.data
    }
}

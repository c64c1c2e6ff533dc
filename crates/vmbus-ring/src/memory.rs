use core::fmt;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use hyperv_bindings::ring::{RingControl, RingFeatureFlags};

/// The memory of one ring, which both sides see.
///
/// Both methods return the same memory at every call; neither blocks.
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
}

/// The words of the control page that are used for every packet. [`RingControl`]
#[inline(always)]
pub(crate) fn control<M: RingMemory>(memory: &M) -> Control<'_> {
    const {
        assert!(offset_of!(RingControl, write_index) == 0);
        assert!(offset_of!(RingControl, read_index) == 4);
        assert!(offset_of!(RingControl, interrupt_mask) == 8);
        assert!(offset_of!(RingControl, pending_send_size) == 12);
    }
    let [write, read, mask, pending, ..] = memory.control();
    Control { write, read, mask, pending }
}

/// The word with the producer's features.
fn features<M: RingMemory>(memory: &M) -> Option<&AtomicU32> {
    memory.control().get(const { offset_of!(RingControl, feature_bits) / 4 })
}

/// Bytes of data; `None` where they are less than 64 or more than 1 GiB.
pub(crate) fn size<M: RingMemory>(memory: &M) -> Option<u32> {
    let bytes = memory.data().len().checked_mul(8)?;
    u32::try_from(bytes).ok().filter(|bytes| (64..=1 << 30).contains(bytes))
}

/// Initialises a ring: empty, with a producer that says for how much room it waits. The guest does that for both rings before it
/// opens a channel.
pub fn reset<M: RingMemory>(memory: &M) {
    memory.control().iter().for_each(|word| word.store(0, Ordering::Relaxed));
    let supported = RingFeatureFlags::PENDING_SEND_SIZE.bits();
    features(memory).into_iter().for_each(|word| word.store(supported, Ordering::Release));
}

/// A ring in memory of its own, of `WORDS` words of 8 bytes: for tests, and between two threads.
pub struct ArrayRing<const WORDS: usize> {
    control: [AtomicU32; 32],
    data: [AtomicU64; WORDS],
}

impl<const WORDS: usize> ArrayRing<WORDS> {
    /// An initialised ring.
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

impl<const WORDS: usize> fmt::Debug for ArrayRing<WORDS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArrayRing").field("words", &WORDS).finish_non_exhaustive()
    }
}

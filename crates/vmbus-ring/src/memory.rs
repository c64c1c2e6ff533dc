use core::fmt;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use hyperv_bindings::ring::{RingControl, RingFeatureFlags};

/// The memory of one ring, which both sides access.
///
/// Both methods return the same memory at every call; neither blocks.
pub trait RingMemory {
    /// The first 32 words of the control page.
    fn control(&self) -> &[AtomicU32; 32];
    /// The data area.
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

/// The words of the control page that are used for every packet.
pub(crate) struct Control<'a> {
    /// The offset at which the producer writes next, in bytes from the beginning of the data.
    pub write: &'a AtomicU32,
    /// The offset at which the consumer reads next.
    pub read: &'a AtomicU32,
    /// Not 0 if the consumer has masked signals.
    pub mask: &'a AtomicU32,
    /// The number of bytes of room for which the producer waits, or 0.
    pub pending: &'a AtomicU32,
}

/// Returns the words of the control page ([`RingControl`]) that are used for every packet.
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

/// Returns the word with the producer's features.
fn features<M: RingMemory>(memory: &M) -> Option<&AtomicU32> {
    memory.control().get(const { offset_of!(RingControl, feature_bits) / 4 })
}

/// Returns the size of the data area in bytes; `None` if it is smaller than 64 bytes or larger than 1 GiB.
pub(crate) fn size<M: RingMemory>(memory: &M) -> Option<u32> {
    let bytes = memory.data().len().checked_mul(8)?;
    u32::try_from(bytes).ok().filter(|bytes| (64..=1 << 30).contains(bytes))
}

/// Initialises an empty ring, whose producer supports the pending send size: it announces the amount of room for which it waits.
/// The guest initialises both rings before it opens a channel.
pub fn reset<M: RingMemory>(memory: &M) {
    memory.control().iter().for_each(|word| word.store(0, Ordering::Relaxed));
    let supported = RingFeatureFlags::PENDING_SEND_SIZE.bits();
    features(memory).into_iter().for_each(|word| word.store(supported, Ordering::Release));
}

/// A ring that contains its memory, of `WORDS` words of 8 bytes, for tests and for use between two threads.
pub struct ArrayRing<const WORDS: usize> {
    control: [AtomicU32; 32],
    data: [AtomicU64; WORDS],
}

impl<const WORDS: usize> ArrayRing<WORDS> {
    /// Creates an initialised ring.
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

//! The rings of a channel in memory that the host sees.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64};
use hyperv_bindings::ring::RING_DATA_OFFSET;
use paravirt_platform::SharedMemory;
use paravirt_vmbus_ring::RingMemory;

/// A ring in a part of a region: a control page, and data behind it.
#[derive(Debug)]
pub(crate) struct RingSlice {
    control: NonNull<[AtomicU32; 32]>,
    data: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: every access goes through atomics.
unsafe impl Send for RingSlice {}
// SAFETY: as above.
unsafe impl Sync for RingSlice {}

impl RingSlice {
    /// The ring of `len` bytes, control page included, at `offset` in `memory`; `None` where it does not fit.
    ///
    /// # Safety
    ///
    /// The memory outlives the slice.
    pub unsafe fn new(memory: &SharedMemory, offset: usize, len: usize) -> Option<Self> {
        let data = offset.checked_add(RING_DATA_OFFSET as usize)?;
        let words = len.checked_sub(RING_DATA_OFFSET as usize)? / 8;
        let last = data.checked_add(words.checked_sub(1)?.checked_mul(8)?)?;
        memory.at::<AtomicU64>(last)?;
        Some(Self {
            control: NonNull::from(memory.at::<[AtomicU32; 32]>(offset)?),
            data: NonNull::from(memory.at::<AtomicU64>(data)?),
            words,
        })
    }
}

impl RingMemory for RingSlice {
    #[inline(always)]
    fn control(&self) -> &[AtomicU32; 32] {
        // SAFETY: `new` checked that it is inside the memory, which outlives this.
        unsafe { self.control.as_ref() }
    }

    #[inline(always)]
    fn data(&self) -> &[AtomicU64] {
        // SAFETY: as above; first and last word are inside.
        unsafe { core::slice::from_raw_parts(self.data.as_ptr(), self.words) }
    }
}

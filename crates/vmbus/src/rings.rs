//! The rings of a channel in memory that the host sees.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64};
use hyperv_bindings::ring::RING_DATA_OFFSET;
use paravirt_platform::SharedMemory;
use paravirt_vmbus_ring::RingMemory;

/// One ring in a region: a control page, and data behind it.
#[derive(Debug)]
pub(crate) struct RingSlice {
    control: NonNull<[AtomicU32; 32]>,
    data: NonNull<[AtomicU64]>,
}

// SAFETY: the pointers are to atomics, which any thread may access; `new` requires the memory to outlive the slice.
unsafe impl Send for RingSlice {}
// SAFETY: a shared slice gives out shared references to atomics only.
unsafe impl Sync for RingSlice {}

impl RingSlice {
    /// The ring of `len` bytes, control page included, at `offset` in `memory`; `None` where it does not fit.
    ///
    /// # Safety
    ///
    /// The memory that `memory` views is valid until the slice has been dropped.
    pub unsafe fn new(memory: &SharedMemory, offset: usize, len: usize) -> Option<Self> {
        let data = offset.checked_add(RING_DATA_OFFSET as usize)?;
        let words = len.checked_sub(RING_DATA_OFFSET as usize)? / 8;
        Some(Self {
            control: NonNull::from(memory.at::<[AtomicU32; 32]>(offset)?),
            data: NonNull::from(memory.slice_at::<AtomicU64>(data, words)?),
        })
    }
}

impl RingMemory for RingSlice {
    #[inline(always)]
    fn control(&self) -> &[AtomicU32; 32] {
        // SAFETY: the pointer is a reference that `new` got from the memory, whose caller keeps the memory for longer.
        unsafe { self.control.as_ref() }
    }

    #[inline(always)]
    fn data(&self) -> &[AtomicU64] {
        // SAFETY: the pointer is a reference to the whole slice that `new` got from the memory, whose caller keeps the memory
        // for longer.
        unsafe { self.data.as_ref() }
    }
}

//! A page with rings of bytes and their indices, such as those of xenstore and of the console.

use crate::hypervisor::OpenError;
use core::sync::atomic::{AtomicU32, Ordering, fence};
use paravirt_platform::{MmioRegion, PAGE_SIZE, Platform, SharedMemory};

/// The page. Indices run freely; sizes are powers of two.
#[derive(Debug)]
pub(crate) struct BytePage(SharedMemory);

impl BytePage {
    pub fn new(view: SharedMemory) -> Self {
        Self(view)
    }

    /// Maps the page at `address`, by which the hypervisor names it. It stays mapped as long as the region lives.
    pub fn map<P: Platform>(platform: &P, address: u64) -> Result<(MmioRegion<P>, Self), OpenError> {
        // SAFETY: the hypervisor names the page by which a service of the host is reached; the platform refuses the kernel's memory.
        let region =
            unsafe { MmioRegion::map(platform, address, PAGE_SIZE) }.map_err(|_| OpenError::NoFrames)?;
        // SAFETY: the page is mapped for as long as the region lives, beside which the caller keeps the view, and accessed as atomics only.
        let view = unsafe { SharedMemory::new(region.pointer(0).ok_or(OpenError::NoFrames)?, PAGE_SIZE) };
        Ok((region, Self(view)))
    }

    /// Reads the index at `offset`.
    pub fn index(&self, offset: usize) -> u32 {
        self.0.at::<AtomicU32>(offset).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Writes the index at `offset`, after what it tells of.
    pub fn set_index(&self, offset: usize, value: u32) {
        self.0.at::<AtomicU32>(offset).into_iter().for_each(|word| word.store(value, Ordering::Release));
    }

    /// How many of `len` bytes from index `at` on are ahead of the end of a ring of `size` bytes, and where they are.
    fn place(at: u32, len: usize, size: u32) -> (usize, usize) {
        let offset = at & size.wrapping_sub(1);
        (offset as usize, len.min(size.wrapping_sub(offset) as usize))
    }

    /// Copies `bytes` to the ring of `size` bytes at `ring`, from index `at` on. `None` if they are not within the page.
    pub fn copy_in(&self, ring: usize, size: u32, at: u32, bytes: &[u8]) -> Option<()> {
        let (offset, len) = Self::place(at, bytes.len(), size);
        let (part, rest) = bytes.split_at_checked(len)?;
        self.0.copy_in(ring.checked_add(offset)?, part)?;
        self.0.copy_in(ring, rest)
    }

    /// Copies bytes of the ring of `size` bytes at `ring`, from index `at` on, to `bytes`. They have been read when the next index is
    /// written. `None` if they are not within the page.
    pub fn copy_out(&self, ring: usize, size: u32, at: u32, bytes: &mut [u8]) -> Option<()> {
        let (offset, len) = Self::place(at, bytes.len(), size);
        let (part, rest) = bytes.split_at_mut_checked(len)?;
        self.0.copy_out(ring.checked_add(offset)?, part)?;
        self.0.copy_out(ring, rest)?;
        fence(Ordering::SeqCst);
        Some(())
    }
}

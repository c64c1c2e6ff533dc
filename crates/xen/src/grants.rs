//! The grant table: which pages other domains may access. Version 1 of its entries.

use crate::calls::{CallError, Calls, Space};
use crate::hypervisor::Hypervisor;
use core::fmt;
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering, fence};
use paravirt_platform::{
    AllocError, BusAddr, PAGE_SIZE, PageArc, PageTable, Platform, RingArray, SharedMemory,
};
use spin::Mutex;

/// Entries of a page, and those that are not this guest's to use.
const PER_FRAME: usize = 512;
const RESERVED: usize = 8;
/// Flags of an entry: what it permits; and set by the hypervisor, that it is mapped.
const PERMIT_ACCESS: u16 = 1;
const READ_ONLY: u16 = 1 << 2;
const IN_USE: u16 = 3 << 3;
const PAGE_SHIFT: u32 = 12;

/// What another domain may do with a page.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Access {
    /// Read it.
    Read,
    /// Read and write it.
    Write,
}

/// An entry: flags, domain, and the number of the frame.
type Entry = [AtomicU16; 4];

/// The table, and which entries are taken.
pub(crate) struct Grants<P: Platform> {
    entries: RingArray<Entry>,
    frames: usize,
    /// A bit for each entry.
    taken: Mutex<PageTable<P, u64>>,
    /// How many pages were lost, since they were mapped still when they were to be free again.
    lost: AtomicU64,
}

impl<P: Platform> Grants<P> {
    /// Takes what lies behind the first page of `memory` for the table, as far as the hypervisor has so many pages.
    pub fn new(platform: &P, calls: &Calls<P>, memory: &SharedMemory) -> Result<Self, GrantsError> {
        let most = calls.grant_frames().map_err(GrantsError::Call)? as usize;
        let pages = memory.len().checked_div(PAGE_SIZE).unwrap_or(0).saturating_sub(1);
        let frames = most.min(pages).checked_ilog2().map_or(0, |log| 1usize << log);
        let count = frames.wrapping_mul(PER_FRAME);
        // SAFETY: the memory is never freed.
        let entries = unsafe { memory.ring_array(PAGE_SIZE, count) }.ok_or(AllocError)?;
        let taken =
            PageTable::new(
                platform,
                count.div_ceil(64),
                |word| {
                    if word == 0 { (1 << RESERVED) - 1 } else { 0 }
                },
            )?;
        Ok(Self { entries, frames, taken: Mutex::new(taken), lost: AtomicU64::new(0) })
    }

    /// Maps the table at frame `first` and the following ones.
    ///
    /// # Safety
    ///
    /// They are the platform's shared frames behind the first.
    pub unsafe fn map(&self, calls: &Calls<P>, first: u64) -> Result<(), CallError> {
        // Former kernels may have used another version. Where there is only one, the call may not exist.
        let _ = calls.set_grant_version(1);
        for index in 0..self.frames as u64 {
            // SAFETY: by the contract of this function.
            unsafe { calls.map(Space::GrantTable, index, first.saturating_add(index)) }?;
        }
        Ok(())
    }

    /// Takes `count` entries in a row; the first one.
    fn take(&self, count: usize) -> Option<u32> {
        let mut taken = self.taken.lock();
        let mut run = 0usize;
        for at in 0..self.entries.len() {
            let is_taken = |at: usize| taken.get(at >> 6).is_none_or(|word| word & (1 << (at & 63)) != 0);
            run = if is_taken(at) { 0 } else { run.saturating_add(1) };
            if run == count {
                let first = at.saturating_add(1).saturating_sub(count);
                (first..=at).for_each(|at| set(&mut taken, at, true));
                return u32::try_from(first).ok();
            }
        }
        None
    }

    /// How many entries are free.
    pub fn free(&self) -> u32 {
        let taken = self.taken.lock();
        let used = taken.iter().map(|word| word.count_ones()).fold(0, u32::saturating_add);
        (self.entries.len() as u32).saturating_sub(used)
    }

    /// How many pages were lost.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

fn set(words: &mut [u64], at: usize, is_taken: bool) {
    if let Some(word) = words.get_mut(at >> 6) {
        let bit = 1 << (at & 63);
        *word = if is_taken { *word | bit } else { *word & !bit };
    }
}

/// Why there is no grant table.
#[derive(Copy, Clone, Debug)]
pub(crate) enum GrantsError {
    Call(CallError),
    Memory(AllocError),
}

impl From<AllocError> for GrantsError {
    fn from(error: AllocError) -> Self {
        Self::Memory(error)
    }
}

/// A row of entries of the grant table, for pages that one other domain may access.
///
/// Granting and revoking take no lock and no exit. Entries that are still mapped when this is dropped are not used again.
pub struct GrantRange<P: Platform> {
    hypervisor: PageArc<P, Hypervisor<P>>,
    first: u32,
    count: u32,
    domain: u16,
}

impl<P: Platform> GrantRange<P> {
    /// Takes `count` entries for pages that `domain` may access. Takes a lock. Not for interrupt context.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if there are not so many in a row.
    pub fn new(hypervisor: &PageArc<P, Hypervisor<P>>, domain: u16, count: u32) -> Result<Self, AllocError> {
        let first = hypervisor.grants().take(count as usize).ok_or(AllocError)?;
        Ok(Self { hypervisor: hypervisor.clone(), first, count, domain })
    }

    /// Returns the number of entry `index`, by which the other domain names it.
    #[inline(always)]
    pub fn reference(&self, index: u32) -> u32 {
        self.first.wrapping_add(index)
    }

    /// Sets the domain that may access the pages from now on, after a backend has changed.
    pub fn set_domain(&mut self, domain: u16) {
        self.domain = domain;
    }

    #[inline(always)]
    fn entry(&self, index: u32) -> &Entry {
        // A number out of range is one of the range's.
        let index = if index < self.count { index } else { 0 };
        self.hypervisor.grants().entries.at(self.reference(index) as usize)
    }

    /// Lets the other domain access the page at `page` by entry `index`. One beyond 16 TiB has no place in the table and stays the guest's:
    /// the backend fails the request.
    ///
    /// # Safety
    ///
    /// Until [`revoke`](Self::revoke) returns true for the entry, the whole page of 4096 bytes is the other domain's to access like this.
    #[inline(always)]
    pub unsafe fn grant(&self, index: u32, page: BusAddr, access: Access) {
        let [flags, domain, low, high] = self.entry(index);
        let Ok(frame) = u32::try_from(page.0 >> PAGE_SHIFT) else { return };
        domain.store(self.domain, Ordering::Relaxed);
        low.store(frame as u16, Ordering::Relaxed);
        high.store((frame >> 16) as u16, Ordering::Relaxed);
        let permitted = if access == Access::Read { PERMIT_ACCESS | READ_ONLY } else { PERMIT_ACCESS };
        // After the rest of the entry.
        flags.store(permitted, Ordering::Release);
    }

    /// Ends the access by entry `index`. Returns whether the page is the guest's alone again: false if the other domain has it mapped still.
    #[inline(always)]
    #[must_use]
    pub fn revoke(&self, index: u32) -> bool {
        let [flags, ..] = self.entry(index);
        let seen = flags.load(Ordering::Relaxed);
        if seen & IN_USE == 0 && flags.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        {
            return true;
        }
        self.revoke_again(index)
    }

    #[cold]
    fn revoke_again(&self, index: u32) -> bool {
        let [flags, ..] = self.entry(index);
        let mut seen = flags.load(Ordering::Relaxed);
        while seen & IN_USE == 0 {
            match flags.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    fence(Ordering::Acquire);
                    return true;
                }
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Ends the access by every entry. Returns whether all pages are the guest's alone again.
    #[must_use]
    pub fn revoke_all(&self) -> bool {
        (0..self.count).filter(|index| !self.revoke(*index)).count() == 0
    }

    /// Counts pages that are lost to the guest, as they, or some of them, are mapped still.
    #[cold]
    pub fn count_lost(&self, pages: u32) {
        self.hypervisor.grants().lost.fetch_add(pages.into(), Ordering::Relaxed);
    }
}

impl<P: Platform> Drop for GrantRange<P> {
    fn drop(&mut self) {
        for index in 0..self.count {
            if self.revoke(index) {
                let mut taken = self.hypervisor.grants().taken.lock();
                set(&mut taken, self.reference(index) as usize, false);
            }
        }
    }
}

impl<P: Platform> fmt::Debug for GrantRange<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrantRange")
            .field("first", &self.first)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

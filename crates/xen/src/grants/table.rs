//! The grant table, whose entries say which pages other domains may access, and which of them are taken.

use super::Access;
use crate::calls::{CallError, Calls, Space};
use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use paravirt_platform::{AllocError, BusAddr, PAGE_SIZE, PageTable, Platform, RingArray, SharedMemory};
use spin::Mutex;

/// Entries of a page, by version, and words of the status of those of the second one.
const PER_FRAME: usize = 512;
const WIDE_PER_FRAME: usize = 256;
const STATUS_PER_FRAME: usize = 2048;
/// Entries that are not this guest's to use.
const RESERVED: usize = 8;
/// Flags of an entry: what it permits; and set by the hypervisor, there or in the status, that it is mapped.
const PERMIT_ACCESS: u16 = 1;
const READ_ONLY: u16 = 1 << 2;
const IN_USE: u16 = 3 << 3;
const PAGE_SHIFT: u32 = 12;
/// What tells a page of the status from one of the table.
const STATUS: u64 = 1 << 31;

/// An entry: flags, domain, and 32 bits with the number of the frame.
type Entry = [AtomicU16; 4];
/// An entry of version 2: flags, domain, padding, and 64 bits with the number of the frame.
type WideEntry = [AtomicU16; 8];

/// The views of the memory as a table of version 2.
struct Wide {
    entries: RingArray<WideEntry>,
    /// Behind the table: what is mapped.
    status: RingArray<AtomicU16>,
    status_frames: u64,
}

/// The table, and which entries are taken.
pub(crate) struct Grants<P: Platform> {
    entries: RingArray<Entry>,
    /// Whether the hypervisor uses version 2: the one after a resume may not have it.
    is_wide: AtomicBool,
    wide: Option<Wide>,
    frames: u64,
    /// A bit for each entry.
    taken: Mutex<PageTable<P, u64>>,
    /// How many pages were lost, since they were mapped still when they were to be free again.
    pub(super) lost: AtomicU64,
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

impl<P: Platform> Grants<P> {
    /// Takes `memory` for the table, as far as the hypervisor has so many pages; of version 2 if `is_wide` and the hypervisor has that.
    pub fn new(
        platform: &P,
        calls: &Calls<P>,
        memory: &SharedMemory,
        is_wide: bool,
    ) -> Result<Self, GrantsError> {
        let most = calls.grant_frames().map_err(GrantsError::Call)? as usize;
        let pages = memory.len().checked_div(PAGE_SIZE).unwrap_or(0);
        let frames = most.min(pages).checked_ilog2().map_or(0, |log| 1usize << log);
        let mut wide_frames = frames;
        while wide_frames.saturating_add(status_frames(wide_frames)) > pages {
            wide_frames >>= 1;
        }
        let is_wide = set_version(calls, is_wide && wide_frames > 0).map_err(GrantsError::Call)?;
        let (frames, each) = if is_wide { (wide_frames, WIDE_PER_FRAME) } else { (frames, PER_FRAME) };
        let count = frames.wrapping_mul(each);
        // SAFETY: the memory is never freed.
        let entries = unsafe { memory.ring_array(0, count) }.ok_or(AllocError)?;
        let wide = match is_wide {
            true => Some(Wide {
                // SAFETY: as above.
                entries: unsafe { memory.ring_array(0, count) }.ok_or(AllocError)?,
                // SAFETY: as above.
                status: unsafe { memory.ring_array(frames.wrapping_mul(PAGE_SIZE), count) }
                    .ok_or(AllocError)?,
                status_frames: status_frames(frames) as u64,
            }),
            false => None,
        };
        let reserved = |word| if word == 0 { (1 << RESERVED) - 1 } else { 0 };
        let taken = Mutex::new(PageTable::new(platform, count.div_ceil(64), reserved)?);
        let is_wide = AtomicBool::new(is_wide);
        Ok(Self { entries, is_wide, wide, frames: frames as u64, taken, lost: AtomicU64::new(0) })
    }

    /// Maps the table at frame `first` and the following ones.
    ///
    /// # Safety
    ///
    /// They are the shared frames with the memory of the table.
    pub unsafe fn map(&self, calls: &Calls<P>, first: u64) -> Result<(), CallError> {
        // SAFETY: by the contract of this function.
        match unsafe { self.map_version(calls, first, self.wide.is_some()) } {
            // Version 1 has no pages of the status, which were refused.
            // SAFETY: as above.
            Err(_) if self.is_wide() => unsafe { self.map_version(calls, first, false) },
            mapped => mapped,
        }
    }

    /// # Safety
    ///
    /// As for [`map`](Self::map).
    unsafe fn map_version(&self, calls: &Calls<P>, first: u64, is_wide: bool) -> Result<(), CallError> {
        let is_wide = set_version(calls, is_wide)?;
        self.is_wide.store(is_wide, Ordering::Release);
        for index in 0..self.frames {
            // SAFETY: by the contract of this function.
            unsafe { calls.map(Space::GrantTable, index, first.saturating_add(index)) }?;
        }
        if !is_wide {
            return Ok(());
        }
        let wide = self.wide.as_ref().ok_or(CallError::INVALID)?;
        for index in 0..wide.status_frames {
            let frame = first.saturating_add(self.frames).saturating_add(index);
            // SAFETY: as above.
            unsafe { calls.map(Space::GrantTable, STATUS | index, frame) }?;
        }
        Ok(())
    }

    /// Whether entries are of version 2.
    #[inline(always)]
    pub fn is_wide(&self) -> bool {
        self.is_wide.load(Ordering::Relaxed)
    }

    /// Fills an entry for domain `domain`. A page whose number it has no place for is not granted.
    #[inline(always)]
    pub fn grant(&self, reference: u32, domain: u16, page: BusAddr, access: Access) {
        if self.is_wide() {
            return self.grant_wide(reference, domain, page, access);
        }
        let [flags, to, low, high] = self.entries.at(reference as usize);
        let Ok(frame) = u32::try_from(page.0 >> PAGE_SHIFT) else { return };
        to.store(domain, Ordering::Relaxed);
        low.store(frame as u16, Ordering::Relaxed);
        high.store((frame >> 16) as u16, Ordering::Relaxed);
        // After the rest of the entry.
        flags.store(permitted(access), Ordering::Release);
    }

    #[cold]
    fn grant_wide(&self, reference: u32, domain: u16, page: BusAddr, access: Access) {
        let Some(wide) = &self.wide else { return };
        let [flags, to, _, _, number @ ..] = wide.entries.at(reference as usize);
        to.store(domain, Ordering::Relaxed);
        for (word, shift) in number.iter().zip([0, 16, 32, 48]) {
            word.store((page.0 >> PAGE_SHIFT >> shift) as u16, Ordering::Relaxed);
        }
        flags.store(permitted(access), Ordering::Release);
    }

    /// Empties an entry; returns whether nobody has its page mapped.
    #[inline(always)]
    pub fn revoke(&self, reference: u32) -> bool {
        if self.is_wide() {
            return self.revoke_wide(reference);
        }
        let [flags, ..] = self.entries.at(reference as usize);
        let seen = flags.load(Ordering::Relaxed);
        if seen & IN_USE == 0 && flags.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        {
            return true;
        }
        Self::revoke_again(flags)
    }

    /// The hypervisor sets the status before it looks at the flags once more: one of the two sees what the other has done.
    #[cold]
    fn revoke_wide(&self, reference: u32) -> bool {
        let Some(wide) = &self.wide else { return false };
        let [flags, ..] = wide.entries.at(reference as usize);
        flags.swap(0, Ordering::SeqCst);
        wide.status.at(reference as usize).load(Ordering::SeqCst) & IN_USE == 0
    }

    #[cold]
    fn revoke_again(flags: &AtomicU16) -> bool {
        let mut seen = flags.load(Ordering::Relaxed);
        while seen & IN_USE == 0 {
            match flags.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Takes `count` entries in a row; the first one.
    pub fn take(&self, count: usize) -> Option<u32> {
        let mut taken = self.taken.lock();
        let mut run = 0usize;
        for at in 0..self.entries.len() {
            let is_taken = taken.get(at >> 6).is_none_or(|word| word & (1 << (at & 63)) != 0);
            run = if is_taken || self.is_mapped(at) { 0 } else { run.saturating_add(1) };
            if run == count {
                let first = at.saturating_add(1).saturating_sub(count);
                (first..=at).for_each(|at| set(&mut taken, at, true));
                return u32::try_from(first).ok();
            }
        }
        None
    }

    /// Whether a page is mapped by an entry, such as one that an earlier user of the table has lost.
    fn is_mapped(&self, at: usize) -> bool {
        let word = match &self.wide {
            Some(wide) if self.is_wide() => wide.status.at(at),
            _ => {
                let [flags, ..] = self.entries.at(at);
                flags
            }
        };
        word.load(Ordering::Acquire) & IN_USE != 0
    }

    /// Lets an entry be taken again.
    pub fn give_back(&self, reference: u32) {
        set(&mut self.taken.lock(), reference as usize, false);
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

/// How many pages the status of a table of version 2 with `frames` pages has.
fn status_frames(frames: usize) -> usize {
    frames.wrapping_mul(WIDE_PER_FRAME).div_ceil(STATUS_PER_FRAME)
}

/// Settles the version of the entries, with 2 if `is_wide` and the hypervisor has that; returns whether it is 2.
fn set_version<P: Platform>(calls: &Calls<P>, is_wide: bool) -> Result<bool, CallError> {
    if is_wide && calls.set_grant_version(2).is_ok() {
        return Ok(true);
    }
    match calls.set_grant_version(1) {
        // Where there is only one, the call may not exist.
        Ok(()) | Err(CallError::NOT_IMPLEMENTED) => Ok(false),
        // An earlier user has left the other one, which stays for as long as a page is mapped.
        Err(error) => calls.set_grant_version(2).map(|()| true).map_err(|_| error),
    }
}

#[inline(always)]
fn permitted(access: Access) -> u16 {
    if access == Access::Read { PERMIT_ACCESS | READ_ONLY } else { PERMIT_ACCESS }
}

fn set(words: &mut [u64], at: usize, is_taken: bool) {
    if let Some(word) = words.get_mut(at >> 6) {
        let bit = 1 << (at & 63);
        *word = if is_taken { *word | bit } else { *word & !bit };
    }
}

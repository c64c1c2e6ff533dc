use crate::{ControlError, Fault, Notify};
use core::fmt;
use paravirt_platform::{AllocError, PageTable, Platform};

/// A range of guest pages of 4096 bytes, whatever the page size of the guest.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
pub struct PageRange {
    /// The frame number of the first page: its guest physical address divided by 4096.
    pub first: u64,
    /// The number of pages.
    pub count: u64,
}

impl PageRange {
    /// The frame number after the last page, saturating.
    pub const fn end(&self) -> u64 {
        self.first.saturating_add(self.count)
    }
}

/// The memory statistics of a guest, in pages of 4096 bytes. `Default` is zero; assign the fields.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct MemoryStatistics {
    /// All memory of the guest, including pages in the balloon.
    pub total: u64,
    /// Unused memory.
    pub free: u64,
    /// Memory available without swapping: free memory and reclaimable caches.
    pub available: u64,
    /// Memory in caches.
    pub caches: u64,
    /// Memory committed to programs, without pages in the balloon.
    pub committed: u64,
}

/// The page allocator that a kernel provides to a balloon.
///
/// The driver calls these in task context from [`Balloon::poll`] and [`Balloon::report_free`], while it holds no lock; they may
/// block, but the host waits for them.
pub trait BalloonMemory {
    /// Allocates 1 to `most` contiguous pages for the balloon. The guest does not access them until
    /// [`release`](Self::release). `None` when no page can be spared.
    fn take(&mut self, most: u64) -> Option<PageRange>;

    /// Frees pages that [`take`](Self::take) allocated, in ranges of any size. Their contents are lost.
    fn release(&mut self, range: PageRange);

    /// Brings hot-added memory into use. Returns the number of pages used, from the first on; 0 without memory hot-add.
    ///
    /// The range comes from the host: the kernel refuses addresses that it already uses as memory or otherwise.
    fn add(&mut self, range: PageRange) -> u64 {
        let _ = range;
        0
    }

    /// Returns the memory statistics.
    fn statistics(&mut self) -> MemoryStatistics;
}

/// The state of a balloon, in pages of 4096 bytes. `Default` is empty; assign the fields.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct BalloonInfo {
    /// Pages in the balloon.
    pub held: u64,
    /// The size that the host requested; `None` if the protocol has no target.
    pub target: Option<u64>,
    /// Pages that the host hot-added.
    pub added: u64,
    /// The number of memory reports sent to the host.
    pub reports: u64,
}

/// A memory balloon, with which the host reclaims memory from the guest and returns it.
///
/// [`poll`](Self::poll) serves the host's requests, a bounded part at a time. Call it when the waker is woken and at
/// [`next_deadline`](Notify::next_deadline), when the next memory report is due. Pages in the balloon when it is dropped stay
/// with the host. All methods are for task context; none allocates, except by [`BalloonMemory`].
pub trait Balloon: Notify + Send {
    /// Serves the host's requests with pages of `memory`. Does a bounded amount of work.
    ///
    /// On virtio it does not wait for the host while the device is in service, and takes the lock of the device to read the
    /// configuration. On VMBus it waits at most the timeout of the bus for room in a full ring, to send an answer about pages that were added
    /// or returned; if there is no room by then, the device is taken out of service.
    ///
    /// # Errors
    ///
    /// The [`Fault`] when the device is out of service. Pages in the balloon stay there: the host may use them.
    fn poll(&mut self, memory: &mut dyn BalloonMemory) -> Result<(), Fault>;

    /// Returns the state of the balloon. Takes no lock.
    fn info(&self) -> BalloonInfo;

    /// Reports up to `most` free pages to the host, which may discard their contents and back them again on the next access.
    ///
    /// Returns the number of pages reported. A later [`poll`](Self::poll) returns them to `memory`. Does not wait for the host and
    /// takes no lock.
    ///
    /// # Errors
    ///
    /// [`ControlError::Unsupported`] when the host does not offer free page reporting, [`ControlError::Faulted`] when the device is
    /// out of service. No page was taken then.
    fn report_free(&mut self, memory: &mut dyn BalloonMemory, most: u64) -> Result<u64, ControlError> {
        let _ = (memory, most);
        Err(ControlError::Unsupported)
    }
}

/// The pages in a balloon, as sorted ranges that neither overlap nor touch, for drivers.
///
/// A driver returns only pages that are in this set to the guest, whatever the host asks for.
pub struct HeldPages<P: Platform> {
    runs: PageTable<P, PageRange>,
    len: usize,
    pages: u64,
}

impl<P: Platform> HeldPages<P> {
    /// Creates an empty set with room for `runs` ranges, in private pages of the platform.
    ///
    /// # Errors
    ///
    /// [`AllocError`] when the platform has no memory.
    pub fn new(platform: &P, runs: usize) -> Result<Self, AllocError> {
        Ok(Self { runs: PageTable::new(platform, runs, |_| PageRange::default())?, len: 0, pages: 0 })
    }

    /// The number of pages in the set.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Whether there is room for one more range, and for the range that splitting one adds.
    pub fn has_room(&self) -> bool {
        self.len.saturating_add(2) < self.runs.len()
    }

    fn used(&self) -> &[PageRange] {
        self.runs.get(..self.len).unwrap_or_default()
    }

    /// The index of the first range that ends after `frame`.
    fn place(&self, frame: u64) -> usize {
        self.used().partition_point(|run| run.end() <= frame)
    }

    /// Whether any page of `range` is in the set.
    pub fn overlaps(&self, range: PageRange) -> bool {
        self.used().get(self.place(range.first)).is_some_and(|next| next.first < range.end())
    }

    /// Inserts a range. `false`, without a change, when it is empty, overlaps the set or overflows, or the set is full.
    pub fn insert(&mut self, range: PageRange) -> bool {
        let place = self.place(range.first);
        if range.count == 0 || self.overlaps(range) || range.first.checked_add(range.count).is_none() {
            return false;
        }
        let joins_before = place.checked_sub(1).and_then(|before| self.runs.get_mut(before));
        if let Some(before) = joins_before.filter(|before| before.end() == range.first) {
            before.count = before.count.saturating_add(range.count);
            let joined = before.end();
            let next = self.used().get(place).copied().filter(|next| next.first == joined);
            if let Some(next) = next {
                if let Some(before) = place.checked_sub(1).and_then(|before| self.runs.get_mut(before)) {
                    before.count = before.count.saturating_add(next.count);
                }
                self.remove_at(place);
            }
        } else if let Some(next) = self
            .runs
            .get_mut(..self.len)
            .and_then(|runs| runs.get_mut(place))
            .filter(|next| next.first == range.end())
        {
            next.first = range.first;
            next.count = next.count.saturating_add(range.count);
        } else if !self.insert_at(place, range) {
            return false;
        }
        self.pages = self.pages.saturating_add(range.count);
        true
    }

    fn insert_at(&mut self, place: usize, range: PageRange) -> bool {
        let Some(runs) = self.runs.get_mut(place..=self.len) else { return false };
        let mut carried = range;
        runs.iter_mut().for_each(|run| core::mem::swap(run, &mut carried));
        self.len = self.len.saturating_add(1);
        true
    }

    fn remove_at(&mut self, place: usize) {
        if let Some(runs) = self.runs.get_mut(place..self.len) {
            let mut carried = PageRange::default();
            runs.iter_mut().rev().for_each(|run| core::mem::swap(run, &mut carried));
            self.len = self.len.saturating_sub(1);
        }
    }

    /// Removes a range. `false`, without a change, when a part of it is not in the set, or the set has no room to split a range.
    pub fn remove(&mut self, range: PageRange) -> bool {
        let place = self.place(range.first);
        let Some(run) = self.used().get(place).copied() else { return false };
        let is_in = range.count > 0
            && run.first <= range.first
            && range.first.checked_add(range.count) <= Some(run.end());
        if !is_in || range.first.checked_add(range.count).is_none() {
            return false;
        }
        let before = PageRange { first: run.first, count: range.first.saturating_sub(run.first) };
        let after = PageRange { first: range.end(), count: run.end().saturating_sub(range.end()) };
        match (before.count > 0, after.count > 0) {
            (false, false) => self.remove_at(place),
            (true, true) => {
                if !self.insert_at(place.saturating_add(1), after) {
                    return false;
                }
                self.set(place, before);
            }
            (true, false) => self.set(place, before),
            (false, true) => self.set(place, after),
        }
        self.pages = self.pages.saturating_sub(range.count);
        true
    }

    fn set(&mut self, place: usize, range: PageRange) {
        if let Some(run) = self.runs.get_mut(place) {
            *run = range;
        }
    }

    /// Removes and returns a range of at most `most` pages; `None` when the set is empty or `most` is 0.
    pub fn pop(&mut self, most: u64) -> Option<PageRange> {
        let last = self.len.checked_sub(1)?;
        let run = self.runs.get_mut(last)?;
        let count = run.count.min(most);
        run.count = run.count.saturating_sub(count);
        let range = PageRange { first: run.end(), count };
        if run.count == 0 {
            self.len = last;
        }
        self.pages = self.pages.saturating_sub(count);
        (count > 0).then_some(range)
    }
}

impl<P: Platform> fmt::Debug for HeldPages<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldPages")
            .field("pages", &self.pages)
            .field("ranges", &self.len)
            .finish_non_exhaustive()
    }
}

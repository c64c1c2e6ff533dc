use crate::{ControlError, Fault, Notify};
use paravirt_platform::{AllocError, PageTable, Platform};

/// A run of pages of guest memory, of 4096 bytes each whatever the guest's own pages are.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
pub struct PageRange {
    /// The frame number of the first: its guest physical address divided by 4096.
    pub first: u64,
    /// How many.
    pub count: u64,
}

impl PageRange {
    /// The frame number behind the last, or the largest number.
    pub const fn end(&self) -> u64 {
        self.first.saturating_add(self.count)
    }
}

/// How a guest is off for memory, in pages of 4096 bytes.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct MemoryStatistics {
    /// What the guest has, with what the balloon has taken.
    pub total: u64,
    /// What nobody uses.
    pub free: u64,
    /// What could be had without hurting anybody: what is free, and caches that can be dropped.
    pub available: u64,
    /// What caches hold.
    pub caches: u64,
    /// What the guest has promised to its programs, without what the balloon has taken.
    pub committed: u64,
}

/// What a kernel gives to a balloon: its memory, by the page.
pub trait BalloonMemory {
    /// Gives up a run of at most `most` pages, 1 at least: nobody touches them until they come back by
    /// [`give_back`](Self::give_back). `None` where there is nothing that can be spared.
    fn take(&mut self, most: u64) -> Option<PageRange>;

    /// Takes pages back that [`take`](Self::take) gave up, in whatever runs. What was in them is lost.
    fn give_back(&mut self, range: PageRange);

    /// Takes new memory into use; how many of its pages from the first on. A kernel that cannot takes none.
    ///
    /// The range is the host's word: a kernel refuses what it knows as memory, or as anything else, already.
    fn add(&mut self, range: PageRange) -> u64 {
        let _ = range;
        0
    }

    /// How the guest is off.
    fn statistics(&mut self) -> MemoryStatistics;
}

/// Where a balloon stands, in pages.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct BalloonInfo {
    /// What the host has taken.
    pub held: u64,
    /// What the host has asked for, where it says that as a whole.
    pub target: Option<u64>,
    /// What the host has added.
    pub added: u64,
    /// How often the host was told how the guest is off.
    pub reports: u64,
}

/// A balloon: by it the host takes memory from the guest, and gives it back.
///
/// All that the host asks for is done in [`poll`](Self::poll), a bounded part of it at a time; a kernel calls it when its
/// waker is woken and when [`next_deadline`](Notify::next_deadline) has come, by which the host expects to be told how the
/// guest is off. Pages that the balloon holds when it is dropped stay with the host.
pub trait Balloon: Notify + Send {
    /// Does what the host asks for, with the kernel's memory.
    ///
    /// # Errors
    ///
    /// The [`Fault`] where the device is out of service. What it holds it keeps: the host may use those pages.
    fn poll(&mut self, memory: &mut dyn BalloonMemory) -> Result<(), Fault>;

    /// Where it stands.
    fn info(&self) -> BalloonInfo;

    /// Tells the host of free pages, `most` at most: it may drop what is in them, and gives others in their place when they
    /// are used again. They come back to `memory` in a later [`poll`](Self::poll). How many were reported.
    ///
    /// # Errors
    ///
    /// [`ControlError::Unsupported`] where the host does not take such reports.
    fn report_free(&mut self, memory: &mut dyn BalloonMemory, most: u64) -> Result<u64, ControlError> {
        let _ = (memory, most);
        Err(ControlError::Unsupported)
    }
}

/// The pages that a balloon holds: runs in their order, none touching the next. The host can have back given only what is in
/// here.
pub struct HeldPages<P: Platform> {
    runs: PageTable<P, PageRange>,
    len: usize,
    pages: u64,
}

impl<P: Platform> HeldPages<P> {
    /// An empty set with room for `runs` runs.
    ///
    /// # Errors
    ///
    /// [`AllocError`].
    pub fn new(platform: &P, runs: usize) -> Result<Self, AllocError> {
        Ok(Self { runs: PageTable::new(platform, runs, |_| PageRange::default())?, len: 0, pages: 0 })
    }

    /// Pages in all.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Whether a run and the two that removing a page may make of one find room.
    pub fn has_room(&self) -> bool {
        self.len.saturating_add(2) < self.runs.len()
    }

    fn used(&self) -> &[PageRange] {
        self.runs.get(..self.len).unwrap_or_default()
    }

    /// Where the first run is that ends behind `frame`.
    fn place(&self, frame: u64) -> usize {
        self.used().partition_point(|run| run.end() <= frame)
    }

    /// Whether any page of a run is here.
    pub fn overlaps(&self, range: PageRange) -> bool {
        self.used().get(self.place(range.first)).is_some_and(|next| next.first < range.end())
    }

    /// Puts a run in. Whether that was done: it is not empty, nothing of it is here already, and there is room.
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
                self.take_out(place);
            }
        } else if let Some(next) = self
            .runs
            .get_mut(..self.len)
            .and_then(|runs| runs.get_mut(place))
            .filter(|next| next.first == range.end())
        {
            next.first = range.first;
            next.count = next.count.saturating_add(range.count);
        } else if !self.put_in(place, range) {
            return false;
        }
        self.pages = self.pages.saturating_add(range.count);
        true
    }

    fn put_in(&mut self, place: usize, range: PageRange) -> bool {
        let Some(runs) = self.runs.get_mut(place..=self.len) else { return false };
        runs.rotate_right(1);
        if let Some(run) = runs.first_mut() {
            *run = range;
        }
        self.len = self.len.saturating_add(1);
        true
    }

    fn take_out(&mut self, place: usize) {
        if let Some(runs) = self.runs.get_mut(place..self.len) {
            runs.rotate_left(1);
            self.len = self.len.saturating_sub(1);
        }
    }

    /// Takes a run out. Whether that was done: all of it is here, and what is left of its run finds room.
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
        let behind = PageRange { first: range.end(), count: run.end().saturating_sub(range.end()) };
        match (before.count > 0, behind.count > 0) {
            (false, false) => self.take_out(place),
            (true, true) => {
                if !self.put_in(place.saturating_add(1), behind) {
                    return false;
                }
                self.set(place, before);
            }
            (true, false) => self.set(place, before),
            (false, true) => self.set(place, behind),
        }
        self.pages = self.pages.saturating_sub(range.count);
        true
    }

    fn set(&mut self, place: usize, range: PageRange) {
        if let Some(run) = self.runs.get_mut(place) {
            *run = range;
        }
    }

    /// Takes out a run of at most `most` pages.
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

//! A kernel's memory for balloon drivers.

use paravirt_device::{BalloonMemory, MemoryStatistics, PageRange};
use std::collections::BTreeSet;

/// A kernel's memory for a balloon driver, by page number. Panics if a page is returned that was not taken.
pub struct Pages {
    /// Numbers of the pages that the kernel owns.
    pub free: BTreeSet<u64>,
    /// Numbers of the pages that the balloon holds.
    pub taken: BTreeSet<u64>,
    /// Maximum number of pages of a range.
    pub run: u64,
    /// Ranges that the host has added; the kernel accepts half of each.
    pub added: Vec<PageRange>,
}

impl Pages {
    /// Creates `pages` free pages from number 1000, which are taken in ranges of at most `run` pages.
    pub fn new(pages: u64, run: u64) -> Self {
        Self { free: (1000..1000 + pages).collect(), taken: BTreeSet::new(), run, added: vec![] }
    }
}

impl BalloonMemory for Pages {
    fn take(&mut self, max: u64) -> Option<PageRange> {
        let first = *self.free.first()?;
        let count = (0..max.min(self.run)).take_while(|i| self.free.contains(&(first + i))).count() as u64;
        for page in first..first + count {
            self.free.remove(&page);
            self.taken.insert(page);
        }
        Some(PageRange { first, count })
    }
    fn release(&mut self, range: PageRange) {
        for page in range.first..range.end() {
            assert!(self.taken.remove(&page), "page {page} was not taken");
            self.free.insert(page);
        }
    }
    fn add(&mut self, range: PageRange) -> u64 {
        self.added.push(range);
        range.count / 2
    }
    fn statistics(&mut self) -> MemoryStatistics {
        let free = self.free.len() as u64;
        let mut statistics = MemoryStatistics::default();
        statistics.total = 5000;
        statistics.free = free;
        statistics.available = free + 5;
        statistics.caches = 5;
        statistics.committed = 77;
        statistics
    }
}

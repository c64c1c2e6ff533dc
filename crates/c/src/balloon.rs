//! Memory balloons.

use crate::handle::{Handle, Waited, handle};
use crate::platform::Kernel;
use crate::{paravirt_notify, paravirt_status, put};
use core::ffi::c_void;
use paravirt::AnyBalloon;
use paravirt_device::{Balloon as _, BalloonMemory, MemoryStatistics, PageRange};

/// A memory balloon.
#[derive(Debug)]
pub struct paravirt_balloon {
    _private: (),
}
handle!(paravirt_balloon: Waited<AnyBalloon<Kernel>>);

/// A range of pages of 4096 bytes.
#[repr(C)]
#[derive(Copy, Clone, Debug, Default)]
pub struct paravirt_page_range {
    /// The number of the first page: its physical address divided by 4096.
    pub first: u64,
    /// The number of pages.
    pub count: u64,
}

/// The memory of the guest, in pages of 4096 bytes.
#[repr(C)]
#[derive(Copy, Clone, Debug, Default)]
pub struct paravirt_memory_statistics {
    /// All memory, with that in the balloon.
    pub total: u64,
    /// Unused memory.
    pub free: u64,
    /// Memory available without swapping.
    pub available: u64,
    /// Memory in caches.
    pub caches: u64,
    /// Memory committed to programs, without that in the balloon.
    pub committed: u64,
}

/// The page allocator of the kernel, for a balloon. It is used during the call that it is passed to.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub struct paravirt_balloon_memory {
    /// Passed to every function.
    pub context: *mut c_void,
    /// Required. Takes 1 to `most` contiguous pages out of use, and writes them to `out`; returns false if none can be spared.
    pub take: Option<extern "C" fn(context: *mut c_void, most: u64, out: *mut paravirt_page_range) -> bool>,
    /// Required. Brings pages that were taken back into use; in ranges of any size.
    pub release: Option<extern "C" fn(context: *mut c_void, range: paravirt_page_range)>,
    /// Brings hot-added memory into use, and returns the number of pages used, from the first on. The kernel refuses addresses that it
    /// uses already: the range comes from the host.
    pub add: Option<extern "C" fn(context: *mut c_void, range: paravirt_page_range) -> u64>,
    /// Fills in the statistics.
    pub statistics: Option<extern "C" fn(context: *mut c_void, out: *mut paravirt_memory_statistics)>,
}

impl BalloonMemory for paravirt_balloon_memory {
    fn take(&mut self, most: u64) -> Option<PageRange> {
        let mut out = paravirt_page_range::default();
        let is_taken = self.take?(self.context, most, &raw mut out);
        is_taken.then_some(PageRange { first: out.first, count: out.count })
    }

    fn release(&mut self, range: PageRange) {
        if let Some(release) = self.release {
            release(self.context, paravirt_page_range { first: range.first, count: range.count });
        }
    }

    fn add(&mut self, range: PageRange) -> u64 {
        let range = paravirt_page_range { first: range.first, count: range.count };
        self.add.map_or(0, |add| add(self.context, range))
    }

    fn statistics(&mut self) -> MemoryStatistics {
        let mut out = paravirt_memory_statistics::default();
        if let Some(statistics) = self.statistics {
            statistics(self.context, &raw mut out);
        }
        let mut statistics = MemoryStatistics::default();
        statistics.total = out.total;
        statistics.free = out.free;
        statistics.available = out.available;
        statistics.caches = out.caches;
        statistics.committed = out.committed;
        statistics
    }
}

/// Serves the host's requests with the kernel's memory: a bounded amount of work.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_balloon_poll(
    balloon: *mut paravirt_balloon,
    memory: *const paravirt_balloon_memory,
) -> paravirt_status {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_balloon::get(balloon).value.poll(&mut { *memory }) }.into()
}

/// Returns the number of pages in the balloon.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_balloon_held(balloon: *mut paravirt_balloon) -> u64 {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_balloon::get(balloon) }.value.info().held
}

/// Reports up to `most` free pages to the host, which may discard their contents, and writes their number to `reported`. A later
/// `paravirt_balloon_poll` returns them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_balloon_report_free(
    balloon: *mut paravirt_balloon,
    memory: *const paravirt_balloon_memory,
    most: u64,
    reported: *mut u64,
) -> paravirt_status {
    // SAFETY: the contract of the crate.
    unsafe {
        let result = paravirt_balloon::get(balloon).value.report_free(&mut { *memory }, most);
        put(result.map(Some), reported)
    }
}

/// Returns what a task waits for requests by.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_balloon_notify(balloon: *mut paravirt_balloon) -> *mut paravirt_notify {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_balloon::notify(balloon) }
}

/// Closes the balloon; null is permitted. Pages in it stay with the host.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_balloon_close(balloon: *mut paravirt_balloon) {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_balloon::close(balloon) }
}

//! Physical memory: the allocator of pages, the heap, and the page tables.

use crate::arch::boot::{self, BootInfo};
use crate::arch::cpu::without_interrupts;
use crate::arch::paging;
use core::num::NonZeroUsize;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use linked_list_allocator::Heap;
use paravirt_platform::{AllocError, BusAddr, MapError, PAGE_SIZE, RawDma};
use spin::Mutex;

const PAGE: u64 = PAGE_SIZE as u64;
/// Only pages below this address are allocated, 64 GiB: enough for this kernel, and for memory that a host hot-adds.
const REACH: u64 = 64 << 30;
const FRAMES: usize = (REACH / PAGE) as usize;
/// Pages below this address are not allocated: firmware and the trampoline use them.
const FLOOR: u64 = 1 << 20;
const MAX_HEAP: usize = 64 << 20;

/// A range of usable RAM.
#[derive(Copy, Clone, Debug, Default)]
pub struct Range {
    /// The first physical address.
    pub start: u64,
    /// One past the last physical address.
    pub end: u64,
}

/// Maximum number of ranges in [`Ranges`]; further ones are counted and ignored.
const MAX_RANGES: usize = 64;

/// The ranges of RAM that a boot loader reports.
#[derive(Copy, Clone)]
pub struct Ranges {
    ranges: [Range; MAX_RANGES],
    count: usize,
    /// Ranges beyond [`MAX_RANGES`].
    pub ignored: usize,
}

impl Ranges {
    /// No ranges.
    pub const fn new() -> Self {
        Self { ranges: [Range { start: 0, end: 0 }; MAX_RANGES], count: 0, ignored: 0 }
    }

    /// Adds a range.
    pub fn add(&mut self, start: u64, end: u64) {
        match self.ranges.get_mut(self.count) {
            Some(slot) => {
                *slot = Range { start, end };
                self.count += 1;
            }
            None => self.ignored += 1,
        }
    }
}

impl core::ops::Deref for Ranges {
    type Target = [Range];
    fn deref(&self) -> &[Range] {
        &self.ranges[..self.count]
    }
}

/// A bitmap with a bit for each page below [`REACH`]: set if the page is free RAM.
struct Frames {
    free: [u64; FRAMES / 64],
    /// Where the next search begins.
    next: usize,
    /// One past the last frame that was ever free.
    end: usize,
}

static FRAMES_FREE: Mutex<Frames> = Mutex::new(Frames { free: [0; FRAMES / 64], next: 0, end: 0 });

impl Frames {
    fn is_free(&self, frame: usize) -> bool {
        self.free[frame / 64] & (1 << (frame % 64)) != 0
    }

    fn mark_taken(&mut self, frames: core::ops::Range<usize>) {
        frames.for_each(|frame| self.free[frame / 64] &= !(1 << (frame % 64)));
    }

    fn mark_free(&mut self, frames: core::ops::Range<usize>) {
        self.end = self.end.max(frames.end);
        self.next = self.next.min(frames.start);
        frames.for_each(|frame| self.free[frame / 64] |= 1 << (frame % 64));
    }

    /// Returns the first of `count` contiguous free frames whose number is at least `from` and a multiple of `align`.
    fn find(&self, count: usize, align: usize, from: usize) -> Option<usize> {
        let mut start = from.next_multiple_of(align);
        while start + count <= self.end {
            if start.is_multiple_of(64) && self.free[start / 64] == 0 {
                start = (start + 64).next_multiple_of(align);
                continue;
            }
            match (start..start + count).find(|frame| !self.is_free(*frame)) {
                Some(taken) => start = (taken + 1).next_multiple_of(align),
                None => return Some(start),
            }
        }
        None
    }

    fn count(&self) -> usize {
        self.free[..self.end.div_ceil(64)].iter().map(|word| word.count_ones() as usize).sum()
    }

    fn take(&mut self, count: usize, align: usize) -> Option<u64> {
        let start = self.find(count, align, self.next).or_else(|| self.find(count, align, 0))?;
        self.mark_taken(start..start + count);
        self.next = start + count;
        Some(start as u64 * PAGE)
    }
}

/// The heap. It is locked with interrupts disabled: handlers do not allocate, but they would run with the lock held.
struct KernelHeap(Mutex<Heap>);

#[global_allocator]
static HEAP: KernelHeap = KernelHeap(Mutex::new(Heap::empty()));
/// How many heap allocations were made: the data path makes none.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: the heap returns disjoint memory of the requested layout.
unsafe impl core::alloc::GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: core::alloc::Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        without_interrupts(|| {
            self.0.lock().allocate_first_fit(layout).map_or(core::ptr::null_mut(), NonNull::as_ptr)
        })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: core::alloc::Layout) {
        if let Some(pointer) = NonNull::new(pointer) {
            // SAFETY: by the contract of this function, which is that of the callee.
            without_interrupts(|| unsafe { self.0.lock().deallocate(pointer, layout) });
        }
    }
}

/// Returns how many heap allocations were made so far.
pub fn allocations() -> u64 {
    ALLOCATIONS.load(Ordering::Relaxed)
}

/// Reads the memory map, sets up the page tables and the heap, and returns the size of RAM in bytes.
pub fn init(info: &BootInfo) -> u64 {
    let mut total = 0;
    let mut unused = 0;
    {
        let mut frames = FRAMES_FREE.lock();
        let mut ram = RAM.lock();
        for range in info.ram().iter() {
            total += range.end - range.start;
            unused += range.end.saturating_sub(range.start.max(REACH));
            ram.add(range.start..range.end);
            let (start, end) =
                (range.start.max(FLOOR).next_multiple_of(PAGE), range.end.min(REACH) & !(PAGE - 1));
            if start < end {
                frames.mark_free((start / PAGE) as usize..(end / PAGE) as usize);
            }
        }
        let (start, end) = boot::kernel_range();
        frames.mark_taken((start / PAGE) as usize..end.div_ceil(PAGE) as usize);
    }
    PAGES.store(total / PAGE, Ordering::Relaxed);
    if unused > 0 {
        log::warn!("memory: {} MiB of RAM above {} GiB are not used", unused >> 20, REACH >> 30);
    }
    if info.ram().ignored > 0 {
        log::warn!("memory: {} ranges of RAM are not used: there are too many", info.ram().ignored);
    }
    paging::init(info);
    let mut len = MAX_HEAP.min((total / 4) as usize) & !(PAGE_SIZE - 1);
    // Halved until that much contiguous memory is free.
    while len >= 1 << 20 {
        if let Some(at) = FRAMES_FREE.lock().take(len / PAGE_SIZE, 1) {
            // SAFETY: the memory is mapped, used by the heap only, and never freed.
            unsafe { HEAP.0.lock().init(at as *mut u8, len) }
            break;
        }
        len /= 2;
    }
    total
}

/// Allocates contiguous pages and zeroes them.
pub fn alloc(pages: NonZeroUsize) -> Result<RawDma, AllocError> {
    let at = without_interrupts(|| FRAMES_FREE.lock().take(pages.get(), 1)).ok_or(AllocError)?;
    let cpu = NonNull::new(at as *mut u8).ok_or(AllocError)?;
    // SAFETY: the pages are RAM, mapped one to one, and were just allocated to the caller.
    unsafe { cpu.write_bytes(0, pages.get() * PAGE_SIZE) }
    Ok(RawDma { cpu, bus: BusAddr(at), pages })
}

/// Frees pages.
///
/// # Safety
///
/// The pages came from [`alloc`] and nothing uses them any more.
pub unsafe fn free(region: RawDma) {
    let first = (region.bus.0 / PAGE) as usize;
    without_interrupts(|| {
        FRAMES_FREE.lock().mark_free(first..first + region.pages.get());
    });
}

/// Pages that a balloon may not take: 16 MiB stay with the kernel.
const RESERVE: usize = (16 << 20) / PAGE_SIZE;
/// Pages of RAM in total.
static PAGES: AtomicU64 = AtomicU64::new(0);
/// Pages in balloons.
static BALLOONED: AtomicU64 = AtomicU64::new(0);

/// Returns how many pages are in balloons.
pub fn ballooned() -> u64 {
    BALLOONED.load(Ordering::Relaxed)
}

/// Returns how many pages of RAM there are in total, and how many of them are free.
pub fn statistics() -> (u64, u64) {
    let free = without_interrupts(|| FRAMES_FREE.lock().count());
    (PAGES.load(Ordering::Relaxed), free as u64)
}

/// Allocates a range of at most `max` pages for a balloon; returns its first frame number and its length in pages.
pub fn take_for_balloon(max: u64) -> Option<(u64, u64)> {
    without_interrupts(|| {
        let mut frames = FRAMES_FREE.lock();
        let room = frames.count().checked_sub(RESERVE)?;
        let mut count = room.min(usize::try_from(max).unwrap_or(usize::MAX));
        // Halved until a range of that length is free.
        while count > 0 {
            if let Some(at) = frames.take(count, 1) {
                BALLOONED.fetch_add(count as u64, Ordering::Relaxed);
                return Some((at / PAGE, count as u64));
            }
            count /= 2;
        }
        None
    })
}

/// Frees pages that a balloon returned.
pub fn return_from_balloon(first: u64, count: u64) {
    BALLOONED.fetch_sub(count, Ordering::Relaxed);
    free_frames(first, count);
}

fn free_frames(first: u64, count: u64) {
    without_interrupts(|| {
        FRAMES_FREE.lock().mark_free(first as usize..(first + count) as usize);
    });
}

/// Maps hot-added memory below [`REACH`] and frees it for allocation; returns how many of its pages. A range that begins among
/// existing RAM and devices is refused (0), as the host may report a range that overlaps them.
pub fn add(first: u64, count: u64) -> u64 {
    let usable = count.min((FRAMES as u64).saturating_sub(first));
    if usable < count {
        log::warn!("memory: {} hot-added pages above {} GiB are not used", count - usable, REACH >> 30);
    }
    let count = usable;
    let range = first * PAGE..(first + count) * PAGE;
    let is_new = range.start >= paging::identity_end() && paging::extend(range.end);
    if count == 0 || !is_new || paging::map_ram(range).is_none() {
        return 0;
    }
    RAM.lock().add(first * PAGE..(first + count) * PAGE);
    free_frames(first, count);
    PAGES.fetch_add(count, Ordering::Relaxed);
    count
}

/// The maximum number of ranges in [`Ram`].
const RAM_RANGES: usize = 128;

/// The ranges of RAM, which no device can claim as its registers.
struct Ram {
    ranges: [(u64, u64); RAM_RANGES],
    count: usize,
}

static RAM: Mutex<Ram> = Mutex::new(Ram { ranges: [(0, 0); RAM_RANGES], count: 0 });

impl Ram {
    /// Adds a range; the last one grows if there are too many, so that no RAM is left out.
    fn add(&mut self, range: core::ops::Range<u64>) {
        match self.ranges.get_mut(self.count) {
            Some(slot) => {
                *slot = (range.start, range.end);
                self.count += 1;
            }
            None => {
                let last = &mut self.ranges[RAM_RANGES - 1];
                *last = (last.0.min(range.start), last.1.max(range.end));
            }
        }
    }

    fn overlaps(&self, start: u64, end: u64) -> bool {
        self.ranges[..self.count].iter().any(|range| range.0 < end && start < range.1)
    }
}

/// Returns the virtual address of device registers. Everything below 4 GiB is mapped one to one; other ranges are mapped in the device
/// window. RAM is refused: the address may come from a device.
pub fn map(phys: u64, len: usize) -> Result<NonNull<u8>, MapError> {
    let end = phys.checked_add(len as u64).filter(|end| *end > phys).ok_or(MapError)?;
    if without_interrupts(|| RAM.lock().overlaps(phys, end)) {
        log::warn!("memory: {len} bytes of registers at {phys:#x} would be in RAM: refused");
        return Err(MapError);
    }
    map_firmware(phys, len)
}

/// Returns the virtual address of a firmware table, which may be in RAM, to read it.
pub fn map_firmware(phys: u64, len: usize) -> Result<NonNull<u8>, MapError> {
    let end = phys.checked_add(len as u64).filter(|end| *end > phys).ok_or(MapError)?;
    if end <= paging::identity_end() {
        return NonNull::new(phys as *mut u8).ok_or(MapError);
    }
    without_interrupts(|| paging::map_device(phys, end))
}

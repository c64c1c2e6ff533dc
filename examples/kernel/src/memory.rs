//! Physical memory: which pages are free, the heap, and the mappings.

use crate::boot::{self, BootInfo};
use core::num::NonZeroUsize;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use linked_list_allocator::Heap;
use paravirt_platform::{AllocError, BusAddr, MapError, PAGE_SIZE, RawDma};
use spin::Mutex;
use x86_64::instructions::interrupts;

const PAGE: u64 = PAGE_SIZE as u64;
const LARGE: u64 = 2 << 20;
/// Pages are given out below this; it is enough for the work of this kernel, and for memory that a host adds far up.
const REACH: u64 = 64 << 30;
const FRAMES: usize = (REACH / PAGE) as usize;
/// What is below belongs to firmware, and to the trampoline.
const FLOOR: u64 = 1 << 20;
const MAX_HEAP: usize = 64 << 20;

/// A bit for each page below [`REACH`]: set where it is RAM that nobody uses.
struct Frames {
    free: [u64; FRAMES / 64],
    next: usize,
    /// Behind the last that was ever free.
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

    /// The first of `count` contiguous free frames at a multiple of `align`, from `from` on.
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

/// The heap, locked with interrupts off: handlers do not allocate, but they may interrupt who does.
struct KernelHeap(Mutex<Heap>);

#[global_allocator]
static HEAP: KernelHeap = KernelHeap(Mutex::new(Heap::empty()));
/// How often the heap was asked for memory: the data path asks never.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: the heap hands out disjoint memory of the layout asked for.
unsafe impl core::alloc::GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: core::alloc::Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        interrupts::without_interrupts(|| {
            self.0.lock().allocate_first_fit(layout).map_or(core::ptr::null_mut(), NonNull::as_ptr)
        })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: core::alloc::Layout) {
        if let Some(pointer) = NonNull::new(pointer) {
            // SAFETY: passed on from the caller.
            interrupts::without_interrupts(|| unsafe { self.0.lock().deallocate(pointer, layout) });
        }
    }
}

/// How often the heap was asked for memory so far.
pub fn allocations() -> u64 {
    ALLOCATIONS.load(Ordering::Relaxed)
}

/// Takes over the memory map, makes page tables of the kernel's own, and gives a part of the memory to the heap. Returns
/// the RAM found, in bytes.
pub fn init(info: &BootInfo) -> u64 {
    let mut total = 0;
    {
        let mut frames = FRAMES_FREE.lock();
        for range in info.ram() {
            total += range.end - range.start;
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
    paging::init(info);
    let mut len = MAX_HEAP.min((total / 4) as usize) & !(PAGE_SIZE - 1);
    // The largest contiguous piece that there is, halving.
    while len >= 1 << 20 {
        if let Some(at) = FRAMES_FREE.lock().take(len / PAGE_SIZE, 1) {
            // SAFETY: the memory is the heap's alone, mapped, and never freed.
            unsafe { HEAP.0.lock().init(at as *mut u8, len) }
            break;
        }
        len /= 2;
    }
    total
}

/// Zeroed, contiguous pages.
pub fn alloc(pages: NonZeroUsize) -> Result<RawDma, AllocError> {
    let at = interrupts::without_interrupts(|| FRAMES_FREE.lock().take(pages.get(), 1)).ok_or(AllocError)?;
    let cpu = NonNull::new(at as *mut u8).ok_or(AllocError)?;
    // SAFETY: the pages are RAM, mapped one to one, and nobody else's.
    unsafe { cpu.write_bytes(0, pages.get() * PAGE_SIZE) }
    Ok(RawDma { cpu, bus: BusAddr(at), pages })
}

/// # Safety
///
/// The pages came from [`alloc`] and are used by nobody.
pub unsafe fn free(region: RawDma) {
    let first = (region.bus.0 / PAGE) as usize;
    interrupts::without_interrupts(|| {
        FRAMES_FREE.lock().mark_free(first..first + region.pages.get());
    });
}

/// What the kernel keeps for itself when it spares memory: 16 MiB.
const RESERVE: usize = (16 << 20) / PAGE_SIZE;
/// Pages of RAM, and how many of them are free.
static PAGES: AtomicU64 = AtomicU64::new(0);
/// Pages that a balloon has.
static SPARED: AtomicU64 = AtomicU64::new(0);

/// Pages that a balloon has.
pub fn spared() -> u64 {
    SPARED.load(Ordering::Relaxed)
}

/// Pages in all and pages that are free.
pub fn statistics() -> (u64, u64) {
    let free = interrupts::without_interrupts(|| FRAMES_FREE.lock().count());
    (PAGES.load(Ordering::Relaxed), free as u64)
}

/// Gives up a run of at most `most` pages: the first one's frame number, and how many.
pub fn spare(most: u64) -> Option<(u64, u64)> {
    interrupts::without_interrupts(|| {
        let mut frames = FRAMES_FREE.lock();
        let room = frames.count().checked_sub(RESERVE)?;
        let mut count = room.min(usize::try_from(most).unwrap_or(usize::MAX));
        // The largest run that there is, halving.
        while count > 0 {
            if let Some(at) = frames.take(count, 1) {
                SPARED.fetch_add(count as u64, Ordering::Relaxed);
                return Some((at / PAGE, count as u64));
            }
            count /= 2;
        }
        None
    })
}

/// Takes back pages that were spared.
pub fn give_back(first: u64, count: u64) {
    SPARED.fetch_sub(count, Ordering::Relaxed);
    free_frames(first, count);
}

fn free_frames(first: u64, count: u64) {
    interrupts::without_interrupts(|| {
        FRAMES_FREE.lock().mark_free(first as usize..(first + count) as usize);
    });
}

/// Takes new memory into use, as far as it is in reach; how many of its pages. None of what lies among RAM and devices: the
/// host is not believed that there is more.
pub fn add(first: u64, count: u64) -> u64 {
    let count = count.min((FRAMES as u64).saturating_sub(first));
    let range = first * PAGE..(first + count) * PAGE;
    let is_new = range.start >= paging::identity_end() && paging::extend(range.end);
    if count == 0 || !is_new || paging::map_ram(range).is_none() {
        return 0;
    }
    free_frames(first, count);
    PAGES.fetch_add(count, Ordering::Relaxed);
    count
}

/// Where physical memory can be reached: RAM and everything below 4 GiB where it is, the rest in a window of its own.
pub fn map(phys: u64, len: usize) -> Result<NonNull<u8>, MapError> {
    let end = phys.checked_add(len as u64).filter(|end| *end > phys).ok_or(MapError)?;
    if end <= paging::identity_end() {
        return NonNull::new(phys as *mut u8).ok_or(MapError);
    }
    interrupts::without_interrupts(|| paging::map_device(phys, end))
}

pub mod paging {
    //! Page tables of the kernel's own: RAM one to one, device memory above it in a window.

    use super::*;
    use x86_64::registers::control::{Cr3, Cr3Flags};
    use x86_64::structures::paging::PhysFrame;

    const PRESENT: u64 = 1;
    const WRITABLE: u64 = 2;
    const WRITE_THROUGH: u64 = 1 << 3;
    const NO_CACHE: u64 = 1 << 4;
    const HUGE: u64 = 1 << 7;
    const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    /// Where device memory that is not below 4 GiB is seen.
    const WINDOW: u64 = 0xffff_8000_0000_0000;

    struct Tables {
        root: u64,
        next: u64,
    }

    static TABLES: Mutex<Tables> = Mutex::new(Tables { root: 0, next: WINDOW });
    static IDENTITY_END: AtomicU64 = AtomicU64::new(4 << 30);

    pub fn identity_end() -> u64 {
        IDENTITY_END.load(Ordering::Relaxed)
    }

    fn new_table() -> Option<u64> {
        alloc(NonZeroUsize::MIN).ok().map(|raw| raw.bus.0)
    }

    /// The entry for `address` at `level` (3 to 0), making the tables ahead of it.
    fn entry(root: u64, address: u64, level: u32) -> Option<*mut u64> {
        let mut table = root;
        for above in (level + 1..4).rev() {
            let at = (table as *mut u64).wrapping_add((address >> (12 + 9 * above)) as usize & 511);
            // SAFETY: tables come from `alloc` and are mapped one to one.
            unsafe {
                if *at & PRESENT == 0 {
                    *at = new_table()? | PRESENT | WRITABLE;
                }
                table = *at & ADDRESS;
            }
        }
        Some((table as *mut u64).wrapping_add((address >> (12 + 9 * level)) as usize & 511))
    }

    /// Maps everything below 4 GiB and all RAM one to one, in pages of 2 MiB; without cache where there is no RAM.
    pub fn init(info: &BootInfo) {
        // The first page is never allocated, so that a table's address is never 0.
        let Some(root) = new_table() else { return };
        let mut tables = TABLES.lock();
        tables.root = root;
        let highest = info.ram().iter().map(|range| range.end).max().unwrap_or(0).max(4 << 30);
        let end = highest.min(1 << 46).next_multiple_of(LARGE);
        for at in (0..end).step_by(LARGE as usize) {
            let is_ram = info.ram().iter().any(|range| range.start < at + LARGE && range.end > at);
            let cache = if is_ram { 0 } else { NO_CACHE | WRITE_THROUGH };
            let Some(entry) = entry(root, at, 1) else { return };
            // SAFETY: as in `entry`.
            unsafe { *entry = at | PRESENT | WRITABLE | HUGE | cache }
        }
        // SAFETY: the tables map the kernel, its stack and its data where they are.
        unsafe { Cr3::write(PhysFrame::containing_address(x86_64::PhysAddr::new(root)), Cr3Flags::empty()) }
        IDENTITY_END.store(end, Ordering::Relaxed);
    }

    /// Takes note that memory is mapped one to one up to `end`.
    pub fn extend(end: u64) -> bool {
        IDENTITY_END.fetch_max(end, Ordering::Relaxed) < end
    }

    /// Maps memory that was added, one to one.
    pub fn map_ram(range: core::ops::Range<u64>) -> Option<()> {
        interrupts::without_interrupts(|| {
            let root = TABLES.lock().root;
            for at in (range.start & !(LARGE - 1)..range.end).step_by(LARGE as usize) {
                let entry = entry(root, at, 1)?;
                // SAFETY: as in `entry`; nobody uses what is mapped there before this returns.
                unsafe { *entry = at | PRESENT | WRITABLE | HUGE }
            }
            x86_64::instructions::tlb::flush_all();
            Some(())
        })
    }

    /// The page tables' address, for other processors.
    pub fn root() -> u64 {
        TABLES.lock().root
    }

    pub fn map_device(phys: u64, end: u64) -> Result<NonNull<u8>, MapError> {
        if end > 1 << 52 {
            return Err(MapError);
        }
        let mut tables = TABLES.lock();
        // The window keeps the offset within a large page, so that long ranges need few entries.
        let base = tables.next.next_multiple_of(LARGE) + phys % LARGE;
        let (mut at, last) = (phys & !(PAGE - 1), end);
        while at < last {
            let virt = base - phys % LARGE + (at - (phys & !(LARGE - 1)));
            let is_large = at.is_multiple_of(LARGE) && at + LARGE <= last;
            let entry = entry(tables.root, virt, u32::from(is_large)).ok_or(MapError)?;
            let flags = PRESENT | WRITABLE | NO_CACHE | WRITE_THROUGH | if is_large { HUGE } else { 0 };
            // SAFETY: the entry is in the window, which nobody uses before this returns.
            unsafe { *entry = at | flags }
            at += if is_large { LARGE } else { PAGE };
        }
        tables.next = (base + (end - phys)).next_multiple_of(LARGE);
        NonNull::new(base as *mut u8).ok_or(MapError)
    }
}

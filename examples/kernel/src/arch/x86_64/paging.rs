//! The kernel's page tables: RAM is mapped one to one, device memory above it in a window.

use super::boot::BootInfo;
use super::cpu::without_interrupts;
use crate::memory::alloc;
use core::num::NonZeroUsize;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use paravirt_platform::{MapError, PAGE_SIZE};
use spin::Mutex;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::PhysFrame;

const PAGE: u64 = PAGE_SIZE as u64;
const LARGE: u64 = 2 << 20;
const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const WRITE_THROUGH: u64 = 1 << 3;
const NO_CACHE: u64 = 1 << 4;
const HUGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// The virtual address where device memory above the one-to-one mapping is mapped.
const WINDOW: u64 = 0xffff_8000_0000_0000;

/// The maximum number of ranges in the device window that are found again.
const MAPPINGS: usize = 256;

/// A range in the device window.
#[derive(Copy, Clone)]
struct Mapping {
    phys: u64,
    end: u64,
    virt: u64,
}

struct Tables {
    root: u64,
    next: u64,
    /// Ranges stay mapped: they are used again when a device is opened again.
    mappings: [Option<Mapping>; MAPPINGS],
}

static TABLES: Mutex<Tables> = Mutex::new(Tables { root: 0, next: WINDOW, mappings: [None; MAPPINGS] });
static IDENTITY_END: AtomicU64 = AtomicU64::new(4 << 30);

pub fn identity_end() -> u64 {
    IDENTITY_END.load(Ordering::Relaxed)
}

fn new_table() -> Option<u64> {
    alloc(NonZeroUsize::MIN).ok().map(|raw| raw.bus.0)
}

/// Returns the page table entry for `address` at `level` (3 to 0), allocating the tables above it.
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

/// Maps everything below 4 GiB and all RAM one to one, in pages of 2 MiB; uncached where there is no RAM.
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
    // SAFETY: the tables map the kernel, its stack and its data at the addresses that they have now.
    unsafe { Cr3::write(PhysFrame::containing_address(x86_64::PhysAddr::new(root)), Cr3Flags::empty()) }
    IDENTITY_END.store(end, Ordering::Relaxed);
}

/// Records that memory is mapped one to one up to `end`; returns whether that is more than before.
pub fn extend(end: u64) -> bool {
    IDENTITY_END.fetch_max(end, Ordering::Relaxed) < end
}

/// Maps hot-added memory one to one; `None` if there is no page for a table.
pub fn map_ram(range: core::ops::Range<u64>) -> Option<()> {
    without_interrupts(|| {
        let root = TABLES.lock().root;
        for at in (range.start & !(LARGE - 1)..range.end).step_by(LARGE as usize) {
            let entry = entry(root, at, 1)?;
            // SAFETY: as in `entry`; the new mapping is not used before this returns.
            unsafe { *entry = at | PRESENT | WRITABLE | HUGE }
        }
        x86_64::instructions::tlb::flush_all();
        Some(())
    })
}

/// Returns the physical address of the top-level page table, for other processors.
pub fn root() -> u64 {
    TABLES.lock().root
}

/// Maps the physical range from `phys` to `end` (exclusive) uncached in the device window. A range that is mapped already is not
/// mapped again.
pub fn map_device(phys: u64, end: u64) -> Result<NonNull<u8>, MapError> {
    if end > 1 << 52 {
        return Err(MapError);
    }
    let mut tables = TABLES.lock();
    let covers = |mapping: &&Mapping| mapping.phys <= phys && end <= mapping.end;
    if let Some(mapping) = tables.mappings.iter().flatten().find(covers) {
        return NonNull::new((mapping.virt + (phys - mapping.phys)) as *mut u8).ok_or(MapError);
    }
    // The virtual address has the same offset within a large page, so that long ranges need few entries.
    let base = tables.next.next_multiple_of(LARGE) + phys % LARGE;
    let (mut at, last) = (phys & !(PAGE - 1), end);
    while at < last {
        let virt = base - phys % LARGE + (at - (phys & !(LARGE - 1)));
        let is_large = at.is_multiple_of(LARGE) && at + LARGE <= last;
        let entry = entry(tables.root, virt, u32::from(is_large)).ok_or(MapError)?;
        let flags = PRESENT | WRITABLE | NO_CACHE | WRITE_THROUGH | if is_large { HUGE } else { 0 };
        // SAFETY: the entry is of a part of the window that is not used before this returns.
        unsafe { *entry = at | flags }
        at += if is_large { LARGE } else { PAGE };
    }
    tables.next = (base + (end - phys)).next_multiple_of(LARGE);
    if let Some(free) = tables.mappings.iter_mut().find(|mapping| mapping.is_none()) {
        *free = Some(Mapping { phys, end, virt: base });
    }
    NonNull::new(base as *mut u8).ok_or(MapError)
}

//! The page tables: everything below 1 TiB is mapped one to one, in blocks of 1 GiB; RAM is cached. Arm ARM D8

use super::boot::BootInfo;
use core::arch::asm;
use core::cell::UnsafeCell;
use core::ptr::NonNull;
use paravirt_platform::MapError;

const BLOCK: u64 = 1 << 30;
const ENTRIES: usize = 512;
/// What is mapped: two tables of 512 blocks.
const END: u64 = 2 * ENTRIES as u64 * BLOCK;
/// Descriptors.
const TABLE: u64 = 3;
const VALID_BLOCK: u64 = 1;
const ACCESSED: u64 = 1 << 10;
const INNER_SHAREABLE: u64 = 3 << 8;
const NEVER_EXECUTE: u64 = 3 << 53;
/// The kinds of memory, as numbers in MAIR: normal memory, written back; and registers of devices, whose writes may be acknowledged early
/// (Device-nGnRE).
const NORMAL: u64 = 0 << 2;
const DEVICE: u64 = 1 << 2;
const KINDS: u64 = 0xff | 0x04 << 8;
/// 40 bits of address, tables in cached memory, 4 KiB pages, no upper half, 40 bits of physical address.
const CONTROL: u64 = 24 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23 | 2 << 32;
/// In SCTLR: address translation, caches of data and of instructions.
const ENABLE: u64 = 1 << 0 | 1 << 2 | 1 << 12;

#[repr(C, align(4096))]
struct Table(UnsafeCell<[u64; ENTRIES]>);

// SAFETY: the tables are written by the first processor alone, before others run or to add entries.
unsafe impl Sync for Table {}

static ROOT: Table = Table(UnsafeCell::new([0; ENTRIES]));
static BLOCKS: [Table; 2] = [Table(UnsafeCell::new([0; ENTRIES])), Table(UnsafeCell::new([0; ENTRIES]))];

/// Writes the descriptor of the block at `address`.
///
/// # Safety
///
/// One processor runs, or it is the first and the others do not use the block.
unsafe fn set(address: u64, is_ram: bool) {
    let kind = if is_ram { NORMAL | INNER_SHAREABLE } else { DEVICE | NEVER_EXECUTE };
    let (table, entry) = ((address / BLOCK) as usize / ENTRIES, (address / BLOCK) as usize % ENTRIES);
    // SAFETY: by the contract of this function; the index is in the table.
    unsafe {
        let entries = BLOCKS[table & 1].0.get().cast::<u64>();
        entries.add(entry).write_volatile(address | kind | ACCESSED | VALID_BLOCK);
    }
}

/// Fills in the tables: the block of `kernel` is RAM, until the others are known.
///
/// # Safety
///
/// Only the first processor runs, and calls this once, before anything else.
pub unsafe fn fill(kernel: u64) {
    for address in (0..END).step_by(BLOCK as usize) {
        // SAFETY: by the contract of this function.
        unsafe { set(address, address == kernel & !(BLOCK - 1)) }
    }
    for (index, table) in BLOCKS.iter().enumerate() {
        // SAFETY: as above; the root has 512 entries.
        unsafe { ROOT.0.get().cast::<u64>().add(index).write_volatile(table.0.get() as u64 | TABLE) }
    }
}

/// Switches address translation on, on this processor.
///
/// # Safety
///
/// The tables were filled in.
pub unsafe fn enable() {
    // SAFETY: the tables map everything at the address that it has, the code and the stack as memory.
    unsafe {
        asm!("msr mair_el1, {}", in(reg) KINDS, options(nostack));
        asm!("msr tcr_el1, {}", in(reg) CONTROL, options(nostack));
        asm!("msr ttbr0_el1, {}", in(reg) ROOT.0.get() as u64, options(nostack));
        asm!("dsb sy", "isb", "tlbi vmalle1", "dsb sy", "isb", options(nostack));
        let control: u64;
        asm!("mrs {}, sctlr_el1", out(reg) control, options(nostack));
        asm!("msr sctlr_el1, {}", "isb", in(reg) control | ENABLE, options(nostack));
    }
}

/// Marks all RAM as such.
pub fn init(info: &BootInfo) {
    for range in info.ram().iter() {
        for address in (range.start & !(BLOCK - 1)..range.end.min(END)).step_by(BLOCK as usize) {
            // SAFETY: only the first processor runs. What is used of the block stays as it is, or was not used before.
            unsafe { set(address, true) }
        }
    }
    // SAFETY: drops cached translations.
    unsafe { asm!("dsb ish", "tlbi vmalle1", "dsb ish", "isb", options(nostack)) }
}

/// Returns up to where everything is mapped one to one.
pub fn identity_end() -> u64 {
    END
}

/// Hot-added memory is not supported on this processor.
pub fn extend(_end: u64) -> bool {
    false
}

/// As for [`extend`].
pub fn map_ram(_range: core::ops::Range<u64>) -> Option<()> {
    None
}

/// What is above the tables is not mapped.
pub fn map_device(_phys: u64, _end: u64) -> Result<NonNull<u8>, MapError> {
    Err(MapError)
}

//! Boot by UEFI: the kernel is an application of it, which it loads anywhere. The entry code copies the kernel to its address, where its
//! code takes what UEFI knows and leaves it. UEFI Specification 2.10

use super::boot::BootInfo;
use crate::memory::Ranges;
use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::ffi::c_void;
use spin::Mutex;

global_asm!(
    r#"
.section .text
// The handle of the image and the system table; returns a status if the kernel cannot be started. Boot services: AllocatePages of address,
// type (AllocateAddress), and kind of memory (LoaderCode).
.global efi_start
efi_start:
    stp x29, x30, [sp, #-64]!
    stp x19, x20, [sp, #16]
    stp x21, x22, [sp, #32]
    mov x19, x0
    mov x20, x1
    adrp x21, kernel_start
    add x21, x21, :lo12:kernel_start
    ldr x22, =kernel_start
    str x22, [sp, #48]
    mov x0, #2
    mov x1, #1
    ldr x2, =kernel_end
    sub x2, x2, x22
    lsr x2, x2, #12
    add x3, sp, #48
    ldr x9, [x20, #96]
    ldr x9, [x9, #40]
    blr x9
    cbnz x0, 5f
    // The image, and zeroes.
    mov x0, x22
    ldr x2, =bss_start
    ldr x3, =kernel_end
1:  cmp x0, x2
    b.hs 2f
    ldr x4, [x21], #8
    str x4, [x0], #8
    b 1b
2:  cmp x0, x3
    b.hs 3f
    str xzr, [x0], #8
    b 2b
3:  mov x0, x22
    mov x1, x3
    bl clean
    mov x0, x19
    mov x1, x20
    ldr x9, =rust_efi
    blr x9
5:  ldp x21, x22, [sp, #32]
    ldp x19, x20, [sp, #16]
    ldp x29, x30, [sp], #64
    ret

// Writes the caches of data from x0 to x1 back to memory, and drops that of instructions.
clean:
    mrs x4, ctr_el0
    ubfx x4, x4, #16, #4
    mov x5, #4
    lsl x5, x5, x4
1:  cmp x0, x1
    b.hs 2f
    dc civac, x0
    add x0, x0, x5
    b 1b
2:  dsb sy
    ic iallu
    dsb sy
    isb
    ret

// Address translation and caches off, the boot stack, the kernel.
.global leave_efi
leave_efi:
    msr daifset, #15
    mov x2, #0x1005
    mrs x1, CurrentEL
    cmp x1, #8
    b.eq 1f
    mrs x1, sctlr_el1
    bic x1, x1, x2
    msr sctlr_el1, x1
    isb
    tlbi vmalle1
    b 2f
1:  mrs x1, sctlr_el2
    bic x1, x1, x2
    msr sctlr_el2, x1
    isb
    tlbi alle2
2:  dsb sy
    isb
    // Now that nothing is cached any more.
    ldr x0, =kernel_start
    ldr x1, =kernel_end
    bl clean
    bl to_el1
    ldr x1, =boot_stack_end
    mov sp, x1
    b rust_start_from_efi
    .ltorg
"#
);

unsafe extern "C" {
    fn leave_efi() -> !;
}

/// What UEFI passed, besides memory.
pub struct Passed {
    /// The address of the RSDP.
    pub rsdp: Option<u64>,
    pub command_line: &'static [u8],
}

/// Offsets in the system table, in the table of boot services, and in what describes a loaded image. §4.3, §4.4, §9.1
const BOOT_SERVICES: usize = 96;
const TABLE_COUNT: usize = 104;
const TABLES: usize = 112;
const GET_MEMORY_MAP: usize = 56;
const HANDLE_PROTOCOL: usize = 152;
const EXIT_BOOT_SERVICES: usize = 232;
const OPTIONS_LEN: usize = 48;
const OPTIONS: usize = 56;
/// §9.1.1, §4.6.1
const LOADED_IMAGE: Guid = Guid(0x5b1b_31a1, 0x9562, 0x11d2, [0x8e, 0x3f, 0, 0xa0, 0xc9, 0x69, 0x72, 0x3b]);
const ACPI: Guid = Guid(0x8868_e871, 0xe4f1, 0x11d3, [0xbc, 0x22, 0, 0x80, 0xc7, 0x3c, 0x88, 0x81]);
const DEVICE_TREE: Guid = Guid(0xb1b6_21d5, 0xf19c, 0x41a5, [0x83, 0x0b, 0xd9, 0x15, 0x2c, 0x69, 0xaa, 0xe0]);
/// Kinds of memory that are free once UEFI is left: of the loader, of boot services, and unused. §7.2
const FREE: [u32; 5] = [1, 2, 3, 4, 7];
/// How often leaving is tried: the map may change in between, by the first try. §7.4.6
const TRIES: usize = 4;

#[repr(C)]
#[derive(Copy, Clone, Eq, PartialEq)]
struct Guid(u32, u16, u16, [u8; 8]);

type GetMemoryMap = unsafe extern "C" fn(*mut usize, *mut c_void, *mut usize, *mut usize, *mut u32) -> usize;
type HandleProtocol = unsafe extern "C" fn(*mut c_void, *const Guid, *mut *const u8) -> usize;
type ExitBootServices = unsafe extern "C" fn(*mut c_void, usize) -> usize;

/// Memory that is filled in once, before anything else runs.
#[repr(align(8))]
struct Early<const LEN: usize>(UnsafeCell<[u8; LEN]>);

// SAFETY: written by the first processor alone, before others run.
unsafe impl<const LEN: usize> Sync for Early<LEN> {}

const MAP_LEN: usize = 64 << 10;
static MAP: Early<MAP_LEN> = Early(UnsafeCell::new([0; MAP_LEN]));
/// One byte more than a command line may have, so that a longer one is noticed.
const COMMAND_LINE_LEN: usize = 4097;
static COMMAND_LINE: Early<COMMAND_LINE_LEN> = Early(UnsafeCell::new([0; COMMAND_LINE_LEN]));
static INFO: Mutex<Option<BootInfo>> = Mutex::new(None);

/// Returns what was taken from UEFI.
pub fn take_info() -> BootInfo {
    match INFO.lock().take() {
        Some(info) => info,
        None => crate::exit::exit(1),
    }
}

/// Reads a field.
///
/// # Safety
///
/// There is a `T` at `offset`.
unsafe fn field<T: Copy>(of: *const u8, offset: usize) -> T {
    // SAFETY: by the contract of this function.
    unsafe { of.add(offset).cast::<T>().read_unaligned() }
}

/// Takes what UEFI knows, and leaves it; called by the entry code, on UEFI's stack. Returns a status if that fails.
#[unsafe(no_mangle)]
unsafe extern "C" fn rust_efi(image: *mut c_void, system: *const u8) -> usize {
    // SAFETY: UEFI passes its table, whose fields have these types.
    unsafe {
        let services: *const u8 = field(system, BOOT_SERVICES);
        let passed = Passed { rsdp: table(system, ACPI), command_line: command_line(image, services) };
        let tree = table(system, DEVICE_TREE);
        let get_map: GetMemoryMap = field(services, GET_MEMORY_MAP);
        let exit: ExitBootServices = field(services, EXIT_BOOT_SERVICES);
        let mut status = 0;
        for _ in 0..TRIES {
            let map = MAP.0.get().cast::<u8>();
            let (mut len, mut key, mut size, mut version) = (MAP_LEN, 0, 0, 0);
            status = get_map(&mut len, map.cast(), &mut key, &mut size, &mut version);
            if status != 0 {
                return status;
            }
            status = exit(image, key);
            if status == 0 {
                let ram = ranges(map, len, size);
                *INFO.lock() = Some(BootInfo::from_efi(passed, ram, tree));
                leave_efi();
            }
        }
        status
    }
}

/// Returns the ranges of a memory map that are free.
///
/// # Safety
///
/// `map` has `len` bytes of descriptors of `size` bytes.
unsafe fn ranges(map: *const u8, len: usize, size: usize) -> Ranges {
    let mut ram = Ranges::new();
    let (mut start, mut end) = (0u64, 0u64);
    for at in (0..len / size.max(1)).map(|index| index * size) {
        // SAFETY: by the contract of this function. §7.2, EFI_MEMORY_DESCRIPTOR
        let (kind, from, pages): (u32, u64, u64) =
            unsafe { (field(map, at), field(map, at + 8), field(map, at + 24)) };
        if !FREE.contains(&kind) {
            continue;
        }
        // The map is in the order of addresses, in many small parts.
        if from != end {
            if start < end {
                ram.add(start, end);
            }
            start = from;
        }
        end = from.saturating_add(pages.saturating_mul(4096));
    }
    if start < end {
        ram.add(start, end);
    }
    ram
}

/// Returns the address of a configuration table.
///
/// # Safety
///
/// `system` is UEFI's table.
unsafe fn table(system: *const u8, which: Guid) -> Option<u64> {
    // SAFETY: by the contract of this function.
    unsafe {
        let (count, tables): (usize, *const u8) = (field(system, TABLE_COUNT), field(system, TABLES));
        let mut entries = (0..count).map(|index| tables.add(index * 24));
        let found = entries.find(|entry| field::<Guid>(*entry, 0) == which)?;
        Some(field(found, 16))
    }
}

/// Returns the options of the image, which are text in 16-bit characters, as bytes; others than ASCII make it invalid.
///
/// # Safety
///
/// `services` is UEFI's table, and `image` the handle of this image.
unsafe fn command_line(image: *mut c_void, services: *const u8) -> &'static [u8] {
    // SAFETY: by the contract of this function; the buffer is written once.
    unsafe {
        let handle: HandleProtocol = field(services, HANDLE_PROTOCOL);
        let mut loaded: *const u8 = core::ptr::null();
        if handle(image, &LOADED_IMAGE, &mut loaded) != 0 || loaded.is_null() {
            return &[];
        }
        let (len, options): (u32, *const u8) = (field(loaded, OPTIONS_LEN), field(loaded, OPTIONS));
        let into = COMMAND_LINE.0.get().cast::<u8>();
        let mut count = 0;
        while count < COMMAND_LINE_LEN.min(len as usize / 2) && !options.is_null() {
            let character: u16 = field(options, count * 2);
            if character == 0 {
                break;
            }
            into.add(count).write(u8::try_from(character).ok().filter(u8::is_ascii).unwrap_or(0xff));
            count += 1;
        }
        core::slice::from_raw_parts(into, count)
    }
}

//! Boots a guest: loads its kernel, command line and initrd, and writes its memory map and initial registers.

use crate::acpi;
use crate::machine::HOLE;
use anyhow::{Context, Result, anyhow, bail, ensure};
use kvm_bindings::{kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::bzimage::BzImage;
use linux_loader::loader::elf::{Elf, PvhBootCapability, start_info::*};
use linux_loader::loader::{Cmdline, KernelLoader, load_cmdline};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

const START_INFO: u64 = 0x6000;
const MAP: u64 = 0x7000;
const MODULES: u64 = 0x8000;
const ZERO_PAGE: u64 = 0x9000;
const COMMAND_LINE: u64 = 0x2_0000;
const COMMAND_LINE_LEN: usize = 4096;
const LOW_END: u64 = 0x9_fc00;
const HIGH: u64 = 0x10_0000;
/// The address of the GDT: older kernels reload the segment registers from it.
const DESCRIPTORS: u64 = 0x5000;
/// Linux needs its initrd below 2 GiB.
const INITRD_END: u64 = 2 << 30;
/// Types of memory ranges, the same in both protocols.
const RAM: u32 = 1;
const RESERVED: u32 = 2;

/// The guest to boot.
pub struct Guest<'a> {
    /// An ELF with a PVH note, or a bzImage.
    pub kernel: &'a Path,
    pub initrd: Option<&'a Path>,
    pub command_line: &'a str,
    pub processors: u32,
}

/// The address at which the first processor starts.
#[derive(Clone, Copy, Debug)]
enum Entry {
    /// Xen's protocol. docs/misc/pvh.pandoc
    Pvh(u64),
    /// Linux's 32-bit protocol. Documentation/arch/x86/boot.rst
    Linux(u64),
}

/// Loads `guest` and sets the registers of `first`, the first processor, to its entry point.
///
/// # Errors
///
/// The kernel or the initrd cannot be read, is malformed, or does not fit in memory.
pub fn boot(memory: &GuestMemoryMmap, first: &VcpuFd, guest: &Guest<'_>) -> Result<()> {
    let mut line = Cmdline::new(COMMAND_LINE_LEN)?;
    line.insert_str(guest.command_line)
        .context("the command line is longer than 4096 bytes, or not ASCII")?;
    load_cmdline(memory, GuestAddress(COMMAND_LINE), &line)?;
    let tables = acpi::write(memory, guest.processors)?;
    let path = guest.kernel.display();
    let mut file = File::open(guest.kernel).with_context(|| format!("cannot open {path}"))?;
    check_segments(&mut file, memory).with_context(|| format!("{path} cannot be loaded"))?;
    let initrd = |end: u64| guest.initrd.map(|path| load_initrd(memory, path, end)).transpose();
    let entry = match Elf::load(memory, None, &mut file, None) {
        Ok(kernel) => {
            let PvhBootCapability::PvhEntryPresent(entry) = kernel.pvh_boot_cap else {
                bail!("{path} has no PVH note: add one, or use a bzImage");
            };
            write_start_info(memory, tables, initrd(kernel.kernel_end)?)?;
            Entry::Pvh(entry.0)
        }
        Err(elf) => {
            let loaded = BzImage::load(memory, None, &mut file, Some(GuestAddress(HIGH)));
            let loaded = loaded.map_err(|error| {
                anyhow!("{path} is neither an ELF kernel ({elf}) nor a bzImage ({error})")
            })?;
            let header =
                loaded.setup_header.with_context(|| format!("{path} is a bzImage without a setup header"))?;
            // The kernel decompresses itself to memory up to here.
            let end = loaded.kernel_load.0.max(header.pref_address) + u64::from(header.init_size);
            write_zero_page(memory, tables, initrd(end)?, header)?;
            Entry::Linux(loaded.kernel_load.0)
        }
    };
    // Flat segments of 4 GiB: code at 0x10, data at 0x18, as the Linux protocol requires. Documentation/arch/x86/boot.rst
    let descriptors = [0u64, 0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
    memory.write_slice(&descriptors.map(u64::to_le_bytes).concat(), GuestAddress(DESCRIPTORS))?;
    begin(first, entry)
}

/// Checks where the segments of an ELF kernel would be loaded; other files are not judged here.
fn check_segments(file: &mut File, memory: &GuestMemoryMmap) -> Result<()> {
    const MACHINE_X86_64: u16 = 62;
    const LOAD: u32 = 1;
    let mut head = [0; 64];
    let is_elf = file.read_exact(&mut head).is_ok() && head.starts_with(b"\x7fELF");
    file.rewind()?;
    if !is_elf {
        return Ok(());
    }
    let half = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    ensure!(head[4] == 2 && half(18) == MACHINE_X86_64, "it is not a 64-bit ELF file for x86-64");
    let mut table = [0; 8];
    table.copy_from_slice(&head[32..40]);
    let (first, len, count) = (u64::from_le_bytes(table), u64::from(half(54)), u64::from(half(56)));
    for number in 0..count {
        let mut entry = [0; 56];
        let at = first.checked_add(number * len).context("its program headers are beyond its end")?;
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut entry).context("it is cut off")?;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&entry[at..at + 8]);
            u64::from_le_bytes(word)
        };
        if word(0) as u32 != LOAD || word(40) == 0 {
            continue;
        }
        let (start, end) = (word(24), word(24).checked_add(word(40)));
        ensure!(start >= HIGH, "a segment is to be loaded at {start:#x}: link it at 1 MiB or above");
        let fits = end.is_some_and(|end| memory.address_in_range(GuestAddress(end - 1)));
        ensure!(fits, "a segment at {start:#x} does not fit in memory: use a larger --memory");
    }
    file.rewind()?;
    Ok(())
}

/// Loads the initrd at the end of low memory, after a kernel that ends at `end`; returns its address and length.
fn load_initrd(memory: &GuestMemoryMmap, path: &Path, end: u64) -> Result<(u64, u64)> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let low = memory.iter().next().context("no memory")?.last_addr().0 + 1;
    let at = low.min(HOLE).min(INITRD_END).checked_sub(bytes.len() as u64).map(|at| at & !0xfff);
    let at = at
        .filter(|at| *at > end.max(HIGH))
        .with_context(|| format!("{} does not fit in memory: use a larger --memory", path.display()))?;
    memory.write_slice(&bytes, GuestAddress(at))?;
    Ok((at, bytes.len() as u64))
}

/// Returns the memory map: first address, end address (exclusive), type.
fn map(memory: &GuestMemoryMmap) -> Vec<(u64, u64, u32)> {
    let mut map = vec![(0, LOW_END, RAM), (acpi::TABLES, HIGH, RESERVED)];
    map.extend(
        memory
            .iter()
            .map(|region| (region.start_addr().0.max(HIGH), region.last_addr().unchecked_add(1).0, RAM)),
    );
    map
}

/// Writes the start info of PVH. `tables` is the address of the RSDP.
fn write_start_info(memory: &GuestMemoryMmap, tables: u64, initrd: Option<(u64, u64)>) -> Result<()> {
    let map: Vec<_> = map(memory)
        .into_iter()
        .map(|(addr, end, type_)| hvm_memmap_table_entry { addr, size: end - addr, type_, reserved: 0 })
        .collect();
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: 1,
        cmdline_paddr: COMMAND_LINE,
        rsdp_paddr: tables,
        memmap_paddr: MAP,
        memmap_entries: map.len() as u32,
        modlist_paddr: if initrd.is_some() { MODULES } else { 0 },
        nr_modules: u32::from(initrd.is_some()),
        ..Default::default()
    };
    let mut parameters = BootParams::new(&info, GuestAddress(START_INFO));
    parameters.set_sections(&map, GuestAddress(MAP));
    if let Some((paddr, size)) = initrd {
        let module = hvm_modlist_entry { paddr, size, ..Default::default() };
        parameters.set_modules(&[module], GuestAddress(MODULES));
    }
    Ok(PvhBootConfigurator::write_bootparams(&parameters, memory)?)
}

/// Writes the zero page of the Linux protocol. `tables` is the address of the RSDP.
fn write_zero_page(
    memory: &GuestMemoryMmap,
    tables: u64,
    initrd: Option<(u64, u64)>,
    header: linux_loader::loader::bootparam::setup_header,
) -> Result<()> {
    let mut parameters = boot_params { hdr: header, acpi_rsdp_addr: tables, ..Default::default() };
    // A loader without an assigned number.
    parameters.hdr.type_of_loader = 0xff;
    parameters.hdr.cmd_line_ptr = COMMAND_LINE as u32;
    if let Some((at, len)) = initrd {
        (parameters.hdr.ramdisk_image, parameters.hdr.ramdisk_size) = (at as u32, len as u32);
    }
    let map = map(memory);
    ensure!(map.len() <= parameters.e820_table.len(), "too many memory ranges for the zero page");
    for (entry, (addr, end, kind)) in parameters.e820_table.iter_mut().zip(&map) {
        *entry = boot_e820_entry { addr: *addr, size: end - addr, r#type: *kind };
    }
    parameters.e820_entries = map.len() as u8;
    let parameters = BootParams::new(&parameters, GuestAddress(ZERO_PAGE));
    Ok(LinuxBootConfigurator::write_bootparams(&parameters, memory)?)
}

/// Sets the registers for entry in 32-bit protected mode without paging.
fn begin(processor: &VcpuFd, entry: Entry) -> Result<()> {
    let mut special = processor.get_sregs()?;
    let flat = kvm_segment {
        limit: u32::MAX,
        selector: 0x18,
        type_: 3,
        present: 1,
        s: 1,
        db: 1,
        g: 1,
        ..Default::default()
    };
    (special.ds, special.es, special.ss, special.fs, special.gs) = (flat, flat, flat, flat, flat);
    special.cs = kvm_segment { selector: 0x10, type_: 0xb, ..flat };
    (special.gdt.base, special.gdt.limit) = (DESCRIPTORS, 31);
    special.tr = kvm_segment { limit: 0x67, selector: 0, type_: 0xb, present: 1, ..Default::default() };
    (special.cr0, special.cr4, special.efer) = (0x11, 0, 0);
    processor.set_sregs(&special)?;
    let mut registers = kvm_regs { rflags: 2, ..Default::default() };
    match entry {
        Entry::Pvh(at) => (registers.rip, registers.rbx) = (at, START_INFO),
        Entry::Linux(at) => (registers.rip, registers.rsi) = (at, ZERO_PAGE),
    }
    Ok(processor.set_regs(&registers)?)
}

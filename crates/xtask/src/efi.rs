//! Makes an application of UEFI from the kernel's ELF file for 64-bit ARM. UEFI Specification §2.1.1; Microsoft, PE Format

use crate::tools;
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// Headers and the alignment of the one section, of code and data.
const HEADERS: u32 = 0x1000;
const ELF_ARM64: u16 = 183;
const MACHINE_ARM64: u16 = 0xaa64;
/// An executable image; a program of 64 bits, and an application of UEFI.
const EXECUTABLE: u16 = 0x0002;
const PE32_PLUS: u16 = 0x020b;
const APPLICATION: u16 = 10;
/// Code and data, that are read, written and executed.
const SECTION: u32 = 0xe000_0060;
/// The entry for UEFI is the second instruction of the kernel.
const ENTRY: u32 = HEADERS + 4;

/// Returns the path of UEFI for QEMU's machine `virt` of 64-bit ARM; installs it if it is not there.
pub fn firmware() -> Result<&'static str> {
    const PATH: &str = "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd";
    tools::need_all(&[], &[(PATH, "qemu-efi-aarch64")])?;
    Ok(PATH)
}

/// Writes the application of the kernel at `elf` to `to`.
pub fn write(elf: &Path, to: &Path) -> Result<()> {
    let bytes = std::fs::read(elf).with_context(|| format!("cannot read {}", elf.display()))?;
    let (image, len) = flatten(&bytes).with_context(|| format!("{} is no kernel", elf.display()))?;
    let mut file = headers(image.len() as u32, len);
    file.extend(image);
    std::fs::write(to, file).with_context(|| format!("cannot write {}", to.display()))
}

/// Returns the bytes of the loaded segments, up to the last that the file has, and the length in memory, both in whole pages.
fn flatten(elf: &[u8]) -> Result<(Vec<u8>, u32)> {
    let long = |at: usize| {
        let bytes = elf.get(at..at + 8).context("it is too short")?;
        anyhow::Ok(u64::from_le_bytes(bytes.try_into()?))
    };
    ensure!(elf.starts_with(b"\x7fELF\x02\x01"), "it is no ELF file of 64 bits");
    let (entry, machine) = (long(24)?, long(18)? as u16);
    ensure!(machine == ELF_ARM64, "it is for another processor than aarch64");
    let (table, count) = (long(32)? as usize, long(54)? as usize >> 16 & 0xffff);
    let (mut image, mut start, mut end) = (vec![], None, 0);
    for header in (0..count).map(|index| table + index * 56) {
        if long(header)? as u32 != 1 {
            continue;
        }
        let (offset, address, in_file, in_memory) =
            (long(header + 8)? as usize, long(header + 24)?, long(header + 32)? as usize, long(header + 40)?);
        let first = *start.get_or_insert(address);
        ensure!(entry == first, "its entry is not its first instruction");
        let at = address.checked_sub(first).context("its segments are not in order")? as usize;
        ensure!(at >= image.len(), "its segments overlap");
        let bytes = elf.get(offset..offset.saturating_add(in_file)).context("a segment is cut off")?;
        image.resize(at, 0);
        image.extend(bytes);
        end = at as u64 + in_memory;
    }
    ensure!(end < 1 << 30, "it has {end} bytes");
    image.resize(image.len().next_multiple_of(HEADERS as usize), 0);
    Ok((image, (end as u32).next_multiple_of(HEADERS)))
}

/// The headers of an image of `raw` bytes that has `len` bytes in memory.
fn headers(raw: u32, len: u32) -> Vec<u8> {
    let mut out = vec![];
    let mut half = |values: &[u16]| values.iter().for_each(|value| out.extend(value.to_le_bytes()));
    let split = |value: u32| [value as u16, (value >> 16) as u16];
    // The header of DOS: its mark, and where the other begins.
    half(&[0x5a4d]);
    half(&[0; 29]);
    half(&split(0x40));
    // The mark, the machine, one section, no symbols, the length of what follows, what it is.
    half(&[0x4550, 0, MACHINE_ARM64, 1, 0, 0, 0, 0, 0, 0, 112 + 16 * 8, EXECUTABLE]);
    // Linker version, lengths of code and data, entry, base of code.
    half(&[PE32_PLUS, 0]);
    for value in [len, 0, 0, ENTRY, HEADERS] {
        half(&split(value));
    }
    // The address of the image: any. Alignment in memory and in the file, versions.
    half(&[0; 4]);
    half(&[HEADERS as u16, 0, HEADERS as u16, 0]);
    half(&[0; 8]);
    for value in [HEADERS + len, HEADERS, 0] {
        half(&split(value));
    }
    half(&[APPLICATION, 0]);
    // Stack and heap, and 16 directories, which are empty.
    half(&[0; 18]);
    half(&split(16));
    half(&[0; 64]);
    // The section.
    half(&[
        u16::from_le_bytes(*b".k"),
        u16::from_le_bytes(*b"er"),
        u16::from_le_bytes(*b"ne"),
        u16::from_le_bytes(*b"l\0"),
    ]);
    for value in [len, HEADERS, raw, HEADERS, 0, 0, 0, SECTION] {
        half(&split(value));
    }
    out.resize(HEADERS as usize, 0);
    out
}

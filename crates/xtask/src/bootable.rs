//! `cargo xtask image`: makes disk images that boot the kernel by BIOS (Hyper-V generation 1) and by UEFI (generation 2).
//!
//! A GPT disk boots both ways. The first block and the BIOS boot partition hold GRUB for BIOS; the EFI system partition holds GRUB
//! for UEFI, the kernel, and `grub.cfg`, which both use. UEFI Specification §5; GNU GRUB manual §4.5

use crate::scratch::Scratch;
use crate::{kernel, tools};
use anyhow::{Context, Result, ensure};
use clap::Args;
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use fscommon::StreamSlice;
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::{GptConfig, partition_types};
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

const SECTOR: u64 = 512;
/// The size of the disk, a whole number of MiB, which Azure requires.
const LEN: u64 = 64 << 20;
/// The first block of the BIOS boot partition.
const CORE: u64 = 2048;
/// The first block of the EFI system partition.
const ESP: u64 = 4096;
const ESP_BLOCKS: u64 = LEN / SECTOR - ESP - 2048;
const GRUB: &str = "/usr/lib/grub";
const MODULES: &[&str] = &["part_gpt", "fat", "multiboot2", "normal", "boot", "serial", "terminal"];

#[derive(Args)]
pub struct Options {
    /// The kernel's command line
    #[arg(long, default_value = "list", value_name = "OPTIONS")]
    args: String,
    /// Folder for the images; the default is target/
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

pub fn run(options: &Options) -> Result<()> {
    configuration(&options.args)?;
    let folder = options.out.clone().unwrap_or_else(|| tools::root().join("target"));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let kernel = kernel::build()?;
    // One at a time; and the images get their names when they are complete.
    let lock = File::create(folder.join(".paravirt-image.lock"));
    let lock = lock.with_context(|| format!("cannot write in {}", folder.display()))?;
    lock.lock()?;
    let unfinished = Scratch::new_in(&folder)?;
    make(&kernel, &options.args, unfinished.path())?;
    for name in ["elf", "raw", "vhd", "vhdx"] {
        let name = format!("paravirt.{name}");
        let path = folder.join(&name);
        let renamed = fs::rename(unfinished.path().join(&name), &path);
        renamed.with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

/// Makes the images of the kernel at `elf` in `folder`.
pub fn make(elf: &Path, words: &str, folder: &Path) -> Result<()> {
    tools::need_all(
        &[("grub-mkimage", "grub-common"), ("qemu-img", "qemu-utils"), ("strip", "binutils")],
        &[
            (&format!("{GRUB}/i386-pc/boot.img"), "grub-pc-bin"),
            (&format!("{GRUB}/x86_64-efi/multiboot2.mod"), "grub-efi-amd64-bin"),
        ],
    )?;
    let file = |name: &str| folder.join(format!("paravirt.{name}"));
    // GRUB would load debug sections, too.
    tools::run(Command::new("strip").arg("-o").arg(file("elf")).arg(elf))?;
    let image = file("raw");
    let disk = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&image);
    let written = || format!("cannot write {}", image.display());
    let disk = disk.with_context(written)?;
    disk.set_len(LEN).with_context(written)?;
    partition(disk.try_clone()?).with_context(written)?;
    let bios = grub("i386-pc", "(,gpt2)/boot/grub", &["biosdisk"], folder)?;
    embed(&disk, &bios).with_context(written)?;
    let uefi = grub("x86_64-efi", "/boot/grub", &[], folder)?;
    let contents = [
        ("EFI/BOOT/BOOTX64.EFI", uefi),
        ("boot/paravirt.elf", fs::read(file("elf"))?),
        ("boot/grub/grub.cfg", configuration(words)?.into_bytes()),
    ];
    fill(disk, &contents).with_context(written)?;
    let convert = |format: &str, options: &str, to: &str| {
        let mut command = Command::new("qemu-img");
        command
            .args(["convert", "-S", "0", "-f", "raw", "-O", format, "-o", options])
            .arg(&image)
            .arg(file(to));
        tools::run(&mut command)
    };
    // Azure requires the exact size, not one rounded to cylinders; Hyper-V requires a file without holes.
    convert("vpc", "subformat=fixed,force_size=on", "vhd")?;
    convert("vhdx", "subformat=dynamic", "vhdx")
}

/// Returns `grub.cfg`: it loads the kernel with command line `words`, with the serial port as the terminal.
fn configuration(words: &str) -> Result<String> {
    ensure!(
        !words.contains(['\'', '"', '\\', '\n']) && words.is_ascii(),
        "--args must be ASCII without quotation marks, backslashes and newlines, which GRUB would change"
    );
    let words: Vec<String> = words.split_whitespace().map(|word| format!("'{word}'")).collect();
    Ok(format!(
        "serial --unit=0 --speed=115200\nterminal_input serial\nterminal_output serial\nset gfxpayload=text\n\
         multiboot2 /boot/paravirt.elf {}\nboot\n",
        words.join(" ")
    ))
}

/// Builds a GRUB core image with the modules that it needs.
fn grub(format: &str, prefix: &str, more: &[&str], folder: &Path) -> Result<Vec<u8>> {
    let file = folder.join(format!("grub.{format}"));
    let mut command = Command::new("grub-mkimage");
    command.args(["-O", format, "-p", prefix, "-o"]).arg(&file).args(more).args(MODULES);
    tools::run(&mut command)?;
    let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
    Ok(bytes)
}

/// Writes the partition table: the BIOS boot partition and the EFI system partition.
fn partition(mut disk: File) -> Result<()> {
    let blocks = u32::try_from(LEN / SECTOR - 1).context("the disk is too large for a protective MBR")?;
    ProtectiveMBR::with_lb_size(blocks).overwrite_lba0(&mut disk)?;
    let mut table = GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(disk, None)?;
    table.add_partition_at("BIOS boot", 1, CORE, ESP - CORE, partition_types::BIOS, 0)?;
    table.add_partition_at("EFI system", 2, ESP, ESP_BLOCKS, partition_types::EFI, 0)?;
    table.write()?;
    Ok(())
}

/// Writes GRUB for BIOS to the first block and the BIOS boot partition, with the block numbers by which it finds itself. The offsets
/// are those of GRUB's `boot.S` and `diskboot.S`.
fn embed(mut disk: &File, core: &[u8]) -> Result<()> {
    const BOOT_CODE: usize = 440;
    const BOOT_BLOCK: std::ops::Range<usize> = 0x5c..0x64;
    /// A jump, which is replaced by `nop`, so that GRUB does not use the drive number of the firmware.
    const BOOT_DRIVE_CHECK: std::ops::Range<usize> = 0x66..0x68;
    const NOP: u8 = 0x90;
    const LIST_BLOCK: std::ops::Range<usize> = 0x1f4..0x1fc;
    const LIST_COUNT: std::ops::Range<usize> = 0x1fc..0x1fe;
    let mut boot = fs::read(format!("{GRUB}/i386-pc/boot.img"))?;
    let blocks = (core.len() as u64).div_ceil(SECTOR);
    ensure!(boot.len() as u64 == SECTOR && blocks <= ESP - CORE, "GRUB's images have unexpected sizes");
    boot[BOOT_BLOCK].copy_from_slice(&CORE.to_le_bytes());
    boot[BOOT_DRIVE_CHECK].fill(NOP);
    let mut core = core.to_vec();
    core[LIST_BLOCK].copy_from_slice(&(CORE + 1).to_le_bytes());
    core[LIST_COUNT].copy_from_slice(&(blocks as u16 - 1).to_le_bytes());
    disk.seek(SeekFrom::Start(0))?;
    disk.write_all(&boot[..BOOT_CODE])?;
    disk.seek(SeekFrom::Start(CORE * SECTOR))?;
    disk.write_all(&core)?;
    Ok(())
}

/// Formats the EFI system partition and writes the files to it.
fn fill(disk: File, contents: &[(&str, Vec<u8>)]) -> Result<()> {
    let (begin, end) = (ESP * SECTOR, (ESP + ESP_BLOCKS) * SECTOR);
    let mut part = StreamSlice::new(disk, begin, end)?;
    // The specification requires FAT32 for a fixed disk. FAT32 has a minimum number of clusters, so they are small.
    let format = FormatVolumeOptions::new().fat_type(FatType::Fat32).bytes_per_cluster(SECTOR as u32);
    format_volume(&mut part, format.volume_label(*b"PARAVIRT   "))?;
    part.seek(SeekFrom::Start(0))?;
    let files = FileSystem::new(part, FsOptions::new())?;
    for (name, content) in contents {
        let mut folder = files.root_dir();
        let mut parts = name.split('/').peekable();
        while let Some(part) = parts.next() {
            match parts.peek() {
                Some(_) => folder = folder.create_dir(part)?,
                None => folder.create_file(part)?.write_all(content)?,
            }
        }
    }
    files.unmount()?;
    Ok(())
}

//! QEMU as Xen's first domain runs it, from Debian's packages: the emulated devices of guests with a BIOS, and a backend of disks.

use super::archive::Archive;
use super::build::{add_program_with, library_folders, unpack};
use super::xen::find;
use crate::tools;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package, and the program in it.
const PACKAGE: &str = "qemu-system-xen";
const PROGRAM: &str = "usr/libexec/xen-qemu-system-i386";
/// Files of QEMU and of its firmware, which are installed with QEMU for PCs.
const FIRMWARE: &[&str] = &[
    "seabios/bios-256k.bin",
    "seabios/vgabios-stdvga.bin",
    "qemu/kvmvapic.bin",
    "qemu/linuxboot_dma.bin",
    "qemu/multiboot.bin",
    "qemu/pvh.bin",
    "qemu/keymaps/en-us",
];

/// The package and the file with the boot ROM of the card that it emulates unless told otherwise.
const ROMS: &str = "ipxe-qemu";
const ROM: &str = "usr/lib/ipxe/qemu/efi-rtl8139.rom";

/// The packages that are not installed here and that the program needs.
fn packages() -> Result<Vec<String>> {
    let simulate = || {
        let mut command = Command::new("apt-get");
        tools::output(command.args(["install", "--simulate", "--no-install-recommends", PACKAGE]))
    };
    let text = match simulate() {
        Some(text) => text,
        None => {
            tools::update()?;
            simulate().with_context(|| format!("apt has no package {PACKAGE} that can be installed"))?
        }
    };
    let names = text.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next());
    let mut names: Vec<String> = names.map(String::from).filter(|name| name != PACKAGE).collect();
    names.push(PACKAGE.into());
    Ok(names)
}

/// Builds the archive in `folder` that is appended to the first file system of the first domain, unless it is there. The caller holds the
/// lock of the folder.
pub fn build(folder: &Path, hypervisor_utilities: &str) -> Result<PathBuf> {
    let (file, stamp) = (folder.join("device-model"), folder.join("device-model.stamp"));
    let parts = format!("{PROGRAM} {FIRMWARE:?} {ROM} {hypervisor_utilities}");
    if file.is_file() && fs::read_to_string(&stamp).is_ok_and(|old| old == parts) {
        return Ok(file);
    }
    let _ = fs::remove_file(&stamp);
    let all = folder.join("packages");
    let _ = fs::remove_dir_all(&all);
    fs::create_dir_all(&all)?;
    let mut roots = packages()?.iter().map(|name| unpack(&all, name)).collect::<Result<Vec<_>>>()?;
    let utilities = unpack(&all, hypervisor_utilities)?;
    let libraries = library_folders(&roots);
    let mut archive = Archive::default();
    let root = roots.pop().context("there is no package")?;
    add_program_with(&mut archive, PROGRAM, &root.join(PROGRAM), &libraries)?;
    for name in FIRMWARE {
        archive.copy(&format!("usr/share/{name}"), &Path::new("/usr/share").join(name))?;
    }
    let loader =
        find(&utilities, &|name| name == "hvmloader").context("the package of utilities has no hvmloader")?;
    let place = loader.strip_prefix(&utilities)?.display().to_string();
    archive.copy(&place, &loader)?;
    archive.copy(ROM, &unpack(&all, ROMS)?.join(ROM))?;
    fs::write(&file, archive.finish())?;
    fs::write(&stamp, parts)?;
    fs::remove_dir_all(all)?;
    Ok(file)
}

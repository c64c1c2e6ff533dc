//! The disk images that `cargo xtask image` makes, booted by BIOS and by UEFI.

use super::hyperv::number;
use super::{Bench, DISK1, Outcome, must_contain};
use crate::bootable;
use crate::guest::{Machine, Monitor};
use crate::scratch::Scratch;
use crate::{image, tools};
use anyhow::{Result, ensure};
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

pub const CASES: &[(&str, super::Special)] = &[("image: raw, VHD and VHDX by BIOS and by UEFI", boots)];

/// The formats: QEMU's name and the file extension.
const FORMATS: [(&str, &str); 3] = [("raw", "raw"), ("vpc", "vhd"), ("vhdx", "vhdx")];
/// The UEFI firmware of package `ovmf`.
const OVMF: &str = "/usr/share/ovmf/OVMF.fd";

/// Checks that a file is a fixed VHD whose size is a multiple of 1 MiB. Virtual Hard Disk Image Format, hard disk footer format
fn must_be_fixed(path: &Path) -> Result<()> {
    let bytes = fs::read(path)?;
    let footer = &bytes[bytes.len() - 512..];
    let size = u64::from_be_bytes(footer[48..56].try_into()?);
    let is_fixed = &footer[..8] == b"conectix" && u32::from_be_bytes(footer[60..64].try_into()?) == 2;
    ensure!(
        is_fixed && bytes.len() as u64 == size + 512 && size % (1 << 20) == 0,
        "not a fixed VHD of whole MiB: {size} bytes"
    );
    Ok(())
}

fn boots(bench: &Bench) -> Result<Outcome> {
    tools::need_all(&[], &[(OVMF, "ovmf")])?;
    let scratch = Scratch::new()?;
    let folder = scratch.path();
    let (disk0, disk1) = (folder.join("disk0.img"), folder.join("disk1.img"));
    fs::copy(&bench.ext4, &disk0)?;
    let work = |mount: u8| format!("list mount=disk{mount} test=disk{} dhcp ping", mount + 1);
    let mut same: Option<Vec<String>> = None;
    for firmware in ["", OVMF] {
        // The kernel has a driver for the boot disk on UEFI (virtio), so that the image is disk0 there.
        let first = if firmware.is_empty() { 0 } else { 1 };
        bootable::make(&bench.kernel, &work(first), folder)?;
        must_be_fixed(&folder.join("paravirt.vhd"))?;
        for (format, end) in FORMATS {
            let name = if firmware.is_empty() { "pc" } else { "q35" };
            File::create(&disk1)?.set_len(DISK1)?;
            // One case has memory above 4 GiB, which is a separate range.
            let memory = if format == "raw" && !firmware.is_empty() { "5G" } else { "256M" };
            let mut machine = Machine::new(&bench.kernel, name, 2, memory);
            machine.monitor = Monitor::QemuDisk;
            machine.timeout = Duration::from_secs(400);
            // As on Hyper-V, ACPI is the only way to power off.
            let at = machine.arguments.iter().position(|word| word.starts_with("isa-debug-exit"));
            at.map(|at| machine.arguments.drain(at - 1..=at));
            if !firmware.is_empty() {
                machine.add(&format!("-bios {firmware}"));
            }
            let image = folder.join(format!("paravirt.{end}"));
            machine
                .add(&format!("-drive file={},if=none,id=boot,format={format},snapshot=on", image.display()));
            // Generation 1 boots from IDE.
            let boot = if firmware.is_empty() { "ide-hd" } else { "virtio-blk-pci" };
            machine.add(&format!("-device {boot},drive=boot,bootindex=0"));
            machine.drive("d0", &disk0, ",readonly=on").drive("d1", &disk1, ",discard=unmap");
            machine.add("-device virtio-blk-pci,drive=d0 -device virtio-blk-pci,drive=d1");
            machine.add("-netdev user,id=n0 -device virtio-net-pci,netdev=n0");
            let transcript = machine.run(|_| ())?;
            ensure!(
                transcript.ended == Some(0) && transcript.lines.iter().any(|line| line == "exit=0"),
                "the guest did not power off:\n{}",
                transcript.text()
            );
            let ram = number(&transcript, "kernel=paravirt", "ram")?;
            ensure!(ram > 4 << 30 || memory != "5G", "the kernel found only {ram} bytes of RAM");
            must_contain(&transcript, "kernel=paravirt entry=multiboot2 processors=2")?;
            for line in image::expected_files(&bench.tree)? {
                must_contain(&transcript, &line)?;
            }
            image::check_pattern(&disk1, DISK1)?;
            let printed: Vec<String> = transcript.same().into_iter().map(String::from).collect();
            let first = same.get_or_insert_with(|| printed.clone());
            ensure!(*first == printed, "the output on {name} differs:\n{}", transcript.text());
        }
    }
    Ok(Outcome::Passed)
}

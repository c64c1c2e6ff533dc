//! The disk images that `cargo xtask image` makes, by the firmware of PCs and of UEFI.

use super::{Bench, DISK1, Outcome, must_end, must_say};
use crate::bootable;
use crate::guest::{Machine, Monitor};
use crate::scratch::Scratch;
use crate::{image, tools};
use anyhow::{Result, ensure};
use std::fs::{self, File};
use std::time::Duration;

pub const CASES: &[(&str, super::Special)] = &[("image: raw, VHD and VHDX by BIOS and by UEFI", boots)];

/// How QEMU calls the formats, and the ends of the names.
const FORMATS: [(&str, &str); 3] = [("raw", "raw"), ("vpc", "vhd"), ("vhdx", "vhdx")];
/// UEFI for QEMU, of the package `ovmf`.
const OVMF: &str = "/usr/share/ovmf/OVMF.fd";

fn boots(bench: &Bench) -> Result<Outcome> {
    tools::need_file(OVMF, "ovmf")?;
    let scratch = Scratch::new()?;
    let folder = scratch.path();
    let (disk0, disk1) = (folder.join("disk0.img"), folder.join("disk1.img"));
    fs::copy(&bench.ext4, &disk0)?;
    File::create(&disk1)?.set_len(DISK1)?;
    let work = |mount: u8| format!("list mount=disk{mount} test=disk{} dhcp ping", mount + 1);
    let mut same: Option<Vec<String>> = None;
    for firmware in ["", OVMF] {
        // Where the kernel drives it, the image itself is the first disk.
        let first = if firmware.is_empty() { 0 } else { 1 };
        bootable::make(&bench.kernel, &work(first), folder)?;
        for (format, end) in FORMATS {
            let name = if firmware.is_empty() { "pc" } else { "q35" };
            let mut machine = Machine::new(&bench.kernel, name, 2, "256M");
            machine.monitor = Monitor::QemuDisk;
            machine.timeout = Duration::from_secs(120);
            if firmware.is_empty() {
                // As generation 1 has it: an IDE disk, and nothing to end by but ACPI.
                let at = machine.arguments.iter().position(|word| word.starts_with("isa-debug-exit"));
                at.map(|at| machine.arguments.drain(at - 1..=at));
            } else {
                machine.add(&format!("-bios {firmware}"));
            }
            let image = folder.join(format!("paravirt.{end}"));
            machine
                .add(&format!("-drive file={},if=none,id=boot,format={format},snapshot=on", image.display()));
            let boot = if firmware.is_empty() { "ide-hd" } else { "virtio-blk-pci" };
            machine.add(&format!("-device {boot},drive=boot,bootindex=0"));
            machine.drive("d0", &disk0, ",readonly=on").drive("d1", &disk1, ",discard=unmap");
            machine.add("-device virtio-blk-pci,drive=d0 -device virtio-blk-pci,drive=d1");
            machine.add("-netdev user,id=n0 -device virtio-net-pci,netdev=n0");
            let transcript = machine.run(|_| ())?;
            if firmware.is_empty() {
                ensure!(
                    transcript.ended == Some(0) && transcript.lines.iter().any(|line| line == "exit=0"),
                    "it did not switch off:\n{}",
                    transcript.text()
                );
            } else {
                must_end(&transcript, 0)?;
            }
            must_say(&transcript, "kernel=paravirt entry=multiboot2 processors=2")?;
            for line in image::expected_files(&bench.tree)? {
                must_say(&transcript, &line)?;
            }
            image::check_pattern(&disk1, DISK1)?;
            let said: Vec<String> = transcript.same().into_iter().map(String::from).collect();
            let first = same.get_or_insert_with(|| said.clone());
            ensure!(*first == said, "by {name} it says something else:\n{}", transcript.text());
        }
    }
    Ok(Outcome::Passed)
}

//! Odd machines: no interrupts, too few vectors, lines that are bound again, queues that cannot be reset alone, disks by name, a command
//! line that is too long, more memory than the kernel uses.

use super::{Bench, DISK1, Outcome, Special, must_contain, must_end, must_fit_the_stack};
use crate::guest::Machine;
use crate::toolchains::Processor;
use crate::{efi, kernel, toolchains};
use anyhow::{Result, ensure};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

pub(super) const CASES: &[(&str, Special)] = &[
    ("PCI without any interrupt", Bench::no_interrupts),
    ("fourteen disks with sixteen queues each", Bench::many_queues),
    ("line interrupts that are bound again", Bench::lines_again),
    ("two queues that cannot be reset alone", Bench::no_queue_reset),
    ("disks by serial number and by address", Bench::disk_names),
    ("a PCI bus of the kernel's own", Bench::own_bus),
    ("the stack that the search for devices takes", Bench::stack),
    ("aarch64: behind a bridge to conventional PCI", Bench::conventional),
    ("the small kernel, on PCI and MMIO", Bench::minimal),
    ("aarch64: by UEFI, with ACPI and without", Bench::arm_efi),
    ("aarch64: the small kernel, on PCI and MMIO", Bench::arm_minimal),
    ("a command line that is too long", Bench::long_command_line),
    ("more memory than the kernel uses", Bench::much_memory),
];

/// Runs the small kernel with `disk` and a card, both on `bus`, and checks what it prints.
fn minimal_on(mut machine: Machine, disk: &Path, bus: &str) -> Result<()> {
    machine.drive("d0", disk, "").add("-netdev user,id=n0");
    machine.add(&format!("-device virtio-blk-{bus},drive=d0 -device virtio-net-{bus},netdev=n0"));
    let transcript = machine.run(|_| ())?;
    must_end(&transcript, 0)?;
    must_contain(&transcript, &format!("disk blocks={} first=512", DISK1 / 512))?;
    must_contain(&transcript, "gateway mac=52:55:0a:00:02:02")
}

impl Bench {
    /// PCI functions without MSI-X on a machine whose PCI has no lines: everything is polled, and nothing sleeps for good.
    fn no_interrupts(&self) -> Result<Outcome> {
        let mut machine = self.machine("microvm,acpi=on,pcie=on", 2);
        machine.drive("d0", &self.ext4, ",readonly=on");
        machine.add("-device virtio-blk-pci,drive=d0,vectors=0");
        machine.add("-netdev user,id=n0 -device virtio-net-pci,netdev=n0,vectors=0");
        machine.command_line =
            format!("list mount=disk0 dhcp http=http://10.0.2.2:{}/large.bin reconnect=3", self.port);
        let transcript = machine.run(|_| ())?;
        must_end(&transcript, 0)?;
        for device in ["device=disk0 at", "device=net0 at"] {
            ensure!(transcript.value(device, "signalling") == Some("polled"), "{}", transcript.text());
        }
        must_contain(&transcript, "same http=/large.bin status=200")?;
        // Registers above 4 GiB are not mapped anew each time.
        must_contain(&transcript, "reconnect=3 devices=3 different=0 lost_pages=0")?;
        Ok(Outcome::Passed)
    }

    fn many_queues(&self) -> Result<Outcome> {
        let mut machine = self.machine("q35", 2);
        for disk in 0..13 {
            machine.add(&format!(
                "-blockdev driver=null-co,node-name=n{disk},size=1048576,read-zeroes=on \
                 -device virtio-blk-pci,drive=n{disk},num-queues=16"
            ));
        }
        machine.drive("d0", &self.ext4, ",readonly=on");
        machine.add("-device virtio-blk-pci,drive=d0,num-queues=16");
        machine.command_line = "list queues=16 mount=disk13 bench".into();
        let transcript = machine.run(|_| ())?;
        must_end(&transcript, 0)?;
        let signalling = |disk| transcript.value(&format!("device=disk{disk} at"), "signalling");
        ensure!(
            signalling(0) == Some("messages") && signalling(13) == Some("shared-messages"),
            "{}",
            transcript.text()
        );
        must_contain(&transcript, "mount=disk13")?;
        Ok(Outcome::Passed)
    }

    fn lines_again(&self) -> Result<Outcome> {
        for (kind, device, properties) in
            [("q35", "virtio-blk-pci", ",vectors=0"), ("microvm,acpi=on", "virtio-blk-device", "")]
        {
            let mut machine = self.machine(kind, 1);
            machine.drive("d0", &self.ext4, ",readonly=on");
            if device.ends_with("device") {
                machine.add("-global virtio-mmio.force-legacy=false");
            }
            machine.add(&format!("-device {device},drive=d0{properties}"));
            machine.command_line = "reconnect=3 list mount=disk0 bench".into();
            let transcript = machine.run(|_| ())?;
            must_end(&transcript, 0)?;
            must_contain(&transcript, "different=0 lost_pages=0")?;
            let signalling = transcript.value("device=disk0 at", "signalling");
            ensure!(signalling == Some("line"), "{}", transcript.text());
        }
        Ok(Outcome::Passed)
    }

    /// On Cloud Hypervisor and crosvm likewise. The parts use the same disk one after the other.
    fn no_queue_reset(&self) -> Result<Outcome> {
        let disk = self.scratch("no-reset.img", DISK1)?;
        let mut machine = self.machine("q35", 2);
        machine.drive("d0", &self.ext4, ",readonly=on");
        machine.drive("d1", &disk, "");
        for drive in ["d0", "d1"] {
            machine.add(&format!("-device virtio-blk-pci,drive={drive},num-queues=2,queue_reset=off"));
        }
        machine.command_line = "mount=disk0 test=disk1 bench".into();
        let transcript = machine.run(|_| ())?;
        must_end(&transcript, 0)?;
        must_contain(&transcript, "same test=pass")?;
        must_contain(&transcript, "bench=read-depth32 end")?;
        machine.command_line = "test=disk1 mount=disk0 bench".into();
        must_end(&machine.run(|_| ())?, 0)?;
        std::fs::remove_file(&disk)?;
        Ok(Outcome::Passed)
    }

    /// Many kernels have a PCI bus already: the devices on it are opened one by one.
    fn own_bus(&self) -> Result<Outcome> {
        let disk = self.scratch("own-bus.img", DISK1)?;
        let mut machine = self.machine("q35", 2);
        machine.drive("d0", &self.ext4, ",readonly=on").drive("d1", &disk, "");
        machine.add("-device virtio-blk-pci,drive=d0 -device virtio-scsi-pci,id=s0");
        machine.add("-device scsi-hd,drive=d1,bus=s0.0 -netdev user,id=n0 -device virtio-net-pci,netdev=n0");
        let page = format!("http://10.0.2.2:{}/large.bin", self.port);
        machine.command_line =
            format!("own-bus list mount=disk0 test=disk1 dhcp http={page} idle=1 reconnect=3");
        let transcript = machine.run(|_| ())?;
        must_end(&transcript, 0)?;
        must_contain(&transcript, "device=disk1 at=pci:0000:00:")?;
        must_contain(&transcript, "same test=pass")?;
        must_contain(&transcript, "same http=/large.bin status=200")?;
        must_contain(&transcript, "different=0 lost_pages=0")?;
        std::fs::remove_file(&disk)?;
        Ok(Outcome::Passed)
    }

    /// Kernels have small stacks.
    fn stack(&self) -> Result<Outcome> {
        let disk = self.scratch("stack.img", DISK1)?;
        let mut machine = self.machine("q35", 2);
        machine.drive("d0", &self.ext4, ",readonly=on").drive("d1", &disk, "");
        machine.add("-device virtio-blk-pci,drive=d0 -device virtio-scsi-pci,id=s0");
        machine.add("-device scsi-hd,drive=d1,bus=s0.0 -netdev user,id=n0 -device virtio-net-pci,netdev=n0");
        machine.add("-device virtio-balloon-pci -device virtio-rng-pci -device virtio-serial-pci");
        machine.add("-device virtio-keyboard-pci -device pcie-root-port,id=rp0,chassis=1");
        machine.command_line = "stack mount=disk0".into();
        let transcript = machine.run(|_| ())?;
        must_end(&transcript, 0)?;
        must_fit_the_stack(&transcript)?;
        Ok(Outcome::Passed)
    }

    /// What a port begins with: polled, with the drivers of virtio alone.
    fn minimal(&self) -> Result<Outcome> {
        let kernel = kernel::minimal()?;
        let disk = self.minimal_disk("minimal.img")?;
        for (machine, bus) in [("q35", "pci"), ("pc", "pci"), ("microvm,acpi=on", "device")] {
            let mut machine = Machine::new(&kernel, machine, 1, "512M");
            machine.add("-global virtio-mmio.force-legacy=false");
            minimal_on(machine, &disk, bus)?;
        }
        Ok(Outcome::Passed)
    }

    fn arm_minimal(&self) -> Result<Outcome> {
        Processor::Aarch64.need_qemu()?;
        let kernel = match toolchains::arm_minimal()? {
            Ok(kernel) => kernel,
            Err(why) => return Ok(Outcome::Skipped(why)),
        };
        let disk = self.minimal_disk("arm-minimal.img")?;
        for bus in ["pci", "device"] {
            let machine = Machine::of_processor(Processor::Aarch64, &kernel, "virt", 1, "512M");
            minimal_on(machine, &disk, bus)?;
        }
        Ok(Outcome::Passed)
    }

    /// Firmware describes the machine by ACPI, and loads the kernel as its application.
    fn arm_efi(&self) -> Result<Outcome> {
        let kernel = match self.kernel_for(Processor::Aarch64)? {
            Ok(kernel) => kernel,
            Err(why) => return Ok(Outcome::Skipped(why)),
        };
        let firmware = efi::firmware()?;
        let image = self.folder.join("kernel.efi");
        efi::write(&kernel, &image)?;
        for (kind, cpus, bus, controller) in [
            ("virt", 2, "pci", "gic-v2m"),
            ("virt,gic-version=3", 1, "device", "gic-v3-its"),
            // Firmware runs at the exception level of a hypervisor.
            ("virt,gic-version=3,virtualization=on", 4, "pci", "gic-v3-its"),
            // It passes the device tree.
            ("virt,acpi=off", 1, "pci", "gic-v2m"),
        ] {
            let mut machine = Machine::of_processor(Processor::Aarch64, &image, kind, cpus, "2G");
            machine.add(&format!("-bios {firmware}"));
            machine.drive("d0", &self.ext4, ",readonly=on");
            machine.add(&format!("-device virtio-blk-{bus},drive=d0 -device virtio-rng-{bus}"));
            machine.add(&format!("-netdev user,id=n0 -device virtio-net-{bus},netdev=n0"));
            machine.command_line = format!(
                "list entropy=64 mount=disk0 dhcp ping http=http://10.0.2.2:{}/large.bin idle=1",
                self.port
            );
            let transcript = machine.run(|_| ())?;
            must_end(&transcript, 0)?;
            must_contain(&transcript, &format!("entry=uefi processors={cpus} interrupts={controller} "))?;
            must_contain(&transcript, if bus == "pci" { "signalling=messages" } else { "signalling=line" })?;
            must_contain(&transcript, &crate::image::expected_page(&self.tree)?)?;
            for line in crate::image::expected_files(&self.tree)? {
                must_contain(&transcript, &line)?;
            }
        }
        Ok(Outcome::Passed)
    }

    /// Makes a disk whose first block has the sum 512, and whose second one has another.
    fn minimal_disk(&self, name: &str) -> Result<PathBuf> {
        let disk = self.scratch(name, DISK1)?;
        File::options().write(true).open(&disk)?.write_all(&[[1; 512], [2; 512]].concat())?;
        Ok(disk)
    }

    /// The bridge replaces the sender of a message, by which the translation service finds what it means.
    fn conventional(&self) -> Result<Outcome> {
        let kernel = match self.kernel_for(Processor::Aarch64)? {
            Ok(kernel) => kernel,
            Err(why) => return Ok(Outcome::Skipped(why)),
        };
        for bridges in [
            "-device pcie-pci-bridge,id=b",
            "-device i82801b11-bridge,id=a -device pci-bridge,id=b,bus=a,chassis_nr=1",
        ] {
            let mut machine =
                Machine::of_processor(Processor::Aarch64, &kernel, "virt,gic-version=3", 2, "512M");
            machine.drive("d0", &self.ext4, ",readonly=on").add(bridges);
            machine.add("-device virtio-blk-pci,drive=d0,bus=b,addr=1");
            machine.command_line = "list mount=disk0".into();
            let transcript = machine.run(|_| ())?;
            must_end(&transcript, 0)?;
            must_contain(&transcript, "signalling=messages")?;
            for line in crate::image::expected_files(&self.tree)? {
                must_contain(&transcript, &line)?;
            }
        }
        Ok(Outcome::Passed)
    }

    fn disk_names(&self) -> Result<Outcome> {
        let disk = self.scratch("named.img", DISK1)?;
        let mut machine = self.machine("q35", 1);
        machine.drive("d0", &disk, "");
        machine.drive("d1", &self.ext4, ",readonly=on");
        machine.add("-device virtio-blk-pci,drive=d1,serial=files,addr=5");
        machine.add("-device virtio-blk-pci,drive=d0,serial=scratch,addr=4");
        machine.command_line = "list mount=at:pci:0000:00:05.0 test=serial:scratch".into();
        let transcript = machine.run(|_| ())?;
        must_end(&transcript, 0)?;
        must_contain(&transcript, "mount=disk1")?;
        must_contain(&transcript, "test=begin disk=disk0")?;
        machine.command_line = "test=serial:scratc".into();
        let transcript = machine.run(|_| ())?;
        must_end(&transcript, 1)?;
        must_contain(&transcript, "error=\"there is no disk with serial scratc: 2 in all\"")?;
        std::fs::remove_file(&disk)?;
        Ok(Outcome::Passed)
    }

    /// The cut would be inside the last word, which would then name another disk.
    fn long_command_line(&self) -> Result<Outcome> {
        let mut machine = self.machine("q35", 1);
        let word = "test=disk10";
        machine.command_line = format!("{}{word}", " ".repeat(4097 - word.len()));
        let transcript = machine.run(|_| ())?;
        must_end(&transcript, 2)?;
        must_contain(&transcript, "error=\"the command line is longer than 4096 bytes: shorten it\"")?;
        Ok(Outcome::Passed)
    }

    fn much_memory(&self) -> Result<Outcome> {
        let mut machine = crate::guest::Machine::new(&self.kernel, "q35,memory-backend=m", 1, "66G");
        // The kernel touches little of it.
        machine.add("-object memory-backend-ram,id=m,size=66G,reserve=off");
        machine.command_line = "list".into();
        let transcript = machine.run(|_| ())?;
        must_end(&transcript, 0)?;
        must_contain(&transcript, "of RAM above 64 GiB are not used")?;
        Ok(Outcome::Passed)
    }
}

//! Disks on a virtio SCSI host device: it tests the SCSI layer, which storvsc also uses, with an independent implementation.

use super::{Bench, MIB, Outcome, must_contain, must_end};
use crate::image;
use crate::qmp::Qmp;
use anyhow::Result;
use serde_json::json;
use std::path::Path;

pub const CASES: &[(&str, super::Special)] = &[
    ("virtio-scsi: disks of 512 and of 4096 bytes, split and packed", usual),
    ("virtio-scsi: disks added, resized and removed", events),
    ("virtio-scsi: a read-only disk, a drive, and errors", odd),
];

fn usual(bench: &Bench) -> Result<Outcome> {
    for (name, props) in [("split", ""), ("packed", ",packed=on")] {
        let disks = [
            bench.scratch(&format!("scsi0-{name}.img"), 16 * MIB)?,
            bench.scratch(&format!("scsi1-{name}.img"), 8 * MIB)?,
        ];
        for (index, disk) in disks.iter().enumerate() {
            let mut machine = bench.machine("q35", 2);
            machine.add(&format!("-device virtio-scsi-pci,id=s0,num_queues=2{props}"));
            for (number, disk) in disks.iter().enumerate() {
                machine.drive(&format!("d{number}"), disk, ",discard=unmap");
            }
            machine.add("-device scsi-hd,drive=d0,bus=s0.0,serial=first");
            machine.add("-device scsi-hd,drive=d1,bus=s0.0,scsi-id=4,lun=3,logical_block_size=4096,physical_block_size=4096");
            machine.command_line = format!("list test=disk{index} reconnect=5");
            let transcript = machine.run(|_| ())?;
            must_end(&transcript, 0)?;
            must_contain(&transcript, "/0:0:0 blocks=32768 block_size=512")?;
            must_contain(&transcript, "serial=\"first\" queues=2")?;
            must_contain(&transcript, "/0:4:3 blocks=2048 block_size=4096")?;
            must_contain(&transcript, "same test=pass")?;
            must_contain(&transcript, "different=0 lost_pages=0")?;
            image::check_pattern(disk, std::fs::metadata(disk)?.len())?;
        }
    }
    Ok(Outcome::Passed)
}

fn events(bench: &Bench) -> Result<Outcome> {
    let disks = [bench.scratch("scsi-stays.img", 8 * MIB)?, bench.scratch("scsi-comes.img", 8 * MIB)?];
    let socket = bench.folder.join("scsi-qmp");
    let mut machine = bench.machine("q35", 2);
    machine.add("-device virtio-scsi-pci,id=s0");
    machine.drive("d0", &disks[0], "").drive("d1", &disks[1], "");
    machine.add("-device scsi-hd,drive=d0,bus=s0.0");
    machine.qmp = Some(socket.clone());
    machine.command_line = "idle=20".into();
    let mut running = machine.start()?;
    running.wait_for("idle=begin")?;
    let mut qmp = Qmp::connect(&socket)?;
    qmp.execute("block_resize", json!({ "device": "d0", "size": 12 * MIB }))?;
    running.wait_for(&format!("event=capacity device=disk0 blocks={}", 12 * MIB / 512))?;
    let disk =
        json!({ "driver": "scsi-hd", "id": "hot", "drive": "d1", "bus": "s0.0", "scsi-id": 2, "lun": 1 });
    qmp.execute("device_add", disk)?;
    running.wait_for("event=found at=pci:")?;
    // A request to a unit that is being removed is retried until its deadline.
    running.wait_for("event=read device=disk1 first=00000000")?;
    qmp.execute("device_del", json!({ "id": "hot" }))?;
    let removed = running.wait_for("event=removed at=pci:")?;
    anyhow::ensure!(removed.contains("/0:2:1 "), "the wrong disk was removed: {removed}");
    must_end(&running.finish()?, 0)?;
    Ok(Outcome::Passed)
}

fn odd(bench: &Bench) -> Result<Outcome> {
    let (disk, medium) = (bench.scratch("scsi-odd.img", 8 * MIB)?, bench.scratch("scsi-cd.img", 4 * MIB)?);
    let mut machine = bench.machine("q35", 1);
    machine.add("-device virtio-scsi-pci,id=s0");
    machine.drive("d0", &disk, ",readonly=on").drive("d1", &medium, ",readonly=on");
    machine.add("-device scsi-hd,drive=d0,bus=s0.0,scsi-id=0 -device scsi-cd,drive=d1,bus=s0.0,scsi-id=1");
    // The last target, and a disk whose blocks are too large.
    for (number, place) in
        ["scsi-id=255", "scsi-id=2,logical_block_size=8192,physical_block_size=8192"].iter().enumerate()
    {
        machine.add(&format!("-blockdev driver=null-co,node-name=n{number},size=8388608,read-zeroes=on"));
        machine.add(&format!("-device scsi-hd,drive=n{number},bus=s0.0,{place}"));
    }
    machine.command_line = "list test=disk0".into();
    let transcript = machine.run(|_| ())?;
    must_end(&transcript, 1)?;
    must_contain(&transcript, "/0:0:0 blocks=16384 block_size=512")?;
    must_contain(&transcript, "/0:255:0 blocks=16384 block_size=512")?;
    must_contain(&transcript, "/0:2:0 reason=\"blocks of 8192 bytes are not supported\"")?;
    must_contain(&transcript, "disk0 is read-only")?;
    must_contain(&transcript, "/0:1:0 blocks=2048 block_size=2048")?;

    must_report_errors(bench, "virtio-scsi-pci", &disk)?;
    Ok(Outcome::Passed)
}

/// Runs the disk's test with a disk on the SCSI host `host` that fails a write, then a read.
pub(super) fn must_report_errors(bench: &Bench, host: &str, disk: &Path) -> Result<()> {
    for event in ["write_aio", "read_aio"] {
        let rules = bench.folder.join(format!("{host}-{event}.conf"));
        let text = format!("[inject-error]\nevent = \"{event}\"\nerrno = \"5\"\nsector = \"4096\"\n");
        std::fs::write(&rules, text)?;
        let mut machine = bench.machine("q35", 1);
        let file = format!("file=blkdebug:{}:{},format=raw", rules.display(), disk.display());
        machine.add(&format!("-drive {file},if=none,id=d0,werror=report,rerror=report"));
        machine.add(&format!("-device {host},id=s0 -device scsi-hd,drive=d0,bus=s0.0"));
        machine.command_line = "test=disk0 queues=1".into();
        let transcript = machine.run(|_| ())?;
        must_end(&transcript, 1)?;
        must_contain(&transcript, "error=\"block ")?;
    }
    Ok(())
}

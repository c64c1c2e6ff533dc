//! PCI devices that are added and removed while the kernel runs, and the power button.

use super::{Bench, MIB, Outcome, must_contain, must_end};
use crate::guest::{Machine, Running};
use crate::qmp::Qmp;
use anyhow::{Result, ensure};
use serde_json::json;

pub const CASES: &[(&str, super::Special)] = &[
    ("pc: PCI devices added and removed by ACPI", on_pc),
    ("q35: PCI devices added and removed by ACPI", on_q35),
    ("q35: PCI devices added and removed at a hot-plug port", at_a_port),
    ("pc: a SCSI host added behind a bridge, and given back", behind_a_bridge),
    ("the power button", power_button),
];

fn on_pc(bench: &Bench) -> Result<Outcome> {
    plug(bench, "hot-pc", "pc", "", "pci.0", "pci:0000:00:")
}

fn on_q35(bench: &Bench) -> Result<Outcome> {
    let port = "-device pcie-root-port,id=rp0,chassis=1";
    plug(bench, "hot-q35", "q35", port, "rp0", "pci:0000:01:00.0")
}

fn at_a_port(bench: &Bench) -> Result<Outcome> {
    let native = "-global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off";
    let port = format!("{native} -device pcie-root-port,id=rp0,chassis=1");
    plug(bench, "hot-port", "q35", &port, "rp0", "pci:0000:01:00.0")
}

/// Starts a machine whose kernel waits for events for a minute at most; `name` is that of its QMP socket.
fn start_idle(bench: &Bench, name: &str, mut machine: Machine) -> Result<(Running, Qmp)> {
    let socket = bench.folder.join(name);
    machine.qmp = Some(socket.clone());
    machine.command_line = "idle=60".into();
    let mut running = machine.start()?;
    running.wait_for("idle=begin")?;
    Ok((running, Qmp::connect(&socket)?))
}

/// Checks that the kernel could flush the second disk before it gave it back.
fn must_be_flushed(running: &mut Running) -> Result<()> {
    let flushed = running.wait_for("event=flushed device=disk1")?;
    ensure!(!flushed.contains("error"), "{flushed}");
    Ok(())
}

/// Adds a disk and a card in turn, reads from the disk, and removes them, three times.
fn plug(bench: &Bench, name: &str, machine: &str, more: &str, bus: &str, place: &str) -> Result<Outcome> {
    let disks =
        [bench.scratch(&format!("{name}-0.img"), MIB)?, bench.scratch(&format!("{name}-1.img"), MIB)?];
    std::fs::write(&disks[1], [0x5a; MIB as usize])?;
    let mut machine = bench.machine(machine, 2);
    machine.drive("d0", &disks[0], "").add("-device virtio-blk-pci,drive=d0");
    machine.add(more);
    machine.add(&format!(
        "-blockdev driver=file,filename={},node-name=n1 -netdev user,id=c1",
        disks[1].display()
    ));
    let (mut running, mut qmp) = start_idle(bench, name, machine)?;
    let mut free = vec![];
    for _ in 0..3 {
        for device in [
            json!({ "driver": "virtio-blk-pci", "id": "hot", "drive": "n1", "bus": bus }),
            json!({ "driver": "virtio-net-pci", "id": "hot", "netdev": "c1", "bus": bus }),
        ] {
            let is_disk = device.get("drive").is_some();
            qmp.execute("device_add", device)?;
            let found = running.wait_for("event=found at=")?;
            ensure!(found.contains(place), "found elsewhere: {found}");
            if is_disk {
                running.wait_for("event=read device=disk1 first=5a5a5a5a")?;
            }
            qmp.execute("device_del", json!({ "id": "hot" }))?;
            if is_disk {
                must_be_flushed(&mut running)?;
            }
            let removed = running.wait_for("event=removed at=")?;
            ensure!(removed.contains(place), "removed elsewhere: {removed}");
            free.push(removed.rsplit('=').next().map(String::from));
            // The first such event is that of a part of the device.
            while qmp.event("DEVICE_DELETED")?["data"]["device"] != "hot" {}
        }
    }
    qmp.execute("system_powerdown", json!({}))?;
    running.wait_for("event=power request=PowerOff forced=false")?;
    let transcript = running.finish()?;
    must_end(&transcript, 0)?;
    must_contain(&transcript, "idle=end")?;
    let is_warning = |line: &String| line.starts_with("log=WARN");
    ensure!(!transcript.lines.iter().any(is_warning), "{}", transcript.text());
    // The first disk and the first card may have taken memory that is kept.
    ensure!(free[2..4] == free[4..6], "memory was lost: {free:?}");
    Ok(Outcome::Passed)
}

/// A disk on a SCSI host that is added and given back whole, beside a disk behind a bridge that was not empty.
fn behind_a_bridge(bench: &Bench) -> Result<Outcome> {
    let disks = [bench.scratch("hot-bridge-0.img", MIB)?, bench.scratch("hot-bridge-1.img", MIB)?];
    std::fs::write(&disks[1], [0x5a; MIB as usize])?;
    let mut machine = bench.machine("pc", 2);
    machine.add("-device pci-bridge,id=b0,chassis_nr=1");
    machine.drive("d0", &disks[0], "").add("-device virtio-blk-pci,drive=d0,bus=b0,addr=1");
    machine.add(&format!("-blockdev driver=file,filename={},node-name=n1", disks[1].display()));
    let (mut running, mut qmp) = start_idle(bench, "hot-bridge", machine)?;
    for _ in 0..2 {
        qmp.execute(
            "device_add",
            json!({ "driver": "virtio-scsi-pci", "id": "hot", "bus": "b0", "addr": "2" }),
        )?;
        // The host has no disk yet: its event tells of one.
        qmp.execute(
            "device_add",
            json!({ "driver": "scsi-hd", "id": "disk", "drive": "n1", "bus": "hot.0" }),
        )?;
        let found = running.wait_for("event=found at=")?;
        ensure!(found.contains("pci:0000:01:02.0/"), "found elsewhere: {found}");
        running.wait_for("event=read device=disk1 first=5a5a5a5a")?;
        qmp.execute("device_del", json!({ "id": "hot" }))?;
        // While its removal is reported the disk still works.
        must_be_flushed(&mut running)?;
        running.wait_for("event=removed at=pci:0000:01:02.0 ")?;
        while qmp.event("DEVICE_DELETED")?["data"]["device"] != "hot" {}
    }
    qmp.execute("system_powerdown", json!({}))?;
    must_end(&running.finish()?, 0)?;
    Ok(Outcome::Passed)
}

fn power_button(bench: &Bench) -> Result<Outcome> {
    for machine in ["pc", "q35", "microvm,acpi=on"] {
        let (mut running, mut qmp) = start_idle(bench, "power-button", bench.machine(machine, 1))?;
        qmp.execute("system_powerdown", json!({}))?;
        running.wait_for("event=power request=PowerOff forced=false")?;
        must_end(&running.finish()?, 0)?;
    }
    Ok(Outcome::Passed)
}

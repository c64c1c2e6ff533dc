//! VMware's devices, as QEMU has them: a SCSI adapter (pvscsi) and a network card (vmxnet3).

use super::scsi::must_report_errors;
use super::{Bench, DISK1, MIB, Outcome, must_contain, must_end, must_fit_the_stack};
use crate::guest::Machine;
use crate::qmp::Qmp;
use crate::tap;
use anyhow::{Result, ensure};
use serde_json::json;

pub const CASES: &[(&str, super::Special)] = &[
    ("vmware: the usual work, q35 and pc, one and two processors", usual),
    ("vmware: disks added and removed, and the link", events),
    ("vmware: an adapter and a card added and given back", plug),
    ("vmware: a read-only disk, a drive, errors, and several of each", odd),
    ("vmware: offload on a tap, and jumbo frames", offload),
    ("vmware: resets, and the stack", resets),
    ("vmware: the hypervisor, by its port", backdoor),
];

const SIZE_4096: &str = ",logical_block_size=4096,physical_block_size=4096";

fn usual(bench: &Bench) -> Result<Outcome> {
    for (machine, cpus, block) in [("q35", 2, 512), ("pc", 1, 4096), ("q35", 4, 512)] {
        let disk1 = bench.scratch(&format!("vmware-{machine}-{cpus}.img"), DISK1)?;
        let mut machine = bench.machine(machine, cpus);
        machine.drive("d0", &bench.ext4, ",readonly=on").drive("d1", &disk1, ",discard=unmap");
        let size = if block == 4096 { SIZE_4096 } else { "" };
        machine.add("-device pvscsi,id=s0 -netdev user,id=n0 -device vmxnet3,netdev=n0");
        machine.add(&format!("-device scsi-hd,bus=s0.0,scsi-id=0,drive=d0,serial=sn0{size}"));
        machine.add(&format!("-device scsi-hd,bus=s0.0,scsi-id=1,drive=d1,serial=sn1{size}"));
        machine.command_line = format!(
            "list mount=disk0 test=disk1 dhcp ping http=http://10.0.2.2:{}/large.bin idle=1",
            bench.port
        );
        let transcript = machine.run(|_| ())?;
        bench.must_do_the_usual(&transcript, &disk1, block)?;
        for text in ["ring=pvscsi signalling=messages", "ring=vmxnet3 signalling=messages", "serial=\"sn1\""]
        {
            must_contain(&transcript, text)?;
        }
        must_contain(&transcript, &format!(" speed=1000 queues={cpus} "))?;
        must_contain(&transcript, "idle=end woken=0 device_interrupts=0")?;
        for pass in ["test=write", "test=read"] {
            ensure!(transcript.value(pass, "allocations") == Some("0"), "{}", transcript.text());
        }
    }
    Ok(Outcome::Passed)
}

fn events(bench: &Bench) -> Result<Outcome> {
    let disks = [bench.scratch("vmware-stays.img", 8 * MIB)?, bench.scratch("vmware-comes.img", 8 * MIB)?];
    let socket = bench.folder.join("vmware-qmp");
    let mut machine = bench.machine("q35", 2);
    machine.add("-device pvscsi,id=s0 -netdev user,id=n0 -device vmxnet3,netdev=n0,id=card");
    machine.drive("d0", &disks[0], "").drive("d1", &disks[1], "");
    machine.add("-device scsi-hd,drive=d0,bus=s0.0");
    machine.qmp = Some(socket.clone());
    machine.command_line = "idle=20".into();
    let mut running = machine.start()?;
    running.wait_for("idle=begin")?;
    let mut qmp = Qmp::connect(&socket)?;
    let disk = json!({ "driver": "scsi-hd", "id": "hot", "drive": "d1", "bus": "s0.0", "scsi-id": 5 });
    qmp.execute("device_add", disk)?;
    running.wait_for("event=found at=pci:")?;
    running.wait_for("event=read device=disk1 first=00000000")?;
    qmp.execute("device_del", json!({ "id": "hot" }))?;
    let removed = running.wait_for("event=removed at=pci:")?;
    ensure!(removed.contains("/0:5:0 "), "the wrong disk was removed: {removed}");
    for (up, text) in [(false, "link=down"), (true, "link=up")] {
        qmp.execute("set_link", json!({ "name": "card", "up": up }))?;
        running.wait_for(&format!("event=link device=net0 {text}"))?;
    }
    must_end(&running.finish()?, 0)?;
    Ok(Outcome::Passed)
}

/// An adapter with a disk, and a card, each added and given back whole.
fn plug(bench: &Bench) -> Result<Outcome> {
    let disk = bench.scratch("vmware-hot.img", MIB)?;
    std::fs::write(&disk, [0x5a; MIB as usize])?;
    let mut machine = bench.machine("pc", 2);
    machine
        .add(&format!("-blockdev driver=file,filename={},node-name=n1 -netdev user,id=c1", disk.display()));
    let socket = bench.folder.join("vmware-hot");
    machine.qmp = Some(socket.clone());
    machine.command_line = "idle=60".into();
    let mut running = machine.start()?;
    running.wait_for("idle=begin")?;
    let mut qmp = Qmp::connect(&socket)?;
    let mut free = vec![];
    for _ in 0..2 {
        qmp.execute("device_add", json!({ "driver": "pvscsi", "id": "hot", "bus": "pci.0", "addr": "8" }))?;
        let disk = json!({ "driver": "scsi-hd", "id": "disk", "drive": "n1", "bus": "hot.0" });
        qmp.execute("device_add", disk)?;
        running.wait_for("event=read device=disk0 first=5a5a5a5a")?;
        qmp.execute("device_del", json!({ "id": "hot" }))?;
        let flushed = running.wait_for("event=flushed device=disk0")?;
        ensure!(!flushed.contains("error"), "{flushed}");
        running.wait_for("event=removed at=pci:0000:00:08.0 ")?;
        while qmp.event("DEVICE_DELETED")?["data"]["device"] != "hot" {}
        let card = json!({ "driver": "vmxnet3", "id": "hot", "netdev": "c1", "bus": "pci.0", "addr": "8" });
        qmp.execute("device_add", card)?;
        running.wait_for("event=found at=pci:0000:00:08.0")?;
        qmp.execute("device_del", json!({ "id": "hot" }))?;
        let removed = running.wait_for("event=removed at=pci:0000:00:08.0")?;
        free.push(removed.rsplit('=').next().map(String::from));
        while qmp.event("DEVICE_DELETED")?["data"]["device"] != "hot" {}
    }
    ensure!(free[0] == free[1], "memory was lost: {free:?}");
    qmp.execute("system_powerdown", json!({}))?;
    must_end(&running.finish()?, 0)?;
    Ok(Outcome::Passed)
}

fn odd(bench: &Bench) -> Result<Outcome> {
    let disk = bench.scratch("vmware-odd.img", 8 * MIB)?;
    let medium = bench.scratch("vmware-cd.img", 4 * MIB)?;
    let mut machine = bench.machine("q35", 2);
    machine.add("-device pvscsi,id=s0 -device pvscsi,id=s1");
    machine.drive("d0", &disk, ",readonly=on").drive("d1", &medium, ",readonly=on");
    machine.drive("d2", &bench.ext4, ",readonly=on");
    machine.add("-device scsi-hd,drive=d0,bus=s0.0,scsi-id=0 -device scsi-cd,drive=d1,bus=s0.0,scsi-id=7");
    machine.add("-device scsi-hd,drive=d2,bus=s1.0,scsi-id=15");
    machine.add("-netdev user,id=n0,net=10.1.0.0/24 -device vmxnet3,netdev=n0");
    machine.add("-netdev user,id=n1 -device vmxnet3,netdev=n1,mac=52:54:00:00:00:02");
    let page = format!("http=http://10.0.2.2:{}/large.bin", bench.port);
    machine.command_line = format!("list mount=disk2 dhcp nic=net1 ping {page} test=disk0");
    let transcript = machine.run(|_| ())?;
    must_end(&transcript, 1)?;
    for text in [
        "/0:0:0 blocks=16384 block_size=512",
        "/0:7:0 blocks=2048 block_size=2048",
        "/0:15:0 blocks=",
        "disk0 is read-only",
        "same file=/hello.txt",
        "mac=52:54:00:00:00:02",
    ] {
        must_contain(&transcript, text)?;
    }
    must_report_errors(bench, "pvscsi", &disk)?;
    Ok(Outcome::Passed)
}

fn offload(bench: &Bench) -> Result<Outcome> {
    if let Some(why) = tap::obstacle() {
        return Ok(Outcome::Skipped(why));
    }
    for (kernel, mtu) in [("", 1500), ("mtu=9000", 9000)] {
        let card = tap::Card {
            name: "vmxnet3",
            properties: "",
            kernel,
            offloads: &["TX_CHECKSUM", "TX_TCP4", "RX_CHECKSUM"],
            mtu,
            // QEMU 10.0 stops to read from the second one if a frame came there before the card was activated.
            has_two_queues: false,
        };
        tap::run(&bench.kernel, &bench.tree, &card)?;
    }
    Ok(Outcome::Passed)
}

/// Every device is closed and opened again, and the search for them takes no more stack than is documented.
fn resets(bench: &Bench) -> Result<Outcome> {
    let mut machine = bench.machine("q35", 2);
    machine.drive("d0", &bench.ext4, ",readonly=on");
    machine.add("-device pvscsi,id=s0 -device scsi-hd,drive=d0,bus=s0.0");
    machine.add("-netdev user,id=n0 -device vmxnet3,netdev=n0");
    machine.command_line = "reconnect=20 mount=disk0 dhcp bench".into();
    let transcript = machine.run(|_| ())?;
    must_end(&transcript, 0)?;
    must_contain(&transcript, "different=0 lost_pages=0")?;
    must_contain(&transcript, "same file=/hello.txt")?;
    machine.command_line = "stack mount=disk0".into();
    let transcript = machine.run(|_| ())?;
    must_end(&transcript, 0)?;
    must_fit_the_stack(&transcript)?;
    Ok(Outcome::Passed)
}

/// Without leaves of a hypervisor, its port tells that it is VMware's; QEMU has the port, and does not tell the frequency.
fn backdoor(bench: &Bench) -> Result<Outcome> {
    for (vmport, expected) in [("on", "hypervisor=vmware leaves=none"), ("off", "hypervisor=none")] {
        let machine = format!("q35,vmport={vmport}");
        let mut machine = Machine::new(&bench.kernel, &machine, 1, "512M");
        machine.add("-cpu qemu64,-hypervisor");
        machine.command_line = "list".into();
        let transcript = machine.run(|_| ())?;
        must_end(&transcript, 0)?;
        must_contain(&transcript, expected)?;
    }
    Ok(Outcome::Passed)
}

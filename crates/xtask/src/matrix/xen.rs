//! Xen: its devices as QEMU has them on KVM's emulation of Xen, and real Xen with Linux' backends.

use super::hyperv::with_lab;
use super::{Bench, DISK1, MIB, Outcome, must_contain, must_end, must_fit_the_stack, with_host};
use crate::guest::{Machine, Transcript};
use crate::lab::Lab;
use crate::lab::xen::RealXen;
use crate::qmp::Qmp;
use crate::run::NESTED_PORT;
use crate::run::xen::add_devices;
use crate::{bootable, image};
use anyhow::{Result, ensure};
use serde_json::json;
use std::fs;
use std::path::Path;

pub const CASES: &[(&str, super::Special)] = &[
    (
        "xen: real Xen: the usual work, devices added and removed, a shutdown, saved and restored under load",
        real,
    ),
    ("xen: real Xen: a guest with a BIOS, disks of QEMU, and backends that offer little", more),
    ("xen: the usual work on KVM", usual),
    ("xen: beside Hyper-V's interface, with emulated devices removed", unplugged),
    ("xen: beside virtio, a disk added and removed, resets, and the stack", mixed),
];

/// A machine with two disks of Xen and a card, and the port of its server of files.
fn machine(
    lab: &Lab,
    folder: &Path,
    bench: &Bench,
    kind: &str,
    more: &str,
    cpus: u16,
) -> Result<(Machine, u16)> {
    let (disk0, disk1) = (folder.join("disk0.img"), folder.join("disk1.img"));
    fs::copy(&bench.ext4, &disk0)?;
    fs::File::create(&disk1)?.set_len(DISK1)?;
    let tree = folder.join("tree");
    image::make_tree(&tree)?;
    let mut machine = lab.xen(&bench.kernel, kind, more, cpus, "512M", folder)?;
    let port = if machine.nest.is_some() { NESTED_PORT } else { bench.port };
    add_devices(&mut machine, &tree, [&disk0, &disk1], true);
    Ok((machine, port))
}

fn must_use_xen(transcript: &Transcript) -> Result<()> {
    for text in [
        "at=xen:vbd/51712 ",
        "at=xen:vbd/51728 ",
        "ring=blkif signalling=bus",
        "at=xen:vif/0 mac=52:54:00:12:34:56",
        "ring=netif signalling=bus",
        "clock=xen",
        "events in tables, grants of version 1",
    ] {
        must_contain(transcript, text)?;
    }
    for pass in ["test=write", "test=read"] {
        ensure!(transcript.value(pass, "allocations") == Some("0"), "{}", transcript.text());
    }
    Ok(())
}

fn usual(bench: &Bench) -> Result<Outcome> {
    with_lab(bench, |lab, folder, bench| {
        for (kind, cpus) in [("q35", 2), ("pc", 1)] {
            let folder = folder.join(kind);
            fs::create_dir(&folder)?;
            let (mut machine, port) = machine(lab, &folder, bench, kind, "", cpus)?;
            machine.command_line = format!(
                "list mount=disk0 test=disk1 dhcp ping http=http://10.0.2.2:{port}/large.bin clock timer idle=1"
            );
            let transcript = machine.run(|_| ())?;
            bench.must_do_the_usual(&transcript, &folder.join("disk1.img"), 512)?;
            must_use_xen(&transcript)?;
            must_contain(&transcript, "hypervisor=xen leaves=0x40000000")?;
            must_contain(&transcript, "timer=host times=5")?;
            must_contain(&transcript, " device_interrupts=0")?;
        }
        Ok(())
    })
}

/// A machine as XenServer gives to systems that may be Windows: Xen's leaves are behind those of Hyper-V, and the disks and cards are there
/// a second time, as emulated devices.
fn unplugged(bench: &Bench) -> Result<Outcome> {
    with_lab(bench, |lab, folder, bench| {
        let (mut machine, port) = machine(lab, folder, bench, "pc", ",hv-relaxed,hv-vapic,hv-time", 1)?;
        let twin = folder.join("twin.img");
        fs::File::create(&twin)?.set_len(MIB)?;
        machine
            .drive("d2", &twin, "")
            .add("-device ide-hd,drive=d2 -netdev user,id=n1 -device e1000,netdev=n1,romfile=");
        machine.command_line =
            format!("list mount=disk0 test=disk1 dhcp ping http=http://10.0.2.2:{port}/large.bin clock");
        let transcript = machine.run(|_| ())?;
        bench.must_do_the_usual(&transcript, &folder.join("disk1.img"), 512)?;
        must_use_xen(&transcript)?;
        must_contain(&transcript, "hypervisor=hyper-v leaves=0x40000000")?;
        must_contain(&transcript, "hypervisor=xen leaves=0x40000100")?;
        // The card of Intel's has gone.
        ensure!(!transcript.text().contains("8086:100e"), "{}", transcript.text());
        Ok(())
    })
}

fn mixed(bench: &Bench) -> Result<Outcome> {
    with_lab(bench, |lab, folder, bench| {
        let (mut machine, _) = machine(lab, folder, bench, "q35", "", 2)?;
        let (other, hot) = (folder.join("virtio.img"), folder.join("hot.img"));
        fs::File::create(&other)?.set_len(MIB)?;
        fs::write(&hot, [0x5a; MIB as usize])?;
        machine.drive("d2", &other, "").add("-device virtio-blk-pci,drive=d2");
        machine.add(&format!("-blockdev driver=file,filename={},node-name=hot", hot.display()));
        let socket = folder.join("qmp");
        machine.qmp = Some(socket.clone());
        machine.command_line = "stack reconnect=3 list test=disk2 idle=60".into();
        let mut running = machine.start()?;
        running.wait_for("idle=begin")?;
        let mut qmp = Qmp::connect(&socket)?;
        let disk = json!({ "driver": "xen-disk", "id": "new", "drive": "hot", "vdev": "xvdc" });
        qmp.execute("device_add", disk)?;
        running.wait_for("event=found at=xen:vbd/51744")?;
        running.wait_for("event=read device=disk3 first=5a5a5a5a")?;
        qmp.execute("device_del", json!({ "id": "new" }))?;
        running.wait_for("event=removed at=xen:vbd/51744")?;
        qmp.execute("system_powerdown", json!({}))?;
        let transcript = running.finish()?;
        must_end(&transcript, 0)?;
        // Virtio's disk is there still, since nothing was unplugged.
        must_contain(&transcript, "device=disk0 at=pci:")?;
        must_contain(&transcript, "device=disk1 at=xen:vbd/51712")?;
        must_contain(&transcript, "different=0 lost_pages=0")?;
        must_fit_the_stack(&transcript)
    })
}

/// What runs in Xen's first domain.
const SCRIPT: &str = include_str!("xen-real.sh");
const MORE: &str = include_str!("xen-more.sh");
/// What a guest tells that has all that it can have.
const WIDE: &str = "events in queues, grants of version 2";

/// Everything on real Xen, whose first domain is booted once.
fn real(bench: &Bench) -> Result<Outcome> {
    with_host(RealXen::open(), |xen, folder| usual_work(bench, xen, folder))
}

fn usual_work(bench: &Bench, xen: &RealXen, folder: &Path) -> Result<()> {
    let page = bench.tree.join("large.bin");
    let files = [("kernel", bench.kernel.as_path()), ("files.img", &bench.ext4), ("large.bin", &page)];
    let transcript = xen.machine(SCRIPT, &files, folder)?.run(|_| ())?;
    must_end(&transcript, 0)?;
    let must = |guest: &str, texts: &[&str]| must_print(&transcript, guest, texts);
    let files = image::expected_files(&bench.tree)?;
    let same = [files, vec![image::expected_page(&bench.tree)?]].concat();
    must_print_lines(&transcript, "usual", &same)?;
    must(
        "usual",
        &[
            "entry=pvh",
            "events in queues, grants of version 1",
            "clock=xen hz=",
            "device=disk0 at=xen:vbd/51712 blocks=49152 ",
            " max_segments=32 access=ro ",
            "same test=pass blocks=32768",
            "test=discard",
            "ping=10.9.0.1 answers=3",
            "clock=xen passed_us=",
            "timer=host times=5",
            "same exit=0",
        ],
    )?;
    must_have_written(&transcript)?;
    must(
        "two",
        &[WIDE, "processors=2 ", "queues=2 ", "different=0 lost_pages=0", "same test=pass", "same exit=0"],
    )?;
    must(
        "hot",
        &[
            "event=found at=xen:vbd/51728",
            "event=read device=disk0 first=",
            "event=found at=xen:vif/0",
            "event=removed at=xen:vbd/51728",
            "event=removed at=xen:vif/0",
            "event=power request=PowerOff",
            "same exit=0",
        ],
    )?;
    must(
        "saved",
        &[
            WIDE,
            "event=power request=Suspend",
            "load=end requests=",
            " aborted=0",
            "http=done",
            "same exit=0",
        ],
    )?;
    let saved = transcript.of_guest("saved");
    let restored = saved.lines.iter().filter(|line| line.contains("dom0 restored it")).count();
    ensure!(restored == 2, "restored {restored} times:\n{}", transcript.text());
    Ok(())
}

/// Checks that a guest of the first domain has printed each of these texts.
fn must_print(transcript: &Transcript, guest: &str, texts: &[&str]) -> Result<()> {
    let printed = transcript.of_guest(guest);
    for text in texts {
        let is_there = printed.lines.iter().any(|line| line.contains(text));
        ensure!(is_there, "{guest} has not printed `{text}`:\n{}", transcript.text());
    }
    Ok(())
}

/// Checks that a guest of the first domain has printed each of these lines.
fn must_print_lines(transcript: &Transcript, guest: &str, lines: &[String]) -> Result<()> {
    let printed = transcript.of_guest(guest);
    for line in lines {
        ensure!(printed.lines.contains(line), "{guest} has not printed `{line}`:\n{}", transcript.text());
    }
    Ok(())
}

/// Checks that the scratch disk has the pattern of the kernel's test.
fn must_have_written(transcript: &Transcript) -> Result<()> {
    let sum = format!("scratch: {}", image::pattern_sum(DISK1));
    ensure!(transcript.lines.iter().any(|line| line.starts_with(&sum)), "{}", transcript.text());
    Ok(())
}

/// Other guests on real Xen, for which its first domain has QEMU.
fn more(bench: &Bench) -> Result<Outcome> {
    let opened = RealXen::open().and_then(RealXen::with_device_model);
    with_host(opened, |xen, folder| other_guests(bench, xen, folder))
}

fn other_guests(bench: &Bench, xen: &RealXen, folder: &Path) -> Result<()> {
    let words = "list mount=disk2 test=disk1 ip=10.9.0.2/24 gw=10.9.0.1 ping http=http://10.9.0.1/large.bin clock timer";
    bootable::make(&bench.kernel, words, folder)?;
    let (image, page) = (folder.join("paravirt.raw"), bench.tree.join("large.bin"));
    let files = [
        ("kernel", bench.kernel.as_path()),
        ("boot.img", &image),
        ("files.img", &bench.ext4),
        ("large.bin", &page),
    ];
    let transcript = xen.machine(MORE, &files, folder)?.run(|_| ())?;
    must_end(&transcript, 0)?;
    let must = |guest: &str, texts: &[&str]| must_print(&transcript, guest, texts);
    let page = image::expected_page(&bench.tree)?;
    let files = image::expected_files(&bench.tree)?;
    must_print_lines(&transcript, "bios", &files)?;
    must(
        "bios",
        &[
            "hypervisor=hyper-v leaves=0x40000000",
            "hypervisor=xen leaves=0x40000100",
            "device=disk0 at=xen:vbd/768 ",
            "device=disk1 at=xen:vbd/51744 ",
            "device=disk2 at=xen:vbd/51776 blocks=49152 ",
            "device=net0 at=xen:vif/0 ",
            "same test=pass blocks=32768",
            &page,
            "clock=xen passed_us=",
            "timer=host times=5",
            "same exit=0",
        ],
    )?;
    must_have_written(&transcript)?;
    // The emulated card has gone.
    let bios = transcript.of_guest("bios");
    ensure!(!bios.text().contains("10ec:8139"), "{}", transcript.text());
    must(
        "qemu",
        &[
            "device=disk1 at=xen:vbd/51760 blocks=10485760 ",
            "device=net1 at=xen:vif/1 mac=00:16:3e:00:00:02 ",
            "/device/vif/1/request-multicast-control = \"1\"",
            "same test=pass blocks=10485760",
            &page,
            "same exit=0",
        ],
    )?;
    must_print_lines(&transcript, "kept", &files)?;
    must(
        "kept",
        &[
            "(x86_64-abi) persistent grants",
            "device=disk1 at=xen:vbd/51760 blocks=49152 ",
            " access=ro ",
            "at=xen:vbd/51776 reason=\"the drive has no medium\"",
            "same test=pass",
            "same exit=0",
        ],
    )?;
    must_print_lines(&transcript, "many", &files)?;
    must(
        "many",
        &[
            "processors=4 ",
            "different=0 lost_pages=0",
            " queues=4 depth=16 ring=blkif",
            "device=disk3 at=xen:vbd/51792 ",
            "device=net2 at=xen:vif/2 mac=00:16:3e:00:00:03 ",
            "same test=pass blocks=32768",
            &page,
            "same exit=0",
        ],
    )?;
    must("small", &["balloon=0 held=14336 ", "balloon=0 held=0 ", "same exit=0"])?;
    must("crashed", &["-sc-"])?;
    must("plain", &["processors=2 ", " queues=1 ", "same test=pass blocks=10485760", &page, "same exit=0"])?;
    must("plain", &["events in tables, grants of version 1", "/device/vif/0/event-channel = "])?;
    Ok(())
}

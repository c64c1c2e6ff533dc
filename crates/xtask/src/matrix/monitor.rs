//! `paravirt-monitor`: the models of StorVSP, NetVSP and the integration services on KVM's emulation of Hyper-V, used by our kernel
//! and by Linux, an independent implementation of the guest.

use super::hyperv::{must_be, number, with_lab};
use super::{Bench, DISK1, Outcome, must_contain, must_end, must_fit_the_stack};
use crate::bench::guests;
use crate::guest::Transcript;
use crate::lab::Lab;
use crate::{image, tools};
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

pub const CASES: &[(&str, super::Special)] = &[
    ("monitor: disks, network card, keyboard and mouse on VMBus, two queues", usual),
    ("monitor: older versions, sectors of 4096 bytes, one queue", versions),
    ("monitor: a read-only medium, and no network card", medium),
    ("monitor: shutdown requested by the host", shutdown),
    ("monitor: Linux on the same devices", linux),
    ("monitor: counts of reads and writes", costs),
    ("monitor: what they cost Linux, and on virtio", costs_elsewhere),
];

/// Makes the disks of a guest in `folder`: one with the files, one to write to.
fn disks(bench: &Bench, folder: &Path) -> Result<[std::path::PathBuf; 2]> {
    let disks = [folder.join("disk0.img"), folder.join("disk1.img")];
    fs::copy(&bench.ext4, &disks[0])?;
    File::create(&disks[1])?.set_len(DISK1)?;
    let web = folder.join("web");
    image::make_tree(&web)?;
    Ok(disks)
}

/// Checks that the models report no violation of the protocol, and that the monitor ended normally.
fn must_be_right(transcript: &Transcript) -> Result<()> {
    let wrong = transcript.lines.iter().find(|line| line.contains("did wrong"));
    ensure!(wrong.is_none(), "the guest violated the protocol:\n{}", transcript.text());
    must_contain(transcript, "monitor: hypercalls=")
}

/// Checks the output of the kernel's standard work.
fn must_have_worked(bench: &Bench, transcript: &Transcript, disk1: &Path) -> Result<()> {
    must_end(transcript, 0)?;
    must_be_right(transcript)?;
    for line in image::expected_files(&bench.tree)? {
        must_contain(transcript, &line)?;
    }
    for text in ["same test=pass", "dhcp=net0 ip=10.0.2.15/24 gateway=10.0.2.2", "ping=10.0.2.2 answers=3"] {
        must_contain(transcript, text)?;
    }
    must_contain(transcript, "same http=/large.bin status=200")?;
    for line in ["test=write", "test=read"] {
        must_be(transcript, line, "allocations", "0")?;
    }
    image::check_pattern(disk1, DISK1)
}

const WORK: &str = "list mount=disk0 test=disk1 dhcp ping http=http://10.0.2.2/large.bin";

fn usual(bench: &Bench) -> Result<Outcome> {
    with_lab(bench, |lab, folder, bench| {
        let [disk0, disk1] = disks(bench, folder)?;
        let words = format!(
            "--cpus 2 --queues 2 --disk {},ro --disk {} --net --web {} --type-text paravirt --type-at input=begin",
            disk0.display(),
            disk1.display(),
            folder.join("web").display()
        );
        let mut machine = lab.monitored(&bench.kernel, folder, &words)?;
        machine.command_line = format!("stack {WORK} clock timer input=30");
        let transcript = machine.run(|_| ())?;
        must_have_worked(bench, &transcript, &disk1)?;
        must_fit_the_stack(&transcript)?;
        for text in [
            "processors=2",
            "bus=vmbus version=6.0",
            "clock=hyper-v-page",
            "timer=host times=5",
            "key=47 pressed=false",
            "key=272 pressed=true",
            "axis=Y at=16384",
            "lights=true",
            "input=end",
        ] {
            must_contain(&transcript, text)?;
        }
        must_be(&transcript, "device=disk1 at=vmbus:", "queues", "2")?;
        must_be(&transcript, "device=net0 at=vmbus:", "queues", "2")
    })
}

fn versions(bench: &Bench) -> Result<Outcome> {
    with_lab(bench, |lab, folder, bench| {
        for version in ["5.3", "4.0", "3.0", "2.4", "1.1"] {
            let [disk0, disk1] = disks(bench, folder)?;
            let words = format!(
                "--vmbus {version} --disk {} --disk {},block=4096 --net --web {}",
                disk0.display(),
                disk1.display(),
                folder.join("web").display()
            );
            let mut machine = lab.monitored(&bench.kernel, folder, &words)?;
            machine.command_line = WORK.into();
            let transcript = machine.run(|_| ())?;
            must_have_worked(bench, &transcript, &disk1)?;
            must_contain(&transcript, &format!("bus=vmbus version={version}"))?;
            must_be(&transcript, "device=disk1 at=vmbus:", "block_size", "4096")?;
        }
        Ok(())
    })
}

fn medium(bench: &Bench) -> Result<Outcome> {
    with_lab(bench, |lab, folder, bench| {
        let [disk0, _] = disks(bench, folder)?;
        let words = format!("--dvd {}", disk0.display());
        let mut machine = lab.monitored(&bench.kernel, folder, &words)?;
        machine.command_line = "list mount=disk0".into();
        let transcript = machine.run(|_| ())?;
        must_end(&transcript, 0)?;
        must_be_right(&transcript)?;
        must_be(&transcript, "device=disk0 at=vmbus:", "block_size", "2048")?;
        must_be(&transcript, "device=disk0 at=vmbus:", "access", "ro")?;
        for line in image::expected_files(&bench.tree)? {
            must_contain(&transcript, &line)?;
        }
        Ok(())
    })
}

fn shutdown(bench: &Bench) -> Result<Outcome> {
    with_lab(bench, |lab, folder, bench| {
        let mut machine = lab.monitored(&bench.kernel, folder, "--shutdown-at event=value")?;
        // Much longer than the test takes: the shutdown request ends it.
        machine.command_line = "list idle=50".into();
        let transcript = machine.run(|_| ())?;
        must_end(&transcript, 0)?;
        must_be_right(&transcript)?;
        for text in [
            "monitor: heartbeat 0 answered: true",
            "event=value key=\"HostName\" value=Some(\"paravirt-monitor\")",
            "monitor: value accepted by the guest: true",
            "monitor: the guest reports FullyQualifiedDomainName=paravirt",
            "monitor: the guest reports OSName=paravirt example kernel",
            "monitor: shutdown request accepted",
        ] {
            must_contain(&transcript, text)?;
        }
        Ok(())
    })
}

fn linux(bench: &Bench) -> Result<Outcome> {
    with_lab(bench, |lab, folder, bench| {
        let [disk0, disk1] = disks(bench, folder)?;
        let (kernel, initrd) = lab.linux()?;
        // The outer machine has only this folder.
        let inside = folder.join("linux.initrd");
        fs::copy(initrd, &inside)?;
        let words = format!(
            "--cpus 2 --queues 2 --disk {} --disk {} --net --web {} --initrd {} --type-text paravirt --type-at linux=typing --shutdown-at linux=ready",
            disk0.display(),
            disk1.display(),
            folder.join("web").display(),
            inside.display()
        );
        let mut machine = lab.monitored(&kernel, folder, &words)?;
        machine.command_line =
            "console=ttyS0 quiet mitigations=off nokaslr panic=-1 random.trust_cpu=on".into();
        let transcript = machine.run(|_| ())?;
        ensure!(
            transcript.ended == Some(0),
            "the monitor's exit code is {:?}:\n{}",
            transcript.ended,
            transcript.text()
        );
        must_be_right(&transcript)?;
        for text in [
            "driver=hv_storvsc channels=2",
            "driver=hv_netvsc channels=2",
            "clock=hyperv_clocksource_tsc_page",
        ] {
            must_contain(&transcript, text)?;
        }
        for line in image::expected_files(&bench.tree)? {
            let line = line.replace("same ", "linux ");
            let (name, rest) = line.split_once(" size=").context("a file without a size")?;
            let (_, sum) = rest.split_once(' ').context("a file without a checksum")?;
            must_contain(&transcript, &format!("{name} {sum}"))?;
        }
        // Linux reads back what it wrote, and the images contain it: as raw blocks, and as a file.
        let written = transcript.value("linux written=", "written").context("nothing was written")?;
        must_be(&transcript, "linux read=", "read", written)?;
        let image = fs::read(&disk1)?;
        ensure!(image::sha256(&image[..4 << 20]) == written, "the image does not contain what Linux wrote");
        let copy = folder.join("copy.bin");
        let dump = format!("dump /copy.bin {}", copy.display());
        let path = std::env::var("PATH").unwrap_or_default();
        tools::run(
            Command::new("debugfs")
                .args(["-R", &dump])
                .arg(&disk0)
                .stderr(Stdio::null())
                .env("PATH", format!("{path}:/usr/sbin:/sbin")),
        )?;
        let large = image::sha256(&fs::read(bench.tree.join("large.bin"))?);
        ensure!(image::sha256(&fs::read(&copy)?) == large, "the file that Linux wrote differs");
        must_be(&transcript, "linux page=", "page", &large)?;
        // The letters and Escape, and the button at any place between them: it is another device's.
        let keys = transcript.value("linux keys=", "keys").context("nothing was typed")?;
        let (buttons, keys): (Vec<_>, Vec<_>) = keys.split(',').partition(|key| *key == "272");
        let is_typed = keys.join(",") == "25,30,19,30,47,23,19,20,1";
        ensure!(is_typed, "the keys differ:\n{}", transcript.text());
        ensure!(!buttons.is_empty(), "no mouse button among the events:\n{}", transcript.text());
        must_be(&transcript, "linux places=", "places", "16384,16384")?;
        must_be(&transcript, "linux address=", "address", "10.0.2.15/24")?;
        must_be(&transcript, "linux answers=", "answers", "3")?;
        ensure!(
            number(&transcript, "linux year=", "year")? >= 2026,
            "the host did not set the guest's clock"
        );
        for text in [
            "monitor: Heartbeat service negotiated",
            "monitor: heartbeat 0 answered: true",
            "monitor: shutdown request accepted",
            "monitor: the guest powered off",
        ] {
            must_contain(&transcript, text)?;
        }
        Ok(())
    })
}

/// Checks the counts of the benchmark that `cargo xtask bench` runs.
fn costs(bench: &Bench) -> Result<Outcome> {
    with_lab(bench, |lab, folder, bench| {
        let transcript = guests::ours_on_vmbus(lab, &bench.kernel, folder)?;
        must_end(&transcript, 0)?;
        must_be_right(&transcript)?;
        for text in ["bench=boot micros=", "round-trips=done count=500", "same http=/bulk.bin status=200"] {
            must_contain(&transcript, text)?;
        }
        let parts = guests::parts(&transcript);
        for (name, requests, batch) in [
            ("read-depth1", 2000, 1),
            ("read-depth32", 2000, 16),
            ("write-depth32", 2000, 16),
            ("flush", 100, 1),
        ] {
            must_be(&transcript, &format!("bench={name} end"), "allocations", "0")?;
            let part = parts.get(name).with_context(|| format!("no {name}:\n{}", transcript.text()))?;
            let (signals, interrupts) =
                part.signals.zip(part.interrupts).context("the monitor printed no counts")?;
            ensure!(part.requests == requests && signals > 0, "{name} has not worked: {part:?}");
            // On one processor, guest and host run in turns and batch requests; otherwise each request may find an empty ring and
            // need a signal.
            let batch = if matches!(lab, Lab::Nested(_)) { batch } else { 1 };
            let max = requests / batch + 20;
            ensure!(signals <= max && interrupts <= max, "{name} has more than {max}: {part:?}");
        }
        Ok(())
    })
}

fn costs_elsewhere(bench: &Bench) -> Result<Outcome> {
    with_lab(bench, |lab, folder, bench| {
        let folder_of = |name: &str| -> Result<_> {
            let folder = folder.join(name);
            fs::create_dir(&folder)?;
            Ok(folder)
        };
        let linux_on_vmbus = guests::linux_on_vmbus(lab, &folder_of("vmbus-linux")?)?;
        must_be_right(&linux_on_vmbus)?;
        let (mut ours, mut linux) = (vec![], vec![linux_on_vmbus]);
        for (name, devices) in
            [("virtio", &guests::VIRTIO), ("vmware", &guests::VMWARE), ("xen", &guests::XEN)]
        {
            ours.push(guests::ours_on_qemu(lab, &bench.kernel, &folder_of(name)?, devices)?);
            linux.push(guests::linux_on_qemu(lab, &folder_of(&format!("{name}-linux"))?, devices)?);
        }
        for ours in &ours {
            must_end(ours, 0)?;
        }
        let all = [("read-depth1", 2000), ("read-depth32", 2000), ("write-depth32", 2000), ("flush", 100)];
        for transcript in ours.iter().chain(&linux) {
            must_contain(transcript, "round-trips=done count=500")?;
            must_be(transcript, "http=done", "size", &guests::FILE.to_string())?;
            let parts = guests::parts(transcript);
            for (name, requests) in all {
                let part = parts.get(name).with_context(|| format!("no {name}:\n{}", transcript.text()))?;
                // At most one interrupt for each request; on a slow machine, heartbeats come meanwhile.
                let is_right =
                    part.requests == requests && part.interrupts.is_some_and(|n| n <= requests + 100);
                ensure!(is_right, "{name} has not worked: {part:?}");
            }
        }
        for (name, _) in all {
            for ours in &ours {
                must_be(ours, &format!("bench={name} end"), "allocations", "0")?;
            }
        }
        Ok(())
    })
}

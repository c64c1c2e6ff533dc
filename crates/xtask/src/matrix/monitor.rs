//! Our own monitor: the models of StorVSP, NetVSP and the integration services on KVM's Hyper-V interface, under our kernel and
//! under Linux, which we did not write.

use super::hyperv::{must_be, number, with_lab};
use super::{Bench, DISK1, Outcome, must_end, must_say};
use crate::bench::guests;
use crate::guest::Transcript;
use crate::lab::Lab;
use crate::{image, tools};
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

pub const CASES: &[(&str, super::Special)] = &[
    ("monitor: disks, card, keyboard and mouse on VMBus, two queues", usual),
    ("monitor: older versions, sectors of 4096 bytes, one queue", versions),
    ("monitor: a medium that is read only, and no card", medium),
    ("monitor: the guest is asked to end", asked),
    ("monitor: Linux on the same devices", linux),
    ("monitor: what reads and writes cost", costs),
    ("monitor: what they cost Linux, and on virtio", costs_elsewhere),
];

/// Disks for a guest in `folder`: one with the tree, one to be written.
fn disks(bench: &Bench, folder: &Path) -> Result<[std::path::PathBuf; 2]> {
    let disks = [folder.join("disk0.img"), folder.join("disk1.img")];
    fs::copy(&bench.ext4, &disks[0])?;
    File::create(&disks[1])?.set_len(DISK1)?;
    let web = folder.join("web");
    image::make_tree(&web)?;
    Ok(disks)
}

/// Nothing that the models found wrong, and that they were asked.
fn must_be_right(transcript: &Transcript) -> Result<()> {
    let wrong = transcript.lines.iter().find(|line| line.contains("did wrong"));
    ensure!(wrong.is_none(), "the guest did wrong:\n{}", transcript.text());
    must_say(transcript, "monitor: hypercalls=")
}

/// What the kernel's usual work says.
fn must_have_worked(bench: &Bench, transcript: &Transcript, disk1: &Path) -> Result<()> {
    must_end(transcript, 0)?;
    must_be_right(transcript)?;
    for line in image::expected_files(&bench.tree)? {
        must_say(transcript, &line)?;
    }
    for text in ["same test=pass", "dhcp=net0 ip=10.0.2.15/24 gateway=10.0.2.2", "ping=10.0.2.2 answers=3"] {
        must_say(transcript, text)?;
    }
    must_say(transcript, "same http=/large.bin status=200")?;
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
        machine.command_line = format!("{WORK} clock timer input=30");
        let transcript = machine.run(|_| ())?;
        must_have_worked(bench, &transcript, &disk1)?;
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
            must_say(&transcript, text)?;
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
            must_say(&transcript, &format!("bus=vmbus version={version}"))?;
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
            must_say(&transcript, &line)?;
        }
        Ok(())
    })
}

fn asked(bench: &Bench) -> Result<Outcome> {
    with_lab(bench, |lab, folder, bench| {
        let mut machine = lab.monitored(&bench.kernel, folder, "--shutdown-at event=value")?;
        // Far longer than the test takes: it ends since it is asked.
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
            must_say(&transcript, text)?;
        }
        Ok(())
    })
}

fn linux(bench: &Bench) -> Result<Outcome> {
    with_lab(bench, |lab, folder, bench| {
        let [disk0, disk1] = disks(bench, folder)?;
        let (kernel, initrd) = lab.linux()?;
        // The outer machine sees the one folder.
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
        ensure!(transcript.ended == Some(0), "it ended with {:?}:\n{}", transcript.ended, transcript.text());
        must_be_right(&transcript)?;
        for text in [
            "driver=hv_storvsc channels=2",
            "driver=hv_netvsc channels=2",
            "clock=hyperv_clocksource_tsc_page",
        ] {
            must_say(&transcript, text)?;
        }
        for line in image::expected_files(&bench.tree)? {
            let line = line.replace("same ", "linux ");
            let (name, rest) = line.split_once(" size=").context("a file without a size")?;
            let (_, sum) = rest.split_once(' ').context("a file without a checksum")?;
            must_say(&transcript, &format!("{name} {sum}"))?;
        }
        // What Linux wrote is what it reads, and what is in the images: as bytes, and as a file.
        let written = transcript.value("linux written=", "written").context("nothing was written")?;
        must_be(&transcript, "linux read=", "read", written)?;
        let image = fs::read(&disk1)?;
        ensure!(image::sha256(&image[..4 << 20]) == written, "the image has not what Linux wrote");
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
        ensure!(image::sha256(&fs::read(&copy)?) == large, "the file that Linux wrote is another");
        must_be(&transcript, "linux page=", "page", &large)?;
        // The letters, Escape and the button, in whatever order the two devices are.
        let keys = transcript.value("linux keys=", "keys").context("nothing was typed")?;
        ensure!(
            keys.contains("25,30,19,30,47,23,19,20,1"),
            "something else was typed:\n{}",
            transcript.text()
        );
        ensure!(keys.split(',').any(|key| key == "272"), "nothing was clicked: {keys}");
        must_be(&transcript, "linux places=", "places", "16384,16384")?;
        must_be(&transcript, "linux address=", "address", "10.0.2.15/24")?;
        must_be(&transcript, "linux answers=", "answers", "3")?;
        ensure!(number(&transcript, "linux year=", "year")? >= 2026, "the time was not told");
        for text in [
            "monitor: Heartbeat service negotiated",
            "monitor: heartbeat 0 answered: true",
            "monitor: shutdown request accepted",
            "monitor: the guest powered off",
        ] {
            must_say(&transcript, text)?;
        }
        Ok(())
    })
}

/// What the guests of `cargo xtask bench` do, in counts.
fn costs(bench: &Bench) -> Result<Outcome> {
    with_lab(bench, |lab, folder, bench| {
        let transcript = guests::ours_on_vmbus(lab, &bench.kernel, folder)?;
        must_end(&transcript, 0)?;
        must_be_right(&transcript)?;
        for text in ["bench=boot micros=", "round-trips=done count=500", "same http=/bulk.bin status=200"] {
            must_say(&transcript, text)?;
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
            let (signals, interrupts) = part.signals.zip(part.interrupts).context("nothing was counted")?;
            ensure!(part.requests == requests && signals > 0, "{name} has not worked: {part:?}");
            // In a machine of one processor, guest and host take turns; else one may find the other's ring empty at each request.
            let batch = if matches!(lab, Lab::Nested(_)) { batch } else { 1 };
            let most = requests / batch + 20;
            ensure!(signals <= most && interrupts <= most, "{name} costs more than {most}: {part:?}");
        }
        Ok(())
    })
}

fn costs_elsewhere(bench: &Bench) -> Result<Outcome> {
    with_lab(bench, |lab, folder, bench| {
        let folders = [folder.join("linux"), folder.join("virtio")];
        folders.iter().try_for_each(fs::create_dir)?;
        let linux = guests::linux_on_vmbus(lab, &folders[0])?;
        must_be_right(&linux)?;
        let virtio = guests::ours_on_virtio(lab, &bench.kernel, &folders[1])?;
        must_end(&virtio, 0)?;
        for transcript in [&linux, &virtio] {
            must_say(transcript, "round-trips=done count=500")?;
            let parts = guests::parts(transcript);
            let all =
                [("read-depth1", 2000), ("read-depth32", 2000), ("write-depth32", 2000), ("flush", 100)];
            for (name, requests) in all {
                let part = parts.get(name).with_context(|| format!("no {name}:\n{}", transcript.text()))?;
                // One interrupt at most for each; on a slow machine, heartbeats come meanwhile.
                let is_right =
                    part.requests == requests && part.interrupts.is_some_and(|n| n <= requests + 100);
                ensure!(is_right, "{name} has not worked: {part:?}");
            }
        }
        for name in ["read-depth1", "read-depth32", "write-depth32", "flush"] {
            must_be(&virtio, &format!("bench={name} end"), "allocations", "0")?;
        }
        Ok(())
    })
}

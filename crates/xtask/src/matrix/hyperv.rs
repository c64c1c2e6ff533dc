//! The kernel on KVM's emulation of Hyper-V, with QEMU's VMBus and `hv-balloon`, and virtio devices on PCI.

use super::{Bench, DISK1, MIB, Outcome, must_contain, must_end, with_host};
use crate::guest::{Machine, Transcript};
use crate::image;
use crate::lab::Lab;
use crate::qmp::Qmp;
use crate::run::NESTED_PORT;
use crate::scratch::Scratch;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

pub const CASES: &[(&str, super::Special)] = &[
    ("hyper-v: VMBus and virtio on two processors", mixed),
    ("hyper-v: balloon inflated and deflated, memory added, on the second processor", balloon),
    ("hyper-v: memory status report read by QMP", report),
    ("hyper-v: crash report", crash),
    ("hyper-v: reset", reset),
    ("hyper-v: a hundred connections", reconnect),
    ("hyper-v: older versions", versions),
    ("hyper-v: no VMBus, and KVM's clock without Hyper-V", clocks),
    ("virtio balloon inflated and deflated, statistics, free page reports", virtio_balloon),
];

/// An assertion that fails in QEMU up to 10.0 if the guest's answer arrives while its balloon still sends the request: a defect of
/// QEMU, not of the guest.
const QEMU_ASSERTION: &str = "gpadl_iter_seek: Assertion";
/// The first parameter of the kernel's crash report: "paravirt" in ASCII.
const CRASH_MAGIC: u64 = 0x7061_7261_7669_7274;

/// Runs `work` with the lab and a folder for its files; the case is skipped if there is no lab.
pub fn with_lab(bench: &Bench, work: impl FnOnce(&Lab, &Path, &Bench) -> Result<()>) -> Result<Outcome> {
    with_host(Lab::open(), |lab, folder| work(lab, folder, bench))
}

fn mixed(bench: &Bench) -> Result<Outcome> {
    with_lab(bench, |lab, folder, bench| {
        let (disk0, disk1) = (folder.join("disk0.img"), folder.join("disk1.img"));
        std::fs::copy(&bench.ext4, &disk0)?;
        std::fs::File::create(&disk1)?.set_len(DISK1)?;
        let tree = folder.join("tree");
        image::make_tree(&tree)?;
        let mut machine = lab.machine(&bench.kernel, "pc", 2, "512M", folder)?;
        let mut port = bench.port;
        if machine.nest.is_some() {
            port = NESTED_PORT;
            machine.prepare = format!("httpd -p 127.0.0.1:{port} -h '{}'", tree.display());
        }
        for (i, disk) in [&disk0, &disk1].into_iter().enumerate() {
            machine.add(&format!("-drive file={},if=none,id=d{i},format=raw,discard=unmap", disk.display()));
            machine.add(&format!("-device virtio-blk-pci,drive=d{i},num-queues=2"));
        }
        machine.add("-netdev user,id=n0 -device virtio-net-pci,netdev=n0");
        machine.add("-device hv-balloon,id=hv0,status-report=on");
        machine.command_line = format!(
            "list balloon=4 parallel queues=1 clock timer mount=disk0 test=disk1 dhcp ping http=http://10.0.2.2:{port}/hello.txt"
        );
        let transcript = machine.run(|_| ())?;
        must_end(&transcript, 0)?;
        for text in [
            "processors=2",
            "hypervisor=hyper-v",
            "bus=vmbus version=4.0",
            "device=balloon0 at=vmbus:",
            "clock=hyper-v-page",
            "timer=host times=5 processor=1",
            "same test=pass",
            "same http=/hello.txt status=200",
        ] {
            must_contain(&transcript, text)?;
        }
        for line in image::expected_files(&tree)? {
            must_contain(&transcript, &line)?;
        }
        image::check_pattern(&disk1, DISK1)?;
        // The balloon was served while the disk was tested: it began before the test and ended after the test had begun. Which of
        // the two ended first depends on the speed of the host.
        let at = |text: &str| transcript.lines.iter().position(|line| line.starts_with(text));
        let order = [at("balloon=begin"), at("test=begin"), at("balloon=0 end")];
        ensure!(
            order.is_sorted() && order[0].is_some(),
            "the balloon was not served during the disk test:\n{}",
            transcript.text()
        );
        ensure!(
            number(&transcript, "balloon=0 end", "reports")? >= 2,
            "too few reports:\n{}",
            transcript.text()
        );
        Ok(())
    })
}

/// Checks the value of `key` in the first line that contains `line`.
pub fn must_be(transcript: &Transcript, line: &str, key: &str, value: &str) -> Result<()> {
    let found = transcript.value(line, key);
    ensure!(found == Some(value), "{key} of `{line}` is {found:?}:\n{}", transcript.text());
    Ok(())
}

/// Returns the value of `key`, a number, in the first line that contains `line`.
pub fn number(transcript: &Transcript, line: &str, key: &str) -> Result<u64> {
    let text = transcript
        .value(line, key)
        .with_context(|| format!("no {key} in `{line}`:\n{}", transcript.text()))?;
    text.parse().with_context(|| format!("{key}={text} is not a number"))
}

/// Starts `machine` and calls `work` with a QMP connection after the kernel has printed `text`. If the host hung or QEMU failed an
/// assertion, this is repeated once; a failure of the guest is not repeated.
fn with_qmp(
    machine: &Machine,
    text: &str,
    mut work: impl FnMut(&mut Qmp, &mut crate::guest::Running) -> Result<()>,
) -> Result<Transcript> {
    let socket = machine.qmp.clone().context("the machine has no QMP socket")?;
    let mut once = || {
        let _ = std::fs::remove_file(&socket);
        let mut running = machine.start()?;
        running.wait_for(text)?;
        let mut qmp = Qmp::connect(&socket)?;
        work(&mut qmp, &mut running)?;
        running.finish()
    };
    let first = once();
    let has_hung = match &first {
        Ok(transcript) => crate::guest::has_hung(transcript.ended),
        // The error contains the guest's output and the exit code of the machine.
        Err(error) => {
            let text = format!("{error:#}");
            [QEMU_ASSERTION, "did not finish in time", "lab: ended with 124", "lab: ended with 137"]
                .iter()
                .any(|sign| text.contains(sign))
        }
    };
    if has_hung {
        println!("lab: the host hung or failed, starting it again");
        return once();
    }
    first
}

/// Repeats a QMP command until `is_done` accepts its result; an error after 30 seconds.
fn until(qmp: &mut Qmp, command: &str, arguments: Value, is_done: impl Fn(&Value) -> bool) -> Result<Value> {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = qmp.execute(command, arguments.clone());
        match answer {
            Ok(value) if is_done(&value) => return Ok(value),
            answer if Instant::now() > end => bail!("{command} returns {answer:?}"),
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn actual(value: &Value) -> u64 {
    value["actual"].as_u64().unwrap_or(0)
}

/// QEMU does not request memory in the first 50 seconds after boot, so one boot tests all requests.
fn balloon(bench: &Bench) -> Result<Outcome> {
    with_lab(bench, |lab, folder, bench| {
        let mut machine = lab.machine(&bench.kernel, "q35", 2, "512M,slots=2,maxmem=80G", folder)?;
        machine.qmp = Some(folder.join("qmp"));
        machine.timeout = Duration::from_secs(400);
        machine.add("-object memory-backend-ram,id=more,size=1G");
        // Without status reports: QEMU up to 10.0 fails an assertion if one arrives while a size is being requested.
        machine.add("-device hv-balloon,id=hv0,memdev=more");
        machine.command_line = "list balloon=80".into();
        let transcript = with_qmp(&machine, "balloon=begin", |qmp, running| {
            qmp.execute("balloon", json!({ "value": 400 * MIB }))?;
            running.wait_for("balloon=0 held=28672 ")?;
            until(qmp, "query-balloon", json!({}), |v| actual(v) == 400 * MIB)?;
            qmp.execute("balloon", json!({ "value": 512 * MIB }))?;
            running.wait_for("balloon=0 held=0 ")?;
            until(qmp, "query-balloon", json!({}), |v| actual(v) == 512 * MIB)?;
            qmp.execute("balloon", json!({ "value": 768 * MIB }))?;
            running.wait_for("added=65536")?;
            until(qmp, "query-balloon", json!({}), |v| actual(v) == 768 * MIB)?;
            Ok(())
        })?;
        must_end(&transcript, 0)?;
        must_contain(&transcript, "memory=added first=0x")?;
        must_be(&transcript, "balloon=0 end", "held", "0")?;
        must_be(&transcript, "balloon=0 end", "allocations", "0")?;
        // The first channel's interrupts go to the second processor.
        must_be(&transcript, "interrupts=balloon processor=0", "count", "0")?;
        let count = number(&transcript, "interrupts=balloon processor=1", "count")?;
        ensure!((3..=60).contains(&count), "{count} interrupts:\n{}", transcript.text());
        Ok(())
    })
}

fn report(bench: &Bench) -> Result<Outcome> {
    with_lab(bench, |lab, folder, bench| {
        let mut machine = lab.machine(&bench.kernel, "q35", 1, "512M", folder)?;
        machine.qmp = Some(folder.join("qmp"));
        machine.add("-device hv-balloon,id=hv0,status-report=on");
        machine.command_line = "list balloon=6".into();
        let mut report = Value::Null;
        let transcript = with_qmp(&machine, "balloon=begin", |qmp, _| {
            report = until(qmp, "query-hv-balloon-status-report", json!({}), |v| {
                v["committed"].as_u64() > Some(0)
            })?;
            Ok(())
        })?;
        must_end(&transcript, 0)?;
        // Exactly the number of free pages that the kernel prints.
        let free = number(&transcript, "balloon=0 end", "free")?;
        ensure!(
            report["available"].as_u64() == Some(free * 4096),
            "{free} pages are free, but the report is {report}"
        );
        Ok(())
    })
}

fn crash(bench: &Bench) -> Result<Outcome> {
    with_lab(bench, |lab, folder, bench| {
        let mut machine = lab.machine(&bench.kernel, "q35", 1, "512M", folder)?;
        machine.qmp = Some(folder.join("qmp"));
        machine.add("-action panic=none");
        machine.command_line = "idle=2 crash".into();
        let mut seen = Value::Null;
        let transcript = with_qmp(&machine, "idle=begin", |qmp, _| {
            seen = qmp.event("GUEST_PANICKED")?;
            Ok(())
        })?;
        must_end(&transcript, 101)?;
        let info = &seen["data"]["info"];
        let at = transcript
            .lines
            .iter()
            .find_map(|line| line.strip_prefix("panic=")?.rsplit(':').next()?.parse().ok());
        let line: u64 = at.context("the kernel printed no line number of the panic")?;
        ensure!(info["type"] == "hyper-v", "QEMU reports {seen}");
        let values: Vec<_> = (1..=5).map(|i| info[format!("arg{i}")].as_u64().unwrap_or(u64::MAX)).collect();
        ensure!(
            values[0] == CRASH_MAGIC && values[1] == line && values[3..] == [101, 0],
            "QEMU reports {seen}"
        );
        Ok(())
    })
}

fn reset(bench: &Bench) -> Result<Outcome> {
    with_lab(bench, |lab, folder, bench| {
        let mut machine = lab.machine(&bench.kernel, "q35", 1, "512M", folder)?;
        machine.qmp = Some(folder.join("qmp"));
        machine.command_line = "idle=2 reset".into();
        let mut seen = Value::Null;
        let transcript = with_qmp(&machine, "idle=begin", |qmp, _| {
            seen = qmp.event("SHUTDOWN")?;
            Ok(())
        })?;
        must_contain(&transcript, "reset=now")?;
        ensure!(seen["data"]["reason"] == "guest-reset", "QEMU reports {seen}");
        ensure!(
            transcript.ended == Some(0),
            "QEMU ended with {:?}:\n{}",
            transcript.ended,
            transcript.text()
        );
        Ok(())
    })
}

fn reconnect(bench: &Bench) -> Result<Outcome> {
    with_lab(bench, |lab, folder, bench| {
        let mut machine = lab.machine(&bench.kernel, "q35", 2, "512M", folder)?;
        machine.add("-device hv-balloon,id=hv0,status-report=on");
        machine.command_line = "reconnect=100 list balloon=2".into();
        let transcript = machine.run(|_| ())?;
        must_end(&transcript, 0)?;
        must_be(&transcript, "reconnect=100", "different", "0")?;
        must_be(&transcript, "reconnect=100", "lost_pages", "0")?;
        ensure!(number(&transcript, "balloon=0 end", "reports")? >= 1, "no report:\n{}", transcript.text());
        Ok(())
    })
}

fn versions(bench: &Bench) -> Result<Outcome> {
    with_lab(bench, |lab, folder, bench| {
        for version in ["3.0", "2.4", "1.1"] {
            let mut machine = lab.machine(&bench.kernel, "pc", 1, "256M", folder)?;
            machine.add("-device hv-balloon,id=hv0,status-report=on");
            machine.command_line = format!("vmbus={version} list balloon=2");
            let transcript = machine.run(|_| ())?;
            must_end(&transcript, 0)?;
            must_contain(&transcript, &format!("bus=vmbus version={version}"))?;
            ensure!(
                number(&transcript, "balloon=0 end", "reports")? >= 1,
                "no report:\n{}",
                transcript.text()
            );
        }
        Ok(())
    })
}

fn clocks(bench: &Bench) -> Result<Outcome> {
    with_lab(bench, |lab, folder, bench| {
        let mut machine = lab.bare(&bench.kernel, "q35", "host", folder)?;
        machine.command_line = "list clock".into();
        let transcript = machine.run(|_| ())?;
        must_end(&transcript, 0)?;
        must_contain(&transcript, "clock=kvmclock passed_us")?;
        // The Hyper-V emulation without VMBus.
        let mut machine =
            lab.bare(&bench.kernel, "q35", "host,kvm=off,hv-vpindex,hv-synic,hv-time,hv-runtime", folder)?;
        machine.command_line = "list clock".into();
        let transcript = machine.run(|_| ())?;
        must_end(&transcript, 0)?;
        must_contain(&transcript, "clock=hyper-v-page passed_us")?;
        ensure!(
            !transcript.text().contains("bus=vmbus"),
            "VMBus was found where there is none:\n{}",
            transcript.text()
        );
        Ok(())
    })
}

fn virtio_balloon(bench: &Bench) -> Result<Outcome> {
    let folder = Scratch::new()?;
    for props in ["", ",packed=on"] {
        let mut machine = bench.machine("q35", 1);
        let socket = folder.path().join("qmp");
        machine.qmp = Some(socket.clone());
        machine.add(&format!("-device virtio-balloon-pci,id=b0,free-page-reporting=on{props}"));
        machine.command_line = "list balloon=14 report-free=64M".into();
        let transcript = with_qmp(&machine, "balloon=begin", |qmp, running| {
            let path = "/machine/peripheral/b0";
            let polling = json!({ "path": path, "property": "guest-stats-polling-interval", "value": 1 });
            qmp.execute("qom-set", polling)?;
            let stats = json!({ "path": path, "property": "guest-stats" });
            let free = |v: &Value| v["stats"]["stat-free-memory"].as_i64().unwrap_or(0);
            let before = until(qmp, "qom-get", stats.clone(), |v| free(v) > 300 << 20)?;
            qmp.execute("balloon", json!({ "value": 400 * MIB }))?;
            running.wait_for("balloon=0 held=28672 target=28672")?;
            until(qmp, "query-balloon", json!({}), |v| actual(v) == 400 * MIB)?;
            let less = free(&before) - (112 << 20);
            until(qmp, "qom-get", stats, |v| (less - (1 << 20)..=less + (1 << 20)).contains(&free(v)))?;
            qmp.execute("balloon", json!({ "value": 512 * MIB }))?;
            running.wait_for("balloon=0 held=0 ")?;
            until(qmp, "query-balloon", json!({}), |v| actual(v) == 512 * MIB)?;
            Ok(())
        })?;
        must_end(&transcript, 0)?;
        must_contain(&transcript, "balloon=0 reported=16384")?;
        must_be(&transcript, "balloon=0 end", "allocations", "0")?;
        ensure!(
            number(&transcript, "balloon=0 end", "reports")? >= 2,
            "too few reports:\n{}",
            transcript.text()
        );
    }
    Ok(Outcome::Passed)
}

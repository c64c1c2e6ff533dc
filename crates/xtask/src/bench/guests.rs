//! Disk and network in guests of one host, side by side: our kernel and Linux, on VMBus, on virtio, and on VMware's and Xen's devices.

use crate::guest::{Machine, Transcript};
use crate::lab::{Lab, Unavailable};
use crate::run::NESTED_PORT;
use crate::scratch::Scratch;
use crate::{image, kernel, serve};
use anyhow::{Result, ensure};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes of the disk, and of the file that is fetched.
const DISK: u64 = 16 << 20;
pub const FILE: usize = 16 << 20;
const REQUEST: f64 = 4096.0;
/// Runs of each guest: other work of the machine disturbs some.
const ROUNDS: usize = 3;

/// The parts on a disk, and what they are called in the table.
const PARTS: [(&str, &str); 4] = [
    ("read-depth1", "read 4 KiB, 1 at a time"),
    ("read-depth32", "read 4 KiB, 32 at a time"),
    ("write-depth32", "write 4 KiB, 32 at a time"),
    ("flush", "flush"),
];

/// Runs a guest in a folder of its own; the first path is our kernel's ELF.
type Run = fn(&Lab, &Path, &Path) -> Result<Transcript>;

/// Our kernel and Linux, as guests with the same devices on the same bus.
struct Pair {
    bus: &'static str,
    ours: Run,
    linux: Run,
}

const PAIRS: [Pair; 4] = [
    Pair { bus: "VMBus", ours: ours_on_vmbus, linux: |lab, _, folder| linux_on_vmbus(lab, folder) },
    Pair {
        bus: "virtio",
        ours: |lab, elf, folder| ours_on_qemu(lab, elf, folder, &VIRTIO),
        linux: |lab, _, folder| linux_on_qemu(lab, folder, &VIRTIO),
    },
    Pair {
        bus: "VMware's",
        ours: |lab, elf, folder| ours_on_qemu(lab, elf, folder, &VMWARE),
        linux: |lab, _, folder| linux_on_qemu(lab, folder, &VMWARE),
    },
    Pair {
        bus: "Xen's",
        ours: |lab, elf, folder| ours_on_qemu(lab, elf, folder, &XEN),
        linux: |lab, _, folder| linux_on_qemu(lab, folder, &XEN),
    },
];

/// The devices of a guest on QEMU.
pub struct Devices {
    /// What the modules of Linux' guest for them are called.
    bus: &'static str,
    /// QEMU's words for the disk of drive `d0`, and for the card.
    disk: &'static str,
    card: &'static str,
    /// The machine on the lab for a kernel, with files in a folder, that has no devices yet.
    machine: fn(&Lab, &Path, &Path) -> Result<Machine>,
}

fn bare(lab: &Lab, kernel: &Path, folder: &Path) -> Result<Machine> {
    lab.bare(kernel, "q35", "host", folder)
}

pub const VIRTIO: Devices =
    Devices { bus: "virtio", disk: "-device virtio-blk-pci,drive=d0", card: "virtio-net-pci", machine: bare };
pub const VMWARE: Devices = Devices {
    bus: "vmware",
    disk: "-device pvscsi,id=s0 -device scsi-hd,drive=d0,bus=s0.0",
    // The lab has no option ROMs.
    card: "vmxnet3,romfile=",
    machine: bare,
};
pub const XEN: Devices = Devices {
    bus: "xen",
    disk: "-device xen-disk,drive=d0,vdev=xvda",
    card: "xen-net-device",
    machine: |lab, kernel, folder| lab.xen(kernel, "q35", "", 1, "256M", folder),
};

/// What the runs of the guests of a pair printed.
struct Runs {
    bus: &'static str,
    ours: Vec<Transcript>,
    linux: Vec<Transcript>,
}

/// What became of a part.
#[derive(Copy, Clone, Debug, Default)]
pub struct Part {
    pub requests: u64,
    pub micros: u64,
    /// That the monitor took from the guest, where it counts.
    pub signals: Option<u64>,
    /// That the monitor raised, or, where it does not count, that the guest had.
    pub interrupts: Option<u64>,
}

fn number(line: &str, key: &str) -> Option<u64> {
    line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
}

/// The parts of a bench in what was printed, by name. Our monitor says what it counted at each line of the bench, in order,
/// though perhaps not right behind it.
pub fn parts(transcript: &Transcript) -> BTreeMap<String, Part> {
    let counted = |line: &&String| line.contains("monitor: counted ");
    let counts: Vec<&String> = transcript.lines.iter().filter(counted).collect();
    let lines: Vec<&String> = transcript.lines.iter().filter(|line| line.starts_with("bench=")).collect();
    let mut parts = BTreeMap::new();
    for (at, line) in lines.iter().enumerate() {
        let Some((name, rest)) = line["bench=".len()..].split_once(" end ") else { continue };
        let since = |key: &str| {
            let (before, after) = (counts.get(at.checked_sub(1)?)?, counts.get(at)?);
            number(after, key)?.checked_sub(number(before, key)?)
        };
        let part = Part {
            requests: number(rest, "requests").unwrap_or(0),
            micros: number(rest, "micros").unwrap_or(0),
            signals: since("signals"),
            interrupts: since("interrupts").or_else(|| number(rest, "interrupts")),
        };
        parts.insert(name.to_string(), part);
    }
    parts
}

/// The command line with which our kernel measures, with an echo server at port 7 of `echo` and a server of files at `port`.
fn our_words(echo: &str, port: u16) -> String {
    format!("bench=write dhcp round-trips={echo} http=http://10.0.2.2:{port}/bulk.bin")
}

/// The command line with which Linux measures disk and network on `bus`.
fn linux_words(bus: &str, echo: &str, port: u16) -> String {
    format!(
        "console=ttyS0 quiet mitigations=off nokaslr panic=-1 random.trust_cpu=on rdinit=/bench bus={bus} echo={echo}:7 \
         http=http://10.0.2.2:{port}/bulk.bin"
    )
}

/// A disk in `folder`, or in the memory of an outer machine where there is one: where it is, and how it comes there.
fn disk(is_nested: bool, folder: &Path) -> Result<(String, String)> {
    let file = folder.join("disk.img");
    File::create(&file)?.set_len(DISK)?;
    Ok(match is_nested {
        false => (file.display().to_string(), String::new()),
        true => ("/tmp/disk.img".into(), format!("\ncat '{}' > /tmp/disk.img", file.display())),
    })
}

/// The folder with the file that is fetched.
fn web(folder: &Path) -> Result<PathBuf> {
    let web = folder.join("web");
    fs::create_dir_all(&web)?;
    fs::write(web.join("bulk.bin"), image::bytes(3, FILE))?;
    Ok(web)
}

/// A kernel on our monitor.
fn monitored(lab: &Lab, kernel: &Path, folder: &Path, more: &str, words: &str) -> Result<Transcript> {
    let (disk, prepare) = disk(matches!(lab, Lab::Nested(_)), folder)?;
    let web = web(folder)?;
    let options = format!("--disk {disk} --net --web {} --count-at bench= {more}", web.display());
    let mut machine = lab.monitored(kernel, folder, &options)?;
    machine.prepare += &prepare;
    machine.command_line = words.into();
    finish(&mut machine)
}

/// Our kernel on our monitor. All files of a guest are in `folder`, which is its own.
pub fn ours_on_vmbus(lab: &Lab, elf: &Path, folder: &Path) -> Result<Transcript> {
    monitored(lab, elf, folder, "", &our_words("10.0.2.2", 80))
}

/// Linux on our monitor, with the same devices.
pub fn linux_on_vmbus(lab: &Lab, folder: &Path) -> Result<Transcript> {
    let initrd = folder.join("linux.initrd");
    let kernel = lab.linux_bench(&initrd)?;
    let words = linux_words("vmbus", "10.0.2.2", 80);
    monitored(lab, &kernel, folder, &format!("--initrd {}", initrd.display()), &words)
}

/// A kernel on QEMU, with these devices. `words` returns its command line, given the address of the echo server and the port of
/// the server of files.
fn on_qemu(
    lab: &Lab,
    (kernel, initrd): (&Path, Option<&Path>),
    folder: &Path,
    devices: &Devices,
    words: impl FnOnce(&str, u16) -> String,
) -> Result<Transcript> {
    let web = web(folder)?;
    let mut machine = (devices.machine)(lab, kernel, folder)?;
    let (disk, prepare) = disk(machine.nest.is_some(), folder)?;
    let server = if machine.nest.is_none() { Some(serve::start(&web)?) } else { None };
    let port = server.as_ref().map_or(NESTED_PORT, |server| server.port);
    machine.prepare = prepare;
    if server.is_none() {
        machine.prepare += &format!("\nhttpd -p 127.0.0.1:{port} -h '{}'", web.display());
    }
    machine.drive("d0", Path::new(&disk), "").add(devices.disk);
    machine.add("-netdev user,id=n0,guestfwd=tcp:10.0.2.100:7-cmd:cat");
    machine.add(&format!("-device {},netdev=n0", devices.card));
    if let Some(initrd) = initrd {
        machine.arguments.extend(["-initrd".into(), initrd.display().to_string()]);
    }
    machine.command_line = words("10.0.2.100", port);
    finish(&mut machine)
}

/// Our kernel on QEMU.
pub fn ours_on_qemu(lab: &Lab, elf: &Path, folder: &Path, devices: &Devices) -> Result<Transcript> {
    on_qemu(lab, (elf, None), folder, devices, our_words)
}

/// Linux on QEMU, with the same devices.
pub fn linux_on_qemu(lab: &Lab, folder: &Path, devices: &Devices) -> Result<Transcript> {
    let initrd = folder.join("linux.initrd");
    let kernel = lab.linux_bench(&initrd)?;
    let words = |echo: &str, port| linux_words(devices.bus, echo, port);
    on_qemu(lab, (&kernel, Some(&initrd)), folder, devices, words)
}

/// Runs it to its end, which must be as wanted.
fn finish(machine: &mut Machine) -> Result<Transcript> {
    machine.timeout = Duration::from_secs(600);
    let transcript = machine.run(|_| ())?;
    let is_off = machine.may_crash_at_end && transcript.text().contains("reboot: Power down");
    let has_ended = transcript.exit == Some(0) || transcript.ended == Some(0) || is_off;
    let is_wrong = transcript.lines.iter().any(|line| line.contains("did wrong"));
    let sum = format!("sha256={}", image::sha256(&image::bytes(3, FILE)));
    let has_fetched = transcript.lines.iter().any(|line| line.contains(&sum));
    ensure!(has_ended && !is_wrong && has_fetched, "it did not measure:\n{}", transcript.text());
    Ok(transcript)
}

/// The median of what `value` finds in the runs of a guest, where it finds something.
fn median(runs: &[Transcript], value: impl Fn(&Transcript) -> Option<f64>) -> Option<f64> {
    let mut found: Vec<f64> = runs.iter().filter_map(value).collect();
    found.sort_by(f64::total_cmp);
    found.get(found.len() / 2).copied()
}

/// A number with as many digits as say something.
fn shown(number: Option<f64>) -> String {
    match number {
        None => "-".into(),
        Some(number) if number >= 100.0 => format!("{number:.0}"),
        Some(number) => format!("{number:.2}"),
    }
}

/// Prints a row of the table: for each pair the medians of our kernel and of Linux, and the ratio of the first to the second.
fn row(name: &str, pairs: &[Runs], value: impl Fn(&Transcript) -> Option<f64>) {
    print!("{name:42}");
    for pair in pairs {
        let [ours, linux] = [&pair.ours, &pair.linux].map(|runs| median(runs, &value));
        let ratio = ours.zip(linux).map(|(ours, linux)| ours / linux);
        print!(" {:>16} {:>16} {:>7}", shown(ours), shown(linux), shown(ratio));
    }
    println!();
}

fn table(pairs: &[Runs]) {
    print!("{:42}", "");
    for Runs { bus, .. } in pairs {
        print!(" {:>16} {:>16} {:>7}", format!("ours on {bus}"), format!("Linux on {bus}"), "ratio");
    }
    println!();
    let said = |guest: &Transcript, line: &str, key: &str| {
        guest.value(line, key).and_then(|n| n.parse::<f64>().ok())
    };
    row("boot to the first read, ms", pairs, |guest| Some(said(guest, "bench=boot", "micros")? / 1e3));
    for (name, text) in PARTS {
        let show = |unit: &str, value: &dyn Fn(&Part) -> Option<f64>| {
            row(&format!("{text}, {unit}"), pairs, |guest| value(parts(guest).get(name)?));
        };
        let each = |count: Option<u64>, part: &Part| Some(count? as f64 / part.requests as f64);
        show("per s", &|part| Some(part.requests as f64 * 1e6 / part.micros as f64));
        if name != "flush" {
            show("MB/s", &|part| Some(part.requests as f64 * REQUEST / part.micros as f64));
        }
        show("signals each", &|part| each(part.signals, part));
        show("interrupts each", &|part| each(part.interrupts, part));
    }
    row("TCP round trips of 64 bytes, per s", pairs, |guest| {
        let line = "round-trips=done";
        Some(said(guest, line, "count")? * 1e6 / said(guest, line, "micros")?)
    });
    row("TCP, 16 MiB with their SHA-256, MB/s", pairs, |guest| {
        Some(said(guest, "http=done", "size")? / said(guest, "http=done", "micros")?)
    });
}

/// Runs the guests in turn, several times, and prints what they measured; one sentence where this machine cannot.
pub fn bench() -> Result<()> {
    println!("in guests of one host, beside Linux: the median of {ROUNDS} rounds");
    let lab = match Lab::open() {
        Ok(lab) => lab,
        Err(error) if error.is::<Unavailable>() => {
            println!("  not measured: {error}");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let elf = kernel::build()?;
    let mut pairs = PAIRS.map(|pair| Runs { bus: pair.bus, ours: vec![], linux: vec![] });
    for _ in 0..ROUNDS {
        for (pair, runs) in PAIRS.iter().zip(&mut pairs) {
            let folders = [Scratch::new()?, Scratch::new()?];
            runs.ours.push((pair.ours)(&lab, &elf, folders[0].path())?);
            runs.linux.push((pair.linux)(&lab, &elf, folders[1].path())?);
        }
    }
    table(&pairs);
    Ok(())
}

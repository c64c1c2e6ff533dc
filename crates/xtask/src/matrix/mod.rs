//! The QEMU matrix: the kernel on several machine types, queue layouts and devices.

mod bootable;
mod c_kernel;
mod hot_plug;
mod hyperv;
mod input;
mod monitor;
mod odd;
mod scsi;
mod socket;
mod vmware;
mod xen;

use crate::guest::{Machine, Transcript};
use crate::image::DISK1;
use crate::lab::Unavailable;
use crate::qmp::Qmp;
use crate::scratch::Scratch;
use crate::serve::Fixture;
use crate::toolchains::Processor;
use crate::{image, tap, toolchains, tools};
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

const MIB: u64 = 1 << 20;

/// A machine with two disks, a network card and an entropy device, on which the kernel runs its standard work.
#[derive(Copy, Clone)]
struct Usual {
    name: &'static str,
    /// The processor, unless it is x86-64.
    processor: Option<Processor>,
    machine: &'static str,
    /// Whether the devices are on MMIO.
    is_mmio: bool,
    /// Whether they have the legacy interface (version 1), which is QEMU's default.
    is_legacy: bool,
    /// Properties of every virtio device.
    props: &'static str,
    queues: u16,
    cpus: u16,
    block: u16,
    kernel: &'static str,
    /// A device property that QEMU must have; otherwise the case is skipped.
    needs: &'static str,
}

const fn usual(
    name: &'static str,
    machine: &'static str,
    props: &'static str,
    queues: u16,
    cpus: u16,
    block: u16,
) -> Usual {
    Usual {
        name,
        processor: None,
        machine,
        is_mmio: false,
        is_legacy: false,
        props,
        queues,
        cpus,
        block,
        kernel: "",
        needs: "",
    }
}

const ARM: Option<Processor> = Some(Processor::Aarch64);
const RISCV: Option<Processor> = Some(Processor::Riscv64);

const USUAL: &[Usual] = &[
    usual("q35 split", "q35", "", 4, 2, 512),
    usual("q35 packed", "q35", ",packed=on", 4, 2, 4096),
    usual("q35 packed without MSI-X", "q35", ",packed=on,vectors=0", 1, 2, 512),
    usual("pc packed, one queue", "pc", ",packed=on", 1, 1, 512),
    usual(
        "pc transitional, doorbells in an I/O BAR too, one queue",
        "pc",
        ",disable-legacy=off,disable-modern=off,modern-pio-notify=on",
        1,
        1,
        512,
    ),
    usual("pc without MSI-X, four queues", "pc", ",vectors=0", 4, 2, 4096),
    usual("q35 few messages", "q35", ",vectors=2", 4, 2, 512),
    usual("q35 direct descriptors", "q35", ",indirect_desc=off", 1, 1, 512),
    usual(
        "q35 packed, direct, no event index",
        "q35",
        ",packed=on,indirect_desc=off,event_idx=off",
        4,
        2,
        512,
    ),
    Usual { processor: ARM, ..usual("aarch64: PCI, messages", "virt", ",packed=on", 4, 2, 4096) },
    Usual {
        processor: ARM,
        ..usual(
            "aarch64: PCI, messages by the translation service of a GICv3",
            "virt,gic-version=3",
            "",
            2,
            4,
            512,
        )
    },
    Usual {
        processor: ARM,
        ..usual("aarch64: PCI, lines of a GICv3", "virt,gic-version=3,its=off", "", 2, 4, 512)
    },
    Usual { processor: ARM, is_mmio: true, ..usual("aarch64: MMIO, one processor", "virt", "", 1, 1, 512) },
    Usual {
        processor: ARM,
        is_mmio: true,
        is_legacy: true,
        ..usual("aarch64: legacy MMIO", "virt", "", 1, 2, 512)
    },
    Usual {
        processor: RISCV,
        ..usual("riscv64: PCI, messages", "virt,aia=aplic-imsic", ",packed=on", 4, 4, 4096)
    },
    Usual { processor: RISCV, ..usual("riscv64: PCI, lines of a PLIC", "virt", "", 2, 2, 512) },
    Usual {
        processor: RISCV,
        is_mmio: true,
        ..usual("riscv64: MMIO, lines by messages", "virt,aia=aplic-imsic", "", 1, 2, 512)
    },
    Usual {
        processor: RISCV,
        is_mmio: true,
        is_legacy: true,
        ..usual("riscv64: legacy MMIO, one processor", "virt", "", 1, 1, 512)
    },
    Usual {
        is_mmio: true,
        is_legacy: true,
        ..usual("microvm legacy MMIO", "microvm,acpi=on", "", 1, 2, 512)
    },
    usual("pc no event index", "pc", ",event_idx=off", 1, 1, 512),
    Usual { is_mmio: true, ..usual("microvm acpi=on", "microvm,acpi=on", "", 1, 2, 512) },
    Usual { is_mmio: true, ..usual("microvm acpi=off", "microvm,acpi=off", "", 1, 1, 4096) },
    Usual { needs: "in_order", ..usual("pc in order", "pc", ",in_order=on", 1, 1, 512) },
    Usual { needs: "in_order", ..usual("q35 packed in order", "q35", ",packed=on,in_order=on", 4, 2, 512) },
    Usual { kernel: "reenter=linux", ..usual("q35 by the 64-bit Linux boot protocol", "q35", "", 4, 2, 512) },
    Usual { kernel: "reenter=linux", ..usual("pc by the 64-bit Linux boot protocol", "pc", "", 1, 1, 512) },
    Usual { kernel: "cpus=1", ..usual("q35 one of two processors", "q35", "", 4, 2, 512) },
    Usual { kernel: "queue-size=8", ..usual("q35 small queues", "q35", "", 1, 1, 512) },
];

/// The files and the server that all cases share.
struct Bench {
    kernel: PathBuf,
    /// The kernels for other processors, or why there is none, once a case needs it.
    kernels: Mutex<Vec<(Processor, Result<PathBuf, String>)>>,
    tree: PathBuf,
    ext4: PathBuf,
    folder: PathBuf,
    port: u16,
}

enum Outcome {
    Passed,
    Skipped(String),
}

/// Calls `work` with a host and a folder for its files, or tells why there is none.
fn with_host<T>(opened: Result<T>, work: impl FnOnce(&T, &Path) -> Result<()>) -> Result<Outcome> {
    match opened {
        Ok(host) => work(&host, Scratch::new()?.path()).map(|()| Outcome::Passed),
        Err(error) if error.is::<Unavailable>() => Ok(Outcome::Skipped(format!("{error:#}"))),
        Err(error) => Err(error),
    }
}

/// A case with its own function.
type Special = fn(&Bench) -> Result<Outcome>;
type Case<'a> = (String, Box<dyn Fn() -> Result<Outcome> + Send + Sync + 'a>);

/// Runs the cases whose names contain `filter`; returns how many passed and which were skipped.
pub fn run(kernel: &Path, filter: Option<&str>) -> Result<(usize, Vec<String>)> {
    let Fixture { folder, tree, ext4, server } = Fixture::new()?;
    let bench = Bench {
        kernel: kernel.into(),
        kernels: Mutex::new(vec![]),
        tree,
        ext4,
        folder: folder.path().into(),
        port: server.port,
    };
    let mut cases: Vec<Case<'_>> = vec![];
    for (i, case) in USUAL.iter().enumerate() {
        let bench = &bench;
        cases.push((case.name.into(), Box::new(move || bench.usual(case, i))));
    }
    let special: &[(&str, Special)] = &[
        ("no disk and no network card", Bench::nothing),
        ("a read-only disk", Bench::read_only),
        ("two cards, and devices of virtio-drivers", Bench::two_cards),
        ("behind root ports and a bridge", Bench::bridges),
        ("PCI without firmware setup", Bench::bare_pci),
        ("a disk of 5 GiB", Bench::large),
        ("disk resize and link changes", Bench::events),
        ("input and output errors", Bench::errors),
        ("an echo server", Bench::echo),
        ("legacy MMIO: reconnects, SCSI, balloon", Bench::legacy),
        ("a malformed command line", Bench::bad_command_line),
        ("checksum and segmentation offload, two pairs of queues", Bench::offload),
    ];
    for (name, work) in special
        .iter()
        .chain(odd::CASES)
        .chain(c_kernel::CASES)
        .chain(hot_plug::CASES)
        .chain(scsi::CASES)
        .chain(vmware::CASES)
        .chain(input::CASES)
        .chain(socket::CASES)
        .chain(hyperv::CASES)
        .chain(monitor::CASES)
        .chain(bootable::CASES)
        .chain(xen::CASES)
    {
        let bench = &bench;
        cases.push((name.to_string(), Box::new(move || work(bench))));
    }
    cases.retain(|(name, _)| filter.is_none_or(|filter| name.contains(filter)));
    ensure!(!cases.is_empty(), "no case has `{}` in its name", filter.unwrap_or_default());
    run_cases(&cases)
}

/// Runs two cases at a time.
fn run_cases(cases: &[Case<'_>]) -> Result<(usize, Vec<String>)> {
    let next = AtomicUsize::new(0);
    let (passed, skipped, failed) = (AtomicUsize::new(0), Mutex::new(vec![]), Mutex::new(vec![]));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((name, case)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match case() {
                        Ok(Outcome::Passed) => {
                            println!("qemu: {name} ... ok");
                            passed.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(Outcome::Skipped(why)) => {
                            println!("qemu: {name} ... skipped: {why}");
                            skipped.lock().unwrap_or_else(|e| e.into_inner()).push(format!("{name}: {why}"));
                        }
                        Err(error) => {
                            println!("qemu: {name} ... FAILED\n{error:#}");
                            failed.lock().unwrap_or_else(|e| e.into_inner()).push(name.clone());
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_default();
    if !failed.is_empty() {
        bail!("{} of {} cases failed: {}", failed.len(), cases.len(), failed.join(", "));
    }
    Ok((passed.into_inner(), skipped.into_inner().unwrap_or_default()))
}

/// Checks the kernel's exit code.
fn must_end(transcript: &Transcript, code: u8) -> Result<()> {
    ensure!(
        transcript.exit == Some(code),
        "the kernel's exit code is {:?}, expected {code}:\n{}",
        transcript.exit,
        transcript.text()
    );
    Ok(())
}

/// Checks that a line of the output contains `text`.
fn must_contain(transcript: &Transcript, text: &str) -> Result<()> {
    ensure!(
        transcript.lines.iter().any(|line| line.contains(text)),
        "no `{text}` in:\n{}",
        transcript.text()
    );
    Ok(())
}

/// Checks that the search for devices, which the kernel's word `stack` measures, takes no more stack than is documented.
fn must_fit_the_stack(transcript: &Transcript) -> Result<()> {
    const MOST: u64 = 8192;
    let bytes = transcript.value("stack=probe", "bytes").and_then(|bytes| bytes.parse::<u64>().ok());
    ensure!(bytes.is_some_and(|bytes| (1000..=MOST).contains(&bytes)), "{}", transcript.text());
    Ok(())
}

impl Bench {
    fn scratch(&self, name: &str, len: u64) -> Result<PathBuf> {
        let path = self.folder.join(name);
        File::create(&path)?.set_len(len)?;
        Ok(path)
    }

    /// Returns the kernel for another processor, which is built by the first case that asks for it.
    fn kernel_for(&self, processor: Processor) -> Result<Result<PathBuf, String>> {
        let mut built = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, kernel)) = built.iter().find(|(of, _)| *of == processor) {
            return Ok(kernel.clone());
        }
        processor.need_qemu()?;
        let kernel = toolchains::kernel(processor)?;
        built.push((processor, kernel.clone()));
        Ok(kernel)
    }

    fn machine(&self, machine: &str, cpus: u16) -> Machine {
        Machine::new(&self.kernel, machine, cpus, "512M")
    }

    fn usual(&self, case: &Usual, number: usize) -> Result<Outcome> {
        if !case.needs.is_empty() && !tools::has_property("virtio-blk-pci", case.needs) {
            let why = format!("this QEMU has no {}: install QEMU 9.2 or later", case.needs);
            return Ok(Outcome::Skipped(why));
        }
        let disk1 = self.scratch(&format!("scratch{number}.img"), DISK1)?;
        let Usual { props, queues, block, is_mmio, is_legacy, .. } = *case;
        let bus = if is_mmio { "device" } else { "pci" };
        let mut machine = match case.processor {
            Some(processor) => match self.kernel_for(processor)? {
                Ok(kernel) => Machine::of_processor(processor, &kernel, case.machine, case.cpus, "512M"),
                Err(why) => return Ok(Outcome::Skipped(why)),
            },
            None => self.machine(case.machine, case.cpus),
        };
        if is_mmio {
            machine.add(&format!("-global virtio-mmio.force-legacy={is_legacy}"));
        }
        machine.drive("d0", &self.ext4, ",readonly=on");
        machine.drive("d1", &disk1, ",discard=unmap");
        let size = format!("logical_block_size={block},physical_block_size=4096");
        let mut disks: Vec<String> = (0..2)
            .map(|d| {
                format!("-device virtio-blk-{bus},drive=d{d},serial=sn{d},num-queues={queues},{size}{props}")
            })
            .collect();
        if is_mmio {
            // The last device on MMIO has the lowest address.
            disks.reverse();
        }
        disks.iter().for_each(|words| {
            machine.add(words);
        });
        machine.add(&format!("-netdev user,id=n0 -device virtio-net-{bus},netdev=n0{props}"));
        machine
            .add(&format!("-device virtio-rng-{bus}{props} -device virtio-serial-{bus}{props},max_ports=1"));
        machine.command_line = format!(
            "{} list entropy=64 mount=disk0 test=disk1 dhcp ping http=http://10.0.2.2:{}/large.bin idle=1",
            case.kernel, self.port
        );
        let transcript = machine.run(|_| ())?;
        must_end(&transcript, 0)?;
        self.must_do_the_usual(&transcript, &disk1, block)?;
        self.counts(case, &transcript)?;
        for device in ["disk0", "disk1"] {
            let line = format!("device={device} at");
            ensure!(
                transcript.value(&line, "block_size") == Some(&block.to_string()),
                "{}",
                transcript.text()
            );
        }
        must_contain(&transcript, "serial=\"sn1\"")?;
        let entry = match case.kernel {
            "reenter=linux" => "entry=linux",
            _ if case.processor.is_some() => "entry=device-tree",
            _ => "entry=pvh",
        };
        must_contain(&transcript, entry)?;
        if let Some(processor) = case.processor {
            let has_messages = !is_mmio
                && match processor {
                    Processor::Aarch64 => !case.machine.ends_with("its=off"),
                    Processor::Riscv64 => case.machine.contains("imsic"),
                };
            must_contain(&transcript, if has_messages { "signalling=messages" } else { "signalling=line" })?;
        }
        Ok(Outcome::Passed)
    }

    /// Checks the lines that are the same on every host, and what was written to `disk1`, whose blocks have `block` bytes.
    fn must_do_the_usual(&self, transcript: &Transcript, disk1: &Path, block: u16) -> Result<()> {
        must_end(transcript, 0)?;
        let mut expected = image::expected_files(&self.tree)?;
        expected.push(image::expected_page(&self.tree)?);
        expected.push(format!("same test=pass blocks={}", DISK1 / u64::from(block)));
        expected.push("same exit=0".into());
        expected.sort();
        let mut same = transcript.same();
        same.sort_unstable();
        ensure!(same == expected, "the output differs from what is expected:\n{}", transcript.text());
        image::check_pattern(disk1, DISK1)?;
        std::fs::remove_file(disk1)?;
        Ok(())
    }

    /// Checks the counts: no allocation on the data path, no interrupt while idle, and the expected processors and queues.
    fn counts(&self, case: &Usual, transcript: &Transcript) -> Result<()> {
        for pass in ["test=write", "test=read"] {
            ensure!(
                transcript.value(pass, "allocations") == Some("0"),
                "{pass} allocates:\n{}",
                transcript.text()
            );
        }
        ensure!(
            transcript.value("idle=end", "device_interrupts") == Some("0"),
            "woken while idle:\n{}",
            transcript.text()
        );
        ensure!(
            transcript.value("idle=end", "woken") == Some("0"),
            "woken while idle:\n{}",
            transcript.text()
        );
        let processors =
            if case.kernel == "cpus=1" || case.machine.ends_with("acpi=off") { 1 } else { case.cpus };
        let found = transcript.value("kernel=paravirt", "processors");
        ensure!(found == Some(&processors.to_string()), "{found:?} of {processors} processors started");
        let queues = transcript.value("test=begin", "queues").and_then(|n| n.parse::<u16>().ok());
        let wanted = case.queues.min(processors);
        ensure!(
            queues == Some(wanted),
            "the test used {queues:?} of {wanted} queues:\n{}",
            transcript.text()
        );
        Ok(())
    }

    fn nothing(&self) -> Result<Outcome> {
        let mut machine = self.machine("q35", 1);
        machine.command_line = "list idle=1".into();
        let transcript = machine.run(|_| ())?;
        must_end(&transcript, 0)?;
        ensure!(
            !transcript.text().contains("device="),
            "a device was found where there is none:\n{}",
            transcript.text()
        );
        machine.command_line = "mount=disk0".into();
        let transcript = machine.run(|_| ())?;
        must_end(&transcript, 1)?;
        must_contain(&transcript, "error=\"there is no disk0: 0 in all\"")?;
        Ok(Outcome::Passed)
    }

    fn read_only(&self) -> Result<Outcome> {
        for block in [512, 4096] {
            let mut machine = self.machine("q35", 1);
            machine.drive("d0", &self.ext4, ",readonly=on");
            let size = format!("logical_block_size={block},physical_block_size={block}");
            machine.add(&format!("-device virtio-blk-pci,drive=d0,{size}"));
            machine.command_line = "list mount=disk0 test=disk0".into();
            let transcript = machine.run(|_| ())?;
            must_end(&transcript, 1)?;
            must_contain(&transcript, "access=ro")?;
            must_contain(&transcript, "same file=/hello.txt")?;
            must_contain(&transcript, "error=\"the queues of disk0 are taken\"")
                .or(must_contain(&transcript, "disk0 is read-only"))?;
        }
        Ok(Outcome::Passed)
    }

    fn two_cards(&self) -> Result<Outcome> {
        let mut machine = self.machine("q35", 2);
        machine.add("-netdev user,id=n0,net=10.1.0.0/24 -device virtio-net-pci,netdev=n0,mac=52:54:00:00:00:01,host_mtu=1400");
        machine.add("-netdev user,id=n1 -device virtio-net-pci,netdev=n1,mac=52:54:00:00:00:02");
        machine.add("-device virtio-balloon-pci -device virtio-gpu-pci");
        machine.command_line =
            format!("list passthrough dhcp nic=net1 ping http=http://10.0.2.2:{}/hello.txt", self.port);
        let transcript = machine.run(|_| ())?;
        must_end(&transcript, 0)?;
        for text in [
            "mac=52:54:00:00:00:01 mtu=1400",
            "dhcp=net0 ip=10.1.0.15/24",
            "dhcp=net1 ip=10.0.2.15/24",
            "same http=/hello.txt status=200",
            "passthrough=\"gpu\"",
            "opened=\"gpu\"",
            "says=\"1280x800\"",
            "trust=outside",
            "device=balloon0 at=pci:",
        ] {
            must_contain(&transcript, text)?;
        }
        Ok(Outcome::Passed)
    }

    fn bridges(&self) -> Result<Outcome> {
        let mut machine = self.machine("q35", 2);
        machine.add(
            "-device pcie-root-port,id=r1,chassis=1,slot=1 -device pcie-root-port,id=r2,chassis=2,slot=2",
        );
        machine.add("-device pcie-pci-bridge,id=b1,bus=r2");
        machine.drive("d0", &self.ext4, ",readonly=on");
        machine.add("-device virtio-blk-pci,drive=d0,bus=r1 -netdev user,id=n0 -device virtio-net-pci,netdev=n0,bus=b1,addr=1");
        machine.command_line = format!("list mount=disk0 dhcp http=http://10.0.2.2:{}/hello.txt", self.port);
        let transcript = machine.run(|_| ())?;
        must_end(&transcript, 0)?;
        let at = |device: &str| transcript.value(&format!("device={device}"), "at").map(String::from);
        ensure!(at("disk0").is_some_and(|at| at != "pci:0000:00"), "{}", transcript.text());
        must_contain(&transcript, "at=pci:0000:01:00.0")?;
        must_contain(&transcript, "same http=/hello.txt status=200")?;
        Ok(Outcome::Passed)
    }

    /// ECAM only, bus numbers and BARs not assigned, MSI-X only, a device behind a root port.
    fn bare_pci(&self) -> Result<Outcome> {
        let mut machine = self.machine("microvm,acpi=on,pcie=on", 2);
        machine.add("-device pcie-root-port,id=r1,chassis=1,slot=1 -device virtio-rng-pci");
        machine.drive("d0", &self.ext4, ",readonly=on");
        machine.add(
            "-device virtio-blk-pci,drive=d0,bus=r1 -netdev user,id=n0 -device virtio-net-pci,netdev=n0",
        );
        machine.command_line =
            format!("list entropy=64 mount=disk0 dhcp http=http://10.0.2.2:{}/large.bin idle=1", self.port);
        let transcript = machine.run(|_| ())?;
        must_end(&transcript, 0)?;
        must_contain(&transcript, "device=disk0 at=pci:0000:01:00.0")?;
        must_contain(&transcript, "same http=/large.bin status=200")?;
        must_contain(&transcript, "idle=end woken=0 device_interrupts=0")?;
        Ok(Outcome::Passed)
    }

    fn large(&self) -> Result<Outcome> {
        let len = 5 << 30;
        let disk = self.scratch("large.img", len)?;
        let mut machine = self.machine("q35", 1);
        machine.drive("d0", &disk, "").add("-device virtio-blk-pci,drive=d0");
        machine.command_line = "test=disk0 stride=64M".into();
        let transcript = machine.run(|_| ())?;
        must_end(&transcript, 0)?;
        must_contain(&transcript, &format!("same test=pass blocks={}", len / 512))?;
        std::fs::remove_file(&disk)?;
        Ok(Outcome::Passed)
    }

    fn events(&self) -> Result<Outcome> {
        let disk = self.scratch("grows.img", 8 * MIB)?;
        let socket = self.folder.join("qmp");
        let mut machine = self.machine("q35", 2);
        machine.drive("d0", &disk, "").add("-device virtio-blk-pci,drive=d0");
        machine.add("-netdev user,id=n0 -device virtio-net-pci,netdev=n0");
        machine.qmp = Some(socket.clone());
        machine.command_line = "idle=8".into();
        let mut running = machine.start()?;
        running.wait_for("idle=begin")?;
        let mut qmp = Qmp::connect(&socket)?;
        qmp.execute("block_resize", json!({ "device": "d0", "size": 12 * MIB }))?;
        running.wait_for(&format!("event=capacity device=disk0 blocks={}", 12 * MIB / 512))?;
        qmp.execute("set_link", json!({ "name": "n0", "up": false }))?;
        running.wait_for("event=link device=net0 link=down")?;
        qmp.execute("set_link", json!({ "name": "n0", "up": true }))?;
        running.wait_for("event=link device=net0 link=up")?;
        must_end(&running.finish()?, 0)?;
        Ok(Outcome::Passed)
    }

    fn errors(&self) -> Result<Outcome> {
        let disk = self.scratch("errors.img", 8 * MIB)?;
        for event in ["write_aio", "read_aio"] {
            let rules = self.folder.join(format!("{event}.conf"));
            std::fs::write(
                &rules,
                format!("[inject-error]\nevent = \"{event}\"\nerrno = \"5\"\nsector = \"4096\"\n"),
            )?;
            let mut machine = self.machine("q35", 2);
            let file = format!("file=blkdebug:{}:{},format=raw", rules.display(), disk.display());
            machine.add(&format!(
                "-drive {file},if=none,id=d0,werror=report,rerror=report -device virtio-blk-pci,drive=d0"
            ));
            machine.command_line = "test=disk0 queues=1".into();
            let transcript = machine.run(|_| ())?;
            must_end(&transcript, 1)?;
            must_contain(&transcript, "the device reports an error")?;
        }
        Ok(Outcome::Passed)
    }

    fn echo(&self) -> Result<Outcome> {
        // The port is free now; it is assumed to be free until QEMU binds it.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut machine = self.machine("q35", 2);
        machine.add(&format!(
            "-netdev user,id=n0,hostfwd=tcp:127.0.0.1:{port}-:7 -device virtio-net-pci,netdev=n0"
        ));
        machine.command_line = "dhcp echo=7".into();
        let mut running = machine.start()?;
        running.wait_for("echo=listening")?;
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(std::time::Duration::from_secs(60)))?;
        let sent = image::bytes(7, 200_000);
        let mut back = vec![];
        let mut writer = stream.try_clone()?;
        std::thread::scope(|scope| -> Result<()> {
            let writing = scope
                .spawn(|| writer.write_all(&sent).and_then(|()| writer.shutdown(std::net::Shutdown::Write)));
            stream.read_to_end(&mut back).context("reading the echo")?;
            writing.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
            Ok(())
        })?;
        ensure!(back == sent, "{} of {} bytes were echoed", back.len(), sent.len());
        must_end(&running.finish()?, 0)?;
        Ok(Outcome::Passed)
    }

    /// The devices that the usual legacy cases do not have, and resets.
    fn legacy(&self) -> Result<Outcome> {
        let mut machine = self.machine("microvm,acpi=on", 1);
        machine.add("-global virtio-mmio.force-legacy=true");
        machine.drive("d0", &self.ext4, ",readonly=on");
        machine.drive("d1", &self.ext4, ",readonly=on");
        machine.add("-device virtio-scsi-device -device scsi-hd,drive=d1");
        machine.add("-device virtio-balloon-device -device virtio-blk-device,drive=d0");
        machine.command_line = "reconnect=3 list mount=disk0 mount=disk1 balloon bench".into();
        let transcript = machine.run(|_| ())?;
        must_end(&transcript, 0)?;
        must_contain(&transcript, "different=0 lost_pages=0")?;
        Ok(Outcome::Passed)
    }

    fn bad_command_line(&self) -> Result<Outcome> {
        let mut machine = self.machine("q35", 1);
        machine.command_line = "mount=floppy0".into();
        let transcript = machine.run(|_| ())?;
        must_end(&transcript, 2)?;
        must_contain(&transcript, "error=\"mount=floppy0 cannot be read\"")?;
        Ok(Outcome::Passed)
    }

    fn offload(&self) -> Result<Outcome> {
        match tap::obstacle() {
            Some(why) => Ok(Outcome::Skipped(why)),
            None => {
                let card = tap::Card {
                    name: "virtio-net-pci",
                    properties: ",mq=on,vectors=6",
                    kernel: "",
                    offloads: &["TX_CHECKSUM", "TX_TCP4", "RX_CHECKSUM", "RX_TCP4"],
                    mtu: 1500,
                    has_two_queues: true,
                };
                tap::run(&self.kernel, &self.tree, &card).map(|()| Outcome::Passed)
            }
        }
    }
}

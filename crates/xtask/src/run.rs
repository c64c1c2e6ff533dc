//! `cargo xtask run`: boots the kernel on one host or on all, and checks its output.

pub mod xen;

use crate::guest::{Machine, Monitor, Transcript};
use crate::image::DISK1;
use crate::lab::{Lab, Unavailable};
use crate::serve::Fixture;
use crate::toolchains::Processor;
use crate::{efi, image, kernel, openvmm, toolchains, tools};
use anyhow::{Context, Error, Result, bail, ensure};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Copy, Clone, Debug, Eq, PartialEq, ValueEnum)]
enum Host {
    /// QEMU with virtio devices
    Qemu,
    /// `paravirt-monitor` on KVM's emulation of Hyper-V, with disks and network card on VMBus; in a nested VM if this machine's KVM
    /// lacks the emulation
    Hyperv,
    /// QEMU with the devices of VMware: a SCSI adapter (pvscsi) and a network card (vmxnet3)
    Vmware,
    /// QEMU with Xen's devices, on KVM's emulation of Xen; in a nested VM if this machine's KVM lacks it
    Xen,
    /// Xen 4.17 with a Linux as its first domain, in an emulated machine: the kernel is a guest of kind PVH
    XenReal,
    /// Microsoft's OpenVMM on KVM, with disks and network card on VMBus; OPENVMM names the binary
    Openvmm,
}

#[derive(Copy, Clone, Debug, Eq, PartialEq, ValueEnum)]
enum Arch {
    /// 64-bit x86
    #[value(name = "x86_64")]
    X86_64,
    /// 64-bit ARM
    Aarch64,
    /// 64-bit RISC-V
    Riscv64,
}

impl Arch {
    /// The processor, if it is not the machine's.
    fn other(self) -> Option<Processor> {
        match self {
            Self::X86_64 => None,
            Self::Aarch64 => Some(Processor::Aarch64),
            Self::Riscv64 => Some(Processor::Riscv64),
        }
    }
}

#[derive(Args)]
pub struct Options {
    /// Host to boot on; by default QEMU with virtio, a Hyper-V host, QEMU with VMware's devices, and QEMU with Xen's, whose outputs are compared
    #[arg(long, value_enum)]
    host: Option<Host>,
    /// Processor of the machine; on another one than x86-64 the host is QEMU
    #[arg(long, value_enum, default_value_t = Arch::X86_64)]
    arch: Arch,
    /// Boot by UEFI, with ACPI, on aarch64
    #[arg(long)]
    uefi: bool,
    /// Machine type of QEMU: q35, pc, microvm, for other processors virt, or one of these with options [default: q35, or virt]
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    machine: Option<String>,
    /// Size of memory, such as 512M or 2G: 16M to 1024G
    #[arg(long, default_value = "512M", value_parser = mebibytes)]
    memory: u64,
    /// Number of processors, 1 to 64
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    cpus: u16,
    /// Number of queues of each device, at most 8 for each processor, and 8 on VMBus
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    queues: u16,
    /// Use packed virtqueues
    #[arg(long)]
    packed: bool,
    /// Raw disk image to use as disk0 instead of a generated one
    #[arg(long, value_name = "FILE")]
    disk: Option<PathBuf>,
    /// Leave out the network card
    #[arg(long)]
    no_nic: bool,
    /// Command line of the kernel, instead of reading disk0, testing disk1 and fetching a file
    #[arg(long, value_name = "OPTIONS")]
    args: Option<String>,
    /// Kernel to boot instead of the example kernel
    #[arg(long, value_name = "ELF")]
    kernel: Option<PathBuf>,
    /// More options for the command line of QEMU, OpenVMM or paravirt-monitor
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true)]
    qemu: Option<String>,
    /// Seconds after which the guest is stopped, at most a day
    #[arg(long, default_value_t = 180, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

/// The port at which the outer machine serves files.
pub const NESTED_PORT: u16 = 8080;

pub fn run(options: &Options) -> Result<()> {
    match (options.host, options.arch) {
        (Some(host), _) => on(options, host).map(drop),
        (None, Arch::X86_64) => all(options),
        (None, _) => on(options, Host::Qemu).map(drop),
    }
}

impl Host {
    fn name(self) -> &'static str {
        match self {
            Self::Qemu => "QEMU with virtio",
            Self::Vmware => "QEMU with VMware's devices",
            Self::Hyperv => "paravirt-monitor on KVM",
            Self::Xen => "QEMU with Xen's devices, on KVM",
            Self::XenReal => "Xen",
            Self::Openvmm => "OpenVMM",
        }
    }

    /// The family of drivers, which is the head of its column.
    fn family(self) -> &'static str {
        match self {
            Self::Qemu => "virtio",
            Self::Vmware => "vmware",
            Self::Hyperv | Self::Openvmm => "hyper-v",
            Self::Xen | Self::XenReal => "xen",
        }
    }

    /// Whether it is QEMU with devices of its own.
    fn is_qemu(self) -> bool {
        matches!(self, Self::Qemu | Self::Vmware)
    }
}

/// Boots the same kernel on a host of each family, and compares the output. The Hyper-V host is OpenVMM if `OPENVMM` is set, otherwise
/// `paravirt-monitor` on KVM.
fn all(options: &Options) -> Result<()> {
    let has_openvmm = std::env::var_os("OPENVMM").is_some_and(|path| !path.is_empty());
    let hosts = [Host::Qemu, if has_openvmm { Host::Openvmm } else { Host::Hyperv }, Host::Vmware, Host::Xen];
    let (mut columns, mut missing) = (vec![], vec![]);
    for (number, host) in (1..).zip(hosts) {
        println!("host {number} of {}: {}", hosts.len(), host.name());
        match on(options, host) {
            Ok(transcript) => columns.push((host.family(), transcript)),
            Err(error) if error.is::<Unavailable>() => {
                println!("{} is unavailable: {error}", host.name());
                missing.push(format!("{} ({error})", host.family()));
            }
            Err(error) => return Err(error.context(host.name())),
        }
    }
    compare(&columns)?;
    if !missing.is_empty() {
        println!("not compared: {}", missing.join(", "));
    }
    Ok(())
}

/// Prints the lines that are to be the same on every host, with a column for each that says whether they are.
fn compare(columns: &[(&str, Transcript)]) -> Result<()> {
    const WIDTH: usize = 72;
    let lines: Vec<Vec<&str>> = columns.iter().map(|(_, transcript)| transcript.same()).collect();
    let Some(first) = lines.first() else { bail!("no host is available") };
    let longest = lines.iter().map(Vec::len).max().unwrap_or(0);
    let heads: String = columns.iter().map(|(family, _)| format!("{family:>9}")).collect();
    println!("{:WIDTH$}{heads}", "");
    let mut differences = vec![];
    for at in 0..longest {
        let wanted = first.get(at).copied();
        let mut signs = String::new();
        for ((family, _), lines) in columns.iter().zip(&lines) {
            let line = lines.get(at).copied();
            signs += &format!("{:>9}", if line == wanted { "=" } else { "!" });
            if line != wanted {
                differences.push(format!("  {family}: {}", line.unwrap_or("(no line)")));
            }
        }
        let text: String = wanted.unwrap_or("(no line)").chars().take(WIDTH).collect();
        println!("{text:WIDTH$}{signs}");
    }
    ensure!(differences.is_empty(), "the outputs differ from the first column:\n{}", differences.join("\n"));
    println!("verdict: identical, {longest} lines on {} hosts", columns.len());
    Ok(())
}

/// Boots the kernel on a host and checks its output.
fn on(options: &Options, host: Host) -> Result<Transcript> {
    check(options, host)?;
    let openvmm = match host {
        Host::Openvmm => Some(openvmm::binary()?),
        _ => None,
    };
    let other = options.arch.other();
    other.map_or_else(tools::need_qemu, Processor::need_qemu)?;
    println!("building the kernel");
    let elf = match (&options.kernel, other) {
        (Some(path), _) => path.clone(),
        (None, Some(processor)) => toolchains::kernel(processor)?.map_err(Error::msg)?,
        (None, None) => kernel::build()?,
    };
    let Fixture { folder, tree, ext4: disk0, server } = Fixture::new()?;
    let (elf, firmware) = if options.uefi {
        let (firmware, image) = (efi::firmware()?, folder.path().join("kernel.efi"));
        efi::write(&elf, &image)?;
        (image, Some(firmware))
    } else {
        (elf, None)
    };
    let disk1 = folder.path().join("disk1.img");
    std::fs::File::create(&disk1)?.set_len(DISK1)?;

    let kind = options.machine.as_deref().unwrap_or(if other.is_some() { "virt" } else { "q35" });
    let is_mmio = kind.starts_with("microvm");
    let bus = if is_mmio { "device" } else { "pci" };
    let mut props = if options.packed { ",packed=on" } else { "" }.to_string();
    let queues = if options.queues > 1 { format!(",num-queues={}", options.queues) } else { String::new() };
    let memory = format!("{}M", options.memory);
    let mut machine = match host {
        Host::Qemu | Host::Vmware => match other {
            Some(processor) => Machine::of_processor(processor, &elf, kind, options.cpus, &memory),
            None => Machine::new(&elf, kind, options.cpus, &memory),
        },
        Host::Xen => return xen::on_kvm(options, &elf, &tree, [&disk0, &disk1], server.port),
        Host::XenReal => return xen::on_xen(options, &elf, &tree, &disk0),
        Host::Hyperv => return on_monitor(options, &elf, &tree, [&disk0, &disk1]),
        Host::Openvmm => Lab::open()?.bare(&elf, "q35", "host", folder.path())?,
    };
    if let Some(binary) = &openvmm {
        return on_openvmm(options, binary, machine, &tree, [&disk0, &disk1]);
    }
    firmware.into_iter().for_each(|path| {
        machine.add(&format!("-bios {path}"));
    });
    if is_mmio {
        machine.add("-global virtio-mmio.force-legacy=false");
        props = String::new();
    }
    let first = options.disk.as_ref().unwrap_or(&disk0);
    machine.drive("d0", first, ",readonly=on").drive("d1", &disk1, ",discard=unmap");
    let mut devices = if host == Host::Vmware {
        let disk = |n: u32| format!("-device scsi-hd,bus=s0.0,scsi-id={n},drive=d{n},serial=paravirt{n}");
        vec!["-device pvscsi,id=s0".to_string(), disk(0), disk(1)]
    } else {
        let disk = |n: u32| format!("-device virtio-blk-{bus},drive=d{n},serial=paravirt{n}{queues}{props}");
        let rng = format!("-device virtio-rng-{bus}{props}");
        // On microvm the last device has the lowest address.
        if is_mmio { vec![disk(1), disk(0), rng] } else { vec![disk(0), disk(1), rng] }
    };
    if !options.no_nic {
        let card = if host == Host::Vmware { "vmxnet3".into() } else { format!("virtio-net-{bus}") };
        devices.push(format!("-netdev user,id=n0 -device {card},netdev=n0{props}"));
    }
    for words in &devices {
        machine.add(words);
    }
    options.qemu.iter().for_each(|words| {
        machine.add(words);
    });
    let page = format!("http://10.0.2.2:{}/large.bin", server.port);
    let network = if options.no_nic { String::new() } else { format!(" dhcp ping http={page}") };
    let entropy = if host == Host::Vmware { "" } else { " entropy=64" };
    let usual = format!("list{entropy} mount=disk0 test=disk1{network}");
    boot(options, host, machine, usual, &tree, &disk1)
}

/// Boots the kernel on a machine, with this command line unless the user gives another one, and checks its output.
fn boot(
    options: &Options,
    host: Host,
    mut machine: Machine,
    usual: String,
    tree: &Path,
    disk1: &Path,
) -> Result<Transcript> {
    machine.command_line = options.args.clone().unwrap_or(usual);
    machine.timeout = Duration::from_secs(options.timeout);
    println!("booting: {}", machine.command_line);
    let transcript = machine.run(|line| println!("  {line}"))?;
    verify(options, host, &transcript, tree, || image::check_pattern(disk1, DISK1))?;
    Ok(transcript)
}

/// Copies the disk that the user gives, if there is one, to the folder of `disk0`: a nested machine has only that.
fn bring_disk(options: &Options, disk0: &Path) -> Result<()> {
    if let Some(disk) = &options.disk {
        std::fs::copy(disk, disk0).with_context(|| format!("cannot copy {}", disk.display()))?;
    }
    Ok(())
}

/// Boots the kernel on `paravirt-monitor` and checks its output.
fn on_monitor(options: &Options, elf: &Path, tree: &Path, disks: [&PathBuf; 2]) -> Result<Transcript> {
    let [disk0, disk1] = disks;
    let folder = disk0.parent().context("the disk image has no folder")?;
    bring_disk(options, disk0)?;
    let Options { cpus, queues, .. } = options;
    let network = if options.no_nic { String::new() } else { format!("--net --web {}", tree.display()) };
    let words = format!(
        "--cpus {cpus} --memory {} --queues {queues} --disk {},ro --disk {} {network} {}",
        options.memory,
        disk0.display(),
        disk1.display(),
        options.qemu.as_deref().unwrap_or_default(),
    );
    let machine = Lab::open()?.monitored(elf, folder, &words)?;
    let network = if options.no_nic { "" } else { " dhcp ping http=http://10.0.2.2/large.bin" };
    let usual = format!("list mount=disk0 test=disk1{network} clock");
    boot(options, Host::Hyperv, machine, usual, tree, disk1)
}

/// Converts a size in QEMU's notation to MiB.
fn mebibytes(text: &str) -> Result<u64, String> {
    let (number, unit) = text.split_at(text.trim_end_matches(char::is_alphabetic).len());
    let scale = match unit {
        "" | "M" => 1,
        "G" => 1024,
        _ => 0,
    };
    let size = number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale));
    size.filter(|size| (16..=1 << 20).contains(size))
        .ok_or_else(|| "a size is 16M to 1024G, such as 512M or 2G".into())
}

/// Returns why a machine with these options has no devices of VMware, if so.
fn obstacle_to_vmware(options: &Options) -> Option<&'static str> {
    match options.machine.as_deref() {
        _ if options.packed => Some("VMware's devices have no virtqueues: leave out --packed"),
        Some(machine) if machine.starts_with("microvm") => {
            Some("VMware's devices are on PCI, which microvm does not have: use --machine q35 or pc")
        }
        _ => None,
    }
}

/// Checks the options together, and the files that they name, before anything is built.
fn check(options: &Options, host: Host) -> Result<()> {
    let Options { cpus, queues, .. } = *options;
    if let (Host::Vmware, Some(why)) = (host, obstacle_to_vmware(options)) {
        return Err(Unavailable(why.into()).into());
    }
    ensure!(
        queues == 1 || queues <= cpus * 8,
        "{queues} queues are too many for {cpus} processors: use at most 8 per processor"
    );
    ensure!(
        !options.uefi || options.arch == Arch::Aarch64,
        "only the kernel for aarch64 is an application of UEFI: add --arch aarch64, or use `cargo xtask image` on x86_64"
    );
    ensure!(
        host == Host::Qemu || options.arch == Arch::X86_64,
        "there is no such host for this processor: leave out --host, or use --host qemu"
    );
    ensure!(host.is_qemu() || queues <= 8, "{queues} queues are too many on VMBus: use at most 8");
    if host == Host::XenReal {
        ensure!(
            options.machine.is_none() && !options.packed,
            "a guest of kind PVH has neither a machine type nor virtqueues: leave out --machine and --packed"
        );
        ensure!(
            options.memory <= 1024 && cpus <= 8,
            "a guest of this Xen has at most 1024M and 8 processors"
        );
    }
    for file in options.disk.iter().chain(&options.kernel) {
        ensure!(file.is_file(), "{} is not a file", file.display());
    }
    if let Some(disk) = &options.disk {
        let len = disk.metadata()?.len();
        ensure!(
            len > 0 && len.is_multiple_of(512),
            "{} has {len} bytes: a disk image has a positive multiple of 512",
            disk.display()
        );
    }
    if let Some(kernel) = &options.kernel {
        let bytes = std::fs::read(kernel).with_context(|| format!("cannot read {}", kernel.display()))?;
        let is_linux = bytes.get(0x202..0x206) == Some(b"HdrS");
        ensure!(
            bytes.starts_with(b"\x7fELF") || is_linux,
            "{} is no kernel: give an ELF file, for x86_64 with a PVH note, or a bzImage",
            kernel.display()
        );
    }
    Ok(())
}

/// Boots the kernel on OpenVMM and checks its output.
fn on_openvmm(
    options: &Options,
    binary: &Path,
    mut machine: Machine,
    tree: &Path,
    disks: [&PathBuf; 2],
) -> Result<Transcript> {
    let [disk0, disk1] = disks;
    let folder = disk0.parent().context("the disk image has no folder")?;
    let is_nested = machine.nest.is_some();
    // The outer machine serves files at the gateway's address, which is added to its loopback interface.
    let has_page = is_nested && !options.no_nic;
    if is_nested {
        let (gateway, port, tree) = (openvmm::GATEWAY, NESTED_PORT, tree.display());
        // OpenVMM's network does not start without a name server.
        let name_server = "mkdir -p /etc; echo nameserver 127.0.0.1 > /etc/resolv.conf";
        let page = format!("ip addr add {gateway}/32 dev lo; httpd -p {gateway}:{port} -h '{tree}'");
        machine.prepare = format!("{name_server}; {page}");
    }
    let mut network = if options.no_nic { String::new() } else { " dhcp ping".to_string() };
    if has_page {
        network += &format!(" http=http://{}:{NESTED_PORT}/large.bin", openvmm::GATEWAY);
    }
    let usual = format!("list mount=disk0 test=disk1{network} clock");
    let command_line = options.args.clone().unwrap_or(usual);
    let guest = openvmm::Guest {
        kernel: &machine.kernel,
        command_line: &command_line,
        cpus: options.cpus,
        memory: &format!("{}M", options.memory),
        disks: &[(options.disk.as_ref().unwrap_or(disk0), true), (disk1, false)],
        has_network: !options.no_nic,
        more: options.qemu.as_deref().unwrap_or_default(),
    };
    openvmm::prepare(binary, folder, &guest)?;
    machine.monitor = Monitor::Script(folder.join(openvmm::SCRIPT));
    machine.timeout = Duration::from_secs(options.timeout);
    println!("booting: {command_line}");
    let transcript = machine.run(|line| println!("  {line}"))?;
    verify(options, Host::Openvmm, &transcript, tree, || image::check_pattern(disk1, DISK1))?;
    Ok(transcript)
}

/// Checks the kernel's exit code, its output, and by `check_disk1` what it wrote to disk1.
fn verify(
    options: &Options,
    host: Host,
    transcript: &Transcript,
    tree: &Path,
    check_disk1: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let code = transcript.exit.with_context(|| match transcript.ended {
        Some(code) => format!(
            "the kernel did not end by itself: the host ended with code {code}, for the reason in its last lines above"
        ),
        None => "the kernel did not end by itself: the host was stopped by a signal".into(),
    })?;
    if code != 0 {
        bail!("the kernel's exit code is {code}");
    }
    if options.args.is_none() {
        let mut expected = if options.disk.is_none() { image::expected_files(tree)? } else { vec![] };
        let has_page = transcript.lines.iter().any(|line| line.starts_with("http=done"));
        if !options.no_nic && (has_page || host != Host::Openvmm) {
            expected.push(image::expected_page(tree)?);
        }
        for line in &expected {
            if !transcript.lines.contains(line) {
                bail!("missing in the kernel's output: {line}");
            }
        }
        let words: &[&str] = match host {
            Host::Hyperv => &["bus=vmbus version=", "device=disk0 at=vmbus:", "clock=hyper-v"],
            Host::Vmware if options.no_nic => &["ring=pvscsi"],
            Host::Vmware => &["ring=pvscsi", "ring=vmxnet3"],
            Host::Xen | Host::XenReal => &["hypervisor=xen", "device=disk0 at=xen:vbd/", "clock=xen"],
            _ => &[],
        };
        for text in words {
            if !transcript.text().contains(text) {
                bail!("missing in the kernel's output: {text}");
            }
        }
        check_disk1()?;
        println!("verdict: {} lines are as expected, and disk1 has the test's pattern", expected.len());
    } else {
        println!("verdict: the kernel's exit code is 0");
    }
    Ok(())
}

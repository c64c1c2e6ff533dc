//! Real Xen under QEMU's emulation of a processor with AMD's virtualisation, from Debian's packages: the hypervisor, and a first domain with
//! xl, xenstored and Linux' backends of disks and network cards.

use super::build::{self, add_program_with, library_folders, newest_kernel, package_named, system, unpack};
use super::{Unavailable, device_model};
use crate::guest::Machine;
use crate::tools;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the first domain needs besides the hypervisor and its utilities.
const PACKAGES: &[&str] = &[
    "xenstore-utils",
    "libxencall1",
    "libxenevtchn1",
    "libxenforeignmemory1",
    "libxengnttab1",
    "libxenmisc",
    "libxenstore4",
    "libxentoollog1",
    "libxentoolcore1",
    "libxendevicemodel1",
    "libxenhypfs1",
    "libyajl2",
];
const PROGRAMS: &[&str] = &[
    "xl",
    "xenstored",
    "xenconsoled",
    "xenconsole",
    "xen-init-dom0",
    "libxl-save-helper",
    "xenstore-read",
    "xenstore-write",
    "xenstore-ls",
];
const MODULES: &[(&str, &[&str])] = &[(
    "order",
    &[
        "xen_evtchn",
        "xen_gntdev",
        "xen_gntalloc",
        "xen_privcmd",
        "xenfs",
        "xen_netback",
        "xen_blkback",
        "loop",
        "bridge",
        "tun",
    ],
)];
const COMMANDS: &[&str] = &[
    "sh",
    "mount",
    "insmod",
    "mkdir",
    "rmdir",
    "cat",
    "echo",
    "ifconfig",
    "brctl",
    "httpd",
    "truncate",
    "losetup",
    "stat",
    "sleep",
    "usleep",
    "cut",
    "grep",
    "sed",
    "tail",
    "ln",
    "cp",
    "rm",
    "dd",
    "poweroff",
    "test",
    "awk",
    "ls",
    "tr",
    "sha256sum",
    "timeout",
    "dmesg",
];
const INIT: &str = include_str!("xen-dom0.sh");
const BLOCK: &str = include_str!("xen-block.sh");
const GUEST: &str = include_str!("xen-guest.sh");
const VIF: &str = include_str!("xen-vif.sh");
/// Xen's choice of what it intercepts, with the reads of CR0 among it, and without. QEMU up to 10.0 takes a read of any control register for
/// one of CR0 there, and Xen 4.17 emulates that read with a stale CR2: no guest that has a page fault would live.
const INTERCEPTS: [&[u8]; 2] =
    [&[0x48, 0xc7, 0x03, 0xfb, 0xfe, 0xfb, 0xfe], &[0x48, 0xc7, 0x03, 0xfa, 0xfe, 0xfb, 0xfe]];

/// Without XSAVE, and so without AVX: under QEMU 10.0 the registers of SSE and AVX of guests and of the first domain's processes get mixed up
/// when Xen switches between them on demand (lazily). A process crashes then, or a sum is wrong: one guest in ten did that. Xen is told to
/// switch eagerly, too.
const PROCESSOR: &str = "tcg,thread=multi,tb-size=1024 \
     -cpu EPYC,-monitor,-xsave,-xsaveopt,-xsavec,-xgetbv1,-avx,-avx2,-fma,-f16c";

/// The files of the machine.
pub struct RealXen {
    xen: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
    /// QEMU for the first domain, if guests need it.
    device_model: Option<PathBuf>,
}

impl RealXen {
    /// Builds the files, unless they are up to date.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] if this machine cannot run it; other errors are faults.
    pub fn open() -> Result<Self> {
        tools::need_qemu()?;
        build::check_distribution()?;
        let (folder, _lock) = folder()?;
        let this = Self {
            xen: folder.join("xen"),
            kernel: folder.join("vmlinuz"),
            initrd: folder.join("initrd"),
            device_model: None,
        };
        let rest =
            format!("{PACKAGES:?}{PROGRAMS:?}{MODULES:?}{COMMANDS:?}\n{INIT}\n{BLOCK}\n{VIF}\n{GUEST}");
        let stamp = folder.join("stamp");
        let is_built = [&this.xen, &this.kernel, &this.initrd].iter().all(|file| file.is_file());
        if is_built && fs::read_to_string(&stamp).is_ok_and(|old| old == rest) {
            return Ok(this);
        }
        let _ = fs::remove_file(&stamp);
        this.build(&folder)?;
        fs::write(&stamp, rest)?;
        Ok(this)
    }

    /// Lets the first domain have QEMU: for guests with a BIOS, and for disks that QEMU serves.
    pub fn with_device_model(self) -> Result<Self> {
        let (folder, _lock) = folder()?;
        let (_, version) = hypervisor()?;
        let archive = device_model::build(&folder, &format!("xen-utils-{version}"))?;
        Ok(Self { device_model: Some(archive), ..self })
    }

    fn build(&self, folder: &Path) -> Result<()> {
        let linux = newest_kernel()?;
        let (hypervisor, version) = hypervisor()?;
        println!("lab: building a machine with Xen {version} from {hypervisor} and {linux}");
        let all = folder.join("packages");
        let _ = fs::remove_dir_all(&all);
        fs::create_dir_all(&all)?;
        let kernel = unpack(&all, &linux)?;
        let busybox = unpack(&all, "busybox-static")?;
        let mut roots = vec![unpack(&all, &hypervisor)?, unpack(&all, &format!("xen-utils-{version}"))?];
        for name in PACKAGES {
            // Some have the version in their names, or another ending on later systems.
            let package = package_named(name, "")?.with_context(|| format!("apt has no package {name}"))?;
            roots.push(unpack(&all, &package)?);
        }
        let image = find(&roots[0], &|name| name.starts_with("xen-") && name.ends_with(".gz"))
            .context("the package has no hypervisor")?;
        let xen = tools::filter("gzip", &["-dc"], &fs::read(image)?)?;
        fs::write(&self.xen, without_cr0(xen))?;
        let image =
            find(&kernel, &|name| name.starts_with("vmlinuz-")).context("the package has no kernel")?;
        fs::copy(image, &self.kernel)?;
        fs::write(&self.initrd, first_domain(&kernel, &busybox, &roots)?)?;
        fs::remove_dir_all(all)?;
        Ok(())
    }

    /// Creates the machine, whose first domain runs `script` with `files` beside it. All files are written to `share`.
    pub fn machine(&self, script: &str, files: &[(&str, &Path)], share: &Path) -> Result<Machine> {
        let mut archive = super::archive::Archive::default();
        archive.file("root/test.sh", 0o755, script.as_bytes());
        for (name, path) in files {
            archive.copy(&format!("root/{name}"), path)?;
        }
        let initrd = share.join("xen.initrd");
        let device_model = self.device_model.as_ref().map(fs::read).transpose()?;
        let parts = [fs::read(&self.initrd)?, device_model.unwrap_or_default(), archive.finish()];
        fs::write(&initrd, parts.concat())?;
        let memory = if self.device_model.is_some() { "1600M" } else { "1280M" };
        let mut machine = Machine::with(&self.xen, "q35", PROCESSOR, 1, "3G");
        machine.command_line = format!(
            "com1=115200,8n1 console=com1 dom0_mem={memory} loglvl=warning guest_loglvl=warning cpuidle=0 \
             mwait-idle=0 spec-ctrl=no,eager-fpu xpti=no smt=1"
        );
        let words = "console=hvc0 quiet mitigations=off nokaslr panic=-1 random.trust_cpu=on";
        let modules = format!("{} {words},{}", self.kernel.display(), initrd.display());
        machine.arguments.extend(["-initrd".into(), modules]);
        machine.timeout = Duration::from_secs(900);
        Ok(machine)
    }
}

/// The folder of the files, locked.
fn folder() -> Result<(PathBuf, fs::File)> {
    let folder = tools::root().join("target/xen");
    fs::create_dir_all(&folder)?;
    let lock = fs::File::create(folder.join("lock"))?;
    lock.lock().context("cannot lock target/xen")?;
    Ok((folder, lock))
}

/// The package of the hypervisor, and its version.
fn hypervisor() -> Result<(String, String)> {
    let Some(name) = package_named("xen-hypervisor-", "-amd64")? else {
        bail!(Unavailable("apt has no package xen-hypervisor-…-amd64: use Debian 12 or later".into()));
    };
    let version = name.trim_start_matches("xen-hypervisor-").trim_end_matches("-amd64").to_string();
    Ok((name, version))
}

/// The hypervisor without the intercept, where it is as known.
fn without_cr0(mut xen: Vec<u8>) -> Vec<u8> {
    let [with, without] = INTERCEPTS;
    let found: Vec<usize> = (0..xen.len()).filter(|at| xen[*at..].starts_with(with)).collect();
    if let [at] = found[..] {
        xen[at..at + without.len()].copy_from_slice(without);
    }
    xen
}

/// The first file in `folder`, or below it, whose name is wanted.
pub fn find(folder: &Path, is_wanted: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let name =
        |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let here = paths.iter().find(|path| path.is_file() && !path.is_symlink() && is_wanted(&name(path)));
    here.cloned().or_else(|| paths.iter().filter(|path| path.is_dir()).find_map(|path| find(path, is_wanted)))
}

/// The first file system of the first domain.
fn first_domain(kernel: &Path, busybox: &Path, roots: &[PathBuf]) -> Result<Vec<u8>> {
    let mut archive = system(kernel, busybox, COMMANDS, MODULES)?;
    for folder in [
        "root",
        "run/xen",
        "srv",
        "etc/xen/scripts",
        "var/lib/xen",
        "var/lib/xenstored",
        "var/log/xen",
        "var/lock",
    ] {
        archive.folder(folder);
    }
    archive.link("var/run", "../run");
    let libraries = library_folders(roots);
    let folder = roots[1].join("usr/lib");
    let tools_folder = fs::read_dir(&folder)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .find(|name| name.starts_with("xen-"))
        .context("the package has no programs")?;
    for program in PROGRAMS {
        let found = roots.iter().find_map(|root| find(&root.join("usr"), &|name| name == *program));
        let path = found.with_context(|| format!("no package has {program}"))?;
        add_program_with(&mut archive, &format!("usr/lib/{tools_folder}/bin/{program}"), &path, &libraries)?;
    }
    // The C library opens it when a thread ends.
    let library = "usr/lib/x86_64-linux-gnu/libgcc_s.so.1";
    archive.copy(library, &Path::new("/").join(library))?;
    archive.file("etc/xen/xl.conf", 0o644, b"");
    archive.file("etc/xen/scripts/block", 0o755, BLOCK.as_bytes());
    archive.file("etc/xen/scripts/vif-bridge", 0o755, VIF.as_bytes());
    archive.file("root/guest.sh", 0o755, GUEST.as_bytes());
    archive.file("init", 0o755, INIT.as_bytes());
    Ok(archive.finish())
}

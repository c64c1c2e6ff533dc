//! Builds the outer machine of a nested VM from the distribution's packages: kernel, modules, busybox and the installed QEMU.

use super::Unavailable;
use super::archive::Archive;
use crate::tools;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The files of the outer machine, and of a Linux guest.
#[derive(Clone, Debug)]
pub struct Files {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    /// The first file system of a guest that has the drivers of Hyper-V and of virtio; its kernel is the same.
    pub guest: PathBuf,
}

/// A list of modules: its file name in `/modules`, and the modules, without those that they depend on. The file has one name a
/// line, in load order; modules that are built into the kernel are not in it.
pub type ModuleList = (&'static str, &'static [&'static str]);

/// Modules of the outer machine.
const MODULES: &[ModuleList] =
    &[("order", &["virtio_pci", "9pnet_virtio", "9p", "kvm", "kvm_amd", "vhost_vsock"])];
/// Firmware files of the nested VM.
const FIRMWARE: &[&str] =
    &["seabios/bios-256k.bin", "qemu/kvmvapic.bin", "qemu/linuxboot_dma.bin", "qemu/pvh.bin"];
const COMMANDS: &[&str] = &[
    "sh", "mount", "insmod", "mkdir", "cat", "echo", "timeout", "httpd", "ifconfig", "poweroff", "sleep",
    "stty",
];

const INIT: &str = include_str!("init.sh");

/// Modules of a Linux guest: all that it uses under Hyper-V's interface, and for either bus those of disk and network only.
const GUEST_MODULES: &[ModuleList] = &[
    (
        "order",
        &[
            "hv_vmbus",
            "hv_storvsc",
            "sd_mod",
            "hv_netvsc",
            "hv_utils",
            "crc32c_generic",
            "ext4",
            "evdev",
            "atkbd",
            "hyperv_keyboard",
            "hid_generic",
            "hid_hyperv",
        ],
    ),
    ("vmbus", &["hv_vmbus", "hv_storvsc", "sd_mod", "hv_netvsc"]),
    ("virtio", &["virtio_pci", "virtio_blk", "virtio_net"]),
    ("vmware", &["vmw_pvscsi", "sd_mod", "vmxnet3"]),
    ("xen", &["xen_blkfront", "xen_netfront"]),
];
const GUEST_COMMANDS: &[&str] = &[
    "sh",
    "mount",
    "umount",
    "insmod",
    "sleep",
    "uname",
    "cat",
    "basename",
    "readlink",
    "ls",
    "wc",
    "find",
    "sort",
    "sha256sum",
    "cut",
    "cp",
    "dd",
    "ip",
    "udhcpc",
    "sed",
    "wget",
    "ping",
    "grep",
    "date",
    "od",
    "awk",
    "uniq",
];
const GUEST_INIT: &str = include_str!("linux.sh");
/// The script with which `udhcpc` configures the interface.
const GUEST_LEASE: &str = "#!/bin/sh\n[ \"$1\" = bound ] || exit 0\nip addr add \"$ip/24\" dev \"$interface\"\nip route add default via \"$router\"\n";
/// The program that the kernel runs when the host requests a shutdown.
const GUEST_POWEROFF: &str = "#!/bin/sh\nexec /bin/busybox poweroff -f\n";

/// The init of a Linux guest that runs the benchmark.
const GUEST_BENCH: &str = include_str!("linux-bench.sh");

/// Builds the files, unless they are up to date.
pub fn build() -> Result<Files> {
    check_distribution()?;
    let folder = tools::root().join("target/lab");
    fs::create_dir_all(&folder)?;
    // Only one process builds: the lock is held until this function returns.
    let lock = fs::File::create(folder.join("lock"))?;
    lock.lock().context("cannot lock target/lab")?;
    let files =
        Files { kernel: folder.join("vmlinux"), initrd: folder.join("initrd"), guest: folder.join("guest") };
    let qemu = tools::path("qemu-system-x86_64").context("qemu-system-x86_64 is not in the path")?;
    let rest = format!(
        "{:?}\n{INIT}\n{MODULES:?}\n{FIRMWARE:?}\n{COMMANDS:?}\n{GUEST_INIT}\n{GUEST_MODULES:?}\n{GUEST_COMMANDS:?}\n\
         {GUEST_LEASE}\n{GUEST_POWEROFF}",
        fs::metadata(&qemu)?.modified()?
    );
    let stamp_file = folder.join("stamp");
    let old = fs::read_to_string(&stamp_file).unwrap_or_default();
    let mut packages = kernel_packages();
    // Without package lists, existing files are used as they are.
    let is_built = [&files.kernel, &files.initrd, &files.guest].iter().all(|file| file.is_file());
    let is_newest = old
        .split_once('\n')
        .is_some_and(|(package, old)| old == rest && packages.last().is_none_or(|newest| newest == package));
    if is_built && is_newest {
        return Ok(files);
    }
    if packages.is_empty() {
        tools::update()?;
        packages = kernel_packages();
    }
    let package = packages
        .last()
        .context("apt has no kernel package linux-image-…-amd64: add Debian's main archive to its sources")?;
    println!("lab: building the outer machine from {package}, busybox-static and {}", qemu.display());
    let kernel = unpack(&folder, package)?;
    let busybox = unpack(&folder, "busybox-static")?;
    let image = first_with(&kernel.join("boot"), "vmlinuz-").context("the package has no kernel")?;
    // The files are incomplete until the new stamp is written.
    let _ = fs::remove_file(&stamp_file);
    fs::write(&files.kernel, decompress(&fs::read(image)?)?)?;
    fs::write(&files.initrd, outer(&kernel, &busybox, &qemu)?)?;
    fs::write(&files.guest, guest(&kernel, &busybox)?)?;
    for unpacked in [kernel, busybox] {
        fs::remove_dir_all(unpacked)?;
    }
    fs::write(&stamp_file, format!("{package}\n{rest}"))?;
    Ok(files)
}

/// Checks that machines can be built here, and installs what unpacks them.
///
/// # Errors
///
/// [`Unavailable`] on another distribution.
pub fn check_distribution() -> Result<()> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !release.lines().any(|line| line == "ID=debian") {
        bail!(Unavailable(
            "the lab is built from Debian's packages: run it on Debian 12 or later, or on a KVM that emulates what it asks for"
                .into()
        ));
    }
    for (program, package) in [("xz", "xz-utils"), ("zstd", "zstd"), ("dpkg-deb", "dpkg"), ("gzip", "gzip")] {
        tools::need(program, package)?;
    }
    Ok(())
}

/// Returns the name of the newest kernel package.
pub fn newest_kernel() -> Result<String> {
    package_of(kernel_packages)?
        .context("apt has no kernel package linux-image-…-amd64: add Debian's main archive to its sources")
}

/// Returns the newest package whose name begins and ends like that.
pub fn package_named(prefix: &str, suffix: &str) -> Result<Option<String>> {
    package_of(|| {
        let mut names = tools::package_names(prefix);
        let is_other =
            |name: &String| ["-dbgsym", "-dev", "-doc", "-bundle"].iter().any(|end| name.ends_with(end));
        names.retain(|name| name.ends_with(suffix) && !is_other(name));
        names.sort_by_key(|name| tools::numbers(name));
        names
    })
}

/// Returns the last of what `list` returns, after the lists of packages were read again if there is nothing.
fn package_of(list: impl Fn() -> Vec<String>) -> Result<Option<String>> {
    if let Some(last) = list().pop() {
        return Ok(Some(last));
    }
    tools::update()?;
    Ok(list().pop())
}

/// Returns the kernel packages that apt knows, the newest last.
fn kernel_packages() -> Vec<String> {
    let mut names = tools::package_names("linux-image-");
    names.retain(|name| {
        let version = name.trim_start_matches("linux-image-").trim_end_matches("-amd64");
        let is_plain = !["rt", "cloud", "dbg", "unsigned", "rpi"].iter().any(|kind| name.contains(kind));
        name.ends_with("-amd64") && is_plain && version.starts_with(|c: char| c.is_ascii_digit())
    });
    names.sort_by_key(|name| tools::numbers(name));
    names
}

/// Downloads a package and unpacks it.
pub fn unpack(folder: &Path, package: &str) -> Result<PathBuf> {
    let into = folder.join(package);
    let _ = fs::remove_dir_all(&into);
    fs::create_dir_all(&into)?;
    let download = || {
        tools::run(
            Command::new("apt-get")
                .args(["-qq", "-o", "APT::Sandbox::User=root", "download", package])
                .current_dir(&into),
        )
    };
    if download().is_err() {
        tools::update()?;
        download()?;
    }
    let archive = first_with(&into, package).with_context(|| format!("{package} was not downloaded"))?;
    tools::run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&into))?;
    fs::remove_file(archive)?;
    Ok(into)
}

fn first_with(folder: &Path, prefix: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    entries.map(|entry| entry.path()).find(|path| {
        path.is_file() && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    })
}

/// Returns the kernel in a compressed image: the first stream in it that decompresses to an ELF file.
fn decompress(image: &[u8]) -> Result<Vec<u8>> {
    let kinds: [(&[u8], &str); 2] = [(b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ\0", "xz")];
    for (magic, program) in kinds {
        for at in
            image.windows(magic.len()).enumerate().filter(|(_, window)| *window == magic).map(|(at, _)| at)
        {
            let bytes = tools::filter(program, &["-dcq"], &image[at..])?;
            if bytes.starts_with(b"\x7fELF") {
                return Ok(bytes);
            }
        }
    }
    bail!("the kernel is compressed neither with zstd nor with xz")
}

/// Adds the modules in `folder` to `found`: name and file.
fn modules(folder: &Path, found: &mut BTreeMap<String, PathBuf>) {
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let name = path.file_name().map(|name| name.to_string_lossy().replace('-', "_")).unwrap_or_default();
        if path.is_dir() {
            modules(&path, found);
        } else if let Some((name, _)) = name.split_once(".ko") {
            found.insert(name.into(), path);
        }
    }
}

/// Adds a module to `order` behind those that it depends on, and to `files` its content.
fn add_module(
    name: &str,
    known: &BTreeMap<String, PathBuf>,
    order: &mut Vec<String>,
    files: &mut BTreeMap<String, Vec<u8>>,
) -> Result<()> {
    // A module without a file is built into the kernel.
    let Some(path) = known.get(name).filter(|_| !order.iter().any(|old| old == name)) else { return Ok(()) };
    let bytes = fs::read(path)?;
    let bytes = match path.extension().is_some_and(|extension| extension == "xz") {
        true => tools::filter("xz", &["-dcq"], &bytes)?,
        false => bytes,
    };
    let key = b"\0depends=";
    let at = bytes.windows(key.len()).position(|window| window == key).map(|at| at + key.len());
    let needs = at.and_then(|at| bytes[at..].split(|byte| *byte == 0).next()).unwrap_or_default();
    for need in String::from_utf8_lossy(needs).split(',').filter(|need| !need.is_empty()) {
        add_module(&need.replace('-', "_"), known, order, files)?;
    }
    files.insert(name.into(), bytes);
    order.push(name.into());
    Ok(())
}

/// Returns an initramfs with busybox and modules.
pub fn system(kernel: &Path, busybox: &Path, commands: &[&str], lists: &[ModuleList]) -> Result<Archive> {
    let mut archive = Archive::default();
    for folder in ["dev", "proc", "sys", "tmp", "bin", "sbin", "usr/bin", "lib64"] {
        archive.folder(folder);
    }
    let program = [busybox.join("bin/busybox"), busybox.join("usr/bin/busybox")];
    let program = program.iter().find(|path| path.is_file()).context("the package has no busybox")?;
    archive.copy("bin/busybox", program)?;
    commands.iter().for_each(|command| archive.link(&format!("bin/{command}"), "busybox"));
    let mut known = BTreeMap::new();
    for folder in ["lib/modules", "usr/lib/modules"] {
        modules(&kernel.join(folder), &mut known);
    }
    let mut files = BTreeMap::new();
    for (list, wanted) in lists {
        let mut order = vec![];
        for name in *wanted {
            add_module(name, &known, &mut order, &mut files)?;
        }
        archive.file(&format!("modules/{list}"), 0o644, (order.join("\n") + "\n").as_bytes());
    }
    for (name, bytes) in files {
        archive.file(&format!("modules/{name}.ko"), 0o644, &bytes);
    }
    Ok(archive)
}

/// Adds a program and its libraries.
fn add_program(archive: &mut Archive, name: &str, program: &Path) -> Result<()> {
    add_program_with(archive, name, program, &[])
}

/// Returns the folders with libraries in unpacked packages.
pub fn library_folders(roots: &[PathBuf]) -> Vec<String> {
    roots
        .iter()
        .flat_map(|root| ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|folder| root.join(folder)))
        .filter(|folder| folder.is_dir())
        .map(|folder| folder.display().to_string())
        .collect()
}

/// Adds a program and its libraries, of which some are in `folders` and go where the others are.
pub fn add_program_with(archive: &mut Archive, name: &str, program: &Path, folders: &[String]) -> Result<()> {
    archive.copy(name, program)?;
    for library in tools::libraries(program, folders)? {
        let own = folders.iter().find_map(|folder| library.strip_prefix(folder).ok());
        if let Some(own) = own {
            archive.copy(&format!("usr/lib/x86_64-linux-gnu/{}", own.display()), &library)?;
            continue;
        }
        archive.copy(library.display().to_string().trim_start_matches('/'), &library)?;
    }
    Ok(())
}

fn outer(kernel: &Path, busybox: &Path, qemu: &Path) -> Result<Vec<u8>> {
    let mut archive = system(kernel, busybox, COMMANDS, MODULES)?;
    archive.file("init", 0o755, INIT.as_bytes());
    add_program(&mut archive, "usr/bin/qemu-system-x86_64", qemu)?;
    for file in FIRMWARE {
        let path = Path::new("/usr/share").join(file);
        if path.is_file() {
            archive.copy(&format!("usr/share/{file}"), &path)?;
        }
    }
    Ok(archive.finish())
}

fn guest(kernel: &Path, busybox: &Path) -> Result<Vec<u8>> {
    let mut archive = system(kernel, busybox, GUEST_COMMANDS, GUEST_MODULES)?;
    archive.folder("disk");
    archive.file("init", 0o755, GUEST_INIT.as_bytes());
    archive.file("lease", 0o755, GUEST_LEASE.as_bytes());
    archive.file("sbin/poweroff", 0o755, GUEST_POWEROFF.as_bytes());
    Ok(archive.finish())
}

/// Returns the archive that is appended to the initrd of a Linux guest that runs the benchmark: the program and its init.
pub fn load(program: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.file("bench", 0o755, GUEST_BENCH.as_bytes());
    add_program(&mut archive, "linux-load", program)?;
    Ok(archive.finish())
}

//! The programs that the commands need: they are found, or installed if that is permitted; otherwise an error names the package.

use crate::scratch::Scratch;
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Returns whether `program` is installed.
pub fn has(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).is_file())
}

/// Returns the root of the workspace.
pub fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).map(PathBuf::from).unwrap_or(here)
}

/// Returns cargo's target directory.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Runs a command and waits for it; its output is not captured. An error if it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let name = format!("{command:?}").replace('"', "");
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start: {name}"))?;
    if !status.success() {
        bail!("{name} failed: {status}");
    }
    Ok(())
}

/// Returns a command that runs cargo in the root of the workspace.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Runs a command silently and returns its standard output, or `None` if it cannot start or fails.
pub fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Formats `source` with rustfmt.
pub fn rustfmt(source: &str) -> Result<String> {
    let config = root().join("rustfmt.toml");
    let mut command = Command::new("rustfmt");
    command.args(["--edition", "2024", "--config-path"]).arg(config);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start rustfmt")?;
    let mut stdin = child.stdin.take().context("rustfmt has no standard input")?;
    stdin.write_all(source.as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("rustfmt failed: {}", output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Copies a program to `folder`, and its libraries to subfolder `lib`.
pub fn copy_program(program: &Path, folder: &Path) -> Result<()> {
    let lib = folder.join("lib");
    fs::create_dir_all(&lib)?;
    for library in libraries(program, &[])? {
        let name = library.file_name().context("a library has no file name")?;
        // The dynamic loader is found by its absolute path.
        if !name.to_string_lossy().starts_with("ld-linux") {
            fs::copy(&library, lib.join(name))?;
        }
    }
    let name = program.file_name().context("the program has no file name")?;
    fs::copy(program, folder.join(name)).with_context(|| format!("cannot copy {}", program.display()))?;
    Ok(())
}

/// Returns the command prefix for installing packages; `None` without apt-get, or without root or sudo.
fn installer() -> Option<Vec<&'static str>> {
    if !has("apt-get") {
        return None;
    }
    if output(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0") {
        return Some(vec![]);
    }
    // sudo clears the environment.
    output(Command::new("sudo").args(["-n", "true"])).map(|_| vec!["sudo", "-n", "env", NONINTERACTIVE])
}

const NONINTERACTIVE: &str = "DEBIAN_FRONTEND=noninteractive";

fn apt(prefix: &[&str], arguments: &[&str]) -> Result<()> {
    // A new machine may be running unattended upgrades, which hold the lock.
    let fixed = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"];
    let words: Vec<&str> = prefix.iter().copied().chain(fixed).chain(arguments.iter().copied()).collect();
    let mut command = Command::new(words[0]);
    let (name, value) = NONINTERACTIVE.split_once('=').unwrap_or_default();
    command.args(&words[1..]).env(name, value).stdout(Stdio::null());
    run(&mut command)
}

/// Installs `packages`, from `suite` if it is given.
fn install(packages: &[&str], suite: Option<&str>) -> Result<()> {
    // Test cases run in parallel, but apt cannot.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let hint = match suite {
        Some(suite) => format!("apt-get install -t {suite} {}", packages.join(" ")),
        None => format!("apt-get install {}", packages.join(" ")),
    };
    let Some(prefix) = installer() else { bail!("missing packages: run `{hint}` as root") };
    println!("installing {}", packages.join(", "));
    apt(&prefix, &["update"])?;
    let from = suite.map(|suite| ["-t", suite]);
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(from.iter().flatten());
    arguments.extend(packages);
    apt(&prefix, &arguments).with_context(|| format!("`{hint}` failed"))
}

/// Installs Debian package `package` if `program` is missing.
pub fn need(program: &str, package: &str) -> Result<()> {
    if !has(program) {
        install(&[package], None)?;
    }
    Ok(())
}

/// Installs the Debian packages of all missing programs and files in one step. Each element names a program or file and its package.
pub fn need_all(programs: &[(&str, &str)], files: &[(&str, &str)]) -> Result<()> {
    let missing = || {
        let programs = programs.iter().filter(|(program, _)| !has(program));
        let files = files.iter().filter(|(path, _)| !Path::new(path).is_file());
        programs.chain(files).copied().collect::<Vec<_>>()
    };
    let packages: Vec<&str> = missing().into_iter().map(|(_, package)| package).collect();
    if !packages.is_empty() {
        install(&packages, None)?;
    }
    match missing().first() {
        Some((wanted, package)) => bail!("{wanted} is missing although package {package} is installed"),
        None => Ok(()),
    }
}

/// Returns the packages known to apt whose names begin with `prefix`.
pub fn package_names(prefix: &str) -> Vec<String> {
    let text = output(Command::new("apt-cache").args(["pkgnames", prefix])).unwrap_or_default();
    text.lines().map(String::from).collect()
}

/// Returns the numbers in a name, in order, as a key for sorting versions.
pub fn numbers(name: &str) -> Vec<u32> {
    let parts = name.split(|c: char| !c.is_ascii_digit());
    parts.filter_map(|part| part.parse().ok()).collect()
}

/// Installs the package with the highest number among those named `prefix` and a number.
pub fn install_newest(prefix: &str) -> Result<()> {
    let newest = || {
        let mut names = package_names(prefix);
        names.retain(|name| name[prefix.len()..].parse::<u32>().is_ok());
        names.into_iter().max_by_key(|name| numbers(name))
    };
    let package = match newest() {
        Some(package) => package,
        None => {
            update()?;
            newest().with_context(|| {
                format!("apt has no package {prefix}VERSION: add Debian's main archive to its sources")
            })?
        }
    };
    install(&[&package], None)
}

/// Updates apt's package lists.
pub fn update() -> Result<()> {
    let Some(prefix) = installer() else {
        bail!("apt's package lists are missing: run `apt-get update` as root")
    };
    apt(&prefix, &["update"])
}

/// Returns the path of `program`, without symbolic links.
pub fn path(program: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).map(|dir| dir.join(program)).find(|path| path.is_file())?;
    fs::canonicalize(found).ok()
}

/// Returns the output of `program` for `input`. The exit code is ignored: data that is not part of the stream may follow it.
pub fn filter(program: &str, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("cannot start {program}"))?;
    let mut stdin = child.stdin.take().with_context(|| format!("{program} has no standard input"))?;
    std::thread::scope(|scope| {
        // The write fails if the program exits before it has read all of the input.
        scope.spawn(move || stdin.write_all(input));
        Ok(child.wait_with_output()?.stdout)
    })
}

/// Returns whether `program`, given `input`, succeeds within `timeout`.
pub fn succeeds(program: &str, words: &str, input: &str, timeout: Duration) -> bool {
    let mut command = Command::new(program);
    command.args(words.split_whitespace()).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else { return false };
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input.as_bytes());
    }
    let end = Instant::now() + timeout;
    while Instant::now() < end {
        match child.try_wait() {
            Ok(None) => std::thread::sleep(Duration::from_millis(20)),
            Ok(Some(status)) => return status.success(),
            Err(_) => break,
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}

/// Returns the shared libraries that `program` loads; those in `folders` are preferred.
pub fn libraries(program: &Path, folders: &[String]) -> Result<Vec<PathBuf>> {
    let mut command = Command::new("ldd");
    if !folders.is_empty() {
        command.env("LD_LIBRARY_PATH", folders.join(":"));
    }
    let text = output(command.arg(program))
        .with_context(|| format!("ldd cannot list the libraries of {}", program.display()))?;
    if let Some(line) = text.lines().find(|line| line.ends_with("not found")) {
        bail!("{} needs a library that is not there: {}", program.display(), line.trim());
    }
    let words = text.split_whitespace().filter(|word| word.starts_with('/'));
    let mut found: Vec<PathBuf> = words.map(PathBuf::from).collect();
    found.sort();
    found.dedup();
    Ok(found)
}

/// Returns whether QEMU has `device`.
pub fn has_device(device: &str) -> bool {
    output(Command::new("qemu-system-x86_64").args(["-device", &format!("{device},help")])).is_some()
}

/// Returns the major version of an installed QEMU.
fn qemu_version(program: &str) -> Option<u32> {
    let text = output(Command::new(program).arg("--version"))?;
    text.split("version ").nth(1)?.split('.').next()?.parse().ok()
}

/// Installs QEMU for PCs if there is none.
pub fn need_qemu() -> Result<()> {
    need_qemu_for("qemu-system-x86_64", &["qemu-system-x86"])
}

/// Installs QEMU if there is none, by these packages. On Debian 12 they are installed from the backports: the version in the main archive
/// lacks features that are tested.
pub fn need_qemu_for(program: &str, packages: &[&str]) -> Result<()> {
    if qemu_version(program).is_some_and(|version| version >= 8) {
        return Ok(());
    }
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let is_bookworm = release.contains("VERSION_CODENAME=bookworm") && release.contains("ID=debian");
    if is_bookworm && let Some(prefix) = installer() {
        add_backports(&prefix, &packages.join(" "))?;
        return install(packages, Some("bookworm-backports"));
    }
    if qemu_version(program).is_none() {
        return install(packages, None);
    }
    Ok(())
}

/// Adds Debian 12's backports to apt's sources: a copy of the system's source with the suite's name changed.
fn add_backports(prefix: &[&str], package: &str) -> Result<()> {
    const FOLDER: &str = "/etc/apt/sources.list.d";
    let new = format!("{FOLDER}/debian-backports.sources");
    let all: String = fs::read_dir(FOLDER)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .chain(fs::read_to_string("/etc/apt/sources.list"))
        .collect();
    if all.contains("bookworm-backports") {
        return Ok(());
    }
    let own = fs::read_to_string(format!("{FOLDER}/debian.sources"));
    let stanza = own.as_deref().ok().and_then(|text| text.split("\n\n").find(|s| !s.contains("security")));
    let Some(stanza) = stanza else {
        bail!("add the suite bookworm-backports to apt's sources and install {package} from it");
    };
    let changed: Vec<String> =
        stanza
            .lines()
            .map(|line| {
                if line.starts_with("Suites:") {
                    "Suites: bookworm-backports".into()
                } else {
                    line.to_string()
                }
            })
            .collect();
    let folder = Scratch::new()?;
    let file = folder.path().join("sources");
    fs::write(&file, changed.join("\n") + "\n")?;
    let words: Vec<&str> = prefix.iter().copied().chain(["cp"]).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(&file).arg(&new);
    run(&mut command)
}

/// Returns whether QEMU's `device` has the property.
pub fn has_property(device: &str, property: &str) -> bool {
    output(Command::new("qemu-system-x86_64").args(["-device", &format!("{device},help")]))
        .is_some_and(|text| text.lines().any(|line| line.trim_start().starts_with(&format!("{property}="))))
}

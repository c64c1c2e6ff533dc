//! Compilers from Debian 13's packages, unpacked into a folder of cargo's target directory: an older one, and one with the core libraries
//! of other processors, for which the kernel is built too. Nothing is installed; each is started through its own dynamic loader.

use crate::scratch::Scratch;
use crate::tools;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The archive, and the suite in it. The suites of updates are left out: compilers are in the main one.
const ARCHIVE: &str = "http://deb.debian.org/debian";
const SUITE: &str = "trixie";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A compiler to unpack.
struct Packages {
    /// The name of its folder.
    name: &'static str,
    /// The package with the compiler's libraries, which is unpacked with all that it depends on.
    runtime: &'static str,
    /// Packages that are unpacked without what they depend on.
    more: &'static [&'static str],
}

/// Debian 13's own compiler, the oldest that the library crates support.
const OLDEST: Packages = Packages { name: "rust-1.85", runtime: "libstd-rust-dev", more: &["rustc"] };
/// The compiler that Debian 13 keeps current for browsers, with the core libraries of three processors.
const CROSS: Packages = Packages {
    name: "rust-web",
    runtime: "libstd-rust-web-dev",
    more: &["rustc-web", "rust-web-clippy", "libstd-rust-web-dev:arm64", "libstd-rust-web-dev:riscv64"],
};

/// The targets other than the machine's for which the library crates are checked.
const TARGETS: [&str; 2] = [ARM, "riscv64gc-unknown-linux-gnu"];
const ARM: &str = "aarch64-unknown-linux-gnu";
/// The kernel.
const KERNEL: &str = "-p paravirt-kernel --features bare-metal";
/// With which the kernel is compiled for another processor: it is linked at its address, by the linker itself.
const KERNEL_FLAGS: &str = "-Clinker-flavor=ld.lld -Crelocation-model=static -Cpanic=abort";
/// The libraries of the system and the linker's own name, which the compiler passes to the linker though the kernel has none.
const DROPPED: &str = "-flavor|gnu|-lc|-lm|-lrt|-lpthread|-ldl|-lutil|-lgcc*";

/// The crates that build without the standard library, for every processor and with the oldest compiler.
pub const PORTABLE: &str = "-p hyperv-bindings -p paravirt-platform -p paravirt-shared-memory -p paravirt-device -p paravirt-pci \
     -p paravirt-virtio -p paravirt-firmware -p paravirt-kvm -p paravirt-hyperv -p paravirt-vmbus-ring -p paravirt-vmbus \
     -p paravirt-hv-balloon -p paravirt-scsi -p paravirt-storvsc -p paravirt-netvsc -p paravirt-hv-ic -p paravirt-hv-input \
     -p paravirt-hv-socket -p paravirt -p paravirt-c";
/// The adapters whose dependencies support the oldest compiler.
const PORTABLE_ADAPTERS: &str = "-p paravirt-adapters --features embassy,embedded-io";

/// A compiler, unpacked.
struct Toolchain {
    folder: PathBuf,
}

/// Checks that the library crates build with the oldest compiler, and for other processors, there under clippy too. Returns why that was
/// skipped, if it was.
pub fn check() -> Result<Option<String>> {
    if let Some(why) = missing() {
        return Ok(Some(why));
    }
    let oldest = Toolchain::get(&OLDEST)?;
    for packages in [PORTABLE, PORTABLE_ADAPTERS] {
        oldest.cargo(&format!("check --quiet {packages}"), false)?;
    }
    let cross = Toolchain::get(&CROSS)?;
    for target in TARGETS {
        cross.cargo(&format!("check --quiet --target {target} {PORTABLE}"), true)?;
    }
    cross.cargo(&format!("check --quiet --target {ARM} {KERNEL}"), true)?;
    Ok(None)
}

/// Builds the kernel for 64-bit ARM, and returns the path of its ELF file; `Err` with the reason if a program that it takes is not there.
pub fn arm_kernel() -> Result<Result<PathBuf, String>> {
    if let Some(why) = missing() {
        return Ok(Err(why));
    }
    let cross = Toolchain::get(&CROSS)?;
    cross.write_linker()?;
    cross.cargo(&format!("build --quiet --release --target {ARM} {KERNEL}"), false)?;
    Ok(Ok(cross.target().join(ARM).join("release/paravirt-kernel")))
}

/// Returns which program or file is missing that the compilers are unpacked with, if one is.
fn missing() -> Option<String> {
    for (program, package) in [("apt-get", "apt"), ("dpkg-deb", "dpkg")] {
        if !tools::has(program) {
            return Some(format!(
                "compilers from Debian's packages: no {program}; install {package}, on Debian or a derivative"
            ));
        }
    }
    let has_keyring = Path::new(KEYRING).is_file();
    (!has_keyring).then(|| {
        format!("compilers from Debian's packages: no {KEYRING}; apt-get install debian-archive-keyring")
    })
}

impl Toolchain {
    /// Returns the compiler; downloads and unpacks it if that was not done before.
    fn get(packages: &Packages) -> Result<Self> {
        let parent = tools::target().join("toolchains");
        let folder = parent.join(packages.name);
        if !folder.is_dir() {
            println!("unpacking {} from Debian's packages", packages.name);
            fs::create_dir_all(&parent).with_context(|| format!("cannot create {}", parent.display()))?;
            let scratch = Scratch::new_in(&parent)?;
            let unpacked = scratch.path().join("root");
            download(packages, scratch.path(), &unpacked).with_context(|| {
                format!("cannot get the packages of {}: is {} reachable?", packages.name, ARCHIVE)
            })?;
            // Whole or not at all.
            fs::rename(&unpacked, &folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let this = Self { folder: folder.canonicalize()? };
        this.write_starters()?;
        Ok(this)
    }

    /// Writes the scripts that start the compiler and clippy.
    fn write_starters(&self) -> Result<()> {
        let root = self.folder.display();
        fs::create_dir_all(self.folder.join("start"))?;
        let library = format!("{root}/usr/lib/x86_64-linux-gnu");
        for (name, arguments) in
            [("rustc", format!("--sysroot '{root}/usr'")), ("clippy-driver", String::new())]
        {
            // Clippy is given the compiler's path first, as a wrapper is, and finds its core library by the variable.
            let text = format!(
                "#!/bin/sh\nexport SYSROOT='{root}/usr'\nexec '{library}/ld-linux-x86-64.so.2' --library-path '{library}' \
                 '{root}/usr/bin/{name}' {arguments} \"$@\"\n"
            );
            self.write_script(name, &text)?;
        }
        Ok(())
    }

    /// Writes the script that links the kernel for another processor: by the linker of the Rust toolchain, or by LLVM's.
    fn write_linker(&self) -> Result<()> {
        let sysroot = tools::output(Command::new("rustc").args(["--print", "sysroot"])).unwrap_or_default();
        let own = Path::new(sysroot.trim()).join("lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld");
        let linker = if own.is_file() {
            format!("'{}' -flavor gnu", own.display())
        } else {
            tools::need("ld.lld", "lld")?;
            "ld.lld".into()
        };
        let text = format!(
            "#!/bin/sh\nleft=$#\nwhile [ $left -gt 0 ]; do\n  word=$1; shift; left=$((left - 1))\n  case \"$word\" in {DROPPED}) ;; \
             *) set -- \"$@\" \"$word\" ;; esac\ndone\nexec {linker} \"$@\"\n"
        );
        self.write_script("linker", &text)
    }

    fn write_script(&self, name: &str, text: &str) -> Result<()> {
        let path = self.starter(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// Cargo's folder for what is compiled with it.
    fn target(&self) -> PathBuf {
        tools::target().join(self.folder.file_name().unwrap_or_default())
    }

    fn starter(&self, name: &str) -> PathBuf {
        // Clippy knows the compiler by the name of its file.
        self.folder.join("start").join(name)
    }

    /// Runs cargo with the compiler, and with clippy around it.
    fn cargo(&self, words: &str, is_clippy: bool) -> Result<()> {
        let name = self.folder.file_name().unwrap_or_default().to_string_lossy();
        println!("cargo {words} # {name}{}", if is_clippy { " clippy" } else { "" });
        let words: Vec<&str> = words.split_whitespace().collect();
        let mut command = tools::cargo(&words);
        command.env("RUSTC", self.starter("rustc")).env("CARGO_TERM_COLOR", "never");
        // Cargo would take these instead of the flags of the target.
        command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        command.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", self.starter("linker"));
        command.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS", KERNEL_FLAGS);
        if is_clippy {
            // As `cargo clippy -- -D warnings` does.
            command.env("RUSTC_WORKSPACE_WRAPPER", self.starter("clippy-driver"));
            command.env("CLIPPY_ARGS", "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__");
        }
        tools::run(command.arg("--target-dir").arg(self.target()))
    }
}

/// Downloads the packages with an apt that knows its own folder only, and unpacks them.
fn download(packages: &Packages, folder: &Path, unpacked: &Path) -> Result<()> {
    for name in ["lists/partial", "cache/archives/partial", "etc/apt.conf.d", "etc/preferences.d", "debs"] {
        fs::create_dir_all(folder.join(name))?;
    }
    fs::write(folder.join("status"), "")?;
    let at = |name: &str| folder.join(name).display().to_string();
    let sources = format!(
        "deb [signed-by={KEYRING}] {ARCHIVE} {SUITE} main
"
    );
    fs::write(folder.join("sources.list"), sources)?;
    let settings = [
        ("Dir::Etc", at("etc")),
        ("Dir::Etc::SourceList", at("sources.list")),
        ("Dir::State", at("")),
        ("Dir::State::Lists", at("lists")),
        ("Dir::State::Status", at("status")),
        ("Dir::Cache", at("cache")),
        ("APT::Architecture", "amd64".into()),
        ("APT::Install-Recommends", "false".into()),
        ("APT::Sandbox::User", "root".into()),
        ("Acquire::Languages", "none".into()),
        ("Acquire::Retries", "3".into()),
    ];
    let mut config: String = settings.iter().map(|(key, value)| format!("{key} \"{value}\";\n")).collect();
    config += "APT::Architectures { \"amd64\"; \"arm64\"; \"riscv64\"; };\n";
    let config_path = folder.join("apt.conf");
    fs::write(&config_path, config)?;
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.arg("-qq").args(arguments).env("APT_CONFIG", &config_path).current_dir(folder.join("debs"));
        command
    };
    tools::run(apt(&["update"]).stdout(Stdio::null()))?;
    let listed = tools::output(&mut apt(&["install", "-y", "--print-uris", packages.runtime]))
        .with_context(|| format!("{SUITE} has no package {}", packages.runtime))?;
    // A line is the quoted address, the file's name, its size, its checksum.
    let names = listed.lines().filter_map(|line| line.split_whitespace().nth(1)?.split('_').next());
    let mut wanted: Vec<&str> = names.collect();
    ensure!(!wanted.is_empty(), "apt lists no packages for {}", packages.runtime);
    wanted.extend(packages.more);
    let mut arguments = vec!["download"];
    arguments.extend(wanted);
    tools::run(apt(&arguments).stdout(Stdio::null()))?;
    for entry in fs::read_dir(folder.join("debs"))? {
        tools::run(Command::new("dpkg-deb").arg("-x").arg(entry?.path()).arg(unpacked))?;
    }
    if !unpacked.join("usr/bin/rustc").is_file() {
        bail!("the packages have no usr/bin/rustc");
    }
    Ok(())
}

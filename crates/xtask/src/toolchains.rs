//! Compilers from Debian 13's packages, unpacked into a folder of cargo's target directory: an older one, and one with the core libraries
//! of other processors, for which the kernel is built too. Nothing is installed; each is started through its own dynamic loader.

use crate::debian::{self, Suite};
use crate::scratch::Scratch;
use crate::tools;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SUITE: &str = "trixie";

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

/// The processors other than the machine's.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Processor {
    Aarch64,
    Riscv64,
}

impl Processor {
    pub const ALL: [Self; 2] = [Self::Aarch64, Self::Riscv64];

    /// The compiler's target.
    fn target(self) -> &'static str {
        match self {
            Self::Aarch64 => "aarch64-unknown-linux-gnu",
            Self::Riscv64 => "riscv64gc-unknown-linux-gnu",
        }
    }

    /// Installs QEMU for the processor if there is none.
    pub fn need_qemu(self) -> Result<()> {
        match self {
            Self::Aarch64 => tools::need_qemu_for("qemu-system-aarch64", &["qemu-system-arm"]),
            // The firmware is a package of its own.
            Self::Riscv64 => tools::need_qemu_for("qemu-system-riscv64", &["qemu-system-riscv", "opensbi"]),
        }
    }
}

/// The kernel.
const KERNEL: &str = "-p paravirt-kernel --features bare-metal";
const MINIMAL: &str = "-p paravirt-minimal --features bare-metal";
/// With which the kernel is compiled for another processor: it is linked at its address, by the linker itself.
const KERNEL_FLAGS: &str = "-Clinker-flavor=ld.lld -Crelocation-model=static -Cpanic=abort";
/// The libraries of the system and the linker's own name, which the compiler passes to the linker though the kernel has none.
const DROPPED: &str = "-flavor|gnu|-lc|-lm|-lrt|-lpthread|-ldl|-lutil|-lgcc*";

/// The crates that build without the standard library, for every processor and with the oldest compiler.
pub const PORTABLE: &str = "-p hyperv-bindings -p paravirt-platform -p paravirt-shared-memory -p paravirt-device -p paravirt-pci \
     -p paravirt-virtio -p paravirt-firmware -p paravirt-kvm -p paravirt-hyperv -p paravirt-vmbus-ring -p paravirt-vmbus \
     -p paravirt-hv-balloon -p paravirt-scsi -p paravirt-pvscsi -p paravirt-vmware -p paravirt-vmxnet3 -p paravirt-storvsc -p paravirt-netvsc \
     -p paravirt-hv-ic -p paravirt-hv-input -p paravirt-hv-socket -p paravirt-pvclock -p paravirt-xen -p paravirt-blkfront \
     -p paravirt-netfront -p paravirt -p paravirt-c";
/// The models of hosts that they are tested with.
const MODELS: &str = "-p paravirt-testhost";
/// The adapters whose dependencies support the oldest compiler.
const PORTABLE_ADAPTERS: &str = "-p paravirt-adapters --features embassy,embedded-io";

/// A compiler, unpacked.
struct Toolchain {
    folder: PathBuf,
}

/// Checks that the library crates build with the oldest compiler and pass their tests in process, and that they build for other processors,
/// there under clippy too. Returns why that was skipped, if it was.
pub fn check() -> Result<Option<String>> {
    if let Some(why) = missing() {
        return Ok(Some(why));
    }
    let oldest = Toolchain::get(&OLDEST)?;
    for packages in [PORTABLE, PORTABLE_ADAPTERS] {
        oldest.cargo(&format!("check --quiet {packages}"), false)?;
    }
    // What the tests depend on may ask for a later compiler, and is compiled by this one nevertheless.
    let words = format!("test --quiet --ignore-rust-version --lib --tests {PORTABLE} {MODELS}");
    oldest.cargo(&words, false)?;
    let cross = Toolchain::get(&CROSS)?;
    for processor in Processor::ALL {
        let target = processor.target();
        cross.cargo(&format!("check --quiet --target {target} {PORTABLE}"), true)?;
        cross.cargo(&format!("check --quiet --target {target} {KERNEL}"), true)?;
    }
    cross.cargo(&format!("check --quiet --target {} {MINIMAL}", Processor::Aarch64.target()), true)?;
    Ok(None)
}

/// Builds the kernel for another processor, and returns the path of its ELF file; `Err` with the reason if a program that it takes is not
/// there.
pub fn kernel(processor: Processor) -> Result<Result<PathBuf, String>> {
    build(processor, KERNEL, "paravirt-kernel")
}

/// Builds the small kernel for 64-bit ARM, as [`kernel`].
pub fn arm_minimal() -> Result<Result<PathBuf, String>> {
    build(Processor::Aarch64, MINIMAL, "paravirt-minimal")
}

fn build(processor: Processor, package: &str, file: &str) -> Result<Result<PathBuf, String>> {
    if let Some(why) = missing() {
        return Ok(Err(why));
    }
    let cross = Toolchain::get(&CROSS)?;
    cross.write_linker()?;
    let target = processor.target();
    cross.cargo(&format!("build --quiet --release --target {target} {package}"), false)?;
    Ok(Ok(cross.target().join(target).join("release").join(file)))
}

/// Returns which program or file is missing that the compilers are unpacked with, if one is.
fn missing() -> Option<String> {
    debian::missing().map(|what| format!("compilers from Debian's packages: {what}"))
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
            let suite = Suite::open(SUITE, scratch.path())?;
            suite.unpack(&[packages.runtime], packages.more, &unpacked)?;
            if !unpacked.join("usr/bin/rustc").is_file() {
                bail!("the packages have no usr/bin/rustc");
            }
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
        for (name, arguments) in
            [("rustc", format!("--sysroot '{root}/usr'")), ("clippy-driver", String::new())]
        {
            // Clippy is given the compiler's path first, as a wrapper is, and finds its core library by the variable.
            let before = format!("export SYSROOT='{root}/usr'");
            debian::write_starter(&self.starter(name), &self.folder, name, &before, &arguments)?;
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
        debian::write_script(&self.starter("linker"), &text)
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
        for processor in Processor::ALL {
            let target = processor.target().to_uppercase().replace('-', "_");
            command.env(format!("CARGO_TARGET_{target}_LINKER"), self.starter("linker"));
            command.env(format!("CARGO_TARGET_{target}_RUSTFLAGS"), KERNEL_FLAGS);
        }
        if is_clippy {
            // As `cargo clippy -- -D warnings` does.
            command.env("RUSTC_WORKSPACE_WRAPPER", self.starter("clippy-driver"));
            command.env("CLIPPY_ARGS", "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__");
        }
        tools::run(command.arg("--target-dir").arg(self.target()))
    }
}

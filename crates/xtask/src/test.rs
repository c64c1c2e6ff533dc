//! `cargo xtask test`: everything that must hold.

use crate::scratch::Scratch;
use crate::{api, bindings, fuzz, kernel, matrix, tools};
use anyhow::{Result, bail};
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Options {
    /// Only the cases under QEMU whose name contains this
    #[arg(long, value_name = "TEXT")]
    qemu: Option<String>,
}

/// Everything but the kernel, which is built alone, and the programs of cargo-fuzz, with all features.
const LIBRARIES: &str = "--workspace --exclude paravirt-kernel --exclude paravirt-fuzz --all-features";

/// `cargo` with these words.
fn cargo(words: &str) -> Result<()> {
    println!("cargo {words}");
    let words: Vec<&str> = words.split_whitespace().collect();
    tools::run(tools::cargo(&words).env("CARGO_TERM_COLOR", "never"))
}

/// Packages every crate and builds what was packaged, in a directory of its own: cargo takes a crate that it has unpacked
/// once, of a version that it has built once, for the same for ever.
fn package() -> Result<()> {
    println!("cargo package --workspace");
    forget_packages();
    let folder = Scratch::new()?;
    let mut command = tools::cargo(&["package", "--quiet", "--workspace", "--allow-dirty", "--target-dir"]);
    let result = tools::run(command.arg(folder.path()));
    forget_packages();
    result
}

/// Removes what cargo has unpacked of our crates from the registry that it makes for packaging, which has no host's name.
fn forget_packages() {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let sources = home.and_then(|home| std::fs::read_dir(home.join("registry/src")).ok());
    for folder in sources.into_iter().flatten().flatten() {
        let is_local = folder.file_name().to_string_lossy().starts_with('-');
        let ours = format!("paravirt-platform-{}", env!("CARGO_PKG_VERSION"));
        if is_local && folder.path().join(ours).is_dir() {
            // What cannot be removed shows as a package that does not build.
            let _ = std::fs::remove_dir_all(folder.path());
        }
    }
}

/// The packages that have models under loom, in `tests/loom.rs`.
const LOOM: [&str; 5] =
    ["paravirt-platform", "paravirt-virtio", "paravirt-vmbus-ring", "paravirt-hyperv", "paravirt-vmbus"];

/// Runs the models under loom, in a build of their own.
fn loom() -> Result<()> {
    for package in LOOM {
        println!("cargo test -p {package} --test loom");
        let mut command = tools::cargo(&["test", "--quiet", "-p", package, "--test", "loom"]);
        tools::run(command.args(["--target-dir", "target/loom"]).env("RUSTFLAGS", "--cfg loom"))?;
    }
    Ok(())
}

pub fn doc() -> Result<()> {
    println!("cargo doc --no-deps {LIBRARIES}");
    let mut command = tools::cargo(&["doc", "--quiet", "--no-deps"]);
    command.args(LIBRARIES.split(' '));
    tools::run(command.env("RUSTDOCFLAGS", "-D warnings"))
}

pub fn test(options: &Options) -> Result<()> {
    if options.qemu.is_none() {
        cargo("fmt --all --check")?;
        bindings::check()?;
        api::check()?;
        cargo("clippy --quiet --workspace --all-targets -- -D warnings")?;
        cargo(&format!("clippy --quiet {LIBRARIES} --all-targets -- -D warnings"))?;
        cargo("clippy --quiet -p paravirt-kernel --features bare-metal -- -D warnings")?;
        // The core crates, as a module of a kernel has them: no allocator, no standard library.
        cargo(
            "build --quiet -p hyperv-bindings -p paravirt-platform -p paravirt-device -p paravirt-virtio -p paravirt-firmware \
             -p paravirt-kvm -p paravirt-hyperv -p paravirt-vmbus-ring -p paravirt-vmbus -p paravirt-hv-balloon \
             -p paravirt-scsi -p paravirt-storvsc -p paravirt-netvsc -p paravirt-hv-ic -p paravirt-hv-input -p paravirt-hv-socket -p paravirt",
        )?;
        doc()?;
        cargo(&format!("test --quiet {LIBRARIES}"))?;
        cargo("test --quiet -p paravirt-fuzz")?;
        cargo("test --quiet --release -p paravirt-testhost")?;
        loom()?;
        fuzz::briefly()?;
        package()?;
    }
    tools::need_qemu()?;
    println!("building the kernel");
    let (passed, skipped) = matrix::run(&kernel::build()?, options.qemu.as_deref())?;
    for case in &skipped {
        println!("skipped: {case}");
    }
    println!("{passed} passed, 0 failed, {} skipped", skipped.len());
    if !skipped.is_empty() && std::env::var("CI").is_ok_and(|ci| ci == "true") {
        bail!("in CI nothing may be skipped");
    }
    Ok(())
}

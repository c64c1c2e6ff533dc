//! `cargo xtask test`: everything that must hold.

use crate::{fuzz, kernel, matrix, tools};
use anyhow::{Result, bail};
use clap::Args;

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

/// The models under loom, in a build of their own.
fn loom() -> Result<()> {
    println!("cargo test -p paravirt-virtio --test loom");
    let mut command = tools::cargo(&["test", "--quiet", "-p", "paravirt-virtio", "--test", "loom"]);
    tools::run(command.args(["--target-dir", "target/loom"]).env("RUSTFLAGS", "--cfg loom"))
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
        cargo("clippy --quiet --workspace --all-targets -- -D warnings")?;
        cargo(&format!("clippy --quiet {LIBRARIES} --all-targets -- -D warnings"))?;
        cargo("clippy --quiet -p paravirt-kernel --features bare-metal -- -D warnings")?;
        // The core crates, as a module of a kernel has them: no allocator, no standard library.
        cargo(
            "build --quiet -p paravirt-platform -p paravirt-device -p paravirt-virtio -p paravirt-firmware -p paravirt",
        )?;
        doc()?;
        cargo(&format!("test --quiet {LIBRARIES}"))?;
        cargo("test --quiet -p paravirt-fuzz")?;
        cargo("test --quiet --release -p paravirt-testhost")?;
        loom()?;
        fuzz::briefly()?;
        cargo("package --quiet --workspace --allow-dirty")?;
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

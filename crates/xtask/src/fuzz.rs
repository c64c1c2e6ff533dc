//! `cargo xtask fuzz`: runs the targets of `fuzz/`, guided by coverage with a nightly toolchain, otherwise with seeded mutations.

use crate::tools;
use anyhow::{Result, bail};
use clap::Args;
use std::process::{Command, Stdio};

#[derive(Args)]
pub struct Options {
    /// Target to run; the default is all
    target: Option<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// Returns the names of the targets.
fn targets() -> Result<Vec<String>> {
    let mut names: Vec<String> = std::fs::read_dir(tools::root().join("fuzz/fuzz_targets"))?
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".rs")?.to_string()))
        .collect();
    names.sort();
    Ok(names)
}

fn has_nightly() -> bool {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "rustc", "--version"]).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Runs a target guided by coverage; needs a nightly toolchain and cargo-fuzz.
fn guided(name: &str, seconds: u64) -> Result<()> {
    // New inputs are written to target/, not to the corpus under version control.
    let found = tools::root().join("target/fuzz-corpus").join(name);
    std::fs::create_dir_all(&found)?;
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo", "fuzz", "run", "--features", "libfuzzer", name]);
    command.arg(found).arg(tools::root().join("fuzz/corpus").join(name)).arg("--");
    command.args([format!("-max_total_time={seconds}"), "-max_len=4096".into(), "-verbosity=0".into()]);
    command.env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
    tools::run(command.current_dir(tools::root()))
}

/// Runs a target, or all, on stable with the corpus and reproducible mutations of it.
fn seeded(name: Option<&str>, rounds: u64) -> Result<()> {
    let rounds = rounds.to_string();
    let mut command = tools::cargo(&[
        "run",
        "--quiet",
        "--release",
        "-p",
        "paravirt-fuzz",
        "--bin",
        "replay",
        "--",
        &rounds,
    ]);
    tools::run(command.args(name))
}

pub fn fuzz(options: &Options) -> Result<()> {
    let all = targets()?;
    if let Some(name) = &options.target
        && !all.contains(name)
    {
        bail!("there is no fuzz target {name}; choose one of {}", all.join(", "));
    }
    if !has_nightly() {
        println!(
            "no nightly toolchain (install it with `rustup toolchain install nightly`): running seeded mutations on stable"
        );
        return seeded(options.target.as_deref(), options.seconds * 50_000);
    }
    if !tools::has("cargo-fuzz") {
        tools::run(&mut tools::cargo(&["install", "--quiet", "cargo-fuzz"]))?;
    }
    for name in all.iter().filter(|name| options.target.as_ref().is_none_or(|target| target == *name)) {
        println!("fuzz {name}: {} s", options.seconds);
        guided(name, options.seconds)?;
    }
    Ok(())
}

/// Runs each target for a few seconds, as part of `cargo xtask test`.
pub fn briefly() -> Result<()> {
    println!("fuzz: every target with its corpus and seeded mutations");
    seeded(None, 20_000)?;
    if has_nightly() {
        return fuzz(&Options { target: None, seconds: 5 });
    }
    Ok(())
}

//! `cargo xtask fuzz`: the targets of `fuzz/`, with coverage where there is a nightly, else with seeded mutations.

use crate::tools;
use anyhow::{Result, bail};
use clap::Args;
use std::process::{Command, Stdio};

#[derive(Args)]
pub struct Options {
    /// The target; all of them if it is not given
    target: Option<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// The targets, by their files.
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

/// With coverage guidance; needs a nightly and cargo-fuzz.
fn guided(name: &str, seconds: u64) -> Result<()> {
    // What it finds goes beside the build, not into the corpus that is kept.
    let found = tools::root().join("target/fuzz-corpus").join(name);
    std::fs::create_dir_all(&found)?;
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo", "fuzz", "run", "--features", "libfuzzer", name]);
    command.arg(found).arg(tools::root().join("fuzz/corpus").join(name)).arg("--");
    command.args([format!("-max_total_time={seconds}"), "-max_len=4096".into(), "-verbosity=0".into()]);
    command.env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
    tools::run(command.current_dir(tools::root()))
}

/// On stable: the corpus, and mutations of it that are the same every time.
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
        bail!("there is no target {name}; there are {}", all.join(", "));
    }
    if !has_nightly() {
        println!(
            "there is no nightly toolchain (`rustup toolchain install nightly`): seeded mutations on stable instead"
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

/// A moment for each target: part of the tests.
pub fn briefly() -> Result<()> {
    println!("fuzz: every target, over its corpus and seeded mutations");
    seeded(None, 20_000)?;
    if has_nightly() {
        return fuzz(&Options { target: None, seconds: 5 });
    }
    Ok(())
}

//! `cargo xtask fuzz`: runs the targets of `fuzz/`, guided by coverage with a nightly toolchain, otherwise with seeded mutations.

use crate::tools;
use anyhow::{Result, bail, ensure};
use clap::Args;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Args)]
pub struct Options {
    /// Target to run; the default is all
    #[arg(conflicts_with = "all", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    target: Option<String>,
    /// Seconds for each target, at most a day
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Run all targets, two at a time, and print executions, coverage and findings in a table
    #[arg(long)]
    all: bool,
    /// Minutes for each target, instead of seconds
    #[arg(long, conflicts_with = "seconds", value_parser = clap::value_parser!(u64).range(1..=1_440))]
    minutes: Option<u64>,
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

/// Returns a command of cargo-fuzz with a nightly toolchain.
fn cargo_fuzz(work: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo", "fuzz", work, "--features", "libfuzzer"]);
    command.env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN").current_dir(tools::root());
    command
}

/// Returns the command that runs a target guided by coverage; needs a nightly toolchain and cargo-fuzz.
fn guided(name: &str, seconds: u64) -> Result<Command> {
    // New inputs are written to target/, not to the corpus under version control.
    let found = tools::root().join("target/fuzz-corpus").join(name);
    std::fs::create_dir_all(&found)?;
    let mut command = cargo_fuzz("run");
    command.arg(name).arg(found);
    let corpus = tools::root().join("fuzz/corpus").join(name);
    if corpus.is_dir() {
        command.arg(corpus);
    }
    command.arg("--");
    command.args([format!("-max_total_time={seconds}"), "-max_len=4096".into(), "-timeout=60".into()]);
    if name.starts_with("virtio_") || name.ends_with("_driver") {
        // A driver leaks on purpose what a silent host may still write to; the target checks how much.
        // Long inputs from the start: a driver needs many steps to get anywhere.
        // A model copies whole pages, which would fill memory if freed blocks were kept for long.
        command
            .args(["-detect_leaks=0", "-len_control=0"])
            .env("ASAN_OPTIONS", "detect_leaks=0:quarantine_size_mb=16");
    }
    Ok(command)
}

/// What a run of a target did.
struct Run {
    name: String,
    executions: u64,
    coverage: u64,
    finding: Option<String>,
}

/// Runs a target, and reads what it did from its output.
fn measured(name: &str, seconds: u64) -> Result<Run> {
    let mut command = guided(name, seconds)?;
    let output = command.arg("-print_final_stats=1").stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    let number = |line: &str, key: &str| -> Option<u64> {
        line.split_once(key)?.1.split_whitespace().next()?.parse().ok()
    };
    let last = |key: &str| text.lines().rev().find_map(|line| number(line, key)).unwrap_or(0);
    let artifact = text.lines().find_map(|line| line.split_once("Test unit written to "));
    let finding = (!output.status.success()).then(|| {
        artifact.map_or_else(|| text.lines().last().unwrap_or_default().into(), |(_, path)| path.into())
    });
    let executions = last("stat::number_of_executed_units:");
    Ok(Run { name: name.into(), executions, coverage: last("cov:"), finding })
}

/// Runs all targets, two at a time, and prints a table.
fn all(names: &[String], seconds: u64) -> Result<()> {
    let next = AtomicUsize::new(0);
    let runs = Mutex::new(vec![]);
    // Built once, so that two runs do not wait for each other.
    tools::run(&mut cargo_fuzz("build"))?;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let run = measured(name, seconds);
                    let done = run.as_ref().map_or(0, |run| run.executions);
                    println!("fuzz {name}: {done} executions");
                    runs.lock().unwrap_or_else(|e| e.into_inner()).push(run);
                }
            });
        }
    });
    let runs: Result<Vec<Run>> = runs.into_inner().unwrap_or_else(|e| e.into_inner()).into_iter().collect();
    let mut runs = runs?;
    runs.sort_by(|a, b| a.name.cmp(&b.name));
    println!("{:<22} {:>12} {:>10} {:>9}  finding", "target", "executions", "a second", "coverage");
    for Run { name, executions, coverage, finding } in &runs {
        let finding = finding.as_deref().unwrap_or("none");
        println!("{name:<22} {executions:>12} {:>10} {coverage:>9}  {finding}", executions / seconds.max(1));
    }
    let found = runs.iter().filter(|run| run.finding.is_some()).count();
    ensure!(
        found == 0,
        "{found} targets have findings: run `cargo xtask fuzz TARGET`, which begins with them"
    );
    Ok(())
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
    let seconds = options.minutes.map_or(options.seconds, |minutes| minutes * 60);
    if let Some(name) = &options.target
        && !all.contains(name)
    {
        bail!("there is no fuzz target {name}; choose one of {}", all.join(", "));
    }
    if !has_nightly() {
        println!(
            "no nightly toolchain (install it with `rustup toolchain install nightly`): running seeded mutations on stable"
        );
        return seeded(options.target.as_deref(), seconds * 50_000);
    }
    if !tools::has("cargo-fuzz") {
        tools::run(&mut tools::cargo(&["install", "--quiet", "cargo-fuzz"]))?;
    }
    if options.all {
        return self::all(&all, seconds);
    }
    for name in all.iter().filter(|name| options.target.as_ref().is_none_or(|target| target == *name)) {
        println!("fuzz {name}: {seconds} s");
        tools::run(guided(name, seconds)?.arg("-verbosity=0"))?;
    }
    Ok(())
}

/// Runs each target for a few seconds, as part of `cargo xtask test`.
pub fn briefly() -> Result<()> {
    println!("fuzz: every target with its corpus and seeded mutations");
    seeded(None, 20_000)?;
    if has_nightly() {
        return fuzz(&Options { target: None, seconds: 5, all: false, minutes: None });
    }
    Ok(())
}

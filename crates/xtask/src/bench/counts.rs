//! What one request or frame costs in each driver, counted in process under callgrind.
//!
//! [`all`] measures every row of [`PARTS`]; [`print_line`] prints them for `cargo xtask bench --counts`.

use crate::scratch::Scratch;
use crate::tools;
use anyhow::{Context, Result, bail, ensure};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::process::{Command, Stdio};

/// A program that measures, the kind of Cargo target it is, and the function below which instructions count.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Program {
    kind: &'static str,
    name: &'static str,
    function: &'static str,
}

const RING: Program = Program { kind: "bin", name: "ring-bench", function: "driver_side" };
const BLOCK: Program = Program { kind: "bin", name: "block-bench", function: "driver_side" };
const CHANNEL: Program = Program { kind: "bin", name: "channel-bench", function: "ring_side" };
const STORAGE: Program = Program { kind: "example", name: "storvsc-bench", function: "driver_side" };
const STORAGE_DYN: Program = Program { kind: "example", name: "storvsc-dyn-bench", function: "driver_side" };
const ADAPTER: Program = Program { kind: "example", name: "pvscsi-bench", function: "driver_side" };
const DISK: Program = Program { kind: "example", name: "blkfront-bench", function: "driver_side" };
const NET: Program = Program { kind: "example", name: "net-bench", function: "driver_side" };

/// The parts: name, program, the program's word for it, batches.
const PARTS: &[(&str, Program, &str, [u64; 2])] = &[
    ("block-dyn", RING, "block-dyn", [1, 16]),
    ("block", BLOCK, "block", [1, 16]),
    ("queue-indirect", RING, "queue-indirect", [1, 16]),
    ("queue-direct", RING, "queue-direct", [1, 16]),
    ("queue-packed", RING, "queue-packed", [1, 16]),
    ("peer-block-dyn", RING, "peer-block-dyn", [1, 16]),
    ("peer-block", RING, "peer-block", [1, 16]),
    ("peer-queue", RING, "peer-queue", [1, 16]),
    ("storvsc", STORAGE, "read", [1, 32]),
    ("storvsc-dyn", STORAGE_DYN, "read", [1, 32]),
    ("vmbus-ring", CHANNEL, "0", [1, 32]),
    ("virtio-net-tx", NET, "virtio-net-tx", [1, 32]),
    ("virtio-net-rx", NET, "virtio-net-rx", [1, 32]),
    ("peer-virtio-net-tx", RING, "peer-virtio-net-tx", [1, 32]),
    ("peer-virtio-net-rx", RING, "peer-virtio-net-rx", [1, 32]),
    ("netvsc-tx", NET, "netvsc-tx", [1, 32]),
    ("netvsc-rx", NET, "netvsc-rx", [1, 32]),
    ("pvscsi", ADAPTER, "read", [1, 32]),
    ("vmxnet3-tx", NET, "vmxnet3-tx", [1, 32]),
    ("vmxnet3-rx", NET, "vmxnet3-rx", [1, 32]),
    ("blkfront", DISK, "read", [1, 32]),
    ("netfront-tx", NET, "netfront-tx", [1, 32]),
    ("netfront-rx", NET, "netfront-rx", [1, 32]),
];

/// What one part costs at one batch size.
pub struct Row {
    pub part: &'static str,
    pub batch: u64,
    /// For one request or frame, with what the bench's loop around it costs and without what it does in `host_side`.
    pub instructions: u64,
    /// Executed instructions with a locked memory access, for one request or frame.
    pub locked: f64,
    /// For one request or frame.
    pub allocations: f64,
    /// Kicks (virtio) or signals (VMBus) for the whole batch.
    pub kicks: f64,
}

/// Builds a program of the testhost for release; returns its path.
fn build(program: Program) -> Result<String> {
    let kind = format!("--{}", program.kind);
    tools::run(&mut tools::cargo(&[
        "build",
        "--quiet",
        "--release",
        "-p",
        "paravirt-testhost",
        "--features",
        "compare",
        &kind,
        program.name,
    ]))?;
    let target = tools::target().join("release");
    let folder = if program.kind == "bin" { target } else { target.join("examples") };
    Ok(folder.join(program.name).display().to_string())
}

/// Addresses of the instructions in `path` that lock memory: with a `lock` prefix, or `xchg` with a memory operand.
fn locking_instructions(path: &str) -> Result<HashSet<u64>> {
    let output = Command::new("objdump").args(["-d", "--no-show-raw-insn", path]).output()?;
    ensure!(output.status.success(), "objdump failed on {path}");
    let text = String::from_utf8_lossy(&output.stdout);
    let found: HashSet<u64> = text
        .lines()
        .filter_map(|line| {
            let (address, code) = line.trim_start().split_once(":\t")?;
            let is_locking = code.starts_with("lock") || code.starts_with("xchg") && code.contains('(');
            is_locking.then(|| u64::from_str_radix(address, 16).ok()).flatten()
        })
        .collect();
    // The standard library's own are there in every program: none means that objdump's output was not understood.
    ensure!(!found.is_empty(), "objdump showed no locked instruction in {path}");
    Ok(found)
}

/// Instructions and locked instructions that callgrind counts below `function` in one run.
fn run(program: Program, path: &str, locking: &HashSet<u64>, words: &[&str]) -> Result<[u64; 2]> {
    let folder = Scratch::new()?;
    let out = folder.path().join("callgrind");
    let mut command = Command::new("valgrind");
    command.args([
        "--tool=callgrind",
        "--quiet",
        "--dump-instr=yes",
        "--compress-strings=no",
        "--compress-pos=no",
    ]);
    command.arg(format!("--toggle-collect=*{}*", program.function));
    // What a model of a host or the bench itself does in the middle of a driver's work is left out.
    command.arg("--toggle-collect=*host_side*");
    command
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(path)
        .args(words)
        .stdout(Stdio::null());
    tools::run(&mut command)?;
    let text = std::fs::read_to_string(&out)?;
    let (mut total, mut locked, mut is_known) = (0, 0, false);
    let (mut is_program, mut is_call) = (false, false);
    for line in text.lines() {
        if let Some(object) = line.strip_prefix("ob=") {
            is_program = object == path;
            is_known |= is_program;
        } else if line.starts_with("calls=") {
            // The next line is the cost of the callee, counted where the callee is.
            is_call = true;
        } else if let Some(rest) = line.strip_prefix("0x") {
            if std::mem::take(&mut is_call) {
                continue;
            }
            let mut fields = rest.split(' ');
            let address = fields.next().and_then(|field| u64::from_str_radix(field, 16).ok());
            let (Some(address), Some(count)) =
                (address, fields.nth(1).and_then(|field| field.parse::<u64>().ok()))
            else {
                bail!("callgrind's line {line:?} is not understood");
            };
            total += count;
            if is_program && locking.contains(&address) {
                locked += count;
            }
        }
    }
    ensure!(is_known && total > 0, "callgrind counted nothing in {path}");
    Ok([total, locked])
}

/// The numbers that a run of a program prints: the value of the first of `keys` that it knows.
fn printed(text: &str, keys: &[&str]) -> Result<f64> {
    let find =
        |key: &&str| text.split_whitespace().find_map(|word| word.strip_prefix(*key)?.strip_prefix('='));
    keys.iter()
        .find_map(find)
        .and_then(|word| word.parse().ok())
        .with_context(|| format!("no {keys:?} in {text:?}"))
}

/// Measures every part, and gives each row to `each` as soon as it is there.
pub fn all(mut each: impl FnMut(&Row)) -> Result<Vec<Row>> {
    const ROUNDS: u64 = 500;
    tools::need("valgrind", "valgrind")?;
    tools::need("objdump", "binutils")?;
    let mut built = HashMap::new();
    let mut rows = vec![];
    for &(part, program, word, batches) in PARTS {
        let (path, locking) = &*match built.entry(program) {
            Entry::Occupied(built) => built.into_mut(),
            Entry::Vacant(missing) => {
                let path = build(program)?;
                let locking = locking_instructions(&path)?;
                missing.insert((path, locking))
            }
        };
        for batch in batches {
            let count =
                |rounds: u64| run(program, path, locking, &[word, &batch.to_string(), &rounds.to_string()]);
            // The difference of two runs, so that setting up falls out.
            let ([less, less_locked], [more, more_locked]) = (count(ROUNDS)?, count(2 * ROUNDS)?);
            let output = Command::new(path).args([word, &batch.to_string(), "2000"]).output()?;
            ensure!(output.status.success(), "{path} {word} failed");
            let text = String::from_utf8_lossy(&output.stdout);
            let requests = ROUNDS * batch;
            let row = Row {
                part,
                batch,
                instructions: (more - less) / requests,
                locked: (more_locked - less_locked) as f64 / requests as f64,
                allocations: printed(&text, &["allocations"])?,
                kicks: printed(&text, &["kicks", "signals"])?,
            };
            each(&row);
            rows.push(row);
        }
    }
    Ok(rows)
}

/// Prints a row as `cargo xtask bench --counts` does.
pub fn print_line(row: &Row) {
    let Row { part, batch, instructions, locked, allocations, kicks } = row;
    // Fractions to one decimal, and none where there is none.
    let short = |value: f64| (value * 10.0).round() / 10.0;
    println!(
        "part={part} batch={batch} instructions={instructions} locked={} allocations={} kicks={}",
        short(*locked),
        short(*allocations),
        short(*kicks)
    );
}

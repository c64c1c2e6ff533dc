//! `cargo xtask bench`: numbers, no verdict.

pub mod guests;

use crate::guest::Machine;
use crate::scratch::Scratch;
use crate::{image, kernel, serve, tools};
use anyhow::{Context, Result};
use std::fs::File;
use std::process::{Command, Stdio};

/// Instructions that callgrind counts below the function whose name contains `function`, in a run of `program`.
fn instructions(program: &str, words: &[&str], function: &str) -> Result<u64> {
    let folder = Scratch::new()?;
    let out = folder.path().join("callgrind");
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--quiet", &format!("--toggle-collect=*{function}*")]);
    // What a model of a host does in the middle of it is left out.
    command.arg("--toggle-collect=*host_side*");
    command
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .args(words)
        .stdout(Stdio::null());
    tools::run(&mut command)?;
    let text = std::fs::read_to_string(&out)?;
    let total =
        text.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")));
    total.and_then(|n| n.trim().parse().ok()).context("callgrind said no total")
}

/// Where a program of the testhost is, built for release. `kind` is `bin` or `example`.
fn program(kind: &str, name: &str) -> Result<String> {
    let kind_option = format!("--{kind}");
    tools::run(&mut tools::cargo(&[
        "build",
        "--quiet",
        "--release",
        "-p",
        "paravirt-testhost",
        &kind_option,
        name,
    ]))?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| tools::root().join("target"), Into::into);
    let folder = if kind == "bin" { target.join("release") } else { target.join("release/examples") };
    Ok(folder.join(name).display().to_string())
}

/// Instructions below `function` for one of `batch` in a round: the difference of two runs, so that all else falls out.
fn each(program: &str, part: &str, batch: u64, function: &str) -> Result<u64> {
    const ROUNDS: u64 = 2000;
    let run = |rounds: u64| instructions(program, &[part, &batch.to_string(), &rounds.to_string()], function);
    Ok((run(2 * ROUNDS)? - run(ROUNDS)?) / (ROUNDS * batch))
}

/// What a run of `program` says of `keys`.
fn fields<const N: usize>(program: &str, words: &[&str], keys: [&str; N]) -> Result<[String; N]> {
    let output = Command::new(program).args(words).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(keys.map(|key| {
        let word = text.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        word.unwrap_or("?").to_string()
    }))
}

/// The virtqueue and the block driver on it.
fn queues() -> Result<()> {
    println!("in process, release build, instructions in the driver for one request (callgrind)");
    let program = program("bin", "ring-bench")?;
    println!("{:36} {:>8} {:>8} {:>8} {:>8}", "part", "batch", "instr.", "kicks", "allocs");
    for part in ["queue-indirect", "queue-direct", "queue-packed", "block", "peer-queue", "peer-block"] {
        for batch in [1u64, 16] {
            let count = each(&program, part, batch, "driver_side")?;
            let [kicks, allocs] =
                fields(&program, &[part, &batch.to_string(), "2000"], ["kicks", "allocations"])?;
            println!("{part:36} {batch:>8} {count:>8} {kicks:>8} {allocs:>8}");
        }
    }
    tools::run(Command::new(&program).arg("ratio"))
}

/// The ring of a VMBus channel.
fn rings() -> Result<()> {
    println!(
        "in process, release build, instructions for one packet written and read, without the copy (callgrind)"
    );
    let program = program("bin", "channel-bench")?;
    println!("{:36} {:>8} {:>8} {:>8} {:>8}", "bytes", "batch", "instr.", "signals", "allocs");
    for bytes in ["0", "64", "1500"] {
        for batch in [1u64, 32] {
            let count = each(&program, bytes, batch, "ring_side")?;
            let [signals, allocs] =
                fields(&program, &[bytes, &batch.to_string(), "2000"], ["signals", "allocations"])?;
            println!("{bytes:36} {batch:>8} {count:>8} {signals:>8} {allocs:>8}");
        }
    }
    tools::run(Command::new(&program).arg("ratio"))
}

/// Hyper-V's storage.
fn storage() -> Result<()> {
    println!("in process, release build, instructions in the driver for a read of 4 KiB (callgrind)");
    let program = program("example", "storvsc-bench")?;
    println!("{:36} {:>8} {:>8} {:>8} {:>8}", "part", "batch", "instr.", "signals", "allocs");
    for batch in [1u64, 32] {
        let count = each(&program, "read", batch, "driver_side")?;
        let [signals, allocs] =
            fields(&program, &["read", &batch.to_string(), "2000"], ["signals", "allocations"])?;
        println!("{:36} {batch:>8} {count:>8} {signals:>8} {allocs:>8}", "storvsc");
    }
    Ok(())
}

pub fn bench() -> Result<()> {
    tools::need("valgrind", "valgrind")?;
    queues()?;
    rings()?;
    storage()?;

    tools::need_qemu()?;
    let elf = kernel::build()?;
    let folder = Scratch::new()?;
    let disk = folder.path().join("disk.img");
    File::create(&disk)?.set_len(64 << 20)?;
    println!("in the guest, under QEMU without hardware virtualisation");
    for words in ["bench", "bench peer"] {
        let mut machine = Machine::new(&elf, "q35", 1, "512M");
        machine.add(&format!(
            "-drive file={},if=none,id=d0,format=raw -device virtio-blk-pci,drive=d0",
            disk.display()
        ));
        machine.command_line = words.into();
        machine.run(|line| {
            if line.starts_with("bench=") && line.contains(" end ") || line.starts_with("bench=boot") {
                println!("  {line}");
            }
        })?;
    }
    let tree = folder.path().join("tree");
    image::make_tree(&tree)?;
    std::fs::write(tree.join("bulk.bin"), image::bytes(3, 32 << 20))?;
    let server = serve::start(&tree)?;
    let mut machine = Machine::new(&elf, "q35", 1, "512M");
    machine.add("-netdev user,id=n0 -device virtio-net-pci,netdev=n0");
    machine.command_line = format!("dhcp http=http://10.0.2.2:{}/bulk.bin", server.port);
    machine.run(|line| {
        if line.starts_with("http=done") {
            println!("  tcp {line}");
        }
    })?;
    guests::bench()
}

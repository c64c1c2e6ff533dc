//! `cargo xtask bench`: numbers, no verdict.

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

pub fn bench() -> Result<()> {
    tools::need("valgrind", "valgrind")?;
    println!("in process, release build, instructions in the driver for one request (callgrind)");
    tools::run(&mut tools::cargo(&[
        "build",
        "--quiet",
        "--release",
        "-p",
        "paravirt-testhost",
        "--bin",
        "ring-bench",
    ]))?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| tools::root().join("target"), Into::into);
    let program = target.join("release/ring-bench").display().to_string();
    println!("{:36} {:>8} {:>8} {:>8} {:>8}", "part", "batch", "instr.", "kicks", "allocs");
    for part in ["queue-indirect", "queue-direct", "queue-packed", "block", "peer-queue", "peer-block"] {
        for batch in [1u64, 16] {
            let rounds = 2000u64;
            let words = [part, &batch.to_string(), &rounds.to_string()];
            let twice = [part, &batch.to_string(), &(2 * rounds).to_string()];
            // The difference of two runs: what is not a request falls out.
            let count = instructions(&program, &twice, "driver_side")?
                - instructions(&program, &words, "driver_side")?;
            let output = Command::new(&program).args(words).output()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let field = |key: &str| {
                let word = text.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
                word.unwrap_or("?").to_string()
            };
            println!(
                "{part:36} {batch:>8} {:>8} {:>8} {:>8}",
                count / (rounds * batch),
                field("kicks"),
                field("allocations")
            );
        }
    }
    tools::run(Command::new(&program).arg("ratio"))?;

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
    Ok(())
}

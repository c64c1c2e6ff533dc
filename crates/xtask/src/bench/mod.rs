//! `cargo xtask bench`: numbers, no verdict.

mod counts;
pub mod guests;
mod plot;

use crate::guest::Machine;
use crate::scratch::Scratch;
use crate::{image, kernel, objects, serve, tools};
use anyhow::Result;
use std::fs::File;
use std::process::Command;

/// What to measure.
#[derive(clap::Args)]
pub struct Options {
    /// Only the counts in process, one line for each part and batch size. Instructions, locked instructions and allocations
    /// are for one request or frame, kicks for the whole batch. Instructions include the bench's loop around the driver's calls:
    /// see docs/benchmarks.md.
    #[arg(long)]
    counts: bool,
}

pub fn bench(options: &Options) -> Result<()> {
    if !options.counts {
        println!(
            "in process, release build: for one request or frame (callgrind), kicks for the whole batch"
        );
    }
    let rows = counts::all(counts::print_line)?;
    plot::plot(&rows)?;
    if options.counts {
        return Ok(());
    }
    for name in ["ring-bench", "channel-bench"] {
        tools::run(Command::new(tools::target().join("release").join(name)).arg("ratio"))?;
    }

    println!("text of the small kernel, built for size");
    objects::sizes()?;

    tools::need_qemu()?;
    let elf = kernel::build()?;
    let folder = Scratch::new()?;
    let disk = folder.path().join("disk.img");
    File::create(&disk)?.set_len(64 << 20)?;
    println!("in the guest, under QEMU without hardware virtualisation");
    for words in ["bench", "bench peer"] {
        let mut machine = Machine::new(&elf, "q35", 1, "512M");
        machine.drive("d0", &disk, "").add("-device virtio-blk-pci,drive=d0");
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

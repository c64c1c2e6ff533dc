//! paravirt's developer commands. `cargo xtask --help` lists them.

mod api;
mod bench;
mod bindings;
mod bootable;
mod debian;
mod deny;
mod efi;
mod examples;
mod fuzz;
mod guest;
mod header;
mod image;
mod kernel;
mod lab;
mod linux;
mod matrix;
mod objects;
mod openvmm;
mod qmp;
mod run;
mod scratch;
mod serve;
mod soak;
mod tap;
mod test;
mod toolchains;
mod tools;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "paravirt's developer commands", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot the example kernel, let it test disks and network, and check its output
    Run(run::Options),
    /// Build the example kernel, and disk images of it that boot by BIOS and by UEFI: raw, VHD and VHDX
    Image(bootable::Options),
    /// Check format, lints and documentation; run unit and property tests, fuzz targets, and the kernel under QEMU
    Test(test::Options),
    /// Count instructions, kicks and allocations, and measure the kernel under QEMU; passes or fails nothing
    Bench(bench::Options),
    /// Fuzz the parsers of host-written bytes, and whole drivers
    Fuzz(fuzz::Options),
    /// Run disks, connections and reconnects on QEMU and on VMBus for some minutes, on QEMU with hot plug
    Soak(soak::Options),
    /// Generate the Rust of bindings/hyperv from its C headers, and the C header of crates/c from its Rust
    Bindgen,
    /// Check licences, duplicates, sources and advisories of the dependencies with cargo-deny
    Deny,
    /// Build Linux and a module that drives a virtio disk by these crates, and boot it; takes a quarter of an hour the first time
    Linux,
    /// Build the documentation of all crates
    Doc,
    /// Write the public API of each published crate to docs/api
    Api,
    /// Serve the files of a directory over HTTP
    #[command(hide = true)]
    Serve(serve::Options),
}

fn main() -> ExitCode {
    let result: Result<()> = match Cli::parse().command {
        Command::Run(options) => run::run(&options),
        Command::Image(options) => bootable::run(&options),
        Command::Test(options) => test::test(&options),
        Command::Bench(options) => bench::bench(&options),
        Command::Fuzz(options) => fuzz::fuzz(&options),
        Command::Soak(options) => soak::run(&options),
        Command::Bindgen => bindings::bindgen().and_then(|()| header::write()),
        Command::Deny => deny::deny(),
        Command::Linux => linux::run(),
        Command::Doc => test::doc(),
        Command::Api => api::write(),
        Command::Serve(options) => serve::serve_forever(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

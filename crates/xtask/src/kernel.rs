//! Builds the example kernel and the programs that run it.

use crate::tools;
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds what `words` select, for release, and returns the path of its `file`.
fn build_release(words: &str, file: &str) -> Result<PathBuf> {
    let words = format!("build --quiet --release --package {words}");
    tools::run(&mut tools::cargo(&words.split(' ').collect::<Vec<_>>()))?;
    Ok(tools::target().join("release").join(file))
}

/// Builds `paravirt-monitor` and returns its path.
pub fn monitor() -> Result<PathBuf> {
    build_release("paravirt-monitor", "paravirt-monitor")
}

/// Builds `linux-load`, the kernel's benchmark as a program for Linux, and returns its path.
pub fn linux_load() -> Result<PathBuf> {
    build_release("paravirt-monitor --example linux-load", "examples/linux-load")
}

/// Builds the small kernel and returns the path of its ELF file.
pub fn minimal() -> Result<PathBuf> {
    build_release("paravirt-minimal --features bare-metal", "paravirt-minimal")
}

/// Builds the kernel and returns the path of its ELF file.
pub fn build() -> Result<PathBuf> {
    build_release("paravirt-kernel --features bare-metal", "paravirt-kernel")
}

/// Builds the library for C and returns its path.
pub fn c_library() -> Result<PathBuf> {
    build_release("paravirt-c --features bare-metal", "libparavirt_c.a")
}

/// Builds the kernel in C in `folder`, with the system's C compiler, and returns the path of its ELF file.
pub fn c_kernel(folder: &Path) -> Result<PathBuf> {
    tools::need("cc", "gcc")?;
    let library = c_library()?;
    let root = tools::root();
    let (entry, elf) = (folder.join("entry.o"), folder.join("c-kernel"));
    let shared = root.join("examples/minimal/src/x86_64");
    let mut assemble = Command::new("cc");
    assemble.args(["-c", "-Wa,-msyntax=intel,-mnaked-reg,--noexecstack", "-x", "assembler"]);
    tools::run(assemble.arg(shared.join("entry.s")).arg("-o").arg(&entry))?;
    let mut link = Command::new("cc");
    link.args("-std=c11 -O2 -Wall -Wextra -Werror -ffreestanding -fno-pic -fno-stack-protector".split(' '));
    link.args("-fcf-protection=none -fno-asynchronous-unwind-tables -nostdlib -static -no-pie".split(' '));
    link.args(["-Wl,--gc-sections", "-Wl,--build-id=none", "-Wl,--no-warn-rwx-segments"]);
    link.arg("-I").arg(root.join("crates/c/include")).arg(root.join("examples/c-kernel/kernel.c"));
    link.arg(entry).arg(library).arg("-Wl,-T").arg(shared.join("link.ld")).arg("-o").arg(&elf);
    tools::run(&mut link)?;
    Ok(elf)
}

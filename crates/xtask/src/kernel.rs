//! Builds the example kernel and the programs that run it.

use crate::tools;
use anyhow::Result;
use std::path::PathBuf;

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

/// Builds the kernel in one file and returns the path of its ELF file.
pub fn minimal() -> Result<PathBuf> {
    build_release("paravirt-minimal --features bare-metal", "paravirt-minimal")
}

/// Builds the kernel and returns the path of its ELF file.
pub fn build() -> Result<PathBuf> {
    build_release("paravirt-kernel --features bare-metal", "paravirt-kernel")
}

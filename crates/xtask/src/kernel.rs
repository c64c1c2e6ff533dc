//! Builds the example kernel and the programs that run it.

use crate::tools;
use anyhow::Result;
use std::path::PathBuf;

/// Returns cargo's folder for release builds.
fn release() -> PathBuf {
    tools::target().join("release")
}

/// Builds `paravirt-monitor` and returns its path.
pub fn monitor() -> Result<PathBuf> {
    let words = "build --quiet --release --package paravirt-monitor";
    tools::run(&mut tools::cargo(&words.split(' ').collect::<Vec<_>>()))?;
    Ok(release().join("paravirt-monitor"))
}

/// Builds `linux-load`, the kernel's benchmark as a program for Linux, and returns its path.
pub fn linux_load() -> Result<PathBuf> {
    let words = "build --quiet --release --package paravirt-monitor --example linux-load";
    tools::run(&mut tools::cargo(&words.split(' ').collect::<Vec<_>>()))?;
    Ok(release().join("examples/linux-load"))
}

/// Builds the kernel in one file and returns the path of its ELF file.
pub fn minimal() -> Result<PathBuf> {
    let words = "build --quiet --release --package paravirt-minimal --features bare-metal";
    tools::run(&mut tools::cargo(&words.split(' ').collect::<Vec<_>>()))?;
    Ok(release().join("paravirt-minimal"))
}

/// Builds the kernel and returns the path of its ELF file.
pub fn build() -> Result<PathBuf> {
    let words = "build --quiet --release --package paravirt-kernel --features bare-metal";
    tools::run(&mut tools::cargo(&words.split(' ').collect::<Vec<_>>()))?;
    Ok(release().join("paravirt-kernel"))
}

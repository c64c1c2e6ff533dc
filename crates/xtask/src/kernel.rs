//! The example kernel, built for running.

use crate::tools;
use anyhow::Result;
use std::path::PathBuf;

/// Where cargo puts what it builds for release.
fn release() -> PathBuf {
    tools::target().join("release")
}

/// Builds our machine monitor; where it is.
pub fn monitor() -> Result<PathBuf> {
    let words = "build --quiet --release --package paravirt-monitor";
    tools::run(&mut tools::cargo(&words.split(' ').collect::<Vec<_>>()))?;
    Ok(release().join("paravirt-monitor"))
}

/// Builds the program that does under Linux what the kernel's bench does; where it is.
pub fn linux_load() -> Result<PathBuf> {
    let words = "build --quiet --release --package paravirt-monitor --example linux-load";
    tools::run(&mut tools::cargo(&words.split(' ').collect::<Vec<_>>()))?;
    Ok(release().join("examples/linux-load"))
}

/// Builds the kernel; where its ELF is.
pub fn build() -> Result<PathBuf> {
    let words = "build --quiet --release --package paravirt-kernel --features bare-metal";
    tools::run(&mut tools::cargo(&words.split(' ').collect::<Vec<_>>()))?;
    Ok(release().join("paravirt-kernel"))
}

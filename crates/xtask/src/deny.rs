//! `cargo xtask deny`: checks licences, duplicates, sources and advisories of the dependencies with cargo-deny and `deny.toml`.

use crate::tools;
use anyhow::{Result, bail};
use std::process::{Command, Stdio};

/// Runs cargo-deny if it is installed. It takes minutes to build, so it is not installed automatically, and `cargo xtask test` does
/// not run it.
pub fn deny() -> Result<()> {
    let mut version = Command::new("cargo-deny");
    version.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if !version.status().is_ok_and(|status| status.success()) {
        bail!("cargo-deny is not installed: run `cargo install --locked cargo-deny`");
    }
    tools::run(&mut tools::cargo(&["deny", "--workspace", "check"]))
}

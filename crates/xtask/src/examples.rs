//! Runs the examples of the library crates, which the tests only build.

use crate::tools;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Examples that do not run by themselves. Every other one does.
const NOT_RUN: [&str; 6] = [
    // Take arguments: `cargo xtask bench` runs them.
    "blkfront-bench",
    "net-bench",
    "pvscsi-bench",
    "storvsc-bench",
    "storvsc-dyn-bench",
    // A program of a virtual machine.
    "linux-load",
];

/// An example that was built.
#[derive(Debug, PartialEq)]
struct Example {
    name: String,
    program: PathBuf,
    /// The folder of its package.
    folder: PathBuf,
}

/// The example that a line of `cargo --message-format=json` names; `None` where it names something else.
fn example(line: &str) -> Option<Example> {
    let message: Value = serde_json::from_str(line).ok()?;
    let target = message.get("target")?;
    let is_example = target.get("kind")?.as_array()?.iter().any(|kind| kind == "example");
    let program = PathBuf::from(message.get("executable")?.as_str()?);
    let manifest = Path::new(message.get("manifest_path")?.as_str()?);
    let name = target.get("name")?.as_str()?.to_string();
    is_example.then_some(Example { name, program, folder: manifest.parent()?.to_path_buf() })
}

/// The examples of the packages that `selection` names to cargo, by name. They are those of the tests: nothing is built again
/// after `cargo test` with the same selection.
fn build(selection: &str) -> Result<BTreeMap<String, Example>> {
    let mut command =
        tools::cargo(&["test", "--quiet", "--no-run", "--message-format=json-render-diagnostics"]);
    command.args(selection.split_whitespace()).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().context("cannot start cargo")?;
    ensure!(output.status.success(), "cargo cannot build the examples: {}", output.status);
    let mut found = BTreeMap::new();
    for example in String::from_utf8_lossy(&output.stdout).lines().filter_map(example) {
        // Cargo puts the programs of all packages into one folder.
        if let Some(other) = found.insert(example.name.clone(), example) {
            bail!("two packages have an example {}, one of them in {}", other.name, other.folder.display());
        }
    }
    Ok(found)
}

fn run_one(example: &Example) -> Result<()> {
    let Example { name, program, folder } = example;
    println!("example {name}");
    let output = Command::new(program)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        bail!("example {name} failed: {}\n{}", output.status, String::from_utf8_lossy(&text).trim_end());
    }
    let readme = folder.join("README.md");
    let text = std::fs::read_to_string(&readme).with_context(|| readme.display().to_string())?;
    let is_named = text.contains(&format!("--example {name}`"));
    ensure!(is_named, "{} does not name the example {name}", readme.display());
    Ok(())
}

/// Builds the examples of the packages that `selection` names to cargo, and runs each. The README of its package has the command.
pub fn run(selection: &str) -> Result<()> {
    let mut examples = build(selection)?;
    for name in NOT_RUN {
        ensure!(examples.remove(name).is_some(), "there is no example {name}: take it out of NOT_RUN");
    }
    ensure!(!examples.is_empty(), "cargo names no examples");
    examples.values().try_for_each(run_one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_of_an_example_is_recognized() {
        let line = r#"{"reason":"compiler-artifact","manifest_path":"/w/crates/a/Cargo.toml",
            "target":{"kind":["KIND"],"name":"hello"},"executable":"/w/target/debug/examples/hello"}"#;
        let line = line.replace('\n', "");
        let expected = Example {
            name: "hello".into(),
            program: "/w/target/debug/examples/hello".into(),
            folder: "/w/crates/a".into(),
        };
        assert_eq!(example(&line.replace("KIND", "example")), Some(expected));
        assert_eq!(example(&line.replace("KIND", "bin")), None);
        assert_eq!(example(r#"{"reason":"build-finished","success":true}"#), None);
    }
}

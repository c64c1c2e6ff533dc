//! What the library is compiled to: that nothing in it panics, allocates from a heap or computes with floating point, and how much text
//! it is.

use crate::scratch::Scratch;
use crate::{kernel, tools};
use anyhow::{Context, Result, bail, ensure};
use std::path::Path;
use std::process::Command;

/// Parts of the names of functions that no function of the library may reach.
const FORBIDDEN: [&str; 8] = [
    "core::panicking::",
    "_fail",
    "panic_on_ord_violation",
    "rust_begin_unwind",
    "__rust_alloc",
    "__rust_realloc",
    // Floating point by functions, and its conversions.
    "df3",
    "sf3",
];

/// The small kernel with disks and network cards of virtio, and with all families and kinds of devices: features, and the bytes of
/// text that it may have at most.
const SIZES: [(&str, &str, u64); 2] = [
    ("virtio, disks and network cards", "bare-metal", 150 << 10),
    ("all families, all devices", "bare-metal,all-devices", 400 << 10),
];

/// Returns the bytes of text of the small kernel, built with `features` for size.
fn text_len(features: &str) -> Result<u64> {
    let target = tools::target().join("small");
    let words = format!("build --quiet --release -p paravirt-minimal --features {features}");
    let mut command = tools::cargo(&words.split(' ').collect::<Vec<_>>());
    command.arg("--target-dir").arg(&target);
    command.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s").env("CARGO_PROFILE_RELEASE_LTO", "fat");
    tools::run(&mut command)?;
    let sections = tools::output(Command::new("size").arg("-A").arg(target.join("release/paravirt-minimal")))
        .context("size cannot read the kernel")?;
    let line = sections.lines().find(|line| line.starts_with(".text ")).context("the kernel has no text")?;
    Ok(line.split_whitespace().nth(1).context("the text has no size")?.parse()?)
}

/// Prints how much text a kernel that does little else than use the library has, and checks that it is not more than it may be.
pub fn sizes() -> Result<()> {
    for (name, features, most) in SIZES {
        let len = text_len(features)?;
        println!("text=\"{name}\" bytes={len} most={most}");
        ensure!(len <= most, "the text of the small kernel has grown to {len} bytes");
    }
    Ok(())
}

/// Checks that no function of the C interface, and so none of the front door and the drivers, reaches a panic, an allocator or
/// floating point, in the release build.
pub fn check() -> Result<()> {
    println!("checking that no function of the library panics, allocates or uses floating point");
    tools::need("objdump", "binutils")?;
    let folder = Scratch::new()?;
    let library = kernel::c_library()?;
    let linked = link(&library, folder.path())?;
    let text =
        tools::output(Command::new("objdump").args(["-d", "-r", "-C", "--no-show-raw-insn"]).arg(&linked))
            .context("objdump cannot read the library")?;
    let found = callers(&text);
    if !found.is_empty() {
        bail!("the library reaches what it may not:\n{}", found.join("\n"));
    }
    sizes()
}

/// Links what the functions of the C interface reach, and keeps the relocations.
fn link(library: &Path, folder: &Path) -> Result<std::path::PathBuf> {
    let names = tools::output(Command::new("nm").args(["-g", "--defined-only"]).arg(library))
        .context("nm cannot read the library")?;
    let linked = folder.join("linked");
    let mut command = Command::new("cc");
    command.args("-nostdlib -static -no-pie -Wl,--gc-sections -Wl,-q -Wl,-e,paravirt_probe".split(' '));
    command.args(["-Wl,--unresolved-symbols=ignore-all", "-Wl,--build-id=none"]);
    let exported = names.lines().filter_map(|line| line.split(" T ").nth(1));
    for name in exported.filter(|name| name.starts_with("paravirt_")) {
        command.arg(format!("-Wl,-u,{name}"));
    }
    tools::run(command.arg(library).arg("-o").arg(&linked))?;
    Ok(linked)
}

/// Returns the functions that refer to a forbidden one, with its name.
fn callers(disassembly: &str) -> Vec<String> {
    let is_forbidden = |name: &str| FORBIDDEN.iter().any(|part| name.contains(part));
    let (mut function, mut found) = ("", vec![]);
    for line in disassembly.lines() {
        if let Some(name) = line.strip_suffix(">:").and_then(|line| line.split_once(" <")) {
            function = name.1;
        } else if let Some((_, target)) = line.split_once(": R_X86_64_")
            && is_forbidden(target)
            && !is_forbidden(function)
        {
            let target = target.split_once('\t').map_or(target, |(_, name)| name);
            found.push(format!("{function} refers to {target}"));
        }
    }
    found.sort();
    found.dedup();
    found
}

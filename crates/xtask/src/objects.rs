//! What the library is compiled to: that nothing in it panics, allocates from a heap or computes with floating point, and how much text
//! it is.

use crate::scratch::Scratch;
use crate::{kernel, tools};
use anyhow::{Context, Result, bail, ensure};
use std::path::Path;
use std::process::Command;

/// Parts of the names of functions that no function of the library may reach.
const FORBIDDEN: [&str; 6] = [
    "core::panicking::",
    "_fail",
    "panic_on_ord_violation",
    "rust_begin_unwind",
    "__rust_alloc",
    "__rust_realloc",
];

/// Ends of the names of the compiler's functions for floating point: arithmetic, comparisons, and conversions from and to integers.
const FLOAT_FUNCTIONS: [&str; 25] = [
    "df2", "sf2", "tf2", "df3", "sf3", "tf3", "dfsi", "dfdi", "dfti", "sfsi", "sfdi", "sfti", "sidf", "didf",
    "tidf", "tisf", "disf", "sisf", "sitf", "ditf", "titf", "tfsi", "tfdi", "tfti", "hf2",
];

/// Starts of the names of instructions that compute with floating point. Moves are not among them: the compiler copies structs by
/// the same registers.
const FLOAT_INSTRUCTIONS: [&str; 15] = [
    "adds", "subs", "muls", "divs", "sqrts", "cvts", "cvtts", "ucomis", "comis", "maxs", "mins", "rounds",
    "rcps", "rsqrts", "hadd",
];

/// The least number of references that the linked library has, if linking left it whole.
const LEAST_REFERENCES: usize = 1000;

/// The small kernel with disks and network cards of virtio, and with whole families: features, and the bytes of
/// text that it may have at most.
const SIZES: [(&str, &str, u64); 3] = [
    ("virtio, disks and network cards", "bare-metal", 150 << 10),
    ("virtio and hyper-v, all devices", "bare-metal,all-devices", 400 << 10),
    ("all families, all devices", "bare-metal,all-families", 512 << 10),
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
    let references = text.lines().filter(|line| line.contains(": R_X86_64_")).count();
    ensure!(
        text.contains("<paravirt_probe>:") && references >= LEAST_REFERENCES,
        "the linked library is not whole: it has {references} references"
    );
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

/// Returns the functions that refer to a forbidden one or compute with floating point, with the name of what they use.
fn callers(disassembly: &str) -> Vec<String> {
    let (mut function, mut found) = ("", vec![]);
    for line in disassembly.lines() {
        if let Some((_, name)) = line.strip_suffix(">:").and_then(|line| line.split_once(" <")) {
            function = name;
        } else if let Some((_, reference)) = line.split_once(": R_X86_64_") {
            let target = reference.split_once('\t').map_or(reference, |(_, name)| name);
            if is_forbidden(target) && !is_forbidden(function) {
                found.push(format!("{function} refers to {target}"));
            }
        } else if let Some(instruction) = line.split_once(":\t").and_then(|(_, text)| text.split(' ').next())
            && computes(instruction)
            && !is_forbidden(function)
        {
            found.push(format!("{function} computes with {instruction}"));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Whether `target`, which may be a section and an offset, is a function that the library may not reach.
fn is_forbidden(target: &str) -> bool {
    let name = target.split(['+', '-']).next().unwrap_or(target);
    FORBIDDEN.iter().any(|part| target.contains(part))
        || name.starts_with("__") && FLOAT_FUNCTIONS.iter().any(|end| name.ends_with(end))
}

/// Whether the instruction computes with floating point.
fn computes(instruction: &str) -> bool {
    let instruction = instruction.strip_prefix('v').unwrap_or(instruction);
    let scalar = FLOAT_INSTRUCTIONS.iter().any(|start| instruction.starts_with(start));
    let packed = [
        "addp", "subp", "mulp", "divp", "sqrtp", "cvtp", "cvttp", "cvtdq2p", "maxp", "minp", "roundp",
        "rcpp", "rsqrtp",
    ];
    // The comparisons of strings end otherwise.
    let compares = instruction.starts_with("cmp")
        && ["ss", "sd", "ps", "pd"].iter().any(|end| instruction.ends_with(end));
    compares || scalar || packed.iter().any(|start| instruction.starts_with(start)) || is_x87(instruction)
}

/// Whether the instruction is one of the x87's, but for those that the compiler may use to save its state.
fn is_x87(instruction: &str) -> bool {
    instruction.starts_with('f') && !instruction.starts_with("fx")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns what `callers` finds in a function `f` of this one line.
    fn of(line: &str) -> Vec<String> {
        callers(&format!("0000000000001000 <f>:\n{line}\n"))
    }

    #[test]
    fn references_to_what_is_forbidden_are_found() {
        for target in ["core::panicking::panic_bounds_check-0x4", "__rust_alloc-0x4", "slice_index_fail-0x4"]
        {
            let line = format!("\t\t\t1001: R_X86_64_PLT32\t{target}");
            assert_eq!(of(&line), [format!("f refers to {target}")]);
        }
        for target in ["__muldf3-0x4", "__floattidf-0x4", "__fixdfti-0x4", "__ltsf2-0x4"] {
            assert_eq!(of(&format!("\t\t\t1001: R_X86_64_PLT32\t{target}")).len(), 1, "{target}");
        }
    }

    #[test]
    fn arithmetic_is_found_and_copies_are_not() {
        for instruction in [
            "mulsd  %xmm1,%xmm0",
            "maxsd  %xmm1,%xmm0",
            "cmpltsd %xmm1,%xmm0",
            "cvtsi2sd %rax,%xmm0",
            "vdivss %xmm0,%xmm1,%xmm2",
            "fldt   (%rax)",
        ] {
            assert_eq!(of(&format!("    1000:\t{instruction}")).len(), 1, "{instruction}");
        }
        for instruction in [
            "movups (%rax),%xmm0",
            "movsd  %xmm0,(%rax)",
            "addq   $1,%rax",
            "sub    %rax,%rbx",
            "cmpsq  (%rdi),(%rsi)",
        ] {
            assert_eq!(of(&format!("    1000:\t{instruction}")), [""; 0], "{instruction}");
        }
    }

    #[test]
    fn an_offset_in_a_section_is_no_name() {
        assert_eq!(of("\t\t\t1001: R_X86_64_PLT32\t.text+0x6df3c"), [""; 0]);
        assert_eq!(of("\t\t\t1001: R_X86_64_PC32\t.rodata+0x12df3"), [""; 0]);
    }
}

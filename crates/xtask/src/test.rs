//! `cargo xtask test`: all checks and tests.

use crate::scratch::Scratch;
use crate::{api, bindings, examples, fuzz, header, kernel, matrix, objects, toolchains, tools};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use std::path::PathBuf;
use std::process::Command;

#[derive(Args)]
pub struct Options {
    /// Run only the QEMU cases whose names contain this text
    #[arg(long, value_name = "TEXT")]
    qemu: Option<String>,
    /// Run only the checks with other compilers and for other processors
    #[arg(long, conflicts_with = "qemu")]
    compilers: bool,
    /// Run only the check of what the library is compiled to
    #[arg(long, conflicts_with_all = ["qemu", "compilers"])]
    objects: bool,
}

/// Arguments that select all packages with all features, except the kernels and the library for C, which are built separately, and the
/// fuzz targets.
const LIBRARIES: &str = "--workspace --exclude paravirt-kernel --exclude paravirt-minimal --exclude paravirt-c --exclude paravirt-fuzz --all-features";

/// Runs `cargo` with the arguments in `words`.
fn cargo(words: &str) -> Result<()> {
    println!("cargo {words}");
    let words: Vec<&str> = words.split_whitespace().collect();
    tools::run(tools::cargo(&words).env("CARGO_TERM_COLOR", "never"))
}

/// Packages every crate and builds the packages in a scratch directory. Cargo never unpacks or rebuilds a version it has
/// already seen, so a reused directory would test stale sources.
fn package() -> Result<()> {
    println!("cargo package --workspace");
    forget_packages();
    let folder = Scratch::new()?;
    let mut command = tools::cargo(&["package", "--quiet", "--workspace", "--allow-dirty", "--target-dir"]);
    let result = tools::run(command.arg(folder.path()));
    forget_packages();
    result
}

/// Removes our unpacked crates from the temporary local registry that cargo makes for packaging. The name of its directory
/// starts with `-`, as it has no host name.
fn forget_packages() {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let sources = home.and_then(|home| std::fs::read_dir(home.join("registry/src")).ok());
    for folder in sources.into_iter().flatten().flatten() {
        let is_local = folder.file_name().to_string_lossy().starts_with('-');
        let ours = format!("paravirt-platform-{}", env!("CARGO_PKG_VERSION"));
        if is_local && folder.path().join(ours).is_dir() {
            // Best effort: if the removal fails, a stale package shows up as a failing build.
            let _ = std::fs::remove_dir_all(folder.path());
        }
    }
}

/// The packages with loom models in `tests/loom.rs`.
const LOOM: [&str; 5] =
    ["paravirt-platform", "paravirt-virtio", "paravirt-vmbus-ring", "paravirt-hyperv", "paravirt-vmbus"];

/// Runs the loom models, in a separate target directory as they need `--cfg loom`.
fn loom() -> Result<()> {
    for package in LOOM {
        println!("cargo test -p {package} --test loom");
        let mut command = tools::cargo(&["test", "--quiet", "-p", package, "--test", "loom"]);
        tools::run(command.args(["--target-dir", "target/loom"]).env("RUSTFLAGS", "--cfg loom"))?;
    }
    Ok(())
}

/// Prefixes of the names of the packages that belong to one family of drivers.
const FAMILY_PACKAGES: [(&str, &[&str]); 4] = [
    ("virtio", &["paravirt-kvm", "paravirt-virtio"]),
    (
        "hyperv",
        &[
            "hyperv-bindings",
            "paravirt-hv-",
            "paravirt-hyperv",
            "paravirt-netvsc",
            "paravirt-storvsc",
            "paravirt-vmbus",
        ],
    ),
    ("vmware", &["paravirt-pvscsi", "paravirt-vmware", "paravirt-vmxnet3"]),
    ("xen", &["paravirt-blkfront", "paravirt-netfront", "paravirt-xen"]),
];

/// Checks that each family of drivers compiles without the others, and depends on no crate of another one.
fn families() -> Result<()> {
    for (family, own) in FAMILY_PACKAGES {
        for features in [family.to_string(), format!("{family},devices")] {
            cargo(&format!(
                "clippy --quiet -p paravirt --no-default-features --features {features} -- -D warnings"
            ))?;
        }
        let words =
            format!("tree -p paravirt --no-default-features --features {family} -e normal --prefix none");
        println!("cargo {words}");
        let words: Vec<&str> = words.split(' ').collect();
        let tree = tools::output(&mut tools::cargo(&words)).context("cargo tree failed")?;
        let is_of = |line: &str, packages: &[&str]| packages.iter().any(|prefix| line.starts_with(prefix));
        ensure!(tree.lines().any(|line| is_of(line, own)), "cargo tree lists no crate of {family}:\n{tree}");
        let others = FAMILY_PACKAGES.iter().filter(|(other, _)| *other != family);
        let foreign: Vec<&str> =
            others.flat_map(|(_, packages)| tree.lines().filter(|line| is_of(line, packages))).collect();
        ensure!(
            foreign.is_empty(),
            "paravirt with {family} alone depends on crates of other families: {}",
            foreign.join(", ")
        );
    }
    Ok(())
}

/// The target of the tests under AddressSanitizer. Named, so that the flags do not reach build scripts and procedural macros.
const ASAN_TARGET: &str = "x86_64-unknown-linux-gnu";

/// The crates with `unsafe` code that runs in process. `testhost` exercises all drivers.
const ASAN_PACKAGES: [&str; 5] = [
    "paravirt-testhost",
    "paravirt-platform",
    "paravirt-shared-memory",
    "paravirt-virtio",
    "paravirt-vmbus-ring",
];

/// Substrings of the names of tests that are left out under AddressSanitizer: exhaustive and stress tests, which take minutes
/// there. Other tests of the same drivers run.
const ASAN_SKIPPED: [&str; 5] = [
    "every_byte_of_",
    "no_kick_is_lost_",
    "_survive_any_messages",
    "_survives_any_messages",
    "channel_numbers_are_reused",
];

/// Runs the in-process tests under AddressSanitizer, which needs a nightly toolchain. Returns why it was skipped, if it was.
fn address_sanitizer() -> Result<Option<&'static str>> {
    if tools::output(Command::new("cargo").args(["+nightly", "--version"])).is_none() {
        return Ok(Some("AddressSanitizer: no nightly toolchain; rustup toolchain install nightly"));
    }
    println!("cargo +nightly test under AddressSanitizer");
    let mut command = Command::new("cargo");
    command.args(["+nightly", "test", "--quiet", "--all-features", "--lib", "--tests"]);
    command.args(["--target", ASAN_TARGET]);
    command.args(ASAN_PACKAGES.iter().flat_map(|package| ["-p", package]));
    command.args(["--target-dir", "target/asan", "--"]).current_dir(tools::root());
    command.args(ASAN_SKIPPED.iter().flat_map(|name| ["--skip", name]));
    // The sanitizer does not see the accesses of inline assembly: the portable copy routine is used instead.
    command.env("RUSTFLAGS", "-Zsanitizer=address --cfg paravirt_portable");
    // The models leak what a device may still write to.
    command.env("ASAN_OPTIONS", "detect_leaks=0");
    // The variable that the toolchain of this command sets would override `+nightly`.
    tools::run(command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").env_remove("RUSTC"))?;
    Ok(None)
}

pub fn doc() -> Result<()> {
    // With the default features, as a stranger does; with all of them; and the C interface, which is built apart.
    for what in ["", LIBRARIES, "-p paravirt-c"] {
        let command = format!("doc --no-deps {what}");
        println!("cargo {}", command.trim_end());
        let mut command = tools::cargo(&command.split_ascii_whitespace().collect::<Vec<_>>());
        tools::run(command.arg("--quiet").env("RUSTDOCFLAGS", "-D warnings"))?;
    }
    Ok(())
}

pub fn test(options: &Options) -> Result<()> {
    if options.compilers {
        if let Some(why) = toolchains::check()? {
            println!("skipped: {why}");
        }
        return Ok(());
    }
    if options.objects {
        return objects::check();
    }
    let mut skipped = vec![];
    if options.qemu.is_none() {
        cargo("fmt --all --check")?;
        bindings::check()?;
        header::check()?;
        api::check()?;
        cargo("clippy --quiet --workspace --all-targets -- -D warnings")?;
        cargo(&format!("clippy --quiet {LIBRARIES} --all-targets -- -D warnings"))?;
        cargo("clippy --quiet -p paravirt-kernel --features bare-metal -- -D warnings")?;
        cargo("clippy --quiet -p paravirt-minimal --features bare-metal -- -D warnings")?;
        cargo("clippy --quiet -p paravirt-c --features bare-metal -- -D warnings")?;
        // Builds the library crates with default features only: no allocator, no standard library.
        cargo(&format!("build --quiet {}", toolchains::PORTABLE))?;
        skipped.extend(toolchains::check()?);
        families()?;
        objects::check()?;
        doc()?;
        cargo(&format!("test --quiet {LIBRARIES}"))?;
        cargo("test --quiet -p paravirt-c")?;
        examples::run(LIBRARIES)?;
        cargo("test --quiet -p paravirt-fuzz")?;
        cargo("test --quiet --release -p paravirt-testhost")?;
        loom()?;
        skipped.extend(address_sanitizer()?.map(String::from));
        fuzz::briefly()?;
        package()?;
    }
    tools::need_qemu()?;
    println!("building the kernel");
    let (passed, skipped_cases) = matrix::run(&kernel::build()?, options.qemu.as_deref())?;
    skipped.extend(skipped_cases);
    for case in &skipped {
        println!("skipped: {case}");
    }
    println!("{passed} passed, 0 failed, {} skipped", skipped.len());
    if !skipped.is_empty() && std::env::var("CI").is_ok_and(|ci| ci == "true") {
        bail!("tests were skipped, which is an error in CI");
    }
    Ok(())
}

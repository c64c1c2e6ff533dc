//! `cargo xtask linux`: a Linux with Rust, of Debian's packages, and the module in `examples/linux-module`.

use crate::debian::{self, Suite};
use crate::scratch::Scratch;
use crate::tools;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The suite with a kernel that has Rust, and a compiler for it.
const SUITE: &str = "forky";
/// What the libraries are compiled with: as the kernel compiles its own Rust.
const FLAGS: &str = "--cfg no_fp_fmt_parse -Cpanic=abort -Cembed-bitcode=n -Clto=n -Cforce-unwind-tables=n -Ccodegen-units=1 \
     -Csymbol-mangling-version=v0 -Crelocation-model=static -Zfunction-sections=y \
     -Ctarget-feature=-sse,-sse2,-sse3,-ssse3,-sse4.1,-sse4.2,-avx,-avx2 -Ctarget-cpu=x86-64 -Ztune-cpu=generic -Cno-redzone=y \
     -Ccode-model=kernel";
/// What the source is unpacked without, to save a gigabyte. The files of its configuration are all needed.
const EXCLUDED: [&str; 9] = [
    "Documentation/*.rst",
    "drivers/gpu/drm/*.[ch]",
    "drivers/net/*.[ch]",
    "drivers/media/*.[ch]",
    "drivers/staging/*.[ch]",
    "sound/*.[ch]",
    "tools/testing/*",
    "tools/perf/*",
    "arch/[!xu]*/*.[chS]",
];

/// The folders in which the kernel is built, in cargo's target directory.
struct Tree {
    folder: PathBuf,
}

/// Builds kernel and module, boots them, and shows what the module says.
pub fn run() -> Result<()> {
    if let Some(what) = debian::missing() {
        bail!("Linux is built of Debian's packages: {what}");
    }
    let programs = [
        ("gcc", "gcc"),
        ("make", "make"),
        ("bc", "bc"),
        ("perl", "perl"),
        ("xz", "xz-utils"),
        ("python3", "python3-minimal"),
    ];
    tools::need_all(&programs, &[("/usr/include/stdio.h", "libc6-dev")])?;
    tools::need_qemu()?;
    let folder = tools::target().join("linux");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let tree = Tree { folder: folder.canonicalize()? };
    tree.unpack()?;
    tree.write_starters()?;
    tree.build_kernel()?;
    let libraries = tree.build_libraries()?;
    let module = tree.build_module(&libraries)?;
    tree.boot(&module)
}

impl Tree {
    fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Downloads and unpacks compiler and source, if that was not done before.
    fn unpack(&self) -> Result<()> {
        if self.at("root").is_dir() && self.at("source").is_dir() {
            return Ok(());
        }
        println!("unpacking Linux and its compiler from Debian's packages");
        let scratch = Scratch::new_in(&self.folder)?;
        let suite = Suite::open(SUITE, scratch.path())?;
        let (source, clang) = (suite.newest("linux-source-")?, suite.newest("libclang1-")?);
        let root = scratch.path().join("root");
        let more = [
            "rustc",
            "rust-src",
            "rustfmt",
            "bindgen",
            "flex",
            "bison",
            "libelf-dev",
            "zlib1g-dev",
            "libzstd-dev",
            &source,
        ];
        suite.unpack(&["libstd-rust-dev", &clang, "libelf1t64", "m4"], &more, &root)?;
        let mut tar = Command::new("tar");
        tar.arg("-xJf").arg(root.join(format!("usr/src/{source}.tar.xz"))).arg("--wildcards");
        tar.args(EXCLUDED.map(|pattern| format!("--exclude={source}/{pattern}"))).arg("--exclude=*.dts*");
        tools::run(tar.arg("-C").arg(scratch.path()))?;
        // Whole or not at all; the source last.
        for (from, to) in [("root", "root"), (source.as_str(), "source")] {
            let _ = fs::remove_dir_all(self.at(to));
            fs::rename(scratch.path().join(from), self.at(to))?;
        }
        Ok(())
    }

    fn starter(&self, name: &str) -> PathBuf {
        self.at("start").join(name)
    }

    /// Writes the scripts that start the unpacked programs.
    fn write_starters(&self) -> Result<()> {
        let root = self.at("root");
        let shown = root.display();
        let m4 = format!("export M4='{}'", self.starter("m4").display());
        let llvm = fs::read_dir(root.join("usr/lib"))?.flatten().map(|entry| entry.path());
        let llvm = llvm
            .into_iter()
            .find(|path| path.join("lib").is_dir() && path.to_string_lossy().contains("llvm-"));
        let llvm = llvm.context("the packages have no libclang")?;
        let all = [
            // The kernel names a system root of its own, which may be named once.
            (
                "rustc",
                format!(
                    "case \" $* \" in *' --sysroot'*) ;; *) set -- --sysroot '{shown}/usr' \"$@\" ;; esac"
                ),
            ),
            ("rustfmt", String::new()),
            ("bindgen", format!("export LIBCLANG_PATH='{}/lib'", llvm.display())),
            ("m4", String::new()),
            ("flex", m4.clone()),
            ("bison", format!("{m4} BISON_PKGDATADIR='{shown}/usr/share/bison'")),
        ];
        for (name, before) in all {
            debian::write_starter(&self.starter(name), &root, name, &before, "")?;
        }
        Ok(())
    }

    /// Returns the command that runs the kernel's make for the targets in `words`.
    fn make(&self, words: &str) -> Command {
        let root = self.at("root");
        let mut command = Command::new("make");
        command.arg("-s").arg("-C").arg(self.at("source"));
        command.arg(format!("O={}", self.at("build").display())).arg("ARCH=x86_64");
        for (variable, name) in
            [("RUSTC", "rustc"), ("HOSTRUSTC", "rustc"), ("BINDGEN", "bindgen"), ("RUSTFMT", "rustfmt")]
        {
            command.arg(format!("{variable}={}", self.starter(name).display()));
        }
        command.arg(format!("LIBELF_FLAGS=-I{}/usr/include", root.display()));
        // The symbol is one of a newer C library than Debian 12's.
        command.arg(format!(
            "LIBELF_LIBS=-L{} -l:libelf.a -l:libz.a -l:libzstd.a -lpthread -Wl,--defsym=__isoc23_strtol=strtol",
            debian::libraries(&root)
        ));
        command.args(words.split_whitespace());
        let path = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(self.at("start")).chain(std::env::split_paths(&path));
        if let Ok(path) = std::env::join_paths(paths) {
            command.env("PATH", path);
        }
        // Cargo's are for another compiler.
        command.env_remove("RUSTFLAGS").env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
        command
    }

    /// Builds the kernel, if that was not done with this configuration.
    fn build_kernel(&self) -> Result<()> {
        let wanted = fs::read_to_string(tools::root().join("examples/linux-module/module/config"))?;
        let stamp = self.at("build/paravirt-config");
        if fs::read_to_string(&stamp).is_ok_and(|built| built == wanted) {
            return Ok(());
        }
        println!("building Linux: about a quarter of an hour on two processors");
        tools::run(&mut self.make("tinyconfig"))?;
        let config = self.at("build/.config");
        let small = fs::read_to_string(&config)?;
        // What is chosen here is not chosen twice, of which the kernel would warn.
        let chosen: Vec<&str> =
            wanted.split([' ', '=', '\n']).filter(|word| word.starts_with("CONFIG_")).collect();
        let is_other = |line: &&str| !line.split([' ', '=']).any(|word| chosen.contains(&word));
        let others: Vec<&str> = small.lines().filter(is_other).collect();
        fs::write(&config, others.join("\n") + "\n" + &wanted)?;
        tools::run(&mut self.make("olddefconfig"))?;
        let chosen = fs::read_to_string(&config)?;
        if !chosen.lines().any(|line| line == "CONFIG_RUST=y") {
            tools::run(&mut self.make("rustavailable"))?;
            bail!("the kernel's configuration has no Rust, although its tools are there");
        }
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        tools::run(&mut self.make(&format!("-j{jobs} vmlinux modules")))?;
        Ok(fs::write(stamp, wanted)?)
    }

    /// Compiles the crates with the kernel's core and flags, and returns the libraries.
    fn build_libraries(&self) -> Result<Vec<PathBuf>> {
        println!("compiling the drivers with the kernel's core");
        let (build, target) = (self.at("build"), self.at("drivers"));
        // Libraries of an earlier run would be linked too.
        let _ = fs::remove_dir_all(&target);
        let flags = format!("--sysroot=/dev/null -L{} {FLAGS}", build.join("rust").display());
        let mut command = tools::cargo(&[
            "build",
            "--quiet",
            "--release",
            "-p",
            "paravirt-linux-module",
            "-Zjson-target-spec",
        ]);
        command.arg("--target").arg(build.join("scripts/target.json")).arg("--target-dir").arg(&target);
        command.env("RUSTC", self.starter("rustc")).env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", flags);
        tools::run(&mut command)?;
        let entries = fs::read_dir(target.join("target/release/deps"))?.flatten().map(|entry| entry.path());
        let libraries: Vec<PathBuf> =
            entries.filter(|path| path.extension().is_some_and(|name| name == "rlib")).collect();
        ensure!(!libraries.is_empty(), "cargo made no libraries in {}", target.display());
        Ok(libraries)
    }

    /// Builds the module, in a copy of its source.
    fn build_module(&self, libraries: &[PathBuf]) -> Result<PathBuf> {
        println!("building the module");
        let (folder, from) = (self.at("module"), tools::root().join("examples/linux-module/module"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        for name in ["Kbuild", "main.rs"] {
            fs::copy(from.join(name), folder.join(name))?;
        }
        let paths: Vec<String> = libraries.iter().map(|path| path.display().to_string()).collect();
        let mut command = self.make("");
        command.arg(format!("M={}", folder.display())).arg(format!("PARAVIRT={}", paths.join(" ")));
        tools::run(command.arg("modules"))?;
        Ok(folder.join("paravirt_disk.ko"))
    }

    /// Boots the kernel with a disk and the module.
    fn boot(&self, module: &Path) -> Result<()> {
        let folder = Scratch::new()?;
        let (init, disk) = (folder.path().join("init"), folder.path().join("disk.img"));
        let source = tools::root().join("examples/linux-module/module/init.c");
        tools::run(Command::new("gcc").args(["-static", "-Os", "-s"]).arg(source).arg("-o").arg(&init))?;
        fs::write(&disk, [[1; 512], [2; 512]].concat())?;
        let list = folder.path().join("list");
        let lines = format!(
            "dir /dev 755 0 0\nnod /dev/console 600 0 0 c 5 1\nfile /init {} 755 0 0\nfile /paravirt_disk.ko {} 644 0 0\n",
            init.display(),
            module.display()
        );
        fs::write(&list, lines)?;
        let archive = Command::new(self.at("build/usr/gen_init_cpio")).arg(&list).output()?;
        ensure!(archive.status.success(), "the kernel's gen_init_cpio failed");
        let initrd = folder.path().join("initrd");
        fs::write(&initrd, archive.stdout)?;
        let mut machine = crate::guest::Machine::new(&self.at("build/vmlinux"), "q35", 1, "256M");
        machine.add("-initrd").add(&initrd.display().to_string());
        machine.drive("d0", &disk, "").add("-device virtio-blk-pci,drive=d0,disable-legacy=on");
        machine.command_line = "console=ttyS0 panic=-1 quiet loglevel=7".into();
        let transcript = machine.run(|line| {
            if line.contains("paravirt_disk:") || line.starts_with("init:") {
                println!("{line}");
            }
        })?;
        let text = transcript.text();
        for wanted in ["blocks=2 first=512", "init: loaded and unloaded"] {
            ensure!(text.contains(wanted), "Linux does not say `{wanted}`:\n{text}");
        }
        Ok(())
    }
}

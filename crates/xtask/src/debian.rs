//! Debian's packages, downloaded by an apt that knows its own folder only and unpacked into a folder. Nothing is installed.

use crate::tools;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The archive. The suites of updates are left out: what is unpacked is in the main ones.
const ARCHIVE: &str = "http://deb.debian.org/debian";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Returns which program or file is missing that packages are unpacked with, if one is.
pub fn missing() -> Option<String> {
    for (program, package) in [("apt-get", "apt"), ("dpkg-deb", "dpkg")] {
        if !tools::has(program) {
            return Some(format!("no {program}; install {package}, on Debian or a derivative"));
        }
    }
    let has_keyring = Path::new(KEYRING).is_file();
    (!has_keyring).then(|| format!("no {KEYRING}; apt-get install debian-archive-keyring"))
}

/// The index of a suite.
pub struct Suite {
    name: &'static str,
    folder: PathBuf,
}

impl Suite {
    /// Downloads the index of suite `name` to `folder`.
    pub fn open(name: &'static str, folder: &Path) -> Result<Self> {
        for sub in ["lists/partial", "cache/archives/partial", "etc/apt.conf.d", "etc/preferences.d", "debs"]
        {
            fs::create_dir_all(folder.join(sub))?;
        }
        fs::write(folder.join("status"), "")?;
        let at = |name: &str| folder.join(name).display().to_string();
        fs::write(folder.join("sources.list"), format!("deb [signed-by={KEYRING}] {ARCHIVE} {name} main\n"))?;
        let settings = [
            ("Dir::Etc", at("etc")),
            ("Dir::Etc::SourceList", at("sources.list")),
            ("Dir::State", at("")),
            ("Dir::State::Lists", at("lists")),
            ("Dir::State::Status", at("status")),
            ("Dir::Cache", at("cache")),
            ("APT::Architecture", "amd64".into()),
            ("APT::Install-Recommends", "false".into()),
            ("APT::Sandbox::User", "root".into()),
            ("Acquire::Languages", "none".into()),
            ("Acquire::Retries", "3".into()),
            // A mirror may be older than its index promises; signatures are checked all the same.
            ("Acquire::Check-Valid-Until", "false".into()),
        ];
        let mut config: String =
            settings.iter().map(|(key, value)| format!("{key} \"{value}\";\n")).collect();
        config += "APT::Architectures { \"amd64\"; \"arm64\"; \"riscv64\"; };\n";
        fs::write(folder.join("apt.conf"), config)?;
        let this = Self { name, folder: folder.into() };
        tools::run(this.apt("apt-get", &["-qq", "update"]).stdout(Stdio::null()))
            .with_context(|| format!("cannot get the index of {name}: is {ARCHIVE} reachable?"))?;
        Ok(this)
    }

    fn apt(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).env("APT_CONFIG", self.folder.join("apt.conf"));
        command.current_dir(self.folder.join("debs"));
        command
    }

    /// Returns the package with the highest version number in its name among those whose name is `prefix` and a number.
    pub fn newest(&self, prefix: &str) -> Result<String> {
        let listed =
            tools::output(&mut self.apt("apt-cache", &["pkgnames", prefix])).context("apt-cache failed")?;
        let is_number = |name: &&str| {
            let rest = name.strip_prefix(prefix).unwrap_or_default();
            !rest.is_empty() && rest.chars().all(|c| c.is_ascii_digit() || c == '.')
        };
        let newest = listed.lines().filter(is_number).max_by_key(|name| tools::numbers(name));
        Ok(newest.with_context(|| format!("{} has no package {prefix}NUMBER", self.name))?.into())
    }

    /// Downloads `packages` with all that they depend on, and `more` packages without, and unpacks them into `folder`.
    pub fn unpack(&self, packages: &[&str], more: &[&str], folder: &Path) -> Result<()> {
        let mut arguments = vec!["-qq", "install", "-y", "--print-uris"];
        arguments.extend(packages);
        let listed = tools::output(&mut self.apt("apt-get", &arguments))
            .with_context(|| format!("{} has no packages {}", self.name, packages.join(" ")))?;
        // A line is the quoted address, the file's name, its size, its checksum.
        let names = listed.lines().filter_map(|line| line.split_whitespace().nth(1)?.split('_').next());
        let mut wanted: Vec<&str> = names.collect();
        ensure!(!wanted.is_empty(), "apt lists no packages for {}", packages.join(" "));
        wanted.extend(more);
        let arguments: Vec<&str> = ["-qq", "download"].into_iter().chain(wanted).collect();
        tools::run(self.apt("apt-get", &arguments).stdout(Stdio::null()))?;
        for entry in fs::read_dir(self.folder.join("debs"))? {
            tools::run(Command::new("dpkg-deb").arg("-x").arg(entry?.path()).arg(folder))?;
        }
        Ok(())
    }
}

/// The folder of an unpacked system's libraries, with its dynamic loader.
pub fn libraries(root: &Path) -> String {
    format!("{}/usr/lib/x86_64-linux-gnu", root.display())
}

/// Writes a script that starts `program` of the system in `root` through its own dynamic loader, after the shell commands in `before`.
pub fn write_starter(path: &Path, root: &Path, program: &str, before: &str, arguments: &str) -> Result<()> {
    let library = libraries(root);
    let text = format!(
        "#!/bin/sh\n{before}\nexec '{library}/ld-linux-x86-64.so.2' --library-path '{library}' '{}/usr/bin/{program}' {arguments} \
         \"$@\"\n",
        root.display()
    );
    write_script(path, &text)
}

/// Writes a script.
pub fn write_script(path: &Path, text: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

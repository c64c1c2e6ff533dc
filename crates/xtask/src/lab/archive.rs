//! Writes an initramfs: a cpio archive in format "newc". Linux Documentation/driver-api/early-userspace/buffer-format.rst

use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const FILE: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
const LINK: u32 = 0o120_000;

/// An archive under construction.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    count: u32,
}

impl Archive {
    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.count += 1;
        let fields =
            [self.count, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes().chain([0]));
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Adds a folder and its parents.
    pub fn folder(&mut self, name: &str) {
        for (at, _) in name.match_indices('/').chain([(name.len(), "")]) {
            let name = &name[..at];
            if !name.is_empty() && self.folders.insert(name.into()) {
                self.entry(name, FOLDER | 0o755, &[]);
            }
        }
    }

    /// Adds a file and its parent folders.
    pub fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        if let Some((folder, _)) = name.rsplit_once('/') {
            self.folder(folder);
        }
        self.entry(name, FILE | mode, content);
    }

    /// Adds a copy of the file at `path`, with its permissions.
    pub fn copy(&mut self, name: &str, path: &Path) -> Result<()> {
        let content = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mode = std::fs::metadata(path)?.permissions().mode() & 0o777;
        self.file(name, mode, &content);
        Ok(())
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, name: &str, to: &str) {
        if let Some((folder, _)) = name.rsplit_once('/') {
            self.folder(folder);
        }
        self.entry(name, LINK | 0o777, to.as_bytes());
    }

    /// Adds the trailer and returns the archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

//! Temporary directories, removed when they are dropped, or by the next run if this one is killed.
//!
//! Crate `tempfile` is not used: it would enable the standard library in a dependency of the kernel, which is in the same workspace.

use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);
static CLEANED: Once = Once::new();
/// The beginning of the name of every directory, and the file in it whose lock says that it is in use.
const PREFIX: &str = "paravirt-";
const LOCK: &str = ".lock";

/// A temporary directory.
pub struct Scratch {
    path: PathBuf,
    /// Locked until the end of this program, whatever ends it.
    _lock: File,
}

impl Scratch {
    /// Creates an empty directory in the folder for temporary files.
    pub fn new() -> Result<Self> {
        let parent = match std::env::var_os("TMPDIR") {
            Some(folder) if !folder.is_empty() => PathBuf::from(folder),
            _ => PathBuf::from("/tmp"),
        };
        let parent = parent.canonicalize().ok().filter(|parent| parent.is_dir()).with_context(|| {
            format!("TMPDIR names {}, which is not a folder: set it to one", parent.display())
        })?;
        CLEANED.call_once(|| clean(&parent));
        Self::new_in(&parent)
    }

    /// Creates an empty directory in `parent`.
    pub fn new_in(parent: &Path) -> Result<Self> {
        loop {
            let name = format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let path = parent.join(name);
            match std::fs::create_dir(&path) {
                Ok(()) => {
                    let lock = lock(&path).with_context(|| format!("cannot write in {}", path.display()))?;
                    return Ok(Self { path, _lock: lock });
                }
                // Of a program in another container with the same number, or left behind.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| format!("cannot create {}", path.display())),
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path for the command line of the outer machine, which has no way to quote it.
    ///
    /// # Errors
    ///
    /// It has a character that would have to be quoted.
    pub fn check_plain(path: &Path) -> Result<()> {
        let text = path.to_str().unwrap_or("\0");
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._/+-".contains(c);
        ensure!(
            text.chars().all(is_plain),
            "{} cannot be given to a nested machine: set TMPDIR to a path without spaces, commas and quotation marks",
            path.display()
        );
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn lock(path: &Path) -> Result<File> {
    let file = File::create(path.join(LOCK))?;
    file.lock()?;
    Ok(file)
}

/// Removes the directories of programs that were killed: those whose lock nobody holds.
fn clean(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        if let Ok(file) = File::open(entry.path().join(LOCK))
            && file.try_lock().is_ok()
        {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

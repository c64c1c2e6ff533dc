//! Disk images, and the output expected from the kernel for them.

use crate::tools;
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns reproducible pseudo-random bytes.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Writes the files for the disk: text files, some in directories, and a large file.
pub fn make_tree(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder.join("docs/deep/er"))?;
    fs::write(folder.join("hello.txt"), "Hello from paravirt.\n")?;
    fs::write(folder.join("empty"), "")?;
    fs::copy(tools::root().join("README.md"), folder.join("docs/README.md"))?;
    fs::copy(tools::root().join("LICENSE-MIT"), folder.join("docs/deep/er/LICENSE"))?;
    fs::write(folder.join("large.bin"), bytes(1, 3_000_001))?;
    Ok(())
}

/// Makes an image of an ext4 file system with the files in `folder`.
pub fn make_ext4(folder: &Path, image: &Path) -> Result<()> {
    tools::need("mke2fs", "e2fsprogs")?;
    File::create(image)?.set_len(24 << 20)?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("mke2fs");
    command.args(["-q", "-t", "ext4", "-b", "4096", "-L", "paravirt", "-d"]).arg(folder).arg(image);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).stdout(Stdio::null());
    tools::run(&mut command)
}

/// Returns the `same file=` lines for the files in `folder`, sorted.
pub fn expected_files(folder: &Path) -> Result<Vec<String>> {
    fn walk(folder: &Path, name: &str, lines: &mut Vec<String>) -> Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = format!("{name}/{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                walk(&entry.path(), &name, lines)?;
            } else {
                let content = fs::read(entry.path())?;
                lines.push(format!("same file={name} size={} sha256={}", content.len(), sha256(&content)));
            }
        }
        Ok(())
    }
    let mut lines = Vec::new();
    walk(folder, "", &mut lines)?;
    lines.sort();
    Ok(lines)
}

/// Returns the `same http=` line for the file `large.bin` in `folder`.
pub fn expected_page(folder: &Path) -> Result<String> {
    let body = fs::read(folder.join("large.bin")).context("cannot read the file that is served")?;
    Ok(format!("same http=/large.bin status=200 size={} sha256={}", body.len(), sha256(&body)))
}

/// Returns the 8 bytes that the kernel's disk test writes at byte offset `at`: the middle 64 bits of a product of the offset, mixed,
/// and a constant.
fn pattern(at: u64) -> [u8; 8] {
    let product = u128::from(at ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xd134_2543_de82_ef95);
    ((product >> 32) as u64).to_le_bytes()
}

/// Bytes of the disk that the kernel's disk test writes.
pub const DISK1: u64 = 16 << 20;

/// The SHA-256 of `len` bytes as the kernel's disk test leaves them.
pub fn pattern_sum(len: u64) -> String {
    let bytes: Vec<u8> = (0..len).step_by(8).flat_map(pattern).collect();
    sha256(&bytes)
}

/// Checks that the first `len` bytes of `image` are what the kernel's disk test leaves.
pub fn check_pattern(image: &Path, len: u64) -> Result<()> {
    let mut file = File::open(image).with_context(|| format!("cannot open {}", image.display()))?;
    let mut chunk = vec![0; 1 << 20];
    let mut at = 0;
    while at < len {
        let count = chunk.len().min((len - at) as usize);
        file.read_exact(&mut chunk[..count])?;
        for (i, word) in chunk[..count].chunks_exact(8).enumerate() {
            let byte = at + i as u64 * 8;
            if word != pattern(byte) {
                bail!("the image differs from the test's pattern at byte {byte}");
            }
        }
        at += count as u64;
    }
    Ok(())
}

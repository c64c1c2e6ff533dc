//! `mount=diskN`: prints the files of an ext4 file system, each with its SHA-256.

use super::devices::{Buffer, Devices, DiskQueue};
use crate::platform::{self, Machine};
use crate::println;
use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::error::Error;
use core::fmt::Write;
use core::time::Duration;
use ext4_view::{Ext4, Ext4Read, PathBuf};
use paravirt_device::{BlockDevice, BlockInfo, Blocking, Notify};
use paravirt_platform::{DmaSlice, Instant};
use sha2::{Digest, Sha256};

const TIMEOUT: Duration = Duration::from_secs(60);
/// How many bytes are read at once and cached.
const WINDOW: usize = 128 << 10;

/// A disk with one request at a time.
pub type BlockingDisk = Blocking<Machine, DiskQueue, fn(&mut DiskQueue, Instant)>;

/// Wraps a queue for blocking requests of up to `bytes` bytes each; the processor halts while it waits.
pub fn blocking(mut queue: DiskQueue, info: &BlockInfo, bytes: usize) -> Result<BlockingDisk, String> {
    queue.register(&platform::waker());
    let bounce: Buffer = DmaSlice::alloc(&Machine, bytes).map_err(|e| e.to_string())?;
    fn wait(queue: &mut DiskQueue, until: Instant) {
        platform::sleep(until, || queue.arm());
    }
    Ok(Blocking::new(queue, Machine, bounce, info, TIMEOUT, wait))
}

/// Formats `bytes` as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads any byte range of a disk for the file system, through a cached window of whole blocks.
struct Reader {
    disk: BlockingDisk,
    block_size: u64,
    blocks: u64,
    window: Vec<u8>,
    /// The first block of the window.
    start: u64,
    /// The bytes in the window that are valid.
    len: usize,
}

impl Reader {
    fn read(
        &mut self,
        start_byte: u64,
        dst: &mut [u8],
    ) -> Result<(), Box<dyn Error + Send + Sync + 'static>> {
        let mut filled = 0;
        while filled < dst.len() {
            let at = start_byte + filled as u64;
            let offset = at.wrapping_sub(self.start * self.block_size) as usize;
            if at < self.start * self.block_size || offset >= self.len {
                let first = at / self.block_size;
                let blocks = (WINDOW as u64 / self.block_size).min(self.blocks.saturating_sub(first));
                if blocks == 0 {
                    return Err("read beyond the end of the disk".into());
                }
                self.len = (blocks * self.block_size) as usize;
                self.start = first;
                if let Err(error) = self.disk.read(first, &mut self.window[..self.len]) {
                    self.len = 0;
                    return Err(Box::new(error));
                }
                continue;
            }
            let count = (self.len - offset).min(dst.len() - filled);
            dst[filled..filled + count].copy_from_slice(&self.window[offset..offset + count]);
            filled += count;
        }
        Ok(())
    }
}

/// The reader as the file system holds it: this module gets its queue back.
struct Shared(Rc<RefCell<Reader>>);

impl Ext4Read for Shared {
    fn read(
        &mut self,
        start_byte: u64,
        dst: &mut [u8],
    ) -> Result<(), Box<dyn Error + Send + Sync + 'static>> {
        self.0.borrow_mut().read(start_byte, dst)
    }
}

/// Prints all files of the file system on disk `index`.
pub fn mount(devices: &mut Devices, index: usize) -> Result<(), String> {
    let info = devices.disk(index)?.info();
    let mut queues = devices.disk_queues(index)?;
    let queue = queues.remove(0);
    let reader = Rc::new(RefCell::new(Reader {
        disk: blocking(queue, &info, WINDOW)?,
        block_size: u64::from(info.block_size),
        blocks: info.blocks,
        window: alloc::vec![0; WINDOW],
        start: 0,
        len: 0,
    }));
    let printed = print_files(Shared(reader.clone()), index);
    if let Some(reader) = Rc::into_inner(reader) {
        queues.insert(0, reader.into_inner().disk.into_queue());
    }
    devices.return_queues(index, queues);
    printed
}

fn print_files(reader: Shared, index: usize) -> Result<(), String> {
    let fs = Ext4::load(Box::new(reader)).map_err(|e| format!("disk{index}: {e}"))?;
    println!("mount=disk{index} label={:?}", fs.label());
    let mut directories = alloc::vec![PathBuf::new("/")];
    let (mut files, mut bytes) = (0u64, 0u64);
    while let Some(directory) = directories.pop() {
        let mut entries = fs
            .read_dir(&directory)
            .and_then(|entries| entries.collect::<Result<Vec<_>, _>>())
            .map_err(|e| format!("{}: {e}", directory.display()))?;
        entries.sort_by_key(|entry| entry.path());
        for entry in entries {
            let path = entry.path();
            let name = entry.file_name();
            let kind = entry.file_type().map_err(|e| format!("{}: {e}", path.display()))?;
            if kind.is_dir() {
                if name.as_ref() != b"." && name.as_ref() != b".." {
                    directories.push(path);
                }
            } else if kind.is_regular_file() {
                bytes += file(&fs, &path)?;
                files += 1;
            } else {
                println!("file={} kind={kind:?}", path.display());
            }
        }
    }
    println!("mount=disk{index} files={files} bytes={bytes}");
    Ok(())
}

/// Prints a file's size and SHA-256; returns its size in bytes.
fn file(fs: &Ext4, path: &PathBuf) -> Result<u64, String> {
    let failed = |e: ext4_view::Ext4Error| format!("{}: {e}", path.display());
    let mut file = fs.open(path).map_err(failed)?;
    let (mut hash, mut size) = (Sha256::new(), 0);
    let mut chunk = alloc::vec![0; 64 << 10];
    loop {
        let count = file.read_bytes(&mut chunk).map_err(failed)?;
        if count == 0 {
            break;
        }
        hash.update(&chunk[..count]);
        size += count as u64;
    }
    println!("same file={} size={size} sha256={}", path.display(), hex(&hash.finalize()));
    Ok(size)
}

//! What a boot loader tells the kernel of a machine that is no PC, its memory and the command line: by a device tree, or by UEFI.

use crate::memory::Ranges;
use paravirt_firmware::device_tree::DeviceTree;

/// Maximum length of the command line in bytes. A longer one is refused: a word that is cut may mean something else.
const COMMAND_LINE: usize = 4096;
/// Maximum length of a device tree.
const MAX_TREE: usize = 2 << 20;

/// What the loader passed.
pub struct BootInfo {
    tree: Option<&'static [u8]>,
    ram: Ranges,
    /// The name of the boot protocol.
    entry: &'static str,
    rsdp: Option<u64>,
    /// The command line, if it is not that of the tree.
    command_line: Option<&'static [u8]>,
}

impl BootInfo {
    /// Reads the device tree at `address`.
    ///
    /// # Safety
    ///
    /// The memory there is mapped, and is not written as long as the kernel runs.
    pub unsafe fn read(address: u64) -> Self {
        // SAFETY: by the contract of this function.
        let tree = unsafe { find(address) };
        let mut this =
            Self { tree, ram: Ranges::new(), entry: "device-tree", rsdp: None, command_line: None };
        let Some(parsed) = this.tree() else { return this };
        let memory = parsed
            .nodes()
            .filter(|node| node.is_enabled() && node.property("device_type") == Some(b"memory\0"));
        // The tree itself is not memory to allocate.
        let kept = parsed.reserved().chain(core::iter::once((address, tree.map_or(0, <[u8]>::len) as u64)));
        let memory = memory.flat_map(|node| node.registers());
        this.ram = without(memory.map(|(start, len)| (start, start.saturating_add(len))), kept);
        this
    }

    /// Returns the device tree.
    pub fn tree(&self) -> Option<DeviceTree<'static>> {
        DeviceTree::parse(self.tree?)
    }

    /// Returns the bytes of the device tree.
    pub fn device_tree(&self) -> Option<&'static [u8]> {
        self.tree
    }

    /// Takes what UEFI passed, with a device tree if it has one.
    ///
    /// # Safety
    ///
    /// As for [`read`](Self::read).
    #[cfg(target_arch = "aarch64")]
    pub unsafe fn from_efi(passed: super::aarch64::efi::Passed, ram: Ranges, tree: Option<u64>) -> Self {
        // SAFETY: by the contract of this function.
        let found = tree.and_then(|address| unsafe { find(address) });
        // UEFI counts the memory of the tree as its own, which is free.
        let kept = found.map(|bytes| (bytes.as_ptr() as u64, bytes.len() as u64));
        let ram = without(ram.iter().map(|range| (range.start, range.end)), kept.into_iter());
        let command_line = Some(passed.command_line);
        Self { tree: found, ram, entry: "uefi", rsdp: passed.rsdp, command_line }
    }

    /// Returns the address of ACPI's RSDP.
    pub fn rsdp(&self) -> Option<u64> {
        self.rsdp
    }

    /// Returns the name of the boot protocol.
    pub fn entry(&self) -> &'static str {
        self.entry
    }

    /// Returns the ranges of RAM.
    pub fn ram(&self) -> &Ranges {
        &self.ram
    }

    /// Returns the command line.
    ///
    /// # Errors
    ///
    /// A sentence if it is too long, or no text.
    pub fn command_line(&self) -> Result<&str, &'static str> {
        let from_tree = || self.tree().and_then(|tree| tree.find("chosen")?.property("bootargs"));
        let line = self.command_line.or_else(from_tree).unwrap_or_default();
        let line = line.strip_suffix(&[0]).unwrap_or(line);
        if line.len() > COMMAND_LINE {
            return Err("the command line is longer than 4096 bytes: shorten it");
        }
        core::str::from_utf8(line).map_err(|_| "the command line is not UTF-8")
    }
}

/// Returns the device tree at `address`; `None` if there is none.
///
/// # Safety
///
/// As for [`BootInfo::read`].
unsafe fn find(address: u64) -> Option<&'static [u8]> {
    // SAFETY: by the contract of this function.
    let bytes = |len| unsafe { core::slice::from_raw_parts(address as *const u8, len) };
    DeviceTree::len_of(bytes(8)).filter(|len| *len <= MAX_TREE).map(bytes)
}

/// Returns `memory`, pairs of first address and one past the last, without the pages of `kept`, pairs of first address and length.
fn without(
    memory: impl Iterator<Item = (u64, u64)>,
    kept: impl Iterator<Item = (u64, u64)> + Clone,
) -> Ranges {
    let mut ram = Ranges::new();
    let end_of = |start: u64, len: u64| start.saturating_add(len).saturating_add(4095) & !4095;
    let kept = kept.map(|(start, len)| (start & !4095, end_of(start, len)));
    for (mut at, end) in memory {
        while at < end {
            // The first range that is kept from there on.
            let next = kept.clone().filter(|(from, to)| from < to && *to > at && *from < end).min();
            let (from, to) = next.unwrap_or((end, end));
            if at < from {
                ram.add(at, from);
            }
            at = to;
        }
    }
    ram
}

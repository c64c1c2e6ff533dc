//! The boot information of the loader: reads the structures of each boot protocol into [`BootInfo`].

use super::Protocol;
use crate::memory::Ranges;
use core::ptr::read_unaligned;

/// Maximum length of the command line in bytes. A longer one is refused: a word that is cut may mean something else.
const COMMAND_LINE: usize = 4096;
/// The loader's structures are below this address.
const REACH: u64 = 1 << 32;
/// The type of usable RAM in the memory maps of all protocols.
const RAM: u32 = 1;

/// A copy of what the loader passed.
pub struct BootInfo {
    pub protocol: Protocol,
    ram: Ranges,
    command_line: [u8; COMMAND_LINE],
    command_line_len: usize,
    is_cut: bool,
    pub rsdp: Option<u64>,
}

/// A copy of the RSDP that Multiboot2 passes by value: the memory of the original is reused.
#[repr(align(16))]
struct Rsdp([u8; multiboot2::RSDP_LEN]);
static mut RSDP: Rsdp = Rsdp([0; multiboot2::RSDP_LEN]);

/// Offsets in the Multiboot2 information: its length and a reserved word, then tags at multiples of 8, each of which begins with its
/// type and length. Multiboot2 Specification 2.0 §3.4 to §3.6
mod multiboot2 {
    pub const FIRST: u64 = 8;
    pub const ALIGN: u64 = 8;
    pub const HEADER: u64 = 8;
    pub const END: u32 = 0;
    pub const COMMAND_LINE: u32 = 1;
    pub const MAP: u32 = 6;
    pub const MAP_ENTRY_LEN: u64 = 8;
    pub const MAP_ENTRIES: u64 = 16;
    pub const RSDP_1: u32 = 14;
    pub const RSDP_2: u32 = 15;
    /// The length in bytes of an RSDP of ACPI 1.0, and of ACPI 2.0, which has the former's fields first.
    pub const RSDP_1_LEN: usize = 20;
    pub const RSDP_LEN: usize = 36;
}

/// Offsets in `hvm_start_info`. Xen public/arch-x86/hvm/start_info.h
mod pvh {
    pub const MAGIC: u32 = 0x336e_c578;
    pub const VERSION: u64 = 4;
    pub const COMMAND_LINE: u64 = 24;
    pub const RSDP: u64 = 32;
    pub const MAP: u64 = 40;
    pub const MAP_ENTRIES: u64 = 48;
    pub const MAP_ENTRY_LEN: u64 = 24;
}

/// Offsets in `boot_params`. Linux Documentation/arch/x86/zero-page.rst
mod linux {
    pub const RSDP: u64 = 0x70;
    pub const EXT_COMMAND_LINE: u64 = 0xc8;
    pub const E820_ENTRIES: u64 = 0x1e8;
    pub const COMMAND_LINE: u64 = 0x228;
    pub const E820: u64 = 0x2d0;
    pub const E820_ENTRY_LEN: u64 = 20;
    pub const E820_MAX: u64 = 128;
}

/// Reads a `T`; returns the default for address 0 and for addresses of 4 GiB and above.
///
/// # Safety
///
/// A `T` can be read at `address`, or the address is 0 or at least [`REACH`].
unsafe fn peek<T: Copy + Default>(address: u64) -> T {
    if address == 0 || address >= REACH {
        return T::default();
    }
    // SAFETY: by the contract of this function, which is that of the callee.
    unsafe { read_unaligned(address as *const T) }
}

impl BootInfo {
    /// Returns the name of the boot protocol.
    pub fn entry(&self) -> &'static str {
        match self.protocol {
            Protocol::Pvh => "pvh",
            Protocol::Linux => "linux",
            Protocol::Multiboot2 => "multiboot2",
        }
    }

    /// Returns the device tree: a PC has none.
    pub fn device_tree(&self) -> Option<&[u8]> {
        None
    }

    /// Reads the information that a loader passed.
    ///
    /// # Safety
    ///
    /// `information` is the address that a loader passed according to `protocol`, and the first 4 GiB are mapped one to one.
    pub unsafe fn read(protocol: Protocol, information: u64) -> Self {
        let mut info = Self {
            protocol,
            ram: Ranges::new(),
            command_line: [0; COMMAND_LINE],
            command_line_len: 0,
            is_cut: false,
            rsdp: None,
        };
        // SAFETY: by the contract of this function, which is that of the callee.
        unsafe {
            match protocol {
                Protocol::Pvh => info.read_pvh(information),
                Protocol::Linux => info.read_linux(information),
                Protocol::Multiboot2 => info.read_multiboot2(information),
            }
        }
        info
    }

    /// # Safety
    ///
    /// As for [`read`](Self::read).
    unsafe fn read_pvh(&mut self, at: u64) {
        // SAFETY: by the contract of this function, which is that of the callee.
        unsafe {
            if peek::<u32>(at) != pvh::MAGIC {
                return;
            }
            self.read_command_line(peek(at + pvh::COMMAND_LINE), u64::MAX);
            self.rsdp = Some(peek(at + pvh::RSDP)).filter(|rsdp| *rsdp != 0);
            if peek::<u32>(at + pvh::VERSION) >= 1 {
                let map: u64 = peek(at + pvh::MAP);
                for i in 0..u64::from(peek::<u32>(at + pvh::MAP_ENTRIES)).min(1024) {
                    self.add_range(map + i * pvh::MAP_ENTRY_LEN);
                }
            }
        }
    }

    /// # Safety
    ///
    /// As for [`read`](Self::read).
    unsafe fn read_linux(&mut self, at: u64) {
        // SAFETY: by the contract of this function, which is that of the callee.
        unsafe {
            let low = u64::from(peek::<u32>(at + linux::COMMAND_LINE));
            let high = u64::from(peek::<u32>(at + linux::EXT_COMMAND_LINE));
            self.read_command_line(low | high << 32, u64::MAX);
            self.rsdp = Some(peek(at + linux::RSDP)).filter(|rsdp| *rsdp != 0);
            for i in 0..u64::from(peek::<u8>(at + linux::E820_ENTRIES)).min(linux::E820_MAX) {
                self.add_range(at + linux::E820 + i * linux::E820_ENTRY_LEN);
            }
        }
    }

    /// # Safety
    ///
    /// As for [`read`](Self::read).
    unsafe fn read_multiboot2(&mut self, at: u64) {
        // SAFETY: by the contract of this function, which is that of the callee.
        unsafe {
            let end = at + u64::from(peek::<u32>(at));
            let mut tag = at + multiboot2::FIRST;
            while tag + multiboot2::HEADER <= end {
                let (kind, len) = (peek::<u32>(tag), u64::from(peek::<u32>(tag + 4)));
                if kind == multiboot2::END || len < multiboot2::HEADER || len > end - tag {
                    break;
                }
                match kind {
                    multiboot2::COMMAND_LINE => {
                        self.read_command_line(tag + multiboot2::HEADER, len - multiboot2::HEADER);
                    }
                    multiboot2::MAP => {
                        let entry = u64::from(peek::<u32>(tag + multiboot2::MAP_ENTRY_LEN)).max(24);
                        let mut next = tag + multiboot2::MAP_ENTRIES;
                        while next + entry <= tag + len {
                            self.add_range(next);
                            next += entry;
                        }
                    }
                    // The RSDP of ACPI 2.0 is preferred, in either order.
                    multiboot2::RSDP_1 if self.rsdp.is_none() => {
                        self.copy_rsdp(tag, len, multiboot2::RSDP_1_LEN)
                    }
                    multiboot2::RSDP_2 => self.copy_rsdp(tag, len, multiboot2::RSDP_LEN),
                    _ => {}
                }
                tag += len.next_multiple_of(multiboot2::ALIGN);
            }
        }
    }

    /// Copies the RSDP in a tag, if the tag is long enough.
    ///
    /// # Safety
    ///
    /// `tag` is the address of a tag of `len` bytes that holds an RSDP of `size` bytes; one processor runs.
    unsafe fn copy_rsdp(&mut self, tag: u64, len: u64, size: usize) {
        if len - multiboot2::HEADER < size as u64 {
            return;
        }
        let to = &raw mut RSDP;
        for i in 0..size {
            // SAFETY: by the contract of this function; one processor runs, so nothing else uses the copy.
            unsafe { (*to).0[i] = peek(tag + multiboot2::HEADER + i as u64) }
        }
        self.rsdp = Some(to as u64);
    }

    /// Adds the range of a memory map entry, if it is RAM.
    ///
    /// # Safety
    ///
    /// `at` is the address of an entry: address, size, type.
    unsafe fn add_range(&mut self, at: u64) {
        // SAFETY: by the contract of this function, which is that of the callee.
        let (start, len, kind) = unsafe { (peek::<u64>(at), peek::<u64>(at + 8), peek::<u32>(at + 16)) };
        let (RAM, Some(end)) = (kind, start.checked_add(len)) else { return };
        self.ram.add(start, end);
    }

    /// Copies the command line.
    ///
    /// # Safety
    ///
    /// `at` is the address of a string that ends in a zero or after `max` bytes, or 0.
    unsafe fn read_command_line(&mut self, at: u64, max: u64) {
        if at == 0 {
            return;
        }
        for i in 0..max {
            // SAFETY: by the contract of this function, which is that of the callee.
            let byte = unsafe { peek::<u8>(at + i) };
            let to = self.command_line.get_mut(i as usize);
            match (byte, to) {
                (0, _) => break,
                (_, Some(to)) => *to = byte,
                (_, None) => {
                    self.is_cut = true;
                    break;
                }
            }
            self.command_line_len = i as usize + 1;
        }
    }

    /// Writes this information as `boot_params` of the Linux protocol, with the command line in the following page. The RSDP is left
    /// out: the protocol does not require a loader to pass it.
    pub fn write_boot_params(&self, to: &mut [u8; 8192]) {
        let command_line = to.as_ptr() as u64 + 4096;
        let mut put =
            |at: u64, bytes: &[u8]| to[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        put(4096, &self.command_line[..self.command_line_len.min(COMMAND_LINE - 1)]);
        put(linux::COMMAND_LINE, &(command_line as u32).to_le_bytes());
        put(linux::EXT_COMMAND_LINE, &((command_line >> 32) as u32).to_le_bytes());
        put(linux::E820_ENTRIES, &[self.ram.len() as u8]);
        for (i, range) in self.ram().iter().enumerate() {
            let at = linux::E820 + i as u64 * linux::E820_ENTRY_LEN;
            put(at, &range.start.to_le_bytes());
            put(at + 8, &(range.end - range.start).to_le_bytes());
            put(at + 16, &RAM.to_le_bytes());
        }
    }

    /// Returns the ranges of RAM.
    pub fn ram(&self) -> &Ranges {
        &self.ram
    }

    /// Returns the command line, or why it cannot be used.
    pub fn command_line(&self) -> Result<&str, &'static str> {
        let bytes = &self.command_line[..self.command_line_len];
        match core::str::from_utf8(bytes) {
            _ if self.is_cut => Err("the command line is longer than 4096 bytes: shorten it"),
            Ok(line) if line.is_ascii() => Ok(line),
            _ => Err("the command line is not ASCII: use ASCII characters only"),
        }
    }
}

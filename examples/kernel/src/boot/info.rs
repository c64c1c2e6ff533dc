//! What the loader says of the machine, read from either protocol's structures into one form.

use super::Protocol;
use core::ptr::read_unaligned;

/// A range of RAM that may be used.
#[derive(Copy, Clone, Debug, Default)]
pub struct Memory {
    /// The first address.
    pub start: u64,
    /// The one behind the last.
    pub end: u64,
}

/// The most ranges that are taken note of, and bytes of the command line.
const RANGES: usize = 64;
const COMMAND_LINE: usize = 4096;
/// The loader's structures are below this.
const REACH: u64 = 1 << 32;
/// A range of RAM, in both protocols' maps.
const RAM: u32 = 1;

/// What the loader passed on, copied.
pub struct BootInfo {
    pub protocol: Protocol,
    ram: [Memory; RANGES],
    ranges: usize,
    command_line: [u8; COMMAND_LINE],
    command_line_len: usize,
    pub rsdp: Option<u64>,
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
    pub const E820_MOST: u64 = 128;
}

/// # Safety
///
/// A `T` can be read at `address`, or the address is out of reach.
unsafe fn peek<T: Copy + Default>(address: u64) -> T {
    if address == 0 || address >= REACH {
        return T::default();
    }
    // SAFETY: passed on from the caller.
    unsafe { read_unaligned(address as *const T) }
}

impl BootInfo {
    /// # Safety
    ///
    /// `information` is the address that a loader passed on by `protocol`, and the first 4 GiB are mapped one to one.
    pub unsafe fn read(protocol: Protocol, information: u64) -> Self {
        let mut info = Self {
            protocol,
            ram: [Memory::default(); RANGES],
            ranges: 0,
            command_line: [0; COMMAND_LINE],
            command_line_len: 0,
            rsdp: None,
        };
        // SAFETY: passed on from the caller.
        unsafe {
            match protocol {
                Protocol::Pvh => info.read_pvh(information),
                Protocol::Linux => info.read_linux(information),
            }
        }
        info
    }

    /// # Safety
    ///
    /// As for [`read`](Self::read).
    unsafe fn read_pvh(&mut self, at: u64) {
        // SAFETY: passed on from the caller.
        unsafe {
            if peek::<u32>(at) != pvh::MAGIC {
                return;
            }
            self.read_command_line(peek(at + pvh::COMMAND_LINE));
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
        // SAFETY: passed on from the caller.
        unsafe {
            let low = u64::from(peek::<u32>(at + linux::COMMAND_LINE));
            self.read_command_line(low | u64::from(peek::<u32>(at + linux::EXT_COMMAND_LINE)) << 32);
            self.rsdp = Some(peek(at + linux::RSDP)).filter(|rsdp| *rsdp != 0);
            for i in 0..u64::from(peek::<u8>(at + linux::E820_ENTRIES)).min(linux::E820_MOST) {
                self.add_range(at + linux::E820 + i * linux::E820_ENTRY_LEN);
            }
        }
    }

    /// # Safety
    ///
    /// `at` is the address of an entry: address, size, type.
    unsafe fn add_range(&mut self, at: u64) {
        // SAFETY: passed on from the caller.
        let (start, len, kind) = unsafe { (peek::<u64>(at), peek::<u64>(at + 8), peek::<u32>(at + 16)) };
        if let (RAM, Some(end), Some(slot)) = (kind, start.checked_add(len), self.ram.get_mut(self.ranges)) {
            *slot = Memory { start, end };
            self.ranges += 1;
        }
    }

    /// # Safety
    ///
    /// `at` is the address of a string that ends in a zero, or 0.
    unsafe fn read_command_line(&mut self, at: u64) {
        for (i, to) in self.command_line.iter_mut().enumerate() {
            // SAFETY: passed on from the caller.
            match unsafe { peek::<u8>(at + i as u64) } {
                0 => break,
                byte => *to = byte,
            }
            if at == 0 {
                break;
            }
            self.command_line_len = i + 1;
        }
    }

    /// Writes this as `boot_params`, with the command line in the page behind it, but for the RSDP: a loader need not know
    /// it.
    pub fn write_boot_params(&self, to: &mut [u8; 8192]) {
        let command_line = to.as_ptr() as u64 + 4096;
        let mut put =
            |at: u64, bytes: &[u8]| to[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        put(4096, &self.command_line[..self.command_line_len.min(COMMAND_LINE - 1)]);
        put(linux::COMMAND_LINE, &(command_line as u32).to_le_bytes());
        put(linux::EXT_COMMAND_LINE, &((command_line >> 32) as u32).to_le_bytes());
        put(linux::E820_ENTRIES, &[self.ranges as u8]);
        for (i, range) in self.ram().iter().enumerate() {
            let at = linux::E820 + i as u64 * linux::E820_ENTRY_LEN;
            put(at, &range.start.to_le_bytes());
            put(at + 8, &(range.end - range.start).to_le_bytes());
            put(at + 16, &RAM.to_le_bytes());
        }
    }

    /// The ranges of RAM.
    pub fn ram(&self) -> &[Memory] {
        &self.ram[..self.ranges]
    }

    /// The command line, up to the first byte that is no ASCII.
    pub fn command_line(&self) -> &str {
        let bytes = &self.command_line[..self.command_line_len];
        let end = bytes.iter().position(|byte| !byte.is_ascii()).unwrap_or(bytes.len());
        core::str::from_utf8(&bytes[..end]).unwrap_or_default()
    }
}

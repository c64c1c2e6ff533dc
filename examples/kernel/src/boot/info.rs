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

/// The copy of the RSDP that Multiboot2 hands over, for those who want its address: what it came in is memory like any other.
#[repr(align(16))]
struct Rsdp([u8; multiboot2::RSDP_LEN]);
static mut RSDP: Rsdp = Rsdp([0; multiboot2::RSDP_LEN]);

/// Offsets in the Multiboot2 information: its length and a reserved word, then tags at multiples of 8, each with type and
/// length ahead. Multiboot2 Specification 2.0, 3.4 to 3.6
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
    /// Of ACPI 2.0; the one of ACPI 1.0 is the first 20 of it.
    /// Bytes of an RSDP of ACPI 1, and of a later one.
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
                Protocol::Multiboot2 => info.read_multiboot2(information),
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
        // SAFETY: passed on from the caller.
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
        // SAFETY: passed on from the caller.
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
                    // The newer one is the one to take, whichever comes first.
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

    /// # Safety
    ///
    /// `tag` is the address of a tag of `len` bytes that holds an RSDP of `size` bytes; one processor runs.
    unsafe fn copy_rsdp(&mut self, tag: u64, len: u64, size: usize) {
        if len - multiboot2::HEADER < size as u64 {
            return;
        }
        let to = &raw mut RSDP;
        for i in 0..size {
            // SAFETY: passed on from the caller; nobody else uses the copy before this is through.
            unsafe { (*to).0[i] = peek(tag + multiboot2::HEADER + i as u64) }
        }
        self.rsdp = Some(to as u64);
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
    /// `at` is the address of a string that ends in a zero or after `most` bytes, or 0.
    unsafe fn read_command_line(&mut self, at: u64, most: u64) {
        for (i, to) in self.command_line.iter_mut().enumerate().take(most as usize) {
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

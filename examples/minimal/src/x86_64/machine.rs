//! A PC: entry by PVH, port I/O, and page tables that map what is asked for.

use crate::Machine;
use core::arch::{asm, global_asm};
use core::num::NonZeroUsize;
use core::ops::Range;
use core::ptr::NonNull;
use paravirt::Firmware;
use paravirt_platform::*;

global_asm!(include_str!("entry.s"));

/// All memory that this kernel uses is in it, and device registers are not: a port refuses all RAM of the machine.
pub const RAM: Range<u64> = 0..2 << 30;

/// Called by the entry code.
#[unsafe(no_mangle)]
extern "C" fn start(start_info: *const u64) -> ! {
    // SAFETY: the loader passes its start info, in which this is the address of the RSDP.
    let rsdp = Some(unsafe { start_info.add(4).read() }).filter(|rsdp| *rsdp != 0);
    crate::run(&Firmware::new(rsdp))
}

pub fn now() -> Instant {
    // As if the counter ran at 8 GHz, which none exceeds: deadlines are later than they are meant, not earlier.
    // SAFETY: the instruction only reads the cycle counter.
    Instant::from_nanos(unsafe { core::arch::x86_64::_rdtsc() } / 8)
}

/// Maps what lies in the first 512 GiB one to one, with pages of 2 MiB.
pub fn map(phys: u64, len: usize) -> Result<NonNull<u8>, MapError> {
    unsafe extern "C" {
        static mut pdpt: [u64; 512];
    }
    let last = (len as u64).checked_sub(1).and_then(|more| phys.checked_add(more)).ok_or(MapError)?;
    for page in (phys >> 21)..=(last >> 21) {
        // SAFETY: one processor runs, and nothing else changes the tables; the addresses in them are of tables from the
        // entry code and from the pool.
        unsafe {
            let directory =
                (&raw mut pdpt).as_mut().and_then(|all| all.get_mut((page >> 9) as usize)).ok_or(MapError)?;
            if *directory == 0 {
                *directory = Machine.dma_alloc(NonZeroUsize::MIN).map_err(|_| MapError)?.bus.0 | 3;
            }
            let entries = (*directory & !0xfff) as *mut u64;
            let entry = entries.add((page & 511) as usize);
            // An entry that is there maps the same page. Present, writable, uncached, of 2 MiB.
            if *entry == 0 {
                *entry = page << 21 | 0x93;
            }
        }
    }
    NonNull::new(phys as *mut u8).ok_or(MapError)
}

/// Port I/O.
pub struct Ports;

// SAFETY: the instructions have the widths that the methods promise.
unsafe impl PortIo for Ports {
    unsafe fn in32(&self, port: u16) -> u32 {
        let value;
        // SAFETY: by the contract of this function.
        unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack, preserves_flags)) };
        value
    }
    unsafe fn out32(&self, port: u16, value: u32) {
        // SAFETY: by the contract of this function.
        unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags)) };
    }
    unsafe fn out16(&self, port: u16, value: u16) {
        // SAFETY: by the contract of this function.
        unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack, preserves_flags)) };
    }
}

/// Prints to the first serial port.
pub fn print(byte: u8) {
    // SAFETY: the port is that of the serial port's data.
    unsafe { asm!("out dx, al", in("dx") 0x3f8u16, in("al") byte, options(nostack, preserves_flags)) };
}

/// Ends the machine by QEMU's `isa-debug-exit`.
pub fn exit(code: u32) -> ! {
    // SAFETY: the port is that device's, or no device's.
    unsafe { Ports.out32(0xf4, code) };
    loop {
        // SAFETY: without interrupts, it stops the processor.
        unsafe { asm!("hlt") };
    }
}

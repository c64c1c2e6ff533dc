//! The C functions that copy and fill memory, which compiled code expects.

use core::arch::asm;

/// # Safety
///
/// As for the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the ranges are valid and do not overlap, by the caller's contract; the direction flag is clear.
    unsafe {
        asm!("rep movsq", "mov rcx, {rest}", "rep movsb", rest = in(reg) len & 7, inout("rcx") len >> 3 => _,
            inout("rdi") to => _, inout("rsi") from => _, options(nostack, preserves_flags));
    }
    to
}

/// # Safety
///
/// As for the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= len {
        // SAFETY: the ranges are valid, and a forward copy does not overwrite bytes that are still to be read.
        return unsafe { memcpy(to, from, len) };
    }
    // SAFETY: the ranges are valid, and a backward copy does not overwrite bytes that are still to be read.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") len => _, inout("rdi") to.wrapping_add(len).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(len).wrapping_sub(1) => _, options(nostack));
    }
    to
}

/// # Safety
///
/// As for the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, len: usize) -> *mut u8 {
    // SAFETY: the range is valid by the caller's contract; the direction flag is clear.
    unsafe {
        asm!("rep stosq", "mov rcx, {rest}", "rep stosb", rest = in(reg) len & 7, inout("rcx") len >> 3 => _,
            inout("rdi") to => _, in("rax") u64::from(value as u8) * 0x0101_0101_0101_0101, options(nostack, preserves_flags));
    }
    to
}

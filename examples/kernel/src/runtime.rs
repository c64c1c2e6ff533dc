//! Symbols that compiled code expects: the C memory functions, and two of the unwinder that are never called.

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

/// # Safety
///
/// As for the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    let mut i = 0;
    while i + 8 <= len {
        // SAFETY: the ranges are valid by the caller's contract.
        if unsafe { a.add(i).cast::<u64>().read_unaligned() != b.add(i).cast::<u64>().read_unaligned() } {
            break;
        }
        i += 8;
    }
    for i in i..len {
        // SAFETY: the ranges are valid by the caller's contract.
        let (a, b) = unsafe { (*a.add(i), *b.add(i)) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}

/// # Safety
///
/// As for the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    // SAFETY: by the contract of this function, which is that of the callee.
    unsafe { memcmp(a, b, len) }
}

/// # Safety
///
/// As for the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut len = 0;
    // SAFETY: the string ends in a zero by the caller's contract.
    while unsafe { *text.add(len) } != 0 {
        len += 1;
    }
    len
}

/// Referenced by `core`, which was built for unwinding; never called, as panics abort.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Referenced by `core`; never called, as for `rust_eh_personality`.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    crate::exit::stop()
}

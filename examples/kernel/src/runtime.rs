//! Symbols that compiled code expects: C functions on memory that need no instructions of their own, and two of the unwinder that are
//! never called.

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

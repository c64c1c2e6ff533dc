//! Symbols that Debian's `core` expects: it checks its stack.

/// What functions compare a copy on their stack with.
#[unsafe(no_mangle)]
static __stack_chk_guard: usize = 0x5aa5_c33c_1234_00ff;

/// Called by a function whose stack was overwritten.
#[unsafe(no_mangle)]
extern "C" fn __stack_chk_fail() -> ! {
    panic!("a stack was overwritten")
}

//! Copies between private bytes and shared memory.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// The number of words of 8 bytes in a block, which one iteration copies with vector registers.
const BLOCK_WORDS: usize = 8;
/// The number of words below which they are copied one by one, inline.
const SHORT_WORDS: usize = 2 * BLOCK_WORDS;

/// Splits `bytes` into whole words and what is left. `as_chunks` of Rust 1.88
#[inline(always)]
fn words_of(bytes: &[u8]) -> (&[[u8; 8]], &[u8]) {
    let (whole, rest) = bytes.split_at(bytes.len() & !7);
    // SAFETY: the pointer is valid for the bytes of `whole`, of which there are eight for each word; arrays of bytes have no alignment.
    (unsafe { core::slice::from_raw_parts(whole.as_ptr().cast(), whole.len() >> 3) }, rest)
}

/// As [`words_of`], without what is left.
#[inline(always)]
fn words_of_mut(bytes: &mut [u8]) -> &mut [[u8; 8]] {
    // SAFETY: the pointer is valid for all bytes and borrowed from them, and eight of them make a word; arrays of bytes have no alignment.
    unsafe { core::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() >> 3) }
}

/// Writes `bytes` to the beginning of `words`, padding the last word with zeros. Returns the words after them.
///
/// Bytes that do not fit are not written; the returned slice is then empty.
#[inline(always)]
pub fn copy_words_in<'a>(words: &'a [AtomicU64], bytes: &[u8]) -> &'a [AtomicU64] {
    let (whole, rest) = words_of(bytes);
    let Some((now, later)) = words.split_at_checked(whole.len()) else { return &[] };
    if whole.len() < SHORT_WORDS {
        for (to, from) in now.iter().zip(whole) {
            to.store(u64::from_le_bytes(*from), Ordering::Relaxed);
        }
    } else {
        copy_blocks_in(now, whole);
    }
    if rest.is_empty() { later } else { copy_last_word_in(later, rest) }
}

/// Writes `from` to `to`, of the same length. A separate function, so that short copies do not have to save the registers that it
/// uses.
#[inline(never)]
fn copy_blocks_in(to: &[AtomicU64], from: &[[u8; 8]]) {
    let count = from.len().min(to.len());
    // SAFETY: both are at least `count` words long and do not overlap: one is private, the other is atomics, which may be written
    // through a shared reference.
    let done = unsafe { copy_long(from.as_ptr().cast(), to.as_ptr().cast_mut().cast(), count) };
    for (to, from) in to.iter().zip(from).skip(done) {
        to.store(u64::from_le_bytes(*from), Ordering::Relaxed);
    }
}

/// Reads `from` into `to`, as many words as both have. A separate function for the same reason as [`copy_blocks_in`].
#[inline(never)]
fn copy_blocks_out(from: &[AtomicU64], to: &mut [[u8; 8]]) {
    let count = to.len().min(from.len());
    // SAFETY: both are at least `count` words long and do not overlap: one is private.
    let done = unsafe { copy_long(from.as_ptr().cast(), to.as_mut_ptr().cast(), count) };
    for (from, to) in from.iter().zip(to).skip(done) {
        *to = from.load(Ordering::Relaxed).to_le_bytes();
    }
}

/// Writes fewer than 8 bytes, padded with zeros.
#[inline]
fn copy_last_word_in<'a>(words: &'a [AtomicU64], bytes: &[u8]) -> &'a [AtomicU64] {
    let Some((to, later)) = words.split_first() else { return words };
    let mut last = [0; 8];
    last.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    to.store(u64::from_le_bytes(last), Ordering::Relaxed);
    later
}

/// Reads `words` into the beginning of `bytes`, each word once. Copies as many whole words as both have.
#[inline(always)]
pub fn copy_words_out(words: &[AtomicU64], bytes: &mut [u8]) {
    let chunks = words_of_mut(bytes);
    if chunks.len() < SHORT_WORDS {
        for (from, to) in words.iter().zip(chunks) {
            *to = from.load(Ordering::Relaxed).to_le_bytes();
        }
    } else {
        copy_blocks_out(words, chunks);
    }
}

/// Copies `len` bytes. Another party may write one of the sides at the same time.
///
/// # Safety
///
/// `from` is valid for reads and `to` for writes of `len` bytes, and the two do not overlap.
#[inline]
pub(crate) unsafe fn copy_bytes(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: `len / 8` words are within the `len` bytes of the caller's contract.
    let done = unsafe { copy_long(from, to, len >> 3) }.wrapping_mul(8);
    // SAFETY: `done` is at most `len`, so that `len - done` bytes of the caller's contract are left.
    let done = done
        .wrapping_add(unsafe { machine::copy_short(from.add(done), to.add(done), len.wrapping_sub(done)) });
    for at in done..len {
        // SAFETY: `at` is below `len`, which the caller's contract covers; a byte needs no alignment.
        unsafe {
            let byte = AtomicU8::from_ptr(from.add(at).cast_mut()).load(Ordering::Relaxed);
            AtomicU8::from_ptr(to.add(at)).store(byte, Ordering::Relaxed);
        }
    }
}

/// Copies as many of the first of `words` words of 8 bytes as can be copied faster than word by word. Returns the number of words
/// copied.
///
/// # Safety
///
/// `from` is valid for reads and `to` for writes of `words` words, and the two do not overlap. Neither need be aligned.
/// Another party may write one of them at the same time.
#[inline(always)]
unsafe fn copy_long(from: *const u8, to: *mut u8, words: usize) -> usize {
    if words < BLOCK_WORDS {
        return 0;
    }
    // SAFETY: the contract of this function is that of the routine.
    unsafe { machine::copy(from, to, words) }
}

/// The path without assembly: it copies nothing, so that the callers use atomic accesses.
#[cfg(any(not(target_arch = "x86_64"), target_os = "windows", target_os = "uefi", miri, paravirt_portable))]
mod machine {
    /// Copies nothing.
    ///
    /// # Safety
    ///
    /// There are no requirements; the signature is that of the routine that copies.
    #[inline(always)]
    pub unsafe fn copy(_from: *const u8, _to: *mut u8, _words: usize) -> usize {
        0
    }

    /// Copies nothing.
    ///
    /// # Safety
    ///
    /// There are no requirements; the signature is that of the routine that copies.
    #[inline(always)]
    pub unsafe fn copy_short(_from: *const u8, _to: *mut u8, _len: usize) -> usize {
        0
    }
}

/// The path for x86-64 with the System V calling convention.
#[cfg(all(
    target_arch = "x86_64",
    not(any(target_os = "windows", target_os = "uefi", miri, paravirt_portable))
))]
mod machine {
    /// The number of words from which a call of the program's `memcpy` is faster.
    const CALL_WORDS: usize = if cfg!(target_feature = "sse2") { 32 } else { 8 };

    /// Copies all words if there are at least [`CALL_WORDS`], otherwise whole blocks of 64 bytes. Returns the number of words
    /// copied.
    ///
    /// # Safety
    ///
    /// `from` is valid for reads and `to` for writes of `words` words, and the two do not overlap.
    #[inline(always)]
    pub unsafe fn copy(from: *const u8, to: *mut u8, words: usize) -> usize {
        if words >= CALL_WORDS {
            // SAFETY: the caller's contract covers `words` words.
            unsafe { call_memcpy(from, to, words.wrapping_mul(8)) }
            return words;
        }
        // SAFETY: the caller's contract covers `words` words, which are at least eight, as `copy_long` has checked.
        unsafe { copy_blocks(from, to, words) }
    }

    /// Copies nothing: without vector registers, short ranges are copied word by word.
    ///
    /// # Safety
    ///
    /// There are no requirements; the signature is that of the routine that copies.
    #[cfg(not(target_feature = "sse2"))]
    #[inline(always)]
    unsafe fn copy_blocks(_from: *const u8, _to: *mut u8, _words: usize) -> usize {
        0
    }

    /// Copies whole blocks of 64 bytes by vector registers. Returns the number of words copied.
    ///
    /// # Safety
    ///
    /// `from` is valid for reads and `to` for writes of `words` words, at least eight, and the two do not overlap.
    #[cfg(target_feature = "sse2")]
    #[inline(always)]
    unsafe fn copy_blocks(from: *const u8, to: *mut u8, words: usize) -> usize {
        let blocks = words >> 3;
        // SAFETY: `blocks * 64` bytes are within the `words * 8` of the caller's contract, and there is at least one block. The
        // instructions access only the two ranges and the named registers.
        unsafe {
            core::arch::asm!(
                "2:",
                "movups {a}, [{from}]",
                "movups {b}, [{from} + 16]",
                "movups {c}, [{from} + 32]",
                "movups {d}, [{from} + 48]",
                "add {from}, 64",
                "movups [{to}], {a}",
                "movups [{to} + 16], {b}",
                "movups [{to} + 32], {c}",
                "movups [{to} + 48], {d}",
                "add {to}, 64",
                "dec {blocks}",
                "jnz 2b",
                from = inout(reg) from => _,
                to = inout(reg) to => _,
                blocks = inout(reg) blocks => _,
                a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
                options(nostack),
            );
        }
        blocks << 3
    }

    /// Copies a run of `$size` bytes by one register and adds `$size` to `$done`.
    ///
    /// The instructions access only the run and the register. `$done + $size` is at most the length in the contract of
    /// [`copy_short`]: the caller of the macro has compared the remaining length with `$size` or tested the corresponding bit.
    macro_rules! move_run {
        ($from:ident, $to:ident, $done:ident, $size:literal, $class:ident, $load:literal, $store:literal) => {
            // SAFETY: at least `$size` bytes are left after `$done`, as described above; the instructions access nothing else.
            unsafe {
                core::arch::asm!(
                    $load,
                    $store,
                    from = in(reg) $from.add($done),
                    to = in(reg) $to.add($done),
                    run = out($class) _,
                    options(nostack, preserves_flags),
                );
            }
            $done = $done.wrapping_add($size);
        };
    }

    /// Copies the rest of a range by the largest registers that fit, down to 4 bytes, at any alignment. Returns the number of
    /// bytes copied.
    ///
    /// # Safety
    ///
    /// `from` is valid for reads and `to` for writes of `len` bytes, and the two do not overlap.
    #[inline(always)]
    pub unsafe fn copy_short(from: *const u8, to: *mut u8, len: usize) -> usize {
        let mut done = 0usize;
        #[cfg(target_feature = "sse2")]
        while len.wrapping_sub(done) >= 16 {
            move_run!(from, to, done, 16, xmm_reg, "movups {run}, [{from}]", "movups [{to}], {run}");
        }
        while len.wrapping_sub(done) >= 8 {
            move_run!(from, to, done, 8, reg, "mov {run}, [{from}]", "mov [{to}], {run}");
        }
        if len & 4 != 0 {
            move_run!(from, to, done, 4, reg, "mov {run:e}, [{from}]", "mov [{to}], {run:e}");
        }
        done
    }

    /// Calls the program's `memcpy`, which every program has, since the compiler emits calls to it.
    ///
    /// # Safety
    ///
    /// `from` is valid for reads and `to` for writes of `len` bytes, and the two do not overlap.
    #[inline(never)]
    unsafe fn call_memcpy(from: *const u8, to: *mut u8, len: usize) {
        unsafe extern "C" {
            fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8;
        }
        // SAFETY: the arguments are in the registers of the System V convention, which is the `extern "C"` convention of all
        // targets for which this module is compiled, and every register that a callee may change is declared. The caller's
        // contract covers the ranges.
        unsafe {
            core::arch::asm!(
                "call {memcpy}",
                memcpy = sym memcpy,
                in("rdi") to,
                in("rsi") from,
                in("rdx") len,
                clobber_abi("C"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    /// Tests every length around the limits of the three ways to copy, at every misalignment.
    #[test]
    fn copies_every_length_and_nothing_else() {
        let from: Vec<u8> = (0..600u32).map(|i| i as u8 | 1).collect();
        for start in 0..8 {
            for len in (0..100).chain(250..270).chain([511, 512, 513]) {
                let mut to = std::vec![0; 600];
                // SAFETY: both vectors have 600 bytes, more than `start + len`.
                unsafe { copy_bytes(from.as_ptr().add(start), to.as_mut_ptr().add(start), len) };
                assert_eq!(to[start..start + len], from[start..start + len]);
                assert!(to[..start].iter().chain(&to[start + len..]).all(|byte| *byte == 0), "{start} {len}");
            }
        }
    }

    #[test]
    fn words_are_padded_and_bounded() {
        let words: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(u64::MAX)).collect();
        assert_eq!(copy_words_in(&words, &[1; 9]).len(), 2);
        assert_eq!(words[1].load(Ordering::Relaxed), 1);
        assert_eq!(words[2].load(Ordering::Relaxed), u64::MAX);
        assert!(copy_words_in(&words, &[1; 40]).is_empty());
        let mut out = [0; 12];
        copy_words_out(&words, &mut out);
        assert_eq!(out, [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0]);
    }
}

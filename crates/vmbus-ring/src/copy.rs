//! Copies between private bytes and the words of a ring, which the other side may write at the same time.
//!
//! Short copies go word by word, each an atomic access. On x86-64 longer ones are made behind the compiler's back, by blocks or
//! by the program's own `memcpy`: it knows nothing of the accesses but that they are made, so what another party writes meanwhile
//! makes for a mixture of bytes, and for nothing else.

use core::sync::atomic::{AtomicU64, Ordering};

/// Words of a block, for which there are registers wherever floating point is allowed.
#[cfg(target_arch = "x86_64")]
const BLOCK: usize = 8;
/// Words from which a call of `memcpy` is worth it.
#[cfg(target_arch = "x86_64")]
const LONG: usize = if cfg!(target_feature = "sse2") { 32 } else { 8 };

/// Writes `bytes` to the beginning of `words`, padded with zeros to a whole word; the words behind them. What does not fit is
/// not written.
#[inline(always)]
pub fn put<'a>(words: &'a [AtomicU64], bytes: &[u8]) -> &'a [AtomicU64] {
    let (whole, rest) = bytes.as_chunks::<8>();
    let Some((now, later)) = words.split_at_checked(whole.len()) else { return &[] };
    // SAFETY: both are that many words long, and atomics may be written through a shared reference.
    let done = unsafe { copy(whole.as_ptr().cast(), now.as_ptr().cast_mut().cast(), whole.len()) };
    if done < whole.len() {
        for (to, from) in now.iter().zip(whole).skip(done) {
            to.store(u64::from_le_bytes(*from), Ordering::Relaxed);
        }
    }
    if rest.is_empty() { later } else { put_last(later, rest) }
}

/// Writes less than a word, padded.
#[inline]
fn put_last<'a>(words: &'a [AtomicU64], bytes: &[u8]) -> &'a [AtomicU64] {
    let Some((to, later)) = words.split_first() else { return words };
    let mut last = [0; 8];
    last.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    to.store(u64::from_le_bytes(last), Ordering::Relaxed);
    later
}

/// Reads `words` into the beginning of `bytes`, which is as long.
#[inline(always)]
pub fn get(words: &[AtomicU64], bytes: &mut [u8]) {
    let (chunks, _) = bytes.as_chunks_mut::<8>();
    let count = chunks.len().min(words.len());
    // SAFETY: both are that many words long.
    let done = unsafe { copy(words.as_ptr().cast(), chunks.as_mut_ptr().cast(), count) };
    if done < count {
        for (from, to) in words.iter().zip(chunks).skip(done) {
            *to = from.load(Ordering::Relaxed).to_le_bytes();
        }
    }
}

/// Copies the first of `words` words of 8 bytes, as far as that is done faster than word by word; how many.
///
/// # Safety
///
/// `from` can be read and `to` be written for that many words, and they do not overlap. One of them may be written by another
/// party meanwhile.
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, words: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    if words >= LONG {
        // SAFETY: passed on from the caller.
        unsafe { copy_long(from, to, words) }
        return words;
    }
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    if words >= BLOCK {
        let blocks = words >> 3;
        // SAFETY: passed on from the caller.
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
        return blocks << 3;
    }
    let _ = (from, to, words);
    0
}

/// Copies `words` words of 8 bytes by the program's own `memcpy`.
///
/// # Safety
///
/// As for [`copy`].
#[cfg(target_arch = "x86_64")]
#[inline(never)]
unsafe fn copy_long(from: *const u8, to: *mut u8, words: usize) {
    unsafe extern "C" {
        fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8;
    }
    // SAFETY: passed on from the caller. Every program has this function, as the compiler itself calls it.
    unsafe {
        core::arch::asm!(
            "call {memcpy}",
            memcpy = sym memcpy,
            in("rdi") to,
            in("rsi") from,
            in("rdx") words.wrapping_mul(8),
            clobber_abi("C"),
        );
    }
}

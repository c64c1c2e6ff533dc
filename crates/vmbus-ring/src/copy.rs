//! Copies between private bytes and the words of a ring, which the other side may write at the same time.
//!
//! Short copies go word by word, each an atomic access. On x86-64 longer ones are made by the program's own `memcpy`, called
//! behind the compiler's back: it knows nothing of the accesses but that they are made, so what another party writes meanwhile
//! makes for a mixture of bytes, and for nothing else.

use core::sync::atomic::{AtomicU64, Ordering};

/// Words from which the call is worth it.
#[cfg(target_arch = "x86_64")]
const LONG: usize = 8;

/// Writes `bytes` to the beginning of `words`, padded with zeros to a whole word; the words behind them. What does not fit is
/// not written.
#[inline(always)]
pub fn put<'a>(words: &'a [AtomicU64], bytes: &[u8]) -> &'a [AtomicU64] {
    let count = bytes.len().div_ceil(8);
    let (to, rest) = words.split_at_checked(count).unwrap_or((words, &[]));
    copy_in(to, bytes);
    rest
}

/// Writes `bytes` to `words`, which have as much room to the word.
#[inline(never)]
fn copy_in(words: &[AtomicU64], bytes: &[u8]) {
    let (whole, rest) = bytes.as_chunks::<8>();
    let Some((now, later)) = words.split_at_checked(whole.len()) else { return };
    // SAFETY: both are that many words long, and atomics may be written through a shared reference.
    let is_done = unsafe { copy_long(whole.as_ptr().cast(), now.as_ptr().cast_mut().cast(), whole.len()) };
    if !is_done {
        for (to, from) in now.iter().zip(whole) {
            to.store(u64::from_le_bytes(*from), Ordering::Relaxed);
        }
    }
    if let Some(to) = later.first() {
        let mut last = [0; 8];
        last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        to.store(u64::from_le_bytes(last), Ordering::Relaxed);
    }
}

/// Reads `words` into the beginning of `bytes`, which is as long.
#[inline(never)]
pub fn copy_out(words: &[AtomicU64], bytes: &mut [u8]) {
    let (chunks, _) = bytes.as_chunks_mut::<8>();
    let count = chunks.len().min(words.len());
    // SAFETY: both are that many words long.
    let is_done = unsafe { copy_long(words.as_ptr().cast(), chunks.as_mut_ptr().cast(), count) };
    if !is_done {
        for (from, to) in words.iter().zip(chunks) {
            *to = from.load(Ordering::Relaxed).to_le_bytes();
        }
    }
}

/// Copies `words` words of 8 bytes where they are many; whether it did.
///
/// # Safety
///
/// `from` can be read and `to` be written for that many words, and they do not overlap. One of them may be written by another
/// party meanwhile.
#[inline(always)]
unsafe fn copy_long(from: *const u8, to: *mut u8, words: usize) -> bool {
    #[cfg(target_arch = "x86_64")]
    if words >= LONG {
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
        return true;
    }
    let _ = (from, to, words);
    false
}

//! Copies between private bytes and the words of a ring. Each word is one atomic access.

use core::sync::atomic::{AtomicU64, Ordering};

/// Writes `bytes` to the beginning of `words`, padded with zeros to a whole word; the words that it took. What does not fit
/// is not written.
#[inline]
pub fn copy_in<'a>(words: &'a [AtomicU64], bytes: &[u8]) -> &'a [AtomicU64] {
    let (whole, rest) = bytes.as_chunks::<8>();
    let (now, later) = words.split_at_checked(whole.len()).unwrap_or((words, &[]));
    for (to, from) in now.iter().zip(whole) {
        to.store(u64::from_le_bytes(*from), Ordering::Relaxed);
    }
    match later.split_first() {
        Some((to, later)) if !rest.is_empty() => {
            let mut last = [0; 8];
            last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            to.store(u64::from_le_bytes(last), Ordering::Relaxed);
            later
        }
        _ => later,
    }
}

/// Reads `words` into the beginning of `bytes`, which is as long.
#[inline]
pub fn copy_out(words: &[AtomicU64], bytes: &mut [u8]) {
    let (chunks, _) = bytes.as_chunks_mut::<8>();
    for (from, to) in words.iter().zip(chunks) {
        *to = from.load(Ordering::Relaxed).to_le_bytes();
    }
}

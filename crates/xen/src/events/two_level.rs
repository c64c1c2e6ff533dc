//! The tables of event channels of the 2-level interface, which lie in the shared page.
//!
//! An event sets a bit of the pending table. If its bit of the mask is clear, a bit that selects the word of the table is set for the
//! processor.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use paravirt_platform::SharedMemory;

/// Offsets in the shared page: what each processor has, of which there are 32; the bits of pending events; the mask.
pub const VCPU_LEN: usize = 64;
pub const MAX_VCPUS: u32 = 32;
const SELECTOR: usize = 8;
const PENDING: usize = 2048;
const MASK: usize = 2560;
/// Words of 64 bits of a table.
const WORDS: usize = 64;

/// The tables.
pub struct TwoLevel {
    pub shared: SharedMemory,
}

impl TwoLevel {
    /// The word of a table with the bit of `port`, and the bit.
    fn bit(&self, table: usize, port: u32) -> Option<(&AtomicU64, u64)> {
        let word = (port as usize).checked_div(64)?;
        Some((self.word(table, word)?, 1 << (port & 63)))
    }

    fn word(&self, table: usize, word: usize) -> Option<&AtomicU64> {
        let word = Some(word).filter(|word| *word < WORDS)?;
        self.shared.at(table.checked_add(word.checked_mul(8)?)?)
    }

    /// The flag that a processor has events, and which words of the table have some.
    pub fn vcpu(&self, vcpu: u32) -> Option<(&AtomicU8, &AtomicU64)> {
        let at = (vcpu as usize).checked_mul(VCPU_LEN).filter(|_| vcpu < MAX_VCPUS)?;
        Some((self.shared.at(at)?, self.shared.at(at.checked_add(SELECTOR)?)?))
    }

    /// Masks every port and forgets what is pending, also the selection of words: one that is left over would keep some hypervisors from
    /// ever interrupting for the ports of that word.
    pub fn clear(&self) {
        for word in 0..WORDS {
            self.word(MASK, word).into_iter().for_each(|word| word.store(u64::MAX, Ordering::SeqCst));
            self.word(PENDING, word).into_iter().for_each(|word| word.store(0, Ordering::SeqCst));
        }
        for vcpu in 0..MAX_VCPUS {
            if let Some((flag, selector)) = self.vcpu(vcpu) {
                selector.store(0, Ordering::SeqCst);
                flag.store(0, Ordering::SeqCst);
            }
        }
    }

    pub fn mask(&self, port: u32) {
        if let Some((word, bit)) = self.bit(MASK, port) {
            word.fetch_or(bit, Ordering::SeqCst);
        }
    }

    pub fn unmask(&self, port: u32) {
        if let Some((word, bit)) = self.bit(MASK, port) {
            word.fetch_and(!bit, Ordering::SeqCst);
        }
    }

    /// Takes the event of a port; returns whether there was one.
    pub fn take(&self, port: u32) -> bool {
        self.bit(PENDING, port).is_some_and(|(word, bit)| word.fetch_and(!bit, Ordering::SeqCst) & bit != 0)
    }

    /// Takes the events of the ports that are not masked, and masks those.
    pub fn take_all(&self, selector: &AtomicU64, mut wake: impl FnMut(u32)) {
        let mut words = selector.swap(0, Ordering::SeqCst);
        while words != 0 {
            let word = words.trailing_zeros();
            words &= words.wrapping_sub(1);
            let at = word as usize;
            let (Some(pending), Some(mask)) = (self.word(PENDING, at), self.word(MASK, at)) else { continue };
            let mut bits = pending.load(Ordering::SeqCst) & !mask.load(Ordering::SeqCst);
            mask.fetch_or(bits, Ordering::SeqCst);
            pending.fetch_and(!bits, Ordering::SeqCst);
            while bits != 0 {
                wake(word.wrapping_mul(64).wrapping_add(bits.trailing_zeros()));
                bits &= bits.wrapping_sub(1);
            }
        }
    }
}

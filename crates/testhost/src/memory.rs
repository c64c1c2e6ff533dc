//! Guest memory, as the host accesses it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, VolatileMemory,
};

/// Guest memory, as the host accesses it. A handle: clones are the same memory.
///
/// Addresses from the guest are not trusted: outside memory, reads return zeros, writes are ignored, and both are
/// [counted](Self::strays).
#[derive(Clone)]
pub struct Memory {
    map: GuestMemoryMmap,
    strays: Arc<AtomicU64>,
}

impl Memory {
    /// Wraps `map`.
    pub fn new(map: GuestMemoryMmap) -> Self {
        Self { map, strays: Arc::default() }
    }

    /// The memory in the terms of rust-vmm's crates.
    pub fn map(&self) -> &GuestMemoryMmap {
        &self.map
    }

    /// Accesses outside memory so far.
    pub fn strays(&self) -> u64 {
        self.strays.load(Ordering::Relaxed)
    }

    /// The value of `result`; an error is counted as an access outside memory.
    pub(crate) fn checked<T, E>(&self, result: Result<T, E>) -> Option<T> {
        if result.is_err() {
            self.strays.fetch_add(1, Ordering::Relaxed);
        }
        result.ok()
    }

    /// Reads `len` bytes at guest address `address`, or as many as memory has in all.
    pub fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let all: u64 = self.map.iter().map(|region| region.len()).sum();
        let mut bytes = vec![0; len.min(all as usize)];
        self.checked(self.map.read_slice(&mut bytes, GuestAddress(address)));
        bytes
    }

    /// Writes `bytes` at guest address `address`.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.checked(self.map.write_slice(bytes, GuestAddress(address)));
    }

    /// The host pointer to `len` bytes at `address`; `None` if they are not contiguous memory. It is valid as long as this handle.
    pub fn host(&self, address: u64, len: usize) -> Option<*mut u8> {
        let slice = self.map.get_slice(GuestAddress(address), len);
        self.checked(slice).map(|slice| slice.ptr_guard_mut().as_ptr())
    }

    /// Atomically sets bits of the word at `address` and returns its previous value; `None` outside memory.
    pub(crate) fn set_bits(&self, address: u64, bits: u64) -> Option<u64> {
        let slice = self.checked(self.map.get_slice(GuestAddress(address), 8))?;
        let word = self.checked(slice.get_atomic_ref::<AtomicU64>(0))?;
        Some(word.fetch_or(bits, Ordering::SeqCst))
    }

    /// Atomically replaces the word at `address` by 0 and returns its previous value.
    pub(crate) fn take_word(&self, address: u64) -> u64 {
        let slice = self.checked(self.map.get_slice(GuestAddress(address), 8));
        let word = slice.and_then(|slice| {
            slice.get_atomic_ref::<AtomicU64>(0).ok().map(|word| word.swap(0, Ordering::SeqCst))
        });
        word.unwrap_or(0)
    }
}

/// Reads the given pieces of guest memory: addresses and lengths.
pub(crate) fn gather(memory: &Memory, places: &[(u64, usize)]) -> Vec<u8> {
    places.iter().flat_map(|(address, len)| memory.read(*address, *len)).collect()
}

/// Writes `bytes` to the given pieces of guest memory; returns how many bytes fitted.
pub(crate) fn scatter(memory: &Memory, places: &[(u64, usize)], bytes: &[u8]) -> usize {
    let mut rest = bytes;
    for (address, len) in places {
        let (now, later) = rest.split_at(rest.len().min(*len));
        memory.write(*address, now);
        rest = later;
    }
    bytes.len() - rest.len()
}

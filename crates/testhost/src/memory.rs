use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileMemory};

/// A guest's memory, as its host sees it. A handle: clones are the same memory.
///
/// What a guest names is not trusted: where there is no memory, reads give zeros and writes go nowhere, and that is
/// [counted](Self::strays).
#[derive(Clone)]
pub struct Memory {
    map: GuestMemoryMmap,
    strays: Arc<AtomicU64>,
}

impl Memory {
    /// The memory of `map`.
    pub fn new(map: GuestMemoryMmap) -> Self {
        Self { map, strays: Arc::default() }
    }

    /// The same for rust-vmm's crates.
    pub fn map(&self) -> &GuestMemoryMmap {
        &self.map
    }

    /// How often an address was used where there is no memory.
    pub fn strays(&self) -> u64 {
        self.strays.load(Ordering::Relaxed)
    }

    /// What there is, with the access counted where there is nothing.
    pub(crate) fn checked<T, E>(&self, result: Result<T, E>) -> Option<T> {
        if result.is_err() {
            self.strays.fetch_add(1, Ordering::Relaxed);
        }
        result.ok()
    }

    /// Reads `len` bytes.
    pub fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.checked(self.map.read_slice(&mut bytes, GuestAddress(address)));
        bytes
    }

    /// Writes `bytes`.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.checked(self.map.write_slice(bytes, GuestAddress(address)));
    }

    /// Where the host sees `len` bytes at `address`, if they are memory in one piece. It is valid as long as this handle.
    pub fn host(&self, address: u64, len: usize) -> Option<*mut u8> {
        let slice = self.map.get_slice(GuestAddress(address), len);
        self.checked(slice).map(|slice| slice.ptr_guard_mut().as_ptr())
    }

    /// Sets bits of a word, as atomics do; what it was before, if it is memory.
    pub(crate) fn set_bits(&self, address: u64, bits: u64) -> Option<u64> {
        let slice = self.checked(self.map.get_slice(GuestAddress(address), 8))?;
        let word = self.checked(slice.get_atomic_ref::<AtomicU64>(0))?;
        Some(word.fetch_or(bits, Ordering::SeqCst))
    }

    /// Takes a word, and leaves 0.
    pub(crate) fn take_word(&self, address: u64) -> u64 {
        let slice = self.checked(self.map.get_slice(GuestAddress(address), 8));
        let word = slice.and_then(|slice| {
            slice.get_atomic_ref::<AtomicU64>(0).ok().map(|word| word.swap(0, Ordering::SeqCst))
        });
        word.unwrap_or(0)
    }
}

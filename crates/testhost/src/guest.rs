use paravirt_platform::{
    AllocError, BusAddr, Instant, Interrupts, MapError, Mmio, PAGE_SIZE, Platform, PortIo, Processors, RawDma,
};
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// Where guest memory begins: not at 0, so that a null address is one that does not exist.
const BASE: u64 = 0x10_0000;
const PAGES: usize = 16 << 10;

type Hook = Box<dyn FnMut() + Send>;

struct Inner {
    memory: GuestMemoryMmap,
    /// Free runs of pages: first and count.
    free: Mutex<Vec<(usize, usize)>>,
    pages: AtomicU64,
    turned: AtomicU64,
    start: std::time::Instant,
    hooks: Mutex<Vec<Hook>>,
}

/// A process that plays guest: 64 MiB of rust-vmm guest memory, and a clock that goes by itself and can be turned on.
///
/// While a driver waits ([`Platform::relax`]), the hosts that were [attached](Self::attach) work.
#[derive(Clone)]
pub struct Guest(Arc<Inner>);

impl Default for Guest {
    fn default() -> Self {
        Self::new()
    }
}

impl Guest {
    /// A guest with all its memory free.
    pub fn new() -> Self {
        let range = [(GuestAddress(BASE), PAGES * PAGE_SIZE)];
        let memory = GuestMemoryMmap::<()>::from_ranges(&range).expect("64 MiB of memory");
        Self(Arc::new(Inner {
            memory,
            free: Mutex::new(vec![(0, PAGES)]),
            pages: AtomicU64::new(0),
            turned: AtomicU64::new(0),
            start: std::time::Instant::now(),
            hooks: Mutex::new(vec![]),
        }))
    }

    /// Its memory, for rust-vmm's device side.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.0.memory
    }

    /// Pages that are allocated now: what is left when everything is dropped has leaked.
    pub fn pages(&self) -> u64 {
        self.0.pages.load(Ordering::SeqCst)
    }

    /// Turns the clock on.
    pub fn turn(&self, by: Duration) {
        self.0.turned.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
    }

    /// Has `work` done whenever a driver waits.
    pub fn attach(&self, work: impl FnMut() + Send + 'static) {
        self.0.hooks.lock().expect("hooks").push(Box::new(work));
    }

    /// Writes guest memory, as a device does.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.0.memory.write_slice(bytes, GuestAddress(address)).expect("an address in guest memory");
    }

    /// Reads guest memory, as a device does.
    pub fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.memory.read_slice(&mut bytes, GuestAddress(address)).expect("an address in guest memory");
        bytes
    }

    /// Where the host sees an address of the guest's.
    pub fn host(&self, address: u64) -> *mut u8 {
        self.0.memory.get_host_address(GuestAddress(address)).expect("an address in guest memory")
    }
}

// SAFETY: pages are mapped memory, zeroed when they are given out, and nobody else's until they are freed.
unsafe impl Platform for Guest {
    fn dma_alloc(&self, pages: NonZeroUsize) -> Result<RawDma, AllocError> {
        let mut free = self.0.free.lock().expect("free list");
        let at = free.iter().position(|(_, count)| *count >= pages.get()).ok_or(AllocError)?;
        let (first, count) = free[at];
        match count - pages.get() {
            0 => drop(free.swap_remove(at)),
            left => free[at] = (first + pages.get(), left),
        }
        drop(free);
        self.0.pages.fetch_add(pages.get() as u64, Ordering::SeqCst);
        let bus = BASE + (first * PAGE_SIZE) as u64;
        self.write(bus, &vec![0; pages.get() * PAGE_SIZE]);
        let cpu = NonNull::new(self.host(bus)).ok_or(AllocError)?;
        Ok(RawDma { cpu, bus: BusAddr(bus), pages })
    }

    unsafe fn dma_free(&self, region: RawDma) {
        self.0.pages.fetch_sub(region.pages.get() as u64, Ordering::SeqCst);
        let first = ((region.bus.0 - BASE) / PAGE_SIZE as u64) as usize;
        // What is used after it was freed shows.
        self.write(region.bus.0, &vec![0xdd; region.len()]);
        self.0.free.lock().expect("free list").push((first, region.pages.get()));
    }

    fn now(&self) -> Instant {
        let turned = self.0.turned.load(Ordering::SeqCst);
        Instant::from_nanos(self.0.start.elapsed().as_nanos() as u64 + turned)
    }

    fn relax(&self) {
        if let Ok(mut hooks) = self.0.hooks.try_lock() {
            hooks.iter_mut().for_each(|work| work());
        }
    }
}

// SAFETY: it binds nothing.
unsafe impl Interrupts for Guest {}
// SAFETY: it accesses nothing.
unsafe impl PortIo for Guest {}
impl Processors for Guest {}
// SAFETY: it maps nothing.
unsafe impl Mmio for Guest {
    unsafe fn map(&self, _phys: u64, _len: usize) -> Result<NonNull<u8>, MapError> {
        Err(MapError)
    }
}

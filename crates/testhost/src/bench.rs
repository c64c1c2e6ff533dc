//! What the benches of virtio share: a device that costs little, a disk in front of it, and the command line.
//!
//! Under callgrind, instructions count in functions named `driver_side` and in what these call, except in functions named `host_side`:
//! those are the bench's own work. What is left of the bench in a count is its loop, about four instructions a request.

use crate::count;
use crate::{FakeDevice, Guest};
use paravirt_device::BlockDevice;
use paravirt_platform::DmaSlice;
use paravirt_virtio::OpenOptions;
use paravirt_virtio::blk::config::BlkFeatures;
use paravirt_virtio::blk::{BlkQueue, VirtioBlk};
use paravirt_virtio::features::Features;
use paravirt_virtio::queue::QueueAddresses;
use paravirt_virtio::transport::DeviceType;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};
use std::sync::{Arc, Mutex};

/// Bytes of a request's data.
pub const DATA: u32 = 4096;
/// Bytes that the device writes for a read: the data and the status.
pub const WRITTEN: u32 = DATA + 1;

/// The device side of a split queue, with the least work that the protocol allows: it returns each available chain with status 0
/// and the same length, and asks for a kick for the next one.
pub struct MinimalDevice {
    avail: *const u8,
    used: *mut u8,
    size: u16,
    next: u16,
    len: u32,
    desc: *const u64,
    /// Where guest physical address 0 is in this process.
    zero: usize,
}

// SAFETY: the pointers are to guest memory, which any thread may access; one thread uses the value at a time.
unsafe impl Send for MinimalDevice {}

impl MinimalDevice {
    /// The device side of the queue at `addresses`, which `host` turns into pointers of this process. Reports `len` bytes written
    /// for each request.
    ///
    /// # Safety
    ///
    /// The queue is split, with event indices, and stays at `addresses` as long as this value is used; guest memory is mapped
    /// in one piece.
    pub unsafe fn new(host: impl Fn(u64) -> *mut u8, addresses: &QueueAddresses, len: u32) -> Self {
        let (avail, used) = (host(addresses.driver.0).cast_const(), host(addresses.device.0));
        let desc = host(addresses.desc.0).cast_const().cast::<u64>();
        let zero = (desc as usize).wrapping_sub(addresses.desc.0 as usize);
        Self { avail, used, size: addresses.size, next: 0, len, desc, zero }
    }

    /// For a driver that gives the device pointers of this process as addresses.
    pub fn with_pointers(mut self) -> Self {
        self.zero = 0;
        self
    }

    /// Writes status 0 (OK) to the last byte of the chain that starts at `head`.
    ///
    /// # Safety
    ///
    /// The chain is in the available ring.
    unsafe fn succeed(&self, head: usize) {
        // SAFETY: by the contract of this function and of `new`: descriptors and buffers are mapped, and the driver leaves them
        // alone meanwhile.
        unsafe {
            let (mut table, mut at) = (self.desc, head);
            loop {
                let (addr, rest) = (*table.add(2 * at), *table.add(2 * at + 1));
                let (len, flags, next) = (rest as u32, (rest >> 32) as u16, (rest >> 48) as usize);
                let here = self.zero.wrapping_add(addr as usize);
                if flags & 4 != 0 {
                    (table, at) = (here as *const u64, 0);
                } else if flags & 1 != 0 {
                    at = next;
                } else {
                    *((here + len as usize - 1) as *mut u8) = 0;
                    break;
                }
            }
        }
    }

    /// Serves every available request, and returns how many there were.
    pub fn serve(&mut self) -> u16 {
        // SAFETY: by the contract of `new`, the queue is at these addresses.
        unsafe {
            let avail_idx = (*self.avail.add(2).cast::<AtomicU16>()).load(Ordering::Acquire);
            let count = avail_idx.wrapping_sub(self.next);
            while self.next != avail_idx {
                let slot = usize::from(self.next & (self.size - 1));
                let head = (*self.avail.add(4 + slot * 2).cast::<AtomicU16>()).load(Ordering::Relaxed);
                self.succeed(usize::from(head));
                let element = self.used.add(4 + slot * 8);
                (*element.cast::<AtomicU32>()).store(u32::from(head), Ordering::Relaxed);
                (*element.add(4).cast::<AtomicU32>()).store(self.len, Ordering::Relaxed);
                self.next = self.next.wrapping_add(1);
            }
            (*self.used.add(2).cast::<AtomicU16>()).store(self.next, Ordering::Release);
            let event = self.used.add(4 + usize::from(self.size) * 8);
            (*event.cast::<AtomicU16>()).store(self.next, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            count
        }
    }
}

/// The registers of a block device with one queue, indirect descriptors, event indices and a write cache.
pub fn disk_registers() -> FakeDevice {
    let features = Features::VERSION_1 | Features::INDIRECT_DESC | Features::EVENT_IDX;
    let mut config = [0; 60];
    config[..8].copy_from_slice(&(1u64 << 30).to_le_bytes());
    FakeDevice::new(DeviceType::BLOCK, features.bits() | BlkFeatures::FLUSH.bits(), &[256], &config)
}

/// The queue of a [`Disk`].
pub type DiskQueue = BlkQueue<Guest, DmaSlice<Guest>>;

/// The block driver, open, on a [`MinimalDevice`].
pub struct Disk {
    /// Buffers of [`DATA`] bytes.
    pub buffers: Vec<DmaSlice<Guest>>,
    /// The device side of the queue.
    pub device: MinimalDevice,
    /// The device's registers, which count kicks.
    pub registers: FakeDevice,
    _disk: VirtioBlk<Guest, DmaSlice<Guest>>,
}

impl Disk {
    /// Opens a disk, and takes its queue.
    pub fn open() -> (Self, DiskQueue) {
        let guest = Guest::new();
        let registers = disk_registers();
        let served = Arc::new(Mutex::new(None::<MinimalDevice>));
        let (inner, inner_guest, device) = (served.clone(), guest.clone(), registers.clone());
        // Answers the request for the serial number while the device is opened.
        guest.attach(move || {
            if let Some(queue) = device.queue(0) {
                let mut served = inner.lock().expect("device");
                let host = |at| inner_guest.host(at);
                // SAFETY: the driver set up this split queue, and the model's memory is one mapping.
                // It reports what it writes for a write, which is the least of all requests.
                let new = || unsafe { MinimalDevice::new(host, &queue.addresses, 1) };
                served.get_or_insert_with(new).serve();
            }
        });
        let options = OpenOptions::new().with_queue_size(256);
        let mut disk = VirtioBlk::open(&guest, registers.transport(&guest), &options).expect("a disk");
        let queue = disk.take_queue(0).expect("a queue");
        let mut buffers = vec![];
        DmaSlice::alloc_many(&guest, 64, DATA as usize, |slice| buffers.push(slice)).expect("memory");
        let device = served.lock().expect("device").take().expect("it was asked for its serial number");
        (Self { buffers, device, registers, _disk: disk }, queue)
    }
}

/// Takes a buffer for a request. Like everything named `host_side`, it is not counted.
#[inline(never)]
pub fn host_side_take<B>(buffers: &mut Vec<B>) -> B {
    buffers.pop().expect("a buffer")
}

/// Keeps the buffer of a completed request. Like everything named `host_side`, it is not counted.
#[inline(never)]
pub fn host_side_keep<B>(buffers: &mut Vec<B>, buffer: Option<B>) {
    buffers.extend(buffer);
}

/// What a bench measures.
pub trait Part {
    /// Sends `size` requests and takes their completions. Instructions count in functions named `driver_side`, allocations in
    /// what [`counted`](count::counted) runs.
    fn batch(&mut self, size: u64);
    /// How often the driver has kicked the device.
    fn kicks(&self) -> u64;
}

/// Runs the part that the command line names: `PART BATCH ROUNDS`; `find` makes it. Prints kicks for a batch, and allocations for a
/// request.
pub fn main(usage: &str, find: impl Fn(&str) -> Option<Box<dyn Part>>) {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
    let (Some(mut part), Some(batch), Some(rounds)) =
        (words.first().and_then(|name| find(name)), number(1), number(2))
    else {
        eprintln!("usage: {usage}");
        std::process::exit(2);
    };
    part.batch(batch);
    let (kicks, allocations) = (part.kicks(), count::allocations());
    for _ in 0..rounds {
        part.batch(batch);
    }
    let per_batch = |count: u64| (count as f64 / rounds as f64 * 100.0).round() / 100.0;
    println!(
        "kicks={} allocations={}",
        per_batch(part.kicks() - kicks),
        per_batch((count::allocations() - allocations) / batch)
    );
}

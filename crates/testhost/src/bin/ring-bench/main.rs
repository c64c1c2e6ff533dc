//! What a request costs in the driver: run under callgrind by `cargo xtask bench`.
//!
//! `ring-bench PART BATCH ROUNDS` runs one part; only what stands in functions named `driver_side` is the driver's. The
//! device side is the same for all parts, and does the least that the protocol asks for. `ring-bench ratio` times the parts
//! side by side.

mod peer_transport;

use paravirt_device::{BlockDevice, BlockQueue, Durability, Op, Rejected, Request};
use paravirt_platform::{Direction, DmaBuffer, DmaSegments, DmaSlice, Instant, Platform, Segment};
use paravirt_testhost::count::{self, Counting, counted};
use paravirt_testhost::{FakeDevice, Guest, PackedDevice, QueueState};
use paravirt_virtio::OpenOptions;
use paravirt_virtio::blk::config::BlkFeatures;
use paravirt_virtio::blk::{BlkQueue, VirtioBlk};
use paravirt_virtio::features::Features;
use paravirt_virtio::queue::{
    AreaRange, Parts, QueueAddresses, QueueConfig, RecordQueue, Ring as _, RingFormat, TransferCheck,
    VirtQueue,
};
use paravirt_virtio::transport::DeviceType;
use peer_transport::PeerTransport;
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};
use virtio_drivers::device::blk::{BlkReq, BlkResp, VirtIOBlk};
use virtio_drivers::queue::VirtQueue as PeerQueue;
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

#[global_allocator]
static COUNTING: Counting = Counting;

/// The least that a device does on a split queue: takes what is available, returns it as used in full, asks for a kick.
struct Device {
    avail: *const u8,
    used: *mut u8,
    size: u16,
    next: u16,
    len: u32,
    event_idx: bool,
    /// The descriptor table, and where guest physical address 0 would be in this process.
    desc: *const u64,
    zero: usize,
}

impl Device {
    fn new(host: impl Fn(u64) -> *mut u8, addresses: &QueueAddresses, len: u32, event_idx: bool) -> Self {
        let (avail, used) = (host(addresses.driver.0).cast_const(), host(addresses.device.0));
        let desc = host(addresses.desc.0).cast_const().cast::<u64>();
        let zero = (desc as usize).wrapping_sub(addresses.desc.0 as usize);
        Self { avail, used, size: addresses.size, next: 0, len, event_idx, desc, zero }
    }

    /// Writes status 0 (OK) to the last byte of the chain that starts at `head`, as a disk does.
    ///
    /// # Safety
    ///
    /// The chain is in the available ring, and guest memory is mapped in one piece.
    unsafe fn succeed(&self, head: usize) {
        // SAFETY: the caller's promise: descriptors and buffers are mapped, and the driver leaves them alone meanwhile.
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

    /// Serves everything; how many requests.
    fn serve(&mut self) -> u16 {
        // SAFETY: the driver set the queue up at these addresses and keeps it.
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
            if self.event_idx {
                let event = self.used.add(4 + usize::from(self.size) * 8);
                (*event.cast::<AtomicU16>()).store(self.next, Ordering::Relaxed);
                fence(Ordering::SeqCst);
            }
            count
        }
    }
}

/// A part: what it does for one batch, and how often it was kicked.
trait Part {
    fn batch(&mut self, size: u64);
    fn kicks(&self) -> u64;
}

const HEADER: u32 = 16;
const DATA: u32 = 4096;

/// Our queue alone: three buffers a request.
struct Ours {
    queue: VirtQueue<Guest, DmaSlice<Guest>, u64>,
    device: Result<Device, PackedDevice>,
    /// A buffer that stays in flight: the queue alone is measured, without what a buffer costs.
    data: Segment,
    _buffer: DmaSlice<Guest>,
    kicks: u64,
}

impl Ours {
    fn new(indirect: u16, packed: bool) -> Self {
        let guest = Guest::new();
        let mut config = QueueConfig::new(256);
        config.format = if packed { RingFormat::Packed } else { RingFormat::Split };
        (config.event_idx, config.indirect, config.area) = (true, indirect, 64);
        let mut queue = VirtQueue::new(&guest, config).expect("a queue");
        let state = QueueState { addresses: queue.addresses(), generation: 1 };
        let device = match packed {
            false => Ok(Device::new(|at| guest.host(at), &state.addresses, DATA + 1, true)),
            true => Err(PackedDevice::new(&guest, &state, true)),
        };
        let mut buffer = DmaSlice::alloc(&guest, DATA as usize).expect("memory");
        let data = buffer.submit(Direction::FromDevice).expect("a buffer").as_slice()[0];
        Self { queue, device, data, _buffer: buffer, kicks: 0 }
    }

    #[inline(never)]
    fn driver_side_submit(&mut self, size: u64) {
        let (header, status) = ([AreaRange::new(0, HEADER as u16)], [AreaRange::new(32, 1)]);
        for tag in 0..size {
            // SAFETY: the buffer is in flight as long as this value lives.
            let data = unsafe { DmaSegments::new(std::slice::from_ref(&self.data), Direction::FromDevice) };
            let parts = Parts::around(&header, &status);
            assert!(self.queue.submit_segments(parts, data, tag, |_, _| Ok(())).is_ok());
        }
        if self.queue.publish() {
            self.kicks += 1;
        }
    }

    #[inline(never)]
    fn driver_side_complete(&mut self, size: u64) {
        for _ in 0..size {
            assert!(self.queue.pop().expect("no fault").is_some());
        }
    }
}

impl Part for Ours {
    fn batch(&mut self, size: u64) {
        counted(|| self.driver_side_submit(size));
        match &mut self.device {
            Ok(device) => assert_eq!(u64::from(device.serve()), size),
            Err(device) => {
                while let Some(chain) = device.pop() {
                    device.push(chain.id, chain.entries, DATA + 1);
                }
            }
        }
        counted(|| self.driver_side_complete(size));
    }
    fn kicks(&self) -> u64 {
        self.kicks
    }
}

/// Our queue for requests with records alone: a header, data, a status, in indirect tables.
struct Records {
    queue: RecordQueue<Guest, DmaSlice<Guest>, u64>,
    device: Device,
    buffers: Vec<DmaSlice<Guest>>,
    kicks: u64,
}

/// A device that takes anything.
struct Anything;

impl TransferCheck for Anything {
    #[inline(always)]
    fn one(&self, _len: u32) -> Result<(), Rejected> {
        Ok(())
    }
    fn segments(&self, _segments: &[Segment]) -> Result<(), Rejected> {
        Ok(())
    }
}

impl Records {
    fn new() -> Self {
        let guest = Guest::new();
        let mut queue = RecordQueue::new(&guest, 256, 1, true).expect("a queue");
        let device = Device::new(|at| guest.host(at), &queue.addresses(), DATA + 1, true);
        let mut buffers = vec![];
        DmaSlice::alloc_many(&guest, 64, DATA as usize, |slice| buffers.push(slice)).expect("memory");
        Self { queue, device, buffers, kicks: 0 }
    }

    #[inline(never)]
    fn driver_side_submit(&mut self, size: u64) {
        for tag in 0..size {
            let buffer = self.buffers.pop().expect("a buffer");
            let header = [black_box(0), tag];
            assert!(self.queue.submit(header, buffer, Direction::FromDevice, tag, Anything).is_ok());
        }
        if self.queue.publish() {
            self.kicks += 1;
        }
    }

    #[inline(never)]
    fn driver_side_complete(&mut self, size: u64) {
        for _ in 0..size {
            let used = self.queue.pop().expect("no fault").expect("used");
            self.buffers.extend(used.buffer);
        }
    }
}

impl Part for Records {
    fn batch(&mut self, size: u64) {
        counted(|| self.driver_side_submit(size));
        assert_eq!(u64::from(self.device.serve()), size);
        counted(|| self.driver_side_complete(size));
    }
    fn kicks(&self) -> u64 {
        self.kicks
    }
}

/// A disk as the driver opens it, without anybody behind it but [`Device`].
fn disk_device() -> FakeDevice {
    let features = Features::VERSION_1 | Features::INDIRECT_DESC | Features::EVENT_IDX;
    let mut config = [0; 60];
    config[..8].copy_from_slice(&(1u64 << 30).to_le_bytes());
    FakeDevice::new(DeviceType::BLOCK, features.bits() | BlkFeatures::FLUSH.bits(), &[256], &config)
}

/// Our block driver, whole.
struct Block {
    queue: Option<BlkQueue<Guest, DmaSlice<Guest>>>,
    buffers: Vec<DmaSlice<Guest>>,
    device: Device,
    registers: FakeDevice,
    _disk: VirtioBlk<Guest, DmaSlice<Guest>>,
}

impl Block {
    fn new() -> Self {
        let guest = Guest::new();
        let registers = disk_device();
        let served = std::sync::Arc::new(std::sync::Mutex::new(None::<Device>));
        let (inner, inner_guest, device) = (served.clone(), guest.clone(), registers.clone());
        // Answers the question for the serial number while the device is opened.
        guest.attach(move || {
            if let Some(queue) = device.queue(0) {
                let mut served = inner.lock().expect("device");
                let host = |at| inner_guest.host(at);
                served.get_or_insert_with(|| Device::new(host, &queue.addresses, 1, true)).serve();
            }
        });
        let options = OpenOptions::new().with_queue_size(256);
        let mut disk = VirtioBlk::open(&guest, registers.transport(&guest), &options).expect("a disk");
        let queue = disk.take_queue(0).expect("a queue");
        let mut buffers = vec![];
        DmaSlice::alloc_many(&guest, 64, DATA as usize, |slice| buffers.push(slice)).expect("memory");
        let device = served.lock().expect("device").take().expect("it was asked for its serial number");
        Self { queue: Some(queue), buffers, device, registers, _disk: disk }
    }

    #[inline(never)]
    fn driver_side_submit(&mut self, size: u64) {
        let queue = self.queue.as_mut().expect("its queue");
        for tag in 0..size {
            let into = self.buffers.pop().expect("a buffer");
            let op = Op::Read { lba: tag * 8, into };
            assert!(queue.submit(Request::new(tag, op)).is_ok());
        }
        queue.kick();
    }

    #[inline(never)]
    fn driver_side_complete(&mut self, size: u64) {
        let queue = self.queue.as_mut().expect("its queue");
        for _ in 0..size {
            let done = queue.complete().expect("no fault").expect("done");
            assert!(done.result.is_ok());
            self.buffers.extend(done.buffer);
        }
    }
}

// SAFETY: one thread uses it at a time.
unsafe impl Send for Device {}

impl Part for Block {
    fn batch(&mut self, size: u64) {
        counted(|| self.driver_side_submit(size));
        assert_eq!(u64::from(self.device.serve()), size);
        counted(|| self.driver_side_complete(size));
    }
    fn kicks(&self) -> u64 {
        self.registers.kicks(0)
    }
}

/// Our block driver behind `dyn BlockQueue`: nothing of it is inlined into its caller. Reads and writes alternate.
struct BlockDyn {
    block: Block,
    queue: Box<dyn BlockQueue<Buffer = DmaSlice<Guest>>>,
}

impl BlockDyn {
    fn new() -> Self {
        let mut block = Block::new();
        let queue = Box::new(block.queue.take().expect("its queue"));
        Self { block, queue }
    }

    #[inline(never)]
    fn driver_side_submit(&mut self, size: u64) {
        let queue: &mut dyn BlockQueue<Buffer = DmaSlice<Guest>> = black_box(&mut *self.queue);
        for tag in 0..size {
            let buffer = self.block.buffers.pop().expect("a buffer");
            let lba = tag * 8;
            let op = match black_box(tag) & 1 {
                0 => Op::Read { lba, into: buffer },
                _ => Op::Write { lba, from: buffer, durability: Durability::Cached },
            };
            let deadline = black_box(Instant::NEVER);
            assert!(queue.submit(Request::new(tag, op).with_deadline(deadline)).is_ok());
        }
        queue.kick();
    }

    #[inline(never)]
    fn driver_side_complete(&mut self, size: u64) {
        let queue: &mut dyn BlockQueue<Buffer = DmaSlice<Guest>> = black_box(&mut *self.queue);
        for _ in 0..size {
            let done = queue.complete().expect("no fault").expect("done");
            assert!(done.result.is_ok());
            self.block.buffers.extend(done.buffer);
        }
    }
}

impl Part for BlockDyn {
    fn batch(&mut self, size: u64) {
        counted(|| self.driver_side_submit(size));
        assert_eq!(u64::from(self.block.device.serve()), size);
        counted(|| self.driver_side_complete(size));
    }
    fn kicks(&self) -> u64 {
        self.block.registers.kicks(0)
    }
}

/// The guest of the `virtio-drivers` crate, whose `Hal` has no `self`: memory as it is, nothing copied.
struct PeerHal;
static PEER: OnceLock<Guest> = OnceLock::new();

// SAFETY: forwards to a platform with the same contract; buffers are shared where they are.
unsafe impl Hal for PeerHal {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let pages = NonZeroUsize::new(pages).expect("pages");
        let raw = PEER.get_or_init(Guest::new).dma_alloc(pages).expect("memory");
        (raw.bus.0, raw.cpu)
    }
    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        0
    }
    unsafe fn mmio_phys_to_virt(_: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::dangling()
    }
    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }
    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

const PEER_SIZE: usize = 16;

fn peer_transport(registers: &FakeDevice) -> PeerTransport {
    PeerTransport::new(PEER.get_or_init(Guest::new), registers)
}

/// Their queue alone.
struct Peer {
    queue: PeerQueue<PeerHal, PEER_SIZE>,
    /// Resets the device when it is dropped.
    _transport: PeerTransport,
    device: Device,
    buffers: [Vec<u8>; 3],
    tokens: Vec<u16>,
    kicks: u64,
}

impl Peer {
    fn new() -> Self {
        let guest = PEER.get_or_init(Guest::new);
        let registers = disk_device();
        let mut transport = peer_transport(&registers);
        let queue = PeerQueue::new(&mut transport, 0, true, true).expect("a queue");
        let addresses = registers.registers().queues[0].expect("set up").addresses;
        let mut device = Device::new(|at| guest.host(at), &addresses, DATA + 1, true);
        // `PeerHal::share` gives pointers of this process as addresses.
        device.zero = 0;
        let buffers = [vec![0; HEADER as usize], vec![0; DATA as usize], vec![0; 1]];
        Self {
            queue,
            _transport: transport,
            device,
            buffers,
            tokens: Vec::with_capacity(PEER_SIZE),
            kicks: 0,
        }
    }

    #[inline(never)]
    fn driver_side_submit(&mut self, size: u64) {
        let [header, data, status] = &mut self.buffers;
        for _ in 0..size {
            // SAFETY: the buffers live as long as this value.
            let token = unsafe { self.queue.add(&[header], &mut [data, status]) }.expect("room");
            self.tokens.push(token);
            // As its drivers do: after each.
            if self.queue.should_notify() {
                self.kicks += 1;
            }
        }
    }

    #[inline(never)]
    fn driver_side_complete(&mut self) {
        let [header, data, status] = &mut self.buffers;
        for token in self.tokens.drain(..) {
            // SAFETY: these are the buffers that `driver_side_submit` added, in the same order.
            unsafe { self.queue.pop_used(token, &[header], &mut [data, status]) }.expect("used");
        }
    }
}

impl Part for Peer {
    fn batch(&mut self, size: u64) {
        counted(|| self.driver_side_submit(size));
        assert_eq!(u64::from(self.device.serve()), size);
        counted(|| self.driver_side_complete());
    }
    fn kicks(&self) -> u64 {
        self.kicks
    }
}

/// Their block driver, whole; its two functions called out of line if so wanted, as through a trait object.
struct PeerBlock<const OUT_OF_LINE: bool> {
    disk: PeerDisk,
    device: Device,
    registers: FakeDevice,
    requests: Vec<PeerRequest>,
}

type PeerDisk = VirtIOBlk<PeerHal, PeerTransport>;
type PeerRequest = (BlkReq, BlkResp, Vec<u8>, u16);

#[inline(always)]
fn peer_submit(disk: &mut PeerDisk, lba: usize, (request, response, data, token): &mut PeerRequest) {
    // SAFETY: requests live as long as the `PeerBlock` that has them.
    *token = unsafe { disk.read_blocks_nb(lba, request, data, response) }.expect("room");
}

#[inline(always)]
fn peer_complete(disk: &mut PeerDisk, (request, response, data, token): &mut PeerRequest) {
    // SAFETY: this is the request that `peer_submit` submitted.
    unsafe { disk.complete_read_blocks(*token, request, data, response) }.expect("read");
}

#[inline(never)]
fn peer_submit_out_of_line(disk: &mut PeerDisk, lba: usize, request: &mut PeerRequest) {
    peer_submit(disk, lba, request);
}

#[inline(never)]
fn peer_complete_out_of_line(disk: &mut PeerDisk, request: &mut PeerRequest) {
    peer_complete(disk, request);
}

impl<const OUT_OF_LINE: bool> PeerBlock<OUT_OF_LINE> {
    fn new() -> Self {
        let guest = PEER.get_or_init(Guest::new);
        let registers = disk_device();
        let disk = VirtIOBlk::new(peer_transport(&registers)).expect("a disk");
        let addresses = registers.registers().queues[0].expect("set up").addresses;
        let mut device = Device::new(|at| guest.host(at), &addresses, DATA + 1, true);
        // `PeerHal::share` gives pointers of this process as addresses.
        device.zero = 0;
        let request = || (BlkReq::default(), BlkResp::default(), vec![0; DATA as usize], 0);
        Self { disk, device, registers, requests: (0..PEER_SIZE).map(|_| request()).collect() }
    }

    #[inline(never)]
    fn driver_side_submit(&mut self, size: u64) {
        for (tag, request) in self.requests.iter_mut().take(size as usize).enumerate() {
            match OUT_OF_LINE {
                true => peer_submit_out_of_line(black_box(&mut self.disk), tag * 8, request),
                false => peer_submit(&mut self.disk, tag * 8, request),
            }
        }
    }

    #[inline(never)]
    fn driver_side_complete(&mut self, size: u64) {
        for request in self.requests.iter_mut().take(size as usize) {
            match OUT_OF_LINE {
                true => peer_complete_out_of_line(black_box(&mut self.disk), request),
                false => peer_complete(&mut self.disk, request),
            }
        }
    }
}

impl<const OUT_OF_LINE: bool> Part for PeerBlock<OUT_OF_LINE> {
    fn batch(&mut self, size: u64) {
        counted(|| self.driver_side_submit(size));
        assert_eq!(u64::from(self.device.serve()), size);
        counted(|| self.driver_side_complete(size));
    }
    fn kicks(&self) -> u64 {
        self.registers.kicks(0)
    }
}

fn part(name: &str) -> Option<Box<dyn Part>> {
    Some(match name {
        "queue-indirect" => Box::new(Records::new()),
        "queue-direct" => Box::new(Ours::new(0, false)),
        "queue-packed" => Box::new(Ours::new(4, true)),
        "block" => Box::new(Block::new()),
        "block-dyn" => Box::new(BlockDyn::new()),
        "peer-queue" => Box::new(Peer::new()),
        "peer-block" => Box::new(PeerBlock::<false>::new()),
        "peer-block-dyn" => Box::new(PeerBlock::<true>::new()),
        _ => return None,
    })
}

/// Times two parts in turn, so that both see the same machine.
fn ratio(ours: &str, peer: &str, batch: u64) {
    let (Some(mut a), Some(mut b)) = (part(ours), part(peer)) else { return };
    let mut times = [std::time::Duration::ZERO; 2];
    for _ in 0..200 {
        for (part, time) in [&mut a, &mut b].into_iter().zip(&mut times) {
            let start = std::time::Instant::now();
            (0..500).for_each(|_| part.batch(batch));
            *time += start.elapsed();
        }
    }
    let ratio = times[0].as_secs_f64() / times[1].as_secs_f64();
    println!("time of {ours} for that of {peer}, batch of {batch}, device side included: {ratio:.2}");
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    if word(0) == "ratio" {
        // Its indirect queue has 16 entries.
        for batch in [1, 16] {
            ratio("queue-indirect", "peer-queue", batch);
            ratio("block", "peer-block", batch);
        }
        return;
    }
    let (Some(mut part), Ok(batch), Ok(rounds)) =
        (part(word(0)), word(1).parse::<u64>(), word(2).parse::<u64>())
    else {
        eprintln!("usage: ring-bench PART BATCH ROUNDS, or ring-bench ratio");
        std::process::exit(2);
    };
    part.batch(batch);
    let (kicks, allocations) = (part.kicks(), count::allocations());
    for _ in 0..rounds {
        part.batch(batch);
    }
    let per_batch = |count: u64| (count as f64 / rounds as f64 * 100.0).round() / 100.0;
    println!(
        "part={} batch={batch} kicks={} allocations={}",
        word(0),
        per_batch(part.kicks() - kicks),
        per_batch((count::allocations() - allocations) / batch)
    );
}

//! The same by the `virtio-drivers` crate.

use crate::peer_transport::PeerTransport;
use paravirt_platform::Platform;
use paravirt_testhost::bench::{DATA, MinimalDevice, Part, WRITTEN, disk_registers};
use paravirt_testhost::count::counted;
use paravirt_testhost::{FakeDevice, Guest};
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::OnceLock;
use virtio_drivers::device::blk::{BlkReq, BlkResp, VirtIOBlk};
use virtio_drivers::queue::VirtQueue as PeerQueue;
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

/// Bytes of a request's header.
const HEADER: usize = 16;

/// The guest of the `virtio-drivers` crate, whose `Hal` has no `self`: memory as it is, nothing copied.
pub struct PeerHal;
pub static PEER: OnceLock<Guest> = OnceLock::new();

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

pub fn peer_transport(registers: &FakeDevice) -> PeerTransport {
    PeerTransport::new(PEER.get_or_init(Guest::new), registers)
}

/// Their queue alone.
pub struct Peer {
    queue: PeerQueue<PeerHal, PEER_SIZE>,
    /// Resets the device when it is dropped.
    _transport: PeerTransport,
    device: MinimalDevice,
    buffers: [Vec<u8>; 3],
    tokens: Vec<u16>,
    kicks: u64,
}

impl Peer {
    pub fn new() -> Self {
        let guest = PEER.get_or_init(Guest::new);
        let registers = disk_registers();
        let mut transport = peer_transport(&registers);
        let queue = PeerQueue::new(&mut transport, 0, true, true).expect("a queue");
        let addresses = registers.registers().queues[0].expect("set up").addresses;
        // SAFETY: the queue, which this value keeps, is split there; `PeerHal::share` gives pointers of this process as addresses.
        let device = unsafe { MinimalDevice::new(|at| guest.host(at), &addresses, WRITTEN).with_pointers() };
        let buffers = [vec![0; HEADER], vec![0; DATA as usize], vec![0; 1]];
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
pub struct PeerBlock<const OUT_OF_LINE: bool> {
    disk: PeerDisk,
    device: MinimalDevice,
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
    pub fn new() -> Self {
        let guest = PEER.get_or_init(Guest::new);
        let registers = disk_registers();
        let disk = VirtIOBlk::new(peer_transport(&registers)).expect("a disk");
        let addresses = registers.registers().queues[0].expect("set up").addresses;
        // SAFETY: the queue, which this value keeps, is split there; `PeerHal::share` gives pointers of this process as addresses.
        let device = unsafe { MinimalDevice::new(|at| guest.host(at), &addresses, WRITTEN).with_pointers() };
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

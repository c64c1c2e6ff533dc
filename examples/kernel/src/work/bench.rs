//! `bench`: how fast a disk is, and `bench=write`, which destroys what is on it; each part says when it begins and ends, so that
//! counters can be sampled from outside. With `peer`, disks are driven by the `virtio-drivers` crate instead.

use super::devices::{Buffer, Devices, DiskQueue};
use super::options::Options;
use super::passthrough::Pool;
use crate::arch::{interrupts, time};
use crate::platform::{self, Machine};
use crate::{memory, say};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use paravirt_device::{Access, Arm, BlockDevice, BlockInfo, BlockQueue, Durability, Notify, Op, Request};
use paravirt_platform::{DmaSlice, Instant};
use paravirt_virtio::passthrough::PassthroughTransport;
use paravirt_virtio::passthrough::hal::BounceHal;
use paravirt_virtio::transport::{DeviceType, Transport};
use virtio_drivers::device::blk::{BlkReq, BlkResp, VirtIOBlk};

const REQUEST: usize = 4096;
const REQUESTS: u64 = 2000;
const FLUSHES: u64 = 100;
/// Requests at a time, at most.
const DEPTH: usize = 32;

/// What is counted from the beginning of a part on.
struct Counts {
    start: Instant,
    allocations: u64,
    interrupts: u64,
}

impl Counts {
    fn begin(name: &str) -> Self {
        say!("bench={name} begin");
        let (allocations, interrupts) = (memory::allocations(), interrupts::device_interrupts());
        Self { start: time::now(), allocations, interrupts }
    }

    /// Says how the part went, whose requests are of so many bytes.
    fn end(self, name: &str, requests: u64, bytes: usize) {
        let time = time::now().since(self.start);
        let interrupts = interrupts::device_interrupts() - self.interrupts;
        let allocations = memory::allocations() - self.allocations;
        let nanos = time.as_nanos().max(1);
        let iops = u128::from(requests) * 1_000_000_000 / nanos;
        let rate = u128::from(requests) * bytes as u128 * 1000 / nanos;
        let micros = time.as_micros();
        say!(
            "bench={name} end requests={requests} micros={micros} iops={iops} mb_per_s={rate} allocations={allocations} \
             interrupts={interrupts}"
        );
    }
}

/// What a part asks for.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Flush,
}

/// So many requests of a kind, `depth` at a time.
#[derive(Copy, Clone)]
struct Part {
    name: &'static str,
    kind: Kind,
    requests: u64,
    depth: usize,
}

const fn part(name: &'static str, kind: Kind, requests: u64, depth: usize) -> Part {
    Part { name, kind, requests, depth }
}

const READS: [Part; 2] =
    [part("read-depth1", Kind::Read, REQUESTS, 1), part("read-depth32", Kind::Read, REQUESTS, DEPTH)];
const WRITES: [Part; 2] =
    [part("write-depth32", Kind::Write, REQUESTS, DEPTH), part("flush", Kind::Flush, FLUSHES, 1)];

/// Does a part; there are buffers for as many requests as it has at a time.
fn work(
    queue: &mut DiskQueue,
    info: &BlockInfo,
    part: Part,
    buffers: &mut Vec<Buffer>,
) -> Result<(), String> {
    let blocks = (REQUEST as u64).div_ceil(u64::from(info.block_size));
    let slots = info.blocks / blocks;
    let (mut sent, mut done) = (0, 0);
    while done < part.requests {
        while sent < part.requests && sent - done < part.depth as u64 {
            let lba = sent % slots * blocks;
            let mut buffer = || buffers.pop().ok_or("a buffer was not returned");
            let op = match part.kind {
                Kind::Read => Op::Read { lba, into: buffer()? },
                Kind::Write => Op::Write { lba, from: buffer()?, durability: Durability::Cached },
                Kind::Flush => Op::Flush,
            };
            let request = Request::new(sent, op);
            queue.submit(request).map_err(|refused| refused.to_string())?;
            sent += 1;
        }
        queue.kick();
        let mut any = false;
        while let Some(completion) = queue.complete().map_err(|fault| fault.to_string())? {
            completion.result.map_err(|e| e.to_string())?;
            buffers.extend(completion.buffer);
            done += 1;
            any = true;
        }
        if !any {
            platform::sleep(Instant::NEVER, || queue.arm() == Arm::Pending);
        }
    }
    Ok(())
}

/// The parts on disk0, and ahead of them a read of it: until then, the kernel booted.
fn disk(devices: &mut Devices, writes: bool) -> Result<(), String> {
    let info = devices.disk(0)?.info();
    if writes && info.access == Access::ReadOnly {
        return Err("disk0 is read-only".into());
    }
    if info.blocks * u64::from(info.block_size) < REQUEST as u64 {
        return Err("disk0 is too small to be measured".into());
    }
    let mut queue = devices.disk_queues(0)?.swap_remove(0);
    queue.register(&platform::waker());
    let mut buffers = Vec::with_capacity(DEPTH);
    DmaSlice::alloc_many(&Machine, DEPTH, REQUEST, |slice| buffers.push(slice)).map_err(|e| e.to_string())?;
    work(&mut queue, &info, part("first", Kind::Read, 1, 1), &mut buffers)?;
    say!("bench=boot micros={}", time::now().as_nanos() / 1000);
    for part in READS.iter().chain(WRITES.iter().filter(|_| writes)) {
        let counts = Counts::begin(part.name);
        work(&mut queue, &info, *part, &mut buffers)?;
        counts.end(part.name, part.requests, if part.kind == Kind::Flush { 0 } else { REQUEST });
    }
    Ok(())
}

/// The `virtio-drivers` crate's block driver, by polling: it has no other way to have several requests in flight.
fn peer(
    transport: Transport<Machine>,
    depth: usize,
    name: &str,
) -> Result<VirtIOBlk<BounceHal<Pool>, PassthroughTransport<Machine>>, String> {
    let mut disk = VirtIOBlk::<BounceHal<Pool>, _>::new(PassthroughTransport::new(transport))
        .map_err(|e| e.to_string())?;
    let slots = disk.capacity() / 8;
    let mut buffers: Vec<_> = (0..depth)
        .map(|_| (alloc::vec![0u8; REQUEST], BlkReq::default(), BlkResp::default(), 0u16))
        .collect();
    let counts = Counts::begin(name);
    let mut done = 0;
    while done < REQUESTS {
        for (i, (buffer, request, response, token)) in buffers.iter_mut().enumerate() {
            let block = (done + i as u64) % slots * 8;
            // SAFETY: the three live, untouched, until the request is completed below.
            *token = unsafe { disk.read_blocks_nb(block as usize, request, buffer, response) }
                .map_err(|e| e.to_string())?;
        }
        for (buffer, request, response, token) in &mut buffers {
            while disk.peek_used() != Some(*token) {
                core::hint::spin_loop();
            }
            // SAFETY: the same three as above.
            unsafe { disk.complete_read_blocks(*token, request, buffer, response) }
                .map_err(|e| e.to_string())?;
            done += 1;
        }
    }
    counts.end(name, done, REQUEST);
    Ok(disk)
}

pub fn bench(devices: &mut Devices, options: &Options) -> Result<(), String> {
    if options.peer {
        let at = devices.passthrough.iter().position(|p| p.device.device_type() == DeviceType::BLOCK);
        let device = devices.passthrough.swap_remove(at.ok_or("there is no disk to bench")?);
        let disk = peer(device.device.into_transport(), 1, "peer-read-depth1")?;
        drop(disk);
        return Ok(());
    }
    disk(devices, options.bench_writes)
}

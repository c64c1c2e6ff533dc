//! `bench`: measures reads of disk0; `bench=write` also measures writes and flushes, which destroys the content. Each part prints a
//! line when it begins and when it ends, so that counters of the host can be sampled. With `peer`, the driver of the
//! `virtio-drivers` crate is measured instead.

use super::devices::{Buffer, Devices, DiskQueue};
use super::options::Options;
use super::passthrough::Pool;
use crate::arch::time;
use crate::interrupts;
use crate::platform::{self, Machine};
use crate::{memory, println};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use paravirt_device::{Access, BlockDevice, BlockInfo, BlockQueue, Durability, Notify, Op, Request};
use paravirt_platform::{DmaSlice, Instant};
use paravirt_virtio::passthrough::PassthroughTransport;
use paravirt_virtio::passthrough::hal::BounceHal;
use paravirt_virtio::transport::{DeviceType, Transport};
use virtio_drivers::device::blk::{BlkReq, BlkResp, VirtIOBlk};

/// The size of a request in bytes.
const REQUEST: usize = 4096;
const REQUESTS: u64 = 2000;
const FLUSHES: u64 = 100;
/// Maximum number of requests in flight.
const DEPTH: usize = 32;

/// Counters at the beginning of a part.
struct Counts {
    start: Instant,
    allocations: u64,
    interrupts: u64,
}

impl Counts {
    fn begin(name: &str) -> Self {
        println!("bench={name} begin");
        let (allocations, interrupts) = (memory::allocations(), interrupts::device_interrupts());
        Self { start: time::now(), allocations, interrupts }
    }

    /// Prints the results of a part: `requests` requests of `bytes` bytes each.
    fn end(self, name: &str, requests: u64, bytes: usize) {
        let time = time::now().since(self.start);
        let interrupts = interrupts::device_interrupts() - self.interrupts;
        let allocations = memory::allocations() - self.allocations;
        let nanos = time.as_nanos().max(1);
        let iops = u128::from(requests) * 1_000_000_000 / nanos;
        let rate = u128::from(requests) * bytes as u128 * 1000 / nanos;
        let micros = time.as_micros();
        println!(
            "bench={name} end requests={requests} micros={micros} iops={iops} mb_per_s={rate} allocations={allocations} \
             interrupts={interrupts}"
        );
    }
}

/// The kind of a part's requests.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Flush,
}

/// A part of the benchmark: `requests` requests of a kind, up to `depth` of them in flight.
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

/// Runs a part. `buffers` holds at least `part.depth` buffers of [`REQUEST`] bytes.
fn run_part(
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
            platform::sleep(Instant::NEVER, || queue.arm());
        }
    }
    Ok(())
}

/// Runs the parts on disk0, after a first read, whose completion ends the time that is reported as boot time.
fn disk(devices: &mut Devices, writes: bool) -> Result<(), String> {
    let info = devices.disk(0)?.info();
    if writes && info.access == Access::ReadOnly {
        return Err("disk0 is read-only".into());
    }
    if info.blocks * u64::from(info.block_size) < REQUEST as u64 {
        return Err(format!("bench: disk0 has fewer than {REQUEST} bytes"));
    }
    let mut queues = devices.disk_queues(0)?;
    let queue = &mut queues[0];
    queue.register(&platform::waker());
    let mut buffers = Vec::with_capacity(DEPTH);
    DmaSlice::alloc_many(&Machine, DEPTH, REQUEST, |slice| buffers.push(slice)).map_err(|e| e.to_string())?;
    run_part(queue, &info, part("first", Kind::Read, 1, 1), &mut buffers)?;
    println!("bench=boot micros={}", time::now().as_nanos() / 1000);
    for part in READS.iter().chain(WRITES.iter().filter(|_| writes)) {
        let counts = Counts::begin(part.name);
        run_part(queue, &info, *part, &mut buffers)?;
        counts.end(part.name, part.requests, if part.kind == Kind::Flush { 0 } else { REQUEST });
    }
    devices.return_queues(0, queues);
    Ok(())
}

/// Measures reads by the block driver of the `virtio-drivers` crate, by polling: that driver has no other way to have several
/// requests in flight.
fn peer(
    transport: Transport<Machine>,
    depth: usize,
    name: &str,
) -> Result<VirtIOBlk<BounceHal<Pool>, PassthroughTransport<Machine>>, String> {
    let mut disk = VirtIOBlk::<BounceHal<Pool>, _>::new(PassthroughTransport::new(&Machine, transport))
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
            // SAFETY: the three live until the request is completed below, and are not accessed before.
            *token = unsafe { disk.read_blocks_nb(block as usize, request, buffer, response) }
                .map_err(|e| e.to_string())?;
        }
        for (buffer, request, response, token) in &mut buffers {
            while disk.peek_used() != Some(*token) {
                core::hint::spin_loop();
            }
            // SAFETY: the request was submitted with the same three.
            unsafe { disk.complete_read_blocks(*token, request, buffer, response) }
                .map_err(|e| e.to_string())?;
            done += 1;
        }
    }
    counts.end(name, done, REQUEST);
    Ok(disk)
}

/// Runs the benchmark that `options` select.
pub fn bench(devices: &mut Devices, options: &Options) -> Result<(), String> {
    if options.peer {
        let at = devices.passthrough.iter().position(|p| p.device.device_type() == DeviceType::BLOCK);
        let device = devices.passthrough.swap_remove(at.ok_or("bench: there is no virtio disk for peer")?);
        let disk = peer(device.device.into_transport(), 1, "peer-read-depth1")?;
        drop(disk);
        return Ok(());
    }
    disk(devices, options.bench_writes)
}

//! `test=diskN`: writes a pattern to the whole disk, flushes, reads it back, discards and zeroes blocks. Every queue is used at full
//! depth, each on another processor. The content of the disk is lost; afterwards it holds the pattern.

use super::devices::{Buffer, Devices, DiskQueue};
use super::mount;
use super::options::Options;
use crate::platform::{self, Machine};
use crate::{interrupts, smp};
use crate::{memory, println};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;
use paravirt_device::{
    Access, BlockDevice, BlockInfo, BlockQueue, Completion, Durability, Notify, Op, Rejected, Request, Unmap,
};
use paravirt_platform::{DmaSlice, Platform};

/// The default of `timeout`, in seconds.
const TIMEOUT: u64 = 120;
/// Maximum number of bytes of all buffers of a queue.
const BUFFERS: usize = 4 << 20;
/// Maximum number of bytes of a buffer.
const BUFFER: usize = 64 << 10;
/// How many blocks are discarded and zeroed.
const RANGE: u64 = 1024;

/// Returns the pattern's 8 bytes at byte offset `at` of the disk: bits of a product, so that neighbouring words differ widely.
fn word(at: u64) -> u64 {
    let product = u128::from(at ^ 0x9e37_79b9_7f4a_7c15) * 0xd134_2543_de82_ef95;
    (product >> 32) as u64
}

/// Fills `bytes` with the pattern at byte offset `at`.
pub fn fill(bytes: &mut [u8], at: u64) {
    for (i, chunk) in bytes.chunks_exact_mut(8).enumerate() {
        chunk.copy_from_slice(&word(at + i as u64 * 8).to_le_bytes());
    }
}

/// Returns the byte offset of the first word in `bytes` that differs from the pattern at byte offset `at`.
pub fn check(bytes: &[u8], at: u64) -> Option<u64> {
    let wrong = bytes
        .chunks_exact(8)
        .enumerate()
        .find(|(i, chunk)| **chunk != word(at + *i as u64 * 8).to_le_bytes());
    wrong.map(|(i, _)| at + i as u64 * 8)
}

#[derive(Copy, Clone, PartialEq, Eq)]
enum Pass {
    Write,
    Read,
}

/// The requests of a queue: of `chunk` blocks, every `stride` blocks.
#[derive(Copy, Clone)]
struct Plan {
    info: BlockInfo,
    chunk: u64,
    stride: u64,
    /// The queue's first stride.
    first: u64,
    /// The distance between the queue's strides: the number of queues.
    step: u64,
    /// The timeout of each request.
    timeout: Duration,
}

impl Plan {
    fn requests(self) -> impl Iterator<Item = (u64, u64)> {
        let Self { info, chunk, stride, first, step, .. } = self;
        let count = info.blocks.div_ceil(stride);
        (first..count).step_by(step as usize).map(move |i| {
            let lba = i * stride;
            (lba, chunk.min(info.blocks - lba))
        })
    }
}

/// Runs the requests of `plan` at full depth; returns the number of kicks.
fn pass(queue: &mut DiskQueue, buffers: &mut Vec<Buffer>, plan: Plan, pass: Pass) -> Result<u64, String> {
    let size = u64::from(plan.info.block_size);
    queue.register(&platform::waker());
    let mut requests = plan.requests().peekable();
    let (mut in_flight, mut kicks) = (0usize, 0);
    loop {
        let mut submitted = false;
        while let Some((lba, blocks)) = requests.peek().copied() {
            let Some(mut buffer) = buffers.pop() else { break };
            buffer.set_len((blocks * size) as usize);
            let op = match pass {
                Pass::Write => {
                    fill(buffer.bytes_mut(), lba * size);
                    Op::Write { lba, from: buffer, durability: Durability::Cached }
                }
                Pass::Read => Op::Read { lba, into: buffer },
            };
            let deadline = Machine.now().saturating_add(plan.timeout);
            match queue.submit(Request::new(lba, op).with_deadline(deadline)) {
                Ok(()) => {
                    in_flight += 1;
                    submitted = true;
                    requests.next();
                }
                Err(refused) => {
                    buffers.extend(refused.request.op.into_buffer());
                    match refused.reason {
                        Rejected::Full => break,
                        reason => return Err(format!("block {lba}: {reason}")),
                    }
                }
            }
        }
        if submitted {
            queue.kick();
            kicks += 1;
        }
        if in_flight == 0 {
            return Ok(kicks);
        }
        let mut done = 0;
        while let Some(Completion { tag, buffer, result, .. }) =
            queue.complete().map_err(|fault| fault.to_string())?
        {
            done += 1;
            let buffer = buffer.ok_or("a buffer was not returned")?;
            result.map_err(|error| format!("block {tag}: {error}"))?;
            if pass == Pass::Read
                && let Some(at) = check(buffer.bytes(), tag * size)
            {
                return Err(format!("byte {at} is not what was written"));
            }
            buffers.push(buffer);
        }
        in_flight -= done;
        if done == 0 {
            let until = queue.next_deadline();
            platform::sleep(until, || queue.arm());
            if Machine.now() >= until {
                queue.expire(Machine.now()).map_err(|fault| fault.to_string())?;
            }
        }
    }
}

/// A queue with its buffers, for one processor.
struct Worker {
    queue: DiskQueue,
    buffers: Vec<Buffer>,
    plan: Plan,
    result: Result<u64, String>,
    allocations: u64,
}

impl Worker {
    fn run(&mut self, kind: Pass) {
        let before = memory::allocations();
        self.result = pass(&mut self.queue, &mut self.buffers, self.plan, kind);
        self.allocations = memory::allocations() - before;
    }
}

/// Runs a pass over the whole disk, each queue on another processor.
fn run_on_all_queues(workers: &mut [Worker], kind: Pass) -> Result<(), String> {
    let name = if kind == Pass::Write { "write" } else { "read" };
    let interrupts = interrupts::device_interrupts();
    let (local, others) = workers.split_first_mut().ok_or("test: there is no queue")?;
    let mut others: Vec<_> = others.iter_mut().map(|worker| move || worker.run(kind)).collect();
    let works =
        others.iter_mut().zip(1..).map(|(work, processor)| (processor, work as &mut (dyn FnMut() + Send)));
    smp::run_all_on(works, || local.run(kind));
    drop(others);
    let mut kicks = 0;
    for worker in workers.iter_mut() {
        kicks += core::mem::replace(&mut worker.result, Ok(0))?;
    }
    let requests: u64 = workers.iter().map(|worker| worker.plan.requests().count() as u64).sum();
    let interrupts = interrupts::device_interrupts() - interrupts;
    // The counter is global, and other processors do not allocate during a pass: the first worker's difference is exact.
    let allocations = workers[0].allocations;
    println!(
        "test={name} requests={requests} batches={kicks} interrupts={interrupts} allocations={allocations}"
    );
    Ok(())
}

/// Runs the test on disk `index`.
pub fn test(devices: &mut Devices, index: usize, options: &Options) -> Result<(), String> {
    let info = devices.disk(index)?.info();
    if info.access == Access::ReadOnly {
        return Err(format!("disk{index} is read-only"));
    }
    let size = u64::from(info.block_size);
    let mut queues = devices.disk_queues(index)?;
    let rest = queues.split_off(queues.len().min(smp::count() as usize));
    let depth = usize::from(info.depth).min(BUFFERS / info.block_size as usize).max(1);
    let limit = info.max_bytes.min(info.max_segment_bytes) as usize;
    let bytes = (BUFFERS / depth).min(BUFFER).min(limit) as u64 & !(size - 1);
    let chunk = bytes.max(size) / size;
    let stride = options.stride.map_or(chunk, |stride| (stride / size).max(chunk));
    let step = queues.len() as u64;
    let timeout = Duration::from_secs(options.timeout.unwrap_or(TIMEOUT));
    let mut workers = Vec::new();
    for (first, queue) in queues.into_iter().enumerate() {
        let mut buffers = Vec::with_capacity(depth);
        DmaSlice::alloc_many(&Machine, depth, (chunk * size) as usize, |slice| buffers.push(slice))
            .map_err(|e| e.to_string())?;
        let plan = Plan { info, chunk, stride, first: first as u64, step, timeout };
        workers.push(Worker { queue, buffers, plan, result: Ok(0), allocations: 0 });
    }
    println!(
        "test=begin disk=disk{index} blocks={} depth={depth} chunk={chunk} stride={stride} queues={step}",
        info.blocks
    );
    run_on_all_queues(&mut workers, Pass::Write)?;
    let mut first = workers.swap_remove(0);
    let mut disk = mount::blocking(first.queue, &info, BUFFER)?;
    let failed = |what: &str, e: paravirt_device::BlockingError| format!("{what}: {e}");
    disk.flush().map_err(|e| failed("flush", e))?;
    println!("test=flush");
    first.queue = disk.into_queue();
    workers.insert(0, first);
    run_on_all_queues(&mut workers, Pass::Read)?;
    let first = workers.swap_remove(0);
    let mut disk = mount::blocking(first.queue, &info, BUFFER)?;

    let range = RANGE.min(info.blocks);
    let mut bytes = alloc::vec![0; (range * size) as usize];
    if info.discard.is_some() {
        disk.discard(0, range as u32).map_err(|e| failed("discard", e))?;
        disk.read(0, &mut bytes).map_err(|e| failed("read after discard", e))?;
        println!("test=discard blocks={range}");
    }
    if info.write_zeroes.is_some() {
        for unmap in [Unmap::Keep, Unmap::May] {
            fill(&mut bytes, 0);
            disk.write(0, &bytes, Durability::Cached).map_err(|e| failed("write", e))?;
            disk.write_zeroes(0, range as u32, unmap).map_err(|e| failed("write zeroes", e))?;
            disk.read(0, &mut bytes).map_err(|e| failed("read after zeroes", e))?;
            if bytes.iter().any(|byte| *byte != 0) {
                return Err("zeroed blocks do not read as zeroes".into());
            }
        }
        println!("test=zeroes blocks={range}");
    }
    fill(&mut bytes, 0);
    disk.write(0, &bytes, Durability::Durable).map_err(|e| failed("durable write", e))?;
    bytes.fill(0);
    disk.read(0, &mut bytes).map_err(|e| failed("read", e))?;
    if let Some(at) = check(&bytes, 0) {
        return Err(format!("byte {at} is not what was written durably"));
    }
    println!("same test=pass blocks={}", info.blocks);
    let others = workers.into_iter().map(|worker| worker.queue);
    let queues = core::iter::once(disk.into_queue()).chain(others).chain(rest).collect();
    devices.return_queues(index, queues);
    Ok(())
}

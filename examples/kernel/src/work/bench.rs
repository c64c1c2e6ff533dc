//! `bench`: how fast disk and network are; each part says when it begins and ends, so that counters can be sampled from
//! outside. With `peer`, disks are driven by the `virtio-drivers` crate instead.

use super::devices::{Devices, DiskQueue};
use super::options::Options;
use super::passed::Pool;
use crate::arch::time;
use crate::platform::{self, Machine};
use crate::{memory, say};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;
use paravirt::AnyTransport;
use paravirt_device::{Arm, BlockDevice, BlockQueue, Notify, Op, Request};
use paravirt_platform::{DmaSlice, Instant};
use paravirt_virtio::hal::BounceHal;
use virtio_drivers::device::blk::{BlkReq, BlkResp, VirtIOBlk};
use virtio_drivers::transport::DeviceType;

const REQUEST: usize = 4096;
const REQUESTS: u64 = 2000;

/// Says how a part went.
fn report(name: &str, requests: u64, time: Duration, allocations: u64) {
    let nanos = time.as_nanos().max(1);
    let iops = u128::from(requests) * 1_000_000_000 / nanos;
    let rate = u128::from(requests) * REQUEST as u128 * 1000 / nanos;
    say!("bench={name} end requests={requests} iops={iops} mb_per_s={rate} allocations={allocations}");
}

fn disk(
    queue: &mut DiskQueue,
    blocks_per_request: u64,
    blocks: u64,
    depth: usize,
    name: &str,
) -> Result<(), String> {
    let mut buffers = Vec::with_capacity(depth);
    DmaSlice::alloc_many(&Machine, depth, REQUEST, |slice| buffers.push(slice)).map_err(|e| e.to_string())?;
    queue.register(&platform::waker());
    say!("bench={name} begin");
    let (before, start) = (memory::allocations(), time::now());
    let (mut sent, mut done) = (0, 0);
    let slots = blocks / blocks_per_request;
    while done < REQUESTS {
        while sent < REQUESTS
            && let Some(into) = buffers.pop()
        {
            let lba = sent % slots * blocks_per_request;
            let request = Request { tag: sent, op: Op::Read { lba, into }, deadline: Instant::NEVER };
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
    report(name, REQUESTS, time::now().since(start), memory::allocations() - before);
    Ok(())
}

/// The `virtio-drivers` crate's block driver, by polling: it has no other way to have several requests in flight.
fn peer(
    transport: AnyTransport<Machine>,
    depth: usize,
    name: &str,
) -> Result<VirtIOBlk<BounceHal<Pool>, AnyTransport<Machine>>, String> {
    let mut disk = VirtIOBlk::<BounceHal<Pool>, _>::new(transport).map_err(|e| e.to_string())?;
    let slots = disk.capacity() / 8;
    let mut buffers: Vec<_> = (0..depth)
        .map(|_| (alloc::vec![0u8; REQUEST], BlkReq::default(), BlkResp::default(), 0u16))
        .collect();
    say!("bench={name} begin");
    let (before, start) = (memory::allocations(), time::now());
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
    report(name, done, time::now().since(start), memory::allocations() - before);
    Ok(disk)
}

pub fn bench(devices: &mut Devices, options: &Options) -> Result<(), String> {
    say!("bench=boot micros={}", time::now().as_nanos() / 1000);
    if options.peer {
        let at = devices.passed.iter().position(|p| p.device.device_type() == DeviceType::Block);
        let passed = devices.passed.swap_remove(at.ok_or("there is no disk to bench")?);
        let disk = peer(passed.device.into_transport(), 1, "peer-read-depth1")?;
        drop(disk);
        return Ok(());
    }
    if !devices.disks.is_empty() {
        let info = devices.disk(0)?.info();
        let blocks = (REQUEST as u64).div_ceil(u64::from(info.block_size)).max(1);
        let mut queue = devices.disk_queues(0)?.swap_remove(0);
        for depth in [1, 32] {
            disk(&mut queue, blocks, info.blocks, depth, &format!("read-depth{depth}"))?;
        }
    }
    if options.uses_network() {
        log::info!("the network was used before: its figures are those of http and echo");
    }
    Ok(())
}

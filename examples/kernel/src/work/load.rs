//! `load=SECONDS`: writes blocks of disk0 and reads them back, with many requests in flight, and meanwhile answers the host, which may
//! suspend the machine. The content of the disk is lost.

use super::agent::Kernel;
use super::devices::{Buffer, Devices};
use super::disk_test::{check, fill};
use crate::arch::time;
use crate::{platform, println};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;
use paravirt_device::{BlockDevice, BlockQueue, Completion, Durability, Fault, IoError, Notify, Op, Request};
use paravirt_platform::{DmaSlice, Platform};

const DEPTH: usize = 16;
const BYTES: usize = 8 << 10;
/// Bytes of the disk that are used.
const SPAN: u64 = 8 << 20;

/// Puts load on disk0 for `seconds` seconds, or until the host asks for an end.
pub fn run(devices: &mut Devices, seconds: u64) -> Result<(), String> {
    let info = devices.disk(0)?.info();
    let size = u64::from(info.block_size);
    let blocks = BYTES as u64 / size;
    let places = (SPAN.min(info.blocks * size) / BYTES as u64).max(1);
    let mut queues = devices.disk_queues(0)?;
    let queue = &mut queues[0];
    let mut buffers: Vec<Buffer> = Vec::new();
    let depth = DEPTH.min(usize::from(info.depth));
    DmaSlice::alloc_many(&platform::Machine, depth, BYTES, |slice| buffers.push(slice))
        .map_err(|error| error.to_string())?;
    let waker = platform::waker();
    queue.register(&waker);
    devices.services.register(&waker);
    let mut kernel = Kernel::default();
    devices.services.serve(&mut kernel);
    println!("load=begin seconds={seconds}");
    let end = time::now().saturating_add(Duration::from_secs(seconds));
    let (mut next, mut in_flight, mut done, mut aborted) = (0u64, 0usize, 0u64, 0u64);
    loop {
        let is_over = time::now() >= end || kernel.end.is_some();
        if is_over && in_flight == 0 {
            break;
        }
        while !is_over && let Some(mut buffer) = buffers.pop() {
            fill(buffer.bytes_mut(), next % places * BYTES as u64);
            let op = Op::Write { lba: next % places * blocks, from: buffer, durability: Durability::Cached };
            if let Err(refused) = queue.submit(Request::new(next % places, op)) {
                buffers.extend(refused.request.op.into_buffer());
                break;
            }
            (next, in_flight) = (next + 1, in_flight + 1);
        }
        queue.kick();
        loop {
            let completion = match queue.complete() {
                Ok(Some(completion)) => completion,
                Ok(None) | Err(Fault::Reset) => break,
                Err(fault) => return Err(format!("load: {fault}")),
            };
            in_flight -= 1;
            let Completion { tag, buffer, result, .. } = completion;
            let mut buffer = buffer.ok_or("load: a buffer was not returned")?;
            let is_read = tag >= places;
            match result {
                Ok(()) => done += 1,
                Err(IoError::Aborted) => aborted += 1,
                Err(error) => return Err(format!("load: {error}")),
            }
            if is_read {
                if let (Ok(()), Some(at)) = (result, check(buffer.bytes(), (tag - places) * BYTES as u64)) {
                    return Err(format!("load: byte {at} is not what was written"));
                }
                buffers.push(buffer);
                continue;
            }
            // What was written is read back.
            buffer.bytes_mut().fill(0);
            let op = Op::Read { lba: tag * blocks, into: buffer };
            match queue.submit(Request::new(places + tag, op)) {
                Ok(()) => in_flight += 1,
                Err(refused) => buffers.extend(refused.request.op.into_buffer()),
            }
        }
        queue.kick();
        devices.services.poll(&mut |_| ());
        devices.services.serve(&mut kernel);
        let until = end.min(platform::Machine.now().saturating_add(Duration::from_millis(100)));
        platform::sleep(until, || queue.arm().and(devices.services.arm()));
    }
    println!("load=end requests={done} aborted={aborted}");
    devices.return_queues(0, queues);
    Ok(())
}

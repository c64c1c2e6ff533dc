//! Disks.

use crate::handle::{Handle, Waited, handle, waker};
use crate::platform::Kernel;
use crate::{
    Buffer, PARAVIRT_NEVER, paravirt_buffer, paravirt_notify, paravirt_status, paravirt_status as Status,
    paravirt_waker, put,
};
use core::ffi::c_void;
use paravirt::{Block, BlockQ};
use paravirt_device::{Access, BlockDevice, BlockEvent, BlockQueue, Cache, Durability, Op, Request, Unmap};
use paravirt_platform::Instant;

/// A disk.
#[derive(Debug)]
pub struct paravirt_block {
    _private: (),
}
handle!(paravirt_block: (Kernel, Block<Kernel, Buffer>));

/// A queue of a disk.
#[derive(Debug)]
pub struct paravirt_block_queue {
    _private: (),
}
handle!(paravirt_block_queue: Waited<BlockQ<Kernel, Buffer>>);

/// The geometry and limits of a disk.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub struct paravirt_block_info {
    /// The capacity in logical blocks.
    pub blocks: u64,
    /// The size of a logical block in bytes: a power of two, at least 512.
    pub block_size: u32,
    /// The number of bytes that the medium writes as one.
    pub physical_block_size: u32,
    /// The offset of the first aligned physical block, in logical blocks.
    pub alignment_offset: u32,
    /// The optimal transfer size in logical blocks; 0 if the device does not report it.
    pub optimal_blocks: u32,
    /// The maximum number of bytes in one request.
    pub max_bytes: u32,
    /// The maximum number of bytes in one segment.
    pub max_segment_bytes: u32,
    /// If it is not 0, every segment but the first begins, and every segment but the last ends, at a multiple of this many bytes.
    pub segment_boundary: u32,
    /// The required alignment of segments in bytes.
    pub alignment: u32,
    /// The maximum number of segments of a buffer.
    pub max_segments: u16,
    /// The number of queues that can be taken.
    pub queues: u16,
    /// The maximum number of requests in flight on one queue.
    pub depth: u16,
    /// Whether the medium is read-only.
    pub is_read_only: bool,
    /// Whether a completed write is lost by a power loss before the next flush.
    pub has_cache: bool,
    /// The maximum number of blocks of a discard; 0 if the device does not support it.
    pub max_discard_blocks: u32,
    /// The preferred alignment of discarded ranges in blocks.
    pub discard_alignment: u32,
    /// The maximum number of blocks of write-zeroes; 0 if the device does not support it.
    pub max_zero_blocks: u32,
    /// The length of the serial number.
    pub serial_len: usize,
    /// The serial number.
    pub serial: [u8; 32],
}

/// An event of a disk.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub enum paravirt_block_event_kind {
    /// The capacity changed.
    Capacity,
    /// The medium became writable or read-only.
    Access,
    /// The device is out of service.
    Faulted,
}

/// An event of a disk.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub struct paravirt_block_event {
    /// What happened.
    pub kind: paravirt_block_event_kind,
    /// Of a capacity: the number of logical blocks.
    pub blocks: u64,
    /// Of an access: whether the medium is read-only.
    pub is_read_only: bool,
    /// Of a fault: which.
    pub fault: paravirt_status,
}

/// Operations of a request, for `paravirt_request.op`.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub enum paravirt_op {
    /// Reads into the buffer.
    Read,
    /// Writes the buffer.
    Write,
    /// Writes the buffer, and completes when the data are on stable storage.
    WriteDurable,
    /// Makes durable every write that completed before.
    Flush,
    /// Discards `blocks`.
    Discard,
    /// Makes `blocks` read as zeroes.
    WriteZeroes,
    /// The same; the device may deallocate them.
    WriteZeroesUnmap,
}

/// A request.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub struct paravirt_request {
    /// A `paravirt_op`.
    pub op: u32,
    /// The number of blocks of a discard or of write-zeroes.
    pub blocks: u32,
    /// The first block.
    pub lba: u64,
    /// The buffer of a read or write, a multiple of the block size long.
    pub buffer: paravirt_buffer,
    /// The kernel's own, returned with the completion.
    pub tag: u64,
    /// When `paravirt_expire` begins recovery if the request is still in flight; `PARAVIRT_NEVER` for no deadline.
    pub deadline: u64,
}

/// A completed request.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub struct paravirt_completion {
    /// The tag of the request.
    pub tag: u64,
    /// The owner of its buffer, which belongs to the kernel again; null if it had none.
    pub owner: *mut c_void,
    /// The outcome. After a failed read, the contents of the buffer are undefined.
    pub result: paravirt_status,
}

/// Writes the geometry and limits of the disk.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_block_get_info(disk: *mut paravirt_block, out: *mut paravirt_block_info) {
    // SAFETY: the contract of the crate.
    let info = unsafe { paravirt_block::get(disk) }.1.info();
    let mut serial = [0; 32];
    let bytes = info.serial.as_bytes();
    serial.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    let value = paravirt_block_info {
        blocks: info.blocks,
        block_size: info.block_size,
        physical_block_size: info.physical_block_size,
        alignment_offset: info.alignment_offset,
        optimal_blocks: info.optimal_blocks,
        max_bytes: info.max_bytes,
        max_segment_bytes: info.max_segment_bytes,
        segment_boundary: info.segment_boundary.map_or(0, Into::into),
        alignment: info.alignment,
        max_segments: info.max_segments,
        queues: info.queues,
        depth: info.depth,
        is_read_only: info.access == Access::ReadOnly,
        has_cache: info.cache == Cache::WriteBack,
        max_discard_blocks: info.discard.map_or(0, |limits| limits.max_blocks),
        discard_alignment: info.discard.map_or(0, |limits| limits.alignment),
        max_zero_blocks: info.write_zeroes.map_or(0, |limits| limits.max_blocks),
        serial_len: bytes.len(),
        serial,
    };
    // SAFETY: the contract of the crate.
    unsafe { out.write(value) }
}

/// Takes queue `index`; null if it was taken, if there is none, or no memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_block_take_queue(
    disk: *mut paravirt_block,
    index: u16,
) -> *mut paravirt_block_queue {
    // SAFETY: the contract of the crate.
    let (kernel, disk) = unsafe { paravirt_block::get(disk) };
    match disk.take_queue(index) {
        Some(queue) => paravirt_block_queue::create(*kernel, Waited::new(queue)),
        None => core::ptr::null_mut(),
    }
}

/// Writes the next event of the disk; `PARAVIRT_STATUS_EMPTY` if there is none. May wait for the host.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_block_poll_event(
    disk: *mut paravirt_block,
    out: *mut paravirt_block_event,
) -> paravirt_status {
    use paravirt_block_event_kind as Kind;
    // SAFETY: the contract of the crate.
    let event = unsafe { paravirt_block::get(disk) }.1.poll_event();
    let none =
        paravirt_block_event { kind: Kind::Faulted, blocks: 0, is_read_only: false, fault: Status::Ok };
    let event = event.map(|event| match event {
        BlockEvent::Capacity(blocks) => paravirt_block_event { kind: Kind::Capacity, blocks, ..none },
        BlockEvent::Access(access) => {
            paravirt_block_event { kind: Kind::Access, is_read_only: access == Access::ReadOnly, ..none }
        }
        BlockEvent::Faulted(fault) => paravirt_block_event { fault: fault.into(), ..none },
        _ => paravirt_block_event { fault: Status::Other, ..none },
    });
    // SAFETY: the contract of the crate.
    unsafe { put(Ok::<_, Status>(event), out) }
}

/// Registers the waker for events of the disk.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_block_register(disk: *mut paravirt_block, waker: *const paravirt_waker) {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_block::get(disk).1.register(&self::waker(waker)) }
}

/// Closes the disk; null is permitted. Queues that were taken stay usable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_block_close(disk: *mut paravirt_block) {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_block::close(disk) }
}

/// Submits a request. The host may not see it before `paravirt_block_queue_kick`. If the result is not `PARAVIRT_STATUS_OK`, the buffer
/// still belongs to the kernel; `PARAVIRT_STATUS_FULL` until a request completes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_block_queue_submit(
    queue: *mut paravirt_block_queue,
    request: *const paravirt_request,
) -> paravirt_status {
    // SAFETY: the contract of the crate.
    let (queue, request) = unsafe { (&mut paravirt_block_queue::get(queue).value, &*request) };
    let (lba, blocks) = (request.lba, request.blocks);
    // SAFETY: the contract of the crate.
    let buffer = || unsafe { Buffer::new(request.buffer) };
    let write = |durability| Op::Write { lba, from: buffer(), durability };
    let op = match request.op {
        op if op == paravirt_op::Read as u32 => Op::Read { lba, into: buffer() },
        op if op == paravirt_op::Write as u32 => write(Durability::Cached),
        op if op == paravirt_op::WriteDurable as u32 => write(Durability::Durable),
        op if op == paravirt_op::Flush as u32 => Op::Flush,
        op if op == paravirt_op::Discard as u32 => Op::Discard { lba, blocks },
        op if op == paravirt_op::WriteZeroes as u32 => Op::WriteZeroes { lba, blocks, unmap: Unmap::Keep },
        op if op == paravirt_op::WriteZeroesUnmap as u32 => {
            Op::WriteZeroes { lba, blocks, unmap: Unmap::May }
        }
        _ => return Status::Invalid,
    };
    let deadline = match request.deadline {
        PARAVIRT_NEVER => Instant::NEVER,
        deadline => Instant::from_nanos(deadline),
    };
    match queue.submit(Request::new(request.tag, op).with_deadline(deadline)) {
        Ok(()) => Status::Ok,
        Err(refused) => refused.reason.into(),
    }
}

/// Notifies the host of submitted requests, unless it has suppressed notifications: once for a batch.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_block_queue_kick(queue: *mut paravirt_block_queue) {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_block_queue::get(queue) }.value.kick();
}

/// Writes the next completed request; `PARAVIRT_STATUS_EMPTY` when there is none now. A fault is returned when the device is out of
/// service, after every request in flight was returned; a buffer that the device may still write is never returned then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_block_queue_complete(
    queue: *mut paravirt_block_queue,
    out: *mut paravirt_completion,
) -> paravirt_status {
    // SAFETY: the contract of the crate.
    let queue = unsafe { &mut paravirt_block_queue::get(queue).value };
    let done = queue.complete().map(|done| {
        done.map(|done| paravirt_completion {
            tag: done.tag,
            owner: done.buffer.map_or(core::ptr::null_mut(), |buffer| buffer.owner()),
            result: done.result.into(),
        })
    });
    // SAFETY: the contract of the crate.
    unsafe { put(done, out) }
}

/// Resets the queue, or the device if one queue alone cannot be reset; requests in flight complete as aborted. Blocks for seconds on
/// virtio, and for up to three minutes for each step on VMBus, if the host does not answer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_block_queue_reset(queue: *mut paravirt_block_queue) -> paravirt_status {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_block_queue::get(queue) }.value.reset().into()
}

/// Returns what a task waits for completions by.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_block_queue_notify(
    queue: *mut paravirt_block_queue,
) -> *mut paravirt_notify {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_block_queue::notify(queue) }
}

/// Closes the queue; null is permitted. Buffers in flight are not returned, and the device may access them until it has been reset: the
/// kernel takes back what is in flight first.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_block_queue_close(queue: *mut paravirt_block_queue) {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_block_queue::close(queue) }
}

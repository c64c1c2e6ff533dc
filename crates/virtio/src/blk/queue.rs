//! One queue of a block device: submission and completion of requests. VIRTIO 1.3 §5.2.6

use super::ring::BlkRing;
use super::{Limits, TransferAt};
use crate::queue::{Body, RecordQueue, Ring, Used, VirtQueue};
use crate::request_queue::{Outcome, RequestQueue};
use core::fmt;
use core::task::Waker;
use core::time::Duration;
use paravirt_device::{
    Arm, BlockQueue, Completion, Durability, Fault, IoError, Notify, Op, Refused, Rejected, Request, Serial,
    Unmap,
};
use paravirt_platform::{AllocError, Direction, DmaBuffer, Fifo, Instant, PageArc, PageTable, Platform};

/// Request types. VIRTIO 1.3 §5.2.6
mod kind {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// Status values: success; unsupported request. VIRTIO 1.3 §5.2.6
const STATUS_OK: u8 = 0;
const STATUS_UNSUPPORTED: u8 = 2;
/// The flag that allows the device to deallocate zeroed blocks. VIRTIO 1.3 §5.2.6
const ZEROES_UNMAP: u64 = 1;
/// The length of a serial number in bytes.
const ID_LEN: usize = 20;
/// The timeout of the request for the serial number.
const SERIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// The step that follows when a request completes. It is a full word so that [`Pending`] has no padding: a value with padding is
/// copied in pieces.
#[derive(Copy, Clone, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Stage {
    /// None: the request is complete.
    Last,
    /// A flush, since the write is to be durable.
    FlushNext,
    /// None: this is the flush after a durable write, whose buffer the queue holds.
    Flush,
    /// None: the driver itself made this request, and its completion is not returned to the caller.
    Own,
}

/// The driver's state of a request in flight.
pub(super) struct Pending {
    tag: u64,
    deadline: Instant,
    stage: Stage,
}

/// A read or write without its buffer: two words, which are passed in registers.
#[derive(Copy, Clone)]
struct Transfer {
    lba: u64,
    /// When a write completes; `None` for a read.
    durability: Option<Durability>,
}

impl Transfer {
    /// Returns the operation with its buffer.
    fn op<B>(self, buffer: B) -> Op<B> {
        match self.durability {
            None => Op::Read { lba: self.lba, into: buffer },
            Some(durability) => Op::Write { lba: self.lba, from: buffer, durability },
        }
    }
}

/// A request without data.
#[derive(Copy, Clone)]
enum Command {
    Flush,
    Discard { lba: u64, blocks: u32 },
    WriteZeroes { lba: u64, blocks: u32, unmap: Unmap },
}

impl Command {
    /// Returns the command of an operation; `None` for a read or write, and for an operation that the driver does not support.
    fn of<B>(op: &Op<B>) -> Option<Self> {
        Some(match *op {
            Op::Flush => Self::Flush,
            Op::Discard { lba, blocks } => Self::Discard { lba, blocks },
            Op::WriteZeroes { lba, blocks, unmap } => Self::WriteZeroes { lba, blocks, unmap },
            _ => return None,
        })
    }

    fn op<B>(self) -> Op<B> {
        match self {
            Self::Flush => Op::Flush,
            Self::Discard { lba, blocks } => Op::Discard { lba, blocks },
            Self::WriteZeroes { lba, blocks, unmap } => Op::WriteZeroes { lba, blocks, unmap },
        }
    }
}

/// Returns the result of a request with this status.
#[inline(always)]
fn result_of(status: u8) -> Result<(), IoError> {
    if status == STATUS_OK { Ok(()) } else { Err(error_of(status)) }
}

#[cold]
fn error_of(status: u8) -> IoError {
    if status == STATUS_UNSUPPORTED { IoError::Unsupported } else { IoError::Device }
}

/// A queue of a virtio block device.
pub struct BlkQueue<P: Platform, B: DmaBuffer>(Kind<P, B>);

#[allow(clippy::large_enum_variant, reason = "one queue is one value; it is not moved on the data path")]
enum Kind<P: Platform, B: DmaBuffer> {
    Records(TypedQueue<P, B, RecordQueue<P, B, Pending>>),
    General(TypedQueue<P, B, VirtQueue<P, B, Pending>>),
}

macro_rules! each {
    ($self:expr, $queue:ident => $call:expr) => {
        match &mut $self.0 {
            Kind::Records($queue) => $call,
            Kind::General($queue) => $call,
        }
    };
}

impl<P: Platform, B: DmaBuffer> BlkQueue<P, B> {
    /// Records that nobody uses the queue yet: a restart of the device does not wait for it.
    pub(super) fn set_untouched(&mut self) {
        each!(self, queue => queue.queue.set_untouched(true));
    }

    /// Hands the queue out: from now on a restart of the device waits for it.
    pub(super) fn into_use(mut self) -> Self {
        each!(self, queue => queue.queue.set_untouched(false));
        // The device may have been restarted since the queue was registered. There is nothing in flight.
        while let Ok(Some(_)) = self.complete() {}
        self
    }

    pub(super) fn with_records(
        queue: RequestQueue<P, RecordQueue<P, B, Pending>>,
        limits: &PageArc<P, Limits>,
        size: u16,
    ) -> Result<Self, AllocError> {
        Ok(Self(Kind::Records(TypedQueue::new(queue, limits, size)?)))
    }

    pub(super) fn general(
        mut queue: RequestQueue<P, VirtQueue<P, B, Pending>>,
        limits: &PageArc<P, Limits>,
        size: u16,
    ) -> Result<Self, AllocError> {
        // The status byte carries the result. kvmtool includes the bytes that it has read in the length of a write.
        queue.queue_mut().ignore_lengths();
        Ok(Self(Kind::General(TypedQueue::new(queue, limits, size)?)))
    }

    /// Submits an operation without data.
    #[inline(never)]
    fn submit_command(&mut self, op: Op<B>, tag: u64, deadline: Instant) -> Result<(), Refused<B>> {
        match Command::of(&op) {
            Some(command) => each!(self, queue => queue.submit_command(command, tag, deadline)),
            None => refused(Rejected::Unsupported, tag, op, deadline),
        }
    }

    /// Requests the device's serial number, before the queue is handed out. Blocks for at most [`SERIAL_TIMEOUT`]. VIRTIO 1.3
    /// §5.2.6
    pub(super) fn serial(&mut self) -> Option<Serial> {
        each!(self, queue => queue.serial())
    }
}

impl<P: Platform, B: DmaBuffer> Notify for BlkQueue<P, B> {
    fn arm(&mut self) -> Arm {
        each!(self, queue => queue.arm())
    }

    fn disarm(&mut self) {
        each!(self, queue => queue.queue.disarm());
    }

    fn register(&mut self, waker: &Waker) {
        each!(self, queue => queue.queue.register(waker));
    }

    fn next_deadline(&self) -> Instant {
        match &self.0 {
            Kind::Records(queue) => queue.next_deadline(),
            Kind::General(queue) => queue.next_deadline(),
        }
    }

    fn expire(&mut self, now: Instant) -> Result<(), Fault> {
        each!(self, queue => queue.expire(now))
    }
}

impl<P: Platform, B: DmaBuffer> BlockQueue for BlkQueue<P, B> {
    type Buffer = B;

    /// The operation is destructured first. If it stayed whole, the compiler would store it in memory for the out-of-line paths
    /// and read its kind back from there, even in callers that pass a constant kind.
    #[inline]
    fn submit(&mut self, request: Request<B>) -> Result<(), Refused<B>> {
        let Request { tag, op, deadline, .. } = request;
        // Reads and writes apart, so that the code of each knows its direction: as one it costs 15 instructions more a request.
        match op {
            Op::Read { lba, into } => {
                let transfer = Transfer { lba, durability: None };
                match &mut self.0 {
                    Kind::Records(queue) => queue.submit(transfer, into, tag, deadline),
                    Kind::General(queue) => submit_general(queue, transfer, into, tag, deadline),
                }
            }
            Op::Write { lba, from, durability } => {
                let transfer = Transfer { lba, durability: Some(durability) };
                match &mut self.0 {
                    Kind::Records(queue) => queue.submit(transfer, from, tag, deadline),
                    Kind::General(queue) => submit_general(queue, transfer, from, tag, deadline),
                }
            }
            op => self.submit_command(op, tag, deadline),
        }
    }

    #[inline]
    fn kick(&mut self) {
        each!(self, queue => queue.queue.kick());
    }

    #[inline]
    fn complete(&mut self) -> Result<Option<Completion<B>>, Fault> {
        match &mut self.0 {
            Kind::Records(queue) => queue.complete(),
            Kind::General(queue) => queue.complete_slow(),
        }
    }

    fn reset(&mut self) -> Result<(), Fault> {
        each!(self, queue => queue.queue.reset_device())
    }
}

/// Submits to a general queue, out of line so that only the code of the record queue is inlined into callers.
#[inline(never)]
fn submit_general<P: Platform, B: DmaBuffer>(
    queue: &mut TypedQueue<P, B, VirtQueue<P, B, Pending>>,
    transfer: Transfer,
    buffer: B,
    tag: u64,
    deadline: Instant,
) -> Result<(), Refused<B>> {
    queue.submit(transfer, buffer, tag, deadline)
}

impl<P: Platform, B: DmaBuffer> fmt::Debug for BlkQueue<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Records(queue) => f.debug_tuple("BlkQueue").field(queue.queue.queue()).finish(),
            Kind::General(queue) => f.debug_tuple("BlkQueue").field(queue.queue.queue()).finish(),
        }
    }
}

/// A queue of one kind.
struct TypedQueue<P: Platform, B: DmaBuffer, R: BlkRing<B, Platform = P>> {
    queue: RequestQueue<P, R>,
    limits: PageArc<P, Limits>,
    /// A lower bound of the deadlines of the requests in flight.
    earliest: Instant,
    /// The buffers of durable writes whose flush is in flight, by slot of the flush.
    held: PageTable<P, Option<B>>,
    /// Tags of requests that the driver completes without the device. The gate is closed while there are any.
    local: Fifo<P, u64>,
}

impl<P: Platform, B: DmaBuffer, R: BlkRing<B, Platform = P>> TypedQueue<P, B, R> {
    fn new(queue: RequestQueue<P, R>, limits: &PageArc<P, Limits>, size: u16) -> Result<Self, AllocError> {
        let platform = queue.device().platform();
        let held = PageTable::new(platform, usize::from(size), |_| None)?;
        let local = Fifo::new(platform, usize::from(size))?;
        Ok(Self { queue, limits: limits.clone(), earliest: Instant::NEVER, held, local })
    }

    /// Submits a request with data.
    #[inline(always)]
    fn submit(
        &mut self,
        transfer: Transfer,
        buffer: B,
        tag: u64,
        deadline: Instant,
    ) -> Result<(), Refused<B>> {
        if let Some(fault) = self.queue.fault() {
            return refused(fault.into(), tag, transfer.op(buffer), deadline);
        }
        let limits = &*self.limits;
        let (kind, direction, blocks, stage) = match transfer.durability {
            None => (kind::IN, Direction::FromDevice, &limits.blocks, Stage::Last),
            Some(durability) => {
                let needs_flush = durability == Durability::Durable && limits.has_cache;
                let stage = if needs_flush { Stage::FlushNext } else { Stage::Last };
                (kind::OUT, Direction::ToDevice, &limits.writable_blocks, stage)
            }
        };
        let lba = transfer.lba;
        let header = [u64::from(kind), lba << (limits.sector_shift & 63)];
        let pending = Pending { tag, deadline, stage };
        let check = TransferAt { limits, lba, blocks };
        match self.queue.queue_mut().submit(header, buffer, direction, pending, check) {
            Ok(()) => {
                if deadline < self.earliest {
                    self.earliest = deadline;
                }
                Ok(())
            }
            Err((reason, buffer)) => {
                // A read-only medium has 0 writable blocks, so that the check reports another reason.
                let is_read_only = kind == kind::OUT && limits.is_read_only();
                let reason = if is_read_only { Rejected::ReadOnly } else { reason };
                refused(reason, tag, transfer.op(buffer), deadline)
            }
        }
    }

    /// Submits a request without data.
    #[inline(never)]
    fn submit_command(&mut self, command: Command, tag: u64, deadline: Instant) -> Result<(), Refused<B>> {
        if let Some(fault) = self.queue.fault() {
            return refused(fault.into(), tag, command.op(), deadline);
        }
        let pending = Pending { tag, deadline, stage: Stage::Last };
        let limits = &*self.limits;
        let sent = match command {
            Command::Flush if !limits.has_cache => {
                // Every completed write is durable already: nothing is sent.
                let kept = self.local.push(tag).map_err(|_| Rejected::Full);
                self.queue.close();
                return kept.or_else(|reason| refused(reason, tag, command.op(), deadline));
            }
            Command::Flush => Ok((kind::FLUSH, Body::None)),
            Command::Discard { lba, blocks } => limits
                .check_blocks(lba, blocks, limits.max_discard)
                .map(|words| (kind::DISCARD, Body::Words(words))),
            Command::WriteZeroes { lba, blocks, unmap } => {
                let flags = if unmap == Unmap::May && limits.can_unmap { ZEROES_UNMAP } else { 0 };
                limits
                    .check_blocks(lba, blocks, limits.max_zeroes)
                    .map(|[sector, count]| (kind::WRITE_ZEROES, Body::Words([sector, count | flags << 32])))
            }
        };
        let sent = sent.and_then(|(kind, body)| {
            self.queue.queue_mut().submit_command([u64::from(kind), 0], body, pending)
        });
        match sent {
            Ok(_) => {
                self.earliest = self.earliest.min(deadline);
                Ok(())
            }
            Err(reason) => refused(reason, tag, command.op(), deadline),
        }
    }

    /// Returns the next completion, in any state of the queue.
    #[inline(never)]
    fn complete_slow(&mut self) -> Result<Option<Completion<B>>, Fault> {
        if let Some(tag) = self.local.pop() {
            if self.local.is_empty() {
                self.queue.reopen();
            }
            return Ok(Some(Completion::new(tag, None, Ok(()))));
        }
        while let Some(outcome) = self.queue.next()? {
            let (result, used) = match outcome {
                Outcome::Used(used) => (result_of(self.queue.queue().status(used.slot)), used),
                Outcome::Aborted(used) => (Err(IoError::Aborted), used),
            };
            if let Some(done) = self.next_stage(used, result) {
                return Ok(Some(done));
            }
        }
        Ok(None)
    }

    /// Processes a completed request. Returns its completion, or `None` if another step follows or the caller expects none.
    fn next_stage(&mut self, used: Used<B, Pending>, result: Result<(), IoError>) -> Option<Completion<B>> {
        let Pending { tag, deadline, stage } = used.extra;
        let (buffer, result) = match stage {
            Stage::Last => (used.buffer, result),
            Stage::Flush => (self.held.get_mut(usize::from(used.slot)).and_then(Option::take), result),
            Stage::FlushNext if result.is_ok() => match self.flush_next(tag, deadline, used.buffer) {
                Ok(()) => return None,
                // The completed write has left room for the flush. If the flush fails, the write may not be durable.
                Err(buffer) => (buffer, Err(IoError::Device)),
            },
            Stage::FlushNext => (used.buffer, result),
            Stage::Own => return None,
        };
        Some(Completion::new(tag, buffer, result))
    }

    /// Sends the flush that follows a durable write whose buffer is `buffer`; returns the buffer if the flush cannot be sent.
    fn flush_next(&mut self, tag: u64, deadline: Instant, buffer: Option<B>) -> Result<(), Option<B>> {
        let pending = Pending { tag, deadline, stage: Stage::Flush };
        let header = [u64::from(kind::FLUSH), 0];
        match self.queue.queue_mut().submit_command(header, Body::None, pending) {
            Ok(slot) => {
                if let Some(held) = self.held.get_mut(usize::from(slot)) {
                    *held = buffer;
                }
                self.queue.kick();
                Ok(())
            }
            Err(_) => Err(buffer),
        }
    }

    fn serial(&mut self) -> Option<Serial> {
        let platform = self.queue.device().platform().clone();
        let deadline = platform.now().saturating_add(SERIAL_TIMEOUT);
        // If the device answers after the timeout, the queue drops the answer.
        let pending = Pending { tag: 0, deadline: Instant::NEVER, stage: Stage::Own };
        let header = [u64::from(kind::GET_ID), 0];
        self.queue.queue_mut().submit_command(header, Body::Answer(ID_LEN as u8), pending).ok()?;
        self.queue.kick();
        while platform.now() < deadline {
            match self.queue.next().ok()? {
                Some(Outcome::Used(used)) => {
                    let queue = self.queue.queue();
                    let is_ok = queue.status(used.slot) == STATUS_OK;
                    return queue.answer(used.slot).get(..ID_LEN).filter(|_| is_ok).map(Serial::new);
                }
                Some(Outcome::Aborted(_)) => return None,
                None => platform.relax(),
            }
        }
        None
    }

    fn arm(&mut self) -> Arm {
        if !self.local.is_empty() { Arm::Pending } else { self.queue.arm() }
    }

    fn next_deadline(&self) -> Instant {
        if self.queue.queue().in_flight() == 0 { Instant::NEVER } else { self.earliest }
    }

    fn expire(&mut self, now: Instant) -> Result<(), Fault> {
        if now < self.earliest {
            return Ok(());
        }
        // The requests that set the bound may have completed: compute it again.
        let deadlines = self.queue.queue().pending().map(|pending| pending.deadline);
        self.earliest = deadlines.min().unwrap_or(Instant::NEVER);
        if now < self.earliest || self.earliest == Instant::NEVER {
            return Ok(());
        }
        self.queue.reset_device()
    }
}

impl<P: Platform, B: DmaBuffer> TypedQueue<P, B, RecordQueue<P, B, Pending>> {
    /// Returns the next completion. The common case, a request that succeeded and needs no further step, is inline.
    #[inline(always)]
    fn complete(&mut self) -> Result<Option<Completion<B>>, Fault> {
        if !self.queue.is_open() {
            return by_parts(self.complete_slow());
        }
        let queue = self.queue.queue_mut();
        let Used { slot, buffer, extra, .. } = match queue.pop() {
            Ok(Some(used)) => used,
            Ok(None) => return Ok(None),
            Err(fault) => return by_parts(self.complete_faulted(fault)),
        };
        let status = queue.status(slot);
        if extra.stage != Stage::Last || status != STATUS_OK {
            return by_parts(self.complete_other(Used { slot, len: 0, buffer, extra }, status));
        }
        Ok(Some(Completion::new(extra.tag, buffer, Ok(()))))
    }

    /// Completes a request that failed or has a further step.
    #[inline(never)]
    fn complete_other(&mut self, used: Used<B, Pending>, status: u8) -> Result<Option<Completion<B>>, Fault> {
        match self.next_stage(used, result_of(status)) {
            Some(done) => Ok(Some(done)),
            None => self.complete_slow(),
        }
    }

    #[cold]
    #[inline(never)]
    fn complete_faulted(&mut self, fault: Fault) -> Result<Option<Completion<B>>, Fault> {
        self.queue.fail(fault);
        self.complete_slow()
    }
}

/// Returns the value rebuilt from its parts. The result of an out-of-line call is in memory; rebuilding it allows the compiler to
/// keep the result of the inline path in registers.
#[inline(always)]
fn by_parts<B>(done: Result<Option<Completion<B>>, Fault>) -> Result<Option<Completion<B>>, Fault> {
    match done {
        Ok(Some(Completion { tag, buffer, result, .. })) => Ok(Some(Completion::new(tag, buffer, result))),
        Ok(None) => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Returns a refused request to the caller.
#[cold]
#[inline(never)]
fn refused<B: DmaBuffer>(reason: Rejected, tag: u64, op: Op<B>, deadline: Instant) -> Result<(), Refused<B>> {
    Err(Refused::new(reason, Request::new(tag, op).with_deadline(deadline)))
}

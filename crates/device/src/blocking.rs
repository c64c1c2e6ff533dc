use crate::{BlockInfo, BlockQueue, Completion, Durability, Fault, IoError, Op, Rejected, Request, Unmap};
use core::{fmt, time::Duration};
use paravirt_platform::{DmaSlice, Instant, Platform};

/// Why a blocking call failed.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum BlockingError {
    /// The request was not accepted.
    Rejected(Rejected),
    /// The request failed.
    Io(IoError),
    /// The device is out of service.
    Fault(Fault),
}

impl fmt::Display for BlockingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(e) => e.fmt(f),
            Self::Io(e) => e.fmt(f),
            Self::Fault(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for BlockingError {}

impl From<Fault> for BlockingError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Blocking reads and writes between a queue and plain slices, one request at a time.
///
/// It owns the queue, so that it receives no completions of other requests, and one bounce buffer, so that a call that fails can
/// return while the device may still write to the buffer. `sleep` is called when no completion is ready, with the latest instant
/// at which it must return: it may halt the processor if [`arm`](crate::Notify::arm) returned [`Arm::Armed`](crate::Arm::Armed),
/// or return at once.
///
/// Transfers and discards are divided into requests within the limits of the device. While the device is being reset (because another of
/// its queues was reset, or dropped with requests in flight), a call waits until it is in service again, and sends a request that
/// was aborted again, within its timeout: each operation has the same effect a second time. The device restarts when its other
/// queues have been drained; call [`BlockDevice::poll_event`](crate::BlockDevice::poll_event) meanwhile if the first queue of the device is
/// not in use.
pub struct Blocking<P: Platform, Q, S> {
    queue: Q,
    platform: P,
    bounce: Option<DmaSlice<P>>,
    info: BlockInfo,
    timeout: Duration,
    sleep: S,
    tag: u64,
}

impl<P, Q, S> Blocking<P, Q, S>
where
    P: Platform,
    Q: BlockQueue<Buffer = DmaSlice<P>>,
    S: FnMut(&mut Q, Instant),
{
    /// Wraps `queue` of the device that `info` describes. The capacity of `bounce`, at least one block, limits the transfer of one
    /// request. A request that takes longer than `timeout` is aborted, and the device is reset.
    pub fn new(
        queue: Q,
        platform: P,
        bounce: DmaSlice<P>,
        info: &BlockInfo,
        timeout: Duration,
        sleep: S,
    ) -> Self {
        Self { queue, platform, bounce: Some(bounce), info: *info, timeout, sleep, tag: 0 }
    }

    /// Returns the queue.
    pub fn into_queue(self) -> Q {
        self.queue
    }

    /// Runs `op` and returns its result. It is sent again while it is refused or aborted because the device is being reset.
    fn run(&mut self, mut op: Op<DmaSlice<P>>) -> Result<(), BlockingError> {
        let deadline = self.platform.now().saturating_add(self.timeout);
        loop {
            // What is sent again if the request is aborted.
            let again = Again::of(&op);
            self.tag = self.tag.wrapping_add(1);
            let (result, buffer) = match self.queue.submit(Request::new(self.tag, op).with_deadline(deadline))
            {
                Ok(()) => {
                    self.queue.kick();
                    let done = self.wait()?;
                    (done.result.map_err(BlockingError::Io), done.buffer)
                }
                Err(refused) => {
                    (Err(BlockingError::Rejected(refused.reason)), refused.request.op.into_buffer())
                }
            };
            let is_reset = matches!(
                result,
                Err(BlockingError::Io(IoError::Aborted)
                    | BlockingError::Rejected(Rejected::Faulted(Fault::Reset)))
            );
            let is_late = self.platform.now() >= deadline;
            let next = if is_reset && !is_late { again.op(buffer) } else { Err(buffer) };
            match next {
                Ok(next) => op = next,
                Err(buffer) => {
                    if buffer.is_some() {
                        self.bounce = buffer;
                    }
                    return result;
                }
            }
            if let Err(fault) = self.wait_for_restart(deadline) {
                self.bounce = op.into_buffer();
                return Err(fault.into());
            }
        }
    }

    /// Waits until the device is in service again. The queue has nothing in flight.
    fn wait_for_restart(&mut self, deadline: Instant) -> Result<(), Fault> {
        loop {
            match self.queue.complete() {
                Ok(None) => return Ok(()),
                // A completion of an earlier call that failed.
                Ok(Some(_)) => {}
                Err(Fault::Reset) if self.platform.now() < deadline => {
                    (self.sleep)(&mut self.queue, deadline);
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    fn wait(&mut self) -> Result<Completion<DmaSlice<P>>, Fault> {
        loop {
            if let Some(done) = self.queue.complete()? {
                if done.tag == self.tag {
                    return Ok(done);
                }
                continue;
            }
            let until = self.queue.next_deadline();
            (self.sleep)(&mut self.queue, until);
            if self.platform.now() >= until {
                self.queue.expire(self.platform.now())?;
            }
        }
    }

    /// Takes the bounce buffer, with its length set to `len` bytes or to as many whole blocks as it has room for.
    fn take_bounce(&mut self, len: usize) -> Result<DmaSlice<P>, BlockingError> {
        // `None` only if the buffer was leaked because the device did not quiesce; then the queue has a fault.
        let mut bounce = self.bounce.take().ok_or(BlockingError::Fault(Fault::Timeout))?;
        let block = self.info.block_size.max(1) as usize;
        // The buffer is contiguous: one segment.
        let limit = self.info.max_bytes.min(self.info.max_segment_bytes) as usize;
        let room = bounce.capacity().min(limit);
        bounce.set_len(len.min(room.saturating_sub(room.checked_rem(block).unwrap_or(0))));
        Ok(bounce)
    }

    /// Reads from block `lba` on into `into`, whose length is a multiple of the block size.
    ///
    /// # Errors
    ///
    /// [`BlockingError`]; the contents of `into` are then undefined.
    pub fn read(&mut self, mut lba: u64, mut into: &mut [u8]) -> Result<(), BlockingError> {
        while !into.is_empty() {
            let bounce = self.take_bounce(into.len())?;
            let len = bounce.len();
            self.run(Op::Read { lba, into: bounce })?;
            let (now, rest) =
                into.split_at_mut_checked(len).ok_or(BlockingError::Rejected(Rejected::Invalid))?;
            if let Some(bounce) = &self.bounce {
                now.copy_from_slice(bounce.bytes().get(..len).unwrap_or_default());
            }
            into = rest;
            lba = self.after(lba, len);
        }
        Ok(())
    }

    /// Writes `from`, whose length is a multiple of the block size, from block `lba` on.
    ///
    /// # Errors
    ///
    /// [`BlockingError`]; a part of `from` may have been written.
    pub fn write(
        &mut self,
        mut lba: u64,
        mut from: &[u8],
        durability: Durability,
    ) -> Result<(), BlockingError> {
        while !from.is_empty() {
            let mut bounce = self.take_bounce(from.len())?;
            let len = bounce.len();
            let (now, rest) = from.split_at_checked(len).ok_or(BlockingError::Rejected(Rejected::Invalid))?;
            bounce.bytes_mut().copy_from_slice(now);
            self.run(Op::Write { lba, from: bounce, durability })?;
            from = rest;
            lba = self.after(lba, len);
        }
        Ok(())
    }

    /// Makes all completed writes durable.
    ///
    /// # Errors
    ///
    /// [`BlockingError`].
    pub fn flush(&mut self) -> Result<(), BlockingError> {
        self.run(Op::Flush)
    }

    /// Discards `blocks` blocks from `lba` on.
    ///
    /// # Errors
    ///
    /// [`BlockingError`]; a part of the blocks may have been discarded.
    pub fn discard(&mut self, lba: u64, blocks: u32) -> Result<(), BlockingError> {
        let limit = self.info.discard.map_or(0, |limits| limits.max_blocks);
        self.in_pieces(lba, blocks, limit, |lba, blocks| Op::Discard { lba, blocks })
    }

    /// Makes `blocks` blocks from `lba` on read as zeroes.
    ///
    /// # Errors
    ///
    /// [`BlockingError`]; a part of the blocks may have been zeroed.
    pub fn write_zeroes(&mut self, lba: u64, blocks: u32, unmap: Unmap) -> Result<(), BlockingError> {
        let limit = self.info.write_zeroes.map_or(0, |limits| limits.max_blocks);
        self.in_pieces(lba, blocks, limit, |lba, blocks| Op::WriteZeroes { lba, blocks, unmap })
    }

    /// Runs `op` on at most `limit` blocks at a time. A device without the operation refuses the first request.
    fn in_pieces(
        &mut self,
        mut lba: u64,
        mut blocks: u32,
        limit: u32,
        op: impl Fn(u64, u32) -> Op<DmaSlice<P>>,
    ) -> Result<(), BlockingError> {
        loop {
            let piece = if limit == 0 { blocks } else { blocks.min(limit) };
            self.run(op(lba, piece))?;
            blocks = blocks.saturating_sub(piece);
            lba = lba.saturating_add(u64::from(piece));
            if blocks == 0 {
                return Ok(());
            }
        }
    }

    fn after(&self, lba: u64, len: usize) -> u64 {
        lba.saturating_add((len as u64).checked_div(u64::from(self.info.block_size)).unwrap_or(0))
    }
}

/// An operation without its buffer, to be sent again.
enum Again {
    Read { lba: u64 },
    Write { lba: u64, durability: Durability },
    Flush,
    Discard { lba: u64, blocks: u32 },
    WriteZeroes { lba: u64, blocks: u32, unmap: Unmap },
}

impl Again {
    fn of<B>(op: &Op<B>) -> Self {
        match *op {
            Op::Read { lba, .. } => Self::Read { lba },
            Op::Write { lba, durability, .. } => Self::Write { lba, durability },
            Op::Flush => Self::Flush,
            Op::Discard { lba, blocks } => Self::Discard { lba, blocks },
            Op::WriteZeroes { lba, blocks, unmap } => Self::WriteZeroes { lba, blocks, unmap },
        }
    }

    /// Returns the operation; `buffer` if it needs one and it has been leaked.
    fn op<B>(self, buffer: Option<B>) -> Result<Op<B>, Option<B>> {
        Ok(match (self, buffer) {
            (Self::Read { lba }, Some(into)) => Op::Read { lba, into },
            (Self::Write { lba, durability }, Some(from)) => Op::Write { lba, from, durability },
            (Self::Flush, _) => Op::Flush,
            (Self::Discard { lba, blocks }, _) => Op::Discard { lba, blocks },
            (Self::WriteZeroes { lba, blocks, unmap }, _) => Op::WriteZeroes { lba, blocks, unmap },
            (Self::Read { .. } | Self::Write { .. }, None) => return Err(None),
        })
    }
}

impl<P: Platform, Q: fmt::Debug, S> fmt::Debug for Blocking<P, Q, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocking")
            .field("queue", &self.queue)
            .field("info", &self.info)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

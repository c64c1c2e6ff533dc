use crate::{BlockQueue, Completion, Durability, Fault, IoError, Op, Rejected, Request, Unmap};
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
pub struct Blocking<P: Platform, Q, S> {
    queue: Q,
    platform: P,
    bounce: Option<DmaSlice<P>>,
    block_size: u32,
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
    /// Wraps `queue`. The capacity of `bounce`, at least one block of `block_size` bytes, limits the transfer of one request. A
    /// request that takes longer than `timeout` is aborted, and the device is reset.
    pub fn new(
        queue: Q,
        platform: P,
        bounce: DmaSlice<P>,
        block_size: u32,
        timeout: Duration,
        sleep: S,
    ) -> Self {
        Self { queue, platform, bounce: Some(bounce), block_size, timeout, sleep, tag: 0 }
    }

    /// Returns the queue.
    pub fn into_queue(self) -> Q {
        self.queue
    }

    fn run(&mut self, op: Op<DmaSlice<P>>) -> Result<(), BlockingError> {
        self.tag = self.tag.wrapping_add(1);
        let deadline = self.platform.now().saturating_add(self.timeout);
        if let Err(refused) = self.queue.submit(Request::new(self.tag, op).with_deadline(deadline)) {
            if let Some(buffer) = refused.request.op.into_buffer() {
                self.bounce = Some(buffer);
            }
            return Err(BlockingError::Rejected(refused.reason));
        }
        self.queue.kick();
        let done = self.wait()?;
        if done.buffer.is_some() {
            self.bounce = done.buffer;
        }
        done.result.map_err(BlockingError::Io)
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
        let block = self.block_size.max(1) as usize;
        let whole = bounce.capacity().saturating_sub(bounce.capacity().checked_rem(block).unwrap_or(0));
        bounce.set_len(len.min(whole));
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
    /// [`BlockingError`].
    pub fn discard(&mut self, lba: u64, blocks: u32) -> Result<(), BlockingError> {
        self.run(Op::Discard { lba, blocks })
    }

    /// Makes `blocks` blocks from `lba` on read as zeroes.
    ///
    /// # Errors
    ///
    /// [`BlockingError`].
    pub fn write_zeroes(&mut self, lba: u64, blocks: u32, unmap: Unmap) -> Result<(), BlockingError> {
        self.run(Op::WriteZeroes { lba, blocks, unmap })
    }

    fn after(&self, lba: u64, len: usize) -> u64 {
        lba.saturating_add((len as u64).checked_div(u64::from(self.block_size)).unwrap_or(0))
    }
}

impl<P: Platform, Q: fmt::Debug, S> fmt::Debug for Blocking<P, Q, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocking")
            .field("queue", &self.queue)
            .field("block_size", &self.block_size)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

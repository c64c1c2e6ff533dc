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

/// One request at a time on a queue, in calls that wait, to and from plain slices.
///
/// It owns the queue, so that no completion of somebody else is in the way, and one bounce buffer, since a call
/// that gives up may not return while the device can still write to the caller's slice. `sleep` is called while
/// there is nothing to do, with the instant at which to wake at the latest: it may halt the processor after
/// [`arm`](crate::Notify::arm) said so, or just return.
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
    /// Wraps `queue`. `bounce` holds at least one block of `block_size` bytes; what it holds is what one request
    /// transfers. A request that takes longer than `timeout` is aborted and the device reset.
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

    /// Gives the queue back.
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

    /// The bounce buffer, set to `len` bytes or what it holds.
    fn take_bounce(&mut self, len: usize) -> Result<DmaSlice<P>, BlockingError> {
        // `None` only if the buffer was leaked because the device did not quiesce; then the queue has a fault.
        let mut bounce = self.bounce.take().ok_or(BlockingError::Fault(Fault::Timeout))?;
        let block = self.block_size.max(1) as usize;
        let whole = bounce.capacity().saturating_sub(bounce.capacity().checked_rem(block).unwrap_or(0));
        bounce.set_len(len.min(whole));
        Ok(bounce)
    }

    /// Fills `into`, whose length is a multiple of the block size, from block `lba` on.
    ///
    /// # Errors
    ///
    /// [`BlockingError`]; what `into` holds is then not defined.
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

    /// Writes `from`, whose length is a multiple of the block size, at block `lba` on.
    ///
    /// # Errors
    ///
    /// [`BlockingError`]; some of it may have been written.
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

    /// Makes durable what was written.
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

    /// Zeroes `blocks` blocks from `lba` on.
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

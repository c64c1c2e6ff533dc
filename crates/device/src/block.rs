use crate::{Arm, Fault, IoError, Notify, Rejected};
use core::{fmt, num::NonZeroU32, task::Poll, task::Waker};
use paravirt_platform::{DmaBuffer, Instant};

/// When a write counts as done.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Durability {
    /// When the device has taken it; a power loss before the next flush may lose it.
    Cached,
    /// When it is on stable storage (FUA). Where the device has no bit for that, the driver flushes behind it.
    Durable,
}

/// Whether blocks that are zeroed may be deallocated.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Unmap {
    /// They stay allocated.
    Keep,
    /// They may be deallocated; they read as zeroes all the same.
    May,
}

/// What a request asks for. Block numbers and counts are in logical blocks ([`BlockInfo::block_size`]).
#[derive(Debug)]
pub enum Op<B> {
    /// Fill `into` from block `lba` on; its length is a multiple of the block size.
    Read {
        /// The first block.
        lba: u64,
        /// Where to.
        into: B,
    },
    /// Write `from` at block `lba` on; its length is a multiple of the block size.
    Write {
        /// The first block.
        lba: u64,
        /// Where from.
        from: B,
        /// When it counts as done.
        durability: Durability,
    },
    /// Make durable what was completed before this was submitted, on any queue of the device. Where there is no
    /// volatile cache it succeeds and nothing is sent.
    Flush,
    /// The blocks are no longer needed; what they read as afterwards is not defined. Within
    /// [`BlockInfo::discard`].
    Discard {
        /// The first block.
        lba: u64,
        /// How many.
        blocks: u32,
    },
    /// Make the blocks read as zeroes. Within [`BlockInfo::write_zeroes`].
    WriteZeroes {
        /// The first block.
        lba: u64,
        /// How many.
        blocks: u32,
        /// Whether they may be deallocated.
        unmap: Unmap,
    },
}

/// A request to a block queue.
#[derive(Debug)]
pub struct Request<B> {
    /// The caller's own; comes back in the completion.
    pub tag: u64,
    /// What is asked for.
    pub op: Op<B>,
    /// When recovery starts if it is not done ([`Notify::expire`]); [`Instant::NEVER`] for never.
    pub deadline: Instant,
}

/// A request that is done. Its buffer is the caller's again.
#[derive(Debug)]
pub struct Completion<B> {
    /// That of the request.
    pub tag: u64,
    /// The buffer of a read or write.
    pub buffer: Option<B>,
    /// How it went. On an error of a read, what the buffer holds is not defined.
    pub result: Result<(), IoError>,
}

/// A request that was not accepted, handed back.
#[derive(Debug)]
pub struct Refused<B> {
    /// Why.
    pub reason: Rejected,
    /// The request, as it was.
    pub request: Request<B>,
}

impl<B> fmt::Display for Refused<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

/// One queue of a block device.
pub trait BlockQueue: Notify + Send {
    /// What is read into and written from.
    type Buffer: DmaBuffer;

    /// Takes a request. The host may not see it before [`kick`](Self::kick).
    ///
    /// # Errors
    ///
    /// [`Refused`], with the request and its buffer, which is not lent.
    #[allow(clippy::result_large_err, reason = "the error carries the request back: that is its point")]
    fn submit(&mut self, request: Request<Self::Buffer>) -> Result<(), Refused<Self::Buffer>>;

    /// Tells the host of what was submitted, if it has to be told.
    fn kick(&mut self);

    /// Takes one request that is done, in the order in which the host completed them.
    ///
    /// # Errors
    ///
    /// The [`Fault`] where the device is out of service, but only after everything that was lent to it has come
    /// back (or was leaked: [`Fault::Timeout`]).
    fn complete(&mut self) -> Result<Option<Completion<Self::Buffer>>, Fault>;

    /// Resets the queue, or the whole device where one queue alone cannot be reset: everything in flight comes
    /// back as aborted from [`complete`](Self::complete).
    ///
    /// # Errors
    ///
    /// The [`Fault`] where the device did not let go or cannot be started again.
    fn reset(&mut self) -> Result<(), Fault>;
}

impl<Q: BlockQueue + ?Sized> BlockQueue for &mut Q {
    type Buffer = Q::Buffer;
    fn submit(&mut self, request: Request<Q::Buffer>) -> Result<(), Refused<Q::Buffer>> {
        (**self).submit(request)
    }
    fn kick(&mut self) {
        (**self).kick();
    }
    fn complete(&mut self) -> Result<Option<Completion<Q::Buffer>>, Fault> {
        (**self).complete()
    }
    fn reset(&mut self) -> Result<(), Fault> {
        (**self).reset()
    }
}

/// The next completion of a queue, as a future.
///
/// It kicks first. One future of a queue at a time: a second takes over the waker of the first.
pub fn next_completion<Q: BlockQueue + ?Sized>(
    queue: &mut Q,
) -> impl Future<Output = Result<Completion<Q::Buffer>, Fault>> {
    queue.kick();
    core::future::poll_fn(move |cx| {
        queue.register(cx.waker());
        loop {
            if let Some(done) = queue.complete()? {
                return Poll::Ready(Ok(done));
            }
            if queue.arm() == Arm::Armed {
                return Poll::Pending;
            }
        }
    })
}

/// Whether a medium can be written.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Access {
    /// It can.
    ReadWrite,
    /// It cannot.
    ReadOnly,
}

/// Whether completed writes can be lost.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Cache {
    /// A completed write is durable; a flush does nothing.
    WriteThrough,
    /// A completed write is durable after the next flush.
    WriteBack,
}

/// A device's serial number: bytes as the host gave them, without trailing zeroes and spaces.
#[derive(Copy, Clone, Default, Eq, PartialEq)]
pub struct Serial {
    bytes: [u8; 32],
    len: u8,
}

impl Serial {
    /// Keeps the first 32 bytes of `bytes` up to the first zero, without spaces at the end.
    pub fn new(bytes: &[u8]) -> Self {
        let mut serial = Self::default();
        let text = bytes.split(|b| *b == 0).next().unwrap_or_default().trim_ascii_end();
        for (to, from) in serial.bytes.iter_mut().zip(text) {
            *to = *from;
            serial.len = serial.len.saturating_add(1);
        }
        serial
    }

    /// The bytes; empty where the device has no serial number.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// What [`Op::Discard`] is limited to.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct DiscardLimits {
    /// Blocks in one request, at most.
    pub max_blocks: u32,
    /// Blocks to which ranges should be aligned; others are rounded inwards by the host.
    pub alignment: u32,
}

/// What [`Op::WriteZeroes`] is limited to.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct ZeroLimits {
    /// Blocks in one request, at most.
    pub max_blocks: u32,
    /// Whether [`Unmap::May`] has an effect.
    pub unmap: Unmap,
}

/// What a block device is. Fixed while it is open, but for [`blocks`](Self::blocks) and [`access`](Self::access).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct BlockInfo {
    /// Its size in logical blocks.
    pub blocks: u64,
    /// Bytes of a logical block, the unit of addresses: a power of two from 512 up.
    pub block_size: u32,
    /// Bytes that the medium writes as one: a multiple of [`block_size`](Self::block_size).
    pub physical_block_size: u32,
    /// Logical blocks by which the first physical block is shifted.
    pub alignment_offset: u32,
    /// Logical blocks that are best transferred as one; 0 where the device does not say.
    pub optimal_blocks: u32,
    /// Bytes in one request, at most.
    pub max_bytes: u32,
    /// Segments of a buffer, at most.
    pub max_segments: u16,
    /// Bytes in one segment, at most.
    pub max_segment_bytes: u32,
    /// Where it is given: every segment but the first begins, and every one but the last ends, at a multiple of
    /// this many bytes.
    pub segment_boundary: Option<NonZeroU32>,
    /// Bytes to which buffers must be aligned.
    pub alignment: u32,
    /// Limits of a discard, where the device has it.
    pub discard: Option<DiscardLimits>,
    /// Limits of zeroing, where the device has it.
    pub write_zeroes: Option<ZeroLimits>,
    /// Whether it has a volatile write cache.
    pub cache: Cache,
    /// Whether it can be written.
    pub access: Access,
    /// Its serial number.
    pub serial: Serial,
    /// How many queues can be taken.
    pub queues: u16,
    /// Requests in flight on one queue, at most.
    pub depth: u16,
}

/// What happened to a block device.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum BlockEvent {
    /// It has this many logical blocks now.
    Capacity(u64),
    /// It can or cannot be written now.
    Access(Access),
    /// It is out of service.
    Faulted(Fault),
}

/// A block device.
pub trait BlockDevice: Send {
    /// What its queues are.
    type Queue: BlockQueue;

    /// What it is, as of the last [`poll_event`](Self::poll_event).
    fn info(&self) -> BlockInfo;

    /// Hands out queue `index`, once; `None` where it is taken or not below [`BlockInfo::queues`].
    ///
    /// A queue that is dropped is reset; it cannot be taken again.
    fn take_queue(&mut self, index: u16) -> Option<Self::Queue>;

    /// What happened since the last call; call until `None`.
    fn poll_event(&mut self) -> Option<BlockEvent>;

    /// Registers the task to wake when there may be an event.
    fn register(&mut self, waker: &Waker);
}

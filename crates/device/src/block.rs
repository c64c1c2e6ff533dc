use crate::{Arm, Connection, Fault, IoError, Notify, Rejected, RingKind, Signalling};
use core::task::{Context, Poll, Waker};
use core::{fmt, num::NonZeroU32};
use paravirt_platform::{DmaBuffer, Instant};

/// When a write completes.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Durability {
    /// When the device has accepted the data; a power loss before the next flush may lose them.
    Cached,
    /// When the data are on stable storage (force unit access). Where the device has no FUA bit, the driver sends a flush after
    /// the write and completes the request when that is done.
    Durable,
}

/// Whether a write-zeroes request may deallocate blocks.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Unmap {
    /// The blocks stay allocated.
    Keep,
    /// The device may deallocate the blocks; they read as zeroes in either case.
    May,
}

/// The operation of a request. Block numbers and counts are in logical blocks ([`BlockInfo::block_size`]).
///
/// Later versions may add operations. A driver refuses an operation that it does not implement with [`Rejected::Unsupported`] and
/// returns it unchanged.
#[derive(Debug)]
#[non_exhaustive]
pub enum Op<B> {
    /// Reads into `into` from block `lba` on; the buffer's length is a multiple of the block size.
    Read {
        /// The first block.
        lba: u64,
        /// The destination.
        into: B,
    },
    /// Writes `from` at block `lba`; the buffer's length is a multiple of the block size.
    Write {
        /// The first block.
        lba: u64,
        /// The source.
        from: B,
        /// When the write completes.
        durability: Durability,
    },
    /// Makes durable every write that completed before this request was submitted, on any queue of the device. On a device without
    /// a volatile write cache it succeeds, and nothing is sent.
    Flush,
    /// Discards blocks; what they read as afterwards is undefined. Limited by [`BlockInfo::discard`].
    Discard {
        /// The first block.
        lba: u64,
        /// The number of blocks.
        blocks: u32,
    },
    /// Makes blocks read as zeroes. Limited by [`BlockInfo::write_zeroes`].
    WriteZeroes {
        /// The first block.
        lba: u64,
        /// The number of blocks.
        blocks: u32,
        /// Whether the blocks may be deallocated.
        unmap: Unmap,
    },
}

impl<B> Op<B> {
    /// The buffer of a read or write; `None` for other operations.
    pub fn into_buffer(self) -> Option<B> {
        match self {
            Self::Read { into: buffer, .. } | Self::Write { from: buffer, .. } => Some(buffer),
            Self::Flush | Self::Discard { .. } | Self::WriteZeroes { .. } => None,
        }
    }
}

/// A request for a block queue, with the buffer of a read or write.
///
/// ```
/// use paravirt_device::{Op, Request};
/// use paravirt_platform::{DmaSlice, Instant};
/// # fn example<P: paravirt_platform::Platform>(into: DmaSlice<P>, deadline: Instant) {
/// let request = Request::new(7, Op::Read { lba: 3, into }).with_deadline(deadline);
/// assert_eq!((request.tag, request.deadline), (7, deadline));
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Request<B> {
    /// The caller's identifier, returned in the completion; the driver does not interpret it.
    pub tag: u64,
    /// The operation.
    pub op: Op<B>,
    /// When [`Notify::expire`] starts recovery if the request is still in flight; [`Instant::NEVER`] for no deadline.
    pub deadline: Instant,
}

impl<B> Request<B> {
    /// A request without a deadline.
    #[inline]
    pub const fn new(tag: u64, op: Op<B>) -> Self {
        Self { tag, op, deadline: Instant::NEVER }
    }

    /// Sets the instant at which [`Notify::expire`] starts recovery if the request is still in flight.
    #[inline]
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = deadline;
        self
    }
}

/// A completed request, which returns the buffer to the caller.
#[derive(Debug)]
#[non_exhaustive]
pub struct Completion<B> {
    /// The tag of the request.
    pub tag: u64,
    /// The buffer of a read or write; `None` for other operations.
    pub buffer: Option<B>,
    /// The outcome. After a failed read, the contents of the buffer are undefined.
    pub result: Result<(), IoError>,
}

impl<B> Completion<B> {
    /// The completion of the request with this tag, for drivers. `buffer` is that of a read or write.
    #[inline(always)]
    pub const fn new(tag: u64, buffer: Option<B>, result: Result<(), IoError>) -> Self {
        Self { tag, buffer, result }
    }
}

/// A request that was not accepted, returned to the caller.
#[derive(Debug)]
#[non_exhaustive]
pub struct Refused<B> {
    /// Why it was refused.
    pub reason: Rejected,
    /// The unchanged request.
    pub request: Request<B>,
}

impl<B> Refused<B> {
    /// Returns `request` to the caller, for drivers.
    #[inline]
    pub const fn new(reason: Rejected, request: Request<B>) -> Self {
        Self { reason, request }
    }
}

impl<B> fmt::Display for Refused<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

/// One queue of a block device.
///
/// All methods are for task context: interrupts only wake the registered waker. Except for [`reset`](Self::reset), none waits for
/// the host while the device is in service (see the [crate documentation](crate#contexts-waits-and-locks)), and none allocates.
///
/// On virtio a queue in service takes no lock. The queues of SCSI disks share the channels of their controller: `kick`,
/// `complete` and `submit` of anything but a read or write of one segment may take the spin lock of the channel, which another
/// queue holds while it copies a batch to or from the ring.
pub trait BlockQueue: Notify + Send {
    /// The type of the buffers that are read into and written from.
    type Buffer: DmaBuffer;

    /// Submits a request. The host may not see it before [`kick`](Self::kick).
    ///
    /// The buffer is in flight from here until [`complete`](Self::complete) returns it.
    ///
    /// # Errors
    ///
    /// [`Refused`], with the request and its buffer, neither of which was submitted: [`Rejected::Full`] until a request
    /// completes; the other reasons describe an error of the request, the buffer or the device.
    #[allow(clippy::result_large_err, reason = "the error carries the request back: that is its point")]
    fn submit(&mut self, request: Request<Self::Buffer>) -> Result<(), Refused<Self::Buffer>>;

    /// Notifies the host of submitted requests, unless the host has suppressed notifications. Requests that the queue cannot send
    /// now, since a ring is full or the device is being reset, stay in flight.
    fn kick(&mut self);

    /// Returns the next completed request, in the order in which the host completed them; `None` when the queue is drained.
    ///
    /// The completion returns the buffer to the caller, whatever the result. A call that detects a fault or a reset continues the
    /// recovery, and blocks as [`reset`](Self::reset) does.
    ///
    /// # Errors
    ///
    /// The [`Fault`] when the device is out of service, but only after every request in flight has been returned (or its
    /// buffer leaked: [`Fault::Timeout`]).
    fn complete(&mut self) -> Result<Option<Completion<Self::Buffer>>, Fault>;

    /// Resets the queue, or the whole device if one queue alone cannot be reset.
    ///
    /// [`complete`](Self::complete) then returns every request in flight as [`IoError::Aborted`]. Takes the lock of the device, and
    /// blocks until the device confirms the reset or the driver's timeout ends: 5 seconds on virtio, the timeout of the bus (180 seconds by default) for each step of
    /// closing and opening a channel on VMBus.
    ///
    /// # Errors
    ///
    /// The [`Fault`] when the device cannot be started again. With [`Fault::Timeout`] it did not confirm the reset: buffers in
    /// flight are leaked. Otherwise `complete` returns them.
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

/// Returns a future of the next completion of a queue.
///
/// Kicks at once. Await one such future of a queue at a time: a second one replaces the waker of the first. It fails with
/// [`Fault::Reset`] when everything in flight has been returned while the device is being reset; then await [`restarted`].
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
            match queue.arm() {
                Arm::Armed => return Poll::Pending,
                Arm::Pending => {}
                Arm::Unsignalled => return polled_again(cx),
            }
        }
    })
}

/// Returns a future that waits for the end of a reset: after [`Fault::Reset`], or a refusal because of it. It returns `None` when the
/// device is in service again, or a completion if one was left to return: then await it again.
///
/// The device restarts when its other queues have been drained; see [`Fault::Reset`]. Await one future of a queue at a time.
pub fn restarted<Q: BlockQueue + ?Sized>(
    queue: &mut Q,
) -> impl Future<Output = Result<Option<Completion<Q::Buffer>>, Fault>> {
    core::future::poll_fn(move |cx| {
        queue.register(cx.waker());
        loop {
            match queue.complete() {
                Err(Fault::Reset) => match queue.arm() {
                    Arm::Armed => return Poll::Pending,
                    Arm::Pending => {}
                    Arm::Unsignalled => return polled_again(cx),
                },
                done => return Poll::Ready(done),
            }
        }
    })
}

/// Has the executor poll the future again after its other tasks: nothing else wakes it.
fn polled_again<T>(cx: &Context<'_>) -> Poll<T> {
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// Whether a medium is writable.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Access {
    /// Reads and writes.
    ReadWrite,
    /// Reads only.
    ReadOnly,
}

/// The write cache of a device: whether a power loss can lose completed writes.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Cache {
    /// A completed write is durable; a flush does nothing.
    WriteThrough,
    /// A completed write is durable after the next flush.
    WriteBack,
}

/// A device's serial number: up to 32 bytes from the host, without trailing zeroes and spaces.
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

    /// Returns the bytes; empty if the device has no serial number.
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

/// The limits of [`Op::Discard`].
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct DiscardLimits {
    /// The maximum number of blocks in one request.
    pub max_blocks: u32,
    /// The preferred alignment of ranges in blocks; the host rounds other ranges inwards.
    pub alignment: u32,
}

impl DiscardLimits {
    /// Discards of up to `max_blocks` blocks at any alignment.
    pub const fn new(max_blocks: u32) -> Self {
        Self { max_blocks, alignment: 1 }
    }

    /// Sets the preferred alignment of ranges in blocks.
    #[must_use]
    pub const fn with_alignment(mut self, blocks: u32) -> Self {
        self.alignment = blocks;
        self
    }
}

/// The limits of [`Op::WriteZeroes`].
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct ZeroLimits {
    /// The maximum number of blocks in one request.
    pub max_blocks: u32,
    /// Whether [`Unmap::May`] has an effect.
    pub unmap: Unmap,
}

impl ZeroLimits {
    /// Zeroes of up to `max_blocks` blocks, which stay allocated.
    pub const fn new(max_blocks: u32) -> Self {
        Self { max_blocks, unmap: Unmap::Keep }
    }

    /// Sets whether [`Unmap::May`] has an effect.
    #[must_use]
    pub const fn with_unmap(mut self, unmap: Unmap) -> Self {
        self.unmap = unmap;
        self
    }
}

/// The geometry and limits of a block device.
///
/// Constant while the device is open, except [`blocks`](Self::blocks) and [`access`](Self::access).
///
/// ```
/// let mut info = paravirt_device::BlockInfo::new(2048, 512);
/// info.max_segments = 4;
/// assert_eq!((info.blocks, info.physical_block_size), (2048, 512));
/// ```
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct BlockInfo {
    /// The capacity in logical blocks.
    pub blocks: u64,
    /// The size of a logical block, the unit of addresses, in bytes: a power of two, at least 512.
    pub block_size: u32,
    /// The number of bytes that the medium writes as one: a multiple of [`block_size`](Self::block_size).
    pub physical_block_size: u32,
    /// The offset of the first aligned physical block, in logical blocks.
    pub alignment_offset: u32,
    /// The optimal transfer size in logical blocks; 0 if the device does not report it.
    pub optimal_blocks: u32,
    /// The maximum number of bytes in one request.
    pub max_bytes: u32,
    /// The maximum number of segments of a buffer.
    pub max_segments: u16,
    /// The maximum number of bytes in one segment.
    pub max_segment_bytes: u32,
    /// If `Some`, every segment but the first begins, and every segment but the last ends, at a multiple of this many bytes.
    pub segment_boundary: Option<NonZeroU32>,
    /// The required alignment of buffers in bytes.
    pub alignment: u32,
    /// The limits of a discard; `None` if the device does not support it.
    pub discard: Option<DiscardLimits>,
    /// The limits of write-zeroes; `None` if the device does not support it.
    pub write_zeroes: Option<ZeroLimits>,
    /// The write cache.
    pub cache: Cache,
    /// Whether the medium is writable.
    pub access: Access,
    /// The serial number.
    pub serial: Serial,
    /// The number of queues that can be taken.
    pub queues: u16,
    /// The maximum number of requests in flight on one queue.
    pub depth: u16,
    /// How the device signals completions, and on which rings it works.
    pub connection: Connection,
}

impl BlockInfo {
    /// A writable device of `blocks` logical blocks of `block_size` bytes, without a cache and without optional operations.
    ///
    /// The other fields have the least demanding values: one queue that takes one request of one segment, buffers without
    /// alignment, no limit on bytes. Drivers assign what the device reports.
    pub fn new(blocks: u64, block_size: u32) -> Self {
        Self {
            blocks,
            block_size,
            physical_block_size: block_size,
            alignment_offset: 0,
            optimal_blocks: 0,
            max_bytes: u32::MAX,
            max_segments: 1,
            max_segment_bytes: u32::MAX,
            segment_boundary: None,
            alignment: 1,
            discard: None,
            write_zeroes: None,
            cache: Cache::WriteThrough,
            access: Access::ReadWrite,
            serial: Serial::default(),
            queues: 1,
            depth: 1,
            connection: Connection::new(Signalling::Polled, RingKind::Split),
        }
    }
}

/// A change of a block device.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum BlockEvent {
    /// The capacity changed to this many logical blocks.
    Capacity(u64),
    /// The medium became writable or read-only.
    Access(Access),
    /// The device is out of service.
    Faulted(Fault),
}

/// A block device.
///
/// All methods are for task context and may take the locks of the device; only [`poll_event`](Self::poll_event) waits for the host.
pub trait BlockDevice: Send {
    /// The type of its queues.
    type Queue: BlockQueue;

    /// The geometry and limits, as of the last [`poll_event`](Self::poll_event). Takes no lock.
    fn info(&self) -> BlockInfo;

    /// Returns queue `index`, once; `None` when it has been taken, `index` is out of range ([`BlockInfo::queues`]), or there is no
    /// memory for it. May allocate.
    ///
    /// A queue that was dropped cannot be taken again. Buffers in flight then are dropped once the device has stopped using them:
    /// a virtio queue is reset, alone or with its device, and the drop blocks for that (5 seconds at most for each); a SCSI disk's
    /// requests stay with its controller until they complete, and the drop does not block.
    fn take_queue(&mut self, index: u16) -> Option<Self::Queue>;

    /// Returns the next change since the last call; call until `None`.
    ///
    /// Continues a recovery, and blocks for it. For a SCSI disk whose unit reported a change, the driver queries capacity and
    /// write protection with a few commands, each of which blocks for at most the timeout of a command and a recovery.
    fn poll_event(&mut self) -> Option<BlockEvent>;

    /// Registers the waker to wake when there may be an event, in place of the previous one. Does not wait; takes no lock.
    fn register(&mut self, waker: &Waker);
}

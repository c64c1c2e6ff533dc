//! What goes into a queue and what comes out.

use paravirt_device::{Fault, Rejected};
use paravirt_platform::{BusAddr, DmaBuffer, Segment};

/// What a queue is made of; the same after each reset of the device.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct QueueConfig {
    /// Ring entries: a power of two, at most [`MAX_QUEUE_SIZE`](super::MAX_QUEUE_SIZE).
    pub size: u16,
    /// The format of the ring.
    pub format: RingFormat,
    /// VIRTIO_F_EVENT_IDX.
    pub event_idx: bool,
    /// VIRTIO_F_IN_ORDER.
    pub in_order: bool,
    /// Descriptors in the indirect table of each slot (VIRTIO_F_INDIRECT_DESC); 0 for direct chains only. Rounded up
    /// to a power of two.
    pub indirect: u16,
    /// Bytes of each slot's [area](super::VirtQueue::area), a multiple of 64; 0 for none.
    pub area: u16,
}

/// The format of a ring. VIRTIO 1.3 §2.7, §2.8
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum RingFormat {
    /// A descriptor table, an available and a used ring.
    #[default]
    Split,
    /// One ring of descriptors that both sides write (VIRTIO_F_RING_PACKED).
    Packed,
}

impl QueueConfig {
    /// A split queue of `size` entries, without anything else.
    pub const fn new(size: u16) -> Self {
        Self { size, format: RingFormat::Split, event_idx: false, in_order: false, indirect: 0, area: 0 }
    }
}

/// A part of a slot's area that a request names: bytes from its start.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct AreaRange {
    /// The first byte.
    pub offset: u16,
    /// Bytes, at least 1.
    pub len: u16,
}

impl AreaRange {
    /// `len` bytes from `offset` on.
    pub const fn new(offset: u16, len: u16) -> Self {
        Self { offset, len }
    }

    /// Whether it is in an area of `area_len` bytes.
    #[inline(always)]
    pub(super) fn check(self, area_len: usize) -> Result<(), Rejected> {
        let end = usize::from(self.offset).wrapping_add(usize::from(self.len));
        if self.len == 0 || end > area_len { Err(Rejected::Invalid) } else { Ok(()) }
    }

    /// Where a device sees it, in the area at `area`.
    #[inline(always)]
    pub(super) fn segment(self, area: BusAddr) -> Segment {
        Segment { addr: area.offset(u64::from(self.offset)), len: u32::from(self.len) }
    }
}

/// The parts of a request in its slot's area.
#[derive(Copy, Clone, Debug, Default)]
pub struct Parts<'a> {
    /// What the device reads, ahead of the data.
    pub head: &'a [AreaRange],
    /// What the device writes.
    pub tail: &'a [AreaRange],
    /// Where the data are, of those that the device writes.
    pub place: DataPlace,
}

/// Where the data of a request that the device writes lie.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum DataPlace {
    /// Ahead of the tail.
    #[default]
    BeforeTail,
    /// Behind the tail.
    AfterTail,
}

impl<'a> Parts<'a> {
    /// Nothing but the data.
    pub const NONE: Parts<'static> = Parts { head: &[], tail: &[], place: DataPlace::BeforeTail };

    /// A head that the device reads, then the data, then a tail that it writes.
    pub const fn around(head: &'a [AreaRange], tail: &'a [AreaRange]) -> Self {
        Self { head, tail, place: DataPlace::BeforeTail }
    }
}

/// Where the three parts of a queue are, as the transport wants to know it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct QueueAddresses {
    /// Ring entries.
    pub size: u16,
    /// The descriptor table, or the packed ring.
    pub desc: BusAddr,
    /// The available ring, or the driver's event suppression.
    pub driver: BusAddr,
    /// The used ring, or the device's event suppression.
    pub device: BusAddr,
}

/// A request that was refused, handed back.
#[derive(Debug)]
pub struct Unsubmitted<B, X> {
    /// Why.
    pub reason: Rejected,
    /// Its buffer, not in flight.
    pub buffer: Option<B>,
    /// What came with it.
    pub extra: X,
}

/// A request that the device has used.
#[derive(Debug)]
pub struct Used<B, X> {
    /// The slot that it had, which is free now.
    pub slot: u16,
    /// Bytes that the device reports as written; never more than it was given.
    pub len: u32,
    /// Its buffer, reclaimed; `None` if it had none or it had to be leaked.
    pub buffer: Option<B>,
    /// What came with it.
    pub extra: X,
}

/// Proof that a device does not access the memory of its queues any more: it was reset, and the reset was read back.
#[derive(Debug)]
pub struct Quiesced(());

impl Quiesced {
    /// States that a device has stopped.
    ///
    /// # Safety
    ///
    /// The device has stopped accessing the memory of the queues that this is shown to, and is not told of them again while this
    /// exists.
    pub const unsafe fn new() -> Self {
        Self(())
    }
}

/// Reclaims a buffer that did not complete where `proof` shows that the device has stopped; else leaks it, as the device may still
/// access it. A buffer that is dropped in flight leaks.
///
/// # Safety
///
/// `buffer` was put in flight by the queue that `proof` was shown to.
pub(super) unsafe fn reclaim_or_leak<B: DmaBuffer>(mut buffer: B, proof: Option<&Quiesced>) -> Option<B> {
    proof?;
    // SAFETY: by the contract of this function it is in flight on a device that, as the proof states, has stopped.
    unsafe { buffer.reclaim() };
    Some(buffer)
}

mod sealed {
    pub trait Sealed {}
}
pub(crate) use sealed::Sealed;

/// A queue as its device's driver sees it, whatever its requests are made of.
///
/// Sealed: a device is told of the addresses that a queue gives, and buffers are handed back on its word.
pub trait Ring: Sealed {
    /// The result of a completed request.
    type Used;

    /// Where its parts are. From now on the memory is leaked rather than freed, until [`quiesce`](Self::quiesce): the owner of the
    /// addresses may tell a device.
    fn addresses(&mut self) -> QueueAddresses;

    /// Says that the device has stopped, and makes the rings new. What is in flight stays in the table: see
    /// [`reclaim_next`](Self::reclaim_next).
    fn quiesce(&mut self, proof: &Quiesced);

    /// Takes back one request that was in flight, as never used; with `proof`, its buffer too, else that is leaked.
    fn reclaim_next(&mut self, proof: Option<&Quiesced>) -> Option<Self::Used>;

    /// Takes one request that the device has used.
    ///
    /// # Errors
    ///
    /// [`Fault::Protocol`] where the device names a request that is not in flight, claims to have written more than it was
    /// given, or moves an index too far. Nothing is taken then; the device has to be reset.
    fn pop(&mut self) -> Result<Option<Self::Used>, Fault>;

    /// Shows the device what was submitted since the last time; whether it has to be kicked.
    #[must_use]
    fn publish(&mut self) -> bool;

    /// Asks the device for an interrupt at the next used request; whether there already is one, so that no interrupt may
    /// come.
    #[must_use]
    fn arm(&mut self) -> bool;

    /// Tells the device that no interrupt is wanted.
    fn disarm(&mut self);

    /// Requests in flight.
    fn in_flight(&self) -> u16;
}

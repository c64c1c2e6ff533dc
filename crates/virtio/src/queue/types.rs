//! The types with which requests are submitted to queues and completed.

use paravirt_device::{Fault, Rejected};
use paravirt_platform::{BusAddr, DmaBuffer, Segment};

/// The configuration of a queue, which resets do not change.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct QueueConfig {
    /// Ring entries: a power of two, at most [`MAX_QUEUE_SIZE`](super::MAX_QUEUE_SIZE).
    pub size: u16,
    /// The format of the ring.
    pub format: RingFormat,
    /// Whether VIRTIO_F_EVENT_IDX is negotiated.
    pub event_idx: bool,
    /// Whether VIRTIO_F_IN_ORDER is negotiated.
    pub in_order: bool,
    /// The number of descriptors in the indirect table of each slot (VIRTIO_F_INDIRECT_DESC), rounded up to a power of two; 0 for
    /// direct chains only.
    pub indirect: u16,
    /// The size of each slot's [area](super::VirtQueue::area) in bytes, a multiple of 64; 0 for none.
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
    /// A split queue of `size` entries, without features, indirect tables or areas.
    pub const fn new(size: u16) -> Self {
        Self { size, format: RingFormat::Split, event_idx: false, in_order: false, indirect: 0, area: 0 }
    }
}

/// A byte range of a slot's area that is part of a request.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct AreaRange {
    /// The offset of the first byte in the area.
    pub offset: u16,
    /// The length in bytes, at least 1.
    pub len: u16,
}

impl AreaRange {
    /// The range of `len` bytes from `offset` on.
    pub const fn new(offset: u16, len: u16) -> Self {
        Self { offset, len }
    }

    /// Checks that the range is not empty and within an area of `area_len` bytes.
    #[inline(always)]
    pub(super) fn check(self, area_len: usize) -> Result<(), Rejected> {
        let end = usize::from(self.offset).wrapping_add(usize::from(self.len));
        if self.len == 0 || end > area_len { Err(Rejected::Invalid) } else { Ok(()) }
    }

    /// Returns the bus address and length of the range in the area at `area`.
    #[inline(always)]
    pub(super) fn segment(self, area: BusAddr) -> Segment {
        Segment { addr: area.offset(u64::from(self.offset)), len: u32::from(self.len) }
    }
}

/// The parts of a request that are in its slot's area.
#[derive(Copy, Clone, Debug, Default)]
pub struct Parts<'a> {
    /// The ranges that the device reads, before the data.
    pub head: &'a [AreaRange],
    /// The ranges that the device writes.
    pub tail: &'a [AreaRange],
    /// The position of data that the device writes, relative to the tail.
    pub place: DataPlace,
}

/// The position of data that the device writes, relative to the tail of a request.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum DataPlace {
    /// Before the tail.
    #[default]
    BeforeTail,
    /// After the tail.
    AfterTail,
}

impl<'a> Parts<'a> {
    /// Neither head nor tail: the request consists of the data.
    pub const NONE: Parts<'static> = Parts { head: &[], tail: &[], place: DataPlace::BeforeTail };

    /// A head that the device reads, then the data, then a tail that it writes.
    pub const fn around(head: &'a [AreaRange], tail: &'a [AreaRange]) -> Self {
        Self { head, tail, place: DataPlace::BeforeTail }
    }
}

/// The bus addresses of the three parts of a queue, with which a transport enables it.
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

/// A refused request, returned to the caller.
#[derive(Debug)]
pub struct Unsubmitted<B, X> {
    /// Why it was refused.
    pub reason: Rejected,
    /// The buffer, which is not in flight.
    pub buffer: Option<B>,
    /// The driver's state of the request.
    pub extra: X,
}

/// A completed request.
#[derive(Debug)]
pub struct Used<B, X> {
    /// The slot of the request, which is free now.
    pub slot: u16,
    /// The number of bytes that the device reports as written, at most the length of the writable part.
    pub len: u32,
    /// The reclaimed buffer; `None` if the request had none or it had to be leaked.
    pub buffer: Option<B>,
    /// The driver's state of the request.
    pub extra: X,
}

/// Proof that a device no longer accesses the memory of its queues: it was reset, and the reset was read back.
#[derive(Debug)]
pub struct Quiesced(());

impl Quiesced {
    /// Asserts that a device has stopped.
    ///
    /// # Safety
    ///
    /// The device no longer accesses the memory of the queues to which this proof is passed, and is not given their addresses again
    /// while the proof exists.
    pub const unsafe fn new() -> Self {
        Self(())
    }
}

/// Reclaims a buffer whose request did not complete, if `proof` shows that the device has stopped. Otherwise drops the buffer in
/// flight, which leaks it, since the device may still access it.
///
/// # Safety
///
/// `buffer` was put in flight by the queue to which `proof` was passed.
pub(super) unsafe fn reclaim_or_leak<B: DmaBuffer>(mut buffer: B, proof: Option<&Quiesced>) -> Option<B> {
    proof?;
    // SAFETY: by the contract of this function it is in flight on a device that, as the proof states, has stopped.
    unsafe { buffer.reclaim() };
    Some(buffer)
}

mod sealed {
    use crate::queue::memory::QueueMemory;
    use paravirt_platform::Platform;

    pub trait Sealed {
        /// The platform that the memory of the queue comes from.
        type Platform: Platform;

        /// Takes the memory that the device accesses from a queue that is about to be dropped, to keep it until the device is reset.
        ///
        /// # Safety
        ///
        /// The queue is not used any more, except that it is dropped, and has no requests in flight.
        unsafe fn take_memory(&mut self) -> QueueMemory<Self::Platform>;
    }
}
pub(crate) use sealed::Sealed;

/// The operations of every kind of queue, whatever its requests contain.
///
/// Sealed: drivers give a device the addresses that a queue returns, and return buffers to callers when the queue reports them
/// completed.
pub trait Ring: Sealed {
    /// The result of a completed request.
    type Used;

    /// Returns the addresses of the queue. From now on dropping the queue leaks its memory, until [`quiesce`](Self::quiesce): the
    /// caller may give the addresses to a device.
    fn addresses(&mut self) -> QueueAddresses;

    /// Records that the device has stopped, and reinitialises the rings. Requests in flight stay in the table until
    /// [`reclaim_next`](Self::reclaim_next) returns them.
    fn quiesce(&mut self, proof: &Quiesced);

    /// Returns one request in flight that the device did not complete; `None` if there is none. Its buffer is reclaimed with
    /// `proof` and leaked without.
    fn reclaim_next(&mut self, proof: Option<&Quiesced>) -> Option<Self::Used>;

    /// Returns the next completed request; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`Fault::Protocol`] if the device completes a request that is not in flight, reports a length beyond the writable part, or
    /// advances an index beyond the requests in flight. No request is completed then; the device has to be reset.
    fn pop(&mut self) -> Result<Option<Self::Used>, Fault>;

    /// Makes the requests submitted since the last call visible to the device, and returns whether the device has to be kicked.
    #[must_use]
    fn publish(&mut self) -> bool;

    /// Requests an interrupt for the next completion. Returns whether a completed request is already there, for which no interrupt
    /// may arrive.
    #[must_use]
    fn arm(&mut self) -> bool;

    /// Tells the device not to send interrupts.
    fn disarm(&mut self);

    /// Returns the number of requests in flight.
    fn in_flight(&self) -> u16;
}

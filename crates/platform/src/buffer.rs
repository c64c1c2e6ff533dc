use crate::BusAddr;
use core::fmt;

/// A contiguous part of a buffer, in bus addresses.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Segment {
    /// The bus address of the first byte.
    pub addr: BusAddr,
    /// Its length in bytes, at least 1.
    pub len: u32,
}

/// Which side writes a buffer while it is in flight.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Direction {
    /// The device only reads it.
    ToDevice,
    /// The device writes it.
    FromDevice,
}

/// Memory that a device may access now: the segments of a buffer in flight, and the direction that it was submitted in.
///
/// Only [`DmaBuffer::submit`] creates one without `unsafe`, so that safe code cannot give a device memory that it does not own. It
/// borrows from the buffer: while it exists the buffer cannot be reclaimed. Afterwards the device may continue to access the memory,
/// which is DMA-owned until [`DmaBuffer::reclaim`]; its caller guarantees that the device has stopped.
#[derive(Copy, Clone, Debug)]
pub struct DmaSegments<'a> {
    segments: &'a [Segment],
    direction: Direction,
}

impl<'a> DmaSegments<'a> {
    /// No memory.
    pub const EMPTY: DmaSegments<'static> = DmaSegments { segments: &[], direction: Direction::ToDevice };

    /// Creates a value from `segments` that a device may access in `direction`.
    ///
    /// # Safety
    ///
    /// Until an `unsafe` operation ends the access, whose caller guarantees that the device has stopped, each segment is valid for the
    /// device in `direction`, nothing else writes it, and for [`Direction::FromDevice`] nothing else reads it.
    #[inline(always)]
    pub const unsafe fn new(segments: &'a [Segment], direction: Direction) -> Self {
        Self { segments, direction }
    }

    /// Returns the segments, in the order of the bytes.
    #[inline(always)]
    pub const fn as_slice(&self) -> &'a [Segment] {
        self.segments
    }

    /// Returns which side writes them.
    #[inline(always)]
    pub const fn direction(&self) -> Direction {
        self.direction
    }
}

/// Why a buffer could not be submitted to a device.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum SubmitError {
    /// The buffer is already in flight.
    InFlight,
    /// The buffer is empty, or a segment is 4 GiB or longer.
    Length,
    /// The platform could not map the buffer for the device.
    Map,
    /// The device is given whole pages, and the buffer neither [owns its pages](DmaBuffer::owns_pages) nor can be copied.
    SharedPages,
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InFlight => "the buffer is already in flight",
            Self::Length => "the buffer is empty or too long",
            Self::Map => "the buffer cannot be mapped for the device",
            Self::SharedPages => "the buffer shares its pages, all of which the device would have",
        })
    }
}

impl core::error::Error for SubmitError {}

/// Memory for device access: a value that moves into a request and that the completion returns.
///
/// A driver calls [`submit`](Self::submit) when it accepts a request and [`reclaim`](Self::reclaim) once the completion was accepted
/// or the device is known to have stopped. In between the buffer is *in flight*: the memory is DMA-owned, and the guest does not
/// access the bytes. A value that is dropped or forgotten while in flight leaks its memory, which is safe.
///
/// A platform whose devices cannot reach ordinary memory (a confidential VM) implements this for a buffer that
/// bounces.
///
/// Drivers call both methods in task context on the data path, possibly under a spin lock: an implementation does not block and
/// calls no driver. A buffer is dropped there only where a queue is dropped while it is in flight.
///
/// # Safety
///
/// * From `submit` to `reclaim` the segments are valid for the device in the direction given, and the
///   implementation neither reads nor writes the memory, nor moves or frees it, even when it is dropped.
/// * The segments do not overlap and none is empty.
/// * `owns_pages` returns true only if that is so.
pub unsafe trait DmaBuffer: Send + 'static {
    /// Puts the buffer in flight and returns its DMA segments.
    ///
    /// # Errors
    ///
    /// [`SubmitError`]; the buffer is then not in flight, except after [`SubmitError::InFlight`].
    fn submit(&mut self, direction: Direction) -> Result<DmaSegments<'_>, SubmitError>;

    /// Ends the flight: the guest owns the memory again.
    ///
    /// # Safety
    ///
    /// The buffer is in flight, and the device no longer reads or writes it.
    unsafe fn reclaim(&mut self);

    /// Returns whether the buffer's segments are alone in their pages of [`PAGE_SIZE`](crate::PAGE_SIZE) bytes: whether the pages hold
    /// nothing else that a device must not read, or for [`Direction::FromDevice`] write, and stay so until `reclaim`.
    ///
    /// Xen's backends are given whole pages, and so only those of a buffer that returns true here; others are copied by way of
    /// [`bytes_to_copy`](Self::bytes_to_copy).
    fn owns_pages(&self) -> bool {
        false
    }

    /// Returns the bytes, as many as the segments have, for a driver that copies them to or from pages of its own instead of putting the
    /// buffer in flight; `None` if the buffer is in flight, or the bytes cannot be accessed as a slice.
    fn bytes_to_copy(&mut self) -> Option<&mut [u8]> {
        None
    }
}

/// Two kinds of buffer on one queue; nest it for more.
#[derive(Debug)]
pub enum Either<A, B> {
    /// The first kind.
    Left(A),
    /// The second kind.
    Right(B),
}

// SAFETY: forwards to a buffer with the same contract.
unsafe impl<A: DmaBuffer, B: DmaBuffer> DmaBuffer for Either<A, B> {
    fn submit(&mut self, direction: Direction) -> Result<DmaSegments<'_>, SubmitError> {
        match self {
            Self::Left(a) => a.submit(direction),
            Self::Right(b) => b.submit(direction),
        }
    }

    unsafe fn reclaim(&mut self) {
        // SAFETY: the variant is the one that was submitted, so the caller's guarantee applies to it.
        unsafe {
            match self {
                Self::Left(a) => a.reclaim(),
                Self::Right(b) => b.reclaim(),
            }
        }
    }

    fn owns_pages(&self) -> bool {
        match self {
            Self::Left(a) => a.owns_pages(),
            Self::Right(b) => b.owns_pages(),
        }
    }

    fn bytes_to_copy(&mut self) -> Option<&mut [u8]> {
        match self {
            Self::Left(a) => a.bytes_to_copy(),
            Self::Right(b) => b.bytes_to_copy(),
        }
    }
}

#[cfg(feature = "alloc")]
// SAFETY: forwards to a buffer with the same contract.
unsafe impl<B: DmaBuffer + ?Sized> DmaBuffer for alloc::boxed::Box<B> {
    fn submit(&mut self, direction: Direction) -> Result<DmaSegments<'_>, SubmitError> {
        (**self).submit(direction)
    }

    unsafe fn reclaim(&mut self) {
        // SAFETY: the caller's guarantee applies to the buffer in the box.
        unsafe { (**self).reclaim() }
    }

    fn owns_pages(&self) -> bool {
        (**self).owns_pages()
    }

    fn bytes_to_copy(&mut self) -> Option<&mut [u8]> {
        (**self).bytes_to_copy()
    }
}

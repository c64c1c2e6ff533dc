use crate::BusAddr;
use core::fmt;

/// A contiguous run of a buffer as a device sees it.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Segment {
    /// Where it begins.
    pub addr: BusAddr,
    /// Its length in bytes, at least 1.
    pub len: u32,
}

/// Which side writes a buffer while it is lent.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Direction {
    /// The device only reads it.
    ToDevice,
    /// The device writes it.
    FromDevice,
}

/// Why a buffer could not be lent.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum LendError {
    /// It is already lent.
    Lent,
    /// It is empty, or a segment is longer than 32 bits can say.
    Length,
    /// The platform could not map it for the device.
    Map,
}

impl fmt::Display for LendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lent => "the buffer is already lent",
            Self::Length => "the buffer is empty or too long",
            Self::Map => "the buffer cannot be mapped for the device",
        })
    }
}

impl core::error::Error for LendError {}

/// Memory that a device may be given: a value that is moved into a request and comes back with the completion.
///
/// A driver calls [`lend`](Self::lend) when it takes a request and [`reclaim`](Self::reclaim) once the completion
/// was accepted or the device is known to have stopped; in between, nobody touches the bytes. A value that is
/// dropped or forgotten while lent leaks its memory and corrupts nothing.
///
/// A platform whose devices cannot reach ordinary memory (a confidential VM) implements this for a buffer that
/// bounces.
///
/// # Safety
///
/// * From `lend` to `reclaim` the segments are valid for the device in the direction given, and the
///   implementation neither reads nor writes the memory, nor moves or frees it, even when it is dropped.
/// * The segments do not overlap and none is empty.
pub unsafe trait DmaBuffer: Send + 'static {
    /// Makes the memory over to a device and says where it sees it.
    ///
    /// # Errors
    ///
    /// [`LendError`]; the buffer is then not lent.
    fn lend(&mut self, direction: Direction) -> Result<&[Segment], LendError>;

    /// Takes the memory back.
    ///
    /// # Safety
    ///
    /// The buffer is lent, and the device no longer reads or writes it.
    unsafe fn reclaim(&mut self);
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
    fn lend(&mut self, direction: Direction) -> Result<&[Segment], LendError> {
        match self {
            Self::Left(a) => a.lend(direction),
            Self::Right(b) => b.lend(direction),
        }
    }

    unsafe fn reclaim(&mut self) {
        // SAFETY: passed on from the caller.
        unsafe {
            match self {
                Self::Left(a) => a.reclaim(),
                Self::Right(b) => b.reclaim(),
            }
        }
    }
}

#[cfg(feature = "alloc")]
// SAFETY: forwards to a buffer with the same contract.
unsafe impl<B: DmaBuffer + ?Sized> DmaBuffer for alloc::boxed::Box<B> {
    fn lend(&mut self, direction: Direction) -> Result<&[Segment], LendError> {
        (**self).lend(direction)
    }

    unsafe fn reclaim(&mut self) {
        // SAFETY: passed on from the caller.
        unsafe { (**self).reclaim() }
    }
}

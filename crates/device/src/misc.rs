use crate::{Fault, Notify};
use paravirt_platform::Instant;

/// The size of a console's screen.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct ConsoleSize {
    /// The number of characters in a line.
    pub columns: u16,
    /// The number of lines.
    pub rows: u16,
}

/// A console, a byte stream in both directions.
///
/// All methods are for task context. None waits for the host while the device is in service (see the [crate
/// documentation](crate#contexts-waits-and-locks)), allocates, or takes a lock then. Bytes are copied: no buffer of the caller is
/// in flight.
pub trait Console: Notify + Send {
    /// Copies the beginning of `bytes` into the transmit queue and returns the number of bytes; 0 when it is full.
    ///
    /// # Errors
    ///
    /// The [`Fault`] if the device is out of service; no byte of `bytes` was copied. Bytes that the host had not consumed are
    /// lost.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Fault>;

    /// Copies received bytes to the beginning of `bytes` and returns their number; 0 when there are none.
    ///
    /// # Errors
    ///
    /// The [`Fault`] if the device is out of service.
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Fault>;

    /// Whether the host has consumed all written bytes.
    ///
    /// # Errors
    ///
    /// The [`Fault`] if the device is out of service.
    fn is_flushed(&mut self) -> Result<bool, Fault>;

    /// The size of the screen; `None` if the host does not report it. Does not query the host.
    fn size(&self) -> Option<ConsoleSize>;
}

/// A source of random bytes from the host: mix them with other entropy before deriving keys.
///
/// All methods are for task context. None waits for the host while the device is in service (see the
/// [crate documentation](crate#contexts-waits-and-locks)), allocates, or takes a lock then.
pub trait Entropy: Notify + Send {
    /// Copies random bytes to the beginning of `bytes`, requests more from the host, and returns the number copied; 0 when there
    /// are none yet.
    ///
    /// # Errors
    ///
    /// The [`Fault`] if the device is out of service.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<usize, Fault>;
}

/// A monotonic clock that the hypervisor offers.
pub trait Clock: Send + Sync {
    /// The current time, the same on every processor and never decreasing. May be called in interrupt context; takes no lock and
    /// does not block.
    fn now(&self) -> Instant;
}

use crate::{Fault, Notify};
use paravirt_platform::Instant;

/// The size of a console's screen.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct ConsoleSize {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// A console, a byte stream in both directions. All methods run in task context and do not block.
pub trait Console: Notify + Send {
    /// Copies the beginning of `bytes` into the transmit queue and returns the number of bytes; 0 when it is full.
    ///
    /// # Errors
    ///
    /// The [`Fault`] where the device is out of service.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Fault>;

    /// Copies received bytes to the beginning of `bytes` and returns their number; 0 when there are none.
    ///
    /// # Errors
    ///
    /// The [`Fault`] where the device is out of service.
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Fault>;

    /// Whether the host has consumed all written bytes.
    ///
    /// # Errors
    ///
    /// The [`Fault`] where the device is out of service.
    fn is_flushed(&mut self) -> Result<bool, Fault>;

    /// The size of the screen; `None` where the host does not report it.
    fn size(&self) -> Option<ConsoleSize>;
}

/// A source of random bytes from the host: mix them with other entropy before deriving keys.
///
/// Runs in task context and does not block.
pub trait Entropy: Notify + Send {
    /// Copies random bytes to the beginning of `bytes`, requests more from the host, and returns the number copied; 0 when there
    /// are none yet.
    ///
    /// # Errors
    ///
    /// The [`Fault`] where the device is out of service.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<usize, Fault>;
}

/// A monotonic clock that the hypervisor offers.
pub trait Clock: Send + Sync {
    /// The current time, the same on every processor and never decreasing. May be called in interrupt context; takes no lock.
    fn now(&self) -> Instant;
}

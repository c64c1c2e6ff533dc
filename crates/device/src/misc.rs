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

/// A console: bytes in and out.
pub trait Console: Notify + Send {
    /// Takes as many of `bytes` as there is room for and returns how many; 0 means: wait for an event.
    ///
    /// # Errors
    ///
    /// The [`Fault`] where the device is out of service.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Fault>;

    /// Fills `bytes` with what has come in and returns how many; 0 means: nothing.
    ///
    /// # Errors
    ///
    /// The [`Fault`] where the device is out of service.
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Fault>;

    /// Whether all that was written has been taken by the host.
    ///
    /// # Errors
    ///
    /// The [`Fault`] where the device is out of service.
    fn is_flushed(&mut self) -> Result<bool, Fault>;

    /// The size of the screen, where the host says it.
    fn size(&self) -> Option<ConsoleSize>;
}

/// A source of random bytes. They are the host's: mix them with others before they become keys.
pub trait Entropy: Notify + Send {
    /// Fills the beginning of `bytes` with what the host has given and asks it for more; returns how many. 0
    /// means: wait for an event.
    ///
    /// # Errors
    ///
    /// The [`Fault`] where the device is out of service.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<usize, Fault>;
}

/// A monotonic clock that the hypervisor offers.
pub trait Clock: Send + Sync {
    /// The time on it, the same on every processor and never going back.
    fn now(&self) -> Instant;
}

//! Services for the host: shutdown, time, facts about the guest and key-value exchange.

use core::fmt;
use core::time::Duration;

/// The kind of shutdown that the host requests.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum PowerRequest {
    /// Power off.
    PowerOff,
    /// Restart.
    Restart,
    /// Hibernate: save memory to disk and power off.
    Hibernate,
    /// Suspend: the host saves the guest's memory, or moves it, and the guest goes on from there. The driver does that as soon as the guest has
    /// complied; the guest sees to it that its other processors use no device until [`Services::serve`] returns.
    ///
    /// [`Services::serve`]: https://docs.rs/paravirt/latest/paravirt/struct.Services.html#method.serve
    Suspend,
}

/// A time sample from the host.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct HostTime {
    /// The time since 1970-01-01 00:00:00 UTC, at the moment of the call.
    pub since_1970: Duration,
    /// Whether the clock is to be set to this time, after a boot or a pause. Otherwise the clock may be disciplined by it.
    pub is_step: bool,
}

impl HostTime {
    /// A sample, `since_1970` after 1970-01-01 00:00:00 UTC; assign `is_step` for a time that the clock is to be set to.
    pub const fn new(since_1970: Duration) -> Self {
        Self { since_1970, is_step: false }
    }
}

/// A fact about the guest that the host can query.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Fact {
    /// The host name of the guest.
    HostName,
    /// The name of the operating system.
    OsName,
    /// The version of the operating system.
    OsVersion,
    /// The major version number of the operating system.
    OsMajor,
    /// The minor version number of the operating system.
    OsMinor,
    /// The build number of the operating system.
    OsBuild,
    /// The processor architecture.
    Architecture,
    /// The IPv4 addresses, separated by semicolons.
    Addresses4,
    /// The IPv6 addresses, separated by semicolons.
    Addresses6,
}

/// The pool of a key-value pair: who writes it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ValuePool {
    /// Written by the host, read by the guest.
    FromHost,
    /// Written by the guest, read by the host.
    FromGuest,
    /// Facts about the host, such as its name.
    HostFacts,
}

/// Answers the host's requests to the guest as a whole. Every method has a default that declines.
///
/// The driver calls these methods in task context while it serves its channels, and holds no lock of the driver; they may block and
/// allocate, but the host waits for the answer.
pub trait Agent {
    /// The host requests a shutdown; `is_forced` if it will not accept a refusal.
    ///
    /// Returns whether the guest complies. The guest shuts down after this returns, so that the response reaches the host first.
    fn power(&mut self, request: PowerRequest, is_forced: bool) -> bool {
        let _ = (request, is_forced);
        false
    }

    /// The host sends its time.
    fn time(&mut self, time: HostTime) {
        let _ = time;
    }

    /// Writes a fact to `out`.
    ///
    /// # Errors
    ///
    /// The errors of `out`; also when the fact is unknown: the host then receives an empty string.
    fn fact(&mut self, fact: Fact, out: &mut dyn fmt::Write) -> fmt::Result {
        let _ = (fact, out);
        Err(fmt::Error)
    }

    /// The host sets the value of a key, or deletes the key (`None`). Returns whether that was done.
    fn set_value(&mut self, pool: ValuePool, key: &str, value: Option<&str>) -> bool {
        let _ = (pool, key, value);
        false
    }

    /// Writes the value of `key` to `out`.
    ///
    /// # Errors
    ///
    /// The errors of `out`; also when there is no such key.
    fn value(&mut self, pool: ValuePool, key: &str, out: &mut dyn fmt::Write) -> fmt::Result {
        let _ = (pool, key, out);
        Err(fmt::Error)
    }

    /// Writes the key at `index` of the pool's enumeration to `out`.
    ///
    /// # Errors
    ///
    /// The errors of `out`; also when `index` is out of range.
    fn key(&mut self, pool: ValuePool, index: u32, out: &mut dyn fmt::Write) -> fmt::Result {
        let _ = (pool, index, out);
        Err(fmt::Error)
    }
}

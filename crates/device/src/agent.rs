//! What a host asks of the guest as a whole, and what it tells it.

use core::fmt;
use core::time::Duration;

/// How the machine is to end.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum PowerRequest {
    /// Switched off.
    PowerOff,
    /// Started anew.
    Restart,
    /// Its memory kept on a disk, and switched off.
    Hibernate,
}

/// The time of day as the host has it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct HostTime {
    /// Since the beginning of 1970, UTC, at the moment of the call.
    pub since_1970: Duration,
    /// Whether the clock is to be set to it: after a start, or when the machine was stopped. Else it is a sample, by which a
    /// clock may be disciplined.
    pub is_step: bool,
}

/// What a host may want to know of a guest.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Fact {
    /// The name of the machine in the network.
    HostName,
    /// The name of the operating system.
    OsName,
    /// Its version.
    OsVersion,
    /// The first and the second number of that.
    OsMajor,
    /// See there.
    OsMinor,
    /// Which build it is.
    OsBuild,
    /// The processors that it is for.
    Architecture,
    /// The version 4 addresses, with semicolons between them.
    Addresses4,
    /// The version 6 addresses, with semicolons between them.
    Addresses6,
}

/// Whose a value is.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum ValuePool {
    /// The host's, for the guest to read.
    FromHost,
    /// The guest's, for the host to read.
    FromGuest,
    /// The host's own facts, of which its name is one.
    HostFacts,
}

/// What answers for the guest. Everything has a default that declines.
pub trait Agent {
    /// The host wants the machine to end; `is_forced` where it will not be put off. Whether the guest will do so: after this
    /// returned, so that the answer reaches the host.
    fn power(&mut self, request: PowerRequest, is_forced: bool) -> bool {
        let _ = (request, is_forced);
        false
    }

    /// The host tells the time.
    fn time(&mut self, time: HostTime) {
        let _ = time;
    }

    /// Writes a fact to `out`.
    ///
    /// # Errors
    ///
    /// Those of `out`; also where the fact is not known, which the host is then told as an empty text.
    fn fact(&mut self, fact: Fact, out: &mut dyn fmt::Write) -> fmt::Result {
        let _ = (fact, out);
        Err(fmt::Error)
    }

    /// The host sets a value, or takes it away. Whether it was kept.
    fn set_value(&mut self, pool: ValuePool, key: &str, value: Option<&str>) -> bool {
        let _ = (pool, key, value);
        false
    }

    /// Writes a value to `out`.
    ///
    /// # Errors
    ///
    /// Those of `out`; also where there is no such value.
    fn value(&mut self, pool: ValuePool, key: &str, out: &mut dyn fmt::Write) -> fmt::Result {
        let _ = (pool, key, out);
        Err(fmt::Error)
    }

    /// Writes the key of value `index` to `out`.
    ///
    /// # Errors
    ///
    /// Those of `out`; also where there are not so many.
    fn key(&mut self, pool: ValuePool, index: u32, out: &mut dyn fmt::Write) -> fmt::Result {
        let _ = (pool, index, out);
        Err(fmt::Error)
    }
}

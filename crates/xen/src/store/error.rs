//! Why a request to xenstore failed.

use core::fmt;
use paravirt_device::Fault;

/// Why a request failed.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no such node.
    Missing,
    /// The path or the value is too long, or the answer is longer than the room for it, or there are too many watches.
    Length,
    /// The transaction met another one: everything in it is to be done again.
    Again,
    /// There is one already.
    Exists,
    /// The host refused it.
    Refused,
    /// Xenstore is out of service.
    Faulted(Fault),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("there is no such node"),
            Self::Length => f.write_str("a path, a value or an answer is too long"),
            Self::Again => f.write_str("the transaction met another one"),
            Self::Exists => f.write_str("there is one already"),
            Self::Refused => f.write_str("the host refused the request"),
            Self::Faulted(fault) => fault.fmt(f),
        }
    }
}

impl core::error::Error for StoreError {}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        Self::Faulted(fault)
    }
}

/// The error that a host names.
pub fn error(name: &[u8]) -> StoreError {
    match name.split(|byte| *byte == 0).next().unwrap_or_default() {
        b"ENOENT" => StoreError::Missing,
        b"EAGAIN" => StoreError::Again,
        b"EEXIST" => StoreError::Exists,
        other => {
            log::debug!("xenstore: the host refused a request: {}", other.escape_ascii());
            StoreError::Refused
        }
    }
}

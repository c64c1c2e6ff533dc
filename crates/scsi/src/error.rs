use core::fmt;
use paravirt_device::Fault;
use paravirt_platform::AllocError;

/// Why a controller could not be opened.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum OpenError {
    /// The platform has no memory.
    Memory,
    /// The controller cannot be taken into service.
    Faulted(Fault),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => AllocError.fmt(f),
            Self::Faulted(fault) => fault.fmt(f),
        }
    }
}

impl core::error::Error for OpenError {}

impl From<AllocError> for OpenError {
    fn from(_: AllocError) -> Self {
        Self::Memory
    }
}

impl From<Fault> for OpenError {
    fn from(fault: Fault) -> Self {
        Self::Faulted(fault)
    }
}

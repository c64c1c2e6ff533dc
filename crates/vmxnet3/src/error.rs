use core::fmt;
use paravirt_device::Fault;
use paravirt_platform::AllocError;

/// Why a card could not be opened.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum OpenError {
    /// The registers cannot be used.
    Pci(paravirt_pci::OpenError),
    /// The platform has no memory.
    Memory,
    /// The card does not offer revision 1 of its interface.
    Revision,
    /// The card cannot be taken into service.
    Faulted(Fault),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(error) => error.fmt(f),
            Self::Memory => AllocError.fmt(f),
            Self::Revision => f.write_str("it does not offer revision 1 of its interface"),
            Self::Faulted(fault) => fault.fmt(f),
        }
    }
}

impl core::error::Error for OpenError {}

impl From<paravirt_pci::OpenError> for OpenError {
    fn from(error: paravirt_pci::OpenError) -> Self {
        Self::Pci(error)
    }
}

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

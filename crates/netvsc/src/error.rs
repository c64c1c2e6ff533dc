use core::fmt;
use paravirt_device::{ControlError, Fault};
use paravirt_platform::AllocError;
use paravirt_vmbus::{ChannelError, SendError};

/// Why a device could not be opened.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum OpenError {
    /// The channel could not be opened, or the buffers could not be shared with the host.
    Channel(ChannelError),
    /// The host and this driver have no NVSP version in common.
    Version,
    /// The host refused the receive buffer.
    Buffers,
    /// The host refused a setup step, with this status.
    Refused(u32),
    /// The host broke the protocol, or does not answer.
    Faulted(Fault),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel(error) => error.fmt(f),
            Self::Version => f.write_str("no NVSP version in common with the host"),
            Self::Buffers => f.write_str("the host refused the receive buffer"),
            Self::Refused(status) => write!(f, "the host refused a setup step with status {status:#x}"),
            Self::Faulted(fault) => fault.fmt(f),
        }
    }
}

impl core::error::Error for OpenError {}

impl From<ChannelError> for OpenError {
    fn from(error: ChannelError) -> Self {
        Self::Channel(error)
    }
}

impl From<AllocError> for OpenError {
    fn from(_: AllocError) -> Self {
        Self::Channel(ChannelError::Memory)
    }
}

impl From<Fault> for OpenError {
    fn from(fault: Fault) -> Self {
        Self::Faulted(fault)
    }
}

impl From<SendError> for OpenError {
    fn from(error: SendError) -> Self {
        Self::Faulted(error.into())
    }
}

impl From<ControlError> for OpenError {
    fn from(error: ControlError) -> Self {
        Self::Faulted(match error {
            ControlError::Faulted(fault) => fault,
            _ => Fault::Refused,
        })
    }
}

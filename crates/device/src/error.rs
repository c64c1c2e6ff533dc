use core::fmt;
use paravirt_platform::SubmitError;

/// Why a device is out of service.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// The host violated the protocol. The device stays out of service.
    Protocol,
    /// The host did not answer in time, not even to a reset. The device stays out of service, and memory that it may still
    /// access has been leaked.
    Timeout,
    /// The device was removed.
    Removed,
    /// The device is being reset. It starts again when every queue has been drained.
    Reset,
    /// The device rejected features that it offered, or changed its identity across a reset.
    Refused,
}

impl Fault {
    /// Returns the fault as a number above 0, for an atomic in which 0 may say that there is none.
    ///
    /// ```
    /// # use paravirt_device::Fault;
    /// for fault in [Fault::Protocol, Fault::Timeout, Fault::Removed, Fault::Reset, Fault::Refused] {
    ///     assert_eq!(Fault::from_code(fault.code()), fault);
    ///     assert!(fault.code() > 0);
    /// }
    /// ```
    pub const fn code(self) -> u8 {
        match self {
            Self::Protocol => 1,
            Self::Timeout => 2,
            Self::Removed => 3,
            Self::Reset => 4,
            Self::Refused => 5,
        }
    }

    /// Returns the fault with this [`code`](Self::code); [`Refused`](Self::Refused) if there is none.
    pub const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Protocol,
            2 => Self::Timeout,
            3 => Self::Removed,
            4 => Self::Reset,
            _ => Self::Refused,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Protocol => "the host violated the protocol",
            Self::Timeout => "the host does not answer",
            Self::Removed => "the device was removed",
            Self::Reset => "the device is being reset",
            Self::Refused => "the device cannot be set up",
        })
    }
}

impl core::error::Error for Fault {}

/// How a request that was accepted failed.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum IoError {
    /// The device reports an error.
    Device,
    /// The medium cannot be read or written at this address.
    Medium,
    /// The blocks are beyond the end of the medium, which may have shrunk.
    Range,
    /// The device does not support the operation.
    Unsupported,
    /// The medium is write-protected.
    ReadOnly,
    /// The device was reset or removed before the request completed; it may or may not have been executed.
    Aborted,
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Device => "the device reports an error",
            Self::Medium => "the medium cannot be read or written at this address",
            Self::Range => "the blocks are beyond the end of the medium",
            Self::Unsupported => "the device does not support the operation",
            Self::ReadOnly => "the medium is read-only",
            Self::Aborted => "the request was aborted",
        })
    }
}

impl core::error::Error for IoError {}

/// Why a request was not accepted. The request is returned with its buffer; nothing was sent.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Rejected {
    /// The queue is full: try again after a completion.
    Full,
    /// The range exceeds the medium.
    Range,
    /// The length, alignment or segmentation is outside the limits of the device.
    Invalid,
    /// The medium is read-only.
    ReadOnly,
    /// The device does not offer the operation.
    Unsupported,
    /// The buffer could not be submitted to the device.
    Buffer(SubmitError),
    /// The device is out of service.
    Faulted(Fault),
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the queue is full"),
            Self::Range => f.write_str("the range exceeds the medium"),
            Self::Invalid => {
                f.write_str("the device does not accept a request of this length or segmentation")
            }
            Self::ReadOnly => f.write_str("the medium is read-only"),
            Self::Unsupported => f.write_str("the device does not offer the operation"),
            Self::Buffer(error) => error.fmt(f),
            Self::Faulted(fault) => fault.fmt(f),
        }
    }
}

impl core::error::Error for Rejected {}

impl From<Fault> for Rejected {
    fn from(fault: Fault) -> Self {
        Self::Faulted(fault)
    }
}

/// Why a setting of a device was not changed.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ControlError {
    /// The device does not offer the setting.
    Unsupported,
    /// The device refused the setting.
    Refused,
    /// The device is out of service.
    Faulted(Fault),
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported => f.write_str("the device does not offer the setting"),
            Self::Refused => f.write_str("the device refused the setting"),
            Self::Faulted(fault) => fault.fmt(f),
        }
    }
}

impl core::error::Error for ControlError {}

impl From<Fault> for ControlError {
    fn from(fault: Fault) -> Self {
        Self::Faulted(fault)
    }
}

//! Why a device could not be opened.

use crate::CallError;
use crate::store::StoreError;
use core::fmt;
use paravirt_device::Fault;
use paravirt_platform::AllocError;

/// Why a device could not be opened.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum DeviceError {
    /// Xenstore refused a request, or the backend did not get ready.
    Store(StoreError),
    /// The hypervisor refused a call.
    Call(CallError),
    /// The backend does not offer what the driver cannot do without, or describes an impossible device.
    Unsupported,
    /// A drive without a medium, whose backend does not get ready.
    NoMedium,
    /// Out of memory, or of grants.
    Memory,
    /// The device is out of service.
    Faulted(Fault),
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Call(error) => error.fmt(f),
            Self::Unsupported => {
                f.write_str("the backend offers too little, or describes an impossible device")
            }
            Self::NoMedium => f.write_str("the drive has no medium"),
            Self::Memory => f.write_str("out of memory, or of grants"),
            Self::Faulted(fault) => fault.fmt(f),
        }
    }
}

impl core::error::Error for DeviceError {}

impl From<StoreError> for DeviceError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<CallError> for DeviceError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl From<AllocError> for DeviceError {
    fn from(_: AllocError) -> Self {
        Self::Memory
    }
}

impl From<Fault> for DeviceError {
    fn from(fault: Fault) -> Self {
        Self::Faulted(fault)
    }
}

impl DeviceError {
    /// The fault with which a device goes out of service.
    pub(super) fn fault(self) -> Fault {
        match self {
            Self::Store(StoreError::Faulted(fault)) | Self::Faulted(fault) => fault,
            Self::Store(StoreError::Missing) => Fault::Removed,
            _ => Fault::Refused,
        }
    }
}

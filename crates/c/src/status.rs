use core::ffi::{CStr, c_char};
use paravirt_device::{ControlError, Fault, IoError, Rejected, SocketError};

/// The result of a call.
#[repr(C)]
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum paravirt_status {
    /// Done.
    Ok,
    /// There is nothing now: no completion, no event, no frame.
    Empty,
    /// There is no room now: try again after a completion.
    Full,
    /// The request exceeds the device or its limits.
    Range,
    /// An argument is invalid.
    Invalid,
    /// The medium is read-only.
    ReadOnly,
    /// The device does not offer that.
    Unsupported,
    /// The buffer cannot be given to the device: it is empty, or too long.
    Buffer,
    /// There is no memory.
    NoMemory,
    /// The device reported an error.
    Device,
    /// The medium is defective at these blocks.
    Medium,
    /// The request was aborted by a reset. It may have been executed.
    Aborted,
    /// The device refused.
    Refused,
    /// No such socket.
    Unknown,
    /// The socket is not open.
    NotOpen,
    /// The port is in use.
    InUse,
    /// Out of service: the device violated its protocol.
    FaultProtocol,
    /// Out of service: the device did not confirm that it had stopped. Memory that it may write is kept.
    FaultTimeout,
    /// Out of service: the device was removed.
    FaultRemoved,
    /// The device is being reset, and is in service again when all of its queues have returned what was in flight.
    FaultReset,
    /// Out of service: the device could not be started again.
    FaultRefused,
    /// An error that this header does not know.
    Other,
}

use paravirt_status as Status;

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Protocol => Self::FaultProtocol,
            Fault::Timeout => Self::FaultTimeout,
            Fault::Removed => Self::FaultRemoved,
            Fault::Reset => Self::FaultReset,
            _ => Self::FaultRefused,
        }
    }
}

impl From<Rejected> for Status {
    fn from(reason: Rejected) -> Self {
        match reason {
            Rejected::Full => Self::Full,
            Rejected::Range => Self::Range,
            Rejected::Invalid => Self::Invalid,
            Rejected::ReadOnly => Self::ReadOnly,
            Rejected::Unsupported => Self::Unsupported,
            Rejected::Buffer(_) => Self::Buffer,
            Rejected::Faulted(fault) => fault.into(),
            _ => Self::Other,
        }
    }
}

impl From<IoError> for Status {
    fn from(error: IoError) -> Self {
        match error {
            IoError::Device => Self::Device,
            IoError::Medium => Self::Medium,
            IoError::Range => Self::Range,
            IoError::Unsupported => Self::Unsupported,
            IoError::ReadOnly => Self::ReadOnly,
            IoError::Aborted => Self::Aborted,
            _ => Self::Other,
        }
    }
}

impl From<ControlError> for Status {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Unsupported => Self::Unsupported,
            ControlError::Refused => Self::Refused,
            ControlError::Faulted(fault) => fault.into(),
            _ => Self::Other,
        }
    }
}

impl From<SocketError> for Status {
    fn from(error: SocketError) -> Self {
        match error {
            SocketError::Full => Self::Full,
            SocketError::Unknown => Self::Unknown,
            SocketError::NotOpen => Self::NotOpen,
            SocketError::InUse => Self::InUse,
            SocketError::Unsupported => Self::Unsupported,
            SocketError::Faulted(fault) => fault.into(),
            _ => Self::Other,
        }
    }
}

impl<E: Into<Status>> From<Result<(), E>> for Status {
    fn from(result: Result<(), E>) -> Self {
        result.map_or_else(Into::into, |()| Self::Ok)
    }
}

/// Writes what `result` has to `out`. `None` is [`Status::Empty`].
///
/// # Safety
///
/// `out` is valid for writing.
pub(crate) unsafe fn put<T, E: Into<Status>>(result: Result<Option<T>, E>, out: *mut T) -> Status {
    match result {
        Ok(Some(value)) => {
            // SAFETY: by the contract of this function.
            unsafe { out.write(value) };
            Status::Ok
        }
        Ok(None) => Status::Empty,
        Err(error) => error.into(),
    }
}

/// The statuses and what describes them, in the order of their numbers.
const TEXTS: &[(Status, &CStr)] = &[
    (Status::Ok, c"done"),
    (Status::Empty, c"nothing there now"),
    (Status::Full, c"no room now"),
    (Status::Range, c"beyond the limits of the device"),
    (Status::Invalid, c"an invalid argument"),
    (Status::ReadOnly, c"the medium is read-only"),
    (Status::Unsupported, c"not supported by the device"),
    (Status::Buffer, c"the buffer is empty or too long"),
    (Status::NoMemory, c"no memory"),
    (Status::Device, c"the device reported an error"),
    (Status::Medium, c"the medium is defective"),
    (Status::Aborted, c"aborted by a reset"),
    (Status::Refused, c"refused by the device"),
    (Status::Unknown, c"no such socket"),
    (Status::NotOpen, c"the socket is not open"),
    (Status::InUse, c"the port is in use"),
    (Status::FaultProtocol, c"out of service: the device violated its protocol"),
    (Status::FaultTimeout, c"out of service: the device did not stop"),
    (Status::FaultRemoved, c"out of service: the device was removed"),
    (Status::FaultReset, c"the device is being reset"),
    (Status::FaultRefused, c"out of service: the device cannot be started"),
    (Status::Other, c"an unknown error"),
];

/// Returns a short English text that describes `status`, a `paravirt_status`. It is constant and ends in a zero.
#[unsafe(no_mangle)]
pub extern "C" fn paravirt_status_text(status: u32) -> *const c_char {
    let known = TEXTS.iter().find(|(known, _)| *known as u32 == status);
    known.map_or(c"not a status of this library", |(_, text)| *text).as_ptr()
}

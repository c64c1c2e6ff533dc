//! Stream sockets between the guest and its host (VIRTIO 1.3 §5.10; Hyper-V sockets).

use crate::{Fault, Notify};
use core::fmt;

/// A handle of a socket. The generation distinguishes a closed socket from a later one in the same slot.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct SocketId {
    place: u16,
    generation: u32,
}

impl SocketId {
    /// The socket in slot `place` of the driver's table, with the generation of the slot.
    pub const fn new(place: u16, generation: u32) -> Self {
        Self { place, generation }
    }

    /// The slot in the driver's table.
    pub const fn place(self) -> u16 {
        self.place
    }

    /// The generation of the slot.
    pub const fn generation(self) -> u32 {
        self.generation
    }
}

/// The state of a socket.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum SocketState {
    /// The host has not answered yet.
    Connecting,
    /// The connection is established: data can be sent, and received data read.
    Open {
        /// Whether the host has shut down its sending side. Data received before can still be read.
        is_ended: bool,
    },
    /// The connection is closed. Data received before can still be read.
    Closed(CloseReason),
}

/// Why a connection is closed.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The host refused the connection, for example because no service listens on the port.
    Refused,
    /// The host did not answer in time.
    TimedOut,
    /// The host closed the connection in order; all data that it sent have been received.
    Ended,
    /// The host reset the connection, or the device was reset.
    Reset,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "connection refused",
            Self::TimedOut => "the host did not answer in time",
            Self::Ended => "the host closed the connection",
            Self::Reset => "connection reset",
        })
    }
}

/// Why an operation on a socket failed.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum SocketError {
    /// The table of sockets or listeners is full, or there is no memory.
    Full,
    /// The socket does not exist, or was closed.
    Unknown,
    /// The connection is not established, or its sending side is shut down by the guest or the host.
    NotOpen,
    /// The guest already listens on the port.
    InUse,
    /// The host does not support sockets.
    Unsupported,
    /// The device is out of service.
    Faulted(Fault),
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the table of sockets is full"),
            Self::Unknown => f.write_str("no such socket"),
            Self::NotOpen => f.write_str("the socket is not connected"),
            Self::InUse => f.write_str("the port is in use"),
            Self::Unsupported => f.write_str("the host does not support sockets"),
            Self::Faulted(fault) => fault.fmt(f),
        }
    }
}

impl core::error::Error for SocketError {}

impl From<Fault> for SocketError {
    fn from(fault: Fault) -> Self {
        Self::Faulted(fault)
    }
}

/// The maximum number of ports that a guest listens on.
const MAX_PORTS: usize = 8;

/// The ports that a guest listens on, for drivers.
#[derive(Clone, Debug, Default)]
pub struct Listeners([Option<u32>; MAX_PORTS]);

impl Listeners {
    /// Adds a port.
    ///
    /// # Errors
    ///
    /// [`SocketError::InUse`] when the port is in the set; [`SocketError::Full`] when the set holds 8 ports.
    pub fn add(&mut self, port: u32) -> Result<(), SocketError> {
        if self.contain(port) {
            return Err(SocketError::InUse);
        }
        let free = self.0.iter_mut().find(|slot| slot.is_none()).ok_or(SocketError::Full)?;
        *free = Some(port);
        Ok(())
    }

    /// Whether the guest listens on `port`.
    pub fn contain(&self, port: u32) -> bool {
        self.0.contains(&Some(port))
    }
}

/// Stream sockets to the host: `AF_VSOCK` on Linux, the virtio socket device, Hyper-V sockets.
///
/// All methods are for task context. Data are copied: no buffer of the caller is in flight.
///
/// On virtio none waits for the host while the device is in service, and none takes a lock then. On VMBus each socket is a separate
/// channel, which is opened and closed in [`poll`](Self::poll), and so in [`is_flushed`](Self::is_flushed) and
/// [`expire`](Notify::expire): each of these blocks for the timeout of the bus at most for each step of opening the channel of one
/// socket, and of closing those of sockets that were closed. [`connect`](Self::connect) blocks while the host accepts no message,
/// for the timeout of the bus at most. The others do not wait for the host; they may take the lock of the bus for a moment.
///
/// ```
/// use paravirt_device::{SocketError, SocketState, Sockets};
///
/// /// Sends `question` to the service on `port` and polls for as much of its answer as fits.
/// fn ask<S: Sockets>(sockets: &mut S, port: u32, question: &[u8], answer: &mut [u8]) -> Result<usize, SocketError> {
///     let socket = sockets.connect(port)?;
///     let (mut sent, mut got) = (0, 0);
///     while got < answer.len() {
///         sockets.poll()?;
///         got += sockets.receive(socket, &mut answer[got..])?;
///         match sockets.state(socket) {
///             Some(SocketState::Open { is_ended: false }) if sent < question.len() => {
///                 sent += sockets.send(socket, &question[sent..])?;
///                 if sent == question.len() {
///                     sockets.finish(socket)?;
///                 }
///             }
///             Some(SocketState::Open { is_ended: true } | SocketState::Closed(_)) | None => break,
///             _ => {}
///         }
///     }
///     sockets.close(socket);
///     Ok(got)
/// }
/// ```
pub trait Sockets: Notify + Send {
    /// The maximum number of open sockets.
    fn capacity(&self) -> u16;

    /// Processes events from the host, a bounded number at a time. The states of sockets change only here and in calls on a socket.
    /// May allocate, for a socket that the host connects.
    ///
    /// # Errors
    ///
    /// The [`Fault`] that closed all sockets. After [`Fault::Reset`] new sockets can be opened.
    fn poll(&mut self) -> Result<(), Fault>;

    /// Starts to connect to `port` of the host. The socket is [`SocketState::Connecting`] until the host answers. May allocate.
    ///
    /// # Errors
    ///
    /// [`SocketError::Full`], [`SocketError::Unsupported`], or [`SocketError::Faulted`].
    fn connect(&mut self, port: u32) -> Result<SocketId, SocketError>;

    /// Accepts connections of the host to `port` of the guest.
    ///
    /// # Errors
    ///
    /// [`SocketError::InUse`], [`SocketError::Full`], [`SocketError::Unsupported`], or [`SocketError::Faulted`].
    fn listen(&mut self, port: u32) -> Result<(), SocketError>;

    /// Returns the next connection of the host to `port`. Connections not yet accepted count as open sockets.
    fn accept(&mut self, port: u32) -> Option<SocketId>;

    /// The state of a socket; `None` when it does not exist any more.
    fn state(&self, socket: SocketId) -> Option<SocketState>;

    /// Copies the beginning of `bytes` into the send queue and returns the number of bytes; 0 when there is no room.
    ///
    /// # Errors
    ///
    /// [`SocketError::Unknown`], [`SocketError::NotOpen`], or [`SocketError::Faulted`].
    fn send(&mut self, socket: SocketId, bytes: &[u8]) -> Result<usize, SocketError>;

    /// Copies received data to the beginning of `bytes` and returns the number of bytes; 0 when there are none.
    ///
    /// # Errors
    ///
    /// [`SocketError::Unknown`] or [`SocketError::Faulted`].
    fn receive(&mut self, socket: SocketId, bytes: &mut [u8]) -> Result<usize, SocketError>;

    /// Shuts down the sending side, after the data sent so far.
    ///
    /// # Errors
    ///
    /// [`SocketError::Unknown`], [`SocketError::NotOpen`], or [`SocketError::Faulted`].
    fn finish(&mut self, socket: SocketId) -> Result<(), SocketError>;

    /// Closes a socket. Data sent before still reach the host; data from the host are discarded. The slot is free after the host
    /// has been notified.
    fn close(&mut self, socket: SocketId);

    /// Whether the host has received all data, including those of closed sockets. Wait for it before shutdown.
    ///
    /// # Errors
    ///
    /// The [`Fault`] when the device is out of service.
    fn is_flushed(&mut self) -> Result<bool, Fault>;
}

//! Stream sockets between the guest and its host, without a network.

use crate::{Fault, Notify};
use core::fmt;

/// A socket of a device. One that was closed is not confused with a later one.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct SocketId {
    place: u16,
    generation: u32,
}

impl SocketId {
    /// The socket in `place` of a driver's table, the `generation`th one there.
    pub const fn new(place: u16, generation: u32) -> Self {
        Self { place, generation }
    }

    /// The place in the driver's table.
    pub const fn place(self) -> u16 {
        self.place
    }

    /// Which one it is of those that were in this place.
    pub const fn generation(self) -> u32 {
        self.generation
    }
}

/// How a socket stands.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum SocketState {
    /// The host has not answered yet.
    Connecting,
    /// It is open. What came in may be read still when `is_ended`, and what is written is sent.
    Open {
        /// The host sends no more than what has come in.
        is_ended: bool,
    },
    /// It is over: what came in may be read still.
    Closed(CloseReason),
}

/// Why a socket is closed.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum CloseReason {
    /// Nobody listens there, or the host wants none.
    Refused,
    /// The host did not answer in time.
    TimedOut,
    /// The host has ended it in good order: it got what it wanted, and all that it sent has come.
    Ended,
    /// The host has cut it off, or the device was reset.
    Reset,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "nobody listens there",
            Self::TimedOut => "the host did not answer",
            Self::Ended => "the host has ended it",
            Self::Reset => "the host has cut it off",
        })
    }
}

/// Why a socket did not do what it was to do.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum SocketError {
    /// There are as many sockets as there can be, or no memory.
    Full,
    /// There is no such socket any more.
    Unknown,
    /// It is not open yet, or no more; or this side has said that it sends no more, or the host that it takes no more.
    NotOpen,
    /// Somebody listens there already.
    InUse,
    /// The host does not know sockets.
    Unsupported,
    /// The device is out of service.
    Faulted(Fault),
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("there are no more sockets"),
            Self::Unknown => f.write_str("there is no such socket"),
            Self::NotOpen => f.write_str("the socket is not open"),
            Self::InUse => f.write_str("the port is in use"),
            Self::Unsupported => f.write_str("the host does not know sockets"),
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

/// Ports that can be listened at, at once.
const MOST_PORTS: usize = 8;

/// The ports at which a guest listens: for drivers.
#[derive(Clone, Debug, Default)]
pub struct Listeners([Option<u32>; MOST_PORTS]);

impl Listeners {
    /// Adds a port.
    ///
    /// # Errors
    ///
    /// [`SocketError::InUse`]; [`SocketError::Full`] where there are 8 of them.
    pub fn add(&mut self, port: u32) -> Result<(), SocketError> {
        if self.contain(port) {
            return Err(SocketError::InUse);
        }
        let free = self.0.iter_mut().find(|slot| slot.is_none()).ok_or(SocketError::Full)?;
        *free = Some(port);
        Ok(())
    }

    /// Whether `port` is one of them.
    pub fn contain(&self, port: u32) -> bool {
        self.0.contains(&Some(port))
    }
}

/// Stream sockets to the host: what Linux has as `AF_VSOCK`, virtio as its socket device, and Hyper-V as its sockets.
///
/// ```
/// use paravirt_device::{SocketError, SocketState, Sockets};
///
/// /// Asks the service at `port`, by polling; what it answers, as much as fits.
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
    /// Sockets that can be open at once.
    fn capacity(&self) -> u16;

    /// Takes in what has happened. States, and what can be read and written, change by this and by the calls of the socket.
    ///
    /// # Errors
    ///
    /// The [`Fault`] that ends all sockets. After [`Fault::Reset`] they are gone and new ones can be made.
    fn poll(&mut self) -> Result<(), Fault>;

    /// Begins to connect to what listens at `port` of the host.
    ///
    /// # Errors
    ///
    /// [`SocketError`].
    fn connect(&mut self, port: u32) -> Result<SocketId, SocketError>;

    /// Lets the host connect to `port` of the guest.
    ///
    /// # Errors
    ///
    /// [`SocketError`].
    fn listen(&mut self, port: u32) -> Result<(), SocketError>;

    /// Takes the next socket by which the host has connected to `port`. Up to then it counts among those that are open.
    fn accept(&mut self, port: u32) -> Option<SocketId>;

    /// How a socket stands; `None` where there is none any more.
    fn state(&self, socket: SocketId) -> Option<SocketState>;

    /// Sends the beginning of `bytes`, copied; how many. 0 where there is no room now.
    ///
    /// # Errors
    ///
    /// [`SocketError`].
    fn send(&mut self, socket: SocketId, bytes: &[u8]) -> Result<usize, SocketError>;

    /// Copies what has come in to the beginning of `bytes`; how many. 0 where nothing has.
    ///
    /// # Errors
    ///
    /// [`SocketError`].
    fn receive(&mut self, socket: SocketId, bytes: &mut [u8]) -> Result<usize, SocketError>;

    /// Tells the host that nothing more will be sent, behind what was.
    ///
    /// # Errors
    ///
    /// [`SocketError`].
    fn finish(&mut self, socket: SocketId) -> Result<(), SocketError>;

    /// Ends a socket. The host gets what was sent, and hears that it is over; what it sends still is thrown away. Its place is free
    /// when that is done.
    fn close(&mut self, socket: SocketId);

    /// Whether the host has taken all that was sent, also by sockets that are closed: to be waited for ahead of the machine's end.
    ///
    /// # Errors
    ///
    /// The [`Fault`] where the device is out of service.
    fn is_flushed(&mut self) -> Result<bool, Fault>;
}

//! Stream sockets to the host.

use crate::handle::{Handle, Waited, handle};
use crate::platform::{Kernel, bytes_at};
use crate::stream::{flushed, put_count, room_at};
use crate::{paravirt_notify, paravirt_status, paravirt_status as Status, put};
use paravirt::AnySockets;
use paravirt_device::{CloseReason, SocketId, SocketState, Sockets as _};

/// The sockets of a host.
#[derive(Debug)]
pub struct paravirt_sockets {
    _private: (),
}
handle!(paravirt_sockets: Waited<AnySockets<Kernel>>);

/// A socket.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub struct paravirt_socket {
    /// The library's own.
    pub place: u16,
    /// The library's own: it distinguishes a socket from one that was closed.
    pub generation: u32,
}

/// The state of a socket.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub enum paravirt_socket_state {
    /// There is no such socket.
    Unknown,
    /// The host has not answered.
    Connecting,
    /// It is connected.
    Open,
    /// It is connected, and the host sends nothing more.
    Ended,
    /// Closed: the host refused the connection.
    Refused,
    /// Closed: the host did not answer in time.
    TimedOut,
    /// Closed by the host, in order.
    Closed,
    /// Closed: reset.
    Reset,
}

impl From<SocketId> for paravirt_socket {
    fn from(id: SocketId) -> Self {
        Self { place: id.place(), generation: id.generation() }
    }
}

impl From<paravirt_socket> for SocketId {
    fn from(socket: paravirt_socket) -> Self {
        Self::new(socket.place, socket.generation)
    }
}

/// # Safety
///
/// The contract of the crate.
unsafe fn all<'a>(sockets: *mut paravirt_sockets) -> &'a mut AnySockets<Kernel> {
    // SAFETY: by the contract of this function.
    unsafe { &mut paravirt_sockets::get(sockets).value }
}

/// Returns the maximum number of open sockets.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_sockets_capacity(sockets: *mut paravirt_sockets) -> u16 {
    // SAFETY: the contract of the crate.
    unsafe { all(sockets) }.capacity()
}

/// Processes events from the host, a bounded number at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_sockets_poll(sockets: *mut paravirt_sockets) -> paravirt_status {
    // SAFETY: the contract of the crate.
    unsafe { all(sockets) }.poll().into()
}

/// Starts to connect to `port` of the host.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_sockets_connect(
    sockets: *mut paravirt_sockets,
    port: u32,
    out: *mut paravirt_socket,
) -> paravirt_status {
    // SAFETY: the contract of the crate.
    unsafe { put(all(sockets).connect(port).map(|id| Some(id.into())), out) }
}

/// Accepts connections of the host to `port` from now on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_sockets_listen(
    sockets: *mut paravirt_sockets,
    port: u32,
) -> paravirt_status {
    // SAFETY: the contract of the crate.
    unsafe { all(sockets) }.listen(port).into()
}

/// Writes the next connection of the host to `port`; `PARAVIRT_STATUS_EMPTY` if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_sockets_accept(
    sockets: *mut paravirt_sockets,
    port: u32,
    out: *mut paravirt_socket,
) -> paravirt_status {
    // SAFETY: the contract of the crate.
    unsafe { put(Ok::<_, Status>(all(sockets).accept(port).map(Into::into)), out) }
}

/// Returns the state of a socket.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_sockets_state(
    sockets: *mut paravirt_sockets,
    socket: paravirt_socket,
) -> paravirt_socket_state {
    use paravirt_socket_state as State;
    // SAFETY: the contract of the crate.
    match unsafe { all(sockets) }.state(socket.into()) {
        None => State::Unknown,
        Some(SocketState::Connecting) => State::Connecting,
        Some(SocketState::Open { is_ended: false }) => State::Open,
        Some(SocketState::Open { is_ended: true }) => State::Ended,
        Some(SocketState::Closed(CloseReason::Refused)) => State::Refused,
        Some(SocketState::Closed(CloseReason::TimedOut)) => State::TimedOut,
        Some(SocketState::Closed(CloseReason::Ended)) => State::Closed,
        Some(SocketState::Closed(_)) => State::Reset,
    }
}

/// Sends the beginning of `bytes`, and writes the number of bytes that there was room for to `sent`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_sockets_send(
    sockets: *mut paravirt_sockets,
    socket: paravirt_socket,
    bytes: *const u8,
    len: usize,
    sent: *mut usize,
) -> paravirt_status {
    // SAFETY: the contract of the crate.
    unsafe { put_count(all(sockets).send(socket.into(), bytes_at(bytes.cast(), len)), sent) }
}

/// Receives up to `len` bytes, and writes their number to `received`; 0 when there are none now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_sockets_receive(
    sockets: *mut paravirt_sockets,
    socket: paravirt_socket,
    bytes: *mut u8,
    len: usize,
    received: *mut usize,
) -> paravirt_status {
    // SAFETY: the contract of the crate.
    unsafe { put_count(all(sockets).receive(socket.into(), room_at(bytes, len)), received) }
}

/// Tells the host that nothing more is sent on the socket.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_sockets_finish(
    sockets: *mut paravirt_sockets,
    socket: paravirt_socket,
) -> paravirt_status {
    // SAFETY: the contract of the crate.
    unsafe { all(sockets) }.finish(socket.into()).into()
}

/// Closes a socket.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_sockets_close_one(sockets: *mut paravirt_sockets, socket: paravirt_socket) {
    // SAFETY: the contract of the crate.
    unsafe { all(sockets) }.close(socket.into());
}

/// Returns `PARAVIRT_STATUS_OK` when the host has taken all that was sent, `PARAVIRT_STATUS_EMPTY` while it has not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_sockets_is_flushed(sockets: *mut paravirt_sockets) -> paravirt_status {
    // SAFETY: the contract of the crate.
    flushed(unsafe { all(sockets) }.is_flushed())
}

/// Returns what a task waits for events by.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_sockets_notify(sockets: *mut paravirt_sockets) -> *mut paravirt_notify {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_sockets::notify(sockets) }
}

/// Closes all sockets and the device; null is permitted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_sockets_close(sockets: *mut paravirt_sockets) {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_sockets::close(sockets) }
}

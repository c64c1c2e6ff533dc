//! What this crate requires of a SCSI transport: a [`ScsiTransport`] is a controller, which opens [`ScsiPort`]s; a port sends
//! commands and receives their replies.
//!
//! Source: the layering of SAM-5 §4 (device server, transport, port).

use crate::{Cdb, Sense};
use core::{fmt, num::NonZeroU32, task::Waker};
use paravirt_device::{Arm, Connection, Fault, Rejected, RingKind, Signalling};
use paravirt_platform::DmaSegments;

/// The address of a logical unit. SAM-5 §4.7
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct Address {
    /// The bus of the controller.
    pub path: u8,
    /// The target on that bus.
    pub target: u8,
    /// The unit of that target, below 16384.
    pub lun: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.path, self.target, self.lun)
    }
}

/// A command as a port sends it.
#[non_exhaustive]
#[derive(Copy, Clone, Debug)]
pub struct Command<'a> {
    /// The unit that executes it.
    pub address: Address,
    /// The command descriptor block.
    pub cdb: &'a Cdb,
    /// The data, in flight until the reply; empty where there are none.
    pub memory: DmaSegments<'a>,
    /// Bytes of all segments.
    pub len: u32,
}

/// The status of a command: that of the SCSI target (SAM-5 §5.3) and that of the transport in one.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Status {
    /// It was executed.
    Good,
    /// CHECK CONDITION, with sense data where they came.
    Check(Option<Sense>),
    /// The unit or the controller cannot accept it now.
    Busy,
    /// The target has no such unit.
    NoUnit,
    /// The target, or the path to it, does not answer: it is absent, or the path has failed for a while.
    NoPath,
    /// It was aborted, as by a reset.
    Aborted,
    /// The target refuses it, and would refuse it again, as under a reservation of another initiator.
    Refused,
    /// The transport or the host failed, without a word from the target: another attempt may succeed.
    Error,
}

/// What a port receives.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A command, or a reset of the bus, has completed: the memory of the command is the guest's again.
    Reply {
        /// The id that it was sent with, as the host repeats it.
        id: u64,
        /// Its status.
        status: Status,
        /// Bytes transferred, as the host says.
        transferred: u32,
    },
    /// Units may have been added or removed.
    Rescan,
}

/// What commands are limited to.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of one command.
    pub max_bytes: u32,
    /// Segments of one command.
    pub max_segments: u16,
    /// Where segments have to meet: [`BlockInfo::segment_boundary`](paravirt_device::BlockInfo::segment_boundary).
    pub boundary: Option<NonZeroU32>,
    /// How the controller is connected.
    pub connection: Connection,
}

impl Limits {
    /// Commands of up to `max_bytes` bytes in up to `max_segments` segments, 1 at least, which may meet anywhere.
    pub const fn new(max_bytes: u32, max_segments: u16) -> Self {
        let connection = Connection::new(Signalling::Polled, RingKind::Split);
        Self { max_bytes, max_segments, boundary: None, connection }
    }
}

/// Where units can be.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Scan {
    /// On path 0, at targets below this, at most 256, as REPORT LUNS says.
    Targets(u16),
    /// On several paths, as on Fibre Channel.
    Paths {
        /// The number of paths.
        paths: u8,
        /// The number of targets on each, at most 256.
        targets: u16,
    },
    /// At this address alone.
    One(Address),
}

/// A path to a controller with queues of its own: the reply to a command comes by the port that sent it.
///
/// No method is called in interrupt context. Each is called under the spin lock of the port, which several queues take: none
/// waits for the host, allocates, or calls back into this crate, except that a virtio device that broke the protocol is reset by
/// [`receive`](Self::receive), which blocks until it confirms that, 5 seconds at most. The port's own interrupt handler takes no
/// lock and wakes what [`register`](Self::register) was given.
///
/// A port holds no buffer: memory that a command names is reclaimed by the caller when its reply has come, after `send` failed, or
/// after the port was closed.
///
/// # Safety
///
/// Buffers are reclaimed on the word of the implementation:
///
/// * [`receive`](Self::receive) and [`receive_good`](Self::receive_good) return an id only where the controller has reported that
///   the command with this id has completed, which ends its access to [`Command::memory`].
/// * After [`send`](Self::send) failed, the controller does not access the command's memory.
/// * The port gives `Command::memory` to nobody but the controller, and accesses it in its direction only.
pub unsafe trait ScsiPort: Send {
    /// Sends a command. The host may not see it before [`kick`](Self::kick).
    ///
    /// # Errors
    ///
    /// [`Rejected::Full`] where there is no room now, another [`Rejected`] where there will not be; the controller does not know of
    /// the command.
    fn send(&mut self, id: u64, command: &Command<'_>) -> Result<(), Rejected>;

    /// Asks the controller to abort the command that was sent with `id` to `address` (ABORT TASK, SAM-5 §7.2). Its reply comes as that of
    /// any command, and until then its memory stays in flight. By default there is no such request.
    ///
    /// # Errors
    ///
    /// [`Rejected::Unsupported`] where the transport has no such request, another [`Rejected`] where it was not sent.
    fn abort(&mut self, id: u64, address: Address) -> Result<(), Rejected> {
        let _ = (id, address);
        Err(Rejected::Unsupported)
    }

    /// Asks the controller to abort every command of every port (SAM-5 §7.7, a hard reset of the bus). The reply carries `id`.
    /// Memory of commands stays in flight until their own replies.
    ///
    /// # Errors
    ///
    /// [`Rejected::Unsupported`] where the transport has no such request, another [`Rejected`] where it was not sent.
    fn reset_bus(&mut self, id: u64) -> Result<(), Rejected>;

    /// Notifies the host of what was sent, unless the host has said that it need not be.
    fn kick(&mut self);

    /// The next reply or notification; `None` where there is none.
    ///
    /// # Errors
    ///
    /// The [`Fault`] that ends this port. It is to be closed then; memory of commands stays in flight until that succeeded.
    fn receive(&mut self) -> Result<Option<Event>, Fault>;

    /// The next reply where it says that the command succeeded: its id, and how many bytes were transferred. `None` where there is
    /// nothing, or anything else, which stays for [`receive`](Self::receive). A shortcut that need not be implemented.
    #[inline]
    fn receive_good(&mut self) -> Option<(u64, u32)> {
        None
    }

    /// Called where the caller stops receiving before the port has said that there is nothing more: gives the room of what was
    /// received back to the host where that is due.
    fn pause(&mut self) {}

    /// Asks for an interrupt at the next reply: see [`Notify::arm`](paravirt_device::Notify::arm).
    fn arm(&mut self) -> Arm;

    /// Asks for no more interrupts.
    fn disarm(&mut self);

    /// Registers what an interrupt wakes, in place of the waker before.
    fn register(&mut self, waker: &Waker);
}

/// A controller, as its transport gives access to it.
///
/// No method is called in interrupt context. They are called under the lock of the controller, without the locks of the ports, so
/// that other ports go on. [`open`](Self::open) and [`close`](Self::close) block until the host has answered or a deadline of the
/// implementation has passed (virtio: 5 seconds; VMBus: its timeout for answers at each step). The other two return at once.
///
/// # Safety
///
/// After [`close`](Self::close) returned `Ok`, the controller accesses [`Command::memory`] of no command that was sent by the
/// port. Buffers are reclaimed on the strength of that.
pub unsafe trait ScsiTransport: Send {
    /// Its ports.
    type Port: ScsiPort;

    /// Opens port `index` of the `ports` that are wanted in `place`, which is empty, and stays so where there are no more. Port 0 comes
    /// first, and initialises the controller. Ports are large for a small stack: they are not returned by value.
    ///
    /// # Errors
    ///
    /// The [`Fault`] where the port cannot be opened. What was opened of it has been closed.
    fn open(&mut self, index: usize, ports: usize, place: &mut Option<Self::Port>) -> Result<(), Fault>;

    /// Closes a port; port 0 comes last.
    ///
    /// # Errors
    ///
    /// A [`Fault`], usually [`Fault::Timeout`], where the host did not confirm that it accesses no memory of commands any more. The
    /// caller leaks that memory, and the buffers in it, then.
    fn close(&mut self, port: Self::Port) -> Result<(), Fault>;

    /// What commands are limited to, once port 0 is open.
    fn limits(&self) -> Limits;

    /// Where to look for units.
    fn scan(&self) -> Scan;
}

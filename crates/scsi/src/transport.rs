//! What a SCSI transport is to this crate: an [`Adapter`] that opens [`Port`]s, by which commands go and replies come.

use crate::{Cdb, Sense};
use core::{fmt, num::NonZeroU32, task::Waker};
use paravirt_device::{Arm, Fault, Rejected};
use paravirt_platform::DmaSegments;

/// Where a unit is.
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
#[derive(Copy, Clone, Debug)]
pub struct Command<'a> {
    /// To whom.
    pub address: Address,
    /// What.
    pub cdb: &'a Cdb,
    /// Where the data are, and which way they go: the device's until the reply. Empty where there are none.
    pub memory: DmaSegments<'a>,
    /// The bytes of all segments.
    pub len: u32,
}

/// How a command went.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Status {
    /// It was done.
    Good,
    /// The unit has something to say.
    Check(Option<Sense>),
    /// The unit or the controller cannot take it now.
    Busy,
    /// There is no such unit.
    NoUnit,
    /// It was aborted, as by a reset.
    Aborted,
    /// It failed otherwise.
    Error,
}

/// What comes in on a port.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// A command has been done, or a reset of the bus: its segments are the guest's again.
    Reply {
        /// That with which it was sent, as the host repeats it.
        id: u64,
        /// How it went.
        status: Status,
        /// Bytes that were transferred, as the host says.
        transferred: u32,
    },
    /// Units may have come or gone.
    Rescan,
}

/// What commands are limited to.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Bytes of one command.
    pub max_bytes: u32,
    /// Segments of one command.
    pub max_segments: u16,
    /// See [`BlockInfo::segment_boundary`](paravirt_device::BlockInfo::segment_boundary).
    pub boundary: Option<NonZeroU32>,
}

/// Where units can be.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Scan {
    /// On path 0, at targets below this, as REPORT LUNS says.
    Targets(u8),
    /// Here alone.
    One(Address),
}

/// A way to a controller, with queues of its own: what goes out by one comes back by the same.
pub trait Port: Send {
    /// Sends a command. The host may not see it before [`kick`](Self::kick).
    ///
    /// # Errors
    ///
    /// [`Rejected`]; nothing was sent, and the host does not know of the segments.
    fn send(&mut self, id: u64, command: &Command<'_>) -> Result<(), Rejected>;

    /// Asks the controller to abort what it has. The reply has `id`.
    ///
    /// # Errors
    ///
    /// [`Rejected`]; nothing was sent.
    fn reset_bus(&mut self, id: u64) -> Result<(), Rejected>;

    /// Tells the host of what was sent, if it has to be told.
    fn kick(&mut self);

    /// The next thing that came in.
    ///
    /// # Errors
    ///
    /// The [`Fault`] that ends this port.
    fn next(&mut self) -> Result<Option<Event>, Fault>;

    /// Who takes replies stops ahead of the last: what was taken is given back where it is much.
    fn pause(&mut self) {}

    /// Asks for an interrupt: see [`Notify::arm`](paravirt_device::Notify::arm).
    fn arm(&mut self) -> Arm;

    /// Wants no interrupts.
    fn disarm(&mut self);

    /// Registers what to wake, in place of the one before.
    fn register(&mut self, waker: &Waker);
}

/// A controller, from below.
pub trait Adapter: Send {
    /// Its ports.
    type Port: Port;

    /// Opens port `index` of the `ports` that are wanted. Port 0 comes first, and sets the controller up; `None` where there are
    /// no more.
    ///
    /// # Errors
    ///
    /// The [`Fault`] where port 0 cannot be had.
    fn open(&mut self, index: usize, ports: usize) -> Result<Option<Self::Port>, Fault>;

    /// Closes a port; port 0 comes last.
    ///
    /// # Errors
    ///
    /// [`Fault::Timeout`] where the host did not confirm that it uses nothing any more that was sent by this port.
    fn close(&mut self, port: Self::Port) -> Result<(), Fault>;

    /// What commands are limited to, once port 0 is open.
    fn limits(&self) -> Limits;

    /// Where to look for units.
    fn scan(&self) -> Scan;
}

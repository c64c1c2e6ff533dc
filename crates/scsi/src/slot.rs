//! The slots of a table of commands.

use crate::Cdb;
use crate::command::{Data, Stage};
use paravirt_device::IoError;
use paravirt_platform::{Instant, Segment};

/// The end of a list.
pub(crate) const NONE: u16 = u16::MAX;
/// Where a command is.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Place {
    Free,
    /// Accepted, its buffer in flight, and to be sent with the next kick.
    Staged,
    /// With the host.
    Sent,
    /// With the host, which was asked to abort it.
    Aborting,
    /// To be retried.
    Deferred,
    /// Completed.
    Done,
}

impl Place {
    /// Whether the host has the command, and its memory.
    pub fn is_with_host(self) -> bool {
        matches!(self, Self::Sent | Self::Aborting)
    }
}

/// A command and what is known of it.
pub(crate) struct Slot<B> {
    pub data: Data<B>,
    pub tag: u64,
    pub deadline: Instant,
    /// By which the host knows the command, with a generation that changes for each.
    pub id: u64,
    /// Bytes that have to be transferred for it to be a success.
    pub len: u32,
    pub next: u16,
    pub place: Place,
    pub stage: Stage,
    pub result: Result<(), IoError>,
    pub retries: u8,
    pub attentions: u8,
    pub is_absent: bool,
    pub transferred: u32,
    /// While it is staged, the memory of its buffer.
    pub segment: Segment,
    pub cdb: Cdb,
}

/// A queue of slots, linked by `next`.
#[derive(Copy, Clone)]
pub(crate) struct List {
    pub head: u16,
    pub tail: u16,
}

impl List {
    pub const EMPTY: Self = Self { head: NONE, tail: NONE };

    #[inline(always)]
    pub fn push<B>(&mut self, slots: &mut [Slot<B>], at: u16) {
        let last = core::mem::replace(&mut self.tail, at);
        match slots.get_mut(usize::from(last)) {
            Some(last) => last.next = at,
            None => self.head = at,
        }
        if let Some(slot) = slots.get_mut(usize::from(at)) {
            slot.next = NONE;
        }
    }

    #[inline(always)]
    pub fn pop(&mut self, next: u16) {
        self.head = next;
        if next == NONE {
            self.tail = NONE;
        }
    }
}

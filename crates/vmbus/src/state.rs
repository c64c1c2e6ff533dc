//! The state of the connection, its channels and its GPADLs: changed by messages of the host, and read by waits for an answer.

use crate::{HostMessage, Offer};
use core::fmt;
use hyperv_bindings::Guid;
use paravirt_device::Fault;
use paravirt_platform::{AllocError, PageTable, Platform};

/// Channels that are offered at once.
pub(crate) const MAX_CHANNELS: usize = 256;
/// GPADLs at once.
const MAX_GPADLS: usize = 512;
/// Refusals of sockets that were not reported yet.
const MAX_REFUSALS: usize = 32;
/// The first id of a GPADL. The host accepts any number but 0.
const FIRST_GPADL: u32 = 0x1_0001;

/// Why a channel could not be opened, or a GPADL not created.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ChannelError {
    /// The host has rescinded the offer.
    Gone,
    /// The channel is open already.
    Busy,
    /// The length of the rings or the memory is out of range.
    Size,
    /// The platform has no memory, or there are too many channels or GPADLs.
    Memory,
    /// The host refused, with this status.
    Refused(u32),
    /// The connection is out of service.
    Faulted(Fault),
}

impl fmt::Display for ChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the channel is no longer offered"),
            Self::Busy => f.write_str("the channel is open already"),
            Self::Size => f.write_str("the length of the rings or of the memory is out of range"),
            Self::Memory => f.write_str("out of memory"),
            Self::Refused(status) => write!(f, "the host refused with status {status:#x}"),
            Self::Faulted(fault) => fault.fmt(f),
        }
    }
}

impl core::error::Error for ChannelError {}

impl From<AllocError> for ChannelError {
    fn from(_: AllocError) -> Self {
        Self::Memory
    }
}

impl From<Fault> for ChannelError {
    fn from(fault: Fault) -> Self {
        Self::Faulted(fault)
    }
}

/// The phase of the connection.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    /// Not connected: messages are those of a connection before.
    Idle,
    /// INITIATE_CONTACT was sent.
    Contacting,
    Connected,
    /// UNLOAD was sent; everything but its answer is ignored.
    Unloading,
    Unloaded,
}

/// The answer to INITIATE_CONTACT.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Response {
    pub is_supported: bool,
    pub connection_state: u8,
    pub connection_id: u32,
}

/// A channel that was offered.
pub(crate) struct Entry {
    pub offer: Offer,
    /// A driver has it open.
    pub is_taken: bool,
    /// GPADLs of it that the host may still use.
    pub gpadls: u32,
    pub is_rescinded: bool,
    /// `poll` has reported it, and its removal.
    pub is_announced: bool,
    pub is_removal_announced: bool,
    pub open: Awaited,
    pub modify: Awaited,
}

impl Entry {
    /// Whether it is one end of a socket that was not reported yet.
    pub fn is_new_socket(&self) -> bool {
        self.offer.is_socket() && !self.is_announced && !self.is_rescinded
    }
}

/// An awaited answer, which is accepted once.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Awaited {
    No,
    Yes,
    Came(u32),
}

impl Awaited {
    fn accept(&mut self, status: u32) {
        if *self == Self::Yes {
            *self = Self::Came(status);
        }
    }
}

/// The phase of a GPADL.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum GpadlPhase {
    Creating,
    Created(u32),
    TearingDown,
    TornDown,
}

#[derive(Copy, Clone, Debug)]
pub(crate) struct GpadlEntry {
    pub id: u32,
    pub channel: u32,
    pub phase: GpadlPhase,
}

pub(crate) struct State<P: Platform> {
    pub phase: Phase,
    pub response: Option<Response>,
    /// The connection id that messages are posted to.
    pub connection_id: u32,
    pub are_offers_delivered: bool,
    pub channels: PageTable<P, Option<Entry>>,
    pub gpadls: PageTable<P, Option<GpadlEntry>>,
    next_gpadl: u32,
    refusals: PageTable<P, Option<Guid>>,
}

/// What has to be done after a message, without the lock.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Then {
    Nothing,
    /// The channel with this index in the table, and this relid, is gone.
    Gone(usize, u32),
    /// Something that `poll` or `poll_socket` reports has happened.
    Wake,
    /// The host has released everything.
    Unloaded,
}

impl<P: Platform> State<P> {
    pub fn new(platform: &P) -> Result<Self, AllocError> {
        Ok(Self {
            phase: Phase::Idle,
            response: None,
            connection_id: 0,
            are_offers_delivered: false,
            channels: PageTable::new(platform, MAX_CHANNELS, |_| None)?,
            gpadls: PageTable::new(platform, MAX_GPADLS, |_| None)?,
            next_gpadl: FIRST_GPADL,
            refusals: PageTable::new(platform, MAX_REFUSALS, |_| None)?,
        })
    }

    /// The index of `channel` in the table.
    pub fn place(&self, channel: u32) -> Option<usize> {
        self.channels
            .iter()
            .position(|entry| entry.as_ref().is_some_and(|entry| entry.offer.channel == channel))
    }

    pub fn entry(&mut self, place: usize) -> Option<&mut Entry> {
        self.channels.get_mut(place)?.as_mut()
    }

    pub fn gpadl(&mut self, id: u32) -> Option<&mut GpadlEntry> {
        self.gpadls.iter_mut().flatten().find(|gpadl| gpadl.id == id)
    }

    /// Adds a GPADL of the channel at index `place`, which is being created.
    pub fn add_gpadl(&mut self, place: usize) -> Option<(u32, u32)> {
        // Not 0, and none that is in use.
        loop {
            self.next_gpadl = self.next_gpadl.wrapping_add(1).max(1);
            if self.gpadls.iter().flatten().all(|gpadl| gpadl.id != self.next_gpadl) {
                break;
            }
        }
        let id = self.next_gpadl;
        let channel = self.entry(place)?.offer.channel;
        let free = self.gpadls.iter_mut().find(|gpadl| gpadl.is_none())?;
        *free = Some(GpadlEntry { id, channel, phase: GpadlPhase::Creating });
        let entry = self.entry(place)?;
        entry.gpadls = entry.gpadls.saturating_add(1);
        Some((id, channel))
    }

    /// Removes a GPADL that the host has released.
    pub fn remove_gpadl(&mut self, id: u32, place: usize) {
        for slot in self.gpadls.iter_mut().filter(|slot| slot.is_some_and(|gpadl| gpadl.id == id)) {
            *slot = None;
        }
        if let Some(entry) = self.entry(place) {
            entry.gpadls = entry.gpadls.saturating_sub(1);
        }
    }

    /// Whether a driver has a channel, or the host may still use memory of one.
    pub fn is_any_in_use(&self) -> bool {
        self.channels.iter().flatten().any(|entry| entry.is_taken || entry.gpadls > 0)
    }

    /// Removes everything: the host has released all of it.
    pub fn clear(&mut self) {
        self.channels.iter_mut().for_each(|entry| *entry = None);
        self.gpadls.iter_mut().for_each(|gpadl| *gpadl = None);
        self.refusals.iter_mut().for_each(|refusal| *refusal = None);
        self.are_offers_delivered = false;
    }

    /// An endpoint to which the host has refused a socket; reported once.
    pub fn take_refusal(&mut self) -> Option<Guid> {
        self.refusals.iter_mut().find_map(Option::take)
    }

    /// Whether a refusal was not reported yet.
    pub fn has_refusal(&self) -> bool {
        self.refusals.iter().any(Option::is_some)
    }

    /// Applies a message.
    pub fn accept(&mut self, message: HostMessage) -> Then {
        match (self.phase, message) {
            (
                Phase::Contacting,
                HostMessage::VersionResponse { is_supported, connection_state, connection_id, .. },
            ) => self.response = Some(Response { is_supported, connection_state, connection_id }),
            (Phase::Unloading, HostMessage::UnloadComplete) => return Then::Unloaded,
            (Phase::Connected, message) => return self.accept_connected(message),
            // Of a connection before this one.
            _ => {}
        }
        Then::Nothing
    }

    fn accept_connected(&mut self, message: HostMessage) -> Then {
        match message {
            HostMessage::Offer(offer) => return self.add_offer(offer),
            HostMessage::Rescind { channel } => {
                if let Some(place) = self.place(channel) {
                    if let Some(entry) = self.entry(place) {
                        entry.is_rescinded = true;
                        return Then::Gone(place, channel);
                    }
                }
                log::warn!("vmbus: rescind of channel {channel}, which was not offered: ignored");
            }
            HostMessage::AllOffersDelivered => self.are_offers_delivered = true,
            HostMessage::OpenResult { channel, open_id, status } => {
                if let Some(place) = self.place(channel) {
                    if open_id == channel {
                        if let Some(entry) = self.entry(place) {
                            entry.open.accept(status);
                        }
                    }
                }
            }
            HostMessage::ModifyResponse { channel, status } => {
                if let Some(place) = self.place(channel) {
                    if let Some(entry) = self.entry(place) {
                        entry.modify.accept(status);
                    }
                }
            }
            HostMessage::GpadlCreated { channel, gpadl, status } => {
                if let Some(gpadl) = self.gpadl(gpadl) {
                    if gpadl.channel == channel && gpadl.phase == GpadlPhase::Creating {
                        gpadl.phase = GpadlPhase::Created(status);
                    }
                }
            }
            HostMessage::GpadlTorndown { gpadl } => {
                if let Some(gpadl) = self.gpadl(gpadl) {
                    if gpadl.phase == GpadlPhase::TearingDown {
                        gpadl.phase = GpadlPhase::TornDown;
                    }
                }
            }
            // Where it is granted, the host offers a channel.
            HostMessage::SocketRefused { status: 0, .. } => {}
            // Where nobody takes them, the newest is kept.
            HostMessage::SocketRefused { endpoint, .. } => {
                let free = self.refusals.iter().position(Option::is_none).unwrap_or(0);
                if let Some(refusal) = self.refusals.get_mut(free) {
                    *refusal = Some(endpoint);
                }
                return Then::Wake;
            }
            HostMessage::Other(kind) => log::debug!("vmbus: unknown message type {}: ignored", kind.0),
            HostMessage::VersionResponse { .. } | HostMessage::UnloadComplete => {}
        }
        Then::Nothing
    }

    fn add_offer(&mut self, offer: Offer) -> Then {
        // Event flags go up to 2047, and 0 is reserved.
        if !(1..2048).contains(&offer.channel) || self.place(offer.channel).is_some() {
            log::warn!(
                "vmbus: offer of channel {}, which is out of range or already offered: ignored",
                offer.channel
            );
            return Then::Nothing;
        }
        let Some(free) = self.channels.iter_mut().find(|entry| entry.is_none()) else {
            log::warn!("vmbus: more than {MAX_CHANNELS} channels: {offer} ignored");
            return Then::Nothing;
        };
        *free = Some(Entry {
            offer,
            is_taken: false,
            gpadls: 0,
            is_rescinded: false,
            // The driver of a device finds its subchannels by itself, and the owner of a socket that it has gone.
            is_announced: offer.subchannel > 0,
            is_removal_announced: offer.subchannel > 0 || offer.is_socket(),
            open: Awaited::No,
            modify: Awaited::No,
        });
        Then::Wake
    }
}

//! What is known of the connection, its channels and its GPADLs. Changed by messages of the host, and looked at by waits.

use crate::{HostMessage, Offer};
use core::fmt;
use hyperv_bindings::Guid;
use paravirt_device::Fault;
use paravirt_platform::{AllocError, PageTable, Platform};

/// Channels that are known at once.
pub(crate) const MOST_CHANNELS: usize = 256;
/// GPADLs at once.
const MOST_GPADLS: usize = 512;
/// Refusals of sockets that nobody has heard of yet.
const MOST_REFUSALS: usize = 32;
/// Where ids of GPADLs begin: any number but 0.
const FIRST_GPADL: u32 = 0x1_0001;

/// Why a channel could not be opened, or a GPADL not made.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ChannelError {
    /// The host offers no such channel any more.
    Gone,
    /// The channel is open already.
    Busy,
    /// Rings or memory of a length that the protocol does not know.
    Size,
    /// There was no memory, or too many channels or GPADLs.
    Memory,
    /// The host refused, with this status.
    Refused(u32),
    /// The connection is out of service.
    Faulted(Fault),
}

impl fmt::Display for ChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the channel is not offered any more"),
            Self::Busy => f.write_str("the channel is open already"),
            Self::Size => f.write_str("the protocol does not know rings or memory of this length"),
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

/// Where the connection stands.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    /// Whatever comes belongs to somebody who was here before.
    Idle,
    /// A contact waits for its answer.
    Contacting,
    Connected,
    /// All but the confirmation is ignored.
    Unloading,
    Unloaded,
}

/// The answer to a contact.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Response {
    pub is_supported: bool,
    pub connection_state: u8,
    pub connection_id: u32,
}

/// A channel that was offered.
pub(crate) struct Entry {
    pub offer: Offer,
    /// A driver has it.
    pub is_taken: bool,
    /// GPADLs of it that the host may still use.
    pub gpadls: u32,
    pub is_rescinded: bool,
    /// Whether `poll` has told of it, and of its end.
    pub is_announced: bool,
    pub is_end_announced: bool,
    pub open: Awaited,
    pub modify: Awaited,
}

impl Entry {
    /// Whether it is one end of a socket that nobody was told of.
    pub fn is_new_socket(&self) -> bool {
        self.offer.is_socket() && !self.is_announced && !self.is_rescinded
    }
}

/// An answer that is awaited, accepted once.
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

/// Where a GPADL stands.
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
    /// By which messages are sent.
    pub connection_id: u32,
    pub are_offers_delivered: bool,
    pub channels: PageTable<P, Option<Entry>>,
    pub gpadls: PageTable<P, Option<GpadlEntry>>,
    next_gpadl: u32,
    refusals: PageTable<P, Option<Guid>>,
}

/// What has to be done after a message, out of the lock.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Then {
    Nothing,
    /// The channel in this place of the table, with this number, is gone.
    Gone(usize, u32),
    /// Somebody may want to hear of it.
    Wake,
    /// The host has let go of everything.
    Unloaded,
}

impl<P: Platform> State<P> {
    pub fn new(platform: &P) -> Result<Self, AllocError> {
        Ok(Self {
            phase: Phase::Idle,
            response: None,
            connection_id: 0,
            are_offers_delivered: false,
            channels: PageTable::new(platform, MOST_CHANNELS, |_| None)?,
            gpadls: PageTable::new(platform, MOST_GPADLS, |_| None)?,
            next_gpadl: FIRST_GPADL,
            refusals: PageTable::new(platform, MOST_REFUSALS, |_| None)?,
        })
    }

    /// The place of `channel`.
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

    /// A new GPADL of the channel in `place`, being created.
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

    /// Forgets a GPADL that the host does not use.
    pub fn remove_gpadl(&mut self, id: u32, place: usize) {
        for slot in self.gpadls.iter_mut().filter(|slot| slot.is_some_and(|gpadl| gpadl.id == id)) {
            *slot = None;
        }
        if let Some(entry) = self.entry(place) {
            entry.gpadls = entry.gpadls.saturating_sub(1);
        }
    }

    /// Forgets everything: the host has let go of all of it.
    pub fn clear(&mut self) {
        self.channels.iter_mut().for_each(|entry| *entry = None);
        self.gpadls.iter_mut().for_each(|gpadl| *gpadl = None);
        self.refusals.iter_mut().for_each(|refusal| *refusal = None);
        self.are_offers_delivered = false;
    }

    /// An endpoint to which the host has refused a socket; told once.
    pub fn take_refusal(&mut self) -> Option<Guid> {
        self.refusals.iter_mut().find_map(Option::take)
    }

    /// Whether there is one.
    pub fn has_refusal(&self) -> bool {
        self.refusals.iter().any(Option::is_some)
    }

    /// Takes note of a message.
    pub fn accept(&mut self, message: HostMessage) -> Then {
        match (self.phase, message) {
            (
                Phase::Contacting,
                HostMessage::VersionResponse { is_supported, connection_state, connection_id, .. },
            ) => self.response = Some(Response { is_supported, connection_state, connection_id }),
            (Phase::Unloading, HostMessage::UnloadComplete) => return Then::Unloaded,
            (Phase::Connected, message) => return self.accept_connected(message),
            // Of somebody who was here before, or of a connection that is over.
            _ => {}
        }
        Then::Nothing
    }

    fn accept_connected(&mut self, message: HostMessage) -> Then {
        match message {
            HostMessage::Offer(offer) => return self.add_offer(offer),
            HostMessage::Rescind { channel } => {
                if let Some(place) = self.place(channel)
                    && let Some(entry) = self.entry(place)
                {
                    entry.is_rescinded = true;
                    return Then::Gone(place, channel);
                }
                log::warn!("vmbus: the host takes back channel {channel}, which it did not offer");
            }
            HostMessage::AllOffersDelivered => self.are_offers_delivered = true,
            HostMessage::OpenResult { channel, open_id, status } => {
                if let Some(place) = self.place(channel)
                    && open_id == channel
                    && let Some(entry) = self.entry(place)
                {
                    entry.open.accept(status);
                }
            }
            HostMessage::ModifyResponse { channel, status } => {
                if let Some(place) = self.place(channel)
                    && let Some(entry) = self.entry(place)
                {
                    entry.modify.accept(status);
                }
            }
            HostMessage::GpadlCreated { channel, gpadl, status } => {
                if let Some(gpadl) = self.gpadl(gpadl)
                    && gpadl.channel == channel
                    && gpadl.phase == GpadlPhase::Creating
                {
                    gpadl.phase = GpadlPhase::Created(status);
                }
            }
            HostMessage::GpadlTorndown { gpadl } => {
                if let Some(gpadl) = self.gpadl(gpadl)
                    && gpadl.phase == GpadlPhase::TearingDown
                {
                    gpadl.phase = GpadlPhase::TornDown;
                }
            }
            // That it is granted is told by the offer.
            HostMessage::SocketRefused { status: 0, .. } => {}
            // Where nobody hears of them, the last is kept.
            HostMessage::SocketRefused { endpoint, .. } => {
                let free = self.refusals.iter().position(Option::is_none).unwrap_or(0);
                if let Some(refusal) = self.refusals.get_mut(free) {
                    *refusal = Some(endpoint);
                }
                return Then::Wake;
            }
            HostMessage::Other(kind) => log::debug!("vmbus: message {} is not known", kind.0),
            HostMessage::VersionResponse { .. } | HostMessage::UnloadComplete => {}
        }
        Then::Nothing
    }

    fn add_offer(&mut self, offer: Offer) -> Then {
        // Event flags go up to 2047, and 0 is no channel.
        if !(1..2048).contains(&offer.channel) || self.place(offer.channel).is_some() {
            log::warn!("vmbus: an offer of channel {}, which cannot be", offer.channel);
            return Then::Nothing;
        }
        let Some(free) = self.channels.iter_mut().find(|entry| entry.is_none()) else {
            log::warn!("vmbus: more than {MOST_CHANNELS} channels: {offer} is left alone");
            return Then::Nothing;
        };
        *free = Some(Entry {
            offer,
            is_taken: false,
            gpadls: 0,
            is_rescinded: false,
            // Further channels of a device are its driver's to find; whoever has a socket finds it gone.
            is_announced: offer.subchannel > 0,
            is_end_announced: offer.subchannel > 0 || offer.is_socket(),
            open: Awaited::No,
            modify: Awaited::No,
        });
        Then::Wake
    }
}

//! A model of the host's side of VMBus.

use super::channel::Channel;
use super::devices::VmbusDevice;
use super::gpadl::Gpadl;
use super::socket::SocketEnd;
use super::violations::Violations;
use crate::Memory;
use hyperv_bindings::Guid;
use hyperv_bindings::tlfs::{HV_EVENT_FLAGS, HvMessageType, HvPostMessageInput, HvStatus};
use hyperv_bindings::vmbus::*;
use std::collections::{BTreeMap, VecDeque};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// The message connection id that a host of version 5.0 or later returns; it is not a well-known one.
const RETURNED_CONNECTION: u32 = 0x21;
/// The connection id of a channel is this plus the channel's number.
pub(super) const CHANNEL_CONNECTIONS: u32 = 0x2000;
/// The pipe mode of an offer: messages.
const PIPE_OF_MESSAGES: u32 = 4;
pub(super) const FAILURE: u32 = VMBUS_STATUS_FAILURE;

/// Changes a message that is about to be sent.
pub type Mutation = Box<dyn FnMut(&mut Vec<u8>) + Send>;

/// What the host is about to send.
#[derive(Copy, Clone, Debug)]
pub enum Said<'a> {
    /// A message of the bus.
    Message(&'a [u8]),
    /// A packet of a device.
    Packet {
        /// Whether it names memory of the receive buffer.
        is_transfer: bool,
        /// Its payload.
        payload: &'a [u8],
    },
}

/// What becomes of it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It is sent.
    Pass,
    /// It is not sent.
    Drop,
    /// It is sent twice.
    Twice,
    /// It is held back until [`HvHost::release_late`](crate::HvHost::release_late).
    Late,
    /// It is sent behind the next one.
    AfterNext,
    /// The four bytes at this offset get this value, by which the host refuses what was asked.
    Refuse(usize, u32),
}

/// Decides what becomes of what the host is about to send.
pub type Judge = Box<dyn FnMut(Said<'_>) -> Verdict + Send>;

/// Fault injection settings of the bus.
#[derive(Default)]
pub struct Faults {
    /// The newest version that the host accepts; 0 for all.
    pub newest: u32,
    /// The connection state in the version response; 0 is success.
    pub connection_state: u8,
    /// Types of messages that are not sent.
    pub drop: Vec<VmbusMessageType>,
    /// Whether messages are held until [`HvHost::deliver`](crate::HvHost::deliver).
    pub delay: bool,
    /// Asked for every message and packet.
    pub judge: Option<Judge>,
    /// Applied to every message that is sent.
    pub mutate: Option<Mutation>,
    /// The status of open results; 0 is success.
    pub open_status: u32,
    /// The status of GPADL creation; 0 is success.
    pub gpadl_status: u32,
    /// Before VMBus 4.0: buffers that were not torn down when their channel is closed are not released any more.
    pub wants_buffers_first: bool,
}

/// The properties of an offer.
#[derive(Copy, Clone, Debug, Default)]
pub struct OfferSettings {
    /// The interface GUID: the class of the device.
    pub interface: Guid,
    /// The instance GUID.
    pub instance: Guid,
    /// The subchannel index; 0 for the primary channel.
    pub subchannel: u16,
    /// The channel has no dedicated connection id, as on hosts before VMBus 1.1.
    pub is_shared: bool,
    /// The channel is a pipe of messages.
    pub is_pipe: bool,
    /// The channel is a Hyper-V socket: `Some(true)` if the host connects to the guest, `Some(false)` if the guest requested it.
    pub socket: Option<bool>,
}

impl OfferSettings {
    /// The primary channel of a device of class `interface`.
    pub fn new(interface: Guid) -> Self {
        Self { interface, ..Self::default() }
    }
}

/// The SynICs of the guest's virtual processors (VPs), as VMBus uses them.
pub trait Controller {
    /// Returns whether the SynIC of `vp` is enabled.
    fn is_on(&self, vp: u32) -> bool;
    /// Sends a VMBus message to `vp`, after those that are queued.
    fn send(&mut self, vp: u32, payload: &[u8]);
    /// Sets an event flag of the VMBus SINT of `vp`.
    fn set_flag(&mut self, vp: u32, flag: u32);
}

/// VMBus with its devices.
pub struct Bus {
    pub(super) memory: Memory,
    pub(super) faults: Faults,
    pub(super) version: u32,
    /// The VP that receives messages.
    pub(super) target: u32,
    pub(super) interrupt_page: u64,
    are_offers_requested: bool,
    pub(super) channels: BTreeMap<u32, Channel>,
    pub(super) gpadls: BTreeMap<u32, Gpadl>,
    pub(super) delayed: VecDeque<Vec<u8>>,
    /// Messages that are held back, and whether they follow the next one.
    pub(super) late: Vec<Vec<u8>>,
    is_swapped: bool,
    pub(super) contacts: Vec<u32>,
    pub(super) posts: u64,
    violations: Violations,
    /// The ports that the host listens on, and how many sockets the host has connected.
    pub(super) listeners: Vec<(Guid, SocketEnd)>,
    pub(super) sockets: u32,
}

pub(super) fn header(message_type: VmbusMessageType) -> VmbusMessageHeader {
    VmbusMessageHeader { message_type, reserved: 0 }
}

pub(super) fn read<T: FromBytes>(bytes: &[u8]) -> Option<T> {
    T::read_from_prefix(bytes).ok().map(|(value, _)| value)
}

impl Bus {
    /// Creates a bus without devices for a guest with this memory.
    pub fn new(memory: Memory) -> Self {
        Self {
            memory,
            listeners: vec![],
            sockets: 0,
            faults: Faults::default(),
            version: 0,
            target: 0,
            interrupt_page: 0,
            are_offers_requested: false,
            channels: BTreeMap::new(),
            gpadls: BTreeMap::new(),
            delayed: VecDeque::new(),
            late: vec![],
            is_swapped: false,
            contacts: vec![],
            posts: 0,
            violations: Violations::default(),
        }
    }

    /// Changes the fault injection settings.
    pub fn faults(&mut self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.faults);
    }

    /// Returns the protocol violations of the guest so far.
    pub fn violations(&self) -> &[String] {
        self.violations.list()
    }

    pub(super) fn violation(&mut self, text: impl Into<String>) {
        self.violations.note(text);
    }

    /// Returns the channels, each with the connection id by which the guest signals it.
    pub fn connections(&self) -> impl Iterator<Item = (u32, u32)> {
        self.channels.keys().map(|number| (*number, CHANNEL_CONNECTIONS + number))
    }

    /// Sends a message to the guest, subject to fault injection.
    pub(super) fn say<T: IntoBytes + Immutable>(&mut self, synic: &mut dyn Controller, message: &T) {
        let mut bytes = message.as_bytes().to_vec();
        let kind = read::<VmbusMessageHeader>(&bytes).map(|header| header.message_type);
        if kind.is_some_and(|kind| self.faults.drop.contains(&kind)) {
            return;
        }
        if let Some(mutate) = &mut self.faults.mutate {
            mutate(&mut bytes);
        }
        let verdict = self.faults.judge.as_mut().map_or(Verdict::Pass, |judge| judge(Said::Message(&bytes)));
        if let Verdict::Refuse(at, value) = verdict {
            if let Some(to) = bytes.get_mut(at..at + 4) {
                to.copy_from_slice(&value.to_le_bytes());
            }
        }
        // Padded, as some hosts do.
        bytes.resize(bytes.len().next_multiple_of(8).min(240), 0);
        match verdict {
            Verdict::Drop => return,
            Verdict::Late | Verdict::AfterNext => {
                self.is_swapped = verdict == Verdict::AfterNext;
                return self.late.push(bytes);
            }
            Verdict::Twice => synic.send(self.target, &bytes),
            Verdict::Pass | Verdict::Refuse(..) => {}
        }
        if self.faults.delay {
            self.delayed.push_back(bytes);
            return;
        }
        synic.send(self.target, &bytes);
        if std::mem::take(&mut self.is_swapped) {
            for bytes in std::mem::take(&mut self.late) {
                synic.send(self.target, &bytes);
            }
        }
    }

    /// Handles a message of the guest.
    pub fn post(&mut self, synic: &mut dyn Controller, input: &HvPostMessageInput) -> HvStatus {
        let has_ports = self.faults.newest == 0 || self.faults.newest >= VmbusVersion::WIN10_RS3_1.0;
        let is_returned = self.version >= VmbusVersion::WIN10_RS3_1.0;
        let is_known = match input.connection_id {
            VMBUS_MESSAGE_CONNECTION => true,
            VMBUS_MULTI_CLIENT_CONNECTION => has_ports,
            RETURNED_CONNECTION => is_returned,
            _ => false,
        };
        if !is_known {
            return HvStatus::INVALID_CONNECTION_ID;
        }
        if input.payload_size > 240 || input.message_type != HvMessageType::CHANNEL {
            return HvStatus::INVALID_PARAMETER;
        }
        self.posts += 1;
        let bytes = &input.payload[..input.payload_size as usize];
        let Some(head) = read::<VmbusMessageHeader>(bytes) else { return HvStatus::INVALID_PARAMETER };
        let kind = head.message_type;
        if kind != VmbusMessageType::INITIATE_CONTACT {
            if is_returned && input.connection_id != RETURNED_CONNECTION {
                self.violation(format!("message {} by connection {}", kind.0, input.connection_id));
            }
            if self.version == 0 {
                self.violation(format!("message {} without a connection", kind.0));
                return HvStatus::SUCCESS;
            }
        }
        if self.receive(synic, kind, bytes, input.connection_id).is_none() {
            self.violation(format!("message {} is too short or of an unknown type", kind.0));
        }
        HvStatus::SUCCESS
    }

    fn receive(
        &mut self,
        synic: &mut dyn Controller,
        kind: VmbusMessageType,
        bytes: &[u8],
        port: u32,
    ) -> Option<()> {
        match kind {
            VmbusMessageType::INITIATE_CONTACT => self.contact(synic, &read(bytes)?, port),
            VmbusMessageType::REQUEST_OFFERS => {
                if std::mem::replace(&mut self.are_offers_requested, true) {
                    self.violation("offers are requested twice");
                }
                let channels: Vec<u32> = self.channels.keys().copied().collect();
                channels.into_iter().for_each(|channel| self.offer(synic, channel));
                self.say(synic, &header(VmbusMessageType::ALL_OFFERS_DELIVERED));
            }
            VmbusMessageType::GPADL_HEADER => self.gpadl_header(synic, &read(bytes)?, bytes),
            VmbusMessageType::GPADL_BODY => {
                let VmbusGpadlBody { gpadl_id, .. } = read(bytes)?;
                if self.gpadls.get(&gpadl_id).is_none_or(|gpadl| gpadl.is_created) {
                    self.violation("a body for a GPADL that waits for none");
                    return Some(());
                }
                self.gpadl_frames(synic, gpadl_id, &bytes[size_of::<VmbusGpadlBody>()..]);
            }
            VmbusMessageType::GPADL_TEARDOWN => self.gpadl_teardown(synic, &read(bytes)?),
            VmbusMessageType::OPEN_CHANNEL => self.open(synic, &read(bytes)?),
            VmbusMessageType::CLOSE_CHANNEL => {
                let VmbusChannelMessage { channel_id, .. } = read(bytes)?;
                match self.channels.get_mut(&channel_id) {
                    Some(channel) if channel.open.is_some() => {
                        let ring = channel.open.take().map(|open| open.gpadl);
                        let is_old = self.version < VmbusVersion::WIN10.0 && self.faults.wants_buffers_first;
                        let kept = self.gpadls.iter_mut().filter(|(id, _)| Some(**id) != ring && is_old);
                        kept.filter(|(_, g)| g.channel == channel_id).for_each(|(_, g)| g.is_stuck = true);
                        channel.device.close();
                        let is_socket = channel.settings.socket.is_some();
                        self.close_further(synic, channel_id);
                        if is_socket {
                            self.rescind(synic, channel_id);
                        }
                    }
                    Some(channel) if channel.is_rescinded => {}
                    _ => self.violation("a channel is closed that is not open"),
                }
            }
            VmbusMessageType::REL_ID_RELEASED => {
                let VmbusChannelMessage { channel_id, .. } = read(bytes)?;
                let has_gpadl = self.gpadls.values().any(|gpadl| gpadl.channel == channel_id);
                match self.channels.get(&channel_id) {
                    Some(channel) if channel.is_rescinded && channel.open.is_none() && !has_gpadl => {
                        self.channels.remove(&channel_id);
                    }
                    _ => self.violation("a channel is released that is in use or was not rescinded"),
                }
            }
            VmbusMessageType::MODIFY_CHANNEL => {
                let VmbusModifyChannel { channel_id, target_vp, .. } = read(bytes)?;
                if self.version < VmbusVersion::WIN10_RS3_0.0 {
                    self.violation("a channel is moved on a host that does not know that");
                }
                let open = self.channels.get_mut(&channel_id).and_then(|channel| channel.open.as_mut());
                let status = match open.filter(|_| synic.is_on(target_vp)) {
                    Some(open) => {
                        open.vp = target_vp;
                        0
                    }
                    None => FAILURE,
                };
                if self.version >= VmbusVersion::IRON.0 {
                    let header = header(VmbusMessageType::MODIFY_CHANNEL_RESPONSE);
                    self.say(synic, &VmbusModifyChannelResponse { header, channel_id, status });
                }
            }
            VmbusMessageType::TL_CONNECT_REQUEST => self.socket_wanted(synic, bytes)?,
            // Hosts before VMBus 3.0 do not know the message, and never answer it.
            VmbusMessageType::UNLOAD if self.version < VmbusVersion::WIN8_1.0 => {
                self.violation("UNLOAD of a connection before version 3.0");
            }
            VmbusMessageType::UNLOAD => {
                // The last body message has arrived.
                let channels: Vec<u32> = self.channels.keys().copied().collect();
                channels.into_iter().for_each(|channel| self.work(synic, channel));
                self.reset();
                self.say(synic, &header(VmbusMessageType::UNLOAD_COMPLETE));
                self.version = 0;
            }
            _ => return None,
        }
        Some(())
    }

    /// Resets the connection: the host releases all memory of the guest.
    fn reset(&mut self) {
        let stays = |channel: &Channel| {
            !channel.is_rescinded && channel.settings.subchannel == 0 && channel.settings.socket.is_none()
        };
        self.channels.retain(|_, channel| stays(channel));
        for channel in self.channels.values_mut() {
            if channel.open.take().is_some() {
                channel.device.close();
            }
            channel.is_offered = false;
        }
        self.gpadls.clear();
        self.are_offers_requested = false;
    }

    /// Rescinds the subchannels of a device whose primary channel was closed.
    fn close_further(&mut self, synic: &mut dyn Controller, primary: u32) {
        let Some(settings) = self.channels.get(&primary).map(|channel| channel.settings) else { return };
        if settings.subchannel == 0 {
            let is_further =
                |other: &OfferSettings| other.instance == settings.instance && other.subchannel > 0;
            let further: Vec<u32> = self
                .channels
                .iter()
                .filter(|(_, channel)| is_further(&channel.settings) && !channel.is_rescinded)
                .map(|(number, _)| *number)
                .collect();
            further.into_iter().for_each(|number| self.rescind(synic, number));
        }
    }

    /// Rescinds a channel.
    pub fn rescind(&mut self, synic: &mut dyn Controller, number: u32) {
        if let Some(channel) = self.channels.get_mut(&number) {
            channel.is_rescinded = true;
            if channel.open.take().is_some() {
                channel.device.close();
            }
            if !channel.is_offered {
                // It was never offered, so the guest will not release it.
                self.channels.remove(&number);
                self.gpadls.retain(|_, gpadl| gpadl.channel != number);
                return;
            }
            let header = header(VmbusMessageType::RESCIND_CHANNEL_OFFER);
            self.say(synic, &VmbusChannelMessage { header, channel_id: number });
        }
    }

    /// Offers `count` subchannels of the device with this primary channel.
    pub(super) fn offer_further(&mut self, synic: &mut dyn Controller, primary: u32, count: u16) {
        for index in 1..=count {
            let Some(channel) = self.channels.get_mut(&primary) else { return };
            let settings = OfferSettings { subchannel: index, ..channel.settings };
            let Some(device) = channel.device.further(index) else { return };
            if self.free_number() >= HV_EVENT_FLAGS {
                return self.violation("more channels than there are event flags");
            }
            self.add(synic, settings, device);
        }
    }

    fn contact(&mut self, synic: &mut dyn Controller, message: &VmbusInitiateContact, port: u32) {
        const KNOWN: [VmbusVersion; 10] = [
            VmbusVersion::WIN7,
            VmbusVersion::WIN8,
            VmbusVersion::WIN8_1,
            VmbusVersion::WIN10,
            VmbusVersion::WIN10_RS3_0,
            VmbusVersion::WIN10_RS3_1,
            VmbusVersion::WIN10_RS4,
            VmbusVersion::WIN10_RS5,
            VmbusVersion::IRON,
            VmbusVersion::COPPER,
        ];
        self.reset();
        self.version = 0;
        self.contacts.push(message.version.0);
        let newest = self.faults.newest;
        let is_known = KNOWN.contains(&message.version) && (newest == 0 || message.version.0 <= newest);
        let has_ports = message.version.0 >= VmbusVersion::WIN10_RS3_1.0;
        if has_ports && port == VMBUS_MULTI_CLIENT_CONNECTION {
            let target: Option<VmbusContactTarget> = read(&message.interrupt_page_or_target);
            if target
                .is_none_or(|target| u32::from(target.target_sint) != VMBUS_SINT || target.target_vtl != 0)
            {
                // The response goes to another VP.
                return self.violation("a contact that names another source");
            }
        }
        if !synic.is_on(message.target_message_vp) {
            return self.violation("a contact ahead of the SynIC");
        }
        if message.version.0 < VmbusVersion::WIN8_1.0 && message.target_message_vp != 0 {
            return self.violation("a host before VMBus 4.0 sends messages to processor 0 only");
        }
        self.target = message.target_message_vp;
        self.interrupt_page = match message.version.0 < VmbusVersion::WIN8.0 {
            true => u64::from_le_bytes(message.interrupt_page_or_target),
            false => 0,
        };
        let mut response = VmbusVersionResponse2::new_zeroed();
        response.base.header = header(VmbusMessageType::VERSION_RESPONSE);
        response.base.version_supported = u8::from(is_known);
        response.base.connection_state = VmbusConnectionState(self.faults.connection_state);
        // Hosts before VMBus 4.0 leave the state undefined.
        let is_old = message.version.0 < VmbusVersion::WIN8.0;
        if is_known && (is_old || response.base.connection_state == VmbusConnectionState::SUCCESS) {
            self.version = message.version.0;
            if has_ports {
                response.base.selected_version_or_connection_id = RETURNED_CONNECTION;
            }
        }
        match message.version == VmbusVersion::COPPER {
            true => self.say(synic, &response),
            false => self.say(synic, &response.base),
        }
    }

    fn offer(&mut self, synic: &mut dyn Controller, number: u32) {
        let Some(channel) = self.channels.get_mut(&number) else { return };
        if std::mem::replace(&mut channel.is_offered, true) || channel.is_rescinded {
            return;
        }
        let OfferSettings { interface, instance, subchannel, is_shared, is_pipe, socket } = channel.settings;
        let mut message = VmbusOfferChannel::new_zeroed();
        message.header = header(VmbusMessageType::OFFER_CHANNEL);
        message.interface_id = interface.0;
        message.instance_id = instance.0;
        message.subchannel_index = subchannel;
        message.channel_id = number;
        message.monitor_id = 0xff;
        message.is_dedicated = u16::from(!is_shared);
        message.connection_id = CHANNEL_CONNECTIONS + number;
        if is_pipe {
            message.flags = VmbusOfferFlags::NAMED_PIPE.bits();
            message.user_defined[..4].copy_from_slice(&PIPE_OF_MESSAGES.to_le_bytes());
        }
        if let Some(is_for_guest) = socket {
            message.flags = (VmbusOfferFlags::NAMED_PIPE | VmbusOfferFlags::HVSOCK).bits();
            message.user_defined[4] = is_for_guest.into();
        }
        self.say(synic, &message);
    }

    /// Returns the lowest unused channel number. Numbers of released channels are reused.
    fn free_number(&self) -> u32 {
        let are_taken = self.channels.keys().zip(1..).take_while(|(number, place)| *number == place);
        are_taken.count() as u32 + 1
    }

    /// Adds a device to the bus and returns the number of its channel, the lowest unused one. A connected guest receives the offer.
    pub fn add(
        &mut self,
        synic: &mut dyn Controller,
        settings: OfferSettings,
        device: Box<dyn VmbusDevice>,
    ) -> u32 {
        let number = self.free_number();
        self.channels.insert(number, Channel::new(settings, device));
        if self.are_offers_requested {
            self.offer(synic, number);
        }
        number
    }
}

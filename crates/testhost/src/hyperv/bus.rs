//! VMBus, from the host's side.

use super::devices::{Out, Outbox, VmbusDevice};
use super::{State, synic};
use crate::Guest;
use hyperv_bindings::Guid;
use hyperv_bindings::tlfs::{HvMessageType, HvPostMessageInput, HvStatus};
use hyperv_bindings::vmbus::*;
use paravirt_vmbus_ring::{Incoming, Outgoing, RingMemory};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// The connection id that a host of version 5.0 or later returns: none of the well-known ones.
const RETURNED_CONNECTION: u32 = 0x21;
/// What is added to a channel's number for its connection id.
const CHANNEL_CONNECTIONS: u32 = 0x2000;
const FAILURE: u32 = VMBUS_STATUS_FAILURE;

/// Changes a message that is about to be sent.
pub type Mutation = Box<dyn FnMut(&mut Vec<u8>) + Send>;

/// How a host misbehaves.
#[derive(Default)]
pub struct Faults {
    /// The newest version that it speaks; 0 for all.
    pub newest: u32,
    /// What it says of the connection, where that is not success.
    pub connection_state: u8,
    /// Messages of these types are not sent.
    pub drop: Vec<VmbusMessageType>,
    /// Messages are kept until [`HvHost::deliver`](crate::HvHost::deliver).
    pub delay: bool,
    /// Applied to every message that is sent.
    pub mutate: Option<Mutation>,
    /// What openings are answered with, where that is not success.
    pub open_status: u32,
    /// What GPADLs are answered with, where that is not success.
    pub gpadl_status: u32,
}

/// How a device is offered.
#[derive(Copy, Clone, Debug, Default)]
pub struct OfferSettings {
    /// Its class.
    pub interface: Guid,
    /// Which one it is.
    pub instance: Guid,
    /// Which of its channels this is.
    pub subchannel: u16,
    /// It has no connection of its own: for hosts of old.
    pub is_shared: bool,
}

pub(super) struct HostRing {
    control: *const [AtomicU32; 32],
    data: *const AtomicU64,
    words: usize,
}

// SAFETY: every access goes through atomics.
unsafe impl Send for HostRing {}

impl RingMemory for HostRing {
    fn control(&self) -> &[AtomicU32; 32] {
        // SAFETY: it is guest memory, which lives as long as the guest, and longer than a channel.
        unsafe { &*self.control }
    }
    fn data(&self) -> &[AtomicU64] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.data, self.words) }
    }
}

pub(super) struct Open {
    gpadl: u32,
    incoming: Incoming<HostRing>,
    pub outgoing: Outgoing<HostRing>,
    processor: u32,
    outbox: Outbox,
    /// What a packet is copied to.
    buffer: Vec<u8>,
}

pub(super) struct Channel {
    settings: OfferSettings,
    device: Box<dyn VmbusDevice>,
    pub open: Option<Open>,
    is_offered: bool,
    pub is_rescinded: bool,
    pub signals: u64,
    pub interrupts: u64,
}

impl Channel {
    pub fn settings(&self) -> &OfferSettings {
        &self.settings
    }
}

pub(crate) struct Gpadl {
    channel: u32,
    pub frames: Vec<u64>,
    expected: usize,
    is_created: bool,
}

#[derive(Default)]
pub(crate) struct Bus {
    pub faults: Faults,
    pub version: u32,
    /// The processor that messages go to.
    pub target: u32,
    interrupt_page: u64,
    pub are_offers_requested: bool,
    pub(super) channels: BTreeMap<u32, Channel>,
    pub(super) gpadls: BTreeMap<u32, Gpadl>,
    next_channel: u32,
    pub delayed: VecDeque<Vec<u8>>,
    pub contacts: Vec<u32>,
    pub posts: u64,
}

pub(super) fn header(message_type: VmbusMessageType) -> VmbusMessageHeader {
    VmbusMessageHeader { message_type, reserved: 0 }
}

fn read<T: FromBytes>(bytes: &[u8]) -> Option<T> {
    T::read_from_prefix(bytes).ok().map(|(value, _)| value)
}

/// Sends a message to the guest, as the faults let it.
pub(super) fn say<T: IntoBytes + Immutable>(state: &mut State, guest: &Guest, message: &T) {
    let mut bytes = message.as_bytes().to_vec();
    let kind = read::<VmbusMessageHeader>(&bytes).map(|header| header.message_type);
    if kind.is_some_and(|kind| state.bus.faults.drop.contains(&kind)) {
        return;
    }
    if let Some(mutate) = &mut state.bus.faults.mutate {
        mutate(&mut bytes);
    }
    // Padded, as some hosts do.
    bytes.resize(bytes.len().next_multiple_of(8).min(240), 0);
    if state.bus.faults.delay {
        state.bus.delayed.push_back(bytes);
        return;
    }
    let target = state.bus.target;
    synic::send(state, guest, target, VMBUS_SINT, HvMessageType::CHANNEL, &bytes);
}

/// A message of the guest's.
pub(crate) fn post(state: &mut State, guest: &Guest, input: &HvPostMessageInput) -> HvStatus {
    let bus = &mut state.bus;
    let has_ports = bus.faults.newest == 0 || bus.faults.newest >= VmbusVersion::WIN10_RS3_1.0;
    let is_returned = bus.version >= VmbusVersion::WIN10_RS3_1.0;
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
    bus.posts += 1;
    let bytes = &input.payload[..input.payload_size as usize];
    let Some(head) = read::<VmbusMessageHeader>(bytes) else { return HvStatus::INVALID_PARAMETER };
    let kind = head.message_type;
    if kind != VmbusMessageType::INITIATE_CONTACT {
        if is_returned && input.connection_id != RETURNED_CONNECTION {
            state.violation(format!("message {} by connection {}", kind.0, input.connection_id));
        }
        if state.bus.version == 0 {
            state.violation(format!("message {} without a connection", kind.0));
            return HvStatus::SUCCESS;
        }
    }
    if receive(state, guest, kind, bytes, input.connection_id).is_none() {
        state.violation(format!("message {} is too short or of an unknown type", kind.0));
    }
    HvStatus::SUCCESS
}

fn receive(state: &mut State, guest: &Guest, kind: VmbusMessageType, bytes: &[u8], port: u32) -> Option<()> {
    match kind {
        VmbusMessageType::INITIATE_CONTACT => contact(state, guest, &read(bytes)?, port),
        VmbusMessageType::REQUEST_OFFERS => {
            if std::mem::replace(&mut state.bus.are_offers_requested, true) {
                state.violation("offers are requested twice");
            }
            let channels: Vec<u32> = state.bus.channels.keys().copied().collect();
            channels.into_iter().for_each(|channel| offer(state, guest, channel));
            say(state, guest, &header(VmbusMessageType::ALL_OFFERS_DELIVERED));
        }
        VmbusMessageType::GPADL_HEADER => gpadl_header(state, guest, &read(bytes)?, bytes),
        VmbusMessageType::GPADL_BODY => {
            let VmbusGpadlBody { gpadl_id, .. } = read(bytes)?;
            if state.bus.gpadls.get(&gpadl_id).is_none_or(|gpadl| gpadl.is_created) {
                state.violation("a body for a GPADL that waits for none");
                return Some(());
            }
            gpadl_frames(state, guest, gpadl_id, &bytes[size_of::<VmbusGpadlBody>()..]);
        }
        VmbusMessageType::GPADL_TEARDOWN => gpadl_teardown(state, guest, &read(bytes)?),
        VmbusMessageType::OPEN_CHANNEL => open(state, guest, &read(bytes)?),
        VmbusMessageType::CLOSE_CHANNEL => {
            let VmbusChannelMessage { channel_id, .. } = read(bytes)?;
            match state.bus.channels.get_mut(&channel_id) {
                Some(channel) if channel.open.is_some() => {
                    channel.open = None;
                    channel.device.close();
                    close_further(state, guest, channel_id);
                }
                Some(channel) if channel.is_rescinded => {}
                _ => state.violation("a channel is closed that is not open"),
            }
        }
        VmbusMessageType::REL_ID_RELEASED => {
            let VmbusChannelMessage { channel_id, .. } = read(bytes)?;
            let has_gpadl = state.bus.gpadls.values().any(|gpadl| gpadl.channel == channel_id);
            match state.bus.channels.get(&channel_id) {
                Some(channel) if channel.is_rescinded && channel.open.is_none() && !has_gpadl => {
                    state.bus.channels.remove(&channel_id);
                }
                _ => state.violation("a channel is released that is in use, or was not taken back"),
            }
        }
        VmbusMessageType::MODIFY_CHANNEL => {
            let VmbusModifyChannel { channel_id, target_vp, .. } = read(bytes)?;
            if state.bus.version < VmbusVersion::WIN10_RS3_0.0 {
                state.violation("a channel is moved on a host that does not know that");
            }
            let processor = state.synic.processor(target_vp);
            let open = state.bus.channels.get_mut(&channel_id).and_then(|channel| channel.open.as_mut());
            let status = match (open, processor) {
                (Some(open), Some(processor)) => {
                    open.processor = processor;
                    0
                }
                _ => FAILURE,
            };
            if state.bus.version >= VmbusVersion::IRON.0 {
                let header = header(VmbusMessageType::MODIFY_CHANNEL_RESPONSE);
                say(state, guest, &VmbusModifyChannelResponse { header, channel_id, status });
            }
        }
        VmbusMessageType::UNLOAD => {
            reset(&mut state.bus);
            say(state, guest, &header(VmbusMessageType::UNLOAD_COMPLETE));
            state.bus.version = 0;
        }
        _ => return None,
    }
    Some(())
}

/// Forgets the connection: the host uses nothing of the guest's any more.
fn reset(bus: &mut Bus) {
    bus.channels.retain(|_, channel| !channel.is_rescinded);
    for channel in bus.channels.values_mut() {
        channel.open = None;
        channel.is_offered = false;
    }
    bus.gpadls.clear();
    bus.are_offers_requested = false;
}

/// Takes the further channels of a device back, as its primary one was closed.
fn close_further(state: &mut State, guest: &Guest, primary: u32) {
    let Some(settings) = state.bus.channels.get(&primary).map(|channel| channel.settings) else { return };
    if settings.subchannel == 0 {
        let is_further = |other: &OfferSettings| other.instance == settings.instance && other.subchannel > 0;
        let further: Vec<u32> = state
            .bus
            .channels
            .iter()
            .filter(|(_, channel)| is_further(&channel.settings) && !channel.is_rescinded)
            .map(|(number, _)| *number)
            .collect();
        further.into_iter().for_each(|number| rescind(state, guest, number));
    }
}

/// Takes a channel back.
pub(super) fn rescind(state: &mut State, guest: &Guest, number: u32) {
    if let Some(channel) = state.bus.channels.get_mut(&number) {
        channel.is_rescinded = true;
        if channel.open.take().is_some() {
            channel.device.close();
        }
        let header = header(VmbusMessageType::RESCIND_CHANNEL_OFFER);
        say(state, guest, &VmbusChannelMessage { header, channel_id: number });
    }
}

/// Offers `count` further channels of the device whose primary channel this is.
fn offer_further(state: &mut State, guest: &Guest, primary: u32, count: u16) {
    for index in 1..=count {
        let Some(channel) = state.bus.channels.get_mut(&primary) else { return };
        let settings = OfferSettings { subchannel: index, ..channel.settings };
        let Some(device) = channel.device.further(index) else { return };
        let number = add(&mut state.bus, settings, device);
        offer(state, guest, number);
    }
}

fn contact(state: &mut State, guest: &Guest, message: &VmbusInitiateContact, port: u32) {
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
    reset(&mut state.bus);
    state.bus.version = 0;
    state.bus.contacts.push(message.version.0);
    let newest = state.bus.faults.newest;
    let is_known = KNOWN.contains(&message.version) && (newest == 0 || message.version.0 <= newest);
    let has_ports = message.version.0 >= VmbusVersion::WIN10_RS3_1.0;
    if has_ports && port == VMBUS_MULTI_CLIENT_CONNECTION {
        let target: Option<VmbusContactTarget> = read(&message.interrupt_page_or_target);
        if target.is_none_or(|target| u32::from(target.target_sint) != VMBUS_SINT || target.target_vtl != 0) {
            // The answer goes elsewhere.
            return state.violation("a contact that names another source");
        }
    }
    let Some(processor) = state.synic.processor(message.target_message_vp) else {
        return state.violation("a contact that names no processor");
    };
    if !state.synic.in_use().contains(&message.target_message_vp) {
        return state.violation("a contact ahead of the SynIC");
    }
    if message.version.0 < VmbusVersion::WIN8_1.0 && message.target_message_vp != 0 {
        return state.violation("a host of old sends its messages to processor 0 alone");
    }
    state.bus.target = processor;
    state.bus.interrupt_page = match message.version.0 < VmbusVersion::WIN8.0 {
        true => u64::from_le_bytes(message.interrupt_page_or_target),
        false => 0,
    };
    let mut response = VmbusVersionResponse2::new_zeroed();
    response.base.header = header(VmbusMessageType::VERSION_RESPONSE);
    response.base.version_supported = u8::from(is_known);
    response.base.connection_state = VmbusConnectionState(state.bus.faults.connection_state);
    // Hosts of old leave the state to chance.
    let is_old = message.version.0 < VmbusVersion::WIN8.0;
    if is_known && (is_old || response.base.connection_state == VmbusConnectionState::SUCCESS) {
        state.bus.version = message.version.0;
        if has_ports {
            response.base.selected_version_or_connection_id = RETURNED_CONNECTION;
        }
    }
    match message.version == VmbusVersion::COPPER {
        true => say(state, guest, &response),
        false => say(state, guest, &response.base),
    }
}

pub(super) fn offer(state: &mut State, guest: &Guest, number: u32) {
    let Some(channel) = state.bus.channels.get_mut(&number) else { return };
    if std::mem::replace(&mut channel.is_offered, true) || channel.is_rescinded {
        return;
    }
    let OfferSettings { interface, instance, subchannel, is_shared } = channel.settings;
    let mut message = VmbusOfferChannel::new_zeroed();
    message.header = header(VmbusMessageType::OFFER_CHANNEL);
    message.interface_id = interface.0;
    message.instance_id = instance.0;
    message.subchannel_index = subchannel;
    message.channel_id = number;
    message.monitor_id = 0xff;
    message.is_dedicated = u16::from(!is_shared);
    message.connection_id = CHANNEL_CONNECTIONS + number;
    say(state, guest, &message);
}

fn gpadl_header(state: &mut State, guest: &Guest, message: &VmbusGpadlHeader, bytes: &[u8]) {
    let VmbusGpadlHeader {
        channel_id, gpadl_id, range_buffer_len, range_count, byte_count, byte_offset, ..
    } = *message;
    let pages = (byte_count as usize).div_ceil(4096);
    let is_whole = byte_offset == 0 && byte_count.is_multiple_of(4096) && range_count == 1 && pages > 0;
    if !is_whole || usize::from(range_buffer_len) != 8 + pages * 8 {
        return state.violation("a GPADL of a shape that some hosts do not know");
    }
    if gpadl_id == 0 || state.bus.gpadls.contains_key(&gpadl_id) {
        return state.violation("a GPADL whose id is 0 or in use");
    }
    if !state.bus.channels.contains_key(&channel_id) {
        return state.violation("a GPADL for no channel");
    }
    let gpadl = Gpadl { channel: channel_id, frames: vec![], expected: pages, is_created: false };
    state.bus.gpadls.insert(gpadl_id, gpadl);
    gpadl_frames(state, guest, gpadl_id, &bytes[size_of::<VmbusGpadlHeader>()..]);
}

fn gpadl_frames(state: &mut State, guest: &Guest, id: u32, bytes: &[u8]) {
    let Some(gpadl) = state.bus.gpadls.get_mut(&id) else { return };
    let left = gpadl.expected - gpadl.frames.len();
    gpadl.frames.extend(bytes.as_chunks::<8>().0.iter().take(left).map(|frame| u64::from_le_bytes(*frame)));
    if gpadl.frames.len() < gpadl.expected {
        return;
    }
    let status = state.bus.faults.gpadl_status;
    gpadl.is_created = true;
    let channel_id = gpadl.channel;
    if status != 0 {
        state.bus.gpadls.remove(&id);
    }
    let header = header(VmbusMessageType::GPADL_CREATED);
    say(state, guest, &VmbusGpadlCreated { header, channel_id, gpadl_id: id, status });
}

fn gpadl_teardown(state: &mut State, guest: &Guest, message: &VmbusGpadlTeardown) {
    let VmbusGpadlTeardown { channel_id, gpadl_id, .. } = *message;
    let is_open = |channel: &Channel| channel.open.as_ref().is_some_and(|open| open.gpadl == gpadl_id);
    if state.bus.channels.get(&channel_id).is_some_and(is_open) {
        return state.violation("a GPADL is torn down under an open channel");
    }
    match state.bus.gpadls.remove(&gpadl_id) {
        Some(gpadl) if gpadl.channel == channel_id && gpadl.is_created => {
            let header = header(VmbusMessageType::GPADL_TORNDOWN);
            say(state, guest, &VmbusGpadlTorndown { header, gpadl_id });
        }
        _ => state.violation("a GPADL is torn down that there is not"),
    }
}

/// The ring in pages `from` to `to` of a GPADL, which this model wants to be one piece.
fn ring(guest: &Guest, frames: &[u64], from: usize, to: usize) -> Option<HostRing> {
    let frames = frames.get(from..to).filter(|frames| frames.len() >= 2)?;
    let is_contiguous = frames.windows(2).all(|pair| pair[1] == pair[0] + 1);
    let base = frames[0] * 4096;
    is_contiguous.then(|| HostRing {
        control: guest.host(base).cast(),
        data: guest.host(base + 4096).cast(),
        words: (frames.len() - 1) * 512,
    })
}

fn open(state: &mut State, guest: &Guest, message: &VmbusOpenChannel) {
    let VmbusOpenChannel { channel_id, open_id, ring_gpadl_id, target_vp, downstream_page_offset, .. } =
        *message;
    let result = |state: &mut State, status| {
        let header = header(VmbusMessageType::OPEN_CHANNEL_RESULT);
        say(state, guest, &VmbusOpenChannelResult { header, channel_id, open_id, status });
    };
    if state.bus.channels.get(&channel_id).is_some_and(|channel| channel.is_rescinded) {
        // There is no answer.
        return;
    }
    let Some(processor) =
        state.synic.processor(target_vp).filter(|_| state.synic.in_use().contains(&target_vp))
    else {
        state.violation("a channel for a processor that has no SynIC");
        return result(state, FAILURE);
    };
    let status = state.bus.faults.open_status;
    if status != 0 {
        return result(state, status);
    }
    let split = downstream_page_offset as usize;
    let gpadl = state.bus.gpadls.get(&ring_gpadl_id).filter(|gpadl| gpadl.channel == channel_id);
    let rings = gpadl.and_then(|gpadl| {
        let incoming = ring(guest, &gpadl.frames, 0, split)?;
        let outgoing = ring(guest, &gpadl.frames, split, gpadl.frames.len())?;
        // The host reads these at once.
        let features =
            incoming.control()[16].load(Ordering::SeqCst) & outgoing.control()[16].load(Ordering::SeqCst);
        (features & 1 != 0).then_some((Incoming::new(incoming).ok()?, Outgoing::new(outgoing).ok()?))
    });
    let (Some((incoming, outgoing)), Some(channel)) = (rings, state.bus.channels.get_mut(&channel_id)) else {
        state.violation("a channel is opened without rings");
        return result(state, FAILURE);
    };
    if channel.open.is_some() {
        return state.violation("a channel is opened twice");
    }
    channel.open = Some(Open {
        gpadl: ring_gpadl_id,
        incoming,
        outgoing,
        processor,
        outbox: Outbox::default(),
        buffer: vec![0; 64 << 10],
    });
    channel.device.open();
    result(state, 0);
    work(state, guest, channel_id);
}

/// The guest signals a channel, or all of those that have no connection of their own.
pub(crate) fn signal(state: &mut State, guest: &Guest, connection: u32) -> HvStatus {
    if connection == VMBUS_EVENT_CONNECTION && state.bus.interrupt_page != 0 {
        for at in 0..32u64 {
            let address = state.bus.interrupt_page + 2048 + at * 8;
            // SAFETY: it is guest memory, which lives as long as the guest.
            let set = unsafe { &*guest.host(address).cast::<AtomicU64>() }.swap(0, Ordering::SeqCst);
            for bit in (0..64).filter(|bit| set & 1 << bit != 0) {
                count_and_work(state, guest, at as u32 * 64 + bit);
            }
        }
        return HvStatus::SUCCESS;
    }
    let number = connection.wrapping_sub(CHANNEL_CONNECTIONS);
    match state.bus.channels.get(&number) {
        Some(channel) if channel.is_rescinded => HvStatus::INVALID_CONNECTION_ID,
        Some(_) => {
            count_and_work(state, guest, number);
            HvStatus::SUCCESS
        }
        None => HvStatus::INVALID_CONNECTION_ID,
    }
}

fn count_and_work(state: &mut State, guest: &Guest, number: u32) {
    if let Some(channel) = state.bus.channels.get_mut(&number) {
        channel.signals += 1;
    }
    work(state, guest, number);
}

/// Serves a channel: takes all packets, sends what the device has to say.
pub(super) fn work(state: &mut State, guest: &Guest, number: u32) {
    let Bus { channels, gpadls, .. } = &mut state.bus;
    let Some(channel) = channels.get_mut(&number).filter(|channel| !channel.is_rescinded) else { return };
    let Some(open) = &mut channel.open else { return };
    let mut error = None;
    open.incoming.mask();
    let mut must_signal = false;
    loop {
        match open.incoming.next(&mut open.buffer) {
            Ok(Some(packet)) => {
                let mut out = Out { outbox: &mut open.outbox, gpadls };
                channel.device.packet(guest, &packet, &mut out);
            }
            Ok(None) if !open.incoming.unmask() => break,
            Ok(None) => {}
            Err(found) => {
                error = Some(found);
                break;
            }
        }
    }
    must_signal |= open.incoming.release();
    channel.device.poll(guest, &mut Out { outbox: &mut open.outbox, gpadls });
    while let Some(waiting) = open.outbox.waiting.front() {
        if waiting.write(&mut open.outgoing).is_err() {
            must_signal |= open.outgoing.publish();
            if !open.outgoing.await_room(waiting.len()).unwrap_or(false) {
                break;
            }
            continue;
        }
        open.outbox.waiting.pop_front();
    }
    if open.outbox.waiting.is_empty() {
        open.outgoing.stop_waiting();
    }
    must_signal |= open.outgoing.publish();
    let processor = open.processor;
    let further = std::mem::take(&mut open.outbox.further);
    channel.interrupts += u64::from(must_signal);
    if let Some(error) = error {
        state.violation(format!("the guest's ring: {error}"));
    }
    if must_signal {
        let page = state.bus.interrupt_page;
        if page == 0 {
            synic::set_flag(state, guest, processor, VMBUS_SINT, number);
        } else {
            // SAFETY: as in `signal`.
            let word = unsafe { &*guest.host(page + u64::from(number / 64 * 8)).cast::<AtomicU64>() };
            word.fetch_or(1 << (number % 64), Ordering::SeqCst);
            let target = state.bus.target;
            synic::set_flag(state, guest, target, VMBUS_SINT, 0);
        }
    }
    if further > 0 {
        offer_further(state, guest, number, further);
    }
}

/// Puts a device on the bus; the number of its channel.
pub(super) fn add(bus: &mut Bus, settings: OfferSettings, device: Box<dyn VmbusDevice>) -> u32 {
    bus.next_channel += 1;
    let channel = Channel {
        settings,
        device,
        open: None,
        is_offered: false,
        is_rescinded: false,
        signals: 0,
        interrupts: 0,
    };
    bus.channels.insert(bus.next_channel, channel);
    bus.next_channel
}

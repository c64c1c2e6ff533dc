//! Reading a channel: every packet of the host is classified here and handed to the owner of its queue's state.

use crate::completions::PendingCompletions;
use crate::host_state::HostState;
use crate::message::HostMessage;
use crate::receive::{Added, Fragment, parse_fragment};
use crate::transaction;
use hyperv_bindings::netvsp::NvspStatus;
use hyperv_bindings::rndis::RndisMessageType;
use paravirt_device::Fault;
use paravirt_platform::{Platform, SharedMemory};
use paravirt_vmbus::{Channel, Kind, Packet};

/// Bytes of the longest packet that is accepted, its descriptor aside.
pub(crate) const MAX_PACKET: usize = 8192;
/// Ranges of such a packet: what is left behind the count of the ranges and the shortest NVSP message.
pub(crate) const MAX_RANGES: usize = (MAX_PACKET - 16) / 8;
/// Bytes of a control message that are looked at.
const MAX_CONTROL: usize = 512;

/// Who owns the state of a queue: the queue's own state, or the device's backlog for it.
pub(crate) trait PacketSink<P: Platform> {
    /// Whether the contents of any one packet fit. A packet that does not fit stays in the ring.
    fn has_room(&self) -> bool;
    /// Adds a frame, or a fragment of a coalesced one.
    fn add_fragment(&mut self, fragment: Fragment) -> Added;
    /// Adds the packet that the last `frames` fragments came with; it is completed once they have all been consumed.
    fn add_packet(&mut self, transaction: u64, frames: u32) -> Result<(), Fault>;
    /// The host has completed a send.
    fn complete_send(&mut self, transaction: u64, is_success: bool) -> Result<(), Fault>;
    /// Where packets without frames are completed.
    fn completions(&mut self) -> &mut PendingCompletions<P>;
}

/// Takes in packets until the ring is empty or `sink` is full; whether none came.
#[inline]
pub(crate) fn pump<P: Platform, S: PacketSink<P>>(
    channel: &mut Channel<P>,
    buffer: &mut [u8],
    sink: &mut S,
    host: &HostState<P>,
    memory: &SharedMemory,
) -> Result<bool, Fault> {
    let mut is_idle = true;
    loop {
        if !sink.has_room() {
            channel.release();
            return Ok(false);
        }
        let Some(packet) = channel.receive(buffer)? else { return Ok(is_idle) };
        is_idle = false;
        on_packet(&packet, sink, host, memory)?;
    }
}

/// Takes in a packet. What is odd in it is dropped and counted: no memory depends on it.
///
/// # Errors
///
/// A [`Fault`] of the sink, which had promised room.
#[inline(always)]
fn on_packet<P: Platform, S: PacketSink<P>>(
    packet: &Packet<'_>,
    sink: &mut S,
    host: &HostState<P>,
    memory: &SharedMemory,
) -> Result<(), Fault> {
    match packet.kind {
        Kind::COMPLETION if packet.transaction & transaction::CONTROL != 0 => {
            if host.on_control_sent(packet.transaction, packet.payload).is_err() {
                host.count_malformed("completion of a message that is not in flight");
            }
            Ok(())
        }
        Kind::COMPLETION => {
            let is_success = matches!(
                HostMessage::parse(packet.payload, host.version()),
                Ok(HostMessage::RndisComplete(NvspStatus::SUCCESS))
            );
            if sink.complete_send(packet.transaction, is_success).is_err() {
                host.count_malformed("completion of a frame that is not in flight");
            }
            Ok(())
        }
        Kind::TRANSFER_PAGES => on_transfer_pages(packet, sink, host, memory),
        Kind::IN_BAND => {
            host.on_nvsp(packet.payload);
            if packet.wants_completion {
                sink.completions().push(packet.transaction);
            }
            Ok(())
        }
        _ => {
            host.count_malformed("packet of an unknown kind");
            if packet.wants_completion {
                sink.completions().push_failed(packet.transaction);
            }
            Ok(())
        }
    }
}

/// Takes in a packet that names RNDIS messages in the receive buffer. What they are is told by their own type, whatever the packet says.
#[inline(always)]
fn on_transfer_pages<P: Platform, S: PacketSink<P>>(
    packet: &Packet<'_>,
    sink: &mut S,
    host: &HostState<P>,
    memory: &SharedMemory,
) -> Result<(), Fault> {
    let ranges = packet.transfer_ranges();
    let (Some(ranges), true) = (ranges, packet.wants_completion) else {
        host.count_malformed("packet whose ranges are not in it, or that is not to be completed");
        if packet.wants_completion {
            sink.completions().push_failed(packet.transaction);
        }
        return Ok(());
    };
    let (mut frames, mut is_malformed) = (0u32, false);
    for range in ranges.iter() {
        let is_inside = range.offset.checked_add(range.len).is_some_and(|end| end as usize <= memory.len());
        if !is_inside {
            is_malformed = true;
            continue;
        }
        match parse_fragment(range.offset, range.len, memory) {
            Ok(Some(fragment)) => {
                let added = sink.add_fragment(fragment);
                is_malformed |= added != Added::Yes;
                frames = frames.wrapping_add(u32::from(added != Added::No));
            }
            Ok(None) => {}
            Err(_) => is_malformed |= on_control(range.offset, range.len, host, memory).is_err(),
        }
    }
    if is_malformed {
        host.count_malformed("frame that is malformed, incomplete, or outside the receive buffer");
    }
    match (frames, is_malformed) {
        (0, false) => sink.completions().push(packet.transaction),
        (0, true) => sink.completions().push_failed(packet.transaction),
        _ => return sink.add_packet(packet.transaction, frames),
    }
    Ok(())
}

/// Handles a message that carries no frame; an error where it is one that is malformed.
#[cold]
fn on_control<P: Platform>(
    offset: u32,
    len: u32,
    host: &HostState<P>,
    memory: &SharedMemory,
) -> Result<(), Fault> {
    let mut message = [0; MAX_CONTROL];
    let bytes = message.get_mut(..len as usize).ok_or(Fault::Protocol)?;
    memory.copy_out(offset as usize, bytes).ok_or(Fault::Protocol)?;
    let is_packet = bytes.get(..4).is_none_or(|kind| kind == RndisMessageType::PACKET.0.to_le_bytes());
    if is_packet { Err(Fault::Protocol) } else { host.on_rndis(bytes) }
}

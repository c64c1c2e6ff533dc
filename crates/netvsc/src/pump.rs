//! Reading a channel: every packet of the host is classified here and handed to the owner of its queue's state.

use crate::completions::PendingCompletions;
use crate::host_state::HostState;
use crate::message::HostMessage;
use crate::receive::{Fragment, parse_fragment};
use crate::transaction;
use hyperv_bindings::netvsp::{NvspChannelType, NvspStatus};
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
    fn add_fragment(&mut self, fragment: Fragment) -> Result<(), Fault>;
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
        let (kind, len) = (packet.kind, packet.payload.len());
        if let Err(fault) = on_packet(&packet, sink, host, memory) {
            log::error!(
                "netvsc: {}: malformed packet of kind {} with {len} bytes, device put out of service",
                channel.offer(),
                kind.0
            );
            channel.fail(fault);
            return Err(fault);
        }
    }
}

#[inline(always)]
fn on_packet<P: Platform, S: PacketSink<P>>(
    packet: &Packet<'_>,
    sink: &mut S,
    host: &HostState<P>,
    memory: &SharedMemory,
) -> Result<(), Fault> {
    match packet.kind {
        Kind::COMPLETION if packet.transaction & transaction::CONTROL != 0 => {
            host.on_control_sent(packet.transaction, packet.payload)
        }
        Kind::COMPLETION => {
            let is_success = matches!(
                HostMessage::parse(packet.payload, host.version()),
                Ok(HostMessage::RndisComplete(NvspStatus::SUCCESS))
            );
            sink.complete_send(packet.transaction, is_success)
        }
        Kind::TRANSFER_PAGES => on_transfer_pages(packet, sink, host, memory),
        Kind::IN_BAND => {
            host.on_nvsp(packet.payload);
            if packet.wants_completion {
                sink.completions().push(packet.transaction);
            }
            Ok(())
        }
        _ => Err(Fault::Protocol),
    }
}

/// Takes in a packet that names RNDIS messages in the receive buffer.
#[inline(always)]
fn on_transfer_pages<P: Platform, S: PacketSink<P>>(
    packet: &Packet<'_>,
    sink: &mut S,
    host: &HostState<P>,
    memory: &SharedMemory,
) -> Result<(), Fault> {
    let ranges = packet.transfer_ranges().ok_or(Fault::Protocol)?;
    let channel_type = HostMessage::rndis_channel(packet.payload).map_err(|_| Fault::Protocol)?;
    if !packet.wants_completion {
        return Err(Fault::Protocol);
    }
    let mut frames = 0u32;
    for range in ranges.iter() {
        let end = range.offset.checked_add(range.len).ok_or(Fault::Protocol)?;
        if end as usize > memory.len() {
            return Err(Fault::Protocol);
        }
        if channel_type == NvspChannelType::CONTROL {
            on_control(range.offset, range.len, host, memory)?;
        } else if let Some(fragment) = parse_fragment(range.offset, range.len, memory)? {
            sink.add_fragment(fragment)?;
            frames = frames.wrapping_add(1);
        }
    }
    if frames == 0 {
        sink.completions().push(packet.transaction);
        return Ok(());
    }
    sink.add_packet(packet.transaction, frames)
}

#[cold]
fn on_control<P: Platform>(
    offset: u32,
    len: u32,
    host: &HostState<P>,
    memory: &SharedMemory,
) -> Result<(), Fault> {
    let mut message = [0; MAX_CONTROL];
    let Some(bytes) = message.get_mut(..len as usize) else {
        log::warn!("netvsc: RNDIS control message of {len} bytes is over {MAX_CONTROL}, dropped");
        return Ok(());
    };
    memory.copy_out(offset as usize, bytes).ok_or(Fault::Protocol)?;
    host.on_rndis(bytes)
}

//! What came in by a channel: frames where the host has put them, and the packets that they came with, which are completed when
//! all of their frames have been taken.

use crate::message::HostMessage;
use crate::rndis::{Control, FrameHeader, FrameInfo};
use crate::shared::Shared;
use hyperv_bindings::netvsp::{NvspChannelType, NvspMessageType, NvspSendRndisPacketComplete, NvspStatus};
use hyperv_bindings::rndis::RndisPacketIdFlags;
use paravirt_device::{Fault, SegmentKind, Segmentation};
use paravirt_platform::{AllocError, Fifo, Platform, SharedMemory};
use paravirt_vmbus::{Channel, Packet, SendError};
use zerocopy::IntoBytes;

/// Bytes of a message that are looked at for its header and what stands beside the frame; more are where they have to be.
const HEAD: usize = 128;
const MOST_HEAD: usize = 512;
/// Completions of which the host is told at once.
const MANY: usize = 32;
/// Parts of a frame that came as several: as many as a packet has ranges.
const MOST_PARTS: u16 = 562;
/// Bytes of the largest frame that comes in: several segments that the host has made one.
pub(crate) const MAX_RECEIVED: usize = 65536 + 18;

/// A frame, or a part of one, in the receive buffer.
#[derive(Copy, Clone)]
pub(crate) struct Frame {
    pub offset: u32,
    pub len: u32,
    /// Of the first part: the bytes and the number of all.
    pub total: u32,
    pub parts: u16,
    pub tag: Option<u16>,
    pub is_verified: bool,
    /// How it was on the wire, where the host made it of several.
    pub segmentation: Option<Segmentation>,
}

/// A packet whose frames have not all been taken.
struct Open {
    transaction: u64,
    frames: u32,
}

/// When a packet is to be completed.
pub(crate) enum Completion {
    /// Now: it has no frames.
    Now(u64),
    /// When they have been taken.
    Later,
}

/// What came in.
pub(crate) struct Received<P: Platform> {
    frames: Fifo<P, Frame>,
    packets: Fifo<P, Open>,
    /// Completions that the host is owed.
    owed: Fifo<P, u64>,
    /// Those that were written, and of which the host was not told.
    untold: usize,
    /// Entries of `frames` that make whole frames.
    whole: usize,
    /// Parts of the last frame that are here; 0 where none is begun.
    begun: u16,
}

impl<P: Platform> Received<P> {
    /// For as many frames as the receive buffer has room for.
    pub fn new(platform: &P, frames: usize) -> Result<Self, AllocError> {
        Ok(Self {
            frames: Fifo::new(platform, frames)?,
            packets: Fifo::new(platform, frames)?,
            owed: Fifo::new(platform, frames)?,
            untold: 0,
            whole: 0,
            begun: 0,
        })
    }

    pub fn frames(&self) -> &Fifo<P, Frame> {
        &self.frames
    }

    /// The oldest whole frame.
    #[inline(always)]
    pub fn front(&self) -> Option<&Frame> {
        if self.whole == 0 { None } else { self.frames.get(0) }
    }

    /// Takes in a packet with frames, or with messages of the device.
    #[inline]
    pub fn take_in(
        &mut self,
        packet: &Packet<'_>,
        shared: &Shared<P>,
        memory: &SharedMemory,
    ) -> Result<Completion, Fault> {
        let ranges = packet.transfer_ranges().ok_or(Fault::Protocol)?;
        let message = HostMessage::parse(packet.payload, shared.version()).map_err(|_| Fault::Protocol)?;
        let HostMessage::Rndis(channel_type) = message else { return Err(Fault::Protocol) };
        if !packet.wants_completion {
            return Err(Fault::Protocol);
        }
        let mut frames = 0u32;
        for range in ranges.iter() {
            let end = range.offset.checked_add(range.len).ok_or(Fault::Protocol)?;
            if end as usize > memory.len() {
                return Err(Fault::Protocol);
            }
            let mut head = [0; HEAD];
            let len = (range.len as usize).min(HEAD);
            let bytes = head.get_mut(..len).ok_or(Fault::Protocol)?;
            memory.copy_out(range.offset as usize, bytes).ok_or(Fault::Protocol)?;
            if channel_type == NvspChannelType::CONTROL {
                self.control(range.offset, range.len, shared, memory)?;
                continue;
            }
            match frame(bytes, range.len, range.offset, memory)? {
                (frame, info) if frame.len > 0 => {
                    self.add(frame, info.part)?;
                    frames = frames.wrapping_add(1);
                }
                _ => {}
            }
        }
        let transaction = packet.transaction;
        if frames == 0 {
            return Ok(Completion::Now(transaction));
        }
        self.packets.push(Open { transaction, frames }).map_err(|_| Fault::Protocol)?;
        Ok(Completion::Later)
    }

    #[cold]
    fn control(
        &mut self,
        offset: u32,
        len: u32,
        shared: &Shared<P>,
        memory: &SharedMemory,
    ) -> Result<(), Fault> {
        let mut message = [0; MOST_HEAD];
        let len = len as usize;
        if len > MOST_HEAD {
            log::debug!("netvsc: a message of {len} bytes is passed over");
            return Ok(());
        }
        let bytes = message.get_mut(..len).ok_or(Fault::Protocol)?;
        memory.copy_out(offset as usize, bytes).ok_or(Fault::Protocol)?;
        let parsed = Control::parse(bytes).map_err(|_| Fault::Protocol)?;
        shared.heard(&parsed, bytes);
        Ok(())
    }

    /// Adds a frame, or a part of one.
    #[inline(always)]
    fn add(&mut self, frame: Frame, part: Option<RndisPacketIdFlags>) -> Result<(), Fault> {
        let part = part.filter(|flags| flags.contains(RndisPacketIdFlags::SUBALLOCATION));
        let (is_first, is_last) = match part {
            None => (true, true),
            Some(flags) => {
                (flags.contains(RndisPacketIdFlags::FIRST), flags.contains(RndisPacketIdFlags::LAST))
            }
        };
        // What the last frame lacks does not come any more, or what comes lacks its beginning.
        if is_first != (self.begun == 0) {
            return Err(Fault::Protocol);
        }
        let at = self.whole;
        // Each takes at least one piece of the receive buffer, of which there are no more.
        self.frames.push(frame).map_err(|_| Fault::Protocol)?;
        self.begun = self.begun.wrapping_add(1);
        if !is_first && let Some(first) = self.frames.get_mut(at) {
            first.total = first.total.saturating_add(frame.len);
            first.parts = self.begun;
        }
        let total = self.frames.get(at).map_or(0, |first| first.total as usize);
        if self.begun > MOST_PARTS || total > MAX_RECEIVED {
            return Err(Fault::Protocol);
        }
        if is_last {
            self.whole = self.whole.wrapping_add(usize::from(self.begun));
            self.begun = 0;
        }
        Ok(())
    }

    /// Takes the oldest frame; its memory is the host's again with the packet's completion.
    #[inline(always)]
    pub fn pop(&mut self) {
        let Some(parts) = self.front().map(|frame| frame.parts) else { return };
        for _ in 0..parts {
            self.frames.pop();
            self.whole = self.whole.saturating_sub(1);
            let Some(packet) = self.packets.get_mut(0) else { continue };
            packet.frames = packet.frames.saturating_sub(1);
            if packet.frames == 0
                && let Some(packet) = self.packets.pop()
            {
                self.complete(packet.transaction);
            }
        }
    }

    /// Owes the host a completion.
    pub fn complete(&mut self, transaction: u64) {
        // There are no more packets than frames.
        if self.owed.push(transaction).is_err() {
            log::error!("netvsc: a completion is lost");
        }
    }

    /// Whether the host is to be told of the completions that were written: once there are many, or nothing else to do. It is
    /// told then.
    pub fn must_tell(&mut self, is_idle: bool) -> bool {
        let must_tell = self.untold >= MANY || (is_idle && self.untold > 0);
        if must_tell {
            self.untold = 0;
        }
        must_tell
    }

    /// Whether no completion waits for room.
    pub fn is_settled(&self) -> bool {
        self.owed.is_empty()
    }

    /// Writes the completions that are owed, as far as the ring has room. The host is not told yet.
    #[inline]
    pub fn settle(&mut self, channel: &mut Channel<P>) -> Result<(), Fault> {
        while let Some(transaction) = self.owed.get(0) {
            let message = NvspSendRndisPacketComplete {
                message_type: NvspMessageType::SEND_RNDIS_PACKET_COMPLETE,
                status: NvspStatus::SUCCESS,
            };
            match channel.send_completion(*transaction, &[message.as_bytes()]) {
                Ok(()) => {
                    self.owed.pop();
                    self.untold = self.untold.saturating_add(1);
                }
                Err(SendError::Full) => break,
                Err(SendError::Faulted(fault)) => return Err(fault),
                Err(_) => return Err(Fault::Protocol),
            }
        }
        Ok(())
    }
}

/// The frame in a message of `room` bytes at `base`, whose first bytes are `head`.
#[inline(always)]
fn frame(head: &[u8], room: u32, base: u32, memory: &SharedMemory) -> Result<(Frame, FrameInfo), Fault> {
    let header = FrameHeader::parse(head, room).map_err(|_| Fault::Protocol)?;
    let info = match header.info_len {
        0 => FrameInfo::default(),
        len => {
            let start = header.info_offset as usize;
            let end = start.saturating_add(len as usize);
            match head.get(start..end) {
                Some(bytes) => FrameInfo::parse(bytes).map_err(|_| Fault::Protocol)?,
                None => long_info(&header, base, memory)?,
            }
        }
    };
    let offset = base.checked_add(header.offset).ok_or(Fault::Protocol)?;
    let frame = Frame {
        offset,
        len: header.len,
        total: header.len,
        parts: 1,
        tag: info.tag(),
        is_verified: info.is_verified(),
        segmentation: match info.part {
            Some(RndisPacketIdFlags::LAST) | None => None,
            Some(flags) if flags.contains(RndisPacketIdFlags::FIRST) => {
                segmentation(offset, header.len, memory)
            }
            Some(_) => None,
        },
    };
    Ok((frame, info))
}

/// How a frame that the host made of several looked on the wire, as far as the headers of the first tell.
#[cold]
fn segmentation(offset: u32, len: u32, memory: &SharedMemory) -> Option<Segmentation> {
    let mut bytes = [0; HEAD];
    let bytes = bytes.get_mut(..(len as usize).min(HEAD))?;
    memory.copy_out(offset as usize, bytes)?;
    let (kind, l4) = match bytes.get(12..14)? {
        [0x08, 0x00] => {
            (SegmentKind::Tcp4, usize::from(bytes.get(14)? & 15).checked_mul(4)?.checked_add(14)?)
        }
        [0x86, 0xdd] => (SegmentKind::Tcp6, 54),
        _ => return None,
    };
    let words = usize::from(bytes.get(l4.checked_add(12)?)? >> 4);
    let headers = u16::try_from(l4.checked_add(words.checked_mul(4)?)?).ok()?;
    let size = u16::try_from(len.checked_sub(u32::from(headers))?).ok().filter(|size| *size > 0)?;
    Some(Segmentation { kind, size, headers })
}

/// What stands beside a frame farther off.
#[cold]
fn long_info(header: &FrameHeader, base: u32, memory: &SharedMemory) -> Result<FrameInfo, Fault> {
    let mut bytes = [0; MOST_HEAD];
    let bytes = bytes.get_mut(..header.info_len as usize).ok_or(Fault::Protocol)?;
    let offset = base.checked_add(header.info_offset).ok_or(Fault::Protocol)?;
    memory.copy_out(offset as usize, bytes).ok_or(Fault::Protocol)?;
    FrameInfo::parse(bytes).map_err(|_| Fault::Protocol)
}

//! The receiving state of a queue: frames in the receive buffer, and the packets that they came with.

use crate::completions::PendingCompletions;
use crate::pump::MAX_RANGES;
use crate::rndis::{FrameHeader, FrameInfo};
use core::fmt;
use hyperv_bindings::rndis::RndisPacketIdFlags;
use paravirt_device::{Fault, RxChecksum, RxFrame, RxMeta, SegmentKind, Segmentation, VlanTag};
use paravirt_platform::{AllocError, Fifo, PageTable, Platform, SharedMemory};

/// Bytes of an RNDIS message that are read at once: the header and, usually, the per-packet information.
const HEAD: usize = 128;
/// Bytes of per-packet information, at most.
const MAX_INFO: usize = 512;
/// Fragments of a coalesced frame, at most: NVSP allows as many messages in a packet.
const MAX_FRAGMENTS: u16 = 562;
/// Bytes of the largest frame that is received: a coalesced IP packet, its Ethernet header and a VLAN tag.
pub(crate) const MAX_RECEIVED: usize = 65536 + 18;
/// Frames for which a queue has room, at least and at most. The largest packet fits behind an unfinished coalesced frame.
const MIN_FRAMES: usize = 2048;
const MAX_FRAMES: usize = 32768;
const _: () = assert!(MAX_RANGES + MAX_FRAGMENTS as usize + 1 < MIN_FRAMES);
/// Bytes of the receive buffer for each frame that a queue has room for.
const BYTES_PER_FRAME: usize = 1024;

/// Frames for which a queue has room, with a receive buffer of `len` bytes. Where the host cuts the buffer into smaller pieces
/// and fills them all, packets stay in the ring until frames have been consumed.
pub(crate) fn frame_capacity(len: usize) -> usize {
    (len / BYTES_PER_FRAME).clamp(MIN_FRAMES, MAX_FRAMES).next_power_of_two()
}

/// A frame in the receive buffer, or a fragment of a coalesced one.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Frame {
    pub offset: u32,
    pub len: u32,
    /// In the first fragment: the bytes and the number of all fragments.
    pub total: u32,
    pub fragments: u16,
    pub tag: Option<VlanTag>,
    pub is_verified: bool,
    /// How the host received a coalesced frame.
    pub segmentation: Option<Segmentation>,
}

impl Frame {
    #[inline(always)]
    pub fn describe(&self) -> RxFrame {
        let checksum = if self.is_verified { RxChecksum::Valid } else { RxChecksum::Unknown };
        let meta = RxMeta { checksum, segmentation: self.segmentation, vlan: self.tag };
        RxFrame { len: self.total as usize, segments: self.fragments, meta }
    }
}

/// A frame as it comes in, with its place in a coalesced one. A frame of its own is both first and last.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Fragment {
    pub frame: Frame,
    pub is_first: bool,
    pub is_last: bool,
}

/// Received frames in order, as positions in the receive buffer, and the packets to complete for them.
pub(crate) struct RxState<P: Platform> {
    /// A ring of a power of two of entries; the three positions below run freely.
    frames: PageTable<P, Frame>,
    /// The oldest fragment; the end of the last complete frame; the end of the last fragment.
    head: u32,
    ready: u32,
    tail: u32,
    /// The packet of the oldest fragment: its transaction, and its fragments that are not consumed. 0 where there is none.
    front: (u64, u32),
    packets: Fifo<P, (u64, u32)>,
    pub completions: PendingCompletions<P>,
}

impl<P: Platform> RxState<P> {
    /// Room for `frames` frames, a power of two: see [`frame_capacity`].
    pub fn new(platform: &P, frames: usize) -> Result<Self, AllocError> {
        Ok(Self {
            frames: PageTable::new(platform, frames, |_| Frame::default())?,
            head: 0,
            ready: 0,
            tail: 0,
            front: (0, 0),
            packets: Fifo::new(platform, frames)?,
            completions: PendingCompletions::new(platform, frames)?,
        })
    }

    #[inline(always)]
    fn index(&self, position: u32) -> usize {
        position as usize & self.frames.len().wrapping_sub(1)
    }

    /// The first fragment of the oldest complete frame.
    #[inline(always)]
    pub fn front(&self) -> Option<&Frame> {
        if self.head == self.ready { None } else { self.frames.get(self.index(self.head)) }
    }

    /// Fragment `index` of the oldest complete frame.
    #[inline(always)]
    pub fn fragment(&self, index: u16) -> Option<&Frame> {
        if index >= self.front()?.fragments {
            return None;
        }
        self.frames.get(self.index(self.head.wrapping_add(u32::from(index))))
    }

    /// Whether the contents of any one packet fit. There are no more packets than fragments, so that their completions fit too.
    #[inline(always)]
    pub fn has_room(&self) -> bool {
        let used = self.tail.wrapping_sub(self.head) as usize;
        used.wrapping_add(self.completions.len()).wrapping_add(MAX_RANGES) <= self.frames.len()
    }

    /// Adds a frame, or a fragment of a coalesced one.
    #[inline(always)]
    pub fn add_fragment(&mut self, fragment: Fragment) -> Result<(), Fault> {
        let Fragment { frame, is_first, is_last } = fragment;
        // A coalesced frame is neither abandoned nor continued without its beginning.
        if is_first != (self.tail == self.ready)
            || self.tail.wrapping_sub(self.head) as usize >= self.frames.len()
        {
            return Err(Fault::Protocol);
        }
        let at = self.index(self.tail);
        *self.frames.get_mut(at).ok_or(Fault::Protocol)? = frame;
        self.tail = self.tail.wrapping_add(1);
        if !(is_first && is_last) || frame.total as usize > MAX_RECEIVED {
            return self.add_coalesced(frame.len, is_first, is_last);
        }
        self.ready = self.tail;
        Ok(())
    }

    #[cold]
    fn add_coalesced(&mut self, len: u32, is_first: bool, is_last: bool) -> Result<(), Fault> {
        let (first, count) = (self.index(self.ready), self.tail.wrapping_sub(self.ready) as u16);
        let first = self.frames.get_mut(first).ok_or(Fault::Protocol)?;
        if !is_first {
            first.total = first.total.saturating_add(len);
            first.fragments = count;
        }
        if count > MAX_FRAGMENTS || first.total as usize > MAX_RECEIVED {
            return Err(Fault::Protocol);
        }
        if is_last {
            self.ready = self.tail;
        }
        Ok(())
    }

    /// Adds the packet that the last `frames` fragments came with, at least one.
    #[inline(always)]
    pub fn add_packet(&mut self, transaction: u64, frames: u32) -> Result<(), Fault> {
        debug_assert!(frames > 0, "a packet without frames is completed at once");
        if self.front.1 == 0 {
            self.front = (transaction, frames);
            return Ok(());
        }
        self.packets.push((transaction, frames)).map_err(|_| Fault::Protocol)
    }

    /// Consumes the oldest complete frame. The host may reuse its memory once the completion of its packet has been sent.
    #[inline(always)]
    pub fn pop(&mut self) {
        let Some(fragments) = self.front().map(|frame| frame.fragments) else { return };
        for _ in 0..fragments {
            self.head = self.head.wrapping_add(1);
            self.front.1 = self.front.1.saturating_sub(1);
            if self.front.1 == 0 {
                self.finish_packet();
            }
        }
    }

    #[inline(never)]
    fn finish_packet(&mut self) {
        self.completions.push(self.front.0);
        self.front = self.packets.pop().unwrap_or((0, 0));
    }

    /// Consumes every complete frame.
    pub fn clear(&mut self) {
        while self.front().is_some() {
            self.pop();
        }
    }
}

impl<P: Platform> fmt::Debug for RxState<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RxState")
            .field("ready", &self.ready.wrapping_sub(self.head))
            .field("unfinished", &self.tail.wrapping_sub(self.ready))
            .finish_non_exhaustive()
    }
}

/// Parses the RNDIS packet message of `room` bytes at `base` in the receive buffer; `None` where it carries an empty frame.
///
/// [MS-RNDIS] 2.2.14
#[inline(always)]
pub(crate) fn parse_fragment(base: u32, room: u32, memory: &SharedMemory) -> Result<Option<Fragment>, Fault> {
    let mut head = [0; HEAD];
    let head = head.get_mut(..(room as usize).min(HEAD)).ok_or(Fault::Protocol)?;
    memory.copy_out(base as usize, head).ok_or(Fault::Protocol)?;
    let header = FrameHeader::parse(head, room).map_err(|_| Fault::Protocol)?;
    let offset = base.checked_add(header.offset).ok_or(Fault::Protocol)?;
    let len = header.len;
    if len == 0 {
        return Ok(None);
    }
    let mut frame = Frame { offset, len, total: len, fragments: 1, ..Frame::default() };
    if header.info_len == 0 {
        return Ok(Some(Fragment { frame, is_first: true, is_last: true }));
    }
    let info = parse_info(&header, head, base, memory)?;
    frame.tag = info.tag().map(VlanTag);
    frame.is_verified = info.is_verified();
    let part = info.part.filter(|flags| flags.contains(RndisPacketIdFlags::SUBALLOCATION));
    let (is_first, is_last) = part.map_or((true, true), |flags| {
        (flags.contains(RndisPacketIdFlags::FIRST), flags.contains(RndisPacketIdFlags::LAST))
    });
    if part.is_some() && is_first {
        frame.segmentation = segmentation(offset, len, memory);
    }
    Ok(Some(Fragment { frame, is_first, is_last }))
}

#[inline]
fn parse_info(
    header: &FrameHeader,
    head: &[u8],
    base: u32,
    memory: &SharedMemory,
) -> Result<FrameInfo, Fault> {
    let (start, len) = (header.info_offset as usize, header.info_len as usize);
    if let Some(bytes) = head.get(start..start.saturating_add(len)) {
        return FrameInfo::parse(bytes).map_err(|_| Fault::Protocol);
    }
    // Beyond what was read of the message: read on its own.
    let mut bytes = [0; MAX_INFO];
    let bytes = bytes.get_mut(..len).ok_or(Fault::Protocol)?;
    let offset = base.checked_add(header.info_offset).ok_or(Fault::Protocol)?;
    memory.copy_out(offset as usize, bytes).ok_or(Fault::Protocol)?;
    FrameInfo::parse(bytes).map_err(|_| Fault::Protocol)
}

/// How the host received a coalesced frame, as far as the headers in its first fragment tell.
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

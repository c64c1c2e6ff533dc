//! The receiving state of a queue: frames in the receive buffer, and the packets that they came with.

use crate::completions::PendingCompletions;
use crate::pump::MAX_RANGES;
use crate::rndis::{FrameHeader, FrameInfo};
use core::fmt;
use hyperv_bindings::rndis::RndisPacketIdFlags;
use paravirt_device::{Fault, RxChecksum, RxFrame, RxMeta, Segmentation, VlanTag, tcp_headers};
use paravirt_platform::{AllocError, Fifo, PageTable, Platform, SharedMemory};

/// Bytes of an RNDIS message that are read at once: the header and one entry of per-packet information, which is what most
/// frames have.
const HEAD: usize = 64;
/// Bytes of a coalesced frame in which its headers are looked for.
const MAX_HEADERS: usize = 128;
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
    /// In the first fragment: the number of all fragments.
    pub fragments: u16,
    tag: u16,
    is_tagged: bool,
    is_verified: bool,
    /// A fragment of a coalesced frame that was given up: it is passed over, and only its packet matters.
    is_void: bool,
}

/// What became of a fragment.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Added {
    /// It was added.
    Yes,
    /// It was added, and a coalesced frame was given up.
    GivenUp,
    /// It was dropped.
    No,
}

/// What is known of a coalesced frame: several segments that the host received and made one.
#[derive(Copy, Clone, Debug, Default)]
struct Coalesced {
    /// Bytes of all fragments.
    total: u32,
    segmentation: Option<Segmentation>,
}

/// Which part of a frame a message carries.
#[derive(Copy, Clone, Debug)]
pub(crate) enum Part {
    Whole,
    /// A fragment of a coalesced frame; the first one tells how the host received it.
    Fragment {
        is_first: bool,
        is_last: bool,
        segmentation: Option<Segmentation>,
    },
}

/// A frame as it comes in, or a fragment of a coalesced one.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Fragment {
    frame: Frame,
    part: Part,
}

/// Received frames in order, as positions in the receive buffer, and the packets to complete for them.
pub(crate) struct RxState<P: Platform> {
    /// A ring of a power of two of entries; the four positions below run freely.
    frames: PageTable<P, Frame>,
    /// Of the first fragments of coalesced frames, by the same index.
    coalesced: PageTable<P, Coalesced>,
    /// The oldest fragment.
    head: u32,
    /// The end of the last complete frame whose packet was added: what lies ahead of it is handed out.
    ready: u32,
    /// The end of the last complete frame.
    complete: u32,
    /// The end of the last fragment.
    tail: u32,
    /// The void fragments.
    voids: u32,
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
            coalesced: PageTable::new(platform, frames, |_| Coalesced::default())?,
            head: 0,
            ready: 0,
            complete: 0,
            tail: 0,
            voids: 0,
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

    /// The oldest complete frame as it is handed out.
    #[inline(always)]
    pub fn describe(&self) -> Option<RxFrame> {
        let frame = self.front()?;
        let checksum = if frame.is_verified { RxChecksum::Valid } else { RxChecksum::Unknown };
        let vlan = frame.is_tagged.then_some(VlanTag(frame.tag));
        let (len, segmentation) = match frame.fragments {
            0 | 1 => (frame.len, None),
            _ => self.coalesced(frame.len),
        };
        let mut meta = RxMeta::new(checksum);
        (meta.segmentation, meta.vlan) = (segmentation, vlan);
        Some(RxFrame::new(len as usize, frame.fragments, meta))
    }

    #[cold]
    fn coalesced(&self, len: u32) -> (u32, Option<Segmentation>) {
        let found = self.coalesced.get(self.index(self.head));
        found.map_or((len, None), |coalesced| (coalesced.total, coalesced.segmentation))
    }

    /// Adds a frame, or a fragment of a coalesced one, after [`has_room`](Self::has_room). A fragment without its beginning, and a frame
    /// that is too long, are dropped; a coalesced frame that is not continued is given up.
    #[inline(always)]
    pub fn add_fragment(&mut self, fragment: Fragment) -> Added {
        let Fragment { frame, part } = fragment;
        debug_assert!(
            (self.tail.wrapping_sub(self.head) as usize) < self.frames.len(),
            "`has_room` was asked"
        );
        match part {
            Part::Whole if self.tail == self.complete && frame.len as usize <= MAX_RECEIVED => {
                let at = self.index(self.tail);
                if let Some(slot) = self.frames.get_mut(at) {
                    *slot = frame;
                }
                self.tail = self.tail.wrapping_add(1);
                self.complete = self.tail;
                Added::Yes
            }
            _ => self.add_other(frame, part),
        }
    }

    #[cold]
    fn add_other(&mut self, frame: Frame, part: Part) -> Added {
        let (is_first, is_last, segmentation) = match part {
            Part::Whole => (true, true, None),
            Part::Fragment { is_first, is_last, segmentation } => (is_first, is_last, segmentation),
        };
        let is_begun = self.tail != self.complete;
        if is_first && is_begun {
            self.give_up();
        }
        if (!is_first && !is_begun) || frame.len as usize > MAX_RECEIVED {
            return Added::No;
        }
        let at = self.index(self.tail);
        if let Some(slot) = self.frames.get_mut(at) {
            *slot = frame;
        }
        self.tail = self.tail.wrapping_add(1);
        let (first, count) = (self.index(self.complete), self.tail.wrapping_sub(self.complete));
        let mut total = 0;
        if let Some(coalesced) = self.coalesced.get_mut(first) {
            if is_first {
                *coalesced = Coalesced { total: 0, segmentation };
            }
            coalesced.total = coalesced.total.saturating_add(frame.len);
            total = coalesced.total as usize;
        }
        if count > u32::from(MAX_FRAGMENTS) || total > MAX_RECEIVED {
            self.give_up();
            return Added::GivenUp;
        }
        if let Some(frame) = self.frames.get_mut(first) {
            frame.fragments = count as u16;
        }
        if is_last {
            self.complete = self.tail;
        }
        if is_first && is_begun { Added::GivenUp } else { Added::Yes }
    }

    /// Gives up the coalesced frame that was begun. Its fragments stay in the ring, as their packets are completed in order.
    fn give_up(&mut self) {
        while self.complete != self.tail {
            let at = self.index(self.complete);
            if let Some(frame) = self.frames.get_mut(at) {
                (frame.fragments, frame.is_void) = (1, true);
            }
            self.voids = self.voids.wrapping_add(1);
            self.complete = self.complete.wrapping_add(1);
        }
    }

    /// Passes void fragments over that are the oldest ones.
    #[cold]
    fn skip_voids(&mut self) {
        while self.voids > 0 && self.front().is_some_and(|frame| frame.is_void) {
            self.voids = self.voids.wrapping_sub(1);
            self.pop_fragment();
        }
    }

    /// Adds the packet that the last `frames` fragments came with, at least one.
    #[inline(always)]
    pub fn add_packet(&mut self, transaction: u64, frames: u32) -> Result<(), Fault> {
        debug_assert!(frames > 0, "a packet without frames is completed at once");
        self.ready = self.complete;
        if self.front.1 == 0 {
            self.front = (transaction, frames);
        } else {
            self.packets.push((transaction, frames)).map_err(|_| Fault::Protocol)?;
        }
        if self.voids > 0 {
            self.skip_voids();
        }
        Ok(())
    }

    /// Consumes the oldest complete frame. The host may reuse its memory once the completion of its packet has been sent.
    #[inline(always)]
    pub fn pop(&mut self) {
        let Some(mut fragments) = self.front().map(|frame| frame.fragments) else { return };
        loop {
            self.pop_fragment();
            if fragments <= 1 {
                break;
            }
            fragments = fragments.wrapping_sub(1);
        }
        if self.voids > 0 {
            self.skip_voids();
        }
    }

    #[inline(always)]
    fn pop_fragment(&mut self) {
        self.head = self.head.wrapping_add(1);
        debug_assert!(self.front.1 > 0, "a fragment belongs to a packet");
        self.front.1 = self.front.1.wrapping_sub(1);
        if self.front.1 == 0 {
            self.finish_packet();
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
            .field("incomplete", &self.tail.wrapping_sub(self.ready))
            .finish_non_exhaustive()
    }
}

/// Parses the RNDIS packet message of `room` bytes at `base` in the receive buffer; `None` where it carries an empty frame.
///
/// [MS-RNDIS] 2.2.14
#[inline(always)]
pub(crate) fn parse_fragment(base: u32, room: u32, memory: &SharedMemory) -> Result<Option<Fragment>, Fault> {
    let mut head = [0; HEAD];
    if room as usize >= HEAD {
        // A constant length, which is copied without a loop.
        memory.copy_out(base as usize, &mut head).ok_or(Fault::Protocol)?;
    } else {
        copy_short_head(base, room, memory, &mut head)?;
    }
    let header = FrameHeader::parse(&head, room).map_err(|_| Fault::Protocol)?;
    let offset = base.checked_add(header.offset).ok_or(Fault::Protocol)?;
    let len = header.len;
    if len == 0 {
        return Ok(None);
    }
    let mut frame = Frame { offset, len, fragments: 1, ..Frame::default() };
    if header.info_len == 0 {
        return Ok(Some(Fragment { frame, part: Part::Whole }));
    }
    let info = parse_info(&header, &head, base, memory)?;
    (frame.is_tagged, frame.tag) = info.tag().map_or((false, 0), |tag| (true, tag));
    frame.is_verified = info.is_verified();
    if info.lacks_ip_checksum() {
        complete_ip_checksum(offset, len, memory);
    }
    let part = match info.part.filter(|flags| flags.contains(RndisPacketIdFlags::SUBALLOCATION)) {
        None => Part::Whole,
        Some(flags) => {
            let is_first = flags.contains(RndisPacketIdFlags::FIRST);
            let is_last = flags.contains(RndisPacketIdFlags::LAST);
            let is_coalesced = is_first && !is_last;
            let segmentation = if is_coalesced { segmentation(offset, len, memory) } else { None };
            Part::Fragment { is_first, is_last, segmentation }
        }
    };
    Ok(Some(Fragment { frame, part }))
}

/// Reads the head of a message that is shorter than [`HEAD`], and leaves the rest of `head` as it is: what
/// [`FrameHeader::parse`] accepts lies inside the message.
#[cold]
fn copy_short_head(base: u32, room: u32, memory: &SharedMemory, head: &mut [u8; HEAD]) -> Result<(), Fault> {
    if (room as usize) < FrameHeader::LEN {
        return Err(Fault::Protocol);
    }
    let head = head.get_mut(..room as usize).ok_or(Fault::Protocol)?;
    memory.copy_out(base as usize, head).ok_or(Fault::Protocol)
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

/// Computes the checksum of the IPv4 header of a frame, which the host has left wrong when it made one segment of several.
#[cold]
fn complete_ip_checksum(offset: u32, len: u32, memory: &SharedMemory) -> Option<()> {
    const IPV4: usize = 14;
    const CHECKSUM: usize = 10;
    let mut bytes = [0; IPV4 + 60];
    let bytes = bytes.get_mut(..(len as usize).min(IPV4 + 60))?;
    memory.copy_out(offset as usize, bytes)?;
    if bytes.get(12..14)? != [0x08, 0x00] {
        return None;
    }
    let header_len = usize::from(bytes.get(IPV4)? & 15).checked_mul(4).filter(|len| *len >= 20)?;
    let header = bytes.get_mut(IPV4..IPV4.checked_add(header_len)?)?;
    header.get_mut(CHECKSUM..CHECKSUM + 2)?.fill(0);
    let words = header.chunks_exact(2).filter_map(<[u8]>::first_chunk);
    let words = words.map(|word| u32::from(u16::from_be_bytes(*word)));
    let sum = words.fold(0u32, u32::wrapping_add);
    let sum = (sum & 0xffff).wrapping_add(sum >> 16);
    let sum = !((sum & 0xffff).wrapping_add(sum >> 16)) as u16;
    let at = (offset as usize).checked_add(IPV4 + CHECKSUM)?;
    memory.copy_in(at, &sum.to_be_bytes())
}

/// How the host received a coalesced frame, as far as the headers in its first fragment tell.
#[cold]
fn segmentation(offset: u32, len: u32, memory: &SharedMemory) -> Option<Segmentation> {
    let mut bytes = [0; MAX_HEADERS];
    let bytes = bytes.get_mut(..(len as usize).min(MAX_HEADERS))?;
    memory.copy_out(offset as usize, bytes)?;
    let (kind, headers) = tcp_headers(bytes)?;
    let size = u16::try_from(len.checked_sub(u32::from(headers))?).ok().filter(|size| *size > 0)?;
    Some(Segmentation { kind, size, headers })
}

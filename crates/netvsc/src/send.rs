//! What is on its way out by a channel: sections of the send buffer that frames are written in, several to a section; larger
//! slots for frames that are to be cut up; and frames in memory of the caller's.

use crate::encode::{ALIGNMENT, Bytes, HEADROOM, Header};
use crate::lane::{refused, rndis};
use core::ptr::NonNull;
use hyperv_bindings::netvsp::{NVSP_NO_SECTION, NvspChannelType};
use paravirt_device::{Fault, IoError, Offloads, Rejected, Sent, TxMeta};
use paravirt_platform::{
    AllocError, Direction, DmaBuffer, DmaRegion, DmaSlice, Fifo, PageTable, Platform, Segment,
};
use paravirt_vmbus::{Channel, GpaRange, SendError};
use zerocopy::IntoBytes;

/// What the completions of packets are told apart by.
pub(crate) mod id {
    /// Of the device's own.
    pub const CONTROL: u64 = 1 << 63;
    const SECTION: u64 = 1 << 48;
    const LARGE: u64 = 2 << 48;
    const LENT: u64 = 3 << 48;
    const KIND: u64 = 3 << 48;

    /// What a packet is of.
    #[derive(Copy, Clone)]
    pub enum Of {
        Section(u16),
        Large(u16),
        Lent(u16),
    }

    pub const fn pack(of: Of, generation: u32) -> u64 {
        let (kind, index) = match of {
            Of::Section(index) => (SECTION, index),
            Of::Large(index) => (LARGE, index),
            Of::Lent(index) => (LENT, index),
        };
        kind | (generation as u64) << 16 | index as u64
    }

    pub const fn unpack(id: u64) -> Option<(Of, u32)> {
        let (index, generation) = (id as u16, (id >> 16) as u32);
        match id & KIND {
            SECTION => Some((Of::Section(index), generation)),
            LARGE => Some((Of::Large(index), generation)),
            LENT => Some((Of::Lent(index), generation)),
            _ => None,
        }
    }
}

use id::Of;

const NONE: u16 = u16::MAX;
/// Ranges of a packet beside that of the header: what any host takes.
const MOST_SEGMENTS: usize = 16;
/// Bytes for the header of a frame in the caller's memory.
const HEADER_STRIDE: usize = 128;

/// A section of the send buffer.
struct Section {
    generation: u32,
    /// Packets that are with the host.
    sent: u8,
    next: u16,
}

/// The section that frames are being added to.
#[derive(Copy, Clone)]
struct Open {
    section: u16,
    fill: u32,
    frames: u32,
}

/// Where a frame is being written.
#[derive(Copy, Clone)]
pub(crate) enum Reserved {
    /// In a section, so many bytes into it.
    Section(u16, u32),
    Large(u16),
}

struct Lent<B> {
    generation: u32,
    tag: u64,
    buffer: Option<B>,
    next: u16,
}

struct Large<P: Platform> {
    generation: u32,
    slot: DmaSlice<P>,
    is_free: bool,
}

/// What the device takes.
#[derive(Copy, Clone)]
pub(crate) struct SendLimits {
    pub offloads: Offloads,
    /// Bytes of a frame that is not cut up, and of one that is.
    pub max_frame: usize,
    pub max_segmented: usize,
    /// Frames in one packet.
    pub max_packets: u32,
}

/// The send buffer, as far as a channel may use it.
#[derive(Copy, Clone)]
pub(crate) struct SendBuffer {
    pub cpu: NonNull<u8>,
    pub bus: u64,
    pub section_size: u32,
    /// The first section and how many.
    pub first: u16,
    pub count: u16,
}

// SAFETY: the memory is used by one channel, under its lock.
unsafe impl Send for SendBuffer {}

pub(crate) struct Sending<P: Platform, B: DmaBuffer> {
    buffer: Option<SendBuffer>,
    sections: PageTable<P, Section>,
    free: u16,
    open: Option<Open>,
    /// The ring had no room for it.
    is_late: bool,
    reserved: Option<Reserved>,
    larges: PageTable<P, Large<P>>,
    lent: PageTable<P, Lent<B>>,
    free_lent: u16,
    lent_count: u16,
    /// Headers of frames in the caller's memory. `None` once it was leaked.
    headers: Option<DmaRegion<P>>,
    sent: Fifo<P, Sent<B>>,
    limits: SendLimits,
}

impl<P: Platform, B: DmaBuffer> Sending<P, B> {
    /// For `depth` frames in the caller's memory, and `larges` slots for frames that are to be cut up.
    pub fn new(
        platform: &P,
        buffer: Option<SendBuffer>,
        limits: SendLimits,
        larges: usize,
        depth: u16,
    ) -> Result<Self, AllocError> {
        let count = buffer.map_or(0, |buffer| buffer.count);
        let link = |at: usize, count: u16| {
            let next = (at as u16).wrapping_add(1);
            if next >= count { NONE } else { next }
        };
        let len = limits.max_segmented.max(limits.max_frame).saturating_add(HEADROOM + ALIGNMENT);
        Ok(Self {
            buffer,
            sections: PageTable::new(platform, usize::from(count), |at| Section {
                generation: 1,
                sent: 0,
                next: link(at, count),
            })?,
            free: if count > 0 { 0 } else { NONE },
            open: None,
            is_late: false,
            reserved: None,
            larges: PageTable::try_new(platform, larges, |_| {
                let slot = DmaSlice::alloc(platform, len)?;
                Ok::<_, AllocError>(Large { generation: 1, slot, is_free: true })
            })?,
            lent: PageTable::new(platform, usize::from(depth), |at| Lent {
                generation: 1,
                tag: 0,
                buffer: None,
                next: link(at, depth),
            })?,
            free_lent: 0,
            lent_count: 0,
            headers: Some(DmaRegion::alloc(platform, usize::from(depth).saturating_mul(HEADER_STRIDE))?),
            sent: Fifo::new(platform, usize::from(depth))?,
            limits,
        })
    }

    pub fn has_sent(&self) -> bool {
        !self.sent.is_empty()
    }

    pub fn take_sent(&mut self) -> Option<Sent<B>> {
        self.sent.pop()
    }

    fn section_size(&self) -> u32 {
        self.buffer.map_or(0, |buffer| buffer.section_size)
    }

    /// Bytes of a section from a frame's message on, header included.
    fn message(len: usize) -> u32 {
        let len = len.saturating_add(HEADROOM).checked_next_multiple_of(ALIGNMENT);
        len.and_then(|len| u32::try_from(len).ok()).unwrap_or(u32::MAX)
    }

    fn fits_open(&self, needed: u32) -> bool {
        self.open.is_some_and(|open| {
            open.frames < self.limits.max_packets && open.fill.saturating_add(needed) <= self.section_size()
        })
    }

    pub fn is_ready(&self, len: usize) -> bool {
        let needed = Self::message(len);
        if needed > self.section_size() {
            return len <= self.limits.max_segmented.max(self.limits.max_frame)
                && self.larges.iter().any(|large| large.is_free);
        }
        self.reserved.is_some() || self.fits_open(needed) || self.free != NONE
    }

    /// Finds room for a frame of `len` bytes: where it is to be written, and how many bytes there are.
    pub fn reserve(
        &mut self,
        len: usize,
        channel: &mut Channel<P>,
    ) -> Result<Option<(NonNull<u8>, usize)>, Fault> {
        let needed = Self::message(len);
        if needed > self.section_size() {
            self.give_up_reserved();
            return Ok(self.reserve_large(len));
        }
        let room = match self.reserved {
            Some(Reserved::Section(_, offset)) => self.section_size().saturating_sub(offset),
            _ => 0,
        };
        if room < needed {
            self.give_up_reserved();
            if !self.fits_open(needed) {
                self.flush(channel)?;
            }
            if self.open.is_none() {
                let Some(section) = self.take_section() else { return Ok(None) };
                self.open = Some(Open { section, fill: 0, frames: 0 });
            }
            let Some(open) = self.open.filter(|_| self.fits_open(needed)) else { return Ok(None) };
            self.reserved = Some(Reserved::Section(open.section, open.fill));
        }
        let Some(Reserved::Section(section, offset)) = self.reserved else { return Ok(None) };
        let Some((message, _)) = self.place(section, offset) else { return Ok(None) };
        let len = self.section_size().saturating_sub(offset) as usize;
        // SAFETY: inside the section: `needed`, which the headroom is a part of, fits behind `offset`.
        Ok(Some((unsafe { message.add(HEADROOM) }, len.saturating_sub(HEADROOM))))
    }

    fn reserve_large(&mut self, len: usize) -> Option<(NonNull<u8>, usize)> {
        let (index, large) = self.larges.iter_mut().enumerate().find(|(_, large)| large.is_free)?;
        let bytes = large.slot.bytes_mut().get_mut(HEADROOM..)?;
        if bytes.len() < len {
            return None;
        }
        self.reserved = Some(Reserved::Large(u16::try_from(index).ok()?));
        Some((NonNull::from(&mut *bytes).cast(), bytes.len()))
    }

    /// Where in memory a section is, from `offset` on: for the guest and for the host.
    fn place(&self, section: u16, offset: u32) -> Option<(NonNull<u8>, u64)> {
        let buffer = self.buffer.filter(|buffer| section < buffer.count && offset < buffer.section_size)?;
        let number = usize::from(buffer.first.wrapping_add(section));
        let at = number.checked_mul(buffer.section_size as usize)?.checked_add(offset as usize)?;
        // SAFETY: sections up to `first + count` are inside the send buffer.
        Some((unsafe { buffer.cpu.add(at) }, buffer.bus.wrapping_add(at as u64)))
    }

    fn take_section(&mut self) -> Option<u16> {
        let at = self.free;
        self.free = self.sections.get(usize::from(at))?.next;
        Some(at)
    }

    /// Puts a section back that nobody uses.
    fn release(&mut self, at: u16) {
        let is_used = self.open.is_some_and(|open| open.section == at)
            || matches!(self.reserved, Some(Reserved::Section(section, _)) if section == at);
        if let Some(section) =
            self.sections.get_mut(usize::from(at)).filter(|section| section.sent == 0 && !is_used)
        {
            section.next = self.free;
            self.free = at;
        }
    }

    fn give_up_reserved(&mut self) {
        if let Some(Reserved::Section(section, _)) = self.reserved.take() {
            self.release(section);
        }
    }

    /// Takes the frame that was written into the reserved slot, `len` bytes at `frame`.
    pub fn commit(
        &mut self,
        len: usize,
        meta: &TxMeta,
        frame: &mut [u8],
        channel: &mut Channel<P>,
    ) -> Result<(), Rejected> {
        let reserved = self.reserved.take().ok_or(Rejected::Full)?;
        let limits = &self.limits;
        let most = if meta.segmentation.is_some() { limits.max_segmented } else { limits.max_frame };
        let bytes = match frame.get_mut(..len) {
            Some(bytes) => Bytes::Slot(bytes),
            None => {
                self.reserved = Some(reserved);
                self.give_up_reserved();
                return Err(Rejected::Invalid);
            }
        };
        let header = Header::new(len, meta, limits.offloads, most, bytes, true);
        match reserved {
            Reserved::Section(section, offset) => {
                let sent =
                    header.and_then(|header| self.commit_section(&header, section, offset, len, channel));
                if sent.is_err() {
                    self.release(section);
                }
                sent
            }
            Reserved::Large(index) => {
                let header = header?;
                // In their order: what was committed goes first.
                self.flush(channel)?;
                if self.open.is_some_and(|open| open.frames > 0) {
                    return Err(Rejected::Full);
                }
                self.send_large(&header, index, len, channel)
            }
        }
    }

    fn commit_section(
        &mut self,
        header: &Header,
        section: u16,
        offset: u32,
        len: usize,
        channel: &mut Channel<P>,
    ) -> Result<(), Rejected> {
        let (message, bus) = self.place(section, offset).ok_or(Rejected::Invalid)?;
        // SAFETY: the headroom is inside the section, ahead of the frame, and nobody else's.
        unsafe { message.cast::<[u8; HEADROOM]>().write(*header.padded()) };
        let needed = Self::message(len);
        match &mut self.open {
            Some(open) if open.section == section => {
                open.fill = offset.saturating_add(needed);
                open.frames = open.frames.saturating_add(1);
                Ok(())
            }
            // What was ahead of it in the section has been sent meanwhile: it goes by itself, from where it is.
            _ => {
                let entry = self.sections.get_mut(usize::from(section)).ok_or(Rejected::Invalid)?;
                let transaction = id::pack(Of::Section(section), entry.generation);
                let range = GpaRange::contiguous(bus, needed);
                send_ranges(channel, transaction, core::iter::once(range))?;
                entry.sent = entry.sent.saturating_add(1);
                Ok(())
            }
        }
    }

    fn send_large(
        &mut self,
        header: &Header,
        index: u16,
        len: usize,
        channel: &mut Channel<P>,
    ) -> Result<(), Rejected> {
        let large = self.larges.get_mut(usize::from(index)).ok_or(Rejected::Invalid)?;
        if let Some(room) = large.slot.bytes_mut().first_chunk_mut() {
            *room = *header.padded();
        }
        let transaction = id::pack(Of::Large(index), large.generation);
        let range = GpaRange::contiguous(large.slot.bus().0, Self::message(len));
        large.slot.submit(Direction::ToDevice).map_err(Rejected::Buffer)?;
        let sent = send_ranges(channel, transaction, core::iter::once(range));
        if sent.is_err() {
            // SAFETY: it was lent just now, and the host was not told of it.
            unsafe { large.slot.reclaim() };
        } else {
            large.is_free = false;
        }
        sent
    }

    /// Sends a frame from the caller's memory.
    pub fn send(
        &mut self,
        tag: u64,
        mut frame: B,
        meta: &TxMeta,
        channel: &mut Channel<P>,
    ) -> Result<(), (Rejected, B)> {
        let at = self.free_lent;
        let is_full = self.sent.len().saturating_add(usize::from(self.lent_count)) >= self.sent.capacity();
        let Self { lent, headers: Some(headers), limits, .. } = self else {
            return Err((Fault::Timeout.into(), frame));
        };
        let Some(entry) = lent.get_mut(usize::from(at)).filter(|_| !is_full) else {
            return Err((Rejected::Full, frame));
        };
        let segments = match frame.submit(Direction::ToDevice) {
            Ok(memory) => memory.as_slice(),
            Err(error) => return Err((Rejected::Buffer(error), frame)),
        };
        let transaction = id::pack(Of::Lent(at), entry.generation);
        let offset = usize::from(at).wrapping_mul(HEADER_STRIDE);
        let sent = (|| {
            if segments.len() > MOST_SEGMENTS {
                return Err(Rejected::Invalid);
            }
            let len = segments.iter().fold(0usize, |sum, segment| sum.saturating_add(segment.len as usize));
            let header = Header::new(len, meta, limits.offloads, limits.max_frame, Bytes::Lent, false)?;
            let bytes = header.padded().get(..header.len()).ok_or(Rejected::Invalid)?;
            headers.shared().copy_in(offset, bytes).ok_or(Rejected::Invalid)?;
            let head = GpaRange::contiguous(headers.bus().0.wrapping_add(offset as u64), header.len() as u32);
            let rest = segments.iter().map(|Segment { addr, len }| GpaRange::contiguous(addr.0, *len));
            send_ranges(channel, transaction, core::iter::once(head).chain(rest))
        })();
        if let Err(reason) = sent {
            // SAFETY: it was lent just now, and the host was not told of it.
            unsafe { frame.reclaim() };
            return Err((reason, frame));
        }
        (entry.tag, entry.buffer) = (tag, Some(frame));
        self.free_lent = entry.next;
        self.lent_count = self.lent_count.wrapping_add(1);
        Ok(())
    }

    /// Sends the section that is open, if there is anything in it. Where the ring is full, it stays open.
    #[inline]
    pub fn flush(&mut self, channel: &mut Channel<P>) -> Result<(), Fault> {
        let Some(Open { section, fill, .. }) = self.open.filter(|open| open.frames > 0) else {
            return Ok(());
        };
        let (Some(entry), Some(buffer)) = (self.sections.get_mut(usize::from(section)), self.buffer) else {
            return Err(Fault::Protocol);
        };
        let number = u32::from(buffer.first.wrapping_add(section));
        let message = rndis(NvspChannelType::DATA, number, fill);
        let transaction = id::pack(Of::Section(section), entry.generation);
        match channel.send_in_band(transaction, true, &[message.as_bytes()]) {
            Ok(()) => {
                entry.sent = entry.sent.saturating_add(1);
                (self.open, self.is_late) = (None, false);
                Ok(())
            }
            Err(SendError::Full) => {
                self.is_late = true;
                Ok(())
            }
            Err(SendError::Faulted(fault)) => Err(fault),
            Err(_) => Err(Fault::Protocol),
        }
    }

    /// Whether a section waits for room in the ring.
    #[inline(always)]
    pub fn is_late(&self) -> bool {
        self.is_late
    }

    /// The host has taken a packet; whether it says that it could.
    #[inline]
    pub fn completed(&mut self, transaction: u64, is_taken: bool) -> Result<(), Fault> {
        let (of, generation) = id::unpack(transaction).ok_or(Fault::Protocol)?;
        match of {
            Of::Section(at) => {
                let section = self
                    .sections
                    .get_mut(usize::from(at))
                    .filter(|section| section.sent > 0 && section.generation == generation)
                    .ok_or(Fault::Protocol)?;
                section.sent = section.sent.wrapping_sub(1);
                if section.sent == 0 {
                    section.generation = section.generation.wrapping_add(1);
                    self.release(at);
                }
            }
            Of::Large(at) => {
                let large = self
                    .larges
                    .get_mut(usize::from(at))
                    .filter(|large| !large.is_free && large.generation == generation)
                    .ok_or(Fault::Protocol)?;
                // SAFETY: it was lent when it was sent, and the host has answered.
                unsafe { large.slot.reclaim() };
                large.generation = large.generation.wrapping_add(1);
                large.is_free = true;
            }
            Of::Lent(at) => {
                let result = if is_taken { Ok(()) } else { Err(IoError::Device) };
                self.give_back(at, Some(generation), result).ok_or(Fault::Protocol)?;
            }
        }
        Ok(())
    }

    /// Puts memory of the caller's among what was sent; `None` where it was not lent.
    fn give_back(&mut self, at: u16, generation: Option<u32>, result: Result<(), IoError>) -> Option<()> {
        let entry = self.lent.get_mut(usize::from(at))?;
        if generation.is_some_and(|generation| generation != entry.generation) {
            return None;
        }
        let mut buffer = entry.buffer.take()?;
        // SAFETY: it was lent when it was sent, and the host has answered or let go.
        unsafe { buffer.reclaim() };
        entry.generation = entry.generation.wrapping_add(1);
        entry.next = self.free_lent;
        self.free_lent = at;
        self.lent_count = self.lent_count.wrapping_sub(1);
        // `send` keeps room.
        self.sent.push(Sent { tag: entry.tag, buffer, result }).ok()
    }

    /// Ends what is under way, after the channel is gone: what the host has let go of comes back, else it is leaked.
    pub fn end(&mut self, has_let_go: bool) {
        for at in 0..self.lent.len() as u16 {
            if has_let_go {
                self.give_back(at, None, Err(IoError::Aborted));
            } else if let Some(entry) = self.lent.get_mut(usize::from(at)) {
                // Dropped as it is lent, its memory is never used again.
                entry.buffer = None;
            }
        }
        if has_let_go {
            for large in self.larges.iter_mut().filter(|large| !large.is_free) {
                // SAFETY: as above.
                unsafe { large.slot.reclaim() };
                large.is_free = true;
            }
        } else {
            self.lent_count = 0;
            self.headers.take().into_iter().for_each(DmaRegion::leak);
        }
        (self.open, self.reserved, self.is_late) = (None, None, false);
    }
}

fn send_ranges<P, R, I>(channel: &mut Channel<P>, transaction: u64, ranges: R) -> Result<(), Rejected>
where
    P: Platform,
    R: Iterator<Item = GpaRange<I>> + Clone,
    I: ExactSizeIterator<Item = u64>,
{
    let message = rndis(NvspChannelType::DATA, NVSP_NO_SECTION, 0);
    // SAFETY: the ranges are of buffers in flight, of the headers, or of the send buffer, which the driver keeps until the
    // channels have been closed.
    unsafe { channel.send_gpa_ranges(transaction, ranges, &[message.as_bytes()]) }.map_err(refused)
}

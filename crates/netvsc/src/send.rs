//! The sending state of a queue: sections of the send buffer in which frames are collected, LSO bounce slots, and frames in
//! memory of callers.

use crate::encode::{ALIGNMENT, ETHERNET, FrameBytes, HEADROOM, Header, PLAIN_HEADER_LEN, plain_header};
use crate::in_flight::InFlight;
use crate::lso::LsoSlots;
use crate::transaction::{self, Source};
use crate::transmit_limits::{MAX_SECTIONS, SendBuffer, SendLimits, nvsp_packet};
use core::time::Duration;
use core::{fmt, ptr::NonNull};
use hyperv_bindings::netvsp::{NVSP_NO_SECTION, NvspChannelType};
use paravirt_device::{Fault, Rejected, Sent, TxMeta, Watchdog};
use paravirt_platform::{AllocError, DmaBuffer, Fifo, Instant, PageTable, Platform};
use paravirt_vmbus::{Channel, GpaRange, SendError};
use zerocopy::IntoBytes;

/// The end of the free list.
const END: u16 = u16::MAX;

/// A section of the send buffer.
struct Section {
    generation: u32,
    /// Packets of it that the host has not completed.
    in_flight: u8,
    next: u16,
}

/// The section in which frames are collected.
#[derive(Copy, Clone, Debug)]
struct OpenSection {
    section: u16,
    fill: u32,
    frames: u32,
}

/// Where the reserved frame is written.
#[derive(Copy, Clone, Debug)]
enum Reserved {
    /// Section and offset of the message, and where the frame may be written.
    Section {
        section: u16,
        offset: u32,
        frame: NonNull<u8>,
        len: usize,
    },
    Lso(u16),
}

// SAFETY: the pointer is into the queue's own sections of the send buffer: see `SendBuffer`.
unsafe impl Send for Reserved {}
// SAFETY: only the queue that owns the value, borrowed mutably, accesses what the pointer is to.
unsafe impl Sync for Reserved {}

/// What came of [`TxState::reserve`].
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Reservation {
    Ready,
    /// The open section has to be flushed first.
    NeedsFlush,
    /// There is no room now, or never for this length.
    Full,
}

/// How long the host may complete nothing that is in flight, before the card is closed.
const WATCHDOG: Watchdog = Watchdog::new(Duration::from_secs(60));

/// The sending state of a queue.
pub(crate) struct TxState<P: Platform, B: DmaBuffer> {
    buffer: Option<SendBuffer>,
    /// That of `buffer`, or 0.
    section_size: u32,
    sections: PageTable<P, Section>,
    free: u16,
    open: Option<OpenSection>,
    /// Full sections that wait for the next flush, the oldest first. A reservation is never in one of these.
    sealed: Fifo<P, OpenSection>,
    /// A section was to be sent when the ring was full.
    is_flush_pending: bool,
    reserved: Option<Reserved>,
    lso_slots: LsoSlots<P>,
    in_flight: InFlight<P, B>,
    limits: SendLimits,
    is_ended: bool,
    watchdog: Watchdog,
}

impl<P: Platform, B: DmaBuffer> TxState<P, B> {
    /// Room for `depth` frames of callers, with `lso_slots` bounce slots.
    pub fn new(
        platform: &P,
        buffer: Option<SendBuffer>,
        limits: SendLimits,
        lso_slots: usize,
        depth: u16,
    ) -> Result<Self, AllocError> {
        let count = buffer.map_or(0, |buffer| buffer.count);
        debug_assert!(count <= MAX_SECTIONS, "`open` bounds the sections of a queue");
        Ok(Self {
            buffer,
            section_size: buffer.map_or(0, |buffer| buffer.section_size),
            sections: PageTable::new(platform, usize::from(count), |at| {
                let next = (at as u16).wrapping_add(1);
                Section { generation: 1, in_flight: 0, next: if next < count { next } else { END } }
            })?,
            free: if count > 0 { 0 } else { END },
            open: None,
            sealed: Fifo::new(platform, usize::from(count))?,
            is_flush_pending: false,
            reserved: None,
            lso_slots: LsoSlots::new(platform, lso_slots, limits.max_segmented.max(limits.max_frame))?,
            in_flight: InFlight::new(platform, depth)?,
            limits,
            is_ended: false,
            watchdog: WATCHDOG,
        })
    }

    /// Whether something is in flight that somebody waits for: a frame of a caller, or every section.
    fn is_waited_for(&self) -> bool {
        let is_out_of_sections = self.section_size > 0 && self.free == END && self.open.is_none();
        !self.is_ended && (self.in_flight.has_in_flight() || is_out_of_sections)
    }

    /// Starts the watchdog if the host has something to complete; `now` is asked only then.
    pub fn arm_watchdog(&mut self, now: impl FnOnce() -> Instant) {
        let is_waited_for = self.is_waited_for();
        self.watchdog.arm(is_waited_for, if is_waited_for { now() } else { Instant::ZERO });
    }

    /// When the watchdog expires.
    pub fn deadline(&self) -> Instant {
        self.watchdog.deadline()
    }

    /// Whether the host has completed nothing for too long.
    pub fn is_stalled(&mut self, now: Instant) -> bool {
        let is_waited_for = self.is_waited_for();
        self.watchdog.has_expired(is_waited_for, now)
    }

    /// Whether a completed frame of a caller waits to be reclaimed.
    pub fn has_sent(&self) -> bool {
        self.in_flight.has_sent()
    }

    /// Takes a frame of a caller back.
    pub fn take_sent(&mut self) -> Option<Sent<B>> {
        self.in_flight.take_sent()
    }

    /// Whether a section waits for room in the ring.
    #[inline(always)]
    pub fn is_flush_pending(&self) -> bool {
        self.is_flush_pending
    }

    /// Whether `needed` more bytes fit the open section.
    #[inline(always)]
    fn fits(&self, open: &OpenSection, needed: u32) -> bool {
        open.frames < self.limits.max_packets && open.fill.saturating_add(needed) <= self.section_size
    }

    pub fn is_ready(&self, len: usize) -> bool {
        let needed = message_len(len);
        if self.is_ended {
            return false;
        }
        if needed > self.section_size {
            return self.lso_slots.find(len).is_some();
        }
        self.reserved.is_some() || self.open.is_some_and(|open| self.fits(&open, needed)) || self.free != END
    }

    /// Reserves room for a frame of `len` bytes.
    #[inline]
    pub fn reserve(&mut self, len: usize) -> Reservation {
        let needed = message_len(len);
        if let Some(Reserved::Section { len: room, .. }) = self.reserved {
            if needed <= self.section_size && len <= room {
                return Reservation::Ready;
            }
        }
        if self.reserved.is_some() {
            self.cancel_reservation();
        }
        if let Some(open) = self.open {
            if self.fits(&open, needed) {
                return self.reserve_in(open.section, open.fill);
            }
        }
        self.reserve_elsewhere(len, needed)
    }

    #[inline(never)]
    fn reserve_elsewhere(&mut self, len: usize, needed: u32) -> Reservation {
        if self.is_ended {
            return Reservation::Full;
        }
        if needed > self.section_size {
            self.reserved = self.lso_slots.find(len).map(Reserved::Lso);
            return if self.reserved.is_some() { Reservation::Ready } else { Reservation::Full };
        }
        // The full section is sent with the next flush, so that a batch takes the channel once.
        if let Some(open) = self.open.take() {
            if self.sealed.push(open).is_err() {
                self.open = Some(open);
                return Reservation::NeedsFlush;
            }
        }
        let at = self.free;
        let Some(section) = self.sections.get(usize::from(at)) else { return Reservation::Full };
        self.free = section.next;
        self.open = Some(OpenSection { section: at, fill: 0, frames: 0 });
        self.reserve_in(at, 0)
    }

    #[inline(always)]
    fn reserve_in(&mut self, section: u16, offset: u32) -> Reservation {
        let Some((message, _)) = self.locate(section, offset) else { return Reservation::Full };
        let len = (self.section_size.wrapping_sub(offset) as usize).saturating_sub(HEADROOM);
        // SAFETY: at least `HEADROOM` bytes follow `message` in the section: the callers checked that a whole message fits.
        let frame = unsafe { message.add(HEADROOM) };
        self.reserved = Some(Reserved::Section { section, offset, frame, len });
        Reservation::Ready
    }

    /// The reserved bytes; empty where none are reserved.
    #[inline(always)]
    pub fn slot(&mut self) -> &mut [u8] {
        match self.reserved {
            // SAFETY: `reserve_in` made sure that the `len` bytes are the rest of one section of this queue, behind everything
            // that was committed. The send buffer lives until the channels have been closed: `NetShared` owns it, which
            // `NetVscTx` keeps. By protocol the host reads a section when a packet names it and never writes one; a host that
            // writes nevertheless changes bytes of a frame, on which no memory access depends.
            Some(Reserved::Section { frame, len, .. }) => unsafe {
                core::slice::from_raw_parts_mut(frame.as_ptr(), len)
            },
            Some(Reserved::Lso(index)) => self.lso_slots.frame(index),
            None => &mut [],
        }
    }

    /// Where section `section` is from `offset` on, for the guest and for the host.
    #[inline(always)]
    fn locate(&self, section: u16, offset: u32) -> Option<(NonNull<u8>, u64)> {
        let buffer = self.buffer?;
        if section >= buffer.count || offset >= buffer.section_size {
            return None;
        }
        let number = usize::from(buffer.first.wrapping_add(section));
        let at = number.wrapping_mul(buffer.section_size as usize).wrapping_add(offset as usize);
        // SAFETY: `open` made sure that the sections up to `first + count` are inside the send buffer, and `offset` is inside
        // the section.
        Some((unsafe { buffer.cpu.add(at) }, buffer.bus.wrapping_add(at as u64)))
    }

    /// Frees a section that is neither in flight, nor open, nor reserved.
    fn release(&mut self, at: u16) {
        let is_used = self.open.is_some_and(|open| open.section == at)
            || matches!(self.reserved, Some(Reserved::Section { section, .. }) if section == at);
        if !is_used {
            if let Some(section) = self.sections.get_mut(usize::from(at)) {
                if section.in_flight == 0 {
                    section.next = self.free;
                    self.free = at;
                }
            }
        }
    }

    #[inline(never)]
    fn cancel_reservation(&mut self) {
        if let Some(Reserved::Section { section, .. }) = self.reserved.take() {
            self.release(section);
        }
    }

    /// Commits the reserved frame, `len` bytes of it, to the open section, where nothing has to be done to it. `None` where
    /// [`commit_with`](Self::commit_with) has to, with the channel.
    #[inline]
    pub fn commit_plain(&mut self, len: usize, meta: &TxMeta) -> Option<()> {
        let Some(Reserved::Section { section, offset, frame, len: room }) = self.reserved else {
            return None;
        };
        let open = self.open.as_mut()?;
        let is_plain = meta.checksum.is_none() && meta.segmentation.is_none() && meta.vlan.is_none();
        if !is_plain
            || open.section != section
            || open.fill != offset
            || len > room
            || !(ETHERNET..=self.limits.max_frame).contains(&len)
        {
            return None;
        }
        let needed = message_len(len);
        let header = plain_header(needed, len as u32);
        // SAFETY: `frame` is `HEADROOM` bytes behind the message in a section of this queue (`reserve_in`), and the header is
        // not longer than that. See `slot` for how long the memory lives.
        unsafe { frame.sub(HEADROOM).cast::<[u8; PLAIN_HEADER_LEN]>().write(header) };
        open.fill = offset.wrapping_add(needed);
        open.frames = open.frames.wrapping_add(1);
        self.reserved = None;
        Some(())
    }

    /// Commits the reserved frame, `len` bytes of it.
    #[inline(never)]
    pub fn commit_with(
        &mut self,
        len: usize,
        meta: &TxMeta,
        channel: &mut Channel<P>,
    ) -> Result<(), Rejected> {
        let SendLimits { offloads, max_frame, max_segmented, .. } = self.limits;
        let max = if meta.segmentation.is_some() { max_segmented } else { max_frame };
        match self.reserved.ok_or(Rejected::Full)? {
            Reserved::Section { section, offset, .. } => {
                let header = match self.slot().get_mut(..len) {
                    Some(bytes) => Header::new(len, meta, offloads, max, FrameBytes::Slot(bytes)),
                    None => Err(Rejected::Invalid),
                };
                let sent = header.and_then(|header| self.commit_in(&header, section, offset, channel));
                self.reserved = None;
                if sent.is_err() {
                    self.release(section);
                }
                sent
            }
            Reserved::Lso(index) => {
                self.reserved = None;
                // Frames that were committed before go first.
                self.flush(channel)?;
                if self.is_flush_pending {
                    return Err(Rejected::Full);
                }
                let make = |frame: &mut [u8]| Header::new(len, meta, offloads, max, FrameBytes::Slot(frame));
                self.lso_slots.send(index, len, make, channel)
            }
        }
    }

    fn commit_in(
        &mut self,
        header: &Header,
        section: u16,
        offset: u32,
        channel: &mut Channel<P>,
    ) -> Result<(), Rejected> {
        let (message, bus) = self.locate(section, offset).ok_or(Rejected::Invalid)?;
        // SAFETY: `reserve_in` made sure that `HEADROOM` bytes are inside the section ahead of the frame; nobody refers to them.
        unsafe { message.cast::<[u8; HEADROOM]>().write(*header.padded()) };
        let needed = header.message_len() as u32;
        match &mut self.open {
            Some(open) if open.section == section => {
                open.fill = offset.saturating_add(needed);
                open.frames = open.frames.saturating_add(1);
                Ok(())
            }
            // The frames ahead of it in its section have been sent meanwhile: it is sent on its own, from where it is.
            _ => {
                let entry = self.sections.get_mut(usize::from(section)).ok_or(Rejected::Invalid)?;
                let id = transaction::pack(Source::Section(section), entry.generation);
                let range = GpaRange::contiguous(bus, needed);
                let nvsp = nvsp_packet(NvspChannelType::DATA, NVSP_NO_SECTION, 0);
                // SAFETY: the range is in the send buffer, which lives until the channels have been closed; the section is not
                // written again before its packets are completed: `release` frees it then.
                unsafe { channel.send_gpa_ranges(id, core::iter::once(range), &[nvsp.as_bytes()]) }?;
                entry.in_flight = entry.in_flight.saturating_add(1);
                Ok(())
            }
        }
    }

    /// Sends a frame from memory of the caller, behind the frames that were committed before.
    pub fn send(
        &mut self,
        tag: u64,
        frame: B,
        meta: &TxMeta,
        channel: &mut Channel<P>,
    ) -> Result<(), (Rejected, B)> {
        match self.flush(channel) {
            Ok(()) if self.is_flush_pending => return Err((Rejected::Full, frame)),
            Ok(()) => {}
            Err(fault) => return Err((fault.into(), frame)),
        }
        self.in_flight.send(tag, frame, meta, &self.limits, channel)
    }

    /// Sends the sections that hold frames. Where the ring is full they are kept, to be flushed again.
    #[inline]
    pub fn flush(&mut self, channel: &mut Channel<P>) -> Result<(), Fault> {
        while let Some(sealed) = self.sealed.get(0).copied() {
            if !self.send_section(&sealed, channel)? {
                return Ok(());
            }
            self.sealed.pop();
        }
        if let Some(open) = self.open.filter(|open| open.frames > 0) {
            if self.send_section(&open, channel)? {
                self.open = None;
            }
        }
        Ok(())
    }

    /// Sends a section; returns whether the ring had room.
    #[inline]
    fn send_section(&mut self, open: &OpenSection, channel: &mut Channel<P>) -> Result<bool, Fault> {
        let &OpenSection { section, fill, frames } = open;
        debug_assert!(frames > 0, "a section without frames is not sealed");
        let (Some(entry), Some(buffer)) = (self.sections.get_mut(usize::from(section)), self.buffer) else {
            return Err(Fault::Protocol);
        };
        let number = u32::from(buffer.first.wrapping_add(section));
        let message = nvsp_packet(NvspChannelType::DATA, number, fill);
        let id = transaction::pack(Source::Section(section), entry.generation);
        let sent = channel.send_in_band(id, true, &[message.as_bytes()]);
        self.is_flush_pending = sent == Err(SendError::Full);
        match sent {
            Ok(()) => {
                entry.in_flight = entry.in_flight.saturating_add(1);
                Ok(true)
            }
            Err(SendError::Full) => Ok(false),
            Err(SendError::Faulted(fault)) => Err(fault),
            Err(_) => Err(Fault::Protocol),
        }
    }

    /// The host has completed the packet `transaction`.
    #[inline]
    pub fn complete(&mut self, transaction: u64, is_success: bool) -> Result<(), Fault> {
        self.watchdog.note_progress();
        let (source, generation) = transaction::unpack(transaction).ok_or(Fault::Protocol)?;
        match source {
            Source::Section(at) => {
                let section = self
                    .sections
                    .get_mut(usize::from(at))
                    .filter(|section| section.in_flight > 0 && section.generation == generation)
                    .ok_or(Fault::Protocol)?;
                section.in_flight = section.in_flight.wrapping_sub(1);
                if section.in_flight == 0 {
                    section.generation = section.generation.wrapping_add(1);
                    self.release(at);
                }
                Ok(())
            }
            Source::Lso(at) => self.lso_slots.complete(at, generation),
            Source::Caller(at) => self.in_flight.complete(at, generation, is_success),
        }
    }

    /// Ends the queue, after its channel has been closed. Where the host confirmed that (`is_quiesced`), frames of callers come
    /// back; else memory in flight is leaked.
    pub fn end(&mut self, is_quiesced: bool) {
        if core::mem::replace(&mut self.is_ended, true) {
            return;
        }
        self.in_flight.end(is_quiesced);
        if is_quiesced {
            self.lso_slots.reclaim_all();
        }
        (self.open, self.reserved, self.is_flush_pending) = (None, None, false);
        while self.sealed.pop().is_some() {}
        (self.buffer, self.section_size, self.free) = (None, 0, END);
    }
}

impl<P: Platform, B: DmaBuffer> fmt::Debug for TxState<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxState")
            .field("sections", &self.sections.len())
            .field("open", &self.open)
            .field("reserved", &self.reserved)
            .field("is_ended", &self.is_ended)
            .finish_non_exhaustive()
    }
}

/// A length beyond that of every frame, up to which the sums of [`message_len`] do not wrap.
const MAX_LEN: u32 = 1 << 30;

/// Bytes of the message of a frame of `len` bytes in a section, header included.
#[inline(always)]
fn message_len(len: usize) -> u32 {
    const ROUND: u32 = ALIGNMENT as u32 - 1;
    match u32::try_from(len) {
        Ok(len) if len < MAX_LEN => len.wrapping_add(HEADROOM as u32).wrapping_add(ROUND) & !ROUND,
        _ => u32::MAX,
    }
}

//! Frames in memory of callers that are in flight.

use crate::encode::{FrameBytes, Header};
use crate::transaction::{self, Source};
use crate::transmit_limits::{SendLimits, nvsp_packet};
use hyperv_bindings::netvsp::{NVSP_NO_SECTION, NvspChannelType};
use paravirt_device::{Fault, IoError, Rejected, Sent, TxMeta};
use paravirt_platform::{AllocError, Direction, DmaBuffer, DmaRegion, Fifo, PageTable, Platform, Segment};
use paravirt_vmbus::{Channel, GpaRange};
use zerocopy::IntoBytes;

/// The end of the free list.
const END: u16 = u16::MAX;
/// Ranges of a packet beside that of the header: what every host accepts.
const MAX_SEGMENTS: usize = 16;
/// Bytes for the header of each frame. They do not cross a page.
const HEADER_STRIDE: usize = 128;

struct Entry<B> {
    generation: u32,
    tag: u64,
    buffer: Option<B>,
    next: u16,
}

/// The table of the frames in flight and of the completed ones.
pub(crate) struct InFlight<P: Platform, B: DmaBuffer> {
    entries: PageTable<P, Entry<B>>,
    free: u16,
    count: u16,
    /// The RNDIS headers of the frames, which the host reads: one for each entry. `None` once it was leaked.
    headers: Option<DmaRegion<P>>,
    sent: Fifo<P, Sent<B>>,
}

impl<P: Platform, B: DmaBuffer> InFlight<P, B> {
    /// Room for `depth` frames.
    pub fn new(platform: &P, depth: u16) -> Result<Self, AllocError> {
        Ok(Self {
            entries: PageTable::new(platform, usize::from(depth), |at| {
                let next = (at as u16).wrapping_add(1);
                Entry { generation: 1, tag: 0, buffer: None, next: if next < depth { next } else { END } }
            })?,
            free: if depth > 0 { 0 } else { END },
            count: 0,
            headers: Some(DmaRegion::alloc(platform, usize::from(depth).saturating_mul(HEADER_STRIDE))?),
            sent: Fifo::new(platform, usize::from(depth))?,
        })
    }

    /// Whether a frame is completed and not yet taken.
    pub fn has_sent(&self) -> bool {
        !self.sent.is_empty()
    }

    /// Whether a frame is in flight.
    pub fn has_in_flight(&self) -> bool {
        self.count > 0
    }

    /// Takes a frame back.
    pub fn take_sent(&mut self) -> Option<Sent<B>> {
        self.sent.pop()
    }

    /// Sends `frame`: a packet with a range for the header and one for each of its segments.
    pub fn send(
        &mut self,
        tag: u64,
        mut frame: B,
        meta: &TxMeta,
        limits: &SendLimits,
        channel: &mut Channel<P>,
    ) -> Result<(), (Rejected, B)> {
        let at = self.free;
        // Every frame in flight has room among the completed ones.
        let is_full = self.sent.len().saturating_add(usize::from(self.count)) >= self.sent.capacity();
        let Some(headers) = &self.headers else { return Err((Fault::Timeout.into(), frame)) };
        let Some(entry) = self.entries.get_mut(usize::from(at)).filter(|_| !is_full) else {
            return Err((Rejected::Full, frame));
        };
        let sent = match frame.submit(Direction::ToDevice) {
            Ok(segments) => {
                let id = transaction::pack(Source::Caller(at), entry.generation);
                let offset = usize::from(at).wrapping_mul(HEADER_STRIDE);
                write_packet(id, offset, headers, segments.as_slice(), meta, limits, channel)
            }
            Err(error) => return Err((Rejected::Buffer(error), frame)),
        };
        if let Err(reason) = sent {
            // SAFETY: it was submitted above, and the packet that would have told the host of it was not written.
            unsafe { frame.reclaim() };
            return Err((reason, frame));
        }
        (entry.tag, entry.buffer) = (tag, Some(frame));
        self.free = entry.next;
        self.count = self.count.wrapping_add(1);
        Ok(())
    }

    /// The host has completed the packet of entry `at`.
    pub fn complete(&mut self, at: u16, generation: u32, is_success: bool) -> Result<(), Fault> {
        let entry = self.entries.get(usize::from(at)).ok_or(Fault::Protocol)?;
        if entry.generation != generation || entry.buffer.is_none() {
            return Err(Fault::Protocol);
        }
        self.finish(at, if is_success { Ok(()) } else { Err(IoError::Device) });
        Ok(())
    }

    /// Reclaims the buffer of entry `at`, which the host no longer reads, and adds it to the completed ones.
    fn finish(&mut self, at: u16, result: Result<(), IoError>) {
        let Some(entry) = self.entries.get_mut(usize::from(at)) else { return };
        let Some(mut buffer) = entry.buffer.take() else { return };
        // SAFETY: `send` submitted it, and the host has completed its packet, or has closed the channel: see the callers.
        unsafe { buffer.reclaim() };
        entry.generation = entry.generation.wrapping_add(1);
        entry.next = self.free;
        self.free = at;
        self.count = self.count.wrapping_sub(1);
        let pushed = self.sent.push(Sent::new(entry.tag, Some(buffer), result));
        debug_assert!(pushed.is_ok(), "`send` keeps room for every frame in flight");
    }

    /// Ends what is in flight, after the channels have been closed. Where the host confirmed that (`is_quiesced`), frames come
    /// back with [`IoError::Aborted`]; else they are leaked, with the headers.
    pub fn end(&mut self, is_quiesced: bool) {
        if is_quiesced {
            for at in 0..self.entries.len() as u16 {
                self.finish(at, Err(IoError::Aborted));
            }
            return;
        }
        for entry in self.entries.iter_mut() {
            // A buffer that is dropped in flight leaks its memory: the completion comes without it.
            if entry.buffer.take().is_some() {
                let _ = self.sent.push(Sent::new(entry.tag, None, Err(IoError::Aborted)));
            }
        }
        self.count = 0;
        self.headers.take().into_iter().for_each(DmaRegion::leak);
    }
}

fn write_packet<P: Platform>(
    id: u64,
    offset: usize,
    headers: &DmaRegion<P>,
    segments: &[Segment],
    meta: &TxMeta,
    limits: &SendLimits,
    channel: &mut Channel<P>,
) -> Result<(), Rejected> {
    if segments.len() > MAX_SEGMENTS {
        return Err(Rejected::Invalid);
    }
    let len = segments.iter().fold(0usize, |sum, segment| sum.saturating_add(segment.len as usize));
    let header = Header::new(len, meta, limits.offloads, limits.max_frame, FrameBytes::Caller)?;
    let bytes = header.padded().get(..header.len()).ok_or(Rejected::Invalid)?;
    headers.shared().copy_in(offset, bytes).ok_or(Rejected::Invalid)?;
    let head = GpaRange::contiguous(headers.bus().0.wrapping_add(offset as u64), header.len() as u32);
    let rest = segments.iter().map(|Segment { addr, len }| GpaRange::contiguous(addr.0, *len));
    let ranges = core::iter::once(head).chain(rest);
    let message = nvsp_packet(NvspChannelType::DATA, NVSP_NO_SECTION, 0);
    // SAFETY: the segments are of a buffer in flight, which `InFlight` keeps until `complete` or `end`. The header lies in
    // `headers`, which are accessed as atomics only and live as long: `NetVscQueue` hands its state back to `ChannelState` when
    // it is dropped, and `NetShared` closes the channels before it drops that.
    unsafe { channel.send_gpa_ranges(id, ranges, &[message.as_bytes()]) }.map_err(Rejected::from)
}

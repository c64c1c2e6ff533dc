//! Packets that name guest memory (GPA direct).
//!
//! Source: `VMDATA_GPA_DIRECT` of Hyper-V's ring protocol, as OpenVMM's `vmbus_ring` (MIT) shows it.

use super::{Channel, SendError};
use paravirt_platform::{DmaSegments, PAGE_SIZE, Platform, Segment};
use paravirt_vmbus_ring::{GpaRange, Payload};

/// Where in a page an address is.
const PAGE_MASK: u64 = PAGE_SIZE as u64 - 1;
const PAGE_SHIFT: u32 = PAGE_SIZE.ilog2();

impl<P: Platform> Channel<P> {
    /// Writes a packet that names `memory` as one range, which is the host's until the completion with `transaction` comes or
    /// the channel has been closed. The host sees it at the next [`kick`](Self::kick).
    ///
    /// Memory is named by a buffer in flight, so that safe code cannot give the host memory which it does not own:
    ///
    /// ```compile_fail,E0133
    /// use paravirt_platform::{BusAddr, Direction, DmaSegments, Platform, Segment};
    /// use paravirt_vmbus::Channel;
    ///
    /// fn any_memory<P: Platform>(channel: &mut Channel<P>) {
    ///     let anywhere = [Segment { addr: BusAddr(0x1000), len: 512 }];
    ///     let memory = DmaSegments::new(&anywhere, Direction::FromDevice);
    ///     let _ = channel.send_gpa_direct(1, memory, &[]);
    /// }
    /// ```
    ///
    /// ```compile_fail,E0133
    /// use paravirt_platform::Platform;
    /// use paravirt_vmbus::{Channel, GpaRange};
    ///
    /// fn any_memory<P: Platform>(channel: &mut Channel<P>) {
    ///     let _ = channel.send_gpa_ranges(1, core::iter::once(GpaRange::contiguous(0x1000, 512)), &[]);
    /// }
    /// ```
    ///
    /// ```
    /// use paravirt_platform::{Direction, DmaBuffer, DmaSlice, Platform};
    /// use paravirt_vmbus::Channel;
    ///
    /// fn own_memory<P: Platform>(channel: &mut Channel<P>, buffer: &mut DmaSlice<P>) {
    ///     if let Ok(memory) = buffer.submit(Direction::FromDevice) {
    ///         let _ = channel.send_gpa_direct(1, memory, &[]);
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`SendError`]; [`SendError::Invalid`] also where segments do not follow on each other at page boundaries, which is all
    /// that a range can say, or there are none.
    #[inline]
    pub fn send_gpa_direct(
        &mut self,
        transaction: u64,
        memory: DmaSegments<'_>,
        payload: &[&[u8]],
    ) -> Result<(), SendError> {
        match memory.as_slice() {
            [] => Err(SendError::Invalid),
            [one] => {
                let range = GpaRange::contiguous(one.addr.0, one.len);
                // SAFETY: the range is a segment of memory in flight.
                unsafe { self.send_gpa_ranges(transaction, core::iter::once(range), payload) }
            }
            [first, ..] => {
                let segments = memory.as_slice();
                let len = range_len(segments).ok_or(SendError::Invalid)?;
                let offset = (first.addr.0 & PAGE_MASK) as u32;
                let range = GpaRange { len, offset, pages: Frames::new(segments) };
                // SAFETY: `range_len` has made sure that the range covers the segments and nothing else, and they are memory in
                // flight.
                unsafe { self.send_gpa_ranges(transaction, core::iter::once(range), payload) }
            }
        }
    }
}

impl<P: Platform> Channel<P> {
    /// Writes a packet that names `memory`, with a payload whose length is known when compiled, where `memory` is one segment
    /// inside a page: what [`send_gpa_direct`](Self::send_gpa_direct) writes, in fewer instructions.
    ///
    /// `false`, and nothing was written, where it is not, or the packet would be on both sides of the end of the ring: that is for
    /// `send_gpa_direct`.
    ///
    /// # Errors
    ///
    /// [`SendError`]. That the host has rescinded the channel may show only when the next packet is received.
    #[inline(always)]
    pub fn send_gpa_page<const WORDS: usize>(
        &mut self,
        transaction: u64,
        memory: DmaSegments<'_>,
        payload: impl Payload<WORDS>,
    ) -> Result<bool, SendError> {
        let [one] = memory.as_slice() else { return Ok(false) };
        if self.fault.is_some() {
            return Ok(false);
        }
        match self.outgoing.gpa_page(transaction, one.addr.0, one.len, payload) {
            Ok(is_written) => Ok(is_written),
            Err(error) => Err(self.refused(error)),
        }
    }
}

/// Bytes of segments that follow on each other at page boundaries: each but the first begins a page, each but the last ends one.
fn range_len(segments: &[Segment]) -> Option<u32> {
    let mut len = 0u32;
    let mut is_at_boundary = true;
    for (i, segment) in segments.iter().enumerate() {
        if !is_at_boundary || (i > 0 && segment.addr.0 & PAGE_MASK != 0) {
            return None;
        }
        len = len.checked_add(segment.len)?;
        is_at_boundary = segment.addr.0.wrapping_add(u64::from(segment.len)) & PAGE_MASK == 0;
    }
    Some(len)
}

/// The frame numbers of segments, in order.
#[derive(Clone)]
struct Frames<'a> {
    segments: core::slice::Iter<'a, Segment>,
    next: u64,
    end: u64,
    left: usize,
}

const fn frames_of(segment: &Segment) -> (u64, u64) {
    let end = segment.addr.0.saturating_add(segment.len as u64);
    (segment.addr.0 >> PAGE_SHIFT, end.div_ceil(PAGE_SIZE as u64))
}

impl<'a> Frames<'a> {
    fn new(segments: &'a [Segment]) -> Self {
        let left = segments.iter().fold(0u64, |sum, segment| {
            let (first, end) = frames_of(segment);
            sum.wrapping_add(end.wrapping_sub(first))
        });
        Self { segments: segments.iter(), next: 0, end: 0, left: left as usize }
    }
}

impl Iterator for Frames<'_> {
    type Item = u64;

    #[inline(always)]
    fn next(&mut self) -> Option<u64> {
        while self.next == self.end {
            (self.next, self.end) = frames_of(self.segments.next()?);
        }
        let frame = self.next;
        self.next = frame.wrapping_add(1);
        self.left = self.left.wrapping_sub(1);
        Some(frame)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Frames<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use paravirt_platform::BusAddr;

    fn segment(addr: u64, len: u32) -> Segment {
        Segment { addr: BusAddr(addr), len }
    }

    #[test]
    fn a_range_covers_segments_that_meet_at_page_boundaries_only() {
        let meet = [segment(0x1e00, 512), segment(0x5000, 4096), segment(0x9000, 100)];
        assert_eq!(range_len(&meet), Some(4708));
        assert!(Frames::new(&meet).eq([1, 5, 9]));
        assert_eq!(range_len(&[segment(0x1000, 512), segment(0x2000, 512)]), None);
        assert_eq!(range_len(&[segment(0x1000, 4096), segment(0x2200, 512)]), None);
        assert_eq!(range_len(&[segment(0x1000, u32::MAX - 4095), segment(0x2000, u32::MAX)]), None);
    }
}

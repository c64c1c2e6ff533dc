//! The receive side: buffers posted to the device, and received frames. VIRTIO 1.3 §5.1.6.3

use super::header::{self, HEADER_LEN};
use crate::queue::Ring;
use crate::request_queue::{BufferQueue, Outcome};
use paravirt_device::{Arm, Fault, NetRx, RxFrame, RxMeta};
use paravirt_platform::Fifo;
use paravirt_platform::{AllocError, Direction, DmaSlice, Platform};

/// A received buffer.
struct Part<P: Platform> {
    buffer: DmaSlice<P>,
    /// The range of its bytes in the buffer.
    start: u32,
    end: u32,
    /// In the first buffer of a frame: the frame, complete once all its parts have been received.
    frame: RxFrame,
}

/// The receive side of a queue pair.
pub struct VirtioRx<P: Platform> {
    queue: BufferQueue<P, DmaSlice<P>>,
    ready: Fifo<P, Part<P>>,
    /// The buffers that are not in flight.
    spare: Fifo<P, DmaSlice<P>>,
    /// The parts of received frames, and the number of parts that the last frame still lacks.
    complete: usize,
    missing: u16,
    /// The number of parts of that last frame that have been received, and their length in bytes.
    partial: u16,
    partial_len: usize,
    is_merging: bool,
    /// The number of buffers added to the ring since the last kick.
    unpublished: usize,
    batch: usize,
}

impl<P: Platform> VirtioRx<P> {
    /// Allocates `count` buffers of `len` bytes each, which the first [`poll`](Self::poll) submits.
    pub(super) fn new(
        queue: BufferQueue<P, DmaSlice<P>>,
        count: u16,
        len: usize,
        is_merging: bool,
    ) -> Result<Self, AllocError> {
        let platform = queue.device().platform().clone();
        let count = usize::from(count);
        let mut spare = Fifo::new(&platform, count)?;
        let ready = Fifo::new(&platform, count)?;
        DmaSlice::alloc_many(&platform, count, len, |slice| {
            // The pool has room for `count` buffers.
            let _ = spare.push(slice);
        })?;
        let batch = (count >> 2).max(1);
        let (complete, missing, partial, partial_len, unpublished) = (0, 0, 0, 0, 0);
        Ok(Self {
            queue,
            ready,
            spare,
            complete,
            missing,
            partial,
            partial_len,
            is_merging,
            unpublished,
            batch,
        })
    }

    pub(super) fn queue(&mut self) -> &mut BufferQueue<P, DmaSlice<P>> {
        &mut self.queue
    }

    /// Receives the buffers that the device has filled, and submits the spare ones.
    #[inline]
    pub(super) fn poll(&mut self) -> Result<(), Fault> {
        let result = loop {
            if !self.queue.is_open() {
                break self.poll_slow();
            }
            match self.queue.queue_mut().pop() {
                Ok(None) => break Ok(()),
                Ok(Some(used)) => {
                    let Some(buffer) = used.buffer else { continue };
                    if self.take_in(buffer, used.len).is_err() {
                        self.queue.fail(Fault::Protocol);
                    }
                }
                Err(fault) => self.queue.fail(fault),
            }
        };
        if !self.spare.is_empty() {
            self.refill();
        }
        if self.unpublished >= self.batch {
            self.publish();
        }
        result
    }

    /// Reclaims the buffers that a reset aborted.
    #[cold]
    fn poll_slow(&mut self) -> Result<(), Fault> {
        loop {
            match self.queue.next() {
                Ok(None) => return Ok(()),
                Ok(Some(Outcome::Used(used))) => {
                    let Some(buffer) = used.buffer else { continue };
                    if self.take_in(buffer, used.len).is_err() {
                        self.queue.fail(Fault::Protocol);
                    }
                }
                Ok(Some(Outcome::Aborted(used))) => {
                    self.drop_partial();
                    used.buffer.into_iter().for_each(|buffer| drop(self.spare.push(buffer)));
                }
                Err(fault) => {
                    self.drop_partial();
                    return Err(fault);
                }
            }
        }
    }

    /// Receives a buffer to which the device has written `len` bytes.
    #[inline(always)]
    fn take_in(&mut self, buffer: DmaSlice<P>, len: u32) -> Result<(), Fault> {
        if self.missing == 0 {
            if let Some(bytes) = buffer.bytes().first_chunk::<HEADER_LEN>() {
                if let Some(payload) = len.checked_sub(HEADER_LEN as u32) {
                    let (meta, buffers) = header::parse(bytes);
                    // VIRTIO 1.3 §5.1.6.1: without mergeable buffers a frame is always in one buffer.
                    if buffers == 1 || !self.is_merging {
                        let frame = RxFrame::new(payload as usize, 1, meta);
                        // Each buffer is in one queue or pool only, so there is room.
                        let _ = self.ready.push(Part { buffer, start: HEADER_LEN as u32, end: len, frame });
                        self.complete = self.complete.wrapping_add(1);
                        return Ok(());
                    }
                }
            }
        }
        self.take_in_part(buffer, len)
    }

    /// Receives a buffer of a frame that spans several.
    #[inline(never)]
    fn take_in_part(&mut self, buffer: DmaSlice<P>, end: u32) -> Result<(), Fault> {
        let mut start = 0;
        let mut frame = RxFrame::new(0, 1, RxMeta::default());
        let mut fault = None;
        if self.missing == 0 {
            match buffer.bytes().first_chunk::<HEADER_LEN>() {
                Some(bytes) if end >= HEADER_LEN as u32 => {
                    let (meta, buffers) = header::parse(bytes);
                    frame = RxFrame::new(0, buffers, meta);
                    start = HEADER_LEN as u32;
                    let most = self
                        .spare
                        .len()
                        .saturating_add(usize::from(self.queue.in_flight()))
                        .saturating_add(1);
                    if buffers == 0 || usize::from(buffers) > most {
                        fault = Some(Fault::Protocol);
                    }
                    self.missing = buffers.max(1);
                    self.partial_len = 0;
                }
                _ => fault = Some(Fault::Protocol),
            }
        }
        if let Some(fault) = fault {
            self.missing = 0;
            let _ = self.spare.push(buffer);
            return Err(fault);
        }
        self.partial_len = self.partial_len.saturating_add(end.saturating_sub(start) as usize);
        // Each buffer is in one queue or pool only, so there is room.
        let _ = self.ready.push(Part { buffer, start, end, frame });
        self.partial = self.partial.wrapping_add(1);
        self.missing = self.missing.wrapping_sub(1);
        if self.missing == 0 {
            let total = self.partial_len;
            if let Some(first) = self.ready.get_mut(self.complete) {
                first.frame.len = total;
            }
            self.complete = self.complete.saturating_add(usize::from(self.partial));
            self.partial = 0;
        }
        Ok(())
    }

    /// Drops the incomplete frame, whose missing parts will not arrive.
    fn drop_partial(&mut self) {
        while self.partial > 0 {
            self.partial = self.partial.wrapping_sub(1);
            if let Some(part) = self.ready.pop_back() {
                let _ = self.spare.push(part.buffer);
            }
        }
        self.missing = 0;
    }

    /// Submits the spare buffers.
    fn refill(&mut self) {
        while self.queue.is_open() {
            if !self.queue.queue().has_room(1) {
                break;
            }
            let Some(buffer) = self.spare.pop() else { break };
            if !self.submit(buffer) {
                return;
            }
        }
    }

    /// Submits `buffer` and returns whether it is in flight. A refused buffer becomes spare.
    #[inline(always)]
    fn submit(&mut self, buffer: DmaSlice<P>) -> bool {
        match self.queue.submit(buffer, Direction::FromDevice) {
            Ok(()) => {
                self.unpublished = self.unpublished.wrapping_add(1);
                true
            }
            Err(refused) => {
                refused.buffer.into_iter().for_each(|buffer| drop(self.spare.push(buffer)));
                false
            }
        }
    }

    /// Publishes the submitted buffers and kicks the device if it requests a kick.
    pub(super) fn publish(&mut self) {
        if self.unpublished > 0 {
            self.unpublished = 0;
            self.queue.kick();
        }
    }

    pub(super) fn arm(&mut self) -> Arm {
        self.refill();
        self.publish();
        self.queue.arm()
    }
}

impl<P: Platform> NetRx for VirtioRx<P> {
    #[inline]
    fn front(&self) -> Option<RxFrame> {
        if self.complete == 0 { None } else { self.ready.get(0).map(|part| part.frame) }
    }

    #[inline]
    fn segment(&mut self, index: u16) -> Option<&mut [u8]> {
        if index >= self.front()?.segments {
            return None;
        }
        let part = self.ready.get_mut(usize::from(index))?;
        part.buffer.bytes_mut().get_mut(part.start as usize..part.end as usize)
    }

    #[inline]
    fn pop(&mut self) {
        let Some(frame) = self.front() else { return };
        for _ in 0..frame.segments {
            let Some(part) = self.ready.pop() else { break };
            self.complete = self.complete.wrapping_sub(1);
            if self.queue.is_open() && self.spare.is_empty() {
                self.submit(part.buffer);
            } else {
                let _ = self.spare.push(part.buffer);
            }
        }
    }
}

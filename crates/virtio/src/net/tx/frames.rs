//! Transmission from the frame buffers of a [`FrameQueue`](crate::queue::FrameQueue). VIRTIO 1.3 §5.1.6.2

use super::super::header::{self, HEADER_LEN};
use super::{VLAN_LEN, insert_tag};
use crate::queue::{FrameQueue, FrameUsed, Ring};
use crate::request_queue::{Outcome, RequestQueue};
use paravirt_device::{Arm, Fault, IoError, Offloads, Rejected, SendRefused, Sent, TxMeta, Watchdog};
use paravirt_platform::{AllocError, DmaBuffer, Fifo, Platform, Segment};

/// The value of `reserved` if no slot is reserved.
const NONE: u16 = u16::MAX;

/// The transmit side of a queue pair.
pub(super) struct FrameTx<P: Platform, B: DmaBuffer> {
    queue: RequestQueue<P, FrameQueue<P, B>>,
    /// The reserved slot, or [`NONE`].
    reserved: u16,
    /// The maximum length of a frame in bytes, and of a frame that fits a slot with header and tag.
    max_frame: usize,
    offloads: Offloads,
    /// The number of the caller's frames in flight.
    in_flight: usize,
    pub watchdog: Watchdog,
    sent: Fifo<P, Sent<B>>,
}

impl<P: Platform, B: DmaBuffer> FrameTx<P, B> {
    pub fn new(
        queue: RequestQueue<P, FrameQueue<P, B>>,
        max_frame: usize,
        offloads: Offloads,
    ) -> Result<Self, AllocError> {
        let sent = Fifo::new(queue.device().platform(), usize::from(queue.queue().free()))?;
        Ok(Self { queue, reserved: NONE, max_frame, offloads, in_flight: 0, watchdog: super::WATCHDOG, sent })
    }

    pub fn queue_mut(&mut self) -> &mut RequestQueue<P, FrameQueue<P, B>> {
        &mut self.queue
    }

    /// Reclaims the frames that the device has sent.
    #[inline]
    pub fn poll(&mut self) -> Result<(), Fault> {
        loop {
            if !self.queue.is_open() {
                return self.poll_slow();
            }
            match self.queue.queue_mut().pop() {
                Ok(Some(FrameUsed::Frame)) => self.watchdog.note_progress(),
                Ok(None) => return Ok(()),
                Ok(Some(FrameUsed::Buffer(buffer, tag))) => self.complete_buffer(buffer, tag, Ok(())),
                Err(fault) => self.queue.fail(fault),
            }
        }
    }

    /// Reclaims the frames that a reset aborted.
    #[cold]
    fn poll_slow(&mut self) -> Result<(), Fault> {
        while let Some(outcome) = self.queue.next()? {
            match outcome {
                Outcome::Used(FrameUsed::Buffer(buffer, tag)) => self.complete_buffer(buffer, tag, Ok(())),
                Outcome::Aborted(FrameUsed::Buffer(buffer, tag)) => {
                    self.complete_buffer(buffer, tag, Err(IoError::Aborted));
                }
                Outcome::Used(FrameUsed::Frame) | Outcome::Aborted(FrameUsed::Frame) => {}
            }
        }
        Ok(())
    }

    #[inline(never)]
    fn complete_buffer(&mut self, buffer: Option<B>, tag: u64, result: Result<(), IoError>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.watchdog.note_progress();
        // `send` keeps room for it.
        let _ = self.sent.push(Sent::new(tag, buffer, result));
    }

    /// Requests an interrupt only if a caller waits for the completion of a send.
    pub fn arm(&mut self) -> Arm {
        self.queue.kick();
        if self.queue.queue().free() == 0 || self.in_flight > 0 || self.queue.fault().is_some() {
            self.queue.arm()
        } else {
            Arm::Armed
        }
    }

    #[inline(always)]
    pub fn is_ready(&self, len: usize) -> bool {
        let has_slot = self.reserved != NONE || self.queue.queue().free() > 0;
        len <= self.max_frame && has_slot && self.queue.fault().is_none()
    }

    #[inline(always)]
    pub fn reserve(&mut self, len: usize) -> bool {
        if !self.is_ready(len) {
            return false;
        }
        if self.reserved == NONE {
            if let Some(slot) = self.queue.queue_mut().reserve() {
                self.reserved = slot;
            }
        }
        true
    }

    #[inline(always)]
    pub fn slot(&mut self) -> &mut [u8] {
        let end = HEADER_LEN.wrapping_add(self.max_frame);
        // `NONE` is out of range for every queue, so that no slot is accessed if none is reserved.
        self.queue.queue_mut().frame_mut(self.reserved).get_mut(HEADER_LEN..end).unwrap_or_default()
    }

    #[inline(always)]
    pub fn commit(&mut self, len: usize, meta: TxMeta) -> Result<(), Rejected> {
        let slot = core::mem::replace(&mut self.reserved, NONE);
        if slot == NONE {
            return Err(Rejected::Full);
        }
        let is_plain = meta.vlan.is_none() && meta.checksum.is_none() && meta.segmentation.is_none();
        if is_plain && len <= self.max_frame && self.queue.is_open() {
            let queue = self.queue.queue_mut();
            if let Some(to) = queue.frame_mut(slot).first_chunk_mut::<HEADER_LEN>() {
                *to = [0; HEADER_LEN];
            }
            return queue.submit_frame(slot, HEADER_LEN.wrapping_add(len));
        }
        self.commit_other(slot, len, meta)
    }

    /// Commits a frame for which the device or the driver performs an offload.
    #[inline(never)]
    fn commit_other(&mut self, slot: u16, mut len: usize, mut meta: TxMeta) -> Result<(), Rejected> {
        let prepared = match self.queue.fault() {
            Some(fault) => Err(fault.into()),
            None if len > self.max_frame => Err(Rejected::Invalid),
            None => self.prepare(slot, &mut len, &mut meta),
        };
        let queue = self.queue.queue_mut();
        match prepared {
            Ok(()) => queue.submit_frame(slot, HEADER_LEN.wrapping_add(len)),
            Err(reason) => {
                queue.release(slot);
                Err(reason)
            }
        }
    }

    /// Writes the header, and the tag if there is one, to the slot.
    fn prepare(&mut self, slot: u16, len: &mut usize, meta: &mut TxMeta) -> Result<(), Rejected> {
        let bytes = self.queue.queue_mut().frame_mut(slot);
        let mut max_frame = self.max_frame;
        if let Some(tag) = meta.vlan {
            max_frame = max_frame.saturating_add(VLAN_LEN);
            *len = insert_tag(bytes, *len, tag, meta)?;
        }
        let header = header::encode(*len, meta, self.offloads, max_frame)?;
        *bytes.first_chunk_mut::<HEADER_LEN>().ok_or(Rejected::Invalid)? = header;
        Ok(())
    }

    pub fn send(&mut self, tag: u64, frame: B, meta: TxMeta) -> Result<(), SendRefused<B>> {
        let refused = |reason, buffer| Err(SendRefused::new(reason, buffer));
        if let Some(fault) = self.queue.fault() {
            return refused(fault.into(), frame);
        }
        if meta.vlan.is_some() {
            // The caller's frame has no room for a tag, and the device does not insert one.
            return refused(Rejected::Unsupported, frame);
        }
        if self.sent.len().saturating_add(self.in_flight) >= self.sent.capacity() {
            return refused(Rejected::Full, frame);
        }
        let (offloads, max_frame) = (self.offloads, self.max_frame);
        let header = |body: &[Segment]| {
            let len = body.iter().fold(0usize, |sum, segment| sum.saturating_add(segment.len as usize));
            header::encode(len, &meta, offloads, max_frame)
        };
        match self.queue.queue_mut().submit_buffer(frame, tag, header) {
            Ok(()) => {
                self.in_flight = self.in_flight.saturating_add(1);
                Ok(())
            }
            Err((reason, buffer)) => refused(reason, buffer),
        }
    }

    pub fn sent(&mut self) -> Option<Sent<B>> {
        self.sent.pop()
    }

    #[inline(always)]
    pub fn kick(&mut self) {
        self.queue.kick();
    }
}

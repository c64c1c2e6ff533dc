//! Transmission by the general virtqueue, which supports every device: packed, direct or in order, or with very long frames.
//! VIRTIO 1.3 §5.1.6.2

use super::super::header::{self, HEADER_LEN};
use super::{VLAN_LEN, insert_tag};
use crate::queue::{AreaRange, Parts, Ring, Unsubmitted, Used, VirtQueue};
use crate::request_queue::{Outcome, RequestQueue};
use core::sync::atomic::{AtomicU64, Ordering};
use paravirt_device::{Arm, Fault, IoError, Offloads, Rejected, SendRefused, Sent, TxMeta, Watchdog};
use paravirt_platform::Fifo;
use paravirt_platform::{AllocError, Direction, DmaBuffer, DmaSlice, Either, Platform, Segment};

/// The maximum size in bytes of all slots of a queue together, and the minimum number of slots.
const MAX_SLOT_BYTES: usize = 1 << 20;
const MIN_SLOTS: usize = 16;

pub(super) type Buffer<P, B> = Either<DmaSlice<P>, B>;
/// A queue whose requests carry the tag of a caller's frame, or `None` for a slot.
pub(super) type TxRing<P, B> = VirtQueue<P, Buffer<P, B>, Option<u64>>;

/// The transmit side of a queue pair.
pub(super) struct GeneralTx<P: Platform, B: DmaBuffer> {
    queue: RequestQueue<P, TxRing<P, B>>,
    slots: Fifo<P, DmaSlice<P>>,
    reserved: Option<DmaSlice<P>>,
    sent: Fifo<P, Sent<B>>,
    /// The number of the caller's frames in flight.
    in_flight: usize,
    pub(super) watchdog: Watchdog,
    /// The maximum length in bytes of a frame that fits a slot with header and tag.
    slot_len: usize,
    offloads: Offloads,
    max_frame: usize,
}

impl<P: Platform, B: DmaBuffer> GeneralTx<P, B> {
    pub(super) fn new(
        queue: RequestQueue<P, TxRing<P, B>>,
        depth: u16,
        max_frame: usize,
        offloads: Offloads,
    ) -> Result<Self, AllocError> {
        let platform = queue.device().platform().clone();
        let depth = usize::from(depth);
        let len = max_frame.saturating_add(HEADER_LEN).saturating_add(VLAN_LEN).next_multiple_of(64);
        let count = MAX_SLOT_BYTES.checked_div(len).unwrap_or(0).max(MIN_SLOTS).min(depth);
        let mut slots = Fifo::new(&platform, count)?;
        let sent = Fifo::new(&platform, depth)?;
        DmaSlice::alloc_many(&platform, count, len, |slice| {
            // The pool has room for `count` slots.
            let _ = slots.push(slice);
        })?;
        let slot_len = len.saturating_sub(HEADER_LEN).saturating_sub(VLAN_LEN);
        Ok(Self {
            queue,
            slots,
            reserved: None,
            sent,
            in_flight: 0,
            watchdog: super::WATCHDOG,
            slot_len,
            offloads,
            max_frame,
        })
    }

    pub(super) fn queue_mut(&mut self) -> &mut RequestQueue<P, TxRing<P, B>> {
        &mut self.queue
    }

    /// Reclaims the frames that the device has sent.
    #[inline]
    pub(super) fn poll(&mut self) -> Result<(), Fault> {
        loop {
            if !self.queue.is_open() {
                return self.poll_slow();
            }
            match self.queue.queue_mut().pop() {
                Ok(None) => return Ok(()),
                Ok(Some(Used { buffer: Some(Either::Left(slot)), .. })) => {
                    self.watchdog.note_progress();
                    drop(self.slots.push(slot));
                }
                Ok(Some(used)) => self.complete_buffer(used, Ok(())),
                Err(fault) => self.queue.fail(fault),
            }
        }
    }

    /// Reclaims the frames that a reset aborted.
    #[cold]
    fn poll_slow(&mut self) -> Result<(), Fault> {
        while let Some(outcome) = self.queue.next()? {
            match outcome {
                Outcome::Used(used) => self.complete_buffer(used, Ok(())),
                Outcome::Aborted(used) => self.complete_buffer(used, Err(IoError::Aborted)),
            }
        }
        Ok(())
    }

    #[inline(never)]
    fn complete_buffer(&mut self, used: Used<Buffer<P, B>, Option<u64>>, result: Result<(), IoError>) {
        self.watchdog.note_progress();
        let Used { buffer, extra, .. } = used;
        let buffer = match buffer {
            // There is room for every slot.
            Some(Either::Left(slot)) => return drop(self.slots.push(slot)),
            Some(Either::Right(buffer)) => Some(buffer),
            None => None,
        };
        // A slot that was leaked is nobody's; a caller's frame completes without its buffer.
        if let Some(tag) = extra {
            self.in_flight = self.in_flight.saturating_sub(1);
            // `send` keeps room for it.
            let _ = self.sent.push(Sent::new(tag, buffer, result));
        }
    }

    /// Requests an interrupt only if a caller waits for the completion of a send.
    pub(super) fn arm(&mut self) -> Arm {
        self.queue.kick();
        if self.slots.is_empty() || self.in_flight > 0 || self.queue.fault().is_some() {
            self.queue.arm()
        } else {
            Arm::Armed
        }
    }

    /// Writes the header before the frame in `slot`, and submits both.
    #[inline(always)]
    fn send_slot(
        &mut self,
        mut slot: DmaSlice<P>,
        mut len: usize,
        mut meta: TxMeta,
    ) -> Result<(), (Rejected, Option<DmaSlice<P>>)> {
        let mut max_frame = self.max_frame;
        if let Some(fault) = self.queue.fault() {
            return Err((fault.into(), Some(slot)));
        }
        if let Some(tag) = meta.vlan {
            max_frame = max_frame.saturating_add(VLAN_LEN);
            match insert_tag(slot.capacity_mut(), len, tag, &mut meta) {
                Ok(tagged) => len = tagged,
                Err(reason) => return Err((reason, Some(slot))),
            }
        }
        let header = match header::encode(len, &meta, self.offloads, max_frame) {
            Ok(header) => header,
            Err(reason) => return Err((reason, Some(slot))),
        };
        match slot.capacity_mut().first_chunk_mut::<HEADER_LEN>() {
            Some(to) => *to = header,
            None => return Err((Rejected::Invalid, Some(slot))),
        }
        slot.set_len(HEADER_LEN.wrapping_add(len));
        let queue = self.queue.queue_mut();
        let sent =
            queue.submit(Parts::NONE, Some(Either::Left(slot)), Direction::ToDevice, None, |_, _| Ok(()));
        sent.map_err(|refused| match refused.buffer {
            Some(Either::Left(slot)) => (refused.reason, Some(slot)),
            _ => (refused.reason, None),
        })
    }

    #[cold]
    #[inline(never)]
    fn refuse(&mut self, reason: Rejected, slot: Option<DmaSlice<P>>) -> Result<(), Rejected> {
        // There is room for every slot.
        slot.into_iter().for_each(|slot| drop(self.slots.push(slot)));
        Err(reason)
    }
}

impl<P: Platform, B: DmaBuffer> GeneralTx<P, B> {
    pub fn is_ready(&self, len: usize) -> bool {
        len <= self.slot_len
            && self.queue.fault().is_none()
            && self.queue.queue().has_room(1)
            && (self.reserved.is_some() || !self.slots.is_empty())
    }

    pub fn reserve(&mut self, len: usize) -> bool {
        if !self.is_ready(len) {
            return false;
        }
        if self.reserved.is_none() {
            self.reserved = self.slots.pop();
        }
        true
    }

    pub fn slot(&mut self) -> &mut [u8] {
        let Some(slot) = &mut self.reserved else { return &mut [] };
        slot.capacity_mut().get_mut(HEADER_LEN..HEADER_LEN.wrapping_add(self.slot_len)).unwrap_or_default()
    }

    pub fn commit(&mut self, len: usize, meta: TxMeta) -> Result<(), Rejected> {
        let Some(slot) = self.reserved.take() else { return self.refuse(Rejected::Full, None) };
        if len > self.slot_len {
            return self.refuse(Rejected::Invalid, Some(slot));
        }
        match self.send_slot(slot, len, meta) {
            Ok(()) => Ok(()),
            Err((reason, slot)) => self.refuse(reason, slot),
        }
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
        let head = [AreaRange::new(0, HEADER_LEN as u16)];
        let prepare = |body: &[Segment], area: Option<&[AtomicU64; 8]>| {
            let len = body.iter().fold(0usize, |sum, segment| sum.saturating_add(segment.len as usize));
            let header = header::encode(len, &meta, offloads, max_frame)?;
            let [a, b, c, d, e, g, h, i, low @ ..] = header;
            let [first, second, ..] = area.ok_or(Rejected::Full)?;
            first.store(u64::from_le_bytes([a, b, c, d, e, g, h, i]), Ordering::Relaxed);
            second.store(u64::from(u32::from_le_bytes(low)), Ordering::Relaxed);
            Ok(())
        };
        let frame = Some(Either::Right(frame));
        let parts = Parts::around(&head, &[]);
        match self.queue.queue_mut().submit(parts, frame, Direction::ToDevice, Some(tag), prepare) {
            Ok(()) => {
                self.in_flight = self.in_flight.saturating_add(1);
                Ok(())
            }
            Err(Unsubmitted { reason, buffer: Some(Either::Right(buffer)), .. }) => refused(reason, buffer),
            // A refused request returns its buffer. One without is reported as a frame whose memory is not returned.
            Err(_) => {
                let _ = self.sent.push(Sent::new(tag, None, Err(IoError::Aborted)));
                Ok(())
            }
        }
    }

    pub fn sent(&mut self) -> Option<Sent<B>> {
        self.sent.pop()
    }

    pub fn kick(&mut self) {
        self.queue.kick();
    }
}

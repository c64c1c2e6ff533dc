//! The sending side: slots that frames are written in, and frames of the caller's. VIRTIO 1.3 §5.1.6.2

use super::VLAN_LEN;
use super::header::{self, HEADER_LEN};
use crate::queue::{AreaRange, Parts, Unsubmitted, VirtQueue};
use crate::request_queue::{Outcome, RequestQueue};
use core::sync::atomic::{AtomicU64, Ordering};
use paravirt_device::{Arm, Fault, IoError, NetTx, Offloads, Rejected, SendRefused, Sent, TxMeta, VlanTag};
use paravirt_platform::Fifo;
use paravirt_platform::{AllocError, Direction, DmaBuffer, DmaSlice, Either, Platform, Segment};

/// Where in a frame an 802.1Q tag goes.
const VLAN_AT: usize = 12;
const VLAN_TYPE: [u8; 2] = [0x81, 0x00];
/// Bytes of all slots of a queue together, at most, and how many there are at least.
const SLOTS_BYTES: usize = 1 << 20;
const SLOTS_LEAST: usize = 16;

type Buffer<P, B> = Either<DmaSlice<P>, B>;

/// The sending side of a queue pair.
pub struct VirtioTx<P: Platform, B: DmaBuffer> {
    queue: RequestQueue<P, VirtQueue<P, Buffer<P, B>, u64>>,
    slots: Fifo<P, DmaSlice<P>>,
    reserved: Option<DmaSlice<P>>,
    sent: Fifo<P, Sent<B>>,
    /// Frames of the caller's that are with the device.
    lent: usize,
    offloads: Offloads,
    max_frame: usize,
}

impl<P: Platform, B: DmaBuffer> VirtioTx<P, B> {
    pub(super) fn new(
        queue: RequestQueue<P, VirtQueue<P, Buffer<P, B>, u64>>,
        depth: u16,
        max_frame: usize,
        offloads: Offloads,
    ) -> Result<Self, AllocError> {
        let platform = queue.device().platform().clone();
        let depth = usize::from(depth);
        let len = max_frame.saturating_add(HEADER_LEN).saturating_add(VLAN_LEN).next_multiple_of(64);
        let count = SLOTS_BYTES.checked_div(len).unwrap_or(0).max(SLOTS_LEAST).min(depth);
        let mut slots = Fifo::new(&platform, count)?;
        let sent = Fifo::new(&platform, depth)?;
        DmaSlice::alloc_many(&platform, count, len, |slice| {
            // There is room for `count`.
            let _ = slots.push(slice);
        })?;
        Ok(Self { queue, slots, reserved: None, sent, lent: 0, offloads, max_frame })
    }

    pub(super) fn queue(&mut self) -> &mut RequestQueue<P, VirtQueue<P, Buffer<P, B>, u64>> {
        &mut self.queue
    }

    /// Takes back what the device has sent.
    #[inline]
    pub(super) fn poll(&mut self) -> Result<(), Fault> {
        while let Some(outcome) = self.queue.next()? {
            let (used, result) = match outcome {
                Outcome::Used(used) => (used, Ok(())),
                Outcome::Aborted(used) => (used, Err(IoError::Aborted)),
            };
            match used.buffer {
                Some(Either::Left(slot)) => self.give_back(slot),
                Some(Either::Right(buffer)) => {
                    self.lent = self.lent.saturating_sub(1);
                    // `send` keeps room.
                    let _ = self.sent.push(Sent { tag: used.extra, buffer, result });
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Asks for an interrupt only where somebody waits for what is being sent.
    pub(super) fn arm(&mut self) -> Arm {
        self.queue.kick();
        if self.slots.is_empty() || self.lent > 0 || self.queue.fault().is_some() {
            self.queue.arm()
        } else {
            Arm::Armed
        }
    }

    fn give_back(&mut self, mut slot: DmaSlice<P>) {
        slot.set_len(slot.capacity());
        let _ = self.slots.push(slot);
    }

    /// Writes header, and tag if there is one, ahead of the frame in `slot`, and sends it.
    fn send_slot(
        &mut self,
        slot: DmaSlice<P>,
        len: usize,
        mut meta: TxMeta,
    ) -> Result<(), (Rejected, Option<DmaSlice<P>>)> {
        let (mut slot, mut len) = (slot, len);
        if let Some(fault) = self.queue.fault() {
            return Err((fault.into(), Some(slot)));
        }
        if let Some(VlanTag(tag)) = meta.vlan {
            // The device does not insert tags.
            let at = HEADER_LEN + VLAN_AT;
            let end = HEADER_LEN.wrapping_add(len);
            let bytes = slot.bytes_mut();
            let fits = end.wrapping_add(VLAN_LEN) <= bytes.len() && len >= VLAN_AT;
            let Some(room) = bytes.get_mut(at..end.wrapping_add(VLAN_LEN)).filter(|_| fits) else {
                return Err((Rejected::Invalid, Some(slot)));
            };
            room.copy_within(..len.wrapping_sub(VLAN_AT), VLAN_LEN);
            if let Some((to, _)) = room.split_first_chunk_mut::<VLAN_LEN>() {
                let ([a, b], [c, d]) = (VLAN_TYPE, tag.to_be_bytes());
                *to = [a, b, c, d];
            }
            len = len.wrapping_add(VLAN_LEN);
            if let Some(checksum) = &mut meta.checksum {
                checksum.start = checksum.start.saturating_add(VLAN_LEN as u16);
            }
            if let Some(segmentation) = &mut meta.segmentation {
                segmentation.headers = segmentation.headers.saturating_add(VLAN_LEN as u16);
            }
        }
        let most = self.max_frame.saturating_add(if meta.vlan.is_some() { VLAN_LEN } else { 0 });
        let header = match header::encode(len, &meta, self.offloads, most) {
            Ok(header) => header,
            Err(reason) => return Err((reason, Some(slot))),
        };
        match slot.bytes_mut().first_chunk_mut::<HEADER_LEN>() {
            Some(to) => *to = header,
            None => return Err((Rejected::Invalid, Some(slot))),
        }
        slot.set_len(HEADER_LEN.wrapping_add(len));
        let queue = self.queue.queue_mut();
        let sent = queue.submit(Parts::NONE, Some(Either::Left(slot)), Direction::ToDevice, 0, |_, _| Ok(()));
        sent.map_err(|refused| match refused.buffer {
            Some(Either::Left(slot)) => (refused.reason, Some(slot)),
            _ => (refused.reason, None),
        })
    }
}

impl<P: Platform, B: DmaBuffer> NetTx for VirtioTx<P, B> {
    type Buffer = B;

    #[inline]
    fn is_ready(&self, len: usize) -> bool {
        let fits =
            |slot: &DmaSlice<P>| slot.capacity() >= HEADER_LEN.saturating_add(VLAN_LEN).saturating_add(len);
        self.queue.fault().is_none()
            && self.queue.queue().has_room(1)
            && self.reserved.as_ref().or(self.slots.get(0)).is_some_and(fits)
    }

    #[inline]
    fn reserve(&mut self, len: usize) -> bool {
        if !self.is_ready(len) {
            return false;
        }
        if self.reserved.is_none() {
            self.reserved = self.slots.pop();
        }
        self.reserved.is_some()
    }

    #[inline]
    fn slot(&mut self) -> &mut [u8] {
        let bytes = self.reserved.as_mut().map(DmaSlice::bytes_mut).unwrap_or_default();
        let end = bytes.len().saturating_sub(VLAN_LEN);
        bytes.get_mut(HEADER_LEN..end).unwrap_or_default()
    }

    #[inline]
    fn commit(&mut self, len: usize, meta: TxMeta) -> Result<(), Rejected> {
        let slot = self.reserved.take().ok_or(Rejected::Full)?;
        if HEADER_LEN.saturating_add(len) > slot.capacity() {
            self.give_back(slot);
            return Err(Rejected::Invalid);
        }
        self.send_slot(slot, len, meta).map_err(|(reason, slot)| {
            if let Some(slot) = slot {
                self.give_back(slot);
            }
            reason
        })
    }

    fn send(&mut self, tag: u64, frame: B, meta: TxMeta) -> Result<(), SendRefused<B>> {
        let refused = |reason, buffer| Err(SendRefused { reason, buffer });
        if let Some(fault) = self.queue.fault() {
            return refused(fault.into(), frame);
        }
        if meta.vlan.is_some() {
            // There is no room in the caller's frame for a tag, and the device inserts none.
            return refused(Rejected::Unsupported, frame);
        }
        if self.sent.len().saturating_add(self.lent) >= self.sent.capacity() {
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
        match self.queue.queue_mut().submit(parts, frame, Direction::ToDevice, tag, prepare) {
            Ok(()) => {
                self.lent = self.lent.saturating_add(1);
                Ok(())
            }
            Err(Unsubmitted { reason, buffer: Some(Either::Right(buffer)), .. }) => refused(reason, buffer),
            Err(_) => unreachable!("a refused request comes back with its buffer"),
        }
    }

    fn sent(&mut self) -> Option<Sent<B>> {
        self.sent.pop()
    }

    #[inline]
    fn kick(&mut self) {
        self.queue.kick();
    }
}

//! Frames for which the card computes a checksum, or that it segments.

use super::{Packet, Reserved, TxLimits, Vmxnet3Tx, split};
use crate::wire::{MAX_PIECE, TxOffload};
use paravirt_device::{Fault, Rejected, SegmentKind, Segmentation, TxMeta, without_length};
use paravirt_platform::{Direction, DmaBuffer, Platform};

/// The EtherType of a frame, and the checksum of an IPv4 header behind it.
const ETHERTYPE: usize = 12;
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV4_CHECKSUM: core::ops::Range<usize> = 24..26;

impl<P: Platform, B: DmaBuffer> Vmxnet3Tx<P, B> {
    /// Commits a frame for which the card does something, or that it segments.
    #[inline(never)]
    pub(super) fn commit_other(
        &mut self,
        reserved: Reserved,
        len: usize,
        meta: &TxMeta,
    ) -> Result<(), Rejected> {
        let committed = match self.card.fault() {
            Some(fault) => Err(fault.into()),
            None if !self.is_open() => Err(Fault::Reset.into()),
            None => self.commit_offloaded(reserved, len, meta),
        };
        if let (Reserved::Frame(frame), true) = (reserved, committed.is_err()) {
            self.free_frame(frame);
        }
        committed
    }

    fn commit_offloaded(&mut self, reserved: Reserved, len: usize, meta: &TxMeta) -> Result<(), Rejected> {
        let TxLimits { offloads, max_frame, max_segmented } = self.limits;
        if len == 0 || len > max_segmented {
            return Err(Rejected::Invalid);
        }
        let offload = TxOffload::new(meta, len, offloads, max_frame)?;
        match reserved {
            Reserved::None => Err(Rejected::Full),
            Reserved::Frame(_) if self.free() == 0 => Err(Rejected::Full),
            Reserved::Frame(frame) if len <= max_frame => {
                let bytes = self.frame_mut(frame).get_mut(..len).ok_or(Rejected::Invalid)?;
                prepare(bytes, meta)?;
                self.send_frame(frame, len, offload);
                Ok(())
            }
            Reserved::Frame(_) => Err(Rejected::Invalid),
            Reserved::Large(index) => self.send_large(index, len, meta, offload),
        }
    }

    fn send_large(
        &mut self,
        index: u16,
        len: usize,
        meta: &TxMeta,
        offload: TxOffload,
    ) -> Result<(), Rejected> {
        let has_room = len.div_ceil(MAX_PIECE as usize) <= self.free() as usize;
        let slice = self.large.get_mut(usize::from(index)).filter(|_| has_room).ok_or(Rejected::Full)?;
        prepare(slice.bytes_mut().get_mut(..len).ok_or(Rejected::Invalid)?, meta)?;
        slice.set_len(len);
        let segments = slice.submit(Direction::ToDevice).map_err(Rejected::Buffer)?;
        let segment = segments.as_slice().first().copied().ok_or(Rejected::Invalid)?;
        self.push(split(segment), offload, Packet::Large(index));
        if let Some(Segmentation { size, headers, .. }) = meta.segmentation {
            let payload = len.saturating_sub(usize::from(headers));
            let segments = payload.div_ceil(usize::from(size).max(1)).max(1);
            self.deferred = self.deferred.saturating_add(segments.saturating_sub(1) as u32);
        }
        Ok(())
    }
}

/// The sum of the pseudo-header of a frame that the card segments is without the length, and that of its IPv4 header is 0.
fn prepare(frame: &mut [u8], meta: &TxMeta) -> Result<(), Rejected> {
    let (Some(segmentation), Some(range)) = (meta.segmentation, meta.checksum) else { return Ok(()) };
    without_length(frame, range).ok_or(Rejected::Invalid)?;
    let is_plain = frame.get(ETHERTYPE..).and_then(<[u8]>::first_chunk) == Some(&IPV4);
    if segmentation.kind == SegmentKind::Tcp4 && is_plain {
        frame.get_mut(IPV4_CHECKSUM).ok_or(Rejected::Invalid)?.fill(0);
    }
    Ok(())
}

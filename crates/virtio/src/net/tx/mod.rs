//! The transmit side: frames in slots of the queue, and frames in buffers of the caller. VIRTIO 1.3 §5.1.6.2

mod frames;
mod general;

use super::VLAN_LEN;
use super::header::HEADER_LEN;
use crate::device::VirtioDevice;
use crate::queue::FrameQueue;
use crate::request_queue::{QueueBuilder, QueueParams};
use crate::transport::OpenError;
use core::fmt;
use core::task::Waker;
use core::time::Duration;
use frames::FrameTx;
use general::{GeneralTx, TxRing};
use paravirt_device::{Arm, Fault, NetTx, Offloads, Rejected, SendRefused, Sent, TxMeta, VlanTag, Watchdog};
use paravirt_platform::{DmaBuffer, Instant, PageArc, Platform};

/// The offset of an 802.1Q tag in a frame.
const VLAN_AT: usize = 12;
const VLAN_TYPE: [u8; 2] = [0x81, 0x00];
/// How long a device may complete no frame while some are in flight, before it is reset: 60 seconds, as for a request to a disk.
const WATCHDOG: Watchdog = Watchdog::new(Duration::from_secs(60));
/// The maximum size in bytes of all frame buffers of a queue together.
const MAX_FRAME_BYTES: usize = 2 << 20;

/// Returns the size in bytes of a slot for frames of `max_frame` bytes, with the header and room for a VLAN tag.
const fn slot_bytes(max_frame: usize) -> usize {
    max_frame.saturating_add(HEADER_LEN).saturating_add(VLAN_LEN).next_multiple_of(64)
}

/// Inserts an 802.1Q tag, which the device does not insert, into the frame of `len` bytes after the header in `slot`, and adjusts
/// the offsets in `meta`. Returns the length of the frame with the tag.
#[inline(never)]
fn insert_tag(
    slot: &mut [u8],
    len: usize,
    VlanTag(tag): VlanTag,
    meta: &mut TxMeta,
) -> Result<usize, Rejected> {
    let at = HEADER_LEN + VLAN_AT;
    let end = HEADER_LEN.wrapping_add(len).wrapping_add(VLAN_LEN);
    let room = slot.get_mut(at..end).filter(|_| len >= VLAN_AT).ok_or(Rejected::Invalid)?;
    let moved = room.len().checked_sub(VLAN_LEN).ok_or(Rejected::Invalid)?;
    // SAFETY: the source is the room without its last bytes, the destination the room without its first ones.
    unsafe { room.as_ptr().copy_to(room.as_mut_ptr().add(VLAN_LEN), moved) };
    if let Some((to, _)) = room.split_first_chunk_mut::<VLAN_LEN>() {
        let ([a, b], [c, d]) = (VLAN_TYPE, tag.to_be_bytes());
        *to = [a, b, c, d];
    }
    if let Some(checksum) = &mut meta.checksum {
        checksum.start = checksum.start.saturating_add(VLAN_LEN as u16);
    }
    if let Some(segmentation) = &mut meta.segmentation {
        segmentation.headers = segmentation.headers.saturating_add(VLAN_LEN as u16);
    }
    Ok(len.wrapping_add(VLAN_LEN))
}

/// A transmit queue of a device that has not been started yet.
#[allow(clippy::large_enum_variant, reason = "there are few, and none is kept")]
pub(super) enum TxBuilder<P: Platform, B: DmaBuffer> {
    Frames(QueueBuilder<P, FrameQueue<P, B>>),
    General(QueueBuilder<P, TxRing<P, B>>),
}

impl<P: Platform, B: DmaBuffer> TxBuilder<P, B> {
    /// Allocates queue `index`, for frames of `max_frame` bytes and buffers of up to `segments` segments.
    pub fn new(
        device: &PageArc<P, VirtioDevice<P>>,
        index: u16,
        size: u16,
        segments: u16,
        max_frame: usize,
    ) -> Result<Self, OpenError> {
        let params = QueueParams::new(index, size);
        let bytes = slot_bytes(max_frame);
        if let Some(builder) = QueueBuilder::with_frames(device, &params, segments, bytes, MAX_FRAME_BYTES)? {
            return Ok(Self::Frames(builder));
        }
        let params = QueueParams { indirect: segments.saturating_add(1), area: 64, ..params };
        QueueBuilder::new(device, &params).map(Self::General)
    }

    /// Returns the maximum number of frames of one segment in flight.
    pub fn depth(&self) -> u16 {
        match self {
            Self::Frames(builder) => builder.size(),
            Self::General(builder) => builder.depth(1),
        }
    }

    /// Builds the queue in its place.
    pub fn build_in(
        self,
        slot: &mut Option<VirtioTx<P, B>>,
        max_frame: usize,
        offloads: Offloads,
    ) -> Result<(), OpenError> {
        let depth = self.depth();
        match self {
            Self::Frames(builder) => builder.build_in(slot, |queue| {
                Ok(VirtioTx(Kind::Frames(FrameTx::new(queue, max_frame, offloads)?)))
            }),
            Self::General(builder) => builder.build_in(slot, |queue| {
                Ok(VirtioTx(Kind::General(GeneralTx::new(queue, depth, max_frame, offloads)?)))
            }),
        }
    }
}

/// The transmit side of a queue pair.
pub struct VirtioTx<P: Platform, B: DmaBuffer>(Kind<P, B>);

#[allow(clippy::large_enum_variant, reason = "one queue is one value; it is not moved on the data path")]
enum Kind<P: Platform, B: DmaBuffer> {
    Frames(FrameTx<P, B>),
    General(GeneralTx<P, B>),
}

macro_rules! each {
    ($self:expr, $tx:ident => $call:expr) => {
        match $self {
            Kind::Frames($tx) => $call,
            Kind::General($tx) => $call,
        }
    };
}

impl<P: Platform, B: DmaBuffer> VirtioTx<P, B> {
    /// Reclaims the frames that the device has sent.
    #[inline]
    pub(super) fn poll(&mut self) -> Result<(), Fault> {
        each!(&mut self.0, tx => tx.poll())
    }

    pub(super) fn arm(&mut self) -> Arm {
        each!(&mut self.0, tx => tx.arm())
    }

    pub(super) fn disarm(&mut self) {
        each!(&mut self.0, tx => tx.queue_mut().disarm());
    }

    pub(super) fn register(&mut self, waker: &Waker) {
        each!(&mut self.0, tx => tx.queue_mut().register(waker));
    }

    fn watch(&mut self) -> (&mut Watchdog, bool) {
        each!(&mut self.0, tx => {
            let is_in_flight = tx.queue_mut().in_flight() > 0;
            (&mut tx.watchdog, is_in_flight)
        })
    }

    /// Starts the watchdog if a frame is in flight. Reads the clock only then.
    pub(super) fn arm_watchdog(&mut self) {
        let now = each!(&mut self.0, tx => {
            let queue = tx.queue_mut();
            if queue.in_flight() > 0 { queue.device().platform().now() } else { Instant::ZERO }
        });
        let (watchdog, is_in_flight) = self.watch();
        watchdog.arm(is_in_flight, now);
    }

    /// Returns when the watchdog expires.
    pub(super) fn deadline(&self) -> Instant {
        each!(&self.0, tx => tx.watchdog.deadline())
    }

    /// Returns whether the device has completed no frame for too long.
    pub(super) fn is_stalled(&mut self, now: Instant) -> bool {
        let (watchdog, is_in_flight) = self.watch();
        watchdog.has_expired(is_in_flight, now)
    }

    pub(super) fn reset_alone(&mut self) -> Result<(), Fault> {
        each!(&mut self.0, tx => tx.queue_mut().reset_alone())
    }
}

impl<P: Platform, B: DmaBuffer> NetTx for VirtioTx<P, B> {
    type Buffer = B;

    #[inline]
    fn is_ready(&self, len: usize) -> bool {
        each!(&self.0, tx => tx.is_ready(len))
    }

    #[inline]
    fn reserve(&mut self, len: usize) -> bool {
        each!(&mut self.0, tx => tx.reserve(len))
    }

    #[inline]
    fn slot(&mut self) -> &mut [u8] {
        each!(&mut self.0, tx => tx.slot())
    }

    #[inline]
    fn commit(&mut self, len: usize, meta: TxMeta) -> Result<(), Rejected> {
        each!(&mut self.0, tx => tx.commit(len, meta))
    }

    fn send(&mut self, tag: u64, frame: B, meta: TxMeta) -> Result<(), SendRefused<B>> {
        each!(&mut self.0, tx => tx.send(tag, frame, meta))
    }

    fn sent(&mut self) -> Option<Sent<B>> {
        each!(&mut self.0, tx => tx.sent())
    }

    #[inline]
    fn kick(&mut self) {
        each!(&mut self.0, tx => tx.kick());
    }
}

impl<P: Platform, B: DmaBuffer> fmt::Debug for VirtioTx<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VirtioTx")
    }
}

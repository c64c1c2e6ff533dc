//! What frames are limited to, and what a queue for them takes.

use super::{LARGE_FRAMES, LARGE_PAGES, RING_SIZE};
use paravirt_device::Offloads;
use paravirt_platform::PAGE_SIZE;

/// What frames are limited to.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct TxLimits {
    pub offloads: Offloads,
    pub max_frame: usize,
    /// Whether a frame may be in several requests.
    pub has_pieces: bool,
}

impl TxLimits {
    pub fn can_segment(&self) -> bool {
        self.offloads.intersects(Offloads::TX_TCP4 | Offloads::TX_TCP6)
    }

    /// Whether frames within `others` are within these.
    pub fn include(&self, others: &Self) -> bool {
        self.offloads.contains(others.offloads)
            && self.max_frame >= others.max_frame
            && self.has_pieces >= others.has_pieces
    }

    pub fn large_frames(&self) -> u16 {
        if self.can_segment() { LARGE_FRAMES } else { 0 }
    }

    /// Bytes of places for `frames` frames, and for those that the backend segments.
    pub fn bytes(&self, frames: u16) -> usize {
        let small = usize::from(frames).saturating_mul(self.frame_len()).next_multiple_of(PAGE_SIZE);
        let pages = self.large_frames().saturating_mul(LARGE_PAGES);
        small.saturating_add(usize::from(pages).saturating_mul(PAGE_SIZE))
    }

    /// How many grants a pair of queues takes, with `frames` frames in flight: rings, a grant for each of their requests, and places.
    pub fn grants_of_a_pair(&self, frames: u16) -> u32 {
        let rings = u32::from(RING_SIZE).saturating_mul(2).saturating_add(2);
        let pages = self.bytes(frames.clamp(1, RING_SIZE)).div_ceil(PAGE_SIZE);
        rings.saturating_add(pages as u32)
    }

    /// Bytes of a place for a frame: half a page, or whole pages.
    pub fn frame_len(&self) -> usize {
        if self.max_frame <= PAGE_SIZE / 2 {
            PAGE_SIZE / 2
        } else {
            self.max_frame.next_multiple_of(PAGE_SIZE)
        }
    }
}

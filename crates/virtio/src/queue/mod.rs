//! Virtqueues, split and packed, with the requests in flight on them. VIRTIO 1.3 §2.6 to §2.8
//!
//! Submitting a request moves its buffer into the queue, and its completion returns the buffer; in between, the buffer is in
//! flight. The memory that the device can write (the rings, and a small area for each slot) is accessed only as atomics. A value
//! that the device writes (an id, a length, an index) is read once, checked against private state, and accepted once.
//!
//! ```text
//! submit ─► [head | data | tail] ─► ring ─► publish ─► (kick)
//!    pop ◄── slot table ◄── id, length ◄── ring
//! ```
//!
//! | type | requests | ring |
//! |---|---|---|
//! | [`VirtQueue`] | of any shape | split or packed, direct or indirect, in order or not |
//! | [`RecordQueue`] | a header of 16 bytes, data, a status byte, as block devices have | split, indirect |
//! | [`FrameQueue`] | frames that the driver writes to frame buffers of the queue | split, indirect |
//!
//! All implement [`Ring`], the interface for enabling, resetting and polling a queue.

pub mod decide;
mod frame;
mod in_order;
pub(crate) mod memory;
mod packed;
mod record;
mod slots;
mod split;
mod types;
mod virtqueue;

pub use frame::{FrameQueue, FrameUsed};
pub use record::{Body, RecordQueue, TransferCheck};
pub(crate) use split::USED_ALIGN;
pub use types::{
    AreaRange, DataPlace, Parts, QueueAddresses, QueueConfig, Quiesced, Ring, RingFormat, Unsubmitted, Used,
};
pub use virtqueue::VirtQueue;

use core::sync::atomic::{AtomicU64, Ordering};
use paravirt_platform::Segment;

/// Descriptor flags. VIRTIO 1.3 §2.7.5, §2.8.1
const DESC_F_NEXT: u16 = 1;
const DESC_F_WRITE: u16 = 2;
const DESC_F_INDIRECT: u16 = 4;

/// The maximum number of entries of a queue. VIRTIO 1.3 §2.7
pub const MAX_QUEUE_SIZE: u16 = 1 << 15;

/// A descriptor of a split ring, a packed ring or an indirect table, as two words.
type DescWords = [AtomicU64; 2];

#[inline(always)]
const fn desc_word(len: u32, low: u16, high: u16) -> u64 {
    len as u64 | ((low as u64) << 32) | ((high as u64) << 48)
}

#[inline(always)]
fn write_desc(desc: &DescWords, segment: Segment, low: u16, high: u16) {
    desc[0].store(segment.addr.0, Ordering::Relaxed);
    desc[1].store(desc_word(segment.len, low, high), Ordering::Relaxed);
}

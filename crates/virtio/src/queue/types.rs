//! What goes into a queue and what comes out.

use core::sync::atomic::AtomicU64;
use paravirt_device::Rejected;
use paravirt_platform::BusAddr;

/// What a queue is made of; the same after each reset of the device.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct QueueConfig {
    /// Ring entries: a power of two, at most [`MAX_QUEUE_SIZE`](super::MAX_QUEUE_SIZE).
    pub size: u16,
    /// The packed format (VIRTIO_F_RING_PACKED).
    pub packed: bool,
    /// VIRTIO_F_EVENT_IDX.
    pub event_idx: bool,
    /// VIRTIO_F_IN_ORDER.
    pub in_order: bool,
    /// Descriptors in the indirect table of each slot (VIRTIO_F_INDIRECT_DESC); 0 for direct chains only. Rounded up
    /// to a power of two.
    pub indirect: u16,
    /// Whether each slot has device-visible memory for headers and the like: see [`SlotArea`].
    pub slot_areas: bool,
}

/// The device-visible memory of a slot: 64 bytes, a cache line.
pub type SlotArea = [AtomicU64; 8];

/// Where the three parts of a queue are, as the transport wants to know it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct QueueAddresses {
    /// Ring entries.
    pub size: u16,
    /// The descriptor table, or the packed ring.
    pub desc: BusAddr,
    /// The available ring, or the driver's event suppression.
    pub driver: BusAddr,
    /// The used ring, or the device's event suppression.
    pub device: BusAddr,
}

/// A request that was not taken, handed back.
#[derive(Debug)]
pub struct Unsubmitted<B, X> {
    /// Why.
    pub reason: Rejected,
    /// Its buffer, not lent.
    pub buffer: Option<B>,
    /// What came with it.
    pub extra: X,
}

/// A request that the device has used.
#[derive(Debug)]
pub struct Used<B, X> {
    /// The slot that it had, which is free now.
    pub slot: u16,
    /// Bytes that the device says it wrote; never more than it was given.
    pub len: u32,
    /// Its buffer, no longer lent; `None` if it had none or it had to be leaked.
    pub buffer: Option<B>,
    /// What came with it.
    pub extra: X,
}

/// Proof that a device does not access the memory of its queues any more: it was reset, and the reset was read back.
#[derive(Debug)]
pub struct Quiesced(());

impl Quiesced {
    /// # Safety
    ///
    /// The device has stopped accessing memory of the queues to which this is applied.
    pub(crate) const unsafe fn new() -> Self {
        Self(())
    }

    /// For tests that play the device themselves, on a queue that no device was ever told of.
    ///
    /// # Safety
    ///
    /// Nobody accesses the memory of the queues to which this is applied but through them.
    pub const unsafe fn assume() -> Self {
        Self(())
    }
}

impl QueueAddresses {
    /// As the `virtio-drivers` crate passes them.
    pub(crate) fn from_raw(size: u32, desc: u64, driver: u64, device: u64) -> Self {
        let size = u16::try_from(size).unwrap_or(0);
        Self { size, desc: BusAddr(desc), driver: BusAddr(driver), device: BusAddr(device) }
    }
}

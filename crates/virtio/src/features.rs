//! The feature bits that concern every device. VIRTIO 1.3 §6

use bitflags::bitflags;

bitflags! {
    /// Feature bits of the transport and the queues.
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
    pub struct Features: u64 {
        /// Descriptors may name a table of descriptors.
        const INDIRECT_DESC = 1 << 28;
        /// Each side says at which entry it wants to be notified.
        const EVENT_IDX = 1 << 29;
        /// The device is not a legacy device.
        const VERSION_1 = 1 << 32;
        /// The device reaches memory as the platform says: through an IOMMU, or only what is shared with it.
        const ACCESS_PLATFORM = 1 << 33;
        /// Packed queues.
        const RING_PACKED = 1 << 34;
        /// The device uses requests in the order in which they were made available.
        const IN_ORDER = 1 << 35;
        /// The device orders memory accesses as the platform does for devices.
        const ORDER_PLATFORM = 1 << 36;
        /// A single queue can be reset.
        const RING_RESET = 1 << 40;
    }
}

impl Features {
    /// What the queues of this crate can do.
    pub const SUPPORTED: Self = Self::all();
}

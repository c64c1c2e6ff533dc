//! Feature bits that are reserved for the transport and the queues of every device. VIRTIO 1.3 §6

use bitflags::bitflags;

bitflags! {
    /// Reserved feature bits.
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
    pub struct Features: u64 {
        /// A legacy device takes a request in any number of descriptors, whatever they contain. VIRTIO 1.3 §6.3
        const ANY_LAYOUT = 1 << 27;
        /// A descriptor may refer to an indirect table of descriptors. VIRTIO 1.3 §2.7.5.3
        const INDIRECT_DESC = 1 << 28;
        /// Each side publishes the ring index at which it wants a notification. VIRTIO 1.3 §2.7.7, §2.7.10
        const EVENT_IDX = 1 << 29;
        /// The device complies with VIRTIO 1.0 or later.
        const VERSION_1 = 1 << 32;
        /// The device accesses memory through the platform's IOMMU, or accesses only memory that is shared with it.
        const ACCESS_PLATFORM = 1 << 33;
        /// The packed ring format. VIRTIO 1.3 §2.8
        const RING_PACKED = 1 << 34;
        /// The device uses buffers in the order in which they were made available. VIRTIO 1.3 §2.7.9
        const IN_ORDER = 1 << 35;
        /// Memory accesses need the barriers that the platform requires for hardware devices.
        const ORDER_PLATFORM = 1 << 36;
        /// A single queue can be reset. VIRTIO 1.3 §2.6.1
        const RING_RESET = 1 << 40;
    }
}

impl Features {
    /// The features that the queues of this crate implement.
    pub const SUPPORTED: Self = Self::all();
}

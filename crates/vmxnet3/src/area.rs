//! The memory by which the card is set up: the shared area, the descriptors of its queues, its filters and its table of receive queues.

use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};
use paravirt_platform::{AllocError, DmaRegion, PAGE_SIZE, Platform, SharedMemory};

const MAGIC: u32 = 0xbabe_fee1;
const AREA_LEN: u32 = 720;
/// The version of this driver, which the host may log.
const DRIVER_VERSION: u32 = 0x0001_0000;
/// A guest of 64 bits, of the kind whose behaviour the card is made for.
const GUEST_INFO: u32 = 2 | 1 << 2;
/// An address that stands for none.
const NO_ADDRESS: u64 = u64::MAX;
/// Segments of a received frame, at most.
const MAX_RX_SEGMENTS: u16 = 64;

/// Offsets of the shared area.
mod at {
    pub const SIZE: usize = 4;
    pub const DRIVER_VERSION: usize = 8;
    pub const GUEST_INFO: usize = 12;
    pub const REVISION: usize = 16;
    pub const UPT_VERSION: usize = 20;
    pub const FEATURES: usize = 24;
    pub const DRIVER_DATA: usize = 32;
    pub const QUEUES: usize = 40;
    pub const DRIVER_DATA_LEN: usize = 48;
    pub const QUEUES_LEN: usize = 52;
    pub const MTU: usize = 56;
    pub const RX_SEGMENTS: usize = 60;
    pub const TX_QUEUES: usize = 62;
    pub const RX_QUEUES: usize = 63;
    pub const AUTO_MASK: usize = 80;
    pub const INTERRUPTS: usize = 81;
    pub const EVENT_INTERRUPT: usize = 82;
    pub const MODERATION: usize = 83;
    pub const MODERATIONS: usize = 25;
    pub const INTERRUPT_CONTROL: usize = 108;
    pub const RX_MODE: usize = 120;
    pub const FILTERS_LEN: usize = 124;
    pub const FILTERS: usize = 128;
    pub const VLANS: usize = 136;
    pub const VLAN_WORDS: usize = 128;
    pub const RSS: usize = 648;
    pub const EVENTS: usize = 696;
}

/// Adaptive moderation of interrupts.
const ADAPTIVE: u8 = 8;

/// Bytes of the descriptor of a queue, and its fields.
const QUEUE_LEN: usize = 256;
mod queue {
    /// Of a transmit queue: packets that the doorbell has not announced, and how many the card lets wait.
    pub const DEFERRED: usize = 0;
    pub const THRESHOLD: usize = 4;
    /// Of a receive queue: the card wants to hear of new descriptors.
    pub const UPDATE_PRODUCER: usize = 0;
    pub const RINGS: usize = 16;
    pub const SIZES: usize = 56;
    pub const INTERRUPT: usize = 72;
    pub const TX_DATA_LEN: usize = 74;
    pub const STOPPED: usize = 80;
    pub const ERROR: usize = 84;
}

/// Bytes of an entry of the transmit data ring, which the driver does not use.
const TX_DATA_LEN: u16 = 128;

/// Frames that the card delivers.
pub(crate) mod mode {
    pub const UNICAST: u32 = 1;
    pub const MULTICAST: u32 = 2;
    pub const BROADCAST: u32 = 4;
    pub const ALL_MULTICAST: u32 = 8;
    pub const PROMISCUOUS: u32 = 16;
}

/// What the card does for the guest.
pub(crate) mod feature {
    pub const RX_CHECKSUM: u64 = 1;
    pub const RSS: u64 = 2;
    pub const RX_VLAN: u64 = 4;
    pub const LRO: u64 = 8;
}

/// Events.
pub(crate) mod event {
    pub const RX_QUEUE_ERROR: u32 = 1;
    pub const TX_QUEUE_ERROR: u32 = 2;
    pub const LINK: u32 = 4;
}

/// Receive-side scaling: TCP and IP of both versions, by the function of Toeplitz.
const RSS_TYPES: u16 = 0xf;
const RSS_FUNCTION: u16 = 1;
const RSS_KEY_LEN: usize = 40;
const RSS_TABLE_LEN: usize = 128;
const RSS_LEN: usize = 8 + RSS_KEY_LEN + RSS_TABLE_LEN;
/// The key that Microsoft's documentation of the function uses.
const RSS_KEY: [u8; RSS_KEY_LEN] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
    0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
    0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// The maximum number of multicast addresses.
pub(crate) const MAX_MULTICAST: usize = 64;

/// Offsets of the parts of the memory.
const QUEUES_AT: usize = PAGE_SIZE;
const FILTERS_AT: usize = 2 * PAGE_SIZE;
const RSS_AT: usize = FILTERS_AT + 1024;

/// The rings of a transmit queue.
#[derive(Copy, Clone, Debug)]
pub(crate) struct TxSetup {
    pub ring: u64,
    pub completions: u64,
    pub size: u32,
    pub vector: u16,
}

/// The rings of a receive queue. Both rings have the same size.
#[derive(Copy, Clone, Debug)]
pub(crate) struct RxSetup {
    pub rings: [u64; 2],
    pub completions: u64,
    pub size: u32,
    pub vector: u16,
}

/// What the card is told in the shared area.
#[derive(Copy, Clone, Debug)]
pub(crate) struct CardSetup {
    pub features: u64,
    pub mtu: u16,
    pub pairs: u16,
    pub vectors: u16,
    pub event_vector: u16,
    pub rx_mode: u32,
    pub filters: u16,
}

/// The memory by which the card is set up.
pub(crate) struct Area<P: Platform>(DmaRegion<P>);

impl<P: Platform> Area<P> {
    pub fn new(platform: &P) -> Result<Self, AllocError> {
        DmaRegion::alloc(platform, 3 * PAGE_SIZE).map(Self)
    }

    /// The address of the shared area.
    pub fn address(&self) -> u64 {
        self.0.bus().0
    }

    pub fn leak(self) {
        self.0.leak();
    }

    fn memory(&self) -> &SharedMemory {
        self.0.shared()
    }

    fn put8(&self, at: usize, value: u8) {
        self.memory().at::<AtomicU8>(at).iter().for_each(|to| to.store(value, Ordering::Relaxed));
    }

    fn put16(&self, at: usize, value: u16) {
        self.memory().at::<AtomicU16>(at).iter().for_each(|to| to.store(value, Ordering::Relaxed));
    }

    fn put32(&self, at: usize, value: u32) {
        self.memory().at::<AtomicU32>(at).iter().for_each(|to| to.store(value, Ordering::Relaxed));
    }

    fn put64(&self, at: usize, value: u64) {
        self.memory().at::<AtomicU64>(at).iter().for_each(|to| to.store(value, Ordering::Relaxed));
    }

    fn get32(&self, at: usize) -> u32 {
        self.memory().at::<AtomicU32>(at).map_or(0, |from| from.load(Ordering::Acquire))
    }

    fn get8(&self, at: usize) -> u8 {
        self.memory().at::<AtomicU8>(at).map_or(0, |from| from.load(Ordering::Acquire))
    }

    /// Writes everything but the queues.
    pub fn write(&self, setup: &CardSetup) {
        let base = self.address();
        let queues_len = u32::from(setup.pairs).wrapping_mul(2).wrapping_mul(QUEUE_LEN as u32);
        self.put32(0, MAGIC);
        for (at, value) in [
            (at::SIZE, AREA_LEN),
            (at::DRIVER_VERSION, DRIVER_VERSION),
            (at::GUEST_INFO, GUEST_INFO),
            (at::REVISION, 1),
            (at::UPT_VERSION, 1),
            (at::DRIVER_DATA_LEN, 0),
            (at::QUEUES_LEN, queues_len),
            (at::MTU, setup.mtu.into()),
            (at::INTERRUPT_CONTROL, 0),
            (at::EVENTS, 0),
        ] {
            self.put32(at, value);
        }
        self.put64(at::DRIVER_DATA, NO_ADDRESS);
        self.put64(at::QUEUES, base.wrapping_add(QUEUES_AT as u64));
        self.put16(at::RX_SEGMENTS, MAX_RX_SEGMENTS);
        self.put8(at::TX_QUEUES, setup.pairs as u8);
        self.put8(at::RX_QUEUES, setup.pairs as u8);
        self.put8(at::AUTO_MASK, 1);
        self.put8(at::INTERRUPTS, setup.vectors as u8);
        self.put8(at::EVENT_INTERRUPT, setup.event_vector as u8);
        (0..at::MODERATIONS).for_each(|index| self.put8(at::MODERATION.wrapping_add(index), ADAPTIVE));
        // Frames with any tag are delivered.
        (0..at::VLAN_WORDS)
            .for_each(|index| self.put32(index.wrapping_mul(4).wrapping_add(at::VLANS), u32::MAX));
        self.put32(at::RSS, 1);
        self.put32(at::RSS.wrapping_add(4), RSS_LEN as u32);
        self.put64(at::RSS.wrapping_add(8), base.wrapping_add(RSS_AT as u64));
        self.put64(at::FILTERS, base.wrapping_add(FILTERS_AT as u64));
        self.set_features(setup.features);
        self.set_rx_mode(setup.rx_mode);
        self.put16(at::FILTERS_LEN, setup.filters.wrapping_mul(6));
    }

    pub fn set_features(&self, features: u64) {
        self.put64(at::FEATURES, features);
    }

    pub fn set_rx_mode(&self, mode: u32) {
        self.put32(at::RX_MODE, mode);
    }

    /// Writes the multicast addresses, at most [`MAX_MULTICAST`].
    pub fn set_filters<'a>(&self, addresses: impl Iterator<Item = &'a [u8; 6]>) {
        let mut count = 0u16;
        for (index, address) in addresses.take(MAX_MULTICAST).enumerate() {
            self.memory().copy_in(index.wrapping_mul(6).wrapping_add(FILTERS_AT), address);
            count = count.wrapping_add(1);
        }
        self.put16(at::FILTERS_LEN, count.wrapping_mul(6));
    }

    /// Spreads received frames over the first `queues` queues.
    pub fn set_rss(&self, queues: u16) {
        for (index, value) in
            [RSS_TYPES, RSS_FUNCTION, RSS_KEY_LEN as u16, RSS_TABLE_LEN as u16].iter().enumerate()
        {
            self.put16(index.wrapping_mul(2).wrapping_add(RSS_AT), *value);
        }
        self.memory().copy_in(RSS_AT + 8, &RSS_KEY);
        for index in 0..RSS_TABLE_LEN {
            let queue = (index as u16).checked_rem(queues).unwrap_or(0);
            self.put8(index.wrapping_add(RSS_AT + 8 + RSS_KEY_LEN), queue as u8);
        }
    }

    /// The offset of the descriptor of a queue: transmit queues come first.
    fn queue_at(index: u16) -> usize {
        usize::from(index).wrapping_mul(QUEUE_LEN).wrapping_add(QUEUES_AT)
    }

    pub fn write_tx(&self, index: u16, setup: &TxSetup) {
        let base = Self::queue_at(index);
        let TxSetup { ring, completions, size, vector } = *setup;
        let field = |offset: usize| base.wrapping_add(offset);
        self.put32(field(queue::DEFERRED), 0);
        self.put32(field(queue::THRESHOLD), 0);
        self.put_fields(base, [ring, 0, completions, NO_ADDRESS], [size, 0, size, 0], vector);
        self.put16(field(queue::TX_DATA_LEN), TX_DATA_LEN);
    }

    /// `pairs` is the number of transmit queues.
    pub fn write_rx(&self, pairs: u16, index: u16, setup: &RxSetup) {
        let base = Self::queue_at(pairs.wrapping_add(index));
        let RxSetup { rings: [first, second], completions, size, vector } = *setup;
        self.put8(base.wrapping_add(queue::UPDATE_PRODUCER), 0);
        let sizes = [size, size, size.wrapping_mul(2), 0];
        self.put_fields(base, [first, second, completions, NO_ADDRESS], sizes, vector);
        self.put64(base.wrapping_add(48), 0);
        self.put16(base.wrapping_add(queue::TX_DATA_LEN), 0);
    }

    fn put_fields(&self, base: usize, addresses: [u64; 4], sizes: [u32; 4], vector: u16) {
        for (index, address) in addresses.into_iter().enumerate() {
            self.put64(index.wrapping_mul(8).wrapping_add(base).wrapping_add(queue::RINGS), address);
        }
        for (index, size) in sizes.into_iter().enumerate() {
            self.put32(index.wrapping_mul(4).wrapping_add(base).wrapping_add(queue::SIZES), size);
        }
        self.put8(base.wrapping_add(queue::INTERRUPT), vector as u8);
        self.put8(base.wrapping_add(queue::STOPPED), 0);
        self.put32(base.wrapping_add(queue::ERROR), 0);
    }

    /// Records how many packets of transmit queue `index` wait for the doorbell, and returns whether the card wants to hear of them now.
    pub fn defer(&self, index: u16, deferred: u32) -> bool {
        let base = Self::queue_at(index);
        self.put32(base.wrapping_add(queue::DEFERRED), deferred);
        // The card sees the descriptors and the number before it is looked at how many it lets wait.
        fence(Ordering::SeqCst);
        let is_due = deferred >= self.get32(base.wrapping_add(queue::THRESHOLD));
        if is_due {
            self.put32(base.wrapping_add(queue::DEFERRED), 0);
        }
        is_due
    }

    /// Whether the card wants to hear of new descriptors of receive queue `index`, which were written before.
    pub fn wants_rx_producer(&self, pairs: u16, index: u16) -> bool {
        fence(Ordering::SeqCst);
        self.get8(Self::queue_at(pairs.wrapping_add(index)).wrapping_add(queue::UPDATE_PRODUCER)) != 0
    }

    /// Whether the card has stopped one of the first `queues` queues, transmit and receive queues together.
    pub fn has_stopped(&self, queues: u16) -> Option<u32> {
        let mut bases = (0..queues).map(Self::queue_at);
        let stopped = bases.find(|base| self.get8(base.wrapping_add(queue::STOPPED)) != 0)?;
        Some(self.get32(stopped.wrapping_add(queue::ERROR)))
    }

    /// The events that the card reports.
    pub fn events(&self) -> u32 {
        self.get32(at::EVENTS)
    }
}

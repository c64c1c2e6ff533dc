//! The disk.

use crate::class::{BlockClass, Limits};
use crate::queue::BlkFrontQueue;
use crate::ring::Ring;
use core::fmt;
use core::task::Waker;
use paravirt_device::{BlockDevice, BlockEvent, BlockInfo, Connection, Fault, RingKind, Signalling};
use paravirt_platform::{DmaBuffer, PageArc, Platform};
use paravirt_xen::{Device, DeviceError, OwnedQueue, Store, bus};

/// Options with which a disk is opened.
#[derive(Copy, Clone, Debug)]
#[non_exhaustive]
pub struct BlkFrontOptions {
    /// The maximum number of queues.
    pub queues: u16,
    /// The maximum number of requests in flight on a queue, at most 64.
    pub requests: u16,
    /// Whether every buffer is copied by way of pages that are granted once, for the life of the queue: see
    /// [`with_persistent_grants`](Self::with_persistent_grants).
    pub has_persistent_grants: bool,
}

impl BlkFrontOptions {
    /// One queue of 32 requests, as many as a ring of one page has.
    pub const fn new() -> Self {
        Self { queues: 1, requests: 32, has_persistent_grants: false }
    }

    /// Sets [`queues`](Self::queues).
    #[must_use]
    pub const fn with_queues(self, queues: u16) -> Self {
        Self { queues, ..self }
    }

    /// Sets [`requests`](Self::requests).
    #[must_use]
    pub const fn with_requests(self, requests: u16) -> Self {
        Self { requests, ..self }
    }

    /// Lets every buffer be copied by way of pages of the queue, eight for each request, that are granted once. A backend with persistent
    /// grants keeps them mapped: it saves two hypercalls a request, which on some hosts cost more than the copy.
    ///
    /// A buffer's own pages cannot be granted for longer than its request, since a host could change bytes that the kernel reads as its own.
    /// One that cannot be copied ([`DmaBuffer::bytes_to_copy`]) is refused, and requests are refused as `Full` while the pages are in use,
    /// which long ones are before there are as many as the depth.
    #[must_use]
    pub const fn with_persistent_grants(self, has_persistent_grants: bool) -> Self {
        Self { has_persistent_grants, ..self }
    }
}

impl Default for BlkFrontOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// A disk whose requests have buffers `B`.
pub struct BlkFront<P: Platform, B: DmaBuffer> {
    device: PageArc<P, Device<P, BlockClass<P, B>>>,
    limits: PageArc<P, Limits>,
    info: BlockInfo,
    /// The gate of the device at which the size was read.
    gate: u32,
    reported: Option<Fault>,
}

impl<P: Platform, B: DmaBuffer> BlkFront<P, B> {
    /// Opens the disk at `address`. Allocates; blocks for the backend, at most 3 minutes for each step. Not for interrupt context.
    ///
    /// # Errors
    ///
    /// [`DeviceError`]; the disk is closed then.
    #[inline(never)]
    pub fn open(
        store: &PageArc<P, Store<P>>,
        address: bus::Address,
        options: &BlkFrontOptions,
    ) -> Result<Self, DeviceError> {
        let platform = store.hypervisor().platform();
        let limits = PageArc::new(platform, Limits::default())?;
        let class = BlockClass::new(*options, address.id as u16, &limits);
        let mut depth = u16::MAX;
        let device = Device::open(
            store,
            address,
            class,
            |class| class.queue_count,
            |class, frontend, _, _| {
                let ring = Ring::new(frontend.hypervisor(), frontend.domain(), &class.shape, &limits)?;
                depth = depth.min(ring.depth());
                Ok(ring)
            },
        )?;
        let mut info = device.with(|_, class| class.info);
        info.queues = device.queues();
        info.depth = depth;
        let is_signalled = store.hypervisor().has_interrupts();
        let signalling = if is_signalled { Signalling::Bus } else { Signalling::Polled };
        info.connection = Connection::new(signalling, RingKind::Blkif);
        let gate = device.gate();
        Ok(Self { device, limits, info, gate, reported: None })
    }

    /// Reads the size again after something of the backend has changed, or the disk was connected anew.
    fn read_size(&mut self) {
        let read = self.device.try_with(|frontend, class| class.read_size(frontend).map(|()| class.info));
        if let Some(Ok(now)) = read {
            (self.info.blocks, self.info.access) = (now.blocks, now.access);
            (self.info.cache, self.info.discard) = (now.cache, now.discard);
            self.limits.set(&self.info);
        }
    }
}

impl<P: Platform, B: DmaBuffer> BlockDevice for BlkFront<P, B> {
    type Queue = BlkFrontQueue<P, B>;

    fn info(&self) -> BlockInfo {
        self.info
    }

    fn take_queue(&mut self, index: u16) -> Option<BlkFrontQueue<P, B>> {
        OwnedQueue::take(&self.device, index).map(BlkFrontQueue::new)
    }

    fn poll_event(&mut self) -> Option<BlockEvent> {
        let (before, gate) = (self.info, self.device.gate());
        if self.device.poll() || self.gate != gate {
            self.gate = gate;
            if self.device.fault().is_none() {
                self.read_size();
            }
        }
        if self.info.blocks != before.blocks {
            return Some(BlockEvent::Capacity(self.info.blocks));
        }
        if self.info.access != before.access {
            return Some(BlockEvent::Access(self.info.access));
        }
        self.device.new_fault(&mut self.reported).map(BlockEvent::Faulted)
    }

    fn register(&mut self, waker: &Waker) {
        self.device.register(self.device.queues(), waker);
    }
}

impl<P: Platform, B: DmaBuffer> fmt::Debug for BlkFront<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlkFront").field("info", &self.info).finish_non_exhaustive()
    }
}

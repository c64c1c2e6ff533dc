//! Hosts to test the drivers against, in process.
//!
//! * [`Guest`] is a platform whose DMA memory is rust-vmm's guest memory, with a clock that tests can turn on.
//! * [`FakeDevice`] is the register side of a virtio device: a transport for the driver, and for the test the knobs of a
//!   host that misbehaves.
//! * [`SplitDevice`] serves a split queue with rust-vmm's `virtio-queue`, which is not ours; [`PackedDevice`] is our own
//!   model of a packed one, since rust-vmm has none.
//! * [`BlkHost`] and [`NetHost`] are devices on top of either.
//! * [`HvHost`] is a Hyper-V host: hypervisor, SynIC and VMBus, with [`Echo`], [`BalloonHost`],
//!   [`StorHost`], [`NetVspHost`], [`IcHost`] and [`InputHost`] to put on it.
//!
//! ```
//! use paravirt_device::{BlockDevice, BlockQueue};
//! use paravirt_platform::DmaSlice;
//! use paravirt_testhost::{BlkHost, Guest, Ring};
//! use paravirt_virtio::{OpenOptions, blk::VirtioBlk};
//!
//! let guest = Guest::new();
//! let host = BlkHost::new(&guest, Ring::Split, 64);
//! let mut disk = VirtioBlk::<_, _, DmaSlice<Guest>>::open(&guest, host.transport(), &OpenOptions::default()).unwrap();
//! assert_eq!(disk.info().blocks, 64);
//! assert!(disk.take_queue(0).unwrap().complete().unwrap().is_none());
//! ```

use paravirt_virtio::features::Features;

mod balloon;
mod blk;
pub mod count;
mod device;
mod guest;
mod hyperv;
mod memory;
mod net;
mod packed;
mod pages;
mod split;

pub use balloon::VirtioBalloonHost;
pub use blk::{BlkHost, BlkMood};
pub use device::{FakeBell, FakeDevice, FakeReason, FakeTransport, QueueState};
pub use guest::{Guest, WeakGuest};
pub use hyperv::{
    BalloonHost, Bus, Controller, Crash, Echo, Faults, HvHost, HvOffer, IcAnswer, IcHost, InputHost,
    NetVspFaultConfig, NetVspHost, OfferSettings, Packets, SocketEnd, StorDrive, StorHost, StorMoods,
    VmbusDevice, WireFrame, put_message, set_event,
};
pub use memory::Memory;
pub use net::NetHost;
pub use packed::PackedDevice;
pub use pages::Pages;
pub use split::SplitDevice;

/// The format of a device's queues.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Ring {
    /// Served by rust-vmm.
    Split,
    /// Served by our own model.
    Packed,
}

/// A request as the device sees it: what it reads, and where it writes.
pub struct Chain {
    /// What names it when it is returned.
    pub id: u16,
    /// Ring entries that it takes.
    pub entries: u16,
    /// Bytes that the driver gave.
    pub readable: Vec<u8>,
    /// Where the device may write: address and length.
    pub writable: Vec<(u64, u32)>,
}

impl Chain {
    /// Writes `bytes` in the writable part; how many there was room for.
    pub fn write(&self, guest: &Guest, bytes: &[u8]) -> u32 {
        let mut rest = bytes;
        for (address, len) in &self.writable {
            let (now, later) = rest.split_at(rest.len().min(*len as usize));
            guest.write(*address, now);
            rest = later;
        }
        (bytes.len() - rest.len()) as u32
    }

    /// Bytes that the device may write.
    pub fn room(&self) -> usize {
        self.writable.iter().map(|(_, len)| *len as usize).sum()
    }
}

/// A queue of either format, from the device's side.
pub enum AnyDevice {
    /// Split.
    Split(SplitDevice),
    /// Packed.
    Packed(PackedDevice),
}

/// The device sides of a device's queues, each with the set-up that it belongs to.
pub(crate) type Served = Option<(u32, AnyDevice)>;

/// Brings `queues` up to what the driver has set up: a queue that it set up anew starts anew, one that is not set up goes.
pub(crate) fn follow(guest: &Guest, ring: Ring, device: &FakeDevice, queues: &mut [Served]) {
    let event_idx = device.registers().accepted & Features::EVENT_IDX.bits() != 0;
    for (index, served) in queues.iter_mut().enumerate() {
        match device.queue(index) {
            None => *served = None,
            Some(queue) if served.as_ref().is_some_and(|(generation, _)| *generation == queue.generation) => {
            }
            Some(queue) => *served = Some((queue.generation, AnyDevice::new(guest, ring, &queue, event_idx))),
        }
    }
}

impl AnyDevice {
    /// The queue that the driver set up.
    pub fn new(guest: &Guest, ring: Ring, queue: &QueueState, event_idx: bool) -> Self {
        match ring {
            Ring::Split => Self::Split(SplitDevice::new(guest, queue, event_idx)),
            Ring::Packed => Self::Packed(PackedDevice::new(guest, queue, event_idx)),
        }
    }

    /// The next request.
    pub fn pop(&mut self) -> Option<Chain> {
        match self {
            Self::Split(device) => device.pop(),
            Self::Packed(device) => device.pop(),
        }
    }

    /// Asks for a kick at the next request; whether one came meanwhile. A packed device has asked with each it took.
    pub fn wait(&mut self) -> bool {
        match self {
            Self::Split(device) => device.enable_notification(),
            Self::Packed(_) => false,
        }
    }

    /// Returns a request, saying that `len` bytes were written.
    pub fn push(&mut self, chain: &Chain, len: u32) {
        match self {
            Self::Split(device) => device.push(chain.id, len),
            Self::Packed(device) => device.push(chain.id, chain.entries, len),
        }
    }
}

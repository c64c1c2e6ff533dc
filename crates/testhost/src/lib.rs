//! In-process models of hosts, to test the drivers against.
//!
//! * [`Guest`] is a platform whose DMA memory is rust-vmm's guest memory, with a clock that tests can advance.
//! * [`FakeDevice`] is the register interface of a virtio device: a transport for the driver, and fault injection for the test.
//! * [`SplitDevice`] serves a split queue with rust-vmm's `virtio-queue`, an independent implementation; [`PackedDevice`] is this
//!   crate's model of a packed queue, since rust-vmm has none.
//! * [`BlkHost`], [`NetHost`] and [`VirtioBalloonHost`] are devices that use either queue format.
//! * [`HvHost`] is a Hyper-V host: hypervisor, SynIC and VMBus. [`Echo`], [`BalloonHost`], [`StorHost`], [`NetVspHost`], [`IcHost`]
//!   and [`InputHost`] are devices for its bus.
//! * [`PvscsiHost`] and [`Vmxnet3Host`] are VMware's SCSI adapter and network card, [`VmwareHypervisor`] its hypervisor.
//! * [`KvmHost`] offers KVM's clock, [`PciHost`] has PCI buses behind the configuration ports, and [`AcpiHost`] adds and removes their
//!   devices, and has a power button.
//!
//! ```
//! use paravirt_device::{BlockDevice, BlockQueue};
//! use paravirt_platform::DmaSlice;
//! use paravirt_testhost::{BlkHost, Guest, Ring};
//! use paravirt_virtio::{OpenOptions, blk::VirtioBlk};
//!
//! let guest = Guest::new();
//! let host = BlkHost::new(&guest, Ring::Split, 64);
//! let mut disk = VirtioBlk::<_, DmaSlice<Guest>>::open(&guest, host.transport(), &OpenOptions::default()).unwrap();
//! assert_eq!(disk.info().blocks, 64);
//! assert!(disk.take_queue(0).unwrap().complete().unwrap().is_none());
//! ```

#![allow(missing_debug_implementations, reason = "models for tests, which nobody prints")]
use paravirt_virtio::features::Features;
use paravirt_virtio::queue::RingFormat;

mod acpi;
mod balloon;
pub mod bench;
mod blk;
pub mod count;
mod device;
mod drive;
mod guest;
mod hyperv;
mod kvm;
mod memory;
mod net;
mod packed;
mod pages;
mod pci;
#[cfg(doctest)]
mod soundness;
mod split;
mod vmware;
mod wakes;
mod xen;

pub use acpi::AcpiHost;
pub use balloon::VirtioBalloonHost;
pub use blk::{BlkFaultConfig, BlkHost};
pub use device::{FakeDevice, QueueState};
pub use drive::StorDrive;
pub use guest::{Guest, WeakGuest};
pub use hyperv::{
    BalloonHost, BufferRange, Bus, Controller, Crash, Echo, FailIf, Faults, GuestRange, HostPacket,
    HostReader, HostRingError, HostRingMemory, HostWriter, HvHost, HvOffer, IcAnswer, IcHost, InputHost,
    Judge, NetVspFaultConfig, NetVspHost, OfferSettings, PacketKind, Packets, Said, SocketEnd,
    StorFaultConfig, StorHost, Verdict, VmbusDevice, WireFrame, put_message, set_event,
};
pub use kvm::KvmHost;
pub use memory::Memory;
pub use net::NetHost;
pub use packed::PackedDevice;
pub use pages::Pages;
pub use pci::{PciBar, PciDevice, PciHost};
pub use split::SplitDevice;
pub use vmware::{
    PciFaults, PvscsiFaults, PvscsiHost, ReceivedMeta, SentFrame, VmwareHypervisor, Vmxnet3Faults,
    Vmxnet3Host,
};
pub use wakes::Wakes;
pub use xen::{ChangeAnswer, ChangeMessage, XenDisk, XenFaults, XenFrame, XenHost, XenReceived};

/// The format of a device's queues, and the model that serves them.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Ring {
    /// Split queues, served by rust-vmm's `virtio-queue`.
    Split,
    /// Packed queues, served by [`PackedDevice`].
    Packed,
}

impl Ring {
    /// The format in the terms of the driver's queue configuration.
    pub fn format(self) -> RingFormat {
        match self {
            Self::Split => RingFormat::Split,
            Self::Packed => RingFormat::Packed,
        }
    }
}

/// The bytes that a device reads of a request, at most: as many as guests of the models have memory.
pub(crate) const MAX_READABLE: usize = 64 << 20;

/// A request as the device sees it: the data that it reads and the memory that it may write.
pub struct Chain {
    /// Identifier in the used ring: the head descriptor's index, or the buffer id of a packed queue.
    pub id: u16,
    /// Ring entries that the request occupies.
    pub entries: u16,
    /// Bytes of the device-readable segments.
    pub readable: Vec<u8>,
    /// Device-writable segments: guest address and length in bytes.
    pub writable: Vec<(u64, u32)>,
}

impl Chain {
    /// Writes `bytes` to the device-writable segments in order, and returns how many bytes fitted.
    pub fn write(&self, guest: &Guest, bytes: &[u8]) -> u32 {
        let mut rest = bytes;
        for (address, len) in &self.writable {
            let (now, later) = rest.split_at(rest.len().min(*len as usize));
            guest.write(*address, now);
            rest = later;
        }
        (bytes.len() - rest.len()) as u32
    }

    /// Bytes of the device-writable segments.
    pub fn room(&self) -> usize {
        self.writable.iter().map(|(_, len)| *len as usize).sum()
    }
}

/// The device side of a queue of either format.
pub enum AnyDevice {
    /// A split queue.
    Split(SplitDevice),
    /// A packed queue.
    Packed(PackedDevice),
}

/// The device side of a queue with the generation of its set-up; `None` while the driver has not enabled the queue.
pub(crate) type Served = Option<(u32, AnyDevice)>;

/// Synchronises `queues` with the registers: creates the device side of a queue that was enabled again, and drops that of a queue
/// that is disabled.
pub(crate) fn sync_queues(guest: &Guest, ring: Ring, device: &FakeDevice, queues: &mut [Served]) {
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
    /// The device side of the queue that the driver set up, at its first entry.
    pub fn new(guest: &Guest, ring: Ring, queue: &QueueState, event_idx: bool) -> Self {
        match ring {
            Ring::Split => Self::Split(SplitDevice::new(guest, queue, event_idx)),
            Ring::Packed => Self::Packed(PackedDevice::new(guest, queue, event_idx)),
        }
    }

    /// Takes the next available request.
    pub fn pop(&mut self) -> Option<Chain> {
        match self {
            Self::Split(device) => device.pop(),
            Self::Packed(device) => device.pop(),
        }
    }

    /// Enables kicks and returns whether a request became available meanwhile. A packed device enables kicks in [`pop`](Self::pop).
    pub fn enable_notification(&mut self) -> bool {
        match self {
            Self::Split(device) => device.enable_notification(),
            Self::Packed(_) => false,
        }
    }

    /// Marks a request as used, with `len` as the number of bytes written.
    pub fn push(&mut self, chain: &Chain, len: u32) {
        match self {
            Self::Split(device) => device.push(chain.id, len),
            Self::Packed(device) => device.push(chain.id, chain.entries, len),
        }
    }
}

//! Hyper-V storage: the client of StorVSP, for SCSI controllers, IDE disks and Fibre Channel adapters on VMBus.
//!
//! [`StorTransport`] is the transport of a `paravirt-scsi` controller; [`StorController`], [`StorDisk`] and [`StorQueue`] are the
//! types of the controller, its disks and their queues.
//!
//! # Lifecycle
//!
//! ```text
//!   open ─ BEGIN ─ version 6.2, 6.0, 5.1, 4.2, 2.0 ─ properties ─ END ─ CREATE_SUB_CHANNELS ─► in service
//!     ▲                                                                                          │
//!     └───────── recovery: every channel is closed, and the host confirms each close ◄───────────┘
//! ```
//!
//! Each request is one packet: a range of guest memory, followed by 64 bytes of StorVSP. No data are copied. The segments of a
//! buffer form one range if they meet at page boundaries ([`BlockInfo::segment_boundary`](paravirt_device::BlockInfo)).
//!
//! # Trust
//!
//! Packets from the host are copied out of the ring once and parsed by total functions ([`HostPacket`], [`Executed`]). For a
//! successful command, only the first words of the completion are read, once. A completion contains a slot and its generation, and
//! is accepted once. A malformed packet takes the controller out of service. Unsafe code is denied except in the implementations
//! of the two unsafe traits of `paravirt-scsi`.
//!
//! ```
//! use paravirt_device::{BlockDevice, BlockQueue, Op, Request};
//! use paravirt_hyperv::Hypervisor;
//! use paravirt_platform::DmaSlice;
//! use paravirt_scsi::{ControllerEvent, Options};
//! use paravirt_storvsc::{INTERFACE, StorTransport, StorController, StorOptions};
//! use paravirt_testhost::{Guest, HvHost, StorDrive, StorHost};
//! use paravirt_vmbus::{Version, Vmbus};
//!
//! let guest = Guest::with(1, true);
//! let drives = StorHost::new();
//! drives.insert(0, StorDrive::memory(512, vec![7; 1 << 20]));
//! HvHost::with_device(&guest, INTERFACE, drives);
//!
//! let hypervisor = Hypervisor::open(&guest)?;
//! let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST)?;
//! let offer = vmbus.find(&Default::default(), 0).ok_or("no offer")?;
//! let transport = StorTransport::new(&guest, &vmbus, &offer, &StorOptions::default());
//! let mut controller = StorController::open(&guest, transport, &Options::default())?;
//! let Some(ControllerEvent::Added(mut disk)) = controller.poll() else { return Err("no disk".into()) };
//!
//! let mut queue = disk.take_queue(0).ok_or("no queue")?;
//! let into = DmaSlice::alloc(&guest, 4096)?;
//! let request = Request::new(1, Op::Read { lba: 0, into });
//! queue.submit(request).map_err(|refused| refused.reason)?;
//! queue.kick();
//! let done = queue.complete()?.ok_or("not done")?;
//! assert_eq!(done.buffer.ok_or("no buffer")?.bytes()[4095], 7);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Source: OpenVMM's `storvsp_protocol` and `storvsp` (MIT) and FreeBSD's `hv_storvsc` (BSD).
#![no_std]
#![deny(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod message;
mod port;
mod transport;

pub use hyperv_bindings::storvsp::StorvspVersion;
pub use message::{Executed, GOOD_WORDS, HostPacket, MIN_EXECUTE, Malformed, properties};
pub use port::StorPort;
pub use transport::{StorOptions, StorTransport};

use paravirt_vmbus::Guid;

/// The device class of SCSI controllers on VMBus.
pub const INTERFACE: Guid = hyperv_bindings::vmbus::SCSI;
/// The device class of disks on an IDE controller.
pub const IDE_INTERFACE: Guid = hyperv_bindings::vmbus::IDE;
/// The device class of Fibre Channel adapters.
pub const FIBRE_CHANNEL_INTERFACE: Guid = hyperv_bindings::vmbus::FIBRE_CHANNEL;

/// A controller on VMBus.
pub type StorController<P, B> = paravirt_scsi::Controller<P, StorTransport<P>, B>;
/// A disk of such a controller.
pub type StorDisk<P, B> = paravirt_scsi::Disk<P, StorTransport<P>, B>;
/// A queue of such a disk.
pub type StorQueue<P, B> = paravirt_scsi::DiskQueue<P, StorTransport<P>, B>;

//! VMware's paravirtual SCSI adapter (PVSCSI), which QEMU has too.
//!
//! [`PvscsiAdapter`] is the transport of a `paravirt-scsi` controller; [`PvscsiController`], [`PvscsiDisk`] and [`PvscsiQueue`] are the
//! types of the controller, its disks and their queues. The adapter has one request ring, so that its disks have one queue each.
//!
//! # Lifecycle
//!
//! ```text
//!   open ─ adapter reset ─ SETUP_RINGS ─ SETUP_MSG_RING ─ configuration page ─► in service ─ RESET_BUS, ABORT_CMD
//!     ▲                                                                             │
//!     └──────── adapter reset, and no bus master any more: memory reclaimed ◄───────┘
//! ```
//!
//! A command is one entry of 128 bytes of the request ring, with the address of its data, or of a list of its segments. No data are
//! copied, and a batch is announced by one register write. Completions come in another ring, in any order. Units that the host adds and
//! removes are messages in a third ring, after which the controller scans again.
//!
//! # Trust
//!
//! An entry of the completion ring is read to private memory, by the shortcut for commands that succeeded and, where that leaves it, once
//! more. The context of a completion is looked up in the table of the commands in flight, and is accepted once; an unknown one is passed
//! over. The producer index of completions is checked against the size of their ring. A message makes the controller scan, whatever it
//! says: it is not read. What the adapter says of the sizes of its rings is not used. Memory is given back only when the adapter is no bus
//! master any more, whoever drops it.
//!
//! ```
//! use paravirt_device::{BlockDevice, BlockQueue, Op, Request};
//! use paravirt_platform::DmaSlice;
//! use paravirt_pvscsi::{PvscsiAdapter, PvscsiController, PvscsiOptions};
//! use paravirt_scsi::{ControllerEvent, Options};
//! use paravirt_testhost::{Guest, PvscsiHost, StorDrive};
//!
//! let guest = Guest::new();
//! let host = PvscsiHost::new(&guest);
//! host.insert(0, StorDrive::memory(512, vec![7; 1 << 20]));
//!
//! let adapter = PvscsiAdapter::new(&guest, host.device(), 0, &PvscsiOptions::default())?;
//! let mut controller = PvscsiController::open(&guest, adapter, &Options::default())?;
//! let Some(ControllerEvent::Added(mut disk)) = controller.poll() else { return Err("no disk".into()) };
//!
//! let mut queue = disk.take_queue(0).ok_or("no queue")?;
//! let into = DmaSlice::alloc(&guest, 4096)?;
//! queue.submit(Request::new(1, Op::Read { lba: 0, into })).map_err(|refused| refused.reason)?;
//! queue.kick();
//! let done = queue.complete()?.ok_or("not done")?;
//! assert_eq!(done.buffer.ok_or("no buffer")?.bytes()[4095], 7);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Source: the interface as Linux 6.12 (`drivers/scsi/vmw_pvscsi.h`) and QEMU 10.0 (`hw/scsi/vmw_pvscsi.h`) describe it; VMware has
//! published no specification.
#![no_std]
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

#[cfg(test)]
extern crate std;

mod adapter;
mod completion;
mod port;
mod registers;
mod rings;

pub use adapter::{PvscsiAdapter, PvscsiOptions, open};
pub use completion::Completion;
pub use port::PvscsiPort;

use paravirt_pci::FunctionInfo;

/// The PCI vendor and device id of the adapter.
pub const PCI_ID: (u16, u16) = (0x15ad, 0x07c0);

/// Returns whether a PCI function is such an adapter.
pub fn is_pvscsi(info: &FunctionInfo) -> bool {
    (info.vendor, info.device) == PCI_ID
}

/// A controller on such an adapter.
pub type PvscsiController<P, B> = paravirt_scsi::Controller<P, PvscsiAdapter<P>, B>;
/// A disk of such a controller.
pub type PvscsiDisk<P, B> = paravirt_scsi::Disk<P, PvscsiAdapter<P>, B>;
/// The queue of such a disk.
pub type PvscsiQueue<P, B> = paravirt_scsi::DiskQueue<P, PvscsiAdapter<P>, B>;

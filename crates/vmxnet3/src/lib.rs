//! VMware's paravirtual network card (VMXNET3), which QEMU has too.
//!
//! [`Vmxnet3`] is a network device with up to eight pairs of queues. Revision 1 of the interface, which every host has, is used; of
//! revision 2 that the card tells how it has coalesced frames.
//!
//! # Lifecycle
//!
//! ```text
//!   open ─ QUIESCE, RESET ─ versions ─ shared area ─ ACTIVATE ─ receive producers, filters ─► in service
//!              ▲                          ▲                                                      │ queue error, deadline, removal
//!              │                          └── every pair has taken its buffers back ◄── QUIESCE, RESET, no bus master ─► out of service
//!              └───────────────────────────────────── the last handle was dropped ◄──────────────────────────────────────────┘
//! ```
//!
//! A frame that is sent is written by the caller to a buffer that the card reads, or is sent from the caller's own buffer. A received frame
//! is read where the card has written it. Descriptors are published by the generation bit in their last word: one store for each frame. The
//! doorbell is rung when as many frames wait as the card wants to be told of.
//!
//! # Interrupts
//!
//! Each pair has a vector for the receive side, and one for the transmit side that is masked unless a caller waits for a sent frame; a
//! further one is for events. With fewer messages than that, they share one, or the interrupt line. The card masks a vector as it raises
//! it; [`arm`](paravirt_device::Notify::arm) unmasks it.
//!
//! # Trust
//!
//! A completion is read once, its generation first. Its index is checked against the descriptors that the card has, and its length against
//! the buffer; what is odd is counted and dropped. What the card says of its rings is not used. When the card has to be reset, buffers are
//! reclaimed only if it is no bus master any more; otherwise they are leaked, and the card is out of service.
//!
//! ```
//! use paravirt_device::{NetDevice, NetQueue, NetRx, NetTx, TxMeta};
//! use paravirt_platform::DmaSlice;
//! use paravirt_testhost::{Guest, Vmxnet3Host};
//! use paravirt_vmxnet3::{Vmxnet3, Vmxnet3Options};
//!
//! let guest = Guest::new();
//! let host = Vmxnet3Host::new(&guest);
//! let mut card = Vmxnet3::<_, DmaSlice<Guest>>::new(&guest, host.device(), &Vmxnet3Options::default())?;
//! let mut queue = card.take_queue(0).ok_or("no queue")?;
//!
//! let (_, tx) = queue.split();
//! assert!(tx.reserve(60));
//! tx.slot()[..60].fill(7);
//! tx.commit(60, TxMeta::new())?;
//! tx.kick();
//! assert_eq!(host.take_sent()[0].bytes, [7; 60]);
//!
//! host.receive(&[9; 60]);
//! queue.poll()?;
//! assert_eq!(queue.split().0.segment(0), Some(&mut [9; 60][..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Source: the interface as Linux 6.12 (`drivers/net/vmxnet3`) and QEMU 10.0 (`hw/net/vmxnet3.h`) describe it; VMware has published no
//! specification.
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

mod area;
mod card;
mod control;
mod device;
mod error;
mod queue;
mod registers;
mod rx;
mod tx;
mod wire;

pub use device::{Vmxnet3, Vmxnet3Options, open};
pub use error::OpenError;
pub use queue::Vmxnet3Queue;
pub use rx::Vmxnet3Rx;
pub use tx::Vmxnet3Tx;
pub use wire::RxCompletion;

use paravirt_pci::FunctionInfo;

/// The PCI vendor and device id of the card.
pub const PCI_ID: (u16, u16) = (0x15ad, 0x07b0);
/// The maximum number of pairs of queues.
pub const MAX_PAIRS: u16 = 8;
/// The maximum length in bytes of a packet without its Ethernet header.
pub const MAX_MTU: u16 = 9000;
/// The length of an Ethernet header, and of a VLAN tag that is in the frame.
const ETHERNET_LEN: usize = 14;
const VLAN_LEN: usize = 4;
/// The maximum length of a frame that the card segments: the longest IP packet and its Ethernet header.
const MAX_SEGMENTED: usize = 65535 + ETHERNET_LEN;

/// Returns whether a PCI function is such a card.
pub fn is_vmxnet3(info: &FunctionInfo) -> bool {
    (info.vendor, info.device) == PCI_ID
}

//! netvsc: the guest's side of NetVSP, Hyper-V's network device on VMBus.
//!
//! [`NetVsc`] implements [`NetDevice`](paravirt_device::NetDevice); each of its queues is a VMBus channel.
//!
//! # Lifecycle
//!
//! ```text
//!   open ─ NVSP 6.1, 6, 5, 4, 2, 1 ─ MTU ─ receive and send buffers ─ RNDIS ─ offloads ─ subchannels ─ filter ─► in service
//!                                                                                                                    │
//!      filter 0, HALT ─ channels closed, the primary one last ─ buffers torn down ◄── dropped, faulted, rescinded ───┘
//! ```
//!
//! # Data path
//!
//! * **Send, from a slot**: a slot is a part of a section of the send buffer, which guest and host share. Frames that are
//!   committed between two kicks go to one section, as long as it has room, and leave as one packet of 40 bytes: nothing is
//!   copied, and the host is signalled once. A frame that no section holds has an LSO bounce slot.
//! * **Send, from the caller's memory**: a packet names the RNDIS header, in memory of the driver, and the caller's segments.
//! * **Receive**: the host writes frames to the receive buffer; a packet names where, several to a packet. Each is copied out
//!   once, when it is looked at, and the packet is completed once the last of its frames is popped.
//!
//! The host cannot segment a frame in the caller's memory: NDIS wants fields of its headers cleared, and they are not the
//! driver's to write. Where the checksum of such a frame is to be filled in, the position of the checksum tells IPv4 (34) from
//! IPv6 (54), so that options and extension headers are refused.
//!
//! # Who owns what
//!
//! ```text
//!   NetVscQueue ── rx state: frames, packets to complete       no lock: front, segment, pop, reserve, slot, commit
//!             └─── tx state: sections, bounce slots, in flight
//!        │ one lock for each poll, kick, arm
//!   ChannelState ─ rings, wakers, backlog, idle state          the device locks it for each step of a request
//!        │
//!   NetShared ──── receive and send buffer, page of requests   dropped after the channels have been closed
//! ```
//!
//! A queue owns its sending and receiving state, so that a frame takes no lock. The channel is under a lock, since the primary one
//! also carries requests of the device: the device locks it, sends, and takes in what comes until its answer is there. Frames
//! and completed sends among it go to the channel's backlog; the queue is woken and moves them to its own state at its next
//! poll, before it reads the ring. A queue that is dropped hands its state back to the channel, where the device completes what
//! is still in flight. A fault closes all channels; each queue then reclaims what it has in flight at its next poll.
//!
//! # Trust
//!
//! Packets are copied out of the ring once; headers are copied out of the receive buffer once, and parsed by total functions
//! ([`message`], [`rndis`]). What the host names lies inside the receive buffer, or the device is put out of service. A
//! completion is matched with what is in flight, and accepted once. Tables have lengths of the driver's own: packets for which
//! there is no room stay in the ring until frames have been popped.
//!
//! ```
//! use paravirt_device::{NetDevice, NetQueue, NetRx, NetTx, TxMeta};
//! use paravirt_hyperv::Hypervisor;
//! use paravirt_netvsc::{INTERFACE, NetOptions, NetVsc};
//! use paravirt_platform::DmaSlice;
//! use paravirt_testhost::{Guest, HvHost, NetVspHost};
//! use paravirt_vmbus::{Version, Vmbus};
//!
//! let guest = Guest::with(1, true);
//! let wire = NetVspHost::new();
//! let (host, channel) = HvHost::with_device(&guest, INTERFACE, wire.clone());
//!
//! let hypervisor = Hypervisor::open(&guest)?;
//! let vmbus = Vmbus::connect(&hypervisor, Version::NEWEST)?;
//! let offer = vmbus.find(&Default::default(), 0).ok_or("no offer")?;
//! let mut card = NetVsc::<_, DmaSlice<Guest>>::open(&guest, &vmbus, &offer, &NetOptions::default())?;
//! let mut queue = card.take_queue(0).ok_or("no queue")?;
//!
//! let (rx, tx) = queue.split();
//! assert!(tx.reserve(60));
//! tx.slot()[..60].fill(7);
//! tx.commit(60, TxMeta::default())?;
//! tx.kick();
//! assert_eq!(wire.take_sent(), [vec![7; 60]]);
//!
//! wire.receive(&[9; 60]);
//! host.work(&guest, channel);
//! queue.poll()?;
//! let (rx, _) = queue.split();
//! assert_eq!(rx.segment(0).ok_or("no frame")?, [9; 60]);
//! rx.pop();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Sources: [MS-RNDIS] for RNDIS; for NVSP, which has no published specification, OpenVMM's netvsp (MIT), FreeBSD's hn (BSD) and
//! DPDK's netvsc (BSD).
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

mod backlog;
mod channel;
mod completions;
mod control;
mod device;
mod encode;
mod error;
mod host_state;
mod in_flight;
mod lso;
pub mod message;
mod offloads;
mod open;
mod pump;
mod queue;
mod receive;
pub mod rndis;
mod send;
mod shared;
mod transaction;
mod transmit_limits;

pub use device::{DataPath, NetVsc};
pub use error::OpenError;
pub use hyperv_bindings::netvsp::NvspVersion;
pub use open::NetOptions;
pub use queue::{NetVscQueue, NetVscRx, NetVscTx};

/// The VMBus interface type of synthetic network devices.
pub const INTERFACE: paravirt_vmbus::Guid = hyperv_bindings::vmbus::NETWORK;

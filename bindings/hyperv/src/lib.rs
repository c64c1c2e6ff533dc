//! What the ABI of a Hyper-V host says, and nothing that acts on it: the hypervisor ([`tlfs`]), the messages of VMBus
//! ([`vmbus`]), a channel's rings ([`ring`]), and what goes over them: dynamic memory ([`dynmem`]), storage ([`storvsp`]),
//! network ([`netvsp`] and inside it [`rndis`]), integration services and input ([`ic`]).
//!
//! All but this file is generated from the C headers in `include/` by `cargo xtask bindgen`. Structures carry zerocopy's
//! derives and assertions of their layout; an enumeration is an open newtype, so that an unknown value is a value; a flag
//! word is an integer, and its flags a [`bitflags`] type beside it. Everything is little-endian, as the one architecture.
//!
//! ```
//! use hyperv_bindings::{vmbus, tlfs::HvMessageHeader};
//! use zerocopy::FromBytes;
//!
//! let slot = [1u8, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
//! let header = HvMessageHeader::read_from_bytes(&slot).unwrap();
//! assert_eq!(header.payload_size, 16);
//! assert_eq!(vmbus::SCSI.to_string(), "ba6163d9-04a1-4d29-b605-72e2ffb1dc7f");
//! ```
#![no_std]
#![forbid(unsafe_code)]

#[allow(missing_docs, reason = "generated")]
pub mod dynmem;
mod guid;
#[allow(missing_docs, reason = "generated")]
pub mod ic;
#[allow(missing_docs, reason = "generated")]
pub mod netvsp;
#[allow(missing_docs, reason = "generated")]
pub mod ring;
#[allow(missing_docs, reason = "generated")]
pub mod rndis;
#[allow(missing_docs, reason = "generated")]
pub mod storvsp;
#[allow(missing_docs, reason = "generated")]
pub mod tlfs;
#[allow(missing_docs, reason = "generated")]
pub mod vmbus;

pub use guid::Guid;

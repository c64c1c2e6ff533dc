//! The ring of a VMBus channel, from either side.
//!
//! A channel has two rings, one for each direction. Each ring is a control page followed by data pages. One side produces packets,
//! the other consumes them. [`Outgoing`] is the producing end and [`Incoming`] the consuming end; both work on any [`RingMemory`],
//! in a guest and in a host.
//!
//! # Trust
//!
//! The other side may write any value anywhere in the ring at any time. The indices that an end owns are kept in private memory
//! and never read back; those of the other side are checked at every read. A packet is copied out once, checked, and then
//! returned. All accesses are atomic or use the copy routine of `paravirt-shared-memory`, so that a copy that races with a write
//! yields a mixture of bytes and never undefined behaviour. A violation results in a [`RingError`], after which the ring must not
//! be used any more.
//!
//! # States
//!
//! ```text
//!   producer                                      consumer
//!   write… ── full ──► await_room ─┐              unmasked ◄──────────── sleep
//!     ▲  │                         │                 │ signalled           ▲
//!     │  └─ publish ─► signal?     │                 ▼                     │ no packet
//!     │                            │              mask, next…, release ─► unmask
//!     └ signalled by the consumer ◄┘                          └► signal?   │ packet raced in: drain again
//! ```
//!
//! The producer signals only if the ring was empty and the consumer has not masked signals ([`Outgoing::publish`]). The consumer
//! signals only if the room reaches the amount for which a blocked producer waits ([`Incoming::release`]).
//!
//! ```
//! use paravirt_vmbus_ring::{ArrayRing, Incoming, Kind, Outgoing};
//!
//! let memory = ArrayRing::<512>::new();
//! let (mut out, mut inc) = (Outgoing::new(&memory).unwrap(), Incoming::new(&memory).unwrap());
//! out.in_band(7, true, &[b"hello"]).unwrap();
//! assert!(out.publish(), "the ring was empty: the other side is to be signalled");
//!
//! let mut buffer = [0; 64];
//! let packet = inc.next(&mut buffer).unwrap().unwrap();
//! assert_eq!((packet.kind, packet.transaction), (Kind::IN_BAND, 7));
//! // Payload is padded to 8 bytes: the protocol in it determines its length.
//! assert_eq!(packet.payload, b"hello\0\0\0");
//! assert!(!inc.release(), "no producer waits for room");
//! ```
//!
//! Source: `vmbus_ring` of OpenVMM (MIT) and `vmbus_br.c` of FreeBSD (BSD).
#![no_std]
#![forbid(unsafe_code)]
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

pub mod decide;
mod incoming;
mod memory;
mod outgoing;
mod packet;

pub use incoming::Incoming;
pub use memory::{ArrayRing, RingMemory, reset};
pub use outgoing::{Outgoing, Payload};
pub use packet::{FrameRun, GpaRange, GpaRanges, Kind, Packet, ParsedRange, TransferRange, TransferRanges};

use core::fmt;

/// Why a packet was not written or read.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum RingError {
    /// There is no room for the packet now; [`Outgoing::await_room`] waits for it. Nothing was written.
    Full,
    /// The packet exceeds the size of the ring or the range of its length field. Nothing was written.
    Large,
    /// A part of the payload other than the last is not a multiple of 8 bytes long. Nothing was written.
    Shape,
    /// A received packet is longer than the buffer.
    Buffer,
    /// The other side wrote an index that is out of range.
    Index,
    /// The other side wrote a packet whose lengths contradict each other or the indices.
    Packet,
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the ring is full",
            Self::Large => "the packet is too long for the ring",
            Self::Shape => "a part of the payload is not a multiple of 8 bytes",
            Self::Buffer => "the packet is too long for its buffer",
            Self::Index => "the other side wrote an index outside the ring",
            Self::Packet => "the other side wrote a malformed packet",
        })
    }
}

impl core::error::Error for RingError {}

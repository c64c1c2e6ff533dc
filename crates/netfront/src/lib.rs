//! Xen's paravirtual network card (`vif`), as a network device.
//!
//! [`NetFront`] is a card with one pair of queues, or as many as the backend offers.
//!
//! # Lifecycle
//!
//! That of every device of Xen, which `paravirt-xen` describes. A pair whose frames are not sent in time closes the card, takes all grants
//! back and connects it again; frames in flight are returned as aborted, and after a suspension as well. A
//! backend that offers less than the queues were made for is not used: the card is out of service until it is opened again.
//!
//! A frame that is sent is written by the caller to a page that is granted for the life of the queue, or is sent from the caller's own
//! buffer, whose pages are granted for that frame. A received frame is copied by the backend to a page that is granted to it until then,
//! and is read there once the grant was revoked; one that fills several pages is given out as their segments. Checksums and
//! segmentation (TCP over IPv4 and IPv6) are left to the backend where it offers that, both ways. Each direction has an event channel of its
//! own where the backend can, and multicast frames are filtered where it can.
//!
//! # Trust
//!
//! A response is read once. The identifier of a sent frame is accepted once; that of a received one has to be the slot's own. Offset and
//! length of a received piece are checked against its page, and the size of segments and the number of pieces against what a frame may
//! have; what is odd is counted and dropped. A caller's buffer is returned when each of its grants has been revoked; if the
//! backend has one mapped still, the buffer is leaked and the card reset.
//!
//! ```
//! use paravirt_device::{NetDevice, NetQueue, NetRx, NetTx, TxMeta};
//! use paravirt_netfront::{NetFront, NetFrontOptions};
//! use paravirt_platform::DmaSlice;
//! use paravirt_testhost::{Guest, XenHost, XenReceived};
//! use paravirt_xen::bus::{Address, Class};
//! use paravirt_xen::{Hypervisor, Store};
//!
//! let guest = Guest::new();
//! let host = XenHost::new(&guest);
//! host.add_card(0, &[]);
//!
//! let store = Store::open(&Hypervisor::open(&guest)?)?;
//! let address = Address { class: Class::Net, id: 0 };
//! let mut card = NetFront::<_, DmaSlice<Guest>>::open(&store, address, &NetFrontOptions::new())?;
//! let mut queue = card.take_queue(0).ok_or("no queue")?;
//!
//! let (_, tx) = queue.split();
//! assert!(tx.reserve(60));
//! tx.slot()[..60].fill(7);
//! tx.commit(60, TxMeta::new())?;
//! tx.kick();
//! assert_eq!(host.take_sent(0)[0].bytes, [7; 60]);
//!
//! host.receive(0, &[9; 60], &XenReceived::default());
//! queue.poll()?;
//! assert_eq!(queue.split().0.segment(0), Some(&mut [9; 60][..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Source: Xen 4.17, `xen/include/public/io/netif.h`.
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

mod card;
mod class;
mod queue;
mod rx;
mod tx;
mod wire;

pub use card::{NetFront, NetFrontOptions};
pub use queue::NetFrontQueue;
pub use rx::NetFrontRx;
pub use tx::NetFrontTx;

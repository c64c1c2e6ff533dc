//! Xen, for guests of the kinds HVM and PVH: hypercalls, event channels, the grant table, xenstore, and what its devices have in common.
//!
//! [`Hypervisor`] is the connection to the hypervisor, [`Store`] that to xenstore, where the host describes the devices. The
//! drivers of disks and network cards are crates of their own, `paravirt-blkfront` and `paravirt-netfront`; the console, clock, timer,
//! balloon and the requests to shut down or suspend are here.
//!
//! # Lifecycle
//!
//! ```text
//!   leaves of CPUID ─ shared page, grant table, event channels ─► Hypervisor ─ ring page of xenstore ─► Store
//!                                                                                                          │ device/vbd, device/vif
//!   Initialising ─ backend InitWait ─ rings granted, nodes written ─ Initialised ─ backend Connected ─ Connected ◄───┘
//!        ▲                                                                                                 │ deadline, protocol, removal
//!        └──── every queue has taken its buffers back ◄── every grant revoked ◄── Closed ◄── Closing ◄─────┘
//! ```
//!
//! Hypercalls are made by the processor's own instruction: nothing of the host's is executed. A suspended guest wakes in a domain that
//! has none of its shared pages, event channels and backends: [`Store::resume`] sets all of it up again, and each device reconnects.
//!
//! # Events
//!
//! Events are noted in queues of each processor (the FIFO interface) where the hypervisor has those, and in tables of the shared page
//! otherwise (the 2-level interface). Each processor has an interrupt vector; hosts without that have one for all, as a callback. The
//! handler finds the ports that are pending, masks each, and wakes its task; it takes no lock. A port stays masked until its task arms
//! it again, so that a host that sends events without end wakes a task once.
//!
//! # Trust
//!
//! A backend is another domain, and gets only what is granted to it: whole pages. A page is granted only if it holds nothing but a buffer
//! (`DmaBuffer::owns_pages`), or a ring, or the driver's own copy. Before its page is used again, a grant is revoked: of version 1 by
//! compare-exchange, of version 2 with a look at its status after a full fence. A page that is mapped still is never freed
//! ([`GrantRange`]), and the device is reset. Ring indices, identifiers, offsets and lengths are read once and checked against private
//! tables; numbers and texts of xenstore are parsed by total functions. The hypervisor itself is trusted with the shared page, as it
//! can read all memory of a guest.
//!
//! ```
//! use paravirt_testhost::{Guest, XenDisk, XenHost};
//! use paravirt_xen::{Hypervisor, Store, bus};
//!
//! let guest = Guest::new();
//! let host = XenHost::new(&guest);
//! host.add_disk(51712, XenDisk::new(vec![0; 1 << 20]));
//!
//! let hypervisor = Hypervisor::open(&guest)?;
//! let store = Store::open(&hypervisor)?;
//! let mut found = vec![];
//! bus::devices(&store, |address| found.push(address.to_string()))?;
//! assert_eq!(found, ["xen:vbd/51712"]);
//! assert_eq!(store.text::<16>(format_args!("device/vbd/51712/backend-id"))?.as_str(), "0");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Source: Xen 4.17, `xen/include/public` and `docs/misc/xenstore.txt`.
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

mod balloon;
pub mod bus;
mod bytes;
mod calls;
mod clock;
mod console;
mod control;
mod detect;
mod device;
mod early;
mod events;
mod granted_region;
mod grants;
mod hypervisor;
mod owned_queue;
mod ring;
mod store;
mod text;
mod timer;
mod unplug;

pub use balloon::XenBalloon;
pub use calls::{CallError, Shutdown};
pub use clock::XenClock;
pub use console::XenConsole;
pub use control::Control;
pub use detect::Detected;
pub use device::{Device, DeviceClass, DeviceError, FrontQueue, InFlight, QueueNodes, Status};
pub use early::{Early, EarlyConsole, TimeArea};
pub use events::Port;
pub use granted_region::GrantedRegion;
pub use grants::{Access, GrantRange};
pub use hypervisor::{Hypervisor, HypervisorOptions, OpenError, affordable};
pub use owned_queue::OwnedQueue;
pub use ring::FrontRing;
pub use store::{Store, StoreError, Transaction, Watch};
pub use text::Text;
pub use timer::XenTimer;
pub use unplug::unplug;

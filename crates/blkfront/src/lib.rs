//! Xen's paravirtual disks (`vbd`), as block devices.
//!
//! [`BlkFront`] is a disk with one queue, or as many as the backend offers; each queue has a ring of up to two pages.
//! A CD-ROM drive is a read-only disk, if there is a disc in it when it is opened.
//!
//! # Lifecycle
//!
//! That of every device of Xen, which `paravirt-xen` describes. A queue whose oldest request is not answered in time closes the disk,
//! takes all grants back, and connects it again; its requests are returned as aborted. After a suspension they are sent again instead:
//! the backend of the new domain has not seen them, or does the same once more. A backend that offers less than the queues were made for,
//! or blocks of another size, is not used: the requests are aborted, and the disk is out of service until it is opened again.
//!
//! A request of up to eleven segments is in the ring itself, a longer one has its segments in a page, if the backend offers that. Segments
//! are whole sectors of granted pages: no data are copied, unless a buffer shares its pages with something else
//! (`DmaBuffer::owns_pages`), which the backend could read, or persistent grants are wanted
//! ([`BlkFrontOptions::with_persistent_grants`]); such a buffer is copied to pages of the driver's. A flush is a request of its
//! own, which is sent for each durable write that has been answered, if the backend has a cache; barriers are not used.
//!
//! # Trust
//!
//! A response is read once. Its identifier is looked up in the table of the requests in flight and is accepted once; an unknown one is
//! counted and passed over. More responses than there are requests reset the disk. The pages of a request are its owner's again when each
//! grant has been revoked; if the backend has one mapped still, the buffer is leaked and the disk reset.
//!
//! ```
//! use paravirt_blkfront::{BlkFront, BlkFrontOptions};
//! use paravirt_device::{BlockDevice, BlockQueue, Op, Request};
//! use paravirt_platform::DmaSlice;
//! use paravirt_testhost::{Guest, XenDisk, XenHost};
//! use paravirt_xen::bus::{Address, Class};
//! use paravirt_xen::{Hypervisor, Store};
//!
//! let guest = Guest::new();
//! let host = XenHost::new(&guest);
//! host.add_disk(51712, XenDisk::new(vec![7; 1 << 20]));
//!
//! let store = Store::open(&Hypervisor::open(&guest)?)?;
//! let address = Address { class: Class::Block, id: 51712 };
//! let mut disk = BlkFront::<_, DmaSlice<Guest>>::open(&store, address, &BlkFrontOptions::new())?;
//! let mut queue = disk.take_queue(0).ok_or("no queue")?;
//!
//! let into = DmaSlice::alloc(&guest, 4096)?;
//! queue.submit(Request::new(1, Op::Read { lba: 0, into })).map_err(|refused| refused.reason)?;
//! queue.kick();
//! let done = queue.complete()?.ok_or("not done")?;
//! assert_eq!(done.buffer.ok_or("no buffer")?.bytes()[4095], 7);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Source: Xen 4.17, `xen/include/public/io/blkif.h`.
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

mod class;
mod disk;
mod queue;
mod ring;
mod wire;

pub use disk::{BlkFront, BlkFrontOptions};
pub use queue::BlkFrontQueue;

//! Traits of paravirtual block, network and other devices, independent of the host.
//!
//! A kernel that uses these traits runs on virtio hosts and on Hyper-V hosts. The driver crates implement the traits, `paravirt`
//! finds the devices, and `paravirt-platform` defines the traits that the kernel itself implements.
//!
//! # How a queue is used
//!
//! A device returns each of its queues once ([`BlockDevice::take_queue`], [`NetDevice::take_queue`]), so that each processor can
//! own a queue without a lock. `submit` moves a request and its buffer into the queue; the completion returns the buffer.
//! Submitted requests may stay with the driver until `kick`, so that a batch costs one notification.
//!
//! # Events: one protocol for polling, interrupts and futures
//!
//! 1. Drain: call `complete` (or `poll`) until nothing is outstanding.
//! 2. Call [`arm`](Notify::arm). If it returns [`Arm::Pending`], an event raced in: go to 1. If it returns [`Arm::Unsignalled`], no
//!    interrupt reaches the queue: go to 1 after a short sleep.
//! 3. Sleep until the waker given to [`register`](Notify::register) is woken, or until
//!    [`next_deadline`](Notify::next_deadline); then call [`expire`](Notify::expire) and go to 1.
//!
//! A kernel that only polls repeats step 1. A future does 1 and 2 in `poll` ([`next_completion`]).
//!
//! # Contexts, waits and locks
//!
//! The methods of these traits are for task context: none may be called in interrupt context, except [`Clock::now`]. The drivers'
//! interrupt handlers take no lock and do little more than wake the registered wakers. A waker is woken in interrupt
//! context, or in task context while the driver holds a lock: it may schedule a task, but must not call a driver.
//!
//! The statement that a method does not wait for the host applies to a device in service. A call that detects a protocol
//! violation, a device that requests a reset, or a reset in progress performs the next step of the recovery before it returns. It
//! then blocks as [`Notify::expire`] does: at most 5 seconds on virtio, where the device confirms its reset; on VMBus at most the
//! timeout of the bus for each step in which the host closes a channel of the device, or opens it again for a disk; not on VMware's
//! devices, whose registers answer at once. All waits poll, with [`Platform::relax`](paravirt_platform::Platform::relax) between two
//! polls.
//!
//! Spin locks protect the state that the queues of a device share. Drivers hold them while they copy a batch to or from a ring,
//! and during a reset or a wait for an answer. No interrupt handler and no waker takes them. On a preemptive kernel, a task that
//! spins may have to wait until the holder runs again: the tasks that share a device must not starve each other. The caller may
//! hold its own locks, as long as its interrupt handlers do not take them.
//!
//! No method allocates, unless it says so. A method that takes a buffer and fails returns it in the error.
//!
//! # Faults and resets
//!
//! A protocol violation of the host results in a [`Fault`] of that device only. The driver stops the device; every queue returns
//! its requests in flight (as [`IoError::Aborted`], through `complete` like any other completion) and returns the fault from then
//! on. A reset by the guest ([`BlockQueue::reset`], a deadline) takes the same path, except that the device starts again when the
//! last of its queues has been drained; until then submissions are refused with [`Fault::Reset`]. No buffer is returned while the
//! host may still write to it: if the host does not confirm that it quiesced, the buffer is leaked.
//!
//! ```
//! use paravirt_device::{BlockQueue, Completion, Durability, Fault, Op, Rejected, Request};
//! use paravirt_platform::Instant;
//!
//! /// Writes `from` to block `lba` durably and polls for the completion.
//! fn write_through<Q: BlockQueue>(queue: &mut Q, lba: u64, from: Q::Buffer) -> Result<Completion<Q::Buffer>, Fault> {
//!     let op = Op::Write { lba, from, durability: Durability::Durable };
//!     if let Err(refused) = queue.submit(Request::new(1, op)) {
//!         return match refused.reason {
//!             Rejected::Faulted(fault) => Err(fault),
//!             reason => panic!("{reason}"),
//!         };
//!     }
//!     queue.kick();
//!     loop {
//!         if let Some(done) = queue.complete()? {
//!             return Ok(done);
//!         }
//!     }
//! }
//! ```
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

mod agent;
mod balloon;
mod block;
mod blocking;
mod error;
mod headers;
mod input;
mod misc;
mod net;
mod notify;
mod socket;

pub use agent::{Agent, Fact, HostTime, PowerRequest, ValuePool};
pub use balloon::{Balloon, BalloonInfo, BalloonMemory, HeldPages, MemoryStatistics, PageRange};
pub use block::{
    Access, BlockDevice, BlockEvent, BlockInfo, BlockQueue, Cache, Completion, DiscardLimits, Durability, Op,
    Refused, Request, Serial, Unmap, ZeroLimits, next_completion, restarted,
};
pub use blocking::{Blocking, BlockingError};
pub use error::{ControlError, Fault, IoError, Rejected};
pub use headers::{tcp_headers, without_length};
pub use input::{Axis, Input, InputEvent, InputInfo, Key, Leds};
pub use misc::{Clock, Console, ConsoleSize, Entropy};
pub use net::{
    ChecksumRange, Erased, Link, MacAddr, NetDevice, NetEvent, NetInfo, NetQueue, NetRx, NetTx, Offloads,
    ReceiveMode, RxChecksum, RxFrame, RxMeta, SegmentKind, Segmentation, SendRefused, Sent, TxMeta, VlanTag,
};
pub use notify::{Arm, Connection, Notify, RingKind, Signalling, Watchdog};
pub use socket::{CloseReason, Listeners, SocketError, SocketId, SocketState, Sockets};

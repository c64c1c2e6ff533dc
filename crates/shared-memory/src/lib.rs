//! Memory that a host may write at any time.
//!
//! [`SharedMemory`] is a view of a range of bytes, [`RingArray`] a view of an array whose length is a power of two. Both give
//! access by atomics and copies, never as a `&[u8]`: a value that the host wrote is read once into private memory and checked
//! before it is used.
//!
//! The copy routine of this crate ([`copy_words_out`], [`copy_words_in`], [`SharedMemory::copy_out`], [`SharedMemory::copy_in`])
//! is the only one in the workspace that copies to or from memory that a host may write at the same time. Short copies are atomic
//! accesses. On x86-64, longer copies use inline assembly, which is opaque to the compiler, so that a race can only yield a
//! mixture of old and new bytes. `--cfg paravirt_portable` in `RUSTFLAGS` selects atomic accesses for all lengths, as other
//! processors, Miri and sanitizers use them.
//!
//! The crate depends only on `core`, does not allocate and does not block: all functions may be called in interrupt context.
//!
//! ```
//! use paravirt_shared_memory::SharedMemory;
//! use std::{ptr::NonNull, sync::atomic::{AtomicU32, Ordering}};
//!
//! let mut pages = [0u64; 8];
//! // SAFETY: the array outlives the view and is accessed through it only.
//! let view = unsafe { SharedMemory::new(NonNull::from(&mut pages).cast(), 64) };
//! view.at::<AtomicU32>(4).unwrap().store(7, Ordering::Relaxed);
//! let mut private = [0; 8];
//! view.copy_out(0, &mut private).unwrap();
//! assert_eq!(private, [0, 0, 0, 0, 7, 0, 0, 0]);
//! assert!(view.copy_out(60, &mut private).is_none());
//! ```
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

mod copy;
mod ring_array;
mod view;

pub use copy::{copy_words_in, copy_words_out};
pub use ring_array::RingArray;
pub use view::{SharedAtom, SharedMemory};

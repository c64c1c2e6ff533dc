//! The services that a kernel provides to its paravirtual drivers.
//!
//! This crate is the lower interface of paravirt: a kernel implements [`Platform`] once, and every driver of the workspace runs on
//! it. It needs no allocator and no floating point.
//!
//! # The traits
//!
//! | trait | provides | needed for |
//! |---|---|---|
//! | [`Platform`] | DMA memory, private memory, mappings, the clock | everything |
//! | [`Interrupts`] | binding of a handler to a vector, MSI messages, lines | everything but polling |
//! | [`Processors`] | how many processors there are, running a closure on one of them | one queue per processor, SynIC |
//! | [`PortIo`] | `in` and `out` | PCI configuration space without ECAM |
//! | [`Registers`] | CPUID, MSRs and the cycle counter | Hyper-V, Xen, KVM's clock |
//! | [`HyperV`] | a page for hypercalls | Hyper-V |
//! | [`Xen`] | pages that the hypervisor replaces with its own | Xen |
//!
//! A kernel implements the first. Provided methods of [`Platform`], such as [`Platform::interrupts`], return the others; their
//! defaults are absent services. A kernel that polls, has one processor and uses only virtio needs none of them. A kernel that links
//! a family of drivers without providing its services finds no devices of that family.
//!
//! # The building blocks
//!
//! * [`DmaRegion`] owns DMA memory. While a host may write it, it is accessed only through [`SharedMemory`], as atomics, never as
//!   `&[u8]`.
//! * [`DmaBuffer`] is memory that moves into a request and that the completion returns; [`DmaSlice`] is this crate's implementation.
//! * [`PageArc`], [`PageBox`], [`PageTable`], [`PageRing`] and [`Fifo`] hold driver state in private pages of the platform
//!   ([`Platform::state_alloc`]), so that drivers do not need `alloc`, and devices cannot access the state.
//! * [`WakerCell`] holds the task that an interrupt wakes without a lock, a clone or a drop; a [`WakerGroup`] holds several tasks
//!   that one interrupt wakes.
//!
//! # Lifecycle
//!
//! A platform value is cloned into each driver, and the services it refers to outlive the drivers; it is usually a zero-sized handle
//! to the kernel's services.
//!
//! ```
//! use paravirt_platform::{AllocError, BusAddr, DmaSlice, Instant, Platform, RawDma};
//! use std::{alloc, num::NonZeroUsize, ptr::NonNull};
//!
//! /// A process that acts as a kernel: bus addresses are its virtual addresses.
//! #[derive(Clone)]
//! struct Process;
//!
//! // SAFETY: the pages are zeroed, page-aligned, and used by nothing else until they are freed.
//! unsafe impl Platform for Process {
//!     fn dma_alloc(&self, pages: NonZeroUsize) -> Result<RawDma, AllocError> {
//!         let layout = alloc::Layout::from_size_align(pages.get() * 4096, 4096).map_err(|_| AllocError)?;
//!         // SAFETY: the layout is not empty.
//!         let cpu = NonNull::new(unsafe { alloc::alloc_zeroed(layout) }).ok_or(AllocError)?;
//!         Ok(RawDma { cpu, bus: BusAddr(cpu.as_ptr() as u64), pages })
//!     }
//!     unsafe fn dma_free(&self, region: RawDma) {
//!         let layout = alloc::Layout::from_size_align(region.len(), 4096).unwrap();
//!         // SAFETY: `dma_alloc` made it with this layout.
//!         unsafe { alloc::dealloc(region.cpu.as_ptr(), layout) }
//!     }
//!     fn now(&self) -> Instant {
//!         Instant::ZERO
//!     }
//! }
//!
//! let mut buffer = DmaSlice::alloc(&Process, 512)?;
//! buffer.bytes_mut()[0] = 7;
//! assert_eq!(buffer.bytes().len(), 512);
//! # Ok::<(), AllocError>(())
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

#[cfg(feature = "alloc")]
extern crate alloc;

mod absent;
mod buffer;
mod dma;
mod fifo;
mod hyperv;
mod interrupt;
mod io;
mod page;
mod processor;
mod registers;
mod slice;
mod time;
mod waker;
mod waker_group;
mod xen;

pub use buffer::{Direction, DmaBuffer, DmaSegments, Either, Segment, SubmitError};
pub use dma::{AllocError, BusAddr, DmaRegion, PAGE_SIZE, Platform, RawDma};
pub use fifo::Fifo;
pub use hyperv::HyperV;
pub use interrupt::{
    BindError, Handled, InterruptCell, InterruptLine, Interrupts, Message, Polarity, RawHandler, Requester,
    Trigger, Vector,
};
#[cfg(target_arch = "x86_64")]
pub use io::vmware_port_call;
pub use io::{MapError, MmioRegion, PortIo, RegisterWord, read_register, write_register};
pub use page::{PageArc, PageBox, PageRing, PageTable};
pub use paravirt_shared_memory::{RingArray, SharedAtom, SharedMemory, copy_words_in, copy_words_out};
pub use processor::{ProcessorId, Processors, RunError};
pub use registers::Registers;
pub use slice::DmaSlice;
pub use time::Instant;
pub use waker::WakerCell;
pub use waker_group::WakerGroup;
pub use xen::{Xen, XenInstruction};

//! The guest's side of the Hyper-V hypervisor, below its devices.
//!
//! [`Hypervisor::open`] finds it, says who the guest is and lays out the hypercall page; everything else is made from that:
//! the synthetic interrupt controller of each virtual processor ([`Synic`]), the reference clock ([`ReferenceClock`]),
//! synthetic timers ([`SyntheticTimer`]), crash reports and reset ([`Hypervisor::report_crash`], [`Hypervisor::reset`]).
//! All of it works through the platform's traits, on the metal as against a model in process.
//!
//! Nothing is assumed that a host may leave out: a register is touched where CPUID offers it ([`Features`]), and VMBus needs
//! no more than hypercalls, SynIC and the index of the processor: some hosts do not even say that messages may be posted.
//!
//! # Lifecycle
//!
//! ```text
//!   CPUID ─ Features::detect ─► Hypervisor::open ─► GUEST_OS_ID, hypercall page
//!                                   │
//!              ┌────────────────────┼──────────────────┬───────────────────┐
//!              ▼                    ▼                  ▼                   ▼
//!     Synic::open (every VP)   ReferenceClock    SyntheticTimer     report_crash, reset
//!              │ bind SINT
//!              ▼
//!     messages, event flags ─► VMBus
//!              │ drop: SINTs masked, pages off
//!              ▼
//!        last drop: hypercall page off, GUEST_OS_ID 0
//! ```
//!
//! # Trust
//!
//! Message and event pages are the host's to write at any time: they are seen as atomics, and a message is copied once.
//!
//! ```
//! use paravirt_device::Clock;
//! use paravirt_hyperv::{Hypervisor, ReferenceClock, Synic};
//! use paravirt_testhost::{Guest, HvHost, HvOffer};
//!
//! let guest = Guest::with(2, true);
//! let host = HvHost::new(&guest, HvOffer::default());
//! let hypervisor = Hypervisor::open(&guest)?;
//! let clock = ReferenceClock::open(&hypervisor)?;
//! assert!(clock.now() <= clock.now());
//! let synic = Synic::open(&hypervisor)?;
//! assert_eq!(host.processors_in_use().len(), 2);
//! drop((synic, clock, hypervisor));
//! assert!(!host.is_in_use(), "everything is switched off again");
//! # Ok::<(), paravirt_hyperv::OpenError>(())
//! ```
//!
//! "TLFS §n" is a section of the *Hyper-V Top-Level Functional Specification*.
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

mod clock;
mod crash;
pub mod decide;
mod features;
mod hypercall;
mod hypervisor;
mod synic;
mod timer;

pub use clock::ReferenceClock;
pub use features::Features;
pub use hypercall::MAX_MESSAGE;
pub use hyperv_bindings::tlfs::HvStatus;
pub use hypervisor::{Hypervisor, OpenError};
pub use synic::{Message, Synic};
pub use timer::{SyntheticTimer, TimerSignal};

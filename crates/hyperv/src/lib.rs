//! The guest's side of the Hyper-V hypervisor, below its devices.
//!
//! [`Hypervisor::open`] detects it, sets the guest's identity and enables the hypercall page; everything else is created from it:
//! the synthetic interrupt controller of each virtual processor ([`Synic`]), the reference clock ([`ReferenceClock`]),
//! synthetic timers ([`SyntheticTimer`]), crash reports and reset ([`Hypervisor::report_crash`], [`Hypervisor::reset`]).
//! All of it uses the traits of the platform, so that it runs on a host as well as against a model in process.
//!
//! A register is accessed only if CPUID offers it ([`Features`]). VMBus needs only hypercalls, SynIC and the VP index.
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
//! The host may write message and event pages at any time: they are accessed as atomics, and a message is copied once. The hypercall
//! page is code of the host that the guest executes: a guest that does not trust it cannot use hypercalls.
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
//! assert!(!host.is_in_use(), "all registers are disabled again");
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

pub mod arm64;
mod clock;
mod crash;
pub mod decide;
mod features;
mod hypercall;
mod hypervisor;
mod synic;
mod timer;

pub use clock::ReferenceClock;
pub use features::{Features, Isolation, IsolationKind};
pub use hypercall::MAX_MESSAGE;
pub use hyperv_bindings::tlfs::HvStatus;
pub use hypervisor::{Hypervisor, OpenError};
pub use synic::{Message, Synic};
pub use timer::{SyntheticTimer, TimerSignal};

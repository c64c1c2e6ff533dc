//! The devices of the crate [`paravirt`] for C: a static library, and the header `include/paravirt.h`.
//!
//! A kernel fills in a [`paravirt_platform`] and calls [`paravirt_probe`], which passes every device to a function of the kernel's.
//! Devices and queues are handles, which the kernel closes.
//!
//! # Contracts
//!
//! * Every pointer to a structure or handle is valid and not null, except where null is said to be permitted. A handle is used by one
//!   processor at a time, except by `paravirt_clock_now` and `paravirt_report_crash`, and not after it was closed. Different handles
//!   may be used at once.
//! * All functions are for task context, except [`paravirt_handler_call`], [`paravirt_clock_now`] and [`paravirt_report_crash`].
//! * Structures that a function fills in are valid when it returned [`paravirt_status::Ok`].
//! * Times are nanoseconds since any fixed moment, of [`paravirt_platform::now`]; [`PARAVIRT_NEVER`] is no time.
//! * Nothing unwinds through a call. What would panic, which no function is known to do, calls `paravirt_panic`.
#![cfg_attr(feature = "bare-metal", no_std)]
#![allow(non_camel_case_types, reason = "types have their names in C")]
#![allow(clippy::missing_safety_doc, reason = "the contract is that of the crate, for all functions")]

mod agent;
mod balloon;
mod block;
mod buffer;
mod handle;
mod input;
mod logging;
mod net;
mod platform;
mod services;
mod socket;
mod status;
mod stream;

pub use agent::*;
pub use balloon::*;
pub use block::*;
pub use buffer::*;
pub use handle::*;
pub use input::*;
pub use logging::*;
pub use net::*;
pub use platform::*;
pub use services::*;
pub use socket::*;
pub use status::*;
pub use stream::*;

/// No time: of a deadline, that there is none.
pub const PARAVIRT_NEVER: u64 = u64::MAX;

#[cfg(feature = "bare-metal")]
mod bare_metal {
    use crate::logging::Line;
    use core::fmt::Write;

    unsafe extern "C" {
        /// Of the kernel: reports `len` bytes of text, and does not return.
        fn paravirt_panic(text: *const core::ffi::c_char, len: usize) -> !;
    }

    #[panic_handler]
    fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
        let mut line = Line::new();
        let _ = write!(line, "{info}");
        let (text, len) = line.parts();
        // SAFETY: the text is valid for the call.
        unsafe { paravirt_panic(text, len) }
    }

    /// Referenced by `core`, which was built for unwinding; never called, as panics abort.
    #[unsafe(no_mangle)]
    extern "C" fn rust_eh_personality() {}

    /// As [`rust_eh_personality`].
    #[unsafe(no_mangle)]
    extern "C" fn _Unwind_Resume() -> ! {
        // SAFETY: an empty text.
        unsafe { paravirt_panic(c"unwound".as_ptr(), 7) }
    }
}

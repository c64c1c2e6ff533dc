//! Consoles and sources of random bytes.

use crate::handle::{Handle, Waited, handle};
use crate::platform::{Kernel, bytes_at};
use crate::{paravirt_notify, paravirt_status, paravirt_status as Status};
use paravirt::{AnyConsole, AnyEntropy};
use paravirt_device::{Console as _, ConsoleSize, Entropy as _, Fault};

/// A console.
#[derive(Debug)]
pub struct paravirt_console {
    _private: (),
}
handle!(paravirt_console: Waited<AnyConsole<Kernel>>);

/// A source of random bytes.
#[derive(Debug)]
pub struct paravirt_entropy {
    _private: (),
}
handle!(paravirt_entropy: Waited<AnyEntropy<Kernel>>);

/// Writes the number of bytes that `result` has to `count`.
///
/// # Safety
///
/// `count` is valid for writing.
pub(crate) unsafe fn put_count<E: Into<Status>>(result: Result<usize, E>, count: *mut usize) -> Status {
    match result {
        Ok(number) => {
            // SAFETY: by the contract of this function.
            unsafe { count.write(number) };
            Status::Ok
        }
        Err(error) => error.into(),
    }
}

/// Returns the bytes to fill in.
///
/// # Safety
///
/// `bytes` are `len` bytes that are valid for writing for `'a`, or `len` is 0.
pub(crate) unsafe fn room_at<'a>(bytes: *mut u8, len: usize) -> &'a mut [u8] {
    if bytes.is_null() || len == 0 {
        return &mut [];
    }
    // SAFETY: by the contract of this function.
    unsafe { core::slice::from_raw_parts_mut(bytes, len) }
}

/// Writes up to `len` bytes to the console, and the number of bytes that it took to `written`; 0 when there is no room now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_console_write(
    console: *mut paravirt_console,
    bytes: *const u8,
    len: usize,
    written: *mut usize,
) -> paravirt_status {
    // SAFETY: the contract of the crate.
    unsafe { put_count(paravirt_console::get(console).value.write(bytes_at(bytes.cast(), len)), written) }
}

/// Reads up to `len` bytes from the console, and writes their number to `read`; 0 when there are none now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_console_read(
    console: *mut paravirt_console,
    bytes: *mut u8,
    len: usize,
    read: *mut usize,
) -> paravirt_status {
    // SAFETY: the contract of the crate.
    unsafe { put_count(paravirt_console::get(console).value.read(room_at(bytes, len)), read) }
}

/// Returns `PARAVIRT_STATUS_OK` when the host has taken all that was written, `PARAVIRT_STATUS_EMPTY` while it has not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_console_is_flushed(console: *mut paravirt_console) -> paravirt_status {
    // SAFETY: the contract of the crate.
    flushed(unsafe { paravirt_console::get(console) }.value.is_flushed())
}

pub(crate) fn flushed(result: Result<bool, Fault>) -> Status {
    match result {
        Ok(true) => Status::Ok,
        Ok(false) => Status::Empty,
        Err(fault) => fault.into(),
    }
}

/// Writes the size of the console; returns whether it is known.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_console_size(
    console: *mut paravirt_console,
    columns: *mut u16,
    rows: *mut u16,
) -> bool {
    // SAFETY: the contract of the crate.
    let size = unsafe { paravirt_console::get(console) }.value.size();
    let Some(ConsoleSize { columns: wide, rows: high }) = size else { return false };
    // SAFETY: the contract of the crate.
    unsafe {
        columns.write(wide);
        rows.write(high);
    }
    true
}

/// Returns what a task waits for input and room by.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_console_notify(console: *mut paravirt_console) -> *mut paravirt_notify {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_console::notify(console) }
}

/// Closes the console; null is permitted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_console_close(console: *mut paravirt_console) {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_console::close(console) }
}

/// Fills in up to `len` random bytes of the host's, and writes their number to `filled`; 0 when there are none now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_entropy_fill(
    source: *mut paravirt_entropy,
    bytes: *mut u8,
    len: usize,
    filled: *mut usize,
) -> paravirt_status {
    // SAFETY: the contract of the crate.
    unsafe { put_count(paravirt_entropy::get(source).value.fill(room_at(bytes, len)), filled) }
}

/// Returns what a task waits for bytes by.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_entropy_notify(source: *mut paravirt_entropy) -> *mut paravirt_notify {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_entropy::notify(source) }
}

/// Closes the source; null is permitted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_entropy_close(source: *mut paravirt_entropy) {
    // SAFETY: the contract of the crate.
    unsafe { paravirt_entropy::close(source) }
}

use core::cell::UnsafeCell;
use core::ffi::{c_char, c_void};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};
use log::{LevelFilter, Log, Metadata, Record};

/// The severity of a message.
#[repr(C)]
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum paravirt_log_level {
    /// A device or a service is not available.
    Error,
    /// A host did something odd.
    Warn,
    /// What was found.
    Info,
    /// Details.
    Debug,
    /// More details.
    Trace,
}

use paravirt_log_level as Level;

/// Takes a message of `len` bytes, which need not end in a zero. It may be called from any processor, several at once, possibly while a
/// driver holds a spin lock.
pub type paravirt_log =
    Option<extern "C" fn(context: *mut c_void, level: paravirt_log_level, text: *const c_char, len: usize)>;

/// A line of text of at most 256 bytes; what is beyond is left out.
pub(crate) struct Line {
    bytes: [u8; 256],
    len: usize,
}

impl Line {
    pub const fn new() -> Self {
        Self { bytes: [0; 256], len: 0 }
    }

    /// Returns the text with a zero after it, in the place of the last byte if there is no room.
    pub fn terminated(&mut self) -> *const c_char {
        let end = self.len.min(self.bytes.len() - 1);
        self.bytes[end] = 0;
        self.bytes.as_ptr().cast()
    }

    pub fn parts(&self) -> (*const c_char, usize) {
        (self.bytes.as_ptr().cast(), self.len)
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.len..).unwrap_or_default();
        for (to, from) in room.iter_mut().zip(text.bytes()) {
            *to = from;
            self.len = self.len.saturating_add(1);
        }
        Ok(())
    }
}

/// The kernel's function; written once, before the flag is set.
struct Sink {
    target: UnsafeCell<(paravirt_log, *mut c_void)>,
    is_taken: AtomicBool,
}

// SAFETY: the cell is written by the one caller that took it, before the logger is registered, and only read afterwards. The context is
// passed back to the kernel.
unsafe impl Sync for Sink {}
// SAFETY: as above.
unsafe impl Send for Sink {}

static SINK: Sink =
    Sink { target: UnsafeCell::new((None, core::ptr::null_mut())), is_taken: AtomicBool::new(false) };

impl Log for Sink {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // SAFETY: it was written before this logger was registered.
        let (Some(sink), context) = (unsafe { *self.target.get() }) else { return };
        let mut line = Line::new();
        let _ = line.write_fmt(*record.args());
        let level = match record.level() {
            log::Level::Error => Level::Error,
            log::Level::Warn => Level::Warn,
            log::Level::Info => Level::Info,
            log::Level::Debug => Level::Debug,
            log::Level::Trace => Level::Trace,
        };
        let (text, len) = line.parts();
        sink(context, level, text, len);
    }

    fn flush(&self) {}
}

/// Passes the library's messages to `sink`, with `context`: those of level `max` (a `paravirt_log_level`) and more severe ones. Returns
/// false if that was done before. Without this call they are dropped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn paravirt_set_log(sink: paravirt_log, context: *mut c_void, max: u32) -> bool {
    if SINK.is_taken.swap(true, Ordering::Relaxed) {
        return false;
    }
    // SAFETY: only the first caller comes here, and nothing reads the cell before the logger is registered.
    unsafe { *SINK.target.get() = (sink, context) };
    let levels = [LevelFilter::Error, LevelFilter::Warn, LevelFilter::Info, LevelFilter::Debug];
    log::set_max_level(levels.get(max as usize).copied().unwrap_or(LevelFilter::Trace));
    log::set_logger(&SINK).is_ok()
}

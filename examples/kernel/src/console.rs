//! Output to the serial port, one line at a time.

use crate::arch::console as serial;
use crate::arch::cpu::without_interrupts;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use spin::Mutex;

static OUT: Mutex<Serial> = Mutex::new(Serial);

/// How often the port is asked for room before its reader counts as gone. A byte takes 87 µs at 115200 baud, and an access to the port at
/// least 1 µs.
const MAX_LOOKS: u32 = 20_000;
/// Whether the transmitter did not become empty the last time: then it is asked once for each byte until it does.
static IS_STUCK: AtomicBool = AtomicBool::new(false);
/// The number of bytes that were dropped because nobody reads the port.
static DROPPED: AtomicU64 = AtomicU64::new(0);

struct Serial;

impl Serial {
    /// Writes a byte, or drops it if nobody reads the port: a pipe without a reader must not stop the kernel.
    fn byte(&mut self, byte: u8) {
        let looks = if IS_STUCK.load(Ordering::Relaxed) { 1 } else { MAX_LOOKS };
        let has_room = (0..looks).any(|_| serial::has_room());
        IS_STUCK.store(!has_room, Ordering::Relaxed);
        if has_room {
            serial::put(byte);
        } else {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Says how many bytes were dropped, once the port is read again.
    fn report_dropped(&mut self) {
        let dropped = DROPPED.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let _ = writeln!(self, "console_dropped={dropped}");
        }
    }
}

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.byte(b'\r');
            }
            self.byte(byte);
        }
        Ok(())
    }
}

/// Sets the port up and installs the logger.
pub fn init() {
    serial::init();
    let _ = log::set_logger(&Log).map(|()| log::set_max_level(log::LevelFilter::Info));
}

/// Writes a line. Several processors may call this at once: the port is locked, with interrupts disabled.
pub fn line(text: fmt::Arguments<'_>) {
    without_interrupts(|| {
        let mut out = OUT.lock();
        out.report_dropped();
        let _ = out.write_fmt(text);
        let _ = out.write_str("\n");
    });
}

/// Writes a line without taking the lock, which the code that panicked may hold.
pub fn last_line(text: fmt::Arguments<'_>) {
    let _ = Serial.write_fmt(text);
    let _ = Serial.write_str("\n");
}

/// Prints a line of `key=value` pairs.
#[macro_export]
macro_rules! println {
    ($($t:tt)*) => { $crate::console::line(format_args!($($t)*)) };
}

struct Log;

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        println!("log={} text=\"{}\"", record.level(), record.args());
    }
    fn flush(&self) {}
}

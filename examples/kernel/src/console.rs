//! Output to the first serial port (COM1), one line at a time.

use core::fmt::{self, Write};
use spin::Mutex;
use x86_64::instructions::{interrupts, port::Port};

const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = COM1 + 5;
const TRANSMITTER_EMPTY: u8 = 1 << 5;

static OUT: Mutex<Serial> = Mutex::new(Serial);

struct Serial;

impl Serial {
    fn byte(&mut self, byte: u8) {
        // SAFETY: the ports belong to the first serial port or to no device.
        unsafe {
            let mut status = Port::<u8>::new(LINE_STATUS);
            // Bounded, in case the transmitter is stuck. Without a serial port the register reads as all ones.
            for _ in 0..100_000 {
                if status.read() & TRANSMITTER_EMPTY != 0 {
                    break;
                }
            }
            Port::<u8>::new(COM1).write(byte);
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

/// Sets the port up (8 data bits, FIFO on; the baud rate does not matter to an emulated port) and installs the logger.
pub fn init() {
    for (offset, value) in [(1u16, 0u8), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 3)] {
        // SAFETY: as in `byte`.
        unsafe { Port::<u8>::new(COM1 + offset).write(value) }
    }
    let _ = log::set_logger(&Log).map(|()| log::set_max_level(log::LevelFilter::Info));
}

/// Writes a line. Several processors may call this at once: the port is locked, with interrupts disabled.
pub fn line(text: fmt::Arguments<'_>) {
    interrupts::without_interrupts(|| {
        let mut out = OUT.lock();
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

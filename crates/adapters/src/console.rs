//! `embedded_io` streams of a console.

use core::fmt;
use embedded_io::{Error, ErrorKind, ErrorType, Read, ReadReady, Write, WriteReady};
use paravirt_device::{Console, Fault};

/// A console as blocking `embedded_io` streams; `wait` is called while there is no data or no room.
pub struct Stream<C, W> {
    console: C,
    wait: W,
    /// A byte that `read_ready` has read ahead.
    peeked: Option<u8>,
}

/// The console's fault.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct StreamError(pub Fault);

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl core::error::Error for StreamError {}

impl Error for StreamError {
    fn kind(&self) -> ErrorKind {
        match self.0 {
            Fault::Timeout => ErrorKind::TimedOut,
            Fault::Removed => ErrorKind::NotConnected,
            Fault::Reset => ErrorKind::Interrupted,
            _ => ErrorKind::Other,
        }
    }
}

impl<C: Console, W: FnMut(&mut C)> Stream<C, W> {
    /// Wraps `console`. `wait` may arm it and halt, or just return.
    pub fn new(console: C, wait: W) -> Self {
        Self { console, wait, peeked: None }
    }
}

impl<C, W> ErrorType for Stream<C, W> {
    type Error = StreamError;
}

impl<C: Console, W: FnMut(&mut C)> Read for Stream<C, W> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize, StreamError> {
        let Some(first) = buf.first_mut() else { return Ok(0) };
        if let Some(byte) = self.peeked.take() {
            *first = byte;
            return Ok(1);
        }
        loop {
            match self.console.read(buf).map_err(StreamError)? {
                0 => (self.wait)(&mut self.console),
                count => return Ok(count),
            }
        }
    }
}

impl<C: Console, W: FnMut(&mut C)> ReadReady for Stream<C, W> {
    fn read_ready(&mut self) -> Result<bool, StreamError> {
        if self.peeked.is_none() {
            let mut byte = [0];
            if self.console.read(&mut byte).map_err(StreamError)? == 1 {
                let [byte] = byte;
                self.peeked = Some(byte);
            }
        }
        Ok(self.peeked.is_some())
    }
}

impl<C: Console, W: FnMut(&mut C)> Write for Stream<C, W> {
    fn write(&mut self, buf: &[u8]) -> Result<usize, StreamError> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            match self.console.write(buf).map_err(StreamError)? {
                0 => (self.wait)(&mut self.console),
                count => return Ok(count),
            }
        }
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        while !self.console.is_flushed().map_err(StreamError)? {
            (self.wait)(&mut self.console);
        }
        Ok(())
    }
}

impl<C: Console, W: FnMut(&mut C)> WriteReady for Stream<C, W> {
    fn write_ready(&mut self) -> Result<bool, StreamError> {
        self.console.is_flushed().map_err(StreamError)
    }
}

impl<C: fmt::Debug, W> fmt::Debug for Stream<C, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("console", &self.console).finish_non_exhaustive()
    }
}

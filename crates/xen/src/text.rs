//! Short texts without an allocator.

use core::fmt;

/// A text of at most `N` bytes, and of at most 65,535. What does not fit is an error of the writer.
#[derive(Copy, Clone, Eq, PartialEq)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    /// Small: addresses of devices contain texts, and are passed about by value.
    len: u16,
}

impl<const N: usize> Text<N> {
    /// An empty text.
    pub const fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    /// Formats `arguments`; `None` if the text is longer than `N` bytes.
    pub fn format(arguments: fmt::Arguments<'_>) -> Option<Self> {
        let mut text = Self::new();
        fmt::write(&mut text, arguments).ok()?;
        Some(text)
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        self.bytes
            .get(..usize::from(self.len))
            .and_then(|bytes| core::str::from_utf8(bytes).ok())
            .unwrap_or_default()
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let begin = usize::from(self.len);
        let end = begin.checked_add(text.len()).ok_or(fmt::Error)?;
        let len = u16::try_from(end).map_err(|_| fmt::Error)?;
        self.bytes.get_mut(begin..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.len = len;
        Ok(())
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_str().escape_debug())
    }
}

//! Text in a buffer of fixed length, and its conversion from and to UTF-16.

use core::fmt;

/// Text of up to `N` bytes of UTF-8.
pub(crate) struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Text<N> {
    pub const fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    pub fn clear(&mut self) {
        self.len = 0;
    }

    pub fn as_str(&self) -> &str {
        // `write_str` writes whole strings only, so that this is valid UTF-8.
        self.bytes.get(..self.len).and_then(|bytes| core::str::from_utf8(bytes).ok()).unwrap_or_default()
    }

    /// Appends what is decoded from UTF-16 up to the first zero, or to the end; `None` where it is malformed, or too long.
    pub fn push_utf16(&mut self, bytes: &[u8]) -> Option<()> {
        let units = bytes.chunks_exact(2).filter_map(<[u8]>::first_chunk);
        let units = units.map(|unit| u16::from_le_bytes(*unit));
        for character in char::decode_utf16(units.take_while(|unit| *unit != 0)) {
            fmt::Write::write_char(self, character.ok()?).ok()?;
        }
        Some(())
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len.checked_add(text.len()).ok_or(fmt::Error)?;
        self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// Writes `text` and a terminating zero as UTF-16, and zeros behind them; returns the length in bytes, or `None` where it is too
/// long.
pub(crate) fn put_utf16(text: &str, into: &mut [u8]) -> Option<u32> {
    into.fill(0);
    let mut units = into.chunks_exact_mut(2);
    let mut count = 0u32;
    for unit in text.encode_utf16().chain(core::iter::once(0)) {
        units.next()?.copy_from_slice(&unit.to_le_bytes());
        count = count.checked_add(2)?;
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_through_utf16() {
        let mut bytes = [0xff; 16];
        assert_eq!(put_utf16("a\u{e9}\u{1f600}", &mut bytes), Some(10));
        let mut text = Text::<16>::new();
        text.push_utf16(&bytes).unwrap();
        assert_eq!(text.as_str(), "a\u{e9}\u{1f600}");
        assert_eq!(put_utf16("12345678", &mut bytes), None);
        assert!(Text::<3>::new().push_utf16(&bytes).is_none());
        assert!(Text::<8>::new().push_utf16(&[0, 0xd8, 1, 0]).is_none());
        assert!(Text::<8>::new().push_utf16(&[]).is_some());
    }
}

//! The messages of xenstore. Xen `xen/include/public/io/xs_wire.h`

/// Bytes of a header, and of a body at most.
pub const HEADER_LEN: usize = 16;
pub const MAX_BODY: usize = 4096;

/// What a message is.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Kind {
    /// The names in a directory.
    Directory = 1,
    /// The value of a node.
    Read = 2,
    /// Asks for an event at each change of a node or below it.
    Watch = 4,
    /// Ends that.
    Unwatch = 5,
    /// Begins a transaction.
    TransactionStart = 6,
    /// Ends a transaction.
    TransactionEnd = 7,
    /// Sets the value of a node.
    Write = 11,
    /// Removes a node.
    Remove = 13,
    /// What a watch asked for.
    WatchEvent = 15,
    /// Ends all watches.
    ResetWatches = 21,
    /// The answer to a request that failed: the name of an error.
    Error = 16,
}

/// A header.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Header {
    /// The number of a [`Kind`].
    pub kind: u32,
    /// The number of the request.
    pub request: u32,
    /// The number of the transaction, or 0.
    pub transaction: u32,
    /// The length of the body in bytes.
    pub len: u32,
}

impl Header {
    /// Returns the bytes of a header.
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let words = [self.kind, self.request, self.transaction, self.len].map(u32::to_le_bytes);
        let mut bytes = [0; HEADER_LEN];
        bytes.copy_from_slice(words.as_flattened());
        bytes
    }

    /// Reads a header; `None` if its body would be too long: the stream cannot be followed then.
    pub fn read(bytes: [u8; HEADER_LEN]) -> Option<Self> {
        let word = |at: usize| {
            let bytes = bytes.get(at..at.checked_add(4)?)?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?))
        };
        let header = Self { kind: word(0)?, request: word(4)?, transaction: word(8)?, len: word(12)? };
        (header.len as usize <= MAX_BODY).then_some(header)
    }
}

/// Returns the token of a watch event, which follows the path.
pub fn token(body: &[u8]) -> Option<u32> {
    let mut parts = body.split(|byte| *byte == 0);
    let (_, token) = (parts.next()?, parts.next()?);
    number(token).and_then(|number| u32::try_from(number).ok())
}

/// Reads a decimal number. Hosts may end it with a zero or white space.
pub fn number(text: &[u8]) -> Option<u64> {
    let text = core::str::from_utf8(text.split(|byte| *byte == 0).next()?).ok()?.trim();
    // `parse` would take a sign.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_are_written_and_long_bodies_refused() {
        let header = Header { kind: 2, request: 7, transaction: 1, len: 4096 };
        assert_eq!(Header::read(header.to_bytes()), Some(header));
        assert_eq!(Header::read(Header { len: 4097, ..header }.to_bytes()), None);
    }

    #[test]
    fn numbers_and_tokens_are_decimal() {
        assert_eq!(number(b"51712"), Some(51712));
        assert_eq!(number(b"4\0rest"), Some(4));
        assert_eq!(number(b" 4\n"), Some(4));
        for bad in [&b""[..], b"-1", b"+1", b"0x10", b"18446744073709551616", b"\xff"] {
            assert_eq!(number(bad), None, "{bad:?}");
        }
        assert_eq!(token(b"device/vbd\x0012\0"), Some(12));
        assert_eq!(token(b"device/vbd"), None);
        assert_eq!(token(b""), None);
    }
}

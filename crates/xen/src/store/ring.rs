//! The two byte rings in xenstore's page. Xen `docs/misc/xenstore-ring.txt`

use crate::bytes::BytePage;
use paravirt_device::Fault;

/// Bytes of each ring.
const LEN: u32 = 1024;
const REQUESTS: usize = 0;
const REPLIES: usize = 1024;
/// Offsets of the indices: consumed and produced bytes of requests and of replies, which run freely.
const REQUEST_CONSUMED: usize = 2048;
const REQUEST_PRODUCED: usize = 2052;
const REPLY_CONSUMED: usize = 2056;
const REPLY_PRODUCED: usize = 2060;

/// The page.
#[derive(Debug)]
pub struct StoreRing {
    page: BytePage,
    /// Where this side is: taken over from whoever used the page before, and kept privately.
    produced: u32,
    consumed: u32,
}

impl StoreRing {
    /// Continues where the page says that the last user was.
    pub fn new(page: BytePage) -> Self {
        let mut this = Self { page, produced: 0, consumed: 0 };
        this.restart();
        this
    }

    /// Takes over where this side is from the page.
    pub fn restart(&mut self) {
        (self.produced, self.consumed) = (self.page.index(REQUEST_PRODUCED), self.page.index(REPLY_CONSUMED));
    }

    /// Writes the first of `bytes` and returns how many fit.
    ///
    /// # Errors
    ///
    /// [`Fault::Protocol`] if the indices are impossible.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let used = self.produced.wrapping_sub(self.page.index(REQUEST_CONSUMED));
        let room = LEN.checked_sub(used).ok_or(Fault::Protocol)?;
        let len = bytes.len().min(room as usize);
        let bytes = bytes.get(..len).unwrap_or_default();
        self.page.copy_in(REQUESTS, LEN, self.produced, bytes).ok_or(Fault::Protocol)?;
        self.produced = self.produced.wrapping_add(len as u32);
        self.page.set_index(REQUEST_PRODUCED, self.produced);
        Ok(len)
    }

    /// Reads the first of the bytes that have come and returns how many.
    ///
    /// # Errors
    ///
    /// [`Fault::Protocol`] if the indices are impossible.
    pub fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Fault> {
        let come = self.page.index(REPLY_PRODUCED).wrapping_sub(self.consumed);
        if come > LEN {
            return Err(Fault::Protocol);
        }
        let len = bytes.len().min(come as usize);
        let bytes = bytes.get_mut(..len).unwrap_or_default();
        self.page.copy_out(REPLIES, LEN, self.consumed, bytes).ok_or(Fault::Protocol)?;
        self.consumed = self.consumed.wrapping_add(len as u32);
        self.page.set_index(REPLY_CONSUMED, self.consumed);
        Ok(len)
    }

    /// Whether there is something to read.
    pub fn has_replies(&self) -> bool {
        self.page.index(REPLY_PRODUCED) != self.consumed
    }
}

//! The two byte rings in xenstore's page. Xen `docs/misc/xenstore-ring.txt`

use core::sync::atomic::{AtomicU32, Ordering, fence};
use paravirt_device::Fault;
use paravirt_platform::SharedMemory;

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
    view: SharedMemory,
    /// Where this side is: taken over from whoever used the page before, and kept privately.
    produced: u32,
    consumed: u32,
}

impl StoreRing {
    /// Continues where the page says that the last user was.
    pub fn new(view: SharedMemory) -> Self {
        let mut this = Self { view, produced: 0, consumed: 0 };
        this.restart();
        this
    }

    /// Takes over where this side is from the page.
    pub fn restart(&mut self) {
        (self.produced, self.consumed) = (self.load(REQUEST_PRODUCED), self.load(REPLY_CONSUMED));
    }

    fn load(&self, offset: usize) -> u32 {
        self.view.at::<AtomicU32>(offset).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn store(&self, offset: usize, value: u32) {
        self.view.at::<AtomicU32>(offset).into_iter().for_each(|word| word.store(value, Ordering::Release));
    }

    /// Writes the first of `bytes` and returns how many fit.
    ///
    /// # Errors
    ///
    /// [`Fault::Protocol`] if the indices are impossible.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let used = self.produced.wrapping_sub(self.load(REQUEST_CONSUMED));
        let room = LEN.checked_sub(used).ok_or(Fault::Protocol)?;
        let len = bytes.len().min(room as usize);
        let (part, rest) = bytes.split_at_checked(len).map_or((bytes, &[][..]), |(part, _)| {
            part.split_at(part.len().min(LEN.wrapping_sub(self.produced & (LEN - 1)) as usize))
        });
        let at = REQUESTS.wrapping_add((self.produced & (LEN - 1)) as usize);
        self.view.copy_in(at, part).ok_or(Fault::Protocol)?;
        self.view.copy_in(REQUESTS, rest).ok_or(Fault::Protocol)?;
        self.produced = self.produced.wrapping_add(len as u32);
        self.store(REQUEST_PRODUCED, self.produced);
        Ok(len)
    }

    /// Reads the first of the bytes that have come and returns how many.
    ///
    /// # Errors
    ///
    /// [`Fault::Protocol`] if the indices are impossible.
    pub fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Fault> {
        let come = self.load(REPLY_PRODUCED).wrapping_sub(self.consumed);
        if come > LEN {
            return Err(Fault::Protocol);
        }
        let len = bytes.len().min(come as usize);
        let at = (self.consumed & (LEN - 1)) as usize;
        let (part, rest) = bytes
            .split_at_mut_checked(len)
            .ok_or(Fault::Protocol)?
            .0
            .split_at_mut(len.min((LEN as usize).wrapping_sub(at)));
        self.view.copy_out(REPLIES.wrapping_add(at), part).ok_or(Fault::Protocol)?;
        self.view.copy_out(REPLIES, rest).ok_or(Fault::Protocol)?;
        // The bytes have been read when the other side may write them again.
        fence(Ordering::SeqCst);
        self.consumed = self.consumed.wrapping_add(len as u32);
        self.store(REPLY_CONSUMED, self.consumed);
        Ok(len)
    }

    /// Whether there is something to read.
    pub fn has_replies(&self) -> bool {
        self.load(REPLY_PRODUCED) != self.consumed
    }
}

//! Replies that were received on another queue and filed for their owner.

use crate::transport::Status;
use paravirt_platform::{AllocError, PageTable, Platform};

/// A reply that its owner has not seen yet.
#[derive(Copy, Clone)]
pub(crate) struct Reply {
    pub id: u64,
    pub status: Status,
    pub transferred: u32,
}

impl Reply {
    const EMPTY: Self = Self { id: 0, status: Status::Error, transferred: 0 };
}

/// Replies to one owner, in order. As long as the host replies once to each command there is room for all of them.
pub(crate) struct Inbox<P: Platform> {
    replies: PageTable<P, Reply>,
    head: usize,
    len: usize,
}

impl<P: Platform> Inbox<P> {
    pub fn new(platform: &P, depth: u16) -> Result<Self, AllocError> {
        let replies = PageTable::new(platform, usize::from(depth).max(1), |_| Reply::EMPTY)?;
        Ok(Self { replies, head: 0, len: 0 })
    }

    pub fn push(&mut self, reply: Reply) -> Option<()> {
        if self.len >= self.replies.len() {
            return None;
        }
        let at = self.head.wrapping_add(self.len).checked_rem(self.replies.len())?;
        *self.replies.get_mut(at)? = reply;
        self.len = self.len.wrapping_add(1);
        Some(())
    }

    pub fn pop(&mut self) -> Option<Reply> {
        self.len = self.len.checked_sub(1)?;
        let reply = *self.replies.get(self.head)?;
        self.head = self.head.wrapping_add(1).checked_rem(self.replies.len())?;
        Some(reply)
    }

    pub fn clear(&mut self) {
        self.len = 0;
    }
}

//! VIRTIO_F_IN_ORDER: the order in which requests were made available. VIRTIO 1.3 §2.7.9, §2.8.12

use paravirt_platform::{AllocError, PageTable, Platform};

/// The order in which requests were made available, for a device that uses them in that order.
pub(super) struct InOrder<P: Platform> {
    ids: PageTable<P, u16>,
    head: u16,
    tail: u16,
    /// The last request of the batch that the device has used, and the length that it reported for that request.
    pub batch: Option<(u16, u32)>,
}

impl<P: Platform> InOrder<P> {
    pub fn new(platform: &P, entries: usize) -> Result<Self, AllocError> {
        Ok(Self { ids: PageTable::new(platform, entries, |_| 0)?, head: 0, tail: 0, batch: None })
    }

    pub fn clear(&mut self) {
        (self.head, self.tail, self.batch) = (0, 0, None);
    }

    fn at(&mut self, index: u16) -> Option<&mut u16> {
        let mask = self.ids.len().wrapping_sub(1);
        self.ids.get_mut(usize::from(index) & mask)
    }

    pub fn push(&mut self, id: u16) {
        let tail = self.tail;
        if let Some(entry) = self.at(tail) {
            *entry = id;
        }
        self.tail = tail.wrapping_add(1);
    }

    pub fn pop(&mut self) -> Option<u16> {
        if self.head == self.tail {
            return None;
        }
        let head = self.head;
        self.head = head.wrapping_add(1);
        self.at(head).copied()
    }
}

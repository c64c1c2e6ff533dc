use crate::memory::{control, size};
use crate::packet::{COMPLETION_REQUESTED, DESCRIPTOR8, FOOTER_LEN, Lengths, Packet};
use crate::{Kind, RingError, RingMemory, decide};
use core::sync::atomic::Ordering;
use paravirt_shared_memory::copy_words_out;

/// The consuming end of a ring.
#[derive(Debug)]
pub struct Incoming<M> {
    memory: M,
    size: u32,
    /// Offset of the next packet.
    read: u32,
    /// The number of bytes before it that were read and not yet released to the producer.
    unreleased: u32,
    /// The number of bytes from it to the producer's index as last read.
    available: u32,
}

impl<M: RingMemory> Incoming<M> {
    /// Creates the consuming end of a ring that [`reset`](crate::reset) has initialised.
    ///
    /// # Errors
    ///
    /// [`RingError::Large`] if the data area is smaller than 64 bytes or larger than 1 GiB.
    pub fn new(memory: M) -> Result<Self, RingError> {
        let size = size(&memory).ok_or(RingError::Large)?;
        Ok(Self { memory, size, read: 0, unreleased: 0, available: 0 })
    }

    /// Returns the memory of the ring.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Returns whether an unread packet is known from the last read of the producer's index.
    #[inline(always)]
    pub fn is_next_known(&self) -> bool {
        self.available != 0
    }

    /// Returns the number of unread bytes in the ring. Reads the producer's index only if none are known.
    #[inline(always)]
    fn available(&mut self) -> Result<u32, RingError> {
        match self.available {
            0 => self.read_producer_index(),
            known => Ok(known),
        }
    }

    #[inline(always)]
    fn read_producer_index(&mut self) -> Result<u32, RingError> {
        let write = control(&self.memory).write.load(Ordering::Acquire);
        if write >= self.size || write & 7 != 0 {
            return Err(RingError::Index);
        }
        let ahead = write.wrapping_sub(self.read);
        let available = if write >= self.read { ahead } else { ahead.wrapping_add(self.size) };
        // A producer must not write to bytes that were not released. One that does could keep the consumer in its drain loop
        // forever.
        if available.wrapping_add(self.unreleased) >= self.size {
            return Err(RingError::Index);
        }
        self.available = available;
        Ok(available)
    }

    /// Advances the index past a packet of `total` available bytes, footer included.
    #[inline(always)]
    fn advance(&mut self, total: u32) {
        debug_assert!(total <= self.available, "the packet was checked");
        self.available = self.available.wrapping_sub(total);
        self.unreleased = self.unreleased.wrapping_add(total);
        let next = self.read.wrapping_add(total);
        self.read = if next >= self.size { next.wrapping_sub(self.size) } else { next };
    }

    /// Reads the next packet: copies it to `buffer`, then checks the copy. `None` if there is no packet.
    ///
    /// Its room is available to the producer only after [`release`](Self::release).
    ///
    /// # Errors
    ///
    /// [`RingError::Index`] or [`RingError::Packet`] if the producer wrote an index out of range or a malformed packet;
    /// [`RingError::Buffer`] if header and payload are longer than `buffer`. The packet stays in the ring.
    #[inline(always)]
    pub fn next<'b>(&mut self, buffer: &'b mut [u8]) -> Result<Option<Packet<'b>>, RingError> {
        let available = self.available()?;
        if available == 0 {
            return Ok(None);
        }
        let data = self.memory.data();
        let words = data.get((self.read >> 3) as usize..).ok_or(RingError::Index)?;
        let [first, second, rest @ ..] = words else {
            // The descriptor itself wraps around the end of the ring.
            return self.next_wrapped(available, buffer).map(Some);
        };
        let lengths = Lengths::parse(first.load(Ordering::Relaxed), available).ok_or(RingError::Packet)?;
        let transaction = second.load(Ordering::Relaxed);
        let body = (lengths.total as usize).wrapping_sub(16);
        let buffer = buffer.get_mut(..body).ok_or(RingError::Buffer)?;
        match rest.get(..body >> 3) {
            Some(words) => copy_words_out(words, buffer),
            None => copy_split(rest, data, buffer),
        }
        Ok(Some(self.take(lengths, transaction, buffer)))
    }

    /// Reads the next packet if it is of kind `kind`, has no header and at least `min_words` words of payload, and `accept`
    /// returns `Some` for its transaction id and the first words of the payload. These are read once, and nothing else is copied.
    ///
    /// Otherwise returns `None`, and the packet stays in the ring for [`next`](Self::next), which reads all of it again. Also
    /// `None` if there is no packet, the words wrap around the end of the ring, or the producer wrote an index out of range.
    #[inline(always)]
    pub fn next_if<const WORDS: usize, R>(
        &mut self,
        kind: Kind,
        min_words: u16,
        accept: impl FnOnce(u64, [u64; WORDS]) -> Option<R>,
    ) -> Option<R> {
        let available = self.available().ok()?;
        let words = self.memory.data().get((self.read >> 3) as usize..)?;
        let ([first, second], rest) = words.split_first_chunk::<2>()?;
        let payload = rest.first_chunk::<WORDS>()?;
        let head = first.load(Ordering::Relaxed);
        let Kind(kind) = kind;
        let length8 = (head >> 32) as u16;
        let total = u32::from(length8).wrapping_mul(8).wrapping_add(FOOTER_LEN);
        let min_words = const { WORDS as u16 }.max(min_words);
        let is_wanted = head as u32 == u32::from(kind) | u32::from(DESCRIPTOR8) << 16
            && length8 >= min_words.wrapping_add(DESCRIPTOR8)
            && total <= available;
        if !is_wanted {
            return None;
        }
        let transaction = second.load(Ordering::Relaxed);
        let accepted = accept(transaction, payload.each_ref().map(|word| word.load(Ordering::Relaxed)))?;
        self.advance(total);
        Some(accepted)
    }

    #[cold]
    fn next_wrapped<'b>(&mut self, available: u32, buffer: &'b mut [u8]) -> Result<Packet<'b>, RingError> {
        let data = self.memory.data();
        let at = |index: usize| {
            let index = if index >= data.len() { index.wrapping_sub(data.len()) } else { index };
            data.get(index).map(|word| word.load(Ordering::Relaxed)).ok_or(RingError::Index)
        };
        let start = (self.read >> 3) as usize;
        let lengths = Lengths::parse(at(start)?, available).ok_or(RingError::Packet)?;
        let transaction = at(start.wrapping_add(1))?;
        let body = (lengths.total as usize).wrapping_sub(16);
        let buffer = buffer.get_mut(..body).ok_or(RingError::Buffer)?;
        let (start, len) = (start.wrapping_add(2), data.len());
        let start = if start >= len { start.wrapping_sub(len) } else { start };
        let (wrapped, rest) = data.split_at_checked(start).ok_or(RingError::Index)?;
        copy_split(rest, wrapped, buffer);
        Ok(self.take(lengths, transaction, buffer))
    }

    #[inline(always)]
    fn take<'b>(&mut self, lengths: Lengths, transaction: u64, buffer: &'b [u8]) -> Packet<'b> {
        self.advance(lengths.total.wrapping_add(FOOTER_LEN));
        let (header, payload) = buffer.split_at_checked(lengths.header).unwrap_or((buffer, &[]));
        let wants_completion = lengths.flags & COMPLETION_REQUESTED != 0;
        Packet { kind: lengths.kind, wants_completion, transaction, header, payload }
    }

    /// Returns whether more than a quarter of the ring was read and not [released](Self::release). A consumer that pauses before
    /// the last packet then releases the room, so that the producer does not run out of room.
    #[inline(always)]
    pub fn is_release_due(&self) -> bool {
        self.unreleased > self.size >> 2
    }

    /// Releases the room of the packets that were read. Returns whether the producer waits for it and is to be signalled.
    #[inline(always)]
    #[must_use]
    pub fn release(&mut self) -> bool {
        let len = core::mem::take(&mut self.unreleased);
        if len == 0 {
            return false;
        }
        let behind = self.read.wrapping_sub(len);
        let old = if self.read >= len { behind } else { behind.wrapping_add(self.size) };
        let control = control(&self.memory);
        decide::release_then_look(control.read, self.read, old, control.pending, control.write, self.size)
    }

    /// Masks the producer's signals, while the ring is drained or permanently for a ring that is polled.
    pub fn mask(&mut self) {
        control(&self.memory).mask.store(1, Ordering::Relaxed);
    }

    /// Unmasks the producer's signal for the next packet. Returns `true` if a packet arrived before the producer could see that:
    /// signals are then masked again, and the ring has to be drained again.
    #[must_use]
    pub fn unmask(&mut self) -> bool {
        let control = control(&self.memory);
        let is_pending = decide::unmask_then_look(control.mask, control.write) != self.read;
        if is_pending {
            control.mask.store(1, Ordering::Relaxed);
        }
        is_pending
    }

    /// Returns whether [`next`](Self::next) would return a packet or an error.
    pub fn has_more(&self) -> bool {
        self.available != 0 || control(&self.memory).write.load(Ordering::Acquire) != self.read
    }
}

/// Copies words that wrap around the end of the ring: first `words`, then `wrapped`.
#[cold]
fn copy_split(
    words: &[core::sync::atomic::AtomicU64],
    wrapped: &[core::sync::atomic::AtomicU64],
    buffer: &mut [u8],
) {
    let (now, later) = buffer.split_at_mut(words.len().wrapping_mul(8).min(buffer.len()));
    copy_words_out(words, now);
    copy_words_out(wrapped, later);
}

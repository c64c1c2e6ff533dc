use crate::memory::{control, size};
use crate::packet::{COMPLETION_REQUESTED, DESCRIPTOR_LEN, FOOTER_LEN};
use crate::{GpaRange, Kind, RingError, RingMemory, TransferRange, decide};
use core::sync::atomic::{AtomicU64, Ordering};
use paravirt_shared_memory::copy_words_in;

/// The maximum length of a header or payload in bytes, 512 KiB: the limit of a packet's length field.
const MAX_LENGTH: usize = 1 << 19;
/// Pages in packets are 4 KiB on every host.
const PAGE_SHIFT: u32 = 12;
const PAGE_MASK: u64 = (1 << PAGE_SHIFT) - 1;

/// The producing end of a ring.
///
/// Packets are written one after the other and become visible to the consumer together, by [`publish`](Self::publish).
#[derive(Debug)]
pub struct Outgoing<M> {
    memory: M,
    size: u32,
    /// The offset of the next packet, and the last published offset.
    write: u32,
    published: u32,
    /// The consumer's index as last read, and the room that remains according to it.
    read: u32,
    room: u32,
    /// Whether the consumer was asked for a signal when there is room.
    is_waiting: bool,
}

/// A payload of constant length, which is computed only after room for it has been found.
///
/// It is a trait and not a closure so that implementations can be marked `#[inline(always)]`.
pub trait Payload<const WORDS: usize> {
    /// Returns the words of the payload, in little-endian order.
    fn words(self) -> [u64; WORDS];
}

impl<const WORDS: usize> Payload<WORDS> for [u64; WORDS] {
    #[inline(always)]
    fn words(self) -> [u64; WORDS] {
        self
    }
}

/// A writer of words that wraps around the end of the ring.
struct Cursor<'a> {
    words: &'a [AtomicU64],
    wrapped: &'a [AtomicU64],
}

impl Cursor<'_> {
    #[inline(always)]
    fn word(&mut self, value: u64) {
        if self.words.is_empty() {
            self.words = core::mem::take(&mut self.wrapped);
        }
        if let Some((to, rest)) = self.words.split_first() {
            to.store(value, Ordering::Relaxed);
            self.words = rest;
        }
    }

    #[inline(always)]
    fn bytes(&mut self, bytes: &[u8]) {
        let room = self.words.len().wrapping_mul(8);
        if bytes.len() <= room {
            self.words = copy_words_in(self.words, bytes);
            return;
        }
        self.split(bytes, room);
    }

    #[cold]
    fn split(&mut self, bytes: &[u8], room: usize) {
        let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
        copy_words_in(self.words, now);
        self.words = copy_words_in(core::mem::take(&mut self.wrapped), later);
    }
}

impl<M: RingMemory> Outgoing<M> {
    /// Creates the producing end of a ring that [`reset`](crate::reset) has initialised.
    ///
    /// # Errors
    ///
    /// [`RingError::Large`] if the data area is smaller than 64 bytes or larger than 1 GiB.
    pub fn new(memory: M) -> Result<Self, RingError> {
        let size = size(&memory).ok_or(RingError::Large)?;
        Ok(Self {
            memory,
            size,
            write: 0,
            published: 0,
            read: 0,
            room: size.wrapping_sub(8),
            is_waiting: false,
        })
    }

    /// Returns the memory of the ring.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Returns the maximum payload of an in-band packet in bytes: the limit of an empty ring or of the 16-bit length field.
    pub fn max_payload(&self) -> usize {
        let max_total =
            self.size.wrapping_sub(8).min(u32::from(u16::MAX).wrapping_mul(8).wrapping_add(FOOTER_LEN));
        max_total.saturating_sub(DESCRIPTOR_LEN).saturating_sub(FOOTER_LEN) as usize
    }

    /// Returns whether a packet was written that is not published yet.
    pub fn has_unpublished(&self) -> bool {
        self.write != self.published
    }

    /// Writes an in-band packet.
    ///
    /// The payload consists of its parts one after the other; each but the last is a multiple of 8 bytes long. If a completion is
    /// requested, it contains `transaction`.
    ///
    /// # Errors
    ///
    /// [`RingError`]; nothing was written.
    #[inline]
    pub fn in_band(
        &mut self,
        transaction: u64,
        wants_completion: bool,
        payload: &[&[u8]],
    ) -> Result<(), RingError> {
        let flags = if wants_completion { COMPLETION_REQUESTED } else { 0 };
        self.packet(Kind::IN_BAND, flags, transaction, 0, payload, |_| ())
    }

    /// Writes the completion of the received packet with `transaction`.
    ///
    /// # Errors
    ///
    /// As for [`in_band`](Self::in_band).
    #[inline]
    pub fn completion(&mut self, transaction: u64, payload: &[&[u8]]) -> Result<(), RingError> {
        self.packet(Kind::COMPLETION, 0, transaction, 0, payload, |_| ())
    }

    /// Writes a packet with ranges of guest memory that requests a completion. The host may access the memory until it has sent the
    /// completion.
    ///
    /// # Errors
    ///
    /// As for [`in_band`](Self::in_band).
    #[inline]
    pub fn gpa_direct<R, I>(
        &mut self,
        transaction: u64,
        ranges: R,
        payload: &[&[u8]],
    ) -> Result<(), RingError>
    where
        R: Iterator<Item = GpaRange<I>> + Clone,
        I: ExactSizeIterator<Item = u64>,
    {
        let (mut header, mut count) = (8usize, 0u32);
        for range in ranges.clone() {
            header = header.saturating_add(8).saturating_add(range.pages.len().saturating_mul(8));
            count = count.wrapping_add(1);
        }
        self.packet(Kind::GPA_DIRECT, COMPLETION_REQUESTED, transaction, header, payload, |cursor| {
            cursor.word(u64::from(count) << 32);
            for range in ranges {
                cursor.word(u64::from(range.len) | u64::from(range.offset) << 32);
                range.pages.for_each(|page| cursor.word(page));
            }
        })
    }

    /// Writes a packet with the `len` bytes of guest memory from `address` on and a payload of constant length that requests a
    /// completion. It writes the same packet as [`gpa_direct`](Self::gpa_direct), in fewer instructions. `payload` is computed
    /// only if there is room.
    ///
    /// Returns `false`, without writing, if the range is not within one page or the packet would wrap around the end of the ring:
    /// use `gpa_direct` then.
    ///
    /// # Errors
    ///
    /// As for [`in_band`](Self::in_band).
    #[inline(always)]
    pub fn gpa_page<const WORDS: usize>(
        &mut self,
        transaction: u64,
        address: u64,
        len: u32,
        payload: impl Payload<WORDS>,
    ) -> Result<bool, RingError> {
        // Descriptor, range, frame number and footer: six words besides the payload.
        #[allow(clippy::arithmetic_side_effects, reason = "an overflow does not compile")]
        let total = const { (WORDS as u32 + 6) * 8 };
        #[allow(clippy::arithmetic_side_effects, reason = "an overflow does not compile")]
        let head = const {
            let (Kind(kind), header8) = (Kind::GPA_DIRECT, 5);
            let flags = (COMPLETION_REQUESTED as u64) << 48;
            kind as u64 | header8 << 16 | (WORDS as u64 + header8) << 32 | flags
        };
        let offset = address & PAGE_MASK;
        if offset.wrapping_add(u64::from(len)) > PAGE_MASK.wrapping_add(1) {
            return Ok(false);
        }
        if !self.has_room(total)? {
            return Err(if total > self.size.wrapping_sub(8) { RingError::Large } else { RingError::Full });
        }
        let at = self.write;
        let words = self.memory.data().get((at >> 3) as usize..);
        let Some(([a, b, c, d, e], rest)) = words.and_then(|words| words.split_first_chunk::<5>()) else {
            return Ok(false);
        };
        let Some((body, [last, ..])) = rest.split_first_chunk::<WORDS>() else { return Ok(false) };
        let payload = payload.words();
        a.store(head, Ordering::Relaxed);
        b.store(transaction, Ordering::Relaxed);
        // One range.
        c.store(1 << 32, Ordering::Relaxed);
        d.store(u64::from(len) | offset << 32, Ordering::Relaxed);
        e.store(address >> PAGE_SHIFT, Ordering::Relaxed);
        body.iter().zip(&payload).for_each(|(to, word)| to.store(*word, Ordering::Relaxed));
        last.store(u64::from(at) << 32, Ordering::Relaxed);
        self.advance(total);
        Ok(true)
    }

    /// Writes a packet with ranges of the buffer `set` that requests a completion.
    ///
    /// # Errors
    ///
    /// As for [`in_band`](Self::in_band).
    pub fn transfer_pages(
        &mut self,
        transaction: u64,
        set: u16,
        ranges: &[TransferRange],
        payload: &[&[u8]],
    ) -> Result<(), RingError> {
        let header = ranges.len().saturating_mul(8).saturating_add(8);
        let count = u32::try_from(ranges.len()).map_err(|_| RingError::Large)?;
        self.packet(Kind::TRANSFER_PAGES, COMPLETION_REQUESTED, transaction, header, payload, |cursor| {
            cursor.word(u64::from(set) | u64::from(count) << 32);
            for range in ranges {
                cursor.word(u64::from(range.len) | u64::from(range.offset) << 32);
            }
        })
    }

    #[inline(always)]
    fn packet(
        &mut self,
        kind: Kind,
        flags: u16,
        transaction: u64,
        header: usize,
        payload: &[&[u8]],
        write_header: impl FnOnce(&mut Cursor<'_>),
    ) -> Result<(), RingError> {
        let mut len = 0usize;
        for part in payload {
            // Only the last part may have a length that is not a multiple of 8.
            if len & 7 != 0 {
                return Err(RingError::Shape);
            }
            len = len.saturating_add(part.len());
        }
        if len.max(header) > MAX_LENGTH {
            return Err(RingError::Large);
        }
        // In units of 8 bytes; both lengths are below 2^20.
        let header8 = (header >> 3) as u32;
        let offset8 = header8.wrapping_add(DESCRIPTOR_LEN >> 3);
        let length8 = offset8.wrapping_add((len as u32).wrapping_add(7) >> 3);
        let total = (length8 << 3).wrapping_add(FOOTER_LEN);
        if length8 > u32::from(u16::MAX) {
            return Err(RingError::Large);
        }
        if !self.has_room(total)? {
            return Err(if total > self.size.wrapping_sub(8) { RingError::Large } else { RingError::Full });
        }
        let at = self.write;
        let Kind(kind) = kind;
        let head =
            u64::from(kind) | u64::from(offset8) << 16 | u64::from(length8) << 32 | u64::from(flags) << 48;
        let footer = u64::from(at) << 32;
        let data = self.memory.data();
        let words = data.get((at >> 3) as usize..).ok_or(RingError::Index)?;
        match words.get(..(total >> 3) as usize) {
            Some([first, second, rest @ .., last]) => {
                first.store(head, Ordering::Relaxed);
                second.store(transaction, Ordering::Relaxed);
                let (header, mut body) = rest.split_at_checked(header8 as usize).unwrap_or((rest, &[]));
                write_header(&mut Cursor { words: header, wrapped: &[] });
                payload.iter().for_each(|part| body = copy_words_in(body, part));
                last.store(footer, Ordering::Relaxed);
            }
            _ => {
                let mut cursor = Cursor { words, wrapped: data };
                cursor.word(head);
                cursor.word(transaction);
                write_header(&mut cursor);
                payload.iter().for_each(|part| cursor.bytes(part));
                cursor.word(footer);
            }
        }
        self.advance(total);
        Ok(())
    }

    /// Returns whether there is room for a packet with `payload` bytes, header included.
    ///
    /// # Errors
    ///
    /// [`RingError::Index`].
    pub fn fits(&mut self, payload: usize) -> Result<bool, RingError> {
        let around = (DESCRIPTOR_LEN as usize).wrapping_add(FOOTER_LEN as usize);
        let total = payload.checked_next_multiple_of(8).and_then(|len| len.checked_add(around));
        match total.and_then(|total| u32::try_from(total).ok()).filter(|total| *total < self.size) {
            Some(total) => self.has_room(total),
            None => Ok(false),
        }
    }

    /// Returns whether a packet of `total` bytes fits. Reads the consumer's index only if the known room is too small.
    #[inline(always)]
    fn has_room(&mut self, total: u32) -> Result<bool, RingError> {
        if total <= self.room {
            return Ok(true);
        }
        self.read_consumer_index(total)
    }

    /// Advances the index past a packet of `total` bytes, for which there was room.
    #[inline(always)]
    fn advance(&mut self, total: u32) {
        debug_assert!(total <= self.room, "there was room for the packet");
        self.room = self.room.wrapping_sub(total);
        let next = self.write.wrapping_add(total);
        self.write = if next >= self.size { next.wrapping_sub(self.size) } else { next };
    }

    #[cold]
    fn read_consumer_index(&mut self, total: u32) -> Result<bool, RingError> {
        let read = control(&self.memory).read.load(Ordering::Acquire);
        self.accept(read, total)
    }

    /// Checks and stores the consumer's index, which may neither go back nor pass the published index. Returns whether `total`
    /// bytes fit.
    fn accept(&mut self, read: u32, total: u32) -> Result<bool, RingError> {
        let before = self.room;
        let after = decide::room(self.write, read, self.size).ok_or(RingError::Index)?;
        let max_room = decide::room(self.write, self.published, self.size).ok_or(RingError::Index)?;
        if after < before || after > max_room {
            return Err(RingError::Index);
        }
        (self.read, self.room) = (read, after);
        Ok(total <= after)
    }

    /// Makes the written packets visible to the consumer. Returns whether the consumer is to be signalled.
    #[inline(always)]
    #[must_use]
    pub fn publish(&mut self) -> bool {
        if self.write == self.published {
            return false;
        }
        self.stop_waiting();
        let old = core::mem::replace(&mut self.published, self.write);
        let control = control(&self.memory);
        decide::publish_then_look(control.write, self.write, old, control.mask, control.read)
    }

    /// Asks the consumer, after [`RingError::Full`], for a signal when a packet with `payload` bytes, header included, fits.
    /// Returns `true` if it fits already; no signal is sent then.
    ///
    /// All written packets must have been published. A consumer may fail to signal (QEMU's does if it has read everything): poll
    /// occasionally.
    ///
    /// # Errors
    ///
    /// [`RingError::Index`], [`RingError::Large`].
    pub fn await_room(&mut self, payload: usize) -> Result<bool, RingError> {
        let payload = payload.checked_next_multiple_of(8).ok_or(RingError::Large)?;
        let total = payload.saturating_add((DESCRIPTOR_LEN as usize).wrapping_add(FOOTER_LEN as usize));
        let total = u32::try_from(total).map_err(|_| RingError::Large)?;
        if total > self.size.wrapping_sub(8) {
            return Err(RingError::Large);
        }
        let read = {
            let control = control(&self.memory);
            decide::await_then_look(control.pending, total, control.read)
        };
        self.is_waiting = true;
        let fits = self.accept(read, total)?;
        if fits {
            self.stop_waiting();
        }
        Ok(fits)
    }

    /// Cancels [`await_room`](Self::await_room). Publishing the next packet also cancels it.
    #[inline]
    pub fn stop_waiting(&mut self) {
        if core::mem::take(&mut self.is_waiting) {
            control(&self.memory).pending.store(0, Ordering::Release);
        }
    }

    /// Returns whether the consumer has read all published packets.
    ///
    /// # Errors
    ///
    /// [`RingError::Index`].
    pub fn is_drained(&mut self) -> Result<bool, RingError> {
        self.read_consumer_index(0)?;
        Ok(self.read == self.published)
    }
}

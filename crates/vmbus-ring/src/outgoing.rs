use crate::memory::{control, size};
use crate::packet::{COMPLETION_REQUESTED, DESCRIPTOR_LEN, FOOTER_LEN};
use crate::{GpaRange, Kind, RingError, RingMemory, TransferRange, decide};
use core::sync::atomic::{AtomicU64, Ordering};
use paravirt_shared_memory::copy_words_in;

/// No header and no payload is longer: a packet's length field says 512 KiB at most.
const MAX_LENGTH: usize = 1 << 19;
/// Pages are of 4 KiB on every host.
const PAGE_SHIFT: u32 = 12;
const PAGE_MASK: u64 = (1 << PAGE_SHIFT) - 1;

/// The producing end of a ring.
///
/// Packets are written one after the other and become visible to the consumer together, by [`publish`](Self::publish).
#[derive(Debug)]
pub struct Outgoing<M> {
    memory: M,
    size: u32,
    /// Offset of the next packet, and of the end of what the consumer knows of.
    write: u32,
    published: u32,
    /// The consumer's index at the last look, and the room that there is by that.
    read: u32,
    room: u32,
    /// The consumer was asked for a signal when there is room.
    is_waiting: bool,
}

/// A payload of constant length, which is computed once there is room for it.
///
/// It is a trait rather than a closure so that an implementation can be inlined always.
pub trait Payload<const WORDS: usize> {
    /// The words of the payload, in little-endian order.
    fn words(self) -> [u64; WORDS];
}

impl<const WORDS: usize> Payload<WORDS> for [u64; WORDS] {
    #[inline(always)]
    fn words(self) -> [u64; WORDS] {
        self
    }
}

/// A writer of words that continues at the beginning of the ring behind its end.
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
    /// The producing end of an initialised ring: see [`reset`](crate::reset).
    ///
    /// # Errors
    ///
    /// [`RingError::Large`] where the data are less than 64 bytes or more than 1 GiB.
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

    /// The memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Upper limit of the payload of an in-band packet: what fits an empty ring, and a length field of 16 bits.
    pub fn max_payload(&self) -> usize {
        let most =
            self.size.wrapping_sub(8).min(u32::from(u16::MAX).wrapping_mul(8).wrapping_add(FOOTER_LEN));
        most.saturating_sub(DESCRIPTOR_LEN).saturating_sub(FOOTER_LEN) as usize
    }

    /// Whether a packet was written that was not published.
    pub fn has_unpublished(&self) -> bool {
        self.write != self.published
    }

    /// Writes a packet in band.
    ///
    /// The payload is the parts one after the other; each but the last is a multiple of 8 bytes long. `transaction` comes
    /// back in the completion, where one is wanted.
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

    /// Writes the completion of the packet that came with `transaction`.
    ///
    /// # Errors
    ///
    /// As for [`in_band`](Self::in_band).
    #[inline]
    pub fn completion(&mut self, transaction: u64, payload: &[&[u8]]) -> Result<(), RingError> {
        self.packet(Kind::COMPLETION, 0, transaction, 0, payload, |_| ())
    }

    /// Writes a packet that names ranges of guest memory, and wants a completion. The memory is the host's until that comes.
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

    /// Writes a packet that names `len` bytes from `address` on with a payload of constant length, which is asked for once there
    /// is room, and wants a completion: what [`gpa_direct`](Self::gpa_direct) writes for the same arguments, in fewer instructions.
    ///
    /// `false`, and nothing was written, where the range is not inside one page or the packet would be on both sides of the end
    /// of the ring: that is for `gpa_direct`.
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
        // Descriptor, range, frame, and footer: six words around the payload.
        let total = const { (WORDS as u32).strict_add(6).strict_mul(8) };
        let head = const {
            let (Kind(kind), header8) = (Kind::GPA_DIRECT, 5);
            let flags = (COMPLETION_REQUESTED as u64) << 48;
            kind as u64 | header8 << 16 | (WORDS as u64).strict_add(header8) << 32 | flags
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

    /// Writes a packet that names ranges of the buffer `set`, and wants a completion.
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
            // A part that is not whole is the last one.
            if len & 7 != 0 {
                return Err(RingError::Shape);
            }
            len = len.saturating_add(part.len());
        }
        if len.max(header) > MAX_LENGTH {
            return Err(RingError::Large);
        }
        // Units of 8 bytes, of two lengths that are below 2^20.
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

    /// Whether a packet with `payload` bytes, header included, fits now.
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

    /// Whether a packet of `total` bytes fits: by what was known of the consumer, else by a look.
    #[inline(always)]
    fn has_room(&mut self, total: u32) -> Result<bool, RingError> {
        if total <= self.room {
            return Ok(true);
        }
        self.look(total)
    }

    /// Moves the index behind a packet of `total` bytes for which there was room.
    #[inline(always)]
    fn advance(&mut self, total: u32) {
        debug_assert!(total <= self.room, "there was room for the packet");
        self.room = self.room.wrapping_sub(total);
        let next = self.write.wrapping_add(total);
        self.write = if next >= self.size { next.wrapping_sub(self.size) } else { next };
    }

    #[cold]
    fn look(&mut self, total: u32) -> Result<bool, RingError> {
        let read = control(&self.memory).read.load(Ordering::Acquire);
        self.accept(read, total)
    }

    /// Accepts the consumer's index, which may neither go back nor pass what was published.
    fn accept(&mut self, read: u32, total: u32) -> Result<bool, RingError> {
        let before = self.room;
        let after = decide::room(self.write, read, self.size).ok_or(RingError::Index)?;
        let most = decide::room(self.write, self.published, self.size).ok_or(RingError::Index)?;
        if after < before || after > most {
            return Err(RingError::Index);
        }
        (self.read, self.room) = (read, after);
        Ok(total <= after)
    }

    /// Makes what was written visible to the consumer; whether the consumer is to be signalled.
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

    /// After [`RingError::Full`]: asks the consumer for a signal once a packet with `payload` bytes, header included, fits;
    /// `true` where it fits already, and none will come.
    ///
    /// What was written must have been published. A consumer may be one that never signals (QEMU's, if it has read all):
    /// look again from time to time.
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

    /// Cancels [`await_room`](Self::await_room). So does the next packet that is published.
    #[inline]
    pub fn stop_waiting(&mut self) {
        if core::mem::take(&mut self.is_waiting) {
            control(&self.memory).pending.store(0, Ordering::Release);
        }
    }

    /// Whether the consumer has read all that was published.
    ///
    /// # Errors
    ///
    /// [`RingError::Index`].
    pub fn is_drained(&mut self) -> Result<bool, RingError> {
        self.look(0)?;
        Ok(self.read == self.published)
    }
}
